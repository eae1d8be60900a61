"""Linear aligners: raw, Procrustes, ridge regression and canonical correlation analysis."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh, svd
from torch import nn

from nessa.alignment.base import Aligner
from nessa.alignment.covariance import between_utterances, cross_product, inverse_root, shrunk
from nessa.alignment.dev import DevSet
from nessa.alignment.modules import Centering, Linear, Normalize
from nessa.alignment.views import (
    Center,
    Floats,
    Labels,
    Matrix,
    Rows,
    Side,
    center,
    fit_mean,
    length_normalize,
)
from nessa.errors import InputError

log = logging.getLogger(__name__)
Arrays = dict[str, npt.NDArray[Any]]
# The penalty, in units of the mean eigenvalue of Y^T Y.
PENALTIES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
SHRINKAGES = (0.03, 0.003, 0.1, 0.3, 0.6, 0.9)
RANKS = (512, 128, 64, 32, 16)  # those above the highest rank there is mean that


class LinearAligner(Aligner):
    """Maps by z = normalize(c W), with c = normalize(normalize(x) - mean).

    The arrays of a side are its mean (D_in,) and W (D_in, D); a side without a W is only centered.
    """

    def input_dim(self, side: Side) -> int:
        """Dx or Dy."""
        return len(self.arrays[f"{side}_mean"])

    def network(self, side: Side) -> nn.Module:
        """The map of one side; see `Aligner.network`."""
        centering = Centering(Center(self.arrays[f"{side}_mean"]))
        weight = self.arrays.get(f"{side}_map")
        if weight is None:
            return centering
        return nn.Sequential(centering, Linear(weight), Normalize())

    def _map(self, matrix: Matrix, side: Side) -> Matrix:
        centered = self._centered(matrix, side)
        weight = self.arrays.get(f"{side}_map")
        return centered if weight is None else length_normalize(centered @ weight)

    def _centered(self, matrix: Matrix, side: Side) -> Matrix:
        return center(matrix, self.arrays[f"{side}_mean"])

    def _choose(self, candidates: Iterable[tuple[str, Arrays]], dev: DevSet | None) -> None:
        """Keep the candidate of the lowest dev EER; without dev, the first.

        Args:
            candidates: (description, arrays), the best guess first; at least one.
            dev: held-out speakers.
        """
        if dev is None:
            _, self.arrays = next(iter(candidates))
            return

        def error(candidate: tuple[str, Arrays]) -> float:
            description, self.arrays = candidate
            found = self.dev_eer(dev)
            log.info("%s: %s: dev EER %.4f", self.kind, description, found)
            return found

        _, self.arrays = min(candidates, key=error)


def centered_views(enroll: Matrix, runtime: Matrix) -> tuple[Arrays, Matrix, Matrix]:
    """The two sides' means, as arrays of a `LinearAligner`, and the two views centered by them."""
    means = {"enroll_mean": fit_mean(enroll), "runtime_mean": fit_mean(runtime)}
    return means, center(enroll, means["enroll_mean"]), center(runtime, means["runtime_mean"])


class RawAligner(LinearAligner):
    """The identity: scores are plain cosines between the two models' embeddings.

    Independently trained models put speakers in unrelated directions, so chance is expected; it
    shows that alignment is needed. Both models must have one dimension D.
    """

    kind = "raw"

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        dims = enroll.shape[1], runtime.shape[1]
        if dims[0] != dims[1]:
            raise InputError(
                f"enrollment embeddings have dimension {dims[0]}, runtime ones {dims[1]}: raw "
                "cosine needs equal ones; leave 'raw' out of the recipe's baselines"
            )
        zero = np.zeros(dims[0], np.float32)  # a mean of 0: only length-normalized
        self.arrays = {"enroll_mean": zero, "runtime_mean": zero.copy()}


