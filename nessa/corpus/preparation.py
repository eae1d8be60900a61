"""What every corpus program of local/ shares: dividing speakers into sets, and finishing those."""

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from nessa.corpus.config import PrepareConfig, TrialCount
from nessa.corpus.draw_trials import largest_profile, make_profile_trials, make_trials
from nessa.corpus.utterances import log
from nessa.errors import InputError, about, explained
from nessa.files import read_table, write_table
from nessa.kaldi.datadir import PROFILE_LIST, read_optional, read_utt2spk, validate_data_dir

SETS = ("train", "align", "dev", "eval")
TESTED: tuple[Literal["dev", "eval"], ...] = ("dev", "eval")  # sets with trials
PROFILE_NONTARGETS = 20  # non-target tests of a profile


def split_speakers(
    speakers: Iterable[str], held_out: Mapping[str, float], seed: int, where: Path | str
) -> dict[str, list[str]]:
    """Divide the speakers of a corpus into sets.

    Args:
        speakers: all of them; their order does not matter.
        held_out: {set: number of its speakers, or, below 1, their part}; all others are `train`.
        seed: of the draw.
        where: the corpus, for messages.

    Returns:
        {set: sorted speakers}.

    Raises:
        InputError: there are too few speakers.
    """
    ordered = sorted(speakers, key=str.encode)
    shuffled = [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
    sets: dict[str, list[str]] = {}
    for name, amount in held_out.items():
        count = round(amount * len(ordered)) if amount < 1 else round(amount)
        sets[name], shuffled = shuffled[:count], shuffled[count:]
    sets["train"] = shuffled
    short = [name for name in sets if len(sets[name]) < 2]
    if short:
        raise InputError(
            f"{where}: {len(ordered)} speakers leave {len(sets[short[0]])} for set {short[0]!r}, "
            "which needs two or more; change prepare.held_out"
        )
    return {name: sorted(sets[name], key=str.encode) for name in SETS if name in sets}


def check_disjoint(sets: Mapping[str, Iterable[str]], align_includes_train: bool = False) -> None:
    """Refuse sets that share speakers: results on them would be too good.

    Args:
        sets: {set: its speakers}.
        align_includes_train: whether `align` may hold the speakers of `train`.

    Raises:
        InputError: names a speaker and its two sets.
    """
    owner: dict[str, str] = {}
    for name, speakers in sets.items():
        for speaker in sorted(set(speakers)):
            allowed = align_includes_train and {name, owner.get(speaker)} == {"train", "align"}
            if speaker in owner and not allowed:
                raise InputError(
                    f"speaker {speaker!r} is in set {owner[speaker]!r} and in set {name!r}; "
                    "keep it in one of them"
                )
            owner[speaker] = name


def finish_sets(data: Path | str, config: PrepareConfig, seed: int, sound: bool = True) -> None:
    """Check the sets that a program in `local/` wrote, and make the trials that it did not.

    A set of `config.trials` without a list gets single-utterance trials. Each set with trials also
    gets some with profiles of several utterances (trials_profile and enroll_map).

    Args:
        data: holds a data directory per set.
        config: the recipe's section `prepare`.
        seed: of the trials.
        sound: whether the sets hold audio or features, not embeddings alone.

    Raises:
        InputError: a set is missing or inconsistent, or two sets share speakers.
    """
    data = Path(data)
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
            _make_trials(data / name, config.trials.get(name), config.profile_sizes, seed)
    problems = [problem for name in names for problem in validate_data_dir(data / name, sound)]
    if problems:
        raise InputError("\n".join(problems))


def _make_trials(
    directory: Path, count: TrialCount | None, sizes: Sequence[int], seed: int
) -> None:
    utt2spk = read_utt2spk(directory)
    utt2session = read_table(directory / "utt2session")
    spk2gender = read_optional(directory, "spk2gender")
    if count is not None and not (directory / "trials").exists():
        with about(directory):
            trials = make_trials(
                utt2spk, utt2session, spk2gender, count.targets, count.nontargets, seed
            )
        trials.write(directory / "trials")
        log.info("%s: %d trials made", directory, len(trials))
    for name in (PROFILE_LIST, "enroll_map"):
        (directory / name).unlink(missing_ok=True)
    largest = largest_profile(utt2spk, utt2session)
    for size in sizes:
        if size > largest:
            log.warning(
                "%s: no profiles of %d utterances: a speaker has only %d outside one session",
                directory, size, largest,
            )  # fmt: skip
    sizes = [size for size in sizes if size <= largest]
    if sizes:
        largest_speaker = max(Counter(utt2spk.values()).values())
        profiles, trials = make_profile_trials(
            utt2spk,
            utt2session,
            spk2gender,
            sizes=sizes,
            # A tiny set has fewer utterances of others than that.
            n_nontarget=min(PROFILE_NONTARGETS, len(utt2spk) - largest_speaker),
            seed=seed,
        )
        write_table(
            directory / "enroll_map", {name: " ".join(utts) for name, utts in profiles.items()}
        )
        trials.write(directory / PROFILE_LIST)
        log.info("%s: %d profiles, %d trials with them", directory, len(profiles), len(trials))


def run_program(main: Callable[[], None]) -> None:
    """Run a program of `local/`; see `explained` for how it ends."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with explained(Path(sys.argv[0]).name):
        main()
