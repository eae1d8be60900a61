"""Quality measures of trials: how much speech each compares."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nessa.errors import InputError, about
from nessa.files import parse_numbers, read_table
from nessa.trials import Trials, read_enroll_map

ENROLL_DURATION = "log seconds of enrollment"
TEST_DURATION = "log seconds of test"
ENROLL_COUNT = "log number of enrollment utterances"
# The options that name the files which they need.
OPTIONS = {ENROLL_DURATION: "--utt2dur", TEST_DURATION: "--utt2dur", ENROLL_COUNT: "--enroll-map"}
Floats = NDArray[np.float64]


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
    profiles = read_enroll_map(enroll_map)
    enroll = trials.enroll_index
    members = [profiles.get(name, [name]) for name in enroll.names]
    measures = {}
    if utt2dur is not None:
        seconds = _read_durations(utt2dur)
        with about(utt2dur):
            remedy = "add it"
            if enroll_map is None:
                remedy += ", or, if it is a profile, give its utterances by --enroll-map"
            enrolled = [sum(_seconds(seconds, utt, remedy) for utt in utts) for utts in members]
            tested = _tested(trials, seconds)
        measures[ENROLL_DURATION] = np.log(enrolled)[enroll.codes]
        measures[TEST_DURATION] = np.log(tested)
    if enroll_map is not None:
        measures[ENROLL_COUNT] = np.log([len(utterances) for utterances in members])[enroll.codes]
    return measures


def durations_of_tests(trials: Trials, utt2dur: Path) -> Floats:
    """The seconds of the test utterance of each trial, (T,).

    Raises:
        InputError: a test utterance without a duration, or one that is not above 0.
    """
    seconds = _read_durations(utt2dur)
    with about(utt2dur):
        return _tested(trials, seconds)


def _tested(trials: Trials, seconds: Mapping[str, float]) -> Floats:
    test = trials.test_index
    return np.array([_seconds(seconds, utterance) for utterance in test.names])[test.codes]


def _read_durations(path: Path) -> dict[str, float]:
    durations = {}
    for utterance, text in read_table(path).items():
        try:
            (durations[utterance],) = parse_numbers([text])
        except ValueError:
            durations[utterance] = -1.0
        if not 0 < durations[utterance] < np.inf:
            raise InputError(
                f"{path}: {utterance!r}: {text!r} is not a duration in seconds; correct it"
            )
    return durations


def _seconds(durations: Mapping[str, float], utterance: str, remedy: str = "add it") -> float:
    if utterance not in durations:
        raise InputError(f"no duration of {utterance!r}; {remedy}")
    return durations[utterance]
