"""nessa threshold: the same false-accept rate under another system, and what cannot be told."""

from pathlib import Path

import numpy as np
import pytest

from nessa.alignment import ProcrustesAligner
from nessa.evaluation.threshold import CONVENTIONS, carry_over
from nessa.files import read_json, write_table
from nessa.trials import Trials, write_scores
from tests.conftest import Command
from tests.pairs import two_views

SPEAKERS, UTTERANCES = 40, 5
BACK = {  # a score as each convention writes a threshold of it
    "cosine": lambda score: score,
    "distance": lambda score: 1 - score,
    "half": lambda score: (1 + score) / 2,
    "score": lambda score: score,
}


def drawn(seed: int) -> tuple[Trials, dict[str, str], np.ndarray, np.ndarray]:
    """Trials with their speakers, and scores by an old and a new system, each with speaker effects.

    The new system's scores lie elsewhere, and its impostors have another spread.
    """
    rng = np.random.default_rng(seed)
    speaker_of = {f"s{s:02d}-{u}": f"s{s:02d}" for s in range(SPEAKERS) for u in range(UTTERANCES)}
    names = list(speaker_of)
    effect = rng.normal(0, 0.05, SPEAKERS)
    codes = np.arange(len(names)) // UTTERANCES
    first, second = np.triu_indices(len(names), 1)
    labels = codes[first] == codes[second]
    common = effect[codes[first]] + effect[codes[second]] + rng.normal(0, 0.1, len(labels))
    old = 0.5 * labels + common
    new = 0.3 + 0.45 * labels + 0.6 * common + rng.normal(0, 0.03, len(labels))
    trials = Trials([names[i] for i in first], [names[i] for i in second], labels)
    return trials, speaker_of, old, new


@pytest.fixture
def files(tmp_path: Path) -> list[object]:
    trials, speakers, old, new = drawn(1)
    trials.write(tmp_path / "trials")
    write_table(tmp_path / "utt2spk", speakers)
    write_table(tmp_path / "utt2dur", {key: f"{1 + int(key[-1])}" for key in speakers})
    write_scores(tmp_path / "old", trials, old)
    write_scores(tmp_path / "new", trials, new)
    given: list[object] = []
    for name in ("trials", "old", "new", "utt2spk"):
        given += [f"--{name}", tmp_path / name]
    return given


@pytest.mark.slow
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("score", [0.15, 0.2, 0.25, 0.3, 0.35])
def test_the_rate_carries_over_to_other_speakers(
    tmp_path: Path, nessa: Command, files: list[object], convention: str, score: float
) -> None:
    given = BACK[convention](score)
    output = tmp_path / "threshold.json"
    more = "--convention", convention, "--draws", 200, "--output", output
    done = nessa("threshold", "--threshold", given, *files, *more)
    assert done.status == 0, done
    found = read_json(output)
    assert found["threshold_ci"][0] <= found["threshold"] <= found["threshold_ci"][1]
    trials, _, old, new = drawn(1)
    impostors = ~np.asarray(trials.labels)
    before = np.mean(old[impostors] >= score)
    assert found["far"] == pytest.approx(before, abs=1e-3)  # of scores as files have them
    assert np.mean(new[impostors] >= found["threshold"]) == pytest.approx(before, abs=1e-3)
    trials, _, _, new = drawn(2)  # other speakers
    after = np.mean(new[~np.asarray(trials.labels)] >= found["threshold"])
    assert found["far_ci"][0] <= after <= found["far_ci"][1]


def test_a_band_that_the_trials_do_not_tell_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trials, _, old, new = drawn(1)
    labels = np.asarray(trials.labels)
    wide = carry_over(0.3, old, new, labels, [], unsure=1.5).unsure
    assert wide is not None and not caplog.messages
    few = float(np.sort(old[~labels])[-12])  # false accepts
    assert carry_over(few, old, new, labels, [], unsure=3).unsure is not None
    many = carry_over(0.3, old, new, labels, [], unsure=1000).unsure
    assert many is not None and many[0] < wide[0] and many[1] > wide[1]
    too_few, beyond = caplog.messages
    assert too_few.startswith(f"--unsure 3: {trials.nontargets} impostor trials are too few")
    assert "is beyond all impostors; give a smaller factor" in beyond


