"""The kinds of trials of an evaluation: single utterances, and profiles of each size."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nessa.datadir import read_utt2spk
from nessa.errors import InputError, about
from nessa.trials import Trials, read_enroll_map, trial_speakers


@dataclass(frozen=True)
class Condition:
    """A list of trials of one kind: single utterances, or profiles of one size.

    Attributes:
        name: "single", or "profile3" for profiles of three utterances.
        list_name: the file in the set's directory, "trials" or "trials_profile".
        trials: those of that list that are of this kind.
        speakers: of their enrollment and their test sides.
    """

    name: str
    list_name: str
    trials: Trials
    speakers: tuple[list[str], list[str]]


def read_conditions(set_dir: Path) -> Iterator[Condition]:
    """The kinds of trials of a set's data directory.

    Raises:
        InputError: a list is unreadable or unlabelled, or names what has no speaker.
    """
    utt2spk = read_utt2spk(set_dir)
    trials = read_labelled(set_dir / "trials")
    with about(set_dir / "trials"):
        speakers = trial_speakers(trials, utt2spk)
    yield Condition("single", "trials", trials, speakers)
    if not (set_dir / "trials_profile").is_file():
        return
    trials = read_labelled(set_dir / "trials_profile")
    profiles = read_enroll_map(set_dir / "enroll_map")
    for profile in trials.enroll_index.names:
        if profile not in profiles:
            raise InputError(
                f"{set_dir / 'trials_profile'}: profile {profile!r} is not in enroll_map; "
                f"add it there, or remove its trials"
            )
    sizes = np.array([len(profiles[profile]) for profile in trials.enroll])
    for size in np.unique(sizes):
        chosen = trials.select(sizes == size)
        with about(set_dir / "trials_profile", set_dir / "enroll_map"):
            speakers = trial_speakers(chosen, utt2spk, profiles)
        yield Condition(f"profile{size}", "trials_profile", chosen, speakers)


def read_labelled(path: Path) -> Trials:
    """A trial list that must have labels."""
    trials = Trials.read(path)
    if trials.labels is None:
        raise InputError(f"{path}: no labels; write `enroll test target|nontarget`")
    return trials
