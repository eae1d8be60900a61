"""What can be wrong with a data directory or an embeddings directory, down to its files.

Data preparation checks the tables of the sets that it made; `nessa validate` reads the audio,
the features and the embeddings as well.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lhotse import SupervisionSegment

from nessa.corpus.audio import TOLERANCE, check_length, read_audio
from nessa.corpus.features import check_features, check_frames
from nessa.corpus.listed import GivenMatrix, read_listed
from nessa.corpus.manifests import manifest_path
from nessa.corpus.speakers import SETS, check_disjoint
from nessa.corpus.tables import (
    has_contents,
    parse_segment,
    unsorted,
    validate_division,
    validate_tables,
    wrong_duration,
)
from nessa.corpus.utterances import DECODED_PER_JOB, ITEMS_PER_JOB, make_cut, with_results
from nessa.errors import InputError, about, named
from nessa.kaldi.datadir import is_there, read_optional, read_utt2spk
from nessa.kaldi.directions import without_direction
from nessa.kaldi.directory import SPEAKER_COUNTS, SPEAKER_TABLE
from nessa.kaldi.embeddings import Embeddings, scps_of_ranks, speaker_means
from nessa.progress import progress

FIGURES = re.compile(r"[0-9.]+")
MEAN_TOLERANCE = 1e-3  # largest difference of a speaker's mean from that of its utterances
SEPARATORS = "-_."  # that end the speaker's name in an id


def directories_of(folder: Path) -> list[Path]:
    """The sets of a data folder, or of a model's embeddings; else the folder, which is a set."""
    if _is_set(folder):
        return [folder]
    return [folder / name for name in SETS if _is_set(folder / name)] or [folder]


def shared_speakers(directories: Iterable[Path]) -> list[str]:
    """A sentence if sets of a folder share speakers, but align may have those of train."""
    sets = [each for each in directories if is_there(each / "utt2spk")]
    try:
        speakers = {each.name: set(read_utt2spk(each).values()) for each in sets}
        check_disjoint(speakers, align_includes_train=True)
    except InputError as error:
        return [str(error)]
    return []


def _is_set(directory: Path) -> bool:
    return is_there(directory / "utt2spk") or _has_embeddings(directory)


def _has_embeddings(directory: Path) -> bool:
    return is_there(directory / "xvector.scp") or bool(scps_of_ranks(directory))


def validate(
    directory: Path, *, decode: bool = True, allow_pipes: bool = False, nj: int = 1
) -> list[str]:
    """Find what is wrong with a directory: its tables, and, where they are right, all contents.

    Args:
        directory: a Kaldi data directory (utt2spk), an embeddings directory (xvector.scp, or
            3D-Speaker's xvector_NN.scp), or both.
        decode: read audio and features to their end, as extraction does; else little more than
            their headers.
        allow_pipes: run the commands of wav.scp.
        nj: processes that read; does not change the result.

    Returns:
        One sentence per problem, each with its remedy; empty where there is none.
    """
    has_data = is_there(directory / "utt2spk")
    has_embeddings = _has_embeddings(directory)
    if directory.is_dir() and not has_data and not has_embeddings:
        return [
            f"{directory}: neither utt2spk nor xvector.scp; name a data directory, an embeddings "
            "directory, or a folder of sets"
        ]
    problems: list[str] = []
    if not has_embeddings or has_data:
        problems += validate_tables(directory, has_contents(directory))
        problems += [] if problems else validate_division(directory, read_utt2spk(directory))
        if not problems:  # broken tables would only repeat themselves
            problems += _audio_problems(directory, decode, allow_pipes, nj)
            problems += _feature_problems(directory, decode, nj)
    if has_embeddings:
        problems += _embedding_problems(directory)
    return problems


class _Listed(NamedTuple):
    """A recording of wav.scp."""

    name: str
    place: str
    utterances: list[tuple[str, float, float]]  # with their start and end, which may be infinite


class _Found(NamedTuple):
    """What was found in a recording."""

    sampling_rate: int  # Hz; 0 where it cannot be used
    duration: float  # seconds
    faults: dict[str, str]  # utterance, or the recording -> why it cannot be used


def _audio_problems(directory: Path, decode: bool, allow_pipes: bool, nj: int) -> Iterator[str]:
    path = directory / "wav.scp"
    durations: dict[str, float] = {}
    rates: dict[str, int] = {}
    faults: dict[str, str] = {}
    segments = read_optional(directory, "segments")
    listed = _used_recordings(directory, segments, allow_pipes)
    look = partial(_look_at, table=path, decode=decode, allow_pipes=allow_pipes)
    results = with_results(look, listed, nj, DECODED_PER_JOB if decode else ITEMS_PER_JOB)
    silent = not sys.stderr.isatty()
    for recording, found in progress(results, total=len(listed), what=str(path), silent=silent):
        faults |= found.faults
        if found.sampling_rate:
            rates[recording.name], durations[recording.name] = found[:2]
    yield from _by_reason(path, faults)
    usual, others = _unlike_most(rates)
    if others:
        yield f"{path}: most audio has {usual} Hz, but not {named(others)}; resample it"
    if segments:
        yield from _late_segments(directory / "segments", segments, durations)
    else:
        yield from _wrong_durations(directory, durations)


