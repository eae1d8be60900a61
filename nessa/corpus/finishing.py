"""The end of data preparation: trials for sets that have none, profiles, and all checks."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nessa.corpus.config import PrepareConfig
from nessa.corpus.domains import ordered_domains, read_domains
from nessa.corpus.draw_trials import (
    count_possible_trials,
    largest_profile,
    make_profile_trials,
    make_trials,
)
from nessa.corpus.durations import warn_of_durations
from nessa.corpus.sets import COPIES
from nessa.corpus.speakers import SETS, check_disjoint
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
)
from nessa.trials import Trials, concatenated, read_enroll_map, write_enroll_map

TestSet = Literal["dev", "eval"]
TESTED: tuple[TestSet, ...] = ("dev", "eval")  # sets with trials
PROFILE_NONTARGETS = 20  # non-target tests of a profile
log = logging.getLogger(__name__)


def finish_sets(data: Path, config: PrepareConfig, seed: int, has_audio: bool = True) -> None:
    """Check the sets that a corpus program wrote, and make the trials that it did not write.

    A set of `config.trials` without a list gets single-utterance trials, as many of those wanted as
    there are. Each set with trials also
    gets some with profiles of several utterances (trials_profile and enroll_map). Where a set has
    domains, trials stay within one: those of the first are the main list, `trials`, and those of
    each other one `trials_<domain>`.

    Args:
        data: holds a data directory per set.
        config: the recipe's section `prepare`.
        seed: of the trials.
        has_audio: whether the sets hold audio or features, not embeddings alone.

    Raises:
        InputError: a set is missing or inconsistent, dev or eval has no trials, two sets share
            speakers, or there are none of the copies that the configuration asks for.
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
    for name in TESTED:
        if name in names:
            make_set_trials(data, name, config, seed)
    if "align" in names:
        read_domains(data / "align", config.domains)
    warn_of_durations(data)
    problems = [problem for name in names for problem in validate_tables(data / name, has_audio)]
    if problems:
        raise InputError("\n".join(problems))


def make_set_trials(data: Path, name: TestSet, config: PrepareConfig, seed: int) -> None:
    """Draw the lists of a set: those it lacks, and its profiles anew; see `finish_sets`."""
    directory = data / name
    check_has_trials(directory, name, config, is_there(directory / MAIN_LIST))
    utt2spk = read_utt2spk(directory)
    utt2session = read_table(directory / "utt2session")
    spk2gender = read_optional(directory, "spk2gender")
    domains = read_domains(directory, config.domains)
    parts = [utt2spk]
    lists = [MAIN_LIST]
    suffixes = [""]
    places = [f"{directory}"]
    if domains:
        names = ordered_domains(domains, config.domains)
        if unnamed := sorted(set(domains.values()) - set(config.domains or names)):
            log.warning(
                "%s/utt2domain: prepare.domains does not name %s; %s", directory, named(unnamed),
                "nothing is drawn for it" if set(names) - set(unnamed) else "all count alike",
            )  # fmt: skip
        places = [f"{directory}: domain {domain!r}" for domain in names]
        parts = [{u: s for u, s in utt2spk.items() if domains[u] == domain} for domain in names]
        lists += [f"{MAIN_LIST}_{domain}" for domain in names[1:]]
        # A speaker of several domains has profiles in each; ids have no white space.
        suffixes += [f"-{'_'.join(domain.split())}" for domain in names[1:]]
    for own, list_name, place in zip(parts, lists, places, strict=True):
        if name in config.trials and not is_there(directory / list_name):
            with about(place):
                trials = make_trials(
                    own,
                    utt2session,
                    spk2gender,
                    *_possible_counts(name, config, own, utt2session),
                    seed,
                )
            trials.write(directory / list_name)
            log.info("%s: %d trials made", directory / list_name, len(trials))
    for stale in (PROFILE_LIST, ENROLL_MAP):
        (directory / stale).unlink(missing_ok=True)
    given_map = directory / GIVEN_MAP
    given = read_enroll_map(given_map) if is_there(given_map) else {}
    drawn = [
        _draw_profiles(directory, own, utt2session, spk2gender, config, seed, suffix)
        for own, suffix in zip(parts, suffixes, strict=True)
    ]
    enroll_map = {name: own for profiles, _ in drawn for name, own in profiles.items()}
    if clash := sorted(given.keys() & enroll_map.keys()):
        raise InputError(f"{given_map}: {named(clash)} is called as one that is drawn; rename it")
    if given or enroll_map:
        write_enroll_map(directory / ENROLL_MAP, enroll_map | given)
    if enroll_map:
        trials = concatenated([trials for _, trials in drawn if trials is not None])
        trials.write(directory / PROFILE_LIST)
        log.info("%s: %d profiles, %d trials with them", directory, len(enroll_map), len(trials))


def check_has_trials(directory: Path, name: TestSet, config: PrepareConfig, given: bool) -> None:
    """Refuse a set that has no trials and gets none."""
    if name not in config.trials and not given:
        raise InputError(
            f"{directory}: no trials; say in prepare.trials.{name} how many to draw, or name a "
            f"list of the corpus {MAIN_LIST!r}"
        )


def _possible_counts(
    name: TestSet,
    config: PrepareConfig,
    utt2spk: dict[str, str],
    utt2session: dict[str, str],
) -> tuple[int, int]:
    """How many target and non-target trials to draw: as configured, or what there is.

    Raises:
        InputError: there are none at all.
    """
    wanted = config.trials[name].targets, config.trials[name].nontargets
    possible = count_possible_trials(utt2spk, utt2session)
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
                name, most, kind, asked, key,
            )  # fmt: skip
    return min(wanted[0], possible[0]), min(wanted[1], possible[1])


def _draw_profiles(
    directory: Path,
    utt2spk: dict[str, str],
    utt2session: dict[str, str],
    spk2gender: dict[str, str],
    config: PrepareConfig,
    seed: int,
    suffix: str,
) -> tuple[dict[str, list[str]], Trials | None]:
    """Profiles of a set, or of one domain of it, and trials with them."""
    sizes = _possible_sizes(directory, config.profile_sizes, largest_profile(utt2spk, utt2session))
    if not sizes:
        return {}, None
    most = max(Counter(utt2spk.values()).values())
    return make_profile_trials(
        utt2spk,
        utt2session,
        spk2gender,
        sizes=sizes,
        # A tiny set has fewer utterances of other speakers than that.
        n_nontarget=min(PROFILE_NONTARGETS, len(utt2spk) - most),
        seed=seed,
        suffix=suffix,
    )


def _possible_sizes(directory: Path, sizes: Sequence[int], largest: int) -> list[int]:
    for size in sizes:
        if size > largest:
            log.warning(
                "%s: no profiles of %d utterances: a speaker has only %d outside one session",
                directory, size, largest,
            )  # fmt: skip
    return [size for size in sizes if size <= largest]
