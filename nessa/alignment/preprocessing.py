"""Steps that aligners compose before their map; all on rows of (N, D) matrices."""

import numpy as np
import numpy.typing as npt

from nessa.alignment.base import Matrix

EPSILON = 1e-12


def length_normalize(matrix: Matrix) -> Matrix:
    """Rows scaled to unit length; a zero row stays zero."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return (matrix / np.maximum(norms, EPSILON)).astype(np.float32)


def center(matrix: Matrix, mean: Matrix) -> Matrix:
    """Length-normalise, subtract the align set's mean (D,), length-normalise."""
    return length_normalize(length_normalize(matrix) - mean)


def fit_mean(matrix: Matrix) -> Matrix:
    """The mean that `center` subtracts, shape (D,)."""
    return length_normalize(matrix).mean(axis=0, dtype=np.float64).astype(np.float32)


def speaker_means(matrix: Matrix, labels: npt.NDArray[np.int64]) -> Matrix:
    """Mean of each speaker's rows: (N, D), labels (N,) in 0..S-1 -> (S, D)."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    sums = np.add.reduceat(matrix[order].astype(np.float64), starts, axis=0)
    return (sums / counts[:, None]).astype(np.float32)
