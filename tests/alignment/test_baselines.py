"""The linear competitors and the regression network, against independent implementations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge, RidgeCV

from benchmarks.simulation import Simulation
from nessa.alignment import (
    ALIGNERS,
    Aligner,
    CCAAligner,
    DevSet,
    PLDAAligner,
    ProcrustesAligner,
    RawAligner,
    RegressionAligner,
    RidgeAligner,
    load,
)
from nessa.alignment import linear as cca
from nessa.alignment import linear as ridge
from nessa.alignment.linear import dev_eer
from nessa.alignment.preprocessing import center
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp
from nessa.metrics.roc import eer
from nessa.production.export_aligner import side_module
from nessa.recipe.aligners import make_aligner
from nessa.recipe.resolve import resolve
from tests.conftest import ROOT
from tests.pairs import all_trials, as_trials, drawn_trials, two_views

pytestmark = pytest.mark.usefixtures("one_thread")

MAKE = {
    "ridge": RidgeAligner,
    "cca": CCAAligner,
    "plda": PLDAAligner,
    "plda as it is": lambda: PLDAAligner(length_normalize=False),
    "regression": lambda: RegressionAligner(hidden_dim=16, steps=40, evaluate_every=20),
}
NORMALIZING = [name for name in MAKE if name != "plda as it is"]


def dev_set() -> DevSet:
    enroll, runtime, names = two_views(15, 3, first_speaker=5000)
    return DevSet(enroll, runtime, all_trials(names))


def fitted(name: str, dev: bool = True) -> Aligner:
    return MAKE[name]().fit(*two_views(100, 5), dev_set() if dev else None)


def unseen(aligner: Aligner) -> float:
    enroll, runtime, names = two_views(40, 3, first_speaker=9000)
    return dev_eer(aligner, DevSet(enroll, runtime, all_trials(names)))


@pytest.mark.parametrize("dev", [True, False], ids=["dev", "no dev"])
@pytest.mark.parametrize("name", MAKE)
def test_both_sides_meet_in_one_space_at_unit_length(name: str, dev: bool) -> None:
    aligner = fitted(name, dev)
    rng = np.random.default_rng(0)
    x = aligner.map_enroll(rng.standard_normal((5, 12)).astype(np.float32))
    y = aligner.map_runtime(rng.standard_normal((7, 20)).astype(np.float32))
    assert x.dtype == y.dtype == np.float32 and x.shape[1] == y.shape[1]
    for z in (x, y):
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
    assert unseen(aligner) < 0.25


@pytest.mark.parametrize("name", MAKE)
def test_the_mirror_swaps_the_sides_and_saves(name: str, tmp_path: Path) -> None:
    aligner = fitted(name)
    x, y, _ = two_views(5, 2, first_speaker=300)
    aligner.mirrored().save(tmp_path)
    for mirror in (aligner.mirrored(), load(tmp_path)):
        np.testing.assert_array_equal(mirror.map_runtime(x.matrix), aligner.map_enroll(x.matrix))
        np.testing.assert_array_equal(mirror.map_enroll(y.matrix), aligner.map_runtime(y.matrix))


@pytest.mark.parametrize("name", MAKE)
def test_a_row_does_not_depend_on_its_company(name: str) -> None:
    aligner = fitted(name)
    y = np.random.default_rng(1).standard_normal((9, 20)).astype(np.float32)
    alone = np.concatenate([aligner.map_runtime(row[None]) for row in y])
    np.testing.assert_allclose(aligner.map_runtime(y), alone, atol=1e-5)
    if name in NORMALIZING:
        np.testing.assert_allclose(aligner.map_runtime(3 * y), alone, atol=1e-5)


@pytest.mark.parametrize("name", MAKE)
def test_a_saved_aligner_maps_alike_and_knows_its_models(name: str, tmp_path: Path) -> None:
    fitted(name).save(tmp_path)
    again, aligner = load(tmp_path), fitted(name)
    x, y, _ = two_views(5, 2, first_speaker=300)
    assert again.space() == aligner.space(), "two fits to the same data are the same"
    np.testing.assert_array_equal(again.map_enroll(x.matrix), aligner.map_enroll(x.matrix))
    np.testing.assert_array_equal(again.map_runtime(y.matrix), aligner.map_runtime(y.matrix))
    assert again.settings == aligner.settings
    assert all(array.dtype == np.float32 for array in again.arrays.values())
    with pytest.raises(InputError, match="enrollment embeddings are of model 'y'"):
        again.check_models(y, None)


@pytest.mark.parametrize("name", MAKE)
def test_wrong_input_to_a_map_is_refused(name: str) -> None:
    aligner = fitted(name, dev=False)
    with pytest.raises(InputError, match="dimension 20; this aligner takes 12"):
        aligner.map_enroll(np.zeros((3, 20), np.float32))
    with pytest.raises(InputError, match="dimension 12; this aligner takes 20"):
        aligner.map_runtime(np.zeros((3, 12), np.float32))
    with pytest.raises(InputError, match="row 1 is not finite"):
        aligner.map_runtime(np.array([[1.0] * 20, [np.nan] * 20], np.float32))


@pytest.mark.parametrize("name", NORMALIZING)
def test_the_form_for_export_maps_alike(name: str) -> None:
    aligner = fitted(name, dev=False)
    views = two_views(5, 2, first_speaker=300)[:2]
    maps = aligner.map_enroll, aligner.map_runtime
    for side, view, mapping in zip(("enroll", "runtime"), views, maps, strict=True):
        with torch.inference_mode():
            mapped = side_module(aligner, side).eval()(torch.from_numpy(view.matrix))
        np.testing.assert_allclose(mapped, mapping(view.matrix), atol=1e-5)


def test_a_plda_without_length_normalization_is_not_exported() -> None:
    with pytest.raises(InputError, match="length_normalize"):
        side_module(fitted("plda as it is", dev=False), "enroll")


def test_every_baseline_of_a_recipe_is_made() -> None:
    names = [name for name in ALIGNERS if name != "neural"]
    mini = ROOT / "recipes/mini/recipe.yaml"
    recipe = resolve(mini, overrides=[f"baselines={names}"])
    assert [make_aligner(name, recipe).kind for name in names] == names


@pytest.mark.parametrize("name", ["ridge", "cca", "plda"])
def test_a_rotation_of_a_models_space_changes_no_score(name: str) -> None:
    enroll, runtime, speakers = two_views(60, 4)
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((20, 20)))[0]
    turned = Embeddings(runtime.keys, runtime.matrix @ rotation.astype(np.float32))
    a, b = MAKE[name]().fit(enroll, runtime, speakers), MAKE[name]().fit(enroll, turned, speakers)
    scores = [
        aligner.map_enroll(enroll.matrix) @ aligner.map_runtime(view.matrix).T
        for aligner, view in ((a, runtime), (b, turned))
    ]
    np.testing.assert_allclose(*scores, atol=1e-3)


@pytest.mark.parametrize("name", ["ridge", "cca", "plda"])
def test_dev_speakers_decide_on_the_regularization(name: str) -> None:
    few = two_views(12, 3)
    dev = dev_set()
    errors = [dev_eer(MAKE[name]().fit(*few, d), dev) for d in (dev, None)]
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("name", ["cca", "plda"])
def test_speakers_of_one_utterance_only_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="no align speaker has two utterances"):
        MAKE[name]().fit(*two_views(30, 1))


@pytest.mark.parametrize("name", ["cca", "plda"])
def test_uneven_numbers_of_utterances_are_taken(name: str) -> None:
    enroll, runtime, speakers = two_views(150, 6)
    kept = [key for i, key in enumerate(enroll.keys) if i % 6 <= i // 6 % 6]  # 1 to 6 of each
    aligner = MAKE[name]().fit(enroll.select(kept), runtime.select(kept), speakers)
    assert unseen(aligner) < 0.15


# ---- raw ----------------------------------------------------------------------------------------


def test_raw_is_the_plain_cosine_and_needs_equal_dimensions(tmp_path: Path) -> None:
    enroll, runtime, speakers = two_views(10, 3, dims=(8, 8))
    RawAligner().fit(enroll, runtime, speakers).save(tmp_path)
    mapped = load(tmp_path).map_runtime(runtime.matrix)
    unit = runtime.matrix / np.linalg.norm(runtime.matrix, axis=1, keepdims=True)
    np.testing.assert_allclose(mapped, unit, atol=1e-6)
    with pytest.raises(InputError, match=r"dimension 12, runtime ones 20.*baselines"):
        RawAligner().fit(*two_views(10, 3))


# ---- ridge --------------------------------------------------------------------------------------


def views_of(aligner: Aligner, enroll: Embeddings, runtime: Embeddings) -> list[np.ndarray]:
    return [
        center(e.matrix, aligner.arrays[f"{side}_mean"])
        for e, side in ((enroll, "enroll"), (runtime, "runtime"))
    ]


def test_ridge_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "PENALTIES", (0.2,))
    enroll, runtime, speakers = two_views(40, 4)
    aligner = RidgeAligner().fit(enroll, runtime, speakers)
    x, y = views_of(aligner, enroll, runtime)
    model = Ridge(alpha=0.2 * np.trace(y.T @ y) / 20, fit_intercept=False).fit(y, x)
    np.testing.assert_allclose(aligner.arrays["runtime_map"], model.coef_.T, atol=1e-5)
    np.testing.assert_allclose(aligner.map_enroll(enroll.matrix), x, atol=1e-6)


def test_without_dev_ridge_chooses_as_leave_one_out_does() -> None:
    enroll, runtime, speakers = two_views(15, 3, noise=(0.6, 0.6))
    aligner = RidgeAligner().fit(enroll, runtime, speakers)
    x, y = views_of(aligner, enroll, runtime)
    alphas = np.array(ridge.PENALTIES) * np.trace(y.T @ y) / 20
    model = RidgeCV(alphas, fit_intercept=False).fit(y, x)
    assert alphas[0] < model.alpha_ < alphas[-1], "a choice that is no boundary"
    np.testing.assert_allclose(aligner.arrays["runtime_map"], model.coef_.T, atol=1e-4)


# ---- CCA ----------------------------------------------------------------------------------------


def mirrored(embeddings: Embeddings, suffix: str = "m") -> Embeddings:
    """With its mirror image, so that every mean is exactly 0."""
    keys = [*embeddings.keys, *(f"{suffix}{key}" for key in embeddings.keys)]
    return Embeddings(keys, np.concatenate([embeddings.matrix, -embeddings.matrix]))


def test_cca_is_scikit_learns_on_pairs_of_different_utterances(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cca, "SHRINKAGES", (0.0,))
    enroll, runtime, speakers = two_views(60, 3, factor=4, dims=(5, 6))
    speakers |= {f"m{key}": f"m{name}" for key, name in speakers.items()}
    enroll, runtime = mirrored(enroll), mirrored(runtime)
    aligner = CCAAligner().fit(enroll, runtime, speakers)
    x, y = views_of(aligner, enroll, runtime)
    rows = np.arange(len(x)).reshape(-1, 3)
    i, j = (rows[:, side].ravel() for side in zip(*[(0, 1), (0, 2), (1, 2)], strict=True))
    pairs = np.concatenate([i, j]), np.concatenate([j, i])
    model = CCA(n_components=3, scale=False, max_iter=5000, tol=1e-10).fit(x[pairs[0]], y[pairs[1]])
    for ours, theirs in (
        (aligner.arrays["enroll_map"], model.x_rotations_),
        (aligner.arrays["runtime_map"], model.y_rotations_),
    ):
        for k in range(3):
            cosine = ours[:, k] @ theirs[:, k] / np.linalg.norm(ours[:, k])
            np.testing.assert_allclose(abs(cosine) / np.linalg.norm(theirs[:, k]), 1, atol=1e-3)


def test_cca_does_not_hear_what_two_views_of_one_utterance_share() -> None:
    """A channel in both views of an utterance correlates them, and says nothing of the speaker."""
    enroll, runtime, speakers = two_views(300, 4, noise=(0.3, 0.3))
    channel = 3 * np.random.default_rng(3).standard_normal((len(enroll), 1))
    loud = [
        Embeddings(e.keys, e.matrix + (channel * (np.arange(e.dim) == 0)).astype(np.float32))
        for e in (enroll, runtime)
    ]
    aligner = CCAAligner().fit(*loud, speakers)
    weights = np.linalg.norm(aligner.arrays["enroll_map"], axis=1)
    assert weights[0] < 0.5 * np.median(weights)
    assert unseen(aligner) < unseen(ProcrustesAligner().fit(*loud, speakers))


# ---- PLDA ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("simulation", "align"),
    [
        pytest.param(
            Simulation(dims=(24, 30), factor_dim=16, noise=(1.3, 1.0)), (3000, 5), id="small"
        ),
        pytest.param(Simulation(), (20000, 6), id="default", marks=pytest.mark.slow),
    ],
)
def test_plda_is_within_two_percent_of_the_bayes_optimal_eer(
    simulation: Simulation, align: tuple[int, int]
) -> None:
    aligner = PLDAAligner(length_normalize=False).fit(*simulation.sample(*align))
    x, y, utt2spk = simulation.sample(1000, 4, set_number=1)
    pairs, labels = drawn_trials(1000, 4, 200000)
    trials = as_trials(list(utt2spk), pairs, labels)
    best = eer(simulation.optimal_scores(x, y, trials), labels)
    ours = eer(aligner.scores(x, y, trials), labels)
    assert 0.03 < best < 0.2
    assert abs(ours / best - 1) < 0.02


@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [3, 1, 8, 3]])
def test_the_likelihood_ratio_is_the_dense_gaussian_one(counts: list[int]) -> None:
    """From the saved arrays alone, in the space of the statistics a, b where h' has precision K."""
    aligner = PLDAAligner().fit(*two_views(100, 4))
    enroll, runtime, _ = two_views(4, 1, first_speaker=700)
    pairs = np.array([(i, j) for i in range(4) for j in range(4)])
    scores = aligner.llr(enroll.matrix, np.array(counts), runtime.matrix, pairs)
    x, y = views_of(aligner, enroll, runtime)
    a = x.astype(np.float64) @ aligner.arrays["enroll_map"]
    b = y.astype(np.float64) @ aligner.arrays["runtime_map"]
    g_x, g_y = (aligner.arrays[f"{s}_precision"].astype(float) for s in ("enroll", "runtime"))
    q = len(g_x)
    h = np.linalg.inv(np.eye(q) - g_x - g_y)  # covariance of h'
    for (i, j), score in zip(pairs, scores, strict=True):
        cov_a, cov_b, cross = g_x @ h @ g_x + g_x / counts[i], g_y @ h @ g_y + g_y, g_x @ h @ g_y
        joint = multivariate_normal(np.zeros(2 * q), np.block([[cov_a, cross], [cross.T, cov_b]]))
        expected = joint.logpdf(np.concatenate([a[i], b[j]]))
        expected -= multivariate_normal(np.zeros(q), cov_a).logpdf(a[i])
        expected -= multivariate_normal(np.zeros(q), cov_b).logpdf(b[j])
        np.testing.assert_allclose(score, expected, rtol=1e-3, atol=1e-3)


