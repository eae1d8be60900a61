"""Fusion: weights by dev, parts side by side, and likelihood ratios as they come."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nessa.alignment import DevSet, NeuralAligner, load, neural
from nessa.alignment.fusing import fit_weights
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.roc import cllr, eer, min_cllr
from nessa.scoring.calibration import read_calibration
from nessa.scoring.cosine import cosine_scores
from tests.aligners import NEURAL, dev_for, views_for
from tests.pairs import all_trials

LABELS = np.random.default_rng(0).random(4000) < 0.3
RANDOM = np.random.default_rng(5).standard_normal((2, len(LABELS)))
FEW = {**NEURAL, "steps": 1, "learning_rate": 1e-12}  # next to no training


def noisy(seed: int, noise: float, gain: float = 1.0) -> np.ndarray:
    """Scores of LABELS with Gaussian noise."""
    return gain * (LABELS + noise * np.random.default_rng(seed).standard_normal(len(LABELS)))


def weights_of(*scores: np.ndarray) -> dict[int, float]:
    """Of scores of one list of trials."""
    return fit_weights([[own] for own in scores], [LABELS])


def few_speakers(speakers: int = 25) -> tuple[Embeddings, Embeddings, dict[str, str]]:
    return views_for("neural", speakers, 4, noise=(1.5, 1.0))


def test_independent_scores_of_one_accuracy_weigh_alike_whatever_their_scale() -> None:
    weights = weights_of(noisy(1, 1.0), noisy(2, 1.0, gain=100.0))
    assert weights.keys() == {0, 1}
    assert weights[0] == pytest.approx(100 * weights[1], rel=0.2)


def test_the_best_score_comes_first_and_what_adds_nothing_is_left_out() -> None:
    best, noise = noisy(1, 0.5), np.random.default_rng(9).standard_normal(len(LABELS))
    assert list(weights_of(noise, best, noisy(1, 0.5))) == [1]
    assert next(iter(weights_of(noisy(2, 2.0), best))) == 1


def test_no_weight_is_negative_and_without_use_the_first_score_stays() -> None:
    shared = np.random.default_rng(3).standard_normal(len(LABELS))
    cleaned = weights_of(noisy(1, 0.5) + shared, shared)  # the difference is better
    assert list(cleaned) == [0] and cleaned[0] > 0
    assert weights_of(-noisy(1, 0.5), 0.1 * -noisy(2, 0.5)) == {0: 1.0}


def test_what_lowers_the_cllr_but_raises_the_eer_is_left_out() -> None:
    """A noisy score that tells the list of a trial calibrates both lists, and orders neither."""
    first = [noisy(1, 0.5) + 2.0, noisy(2, 0.5)]
    second = [0.3 * noise - shift for noise, shift in zip(RANDOM, (1.0, 0.0), strict=True)]
    assert fit_weights([first, second], [LABELS, LABELS]).keys() == {0}
    clean = [np.full(len(LABELS), shift) + 1e-3 * RANDOM[0] for shift in (-1.0, 0.0)]
    assert fit_weights([first, clean], [LABELS, LABELS]).keys() == {0, 1}


@pytest.mark.slow
def test_few_speakers_get_more_than_the_best_part_gives_alone() -> None:
    align, dev = few_speakers(), dev_for("neural")
    errors = {}
    x, y, names = views_for("neural", 60, 3, first_speaker=9000)
    trials = all_trials(names)
    assert trials.labels is not None
    for start in ("plda", "cca", "ridge", "best"):
        aligner = NeuralAligner(**{**FEW, "start": start}).fit(*align, dev)
        errors[start] = eer(cosine_scores(*aligner.map_views(x, y), trials), trials.labels)
    assert errors.pop("best") <= min(errors.values()) + 0.005


@pytest.mark.slow
def test_where_the_trained_part_is_left_out_the_aligner_is_as_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It named a step, beside a report that said of equal seeds that all kept the start."""
    align, dev = few_speakers(), dev_for("neural")
    monkeypatch.setattr(neural, "improves", lambda *_: True)
    settings = {**NEURAL, "start": "best", "steps": 20, "evaluate_every": 20}
    for weights, step in ({1: 0.5}, 0), ({1: 0.5, 0: 0.5}, 20):
        monkeypatch.setattr(neural, "fit_weights", lambda *_, found=weights: found)
        assert NeuralAligner(**settings).fit(*align, dev).fitting["step"] == step


