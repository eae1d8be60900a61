"""One utterance's audio: its header, and its samples, decoded by Lhotse."""

import contextlib
import functools
import io
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from lhotse import AudioSource
from lhotse.audio.backend import (
    AudioBackend,
    CompositeAudioBackend,
    get_current_audio_backend,
    get_default_audio_backend,
    set_current_audio_backend,
)
from lhotse.cut import Cut, MixedCut, MonoCut
from lhotse.utils import fastcopy
from numpy.typing import NDArray
from torch import Tensor

from nessa.corpus.lengths import (
    blocks_of_samples,
    is_cut_ogg,
    missing_part,
    promised_by_nist,
    repaired,
    samples_of_mp3,
)
from nessa.corpus.mp4 import read_mp4_header
from nessa.errors import InputError, about, first_line, is_out_of_memory
from nessa.files import STARTED_IN

SHORTEST = 5  # frames that an utterance must have
MP4 = (".m4a", ".m4b", ".mp4")  # read by ffmpeg
ENDS = 2**16  # bytes that hold what is before a file's samples, or an Ogg page
HEADERLESS = (".raw", ".pcm")
# More than this of a file must not be missing, nor be beyond what its header, tables and manifests
# say.
TOLERANCE = 0.05  # seconds; of MP3, whose encoders add some frames, twice as much
LHOTSES_TOLERANCE = "LHOTSE_AUDIO_DURATION_MISMATCH_TOLERANCE"  # environment: seconds
BROKEN_PIPE = 128 + 13  # how a command ends whose reader, `head` for one, had enough
UNREADABLE = (  # what is damaged, and containers as webm, aac and wma
    "is not readable audio; restore or remove it or, if players take it, write it as wav (ffmpeg "
    "-i FILE out.wav)"
)
# Lhotse tries one decoder after the other, and lists what became of them.
DECODER_SAID = re.compile(r"^Exception #\d+ .*: <class '[^']*'>: (.*)$", re.MULTILINE)
# Or, where a file has another length than it says, how many samples are missing, and there.
DIVERGED = re.compile(r"number of declared samples .*diff=(-?\d+), audio\.shape=\(\d+, (\d+)\)")
Samples = NDArray[np.float32]


class NoDecoderError(InputError):
    """What is wrong is this machine, not the file: it must not be skipped."""


# --- samples --------------------------------------------------------------------------------------


def read_audio(cut: MonoCut, sampling_rate: int, model: str) -> Tensor:
    """One utterance's waveform, shape (samples,).

    Args:
        cut: with a recording.
        sampling_rate: that the model takes, in Hz.
        model: its name, for messages.

    Raises:
        InputError: no audio, unreadable, another sampling rate, several channels, under 5 frames
            (of 10 ms) long, a sample that is not finite, or one value throughout, as silence has.
    """
    where = check_recording(cut, sampling_rate, model)
    check_decoder(cut)
    try:
        samples = load_audio(cut)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except Exception as error:  # Lhotse's audio backends raise many types
        if is_out_of_memory(error):
            raise
        raise InputError(f"{where}: cannot be read: {reason(error)}; repair or remove it") from None
    if samples.shape[0] != 1:
        raise InputError(f"{where}: {samples.shape[0]} channels; make it mono")
    with about(where):
        check_length(samples.shape[1], sampling_rate)
    if fault := _fault(iter([samples.T]), sampling_rate):
        raise InputError(f"{where}: {fault}")
    return torch.from_numpy(samples[0])


def check_length(samples: int, sampling_rate: int) -> None:
    """Refuse an utterance of under 5 frames (of 10 ms)."""
    if samples < SHORTEST * 0.01 * sampling_rate:
        raise InputError(f"only {samples} samples; too short for an embedding, remove it")


def load_audio(cut: Cut) -> Samples:
    """Decode a cut: float32 (channels, samples).

    Commands run here, as Lhotse takes the output of one that failed; so are files of which the
    header lacks the length.

    Raises:
        InputError: a command failed.
        Exception: Lhotse's audio backends raise many types.
    """
    cut = _with_sources(cut, _run_source)
    with _decoders(), _strict_lengths(cut):
        try:
            return cut.load_audio()
        except Exception:
            again = _with_sources(cut, _repaired_source)
            if again is cut:
                raise
            return again.load_audio()