class ProcrustesAligner(LinearAligner):
    """Rotates the centered embeddings of paired utterances onto each other.

    With A (N, Dx) and B (N, Dy) centered, A^T B = U S V^T (thin SVD, rank r = min(Dx, Dy)), and
    the maps are x -> x U and y -> y V (Schoenemann 1966; for different dimensions the projection
    Procrustes problem). With equal dimensions the cosine equals the one after rotating either
    side onto the other.
    """

    kind = "procrustes"

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        means, a, b = centered_views(enroll, runtime)
        u, _, vt = svd(cross_product(a, b), full_matrices=False)
        self.arrays = {
            **means,
            "enroll_map": u.astype(np.float32),  # (Dx, r)
            "runtime_map": vt.T.astype(np.float32),  # (Dy, r)
        }


class RidgeAligner(LinearAligner):
    """Maps runtime embeddings into the enrollment model's centered space by least squares.

    With X (N, Dx) and Y (N, Dy) the centered views of the same utterances,

        W = argmin ||X - Y W||^2 + p ||W||^2 = (Y^T Y + p I)^-1 Y^T X

    (Hoerl & Kennard 1970). The enrollment side is only centered: stored profiles keep their space.
    p is the one of `PENALTIES` with the lowest dev EER or, without a dev set, the lowest
    generalized cross-validation error (Golub, Heath & Wahba 1979),
    GCV = ||X - Y W||^2 / (N - tr H)^2, with H = Y (Y^T Y + p I)^-1 Y^T.
    """

    kind = "ridge"

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        means, x, y = centered_views(enroll, runtime)
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


class CCAAligner(LinearAligner):
    """Regularized CCA of pairs of *different* utterances of one speaker.

    The two views of one utterance share its channel and its words, which no trial does; an
    enrollment and a runtime utterance share the speaker only. So with centered x, y the
    cross-covariance is taken between each utterance and the others of its speaker,

        C_xy = mean over u of x_u (mean over the speaker's v != u of y_v)^T,

    which in the model x = A h + e, y = B h + e' is A B^T whatever the noises e, e' of one
    utterance have in common. With C_xx, C_yy shrunk towards a multiple of I (Vinod 1976) and
    C_xx^-1/2 C_xy C_yy^-1/2 = U R V^T, the maps are

        x -> x C_xx^-1/2 U R^1/2,   y -> y C_yy^-1/2 V R^1/2,

    the posterior means of h in probabilistic CCA (Bach & Jordan 2005). Rank and shrinkage have
    the lowest dev EER; without a dev set they are the first of `RANKS` and `SHRINKAGES`.
    """

    kind = "cca"

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        means, a, b = centered_views(enroll, runtime)

        def candidates() -> Iterator[tuple[str, Arrays]]:
            for label, maps in canonical_maps(a, b, labels):
                named = zip(("enroll_map", "runtime_map"), maps, strict=True)
                yield label, means | {name: found.astype(np.float32) for name, found in named}

        self._choose(candidates(), dev)


def canonical_maps(
    a: Rows, b: Rows, labels: Labels, largest_rank: int | None = None
) -> Iterator[tuple[str, tuple[Floats, Floats]]]:
    """Yield (description, maps (Dx, q), (Dy, q)) of `CCAAligner` for each shrinkage and rank.

    Args:
        a, b: centered views of the same utterances, (N, Dx), (N, Dy).
        labels: speaker of each row, (N,).
        largest_rank: no higher one is tried.
    """
    c_ab = between_utterances(a, b, labels)
    c_aa, c_bb = cross_product(a, a) / len(a), cross_product(b, b) / len(b)
    for shrinkage in SHRINKAGES:
        roots = [inverse_root(shrunk(c, shrinkage)) for c in (c_aa, c_bb)]
        u, r, vt = svd(roots[0] @ c_ab @ roots[1], full_matrices=False)
        for rank in ranks(min(len(r), largest_rank or len(r))):
            scale = np.sqrt(r[:rank] / r[0])
            maps = roots[0] @ u[:, :rank] * scale, roots[1] @ vt[:rank].T * scale
            yield f"shrinkage {shrinkage}, rank {rank}", maps


def ranks(most: int, tried: Sequence[int] = RANKS) -> list[int]:
    """Those to try where there are `most`, falling."""
    return sorted({min(rank, most) for rank in tried}, reverse=True)