def test_a_scale_of_the_new_scores_changes_nothing() -> None:
    trials, _, old, new = drawn(1)
    labels = np.asarray(trials.labels)
    one = carry_over(0.3, old, new, labels, [])
    other = carry_over(0.3, old, 7 * new - 3, labels, [])
    assert other.threshold == pytest.approx(7 * one.threshold - 3)
    assert (other.far, other.miss) == (one.far, one.miss)


def test_a_trial_of_some_weight_is_that_many_trials() -> None:
    trials, _, old, new = drawn(1)
    labels = np.asarray(trials.labels)
    weights = np.where(new > np.median(new), 10, 1)
    found = carry_over(0.3, old, new, labels, [weights] * 2)
    repeated = carry_over(0.3, *(np.repeat(of, weights) for of in (old, new, labels)), [])
    assert found.threshold_ci == pytest.approx([repeated.threshold] * 2, abs=1e-3)
    assert found.far_ci == pytest.approx([repeated.far] * 2, abs=1e-3)


def test_a_system_that_stays_keeps_its_threshold() -> None:
    trials, _, old, _ = drawn(1)
    impostors = np.sort(old[~np.asarray(trials.labels)])
    found = carry_over(0.3, old, old, np.asarray(trials.labels), [])
    place = np.searchsorted(impostors, 0.3)
    assert impostors[place - 1] <= found.threshold <= impostors[place]
    assert found.miss == pytest.approx(found.miss_old, abs=0.01)


def test_equal_scores_are_not_accepted_beyond_the_rate() -> None:
    trials, _, old, new = drawn(1)
    labels = np.asarray(trials.labels)
    found = carry_over(0.25, old, new.round(1), labels, [])
    assert found.far_new == np.mean(new.round(1)[~labels] >= found.threshold)
    assert found.far_new <= found.far


@pytest.mark.parametrize("threshold", [0.2, 0.21, 0.22, 0.23, 0.24, 0.25])
def test_scores_of_float32_with_none_between_are_decided_as_the_rate_says(threshold: float) -> None:
    trials, _, old, new = drawn(1)
    labels = np.asarray(trials.labels)
    steps = 2.0**-24 * np.arange(len(new))  # of float32 from 0.5 on
    ranked = np.empty(len(new), np.float32)
    ranked[np.argsort(new)] = 0.5 + steps
    for scores in (ranked, (0.5 + new.round(1)).astype(np.float32)):
        found = carry_over(threshold, old, scores, labels, [])
        accepted = np.mean([score >= found.threshold for score in scores[~labels]])
        widened = np.mean(scores[~labels].astype(float) >= found.threshold)
        assert accepted == widened == found.far_new <= found.far


def test_equal_scores_of_files_are_not_accepted(
    tmp_path: Path, nessa: Command, files: list[object]
) -> None:
    trials, _, _, new = drawn(1)
    write_scores(tmp_path / "new", trials, new.round(1))
    output = tmp_path / "threshold.json"
    more = "--draws", 5, "--output", output
    assert nessa("threshold", "--threshold", 0.25, *files, *more).status == 0
    found = read_json(output)
    impostors = new.round(1)[~np.asarray(trials.labels)].astype(np.float32)
    accepted = [score >= found["threshold"] for score in impostors]
    assert np.mean(accepted) == found["far_new"] <= found["far"]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_old_scores_equal_to_the_threshold_are_accepted(
    tmp_path: Path, nessa: Command, files: list[object], convention: str
) -> None:
    trials, _, old, _ = drawn(1)
    old = (old + 0.4).round(1).clip(-1, 1)  # 0.7 is larger than the float32 of it
    write_scores(tmp_path / "old", trials, old)
    durations = tmp_path / "utt2dur"
    more = "--utt2dur", durations, "--draws", 5, "--output", tmp_path / "out.json"
    given = "--threshold", round(BACK[convention](0.7), 2), "--convention", convention
    assert nessa("threshold", *given, *files, *more).status == 0
    found = read_json(tmp_path / "out.json")
    labels = np.asarray(trials.labels)
    assert found["far"] == np.mean(old[~labels] >= 0.7)
    assert found["miss_old"] == np.mean(old[labels] < 0.7)
    seconds = np.array([1 + int(name[-1]) for name in trials.test])
    for one in found["by_duration"]:
        low, high = one["seconds"]
        own = labels & (seconds >= low) & ((seconds < high) | (high == seconds.max()))
        assert one["miss_old"] == np.mean(old[own] < 0.7)