def _with_sources(cut: Cut, change: Any) -> Cut:
    """A cut whose audio comes from other places; the same one where all stay."""
    if isinstance(cut, MixedCut):
        tracks = [fastcopy(t, cut=_with_sources(t.cut, change)) for t in cut.tracks]
        same = all(new.cut is old.cut for new, old in zip(tracks, cut.tracks, strict=True))
        return cut if same else fastcopy(cut, tracks=tracks)
    if not getattr(cut, "has_recording", False):
        return cut
    sources = [change(source) for source in cut.recording.sources]
    if all(new is old for new, old in zip(sources, cut.recording.sources, strict=True)):
        return cut
    return fastcopy(cut, recording=fastcopy(cut.recording, sources=sources))


def _run_source(source: AudioSource) -> AudioSource:
    if source.type != "command":
        return source
    return fastcopy(source, type="memory", source=run_command(source.source))


def _repaired_source(source: AudioSource) -> AudioSource:
    if source.type not in ("file", "memory"):
        return source
    content = source.source if source.type == "memory" else Path(source.source).read_bytes()
    better = repaired(content)
    return source if better is None else fastcopy(source, type="memory", source=better)


def run_command(command: str) -> bytes:
    """What a command of a table writes; only ever called where the user allows commands.

    It runs in `folder_of_commands`, as relative paths of a table are of that.

    Raises:
        InputError: it fails, at its end or inside of its pipe.
    """
    bash = shutil.which("bash")
    words = [bash, "-o", "pipefail", "-c", command] if bash else ["sh", "-c", command]
    done = subprocess.run(words, capture_output=True, check=False, cwd=folder_of_commands())
    if done.returncode not in (0, BROKEN_PIPE):
        said = done.stderr.decode(errors="replace").strip().splitlines()
        more = f" ({said[-1]})" if said else ""
        raise InputError(f"{command!r} ended with status {done.returncode}{more}; correct it")
    return done.stdout


def folder_of_commands() -> str:
    """Where the user called run.sh; this folder where that is not there, as on another machine."""
    called = os.environ.get(STARTED_IN, "")
    return called if os.path.isdir(called) else os.getcwd()


@contextlib.contextmanager
def _decoders() -> Iterator[None]:
    """Decode with ours meanwhile, unless the user has chosen decoders of Lhotse's."""
    before = get_current_audio_backend()
    if before is not get_default_audio_backend() or "LHOTSE_AUDIO_BACKEND" in os.environ:
        yield
        return
    set_current_audio_backend(_our_decoders())
    try:
        yield
    finally:
        set_current_audio_backend(before)


@contextlib.contextmanager
def _strict_lengths(cut: Cut) -> Iterator[None]:
    """Refuse audio that has become shorter, unless the user has chosen what Lhotse tolerates.

    It would fill up half a second by a mirror image. Of MP4, ffmpeg's decoder drops some frames.
    """
    sources = cut.recording.sources if isinstance(cut, MonoCut) and cut.recording else []
    places = [source.source.lower() for source in sources if isinstance(source.source, str)]
    if LHOTSES_TOLERANCE in os.environ or any(place.endswith(MP4) for place in places):
        yield
        return
    os.environ[LHOTSES_TOLERANCE] = str(2 * TOLERANCE)
    try:
        yield
    finally:
        del os.environ[LHOTSES_TOLERANCE]


@functools.cache
def _our_decoders() -> CompositeAudioBackend:
    """Those of Lhotse's that are installed: it looks for the others again with every file.

    That takes as long as decoding a short file does. libsndfile reads NIST's files; sph2pipe,
    where there is one, only those that it cannot read.
    """
    libraries = {"Torchcodec": "torchcodec", "Torchaudio": "torchaudio"}

    def installed(backend: AudioBackend) -> bool:
        name = type(backend).__name__
        needed = (library for start, library in libraries.items() if name.startswith(start))
        return not name.startswith("Sph2pipe") and all(find_spec(library) for library in needed)

    return CompositeAudioBackend([b for b in get_default_audio_backend().backends if installed(b)])


