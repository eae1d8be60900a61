"""NESSA where lengths of embeddings count as well as directions."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from nessa.alignment import Aligner, NeuralAligner, PLDAAligner, load
from nessa.alignment.config import AlignerConfig
from nessa.alignment.domains import Domains
from nessa.alignment.outliers import Outliers
from nessa.alignment.table import AlignTable
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.production.export_aligner import export_aligner
from nessa.production.verify import verify_model
from tests.aligners import NEURAL, dev_for, fit
from tests.pairs import two_views

X, Y, NAMES = two_views(40, 3, first_speaker=9000)


@cache
def root() -> Aligner:
    """Lengths count with their root; shared, so not to be changed."""
    return fit(NeuralAligner(**NEURAL, length_power=0.5))


@cache
def unit() -> Aligner:
    return fit(NeuralAligner(**NEURAL))


def scores(aligner: Aligner, x: np.ndarray = X.matrix, y: np.ndarray = Y.matrix) -> np.ndarray:
    return aligner.map_enroll(x) @ aligner.map_runtime(y).T


def test_lengths_count_where_they_are_kept_and_nowhere_else() -> None:
    longer = X.matrix * np.linspace(0.9, 1.1, len(X), dtype=np.float32)[:, None]
    assert np.allclose(scores(unit(), longer), scores(unit()), atol=1e-5)
    assert np.abs(scores(root(), longer) - scores(root())).max() > 1e-3


def test_the_scale_of_a_model_does_not_count() -> None:
    """It may give all of its embeddings a hundred times as long."""
    x, y, names = two_views(100, 5)
    dev = dev_for("neural")
    views = [type(x)(own.keys, own.matrix * 128, own.stamp) for own in (x, dev.enroll)]
    scaled = NeuralAligner(**NEURAL, length_power=0.5)
    scaled.fit(views[0], y, names, type(dev)(views[1], dev.runtime, dev.trials))
    assert np.allclose(scores(scaled, X.matrix * 128), scores(root()), atol=1e-4)


def test_a_length_beyond_those_of_the_align_set_is_the_nearest_of_them() -> None:
    one = X.matrix[:1] / np.linalg.norm(X.matrix[0])
    align = np.linalg.norm(two_views(100, 5)[0].matrix, axis=1)
    long, longer = (root().map_enroll(one * align.max() * factor) for factor in (1.01, 1.9))
    short, shorter = (root().map_enroll(one * align.min() * factor) for factor in (0.99, 0.6))
    assert np.allclose(long, longer, atol=1e-5) and np.allclose(short, shorter, atol=1e-5)
    assert np.abs(long - short).max() > 1e-3


def test_scaled_embeddings_are_outliers_and_a_single_one_is_no_reason_to_refuse() -> None:
    one = X.matrix.copy()
    one[0] *= 50
    judged = Outliers(root().detectors["enroll"])
    judged.check(list(X.keys), one)
    assert X.keys[0] in [name for name, _ in judged.found]
    with pytest.raises(InputError, match=r"unlike those .* or scaled, where lengths count"):
        Outliers(root().detectors["enroll"]).check(list(X.keys), 1e-3 * X.matrix)
    allowed = Outliers(root().detectors["enroll"], allowed=True)
    allowed.check(list(X.keys), 1e-3 * X.matrix)
    assert len(allowed.found) == len(X)
    Outliers(unit().detectors["enroll"]).check(list(X.keys), 1e-3 * X.matrix)


def test_what_is_beyond_float32s_squares_is_the_nearest_length_too() -> None:
    one = X.matrix[:1]
    longest = root().map_enroll(np.concatenate([one * 100, one * 1e10, one * 1e25]))
    shortest = root().map_enroll(np.concatenate([one / 100, one / 1e12, one / 1e25]))
    for mapped in (longest, shortest):
        assert np.allclose(mapped, mapped[:1], atol=1e-5)
    assert np.abs(longest[0] - shortest[0]).max() > 1e-3


def test_settings_are_those_of_before_where_lengths_do_not_count() -> None:
    """Digests of settings tell spaces apart, and stages that are done."""
    assert "length_power" not in NeuralAligner().settings
    assert "length_power" not in AlignerConfig().model_dump()
    assert NeuralAligner(length_power=0.5).settings["length_power"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.02, 1.0, 50.0])
def test_files_mirrors_and_exports_keep_lengths(scale: float, tmp_path: Path) -> None:
    x, y, names = two_views(100, 5)
    align, held_out = (Embeddings(own.keys, own.matrix * np.float32(scale)) for own in (x, X))
    aligner = NeuralAligner(**NEURAL, length_power=0.5).fit(align, y, names)
    aligner.save(tmp_path / "aligner")
    again = load(tmp_path / "aligner")
    assert again.settings == aligner.settings and again.pair() == aligner.pair()
    wanted = scores(aligner, held_out.matrix)
    assert np.array_equal(scores(again, held_out.matrix), wanted)
    assert np.array_equal(scores(again.mirrored().mirrored(), held_out.matrix), wanted)
    assert again.detectors["enroll"].length_range == again.length_range("enroll")
    list(export_aligner(again, tmp_path / "export"))
    assert "lengths of embeddings count" in (tmp_path / "export" / "README.md").read_text()
    mapped = []
    for side, own in (("enroll", held_out), ("runtime", Y)):
        path = tmp_path / "export" / f"{side}.onnx"
        assert "of the aligner" in "".join(verify_model(path, again))
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        mapped += session.run(["mapped"], {"embedding": own.matrix})
    assert np.allclose(mapped[0] @ mapped[1].T, wanted, atol=1e-4)


def test_a_frozen_side_keeps_its_lengths() -> None:
    aligner = fit(NeuralAligner(**NEURAL, length_power=0.5))
    before = aligner.map_enroll(X.matrix)
    aligner.fit(*two_views(100, 5), dev_for("neural"), freeze="enroll")
    assert np.array_equal(aligner.map_enroll(X.matrix), before)


@pytest.mark.parametrize(
    "aligner", [PLDAAligner(length_normalize=False), NeuralAligner(**NEURAL, length_power=1.0)]
)
def test_moving_domains_keeps_lengths(aligner: Aligner) -> None:
    x, y, names = two_views(100, 5)
    domains = ["one" if number % 5 < 3 else "other" for number in range(len(x))]
    known = Domains.of(domains)
    table = replace(AlignTable.of(x, y, names), domains=(known, known))
    aligner.fit_table(table, dev_for("neural"))
    moved = aligner.center_domains(x, "enroll", dict(zip(x.keys, domains, strict=True)))
    ratio = np.linalg.norm(moved.matrix, axis=1) / np.linalg.norm(x.matrix, axis=1)
    assert not np.array_equal(moved.matrix, x.matrix)
    assert np.abs(ratio - 1).max() < 0.2


@pytest.mark.parametrize("other", [{"score": "cosine"}, {"mode": "to-enroll"}])
def test_what_takes_no_lengths_refuses_them(other: dict[str, str]) -> None:
    with pytest.raises(InputError, match="length_power"):
        NeuralAligner(length_power=0.5, **other)
    with pytest.raises(ValueError, match="length_power"):
        AlignerConfig(length_power=0.5, **other)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_lengths_that_cannot_count_are_refused(scale: float) -> None:
    """They were changed to 1e-8 or 1e8, all of them alike."""
    scaled = Embeddings(X.keys, X.matrix * np.float32(scale), X.stamp)
    with pytest.raises(InputError, match=r"length_power: enroll .* outside 1e-08 to 1e\+08"):
        NeuralAligner(**NEURAL, length_power=0.5).fit(scaled, Y, NAMES)
    plain = PLDAAligner(length_normalize=False)
    with pytest.raises(InputError, match=f"utterance '{X.keys[0]}' has length .*by one number"):
        plain.fit(scaled, Y, NAMES)


def test_networks_with_lengths_are_right_in_float32() -> None:
    module = root().network("enroll")
    with torch.inference_mode():
        found = module(torch.from_numpy(X.matrix))
    assert found.dtype == torch.float32
    assert np.allclose(np.linalg.norm(found.numpy(), axis=1), 1, atol=1e-5)
