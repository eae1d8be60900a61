"""Scores of trials: cosine, AS-norm with one cohort per side, calibration to likelihood ratios.

Both sides must lie in one space: map them first where the models differ.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from nessa.errors import InputError
from nessa.metrics import check_scores
from nessa.tables import Embeddings
from nessa.threads import in_threads
from nessa.trials import Indexed, Trials

GATHER_FLOATS = 2**18  # 1 MiB of float32 per side: gathered vectors stay in the cache
COHORT_FLOATS = 2**24  # 64 MiB of float32: one block of cohort scores
ROWS_PER_THREAD = 128  # of it, of which a thread selects the highest
# Keeps the slope finite where dev scores separate perfectly; far below any other effect.
RIDGE = 1e-7

Measures = Mapping[str, ArrayLike]  # name of a quality measure -> its values, (T,)


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
        InputError: a trial's id without an embedding, dimensions that differ, or a zero vector.

    Examples:
        >>> enroll = Embeddings(["ann"], [[1.0, 0.0]])
        >>> runtime = Embeddings(["u1", "u2"], [[2.0, 0.0], [0.0, 1.0]])
        >>> cosine_scores(enroll, runtime, Trials(["ann", "ann"], ["u1", "u2"])).tolist()
        [1.0, 0.0]
    """
    _check_dimensions(enroll, runtime)
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
        rows = _rows(embeddings, index.names, side)
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
        InputError: dimensions that differ, or a zero vector.
    """
    _check_dimensions(enroll, runtime)
    return _normalised(enroll, "enrollment") @ _normalised(runtime, "runtime").T


def _check_dimensions(enroll: Embeddings, runtime: Embeddings) -> None:
    if enroll.dim != runtime.dim:
        raise InputError(
            f"enrollment embeddings have dimension {enroll.dim}, runtime ones {runtime.dim}; map "
            "both into one space with an aligner first"
        )


def _normalised(
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
    """Lengths (N, 1) of all vectors of some embeddings, or of those of `rows`; none is zero."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    zero = np.flatnonzero(lengths == 0)
    if len(zero):
        row = zero[0] if rows is None else rows[zero[0]]
        raise InputError(
            f"{side} side: the embedding of {embeddings.keys[row]!r} is zero, which has no "
            "direction; extract it again, or leave it out"
        )
    return lengths


def _rows(embeddings: Embeddings, names: Sequence[str], side: str) -> NDArray[np.int64]:
    try:
        return embeddings.rows(names)
    except InputError as error:
        raise InputError(f"{side} side: {error}") from error


def as_norm(
    scores: ArrayLike,
    enroll: Embeddings,
    runtime: Embeddings,
    trials: Trials,
    enroll_cohort: Embeddings,
    runtime_cohort: Embeddings,
    top_n: int = 300,
) -> NDArray[np.float32]:
    """Adaptive symmetric score normalisation of one trial list; see `AsNorm`.

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
    """Adaptive symmetric score normalisation with one cohort per side.

    Every vector is normalised by scores like those it takes part in: an enrollment vector by its
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
        top_n: int = 300,
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
        """Normalise the cosine scores (T,) of a trial list.

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
        normalised = np.zeros(len(trials))
        for statistics, index in (
            (self._enroll, trials.enroll_index),
            (self._runtime, trials.test_index),
        ):
            mean, std = statistics.of(index.names)
            normalised += (scores - mean[index.codes]) / std[index.codes] / 2
        return normalised.astype(np.float32)


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
        _check_dimensions(embeddings, cohort)
        self._embeddings, self._top_n, self._side = embeddings, top_n, side
        self._cohort = _normalised(cohort, "cohort")
        self._mean, self._std = np.full((2, len(embeddings)), np.nan)

    def of(self, names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation (U,) of the vectors of U names."""
        rows = _rows(self._embeddings, names, self._side)
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
        scores = _normalised(self._embeddings, self._side, rows) @ self._cohort.T

        def select(part: slice) -> None:
            scores[part].partition(scores.shape[1] - self._top_n, axis=1)
            top = scores[part, -self._top_n :]
            self._mean[rows[part]] = top.mean(axis=1, dtype=np.float64)
            self._std[rows[part]] = top.std(axis=1, dtype=np.float64)

        # The product above has all cores to itself, then the selection does.
        in_threads(
            select, [slice(k, k + ROWS_PER_THREAD) for k in range(0, len(rows), ROWS_PER_THREAD)]
        )


