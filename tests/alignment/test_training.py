"""How NESSA is trained: what a teacher teaches, and which weights are kept."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch import nn

from nessa.alignment import AlignTable, DevSet, NeuralAligner, neural
from nessa.alignment.networks import ALIKE, PATIENCE, NetworkAligner
from nessa.alignment.teaching import TEMPERATURE, Teacher, distillation, halves
from nessa.alignment.training import Training
from nessa.alignment.views import SIDES, Side
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.roc import eer
from nessa.scoring.cosine import cosine_scores
from tests.aligners import NEURAL, dev_for, fit, small
from tests.pairs import all_trials, two_views


def test_distillation_is_the_divergence_of_rows_and_of_columns() -> None:
    rng = np.random.default_rng(1)
    own, taught = rng.normal(size=(2, 5, 7)) * 3
    found = distillation(torch.from_numpy(own), torch.from_numpy(taught)).item()
    wanted = 0.0
    for axis in (0, 1):
        p, q = (softmax(scores / TEMPERATURE, axis=axis) for scores in (taught, own))
        wanted += entropy(p, q, axis=axis).mean()
    assert found == pytest.approx(wanted)


def test_a_pupil_that_agrees_with_the_teacher_has_nothing_to_learn() -> None:
    scores = 50 * torch.randn(20, 20, generator=torch.Generator().manual_seed(1))
    pupil = (scores + 3).requires_grad_()  # a constant changes no distribution
    loss = distillation(pupil, scores)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-4)
    assert pupil.grad is not None and pupil.grad.abs().max() < 1e-6


def test_each_speaker_is_of_one_half_by_chance() -> None:
    first, second = halves(2001, 1)
    assert (first != second).all() and abs(int(first.sum()) - int(second.sum())) == 1
    assert abs(np.corrcoef(first, np.arange(2001) % 2)[0, 1]) < 0.1
    assert (halves(2001, 1)[0] == first).all() and (halves(2001, 2)[0] != first).any()


def taught(*pupils: Callable[[int], bool] | None, seed: int = 1) -> list[torch.Tensor]:
    """Weights after some steps beside a teacher for each of the given choices of speakers."""
    x, y, speakers = two_views(40, 4)
    labels = np.unique(list(speakers.values()), return_inverse=True)[1]
    aligner = NeuralAligner(**NEURAL, dropout=0.0)
    torch.manual_seed(1)
    _, (trained, *_) = aligner.initial_modules(x.matrix, y.matrix, labels)
    _, (alone, *_) = aligner.initial_modules(y.matrix, y.matrix, labels)
    masks = [of and np.array([of(speaker) for speaker in range(40)]) for of in pupils]
    teachers = [Teacher(alone, 1, mask) for mask in masks]
    training = Training(aligner.config, trained, (x.matrix, y.matrix), labels, seed, None, teachers)
    for step in range(3):
        training.step(step)
    return [w for module in trained.values() for w in module.parameters()]


def differ(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return any(bool((a != b).any()) for a, b in zip(first, second, strict=True))


def test_a_teacher_teaches_its_pupils_alone() -> None:
    everybody, nobody = taught(None), taught()
    assert not differ(taught(lambda _: True), everybody)
    assert not differ(taught(lambda _: False), nobody)
    some = taught(lambda speaker: speaker < 20)
    assert differ(some, everybody) and differ(some, nobody)


def test_batches_are_drawn_by_the_seed() -> None:
    assert not differ(taught(seed=2), taught(seed=2))
    assert differ(taught(seed=2), taught())


def test_a_frozen_side_is_trained_against_without_dropout() -> None:
    x, y, speakers = two_views(20, 4)
    labels = np.unique(list(speakers.values()), return_inverse=True)[1]
    aligner = NeuralAligner(**NEURAL, dropout=0.5)
    _, (modules, *_) = aligner.initial_modules(x.matrix, y.matrix, labels)
    modules["enroll"].requires_grad_(False)
    Training(aligner.config, modules, (x.matrix, y.matrix), labels, 1).step(0)
    assert [modules[side].training for side in SIDES] == [False, True]


def test_a_speaker_of_one_recording_is_left_out_of_batches() -> None:
    """It would be both in the profile and in what the profile meets."""
    x, y, speakers = two_views(20, 4)
    labels = np.unique(list(speakers.values()), return_inverse=True)[1]
    aligner = NeuralAligner(**NEURAL, dropout=0.0)
    alone = labels[:, None] == 0
    recordings = np.where(alone, 0, np.arange(len(labels))[:, None]).repeat(2, axis=1)
    weights = []
    for sign in (1, -1):
        torch.manual_seed(1)
        _, (modules, *_) = aligner.initial_modules(x.matrix, y.matrix, labels)
        views = tuple(np.where(alone, sign * view.matrix, view.matrix) for view in (x, y))
        Training(aligner.config, modules, views, labels, 1, recordings).step(0)
        weights.append([w for module in modules.values() for w in module.parameters()])
    assert not differ(*weights)


@pytest.mark.slow
def test_many_speakers_are_taught_by_what_never_met_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each half by a fit of the better model with itself, on the other half."""
    monkeypatch.setattr(neural, "FEWEST_HALVED", 60)
    x, y, speakers = two_views(60, 4)  # y is the better view
    fits: list[set[bytes]] = []
    given: list[Sequence[Teacher]] = []
    fit_rows, train = NeuralAligner._fit, Training.__init__

    def fit(self: NeuralAligner, enroll: Any, runtime: Any, *rest: Any) -> None:
        if enroll is runtime:
            fits.append({row.tobytes() for row in enroll})
        fit_rows(self, enroll, runtime, *rest)

    def started(self: Training, *arguments: Any, **options: Any) -> None:
        given.append(arguments[-1])
        train(self, *arguments, **options)

    monkeypatch.setattr(NeuralAligner, "_fit", fit)
    monkeypatch.setattr(Training, "__init__", started)
    NeuralAligner(**NEURAL).fit(x, y, speakers, dev_for("neural"))
    of_teachers = given[-1]
    assert [len(teachers) for teachers in given] == [0, 0, 2]
    labels = np.unique(list(speakers.values()), return_inverse=True)[1]
    for teacher, met in zip(of_teachers, fits, strict=True):
        assert teacher.place == 1 and teacher.pupils is not None
        assert met == {row.tobytes() for row in y.matrix[~teacher.pupils[labels]]}
    assert (of_teachers[0].pupils != of_teachers[1].pupils).all()


