"""Intervals of error rates by the joint speaker bootstrap."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nessa.errors import InputError
from nessa.files import Record
from nessa.metrics import table
from nessa.metrics.roc import Floats, Roc, check_classes
from nessa.metrics.table import Metric
from nessa.trials import as_labels, index_names


class Estimate(NamedTuple):
    """A value measured on all trials, and on each bootstrap draw of them."""

    value: float
    draws: Floats  # (D,)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval: the 2.5 and 97.5 percentiles of the draws."""
        low, high = np.percentile(self.draws, [2.5, 97.5])
        return float(low), float(high)


Estimates = dict[str, Estimate]  # by the keys of metrics


def figures(key: str, estimate: Estimate | None) -> Record:
    """The value and its interval [low, high] as records have them; None where it is not defined."""
    if estimate is None:
        return {key: None, f"{key}_ci": None}
    return {key: estimate.value, f"{key}_ci": list(estimate.interval)}


def bootstrap(
    systems: Sequence[ArrayLike],
    labels: ArrayLike,
    enroll_speakers: Sequence[str],
    test_speakers: Sequence[str],
    draws: int = 1000,
    seed: int = 0,
    metrics: Sequence[Metric] | None = None,
) -> list[Estimates]:
    """Joint speaker bootstrap of the metrics of a table.

    Speakers are drawn with replacement. A non-target trial weighs the product of its two
    speakers' counts, a target trial the count of its speaker. A draw that leaves no target or
    no non-target is drawn again. All systems get the same draws, which makes them paired; the
    order of the trials does not matter.

    Args:
        systems: scores (T,) of each system on the same trials.
        labels: (T,), True for a target trial.
        enroll_speakers: speakers of the enrollment sides, length T; see `trials.trial_speakers`.
        test_speakers: speakers of the test sides, length T.
        draws: number of draws.
        seed: seed of the draws.
        metrics: what to estimate; None: `nessa.metrics.table.METRICS`.

    Returns:
        The estimates of each system, by the keys of the metrics.

    Raises:
        InputError: see `check_scores`; or labels that contradict the speakers.
    """
    metrics = table.METRICS if metrics is None else metrics
    labels, enroll, test, counts = _draw(labels, enroll_speakers, test_speakers, draws, seed)
    estimates = []
    for scores in systems:
        curve = Roc.of(scores, labels)
        reweighed = _reweighed(curve, np.asarray(scores), labels, enroll, test, counts)
        drawn = np.array([[metric.of(roc) for metric in metrics] for roc in reweighed])
        estimates.append(
            {m.key: Estimate(m.of(curve), drawn[:, column]) for column, m in enumerate(metrics)}
        )
    return estimates


def drawn_weights(
    labels: ArrayLike,
    enroll_speakers: Sequence[str],
    test_speakers: Sequence[str],
    draws: int,
    seed: int = 0,
) -> Iterator[NDArray[np.int64]]:
    """The weight of every trial, (T,), in each draw of `bootstrap`, for what has no curve.

    Raises:
        InputError: as there.
    """
    labels, enroll, test, counts = _draw(labels, enroll_speakers, test_speakers, draws, seed)
    for drawn in counts:
        times = drawn.astype(np.int64)
        yield np.where(labels, times[enroll], times[enroll] * times[test])


def _draw(
    labels: ArrayLike,
    enroll_speakers: Sequence[str],
    test_speakers: Sequence[str],
    draws: int,
    seed: int,
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64], list[NDArray[np.uint16]]]:
    """Labels, numbers of the speakers of both sides, each (T,), and how often each was drawn (S,).

    The last for each draw; all of them keep trials of both classes.
    """
    if draws < 1:
        raise InputError(f"{draws} draws were asked for; an interval needs at least 1")
    labels = as_labels(labels)
    check_classes(labels)  # without both classes no draw would ever do
    enroll, test = _speaker_codes(labels, enroll_speakers, test_speakers)
    speakers = int(max(enroll.max(), test.max())) + 1
    targets = np.unique(enroll[labels])
    # Each pair of speakers once: enough to see whether a draw keeps any.
    pairs = np.unique(enroll[~labels] * speakers + test[~labels])
    first, second = np.divmod(pairs, speakers)
    rng = np.random.default_rng(seed)
    counts: list[NDArray[np.uint16]] = []
    while len(counts) < draws:
        drawn = draw_counts(speakers, rng)
        if drawn[targets].any() and (drawn[first] * drawn[second]).any():
            counts.append(drawn.astype(np.uint16))  # all are kept: for many speakers, much
    return labels, enroll, test, counts


def draw_counts(speakers: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How often each of S speakers is drawn, (S,), in S draws with replacement."""
    return np.bincount(rng.integers(speakers, size=speakers), minlength=speakers)


def _speaker_codes(
    labels: NDArray[np.bool_], enroll_speakers: Sequence[str], test_speakers: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the speakers of both sides, each (T,), by their names, not by trial order."""
    if not len(labels) == len(enroll_speakers) == len(test_speakers):
        raise InputError(
            f"{len(labels)} labels, {len(enroll_speakers)} enrollment and {len(test_speakers)} "
            "test speakers; give one of each per trial"
        )
    names, codes = index_names([*enroll_speakers, *test_speakers])
    place = np.empty(len(names), np.int64)
    place[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    enroll, test = np.split(place[codes], 2)
    wrong = np.flatnonzero(labels != (enroll == test))
    if len(wrong):
        kind = "target" if labels[wrong[0]] else "non-target"
        raise InputError(
            f"trial {wrong[0]} (counted from 0) is a {kind} of speakers "
            f"{enroll_speakers[wrong[0]]!r} and {test_speakers[wrong[0]]!r}; correct its label or "
            "utt2spk"
        )
    return enroll, test


def _reweighed(
    curve: Roc,
    scores: NDArray,
    labels: NDArray[np.bool_],
    enroll: NDArray[np.int64],
    test: NDArray[np.int64],
    counts: Sequence[NDArray[np.uint16]],
) -> Iterator[Roc]:
    """Yield the curve under each draw's weights, without sorting again."""
    target_speakers = enroll[labels][np.argsort(scores[labels])]
    order = np.argsort(scores[~labels])
    first, second = enroll[~labels][order], test[~labels][order]
    # Counts of trials below a threshold are places in the running sum of their weights.
    misses, rejections = (np.zeros(len(x) + 1, np.int64) for x in (target_speakers, first))
    for drawn in counts:  # take is faster than brackets, on short lists twice
        times = drawn.astype(np.int64)
        np.cumsum(times.take(target_speakers), out=misses[1:])
        np.cumsum(times.take(first) * times.take(second), out=rejections[1:])
        yield Roc(misses[curve.misses], rejections[curve.rejections])


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
