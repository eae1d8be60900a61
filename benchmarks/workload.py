"""The data that benchmarks work on: embeddings by two models, made in a folder of their own."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.simulation import Simulation
from nessa.kaldi.embeddings import Embeddings
from nessa.trials import Trials

DIMS = 256, 192  # of the enrollment and of the runtime model


@dataclass(frozen=True)
class Size:
    """How much work there is.

    Attributes:
        speakers, utterances: of the align set.
        eval_speakers, eval_utterances: of the eval set.
        trials: of the eval list, half of them targets.
        cohort: speakers of AS-norm.
        scores: that metrics are computed of.
        draws: of the bootstrap.
        recordings: that are prepared.
        extracted: utterances that encoders embed.
    """

    speakers: int
    utterances: int
    eval_speakers: int
    eval_utterances: int
    trials: int
    cohort: int
    scores: int
    draws: int
    recordings: int
    extracted: int

    def tenth(self) -> "Size":
        """A tenth of the work: fewer speakers and trials, the same cohort."""
        return replace(
            self,
            speakers=self.speakers // 10,
            utterances=self.utterances // 10,
            eval_speakers=self.eval_speakers // 10,
            eval_utterances=self.eval_utterances // 10,
            trials=self.trials // 10,
            scores=self.scores // 10,
            recordings=self.recordings // 10,
            extracted=self.extracted // 10,
        )


SIZES = {
    "small": Size(
        speakers=200, utterances=4_000, eval_speakers=40, eval_utterances=2_000, trials=10_000,
        cohort=200, scores=100_000, draws=100, recordings=600, extracted=40,
    ),
    "voxceleb": Size(
        speakers=5_994, utterances=1_092_009, eval_speakers=1_251, eval_utterances=145_160,
        trials=579_818, cohort=5_994, scores=10_000_000, draws=1000, recordings=1_092_009,
        extracted=5_000,
    ),
}  # fmt: skip


class Workload:
    """Lazily made data of one size.

    Args:
        size: of it.
        folder: receives files.
    """

    def __init__(self, size: Size, folder: Path) -> None:
        self.size, self.folder = size, folder
        self._simulation = Simulation(dims=DIMS, seed=1)

    @cached_property
    def align(self) -> tuple[Embeddings, Embeddings, dict[str, str]]:
        """Embeddings by both models of the same utterances, and their speakers."""
        return self._set(self.size.speakers, self.size.utterances, 0)

    @cached_property
    def eval(self) -> tuple[Embeddings, Embeddings, dict[str, str]]:
        """The same, of the eval set."""
        return self._set(self.size.eval_speakers, self.size.eval_utterances, 1)

    @cached_property
    def cohort(self) -> tuple[Embeddings, Embeddings]:
        """One vector a speaker by each model."""
        return self._set(self.size.cohort, self.size.cohort, 2)[:2]

    @cached_property
    def trials(self) -> Trials:
        """Of eval utterances, half of them targets."""
        keys, speakers = self.eval[0].keys, list(self.eval[2].values())
        rng = np.random.default_rng(0)
        rows = rng.integers(len(keys), size=(2, self.size.trials))
        starts = np.searchsorted(speakers, speakers)  # of each row's speaker
        counts = np.searchsorted(speakers, speakers, side="right") - starts
        half = slice(0, self.size.trials // 2)
        enroll = rows[0, half]
        rows[1, half] = starts[enroll] + rows[1, half] % counts[enroll]
        labels = starts[rows[0]] == starts[rows[1]]
        return Trials([keys[r] for r in rows[0]], [keys[r] for r in rows[1]], labels)

    def written(self, embeddings: Embeddings, name: str) -> Path:
        """An embeddings directory of the folder that holds these."""
        directory = self.folder / name
        if not directory.exists():
            embeddings.write(directory)
        return directory

    def _set(
        self, speakers: int, total: int, number: int
    ) -> tuple[Embeddings, Embeddings, dict[str, str]]:
        most = -(-total // speakers)
        short = speakers * most - total  # speakers with one utterance less
        keys: list[list[str]] = []
        names: list[list[str]] = []
        sides: tuple[list[npt.NDArray[np.float32]], list[npt.NDArray[np.float32]]] = ([], [])
        first = 0
        for block in self._simulation.blocks(speakers, most, number):
            count = len(block.keys) // most
            kept = np.arange(len(block.keys)) % most < most - 1
            kept |= (first + np.arange(count)).repeat(most) >= short
            keys.append([key for key, keep in zip(block.keys, kept, strict=True) if keep])
            names.append([name for name, keep in zip(block.speakers, kept, strict=True) if keep])
            sides[0].append(block.enroll[kept])
            sides[1].append(block.runtime[kept])
            first += count
        utt2spk = dict(zip(chain(*keys), chain(*names), strict=True))
        enroll, runtime = (Embeddings(utt2spk, np.concatenate(side)) for side in sides)
        return enroll, runtime, utt2spk