@pytest.mark.slow
@pytest.mark.parametrize(("fewest", "halved"), [(30, True), (31, False)])
def test_a_copy_with_another_voice_is_taught_with_its_original(
    monkeypatch: pytest.MonkeyPatch, fewest: int, halved: bool
) -> None:
    """Else its teacher has learned the original's utterances by heart."""
    monkeypatch.setattr(neural, "FEWEST_HALVED", fewest)
    x, y, speakers = two_views(60, 4)
    names = sorted(set(speakers.values()))
    persons = dict(zip(names, names[30:] + names[30:], strict=True))  # the first 30 are copies
    given: list[Sequence[Teacher]] = []
    train = Training.__init__

    def started(self: Training, *arguments: Any, **options: Any) -> None:
        given.append(arguments[-1])
        train(self, *arguments, **options)

    monkeypatch.setattr(Training, "__init__", started)
    table = AlignTable.of(x, y, speakers)
    table = table.with_persons({key: persons[name] for key, name in speakers.items()})
    NeuralAligner(**NEURAL).fit_table(table, dev_for("neural"))
    pupils = [teacher.pupils for teacher in given[-1]]
    assert [of is not None for of in pupils] == ([True, True] if halved else [False])
    for of in pupils if halved else []:
        assert of is not None and of.sum() == 30
        np.testing.assert_array_equal(of[:30], of[30:])


@pytest.mark.slow
@pytest.mark.parametrize(("speakers", "learned"), [(200, False), (500, True)])
def test_each_of_many_speakers_is_learned_by_either_model(speakers: int, learned: bool) -> None:
    """Of runtime utterances of anybody, the enrollment side can learn from its own alone."""
    x, y, names = two_views(speakers, 4)
    anybody = Embeddings(y.keys, np.random.default_rng(1).permutation(y.matrix))
    own, _, others = two_views(40, 4, first_speaker=1000)
    trials = all_trials(others)
    errors = []
    for steps in (1, 100):
        settings = NEURAL | {"score": "cosine", "start": "random", "steps": steps}
        aligner = NeuralAligner(**settings).fit(x, anybody, names)
        mapped = Embeddings(own.keys, aligner.map_enroll(own.matrix))
        errors.append(eer(cosine_scores(mapped, mapped, trials), trials.known_labels))
    assert (errors[1] < 0.8 * errors[0]) == learned


@pytest.mark.parametrize(("speakers", "rate"), [(150, 3e-3), (1200, 8e-3)])
def test_the_learning_rate_follows_from_the_speakers(speakers: int, rate: float) -> None:
    views = two_views(speakers, 2)
    settings = NEURAL | {"steps": 3, "utterances_per_speaker": 2, "start": "cca"}
    own, given = (
        NeuralAligner(**settings, **more).fit(*views) for more in ({}, {"learning_rate": rate})
    )
    assert all((own.arrays[name] == given.arrays[name]).all() for name in own.arrays)
    other = NeuralAligner(**settings, learning_rate=5e-3).fit(*views)
    assert any((own.arrays[name] != other.arrays[name]).any() for name in own.arrays)


@pytest.mark.slow
def test_the_better_model_teaches(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fit(NeuralAligner(**NEURAL))  # x is the noisier view
    assert "teacher: the runtime model with itself" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"distillation": 0.0}, {"score": "cosine"}])
