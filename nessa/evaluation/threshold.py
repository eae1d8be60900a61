"""A threshold that carries over: the same false-accept rate under another system's scores.

The threshold of the new system is the score that as large a share of impostor trials reaches as
reached the old threshold in the old system. Speakers are drawn as for the metrics; each draw gives
a threshold, and the rate that this threshold has on the speakers of another draw: what a product
will see of other people.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nessa.errors import InputError, about
from nessa.evaluation.score_files import read_trial_speakers
from nessa.files import read_json
from nessa.metrics.bootstrap import Estimate, drawn_weights
from nessa.metrics.roc import Roc
from nessa.scoring.calibration import check_pair
from nessa.scoring.cosine import LARGEST_COSINE
from nessa.scoring.matching import read_scores_of
from nessa.scoring.quality import durations_of_tests
from nessa.scoring.sides import Scores
from nessa.text import percent
from nessa.trials import read_labeled

log = logging.getLogger(__name__)
# A threshold as people write it down -> the score that it stands for, higher being more alike.
CONVENTIONS = {
    "cosine": lambda threshold: threshold,
    "distance": lambda threshold: 1 - threshold,
    "half": lambda threshold: 2 * threshold - 1,  # (1 + cosine) / 2
    "score": lambda threshold: threshold,  # of any other scale
}
COSINES = ("cosine", "distance", "half")
CLASSES = 3  # of test durations, equally large
FEWEST = 10  # false accepts that a rate is told from
Seconds = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Carried:
    """A threshold of the new system, and what it does.

    Attributes:
        threshold: accept a score that is not below it.
        threshold_ci: 95 %, by draws of speakers.
        far: false-accept rate, of the old system at the old threshold.
        far_new: of the new system at this one; lower where many of its scores are equal.
        far_ci: where 95 % of the rates lie that it has with other speakers.
        miss_old, miss: miss rates of the two systems at their thresholds; None without targets.
        unsure: scores between which a decision is unsure; None where not asked for.
        seconds: durations of test speech that it is for, from and below; None: all.
    """

    threshold: float
    threshold_ci: Interval
    far: float
    far_new: float
    far_ci: Interval
    miss_old: float | None
    miss: float | None
    unsure: Interval | None = None
    seconds: Interval | None = None

    def __str__(self) -> str:
        low, high = self.far_ci
        text = (
            f"threshold {self.threshold:.4f} [{self.threshold_ci[0]:.4f}, "
            f"{self.threshold_ci[1]:.4f}]: false accepts {percent(self.far_new)} % (wanted: "
            f"{percent(self.far)}), with "
            f"other speakers {percent(low)} to {percent(high)} %"
        )
        if self.miss is not None and self.miss_old is not None:
            text += f"; misses {percent(self.miss)} % instead of {percent(self.miss_old)} %"
        if self.unsure:
            text += f"; unsure from {self.unsure[0]:.4f} to {self.unsure[1]:.4f}"
        if self.seconds:
            text = f"test speech of {self.seconds[0]:.2f} to {self.seconds[1]:.2f} s: {text}"
        return text


def carry_over(
    threshold: float,
    old: Scores,
    new: Scores,
    labels: NDArray[np.bool_],
    weights: Iterable[NDArray[np.int64]],
    unsure: float | None = None,
) -> Carried:
    """The threshold of new scores with the false-accept rate of one of old scores.

    Args:
        threshold: of the old scores.
        old, new: scores (T,) of the same trials, higher being more alike; compared as float32.
        labels: (T,), True for a target trial.
        weights: of the trials (T,) in each draw of speakers.
        unsure: a factor above 1: decisions are unsure between the thresholds of `unsure` times the
            rate and of the rate divided by `unsure`. Where fewer than `FEWEST` trials would tell
            those rates, the band is narrower, with a warning.

    Raises:
        InputError: fewer than `FEWEST` false accepts or true rejects, which tell no rate.
    """
    old, new = old.astype(np.float32), new.astype(np.float32)
    accepted = old >= np.float32(threshold)
    count, total = int(accepted[~labels].sum()), int((~labels).sum())
    if not FEWEST <= count <= total - FEWEST:
        raise InputError(
            f"{count} of {total} impostor trials reach the threshold {threshold:g}, and a rate is "
            f"told from {FEWEST} and more on both sides of it; give more impostor trials, or check "
            "the convention of the threshold"
        )
    far = count / total
    order = np.argsort(-new[~labels], kind="stable")
    impostors = new[~labels][order]
    found: list[float] = []
    rates: list[float] = []
    for weight in weights:
        own = weight[~labels]
        if found:  # the last draw's threshold, on these speakers
            rates.append(float(own @ (new[~labels] >= found[-1]) / own.sum()))
        rate = float(own @ accepted[~labels] / own.sum())
        found.append(_reached_by(rate, impostors, own[order]))
    carried = _reached_by(far, impostors, np.ones(total))
    return Carried(
        threshold=carried,
        threshold_ci=Estimate(carried, np.array(found or [carried])).interval,
        far=far,
        far_new=float((impostors >= carried).mean()),
        far_ci=Estimate(far, np.array(rates or [far])).interval,
        miss_old=_share(~accepted[labels]),
        miss=_share(new[labels] < carried),
        unsure=None if unsure is None else _unsure_band(unsure, far, impostors),
    )


def _unsure_band(factor: float, far: float, impostors: Scores) -> Interval:
    """Scores between the thresholds of `factor` times the rate and of the rate divided by `factor`.

    Args:
        factor: above 1; with a warning, less where fewer than `FEWEST` trials would tell the rates.
        far: the false-accept rate.
        impostors: by falling score.
    """
    total = len(impostors)
    many, few = min(far * factor, 1 - FEWEST / total), max(far / factor, FEWEST / total)
    if far * factor >= 1:
        log.warning(
            "--unsure %g: this multiple of the false-accept rate, %s %%, is beyond all impostors; "
            "give a smaller factor", factor, percent(far),
        )  # fmt: skip
    elif many < far * factor or few > far / factor:
        log.warning(
            "--unsure %g: %d impostor trials are too few for so wide a band, which goes from "
            "%.3g times the false-accept rate to 1/%.3g of it; give more of them, or a smaller "
            "factor", factor, total, many / far, far / few,
        )  # fmt: skip
    equal = np.ones(total)
    return _reached_by(many, impostors, equal), _reached_by(few, impostors, equal)


def _share(chosen: NDArray[np.bool_]) -> float | None:
    return float(chosen.mean()) if len(chosen) else None


def _reached_by(rate: float, descending: Scores, weights: NDArray[Any]) -> float:
    """The score that so large a share of the trials reaches; between two scores, their middle.

    Of equal scores, none reaches it. It is a float32, as scores are: rounded to one, it would
    accept others.
    """
    reached = np.cumsum(weights)
    place = int(np.searchsorted(reached, rate * reached[-1] * (1 + 1e-12), side="right"))
    place = min(max(place, 1), len(descending) - 1)
    above, below = descending[place - 1], descending[place]
    if above == below:  # one more would be all that are equal
        return float(np.nextafter(above, np.float32(np.inf)))
    middle = above / 2 + below / 2
    return float(middle if middle > below else above)  # where no float32 lies between


def carry_over_files(
    threshold: float,
    convention: str,
    trials: Path,
    old: Path,
    new: Path,
    utt2spk: Path,
    enroll_map: Path | None,
    utt2dur: Path | None,
    unsure: float | None,
    draws: int,
    seed: int,
    pair: str | None,
) -> list[Carried]:
    """Carry a threshold over, by score files: of all trials, and of each class of test durations.

    Args:
        threshold: as it is in use.
        convention: of the threshold, a key of `CONVENTIONS`.
        trials: labeled.
        old, new: scores of these trials by the two systems, higher being more alike; the old ones
            are cosines, unless the convention is "score".
        utt2spk: {utterance: speaker}, for the intervals.
        enroll_map: of the profiles that the trials name.
        utt2dur: {utterance: seconds}; each class of test durations gets a threshold with the rate
            of all trials at the old one.
        unsure: see `carry_over`.
        draws, seed: of the speakers.
        pair: of the aligner whose new scores these are, cosines as its networks give; None where
            not known, or of none.

    Raises:
        InputError: as `carry_over`; or a threshold that its convention does not know, or files
            that do not fit the trials, or scores that are lower for targets, or old scores or those
            of an aligner that are no cosines.
    """
    value = _as_score(threshold, convention)
    wanted = read_labeled(trials)
    labels = wanted.known_labels
    of_both = wanted.targets and wanted.nontargets
    scores: list[Scores] = []
    for path in (old, new):
        read, how = read_scores_of(wanted, path)
        scores.append(read.astype(np.float32))  # as networks give them
        if how:
            log.warning("%s: %s", path, how)
        if of_both and (fault := Roc.of(scores[-1], labels).reversal()):
            raise InputError(f"{path}: {fault}")
    remedy = (
        "give cosines: 1 - distance"
        if convention == "distance"
        else "give cosines, or --convention score and the threshold as it is for these scores"
    )
    if convention in COSINES and np.abs(scores[0]).max() > LARGEST_COSINE:
        raise InputError(f"{old}: are no cosines, which --convention {convention} is for; {remedy}")
    if convention in ("distance", "half") and scores[0].min() >= 0:
        log.warning(
            "%s: no score is below 0; if these are no cosines but on the scale of the threshold, "
            "%s", old, remedy,
        )  # fmt: skip
    if pair and np.abs(scores[1]).max() > LARGEST_COSINE:
        raise InputError(
            f"{new}: are no cosines of the aligner; score without --calibration and cohorts"
        )
    speakers = read_trial_speakers(trials, wanted, utt2spk, enroll_map)

    def weights() -> Iterator[NDArray[np.int64]]:
        return drawn_weights(labels, *speakers, draws, seed)

    first, second = scores
    with about(trials, old):
        carried = carry_over(value, first, second, labels, weights(), unsure)
    if utt2dur is None:
        return [carried]
    seconds = durations_of_tests(wanted, utt2dur)
    if seconds.min() == seconds.max():
        log.warning(
            "%s: all test speech lasts %.2f s; there are no classes of it, and one threshold",
            utt2dur,
            seconds[0],
        )
    by_duration = _by_duration(value, carried.far, first, second, labels, seconds, weights, unsure)
    return [carried, *by_duration]


def _as_score(threshold: float, convention: str) -> float:
    """The score, as scores are read, that a threshold stands for.

    Raises:
        InputError: it would be a cosine that there is not.
    """
    value = float(np.float32(CONVENTIONS[convention](threshold)))
    if convention in COSINES and not -1 <= value <= 1:
        raise InputError(
            f"threshold {threshold:g} as {convention} is a cosine of {value:g}; check the "
            "convention: cosine, distance (1 - cosine), half ((1 + cosine) / 2), or score"
        )
    return value


def _by_duration(
    threshold: float,
    far: float,
    old: Scores,
    new: Scores,
    labels: NDArray[np.bool_],
    seconds: Seconds,
    weights: Callable[[], Iterator[NDArray[np.int64]]],
    unsure: float | None,
) -> Iterator[Carried]:
    """Yield the threshold of each class of test durations that has one, with the rate of all."""
    for mask, span in _classes(seconds):
        own = (w[mask] for w in weights() if w[mask & ~labels].any())
        impostors = np.sort(old[mask & ~labels])[::-1]
        if len(impostors) < 2 * FEWEST:
            log.warning("test speech of %.2f to %.2f s: too few impostors", *span)
            continue
        # The rate of all trials, whatever that of the class was at the old threshold.
        level = _reached_by(far, impostors, np.ones(len(impostors)))
        try:
            found = carry_over(level, old[mask], new[mask], labels[mask], own, unsure)
        except InputError as error:
            log.warning("test speech of %.2f to %.2f s has no threshold: %s", *span, error)
            continue
        yield replace(found, seconds=span, miss_old=_share(old[mask & labels] < threshold))


def _classes(seconds: Seconds) -> Iterator[tuple[NDArray[np.bool_], Interval]]:
    edges = np.unique(np.quantile(seconds, np.linspace(0, 1, CLASSES + 1)))
    for low, high in pairwise(edges.tolist()):
        last = high == edges[-1]
        yield (seconds >= low) & (seconds <= high if last else seconds < high), (low, high)


def as_record(
    carried: Sequence[Carried], pair: str | None, enroll: str | None = None
) -> dict[str, Any]:
    """For JSON: the threshold of all trials, and `by_duration` where there are classes.

    Args:
        carried: of `carry_over_files`.
        pair: of the aligner whose scores the new ones are; None where it is not known.
        enroll: of its map of the enrollment side; None where it is not known.
    """
    first, *classes = (asdict(one) for one in carried)
    first.pop("seconds")
    known = {"pair": pair, "enroll": enroll}
    own = {name: text for name, text in known.items() if text}
    return first | own | ({"by_duration": classes} if classes else {})


def threshold_facts(path: Path, pair: str, enroll: str) -> dict[str, str]:
    """What the metadata of an exported network say of a threshold file.

    Args:
        path: of the file.
        pair: of the exported aligner.
        enroll: of its map of the enrollment side.

    Raises:
        InputError: not a file of `nessa threshold`, or of another aligner, or of this one's mirror,
            or not of cosines.
    """
    record = read_json(path)
    try:
        facts = {"threshold": repr(float(record["threshold"])), "far": repr(float(record["far"]))}
        if record["unsure"]:
            low, high = map(float, record["unsure"])
            facts |= {"unsure_from": repr(low), "unsure_to": repr(high)}
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not a threshold file; make it by nessa threshold") from None
    check_pair(path, record.get("pair"), pair, record.get("enroll"), enroll)
    with about(path):
        if abs(float(facts["threshold"])) > LARGEST_COSINE:  # made without --aligner
            raise InputError(
                f"{facts['threshold']} is no threshold of cosines, which the networks give; "
                "score without --calibration and cohorts, and run nessa threshold with --aligner"
            )
    return facts
