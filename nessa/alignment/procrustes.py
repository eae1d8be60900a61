"""Centred orthogonal Procrustes: the best rotation of one space onto the other."""

import numpy as np
from scipy.linalg import svd

from nessa.alignment.base import DevSet
from nessa.alignment.covariance import cross_product
from nessa.alignment.linear import LinearAligner, centred_views
from nessa.alignment.views import Labels, Matrix


class ProcrustesAligner(LinearAligner):
    """Rotates the centred embeddings of paired utterances onto each other.

    With A (N, Dx) and B (N, Dy) centred, A^T B = U S V^T (thin SVD, rank r = min(Dx, Dy)), and
    the maps are x -> x U and y -> y V (Schoenemann 1966; for different dimensions the projection
    Procrustes problem). With equal dimensions the cosine equals the one after rotating either
    side onto the other.
    """

    kind = "procrustes"

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        means, a, b = centred_views(enroll, runtime)
        u, _, vt = svd(cross_product(a, b), full_matrices=False)
        self.arrays = {
            **means,
            "enroll_map": u.astype(np.float32),  # (Dx, r)
            "runtime_map": vt.T.astype(np.float32),  # (Dy, r)
        }