def test_the_cosine_of_the_maps_ranks_trials_as_the_likelihood_ratio_does() -> None:
    simulation = Simulation(dims=(40, 50), factor_dim=32, noise=(1.5, 1.5))
    aligner = PLDAAligner().fit(*simulation.sample(1500, 4))
    x, y, _ = simulation.sample(200, 4, set_number=1)
    pairs, labels = drawn_trials(200, 4, 20000)
    llr = aligner.llr(x.matrix, np.ones(len(x), int), y.matrix, pairs)
    mapped = aligner.map_enroll(x.matrix), aligner.map_runtime(y.matrix)
    cosine = np.einsum("td,td->t", mapped[0][pairs[:, 0]], mapped[1][pairs[:, 1]])
    assert np.corrcoef(llr, cosine)[0, 1] > 0.9
    assert eer(cosine, labels) < 1.1 * eer(llr, labels)


def test_the_likelihood_ratio_knows_how_many_utterances_a_profile_has() -> None:
    simulation = Simulation(dims=(24, 30), factor_dim=16, noise=(1.5, 1.0))
    aligner = PLDAAligner(length_normalize=False).fit(*simulation.sample(1500, 5))
    x, y, _ = simulation.sample(300, 9, set_number=1)
    utterances = x.matrix.reshape(300, 9, -1)
    sizes = np.where(np.arange(300) % 2, 8, 1)
    profiles = np.stack([u[:n].mean(axis=0) for u, n in zip(utterances, sizes, strict=True)])
    pairs = np.argwhere(np.ones((300, 300)))
    labels = pairs[:, 0] == pairs[:, 1]
    runtime = y.matrix[8::9]
    told, untold = (
        aligner.llr(profiles, counts, runtime, pairs) for counts in (sizes, np.ones(300, int))
    )
    assert eer(told, labels) < eer(untold, labels)


