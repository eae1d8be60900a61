"""Calibrations on disk: fitted by key, with quality measures, refused where they do not fit."""

from pathlib import Path

import numpy as np
import pytest

from nessa.errors import InputError
from nessa.files import write_json, write_table
from nessa.metrics.roc import act_dcf, cllr, min_cllr, min_dcf
from nessa.scoring.calibration import Calibration, calibrate, fit_calibration, read_calibration
from nessa.scoring.quality import ENROLL_COUNT, ENROLL_DURATION, TEST_DURATION, quality_measures
from nessa.trials import Trials, write_scores


class DevSet:
    """Trials of profiles of 1 and 4 utterances, whose scores are Gaussian LLRs, halved, less 2.

    A profile of 4 scores lower by 1 than it should.
    """

    def __init__(self, folder: Path, targets: int = 4000, nontargets: int = 16000) -> None:
        self.folder = folder
        self.trials, self.scores = folder / "trials", folder / "scores"
        self.map, self.utt2dur = folder / "enroll_map", folder / "utt2dur"
        rng = np.random.default_rng(3)
        labels = np.arange(targets + nontargets) < targets
        self.sizes = rng.choice([1, 4], len(labels))
        self.llrs = np.where(labels, 4, -4) + np.sqrt(8) * rng.standard_normal(len(labels))
        enroll = [f"p{size}" for size in self.sizes]
        self.listed = Trials(enroll, [f"t{number}" for number in range(len(labels))], labels)
        self.listed.write(self.trials)
        write_table(self.map, {"p1": "a", "p4": "a b c d"})
        seconds = {"a": 1, "b": 2, "c": 3, "d": 4}
        write_table(self.utt2dur, seconds | {name: 2 + len(name) for name in self.listed.test})
        self.values = (self.llrs / 2 - 2 - (self.sizes == 4)).astype(np.float32)
        write_scores(self.scores, self.listed, self.values)

    def fit(self, **files: Path) -> Calibration:
        return fit_calibration(self.trials, self.scores, self.folder / "c.json", 0.5, **files)


@pytest.fixture
def dev(tmp_path: Path) -> DevSet:
    return DevSet(tmp_path)


def test_the_map_is_found_whatever_the_order_of_the_scores(dev: DevSet) -> None:
    plain = dev.fit()
    lines = dev.scores.read_text().splitlines(keepends=True)
    dev.scores.write_text("".join(np.random.default_rng(1).permutation(lines)))
    assert dev.fit() == plain
    assert read_calibration(dev.folder / "c.json") == plain
    assert plain.quality == {}


@pytest.mark.slow
def test_the_number_of_enrollment_utterances_takes_out_what_it_explains(dev: DevSet) -> None:
    fitted = dev.fit(enroll_map=dev.map)
    assert fitted.scale == pytest.approx(2, rel=0.1)
    assert fitted.quality == {ENROLL_COUNT: pytest.approx(2 / np.log(4), rel=0.15)}
    llrs = calibrate(fitted, dev.values, dev.listed, enroll_map=dev.map)
    labels = dev.listed.labels
    np.testing.assert_allclose(llrs, dev.llrs, atol=1.5)
    assert cllr(llrs, labels) < cllr(dev.fit().apply(dev.values), labels)


def test_calibrated_scores_cost_little_more_than_the_best_map(dev: DevSet) -> None:
    labels = dev.listed.labels
    llrs = calibrate(dev.fit(enroll_map=dev.map), dev.values, dev.listed, enroll_map=dev.map)
    assert cllr(llrs, labels) < 1.05 * min_cllr(llrs, labels)
    assert act_dcf(llrs, labels) < 1.1 * min_dcf(llrs, labels)


def test_durations_of_both_sides_are_logarithms_of_seconds(dev: DevSet) -> None:
    trials = Trials(["p4", "a"], ["t1", "t10"])
    measures = quality_measures(trials, dev.utt2dur, dev.map)
    np.testing.assert_allclose(measures[ENROLL_DURATION], np.log([1 + 2 + 3 + 4, 1]))
    np.testing.assert_allclose(measures[TEST_DURATION], np.log([4, 5]))
    np.testing.assert_allclose(measures[ENROLL_COUNT], np.log([4, 1]))
    assert quality_measures(trials, None, None) == {}


