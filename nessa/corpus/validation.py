"""What can be wrong with a data directory or an embeddings directory, down to its files.

Data preparation checks the tables of the sets that it made; `nessa validate` opens the audio,
the features and the embeddings as well.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path

import kaldi_native_io
import numpy as np

from nessa.corpus.audio import read_audio_header
from nessa.corpus.copies import read_copies
from nessa.corpus.sets import COPIES, SOURCES
from nessa.corpus.speakers import SETS
from nessa.errors import InputError, named
from nessa.files import read_table
from nessa.kaldi.datadir import PROFILE_LIST, read_optional, read_utt2spk, spk2utt_of
from nessa.kaldi.directions import without_direction
from nessa.kaldi.embeddings import Embeddings, speaker_means
from nessa.trials import Trials, read_enroll_map

DURATION_TOLERANCE = 0.05  # seconds between utt2dur and the audio
MEAN_TOLERANCE = 1e-3  # largest difference of a speaker's mean from that of its utterances
UTTERANCE_TABLES = (
    "feats.scp", "vad.scp", "utt2dur", "utt2num_frames", "utt2lang", "utt2session",
    "utt2domain", "text", "segments",
)  # fmt: skip


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
        has_audio = any((directory / name).exists() for name in ("wav.scp", "feats.scp"))
        problems += validate_tables(directory, has_audio or not has_embeddings)
        if not problems:  # broken tables would only repeat themselves
            problems += [*_audio_problems(directory), *_feature_problems(directory)]
    if has_embeddings:
        problems += _embedding_problems(directory)
    return problems


def validate_tables(directory: Path, has_audio: bool = True) -> list[str]:
    """Find what is wrong with the tables of a data directory.

    Checks what Kaldi's validate_data_dir.sh checks (tables present, sorted, consistent with each
    other, speaker a prefix of the utterance), and besides that audio files exist and that trials
    and profiles name utterances of the set.

    Args:
        directory: with utt2spk, spk2utt, and wav.scp or feats.scp.
        has_audio: whether it must hold audio or features, and ids that Kaldi's tools for them
            accept; False for sets of which there are only embeddings.

    Returns:
        One sentence per problem, each with its remedy; empty where there is none.
    """
    if not directory.is_dir():
        return [f"{directory}: no such folder; has stage prepare been run?"]
    try:
        return list(_table_problems(directory, has_audio))
    except InputError as error:  # a table that cannot be read hides what is behind it
        return [str(error)]


# --- tables ---------------------------------------------------------------------------------------


def _table_problems(directory: Path, has_audio: bool) -> Iterator[str]:
    utt2spk = read_utt2spk(directory)
    if not utt2spk:
        yield f"{directory}/utt2spk: empty; a set needs utterances"
        return
    if has_audio:
        yield from _id_problems(directory, utt2spk)
        if not (directory / "wav.scp").exists() and not (directory / "feats.scp").exists():
            yield f"{directory}: neither wav.scp nor feats.scp; make one of them"
    yield from _speaker_problems(directory, utt2spk)
    audio = read_optional(directory, "wav.scp")
    segments = read_optional(directory, "segments")
    if segments:
        yield from _segment_problems(directory / "segments", segments, audio)
    for name in UTTERANCE_TABLES if segments else (*UTTERANCE_TABLES, "wav.scp"):
        if (directory / name).exists():
            path = directory / name
            yield from _key_problems(path, read_table(path), utt2spk, "utterance")
    for name in ("reco2dur", "reco2file_and_channel"):
        if (directory / name).exists():
            table = read_table(directory / name)
            yield from _key_problems(directory / name, table, audio or utt2spk, "recording")
    yield from _missing_audio(directory / "wav.scp", audio)
    yield from _trial_problems(directory, utt2spk)
    yield from _added_problems(directory, utt2spk)


def _id_problems(directory: Path, utt2spk: Mapping[str, str]) -> Iterator[str]:
    strays = [utt for utt, speaker in utt2spk.items() if not utt.startswith(speaker)]
    if strays:
        yield (
            f"{directory}/utt2spk: the speaker is no prefix of {named(strays)}; "
            "put the speaker first in utterance ids"
        )
    if list(utt2spk.values()) != sorted(utt2spk.values(), key=str.encode):
        yield (
            f"{directory}/utt2spk: sorted by utterance, the speakers are not sorted; "
            "separate the speaker by a dash in utterance ids"
        )


def _speaker_problems(directory: Path, utt2spk: Mapping[str, str]) -> Iterator[str]:
    yield from _order_problems(directory / "utt2spk", list(utt2spk))
    spk2utt = read_table(directory / "spk2utt")
    if spk2utt != spk2utt_of(utt2spk):
        yield f"{directory}/spk2utt: not the inverse of utt2spk; make it again from utt2spk"
    genders = read_optional(directory, "spk2gender")
    if genders:
        yield from _key_problems(directory / "spk2gender", genders, spk2utt, "speaker")
        wrong = [speaker for speaker, gender in genders.items() if gender not in ("m", "f")]
        if wrong:
            yield f"{directory}/spk2gender: neither m nor f: {named(wrong)}; write m or f"


def _order_problems(path: Path, keys: list[str]) -> Iterator[str]:
    if keys != sorted(keys, key=str.encode):
        yield f"{path}: not sorted; run `LC_ALL=C sort -o {path} {path}`"


def _key_problems(
    path: Path, table: Mapping[str, str], expected: Mapping[str, str], what: str
) -> Iterator[str]:
    yield from _order_problems(path, list(table))
    missing = sorted(expected.keys() - table.keys())
    if missing:
        yield f"{path}: no line for {what} {named(missing)}; add it, or remove the {what}"
    unknown = sorted(table.keys() - expected.keys())
    if unknown:
        yield f"{path}: {what} {named(unknown)} is not in the set; remove its line"


def _segment_problems(
    path: Path, segments: Mapping[str, str], audio: Mapping[str, str]
) -> Iterator[str]:
    for utterance, fields in segments.items():
        try:
            recording, start, end = fields.split()
            valid = 0 <= float(start) < float(end)
        except ValueError:
            valid = False
        if not valid:
            yield f"{path}: {utterance!r}: expected `recording start end` in seconds, start < end"
        elif recording not in audio:
            yield f"{path}: {utterance!r}: recording {recording!r} is not in wav.scp; add it"


def _missing_audio(path: Path, audio: Mapping[str, str]) -> Iterator[str]:
    # What a pipe would give cannot be known without running it, which is not ours to do.
    files = {name: Path(file) for name, file in audio.items() if not file.endswith("|")}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        yield (
            f"{path}: no such file {files[missing[0]]} (audio of {named(missing)}); "
            "restore it, or correct the path"
        )


def _trial_problems(directory: Path, utt2spk: Mapping[str, str]) -> Iterator[str]:
    path = directory / "enroll_map"
    profiles = read_enroll_map(path) if path.exists() else {}
    members = {utterance for utterances in profiles.values() for utterance in utterances}
    unknown = sorted(members - utt2spk.keys())
    if unknown:
        yield f"{path}: utterance {named(unknown)} is not in the set; remove the profile"
    for path in sorted(directory.glob("trials*")):
        enrolled = profiles if path.name == PROFILE_LIST else utt2spk
        trials = Trials.read(path)
        unknown = sorted(
            (set(trials.enroll_index.names) - enrolled.keys())
            | (set(trials.test_index.names) - utt2spk.keys())
        )
        if unknown:
            yield f"{path}: {named(unknown)} is not in the set; remove its trials"


def _added_problems(directory: Path, utt2spk: Mapping[str, str]) -> Iterator[str]:
    """Of the tables that tell copies and additional speakers apart."""
    copies = read_copies(directory)
    added = {
        COPIES: copies.keys() | {original for _, original in copies.values()},
        SOURCES: read_optional(directory, SOURCES).keys(),
    }
    for table, utterances in added.items():
        if unknown := sorted(utterances - utt2spk.keys()):
            yield f"{directory / table}: utterance {named(unknown)} is not in the set; remove it"


# --- contents -------------------------------------------------------------------------------------


def _audio_problems(directory: Path) -> Iterator[str]:
    path = directory / "wav.scp"
    durations: dict[str, float] = {}
    rates: dict[str, int] = {}
    for name, place in read_optional(directory, "wav.scp").items():
        if place.endswith("|"):
            continue  # what a command gives is not known without running it
        try:
            rates[name], samples = read_audio_header(Path(place))
        except InputError as error:
            yield f"{path}: {name!r}: {error}"
        else:
            durations[name] = samples / rates[name]
    usual, others = _unlike_most(rates)
    if others:
        yield f"{path}: most audio has {usual} Hz, but not {named(others)}; resample it"
    segments = read_optional(directory, "segments")
    if segments:
        yield from _late_segments(directory / "segments", segments, durations)
    else:
        yield from _wrong_durations(directory, durations)


def _unlike_most(values: Mapping[str, int]) -> tuple[int, list[str]]:
    """The most frequent value (0 where there is none), and the names that have another."""
    usual, _ = max(Counter(values.values()).items(), key=itemgetter(1), default=(0, 0))
    return usual, [name for name, value in values.items() if value != usual]


def _late_segments(
    path: Path, segments: Mapping[str, str], durations: Mapping[str, float]
) -> Iterator[str]:
    late = []
    for utterance, line in segments.items():
        recording, _, end = line.split()
        if float(end) > durations.get(recording, np.inf) + DURATION_TOLERANCE:
            late.append(utterance)
    if late:
        yield f"{path}: {named(late)} ends after its recording; correct the times"


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
    for name, place in read_optional(directory, "feats.scp").items():
        if place.endswith(("|", "]")):
            continue
        try:
            dims[name] = kaldi_native_io.MatrixShape.read(place).num_cols
        except Exception:  # its C++ errors
            yield f"{path}: {name!r}: {place} is no Kaldi matrix; make it again"
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
    yield from _order_problems(path, embeddings.keys)
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
