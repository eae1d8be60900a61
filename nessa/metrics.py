"""Error rates of verification scores, and their intervals.

All metrics treat tied scores as one: a threshold cannot part them. EER, minDCF and minCllr are
read off one `Roc`, so that a system's scores are sorted once. Error rates are fractions. Trials
may be weighted: a whole weight counts as so many copies of the trial, and 0 as none.
docs/metrics.md says how other projects' metrics differ.

Sources: N. Brümmer and E. de Villiers, "The BOSARIS Toolkit" (2013), for the ROC convex hull
and the EER on it; N. Brümmer and J. du Preez, "Application-independent evaluation of speaker
detection" (2006), for Cllr and minCllr; the NIST SRE plans for the detection cost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression
from scipy.special import rel_entr

from nessa.errors import InputError
from nessa.trials import as_labels, index_names

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
    _check_classes(labels)
    return scores, labels


def _check_classes(labels: NDArray[np.bool_]) -> None:
    targets = np.count_nonzero(labels)
    if targets in (0, len(labels)):
        raise InputError(
            f"{targets} target and {len(labels) - targets} non-target trials; an error rate needs "
            "some of each"
        )


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
        curve = self.hull if method == "rocch" else self
        p_miss, p_fa = curve.p_miss, curve.p_fa
        # p_miss - p_fa rises from -1 to 1: the first point that is not below 0 ends the crossing.
        after = int(np.argmax(p_miss >= p_fa))
        gap_before, gap_after = (p_fa - p_miss)[[after - 1, after]]
        share = gap_before / (gap_before - gap_after)
        return float(p_miss[after - 1] + share * (p_miss[after] - p_miss[after - 1]))

    def min_dcf(self, p_target: float = 0.01, c_miss: float = 1, c_fa: float = 1) -> float:
        """Minimum normalised detection cost; see `min_dcf`."""
        # A linear cost is lowest at a vertex of the hull.
        costs = _detection_cost(self.hull.p_miss, self.hull.p_fa, p_target, c_miss, c_fa)
        return float(np.min(costs))

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
    """Normalised detection cost at the best threshold, accept-all and reject-all included.

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
    """Normalised detection cost at the Bayes threshold, log(c_fa (1 - p) / (c_miss p)).

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
    """Cllr after isotonic regression of the labels on the scores: what calibration cannot mend.

    Args:
        scores: (T,), higher for a more likely target.
        labels: (T,), True for a target trial.
        weights: (T,), 0 or more; or None, for all alike.

    Raises:
        InputError: see `check_scores` and `check_weights`.
    """
    return Roc.of(scores, labels, weights).min_cllr()


def det_points(
    scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """The corners of the DET curve, from accept-all to reject-all.

    Args:
        scores: (T,), higher for a more likely target.
        labels: (T,), True for a target trial.
        weights: (T,), 0 or more; or None, for all alike.

    Returns:
        (false alarm rates falling from 1 to 0, miss rates rising from 0 to 1), each (P,).

    Raises:
        InputError: see `check_scores` and `check_weights`.
    """
    roc = Roc.of(scores, labels, weights)
    return roc.p_fa, roc.p_miss


# ---- intervals ----------------------------------------------------------------------------------


class Estimate(NamedTuple):
    """A value measured on all trials, and on each bootstrap draw of them."""

    value: float
    draws: Floats  # (D,)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval: the 2.5 and 97.5 percentiles of the draws."""
        low, high = np.percentile(self.draws, [2.5, 97.5])
        return float(low), float(high)


class Bootstrap(NamedTuple):
    """Estimates of several systems from the same draws, which makes them paired."""

    eer: list[Estimate]
    min_dcf: list[Estimate]


def bootstrap(
    systems: Sequence[ArrayLike],
    labels: ArrayLike,
    enroll_speakers: Sequence[str],
    test_speakers: Sequence[str],
    draws: int = 1000,
    seed: int = 0,
    p_target: float = 0.01,
    c_miss: float = 1,
    c_fa: float = 1,
) -> Bootstrap:
    """Joint speaker bootstrap of EER and minDCF.

    Speakers are drawn with replacement. A non-target trial weighs the product of its two
    speakers' counts, a target trial the count of its speaker. A draw that leaves no target or
    no non-target is drawn again.

    Args:
        systems: scores (T,) of each system on the same trials.
        labels: (T,), True for a target trial.
        enroll_speakers: speakers of the enrollment sides, length T; see `trials.trial_speakers`.
        test_speakers: speakers of the test sides, length T.
        draws: number of draws.
        seed: seed of the draws.
        p_target: prior probability of a target, for minDCF.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.

    Returns:
        EER and minDCF of each system.

    Raises:
        InputError: see `check_scores`; or labels that contradict the speakers.
    """
    if draws < 1:
        raise InputError(f"{draws} draws were asked for; an interval needs at least 1")
    labels = as_labels(labels)
    _check_classes(labels)  # without both classes no draw would ever do
    enroll, test = _speaker_codes(labels, enroll_speakers, test_speakers)
    counts = _draw_counts(labels, enroll, test, draws, np.random.default_rng(seed))
    eers, costs = [], []
    for scores in systems:
        curve = Roc.of(scores, labels)
        drawn = [
            (roc.eer(), roc.min_dcf(p_target, c_miss, c_fa))
            for roc in _reweighed(curve, np.asarray(scores), labels, enroll, test, counts)
        ]
        eer_draws, cost_draws = np.array(drawn).reshape(-1, 2).T
        eers.append(Estimate(curve.eer(), eer_draws))
        costs.append(Estimate(curve.min_dcf(p_target, c_miss, c_fa), cost_draws))
    return Bootstrap(eers, costs)


