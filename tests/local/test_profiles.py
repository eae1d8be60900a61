"""Trials that name profiles, in every recipe of a user's corpus, through to the scores."""

from pathlib import Path

import numpy as np
import pytest

from nessa.corpus.config import PrepareConfig
from nessa.corpus.finishing import finish_sets
from nessa.corpus.profiles import GivenTrials, lists_in
from nessa.corpus.validation import validate
from nessa.errors import InputError
from nessa.evaluation.conditions import read_conditions
from nessa.files import read_table, write_table
from nessa.kaldi.datadir import map_of_list, read_utt2spk, spk2utt_of
from nessa.kaldi.embeddings import Embeddings
from nessa.scoring.cosine import cosine_scores
from nessa.scoring.sides import Sides
from nessa.trials import Trials
from tests.kaldi_corpora import write_audio_dir
from tests.local.test_kaldi_dir import Own, own, programs  # noqa: F401
from tests.pairs import two_views

# Of speakers 10 and 11, each with the utterances rec0_0 to rec1_1; a profile of the first three.
TRIALS = "{a} {x}_rec1_1 target\n{a} {y}_rec1_1 nontarget\n{b} {y}_rec1_1 target\n"
X, Y = "spk010", "spk011"
PARTS = [f"rec{session}_{k}" for session in range(2) for k in range(2)]
MAP = "".join(
    f"{p} " + " ".join(f"{s}_{part}" for part in PARTS[:3]) + "\n"
    for p, s in (("m1", X), ("m2", Y))
)


def profiles(directory: Path, where: str) -> None:
    if where == "enroll_map":
        (directory / "enroll_map").write_text(MAP)
        (directory / "trials").write_text(TRIALS.format(a="m1", b="m2", x=X, y=Y))
    elif where == "named as speakers":
        (directory / "enroll_map").write_text(MAP.replace("m1", X).replace("m2", Y))
        (directory / "trials").write_text(TRIALS.format(a=X, b=Y, x=X, y=Y))
    elif where == "some utterances":
        (directory / "enroll_map").write_text(MAP)
        (directory / "trials").write_text(TRIALS.format(a="m1", b=f"{Y}_rec0_0", x=X, y=Y))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["enroll_map", "named as speakers", "some utterances"])
def test_profiles_of_given_trials_are_prepared(own: Own, where: str) -> None:  # noqa: F811
    mine = own.folder / "mine"
    write_audio_dir(mine, range(12))
    profiles(mine, where)
    (mine / "trials").rename(mine / "trials_models")
    (mine / "trials").write_text(f"{X}_rec0_0 {X}_rec1_0 target\n{X}_rec0_0 {Y}_rec1_0 nontarget\n")
    done = own.prepare(data=mine, held_out={"align": 3, "dev": 2})
    assert done.status == 0, done
    made = own.data / "eval"
    assert set(read_utt2spk(made).values()) == {X, Y}
    trials = Trials.read(made / "trials_models")
    given = map_of_list(made / "trials_models", trials.enroll_index.names)
    assert (
        given is not None and read_table(given).items() <= read_table(made / "enroll_map").items()
    )
    assert map_of_list(made / "trials", Trials.read(made / "trials").enroll) is None
    conditions = {condition.name: condition for condition in read_conditions(made)}
    assert conditions["models"].speakers == ([X, X, Y], [X, Y, Y])
    assert conditions["single"].enroll_map is None and "models" in conditions


def test_targets_of_speakers_of_their_own_are_refused(own: Own) -> None:  # noqa: F811
    """As in egs/sre16, whose utt2spk does not tell whose they are: no interval can be drawn."""
    mine = own.folder / "mine"
    tested = [f"{s}_rec1_1" for s in (X, Y)]
    utt2spk = write_audio_dir(mine, range(12)) | {name: name for name in tested}
    write_table(mine / "utt2spk", utt2spk)
    write_table(mine / "spk2utt", spk2utt_of(utt2spk))
    (mine / "trials").write_text(TRIALS.format(a=X, b=Y, x=X, y=Y))
    done = own.prepare(data=mine, held_out={"align": 3, "dev": 2})
    fault = (
        f"trials: trial {X!r} {tested[0]!r} is a target, but of speakers {X!r} and {tested[0]!r}"
    )
    assert done.status == 2 and f"{mine}/{fault}; correct its label or utt2spk" in done.err, done