def _used_recordings(
    directory: Path, segments: Mapping[str, str], allow_pipes: bool
) -> list[_Listed]:
    """The recordings that have utterances."""
    places = read_optional(directory, "wav.scp")
    if not allow_pipes and manifest_path(directory.parent, directory.name, "cuts").is_file():
        # Of a set that stage prepare wrote, commands were allowed, or are its own.
        places = {name: place for name, place in places.items() if not place.endswith("|")}
    if not segments:
        return [_Listed(name, place, [(name, 0.0, math.inf)]) for name, place in places.items()]
    utterances: dict[str, list[tuple[str, float, float]]] = {}
    for utterance, line in segments.items():
        recording, start, end = parse_segment(line)
        utterances.setdefault(recording, []).append((utterance, start, end))
    return [_Listed(n, place, utterances[n]) for n, place in places.items() if n in utterances]


def _look_at(listed: _Listed, table: Path, decode: bool, allow_pipes: bool) -> _Found:
    try:
        recording = read_listed(listed.name, listed.place, table, allow_pipes)
    except InputError as error:
        return _Found(0, 0.0, {listed.name: str(error)})
    duration, faults = recording.duration, {}
    for utterance, start, end in listed.utterances:
        end = min(end, duration)
        if start < end:  # others are late
            segment = SupervisionSegment(utterance, listed.name, start, end - start)
            cut = make_cut(recording, segment)
            try:
                with about(f"utterance {utterance!r}"):
                    check_length(cut.num_samples, cut.sampling_rate)
                if decode:
                    read_audio(cut, cut.sampling_rate, "any")
            except InputError as error:
                faults[utterance] = str(error)
    return _Found(recording.sampling_rate, duration, faults)


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
        if start >= length or (np.isfinite(end) and end > length + TOLERANCE):
            late.append(utterance)
    if late:
        yield f"{path}: {named(late)} does not lie in its recording; correct the times"


def _wrong_durations(directory: Path, durations: Mapping[str, float]) -> Iterator[str]:
    claimed = read_optional(directory, "utt2dur")
    wrong = [n for n, seconds in durations.items() if wrong_duration(claimed.get(n), seconds)]
    if wrong:
        yield f"{directory}/utt2dur: not the duration of the audio of {named(wrong)}; make it again"


def _feature_problems(directory: Path, decode: bool, nj: int) -> Iterator[str]:
    path = directory / "feats.scp"
    dims: dict[str, int] = {}
    unusable: dict[str, str] = {}  # utterance -> why
    places = read_optional(directory, "feats.scp")
    look = partial(_look_at_features, table=path, decode=decode)
    for name, (_, found) in zip(places, with_results(look, places.values(), nj), strict=True):
        if isinstance(found, int):
            dims[name] = found
        else:
            unusable[name] = found
    yield from _by_reason(path, unusable)
    usual, others = _unlike_most(dims)
    if others:
        yield f"{path}: most features have {usual} dimensions, but not {named(others)}"


def _look_at_features(place: str, table: Path, decode: bool) -> int | str:
    """The dimension of features, or why they cannot be used."""
    try:
        matrix = GivenMatrix.find(place, table)
        with about(matrix.place):
            if decode:
                check_features(matrix.read())
            else:
                check_frames(matrix.rows)
    except InputError as error:
        return str(error)
    return matrix.columns


def _embedding_problems(directory: Path) -> Iterator[str]:
    path = directory if scps_of_ranks(directory) else directory / "xvector.scp"
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
    if not is_there(directory / SPEAKER_TABLE):
        return
    try:
        yield from _mean_problems(directory, embeddings)
    except InputError as error:
        yield str(error)


def _mean_problems(directory: Path, embeddings: Embeddings) -> Iterator[str]:
    """Whether the speakers' vectors are the means of their utterances.

    Without utt2spk, and where ids do not tell, only the number of utterances is compared.
    """
    path = directory / SPEAKER_TABLE
    stored = Embeddings.read(path)
    claimed = read_optional(directory, SPEAKER_COUNTS)
    other_counts = f"{directory / SPEAKER_COUNTS}: other counts than xvector.scp has; merge again"
    if is_there(directory / "utt2spk"):
        utt2spk = read_utt2spk(directory)
    elif not (utt2spk := _by_prefix(embeddings.keys, stored.keys, claimed)):
        total = sum(int(count) for count in claimed.values() if count.isdecimal())
        if claimed and (claimed.keys() != set(stored.keys) or total != len(embeddings)):
            yield other_counts
        return
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
    if claimed and claimed != {speaker: str(count) for speaker, count in counts.items()}:
        yield other_counts


def _by_prefix(
    utterances: list[str], speakers: list[str], counts: Mapping[str, str]
) -> dict[str, str]:
    """{utterance: speaker}, by the longest speaker's name that it begins with.

    Empty where ids do not tell: some begin with none, or, unless a separator follows in all of
    them, {speaker: utterances} are other counts.
    """
    known = set(speakers)
    lengths = sorted({len(speaker) for speaker in speakers})  # the last one that fits is kept
    found = {
        utterance: utterance[:length]
        for utterance in utterances
        for length in lengths
        if utterance[:length] in known
    }
    if len(found) < len(utterances):
        return {}
    if all(utterance[len(speaker) :][:1] in SEPARATORS for utterance, speaker in found.items()):
        return found
    spoken = {speaker: str(count) for speaker, count in Counter(found.values()).items()}
    told = spoken == counts if counts else spoken.keys() == known
    return found if told else {}