def test_profiles_that_are_only_averaged_do_not_count(dev: DevSet) -> None:
    llrs = calibrate(Calibration(2.0, 1.0), dev.values, dev.listed, enroll_map=dev.map)
    np.testing.assert_allclose(llrs, 2 * dev.values + 1, rtol=1e-6)


def test_what_does_not_vary_is_named_with_its_option(dev: DevSet) -> None:
    write_table(dev.map, {"p1": "a", "p4": "b"})
    with pytest.raises(InputError, match=f"{dev.trials}: .*same in every trial.* --enroll-map"):
        dev.fit(enroll_map=dev.map)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": 1.0}, r"no duration of 'b'"),
        ({"a": "long"}, r"'a': 'long' is not a duration"),
        ({"a": 0}, r"'a': '0' is not a duration"),
        ({"a": "nan"}, r"'a': 'nan' is not a duration"),
        ({"a": "1_0"}, r"'a': '1_0' is not a duration"),
        ({"a": "\u0661"}, r"'a': '\u0661' is not a duration"),
    ],
)
def test_durations_that_are_missing_or_wrong_are_named(
    dev: DevSet, table: dict, message: str
) -> None:
    write_table(dev.utt2dur, table)
    with pytest.raises(InputError, match=f"{dev.utt2dur}: {message}"):
        dev.fit(utt2dur=dev.utt2dur, enroll_map=dev.map)


def test_profiles_without_a_map_are_said_to_need_one(tmp_path: Path) -> None:
    dev = DevSet(tmp_path, targets=20, nontargets=80)
    seconds = dict.fromkeys(dev.listed.test, 2.0)
    write_table(dev.utt2dur, seconds)
    first = dev.listed.enroll_index.names[0]
    message = f"{dev.utt2dur}: no duration of '{first}'; .* a profile, .* --enroll-map"
    with pytest.raises(InputError, match=message):
        dev.fit(utt2dur=dev.utt2dur)


def test_scores_that_are_lower_for_targets_are_warned_about(
    dev: DevSet, caplog: pytest.LogCaptureFixture
) -> None:
    dev.fit()
    assert not caplog.messages
    write_scores(dev.scores, dev.listed, -dev.values)
    assert dev.fit().scale < 0
    (warning,) = caplog.messages
    assert warning.startswith(f"{dev.scores}: targets score below") and "1 - distance" in warning


def test_trials_without_labels_or_scores_are_refused(dev: DevSet) -> None:
    lines = dev.scores.read_text().splitlines(keepends=True)
    dev.scores.write_text("".join(lines[1:]))
    with pytest.raises(InputError, match=f"{dev.scores}: .* t0'.* without a score"):
        dev.fit()
    Trials(dev.listed.enroll, dev.listed.test).write(dev.trials)
    with pytest.raises(InputError, match=f"{dev.trials}: no labels"):
        dev.fit()
    assert not (dev.folder / "c.json").exists()


def test_another_json_is_no_calibration(tmp_path: Path) -> None:
    write_json(tmp_path / "c.json", {"scale": 1})
    with pytest.raises(InputError, match=r"c\.json: .*not a calibration"):
        read_calibration(tmp_path / "c.json")


def test_profiles_of_one_size_are_calibrated_by_their_durations(dev: DevSet) -> None:
    write_table(dev.map, {"p1": "a b", "p4": "c d"})
    fitted = dev.fit(utt2dur=dev.utt2dur, enroll_map=dev.map)
    assert fitted.quality.keys() == {ENROLL_DURATION, TEST_DURATION}
    files = {"utt2dur": dev.utt2dur, "enroll_map": dev.map}
    assert len(calibrate(fitted, dev.values, dev.listed, **files)) == len(dev.listed)
    with pytest.raises(InputError, match="leave out --enroll-map"):
        dev.fit(enroll_map=dev.map)
