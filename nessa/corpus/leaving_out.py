"""Taking utterances that a model cannot embed out of a prepared set, with all that names them."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np

from nessa.corpus.origins import COPIES, SOURCES
from nessa.corpus.profiles import lists_in
from nessa.corpus.sets import write_skipped
from nessa.errors import InputError
from nessa.files import read_table, write_table
from nessa.kaldi.datadir import (
    ENROLL_MAP,
    GIVEN_MAP,
    is_there,
    read_optional,
    read_utt2spk,
    spk2utt_of,
)
from nessa.trials import Trials, rates_fault, read_enroll_map, write_enroll_map

BROKEN = "profile of what was skipped"  # why a profile is left out
TABLES = ("segments", "feats.scp", "utt2dur", "utt2session", "utt2domain", "text", COPIES, SOURCES)


def leave_out(directory: Path, utterances: Mapping[str, str]) -> tuple[int, int]:
    """Take utterances out of a set's tables, and the trials and profiles that name them.

    `skipped` lists them. A call that was killed may be repeated: utt2spk changes last.

    Args:
        directory: of a set that stage prepare wrote.
        utterances: {utterance: why}; those that the set does not have are passed over.

    Returns:
        How many utterances and how many trials went.

    Raises:
        InputError: nothing is left of the set, or of a trial list.
    """
    utt2spk = read_utt2spk(directory)
    lost = utterances.keys() & utt2spk.keys()
    if not lost:
        return 0, 0
    kept = {utterance: spk for utterance, spk in utt2spk.items() if utterance not in lost}
    if not kept:
        raise InputError(f"{directory}: there is no utterance that all models can embed")
    skipped = {utterance: utterances[utterance] for utterance in lost}
    maps = [directory / name for name in (ENROLL_MAP, GIVEN_MAP) if is_there(directory / name)]
    for path in maps:
        profiles = read_enroll_map(path)
        skipped |= dict.fromkeys(profiles.keys() - whole_profiles(profiles, kept), BROKEN)
    # The maps go after what they are read for, which a repeated call would not find in them.
    lists = lists_in(directory, profiles=True)
    trials = sum(_take_trials(path, skipped) for path in lists)
    write_skipped(directory.parent, directory.name, read_optional(directory, "skipped") | skipped)
    for path in maps:
        _take_profiles(path, kept)
    for name in TABLES if is_there(directory / "segments") else (*TABLES, "wav.scp"):
        if is_there(directory / name):
            table = read_table(directory / name, empty=name == "text")
            rows = {key: row for key, row in table.items() if key not in lost}
            if name == COPIES:  # a copy whose original is lost is an utterance as others are
                rows = {key: row for key, row in rows.items() if row.split()[-1] not in lost}
            write_table(directory / name, rows)
    speakers = set(kept.values())
    if genders := read_optional(directory, "spk2gender"):
        write_table(directory / "spk2gender", {s: g for s, g in genders.items() if s in speakers})
    write_table(directory / "spk2utt", spk2utt_of(kept))
    write_table(directory / "utt2spk", kept)
    return len(lost), trials


def whole_profiles(
    profiles: Mapping[str, Sequence[str]], kept: Container[str]
) -> dict[str, Sequence[str]]:
    """Those that lose no utterance: the size of others would be another."""
    return {name: own for name, own in profiles.items() if all(map(kept.__contains__, own))}


def _take_profiles(path: Path, kept: Container[str]) -> None:
    """Take the broken profiles out of a map."""
    if whole := whole_profiles(read_enroll_map(path), kept):
        write_enroll_map(path, whole)
    else:
        path.unlink()


def _take_trials(path: Path, gone: Container[str]) -> int:
    """Take the trials out that name one of some ids; how many there were."""
    trials = Trials.read(path)
    pairs = zip(trials.enroll, trials.test, strict=True)
    keep = np.array([enroll not in gone and test not in gone for enroll, test in pairs])
    if keep.all():
        return 0
    if not keep.any():
        raise InputError(f"{path}: all trials are of utterances that a model cannot embed")
    left = trials.select(keep)
    if fault := rates_fault(left):
        raise InputError(f"{path}: without utterances that a model cannot embed: {fault}")
    left.write(path)
    return int((~keep).sum())
