"""NESSA: its modes, its updates of one side, and its batches."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from nessa.alignment import DevSet, LogitAligner, NeuralAligner, ProcrustesAligner, load
from nessa.alignment.training import SpeakerBatches, profile_size
from nessa.alignment.views import Side, center, fit_mean
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp
from tests.aligners import NEURAL, dev_for, error, fit, views_for
from tests.pairs import two_views

MODES = ["shared", "to-enroll", "to-runtime"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_nessa_beats_logits_and_procrustes_on_noisy_views(mode: str) -> None:
    nessa = error(fit(NeuralAligner(mode=mode, **NEURAL)))
    assert nessa < 0.7 * error(fit(LogitAligner()))
    if mode == "shared":
        assert nessa < error(fit(ProcrustesAligner()))


@pytest.mark.slow
def test_one_sided_modes_leave_the_other_side_as_it_is() -> None:
    """But for being centered; without a dev set, so that training is kept."""
    x, y, _ = two_views(30, 2, first_speaker=300)
    of_x, of_y, _ = views_for("neural", 100, 5)  # what `fit` takes
    for mode, kept, trained in (("to-enroll", 0, 1), ("to-runtime", 1, 0)):
        settings = {**NEURAL, "mode": mode}
        long, short = (
            fit(NeuralAligner(**settings | {"steps": steps}), dev=False).map_views(x, y)
            for steps in (20, 1)
        )
        expected = center((x, y)[kept].matrix, fit_mean((of_x, of_y)[kept].matrix))
        np.testing.assert_allclose(long[kept].matrix, expected, atol=1e-6)
        assert np.abs(long[trained].matrix - short[trained].matrix).max() > 0.01


@pytest.mark.parametrize("mode", MODES)
def test_the_mirror_of_a_mode_is_the_other_mode(mode: str) -> None:
    aligner = NeuralAligner(**{**NEURAL, "steps": 1}, mode=mode).fit(*two_views(20, 3))
    mirror = aligner.mirrored()
    x, y, _ = two_views(5, 2, first_speaker=300)
    products = aligner.map_enroll(x.matrix) @ aligner.map_runtime(y.matrix).T
    found = mirror.map_runtime(x.matrix) @ mirror.map_enroll(y.matrix).T
    np.testing.assert_allclose(found, products, atol=1e-6)
    other = {"to-enroll": "to-runtime", "to-runtime": "to-enroll"}
    assert mirror.settings == aligner.settings | {"mode": other.get(mode, mode)}


def test_the_mirror_names_the_side_that_its_regression_is_onto() -> None:
    """It named the same side, which is of the other model there."""
    settings = {**NEURAL, "steps": 1, "start": "ridge"}
    aligner = NeuralAligner(**settings).fit(*two_views(20, 3))
    mirror = aligner.mirrored()
    for one, side in ((aligner, "enroll"), (mirror, "runtime"), (mirror.mirrored(), "enroll")):
        label = f"regression onto {side}, penalty 0.1"
        assert one.fitting["start"] == label and list(one.fitting["weights"]) == [label]


def test_settings_are_checked_and_the_nearest_is_named() -> None:
    with pytest.raises(InputError, match="unknown key 'dimm'; did you mean 'dim'"):
        NeuralAligner(dimm=3)
    with pytest.raises(InputError, match="unknown key 'seeds'"):
        NeuralAligner(seeds=(1, 2))
    with pytest.raises(InputError, match=r"dim: .* greater than 0"):
        NeuralAligner(dim=0)
    with pytest.raises(InputError, match=r"speakers_per_batch: .* greater than or equal to 2"):
        NeuralAligner(speakers_per_batch=1)  # whom nothing is told from


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["enroll", "runtime"])
def test_a_frozen_side_stays_to_the_last_bit_while_the_other_is_updated(
    freeze: Side, tmp_path: Path
) -> None:
    fit(NeuralAligner(**NEURAL)).save(tmp_path)
    x, y, speakers = two_views(150, 6)
    held = two_views(40, 3, first_speaker=9000)
    kept, view = ("map_enroll", held[0]) if freeze == "enroll" else ("map_runtime", held[1])
    updated = load(tmp_path)
    assert isinstance(updated, NeuralAligner)
    stored = getattr(updated, kept)(view.matrix)
    # The new model of the other side: other dimension, other map, other fingerprint.
    turn = np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32)

    def replaced(old: Embeddings) -> Embeddings:
        matrix = np.tanh(old.matrix @ turn[: old.dim, : old.dim + 5])
        return Embeddings(old.keys, matrix, ModelStamp("z", "z" * 64, "align"))

    dev = dev_for("neural")
    if freeze == "enroll":
        views = x, replaced(y)
        dev = DevSet(dev.enroll, replaced(dev.runtime), dev.trials)
        sides = held[0], replaced(held[1])
    else:
        views = replaced(x), y
        dev = DevSet(replaced(dev.enroll), dev.runtime, dev.trials)
        sides = replaced(held[0]), held[1]
    updated.fit(*views, speakers, dev, freeze=freeze)
    np.testing.assert_array_equal(getattr(updated, kept)(view.matrix), stored)
    updated.save(tmp_path / "updated")
    again = load(tmp_path / "updated")
    np.testing.assert_array_equal(getattr(again, kept)(view.matrix), stored)
    again.check_models(*sides)
    assert again.calibration is not None and again.calibration.space == again.space()
    joint = NeuralAligner(**NEURAL).fit(*views, speakers, dev)
    assert error(again, sides) < error(joint, sides) + 0.03
    with pytest.raises(InputError, match="embeddings are of model 'z'"):
        updated.fit(replaced(x), replaced(y), speakers, dev, freeze=freeze)


def test_there_must_be_something_to_freeze() -> None:
    with pytest.raises(InputError, match="nothing is fitted yet"):
        NeuralAligner(**NEURAL).fit(*two_views(10, 3), freeze="enroll")


QUICK = NEURAL | {"steps": 1, "speakers_per_batch": 20, "utterances_per_speaker": 2}


def unstamped(*views: Embeddings) -> list[Embeddings]:
    return [Embeddings(view.keys, view.matrix) for view in views]


def test_a_frozen_side_stays_known_beside_tables_without_stamps() -> None:
    x, y, speakers = two_views(40, 3)
    aligner = NeuralAligner(**QUICK).fit(x, y, speakers)
    aligner.fit(*unstamped(x, y), speakers, freeze="enroll")
    assert aligner.fingerprints == ("x" * 64, None)


@pytest.mark.parametrize("mode", ["shared", "to-enroll"])
def test_a_fit_that_fails_leaves_the_aligner_as_it_was(mode: str) -> None:
    x, y, speakers = two_views(40, 3)
    z = Embeddings(y.keys, np.tanh(y.matrix), ModelStamp("z", "z" * 64, "align"))
    dev = dev_for("neural")
    aligner = NeuralAligner(**QUICK, mode=mode).fit(x, y, speakers, dev)
    before, calibration = aligner.map_runtime(y.matrix), aligner.calibration
    for freeze in ("enroll", None):
        with pytest.raises(InputError, match="model 'y'"):
            aligner.fit(x, z, speakers, dev, freeze=freeze)
    aligner.config = aligner.config.model_copy(update={"learning_rate": 1e30, "steps": 9})
    with pytest.raises(InputError, match="diverged"):
        aligner.fit(x, z, speakers)
    assert aligner.fingerprints == ("x" * 64, "y" * 64) and aligner.calibration is calibration
    np.testing.assert_array_equal(aligner.map_runtime(y.matrix), before)


@pytest.mark.parametrize(
    ("before", "given", "after"),
    [
        ("arks:1", "arks:2", "arks:2"),  # of the vectors of more speakers, for instance
        ("arks:1", "x", "x"),
        ("x", "arks:1", "x"),
    ],
)
def test_a_frozen_side_takes_vectors_whose_model_nothing_names(
    before: str, given: str, after: str
) -> None:
    x, y, speakers = two_views(40, 3)
    x.stamp = ModelStamp("x", before, "align")
    aligner = NeuralAligner(**QUICK).fit(x, y, speakers)
    x.stamp = ModelStamp("x", given, "align")
    aligner.fit(x, y, speakers, freeze="enroll")
    assert aligner.fingerprints == (after, "y" * 64)


def test_a_frozen_side_takes_no_embeddings_of_another_model() -> None:
    x, y, speakers = two_views(40, 3)
    aligner = NeuralAligner(**QUICK).fit(x, y, speakers)
    x, y = unstamped(x, y)
    with pytest.raises(InputError, match=r"enroll embeddings .* dimension 20; .*not swapped"):
        aligner.fit(y, x, speakers, freeze="enroll")
    other = Embeddings(x.keys, -4 - x.matrix)
    with pytest.raises(InputError, match="120 of 120 enroll embeddings are unlike those"):
        aligner.fit(other, y, speakers, freeze="enroll")
    x.matrix[7] = 0
    with pytest.raises(InputError, match=f"enroll embedding of align utterance '{x.keys[7]}' is z"):
        aligner.fit(x, y, speakers, freeze="enroll")


@pytest.mark.parametrize(
    "settings", [{}, {"mode": "to-enroll"}, {"mode": "to-runtime"}, {"start": "ridge"}]
)
def test_one_utterance_a_speaker_is_too_few(settings: dict[str, str]) -> None:
    with pytest.raises(InputError, match="no align speaker has two utterances"):
        NeuralAligner(**QUICK | settings).fit(*two_views(30, 1))


def of_one_and_two_utterances(
    pairs: int, singles: int
) -> tuple[Embeddings, Embeddings, dict[str, str]]:
    """So many speakers of two utterances, and so many others of one."""
    x, y, names = two_views(pairs + singles, 2)
    keys = [*x.keys[: 2 * pairs], *x.keys[2 * pairs :: 2]]
    return x.select(keys), y.select(keys), {key: names[key] for key in keys}


@pytest.mark.parametrize(
    "settings", [{}, {"mode": "to-enroll"}, {"start": "ridge"}, {"dropout": 0.1}]
)
def test_one_speaker_of_two_utterances_is_too_few(settings: dict[str, object]) -> None:
    """A batch of one speaker has a loss of 0: nothing was trained, and nothing said so."""
    with pytest.raises(InputError, match=r"one align speaker has two utterances; .* two such"):
        NeuralAligner(**QUICK | settings).fit(*of_one_and_two_utterances(1, 30))


def test_speakers_of_one_utterance_are_left_out_and_do_not_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Dropout and learning rate follow the speakers that training meets."""
    aligner = NeuralAligner(**QUICK, start="cca").fit(*of_one_and_two_utterances(40, 2500))
    assert aligner.dropout == 0.6
    assert "2500 of 2540 align speakers have one utterance: NESSA's training leaves" in caplog.text
    caplog.clear()
    NeuralAligner(**QUICK, start="cca").fit(*two_views(40, 2))
    assert "leaves them out" not in caplog.text


