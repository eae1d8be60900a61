"""What a view is: the embeddings of some utterances by one model."""

from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from nessa.kaldi.ark import Matrix

__all__ = ["SIDES", "Labels", "Matrix", "Rows", "Side"]

Side = Literal["enroll", "runtime"]
SIDES: tuple[Side, Side] = ("enroll", "runtime")

Labels = npt.NDArray[np.integer]  # of the speakers of its rows


class Rows(Protocol):
    """Embeddings (N, D), some rows of which are taken at a time: a matrix or its like."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Matrix:
        """Rows by a slice or by an array of numbers."""
