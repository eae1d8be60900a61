"""Trial lists: the three formats, and scores joined by key."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nessa
from nessa import InputError
from nessa.trials import (
    Trials,
    join_scores,
    read_enroll_map,
    read_scores,
    trial_speakers,
    write_scores,
)
from tests.conftest import VOXCELEB_LISTS, need


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# ---- reading and writing ----


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("1 a b\n0 a c\n", [True, False]),
        ("a b target\na c nontarget\n", [True, False]),
        ("a b\na c\n", None),
    ],
)
@pytest.mark.parametrize("last_newline", [True, False])
def test_three_formats_are_read(tmp_path, text, labels, last_newline):
    text = text if last_newline else text.rstrip("\n")
    trials = Trials.read(write(tmp_path / "trials", text))
    assert (trials.enroll, trials.test) == (["a", "a"], ["b", "c"])
    assert trials.labels is None if labels is None else trials.labels.tolist() == labels


WORDS = [("1", "0"), ("target", "nontarget"), ("tgt", "imp"), ("tgt", "nontgt")]


@pytest.mark.parametrize(("yes", "no"), WORDS)
@pytest.mark.parametrize("line", ["{0} {1} {2}\n", "{1} {2} {0}\n", "{1}\t{2}\t{0} \r\n"])
@pytest.mark.parametrize("ids", [("a", "u"), ("1", "2-u"), ("1", "0"), ("target", "u")])
def test_labels_before_or_after_the_ids(tmp_path, yes, no, line, ids):
    rows = [(True, *ids), (False, "12", "13_1"), (True, "7", "1")]
    text = "".join(line.format(yes if label else no, *names) for label, *names in rows)
    trials = Trials.read(write(tmp_path / "trials", "\ufeff" + text))
    assert trials.labels.tolist() == [label for label, _, _ in rows]
    assert list(zip(trials.enroll, trials.test, strict=True)) == [row[1:] for row in rows]


@pytest.mark.parametrize(
    "text",
    ["1 a 1\n0 b 0\n", "1 a 0\n", "0 x 1\n1 x 1\n", "target a imp\n", "imp a tgt\ntgt b imp\n"],
)
def test_a_list_that_reads_both_ways_is_refused(tmp_path, text):
    with pytest.raises(InputError, match=r"may be lines `.*` or `.*`; write target\|nontarget"):
        Trials.read(write(tmp_path / "trials", text))


def test_trials_is_a_public_name():
    assert nessa.Trials is Trials


@pytest.mark.parametrize(("name", "targets"), [("veri_test.txt", 18860), ("veri_test2.txt", 18802)])
def test_voxceleb_lists(name, targets):
    need(VOXCELEB_LISTS)
    trials = Trials.read(VOXCELEB_LISTS / name)
    assert len(trials) == {"veri_test.txt": 37720, "veri_test2.txt": 37611}[name]
    assert (trials.targets, trials.nontargets) == (targets, len(trials) - targets)
    assert trials.enroll[0] == "id10270/x6uYqmx31kE/00001.wav"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1 a b\na c target\n", 2),
        ("a b target\na c\n", 2),
        ("a b target\n0 a c\n", 2),
        ("a b\na c target\n", 2),
        ("1 a b\n\n0 a c\n", 2),
        ("1 a b\n2 a c\n", 2),
        ("a b\nc\nd e f\n", 2),
        ("a b imposter\n", 1),
        ("a\n", 1),
        ("\na b\n", 1),
    ],
)
def test_bad_lines_are_named(tmp_path, text, line):
    path = write(tmp_path / "trials", text)
    with pytest.raises(InputError, match=f"{path}: line {line}:"):
        Trials.read(path)


@pytest.mark.slow
def test_a_bad_line_far_down_is_named(tmp_path):
    path = write(tmp_path / "trials", "1 a b\n" * 250_000 + "1 a\n")
    with pytest.raises(InputError, match="line 250001: '1 a'"):
        Trials.read(path)


def test_empty_and_missing_files(tmp_path):
    for nothing in ("", "\n", " \n\n"):
        with pytest.raises(InputError, match="empty"):
            Trials.read(write(tmp_path / "trials", nothing))
    with pytest.raises(InputError, match="no such file"):
        Trials.read(tmp_path / "nothing")


def test_duplicates_may_agree_but_not_contradict(tmp_path):
    assert len(Trials.read(write(tmp_path / "a", "1 a b\n0 a c\n1 a b\n"))) == 3
    path = write(tmp_path / "b", "1 a b\n0 c d\n1 a b\n0 a b\n1 a b\n")
    with pytest.raises(InputError, match=f"{path}: trials 1 and 4: 'a' 'b'"):
        Trials.read(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], ["b", "c"]), "1 enrollment ids but 2 test ids"),
        (([], []), "without trials"),
        ((["a b"], ["c"]), "white space"),
        ((["a"], ["b "]), "'b ' has white space"),
        ((["a"], ["\ud800"]), "UTF-8"),
        (([1], ["b"]), "1 is not a string"),
        ((["a"], [""]), "empty"),
        ((["a"], ["\ufeffb"]), "byte order mark"),
        ((["a"], ["b"], [True, False]), "1 trials but 2 labels"),
        ((["a"], ["b"], [2]), "True/False"),
        ((["a"], ["b"], [[True]]), "shape"),
    ],
)
def test_bad_trials_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Trials(*arguments)


ids = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=5)
pairs = st.lists(st.tuples(ids, ids), min_size=1, max_size=20, unique=True)


@pytest.mark.slow
@settings(max_examples=40)  # each writes a file
@given(pairs, st.data())
def test_writing_and_reading_gives_the_same(tmp_path_factory, pairs, data):
    labels = data.draw(
        st.none() | st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs))
    )
    enroll, test = map(list, zip(*pairs, strict=True))
    path = tmp_path_factory.mktemp("trials") / "trials"
    Trials(enroll, test, labels).write(path)
    # An unlabeled list is one whatever its ids: no line of it has three fields.
    again = Trials.read(path)
    assert (again.enroll, again.test) == (enroll, test)
    assert again.labels is None if labels is None else again.labels.tolist() == labels


def test_counts_need_labels():
    with pytest.raises(InputError, match="no labels"):
        _ = Trials(["a"], ["b"]).targets


def test_select_keeps_order_and_labels():
    chosen = Trials(["a", "b", "c"], ["x", "y", "z"], [True, False, True]).select(
        np.array([True, False, True])
    )
    assert (chosen.enroll, chosen.test, chosen.targets) == (["a", "c"], ["x", "z"], 2)


def test_enroll_map(tmp_path):
    path = write(tmp_path / "enroll_map", "a-p2-1 u1 u2\nb-p1-1 u3\n")
    assert read_enroll_map(path) == {"a-p2-1": ["u1", "u2"], "b-p1-1": ["u3"]}
    for text, line in (("a u1\na u2\n", 2), ("a u1\nb u2 u2\n", 2), ("a\n", 1)):
        with pytest.raises(InputError, match=f"line {line}"):
            read_enroll_map(write(path, text))


def test_speakers_of_trials_see_through_profiles():
    trials = Trials(["p", "u1"], ["u3", "u2"])
    utt2spk = {"u1": "s1", "u2": "s1", "u3": "s2"}
    assert trial_speakers(trials, utt2spk, {"p": ["u1", "u2"]}) == (["s1", "s1"], ["s2", "s1"])
    with pytest.raises(InputError, match="'p' holds utterances of 2 speakers"):
        trial_speakers(trials, utt2spk, {"p": ["u1", "u3"]})
    with pytest.raises(InputError, match="no speaker is known for 'p'"):
        trial_speakers(trials, utt2spk)


# ---- scores ----


@settings(max_examples=40)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_scores_come_back_exactly(tmp_path_factory, values):
    trials = Trials([f"e{n}" for n in range(len(values))], ["t"] * len(values))
    path = tmp_path_factory.mktemp("scores") / "scores"
    write_scores(path, trials, values)
    scored, scores = read_scores(path)
    assert scored.enroll == trials.enroll and scored.test == trials.test
    assert scores.dtype == np.float32 and scores.tolist() == values


@pytest.mark.parametrize(
    "bad",
    [
        *("a b\n", "a b nan\n", "a b inf\n", "a b 1e39\n", "a b x\n", "a b 1 2\n", "\na b 1\n"),
        *("a b 1_0\n", "a b \u0661\n"),  # numbers to Python
    ],
)
def test_bad_score_lines_are_named(tmp_path, bad):
    path = write(tmp_path / "scores", "a b 0.5\n" + bad)
    with pytest.raises(InputError, match=f"{path}: line 2:"):
        read_scores(path)


LABELS = [("1", "0"), ("target", "nontarget"), ("tgt", "imp")]


@pytest.mark.parametrize(("yes", "no"), LABELS)
@pytest.mark.parametrize("line", ["{1} {2} {3} {0}", "{1} {2} {0} {3}", "{0}\t{1}\t{2}\t{3}"])
@pytest.mark.parametrize("scores", [(0.5, -2, 1), (1, 0, 0.25)])
def test_scores_with_a_label_are_read_wherever_it_stands(tmp_path, yes, no, line, scores):
    rows = [(True, "a", "x"), (False, "1", "0"), (True, "b", "x")]
    text = "".join(
        line.format(yes if label else no, *ids, score) + "\n"
        for (label, *ids), score in zip(rows, scores, strict=True)
    )
    scored, found = read_scores(write(tmp_path / "scores", text))
    assert list(zip(scored.labels.tolist(), scored.enroll, scored.test, strict=True)) == rows
    assert found.tolist() == list(scores)


@pytest.mark.parametrize(
    "text", ["a b 1 0\nc d 0 1\n", "1 x 0.5 1\n1 y 0.5 0\n", "0 b 1 1\n1 b 0 1\n"]
)
def test_a_label_that_may_be_the_score_is_refused(tmp_path, text):
    path = write(tmp_path / "scores", text)
    with pytest.raises(InputError, match=f"{path}: may be lines `.*enroll test"):
        read_scores(path)


def test_scores_without_ids_need_their_list(tmp_path):
    with pytest.raises(
        InputError, match="labels and scores without ids; write `enroll test score`"
    ):
        read_scores(write(tmp_path / "scores", "1 0.5\n0 0.25\n"))


def test_unfit_scores_are_not_written(tmp_path):
    trials = Trials(["a", "b"], ["c", "d"])
    for scores, message in (
        ([0.5], "shape"),
        ([0.5, np.nan], "'b' 'd' has score nan"),
        ([0.5, np.inf], "'b' 'd' has score inf"),
    ):
        with pytest.raises(InputError, match=message):
            write_scores(tmp_path / "scores", trials, scores)
    assert list(tmp_path.iterdir()) == []


def test_the_scores_that_a_killed_run_was_writing_are_removed(tmp_path):
    for name in ("a.scores", "b.scores"):
        (tmp_path / f".{name}.k1ll3d__.tmp").touch()
    write_scores(tmp_path / "a.scores", Trials(["e"], ["t"]), [0.5])
    assert sorted(os.listdir(tmp_path)) == [".b.scores.k1ll3d__.tmp", "a.scores"]


def test_scores_are_joined_by_key():
    trials = Trials(["a", "b", "a", "a"], ["x", "y", "y", "x"])
    scored = Trials(["a", "a", "b"], ["y", "x", "y"])
    assert join_scores(trials, scored, [1, 2, 3]).tolist() == [2, 3, 1, 2]


@pytest.mark.slow
@given(pairs, st.randoms())
def test_the_order_of_scores_does_not_matter(pairs, random):
    shuffled = list(range(len(pairs)))
    random.shuffle(shuffled)
    trials = Trials(*map(list, zip(*pairs, strict=True)))
    scored = Trials(*map(list, zip(*(pairs[row] for row in shuffled), strict=True)))
    assert join_scores(trials, scored, shuffled).tolist() == list(range(len(pairs)))


def test_joins_that_do_not_fit():
    trials = Trials(["a", "b"], ["x", "y"])
    with pytest.raises(InputError, match="trial 'b y' without a score"):
        join_scores(trials, Trials(["a"], ["x"]), [1])
    extra = Trials(["a", "b", "a", "c"], ["x", "y", "y", "x"])
    with pytest.raises(InputError, match="trial 'a y', 'c x' scored but not in"):
        join_scores(trials, extra, [1, 2, 3, 4])
    assert join_scores(trials, extra, [1, 2, 3, 4], allow_extra=True).tolist() == [1, 2]
    twice = Trials(["a", "b", "a"], ["x", "y", "x"])
    assert join_scores(trials, twice, [1, 2, 1]).tolist() == [1, 2]
    with pytest.raises(InputError, match="trial 'a x' scored twice"):
        join_scores(trials, twice, [1, 2, 3])