def _speaker_codes(
    labels: NDArray[np.bool_], enroll_speakers: Sequence[str], test_speakers: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the speakers of both sides, each (T,)."""
    if not len(labels) == len(enroll_speakers) == len(test_speakers):
        raise InputError(
            f"{len(labels)} labels, {len(enroll_speakers)} enrollment and {len(test_speakers)} "
            "test speakers; give one of each per trial"
        )
    enroll, test = np.split(index_names([*enroll_speakers, *test_speakers]).codes, 2)
    wrong = np.flatnonzero(labels != (enroll == test))
    if len(wrong):
        kind = "target" if labels[wrong[0]] else "non-target"
        raise InputError(
            f"trial {wrong[0]} (counted from 0) is a {kind} of speakers "
            f"{enroll_speakers[wrong[0]]!r} and {test_speakers[wrong[0]]!r}; mend its label or "
            "utt2spk"
        )
    return enroll, test


def _draw_counts(
    labels: NDArray[np.bool_],
    enroll: NDArray[np.int64],
    test: NDArray[np.int64],
    draws: int,
    rng: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """How often each speaker was drawn (S,), for each draw that keeps trials of both classes."""
    speakers = int(max(enroll.max(), test.max())) + 1
    targets = np.unique(enroll[labels])
    # Each pair of speakers once: enough to see whether a draw keeps any.
    pairs = np.unique(enroll[~labels] * speakers + test[~labels])
    first, second = np.divmod(pairs, speakers)
    counts: list[NDArray[np.int64]] = []
    while len(counts) < draws:
        drawn = np.bincount(rng.integers(speakers, size=speakers), minlength=speakers)
        if drawn[targets].any() and (drawn[first] * drawn[second]).any():
            counts.append(drawn)
    return counts


def _reweighed(
    curve: Roc,
    scores: NDArray,
    labels: NDArray[np.bool_],
    enroll: NDArray[np.int64],
    test: NDArray[np.int64],
    counts: Sequence[NDArray[np.int64]],
) -> Iterator[Roc]:
    """Yield the curve under each draw's weights, without sorting again."""
    target_speakers = enroll[labels][np.argsort(scores[labels])]
    order = np.argsort(scores[~labels])
    first, second = enroll[~labels][order], test[~labels][order]
    for drawn in counts:
        # Counts of trials below a threshold are places in the running sum of their weights.
        misses = np.cumsum(np.append(0, drawn[target_speakers]))[curve.misses]
        rejections = np.cumsum(np.append(0, drawn[first] * drawn[second]))[curve.rejections]
        yield Roc(misses, rejections)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b, paired draw by draw."""
    return Estimate(a.value - b.value, a.draws - b.draws)


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of several systems (the seeds of an aligner), paired draw by draw."""
    value = float(np.mean([estimate.value for estimate in estimates]))
    return Estimate(value, np.mean([estimate.draws for estimate in estimates], axis=0))


def recovered_gain(e_oo: Estimate, e: Estimate, e_nn: Estimate) -> Estimate | None:
    """Share of a model update's gain that an asymmetric system recovers: (oo - e) / (oo - nn).

    Args:
        e_oo: error rate of the old model with itself.
        e: error rate of the asymmetric system.
        e_nn: error rate of the new model with itself, all from the same draws.

    Returns:
        The gain as a fraction (1: as good as enrolling everybody anew), or None where the new
        model is not better beyond doubt: where the interval of oo - nn is not above 0. Draws in
        which it is not better (under 2.5 %, then) have no gain and are left out of its draws.
    """
    update = difference(e_oo, e_nn)
    if update.value <= 0 or update.interval[0] <= 0:
        return None
    better = update.draws > 0
    recovered = difference(e_oo, e)
    return Estimate(recovered.value / update.value, recovered.draws[better] / update.draws[better])
