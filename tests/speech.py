"""Small prepared corpora for tests: real files, real manifests, random but voice-like sound."""

from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet

from nessa.corpus.manifests import manifest_path, write_manifest
from nessa.corpus.sets import write_set
from nessa.corpus.utterances import Utterance, make_cuts

RATE = 16000


def hum(samples: int, size: float = 0.1) -> np.ndarray:
    """A sound without a voice: (samples,)."""
    return size * np.cos(0.3 * np.arange(samples))


def tone(speaker: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A buzz whose pitch and spectrum belong to the speaker."""
    voice = np.random.default_rng(speaker)
    pitch, weights = voice.uniform(80, 300), voice.random(20)
    t = np.arange(round(seconds * RATE)) / RATE
    phases = 2 * np.pi * pitch * rng.uniform(0.97, 1.03) * np.outer(np.arange(1, 21), t)
    buzz = weights @ np.sin(phases + rng.uniform(0, 6, (20, 1)))
    return 0.02 * (buzz + rng.standard_normal(len(t)))


def prepare_set(
    data: Path,
    name: str,
    speakers: range,
    sessions: int = 2,
    utterances: int = 2,
    seconds: tuple[float, float] = (0.6, 1.2),
) -> None:
    """Write audio, manifests and a data directory for one set."""
    made = []
    for speaker in speakers:
        rng = np.random.default_rng((7, speaker))
        for session in range(sessions):
            for number in range(utterances):
                key = f"id{speaker:05d}-s{session}-{number:05d}"
                path = data / "audio" / f"{key}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, tone(speaker, rng.uniform(*seconds), rng), RATE)
                made.append(
                    Utterance(key, key.split("-")[0], f"s{session}", path, "mf"[speaker % 2])
                )
    write_set(data, name, make_cuts(made))


def leave_one_utterance(data: Path, name: str, speakers: range) -> None:
    """Write a prepared set anew, with a single utterance of each of these speakers."""
    single = {f"id{speaker:05d}" for speaker in speakers}
    seen: set[str] = set()
    kept = []
    for cut in read_cuts(data, name):
        speaker = cut.supervisions[0].speaker
        if speaker not in seen & single:
            kept.append(cut)
        seen.add(speaker)
    write_set(data, name, kept)


def read_cuts(data: Path, name: str) -> CutSet:
    """The cuts of a prepared set."""
    return CutSet.from_jsonl_lazy(manifest_path(data, name, "cuts"))


def prepare_augmentation(data: Path) -> None:
    """Manifests of a noise and of a room impulse response."""
    from lhotse import Recording

    rng = np.random.default_rng(5)
    response = np.zeros(1600)
    response[[0, 300, 900]] = 0.5, 0.2, 0.1
    for name, samples in (("noise", 0.1 * rng.standard_normal(3 * RATE)), ("rir", response)):
        path = data / "audio" / f"{name}.wav"
        soundfile.write(path, samples, RATE)
        write_manifest(
            data / "manifests" / f"{name}_recordings.jsonl.gz",
            [Recording.from_file(path, recording_id=name)],
        )


def turn_around(path: Path | str) -> None:
    """Other samples in an audio file, as many and of the same form."""
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[::-1], rate, soundfile.info(path).subtype)
