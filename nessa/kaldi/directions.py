"""Directions of vectors: all that a cosine compares. What has none is refused here."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nessa.errors import InputError
from nessa.kaldi.ark import Matrix

# Of the largest value of a vector: within these, float32 holds the direction and the length.
SMALLEST, LARGEST = 1e-36, 1e36
ROWS = 4096  # whose squares are held at a time
SAFE = 1e-8, 1e8  # lengths whose squares float32 holds, with all of their digits


def lengths(matrix: Matrix) -> Matrix:
    """Euclidean lengths (N,) of rows (N, D), right at every scale that float32 has."""
    found = np.empty(len(matrix), matrix.dtype)
    with np.errstate(over="ignore"):
        for first in range(0, len(matrix), ROWS):
            rows = slice(first, first + ROWS)
            found[rows] = np.linalg.norm(matrix[rows], axis=1)
        odd = _not_safe(found)
        if len(odd):
            found[odd] = np.linalg.norm(matrix[odd].astype(np.float64), axis=1)
    return found


def _not_safe(measured: Matrix) -> npt.NDArray[np.int64]:
    """The rows whose lengths (N,) are outside of `SAFE`, or are no numbers."""
    return np.flatnonzero(~((measured >= SAFE[0]) & (measured <= SAFE[1])))


def without_direction(matrix: Matrix) -> npt.NDArray[np.int64]:
    """The rows of (N, D) that are zero, or too small or too large to tell where they point."""
    return _without_direction(matrix, lengths(matrix))


def _without_direction(matrix: Matrix, measured: Matrix) -> npt.NDArray[np.int64]:
    odd = _not_safe(measured)
    largest = np.abs(matrix[odd]).max(axis=1)
    return odd[~((largest >= SMALLEST) & (largest <= LARGEST))]


def checked_lengths(matrix: Matrix, name: Callable[[int], str]) -> Matrix:
    """The lengths (N,) of rows (N, D) that all have a direction.

    Args:
        matrix: (N, D), finite.
        name: what a message calls a row.

    Raises:
        InputError: a row has no direction; see `without_direction`.
    """
    measured = lengths(matrix)
    bad = _without_direction(matrix, measured)
    if len(bad):
        row = int(bad[0])
        largest = float(np.abs(matrix[row]).max())
        what = f"has values up to {largest:.0e}" if largest else "is zero"
        more = f" ({len(bad)} such in all)" if len(bad) > 1 else ""
        raise InputError(
            f"{name(row)} {what}, which has no direction{more}; extract it again, or leave it out"
        )
    return measured


def well_scaled(matrix: Matrix, name: Callable[[int], str]) -> Matrix:
    """Rows (N, D) of the same directions, at the nearest lengths that float32 can square.

    Where all are already, the matrix itself.

    Args, raises: see `checked_lengths`.
    """
    measured = checked_lengths(matrix, name)
    odd = _not_safe(measured)
    if not len(odd):
        return matrix
    scaled = matrix.copy()
    scaled[odd] *= (measured[odd].clip(*SAFE) / measured[odd])[:, None]
    return scaled
