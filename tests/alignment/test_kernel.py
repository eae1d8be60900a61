"""PLDA of products of coordinates: the part of NESSA that bends without being trained."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from nessa.alignment import DevSet, NeuralAligner, load, neural, starts
from nessa.alignment.kernel import WEIGHT, KernelFeatures
from nessa.alignment.views import length_normalize, means_by_speaker
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.roc import eer
from nessa.scoring.cosine import cosine_scores
from nessa.trials import Trials
from tests.pairs import as_trials, drawn_trials

PAIRS = drawn_trials(2, 3, 12)
FEW = {"steps": 1, "learning_rate": 1e-12, "hidden_dim": 8, "distillation": 0}


def directions(seed: int, count: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return length_normalize(rng.standard_normal((count, dim)).astype(np.float32))


def test_inner_products_of_features_are_the_kernel() -> None:
    """Of the landmarks, which span the features where no more than these are kept."""
    rows, labels = directions(1, 150, 12), np.arange(150) // 3
    features = KernelFeatures.of(rows, labels, 100)
    landmarks = length_normalize(means_by_speaker(rows, labels))
    whole = features.apply(landmarks) + features.mean
    products = landmarks @ landmarks.T
    assert np.abs(whole @ whole.T - products - WEIGHT * products**2).max() < 1e-4
    assert np.abs(features.apply(rows).mean(axis=0)).max() < 1e-5


def test_features_are_bounded_whatever_the_number_of_speakers() -> None:
    labels = np.arange(2 * 150) // 2
    view, rows = directions(2, len(labels), 40), directions(3, 7, 40)
    whole = KernelFeatures.of(view, labels, 100)
    assert whole.landmarks.shape == (100, 40)
    found = whole.apply(rows)
    assert found.shape == (7, 100)
    few = KernelFeatures.of(view, labels, 100, 5)
    np.testing.assert_allclose(few.apply(rows), found[:, :5], atol=1e-6)


@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_regression_is_the_ridge_of_all_products(penalty: float) -> None:
    """Scikit-learn's, by the kernel alone, where the landmarks span all that rows can be."""
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.preprocessing import KernelCenterer

    source, labels = directions(4, 600, 6), np.arange(600) // 3
    target = directions(5, 600, 4)
    target -= target.mean(axis=0)
    features = KernelFeatures.of(source, labels, 600)
    found = features.regressed(source, target, penalty).apply(source)
    values = features.apply(source)
    products = source @ source.T
    centered = KernelCenterer().fit_transform(products + WEIGHT * products**2)
    alpha = penalty * np.square(values).sum() / values.shape[1]  # of the mean eigenvalue
    reference = KernelRidge(alpha=alpha, kernel="precomputed").fit(centered, target)
    np.testing.assert_allclose(found, reference.predict(centered), atol=1e-4)


# --- a part of NESSA ----------------------------------------------------------------------------


def bent_views(speakers: int, utterances: int, seed: int) -> tuple[Embeddings, Embeddings]:
    """One model sees a speaker's factor h, and the other one above all products of its coordinates.

    Of utterances <speaker>-<number>, (N, 16) and (N, 24).
    """
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((speakers, 8)).repeat(utterances, axis=0)
    first, second = np.triu_indices(8, 1)
    seen = h @ directions(0, 8, 16), np.hstack([0.3 * h, h[:, first] * h[:, second]])
    noisy = [(view + 0.3 * rng.standard_normal(view.shape)).astype(np.float32) for view in seen]
    keys = [f"{seed}{s:05d}-{u}" for s in range(speakers) for u in range(utterances)]
    return Embeddings(keys, noisy[0]), Embeddings(keys, noisy[1])


class World:
    """Some hundred speakers, and how well aligners do on others."""

    def __init__(self) -> None:
        x, y = bent_views(400, 5, 1)
        self.align = x, y, {key: key.split("-")[0] for key in x.keys}
        self.dev = DevSet(*self._set(150, 2))
        self.enroll, self.runtime, self.trials = self._set(200, 3)

    @staticmethod
    def _set(speakers: int, seed: int) -> tuple[Embeddings, Embeddings, Trials]:
        x, y = bent_views(speakers, 3, seed)
        return x, y, as_trials(list(x.keys), *drawn_trials(speakers, 3, 20000))

    def fit(self, **settings: object) -> NeuralAligner:
        return NeuralAligner(**{**FEW, **settings}).fit(*self.align, self.dev)

    def error(self, aligner: NeuralAligner) -> float:
        mapped = aligner.map_views(self.enroll, self.runtime)
        return eer(cosine_scores(*mapped, self.trials), self.trials.labels)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def bent(world: World) -> Iterator[NeuralAligner]:
    aligner = world.fit()
    assert any("products" in part for part in aligner.fitting["weights"])
    yield aligner


