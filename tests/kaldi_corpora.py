"""Kaldi data directories as users have them, made of synthetic voices and of synthetic features."""

from pathlib import Path

import kaldiio
import numpy as np
import soundfile

from nessa.files import write_table
from tests.speech import RATE, tone


def write_audio_dir(
    directory: Path, speakers: range, utterances: int = 4, segmented: bool = False, seed: int = 0
) -> dict[str, str]:
    """wav.scp (and segments) of short voices, with utt2spk and utt2session.

    Returns:
        {utterance: speaker}.
    """
    wav, segments, utt2spk, sessions = {}, {}, {}, {}
    for number in speakers:
        rng = np.random.default_rng(number if seed == 0 else (seed, number))
        speaker = f"spk{number:03d}"
        for session in range(2):
            recording = f"{speaker}_rec{session}"
            sounds = [tone(number, 0.7, rng) for _ in range(utterances // 2)]
            for k, sound in enumerate(sounds):
                utterance = f"{recording}_{k}"
                utt2spk[utterance], sessions[utterance] = speaker, f"s{session}"
                if segmented:
                    segments[utterance] = f"{recording} {0.7 * k:.2f} {0.7 * (k + 1):.2f}"
                else:
                    wav[utterance] = _write_wav(directory / "audio", utterance, sound)
            if segmented:
                wav[recording] = _write_wav(directory / "audio", recording, np.concatenate(sounds))
    write_table(directory / "wav.scp", wav)
    if segmented:
        write_table(directory / "segments", segments)
    else:
        write_table(directory / "utt2session", sessions)
    _write_speakers(directory, utt2spk)
    return utt2spk


def write_feature_dir(
    directory: Path,
    speakers: int,
    utterances: int,
    frames: int = 400,
    dim: int = 40,
    compressed: int = 0,
    text: bool = False,
) -> dict[str, str]:
    """feats.scp alone: a speaker's spectrum, a session's channel, and noise that changes slowly.

    Returns:
        {utterance: speaker}.
    """
    directory.mkdir(parents=True)
    utt2spk: dict[str, str] = {}
    place = str(directory / "feats.ark")
    options = {"compression_method": compressed} if compressed else {}
    with kaldiio.WriteHelper(
        f"ark{',t' if text else ''},scp:{place},{directory / 'feats.scp'}", **options
    ) as writer:
        for number in range(speakers):
            rng = np.random.default_rng((3, number))
            speaker = f"spk{number:04d}"
            # The mean over time is normalized away: what tells a speaker is how its bands move.
            spread = np.exp(0.5 * rng.standard_normal(dim))
            mixing = np.eye(dim) + 0.4 * rng.standard_normal((dim, dim)) / np.sqrt(dim)
            for k in range(utterances):
                utterance = f"{speaker}-{k:04d}"
                utt2spk[utterance] = speaker
                noise = rng.standard_normal((frames + 4, dim))
                slow = sum(noise[lag : lag + frames] for lag in range(5)) / np.sqrt(5)
                channel = 0.3 * rng.standard_normal(dim)
                matrix = (
                    (slow * spread) @ mixing + channel + 0.7 * rng.standard_normal((frames, dim))
                )
                writer(utterance, matrix.astype(np.float32))
    _write_speakers(directory, utt2spk)
    return utt2spk


def _write_wav(folder: Path, name: str, sound: np.ndarray) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{name}.wav", sound, RATE)
    return str(folder / f"{name}.wav")


def _write_speakers(directory: Path, utt2spk: dict[str, str]) -> None:
    write_table(directory / "utt2spk", utt2spk)
    speakers: dict[str, list[str]] = {}
    for utterance in sorted(utt2spk):
        speakers.setdefault(utt2spk[utterance], []).append(utterance)
    write_table(directory / "spk2utt", {s: " ".join(utts) for s, utts in speakers.items()})
