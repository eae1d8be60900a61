"""The simulation: it draws what it says, and its optimal score is the true likelihood ratio."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from benchmarks.simulation import SPEAKERS_PER_BLOCK, Simulation
from nessa.alignment import CCAAligner
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.roc import cllr, eer, min_cllr
from nessa.scoring.cosine import cosine_scores
from nessa.trials import Trials
from tests.pairs import all_trials

SMALL = {"dims": (10, 14), "factor_dim": 6, "noise": (1.0, 0.8)}


def test_blocks_make_up_the_set_and_a_longer_set_begins_with_the_shorter() -> None:
    simulation = Simulation(**SMALL)
    speakers = SPEAKERS_PER_BLOCK + 3
    enroll, runtime, utt2spk = simulation.sample(speakers, 2)
    blocks = list(simulation.blocks(speakers, 2))
    assert [len(block.keys) for block in blocks] == [2 * SPEAKERS_PER_BLOCK, 6]
    np.testing.assert_array_equal(np.concatenate([b.enroll for b in blocks]), enroll.matrix)
    assert enroll.keys == runtime.keys == list(utt2spk) == sorted(utt2spk)
    assert len(set(utt2spk.values())) == speakers
    assert enroll.matrix.dtype == runtime.matrix.dtype == np.float32
    shorter = simulation.sample(5, 2)
    np.testing.assert_array_equal(shorter[1].matrix, runtime.matrix[:10])


def test_sets_are_functions_of_their_number_and_models_of_the_seed() -> None:
    first, again = (Simulation(**SMALL).sample(20, 2, set_number=3) for _ in range(2))
    np.testing.assert_array_equal(first[0].matrix, again[0].matrix)
    other = Simulation(**SMALL).sample(20, 2, set_number=4)
    assert not set(first[2].values()) & set(other[2].values())
    for different in (other, Simulation(seed=2, **SMALL).sample(20, 2, set_number=3)):
        assert abs(np.corrcoef(first[0].matrix.ravel(), different[0].matrix.ravel())[0, 1]) < 0.5


def test_embeddings_have_the_moments_of_the_model() -> None:
    simulation = Simulation(**SMALL)
    enroll, runtime, _ = simulation.sample(20000, 2)
    x, other = enroll.matrix[::2], enroll.matrix[1::2]
    y_other = runtime.matrix[1::2]
    model_x, model_y = simulation._enroll, simulation._runtime
    between = model_x.loading.T @ model_x.loading
    within = model_x.noise_root.T @ model_x.noise_root
    np.testing.assert_allclose(x.mean(axis=0), model_x.mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), between + within, atol=0.06)
    across = (x - model_x.mean).T @ (other - model_x.mean) / len(x)
    np.testing.assert_allclose(across, between, atol=0.06)
    views = (x - model_x.mean).T @ (y_other - model_y.mean) / len(x)
    np.testing.assert_allclose(views, model_x.loading.T @ model_y.loading, atol=0.06)


def dense_llr(simulation: Simulation, x: np.ndarray, n: int, y: np.ndarray) -> float:
    """log p(x, y) - log p(x) - log p(y) by dense Gaussians, x the mean of n utterances."""
    sides = simulation._enroll, simulation._runtime
    loading = np.hstack([side.loading for side in sides]).T
    dim = len(x)
    cov = loading @ loading.T
    cov[:dim, :dim] += sides[0].noise_root.T @ sides[0].noise_root / n
    cov[dim:, dim:] += sides[1].noise_root.T @ sides[1].noise_root
    mean = np.concatenate([side.mean for side in sides])
    joint = multivariate_normal(mean, cov).logpdf(np.concatenate([x, y]))
    return (
        joint
        - multivariate_normal(mean[:dim], cov[:dim, :dim]).logpdf(x)
        - multivariate_normal(mean[dim:], cov[dim:, dim:]).logpdf(y)
    )


@pytest.mark.parametrize("warp", [0.0, 2.0])
def test_optimal_scores_are_the_dense_likelihood_ratio_of_the_unwarped_model(warp: float) -> None:
    straight, warped = Simulation(**SMALL), Simulation(warp=warp, **SMALL)
    plain_x, plain_y, utt2spk = straight.sample(6, 4)
    x, y, _ = warped.sample(6, 4)
    keys = list(utt2spk)
    enroll_map = {"p3": keys[:3], "p2": keys[5:7]}
    trials = Trials(["p3", keys[9], "p2", "p3"], [keys[3], keys[10], keys[12], keys[20]])
    scores = warped.optimal_scores(x, y, trials, enroll_map)
    for score, name, test in zip(scores, trials.enroll, trials.test, strict=True):
        members = enroll_map.get(name, [name])
        mean = plain_x.matrix[plain_x.rows(members)].mean(axis=0)
        tested = plain_y.matrix[plain_y.rows([test])[0]]
        expected = dense_llr(straight, mean, len(members), tested)
        np.testing.assert_allclose(score, expected, rtol=1e-3, atol=1e-3)


def test_optimal_scores_are_calibrated_and_unbeaten() -> None:
    simulation = Simulation(dims=(24, 30), factor_dim=16, noise=(1.0, 1.0))
    x, y, utt2spk = simulation.sample(60, 3, set_number=1)
    trials = all_trials(utt2spk)
    scores = simulation.optimal_scores(x, y, trials)
    assert trials.labels is not None
    assert 0.01 < eer(scores, trials.labels) < 0.3
    assert cllr(scores, trials.labels) < min_cllr(scores, trials.labels) + 0.03
    aligner = CCAAligner().fit(*simulation.sample(400, 4))
    mapped = (
        Embeddings(x.keys, aligner.map_enroll(x.matrix)),
        Embeddings(y.keys, aligner.map_runtime(y.matrix)),
    )
    assert eer(scores, trials.labels) < eer(cosine_scores(*mapped, trials), trials.labels)


def test_more_enrollment_utterances_help() -> None:
    simulation = Simulation(dims=(24, 30), factor_dim=16, noise=(1.5, 1.0))
    x, y, utt2spk = simulation.sample(100, 9)
    keys, names = np.array(list(utt2spk)).reshape(100, 9), sorted(set(utt2spk.values()))
    rows = np.arange(100)
    errors = []
    for n in (1, 3, 8):
        enroll_map = {f"{name}-p{n}": list(keys[s, :n]) for s, name in enumerate(names)}
        pairs = [(p, keys[t, 8]) for p in enroll_map for t in rows]
        trials = Trials(*zip(*pairs, strict=True), np.eye(100, dtype=bool).ravel())
        scores = simulation.optimal_scores(x, y, trials, enroll_map)
        errors.append(eer(scores, np.eye(100, dtype=bool).ravel()))
    assert errors[0] > errors[1] > errors[2]


def test_the_warp_hurts_linear_maps_but_not_the_optimal_score() -> None:
    setting = {"dims": (24, 30), "factor_dim": 16, "noise": (0.8, 0.8)}
    optimal, linear = [], []
    for warp in (0.0, 2.0):
        simulation = Simulation(warp=warp, **setting)
        x, y, utt2spk = simulation.sample(60, 3, set_number=1)
        trials = all_trials(utt2spk)
        aligner = CCAAligner().fit(*simulation.sample(500, 4))
        mapped = (
            Embeddings(x.keys, aligner.map_enroll(x.matrix)),
            Embeddings(y.keys, aligner.map_runtime(y.matrix)),
        )
        linear.append(eer(cosine_scores(*mapped, trials), trials.labels))
        optimal.append(simulation.optimal_scores(x, y, trials))
    np.testing.assert_allclose(optimal[0], optimal[1], rtol=1e-3, atol=2e-3)
    assert linear[1] > 1.3 * linear[0]
