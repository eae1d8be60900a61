"""The kinds of trials of an evaluation: the lists of a set, and drawn profiles of each size."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from nessa.corpus.profiles import domain_pairs
from nessa.errors import InputError, about
from nessa.kaldi.datadir import (
    ENROLL_MAP,
    MAIN_LIST,
    PROFILE_LIST,
    TAKEN,
    is_there,
    map_of_list,
    read_optional,
    read_utt2spk,
    trial_lists,
)
from nessa.trials import Trials, read_enroll_map, read_labeled, trial_speakers

SINGLE = "single"  # the main list


@dataclass(frozen=True)
class Condition:
    """A list of trials of one kind: as it is in the set, or drawn profiles of one size.

    Attributes:
        name: "single" for the main list, "profile3" for profiles of three utterances, or the name
            of a further list ("sentences", and "sentences.profile3" for profiles of that domain).
        list_name: the file in the set's directory: "trials", "trials_profile", "trials_<name>".
        trials: those of that list that are of this kind.
        speakers: of their enrollment and their test sides.
        enroll_map: of the profiles that the trials name; None where they name utterances alone.
    """

    name: str
    list_name: str
    trials: Trials
    speakers: tuple[list[str], list[str]]
    enroll_map: Path | None = None


def is_of_profiles(name: str) -> bool:
    """Whether a condition is of drawn profiles of one size, by its name."""
    return name != SINGLE and TAKEN.fullmatch(name) is not None


def read_conditions(set_dir: Path) -> Iterator[Condition]:
    """The kinds of trials of a set's data directory.

    Raises:
        InputError: a list is unreadable or unlabeled, or names what has no speaker.
    """
    utt2spk = read_utt2spk(set_dir)
    for path in trial_lists(set_dir):
        trials = read_labeled(path)
        enroll_map = map_of_list(path, trials.enroll_index.names)
        given = read_enroll_map(enroll_map)
        with about(path):
            speakers = trial_speakers(trials, utt2spk, given)
        name = path.name.partition("_")[2] or SINGLE
        yield Condition(name, path.name, trials, speakers, enroll_map)
    if not is_there(set_dir / PROFILE_LIST):
        return
    trials = read_labeled(set_dir / PROFILE_LIST)
    enroll_map = set_dir / ENROLL_MAP
    profiles = read_enroll_map(enroll_map)
    for profile in trials.enroll_index.names:
        if profile not in profiles:
            raise InputError(
                f"{set_dir / PROFILE_LIST}: profile {profile!r} is not in enroll_map; "
                f"add it there, or remove its trials"
            )
    sizes = np.array([len(profiles[profile]) for profile in trials.enroll])
    drawn = {name: profiles[name] for name in trials.enroll_index.names}
    lists = _lists_of_profiles(set_dir, drawn)
    kinds = np.array([lists[profile] for profile in trials.enroll])
    for kind in dict.fromkeys(lists.values()):
        for size in np.unique(sizes[kinds == kind]):
            chosen = trials.select((sizes == size) & (kinds == kind))
            with about(set_dir / PROFILE_LIST, enroll_map):
                speakers = trial_speakers(chosen, utt2spk, profiles)
            prefix = "" if kind == SINGLE else f"{kind}."
            yield Condition(f"{prefix}profile{size}", PROFILE_LIST, chosen, speakers, enroll_map)


def utterance_conditions(set_dir: Path) -> list[Condition]:
    """The lists of single utterances alone, which studies compare.

    Raises:
        InputError: see `read_conditions`; or all lists are of profiles.
    """
    found = [c for c in read_conditions(set_dir) if c.enroll_map is None]
    if not found:
        raise InputError(
            f"{set_dir}: all trials name profiles, and studies compare single utterances; add "
            "trials_<name> of utterances"
        )
    return found


def _lists_of_profiles(set_dir: Path, profiles: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Profile -> the condition of single utterances that it belongs to, by their domain."""
    domains = read_optional(set_dir, "utt2domain")
    if not domains:
        return dict.fromkeys(profiles, SINGLE)
    main = set(chain(*domain_pairs(set_dir / MAIN_LIST, domains)))
    found = {profile: domains[utterances[0]] for profile, utterances in profiles.items()}
    return {profile: SINGLE if {own} == main else own for profile, own in found.items()}
