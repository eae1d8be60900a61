"""Aligners on embeddings whose truth is known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.stats import chisquare

from nessa.alignment import (
    Aligner,
    DevSet,
    LogitAligner,
    NeuralAligner,
    ProcrustesAligner,
    UncenteredLogitAligner,
    load,
)
from nessa.alignment.networks import Side, SideNetwork
from nessa.alignment.neural import SpeakerBatches, profile_size
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp
from nessa.metrics.roc import eer
from nessa.recipe.aligners import make_aligner
from nessa.recipe.resolve import resolve
from nessa.scoring.cosine import cosine_scores
from tests.conftest import ROOT
from tests.pairs import all_trials, two_views

SMALL = {
    "dim": 16,
    "hidden_dim": 32,
    "steps": 150,
    "evaluate_every": 50,
    "speakers_per_batch": 64,
    "utterances_per_speaker": 4,
}
EVERY = [LogitAligner(), ProcrustesAligner(), NeuralAligner(**SMALL)]
MODES = ["shared", "to-enroll", "to-runtime"]


def dev_set(speakers: int = 20) -> DevSet:
    enroll, runtime, names = two_views(speakers, 3, first_speaker=5000)
    return DevSet(enroll, runtime, all_trials(names))


def fitted(aligner: Aligner, speakers: int = 150) -> Aligner:
    return aligner.fit(*two_views(speakers, 6), dev_set())


def error(aligner: Aligner, sides: tuple[Embeddings, Embeddings] | None = None) -> float:
    enroll, runtime, names = two_views(40, 3, first_speaker=9000)
    enroll, runtime = sides or (enroll, runtime)
    trials = all_trials(names)
    x = Embeddings(enroll.keys, aligner.map_enroll(enroll.matrix))
    y = Embeddings(runtime.keys, aligner.map_runtime(runtime.matrix))
    assert trials.labels is not None
    return eer(cosine_scores(x, y, trials), trials.labels)


@pytest.mark.parametrize("aligner", EVERY, ids=lambda a: a.kind)
def test_both_sides_meet_in_one_space_at_unit_length(aligner: Aligner) -> None:
    fitted(aligner)
    rng = np.random.default_rng(0)
    x = aligner.map_enroll(rng.standard_normal((5, 12)).astype(np.float32))
    y = aligner.map_runtime(rng.standard_normal((7, 20)).astype(np.float32))
    assert x.dtype == y.dtype == np.float32 and x.shape[1] == y.shape[1]
    for z in (x, y):
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
    assert error(aligner) < 0.25


@pytest.mark.parametrize("aligner", EVERY, ids=lambda a: a.kind)
def test_a_row_does_not_depend_on_its_company_nor_on_its_length(aligner: Aligner) -> None:
    fitted(aligner)
    x = np.random.default_rng(1).standard_normal((9, 12)).astype(np.float32)
    whole = aligner.map_enroll(x)
    alone = np.concatenate([aligner.map_enroll(row[None]) for row in x])
    np.testing.assert_allclose(whole, alone, atol=1e-5)
    np.testing.assert_allclose(whole, aligner.map_enroll(3 * x), atol=1e-5)


@pytest.mark.parametrize("aligner", EVERY, ids=lambda a: a.kind)
def test_a_saved_aligner_maps_alike_and_knows_its_models(aligner: Aligner, tmp_path: Path) -> None:
    fitted(aligner).save(tmp_path)
    again = load(tmp_path)
    x, y, _ = two_views(5, 2, first_speaker=300)
    np.testing.assert_array_equal(again.map_enroll(x.matrix), aligner.map_enroll(x.matrix))
    np.testing.assert_array_equal(again.map_runtime(y.matrix), aligner.map_runtime(y.matrix))
    assert again.fingerprints == ("x" * 64, "y" * 64)
    assert again.space() == aligner.space()
    again.check_models(x, y)
    with pytest.raises(InputError, match="enrollment embeddings are of model 'y'"):
        again.check_models(y, None)
    again.check_models(Embeddings(x.keys, x.matrix), None)  # unstamped: cannot be checked


@pytest.mark.parametrize("aligner", EVERY, ids=lambda a: a.kind)
def test_the_order_of_the_align_set_of_one_side_does_not_matter(aligner: Aligner) -> None:
    enroll, runtime, speakers = two_views(60, 4)
    aligner.fit(enroll, runtime, speakers)
    first = aligner.map_enroll(enroll.matrix)
    aligner.fit(enroll, runtime.select(runtime.keys[::-1]), speakers)
    np.testing.assert_allclose(aligner.map_enroll(enroll.matrix), first, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_nessa_beats_logits_and_procrustes_on_noisy_views(mode: str) -> None:
    nessa = error(fitted(NeuralAligner(mode=mode, **SMALL)))
    assert nessa < 0.7 * error(fitted(LogitAligner()))
    if mode == "shared":
        assert nessa < error(fitted(ProcrustesAligner()))


def test_one_sided_modes_leave_the_other_side_as_it_is() -> None:
    x, y, _ = two_views(30, 2, first_speaker=300)
    for mode, map_name, view in (("to-enroll", "map_enroll", x), ("to-runtime", "map_runtime", y)):
        aligner = fitted(NeuralAligner(mode=mode, **{**SMALL, "steps": 20}))
        before = view.matrix / np.linalg.norm(view.matrix, axis=1, keepdims=True)
        after = getattr(aligner, map_name)(view.matrix)
        assert after.shape == view.matrix.shape
        moved = before @ before.T - after @ after.T  # centering alone changes cosines evenly
        assert np.corrcoef((before @ before.T).ravel(), (after @ after.T).ravel())[0, 1] > 0.9
        assert np.isfinite(moved).all()


@pytest.mark.parametrize(
    "aligner", [*EVERY, NeuralAligner(mode="to-enroll", **SMALL)], ids=lambda a: a.kind
)
def test_the_mirror_serves_the_other_update_direction(aligner: Aligner, tmp_path: Path) -> None:
    mirror = fitted(aligner, 40).mirrored()
    x, y, _ = two_views(5, 2, first_speaker=300)
    np.testing.assert_array_equal(mirror.map_runtime(x.matrix), aligner.map_enroll(x.matrix))
    np.testing.assert_array_equal(mirror.map_enroll(y.matrix), aligner.map_runtime(y.matrix))
    mirror.check_models(y, x)
    assert mirror.space() == aligner.space()
    assert fitted(NeuralAligner(seed=9, **SMALL), 30).space() != aligner.space()
    mirror.save(tmp_path)
    np.testing.assert_array_equal(
        load(tmp_path).map_runtime(x.matrix), aligner.map_enroll(x.matrix)
    )
    assert mirror.mirrored().settings == aligner.settings


@pytest.mark.parametrize("freeze", ["enroll", "runtime"])
def test_a_frozen_side_stays_to_the_last_bit_while_the_other_is_updated(
    freeze: Side, tmp_path: Path
) -> None:
    fitted(NeuralAligner(**SMALL)).save(tmp_path)
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

    dev = dev_set()
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
    joint = NeuralAligner(**SMALL).fit(*views, speakers, dev)
    assert error(again, sides) < error(joint, sides) + 0.03
    with pytest.raises(InputError, match="embeddings are of model 'z'"):
        updated.fit(replaced(x), replaced(y), speakers, dev, freeze=freeze)


def test_there_must_be_something_to_freeze() -> None:
    with pytest.raises(InputError, match="nothing is fitted yet"):
        NeuralAligner(**SMALL).fit(*two_views(10, 3), freeze="enroll")


def test_nessa_is_a_function_of_its_seed() -> None:
    x = two_views(3, 2, first_speaker=300)[0].matrix
    views = two_views(50, 6)
    maps = [NeuralAligner(seed=s, **SMALL).fit(*views).map_enroll(x) for s in (1, 1, 2)]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert not np.allclose(maps[0], maps[2], atol=1e-3)


def test_procrustes_of_equal_dimensions_is_the_classical_rotation() -> None:
    enroll, runtime, speakers = two_views(50, 4, dims=(10, 10))
    aligner = ProcrustesAligner().fit(enroll, runtime, speakers)

    def centered(matrix: np.ndarray, mean: np.ndarray) -> np.ndarray:
        unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True) - mean
        return unit / np.linalg.norm(unit, axis=1, keepdims=True)

    a = centered(enroll.matrix, aligner.arrays["enroll_mean"])
    b = centered(runtime.matrix, aligner.arrays["runtime_mean"])
    rotation, _ = orthogonal_procrustes(a, b)
    expected = (a @ rotation) @ b.T
    ours = aligner.map_enroll(enroll.matrix) @ aligner.map_runtime(runtime.matrix).T
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_logits_are_cosines_with_the_align_speakers_in_the_models_own_space() -> None:
    enroll, runtime, speakers = two_views(7, 3)
    aligner = UncenteredLogitAligner().fit(enroll, runtime, speakers)
    unit = enroll.matrix / np.linalg.norm(enroll.matrix, axis=1, keepdims=True)
    means = unit.reshape(7, 3, -1).mean(axis=1)
    logits = unit @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    logits /= np.linalg.norm(logits, axis=1, keepdims=True)
    np.testing.assert_allclose(aligner.map_enroll(enroll.matrix), logits, atol=1e-5)


def test_batches_never_repeat_an_utterance_and_keep_to_one_speaker_a_row() -> None:
    labels = np.array([0] * 5 + [1] * 3 + [2] + [3] * 9 + [4] * 4)
    labels = labels[np.random.default_rng(0).permutation(len(labels))]
    batches, rng = SpeakerBatches(labels), np.random.default_rng(1)
    seen = set()
    for _ in range(50):
        rows = batches.draw(3, 4, rng)
        assert rows.shape[0] == 3 and rows.shape[1] >= 3
        assert len(np.unique(rows)) == rows.size
        assert (labels[rows] == labels[rows[:, :1]]).all()
        seen |= set(labels[rows[:, 0]])
    assert seen == {0, 1, 3, 4}, "speaker 2 has one utterance and cannot be on both sides"
    for k in range(2, 9):
        sizes = {profile_size(k, rng) for _ in range(200)}
        assert sizes == set(range(1, k))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_every_group_of_a_speakers_utterances_is_drawn_as_often(k: int) -> None:
    labels = np.repeat([0, 1], 5)
    batches, rng = SpeakerBatches(labels), np.random.default_rng(1)
    drawn: dict[tuple[int, ...], int] = {}
    for _ in range(3000):
        for row in batches.draw(2, k, rng).tolist():
            drawn[tuple(row)] = drawn.get(tuple(row), 0) + 1
    ordered = math.perm(5, k)  # the order counts as well: the first ones become the profile
    assert len(drawn) == 2 * ordered
    assert chisquare(list(drawn.values())).pvalue > 1e-4


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    network = SideNetwork(torch.zeros(4), torch.eye(4), torch.eye(4), hidden_dim=8, dropout=0.25)
    assert network.residual is not None
    dropout = network.residual[2].train()
    torch.manual_seed(1)
    x = torch.ones(1001, 301, requires_grad=True)
    y = dropout(x)
    y.sum().backward()
    y = y.detach()
    assert float((y == 0).float().mean()) == pytest.approx(0.25, abs=0.005)
    assert float(y.mean()) == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(x.grad, y)
    assert not torch.equal(dropout(x), y)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), y)
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize("aligner", EVERY, ids=lambda a: a.kind)
def test_bad_align_data_is_refused_by_name(aligner: Aligner) -> None:
    enroll, runtime, speakers = two_views(10, 3)
    with pytest.raises(InputError, match="differ in 1 utterances"):
        aligner.fit(enroll, runtime.select(runtime.keys[1:]), speakers)
    with pytest.raises(InputError, match=r"'id00000-s0-00000' has no speaker"):
        aligner.fit(enroll, runtime, dict(list(speakers.items())[1:]))
    with pytest.raises(InputError, match="one speaker or none"):
        aligner.fit(enroll.select([]), runtime.select([]), speakers)
    with pytest.raises(InputError, match="one speaker"):
        aligner.fit(enroll, runtime, dict.fromkeys(speakers, "id00000"))
    with pytest.raises(InputError, match="both in the align and the dev set"):
        aligner.fit(enroll, runtime, speakers, DevSet(enroll, runtime, all_trials(speakers)))
    dev = dev_set()
    with pytest.raises(InputError, match="enrollment embeddings are of model 'y'"):
        aligner.fit(enroll, runtime, speakers, DevSet(dev.runtime, dev.enroll, dev.trials))


@pytest.mark.parametrize("aligner", EVERY, ids=lambda a: a.kind)
def test_bad_input_to_a_map_is_refused(aligner: Aligner) -> None:
    fitted(aligner, 40)
    with pytest.raises(InputError, match="dimension 20; this aligner takes 12"):
        aligner.map_enroll(np.zeros((3, 20), np.float32))
    with pytest.raises(InputError, match="row 1 is not finite"):
        aligner.map_runtime(np.array([[1.0] * 20, [np.nan] * 20], np.float32))


def test_an_aligner_that_was_half_replaced_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligner = fitted(ProcrustesAligner(), 40)
    aligner.save(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("nessa.alignment.base.write_json", killed)
        aligner.save(tmp_path)
    with pytest.raises(InputError, match="no aligner here"):
        load(tmp_path)


def test_loading_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no aligner here"):
        load(tmp_path)
    fitted(ProcrustesAligner(), 40).save(tmp_path)
    description = tmp_path / "aligner.json"
    description.write_text(description.read_text().replace("procrustes", "procrustean"))
    with pytest.raises(InputError, match="procrustean"):
        load(tmp_path)
    whole = json.loads(description.read_text().replace("procrustean", "procrustes"))
    for key, value in {"kind": 3, "settings": [], "fingerprints": ["x"]}.items():
        description.write_text(json.dumps(whole | {key: value}))
        with pytest.raises(InputError, match=r"aligner\.json: does not describe an aligner"):
            load(tmp_path)
    description.write_text(json.dumps(whole))
    (tmp_path / "aligner.safetensors").write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(InputError, match=r"aligner\.safetensors"):
        load(tmp_path)


def test_recipe_names_make_their_aligners() -> None:
    recipe = resolve(ROOT / "recipes/mini/recipe.yaml", overrides=["aligner.seeds=[4, 9]"])
    assert isinstance(make_aligner("logit", recipe), LogitAligner)
    first, second = make_aligner("nessa", recipe), make_aligner("nessa.seed9", recipe)
    assert (first.settings["seed"], second.settings["seed"]) == (4, 9)
    with pytest.raises(InputError, match="procrustean"):
        make_aligner("procrustean", recipe)
    for seeds in ("[]", "[4, 9, 4]"):
        with pytest.raises(InputError, match=r"aligner\.seeds: .*(twice|at least 1)"):
            resolve(ROOT / "recipes/mini/recipe.yaml", overrides=[f"aligner.seeds={seeds}"])


def test_a_stamp_is_not_needed() -> None:
    enroll, runtime, speakers = two_views(10, 3)
    bare = ProcrustesAligner().fit(
        Embeddings(enroll.keys, enroll.matrix), Embeddings(runtime.keys, runtime.matrix), speakers
    )
    assert bare.fingerprints == (None, None)
    bare.check_models(Embeddings(enroll.keys, enroll.matrix, ModelStamp("z", "z" * 64, "")), None)
