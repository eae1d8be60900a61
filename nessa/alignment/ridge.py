"""Ridge regression of the enrollment view on the runtime view."""

import numpy as np
from scipy.linalg import eigh

from nessa.alignment.base import DevSet
from nessa.alignment.covariance import cross_product
from nessa.alignment.linear import Arrays, LinearAligner, centred_views
from nessa.alignment.views import Labels, Matrix

# The penalty, in units of the mean eigenvalue of Y^T Y.
PENALTIES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)


class RidgeAligner(LinearAligner):
    """Maps runtime embeddings into the enrollment model's centred space by least squares.

    With X (N, Dx) and Y (N, Dy) the centred views of the same utterances,

        W = argmin ||X - Y W||^2 + p ||W||^2 = (Y^T Y + p I)^-1 Y^T X

    (Hoerl & Kennard 1970). The enrollment side is only centred: stored profiles keep their space.
    p is the one of `PENALTIES` with the lowest dev EER or, without a dev set, the lowest
    generalised cross-validation error (Golub, Heath & Wahba 1979),
    GCV = ||X - Y W||^2 / (N - tr H)^2, with H = Y (Y^T Y + p I)^-1 Y^T.
    """

    kind = "ridge"

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        means, x, y = centred_views(enroll, runtime)
        s, v = eigh(cross_product(y, y))  # one decomposition serves every penalty
        s = np.maximum(s, 0)
        projected = v.T @ cross_product(y, x)  # (Dy, Dx)
        power = (projected**2).sum(axis=1)
        total = float(np.vdot(x, x))

        def gcv(penalty: float) -> float:
            residual = total - (power * (s + 2 * penalty) / (s + penalty) ** 2).sum()
            return float(residual / (len(y) - (s / (s + penalty)).sum()) ** 2)

        def arrays(penalty: float) -> Arrays:
            weight = v @ (projected / (s + penalty)[:, None])
            return {**means, "runtime_map": weight.astype(np.float32)}

        penalties = sorted((p * s.mean() for p in PENALTIES), key=gcv)
        self._choose(((f"penalty {p:.3g}", arrays(p)) for p in penalties), dev)
