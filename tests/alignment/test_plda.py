"""PLDA: its likelihood ratio and its maps against dense Gaussians and the Bayes-optimal score."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from benchmarks.simulation import Simulation
from nessa.alignment import PLDAAligner, load
from nessa.alignment.views import center
from nessa.errors import InputError
from nessa.metrics.roc import eer
from tests.aligners import error, fit
from tests.pairs import as_trials, drawn_trials, two_views

pytestmark = pytest.mark.usefixtures("one_thread")


def test_without_length_normalization_it_maps_alike_when_saved_and_is_not_exported(
    tmp_path: Path,
) -> None:
    aligner = fit(PLDAAligner(length_normalize=False))
    assert error(aligner) < 0.25
    aligner.save(tmp_path)
    again = load(tmp_path)
    x, y, _ = two_views(5, 2, first_speaker=300)
    np.testing.assert_array_equal(again.map_enroll(x.matrix), aligner.map_enroll(x.matrix))
    np.testing.assert_array_equal(again.map_runtime(y.matrix), aligner.map_runtime(y.matrix))
    with pytest.raises(InputError, match="length_normalize"):
        again.network("enroll")


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
    a, b = (
        center(view.matrix, aligner.arrays[f"{side}_mean"]).astype(np.float64)
        @ aligner.arrays[f"{side}_map"]
        for side, view in (("enroll", enroll), ("runtime", runtime))
    )
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