def test_the_unsure_band_lies_around_the_threshold() -> None:
    trials, _, old, new = drawn(1)
    impostors = new[~np.asarray(trials.labels)]
    found = carry_over(0.25, old, new, np.asarray(trials.labels), [], unsure=2)
    assert found.unsure is not None
    low, high = found.unsure
    assert low < found.threshold < high
    assert np.mean(impostors >= low) == pytest.approx(2 * found.far, rel=0.02)
    assert np.mean(impostors >= high) == pytest.approx(found.far / 2, rel=0.02)


def test_classes_of_duration_have_the_same_rate(
    tmp_path: Path, nessa: Command, files: list[object]
) -> None:
    more = "--utt2dur", tmp_path / "utt2dur", "--draws", 20, "--output", tmp_path / "out.json"
    assert nessa("threshold", "--threshold", 0.25, *files, *more).status == 0
    found = read_json(tmp_path / "out.json")
    trials, _, _, new = drawn(1)
    seconds = np.array([1 + int(name[-1]) for name in trials.test])
    assert len(found["by_duration"]) >= 2
    for one in found["by_duration"]:
        low, high = one["seconds"]
        last = high == seconds.max()
        own = (seconds >= low) & ((seconds <= high) if last else (seconds < high))
        impostors = new[own & ~np.asarray(trials.labels)]
        assert np.mean(impostors >= one["threshold"]) == pytest.approx(found["far"], abs=0.005)


def test_equal_durations_make_no_classes_and_it_is_said(
    tmp_path: Path, nessa: Command, files: list[object]
) -> None:
    write_table(tmp_path / "utt2dur", dict.fromkeys(drawn(1)[1], "3.0"))
    more = "--utt2dur", tmp_path / "utt2dur", "--draws", 5, "--output", tmp_path / "out.json"
    done = nessa("threshold", "--threshold", 0.25, *files, *more)
    assert done.status == 0 and f"{tmp_path / 'utt2dur'}: all test speech lasts 3.00 s" in done.err
    assert "by_duration" not in read_json(tmp_path / "out.json")


@pytest.mark.parametrize(
    ("threshold", "convention", "said"),
    [
        (0.99, "cosine", "0 of 19500 impostor trials reach the threshold 0.99"),
        (-0.99, "cosine", "19500 of 19500 impostor trials"),
        (1.4, "half", "is a cosine of 1.8; check the convention"),
        (2.5, "distance", "is a cosine of -1.5"),
    ],
)
def test_what_tells_no_rate_is_refused(
    nessa: Command, files: list[object], threshold: float, convention: str, said: str
) -> None:
    words = "threshold", "--threshold", threshold, "--convention", convention, *files, "--draws", 5
    nessa(*words).refused(said)


