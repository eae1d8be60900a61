"""Scores -> likelihood ratios: an affine map, with quality measures or without, kept as JSON."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from nessa.errors import InputError, about
from nessa.files import read_json, write_json
from nessa.metrics.roc import Roc, check_scores
from nessa.scoring.cosine import LARGEST_COSINE
from nessa.scoring.matching import read_scores_of
from nessa.scoring.quality import ENROLL_COUNT, OPTIONS, TEST_DURATION, Floats, quality_measures
from nessa.trials import Trials, read_labeled

log = logging.getLogger(__name__)
# Keeps the slope finite where dev scores separate perfectly; far below any other effect.
RIDGE = 1e-7
MADE_OF = ("pair", "method", "space", "enroll")  # what a calibration says of its scores
Method = Literal["cosine", "as_norm", "plda"]  # how scores are made
Measures = Mapping[str, ArrayLike]  # name of a quality measure -> its values, (T,)


@dataclass(frozen=True)
class Calibration:
    """An affine map from scores to natural-log likelihood ratios: scale s + offset + sum of w q.

    Fit one per pair of enrollment and runtime model, on dev trials; one threshold then serves
    all pairs.

    Attributes:
        scale: weight of the score.
        offset: constant.
        quality: {measure: weight w} of the quality measures q; empty without.
        pair: of the aligner whose scores it is for, see `Aligner.pair`; of raw scores the
            model's fingerprint; None where not known.
        method: how these scores are made; None where not known.
        space: of this aligner, see `Aligner.space`; None where not known, or the same as `pair`.
        enroll: of the map of the enrollment side, see `Aligner.map_digest`: the mirror, whose
            scores have another distribution, has the same pair; None where not known, or of both.
    """

    scale: float
    offset: float
    quality: Mapping[str, float] = field(default_factory=dict)
    pair: str | None = None
    method: Method | None = None
    space: str | None = None
    enroll: str | None = None

    @classmethod
    def fit(
        cls,
        scores: ArrayLike,
        labels: ArrayLike,
        p_target: float = 0.01,
        quality: Measures | None = None,
    ) -> "Calibration":
        """Prior-weighted logistic regression (Brümmer and Doddington, 2013).

        Minimizes, over the parameters of the log likelihood ratio l,
        p mean_tar log(1 + e^-(l + logit p)) + (1 - p) mean_non log(1 + e^(l + logit p)).

        Args:
            scores: (T,).
            labels: (T,), True for a target trial.
            p_target: p, the prior at which calibration matters most.
            quality: {measure: values (T,)}, such as log durations; or None.

        Raises:
            InputError: see `check_scores`; or a prior out of range, or a regressor that
                is not finite or does not vary.
        """
        scores, labels = check_scores(scores, labels)
        if not 0 < p_target < 1:
            raise InputError(f"p_target {p_target} must lie between 0 and 1")
        names = ["the score", *(f"quality measure {name!r}" for name in quality or {})]
        regressors = _regressors(scores, quality)  # (T, 1 + Q)
        center, spread = regressors.mean(axis=0), regressors.std(axis=0)
        flat = np.flatnonzero(spread <= 1e-12 * np.abs(center))
        if len(flat):
            raise InputError(f"{names[flat[0]]} is the same in every trial; calibrate on others")
        regressors -= center  # standardized: then the optimizer needs few steps
        regressors /= spread
        weights = _fit_logistic(regressors, labels, p_target) / np.append(spread, 1)
        offset = weights[-1] - weights[:-1] @ center
        measured = dict(zip(quality or {}, weights[1:-1].tolist(), strict=True))
        return cls(float(weights[0]), float(offset), measured)

    def apply(self, scores: ArrayLike, quality: Measures | None = None) -> Floats:
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
        record = {"scale": self.scale, "offset": self.offset, "quality": dict(self.quality)}
        known = {name: getattr(self, name) for name in MADE_OF}
        return record | {name: text for name, text in known.items() if text}

    @classmethod
    def from_dict(cls, record: Any) -> "Calibration":
        """The calibration that `to_dict` described.

        Raises:
            InputError: other keys, or values that are not finite numbers.
        """
        try:
            quality = {str(name): float(weight) for name, weight in record["quality"].items()}
            texts = {name: record.get(name) for name in MADE_OF}
            made = cls(float(record["scale"]), float(record["offset"]), quality, **texts)
            values = np.array([made.scale, made.offset, *quality.values()])
            others = record.keys() - {"scale", "offset", "quality", *texts}
            typed = all(isinstance(text, str | None) for text in texts.values())
            valid = not others and typed and bool(np.isfinite(values).all())
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            valid = False
        if not valid:
            raise InputError(
                f"{record!r} is not a calibration, which has finite numbers `scale` and `offset`, "
                "and `quality` with a number per measure; fit it again"
            )
        return made


def _listed(measures: Iterable[str]) -> str:
    return ", ".join(measures) or "no quality measures"


def _regressors(scores: NDArray, quality: Measures | None) -> Floats:
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


def _fit_logistic(regressors: Floats, labels: NDArray[np.bool_], p_target: float) -> Floats:
    """Weights (F + 1,), the constant last, of the log likelihood ratio of regressors (T, F)."""
    sign = np.where(labels, 1.0, -1.0)
    trial_weight = np.where(labels, p_target / labels.sum(), (1 - p_target) / (~labels).sum())

    def objective(weights: Floats) -> tuple[float, Floats]:
        margin = sign * (regressors @ weights[:-1] + weights[-1] + logit(p_target))
        pull = -trial_weight * sign * expit(-margin)  # derivative by the log odds
        gradient = np.append(pull @ regressors, pull.sum()) + RIDGE * weights
        return trial_weight @ np.logaddexp(0, -margin) + RIDGE / 2 * weights @ weights, gradient

    start = np.zeros(regressors.shape[1] + 1)
    options = {"ftol": 0, "gtol": 1e-9, "maxiter": 1000}
    return minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x


def fit_calibration(
    trials: Path,
    scores: Path,
    output: Path,
    p_target: float,
    utt2dur: Path | None = None,
    enroll_map: Path | None = None,
    pair: str | None = None,
    method: Method | None = None,
    space: str | None = None,
    enroll: str | None = None,
) -> Calibration:
    """Fit a calibration on scored dev trials and write it as JSON.

    Args:
        trials: a labeled list of the dev set.
        scores: of these trials, in any order.
        output: receives the calibration.
        p_target: the prior at which it is to fit best.
        utt2dur: {utterance: seconds}; the log durations of both sides become quality measures.
        enroll_map: of the profiles that the trials name; the log number of utterances becomes a
            quality measure.
        pair: of the aligner whose scores they are.
        method: how these are made; None: cosines, or where one is beyond 1, with AS-norm.
        space: of the aligner.
        enroll: of its map of the enrollment side.

    Raises:
        InputError: unlabeled trials, one without a score, or a quality measure that is unknown
            for a trial or the same for all.
    """
    wanted = read_labeled(trials)
    read, how = read_scores_of(wanted, scores)
    joined = read.astype(np.float32)  # as those that it will be applied to
    if how:
        log.warning("%s: %s", scores, how)
    measures = quality_measures(wanted, utt2dur, enroll_map)
    if utt2dur is not None and enroll_map is not None and np.ptp(measures[ENROLL_COUNT]) == 0:
        del measures[ENROLL_COUNT]  # the map is there for the durations of profiles
    for name, column in measures.items():
        if np.ptp(column) == 0:
            raise InputError(
                f"{trials}: {name} is the same in every trial; leave out {OPTIONS[name]}, or "
                "calibrate on trials that differ in it"
            )
    method = method or ("cosine" if np.abs(joined).max() <= LARGEST_COSINE else "as_norm")
    with about(trials, scores):
        calibration = Calibration.fit(joined, wanted.known_labels, p_target, measures)
        fitted = replace(calibration, pair=pair, method=method, space=space, enroll=enroll)
        fault = Roc.of(joined, wanted.known_labels).reversal()
    if fault:
        log.warning("%s: %s", scores, fault)
    write_json(output, fitted.to_dict())
    return fitted


def read_calibration(
    path: Path,
    pair: str | None = None,
    method: Method | None = None,
    enroll: str | None = None,
) -> Calibration:
    """The calibration that `fit_calibration` wrote.

    Args:
        path: of the file.
        pair: of the aligner whose scores it is wanted for.
        method: how these are made.
        enroll: beside `pair`, of the aligner's map of the enrollment side.

    Raises:
        InputError: unreadable, or something else, or of another aligner or other scores of it.
    """
    record = read_json(path)
    with about(path):
        found = Calibration.from_dict(record)
    if pair:
        check_pair(path, found.pair, pair, found.enroll, enroll)
    if found.method and method and found.method != method:
        raise InputError(
            f"{path}: is of scores by {found.method}, and one of scores by {method} is wanted; "
            "give that one"
        )
    return found


def check_pair(
    path: Path,
    found: str | None,
    wanted: str,
    found_enroll: str | None = None,
    wanted_enroll: str | None = None,
) -> None:
    """Refuse a file that was made of the scores of another aligner; warn where it tells of none.

    The maps of the enrollment side tell an aligner from its mirror; where one is None, both pass.
    """
    if not found:
        log.warning(
            "%s: does not say which aligner's scores it is of, nor whether a side was fitted anew "
            "since; make it anew from those of this one, with --aligner", path,
        )  # fmt: skip
    elif found != wanted:
        raise InputError(
            f"{path}: is of another aligner's scores, or of a model's, or of this one's before a "
            "side was fitted anew; make it anew from those of this one"
        )
    if None not in (found_enroll, wanted_enroll) and found_enroll != wanted_enroll:
        raise InputError(
            f"{path}: is of the scores of the opposite update direction, by the mirror of this "
            "aligner; make it anew from those of this direction"
        )


def calibrate(
    calibration: Calibration,
    scores: ArrayLike,
    trials: Trials,
    utt2dur: Path | None = None,
    enroll_map: Path | None = None,
) -> Floats:
    """Natural-log likelihood ratios (T,) of the scores (T,) of trials.

    Args:
        calibration: with quality measures or without.
        scores: of `trials`.
        trials: T trials.
        utt2dur: needed where it uses durations, and refused where it does not.
        enroll_map: needed where it uses the number of enrollment utterances.

    Raises:
        InputError: names the option that is missing or too many.
    """
    measures = quality_measures(trials, utt2dur, enroll_map)
    for name in calibration.quality:
        if name in OPTIONS and name not in measures:
            raise InputError(f"it was fitted with the {name}; give {OPTIONS[name]} as well")
    if utt2dur is not None and TEST_DURATION not in calibration.quality:
        raise InputError("it was fitted without durations; leave out --utt2dur")
    if ENROLL_COUNT not in calibration.quality:  # profiles may be named to be averaged alone
        measures.pop(ENROLL_COUNT, None)
    return calibration.apply(scores, measures)
