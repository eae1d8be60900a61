"""A recipe's systems: what `nessa recipe score` writes is what the commands on files would."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nessa.alignment import PLDAAligner
from nessa.alignment.lda_plda import LDAPLDA
from nessa.errors import InputError
from nessa.files import read_json, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.recipe.backends import fit_backend
from nessa.recipe.config import ScoringConfig
from nessa.recipe.layout import AS_NORM, COSINE, aligner_dir, backend_file, score_file
from nessa.recipe.mapping import map_system
from nessa.recipe.plan import plan
from nessa.recipe.resolve import load_recipe
from nessa.recipe.scoring import cohort_warnings, score_system
from nessa.recipe.systems import (
    System,
    aligned_systems,
    has_as_norm,
    scored_systems,
    symmetric_systems,
    update_cells,
)
from nessa.scoring.calibration import Calibration, read_calibration
from nessa.scoring.sides import score_trials
from nessa.trials import Trials, read_enroll_map, read_scores
from tests.toy import Toy

RAW = System("raw", "x", "x")


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """With a profile of two utterances in the eval set."""
    toy = Toy(tmp_path)
    eval_set = toy.data / "eval"
    write_table(eval_set / "enroll_map", {"id00200-p2-0": "id00200-s0-00000 id00201-s0-00000"})
    (eval_set / "trials_profile").write_text("id00200-p2-0 id00201-s0-00001 target\n")
    return toy


def score(toy: Toy, system: System) -> list[str]:
    return list(score_system(load_recipe(toy.recipe), toy.data, toy.exp, system))


@pytest.mark.parametrize("kind", [COSINE, AS_NORM])
@pytest.mark.parametrize(("set_name", "list_name"), [
    ("dev", "trials"), ("eval", "trials"), ("eval", "trials_profile")
])  # fmt: skip
def test_scores_are_those_of_the_command(
    toy: Toy, set_name: str, list_name: str, kind: str
) -> None:
    lines = score(toy, RAW)
    path = score_file(toy.exp / "scores", RAW, list_name, set_name, kind)
    assert sum(line.startswith(f"{path}: ") for line in lines) == 1
    profiles = toy.data / "eval/enroll_map" if list_name == "trials_profile" else None
    cohort = toy.x / "align/spk_xvector.scp"
    score_trials(
        toy.x / set_name,
        toy.x / set_name,
        toy.data / set_name / list_name,
        toy.folder / "scores",
        enroll_map=profiles,
        cohort=(cohort, cohort) if kind else None,
        top_n=20,
    )
    (trials, scores), (other_trials, other) = map(read_scores, (path, toy.folder / "scores"))
    assert (trials.enroll, trials.test) == (other_trials.enroll, other_trials.test)
    # A vector's cohort scores differ in the last bit with those that are computed beside it.
    np.testing.assert_allclose(scores, other, rtol=0, atol=2e-6 if kind else 0)


@pytest.mark.parametrize(("kind", "method"), [(COSINE, "cosine"), (AS_NORM, "as_norm")])
def test_dev_calibrates_eval(toy: Toy, kind: str, method: str) -> None:
    score(toy, RAW)
    scores_dir = toy.exp / "scores"
    place = scores_dir, RAW, "trials"
    trials = Trials.read(toy.data / "dev/trials")
    _, dev = read_scores(score_file(*place, "dev", kind))
    fitted = Calibration.fit(dev, trials.labels, p_target=0.01)
    stored = read_json(scores_dir / f"raw/x-x/calibration{kind}.json")
    model = Embeddings.read(toy.x / "dev").stamp
    assert model is not None
    assert Calibration.from_dict(stored) == replace(fitted, method=method, pair=model.fingerprint)
    for list_name in ("trials", "trials_profile"):
        _, scores = read_scores(score_file(scores_dir, RAW, list_name, "eval", kind))
        _, llrs = read_scores(score_file(scores_dir, RAW, list_name, "eval", kind, calibrated=True))
        np.testing.assert_allclose(llrs, fitted.apply(scores), rtol=1e-6)
    assert not score_file(*place, "dev", kind, calibrated=True).exists()


def test_scoring_again_gives_the_same_bytes(toy: Toy) -> None:
    score(toy, RAW)
    files = [path for path in (toy.exp / "scores").rglob("*") if path.is_file()]
    before = [path.read_bytes() for path in files]
    score(toy, RAW)
    assert [path.read_bytes() for path in files] == before
    assert len(files) == 2 * (3 + 2 + 1)  # per kind: scores, likelihood ratios, a calibration


def test_plda_is_scored_by_its_likelihood_ratio_too(toy: Toy) -> None:
    recipe = load_recipe(toy.recipe)
    x, y = (Embeddings.read(side / "align") for side in (toy.x, toy.y))
    plda = PLDAAligner().fit(x, y, read_utt2spk(toy.data / "align"))
    plda.save(aligner_dir(toy.exp, System("plda", "x", "y")))
    ratio = System("plda.llr", "x", "y")
    assert ratio not in scored_systems(recipe), "only where PLDA is a baseline"
    with_plda = recipe.model_copy(update={"baselines": ("plda",)})
    assert ratio in scored_systems(with_plda) and ratio not in aligned_systems(with_plda)
    score(toy, ratio)
    profiles = {"trials": None, "trials_profile": read_enroll_map(toy.data / "eval/enroll_map")}
    enroll, runtime = (Embeddings.read(side / "eval") for side in (toy.x, toy.y))
    for name, enroll_map in profiles.items():
        trials = Trials.read(toy.data / "eval" / name)
        _, scores = read_scores(score_file(toy.exp / "scores", ratio, name))
        expected = plda.scores(enroll, runtime, trials, enroll_map)
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert not score_file(toy.exp / "scores", ratio, "trials", kind=AS_NORM).exists()
    assert read_json(toy.exp / "scores/plda.llr/x-y/calibration.json")["method"] == "plda"


@pytest.mark.slow
def test_the_calibration_of_an_aligner_names_its_maps(toy: Toy) -> None:
    system = System("plda", "x", "y")
    x, y = (Embeddings.read(side / "align") for side in (toy.x, toy.y))
    plda = PLDAAligner().fit(x, y, read_utt2spk(toy.data / "align"))
    plda.save(aligner_dir(toy.exp, system))
    list(map_system(load_recipe(toy.recipe), toy.data, toy.exp, system))
    score(toy, system)
    score(toy, RAW)
    for kind, method in (("", "cosine"), (".asnorm", "as_norm")):
        found = read_json(toy.exp / f"scores/plda/x-y/calibration{kind}.json")
        assert (found["pair"], found["method"]) == (plda.pair(), method)
        assert found["enroll"] == plda.map_digest("enroll")
    of_raw = toy.exp / "scores/raw/x-x/calibration.json"
    with pytest.raises(InputError, match=f"{of_raw}: is of another aligner's scores"):
        read_calibration(of_raw, plda.pair())


def test_models_are_scored_by_lda_and_plda_too(toy: Toy) -> None:
    recipe = load_recipe(toy.recipe)
    system = System("lda_plda", "x", "x")
    assert system not in symmetric_systems(recipe), "only where PLDA is a baseline"
    with_plda = recipe.model_copy(update={"baselines": ("plda",)})
    assert system in symmetric_systems(with_plda) and system not in scored_systems(with_plda)
    assert (dict(plan(recipe))["backends"], dict(plan(with_plda))["backends"]) == ("", "x y")
    with pytest.raises(InputError, match=r"backends/lda_plda/x.safetensors: no such file"):
        score(toy, system)
    path = backend_file(toy.exp, "x")
    assert fit_backend(toy.data, toy.exp, "x").startswith(f"{path}: LDA from 12 to 12 dimensions")
    score(toy, system)
    backend, embeddings = LDAPLDA.load(path), Embeddings.read(toy.x / "eval")
    profiles = {"trials": None, "trials_profile": read_enroll_map(toy.data / "eval/enroll_map")}
    for name, enroll_map in profiles.items():
        trials = Trials.read(toy.data / "eval" / name)
        _, scores = read_scores(score_file(toy.exp / "scores", system, name))
        expected = backend.scores(embeddings, trials, enroll_map)
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
        assert score_file(toy.exp / "scores", system, name, calibrated=True).is_file()
    assert not score_file(toy.exp / "scores", system, "trials", kind=AS_NORM).exists()
    before = path.read_bytes()
    fit_backend(toy.data, toy.exp, "x")
    assert path.read_bytes() == before


def test_a_back_end_of_another_model_is_named(toy: Toy) -> None:
    fit_backend(toy.data, toy.exp, "y")
    backend_file(toy.exp, "y").rename(backend_file(toy.exp, "x"))
    with pytest.raises(InputError, match=r"embeddings/x/dev: embeddings are of model 'x'"):
        score(toy, System("lda_plda", "x", "x"))


def test_align_speakers_of_one_utterance_are_named(toy: Toy) -> None:
    path = toy.data / "align/utt2spk"
    write_table(path, {key: key for key in read_utt2spk(path.parent)})
    with pytest.raises(InputError, match=r"x/align, .*data/align: no align speaker has two"):
        fit_backend(toy.data, toy.exp, "x")


def test_a_cohort_smaller_than_top_n_is_named(toy: Toy) -> None:
    toy.recipe.write_text(toy.recipe.read_text().replace("top_n: 20", "top_n: 41"))
    with pytest.raises(InputError, match=r"x/align/spk_xvector.scp.*top_n 41 .* the 40 vectors"):
        score(toy, RAW)


def test_what_was_not_mapped_is_named(toy: Toy) -> None:
    with pytest.raises(InputError, match="mapped/nessa/x-y/cohort/enroll: no such file or folder"):
        score(toy, System("nessa", "x", "y"))


def test_dev_trials_without_labels_cannot_calibrate(toy: Toy) -> None:
    path = toy.data / "dev/trials"
    trials = Trials.read(path)
    Trials(trials.enroll, trials.test).write(path)
    with pytest.raises(InputError, match=f"{path}: no labels"):
        score(toy, RAW)


def test_raw_vectors_of_two_dimensions_are_refused_before_aligners_are_fitted(toy: Toy) -> None:
    recipe = load_recipe(toy.recipe).model_copy(update={"baselines": ("raw",)})
    with pytest.raises(InputError, match=r"those of x and y have dimensions 12 and 20; leave out"):
        list(score_system(recipe, toy.data, toy.exp, RAW))


def test_as_norm_is_left_out_for_additional_seeds_only(toy: Toy) -> None:
    assert has_as_norm(System("logit", "x", "y")) and has_as_norm(System("nessa", "x", "y"))
    assert not has_as_norm(System("nessa.seed2", "x", "y"))
    assert all(map(has_as_norm, update_cells(load_recipe(toy.recipe))))


def test_a_cohort_of_fewer_speakers_than_scores_count_is_told_before_training(
    tmp_path: Path,
) -> None:
    (tmp_path / "align").mkdir()
    write_table(tmp_path / "align/spk2utt", {"a": "a-1 a-2", "b": "b-1", "c": "c-1"})
    assert not list(cohort_warnings(tmp_path, ScoringConfig(top_n=3)))
    (warning,) = cohort_warnings(tmp_path, ScoringConfig(top_n=4))
    assert "align/spk2utt: 3 speakers, fewer than scoring.top_n (4)" in warning