def test_scores_of_a_list_of_profiles_and_utterances(tmp_path: Path) -> None:
    x, y, utt2spk = two_views(3, 4)
    names = list(utt2spk)
    x.write(tmp_path / "x")
    y.write(tmp_path / "y")
    (tmp_path / "map").write_text(f"m {names[0]} {names[1]}\n")
    trials = Trials(["m", names[2]], [names[3], names[4]])
    sides = Sides.read(tmp_path / "x", tmp_path / "x")
    own_sides = sides.with_profiles(tmp_path / "map", trials.enroll_index.names)
    found = cosine_scores(own_sides.enroll, own_sides.runtime, trials)
    mean = x.matrix[:2].mean(axis=0)
    table = Embeddings(["m", *names], [mean, *x.matrix])
    np.testing.assert_allclose(found, cosine_scores(table, x, trials), atol=1e-6)


def read(directory: Path, utt2spk: dict[str, str]) -> GivenTrials:
    return GivenTrials.read(directory, utt2spk, lists_in(directory))


UTT2SPK = {f"{s}-{k}": s for s in ("ann", "bob") for k in range(3)}


@pytest.mark.parametrize(
    ("enroll_map", "trials", "message"),
    [
        ("p ann-0 ann-9\n", "p ann-1 target\n", r"enroll_map \(1\): 'ann-9' is not in the set"),
        ("p ann-0\n", "q ann-1 target\n", r"trials \(1\): 'q' is not in the set"),
        ("p ann-0\n", "p ann-8 target\n", r"trials \(1\): 'ann-8' is not in the set"),
        ("p ann-0 ann-1\n", "p ann-1 target\n", "'p ann-1': the test utterance is one of the pro"),
        ("p ann-0 ann-1\n", "p ann-1\n", "'p ann-1': the test utterance is one of the profile"),
        (None, "ann-1 ann-1 target\n", "'ann-1 ann-1': the test utterance is that of the enroll"),
        ("ann-1 ann-1\n", "ann-1 ann-1\n", "'ann-1 ann-1': the test utterance is that of the en"),
        ("p ann-0 bob-1\n", "p ann-1 target\n", "profile 'p' holds utterances of 2 speakers"),
        ("ann-0 ann-1\n", "ann-0 ann-2 target\n", "'ann-0' is an utterance, and a profile of oth"),
        (None, "ann ann-2 target\n", "'ann ann-2': the test utterance is one of the profile"),
        ("p ann-0\n", "p bob-1 target\n", "trials: trial 'p' 'bob-1' is a target, but of speakers"),
        (
            "p ann-0\n",
            "p ann-1 nontarget\n",
            "is a nontarget, but of speakers 'ann' and 'ann'; cor",
        ),
        (None, "ann-0 bob-1 target\n", "'ann' and 'bob'; correct its label or utt2spk"),
        (None, "ann bob-1 target\n", "'ann' and 'bob'; correct its label or utt2spk"),
        (None, "eve ann-2 target\n", r"trials \(1\): 'eve' is not in the set"),
        (
            None,
            "1 ann/1.wav ann/0.wav\n0 ann/1.wav bob/0.wav\n",
            "trials: names other ids than utt2spk, such as 'ann/0.wav'; write them as 'ann-0', or",
        ),
    ],
)
def test_faults_of_profiles_are_named(
    tmp_path: Path, enroll_map: str | None, trials: str, message: str
) -> None:
    if enroll_map is not None:
        (tmp_path / "enroll_map").write_text(enroll_map)
    (tmp_path / "trials").write_text(trials)
    with pytest.raises(InputError, match=message):
        read(tmp_path, UTT2SPK).check(UTT2SPK)


@pytest.mark.parametrize("name", ["", "single", "profile3", "words.profile12"])
def test_lists_that_results_would_call_as_other_trials_are_refused(
    tmp_path: Path, name: str
) -> None:
    for good in ("trials", "trials_profiles", "trials_low_profile3", "trials_profile3.words"):
        (tmp_path / good).write_text("ann-0 ann-2 target\nann-0 bob-1 nontarget\n")
    read(tmp_path, UTT2SPK).check(UTT2SPK)
    path = tmp_path / f"trials_{name}"
    (tmp_path / "trials").rename(path)
    with pytest.raises(InputError, match=f"{path}: results call other trials {name!r}; rename"):
        read(tmp_path, UTT2SPK).check(UTT2SPK)


def test_a_profile_that_loses_an_utterance_is_skipped_with_its_trials(
    own: Own,  # noqa: F811
) -> None:
    mine = own.folder / "mine"
    write_audio_dir(mine, range(12))
    profiles(mine, "enroll_map")
    with open(mine / "trials", "a") as file:
        file.write(f"m2 {X}_rec1_1 nontarget\n")
    (mine / f"audio/{X}_rec0_1.wav").write_bytes(b"")
    done = own.prepare("--skip-bad", data=mine, held_out={"align": 3, "dev": 2})
    assert done.status == 0, done
    assert list(read_table(own.data / "eval/enroll_map_given")) == ["m2"]
    assert set(Trials.read(own.data / "eval/trials").enroll) == {"m2"}
    skipped = read_table(own.data / "eval/skipped")
    assert list(skipped) == ["m1", f"{X}_rec0_1", "trials:1", "trials:2"]
    assert skipped["m1"] == "profile of what was skipped"