@pytest.fixture(scope="module")
def regressed(world: World) -> Iterator[NeuralAligner]:
    """Of the two ratios of regressions alone: on each side a kernel and a linear part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            neural, "fit_weights", lambda scores, _: {len(scores) - 2: 1.0, len(scores) - 1: 2.0}
        )
        aligner = world.fit()
    assert all("regression onto" in part for part in aligner.fitting["weights"])
    yield aligner


@pytest.fixture(scope="module")
def error_of_ridge(world: World) -> float:
    return world.error(world.fit(start="ridge"))


@pytest.mark.slow
def test_it_wins_where_spaces_are_bent(
    world: World, bent: NeuralAligner, error_of_ridge: float
) -> None:
    errors = [world.error(world.fit(start=start)) for start in ("plda", "cca")]
    assert world.error(bent) < 0.9 * min(*errors, error_of_ridge)


@pytest.mark.slow
def test_regressions_win_there_too(
    world: World, regressed: NeuralAligner, error_of_ridge: float
) -> None:
    assert world.error(regressed) < 0.95 * error_of_ridge


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bent", "regressed"])
def test_it_is_saved_mirrored_and_exported(
    world: World, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from nessa.production.export_aligner import export_aligner

    aligner = request.getfixturevalue(name)
    aligner.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    x = world.enroll.matrix
    np.testing.assert_array_equal(again.map_enroll(x), aligner.map_enroll(x))
    assert world.error(again.mirrored().mirrored()) == world.error(aligner)
    assert len(export_aligner(aligner, tmp_path / "exported")) == 2  # which compares the outputs


@pytest.mark.slow
def test_training_does_not_depend_on_what_stands_beside(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout included."""
    settings = {"steps": 3, "learning_rate": 1e-4, "dropout": 0.5, "evaluate_every": 3}
    monkeypatch.setattr(neural, "improves", lambda *_: True)
    monkeypatch.setattr(neural, "fit_weights", lambda scores, _: dict.fromkeys(range(1), 1.0))
    beside, alone = (world.fit(**settings, start=start) for start in ("best", "plda"))
    assert beside.fitting["step"] == alone.fitting["step"] == 3
    for name, array in alone.arrays.items():
        np.testing.assert_array_equal(beside.arrays[name], array, name)


@pytest.mark.slow
def test_with_many_utterances_it_takes_no_part(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "MOST_ROWS", len(world.align[0].keys) - 1)
    assert not any("products" in part for part in world.fit().fitting["weights"])


def test_two_speakers_are_enough_to_fit_without_it() -> None:
    """Whose means span no space in which their utterances differ."""
    x, y = bent_views(2, 2, 4)
    dev = DevSet(*bent_views(2, 3, 5), as_trials(list(bent_views(2, 3, 5)[0].keys), *PAIRS))
    aligner = NeuralAligner(**FEW).fit(x, y, {key: key.split("-")[0] for key in x.keys}, dev)
    assert not any("products" in part for part in aligner.fitting["weights"])


@pytest.mark.slow
def test_a_model_joins_the_space_of_a_side_that_has_it(world: World, bent: NeuralAligner) -> None:
    x, y, speakers = world.align
    aligner = deepcopy(bent)
    before = aligner.map_enroll(world.enroll.matrix)
    reversed_ = Embeddings(y.keys, y.matrix[:, ::-1].copy())
    dev = DevSet(
        world.dev.enroll,
        Embeddings(world.dev.runtime.keys, world.dev.runtime.matrix[:, ::-1].copy()),
        world.dev.trials,
    )
    aligner.fit(x, reversed_, speakers, dev, freeze="enroll")
    np.testing.assert_array_equal(aligner.map_enroll(world.enroll.matrix), before)
    tested = Embeddings(world.runtime.keys, world.runtime.matrix[:, ::-1].copy())
    mapped = aligner.map_views(world.enroll, tested)
    assert eer(cosine_scores(*mapped, world.trials), world.trials.labels) < 0.25