def test_without_a_teacher(caplog: pytest.LogCaptureFixture, settings: dict[str, object]) -> None:
    caplog.set_level(logging.INFO)
    fit(NeuralAligner(**{**NEURAL, **settings}))
    assert "teacher" not in caplog.text


@pytest.mark.parametrize("same", [True, False])
def test_models_whose_dev_errors_tie_are_two_models_all_the_same(
    same: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on easy dev lists: each was not told its own speakers apart."""
    caplog.set_level(logging.INFO)
    told: list[bool] = []
    train = Training.__init__

    def started(self: Training, *arguments: Any, **options: Any) -> None:
        told.append(options["one_model"])
        train(self, *arguments, **options)

    monkeypatch.setattr(Training, "__init__", started)
    x, y, names = two_views(12, 3, first_speaker=9000, dims=(48, 64), noise=(0.01, 0.02))
    align = two_views(40, 4, dims=(48, 64))
    pair = (0, 0) if same else (0, 1)
    dev = DevSet(*((x, y)[place] for place in pair), all_trials(names))
    settings = NEURAL | {"steps": 1, "start": "cca"}
    NeuralAligner(**settings).fit(*(align[place] for place in pair), align[2], dev)
    assert told == [same]
    assert ("no teacher: alone, both models have the same dev EER" in caplog.text) != same


@pytest.mark.slow
def test_a_model_does_not_teach_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    x, _, speakers = two_views(60, 4)
    dev = dev_for("neural")
    alone = DevSet(dev.enroll, dev.enroll, dev.trials)
    NeuralAligner(**{**NEURAL, "steps": 1}).fit(x, x, speakers, alone)
    assert "teacher" not in caplog.text


class Told(NetworkAligner):
    """Dev EERs as told, one for the start and one for each evaluation."""

    kind = "told"

    def __init__(self, errors: list[float]) -> None:
        super().__init__()
        self._errors: Iterator[float] = iter(errors)

    def _fit(self, *views: object) -> None:
        raise NotImplementedError

    def dev_eer(self, dev: DevSet) -> float:
        return next(self._errors)


@pytest.mark.parametrize(
    ("errors", "kept", "taken"),
    [
        ([0.5, 0.4, 0.3], 2, 2),
        ([0.2, 0.4, 0.3], 0, 2),  # the start was better
        ([0.5, 0.3, 0.3 * (1 + ALIKE / 2)], 2, 2),  # alike: the later one
        ([0.5, 0.3, 0.3 * (1 + 2 * ALIKE)], 1, 2),
        ([0.5, 0.3, 0.3 * (1 + ALIKE / 2), 0.3 * (1 + 1.5 * ALIKE)], 2, 3),  # than the lowest
        ([0.2] + [0.4] * 9, 0, PATIENCE),  # higher so often: the rest is not trained
    ],
)
def test_the_last_of_the_lowest_is_kept(errors: list[float], kept: int, taken: int) -> None:
    module = nn.Linear(1, 1, bias=False)
    module.weight.data[:] = 0
    steps = []

    def step(number: int) -> float:
        steps.append(number)
        module.weight.data += 1
        return 0.0

    aligner = Told(errors)
    modules = {"enroll": module, "runtime": nn.Linear(1, 1)}
    assert aligner.train_modules(modules, step, len(errors) - 1, 1, dev_for("neural")) == kept
    assert len(steps) == taken
    assert aligner.modules["enroll"].weight.item() == kept


def diverging(steps: int) -> tuple[dict[Side, nn.Module], Callable[[int], float]]:
    """Modules, and a training whose weights are no numbers from a step on."""
    module = nn.Linear(1, 1, bias=False)
    module.weight.data[:] = 0

    def step(number: int) -> float:
        module.weight.data += 1 if number < steps else np.nan
        return 0.0 if number <= steps else np.nan  # of the weights before the step

    return {"enroll": module, "runtime": nn.Linear(1, 1)}, step


def test_of_training_that_diverges_the_best_weights_are_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    aligner = Told([0.5, 0.4, 0.3])
    assert aligner.train_modules(*diverging(2), 9, 1, dev_for("neural")) == 2
    assert aligner.modules["enroll"].weight.item() == 2
    assert "diverged by step 3: the weights of step 2 are kept" in caplog.text


@pytest.mark.parametrize("last", [3, 4])
def test_without_dev_training_that_diverges_is_refused(last: int) -> None:
    with pytest.raises(InputError, match=rf"told: .* diverged by step {last}; lower learning_rate"):
        Told([]).train_modules(*diverging(2), last, 100, None)


def test_a_learning_rate_that_is_too_high_is_named() -> None:
    with pytest.raises(
        InputError, match=r"regression: .* diverged by step 20; lower learning_rate"
    ):
        small("regression", learning_rate=1e30).fit(*two_views(30, 3))
