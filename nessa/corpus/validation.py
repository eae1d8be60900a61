"""What can be wrong with a data directory or an embeddings directory, down to its files.

Data preparation checks the tables of the sets that it made; `nessa validate` opens the audio,
the features and the embeddings as well.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path

import numpy as np

from nessa.corpus.listed import GivenMatrix, read_listed_header
from nessa.corpus.speakers import SETS
from nessa.corpus.tables import has_contents, parse_segment, unsorted, validate_tables
from nessa.errors import InputError, named
from nessa.files import read_table
from nessa.kaldi.datadir import read_optional, read_utt2spk
from nessa.kaldi.directions import without_direction
from nessa.kaldi.embeddings import Embeddings, speaker_means

DURATION_TOLERANCE = 0.05  # seconds between utt2dur and the audio
FIGURES = re.compile(r"[0-9.]+")
MEAN_TOLERANCE = 1e-3  # largest difference of a speaker's mean from that of its utterances


def directories_of(folder: Path) -> list[Path]:
    """The sets of a data folder, or of a model's embeddings; else the folder, which is a set."""
    if _is_set(folder):
        return [folder]
    return [folder / name for name in SETS if _is_set(folder / name)] or [folder]


def _is_set(directory: Path) -> bool:
    return any((directory / name).exists() for name in ("utt2spk", "xvector.scp"))


def validate(directory: Path) -> list[str]:
    """Find what is wrong with a directory: its tables, and, where they are right, all contents.

    Args:
        directory: a Kaldi data directory (utt2spk), an embeddings directory (xvector.scp), or both.

    Returns:
        One sentence per problem, each with its remedy; empty where there is none.
    """
    has_data = (directory / "utt2spk").exists()
    has_embeddings = (directory / "xvector.scp").exists()
    if directory.is_dir() and not has_data and not has_embeddings:
        return [
            f"{directory}: neither utt2spk nor xvector.scp; name a data directory, an embeddings "
            "directory, or a folder of sets"
        ]
    problems: list[str] = []
    if not has_embeddings or has_data:
        problems += validate_tables(directory, has_contents(directory))
        if not problems:  # broken tables would only repeat themselves
            problems += [*_audio_problems(directory), *_feature_problems(directory)]
    if has_embeddings:
        problems += _embedding_problems(directory)
    return problems


# --- contents -------------------------------------------------------------------------------------


def _audio_problems(directory: Path) -> Iterator[str]:
    path = directory / "wav.scp"
    durations: dict[str, float] = {}
    rates: dict[str, int] = {}
    unreadable: dict[str, str] = {}  # recording -> why
    for name, place in read_optional(directory, "wav.scp").items():
        if place.endswith("|"):
            continue  # what a command gives is not known without running it
        try:
            rates[name], samples = read_listed_header(place, path)
        except InputError as error:
            unreadable[name] = str(error)
        else:
            durations[name] = samples / rates[name]
    yield from _by_reason(path, unreadable)
    usual, others = _unlike_most(rates)
    if others:
        yield f"{path}: most audio has {usual} Hz, but not {named(others)}; resample it"
    segments = read_optional(directory, "segments")
    if segments:
        yield from _late_segments(directory / "segments", segments, durations)
    else:
        yield from _wrong_durations(directory, durations)


def _by_reason(path: Path, faults: Mapping[str, str]) -> Iterator[str]:
    """A line for each kind of fault, whatever its file and its figures."""
    kinds: dict[str, list[str]] = {}
    for name, fault in faults.items():
        kinds.setdefault(FIGURES.sub("", fault.partition(": ")[2]), []).append(name)
    for names in kinds.values():
        yield f"{path}: {named(names)}: {faults[names[0]]}"


def _unlike_most(values: Mapping[str, int]) -> tuple[int, list[str]]:
    """The most frequent value (0 where there is none), and the names that have another."""
    usual, _ = max(Counter(values.values()).items(), key=itemgetter(1), default=(0, 0))
    return usual, [name for name, value in values.items() if value != usual]


