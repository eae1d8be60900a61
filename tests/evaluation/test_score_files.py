"""Score files side by side: figures are the metrics', differences are paired, keys join."""

from pathlib import Path

import numpy as np
import pytest

from nessa.errors import InputError
from nessa.evaluation.score_files import compare_score_files, format_comparison
from nessa.files import write_table
from nessa.metrics.bootstrap import bootstrap, difference
from nessa.metrics.roc import act_dcf, cllr, eer, min_cllr, min_dcf
from nessa.trials import Trials, write_scores
from tests.pairs import all_trials, two_views

NOISE = {"good": 0.4, "bad": 0.8}


class Files:
    """A labeled list of 12 speakers, and the score files of two systems in other orders."""

    def __init__(self, folder: Path) -> None:
        _, _, self.utt2spk = two_views(12, 3)
        self.listed = all_trials(self.utt2spk)
        self.trials, self.speakers = folder / "trials", folder / "utt2spk"
        self.listed.write(self.trials)
        write_table(self.speakers, self.utt2spk)
        self.paths, self.scores = [], []
        for number, (name, noise) in enumerate(NOISE.items()):
            rng = np.random.default_rng(number)
            drawn = self.listed.labels + noise * rng.standard_normal(len(self.listed))
            scores = (6 * drawn - 3).astype(np.float32)
            order = rng.permutation(len(scores))
            shuffled = Trials(
                [self.listed.enroll[row] for row in order], [self.listed.test[row] for row in order]
            )
            write_scores(folder / name, shuffled, scores[order])
            self.paths.append(folder / name)
            self.scores.append(scores)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_figures_are_the_metrics_of_the_joined_scores(files: Files) -> None:
    labels = files.listed.labels
    for record, scores in zip(
        compare_score_files(files.trials, files.paths), files.scores, strict=True
    ):
        assert record["eer"] == eer(scores, labels)
        assert record["min_dcf"] == min_dcf(scores, labels, 0.01)
        assert record["min_dcf_05"] == min_dcf(scores, labels, 0.05)
        assert (record["targets"], record["nontargets"]) == (labels.sum(), (~labels).sum())
        assert not {"cllr", "act_dcf", "eer_ci", "over_first"} & record.keys()


def test_figures_do_not_depend_on_how_close_to_one_posteriors_are(tmp_path: Path) -> None:
    odds = np.array([30.0, 21.0, 20.0, 19.0])  # as float32, their posteriors are 1
    labels = np.array([True, False, True, False])
    trials = Trials(["a"] * 4, ["w", "x", "y", "z"], labels)
    trials.write(tmp_path / "trials")
    for name, values in (("llrs", odds), ("posteriors", 1 / (1 + np.exp(-odds)))):
        rows = zip(trials.enroll, trials.test, values.tolist(), strict=True)
        (tmp_path / name).write_text("".join(f"{e} {t} {score!r}\n" for e, t, score in rows))
    files = [tmp_path / "llrs", tmp_path / "posteriors"]
    first, second = compare_score_files(tmp_path / "trials", files)
    assert (second["eer"], second["min_dcf"]) == (first["eer"], first["min_dcf"])
    assert first["eer"] == eer(odds, labels)


def test_likelihood_ratios_have_calibration_figures(files: Files) -> None:
    labels = files.listed.labels
    for record, llrs in zip(
        compare_score_files(files.trials, files.paths, llr=True), files.scores, strict=True
    ):
        assert record["act_dcf"] == act_dcf(llrs, labels, 0.01)
        assert record["act_dcf_05"] == act_dcf(llrs, labels, 0.05)
        assert record["cllr"] == pytest.approx(cllr(llrs, labels), rel=1e-8)  # of nine digits
        assert record["min_cllr"] == min_cllr(llrs, labels)


