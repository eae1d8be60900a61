"""Centred orthogonal Procrustes: the best rotation of one space onto the other."""

import numpy as np
import numpy.typing as npt
from scipy.linalg import svd

from nessa.alignment.base import DevSet, Matrix
from nessa.alignment.linear import LinearAligner, cross_product
from nessa.alignment.preprocessing import center, fit_mean


class ProcrustesAligner(LinearAligner):
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
        u, _, vt = svd(cross_product(a, b), full_matrices=False)
        self.arrays = {
            "enroll_mean": a_mean,
            "runtime_mean": b_mean,
            "enroll_map": u.astype(np.float32),  # (Dx, r)
            "runtime_map": vt.T.astype(np.float32),  # (Dy, r)
        }