def _late_segments(
    path: Path, segments: Mapping[str, str], durations: Mapping[str, float]
) -> Iterator[str]:
    late = []
    for utterance, line in segments.items():
        recording, start, end = parse_segment(line)
        length = durations.get(recording, np.inf)
        if start >= length or (np.isfinite(end) and end > length + DURATION_TOLERANCE):
            late.append(utterance)
    if late:
        yield f"{path}: {named(late)} does not lie in its recording; correct the times"


def _wrong_durations(directory: Path, durations: Mapping[str, float]) -> Iterator[str]:
    claimed = read_optional(directory, "utt2dur")
    wrong = [
        name
        for name, seconds in durations.items()
        if name in claimed and not abs(_number(claimed[name]) - seconds) <= DURATION_TOLERANCE
    ]
    if wrong:
        yield f"{directory}/utt2dur: not the duration of the audio of {named(wrong)}; make it again"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _feature_problems(directory: Path) -> Iterator[str]:
    path = directory / "feats.scp"
    dims: dict[str, int] = {}
    unreadable: dict[str, str] = {}  # utterance -> why
    for name, place in read_optional(directory, "feats.scp").items():
        try:
            dims[name] = GivenMatrix.find(place, path).columns
        except InputError as error:
            unreadable[name] = str(error)
    yield from _by_reason(path, unreadable)
    usual, others = _unlike_most(dims)
    if others:
        yield f"{path}: most features have {usual} dimensions, but not {named(others)}"


def _embedding_problems(directory: Path) -> Iterator[str]:
    path = directory / "xvector.scp"
    try:
        embeddings = Embeddings.read(directory)
    except InputError as error:
        yield str(error)
        return
    yield from unsorted(path, embeddings.keys)
    if bad := [embeddings.keys[row] for row in without_direction(embeddings.matrix)]:
        yield (
            f"{path}: {named(bad)} is zero, or beyond 1e-36 to 1e36, and has no direction; "
            "extract it again"
        )
    if not (directory / "spk_xvector.scp").exists():
        return
    try:
        yield from _mean_problems(directory, embeddings)
    except InputError as error:
        yield str(error)


def _mean_problems(directory: Path, embeddings: Embeddings) -> Iterator[str]:
    """Whether the speakers' vectors are those of the utterances that begin with their names."""
    path = directory / "spk_xvector.scp"
    stored = Embeddings.read(path)
    if (directory / "utt2spk").exists():
        utt2spk = read_utt2spk(directory)
    else:
        utt2spk = _by_prefix(embeddings.keys, stored.keys)
    lacking = sorted(set(embeddings.keys) - utt2spk.keys())
    if lacking:
        yield f"{path}: no speaker for {named(lacking)}; merge the embeddings again"
        return
    means, counts = speaker_means(embeddings, utt2spk)
    if means.keys != stored.keys:
        yield f"{path}: other speakers than those of xvector.scp; merge the embeddings again"
        return
    scale = np.linalg.norm(means.matrix, axis=1).clip(1e-6)
    far = np.abs(means.matrix - stored.matrix).max(axis=1) > MEAN_TOLERANCE * scale
    wrong = [key for key, bad in zip(means.keys, far, strict=True) if bad]
    if wrong:
        yield f"{path}: not the mean of the utterances of {named(wrong)}; merge them again"
    if (directory / "num_utts.ark").exists():
        claimed = read_table(directory / "num_utts.ark")
        if claimed != {speaker: str(count) for speaker, count in counts.items()}:
            yield f"{directory}/num_utts.ark: other counts than xvector.scp has; merge them again"


def _by_prefix(utterances: list[str], speakers: list[str]) -> dict[str, str]:
    """{utterance: speaker}, by the longest speaker's name that it begins with."""
    known = set(speakers)
    lengths = sorted({len(speaker) for speaker in speakers})  # the last one that fits is kept
    return {
        utterance: utterance[:length]
        for utterance in utterances
        for length in lengths
        if utterance[:length] in known
    }