def check_recording(cut: MonoCut, sampling_rate: int, model: str) -> str:
    """Refuse an utterance without audio, or of another sampling rate; see `read_audio`.

    Returns:
        What messages call the utterance: its name and its file.
    """
    if not cut.has_recording:
        raise InputError(
            f"utterance {cut.id!r} has no audio, which model {model!r} takes; "
            "add wav.scp, or set features.type to given, which those without `features` cannot"
        )
    where = f"utterance {cut.id!r} ({_place_of(cut.recording.sources[0])})"
    rate = cut.recording.sampling_rate  # the cut's own is that of its features, where it has some
    if rate != sampling_rate:
        raise InputError(
            f"{where}: sampled at {rate} Hz, model {model!r} takes {sampling_rate} Hz; resample it"
        )
    return where


def _place_of(source: AudioSource) -> str:
    return source.source if isinstance(source.source, str) else f"in {source.type}"


def check_decoder(cut: MonoCut) -> None:
    """Refuse audio that no program here decodes.

    Raises:
        NoDecoderError: it is MP4, and there is no ffmpeg.
    """
    for source in cut.recording.sources if cut.has_recording else ():
        if source.type == "file":
            _check_decoder(Path(source.source))


def _check_decoder(path: Path) -> None:
    if path.suffix.lower() in MP4 and not (shutil.which("ffmpeg") or find_spec("torchcodec")):
        raise NoDecoderError(
            f"{path}: ffmpeg is not in PATH, and {path.suffix} is read by it; install ffmpeg"
        )


def reason(error: Exception) -> str:
    """The first line of what an error says, or, of Lhotse's, what it found, in our words."""
    if found := DIVERGED.search(str(error)):
        less, there = map(int, found.groups())
        return (
            f"decodes to {there} samples, where its header or manifest says {there + less} (MP4 of "
            "Opus, or in fragments: write it as wav)"
        )
    decoders = [said for said in DECODER_SAID.findall(str(error)) if said]
    return decoders[0] if decoders else first_line(error)


def _fault(blocks: Iterator[Samples], sampling_rate: int, all_of_it: bool = True) -> str | None:
    """What is wrong with samples (S, channels), in blocks; without `all_of_it`, to the first sound.

    A signal of one value throughout has no voice in it, and all such get one embedding.
    """
    first: Samples | None = None
    varied, position = False, 0
    for block in blocks:
        if not np.isfinite(block).all():
            row = position + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            at = f"{row / sampling_rate:.2f} s"
            return f"sample {row} (at {at}) is not finite; repair or remove it"
        first = block[0] if first is None else first
        varied = varied or bool((block != first).any())
        if varied and not all_of_it:
            return None
        position += len(block)
    if first is None or varied:
        return None
    what = "is silent" if not first.any() else "is constant"
    return f"{what}: all samples are {float(first[0]):g}; restore or remove it"


# --- headers --------------------------------------------------------------------------------------


class AudioHeader(NamedTuple):
    """What preparation needs to know of an audio file."""

    sampling_rate: int  # Hz
    num_samples: int


