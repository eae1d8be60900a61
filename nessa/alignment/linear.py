"""What the linear aligners share: their map, and the choice of regularisation on the dev set."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from nessa.alignment.base import Aligner, DevSet, checked
from nessa.alignment.preprocessing import center, fit_mean, length_normalize
from nessa.alignment.views import Matrix
from nessa.metrics import eer
from nessa.scoring import cosine_scores
from nessa.tables import Embeddings
from nessa.trials import Trials

log = logging.getLogger(__name__)

Arrays = dict[str, npt.NDArray[Any]]


class LinearAligner(Aligner):
    """Maps by z = normalize(c W), with c = normalize(normalize(x) - mean).

    The arrays of a side are its mean (D_in,) and W (D_in, D); a side without a W is only centred.
    """

    def map_enroll(self, matrix: Matrix) -> Matrix:
        """(N, Dx) -> (N, D)."""
        return self._map(matrix, "enroll")

    def map_runtime(self, matrix: Matrix) -> Matrix:
        """(N, Dy) -> (N, D)."""
        return self._map(matrix, "runtime")

    def _map(self, matrix: Matrix, side: str) -> Matrix:
        centred = self._centred(matrix, side)
        weight = self.arrays.get(f"{side}_map")
        return centred if weight is None else length_normalize(centred @ weight)

    def _centred(self, matrix: Matrix, side: str) -> Matrix:
        mean = self.arrays[f"{side}_mean"]
        return center(checked(matrix, len(mean), side), mean)

    def _choose(self, candidates: Iterable[tuple[str, Arrays]], dev: DevSet | None) -> None:
        """Keep the candidate of the lowest dev EER; without dev, the first.

        Args:
            candidates: (description, arrays), the best guess first.
            dev: held-out speakers.
        """
        best, best_eer = None, float("inf")
        for description, arrays in candidates:
            self.arrays = arrays
            if dev is None:
                return
            error = dev_eer(self, dev)
            log.info("%s: %s: dev EER %.4f", self.kind, description, error)
            if best is None or error < best_eer:
                best, best_eer = arrays, error
        assert best is not None, "an aligner offers at least one candidate"
        self.arrays = best


def centred_views(enroll: Matrix, runtime: Matrix) -> tuple[Arrays, Matrix, Matrix]:
    """The two sides' means, as arrays of a `LinearAligner`, and the two views centred by them."""
    means = {"enroll_mean": fit_mean(enroll), "runtime_mean": fit_mean(runtime)}
    return means, center(enroll, means["enroll_mean"]), center(runtime, means["runtime_mean"])


def dev_eer(aligner: Aligner, dev: DevSet) -> float:
    """EER of the cosine scores of `dev`'s trials after mapping, as a fraction."""
    assert dev.trials.labels is not None
    return eer(mapped_scores(aligner, dev.enroll, dev.runtime, dev.trials), dev.trials.labels)


def mapped_scores(
    aligner: Aligner, enroll: Embeddings, runtime: Embeddings, trials: Trials
) -> npt.NDArray[np.float32]:
    """Cosine scores (T,) of raw embeddings (N, Dx) and (M, Dy) after mapping."""
    return cosine_scores(
        Embeddings(enroll.keys, aligner.map_enroll(enroll.matrix)),
        Embeddings(runtime.keys, aligner.map_runtime(runtime.matrix)),
        trials,
    )