# ---- regression ---------------------------------------------------------------------------------


def test_regression_learns_a_warp_that_ridge_cannot() -> None:
    rng = np.random.default_rng(5)
    keys = [f"id{s:04d}-s0-{u}" for s in range(400) for u in range(4)]
    speakers = {key: key[:6] for key in keys}
    runtime = rng.standard_normal((1600, 6)).astype(np.float32)
    runtime /= np.linalg.norm(runtime, axis=1, keepdims=True)
    enroll = np.abs(runtime @ rng.standard_normal((6, 8))).astype(np.float32)
    views = Embeddings(keys, enroll, ModelStamp("x", "x" * 64, "align")), Embeddings(keys, runtime)
    residuals = []
    for aligner in (
        RidgeAligner(),
        RegressionAligner(hidden_dim=64, steps=300, learning_rate=5e-3),
    ):
        aligner.fit(*views, speakers)
        cosine = (aligner.map_enroll(enroll) * aligner.map_runtime(runtime)).sum(axis=1)
        residuals.append(1 - cosine.mean())
    assert residuals[1] < 0.3 * residuals[0]


def test_regression_is_a_function_of_its_seed_and_keeps_the_best_on_dev() -> None:
    x = two_views(3, 2, first_speaker=300)[1].matrix
    views, dev = two_views(60, 4), dev_set()
    setting = {"hidden_dim": 16, "steps": 60, "evaluate_every": 10, "learning_rate": 0.03}
    maps = [
        RegressionAligner(seed=seed, **setting).fit(*views, dev).map_runtime(x)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert not np.allclose(maps[0], maps[2], atol=1e-3)
    chosen, last = (RegressionAligner(**setting).fit(*views, d) for d in (dev, None))
    assert dev_eer(chosen, dev) <= dev_eer(last, dev)
