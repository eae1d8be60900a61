"""The linear adapters: what each reduces to, and what it recovers exactly."""

from itertools import product

import numpy as np
import pytest

from nessa.alignment import (
    DevSet,
    DiagonalAligner,
    LambdaOrthogonalAligner,
    LowRankAligner,
    ProcrustesAligner,
    adapters,
)
from nessa.alignment.linear import LinearAligner, centered_views
from nessa.kaldi.embeddings import Embeddings
from tests.aligners import small
from tests.pairs import all_trials, two_views

pytestmark = pytest.mark.usefixtures("one_thread")
VIEWS = two_views(60, 4)


def residual(aligner: LinearAligner) -> float:
    """Mean squared error of W on `VIEWS`."""
    _, x, y = centered_views(VIEWS[0].matrix, VIEWS[1].matrix)
    return float(((x - y @ aligner.arrays["runtime_map"]) ** 2).sum(axis=1).mean())


def deviation(aligner: LinearAligner) -> float:
    """||W^T W - I|| of the smaller Gram matrix."""
    w = aligner.arrays["runtime_map"]
    w = w if len(w) >= w.shape[1] else w.T
    return float(np.linalg.norm(w.T @ w - np.eye(w.shape[1])))


def least_squares() -> np.ndarray:
    _, x, y = centered_views(VIEWS[0].matrix, VIEWS[1].matrix)
    return np.linalg.lstsq(y, x)[0]


@pytest.mark.parametrize("kind", ["low_rank", "diagonal", "lambda_orthogonal"])
def test_the_enrollment_side_keeps_its_space(kind: str) -> None:
    aligner = small(kind).fit(*VIEWS)
    x = centered_views(VIEWS[0].matrix, VIEWS[1].matrix)[1]
    np.testing.assert_allclose(aligner.map_enroll(VIEWS[0].matrix), x, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["low_rank", "lambda_orthogonal"])
def test_dev_speakers_decide(kind: str) -> None:
    dims = (60, 70)  # of fewer dimensions, low_rank has one rank to try
    few = two_views(40, 3, dims=dims)
    *views, names = two_views(15, 3, first_speaker=5000, dims=dims)
    dev = DevSet(*views, all_trials(names))
    errors = [small(kind).fit(*few, d).dev_eer(dev) for d in (dev, None)]
    assert errors[0] < errors[1]


# ---- low_rank ------------------------------------------------------------------------------------


def test_low_rank_of_full_rank_is_least_squares() -> None:
    aligner = LowRankAligner().fit(*VIEWS)
    np.testing.assert_allclose(aligner.arrays["runtime_map"], least_squares(), atol=1e-4)


def test_low_rank_has_its_rank_and_the_least_error_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "ranks", lambda most: [4])
    aligner = LowRankAligner().fit(*VIEWS)
    assert np.linalg.matrix_rank(aligner.arrays["runtime_map"], tol=1e-4) == 4
    # The truncated SVD of the least-squares map is of this rank as well.
    u, s, vt = np.linalg.svd(least_squares(), full_matrices=False)
    other = LowRankAligner()
    other.arrays = {**aligner.arrays, "runtime_map": (u[:, :4] * s[:4]) @ vt[:4]}
    full = LowRankAligner()
    full.arrays = {**aligner.arrays, "runtime_map": least_squares()}
    assert residual(full) < residual(aligner) < residual(other)


def test_low_rank_of_fewer_utterances_than_dimensions_is_finite() -> None:
    aligner = LowRankAligner().fit(*two_views(5, 3))
    assert np.abs(aligner.arrays["runtime_map"]).max() < 1e3


# ---- diagonal ------------------------------------------------------------------------------------


