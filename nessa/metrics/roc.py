"""Error rates of verification scores."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression
from scipy.special import rel_entr

from nessa.errors import InputError
from nessa.trials import as_labels, classes_fault

EerMethod = Literal["rocch", "interpolated"]
Floats = NDArray[np.float64]
Points = NDArray[np.float64] | NDArray[np.int64]


def check_scores(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray[np.bool_]]:
    """Scores and labels as arrays fit for a metric.

    Args:
        scores: (T,), higher for a more likely target.
        labels: (T,), True for a target trial.

    Returns:
        Scores as floats (T,), labels as bool (T,).

    Raises:
        InputError: shapes that differ, a score that is not finite, or trials of one class only.
    """
    scores, labels = np.asarray(scores), as_labels(labels)
    if scores.shape != labels.shape:
        raise InputError(
            f"scores of shape {scores.shape} but labels of shape {labels.shape}; give one score "
            "per trial, both of shape (T,)"
        )
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(np.float64)
    finite = np.isfinite(scores)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise InputError(
            f"score {bad[0]} (counted from 0) is {scores[bad[0]]}, {len(bad)} of {len(scores)} are "
            "not finite; score those trials again"
        )
    check_classes(labels)
    return scores, labels


def check_classes(labels: NDArray[np.bool_]) -> None:
    """Refuse labels of one class alone, which have no error rates."""
    if fault := classes_fault(labels):
        raise InputError(fault)


def check_weights(weights: ArrayLike, labels: NDArray[np.bool_]) -> Points:
    """Trial weights as an array fit for a metric.

    Args:
        weights: (T,), 0 or more.
        labels: (T,), True for a target trial.

    Returns:
        The weights (T,): int64 where they are whole numbers by type, else float64.

    Raises:
        InputError: another shape, a weight that is negative or not finite, or a class of which
            all weights are 0.
    """
    weights = np.asarray(weights)
    if weights.shape != labels.shape:
        raise InputError(
            f"weights of shape {weights.shape} for {len(labels)} trials; give one weight per trial"
        )
    weights = weights.astype(np.int64 if weights.dtype.kind in "biu" else np.float64, copy=False)
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise InputError(
            f"weight {bad[0]} (counted from 0) is {weights[bad[0]]}; a weight is a finite number, "
            "0 or more"
        )
    if not (weights[labels].any() and weights[~labels].any()):
        raise InputError("all targets or all non-targets weigh 0; an error rate needs some of each")
    return weights


@dataclass(frozen=True, eq=False)
class Roc:
    """The receiver operating characteristic, point by point from accept-all to reject-all.

    Points on a straight stretch of the curve are left out, so that P is usually far below T.

    Attributes:
        misses: (P,) targets below the threshold, from 0 to all; counts or sums of weights.
        rejections: (P,) non-targets below the threshold, from 0 to all.
    """

    misses: Points
    rejections: Points

    @classmethod
    def of(cls, scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> "Roc":
        """The curve of scores (T,) with labels (T,), True for a target, and weights (T,) or None.

        In counts (int64) unless weights are fractions.

        Raises:
            InputError: see `check_scores` and `check_weights`.
        """
        scores, labels = check_scores(scores, labels)
        if weights is not None:
            weights = check_weights(weights, labels)
            present = weights > 0
            scores, labels, weights = scores[present], labels[present], weights[present]
        order = np.argsort(scores)
        scores, labels = scores[order], labels[order]
        sorted_weights = None if weights is None else weights[order]
        del order  # half the memory of this function
        starts = _corners(scores, labels)
        if sorted_weights is None:
            below = np.append(starts, len(scores))
            misses = np.append(0, np.cumsum(np.add.reduceat(labels, starts, dtype=np.int64)))
            return cls(misses, below - misses)
        sums = (
            np.append(0, np.cumsum(np.add.reduceat(sorted_weights * mask, starts)))
            for mask in (labels, ~labels)
        )
        return cls(*sums)

    @property
    def p_miss(self) -> Floats:
        """Miss rate at each point (P,), rising from 0 to 1."""
        return self.misses / self.misses[-1]

    @property
    def p_fa(self) -> Floats:
        """False alarm rate at each point (P,), falling from 1 to 0."""
        return (self.rejections[-1] - self.rejections) / self.rejections[-1]

    @cached_property
    def hull(self) -> "Roc":
        """The lower convex hull of the curve, from accept-all to reject-all.

        Its edges are the blocks into which the pool-adjacent-violators algorithm groups the
        labels in score order, which finds them in linear time.
        """
        # Weights of 0 can make points coincide.
        new = np.append(True, np.diff(self.misses) + np.diff(self.rejections) > 0)
        misses, rejections = self.misses[new], self.rejections[new]
        # A vertex has non-targets just below it and targets just above; others are never better.
        vertex = (np.diff(rejections)[:-1] > 0) & (np.diff(misses)[1:] > 0)
        candidates = np.concatenate([[True], vertex, [True]])
        misses, rejections = misses[candidates], rejections[candidates]
        targets, weights = np.diff(misses), np.diff(misses) + np.diff(rejections)
        blocks = isotonic_regression(targets / weights, weights=weights).blocks
        return Roc(misses[blocks], rejections[blocks])

    def eer(self, method: EerMethod = "rocch") -> float:
        """Equal error rate; see `eer`."""
        if method not in ("rocch", "interpolated"):
            raise InputError(f"EER method {method!r} is unknown; use 'rocch' or 'interpolated'")
        p_miss, p_fa = self.p_miss, self.p_fa
        if method == "rocch":
            before, after = self._crossing(p_miss, p_fa)
        else:
            # p_miss - p_fa rises from -1 to 1: the first point not below 0 ends the crossing.
            after = int(np.argmax(p_miss >= p_fa))
            before = after - 1
        gap_before, gap_after = (p_fa - p_miss)[[before, after]]
        share = gap_before / (gap_before - gap_after)
        return float(p_miss[before] + share * (p_miss[after] - p_miss[before]))

    def _crossing(self, p_miss: Floats, p_fa: Floats) -> tuple[int, int]:
        """The ends of the hull's edge on which the miss rate equals the false alarm rate.

        Of the points between one before the crossing and one behind it, the farthest below the
        straight line through both is of the hull, too, and takes the place of one of them; where
        there is none, the line is the edge. That takes a few passes, and no hull.
        """
        # In float64, exact up to 2^53 and faster than whole numbers.
        misses, rejections = self.misses.astype(np.float64), self.rejections.astype(np.float64)
        before, after = 0, len(misses) - 1
        while True:
            run, rise = misses[after] - misses[before], rejections[after] - rejections[before]
            between = slice(before, after + 1)
            heights = rise * misses[between] - run * rejections[between]
            lowest = before + int(np.argmin(heights))
            if lowest in (before, after) or heights[lowest - before] >= heights[0]:
                return before, after
            if p_miss[lowest] < p_fa[lowest]:
                before = lowest
            else:
                after = lowest

    def min_dcf(self, p_target: float = 0.01, c_miss: float = 1, c_fa: float = 1) -> float:
        """Minimum normalized detection cost; see `min_dcf`."""
        return float(np.min(_detection_cost(self.p_miss, self.p_fa, p_target, c_miss, c_fa)))

    def reversal(self) -> str | None:
        """What is wrong where targets score below non-targets, beyond chance; None elsewhere."""
        targets, nontargets = float(self.misses[-1]), float(self.rejections[-1])
        # Of the pairs of a target and a non-target, how many have the target below; ties are half.
        below = float(np.diff(self.p_miss) @ (self.p_fa[1:] + self.p_fa[:-1]) / 2)
        deviation = np.sqrt((targets + nontargets + 1) / (12 * targets * nontargets))
        if below - 3 * deviation < 0.6:  # and not 0.5, as trials of one speaker are alike
            return None
        return (
            f"targets score below non-targets, in {100 * below:.0f} % of pairs; higher must be "
            "more alike: of distances, give 1 - distance"
        )

    def cheapest(self, p_target: float) -> int:
        """The point, counted from 0, whose detection cost is `min_dcf`: the first of several."""
        return int(np.argmin(_detection_cost(self.p_miss, self.p_fa, p_target, 1, 1)))

    def min_cllr(self) -> float:
        """Cllr after the best monotone recalibration; see `min_cllr`."""
        # On a hull edge with shares q of the targets and r of the non-targets the best
        # likelihood ratio is q / r, whose cost is q log2(1 + r/q) + r log2(1 + q/r).
        q, r = np.diff(self.hull.p_miss), -np.diff(self.hull.p_fa)
        nats = 0 - rel_entr(q, q + r).sum() - rel_entr(r, q + r).sum()  # 0 first: never -0.0
        return float(nats / np.log(2) / 2)


def _corners(scores: NDArray, labels: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rows of ascending scores (T,) at which a stretch of the curve begins that may be straight."""
    apart = scores[1:] != scores[:-1]
    tied = np.zeros(len(scores), np.bool_)
    tied[1:] |= ~apart
    tied[:-1] |= ~apart
    # Between two untied trials of one class the curve runs straight on.
    corner = apart & ((labels[1:] != labels[:-1]) | tied[1:] | tied[:-1])
    return np.append(0, np.flatnonzero(corner) + 1)


