"""The end of data preparation: trials for sets that have none, profiles, and all checks."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from nessa.corpus.config import PrepareConfig
from nessa.corpus.domains import ordered_domains, read_domains
from nessa.corpus.draw_trials import (
    count_possible_trials,
    largest_profile,
    make_profile_trials,
    make_trials,
)
from nessa.corpus.durations import warn_of_durations
from nessa.corpus.origins import COPIES
from nessa.corpus.profiles import domain_pairs
from nessa.corpus.speakers import (
    COMPARED,
    SETS,
    TESTED,
    TestSet,
    check_disjoint,
    check_learnable,
)
from nessa.corpus.tables import validate_tables
from nessa.errors import InputError, about, named
from nessa.files import read_table
from nessa.kaldi.datadir import (
    ENROLL_MAP,
    GIVEN_MAP,
    MAIN_LIST,
    PROFILE_LIST,
    is_there,
    read_optional,
    read_utt2spk,
    trial_lists,
)
from nessa.trials import Trials, concatenated, read_enroll_map, write_enroll_map

PROFILE_NONTARGETS = 20  # non-target tests of a profile
log = logging.getLogger(__name__)


def finish_sets(data: Path, config: PrepareConfig, seed: int, has_audio: bool = True) -> None:
    """Check the sets that a corpus program wrote, and make the trials that it did not write.

    A set of `config.trials` without a list gets single-utterance trials, as many of those wanted as
    there are. Each set with trials also gets some with profiles of several utterances
    (trials_profile and enroll_map). Where a set has domains, drawn trials stay within one: those of
    the first are the main list, `trials`, and those of each other one `trials_<domain>`. The first
    is the same in dev and in eval, where both have it, for one calibrates the other. A main list
    that came with the corpus counts for the domains that it is of, which get no other.

    Args:
        data: holds a data directory per set.
        config: the recipe's section `prepare`.
        seed: of the trials.
        has_audio: whether the sets hold audio or features, not embeddings alone.

    Raises:
        InputError: a set is missing or inconsistent, dev or eval has no trials, two sets share
            speakers, no aligner can learn of align, or there are none of the copies that the
            configuration asks for.
    """
    names = [name for name in SETS if is_there(data / name / "utt2spk")]
    for name in config.trials:
        if name not in names:
            raise InputError(
                f"{data / name}: no such set, but the recipe wants trials for it; "
                "prepare the set, or remove it from prepare.trials"
            )
    if config.align_copies and not is_there(data / "align" / COPIES):
        raise InputError(
            f"{data / 'align'}: no copies: local/{config.program}.py makes none, for it has no "
            "audio; remove prepare.align_copies"
        )
    speakers = {name: read_table(data / name / "spk2utt").keys() for name in names}
    check_disjoint(speakers, config.align_includes_train)
    if "align" in names:
        check_learnable(str(data / "align"), read_utt2spk(data / "align").values())
    domains = {n: read_domains(data / n, config.domains) for n in COMPARED if n in names}
    _warn_of_missing_domains(data, domains)
    tested = [name for name in TESTED if name in names]
    given = [each for name in tested if (each := _domains_of_main_list(data / name))]
    order = ordered_domains(domains, config.domains, given[-1] if given else ())  # of eval first
    for name in tested:
        make_set_trials(data, name, config, seed, order)
    _warn_of_other_domain(data, tested)
    warn_of_durations(data)
    problems = [problem for name in names for problem in validate_tables(data / name, has_audio)]
    if problems:
        raise InputError("\n".join(problems))


def _warn_of_missing_domains(data: Path, domains: Mapping[str, Mapping[str, str]]) -> None:
    """Warn of sets without domains beside others: one is centered, and the other is not."""
    having = [str(data / name / "utt2domain") for name, own in domains.items() if own]
    lacking = [str(data / name) for name, own in domains.items() if not own]
    if having and lacking:
        log.warning(
            "%s: no utt2domain, but there is %s: embeddings are centered where align and their own "
            "set have domains; write utt2domain for align, dev and eval, or for none of them",
            " and ".join(lacking), " and ".join(having),
        )  # fmt: skip


def _warn_of_other_domain(data: Path, tested: Sequence[TestSet]) -> None:
    """Warn where the main lists of dev and eval are of different domains."""
    found = {name: _domains_of_main_list(data / name) for name in tested}
    if len(found) == 2 and all(found.values()) and found["dev"] != found["eval"]:
        log.warning(
            "%s: of domain %s, but %s, by which its scores are calibrated, of %s; give dev trials "
            "of the same",
            data / "eval" / MAIN_LIST, named(sorted(found["eval"])),
            data / "dev" / MAIN_LIST, named(sorted(found["dev"])),
        )  # fmt: skip


class _Part(NamedTuple):
    """Utterances of a set among which trials are drawn: all, or those of a domain."""

    place: str  # what messages call it
    utt2spk: dict[str, str]
    list_name: str  # of its trials
    suffix: str = ""  # of its profiles: a speaker of several domains has some in each


def make_set_trials(
    data: Path, name: TestSet, config: PrepareConfig, seed: int, order: Sequence[str] = ()
) -> None:
    """Draw the lists of a set: those it lacks, and its profiles anew; see `finish_sets`.

    Args:
        data, config, seed: as there.
        name: of the set.
        order: of domains, that of the main list first; see `ordered_domains`.
    """
    directory = data / name
    check_has_trials(directory, name, config, is_there(directory / MAIN_LIST))
    utt2session = read_table(directory / "utt2session")
    spk2gender = read_optional(directory, "spk2gender")
    given_map = directory / GIVEN_MAP
    given = read_enroll_map(given_map) if is_there(given_map) else {}
    for path in filter(is_there, trial_lists(directory)):
        _warn_of_sessions(path, utt2session, given)
    parts = _parts(directory, name, config, order)
    for part in parts:
        if name in config.trials and not is_there(directory / part.list_name):
            with about(part.place):
                trials = make_trials(
                    part.utt2spk,
                    utt2session,
                    spk2gender,
                    *_possible_counts(part, name, config, utt2session),
                    seed,
                )
            trials.write(directory / part.list_name)
            log.info("%s: %d trials made", directory / part.list_name, len(trials))
    for stale in (PROFILE_LIST, ENROLL_MAP):
        (directory / stale).unlink(missing_ok=True)
    drawn = [_draw_profiles(part, utt2session, spk2gender, config, seed) for part in parts]
    enroll_map = {name: own for profiles, _ in drawn for name, own in profiles.items()}
    if clash := sorted(given.keys() & enroll_map.keys()):
        raise InputError(f"{given_map}: {named(clash)} is called as one that is drawn; rename it")
    if given or enroll_map:
        write_enroll_map(directory / ENROLL_MAP, enroll_map | given)
    if enroll_map:
        trials = concatenated([trials for _, trials in drawn if trials is not None])
        trials.write(directory / PROFILE_LIST)
        log.info("%s: %d profiles, %d trials with them", directory, len(enroll_map), len(trials))


def _warn_of_sessions(
    path: Path, utt2session: Mapping[str, str], profiles: Mapping[str, Sequence[str]]
) -> None:
    """Warn of targets of a given list that share a recording session; drawn ones never do."""
    trials = Trials.read(path)
    if trials.labels is None:
        return
    sessions = {p: {utt2session.get(u) for u in own} for p, own in profiles.items()}
    within = sum(
        target and utt2session.get(test, "") in sessions.get(enroll, {utt2session.get(enroll)})
        for enroll, test, target in zip(
            trials.enroll, trials.test, trials.labels.tolist(), strict=True
        )
    )
    if within:
        log.warning(
            "%s: %d of %d targets are within one recording session (utt2session), which is easier",
            path, within, trials.targets,
        )  # fmt: skip


def _parts(
    directory: Path, name: TestSet, config: PrepareConfig, order: Sequence[str]
) -> list[_Part]:
    """The parts of a set; warns of domains without trials or without a list of their own.

    Args:
        directory: of the set.
        name: of the set.
        config: as in `finish_sets`.
        order: as in `make_set_trials`.
    """
    utt2spk = read_utt2spk(directory)
    domains = read_domains(directory, config.domains)
    if not domains:
        return [_Part(f"{directory}", utt2spk, MAIN_LIST)]
    own = set(domains.values())
    names = [domain for domain in order if domain in own] or sorted(own)
    if unnamed := sorted(own - set(config.domains or names)):
        log.warning(
            "%s/utt2domain: prepare.domains does not name %s; %s", directory, named(unnamed),
            "nothing is drawn for it" if set(names) - set(unnamed) else "all count alike",
        )  # fmt: skip
    pairs = _pairs_of_main_list(directory)
    covered = set(chain(*pairs))
    if len(covered) > 1:
        across = any(enrolled != tested for enrolled, tested in pairs)
        log.warning(
            "%s: trials %s domains %s, whose results are pooled; for those of each, %s",
            directory / MAIN_LIST, "across" if across else "of", named(sorted(covered)),
            f"call it {MAIN_LIST}_<name>, and trials within each domain are drawn"
            if across else f"divide it into {MAIN_LIST}_<domain>",
        )  # fmt: skip
    parts = []
    for domain in names:
        of_domain = {u: s for u, s in utt2spk.items() if domains[u] == domain}
        is_main = domain in (covered or names[:1])
        # Ids have no white space.
        suffix = f"-{'_'.join(domain.split())}" if domain != names[0] else ""
        list_name = MAIN_LIST if is_main else f"{MAIN_LIST}_{domain}"
        parts.append(_Part(f"{directory}: domain {domain!r}", of_domain, list_name, suffix))
        if name not in config.trials and not is_there(directory / list_name):
            log.warning(
                "%s: no trials; say in prepare.trials.%s how many to draw, or name a list of the "
                "corpus %r", parts[-1].place, name, list_name,
            )  # fmt: skip
    return parts


def _domains_of_main_list(directory: Path) -> set[str]:
    """The domains of the trials of the main list, if that is there."""
    return set(chain(*_pairs_of_main_list(directory)))


def _pairs_of_main_list(directory: Path) -> set[tuple[str, str]]:
    """The pairs of domains of its trials, enrolled and tested."""
    domains = read_optional(directory, "utt2domain")
    if not domains or not is_there(directory / MAIN_LIST):
        return set()
    return domain_pairs(directory / MAIN_LIST, domains)


def check_has_trials(directory: Path, name: TestSet, config: PrepareConfig, given: bool) -> None:
    """Refuse a set that has no trials and gets none."""
    if name not in config.trials and not given:
        raise InputError(
            f"{directory}: no trials; say in prepare.trials.{name} how many to draw, or name a "
            f"list of the corpus {MAIN_LIST!r}"
        )


def _possible_counts(
    part: _Part, name: TestSet, config: PrepareConfig, utt2session: dict[str, str]
) -> tuple[int, int]:
    """How many target and non-target trials to draw: as configured, or what there is.

    Raises:
        InputError: there are none at all.
    """
    wanted = config.trials[name].targets, config.trials[name].nontargets
    possible = count_possible_trials(part.utt2spk, utt2session)
    for kind, asked, most in zip(("targets", "nontargets"), wanted, possible, strict=True):
        key = f"prepare.trials.{name}.{kind}"
        if most == 0:
            raise InputError(
                f"no {kind} can be drawn ({key}): they pair utterances of one speaker from "
                "different sessions (utt2session); add some, or give trials"
            )
        if most < asked:
            log.warning(
                "%s: %d %s drawn instead of %d (%s), for there are no more pairs of utterances",
                part.place, most, kind, asked, key,
            )  # fmt: skip
    return min(wanted[0], possible[0]), min(wanted[1], possible[1])


def _draw_profiles(
    part: _Part,
    utt2session: dict[str, str],
    spk2gender: dict[str, str],
    config: PrepareConfig,
    seed: int,
) -> tuple[dict[str, list[str]], Trials | None]:
    """Profiles of a part, and trials with them."""
    spoken = Counter(part.utt2spk.values())
    if len(spoken) < 2:
        log.warning("%s: no profiles, for there is only one speaker", part.place)
        return {}, None
    largest = largest_profile(part.utt2spk, utt2session)
    sizes = _possible_sizes(part.place, config.profile_sizes, largest)
    if not sizes:
        return {}, None
    with about(part.place):
        return make_profile_trials(
            part.utt2spk,
            utt2session,
            spk2gender,
            sizes=sizes,
            # A tiny set has fewer utterances of other speakers than that.
            n_nontarget=min(PROFILE_NONTARGETS, len(part.utt2spk) - max(spoken.values())),
            seed=seed,
            suffix=part.suffix,
        )


def _possible_sizes(place: str, sizes: Sequence[int], largest: int) -> list[int]:
    for size in sizes:
        if size > largest:
            log.warning(
                "%s: no profiles of %d utterances: a speaker has only %d outside one session",
                place, size, largest,
            )  # fmt: skip
    return [size for size in sizes if size <= largest]
