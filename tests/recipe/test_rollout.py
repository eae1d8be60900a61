"""nessa study rollout: the strategies over the days, from the cells of a recipe."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from nessa.files import read_json, read_table, write_table
from nessa.kaldi.datadir import spk2utt_of
from nessa.recipe import rollout
from nessa.recipe.layout import DEV, EVAL, score_file
from nessa.recipe.resolve import load_recipe
from nessa.recipe.rollout import DAYS, USE, write_rollout
from nessa.recipe.studies import read_studies
from nessa.recipe.systems import NESSA, RAW, System
from nessa.trials import Trials, read_scores, write_scores
from tests.conftest import Command
from tests.pairs import all_trials
from tests.toy import Toy

SHIFTS = {  # how far targets lie above impostors
    System(RAW, "x", "x"): 2.0,
    System(NESSA, "x", "y"): 2.6,
    System(RAW, "y", "y"): 3.5,
}


@pytest.fixture
def scored(tmp_path: Path) -> Toy:
    """Scores of three cells, with speakers of their own in dev and eval."""
    toy = Toy(tmp_path)
    for name in (DEV, EVAL):
        speakers = {f"{name}{s:02d}-{u}": f"{name}{s:02d}" for s in range(12) for u in range(4)}
        directory = toy.data / name
        for stale in directory.glob("trials*"):
            stale.unlink()
        write_table(directory / "utt2spk", speakers)
        write_table(directory / "spk2utt", spk2utt_of(speakers))
        trials = all_trials(speakers)
        trials.write(directory / "trials")
        noise = np.random.default_rng(3).standard_normal(len(trials))
        for system, shift in SHIFTS.items():
            path = score_file(toy.exp / "scores", system, "trials", name)
            write_scores(path, trials, noise + shift * np.asarray(trials.labels))
    return toy


def test_every_strategy_ends_where_it_should(scored: Toy, tmp_path: Path) -> None:
    records = write_rollout(
        load_recipe(scored.recipe), scored.data, scored.exp, tmp_path / "out.json"
    )
    assert read_json(tmp_path / "out.json")["records"] == records
    misses = {(r["strategy"], r["day"]): r["miss"] for r in records}
    runs = {(r["strategy"], r["day"]): r["runs"] for r in records}
    asked = {(r["strategy"], r["day"]): r["asked"] for r in records}
    old, aligned, new = (misses[name, 0] for name in ("no update", "aligned", "re-enroll at once"))
    assert old > aligned > new
    last = DAYS[-1]
    for name in ("no update", "aligned", "re-enroll at once"):
        assert {misses[name, day] for day in DAYS} == {misses[name, 0]}
    assert misses["re-enroll on use", 0] == 1
    assert misses["double version", 0] == old
    assert misses["aligned, re-enroll on use", 0] == aligned
    for name in ("re-enroll on use", "double version", "aligned, re-enroll on use"):
        own = [misses[name, day] for day in DAYS]
        assert own == sorted(own, reverse=True)
        assert own[-1] == pytest.approx(new, abs=0.02)
    assert (runs["double version", 0], runs["aligned", 0]) == (2, 1)
    assert 1 < runs["double version", last] < 1.05
    assert asked["re-enroll at once", 0] == 1
    assert asked["re-enroll on use", 1] == pytest.approx(USE)
    assert asked["re-enroll on use", last] == pytest.approx(1 - (1 - USE) ** last)
    assert asked["aligned, re-enroll on use", last] == 0


def test_scores_that_change_meanwhile_make_it_stale(
    scored: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(scored.recipe)
    changing = score_file(scored.exp / "scores", System(RAW, "y", "y"), "trials", DEV)

    def read(path: Path) -> tuple[Trials, np.ndarray]:
        found = read_scores(path)
        if path == changing:
            write_scores(path, found[0], found[1] + 1)
        return found

    monkeypatch.setattr(rollout, "read_scores", read)
    write_rollout(recipe, scored.data, scored.exp, scored.exp / "studies/rollout.json")
    assert read_studies(recipe, scored.data, scored.exp) == {}


def test_the_command(scored: Toy, nessa: Command) -> None:
    given = "--recipe", scored.recipe, "--data", scored.data, "--exp", scored.exp
    done = nessa("study", "rollout", *given)
    assert done.status == 0, done
    (row,) = [line for line in done.out.splitlines() if line.startswith("double version")]
    assert " 2.0 " in row, "encoder runs on day 0"
    (scored.exp / "scores/raw/y-y/dev/trials.scores").unlink()
    nessa("study", "rollout", *given).refused("trials.scores")
    shutil.rmtree(scored.exp / "studies")
    (scored.exp / "studies").touch()
    done = nessa("study", "rollout", *given)
    assert done.status == 1 and f"{scored.exp}/studies: Not a directory" in done.err


def test_a_main_list_of_profiles_is_refused(scored: Toy, nessa: Command) -> None:
    own = read_table(scored.data / "eval/utt2spk")
    write_table(scored.data / "eval/enroll_map_given", {u: u for u in own})
    given = "--recipe", scored.recipe, "--data", scored.data, "--exp", scored.exp
    done = nessa("study", "rollout", *given)
    done.refused(f"{scored.data}/eval/trials: names profiles, and", "one utterance")
