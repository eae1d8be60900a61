"""The regression network beside ridge regression."""

import numpy as np
import pytest

from nessa.alignment import RegressionAligner, RidgeAligner
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp
from tests.aligners import dev_for
from tests.pairs import two_views

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
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


@pytest.mark.slow
def test_regression_is_a_function_of_its_seed_and_keeps_the_best_on_dev() -> None:
    x = two_views(3, 2, first_speaker=300)[1].matrix
    views, dev = two_views(60, 4), dev_for("regression")
    setting = {"hidden_dim": 16, "steps": 60, "evaluate_every": 10, "learning_rate": 0.03}
    maps = [
        RegressionAligner(seed=seed, **setting).fit(*views, dev).map_runtime(x)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert not np.allclose(maps[0], maps[2], atol=1e-3)
    chosen, last = (RegressionAligner(**setting).fit(*views, d) for d in (dev, None))
    assert chosen.dev_eer(dev) < last.dev_eer(dev)


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": 0.0}, {"hidden_dim": 0}],
    ids=["the_weights_at_the_start", "the_rows_of_the_steps"],
)
def test_the_seed_decides(settings: dict[str, float]) -> None:
    views = two_views(20, 3)
    one, again, other = (
        RegressionAligner(**{"hidden_dim": 8, "steps": 2, "batch_size": 20, **settings}, seed=seed)
        .fit(*views)
        .arrays
        for seed in (1, 1, 2)
    )
    assert all((one[name] == again[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)