@pytest.mark.slow
def test_nessa_is_a_function_of_its_seed() -> None:
    x = two_views(3, 2, first_speaker=300)[0].matrix
    views = two_views(50, 6)
    maps = [NeuralAligner(seed=s, **NEURAL).fit(*views).map_enroll(x) for s in (1, 1, 2)]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert not np.allclose(maps[0], maps[2], atol=1e-3)


def test_batches_never_repeat_an_utterance_and_keep_to_one_speaker_a_row() -> None:
    labels = np.array([0] * 5 + [1] * 3 + [2] + [3] * 9 + [4] * 4)
    labels = labels[np.random.default_rng(0).permutation(len(labels))]
    batches, rng = SpeakerBatches(labels, 3, 2), np.random.default_rng(1)
    seen = set()
    for _ in range(50):
        rows = batches.draw(batches.choose(rng), 4, rng)
        assert rows.shape[0] == 3 and rows.shape[1] >= 3
        assert len(np.unique(rows)) == rows.size
        assert (labels[rows] == labels[rows[:, :1]]).all()
        seen |= set(labels[rows[:, 0]])
    assert seen == {0, 1, 3, 4}, "speaker 2 has one utterance and cannot be on both sides"
    for k in range(2, 9):
        sizes = {profile_size(k, rng) for _ in range(200)}
        assert sizes == set(range(1, k))


