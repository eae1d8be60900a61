"""The linear aligners against independent implementations."""

from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge, RidgeCV

from nessa.alignment import (
    Aligner,
    CCAAligner,
    ProcrustesAligner,
    RawAligner,
    RidgeAligner,
    linear,
    load,
)
from nessa.alignment.covariance import between_utterances
from nessa.alignment.views import center
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from tests.aligners import dev_for, error, small
from tests.pairs import two_views

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", ["ridge", "cca", "plda"])
def test_a_rotation_of_a_models_space_changes_no_score(kind: str) -> None:
    enroll, runtime, speakers = two_views(60, 4)
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((20, 20)))[0]
    turned = Embeddings(runtime.keys, runtime.matrix @ rotation.astype(np.float32))
    a, b = small(kind).fit(enroll, runtime, speakers), small(kind).fit(enroll, turned, speakers)
    scores = [
        aligner.map_enroll(enroll.matrix) @ aligner.map_runtime(view.matrix).T
        for aligner, view in ((a, runtime), (b, turned))
    ]
    np.testing.assert_allclose(*scores, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ridge", "cca", "plda"])
def test_dev_speakers_decide_on_the_regularization(kind: str) -> None:
    few = two_views(5, 3, noise=(1.5, 1.0))
    dev = dev_for(kind)
    errors = [small(kind).fit(*few, d).dev_eer(dev) for d in (dev, None)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("kind", ["cca", "plda"])
def test_speakers_of_one_utterance_only_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match="no align speaker has two utterances"):
        small(kind).fit(*two_views(30, 1))


@pytest.mark.parametrize("kind", ["cca", "plda"])
def test_uneven_numbers_of_utterances_are_taken(kind: str) -> None:
    enroll, runtime, speakers = two_views(150, 6)
    kept = [key for i, key in enumerate(enroll.keys) if i % 6 <= i // 6 % 6]  # 1 to 6 of each
    aligner = small(kind).fit(enroll.select(kept), runtime.select(kept), speakers)
    assert error(aligner) < 0.15


# ---- raw and Procrustes --------------------------------------------------------------------------


def test_raw_is_the_plain_cosine_and_needs_equal_dimensions(tmp_path: Path) -> None:
    enroll, runtime, speakers = two_views(10, 3, dims=(8, 8))
    RawAligner().fit(enroll, runtime, speakers).save(tmp_path)
    mapped = load(tmp_path).map_runtime(runtime.matrix)
    unit = runtime.matrix / np.linalg.norm(runtime.matrix, axis=1, keepdims=True)
    np.testing.assert_allclose(mapped, unit, atol=1e-6)
    with pytest.raises(InputError, match=r"dimension 12, runtime ones 20.*baselines"):
        RawAligner().fit(*two_views(10, 3))


def test_procrustes_of_equal_dimensions_is_the_classical_rotation() -> None:
    enroll, runtime, speakers = two_views(50, 4, dims=(10, 10))
    aligner = ProcrustesAligner().fit(enroll, runtime, speakers)

    def centered(matrix: np.ndarray, mean: np.ndarray) -> np.ndarray:
        unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True) - mean
        return unit / np.linalg.norm(unit, axis=1, keepdims=True)

    a = centered(enroll.matrix, aligner.arrays["enroll_mean"])
    b = centered(runtime.matrix, aligner.arrays["runtime_mean"])
    rotation, _ = orthogonal_procrustes(a, b)
    expected = (a @ rotation) @ b.T
    ours = aligner.map_enroll(enroll.matrix) @ aligner.map_runtime(runtime.matrix).T
    np.testing.assert_allclose(ours, expected, atol=1e-5)


# ---- ridge --------------------------------------------------------------------------------------


def views_of(aligner: Aligner, enroll: Embeddings, runtime: Embeddings) -> list[np.ndarray]:
    return [
        center(e.matrix, aligner.arrays[f"{side}_mean"])
        for e, side in ((enroll, "enroll"), (runtime, "runtime"))
    ]


def test_ridge_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "PENALTIES", (0.2,))
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
    alphas = np.array(linear.PENALTIES) * np.trace(y.T @ y) / 20
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
    monkeypatch.setattr(linear, "SHRINKAGES", (0.0,))
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


def test_an_utterance_counts_alike_however_many_its_speaker_has() -> None:
    labels = np.array([0, 0, 1, 1, 1, 1, 1])
    rng, rows = np.random.default_rng(0), np.arange(len(labels))
    a, b = (rng.standard_normal((len(labels), dim)) for dim in (3, 4))
    others = [b[(labels == labels[row]) & (rows != row)].mean(axis=0) for row in rows]
    expected = a.T @ np.array(others) / len(labels)
    np.testing.assert_allclose(between_utterances(a, b, labels), expected, atol=1e-6)


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
    assert error(aligner) < error(ProcrustesAligner().fit(*loud, speakers))
