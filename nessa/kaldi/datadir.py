"""Reading the tables of Kaldi data directories."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from nessa.errors import InputError
from nessa.files import read_table

MAIN_LIST = "trials"
PROFILE_LIST = "trials_profile"


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


def read_optional(directory: Path | str, name: str) -> dict[str, str]:
    """A table of a data directory, or {} where there is none."""
    path = Path(directory) / name
    return read_table(path) if path.exists() else {}


def spk2utt_of(utt2spk: Mapping[str, str]) -> dict[str, str]:
    """{speaker: "utterance utterance ..."}, sorted as `LC_ALL=C sort` sorts."""
    utterances = defaultdict(list)
    for utterance in sorted(utt2spk, key=str.encode):
        utterances[utt2spk[utterance]].append(utterance)
    return {speaker: " ".join(names) for speaker, names in utterances.items()}
