"""Profiles kept as several vectors: the largest or the mean of the cosines."""

from pathlib import Path

import numpy as np
import pytest

from nessa.errors import InputError
from nessa.files import write_json, write_table
from nessa.kaldi.embeddings import Embeddings
from nessa.scoring.calibration import Calibration
from nessa.scoring.cosine import cosine_scores
from nessa.scoring.exemplars import exemplar_scores
from nessa.trials import Trials, read_scores
from tests.conftest import Command
from tests.pairs import all_trials, two_views


@pytest.fixture(scope="module")
def view() -> tuple[Embeddings, dict[str, str]]:
    _, runtime, speakers = two_views(6, 4)
    return runtime, speakers


def test_profiles_of_one_utterance_are_that_utterance(
    view: tuple[Embeddings, dict[str, str]],
) -> None:
    table, speakers = view
    trials = all_trials(speakers)
    plain = cosine_scores(table, table, trials)
    for combine in ("max", "mean"):
        assert np.array_equal(exemplar_scores(table, table, trials, {}, combine), plain)
        alone = {key: [key] for key in table.keys}
        assert np.array_equal(exemplar_scores(table, table, trials, alone, combine), plain)


def test_each_profile_is_combined_by_itself(view: tuple[Embeddings, dict[str, str]]) -> None:
    table, _ = view
    profiles = {"a": table.keys[:3], "b": table.keys[4:6], "c": table.keys[8:9]}
    tests = table.keys[10:14]
    trials = Trials([name for name in profiles for _ in tests], tests * 3)
    unit = table.matrix / np.linalg.norm(table.matrix, axis=1, keepdims=True)
    rows = [unit[table.rows(own)] for own in profiles.values()]
    cosines = [own @ unit[table.rows(tests)].T for own in rows]
    for combine, reduce in (("max", np.max), ("mean", np.mean)):
        wanted = np.concatenate([reduce(own, axis=0) for own in cosines])
        found = exemplar_scores(table, table, trials, profiles, combine)
        assert found == pytest.approx(wanted, abs=1e-6)


def test_an_utterance_without_an_embedding_is_named(
    view: tuple[Embeddings, dict[str, str]],
) -> None:
    table, _ = view
    trials = Trials(["a"], table.keys[:1])
    with pytest.raises(InputError, match="no vector for 'nobody'"):
        exemplar_scores(table, table, trials, {"a": ["nobody"]}, "max")


def test_the_command(
    tmp_path: Path, nessa: Command, view: tuple[Embeddings, dict[str, str]]
) -> None:
    table, _ = view
    table.write(tmp_path / "emb")
    write_table(tmp_path / "map", {"a": " ".join(table.keys[:3])})
    (tmp_path / "trials").write_text(f"a {table.keys[3]}\na {table.keys[9]}\n")
    sides = "--enroll", tmp_path / "emb", "--runtime", tmp_path / "emb"
    given = "score", *sides, "--trials", tmp_path / "trials", "--output", tmp_path / "scores"
    profiles = "--enroll-map", tmp_path / "map"
    assert nessa(*given, *profiles, "--exemplars", "max").status == 0
    largest = read_scores(tmp_path / "scores")[1]
    assert nessa(*given, *profiles, "--exemplars", "mean").status == 0
    assert (largest >= read_scores(tmp_path / "scores")[1]).all()
    nessa(*given, "--exemplars", "max").refused("--exemplars goes with --enroll-map")
    write_json(tmp_path / "averages.json", Calibration(1.0, 0.0, method="cosine").to_dict())
    others = "--exemplars", "max", "--calibration", tmp_path / "averages.json"
    nessa(*given, *profiles, *others).refused("--exemplars goes without --calibration")
