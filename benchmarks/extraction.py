"""Extraction of short utterances by the two encoders of the mini recipe, beside one by one."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from lhotse import Fbank, FbankConfig, SupervisionSegment
from lhotse.cut import MonoCut
from torch import Tensor

from benchmarks.machine import Machine
from benchmarks.measurement import Bound, Comparison, Measurement, in_turns, scaled
from benchmarks.workload import Workload
from nessa.corpus.utterances import make_cut, read_recording
from nessa.encoders import parse_settings
from nessa.encoders.extraction import extract
from nessa.encoders.trained import TrainedModel, build

RATE = 16000
SECONDS = 1.0, 2.9  # durations of the mini recipe's utterances
ONE_BY_ONE = 300  # utterances that the loop is given
DIFFERENT = 1e-5  # 1 - cosine of the embeddings of both, at most
WAITING = 40.0  # percent of the time, for decoded audio and its features, at most

ENCODERS = {  # as in recipes/mini/recipe.yaml
    "x-vector": ("tdnn", 128, {"num_filters": 40}),
    "ECAPA-TDNN": ("ecapa", 160, {"num_filters": 64, "low_freq": 50}),
}


def bench_extraction(workload: Workload, machine: Machine) -> Iterator[Measurement]:
    """Batches by length, read ahead, beside a loop over utterances with the same threads."""
    cuts = _write_utterances(workload.folder / "wav", workload.size.extracted)
    some = cuts[:: -(-len(cuts) // ONE_BY_ONE)]
    for name in ENCODERS:
        model = _make_model(name)
        fbank = Fbank(FbankConfig(**ENCODERS[name][2]))
        ours = partial(extract, model, cuts)
        loop = partial(_one_by_one, model, fbank, some)
        difference = _difference(ours().select([cut.id for cut in some]).matrix, loop())
        model.computing = 0.0
        seconds, loops = in_turns(ours, loop, repeats=3)
        waiting = 100 * (1 - model.computing / sum(seconds))
        yield Measurement(
            f"extraction, {name}",
            f"{len(cuts):,} utterances",
            seconds,
            [Comparison("one by one", scaled(loops, len(cuts) / len(some)), wanted=3)],
            [
                Bound("1 - cosine with one by one", difference, DIFFERENT),
                Bound("waiting for audio and features, % of the time", waiting, WAITING),
            ],
        )


class _Watched(TrainedModel):
    """A model that adds up the seconds in which it computes, and does not wait for its input."""

    computing = 0.0

    def embed(self, inputs: list[Tensor]) -> Tensor:
        start = time.perf_counter()
        embeddings = super().embed(inputs)
        self.computing += time.perf_counter() - start
        return embeddings


def _make_model(name: str) -> _Watched:
    architecture, dim, features = ENCODERS[name]
    config = parse_settings(
        {"architecture": architecture, "channels": 64, "dim": dim, "features": features}
        | {"loss": {"type": "ge2e"}, "steps": 1}
    )
    torch.manual_seed(1)
    return _Watched(name, config, build(config))


@torch.inference_mode()
def _one_by_one(model: TrainedModel, fbank: Fbank, cuts: list[MonoCut]) -> np.ndarray:
    """What a script with Lhotse and the bare network does."""
    embeddings = []
    for cut in cuts:
        features = torch.from_numpy(fbank.extract(cut.load_audio(), RATE))
        features = features - features.mean(dim=0)
        embeddings.append(model.encoder(features[None]).numpy())
    return np.concatenate(embeddings)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.max(1 - (a.astype(np.float64) * b).sum(axis=1) / lengths))


def _write_utterances(folder: Path, count: int) -> list[MonoCut]:
    """Noise of the durations of the mini recipe."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    cuts = []
    for number in range(count):
        name = f"utterance{number:05d}"
        samples = 0.1 * rng.standard_normal(int(rng.uniform(*SECONDS) * RATE))
        soundfile.write(folder / f"{name}.wav", samples, RATE)
        recording = read_recording(name, folder / f"{name}.wav")
        cuts.append(make_cut(recording, SupervisionSegment(name, name, 0.0, recording.duration)))
    return cuts
