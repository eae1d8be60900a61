"""Linear adapters: maps onto the other model's space, made for a change of embedding model.

Each is a map W (Dy, Dx) of the centered runtime view y (N, Dy) onto the centered enrollment view
x (N, Dx) of the same utterances. The enrollment side is only centered: stored profiles keep their
space. Centering takes the place of an affine map's bias. The mirrored aligner serves the other
update direction.
"""

import numpy as np
from scipy.linalg import eigh, lstsq, svd
from scipy.optimize import minimize
from scipy.special import expit

from nessa.alignment.covariance import cross_product
from nessa.alignment.dev import DevSet
from nessa.alignment.linear import Arrays, LinearAligner, centered_views, ranks
from nessa.alignment.views import EPSILON, Floats, Labels, Matrix

# Directions of y with less than this part of the strongest one's power are float32 noise.
CONDITION = 1e-6
# lambda, in units of sqrt(min(Dx, Dy)), which is the deviation of the map to 0.
THRESHOLDS = (0.5, 0.25, 1.0, 2.0, 0.0, np.inf)
STEEPNESS = 10.0  # alpha of the lambda-orthogonality term
ITERATIONS = 200  # of L-BFGS, at most


class LowRankAligner(LinearAligner):
    """The low-rank affine map of Drift-Adapter (Vejendla 2025, arXiv 2509.23471).

    It minimizes ||x - y W||^2 with W = U V^T of rank r. There it is trained by gradient descent;
    the minimum is known as reduced-rank regression (Izenman 1975): with W_LS the least-squares map,

        W = W_LS V V^T,   V (Dx, r) the first r eigenvectors of (y W_LS)^T (y W_LS).

    The rank has the lowest dev EER; without a dev set it is the first of `linear.RANKS`.
    """

    kind = "low_rank"

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        means, x, y = centered_views(enroll, runtime)
        cross = cross_product(y, x)
        full = lstsq(cross_product(y, y), cross, cond=CONDITION)[0]
        axes = eigh(full.T @ cross)[1][:, ::-1]

        def arrays(rank: int) -> Arrays:
            return _arrays(means, full @ axes[:, :rank] @ axes[:, :rank].T)

        self._choose(((f"rank {rank}", arrays(rank)) for rank in ranks(min(full.shape))), dev)


class DiagonalAligner(LinearAligner):
    """Drift-Adapter's orthogonal Procrustes with diagonal scaling (arXiv 2509.23471).

    W = R S: R (Dy, Dx) is the orthogonal Procrustes map of y onto x, with orthonormal columns or
    rows where the dimensions differ, and the diagonal S has the least squares of ||x - y R S||^2.
    """

    kind = "diagonal"

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        means, x, y = centered_views(enroll, runtime)
        cross = cross_product(y, x)
        rotation = procrustes(cross)
        power = np.einsum("ij,ij->j", rotation, cross_product(y, y) @ rotation)
        scales = np.einsum("ij,ij->j", rotation, cross) / np.maximum(power, EPSILON)
        self.arrays = _arrays(means, rotation * scales)


class LambdaOrthogonalAligner(LinearAligner):
    """A map kept near an orthogonal one (Ricci et al. 2025, arXiv 2509.16664).

    Theirs: the squared error, and the lambda-orthogonality term, which leaves W free up to a
    deviation lambda from orthogonality,

        L(W) = mean over utterances of |x - y W|^2 + sigmoid(alpha (d - lambda)) d,
        d = ||W^T W - I||_F;

    lambda = 0 is the soft orthogonality term, infinity none. Their other losses, a map of the old
    model's embeddings and a contrastive loss, are left out. They train by Adam and choose lambda
    = 12 for 512 dimensions, which is 0.53 sqrt(512).

    Ours: alpha, which they do not give; L-BFGS on second moments; its start, the orthogonal
    Procrustes map, for which d = 0; the smaller of W^T W and W W^T where the dimensions differ,
    instead of cutting the longer vectors. lambda has the lowest dev EER of `THRESHOLDS`; without
    a dev set it is the first.
    """

    kind = "lambda_orthogonal"

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        means, x, y = centered_views(enroll, runtime)
        gram, cross = cross_product(y, y) / len(y), cross_product(y, x) / len(y)
        unit = np.sqrt(min(cross.shape))

        def arrays(threshold: float) -> Arrays:
            return _arrays(means, near_orthogonal(gram, cross, threshold * unit))

        self._choose(((f"lambda {t:.2g} sqrt(D)", arrays(t)) for t in THRESHOLDS), dev)


def procrustes(cross: Floats) -> Floats:
    """The orthogonal R (Dy, Dx) that maximizes tr R^T C, for C = y^T x (Schoenemann 1966)."""
    u, _, vt = svd(cross, full_matrices=False)
    return u @ vt


def near_orthogonal(gram: Floats, cross: Floats, threshold: float) -> Floats:
    """W (Dy, Dx) of `LambdaOrthogonalAligner` for one lambda.

    Args:
        gram: y^T y / N, (Dy, Dy).
        cross: y^T x / N, (Dy, Dx).
        threshold: lambda.
    """
    tall = len(cross) >= cross.shape[1]

    def loss(flat: Floats) -> tuple[float, Floats]:
        w = flat.reshape(cross.shape)
        error = np.vdot(w, gram @ w - 2 * cross)  # but for the mean of |x|^2
        slope = 2 * (gram @ w - cross)
        excess = (w.T @ w if tall else w @ w.T) - np.eye(min(w.shape))
        d = float(np.linalg.norm(excess))
        gate = expit(STEEPNESS * (d - threshold))
        steep = gate + STEEPNESS * d * gate * (1 - gate)
        d_slope = 2 * (w @ excess if tall else excess @ w) / max(d, EPSILON)
        return error + gate * d, (slope + steep * d_slope).ravel()

    start = procrustes(cross).ravel()
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    return found.x.reshape(cross.shape)


def _arrays(means: Arrays, weight: Floats) -> Arrays:
    return {**means, "runtime_map": weight.astype(np.float32)}