def _detection_cost(
    p_miss: ArrayLike, p_fa: ArrayLike, p_target: float, c_miss: float, c_fa: float
) -> NDArray:
    if not (0 < p_target < 1 and c_miss > 0 and c_fa > 0):
        raise InputError(
            f"p_target {p_target}, c_miss {c_miss}, c_fa {c_fa}: the prior must lie between 0 and "
            "1, and costs above 0"
        )
    miss, fa = c_miss * p_target, c_fa * (1 - p_target)
    return (miss * np.asarray(p_miss) + fa * np.asarray(p_fa)) / min(miss, fa)


def eer(
    scores: ArrayLike,
    labels: ArrayLike,
    method: EerMethod = "rocch",
    weights: ArrayLike | None = None,
) -> float:
    """Equal error rate: where the miss rate equals the false alarm rate.

    Args:
        scores: (T,), higher for a more likely target.
        labels: (T,), True for a target trial.
        method: "rocch", on the convex hull of the ROC (BOSARIS); or "interpolated", on the ROC
            itself (VoxSRC).
        weights: (T,), 0 or more; or None, for all alike.

    Returns:
        A fraction: 0 for perfect separation, 0.5 where all scores are tied.

    Raises:
        InputError: see `check_scores` and `check_weights`.

    Examples:
        >>> eer([3.0, 2.0, 1.0, 0.0], [True, True, False, False])
        0.0
        >>> eer([1.0, 1.0, 1.0], [True, False, False])
        0.5
    """
    return Roc.of(scores, labels, weights).eer(method)


