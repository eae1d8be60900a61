"""NESSA's likelihood ratio: PLDA's at the start, and a cosine for whoever scores it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nessa.alignment import DevSet, NeuralAligner, load
from nessa.alignment.modules import Fusion, RatioNetwork
from nessa.alignment.plda import Scatter, factor_llr
from nessa.alignment.starts import Start
from nessa.alignment.table import AlignTable
from nessa.alignment.views import Center, Side, center, fit_mean
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.roc import eer
from tests.aligners import NEURAL, dev_for, fit
from tests.pairs import all_trials, two_views

SMALL = {**NEURAL, "start": "plda"}


def views(speakers: int = 40) -> tuple[Embeddings, Embeddings, dict[str, str]]:
    return two_views(speakers, 3, first_speaker=9000)


def centered(pair: Sequence[Any]) -> list[np.ndarray]:
    """Two views, centered by the means of the align set."""
    means = [fit_mean(view.matrix) for view in two_views(100, 5)[:2]]
    return [center(view.matrix, mean) for view, mean in zip(pair[:2], means, strict=True)]


def affine_residual(one: np.ndarray, other: np.ndarray) -> float:
    """How far `other` is from the best a * one + b, in standard deviations of `other`."""
    scale, offset = np.polyfit(one, other, 1)
    assert scale > 0
    return float(np.abs(other - scale * one - offset).max() / other.std())


def test_the_start_is_the_ratio_of_plda() -> None:
    """A rate next to nothing trains nothing; then the cosines are PLDA's ratios but for scale."""
    align, dev = two_views(100, 5), dev_for("neural")
    settings = {**SMALL, "steps": 1, "learning_rate": 1e-12}
    nessa = NeuralAligner(**settings).fit(*align, dev)
    x, y, _ = views()
    cosines = nessa.map_enroll(x.matrix) @ nessa.map_runtime(y.matrix).T
    pairs = np.argwhere(np.ones(cosines.shape, bool))
    models = dict(Scatter.of(*centered(align), AlignTable.of(*align).labels).models(16))
    model = models[nessa.fitting["start"].removeprefix("PLDA, ")]
    a, b = (c @ m for c, m in zip(centered((x, y)), model.maps, strict=True))
    g_x, g_y = model.precisions
    prior = np.eye(len(g_x)) - g_x - g_y
    ratios = factor_llr((a, g_x), np.ones(len(x), int), (b, g_y), pairs, prior)
    assert affine_residual(cosines.ravel(), ratios) < 0.01


@pytest.mark.slow
def test_cosines_are_the_sums_of_the_parts_scaled_and_shifted() -> None:
    aligner = fit(NeuralAligner(**SMALL))
    x, y, _ = views()
    sides = [(aligner.modules["enroll"], x), (aligner.modules["runtime"], y)]
    with torch.inference_mode():
        (z, u), (w, v) = (module.statistics(torch.from_numpy(e.matrix)) for module, e in sides)
    sums = (z @ w.T + u[:, None] + v).numpy().astype(np.float64)
    cosines = (aligner.map_enroll(x.matrix) @ aligner.map_runtime(y.matrix).T).astype(np.float64)
    assert affine_residual(cosines.ravel(), sums.ravel()) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_vectors_have_unit_length_whatever_comes_in(length: float) -> None:
    aligner = fit(NeuralAligner(**SMALL))
    rng = np.random.default_rng(0)
    for side, dim in (("enroll", 12), ("runtime", 20)):
        strange = (length * rng.standard_normal((500, dim))).astype(np.float32)
        mapped = aligner.map_side(strange, side)  # type: ignore[arg-type]
        np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_both_directions_and_both_roles_score_alike(tmp_path: Path) -> None:
    aligner = fit(NeuralAligner(**SMALL))
    aligner.mirrored().save(tmp_path)
    mirror = load(tmp_path)
    x, y, _ = views()
    products = aligner.map_enroll(x.matrix) @ aligner.map_runtime(y.matrix).T
    found = mirror.map_enroll(y.matrix) @ mirror.map_runtime(x.matrix).T
    np.testing.assert_allclose(found.T, products, atol=1e-6)
    assert mirror.fitting == aligner.fitting
    own = aligner.map_enroll(x.matrix) @ mirror.map_runtime(x.matrix).T  # one model, both roles
    trials = all_trials(views()[2])
    rows = {key: row for row, key in enumerate(x.keys)}
    scores = [own[rows[a], rows[b]] for a, b in zip(trials.enroll, trials.test, strict=True)]
    assert trials.labels is not None and eer(scores, trials.labels) < 0.3


