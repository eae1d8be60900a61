"""Scores of trials: cosine, AS-norm with one cohort per side, calibration to likelihood ratios.

Both sides must lie in one space: map them first where the models differ.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from nessa.errors import InputError
from nessa.metrics import check_scores
from nessa.tables import Embeddings
from nessa.trials import Indexed, Trials

GATHER_FLOATS = 2**18  # 1 MiB of float32 per side: gathered vectors stay in the cache
COHORT_FLOATS = 2**24  # 64 MiB of float32: one block of cohort scores
# Keeps the slope finite where dev scores separate perfectly; far below any other effect.
RIDGE = 1e-7

Measures = Mapping[str, ArrayLike]  # name of a quality measure -> its values, (T,)


def cosine_scores(enroll: Embeddings, runtime: Embeddings, trials: Trials) -> NDArray[np.float32]:
    """Cosine of the two embeddings of each trial.

    Memory is 4 T bytes beside two copies of the vectors that trials name.

    Args:
        enroll: embeddings (N, D) of all enrollment ids, utterances or profiles.
        runtime: embeddings (M, D) of all test utterances.
        trials: T trials.

    Returns:
        float32 (T,), in trial order.

    Raises:
        InputError: a trial's id without an embedding, dimensions that differ, or a zero vector.
    """
    enroll_rows = _normalised_rows(enroll, trials.enroll_index, "enrollment")  # (U, D)
    runtime_rows = _normalised_rows(runtime, trials.test_index, "runtime")  # (V, D)
    _check_dimensions(enroll, runtime)
    scores = np.empty(len(trials), np.float32)
    step = max(1, GATHER_FLOATS // enroll.dim)
    for start in range(0, len(trials), step):
        block = slice(start, start + step)
        left = enroll_rows[trials.enroll_index.codes[block]]
        right = runtime_rows[trials.test_index.codes[block]]
        np.einsum("td,td->t", left, right, out=scores[block])
    return scores


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


def _normalised(embeddings: Embeddings, side: str) -> NDArray[np.float32]:
    """Vectors (N, D) scaled to length 1."""
    lengths = np.linalg.norm(embeddings.matrix, axis=1, keepdims=True)
    zero = np.flatnonzero(lengths == 0)
    if len(zero):
        raise InputError(
            f"{side} side: the embedding of {embeddings.keys[zero[0]]!r} is zero, which has no "
            "direction; extract it again, or leave it out"
        )
    return embeddings.matrix / lengths


def _normalised_rows(embeddings: Embeddings, index: Indexed, side: str) -> NDArray[np.float32]:
    """Normalised vectors (U, D) of the distinct names of one side of a trial list."""
    try:
        wanted = embeddings.select(index.names)
    except InputError as error:
        raise InputError(f"{side} side: {error}") from error
    return _normalised(wanted, side)


def as_norm(
    scores: ArrayLike,
    enroll: Embeddings,
    runtime: Embeddings,
    trials: Trials,
    enroll_cohort: Embeddings,
    runtime_cohort: Embeddings,
    top_n: int = 300,
) -> NDArray[np.float32]:
    """Adaptive symmetric score normalisation with one cohort per side.

    Every vector is normalised by scores like those it takes part in: an enrollment vector by its
    scores with the runtime cohort, a runtime vector by its scores with the enrollment cohort.

        s' = 1/2 [ (s - mean_e) / std_e + (s - mean_r) / std_r ],

    mean and standard deviation over the `top_n` highest cohort scores of the trial's enrollment
    and runtime vector (P. Matějka et al., "Analysis of score normalization in multilingual
    speaker recognition", 2017). Each vector's statistics are computed once.

    Args:
        scores: cosine scores (T,) of `trials`.
        enroll: embeddings (N, D) of all enrollment ids.
        runtime: embeddings (M, D) of all test utterances.
        trials: T trials.
        enroll_cohort: cohort (C, D) made and mapped as enrollment vectors are.
        runtime_cohort: cohort (C', D) made and mapped as runtime vectors are.
        top_n: cohort scores that count, at least 2.

    Returns:
        float32 (T,), in trial order.

    Raises:
        InputError: see `cosine_scores`; or a cohort of fewer than `top_n`, or without spread.
    """
    scores = np.asarray(scores)
    if scores.shape != (len(trials),):
        raise InputError(f"{len(trials)} trials but scores of shape {scores.shape}; give one each")
    normalised = np.zeros(len(trials))
    for embeddings, index, cohort, side in (
        (enroll, trials.enroll_index, runtime_cohort, "enrollment"),
        (runtime, trials.test_index, enroll_cohort, "runtime"),
    ):
        _check_dimensions(embeddings, cohort)
        vectors = _normalised_rows(embeddings, index, side)
        mean, std = _top_statistics(vectors, _normalised(cohort, "cohort"), top_n)
        flat = np.flatnonzero(std == 0)
        if len(flat):
            raise InputError(
                f"{side} side: the top {top_n} cohort scores of {index.names[flat[0]]!r} are all "
                "equal; use a cohort of different speakers"
            )
        normalised += (scores - mean[index.codes]) / std[index.codes] / 2
    return normalised.astype(np.float32)


def _top_statistics(
    vectors: NDArray[np.float32], cohort: NDArray[np.float32], top_n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (U,) of each vector's `top_n` scores with the cohort."""
    if not 2 <= top_n <= len(cohort):
        raise InputError(
            f"top_n {top_n} must lie between 2 and the {len(cohort)} vectors of the cohort; "
            "choose another, or a larger cohort"
        )
    mean, std = np.empty(len(vectors)), np.empty(len(vectors))
    step = max(1, COHORT_FLOATS // len(cohort))
    for start in range(0, len(vectors), step):
        block = slice(start, start + step)
        scores = vectors[block] @ cohort.T
        scores.partition(len(cohort) - top_n, axis=1)
        top = scores[:, -top_n:]
        mean[block] = top.mean(axis=1, dtype=np.float64)
        std[block] = top.std(axis=1, dtype=np.float64)
    return mean, std


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
        except (AttributeError, KeyError, TypeError, ValueError):
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
