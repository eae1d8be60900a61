"""Reading the tables of Kaldi data directories."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nessa.errors import InputError, named
from nessa.files import read_table

MAIN_LIST = "trials"
PROFILE_LIST = "trials_profile"
ENROLL_MAP = "enroll_map"  # {profile: utterances}, of all lists of a set
MAPPED_MAP = "mapped_enroll_map"  # the one whose profiles mapped embeddings hold, beside these
LEFT_BY_TOOLS = ("~", ".bak", ".orig", ".old", ".swp")  # ends of names of copies: no lists
GIVEN_MAP = "enroll_map_given"  # of those that came with the corpus, which other lists name
# What results call trials of no further list: those of the main one, and of profiles of a size.
TAKEN = re.compile(r"(single|(.+\.)?profile[0-9]+)?")


def is_there(path: Path) -> bool:
    """Whether a file that may be left out is there, if only as a link to nothing.

    Such a link is refused where it is read; else what it stood for would be lost without a word.
    """
    return os.path.lexists(path)


def read_utt2spk(directory: Path | str) -> dict[str, str]:
    """{utterance: speaker} of a data directory; see `read_speaker_table`."""
    return read_speaker_table(Path(directory) / "utt2spk")


def read_speaker_table(path: Path) -> dict[str, str]:
    """{utterance: speaker} of a file such as utt2spk.

    Raises:
        InputError: unreadable, or a line that is not two fields.
    """
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
    further = [
        path
        for path in sorted(directory.glob(f"{MAIN_LIST}_*"))
        if path != drawn and not path.name.endswith(LEFT_BY_TOOLS) and not path.is_dir()
    ]
    return [directory / MAIN_LIST, *further, *([drawn] if profiles and is_there(drawn) else [])]


def map_of_list(path: Path, enrolled: Iterable[str]) -> Path | None:
    """The enrollment map of a set's trial list; None where that names utterances alone.

    Args:
        path: of the list, in the set's directory.
        enrolled: its enrollment ids.
    """
    if path.name == PROFILE_LIST:
        return path.with_name(ENROLL_MAP)
    given = path.with_name(GIVEN_MAP)
    if is_there(given) and not read_table(given).keys().isdisjoint(enrolled):
        return given
    return None


def read_optional(directory: Path | str, name: str, empty: bool = False) -> dict[str, str]:
    """A table of a data directory, see `read_table`, or {} where there is none."""
    path = Path(directory) / name
    return read_table(path, empty) if is_there(path) else {}


def spk2utt_of(utt2spk: Mapping[str, str]) -> dict[str, str]:
    """{speaker: "utterance utterance ..."}, sorted as `LC_ALL=C sort` sorts."""
    spoken = utterances_by_speaker(sorted(utt2spk, key=str.encode), utt2spk)
    return {speaker: " ".join(names) for speaker, names in spoken.items()}


def utterances_by_speaker(keys: Iterable[str], utt2spk: Mapping[str, str]) -> dict[str, list[str]]:
    """{speaker: utterances}, both in the order of `keys`.

    Args:
        keys: utterances.
        utt2spk: {utterance: speaker}; may name more of them.

    Raises:
        InputError: an utterance has no speaker.
    """
    keys = list(keys)
    found: dict[str, list[str]] = {}
    for utterance, speaker in zip(keys, speakers_of(keys, utt2spk), strict=True):
        found.setdefault(speaker, []).append(utterance)
    return found


def speakers_of(keys: Sequence[str], utt2spk: Mapping[str, str]) -> list[str]:
    """The speaker of each utterance; refuses one without."""
    if orphans := [key for key in keys if key not in utt2spk]:
        raise InputError(f"no speaker for {named(orphans)}; add them to utt2spk")
    return [utt2spk[key] for key in keys]
