"""The verdict: an aligner against the worse of its models, with its uncertainty."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nessa.alignment import DevSet, NeuralAligner, ProcrustesAligner, load
from nessa.alignment.dev import (
    both_ways_scores,
    calibrate_on,
    improves,
    judge,
    speakers_by_targets,
    verdict_sentence,
)
from nessa.alignment.views import length_normalize
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.bootstrap import Estimate
from nessa.scoring.cosine import cosine_scores
from nessa.trials import Trials
from tests.aligners import NEURAL, fit
from tests.pairs import all_trials, two_views


def noisy(embeddings: Embeddings, level: float) -> Embeddings:
    noise = np.random.default_rng(5).standard_normal(embeddings.matrix.shape)
    return Embeddings(embeddings.keys, embeddings.matrix + level * noise)


def dev_set(first: float, second: float, speakers: int = 40) -> DevSet:
    """Speakers by two models of different noise."""
    x, _, names = two_views(speakers, 3, first_speaker=5000)
    return DevSet(noisy(x, first), noisy(x, second), all_trials(names))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noises", "cross", "verdict"),
    [((1.0, 0.1), 0.1, "helps"), ((1.0, 0.1), 1.0, "cannot tell"), ((0.5, 0.1), 5.0, "harms")],
)
def test_the_verdict_is_that_of_the_interval(
    noises: tuple[float, float], cross: float, verdict: str
) -> None:
    dev = dev_set(*noises)
    mapped = noisy(dev.enroll, 0.0) if cross == noises[0] else noisy(dev.runtime, cross)
    found = judge(dev, [(mapped, mapped)] * 2)
    low, high = found["lower_by_ci"]
    assert found["verdict"] == verdict
    assert (low > 0, high < 0) == (verdict == "helps", verdict == "harms")
    assert low <= found["lower_by"] <= high
    assert found["lower_by"] == pytest.approx(found["not_updating"] - found["eer"])
    sentence = verdict_sentence(found)
    assert sentence is not None and f"the worse of both models alone, on dev: {verdict}" in sentence


def test_not_updating_is_the_worse_of_both_models_whichever_it_is() -> None:
    dev = dev_set(1.5, 0.1, 12)
    mirrored = replace(dev, enroll=dev.runtime, runtime=dev.enroll)
    mapped = [(dev.runtime, dev.runtime)] * 2
    assert judge(dev, mapped) == judge(mirrored, mapped)


def test_each_list_is_scored_in_both_directions() -> None:
    x, y, _ = two_views(2, 2, dims=(6, 6))
    trials = Trials(x.keys[:3], x.keys[1:], np.array([True, False, True]))
    sides = [(length_normalize(view.matrix), np.arange(4.0)) for view in (x, y)]
    found = [scores for _, scores in both_ways_scores(*sides, DevSet(x, y, trials))]
    wanted = [cosine_scores(*pair, trials) + np.array([1, 3, 5]) for pair in ((x, y), (y, x))]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_calibration_is_of_the_trials_of_each_direction() -> None:
    dev = dev_set(1.5, 0.5, 12)
    one, both = (calibrate_on(dev, [(dev.enroll, dev.enroll)] * ways) for ways in (1, 2))
    assert both.scale == pytest.approx(one.scale, rel=1e-3)


@pytest.mark.parametrize(("better", "kept"), [(79, False), (80, True)])
def test_training_is_kept_where_four_fifths_of_the_draws_are_better(
    better: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = np.full(100, 0.2), np.where(np.arange(100) < better, 0.1, 0.3)
    errors = [Estimate(0.2, own) for own in draws]
    monkeypatch.setattr("nessa.alignment.dev.dev_errors", lambda *_: errors)
    dev = dev_set(0.1, 0.1, 2)
    side = dev.enroll.matrix, np.zeros(len(dev.enroll))
    assert improves(dev, (side, side), (side, side)) == kept


@pytest.mark.parametrize(("speakers", "verdict"), [(9, "cannot tell"), (10, "helps")])
def test_few_dev_speakers_decide_nothing(speakers: int, verdict: str) -> None:
    dev = dev_set(1.5, 0.1, speakers)
    found = judge(dev, [(dev.runtime, dev.runtime)] * 2)
    assert found["lower_by_ci"][0] > 0
    assert (found["verdict"], found["speakers"]) == (verdict, speakers)
    sentence = verdict_sentence(found)
    assert sentence is not None and verdict in sentence
    assert ("of 9 speakers; 10 are needed" in sentence) == (speakers == 9)


def test_it_is_kept_with_the_aligner_and_its_mirror(tmp_path: Path) -> None:
    aligner = fit(ProcrustesAligner())
    aligner.save(tmp_path)
    assert load(tmp_path).fitting == aligner.fitting == aligner.mirrored().fitting
    assert aligner.fitting["verdict"] in ("helps", "cannot tell", "harms")
    assert verdict_sentence(fit(ProcrustesAligner(), dev=False).fitting) is None


@pytest.mark.slow
def test_few_speakers_are_not_said_to_help() -> None:
    x, y, speakers = two_views(5, 2, noise=(1.5, 1.5))
    enroll, runtime, names = two_views(40, 3, first_speaker=5000)
    dev = DevSet(enroll, runtime, all_trials(names))
    aligner = NeuralAligner(**NEURAL).fit(x, y, speakers, dev)
    assert aligner.fitting["verdict"] in ("cannot tell", "harms")


def test_speakers_follow_from_the_target_trials() -> None:
    names = two_views(6, 3)[2]
    trials = all_trials(names)
    for side, ids in zip(speakers_by_targets(trials), (trials.enroll, trials.test), strict=True):
        pairs = {(speaker, names[key]) for speaker, key in zip(side, ids, strict=True)}
        assert len(pairs) == 6 and len({speaker for speaker, _ in pairs}) == 6


def test_given_speakers_are_drawn_whole_where_few_target_trials_join_them() -> None:
    x, y, names = two_views(9, 6, first_speaker=5000)
    every = all_trials(names)
    keys = list(names)
    rows = [  # each utterance with one other of its speaker: three parts a speaker
        row
        for row, (a, b) in enumerate(zip(every.enroll, every.test, strict=True))
        if names[a] != names[b] or (keys.index(a) + 1 == keys.index(b) and keys.index(a) % 2 == 0)
    ]
    ids = ([side[row] for row in rows] for side in (every.enroll, every.test))
    trials = Trials(*ids, np.asarray(every.labels)[rows])
    bare = DevSet(noisy(x, 1.5), y, trials)
    mapped = [(y, y)] * 2
    assert judge(bare, mapped)["speakers"] == 27
    found = judge(replace(bare, speakers=names), mapped)
    assert (found["speakers"], found["verdict"]) == (9, "cannot tell")
    whole = DevSet(noisy(x, 1.5), y, every)
    assert judge(replace(whole, speakers=names), mapped) == judge(whole, mapped)


def test_labels_that_contradict_the_speakers_are_refused_before_the_fit() -> None:
    x, y, names = two_views(3, 2, first_speaker=5000)
    first, second, third = x.keys[0], x.keys[1], x.keys[2]
    align = two_views(10, 3)
    for pair, label, kind in (((first, third), True, "target"), ((first, second), False, "non")):
        dev = DevSet(x, y, Trials(*([key] for key in pair), np.array([label])), speakers=names)
        with pytest.raises(InputError, match=rf"'{pair[0]}' '{pair[1]}' is a {kind}.*utt2spk"):
            ProcrustesAligner().fit(*align, dev)


@pytest.mark.parametrize("label", [True, False])
def test_a_further_list_of_one_class_is_refused_before_the_fit(
    label: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, names = two_views(3, 2, first_speaker=5000)
    every = all_trials(names)
    one = every.select(np.asarray(every.labels) == label)
    monkeypatch.setattr(ProcrustesAligner, "_fit", lambda *_: pytest.fail("fitted"))
    with pytest.raises(InputError, match="needs some of each"):
        ProcrustesAligner().fit(*two_views(10, 3), DevSet(x, y, every, (one,)))


def test_the_verdict_does_not_depend_on_the_order_of_the_trials() -> None:
    dev = dev_set(1.5, 0.1, 10)
    order = np.random.default_rng(0).permutation(len(dev.trials))
    ids = ([side[row] for row in order] for side in (dev.trials.enroll, dev.trials.test))
    shuffled = replace(dev, trials=Trials(*ids, np.asarray(dev.trials.labels)[order]))
    mapped = [(dev.runtime, dev.runtime)] * 2
    assert judge(shuffled, mapped) == judge(dev, mapped)


def test_trials_that_contradict_each_other_are_refused() -> None:
    x, y, _ = two_views(2, 2)
    a, b, c, _ = x.keys
    trials = Trials([a, b, a], [b, c, c], np.array([True, True, False]))
    with pytest.raises(InputError, match="correct its label"):
        judge(DevSet(x, y, trials), [(x, x), (x, x)])
