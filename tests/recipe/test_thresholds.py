"""One threshold for all cells: what calibration is for, on scores of known origin."""

import numpy as np
import pytest

from nessa.metrics.roc import act_dcf, min_dcf
from nessa.recipe.layout import AS_NORM, COSINE
from nessa.recipe.systems import System
from nessa.recipe.thresholds import best_threshold, threshold_costs

CELLS = [System("raw", "x", "x"), System("nessa", "y", "x"), System("nessa", "x", "y"),
         System("raw", "y", "y")]  # fmt: skip
SEPARATIONS = (2.0, 3.0, 4.0, 5.0)
LABELS = np.arange(20_000) < 4000


def llrs(separation: float, seed: int) -> np.ndarray:
    """True LLRs: means +-separation and variance 2 separation make a Gaussian its own LLR."""
    noise = np.random.default_rng(seed).standard_normal(len(LABELS))
    return np.where(LABELS, separation, -separation) + np.sqrt(2 * separation) * noise


def test_true_likelihood_ratios_need_one_threshold_only() -> None:
    true = {c: llrs(s, k) for k, (c, s) in enumerate(zip(CELLS, SEPARATIONS, strict=True))}
    moved = {cell: values / (k + 1) + 3 * k for k, (cell, values) in enumerate(true.items())}
    before, after = threshold_costs({(COSINE, False): moved, (AS_NORM, True): true}, LABELS)
    assert (before["scores"], before["calibrated"], before["bayes"]) == ("cosine", False, None)
    assert (after["scores"], after["calibrated"]) == ("as-norm", True)
    assert before["own"] == pytest.approx(after["own"])
    assert after["own"] == pytest.approx(np.mean([min_dcf(v, LABELS) for v in true.values()]))
    assert after["own"] <= after["common"] < 1.05 * after["own"]
    assert before["common"] > 1.1 * before["own"]
    assert after["common"] <= after["bayes"]
    assert after["bayes"] == pytest.approx(np.mean([act_dcf(v, LABELS) for v in true.values()]))


def test_the_common_cost_is_the_lowest_that_any_threshold_has() -> None:
    labels = np.array([True, False, False])
    cells = {
        CELLS[0]: np.array([1.0, 0.0, -1.0]),
        CELLS[1]: np.array([6.0, 5.0, 4.0]),
    }
    (record,) = threshold_costs({(COSINE, False): cells}, labels)
    assert record["own"] == 0
    # Above 5, the first cell rejects its target.
    assert record["common"] == 0.5


def test_the_best_threshold_costs_what_min_dcf_says() -> None:
    values = llrs(3.0, 1)
    threshold = best_threshold(values, LABELS)
    accepted = values >= threshold
    cost = (1 - accepted[LABELS].mean()) + 99 * accepted[~LABELS].mean()
    assert cost == pytest.approx(min_dcf(values, LABELS))
    assert best_threshold(-values, LABELS) == np.inf  # nothing better than to reject all
