"""AS-norm: scores normalized by a cohort per side."""

from collections.abc import Sequence
from copy import copy

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.scoring.cosine import check_dimensions, normalized_rows, rows_of
from nessa.threads import in_threads
from nessa.trials import Trials

TOP_N = 300  # cohort scores that count, unless told otherwise
COHORT_FLOATS = 2**24  # 64 MiB of float32: one block of cohort scores
ROWS_PER_THREAD = 128  # of it, of which a thread selects the highest


def as_norm(
    scores: ArrayLike,
    enroll: Embeddings,
    runtime: Embeddings,
    trials: Trials,
    enroll_cohort: Embeddings,
    runtime_cohort: Embeddings,
    top_n: int = TOP_N,
) -> NDArray[np.float32]:
    """Adaptive symmetric score normalization of one trial list; see `AsNorm`.

    Args:
        scores: cosine scores (T,) of `trials`.
        enroll, runtime, enroll_cohort, runtime_cohort, top_n: see `AsNorm`.
        trials: T trials.

    Returns:
        float32 (T,), in trial order.

    Raises:
        InputError: see `AsNorm.apply`.
    """
    return AsNorm(enroll, runtime, enroll_cohort, runtime_cohort, top_n).apply(scores, trials)


class AsNorm:
    """Adaptive symmetric score normalization with one cohort per side.

    Every vector is normalized by scores like those it takes part in: an enrollment vector by its
    scores with the runtime cohort, a runtime vector by its scores with the enrollment cohort.

        s' = 1/2 [ (s - mean_e) / std_e + (s - mean_r) / std_r ],

    mean and standard deviation over the `top_n` highest cohort scores of the trial's enrollment
    and runtime vector (P. Matějka et al., "Analysis of score normalization in multilingual
    speaker recognition", 2017). Each vector's statistics are computed once, for all trial lists.

    Args:
        enroll: embeddings (N, D) of all enrollment ids.
        runtime: embeddings (M, D) of all test utterances.
        enroll_cohort: cohort (C, D) made and mapped as enrollment vectors are.
        runtime_cohort: cohort (C', D) made and mapped as runtime vectors are.
        top_n: cohort scores that count, at least 2.

    Raises:
        InputError: dimensions that differ, a cohort of fewer than `top_n`, or a zero vector in it.
    """

    def __init__(
        self,
        enroll: Embeddings,
        runtime: Embeddings,
        enroll_cohort: Embeddings,
        runtime_cohort: Embeddings,
        top_n: int = TOP_N,
    ) -> None:
        self._cohorts, self._top_n = (enroll_cohort, runtime_cohort), top_n
        self._enroll = _CohortStatistics(enroll, runtime_cohort, top_n, "enrollment")
        self._runtime = _CohortStatistics(runtime, enroll_cohort, top_n, "runtime")

    def with_enroll(self, enroll: Embeddings) -> "AsNorm":
        """The same runtime side, whose statistics stay, with other enrollment embeddings."""
        other = copy(self)
        other._enroll = _CohortStatistics(enroll, self._cohorts[1], self._top_n, "enrollment")
        return other

    def apply(self, scores: ArrayLike, trials: Trials) -> NDArray[np.float32]:
        """Normalize the cosine scores (T,) of a trial list.

        Memory: 24 bytes a trial, and a block of cohort scores.

        Raises:
            InputError: a trial's id without an embedding, a zero vector, or one whose highest
                cohort scores are all equal; or not one score per trial.
        """
        scores = np.asarray(scores)
        if scores.shape != (len(trials),):
            raise InputError(
                f"{len(trials)} trials but scores of shape {scores.shape}; give one each"
            )
        normalized = np.zeros(len(trials))
        for statistics, index in (
            (self._enroll, trials.enroll_index),
            (self._runtime, trials.test_index),
        ):
            mean, std = statistics.of(index.names)
            normalized += (scores - mean[index.codes]) / std[index.codes] / 2
        return normalized.astype(np.float32)


class _CohortStatistics:
    """Mean and standard deviation of each vector's highest cohort scores, computed when asked for.

    Args:
        embeddings: N vectors.
        cohort: of the other side.
        top_n: highest scores that count.
        side: for messages.
    """

    def __init__(self, embeddings: Embeddings, cohort: Embeddings, top_n: int, side: str) -> None:
        if not 2 <= top_n <= len(cohort):
            raise InputError(
                f"top_n {top_n} must lie between 2 and the {len(cohort)} vectors of the cohort; "
                "choose another, or a larger cohort"
            )
        check_dimensions(embeddings, cohort)
        self._embeddings, self._top_n, self._side = embeddings, top_n, side
        self._cohort = normalized_rows(cohort, "cohort")
        self._mean, self._std = np.full((2, len(embeddings)), np.nan)

    def of(self, names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation (U,) of the vectors of U names."""
        rows = rows_of(self._embeddings, names, self._side)
        missing = rows[np.isnan(self._mean[rows])]
        step = max(1, COHORT_FLOATS // len(self._cohort))
        for start in range(0, len(missing), step):
            self._compute(missing[start : start + step])
        flat = np.flatnonzero(self._std[rows] == 0)
        if len(flat):
            raise InputError(
                f"{self._side} side: the top {self._top_n} cohort scores of {names[flat[0]]!r} "
                "are all equal; use a cohort of different speakers"
            )
        return self._mean[rows], self._std[rows]

    def _compute(self, rows: NDArray[np.int64]) -> None:
        scores = normalized_rows(self._embeddings, self._side, rows) @ self._cohort.T

        def select(part: slice) -> None:
            scores[part].partition(scores.shape[1] - self._top_n, axis=1)
            top = scores[part, -self._top_n :]
            self._mean[rows[part]] = top.mean(axis=1, dtype=np.float64)
            self._std[rows[part]] = top.std(axis=1, dtype=np.float64)

        # The product above has all cores to itself, then the selection does.
        in_threads(
            select, [slice(k, k + ROWS_PER_THREAD) for k in range(0, len(rows), ROWS_PER_THREAD)]
        )