def test_a_batch_is_of_speakers_with_as_many_utterances_as_are_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    x, y, speakers = two_views(20, 6)
    short = {f"id{number:05d}" for number in range(8)}
    keys = [key for key in x.keys if speakers[key] not in short or key.endswith(("00", "01"))]
    views = x.select(keys), y.select(keys), {key: speakers[key] for key in keys}
    asked = QUICK | {"utterances_per_speaker": 5, "start": "cca"}
    NeuralAligner(**asked | {"speakers_per_batch": 12}).fit(*views)
    assert "12 of 20 align speakers have 5 utterances; the others are left out" in caplog.text
    NeuralAligner(**asked | {"speakers_per_batch": 13}).fit(*views)
    assert "12 align speakers have 5 utterances, a batch has 13 speakers" in caplog.text
    labels, rng = np.array([int(speakers[key][2:]) for key in keys]), np.random.default_rng(1)
    for size, least in ((12, 5), (13, 2)):
        batches = SpeakerBatches(labels, size, 5)
        assert batches.draw(batches.choose(rng), 5, rng).shape == (size, least)


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 3, 5])
def test_every_group_of_a_speakers_utterances_is_drawn_as_often(k: int) -> None:
    labels = np.repeat([0, 1], 5)
    batches, rng = SpeakerBatches(labels, 2, k), np.random.default_rng(1)
    drawn: dict[tuple[int, ...], int] = {}
    for _ in range(3000):
        for row in batches.draw(batches.choose(rng), k, rng).tolist():
            drawn[tuple(row)] = drawn.get(tuple(row), 0) + 1
    ordered = math.perm(5, k)  # the order counts as well: the first ones become the profile
    assert len(drawn) == 2 * ordered
    assert chisquare(list(drawn.values())).pvalue > 1e-4


def test_a_cosine_keeps_no_list_of_parts() -> None:
    fitting = fit(NeuralAligner(**QUICK, score="cosine")).fitting
    assert fitting["start"] and not fitting.keys() & {"parts", "weights"}