def test_a_list_called_as_that_of_drawn_profiles_is_refused(own: Own) -> None:  # noqa: F811
    mine = own.folder / "mine"
    write_audio_dir(mine, range(12))
    profiles(mine, "enroll_map")
    (mine / "trials").rename(mine / "trials_profile")
    assert own.prepare("--skip-bad", data=mine).status == 2
    (problem,) = validate(mine)
    assert problem.startswith(f"{mine}/trials_profile: ") and "rename the list" in problem
    done = own.prepare(data=mine)
    assert done.status == 2 and problem in done.err, done
    (mine / "trials_profile").rename(mine / "trials_models")
    assert validate(mine) == [] and own.prepare(data=mine).status == 0
    assert validate(own.data / "eval") == []


def test_a_folder_of_trial_lists_is_refused_with_the_names_that_they_should_have(
    own: Own,  # noqa: F811
) -> None:
    mine = own.folder / "mine"
    write_audio_dir(mine, range(12))
    (mine / "trials").mkdir()
    (mine / "trials/vox1_O_cleaned.kaldi").write_text(f"{X}_rec0_0 {Y}_rec0_0 nontarget\n")
    (problem,) = validate(mine)
    assert problem.startswith(f"{mine}/trials: is a folder; rename it, and put")
    done = own.prepare(data=mine)
    assert done.status == 2 and problem in done.err, done


def test_profiles_in_trials_of_dev_are_refused_by_name(own: Own) -> None:  # noqa: F811
    write_audio_dir(own.folder / "mine", range(10))
    write_audio_dir(own.folder / "tuned", range(10, 12))
    profiles(own.folder / "tuned", "enroll_map")
    paths = {"data": own.folder / "mine", "dev": own.folder / "tuned"}
    done = own.prepare(**paths, held_out={"align": 3, "eval": 3})
    assert done.status == 2 and "'m1', 'm2'" in done.err and "single utterances" in done.err, done


def test_models_of_spk2utt_are_profiles(tmp_path: Path) -> None:
    utt2spk = {"a-1": "a", "a-2": "a", "a-3": "a", "b-1": "b", "b-2": "b"}
    (tmp_path / "spk2utt").write_text("m1 a-1 a-2\nm2 b-1\n")
    (tmp_path / "trials").write_text("m1 a-3 target\nm2 a-3 nontarget\nm1 b-2 nontarget\n")
    given = read(tmp_path, utt2spk)
    given.check(utt2spk)
    assert given.profiles == {"m1": ["a-1", "a-2"], "m2": ["b-1"]}


def test_a_spk2utt_that_has_more_than_utt2spk_is_named_where_trials_enroll_speakers(
    tmp_path: Path,
) -> None:
    (tmp_path / "spk2utt").write_text("ann ann-0 ann-1 ann-9\nbob bob-0 bob-1 bob-8 bob-2\n")
    (tmp_path / "trials").write_text("ann bob-1 nontarget\nann ann-2 target\n")
    given = read(tmp_path, UTT2SPK)
    with pytest.raises(InputError, match=r"spk2utt \(1\): 'ann-9' is not in the set \(utt2spk\)"):
        given.check(UTT2SPK)


def test_own_profiles_of_one_utterance_may_have_its_name(tmp_path: Path) -> None:
    (tmp_path / "enroll_map").write_text("ann-0 ann-0\nann ann-0 ann-1\n")
    (tmp_path / "trials").write_text("ann-0 ann-2 target\nann bob-2 nontarget\n")
    given = read(tmp_path, UTT2SPK)
    given.check(UTT2SPK)
    assert given.profiles == {"ann": ["ann-0", "ann-1"]}


