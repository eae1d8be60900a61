"""What every registered aligner keeps to, whatever its kind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nessa.alignment import (
    ALIGNERS,
    Aligner,
    AlignTable,
    DevSet,
    LogitAligner,
    PLDAAligner,
    ProcrustesAligner,
    load,
)
from nessa.alignment.base import DESCRIPTION
from nessa.alignment.outliers import OutlierDetector
from nessa.alignment.views import SIDES, Labels, Matrix, Side
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp
from nessa.metrics.roc import eer
from nessa.recipe.aligners import make_aligner
from nessa.recipe.resolve import resolve
from nessa.scoring.cosine import cosine_scores
from nessa.trials import Trials
from tests.aligners import dev_for, error, fit, fitted, small, views_for
from tests.conftest import ROOT
from tests.pairs import all_trials, two_views

pytestmark = pytest.mark.usefixtures("one_thread")
every = pytest.mark.parametrize("kind", ALIGNERS)


@pytest.mark.slow
@pytest.mark.parametrize("dev", [True, False], ids=["dev", "no dev"])
@every
def test_both_sides_meet_in_one_space_at_unit_length(kind: str, dev: bool) -> None:
    aligner = fit(small(kind), dev)
    rng = np.random.default_rng(0)
    x, y = (
        aligner.map_side(rng.standard_normal((n, aligner.input_dim(side))), side)
        for n, side in ((5, "enroll"), (7, "runtime"))
    )
    assert x.dtype == y.dtype == np.float32 and x.shape[1] == y.shape[1]
    for z in (x, y):
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
    assert kind == "raw" or error(aligner) < 0.25


@pytest.mark.slow
@every
def test_a_row_does_not_depend_on_its_company_nor_on_its_length(kind: str) -> None:
    aligner = fitted(kind)
    for side, view in zip(SIDES, views_for(kind, 3, 3, first_speaker=300)[:2], strict=True):
        whole = aligner.map_side(view.matrix, side)
        alone = np.concatenate([aligner.map_side(row[None], side) for row in view.matrix])
        np.testing.assert_allclose(whole, alone, atol=1e-5)
        np.testing.assert_allclose(whole, aligner.map_side(3 * view.matrix, side), atol=1e-5)


@every
def test_a_saved_aligner_maps_alike_and_knows_its_models(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    aligner = fitted(kind)
    aligner.save(tmp_path)
    again = load(tmp_path)
    x, y, _ = views_for(kind, 5, 2, first_speaker=300)
    np.testing.assert_array_equal(again.map_enroll(x.matrix), aligner.map_enroll(x.matrix))
    np.testing.assert_array_equal(again.map_runtime(y.matrix), aligner.map_runtime(y.matrix))
    assert (again.space(), again.settings) == (aligner.space(), aligner.settings)
    assert again.fingerprints == ("x" * 64, "y" * 64)
    assert all(array.dtype == np.float32 for array in again.state().values())
    again.check_models(x, y)
    with pytest.raises(InputError, match="enrollment embeddings are of model 'y'"):
        again.check_models(y, y)
    unstamped = Embeddings(x.keys, x.matrix)
    assert "info.json" not in caplog.text
    again.check_models(unstamped, y)
    again.check_models(x, Embeddings(y.keys, y.matrix))
    for side in ("enroll", "runtime"):
        assert caplog.text.count(f"{side} embeddings without info.json;") == 1
    again.check_models(Embeddings([], x.matrix[:0]), y)
    other = Embeddings(x.keys, x.matrix[:, :-1])
    for sides, side in (((other, y), "enroll"), ((x, other), "runtime")):
        with pytest.raises(InputError, match=f"{side} embeddings have dimension 11; this aligner"):
            again.check_models(*sides)


@pytest.mark.slow
@every
def test_two_fits_to_the_same_data_are_the_same(kind: str) -> None:
    assert fit(small(kind)).space() == fitted(kind).space()


@pytest.mark.slow
@every
def test_the_order_of_the_align_set_of_one_side_does_not_matter(kind: str) -> None:
    enroll, runtime, speakers = views_for(kind, 60, 4)
    first, other = (
        small(kind).fit(enroll, view, speakers).map_enroll(enroll.matrix)
        for view in (runtime, runtime.select(runtime.keys[::-1]))
    )
    np.testing.assert_allclose(first, other, atol=1e-5)


@every
def test_the_mirror_serves_the_other_update_direction(kind: str, tmp_path: Path) -> None:
    aligner = fitted(kind)
    mirror = aligner.mirrored()
    mirror.save(tmp_path)
    x, y, _ = views_for(kind, 5, 2, first_speaker=300)
    for one in (mirror, load(tmp_path)):
        products = aligner.map_enroll(x.matrix) @ aligner.map_runtime(y.matrix).T
        found = one.map_runtime(x.matrix) @ one.map_enroll(y.matrix).T
        np.testing.assert_allclose(found, products, atol=1e-6)
        one.check_models(y, x)
        assert one.space() == aligner.space()
    assert mirror.mirrored().settings == aligner.settings


@every
def test_the_dev_eer_is_the_mean_of_all_lists_and_both_directions(kind: str) -> None:
    x, y, names = views_for(kind, 25, 3, first_speaker=5000)
    trials = all_trials(names)
    assert trials.labels is not None
    rng = np.random.default_rng(0)
    lists = []
    for size in (300, 500):  # no trial stands beside the same with its sides swapped
        rows = np.flatnonzero(trials.labels | (rng.random(len(trials)) < 0.1))
        rows = rng.choice(rows, size, replace=False)
        ids = ([side[row] for row in rows] for side in (trials.enroll, trials.test))
        lists.append(Trials(*ids, trials.labels[rows]))
    one = fitted(kind)
    errors = [
        eer(
            own.scores(*sides, trials)
            if isinstance(own, PLDAAligner)
            else cosine_scores(*own.map_views(*sides), trials),
            np.asarray(trials.labels),
        )
        for own, sides in ((one, (x, y)), (one.mirrored(), (y, x)))
        for trials in lists
    ]
    assert len(set(errors)) == 4
    expected = pytest.approx(np.mean(errors), abs=5e-4)  # ties, by rounding
    assert one.dev_eer(DevSet(x, y, lists[0], (lists[1],))) == expected


@every
def test_outlier_detectors_are_saved_and_swapped_with_the_sides(kind: str, tmp_path: Path) -> None:
    aligner = fitted(kind)
    aligner.save(tmp_path)
    x, y, speakers = views_for(kind, 100, 5)
    labels = AlignTable.of(x, y, speakers).labels
    for one, views in ((load(tmp_path), (x, y)), (aligner.mirrored(), (y, x))):
        for side, view in zip(SIDES, views, strict=True):
            expected = OutlierDetector.fit(view.matrix, labels).distances(view.matrix)
            found = one.detectors[side].distances(view.matrix)
            np.testing.assert_allclose(found, expected, rtol=1e-5)


@every
def test_the_network_for_export_maps_alike(kind: str) -> None:
    aligner = fitted(kind)
    for side, view in zip(SIDES, views_for(kind, 5, 2, first_speaker=300)[:2], strict=True):
        with torch.inference_mode():
            mapped = aligner.network(side).eval()(torch.from_numpy(view.matrix))
        np.testing.assert_allclose(mapped, aligner.map_side(view.matrix, side), atol=1e-5)


@every
def test_unknown_settings_are_refused(kind: str) -> None:
    with pytest.raises((TypeError, InputError), match="shrinkge"):
        small(kind, shrinkge=0.1)


@every
def test_an_aligner_that_is_not_fitted_says_so(kind: str, tmp_path: Path) -> None:
    aligner = small(kind)
    for use in (
        lambda: aligner.map_enroll(np.zeros((3, 12), np.float32)),
        lambda: aligner.map_runtime(np.zeros((3, 12), np.float32)),
        lambda: aligner.save(tmp_path),
    ):
        with pytest.raises(InputError, match=f"{kind} aligner is not fitted"):
            use()
    assert not list(tmp_path.iterdir())


@every
def test_bad_align_data_is_refused_by_name(kind: str) -> None:
    aligner, (enroll, runtime, speakers) = small(kind), views_for(kind, 10, 3)
    with pytest.raises(InputError, match="differ in 1 utterances"):
        aligner.fit(enroll, runtime.select(runtime.keys[1:]), speakers)
    with pytest.raises(InputError, match="no speaker for 'id00000-s0-00000'"):
        aligner.fit(enroll, runtime, dict(list(speakers.items())[1:]))
    with pytest.raises(InputError, match="one speaker or none"):
        aligner.fit(enroll.select([]), runtime.select([]), speakers)
    with pytest.raises(InputError, match="one speaker"):
        aligner.fit(enroll, runtime, dict.fromkeys(speakers, "id00000"))
    with pytest.raises(InputError, match="both in the align and the dev set"):
        aligner.fit(enroll, runtime, speakers, DevSet(enroll, runtime, all_trials(speakers)))
    dev = dev_for(kind)
    with pytest.raises(InputError, match="enrollment embeddings are of model 'y'"):
        aligner.fit(enroll, runtime, speakers, DevSet(dev.runtime, dev.enroll, dev.trials))
    narrow = Embeddings(dev.runtime.keys, dev.runtime.matrix[:, 1:], dev.runtime.stamp)
    with pytest.raises(InputError, match="runtime embeddings of the dev set have dimension"):
        aligner.fit(enroll, runtime, speakers, DevSet(dev.enroll, narrow, dev.trials))
    a, b, c = dev.enroll.keys[:3]
    contradiction = Trials([a, b, a], [b, c, c], np.array([True, True, False]))
    with pytest.raises(InputError, match=f"trial '{a}' '{c}' is a nontarget, but .* correct"):
        aligner.fit(enroll, runtime, speakers, DevSet(dev.enroll, dev.runtime, contradiction))


@pytest.mark.parametrize("side", SIDES)
@every
def test_bad_input_to_a_map_is_refused(kind: str, side: Side) -> None:
    aligner = fitted(kind)
    dim = aligner.input_dim(side)
    with pytest.raises(InputError, match=f"{side} .* dimension 7; this aligner takes {dim}"):
        aligner.map_side(np.zeros((3, 7), np.float32), side)
    with pytest.raises(InputError, match=rf"{side} .* shape \({dim},\); give \(N, {dim}\)"):
        aligner.map_side(np.zeros(dim, np.float32), side)
    with pytest.raises(InputError, match=f"{side} embedding in row 1 is not finite"):
        aligner.map_side(np.array([[1.0] * dim, [np.nan] * dim], np.float32), side)


def test_a_stamp_is_not_needed(caplog: pytest.LogCaptureFixture) -> None:
    enroll, runtime, speakers = two_views(10, 3)
    bare = ProcrustesAligner().fit(
        Embeddings(enroll.keys, enroll.matrix), Embeddings(runtime.keys, runtime.matrix), speakers
    )
    assert bare.fingerprints == (None, None)
    stamped = Embeddings(enroll.keys, enroll.matrix, ModelStamp("z", "z" * 64, ""))
    bare.check_models(stamped, runtime)
    bare.check_models(Embeddings(enroll.keys, enroll.matrix), runtime)
    assert not caplog.records  # it does not know its models itself


# ---- on disk and in recipes --------------------------------------------------------------------


def test_an_aligner_that_was_half_replaced_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligner = fitted("procrustes")
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
    fitted("procrustes").save(tmp_path)
    description = tmp_path / DESCRIPTION
    whole = json.loads(description.read_text())
    for key, value, message in (
        ("kind", "procrustean", "unknown kind of aligner 'procrustean'"),
        ("kind", 3, "does not describe an aligner"),
        ("settings", [], "does not describe an aligner"),
        ("settings", {"rank": 64}, "'rank'"),
        ("fingerprints", ["x"], "does not describe an aligner"),
    ):
        description.write_text(json.dumps(whole | {key: value}))
        with pytest.raises(InputError, match=rf"aligner\.json: .*{message}"):
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


def test_every_baseline_of_a_recipe_is_made() -> None:
    names = [name for name in ALIGNERS if name != "neural"]
    mini = ROOT / "recipes/mini/recipe.yaml"
    recipe = resolve(mini, overrides=[f"baselines={names}", "encoders.old.dim=160"])
    assert [make_aligner(name, recipe).kind for name in names] == names


class FirstAligner(Aligner):
    """A new aligner: the first coordinates of both sides."""

    kind = "first"

    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        self.dim = dim

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        self.arrays = {f"{side}_eye": np.eye(12, self.dim, dtype=np.float32) for side in SIDES}

    def input_dim(self, side: Side) -> int:
        return len(self.arrays[f"{side}_eye"])

    def _map(self, matrix: Matrix, side: Side) -> Matrix:
        z = matrix @ self.arrays[f"{side}_eye"]
        return z / np.linalg.norm(z, axis=1, keepdims=True)


def test_a_new_aligner_is_a_class_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALIGNERS, "first", f"{__name__}.FirstAligner")
    mini = ROOT / "recipes/mini/recipe.yaml"
    recipe = resolve(mini, overrides=["baselines=[logit, first]"])
    aligner = make_aligner("first", recipe)
    assert aligner.settings == {"dim": 3}
    views = two_views(10, 3, dims=(12, 12))
    FirstAligner(dim=2).fit(*views).save(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, FirstAligner) and again.settings == {"dim": 2}
    assert again.map_enroll(views[0].matrix).shape == (30, 2)
    with pytest.raises(InputError, match="'first' cannot be exported"):
        again.network("enroll")