def test_diagonal_recovers_a_rotation_and_a_scaling() -> None:
    """Of the corners of a cube, so that both views have one length and a mean of 0."""
    rng = np.random.default_rng(2)
    runtime = np.array(list(product((-1, 1), repeat=7)), np.float32)
    turned = runtime[:, rng.permutation(7)] * rng.choice((-1, 1), 7)
    enroll = turned * np.linspace(0.5, 2, 7)
    keys = [f"id{i // 4:04d}-s0-{i % 4}" for i in range(len(runtime))]
    views = Embeddings(keys, enroll.astype(np.float32)), Embeddings(keys, runtime)
    speakers = {key: key[:6] for key in keys}
    products = []
    for aligner in (DiagonalAligner(), ProcrustesAligner()):
        x, y = aligner.fit(*views, speakers).map_views(*views)
        products.append((x.matrix * y.matrix).sum(axis=1))
    np.testing.assert_allclose(products[0], 1, atol=1e-5)
    assert products[1].max() < 0.95


def test_diagonal_has_a_lower_error_than_its_rotation() -> None:
    aligner = DiagonalAligner().fit(*VIEWS)
    _, x, y = centered_views(VIEWS[0].matrix, VIEWS[1].matrix)
    rotation = adapters.procrustes(y.T @ x)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(12), atol=1e-5)
    assert residual(aligner) < ((x - y @ rotation) ** 2).sum(axis=1).mean()


# ---- lambda_orthogonal ---------------------------------------------------------------------------


def near_orthogonal(monkeypatch: pytest.MonkeyPatch, threshold: float) -> LambdaOrthogonalAligner:
    monkeypatch.setattr(adapters, "THRESHOLDS", (threshold,))
    return LambdaOrthogonalAligner().fit(*VIEWS)


def test_no_deviation_allowed_is_procrustes(monkeypatch: pytest.MonkeyPatch) -> None:
    aligner = near_orthogonal(monkeypatch, 0.0)
    _, x, y = centered_views(VIEWS[0].matrix, VIEWS[1].matrix)
    assert deviation(aligner) < 0.01
    np.testing.assert_allclose(
        aligner.arrays["runtime_map"], adapters.procrustes(y.T @ x), atol=0.01
    )


def test_any_deviation_allowed_is_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    aligner = near_orthogonal(monkeypatch, np.inf)
    np.testing.assert_allclose(aligner.arrays["runtime_map"], least_squares(), atol=0.02)


def test_more_deviation_is_less_error(monkeypatch: pytest.MonkeyPatch) -> None:
    thresholds = np.array([0.0, 0.25, 0.5, np.inf])
    fits = [near_orthogonal(monkeypatch, threshold) for threshold in thresholds]
    deviations, residuals = [deviation(one) for one in fits], [residual(one) for one in fits]
    assert (np.diff(deviations) > 0.1).all() and (np.diff(residuals) < 0).all()
    assert (np.array(deviations) < thresholds * np.sqrt(12) + 0.01).all()


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_the_loss_falls_along_its_gradient(shape: tuple[int, int]) -> None:
    """Better than its start, the Procrustes map, by the loss as the paper writes it."""
    rng = np.random.default_rng(4)
    y, x = rng.standard_normal((50, shape[0])), rng.standard_normal((50, shape[1]))

    def loss(w: np.ndarray, threshold: float) -> float:
        small_gram = w.T @ w if len(w) >= w.shape[1] else w @ w.T
        d = np.linalg.norm(small_gram - np.eye(len(small_gram)))
        gate = 1 / (1 + np.exp(-adapters.STEEPNESS * (d - threshold)))
        return float(((x - y @ w) ** 2).sum() / 50 + gate * d)

    gram, cross = y.T @ y / 50, y.T @ x / 50
    for threshold in (0.3, 1.0):
        found = adapters.near_orthogonal(gram, cross, threshold)
        best = loss(found, threshold)
        assert best < loss(adapters.procrustes(cross), threshold)
        for _ in range(20):
            assert best < loss(found + 1e-2 * rng.standard_normal(shape), threshold)
