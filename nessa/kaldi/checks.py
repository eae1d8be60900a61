"""What keys and vectors must be: every refusal names the row, by `where`, and the key."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nessa.errors import InputError
from nessa.files import id_fault
from nessa.kaldi.ark import Matrix, all_finite
from nessa.kaldi.scp import are_sorted

_row: Callable[[int], str] = "row {}".format


def as_float32(matrix: npt.ArrayLike) -> Matrix:
    """A matrix of real numbers as float32, C-contiguous; what is beyond float32 is infinite."""
    try:
        array = np.asarray(matrix)
        if np.iscomplexobj(array):
            raise TypeError("these are complex")
        with np.errstate(over="ignore"):  # the overflow shows as infinity, and is refused as such
            return np.ascontiguousarray(array, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"embeddings need a matrix of real numbers: {error}") from error


def check_ids(keys: list[str]) -> None:
    """Refuse keys that text files cannot hold: empty, or with what ends or marks a line there."""
    if _are_printable(keys):
        return
    for row, key in enumerate(keys):
        if fault := id_fault(key):
            raise InputError(f"{_row(row)}: key {key!r} {fault}")


def _are_printable(keys: list[str]) -> bool:
    """Whether all are strings of printable ASCII, as is seen of all at once."""
    try:
        joined = "".join(keys)
    except TypeError:
        return False
    return joined.isascii() and joined.isprintable() and " " not in joined and all(keys)


def check_unique(keys: list[str], where: Callable[[int], str] = _row) -> None:
    """Refuse a key that is there twice."""
    # Sorted keys, which are common, are seen to be different without a set.
    if are_sorted(keys) or len(set(keys)) == len(keys):
        return
    first_row: dict[str, int] = {}
    for row, key in enumerate(keys):
        if (first := first_row.setdefault(key, row)) != row:
            raise InputError(
                f"{where(row)}: duplicate key {key!r}, also at {where(first)}; remove one"
            )


def check_finite(keys: list[str], matrix: Matrix, where: Callable[[int], str] = _row) -> None:
    """Refuse vectors with a NaN or an infinity."""
    if all_finite(matrix):
        return
    row = next(row for row, vector in enumerate(matrix) if not np.isfinite(vector).all())
    nans = int(np.isnan(matrix[row]).sum())
    infinities = int(np.isinf(matrix[row]).sum())
    found = f"{nans} NaN" if nans else f"{infinities} infinite"
    raise InputError(f"{where(row)}: vector of {keys[row]!r} has {found} values; extract it again")