@dataclass(frozen=True)
class Calibration:
    """An affine map from scores to natural-log likelihood ratios: scale s + offset + sum of w q.

    Fit one per pair of enrollment and runtime model, on dev trials; one threshold then serves
    all pairs.

    Attributes:
        scale: weight of the score.
        offset: constant.
        quality: {measure: weight w} of the quality measures q; empty without.
    """

    scale: float
    offset: float
    quality: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        scores: ArrayLike,
        labels: ArrayLike,
        p_target: float = 0.01,
        quality: Measures | None = None,
    ) -> "Calibration":
        """Prior-weighted logistic regression (Brümmer and Doddington, 2013).

        Minimises, over the parameters of the log likelihood ratio l,
        p mean_tar log(1 + e^-(l + logit p)) + (1 - p) mean_non log(1 + e^(l + logit p)).

        Args:
            scores: (T,).
            labels: (T,), True for a target trial.
            p_target: p, the prior at which calibration matters most.
            quality: {measure: values (T,)}, such as log durations; or None.

        Raises:
            InputError: see `metrics.check_scores`; or a prior out of range, or a regressor that
                is not finite or does not vary.
        """
        scores, labels = check_scores(scores, labels)
        if not 0 < p_target < 1:
            raise InputError(f"p_target {p_target} must lie between 0 and 1")
        names = ["the score", *(f"quality measure {name!r}" for name in quality or {})]
        regressors = _regressors(scores, quality)  # (T, 1 + Q)
        centre, spread = regressors.mean(axis=0), regressors.std(axis=0)
        flat = np.flatnonzero(spread <= 1e-12 * np.abs(centre))
        if len(flat):
            raise InputError(f"{names[flat[0]]} is the same in every trial; calibrate on others")
        regressors -= centre  # standardised: then the optimiser needs few steps
        regressors /= spread
        weights = _fit_logistic(regressors, labels, p_target) / np.append(spread, 1)
        offset = weights[-1] - weights[:-1] @ centre
        measured = dict(zip(quality or {}, weights[1:-1].tolist(), strict=True))
        return cls(float(weights[0]), float(offset), measured)

    def apply(self, scores: ArrayLike, quality: Measures | None = None) -> NDArray[np.float64]:
        """Natural-log likelihood ratios (T,) of scores (T,), with {measure: values (T,)}.

        Raises:
            InputError: other quality measures than it was fitted with.
        """
        quality = quality or {}
        if quality.keys() != self.quality.keys():
            raise InputError(
                f"this calibration was fitted with {_listed(self.quality)}, but is given "
                f"{_listed(quality)}; give the same ones"
            )
        regressors = _regressors(np.asarray(scores), {name: quality[name] for name in self.quality})
        return regressors @ np.array([self.scale, *self.quality.values()]) + self.offset

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; see `from_dict`."""
        return {"scale": self.scale, "offset": self.offset, "quality": dict(self.quality)}

    @classmethod
    def from_dict(cls, record: Any) -> "Calibration":
        """The calibration that `to_dict` described.

        Raises:
            InputError: other keys, or values that are not finite numbers.
        """
        try:
            quality = {str(name): float(weight) for name, weight in record["quality"].items()}
            made = cls(float(record["scale"]), float(record["offset"]), quality)
            values = np.array([made.scale, made.offset, *quality.values()])
            sound = len(record) == 3 and bool(np.isfinite(values).all())
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            sound = False
        if not sound:
            raise InputError(
                f"{record!r} is not a calibration, which has finite numbers `scale` and `offset`, "
                "and `quality` with a number per measure; fit it again"
            )
        return made


def _listed(measures: Iterable[str]) -> str:
    return ", ".join(measures) or "no quality measures"


def _regressors(scores: NDArray, quality: Measures | None) -> NDArray[np.float64]:
    """Scores and quality measures side by side, (T, 1 + Q)."""
    columns = {"score": scores, **(quality or {})}
    for name, values in columns.items():
        values = np.asarray(values, np.float64)
        if values.shape != scores.shape:
            raise InputError(
                f"{name!r} has values of shape {values.shape} for {len(scores)} trials; give (T,)"
            )
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise InputError(
                f"{name!r} of trial {bad[0]} (counted from 0) is {values[bad[0]]}, not finite"
            )
    return np.stack([np.asarray(values, np.float64) for values in columns.values()], axis=1)


def _fit_logistic(
    regressors: NDArray[np.float64], labels: NDArray[np.bool_], p_target: float
) -> NDArray[np.float64]:
    """Weights (F + 1,), the constant last, of the log likelihood ratio of regressors (T, F)."""
    sign = np.where(labels, 1.0, -1.0)
    trial_weight = np.where(labels, p_target / labels.sum(), (1 - p_target) / (~labels).sum())

    def objective(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = sign * (regressors @ weights[:-1] + weights[-1] + logit(p_target))
        pull = -trial_weight * sign * expit(-margin)  # derivative by the log odds
        gradient = np.append(pull @ regressors, pull.sum()) + RIDGE * weights
        return trial_weight @ np.logaddexp(0, -margin) + RIDGE / 2 * weights @ weights, gradient

    start = np.zeros(regressors.shape[1] + 1)
    options = {"ftol": 0, "gtol": 1e-9, "maxiter": 1000}
    return minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