@pytest.mark.slow
def test_where_training_gains_nothing_beyond_noise_the_start_is_kept() -> None:
    """Twelve speakers are learned by heart at once."""
    align, dev = two_views(12, 4, noise=(1.5, 1.0)), dev_for("neural")
    settings = {**SMALL, "learning_rate": 0.05, "dropout": 0.0, "weight_decay": 0.0}
    aligner = NeuralAligner(**settings).fit(*align, dev)
    assert aligner.fitting["step"] == 0
    same = NeuralAligner(**{**settings, "seed": 7}).fit(*align, dev)
    np.testing.assert_array_equal(
        same.map_enroll(align[0].matrix), aligner.map_enroll(align[0].matrix)
    )


def test_a_residual_bends_z_by_its_spread_and_u_as_it_is() -> None:
    x = torch.from_numpy(two_views(5, 2)[0].matrix)
    dim = x.shape[1]
    start, none = torch.eye(dim), torch.zeros(dim, dim)
    vectors = []
    for spread in (1.0, 3.0):
        mean = Center(np.zeros(dim, np.float32))
        network = RatioNetwork(mean, start, start, 8, 0.0, none, spread)
        network.residual[-1].bias.data[:] = 2
        vectors.append([part.detach().numpy() for part in network.statistics(x)])
    (z, u), (wider, same) = vectors
    np.testing.assert_allclose(wider - z, 4, rtol=1e-5)
    assert u.tolist() == same.tolist() == [2] * len(x)


def test_a_scaled_start_gives_z_and_u_times_the_scale() -> None:
    rng = np.random.default_rng(0)
    start = Start("one", tuple(rng.normal(size=(2, 4, 3))), tuple(rng.normal(size=(2, 3, 3))))
    for side in (0, 1):
        own, scaled = (one.statistics(np.eye(4), side) for one in (start, start.scaled(2)))
        for before, after in zip(own, scaled, strict=True):
            np.testing.assert_allclose(after, 2 * before)


def test_plda_is_no_start_of_a_cosine() -> None:
    with pytest.raises(InputError, match="start: plda is a likelihood ratio"):
        NeuralAligner(start="plda", score="cosine")


@pytest.mark.parametrize(("start", "freeze"), [("plda", "enroll"), ("cca", "runtime")])
def test_cosines_with_a_side_that_joins_order_trials_as_the_ratio_does(
    start: str, freeze: Side
) -> None:
    """Its vectors are longer than those that the frozen side was fitted beside."""
    quick = {"dim": 16, "hidden_dim": 8, "steps": 1, "start": start, "distillation": 0}
    weak, strong = (two_views(60, 4, noise=(0.6, noise)) for noise in (1.0, 0.5))
    held = [two_views(20, 3, first_speaker=5000, noise=(0.6, noise)) for noise in (1.0, 0.5)]
    before, dev = (DevSet(x, y, all_trials(names)) for x, y, names in held)
    aligner = NeuralAligner(**quick).fit(*weak, before)
    (x, joining, names), side = strong, "runtime"
    if freeze == "runtime":
        aligner, side, (x, joining) = aligner.mirrored(), "enroll", (joining, x)
        dev = replace(dev, enroll=dev.runtime, runtime=dev.enroll)
    aligner.fit(x, joining, names, dev, freeze=freeze)
    assert aligner.fitting["eer"] == pytest.approx(aligner.dev_eer(dev), abs=1e-4)
    slack = aligner.map_side(strong[1].matrix, side)[:, -2:].max(axis=1)  # type: ignore[arg-type]
    assert slack.min() ** 2 > 1.01 - Fusion.LONGEST**2, "some are drawn in"