def test_trials_of_targets_alone_are_refused_with_a_remedy(
    tmp_path: Path, nessa: Command, files: list[object]
) -> None:
    trials, _, old, new = drawn(1)
    own = np.asarray(trials.labels)
    trials.select(own).write(tmp_path / "trials")
    for name, scores in (("old", old), ("new", new)):
        write_scores(tmp_path / name, trials.select(own), scores[own])
    done = nessa("threshold", "--threshold", 0.25, *files, "--draws", 5)
    done.refused(f"{tmp_path / 'trials'}, ", "0 of 0 impostor trials", "give more impostor trials")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_old_scores_are_cosines_unless_the_convention_says_otherwise(
    tmp_path: Path, nessa: Command, files: list[object], convention: str
) -> None:
    trials, _, old, _ = drawn(1)
    more = "--convention", convention, *files, "--draws", 5, "--output", tmp_path / "out.json"
    halves = (1 + old.clip(-1, 1)) / 2
    write_scores(tmp_path / "old", trials, halves)
    done = nessa("threshold", "--threshold", BACK[convention](0.6), *more)
    said = f"{tmp_path / 'old'}: no score is below 0; if these are no cosines"
    assert done.status == 0 and (said in done.err) == (convention in ("distance", "half"))
    write_scores(tmp_path / "old", trials, 9 * old)  # AS-norm
    done = nessa("threshold", "--threshold", BACK[convention](0.9), *more)
    remedy = "give cosines: 1 - distance" if convention == "distance" else "--convention score"
    if convention == "score":
        assert done.status == 0
    else:
        done.refused(f"{tmp_path / 'old'}: are no cosines", remedy)


@pytest.mark.parametrize("system", ["old", "new"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_distances_are_refused_and_not_taken_for_scores(
    tmp_path: Path, nessa: Command, files: list[object], convention: str, system: str
) -> None:
    trials, _, old, _ = drawn(1)
    write_scores(tmp_path / system, trials, 1 - old)
    given = "--threshold", BACK[convention](0.25), "--convention", convention
    done = nessa("threshold", *given, *files, "--draws", 5)
    done.refused(f"{tmp_path / system}: targets score below", "give 1 - distance")
    assert "--convention score" not in done.err


def test_scores_of_an_aligner_are_its_cosines(
    tmp_path: Path, nessa: Command, files: list[object]
) -> None:
    trials, _, _, new = drawn(1)
    write_scores(tmp_path / "new", trials, 9 * new - 4)  # calibrated
    words = "threshold", "--threshold", 0.25, *files, "--draws", 5
    assert nessa(*words).status == 0
    ProcrustesAligner().fit(*two_views(40, 2)).save(tmp_path / "aligner")
    done = nessa(*words, "--aligner", tmp_path / "aligner", "--output", tmp_path / "out.json")
    done.refused(f"{tmp_path / 'new'}: are no cosines", "without --calibration and cohorts")
    assert not (tmp_path / "out.json").exists()


def test_what_is_matched_by_order_is_said_and_what_is_missing_is_named(
    tmp_path: Path, nessa: Command, files: list[object]
) -> None:
    words = "threshold", "--threshold", 0.25, *files, "--draws", 5
    trials, speakers, _, new = drawn(1)
    rows = zip(np.asarray(trials.labels), new, strict=True)
    (tmp_path / "new").write_text("".join(f"{label:d} {score:.6f}\n" for label, score in rows))
    done = nessa(*words)
    assert done.status == 0 and f"{tmp_path / 'new'}: no ids: taken in the order" in done.err
    tested = dict.fromkeys(trials.test, 1)  # of the enrollment side none is asked for
    write_table(tmp_path / "utt2dur", tested)
    assert nessa(*words, "--utt2dur", tmp_path / "utt2dur").status == 0
    gone = trials.test[0]
    write_table(tmp_path / "utt2spk", {key: s for key, s in speakers.items() if key != gone})
    nessa(*words).refused(str(tmp_path / "utt2spk"), repr(gone))
    write_table(tmp_path / "utt2spk", speakers)
    (tmp_path / "enroll_map").write_text("p nobody\n")
    nessa(*words, "--enroll-map", tmp_path / "enroll_map").refused(
        "enroll_map: no speaker", "nobody"
    )
    write_table(tmp_path / "utt2spk", dict.fromkeys(speakers, "ann bob"))
    nessa(*words).refused("utt2spk: ", "expected one speaker, got 'ann bob'")


def test_a_seed_is_not_negative(nessa: Command, files: list[object]) -> None:
    nessa("threshold", "--threshold", 0.25, *files, "--seed", -1).refused("--seed", "-1")