def read_audio_header(path: Path, channels: int | None = 1) -> AudioHeader:
    """Read the header of an audio file, and the first samples; all where they may be not finite.

    The length is counted where the header does not say it.

    Args:
        path: wav, flac, NIST sph and whatever else libsndfile reads, or m4a.
        channels: that it must have; None: any number.

    Raises:
        NoDecoderError: a program that is needed to decode it is missing.
        InputError: missing, unreadable, cut off, empty, silent or constant, not finite, of another
            length than its header says, or with other channels.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; restore or remove it")
    if path.suffix.lower() in HEADERLESS:
        raise InputError(
            f"{path}: is not readable audio: {path.suffix} has no header that tells its sampling "
            "rate; write it as wav (sox -t raw -r 16000 -e signed -b 16 -c 1 in.raw out.wav)"
        )
    if path.suffix.lower() in MP4:
        try:
            rate, samples, found = read_mp4_header(path)
        except (OSError, InputError) as error:
            raise InputError(f"{path}: {UNREADABLE}") from error
        if samples <= 0:
            raise InputError(
                f"{path}: has no samples, or is a fragmented MP4, which does not say how many; "
                "write it anew (ffmpeg -i in.m4a -c copy -movflags faststart out.m4a), restore or "
                "remove it"
            )
        _check_channels(path, found, channels)
        _check_decoder(path)
        return AudioHeader(rate, samples)
    return header_of(path, str(path), channels)


def header_of(file: Path | io.BytesIO, name: str, channels: int | None = 1) -> AudioHeader:
    """The header of what libsndfile reads; see `read_audio_header`.

    Args:
        file: a path, or the content of a file.
        name: what messages call it.
        channels: as there.
    """
    opened: Any = str(file) if isinstance(file, Path) else file
    try:
        with soundfile.SoundFile(opened) as sound:
            lengthless = sound.frames == 0 or sound.frames > 2**48
            if not lengthless:
                return _checked_header(sound, file, name, channels)
        better = repaired(_content(file))
        if better is not None:
            with soundfile.SoundFile(io.BytesIO(better)) as sound:
                if sound.frames:
                    return _checked_header(sound, io.BytesIO(better), name, channels)
        raise InputError(f"{name}: has no samples; restore or remove it")
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise InputError(f"{name}: {UNREADABLE}") from error


def _head_and_size(file: Path | io.BytesIO) -> tuple[bytes, int]:
    if isinstance(file, io.BytesIO):  # its place in it is libsndfile's
        return bytes(file.getbuffer()[:ENDS]), len(file.getbuffer())
    with open(file, "rb") as opened:
        return opened.read(ENDS), opened.seek(0, 2)


def _tail(file: Path | io.BytesIO, size: int) -> bytes:
    start = max(0, size - ENDS)
    if isinstance(file, io.BytesIO):
        return bytes(file.getbuffer()[start:])
    with open(file, "rb") as opened:
        opened.seek(start)
        return opened.read()


def _content(file: Path | io.BytesIO) -> bytes:
    return file.getvalue() if isinstance(file, io.BytesIO) else file.read_bytes()


def _checked_header(
    sound: soundfile.SoundFile, file: Path | io.BytesIO, name: str, channels: int | None
) -> AudioHeader:
    rate, samples = sound.samplerate, sound.frames
    _check_channels(name, sound.channels, channels)
    _check_whole(sound, file, name)
    floats = sound.subtype in ("FLOAT", "DOUBLE")  # others hold nothing that is not finite
    sound.seek(0)
    if fault := _fault(blocks_of_samples(sound, rate), rate, all_of_it=floats):
        raise InputError(f"{name}: {fault}")
    return AudioHeader(rate, samples)


def _check_channels(name: Path | str, found: int, wanted: int | None) -> None:
    if wanted is not None and found != wanted:
        raise InputError(f"{name}: has {found} channels; mix it down to one")


def _check_whole(sound: soundfile.SoundFile, file: Path | io.BytesIO, name: str) -> None:
    """Refuse a file that is cut off, and an MP3 of which only a part would be read."""
    cut_off = f"{name}: is cut off, or its header is wrong; restore or remove it"
    if sound.format in ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU"):
        missing = missing_part(*_head_and_size(file))
        if missing * sound.frames / sound.samplerate > TOLERANCE:
            raise InputError(cut_off)
    elif sound.format == "NIST":
        head, _ = _head_and_size(file)
        if promised_by_nist(head) - sound.frames > TOLERANCE * sound.samplerate:
            raise InputError(cut_off)
    elif sound.format == "MP3":
        frames = samples_of_mp3(_content(file))
        allowed = 2 * TOLERANCE * sound.samplerate
        if frames is not None and abs(frames - sound.frames) > max(allowed, 4 * 1152):
            said, there = sound.frames / sound.samplerate, frames / sound.samplerate
            if there < said:  # which a file that begins with silence is estimated at, too
                raise InputError(
                    f"{name}: MP3 of {there:.1f} s, cut off from {said:.1f} s, or without a length "
                    "(VBR without Xing header); restore it or, if it is whole, write it as wav"
                )
            raise InputError(
                f"{name}: MP3 of {there:.1f} s, of which libsndfile reads {said:.1f} s, as the "
                "file does not say its length (VBR without Xing header), or another; write it as "
                "wav"
            )
    elif sound.format in ("FLAC", "OGG"):
        if sound.format == "OGG":
            head, size = _head_and_size(file)
            if is_cut_ogg(head, _tail(file, size)):
                raise InputError(cut_off)
        try:
            sound.seek(sound.frames - 1)
            last = len(sound.read(1, dtype="float32"))
        except soundfile.LibsndfileError:
            last = 0
        if not last:
            raise InputError(cut_off)