def test_scores_that_are_lower_for_targets_are_warned_about(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng, labels = np.random.default_rng(0), files.listed.labels
    by_chance = rng.standard_normal(len(labels))
    for name, scores in {"distances": 1 - files.scores[1], "by chance": by_chance}.items():
        write_scores(tmp_path / name, files.listed, scores)
    compare_score_files(files.trials, [*files.paths, tmp_path / "by chance"])
    assert not caplog.messages
    compare_score_files(files.trials, [files.paths[0], tmp_path / "distances"])
    (warning,) = caplog.messages
    assert warning.startswith(f"{tmp_path / 'distances'}: targets score below non-targets, in ")
    assert warning.endswith("higher must be more alike: of distances, give 1 - distance")


def test_intervals_and_differences_are_paired(files: Files) -> None:
    good, bad = compare_score_files(files.trials, files.paths, utt2spk=files.speakers, draws=50)
    sides = [
        [files.utt2spk[name] for name in side] for side in (files.listed.enroll, files.listed.test)
    ]
    first, second = bootstrap(files.scores, files.listed.labels, *sides, draws=50, seed=1)
    assert good["eer_ci"] == list(first["eer"].interval)
    assert bad["min_dcf_ci"] == list(second["min_dcf"].interval)
    excess = difference(second["eer"], first["eer"])
    assert (bad["over_first"], bad["over_first_ci"]) == (excess.value, list(excess.interval))
    assert "over_first" not in good
    excess = difference(second["min_dcf"], first["min_dcf"])
    assert bad["min_dcf_over_first_ci"] == list(excess.interval)


def test_profiles_have_the_speaker_of_their_utterances(files: Files, tmp_path: Path) -> None:
    profiles = {f"{speaker}-p": f"{speaker}-s0-00000" for speaker in set(files.utt2spk.values())}
    write_table(tmp_path / "enroll_map", profiles)
    tests = [name for name in files.utt2spk if name.endswith("2")]
    pairs = [(profile, test) for profile in sorted(profiles) for test in tests]
    labels = np.array([profile[:7] == test[:7] for profile, test in pairs])
    listed = Trials([p for p, _ in pairs], [t for _, t in pairs], labels)
    listed.write(files.trials)
    scores = np.random.default_rng(0).standard_normal(len(pairs)) + labels
    write_scores(tmp_path / "scores", listed, scores)
    words = files.trials, [tmp_path / "scores"]
    (record,) = compare_score_files(
        *words, utt2spk=files.speakers, enroll_map=tmp_path / "enroll_map", draws=10
    )
    assert record["eer_ci"][0] <= record["eer_ci"][1]
    with pytest.raises(InputError, match=f"{files.speakers}: no speaker is known for 'id0000"):
        compare_score_files(*words, utt2spk=files.speakers)


def test_tables_say_what_there_is_and_why_not_more(files: Files) -> None:
    plain = format_comparison(compare_score_files(files.trials, files.paths))
    assert "No intervals" in plain and "--utt2spk" in plain
    assert "Cllr" not in plain and "above" not in plain
    full = format_comparison(
        compare_score_files(files.trials, files.paths, True, files.speakers, draws=10)
    )
    assert f"above {files.paths[0]}" in full and "minCllr" in full
    assert "No intervals" not in full


def test_what_does_not_fit_is_named(files: Files) -> None:
    path = files.paths[1]
    lines = path.read_text().splitlines(keepends=True)
    for damaged, message in (
        (lines[1:], "without a score"),
        ([*lines, "a b 0.5\n"], "'a b'.* not in the trial list"),
        ([*lines[1:], lines[0].replace("\n", "e\n")], "line 1260: .* is not"),
    ):
        path.write_text("".join(damaged))
        with pytest.raises(InputError, match=f"{path}: .*{message}"):
            compare_score_files(files.trials, files.paths)
    Trials(files.listed.enroll, files.listed.test).write(files.trials)
    with pytest.raises(InputError, match=f"{files.trials}: no labels"):
        compare_score_files(files.trials, files.paths)
