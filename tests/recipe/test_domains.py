"""Domains in a recipe: its aligners learn them of align, and every score is of centered sides."""

from pathlib import Path

import numpy as np
import pytest

from nessa.alignment import Aligner, domains
from nessa.alignment.store import aligner_class
from nessa.files import read_table, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.recipe.fitting import fit_to_sets
from nessa.recipe.layout import COHORT, aligner_dir, mapped_dir, raw_cohort, score_file
from nessa.recipe.mapping import map_system, speaker_domains
from nessa.recipe.resolve import load_recipe
from nessa.recipe.scoring import score_system
from nessa.recipe.studies import Point, StudyRunner
from nessa.recipe.systems import System
from nessa.trials import read_scores
from tests.toy import Toy


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """Each second speaker's utterances are words, the others' sentences."""
    monkeypatch.setattr(domains, "FEWEST", 40)
    toy = Toy(tmp_path)
    for name in ("align", "dev", "eval"):
        speakers = read_utt2spk(toy.data / name)
        kinds = {u: ("word", "sentence")[int(s[2:]) % 2] for u, s in speakers.items()}
        write_table(toy.data / name / "utt2domain", kinds)
    return toy


def fitted(toy: Toy, kind: str) -> Aligner:
    aligner = fit_to_sets(aligner_class(kind)(), toy.x, toy.y, toy.data)
    aligner.save(aligner_dir(toy.exp, System(kind, "x", "y")))
    return aligner


def centered_eval(toy: Toy, aligner: Aligner) -> tuple[Embeddings, Embeddings]:
    kinds = read_table(toy.data / "eval/utt2domain")
    x, y = (Embeddings.read(side / "eval") for side in (toy.x, toy.y))
    return aligner.center_domains(x, "enroll", kinds), aligner.center_domains(y, "runtime", kinds)


def test_the_aligner_of_a_recipe_knows_the_domains_of_its_align_set(toy: Toy) -> None:
    shifts = fitted(toy, "procrustes").shifts
    assert shifts["enroll"].keys() == shifts["runtime"].keys() == {"word", "sentence"}


def test_likelihood_ratios_are_of_two_centered_sides(toy: Toy) -> None:
    plda, system = fitted(toy, "plda"), System("plda.llr", "x", "y")
    list(score_system(load_recipe(toy.recipe), toy.data, toy.exp, system))
    trials, scores = read_scores(score_file(toy.exp / "scores", system, "trials"))
    np.testing.assert_allclose(scores, plda.scores(*centered_eval(toy, plda), trials), rtol=1e-4)


def test_the_cohort_is_mapped_with_its_domains(toy: Toy) -> None:
    aligner, system = fitted(toy, "procrustes"), System("procrustes", "x", "y")
    recipe = load_recipe(toy.recipe)
    list(map_system(recipe, toy.data, toy.exp, system))
    raw = map(Embeddings.read, raw_cohort(toy.exp, system, recipe.scoring.cohort))
    expected = aligner.map_views(*raw, speaker_domains(toy.data / recipe.scoring.cohort))
    for side, own in zip(("enroll", "runtime"), expected, strict=True):
        found = Embeddings.read(mapped_dir(toy.exp, system, COHORT) / side)
        np.testing.assert_allclose(found.matrix, own.matrix, atol=1e-6)


def test_a_study_is_of_centered_sides(toy: Toy) -> None:
    """As of embeddings that were centered before."""
    aligner = fitted(toy, "procrustes")

    def measured() -> list[dict]:
        runner = StudyRunner(load_recipe(toy.recipe), toy.data, toy.exp)
        return runner.evaluate([Point("", None, {("x", "y"): [aligner]})], runner.conditions[0])

    (found,) = measured()
    for side, own in zip((toy.x, toy.y), centered_eval(toy, aligner), strict=True):
        own.write(side / "eval", read_utt2spk(toy.data / "eval"))
    (toy.data / "eval/utt2domain").unlink()
    (expected,) = measured()
    assert found["eer"] == expected["eer"]
