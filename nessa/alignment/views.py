"""Views, the embeddings of some utterances by one model, and the steps that all aligners share."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nessa.errors import InputError
from nessa.kaldi.ark import Matrix
from nessa.kaldi.directions import lengths

Side = Literal["enroll", "runtime"]
SIDES: tuple[Side, Side] = ("enroll", "runtime")

Labels = npt.NDArray[np.integer]  # of the speakers of its rows
Floats = npt.NDArray[np.float64]

EPSILON = 1e-12
SAME = 1e-6  # difference of unit vectors that rounding makes
TINY = float(np.finfo(np.float32).tiny)
ROWS_PER_BLOCK = 4096
FLOATS_PER_BLOCK = 2**18  # of the vectors that are gathered for trials


class Rows(Protocol):
    """Embeddings (N, D), some rows of which are taken at a time: a matrix or its like."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Matrix:
        """Rows by a slice or by an array of numbers."""


def length_normalize(matrix: Matrix) -> Matrix:
    """Rows scaled to unit length; a zero row stays zero."""
    norms = lengths(matrix)[:, None]
    return (matrix / np.maximum(norms, TINY)).astype(np.float32)


def center(matrix: Matrix, mean: Matrix) -> Matrix:
    """Length-normalize, subtract the align set's mean (D,), length-normalize."""
    return length_normalize(length_normalize(matrix) - mean)


class Center(NamedTuple):
    """What one model's embeddings are centered by.

    Attributes:
        mean: of the align set, (D,).
        scaling: (p, s, shortest, longest) where lengths |x| count with their power p: then
            c = x |x|^(p-1) / s - mean, s the mean of |x|^p, and a length beyond those of the align
            set, moved by its domains if it has some, counts as the nearest of them. None: `center`
            of the mean.
    """

    mean: Matrix
    scaling: Matrix | None = None

    @classmethod
    def fit(cls, view: Rows, power: float) -> "Center":
        """Of the align embeddings (N, D); `power` 0: lengths do not count."""
        if not power:
            return cls(fit_mean(view))
        measured = np.concatenate([lengths(view[rows]) for rows in blocks(len(view))])
        scale = np.mean(measured.astype(np.float64) ** power)
        known = np.array([power, scale, measured.min(), measured.max()], np.float32)
        without = cls(np.zeros(view.shape[1], np.float32), known)
        return cls(mean_of(Mapped(view, without.apply)).astype(np.float32), known)

    def apply(self, matrix: Matrix) -> Matrix:
        """c (N, D) of embeddings (N, D)."""
        if self.scaling is None:
            return center(matrix, self.mean)
        power, scale, shortest, longest = self.scaling
        measured = lengths(matrix).clip(shortest, longest)[:, None]
        return (length_normalize(matrix) * (measured**power / scale) - self.mean).astype(np.float32)


def fit_mean(view: Rows) -> Matrix:
    """The mean that `center` subtracts, shape (D,)."""
    return mean_of(Mapped(view, length_normalize)).astype(np.float32)


def mean_of(view: Rows) -> Floats:
    """The mean (D,) of rows (N, D)."""
    total = np.zeros(view.shape[1])
    for rows in blocks(len(view)):
        total += view[rows].sum(axis=0, dtype=np.float64)
    return total / len(view)


class Mapped:
    """Rows of a view, mapped when they are asked for.

    Args:
        view: (N, D_in).
        apply: rows (K, D_in) -> (K, D).
    """

    def __init__(self, view: Rows, apply: Callable[[Matrix], Matrix]) -> None:
        self._view, self._apply = view, apply
        self.shape = (len(view), self[:1].shape[1])

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, rows: Any) -> Matrix:
        return self._apply(self._view[rows])


class Chosen:
    """Some rows of a view, by their numbers (K,), taken when they are asked for."""

    def __init__(self, view: Rows, numbers: npt.NDArray[np.int64]) -> None:
        self._view, self._numbers = view, numbers
        self.shape = (len(numbers), view.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Matrix:
        return self._view[self._numbers[rows]]


class Stacked:
    """Rows of two views (N, Dx), (N, Dy) side by side, (N, Dx + Dy), when they are asked for."""

    def __init__(self, first: Rows, second: Rows) -> None:
        self._views = first, second
        self.shape = (len(first), first.shape[1] + second.shape[1])
        border = first.shape[1]
        self.parts = slice(border), slice(border, None)  # columns of the two

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Matrix:
        return np.hstack([view[rows] for view in self._views])


def blocks(count: int, rows: int = ROWS_PER_BLOCK) -> Iterator[slice]:
    """Consecutive parts of `count` rows, of `rows` or one: small enough to stay in the cache."""
    step = max(1, rows)
    for start in range(0, count, step):
        yield slice(start, start + step)


def check_vary(view: Rows, side: Side) -> None:
    """Refuse embeddings that all point the same way, or only to one of two sides."""
    if view.shape[1] == 1:
        raise InputError(
            f"the {side} embeddings of the align set have dimension 1, whose directions are only "
            "signs; look at what was extracted"
        )
    first = length_normalize(view[:1])
    units = (length_normalize(view[rows]) for rows in blocks(len(view)))
    if all(np.allclose(unit, first, atol=SAME) for unit in units):
        raise InputError(
            f"the {side} embeddings of the align set are all the same; look at what that model "
            "was given, and extract them again"
        )


def means_by_speaker(matrix: Matrix, labels: Labels) -> Matrix:
    """Mean of each speaker's rows: (N, D), labels (N,) in 0..S-1 -> (S, D)."""
    counts = np.bincount(labels)
    sums = np.zeros((len(counts), matrix.shape[1]))
    add_by_speaker(matrix, labels, sums)
    return (sums / counts[:, None]).astype(np.float32)


def add_by_speaker(matrix: Matrix, labels: Labels, sums: Floats) -> None:
    """Add rows (N, D) to the sums (S, D) of their speakers (N,)."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    sums[present] += np.add.reduceat(matrix[order], starts, axis=0, dtype=np.float64)
