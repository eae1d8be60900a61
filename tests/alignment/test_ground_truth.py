"""NESSA on embeddings whose Bayes-optimal score is known."""

import numpy as np
import pytest

from benchmarks.simulation import Simulation
from nessa.alignment import (
    Aligner,
    CCAAligner,
    DevSet,
    NeuralAligner,
    PLDAAligner,
    ProcrustesAligner,
    RidgeAligner,
)
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.roc import eer
from nessa.scoring.cosine import cosine_scores
from nessa.trials import Trials
from tests.pairs import as_trials, drawn_trials

pytestmark = pytest.mark.usefixtures("one_thread")

LINEAR = [ProcrustesAligner, RidgeAligner, CCAAligner, PLDAAligner]


class World:
    """A simulation with its align, dev and eval speakers.

    Attributes:
        best: EER of the Bayes-optimal score on the eval trials.
    """

    def __init__(self, simulation: Simulation, speakers: int) -> None:
        self.align = simulation.sample(speakers, 6)
        self.dev = DevSet(*self._trials(simulation, 400, 2, 80000))
        self.enroll, self.runtime, self.trials = self._trials(simulation, 1000, 1, 300000)
        optimal = simulation.optimal_scores(self.enroll, self.runtime, self.trials)
        self.best = eer(optimal, self.trials.labels)

    @staticmethod
    def _trials(
        simulation: Simulation, speakers: int, number: int, count: int
    ) -> tuple[Embeddings, Embeddings, Trials]:
        x, y, utt2spk = simulation.sample(speakers, 4, set_number=number)
        return x, y, as_trials(list(utt2spk), *drawn_trials(speakers, 4, count))

    def error_of_ratio(self) -> float:
        """EER of two-view PLDA's likelihood ratio."""
        plda = PLDAAligner().fit(*self.align, self.dev)
        scores = plda.scores(self.enroll, self.runtime, self.trials)
        return eer(scores, self.trials.labels)

    def error(self, aligner: Aligner) -> float:
        aligner.fit(*self.align, self.dev)
        scores = cosine_scores(
            Embeddings(self.enroll.keys, aligner.map_enroll(self.enroll.matrix)),
            Embeddings(self.runtime.keys, aligner.map_runtime(self.runtime.matrix)),
            self.trials,
        )
        return eer(scores, self.trials.labels)


@pytest.mark.slow
def test_nessa_is_within_two_percent_of_the_bayes_optimal_eer() -> None:
    """Where lengths are told, and within three where only directions are."""
    world = World(Simulation(), 10000)
    assert 0.05 < world.best < 0.15
    for power, most in {1.0: 1.02, 0.0: 1.03}.items():
        nessa = NeuralAligner(hidden_dim=256, steps=200, evaluate_every=25, length_power=power)
        assert 1 - 1e-3 < world.error(nessa) / world.best < most


@pytest.mark.slow
def test_at_200_speakers_nessa_is_not_above_the_ratio_of_plda() -> None:
    world = World(Simulation(), 200)
    nessa = NeuralAligner(hidden_dim=256, steps=100, evaluate_every=25)
    assert world.best < world.error(nessa) <= 1.01 * world.error_of_ratio()


@pytest.mark.slow
def test_nessa_undoes_a_warp_that_no_linear_map_can() -> None:
    world = World(Simulation(dims=(24, 30), factor_dim=16, noise=(1.3, 1.0), warp=2.0), 3000)
    nessa = world.error(NeuralAligner(dim=32, hidden_dim=256, evaluate_every=50))
    assert world.best < nessa < 0.9 * min(world.error(linear()) for linear in LINEAR)
    assert nessa < 0.95 * world.error_of_ratio()


@pytest.mark.slow
def test_where_training_makes_it_worse_nessa_is_the_best_linear_aligner() -> None:
    """Few speakers in a noisy world: the start is kept."""
    world = World(Simulation(dims=(24, 30), factor_dim=16, noise=(1.3, 1.0)), 60)
    nessa = world.error(NeuralAligner(dim=64, hidden_dim=256, steps=100, evaluate_every=10))
    assert nessa < 1.05 * min(world.error(linear()) for linear in LINEAR)


def test_pairs_of_the_trials_are_between_different_utterances() -> None:
    pairs, labels = drawn_trials(50, 4, 2000)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert (labels == (pairs[:, 0] // 4 == pairs[:, 1] // 4)).all() and labels.any()
    assert np.mean(labels) < 0.2
