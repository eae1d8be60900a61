"""The end of data preparation: trials for sets that have none, profiles, and all checks."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nessa.corpus.config import PrepareConfig
from nessa.corpus.draw_trials import largest_profile, make_profile_trials, make_trials
from nessa.corpus.speakers import SETS, check_disjoint
from nessa.corpus.validation import validate_tables
from nessa.errors import InputError, about
from nessa.files import read_table, write_table
from nessa.kaldi.datadir import PROFILE_LIST, read_optional, read_utt2spk

TestSet = Literal["dev", "eval"]
TESTED: tuple[TestSet, ...] = ("dev", "eval")  # sets with trials
PROFILE_NONTARGETS = 20  # non-target tests of a profile
log = logging.getLogger(__name__)


def finish_sets(data: Path, config: PrepareConfig, seed: int, has_audio: bool = True) -> None:
    """Check the sets that a corpus program wrote, and make the trials that it did not write.

    A set of `config.trials` without a list gets single-utterance trials. Each set with trials also
    gets some with profiles of several utterances (trials_profile and enroll_map).

    Args:
        data: holds a data directory per set.
        config: the recipe's section `prepare`.
        seed: of the trials.
        has_audio: whether the sets hold audio or features, not embeddings alone.

    Raises:
        InputError: a set is missing or inconsistent, or two sets share speakers.
    """
    names = [name for name in SETS if (data / name / "utt2spk").exists()]
    for name in config.trials:
        if name not in names:
            raise InputError(
                f"{data / name}: no such set, but the recipe wants trials for it; "
                "prepare the set, or remove it from prepare.trials"
            )
    speakers = {name: read_table(data / name / "spk2utt").keys() for name in names}
    check_disjoint(speakers, config.align_includes_train)
    for name in TESTED:
        if name in config.trials or (data / name / "trials").exists():
            _make_trials(data, name, config, seed)
    problems = [problem for name in names for problem in validate_tables(data / name, has_audio)]
    if problems:
        raise InputError("\n".join(problems))


def _make_trials(data: Path, name: TestSet, config: PrepareConfig, seed: int) -> None:
    directory = data / name
    utt2spk = read_utt2spk(directory)
    utt2session = read_table(directory / "utt2session")
    spk2gender = read_optional(directory, "spk2gender")
    if not (directory / "trials").exists():
        count = config.trials[name]
        with about(directory):
            trials = make_trials(
                utt2spk, utt2session, spk2gender, count.targets, count.nontargets, seed
            )
        trials.write(directory / "trials")
        log.info("%s: %d trials made", directory, len(trials))
    for stale in (PROFILE_LIST, "enroll_map"):
        (directory / stale).unlink(missing_ok=True)
    sizes = _possible_sizes(directory, config.profile_sizes, largest_profile(utt2spk, utt2session))
    if sizes:
        most = max(Counter(utt2spk.values()).values())
        profiles, trials = make_profile_trials(
            utt2spk,
            utt2session,
            spk2gender,
            sizes=sizes,
            # A tiny set has fewer utterances of other speakers than that.
            n_nontarget=min(PROFILE_NONTARGETS, len(utt2spk) - most),
            seed=seed,
        )
        write_table(
            directory / "enroll_map", {name: " ".join(utts) for name, utts in profiles.items()}
        )
        trials.write(directory / PROFILE_LIST)
        log.info("%s: %d profiles, %d trials with them", directory, len(profiles), len(trials))


def _possible_sizes(directory: Path, sizes: Sequence[int], largest: int) -> list[int]:
    for size in sizes:
        if size > largest:
            log.warning(
                "%s: no profiles of %d utterances: a speaker has only %d outside one session",
                directory, size, largest,
            )  # fmt: skip
    return [size for size in sizes if size <= largest]
