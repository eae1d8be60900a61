"""Stage prepare on a tree of names: manifests and a data directory."""

from collections.abc import Iterator

import numpy as np
import soundfile

from benchmarks.machine import Machine
from benchmarks.measurement import Comparison, Measurement, in_turns
from benchmarks.workload import Workload
from nessa.corpus.audio import read_audio_header
from nessa.corpus.sets import write_set
from nessa.corpus.utterances import Utterance, make_cuts

PER_SPEAKER = 182


def bench_prepare(workload: Workload, machine: Machine) -> Iterator[Measurement]:
    """Describing utterances by one process, beside reading the headers of their audio."""
    root = workload.folder / "tree"
    root.mkdir()
    soundfile.write(root / "sound.wav", 0.1 * np.cos(np.arange(16000)), 16000)
    utterances = []
    for number in range(workload.size.recordings):
        speaker, row = f"id{number // PER_SPEAKER:05d}", number % PER_SPEAKER
        path = root / speaker / f"{row:05d}.wav"
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(root / "sound.wav")
        utterances.append(Utterance(f"{speaker}-s0-{row:05d}", speaker, "s0", path))

    def headers() -> None:
        for utterance in utterances:
            read_audio_header(utterance.path)

    seconds, read = in_turns(
        lambda: write_set(root / "data", "train", make_cuts(utterances)), headers, repeats=1
    )
    yield Measurement(
        "prepare, one process",
        f"{len(utterances):,} utterances",
        seconds,
        [Comparison("reading the headers of their audio", read)],
    )