@pytest.mark.slow
def test_the_weights_are_told_and_the_vectors_hold_the_parts_side_by_side() -> None:
    align, dev = few_speakers(), dev_for("neural")
    aligner = NeuralAligner(**FEW).fit(*align, dev)
    weights = aligner.fitting["weights"]
    assert all(weight > 0 for weight in weights.values())
    x, y = (torch.from_numpy(view.matrix) for view in align[:2])
    enroll, runtime = aligner.modules["enroll"], aligner.modules["runtime"]
    assert len(enroll.parts) == len(weights)
    with torch.inference_mode():
        expected = torch.zeros(len(x), len(y))
        for weight, f, g in zip(weights.values(), enroll.parts, runtime.parts, strict=True):
            (z, u), (w, v) = f.statistics(x), g.statistics(y)
            expected += weight * (z @ w.T + u[:, None] + v)
        (z, u), (w, v) = enroll.statistics(x), runtime.statistics(y)
    torch.testing.assert_close(z @ w.T + u[:, None] + v, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_further_dev_list_weighs_as_much_as_the_main_one() -> None:
    """The choice by two lists is another than by one, and the same whichever is the main one."""
    align, dev = few_speakers(), dev_for("neural")
    noise = np.random.default_rng(1).standard_normal(dev.runtime.matrix.shape) * 3
    keys = [f"n-{key}" for key in dev.enroll.keys]
    both = [
        Embeddings([*view.keys, *keys], np.vstack([view.matrix, other]).astype(np.float32))
        for view, other in (
            (dev.enroll, dev.enroll.matrix),
            (dev.runtime, dev.runtime.matrix + noise),
        )
    ]
    hard = type(dev.trials)(
        [f"n-{key}" for key in dev.trials.enroll],
        [f"n-{key}" for key in dev.trials.test],
        dev.trials.labels,
    )
    one, two, swapped = (
        NeuralAligner(**FEW).fit(*align, DevSet(*both, lists[0], tuple(lists[1:])))
        for lists in ([dev.trials], [dev.trials, hard], [hard, dev.trials])
    )
    x = align[0].matrix
    np.testing.assert_allclose(two.map_enroll(x), swapped.map_enroll(x), atol=1e-5)
    assert one.fitting["weights"] != two.fitting["weights"]


@pytest.mark.slow
def test_ratios_are_calibrated_as_they_come(tmp_path: Path) -> None:
    """Cllr within 10 % of the least that any calibration could reach, on speakers unseen."""
    align = views_for("neural", 100, 5)
    x, y, names = views_for("neural", 150, 4, first_speaker=5000)
    dev = DevSet(x, y, all_trials(names))
    aligner = NeuralAligner(**NEURAL).fit(*align, dev)
    aligner.save(tmp_path)
    calibration = read_calibration(tmp_path / "calibration.json")
    assert calibration.pair == aligner.pair()
    assert load(tmp_path).calibration == calibration == load(tmp_path).mirrored().calibration
    *sides, names = views_for("neural", 150, 4, first_speaker=9000)
    trials = all_trials(names)
    llrs = calibration.apply(cosine_scores(*aligner.map_views(*sides), trials))
    assert trials.labels is not None
    assert cllr(llrs, trials.labels) < 1.1 * min_cllr(llrs, trials.labels)


@pytest.mark.slow
def test_without_a_dev_set_there_is_no_calibration_and_none_stays_from_before(
    tmp_path: Path,
) -> None:
    align = few_speakers()
    NeuralAligner(**FEW).fit(*align, dev_for("neural")).save(tmp_path)
    aligner = NeuralAligner(**FEW).fit(*align)
    aligner.save(tmp_path)
    assert aligner.calibration is None and not (tmp_path / "calibration.json").exists()
    assert load(tmp_path).calibration is None
