"""Second moments of embeddings: what the linear aligners and NESSA's start are computed from."""

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from nessa.alignment.base import Matrix
from nessa.alignment.preprocessing import speaker_means
from nessa.errors import InputError

Floats = npt.NDArray[np.float64]
ROWS_PER_SUM = 65536  # converted to float64 at once


def cross_product(a: Matrix, b: Matrix) -> Floats:
    """A^T B (Dx, Dy) of A (N, Dx) and B (N, Dy), summed in float64 without a copy of the whole."""
    total = np.zeros((a.shape[1], b.shape[1]))
    for start in range(0, len(a), ROWS_PER_SUM):
        rows = slice(start, start + ROWS_PER_SUM)
        total += a[rows].T.astype(np.float64) @ b[rows]
    return total


def between_utterances(a: Matrix, b: Matrix, labels: npt.NDArray[np.int64]) -> Floats:
    """Cross-covariance (Dx, Dy) of pairs of *different* utterances of one speaker.

    The mean over rows u of a_u (mean over the speaker's v != u of b_v)^T: what two views of one
    utterance share beyond the speaker, its channel and words, stays out of it.

    Args:
        a, b: centred views of the same utterances, (N, Dx), (N, Dy).
        labels: speaker 0..S-1 of each row, (N,).

    Raises:
        InputError: no speaker has two utterances.
    """
    counts = np.bincount(labels)[labels][:, None]
    paired = counts[:, 0] >= 2
    if not paired.any():
        raise InputError("no align speaker has two utterances; alignment pairs different ones")
    means = speaker_means(b, labels)[labels][paired]
    others = (counts[paired] * means - b[paired]) / (counts[paired] - 1)
    return cross_product(a[paired], others.astype(np.float32)) / len(others)


def shrunk(covariance: Floats, shrinkage: float) -> Floats:
    """(1 - s) C + s (tr C / D) I, for C (D, D): positive definite where s > 0."""
    target = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return (1 - shrinkage) * covariance + shrinkage * target


def inverse_root(covariance: Floats) -> Floats:
    """C^-1/2 of a positive definite C (D, D)."""
    values, vectors = eigh(covariance)
    return vectors / np.sqrt(values) @ vectors.T


def whitening(centred: Matrix, shrinkage: float) -> Matrix:
    """W (D, D), symmetric, such that the coordinates of c W are about uncorrelated.

    The inverse root of the shrunk covariance of `centred` (N, D), scaled so that a coordinate of
    c W has a mean square of 1 on average.
    """
    covariance = cross_product(centred, centred) / len(centred)
    root = inverse_root(shrunk(covariance, shrinkage))
    power = np.trace(root @ covariance @ root) / len(root)
    return (root / np.sqrt(power)).astype(np.float32)
