"""What can be wrong with a data directory or an embeddings directory, down to its files.

Data preparation checks the tables (`nessa.kaldi.datadir`); this opens what they name as well.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import kaldi_native_io
import numpy as np

from nessa.corpus.audio import read_audio_header
from nessa.errors import InputError
from nessa.files import read_table
from nessa.kaldi.datadir import named, read_optional, read_utt2spk, validate_data_dir
from nessa.kaldi.embeddings import Embeddings, speaker_means

DURATION_TOLERANCE = 0.05  # seconds between utt2dur and the audio
MEAN_TOLERANCE = 1e-3  # largest difference of a speaker's mean from that of its utterances


def validate(directory: Path) -> list[str]:
    """Find what is wrong with a directory.

    Args:
        directory: a Kaldi data directory (utt2spk), an embeddings directory (xvector.scp), or both.

    Returns:
        One sentence per problem, each with its remedy; empty where there is none.
    """
    has_data = (directory / "utt2spk").exists()
    has_embeddings = (directory / "xvector.scp").exists()
    if not directory.is_dir():
        return [f"{directory}: no such folder; has stage prepare been run?"]
    if not has_data and not has_embeddings:
        return [
            f"{directory}: neither utt2spk nor xvector.scp; name a data directory or an embeddings "
            "directory"
        ]
    problems: list[str] = []
    if has_data:
        sound = any((directory / name).exists() for name in ("wav.scp", "feats.scp"))
        problems += validate_data_dir(directory, sound or not has_embeddings)
    if not problems and has_data:  # broken tables would only repeat themselves
        problems += [*_audio_problems(directory), *_feature_problems(directory)]
    if has_embeddings:
        problems += _embedding_problems(directory)
    return problems


def _audio_problems(directory: Path) -> Iterator[str]:
    path = directory / "wav.scp"
    durations: dict[str, float] = {}
    rates: dict[int, list[str]] = {}
    for name, place in read_optional(directory, "wav.scp").items():
        if place.endswith("|"):
            continue  # what a command gives is not known without running it
        try:
            rate, samples = read_audio_header(Path(place))
        except InputError as error:
            yield f"{path}: {name!r}: {error}"
            continue
        durations[name] = samples / rate
        rates.setdefault(rate, []).append(name)
    if len(rates) > 1:
        usual = max(rates, key=lambda rate: len(rates[rate]))
        others = [name for rate, names in rates.items() if rate != usual for name in names]
        yield f"{path}: most audio has {usual} Hz, but not {named(others)}; resample it"
    segments = read_optional(directory, "segments")
    if segments:
        yield from _late_segments(directory / "segments", segments, durations)
    else:
        yield from _wrong_durations(directory, durations)


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
        if name in claimed and not abs(float(claimed[name]) - seconds) <= DURATION_TOLERANCE
    ]
    if wrong:
        yield f"{directory}/utt2dur: not the duration of the audio of {named(wrong)}; make it again"


def _feature_problems(directory: Path) -> Iterator[str]:
    path = directory / "feats.scp"
    dims: Counter[int] = Counter()
    dim_of = {}
    for name, place in read_optional(directory, "feats.scp").items():
        if place.endswith(("|", "]")):
            continue
        try:
            dim_of[name] = kaldi_native_io.MatrixShape.read(place).num_cols
        except Exception:  # its C++ errors
            yield f"{path}: {name!r}: {place} is no Kaldi matrix; make it again"
            continue
        dims[dim_of[name]] += 1
    if len(dims) > 1:
        usual = dims.most_common(1)[0][0]
        others = [name for name, dim in dim_of.items() if dim != usual]
        yield f"{path}: most features have {usual} dimensions, but not {named(others)}"


def _embedding_problems(directory: Path) -> Iterator[str]:
    path = directory / "xvector.scp"
    try:
        embeddings = Embeddings.read(directory)
    except InputError as error:
        yield str(error)
        return
    if embeddings.keys != sorted(embeddings.keys, key=str.encode):
        yield f"{path}: not sorted; run `LC_ALL=C sort -o {path} {path}`"
    zero = [k for k, v in zip(embeddings.keys, embeddings.matrix, strict=True) if not v.any()]
    if zero:
        yield f"{path}: {named(zero)} is all zeros, which has no direction; extract it again"
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
    longest_first = sorted(speakers, key=len, reverse=True)
    known = set(longest_first)
    lengths = sorted({len(speaker) for speaker in speakers}, reverse=True)
    return {
        utterance: utterance[:length]
        for utterance in utterances
        for length in lengths[::-1]
        if utterance[:length] in known
    }
