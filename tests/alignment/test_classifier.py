"""The shared classifier beside its start, Procrustes."""

import numpy as np
import pytest

from nessa.alignment import ClassifierAligner, ProcrustesAligner, classifier
from tests.aligners import dev_for, error, fit
from tests.pairs import two_views

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"steps": 60, "evaluate_every": 20, "batch_size": 64}


@pytest.mark.slow
def test_the_classifier_separates_speakers_better_than_its_start() -> None:
    start = error(fit(ProcrustesAligner()))
    for dev in (True, False):
        assert error(fit(ClassifierAligner(steps=150), dev)) < 0.9 * start


def test_the_start_is_procrustes_of_whitened_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "WHITENING_SHRINKAGE", 1.0)  # no whitening
    views = two_views(60, 4)
    start = ClassifierAligner(steps=1, learning_rate=1e-9).fit(*views)
    other = ProcrustesAligner().fit(*views)
    for found, expected in zip(*(one.map_views(*views[:2]) for one in (start, other)), strict=True):
        np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-5)


@pytest.mark.slow
def test_one_utterance_of_each_speaker_is_enough() -> None:
    dev = dev_for("classifier")
    views = two_views(100, 1)
    start = ProcrustesAligner().fit(*views, dev).dev_eer(dev)
    assert ClassifierAligner(**QUICK).fit(*views, dev).dev_eer(dev) <= start


@pytest.mark.slow
def test_the_classifier_is_a_function_of_its_seed_and_keeps_the_best_on_dev() -> None:
    x = two_views(3, 2, first_speaker=300)[1].matrix
    views, dev = two_views(60, 4), dev_for("classifier")
    setting = QUICK | {"learning_rate": 0.03}
    maps = [
        ClassifierAligner(seed=seed, **setting).fit(*views, dev).map_runtime(x)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert not np.allclose(maps[0], maps[2], atol=1e-3)
    few, setting["learning_rate"] = two_views(10, 4, noise=(1.5, 1.0)), 0.3
    chosen, last = (ClassifierAligner(**setting).fit(*few, d) for d in (dev, None))
    assert chosen.dev_eer(dev) < last.dev_eer(dev)