def min_dcf(
    scores: ArrayLike,
    labels: ArrayLike,
    p_target: float = 0.01,
    c_miss: float = 1,
    c_fa: float = 1,
    weights: ArrayLike | None = None,
) -> float:
    """Normalized detection cost at the best threshold, accept-all and reject-all included.

    The cost is (c_miss Pmiss p + c_fa Pfa (1 - p)) / min(c_miss p, c_fa (1 - p)), so that the
    better of accept-all and reject-all costs 1.

    Args:
        scores: (T,), higher for a more likely target.
        labels: (T,), True for a target trial.
        p_target: p, the prior probability of a target.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        weights: (T,), 0 or more; or None, for all alike.

    Raises:
        InputError: see `check_scores` and `check_weights`; or a prior or cost out of range.

    Examples:
        >>> min_dcf([3.0, 2.0, 1.0, 0.0], [True, False, True, False], p_target=0.5)
        0.5
    """
    return Roc.of(scores, labels, weights).min_dcf(p_target, c_miss, c_fa)


def act_dcf(
    scores: ArrayLike,
    labels: ArrayLike,
    p_target: float = 0.01,
    c_miss: float = 1,
    c_fa: float = 1,
    weights: ArrayLike | None = None,
) -> float:
    """Normalized detection cost at the Bayes threshold, log(c_fa (1 - p) / (c_miss p)).

    Args:
        scores: (T,), calibrated natural-log likelihood ratios.
        labels: (T,), True for a target trial.
        p_target: p, the prior probability of a target.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        weights: (T,), 0 or more; or None, for all alike.

    Raises:
        InputError: see `check_scores` and `check_weights`; or a prior or cost out of range.
    """
    scores, labels = check_scores(scores, labels)
    # A NumPy float64 keeps float32 scores from rounding the threshold.
    with np.errstate(divide="ignore", invalid="ignore"):  # _detection_cost refuses such priors
        threshold = np.log(np.float64(c_fa) * (1 - p_target) / (np.float64(c_miss) * p_target))
    accepted = scores >= threshold
    p_hit, p_fa = _class_means(accepted[labels], accepted[~labels], labels, weights)
    return float(_detection_cost(1 - p_hit, p_fa, p_target, c_miss, c_fa))


def cllr(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Cost of log likelihood ratios, in bits: 1 for a system that always says 0.

    Args:
        scores: (T,), calibrated natural-log likelihood ratios.
        labels: (T,), True for a target trial.
        weights: (T,), 0 or more; or None, for all alike.

    Raises:
        InputError: see `check_scores` and `check_weights`.
    """
    scores, labels = check_scores(scores, labels)
    targets = np.logaddexp(0, -scores[labels], dtype=np.float64)
    nontargets = np.logaddexp(0, scores[~labels], dtype=np.float64)
    return float(sum(_class_means(targets, nontargets, labels, weights)) / np.log(2) / 2)


def _class_means(
    targets: NDArray, nontargets: NDArray, labels: NDArray[np.bool_], weights: ArrayLike | None
) -> tuple[float, float]:
    """The means of a value of the targets and of the non-targets, weighted by weights (T,)."""
    if weights is None:
        return targets.mean(), nontargets.mean()
    weights = check_weights(weights, labels)
    return (
        float(np.average(targets, weights=weights[labels])),
        float(np.average(nontargets, weights=weights[~labels])),
    )


def min_cllr(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Cllr after isotonic regression of the labels on the scores: what calibration cannot improve.

    Args:
        scores: (T,), higher for a more likely target.
        labels: (T,), True for a target trial.
        weights: (T,), 0 or more; or None, for all alike.

    Raises:
        InputError: see `check_scores` and `check_weights`.
    """
    return Roc.of(scores, labels, weights).min_cllr()
