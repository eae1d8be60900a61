"""Reading the tables of Kaldi data directories."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from nessa.errors import InputError
from nessa.files import read_table

MAIN_LIST = "trials"
PROFILE_LIST = "trials_profile"
ENROLL_MAP = "enroll_map"  # {profile: utterances}, of all lists of a set
GIVEN_MAP = "enroll_map_given"  # of those that came with the corpus, which other lists name
# What results call trials of no further list: those of the main one, and of profiles of a size.
TAKEN = re.compile(r"(single|(.+\.)?profile[0-9]+)?")


def read_utt2spk(directory: Path | str) -> dict[str, str]:
    """{utterance: speaker} of a data directory.

    Raises:
        InputError: unreadable, or a line that is not two fields.
    """
    path = Path(directory) / "utt2spk"
    utt2spk = read_table(path)
    for utterance, speaker in utt2spk.items():
        if len(speaker.split()) != 1:
            raise InputError(
                f"{path}: {utterance!r}: expected one speaker, got {speaker!r}; "
                "write `utterance speaker`"
            )
    return utt2spk


def trial_lists(directory: Path, profiles: bool = False) -> list[Path]:
    """The trial lists of a set: `trials`, there or not, and those further ones that are there.

    Args:
        directory: the set's.
        profiles: with that of drawn profiles, last.
    """
    drawn = directory / PROFILE_LIST
    further = sorted(path for path in directory.glob(f"{MAIN_LIST}_*") if path != drawn)
    return [directory / MAIN_LIST, *further, *([drawn] if profiles and drawn.is_file() else [])]


def map_of_list(path: Path, enrolled: Iterable[str]) -> Path | None:
    """The enrollment map of a set's trial list; None where that names utterances alone.

    Args:
        path: of the list, in the set's directory.
        enrolled: its enrollment ids.
    """
    if path.name == PROFILE_LIST:
        return path.with_name(ENROLL_MAP)
    given = path.with_name(GIVEN_MAP)
    if given.is_file() and not read_table(given).keys().isdisjoint(enrolled):
        return given
    return None


def read_optional(directory: Path | str, name: str, empty: bool = False) -> dict[str, str]:
    """A table of a data directory, see `read_table`, or {} where there is none."""
    path = Path(directory) / name
    return read_table(path, empty) if path.exists() else {}


def spk2utt_of(utt2spk: Mapping[str, str]) -> dict[str, str]:
    """{speaker: "utterance utterance ..."}, sorted as `LC_ALL=C sort` sorts."""
    utterances = defaultdict(list)
    for utterance in sorted(utt2spk, key=str.encode):
        utterances[utt2spk[utterance]].append(utterance)
    return {speaker: " ".join(names) for speaker, names in utterances.items()}
