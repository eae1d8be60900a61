"""Calibrations on disk, and the quality measures of trials that they may use."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nessa.conditions import read_labelled
from nessa.errors import InputError, about
from nessa.files import read_json, read_table, write_json
from nessa.scoring import Calibration
from nessa.trials import Trials, join_scores, read_enroll_map, read_scores

# Names of the quality measures, and the options that bring the files which they need.
ENROLL_DURATION = "log seconds of enrollment"
TEST_DURATION = "log seconds of test"
ENROLL_COUNT = "log number of enrollment utterances"
OPTIONS = {ENROLL_DURATION: "--utt2dur", TEST_DURATION: "--utt2dur", ENROLL_COUNT: "--enroll-map"}

Floats = npt.NDArray[np.float64]


def fit_calibration(
    trials: Path,
    scores: Path,
    output: Path,
    p_target: float,
    utt2dur: Path | None = None,
    enroll_map: Path | None = None,
) -> Calibration:
    """Fit a calibration on scored dev trials and write it as JSON.

    Args:
        trials: a labelled list of the dev set.
        scores: of these trials, in any order.
        output: receives the calibration.
        p_target: the prior at which it is to fit best.
        utt2dur: {utterance: seconds}; the log durations of both sides become quality measures.
        enroll_map: of the profiles that the trials name; the log number of utterances becomes a
            quality measure.

    Raises:
        InputError: unlabelled trials, one without a score, or a quality measure that is unknown
            for a trial or the same for all.
    """
    wanted = read_labelled(trials)
    scored, values = read_scores(scores)
    with about(scores):
        joined = join_scores(wanted, scored, values)
    measures = quality_measures(wanted, utt2dur, enroll_map)
    for name, column in measures.items():
        if np.ptp(column) == 0:
            raise InputError(
                f"{trials}: {name} is the same in every trial; leave out {OPTIONS[name]}, or "
                "calibrate on trials that differ in it"
            )
    assert wanted.labels is not None
    with about(trials, scores):
        fitted = Calibration.fit(joined, wanted.labels, p_target, measures)
    write_json(output, fitted.to_dict())
    return fitted


def read_calibration(path: Path) -> Calibration:
    """The calibration that `fit_calibration` wrote.

    Raises:
        InputError: unreadable, or something else.
    """
    record = read_json(path)
    with about(path):
        return Calibration.from_dict(record)


def calibrate(
    calibration: Calibration,
    scores: npt.ArrayLike,
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


def quality_measures(
    trials: Trials, utt2dur: Path | None, enroll_map: Path | None
) -> dict[str, Floats]:
    """What is known of how much speech each trial compares.

    Args:
        trials: T trials.
        utt2dur: {utterance: seconds}; None leaves the durations out.
        enroll_map: {profile: utterances}, for enrollment ids that are profiles; None leaves the
            number of utterances out.

    Returns:
        {measure: values (T,)}: natural logarithms of durations in seconds, those of a profile's
        utterances added up, and of the number of enrollment utterances.

    Raises:
        InputError: an utterance without a duration, or one that is not above 0.
    """
    profiles = read_enroll_map(enroll_map) if enroll_map is not None else {}
    enroll, test = trials.enroll_index, trials.test_index
    members = [profiles.get(name, [name]) for name in enroll.names]
    measures = {}
    if utt2dur is not None:
        seconds = _read_durations(utt2dur)
        with about(utt2dur):
            enrolled = [sum(_seconds(seconds, utt) for utt in utts) for utts in members]
            tested = [_seconds(seconds, utterance) for utterance in test.names]
        measures[ENROLL_DURATION] = np.log(enrolled)[enroll.codes]
        measures[TEST_DURATION] = np.log(tested)[test.codes]
    if enroll_map is not None:
        measures[ENROLL_COUNT] = np.log([len(utterances) for utterances in members])[enroll.codes]
    return measures


def _read_durations(path: Path) -> dict[str, float]:
    durations = {}
    for utterance, text in read_table(path).items():
        try:
            durations[utterance] = float(text)
        except ValueError:
            durations[utterance] = -1.0
        if not 0 < durations[utterance] < np.inf:
            raise InputError(
                f"{path}: {utterance!r}: {text!r} is not a duration in seconds; correct it"
            )
    return durations


def _seconds(durations: Mapping[str, float], utterance: str) -> float:
    if utterance not in durations:
        raise InputError(f"no duration of {utterance!r}; add it")
    return durations[utterance]
