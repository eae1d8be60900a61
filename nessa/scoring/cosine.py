"""Cosine scores of trials.

Both sides must lie in one space: map them first where the models differ.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nessa.errors import InputError
from nessa.kaldi.directions import checked_lengths
from nessa.kaldi.embeddings import Embeddings
from nessa.threads import in_threads
from nessa.trials import Indexed, Trials

LARGEST_COSINE = 1 + 1e-4  # as rounding leaves it, and in text
GATHER_FLOATS = 2**18  # 1 MiB of float32 per side: gathered vectors stay in the cache


def cosine_scores(enroll: Embeddings, runtime: Embeddings, trials: Trials) -> NDArray[np.float32]:
    """Cosine of the two embeddings of each trial.

    Memory is 30 bytes a trial.

    Args:
        enroll: embeddings (N, D) of all enrollment ids, utterances or profiles.
        runtime: embeddings (M, D) of all test utterances.
        trials: T trials.

    Returns:
        float32 (T,), in trial order.

    Raises:
        InputError: a trial's id without an embedding, dimensions that differ, or a vector
            without direction (zero, or beyond 1e-36 to 1e36).

    Examples:
        >>> enroll = Embeddings(["ann"], [[1.0, 0.0]])
        >>> runtime = Embeddings(["u1", "u2"], [[2.0, 0.0], [0.0, 1.0]])
        >>> cosine_scores(enroll, runtime, Trials(["ann", "ann"], ["u1", "u2"])).tolist()
        [1.0, 0.0]
    """
    check_dimensions(enroll, runtime)
    sides = (
        _Gathered(enroll, trials.enroll_index, "enrollment"),
        _Gathered(runtime, trials.test_index, "runtime"),
    )
    scores = np.empty(len(trials), np.float32)
    step = max(1, GATHER_FLOATS // enroll.dim)

    def score(start: int) -> None:
        block = slice(start, start + step)
        (left, left_lengths), (right, right_lengths) = (side.block(block) for side in sides)
        left /= left_lengths[:, None]  # before the product, which long vectors would overflow
        np.einsum("td,td->t", left, right, out=scores[block])
        scores[block] /= right_lengths

    in_threads(score, range(0, len(trials), step))
    return scores


class _Gathered:
    """The vectors of one side of a trial list, taken where they are rather than copied first."""

    def __init__(self, embeddings: Embeddings, index: Indexed, side: str) -> None:
        rows = rows_of(embeddings, index.names, side)
        self._matrix, self._rows = embeddings.matrix, rows[index.codes]  # (N, D), (T,)
        lengths = np.empty(len(rows), np.float32)
        step = max(1, GATHER_FLOATS // embeddings.dim)

        def measure(start: int) -> None:
            block = slice(start, start + step)
            own = rows[block]
            lengths[block] = _lengths(embeddings.matrix[own], embeddings, side, own)[:, 0]

        in_threads(measure, range(0, len(rows), step))
        self._lengths = lengths[index.codes]

    def block(self, trials: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A copy of the vectors (B, D) of some trials, and their lengths (B,)."""
        return self._matrix[self._rows[trials]], self._lengths[trials]


def cosine_matrix(enroll: Embeddings, runtime: Embeddings) -> NDArray[np.float32]:
    """Cosine of every enrollment embedding with every runtime embedding.

    Args:
        enroll: embeddings (N, D).
        runtime: embeddings (M, D).

    Returns:
        float32 (N, M).

    Raises:
        InputError: dimensions that differ, or a vector without direction.
    """
    check_dimensions(enroll, runtime)
    return normalized_rows(enroll, "enrollment") @ normalized_rows(runtime, "runtime").T


def check_dimensions(enroll: Embeddings, runtime: Embeddings) -> None:
    """Refuse two sides of different dimensions."""
    if enroll.dim != runtime.dim:
        raise InputError(
            f"enrollment embeddings have dimension {enroll.dim}, runtime ones {runtime.dim}; map "
            "both into one space first (nessa map)"
        )


def normalized_rows(
    embeddings: Embeddings, side: str, rows: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Vectors (N, D), or those of some rows (U, D), scaled to length 1."""
    matrix = embeddings.matrix if rows is None else embeddings.matrix[rows]
    return matrix / _lengths(matrix, embeddings, side, rows)


def _lengths(
    matrix: NDArray[np.float32],
    embeddings: Embeddings,
    side: str,
    rows: NDArray[np.int64] | None,
) -> NDArray[np.float32]:
    """Lengths (N, 1) of all vectors of some embeddings, or of those of `rows`."""

    def name(row: int) -> str:
        key = embeddings.keys[row if rows is None else rows[row]]
        return f"{side} side: the embedding of {key!r}"

    return checked_lengths(matrix, name)[:, None]


def rows_of(embeddings: Embeddings, names: Sequence[str], side: str) -> NDArray[np.int64]:
    """The rows of some ids; a missing one is refused with the name of its side."""
    try:
        return embeddings.rows(names)
    except InputError as error:
        raise InputError(f"{side} side: {error}") from error
