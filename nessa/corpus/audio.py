"""One utterance's audio: its header, and its samples, decoded by Lhotse."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch
from lhotse.audio.backend import (
    AudioBackend,
    CompositeAudioBackend,
    get_default_audio_backend,
    set_current_audio_backend,
)
from lhotse.cut import MonoCut
from torch import Tensor

from nessa.corpus.mp4 import read_mp4_header
from nessa.errors import InputError

SHORTEST = 5  # frames that an utterance must have
# Lhotse tries one decoder after the other, and lists what became of them.
DECODER_SAID = re.compile(r"^Exception #\d+ .*: <class '[^']*'>: (.*)$", re.MULTILINE)


def _choose_backend() -> None:
    """Leave out decoders that are not installed: Lhotse looks for them again with every file.

    That takes as long as decoding a short file does.
    """
    if "LHOTSE_AUDIO_BACKEND" in os.environ:  # the user's choice
        return
    libraries = {"Torchcodec": "torchcodec", "Torchaudio": "torchaudio"}

    def installed(backend: AudioBackend) -> bool:
        name = type(backend).__name__
        needed = (library for start, library in libraries.items() if name.startswith(start))
        return all(find_spec(library) for library in needed)

    backends = [b for b in get_default_audio_backend().backends if installed(b)]
    set_current_audio_backend(CompositeAudioBackend(backends))


_choose_backend()


def read_audio(cut: MonoCut, sampling_rate: int, model: str) -> Tensor:
    """One utterance's waveform, shape (samples,).

    Args:
        cut: with a recording.
        sampling_rate: that the model takes, in Hz.
        model: its name, for messages.

    Raises:
        InputError: no audio, unreadable, another sampling rate, several channels, or under 5
            frames (of 10 ms) long.
    """
    where = check_recording(cut, sampling_rate, model)
    try:
        samples = cut.load_audio()
    except Exception as error:  # Lhotse's audio backends raise many types
        raise InputError(f"{where}: cannot be read: {reason(error)}; repair or remove it") from None
    if samples.shape[0] != 1:
        raise InputError(f"{where}: {samples.shape[0]} channels; make it mono")
    if samples.shape[1] < SHORTEST * 0.01 * sampling_rate:
        raise InputError(f"{where}: only {samples.shape[1]} samples; too short for an embedding")
    return torch.from_numpy(samples[0])


def check_recording(cut: MonoCut, sampling_rate: int, model: str) -> str:
    """Refuse an utterance without audio, or of another sampling rate; see `read_audio`.

    Returns:
        What messages call the utterance: its name and its file.
    """
    if not cut.has_recording:
        raise InputError(
            f"utterance {cut.id!r} has no audio, which model {model!r} takes; "
            "add wav.scp, or set features.type to given"
        )
    where = f"utterance {cut.id!r} ({cut.recording.sources[0].source})"
    if cut.sampling_rate != sampling_rate:
        raise InputError(
            f"{where}: sampled at {cut.sampling_rate} Hz, model {model!r} takes "
            f"{sampling_rate} Hz; resample it"
        )
    return where


def reason(error: Exception) -> str:
    """The first line of what an error says, or, of Lhotse's, what the first decoder said."""
    text = str(error).strip()
    decoders = [said for said in DECODER_SAID.findall(text) if said]
    if decoders:
        return decoders[0]
    return text.splitlines()[0] if text else type(error).__name__


class AudioHeader(NamedTuple):
    """What preparation needs to know of an audio file."""

    sampling_rate: int  # Hz
    num_samples: int


def read_audio_header(path: Path) -> AudioHeader:
    """Read the header of an audio file; the samples are not read.

    Args:
        path: wav, flac and whatever else libsndfile reads, or m4a.

    Raises:
        InputError: missing, unreadable, empty, or more than one channel.
    """
    try:
        if path.suffix == ".m4a":
            rate, samples, channels = read_mp4_header(path)
        else:
            header = soundfile.info(str(path))
            rate, samples, channels = header.samplerate, header.frames, header.channels
    except (soundfile.LibsndfileError, OSError, InputError) as error:
        what = "is not readable audio" if path.exists() else "no such file"
        raise InputError(f"{path}: {what}; restore or remove it") from error
    if samples == 0:
        raise InputError(f"{path}: has no samples; restore or remove it")
    if channels != 1:
        raise InputError(f"{path}: has {channels} channels; mix it down to one")
    return AudioHeader(rate, samples)
