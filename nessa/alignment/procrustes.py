"""Centred orthogonal Procrustes: the best rotation of one space onto the other."""

import numpy as np
import numpy.typing as npt
from scipy.linalg import svd

from nessa.alignment.base import Aligner, DevSet, Matrix, checked
from nessa.alignment.preprocessing import center, fit_mean, length_normalize


class ProcrustesAligner(Aligner):
    """Rotates the centred embeddings of paired utterances onto each other.

    With A (N, Dx) and B (N, Dy) centred, A^T B = U S V^T (thin SVD, rank r = min(Dx, Dy)), and
    the maps are x -> x U and y -> y V (Schoenemann 1966; for different dimensions the projection
    Procrustes problem). With equal dimensions the cosine equals the one after rotating either
    side onto the other.
    """

    kind = "procrustes"

    def _fit(
        self, enroll: Matrix, runtime: Matrix, labels: npt.NDArray[np.int64], dev: DevSet | None
    ) -> None:
        a_mean, b_mean = fit_mean(enroll), fit_mean(runtime)
        a, b = center(enroll, a_mean), center(runtime, b_mean)
        u, _, vt = svd(a.T.astype(np.float64) @ b, full_matrices=False)
        self.arrays = {
            "enroll_mean": a_mean,
            "runtime_mean": b_mean,
            "enroll_map": u.astype(np.float32),  # (Dx, r)
            "runtime_map": vt.T.astype(np.float32),  # (Dy, r)
        }

    def map_enroll(self, matrix: Matrix) -> Matrix:
        """(N, Dx) -> (N, min(Dx, Dy))."""
        return self._rotate(matrix, "enroll")

    def map_runtime(self, matrix: Matrix) -> Matrix:
        """(N, Dy) -> (N, min(Dx, Dy))."""
        return self._rotate(matrix, "runtime")

    def _rotate(self, matrix: Matrix, side: str) -> Matrix:
        rotation = self.arrays[f"{side}_map"]
        centred = center(checked(matrix, rotation.shape[0], side), self.arrays[f"{side}_mean"])
        return length_normalize(centred @ rotation)