@pytest.mark.parametrize("wanted", [(4000, 20000), (30, 20000), (4000, 100), (30, 100)])
def test_as_many_trials_are_drawn_as_there_are(tmp_path: Path, caplog, wanted) -> None:
    """Of 6 speakers with 4 utterances in 2 sessions: 8 target pairs of each, 480 others."""
    directory = tmp_path / "dev"
    utt2spk = {f"s{s}-{k}": f"s{s}" for s in range(6) for k in range(4)}
    write_table(directory / "utt2spk", utt2spk)
    write_table(directory / "utt2session", {u: str(int(u[-1]) // 2) for u in utt2spk})
    write_table(
        directory / "spk2utt", {f"s{s}": " ".join(f"s{s}-{k}" for k in range(4)) for s in range(6)}
    )
    counts = dict(zip(("targets", "nontargets"), wanted, strict=True))
    config = PrepareConfig(program="arks", trials={"dev": counts}, profile_sizes=())
    finish_sets(tmp_path, config, 1, has_audio=False)
    trials = Trials.read(directory / "trials")
    assert (trials.targets, trials.nontargets) == (min(wanted[0], 48), min(wanted[1], 480))
    for kind, asked, most in zip(("targets", "nontargets"), wanted, (48, 480), strict=True):
        said = f"{most} {kind} drawn instead of {asked} (prepare.trials.dev.{kind})"
        assert (said in caplog.text) == (asked > most)


def test_given_targets_within_a_session_are_counted(tmp_path: Path, caplog) -> None:
    utt2spk = {f"s{s}-{k}": f"s{s}" for s in range(3) for k in range(4)}
    directory = tmp_path / "eval"
    write_table(directory / "utt2spk", utt2spk)
    write_table(directory / "spk2utt", spk2utt_of(utt2spk))
    write_table(directory / "utt2session", {u: str(int(u[-1]) // 2) for u in utt2spk})
    write_table(directory / "enroll_map_given", {"p": "s0-0 s0-2", "q": "s1-0"})
    (directory / "trials").write_text(
        "p s0-3 target\nq s1-2 target\ns2-0 s2-1 target\ns2-0 s1-1 nontarget\n"
    )
    config = PrepareConfig(program="arks", profile_sizes=(1,))
    finish_sets(tmp_path, config, 1, has_audio=False)
    finish_sets(tmp_path, config, 1, has_audio=False)
    said = f"{directory}/trials: 2 of 3 targets are within one recording session"
    assert caplog.text.count(said) == 2 and caplog.text.count("within one") == 2


@pytest.fixture
def six(tmp_path: Path) -> Path:
    """An eval set of six speakers, each with two utterances in each of two sessions."""
    utt2spk = {f"s{s}-{k}": f"s{s}" for s in range(6) for k in range(4)}
    directory = tmp_path / "eval"
    write_table(directory / "utt2spk", utt2spk)
    write_table(directory / "spk2utt", spk2utt_of(utt2spk))
    write_table(directory / "utt2session", {u: str(int(u[-1]) // 2) for u in utt2spk})
    (directory / "trials").write_text("s0-0 s0-3 target\ns0-0 s1-3 nontarget\n")
    return directory


def test_profiles_that_are_drawn_no_more_go(six: Path) -> None:
    drawn = {six / "trials_profile", six / "enroll_map"}
    for sizes in ((1,), ()):
        config = PrepareConfig(program="arks", profile_sizes=sizes)
        finish_sets(six.parent, config, 1, has_audio=False)
        assert drawn & set(six.iterdir()) == (drawn if sizes else set())


def test_a_given_profile_that_is_called_as_a_drawn_one_is_refused(six: Path) -> None:
    write_table(six / "enroll_map_given", {"s0-p1-1": "s0-2"})
    (six / "trials").write_text("s0-p1-1 s0-1 target\ns0-p1-1 s1-1 nontarget\n")
    config = PrepareConfig(program="arks", profile_sizes=(1,))
    with pytest.raises(InputError, match="enroll_map_given: 's0-p1-1' is called as one that is d"):
        finish_sets(six.parent, config, 1, has_audio=False)


def test_no_trials_at_all_are_refused_by_the_key(tmp_path: Path) -> None:
    utt2spk = {f"s{s}-{k}": f"s{s}" for s in range(3) for k in range(2)}
    write_table(tmp_path / "dev/utt2spk", utt2spk)
    write_table(tmp_path / "dev/spk2utt", {s: f"{s}-0 {s}-1" for s in ("s0", "s1", "s2")})
    write_table(tmp_path / "dev/utt2session", dict.fromkeys(utt2spk, "1"))
    config = PrepareConfig(program="arks", trials={"dev": {"targets": 5, "nontargets": 5}})
    with pytest.raises(InputError, match=r"dev: no targets can be drawn \(prepare.trials.dev.targ"):
        finish_sets(tmp_path, config, 1, has_audio=False)


@pytest.mark.parametrize("further", [False, True])
def test_a_set_without_trials_is_refused_before_the_trainings(
    tmp_path: Path, further: bool
) -> None:
    utt2spk = {f"s{s}-{k}": f"s{s}" for s in range(3) for k in range(2)}
    write_table(tmp_path / "eval/utt2spk", utt2spk)
    write_table(tmp_path / "eval/spk2utt", spk2utt_of(utt2spk))
    write_table(tmp_path / "eval/utt2session", {u: u for u in utt2spk})
    if further:
        (tmp_path / "eval/trials_hard").write_text("s0-0 s0-1 target\ns0-0 s1-1 nontarget\n")
    with pytest.raises(InputError, match=r"eval: no trials; say in prepare.trials.eval how many"):
        finish_sets(tmp_path, PrepareConfig(program="arks"), 1, has_audio=False)
