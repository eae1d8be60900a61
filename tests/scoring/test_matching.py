"""Scores of any toolkit are matched to a trial list by ids, or by order where it is safe."""

import numpy as np
import pytest

from nessa.errors import InputError
from nessa.scoring.matching import BY_FILE, BY_ORDER, read_scores_of
from nessa.trials import Trials

FILES = [f"id{n}/v{n % 2}/0000{n}.wav" for n in range(4)]
TRIALS = Trials(FILES[:3], FILES[1:], [True, False, True])
VALUES = [0.5, -1.25, 2]


def scores_file(tmp_path, line, rows=(2, 0, 1), name=str, words=("nontarget", "target")):
    text = "".join(
        line.format(
            e=name(TRIALS.enroll[row]),
            t=name(TRIALS.test[row]),
            s=VALUES[row],
            l=words[int(TRIALS.labels[row])],
        )
        + "\n"
        for row in rows
    )
    (tmp_path / "scores").write_text(text)
    return tmp_path / "scores"


@pytest.mark.parametrize(
    "line", ["{e} {t} {s}", "{e} {t} {s} {l}", "{e} {t} {l} {s}", "{l} {e} {t} {s}"]
)
@pytest.mark.parametrize("words", [("nontarget", "target"), ("0", "1"), ("imp", "tgt")])
def test_by_ids_in_any_order(tmp_path, line, words):
    scores, how = read_scores_of(TRIALS, scores_file(tmp_path, line, words=words))
    assert scores.tolist() == VALUES and how == ""


@pytest.mark.parametrize(
    "name",
    [
        lambda file: file.removesuffix(".wav"),
        lambda file: file.replace("/", "-").removesuffix(".wav"),
        lambda file: file.replace(".wav", ".flac"),
    ],
)
@pytest.mark.parametrize("line", ["{e} {t} {s}", "{e} {t} {l} {s}"])
def test_by_the_names_of_files(tmp_path, name, line):
    scores, how = read_scores_of(TRIALS, scores_file(tmp_path, line, name=name))
    assert scores.tolist() == VALUES and how == BY_FILE


def test_names_that_would_be_one_are_not_taken_for_each_other(tmp_path):
    trials = Trials(["a/b.wav", "a-b.wav"], ["c.wav", "c.wav"])
    (tmp_path / "scores").write_text("a/b c 1\na-b c 2\n")
    with pytest.raises(InputError, match="'a/b c', 'a-b c' scored but not in the trial list"):
        read_scores_of(trials, tmp_path / "scores")


@pytest.mark.parametrize("line", ["{l} {s}", "{s} {l}", "{l}\t{s} "])
@pytest.mark.parametrize("words", [("nontarget", "target"), ("0", "1"), ("imp", "tgt")])
def test_by_order_where_there_are_labels_alone(tmp_path, line, words):
    scores, how = read_scores_of(TRIALS, scores_file(tmp_path, line, (0, 1, 2), words=words))
    assert scores.tolist() == VALUES and how == BY_ORDER


@pytest.mark.parametrize(
    ("line", "rows", "trials", "message"),
    [
        ("{l} {s}", (0, 1), TRIALS, "2 scores without ids, but 3 trials"),
        ("{l} {s}", (0, 1, 2, 2), TRIALS, "4 scores without ids, but 3 trials"),
        ("{l} {s}", (1, 0, 2), TRIALS, "its label of trial .* and 0 more|its label of trial 'id0"),
        ("{l} {s}", (0, 1, 2), Trials(TRIALS.enroll, TRIALS.test), "the trial list has no labels"),
        ("{s} {s}", (0, 1, 2), TRIALS, "line 1: '0.5 0.5' is not a score"),
        ("{s}", (0, 1, 2), TRIALS, "line 1: '0.5' is not a score"),
        ("{e} {t} {l} {s}", (0, 1), TRIALS, "without a score"),
        ("x {t} {l} {s}", (0, 1, 2), TRIALS, "scored but not in the trial list"),
        ("{e} {t} {s} 1", (0, 1, 2), TRIALS, "its label of trial 'id1/v1/00001.wav .* is not that"),
        ("{e} {t} {s} 7", (0, 1, 2), TRIALS, "line 1: .* is not a score"),
    ],
)
def test_scores_that_are_not_of_these_trials(tmp_path, line, rows, trials, message):
    path = scores_file(tmp_path, line, rows, words=("0", "1"))
    with pytest.raises(InputError, match=message) as caught:
        read_scores_of(trials, path)
    assert str(caught.value).startswith(f"{path}: ")


def test_unlabeled_trials_take_scores_with_labels(tmp_path):
    path = scores_file(tmp_path, "{e} {t} {l} {s}")
    scores, _ = read_scores_of(Trials(TRIALS.enroll, TRIALS.test), path)
    np.testing.assert_array_equal(scores, VALUES)
