"""Cosines do not depend on scale; a vector without direction is refused by row and id."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nessa import Embeddings, InputError, Trials
from nessa.alignment import PLDAAligner, ProcrustesAligner
from nessa.alignment.outliers import OutlierDetector
from nessa.kaldi.ark import Matrix
from nessa.kaldi.directions import lengths
from nessa.scoring.cosine import cosine_matrix, cosine_scores
from nessa.stores.tables import read_store
from tests.aligners import dev_for, small
from tests.conftest import Command
from tests.pairs import two_views

DIM = 12
SCALES = (1e-30, 1e-21, 1e-13, 1e13, 1e21, 1e30)
WITHOUT = {
    "zero": np.zeros(DIM),
    "denormal": np.full(DIM, 1e-42),
    "tiny": np.full(DIM, 3e-37),
    "huge": np.full(DIM, 3e38),
    "huge in one value": np.eye(DIM)[0] * 2e37,
}


def with_row(embeddings: Embeddings, row: int, vector: np.ndarray) -> Embeddings:
    matrix = embeddings.matrix.copy()
    matrix[row] = vector
    return Embeddings(embeddings.keys, matrix)


@pytest.fixture(scope="module")
def views() -> tuple[Embeddings, Embeddings, dict[str, str]]:
    return two_views(30, 3, dims=(DIM, DIM))


@pytest.fixture(scope="module")
def aligner(views: tuple[Embeddings, Embeddings, dict[str, str]]) -> ProcrustesAligner:
    return ProcrustesAligner().fit(*views)


@pytest.fixture(scope="module")
def enroll_network(aligner: ProcrustesAligner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    from nessa.production.export_aligner import export_aligner

    folder = tmp_path_factory.mktemp("exported")
    export_aligner(aligner, folder)
    return folder / "enroll.onnx"


@pytest.mark.parametrize("scale", SCALES)
def test_scale_changes_neither_cosines_nor_maps(
    views: tuple[Embeddings, Embeddings, dict[str, str]], aligner: ProcrustesAligner, scale: float
) -> None:
    enroll, runtime, _ = views
    scaled = Embeddings(enroll.keys, enroll.matrix * np.float32(scale))
    trials = Trials([enroll.keys[0]] * 2, runtime.keys[:2])
    expected = cosine_scores(enroll, runtime, trials)
    assert np.allclose(cosine_scores(scaled, runtime, trials), expected, atol=1e-6)
    assert np.allclose(cosine_matrix(scaled, runtime), cosine_matrix(enroll, runtime), atol=1e-6)
    mapped = aligner.map_enroll(scaled.matrix)
    assert np.allclose(mapped, aligner.map_enroll(enroll.matrix), atol=1e-5)
    detector = aligner.detectors["enroll"]
    assert np.allclose(
        detector.distances(scaled.matrix), detector.distances(enroll.matrix), atol=1e-3
    )


@pytest.mark.parametrize("scale", SCALES)
def test_aligners_are_fitted_at_any_scale(
    views: tuple[Embeddings, Embeddings, dict[str, str]], aligner: ProcrustesAligner, scale: float
) -> None:
    enroll, runtime, speakers = views
    scaled = Embeddings(enroll.keys, enroll.matrix * np.float32(scale))
    again = ProcrustesAligner().fit(scaled, runtime, speakers)
    assert np.allclose(
        again.map_enroll(enroll.matrix), aligner.map_enroll(enroll.matrix), atol=1e-4
    )


@pytest.mark.parametrize("scale", [2.0**-50, 2.0**66])
def test_nessa_chooses_alike_at_any_scale(scale: float) -> None:
    enroll, runtime, speakers = two_views(60, 3)
    dev = dev_for("neural")
    fits = []
    for factor in (1.0, scale):
        x, held_out = (
            Embeddings(own.keys, own.matrix * np.float32(factor)) for own in (enroll, dev.enroll)
        )
        fits.append(small("neural").fit(x, runtime, speakers, replace(dev, enroll=held_out)))
    plain, scaled = (aligner.fitting for aligner in fits)
    assert scaled["step"] == plain["step"] and scaled["eer"] == plain["eer"]
    assert scaled["weights"] == pytest.approx(plain["weights"], rel=1e-3)


def test_a_dev_vector_without_direction_is_refused_before_the_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dev = dev_for("neural")
    bad = with_row(dev.enroll, 4, WITHOUT["zero"])
    aligner = small("neural", distillation=0)
    monkeypatch.setattr(aligner, "_fit", lambda *_: pytest.fail("fitted"))
    with pytest.raises(InputError, match=f"dev utterance '{bad.keys[4]}' is zero"):
        aligner.fit(*two_views(60, 3), replace(dev, enroll=bad))


@pytest.mark.parametrize("kind", WITHOUT)
def test_a_vector_without_direction_is_refused_by_row_and_id(
    views: tuple[Embeddings, Embeddings, dict[str, str]], aligner: ProcrustesAligner, kind: str
) -> None:
    enroll, runtime, speakers = views
    bad = with_row(enroll, 4, WITHOUT[kind])
    key = bad.keys[4]
    told = "no direction"
    with pytest.raises(InputError, match=rf"{key}.*{told}"):
        cosine_scores(bad, runtime, Trials([key], [runtime.keys[0]]))
    with pytest.raises(InputError, match=rf"row 4 .*{told}"):
        aligner.map_enroll(bad.matrix)
    with pytest.raises(InputError, match=rf"row 4 .*{key}.*{told}"):
        aligner.map_views(bad, runtime)
    for fresh in (ProcrustesAligner(), PLDAAligner(length_normalize=False)):
        with pytest.raises(InputError, match=rf"{key}.*{told}"):
            fresh.fit(bad, runtime, speakers)


@pytest.mark.parametrize("kind", WITHOUT)
def test_stores_and_arks_are_refused_and_nothing_is_mapped(
    nessa: Command,
    views: tuple[Embeddings, Embeddings, dict[str, str]],
    aligner: ProcrustesAligner,
    tmp_path: Path,
    kind: str,
) -> None:
    bad = with_row(views[0], 4, WITHOUT[kind])
    aligner.save(tmp_path / "aligner")
    np.savez(tmp_path / "store.npz", ids=np.array(bad.keys), embeddings=bad.matrix)
    with pytest.raises(InputError, match=rf"row 4 .*{bad.keys[4]}"):
        list(read_store(tmp_path / "store.npz"))
    bad.write_ark(tmp_path / "x.ark")
    for source in ("store.npz", "x.ark"):
        output = tmp_path / f"out-{source}"
        done = nessa("map", "--aligner", tmp_path / "aligner", "--enroll", tmp_path / source,
                     "--output", output)  # fmt: skip
        done.refused(bad.keys[4], "no direction")
        assert not list(output.rglob("*.parquet")) and not list(output.rglob("*.ark"))


def test_zero_rows_do_not_reach_the_detector() -> None:
    labels = np.repeat(np.arange(10), 3)
    detector = OutlierDetector.fit(np.eye(30, 6, dtype=np.float32) + 1, labels)
    with pytest.raises(InputError, match="no direction"):
        detector.distances(np.zeros((2, 6), np.float32))


def matrix_of(scale: float) -> Matrix:
    return (scale * np.random.default_rng(0).standard_normal((4, DIM))).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
def test_the_exported_network_takes_every_scale(
    aligner: ProcrustesAligner, enroll_network: Path, scale: float
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(enroll_network))
    mapped = session.run(None, {"embedding": matrix_of(scale)})[0]
    assert np.allclose(mapped, aligner.map_enroll(matrix_of(1.0)), atol=1e-5)
    for vector in WITHOUT.values():
        (nothing,) = session.run(None, {"embedding": vector[None].astype(np.float32)})
        assert np.isnan(nothing).all()


def test_lengths_need_no_copy_of_all_rows() -> None:
    """Of an align set in memory, a copy of squares was a third of all that a fit took."""
    rows = np.random.default_rng(1).standard_normal((50_000, 64)).astype(np.float32)
    tracemalloc.start()
    found = lengths(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, np.linalg.norm(rows, axis=1))
    assert peak < rows.nbytes / 4
