"""Second moments of embeddings: what the linear aligners and NESSA's start are computed from."""

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh, lstsq

from nessa.alignment.views import (
    SIDES,
    Floats,
    Labels,
    Matrix,
    Rows,
    Stacked,
    add_by_speaker,
    blocks,
)
from nessa.errors import InputError

LEAST_SHRINKAGE = 1e-4  # of a covariance that may have no inverse, as that of few utterances
LEAST_WITHIN = 1e-5  # scatter within speakers, relative to that between them


def cross_product(a: Rows, b: Rows) -> Floats:
    """A^T B (Dx, Dy) of A (N, Dx) and B (N, Dy), without a copy of the whole.

    Blocks are multiplied in float32, which a few thousand rows bear, and added up in float64.
    """
    total = np.zeros((a.shape[1], b.shape[1]))
    for rows in blocks(len(a)):
        left = a[rows]
        total += left.T @ (left if b is a else b[rows])
    return total


def between_utterances(a: Rows, b: Rows, labels: Labels) -> Floats:
    """Cross-covariance (Dx, Dy) of pairs of *different* utterances of one speaker.

    The mean over rows u of a_u (mean over the speaker's v != u of b_v)^T: what two views of one
    utterance share beyond the speaker, its channel and words, stays out of it. Of a speaker with n
    utterances and sums A, B over them, the rows add (A B^T - sum of a_u b_u^T) / (n - 1).

    Args:
        a, b: centered views of the same utterances, (N, Dx), (N, Dy).
        labels: speaker 0..S-1 of each row, (N,).

    Raises:
        InputError: no speaker has two utterances.
    """
    counts = np.bincount(labels)
    paired = counts >= 2
    if not paired.any():
        raise InputError("no align speaker has two utterances; alignment pairs different ones")
    weights = np.where(paired, 1 / np.maximum(counts - 1, 1), 0)[:, None]
    sums = np.zeros((len(counts), a.shape[1])), np.zeros((len(counts), b.shape[1]))
    total = np.zeros((a.shape[1], b.shape[1]))
    for rows in blocks(len(a)):
        x, y, speakers = a[rows], b[rows], labels[rows]
        for view, own in zip((x, y), sums, strict=True):
            add_by_speaker(view, speakers, own)
        total -= (x * weights[speakers].astype(np.float32)).T @ y
    total += (sums[0] * weights).T @ sums[1]
    return total / counts[paired].sum()


def within_speakers(z: Rows, labels: Labels) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Scatter of rows (N, D) about the means of their speakers, in one pass.

    Args:
        z: centered rows.
        labels: speaker 0..S-1 of each row, (N,).

    Returns:
        The scatter, a sum over rows, (D, D); the means, (S, D); rows per speaker, (S,).

    Raises:
        InputError: no speaker has two utterances, or none has two that differ.
    """
    scatter, means, counts = scatter_within(z, labels)
    between = (means.T * counts) @ means
    _check_differ(scatter, between, "")
    if isinstance(z, Stacked):
        for view, side in zip(z.parts, SIDES, strict=True):
            _check_differ(scatter[view, view], between[view, view], f" of the {side} model")
    return scatter, means, counts


def scatter_within(z: Rows, labels: Labels) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """`within_speakers` without its check that utterances differ, which LDA's output may fail."""
    counts = np.bincount(labels)
    if len(labels) == len(counts):
        raise InputError("no align speaker has two utterances; PLDA needs several of each")
    sums = np.zeros((len(counts), z.shape[1]))
    for rows in blocks(len(z)):
        add_by_speaker(z[rows], labels[rows], sums)
    means = sums / counts[:, None]
    return cross_product(z, z) - sums.T @ means, means, counts


def _check_differ(scatter: Floats, between: Floats, whose: str) -> None:
    """Refuse a scatter (D, D) within speakers that is none, beside what rounding leaves."""
    if not np.trace(scatter) > LEAST_WITHIN * np.trace(between):
        raise InputError(
            f"the embeddings{whose} of each align speaker are all the same; PLDA needs utterances "
            "that differ: is one recording there under several names?"
        )


def shrunk(covariance: Floats, shrinkage: float) -> Floats:
    """(1 - s) C + s (tr C / D) I, for C (D, D): positive definite where s > 0."""
    target = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return (1 - shrinkage) * covariance + shrinkage * target


def inverse_root(covariance: Floats) -> Floats:
    """C^-1/2 of a positive definite C (D, D)."""
    values, vectors = eigh(covariance)
    return vectors / np.sqrt(values) @ vectors.T


def whitening(centered: Rows, shrinkage: float) -> Matrix:
    """W (D, D), symmetric, such that the coordinates of c W are about uncorrelated.

    The inverse root of the shrunk covariance of `centered` (N, D), scaled so that a coordinate of
    c W has a mean square of 1 on average.
    """
    covariance = cross_product(centered, centered) / len(centered)
    root = inverse_root(shrunk(covariance, max(shrinkage, LEAST_SHRINKAGE)))
    power = np.trace(root @ covariance @ root) / len(root)
    return (root / np.sqrt(power)).astype(np.float32)


def ridge(gram: Floats, cross: Floats, penalty: float) -> Floats:
    """(G + p (tr G / D) I)^-1 C, of G = A^T A (D, D) and C = A^T B (D, D')."""
    unit = np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.linalg.solve(gram + penalty * unit, cross)


def least_squares(source: Rows, white: Matrix, target: Rows) -> Matrix:
    """The map (Dx, D) of c W, for rows c (N, Dx) of `source` and W (Dx, Dx), onto `target` (N, D).

    By the normal equations, which a whitened source suits.
    """
    gram = white.T @ cross_product(source, source) @ white
    return lstsq(gram, white.T @ cross_product(source, target))[0].astype(np.float32)
