"""Export: the ONNX files map as the aligner does, and say what they are for."""

import importlib
import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import nessa.export
from nessa.alignment import Aligner, LogitAligner, NeuralAligner, ProcrustesAligner
from nessa.errors import InputError
from nessa.export import export_aligner
from nessa.tables import Embeddings, ModelStamp

DIMS = {"enroll": 12, "runtime": 8}
FINGERPRINTS = {"enroll": "a" * 64, "runtime": "b" * 64}


def neural(mode: str) -> NeuralAligner:
    return NeuralAligner(
        mode=mode,
        dim=10,
        hidden_dim=16,
        steps=20,
        speakers_per_batch=16,
        utterances_per_speaker=4,
        evaluate_every=20,
    )


ALIGNERS = {
    "logit": LogitAligner,
    "logit with means": lambda: LogitAligner(remove_mean=False),
    "procrustes": ProcrustesAligner,
    "nessa shared": lambda: neural("shared"),
    "nessa to-enroll": lambda: neural("to-enroll"),
}
QUICK = ("logit", "nessa shared")


def fitted(name: str, stamped: bool = True) -> Aligner:
    rng = np.random.default_rng(3)
    speakers = {f"s{s:02d}-u{u}": f"s{s:02d}" for s in range(20) for u in range(6)}
    hidden = np.repeat(rng.standard_normal((20, 8)), 6, axis=0)
    views = []
    for side, dim in DIMS.items():
        noisy = hidden @ rng.standard_normal((8, dim)) + 0.5 * rng.standard_normal((120, dim))
        stamp = ModelStamp(side, FINGERPRINTS[side], "align") if stamped else None
        views.append(Embeddings(speakers, noisy + 1, stamp))
    return ALIGNERS[name]().fit(*views, speakers)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ALIGNERS
    ],
)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Aligner, Path, list[str]]:
    aligner, output = fitted(request.param), tmp_path_factory.mktemp("onnx")
    return aligner, output, list(export_aligner(aligner, output))


def run(path: Path, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["mapped"], {"embedding": batch})[0]


@pytest.mark.slow
@pytest.mark.parametrize("side", DIMS)
def test_files_map_as_the_aligner_does(
    exported: tuple[Aligner, Path, list[str]], side: str
) -> None:
    aligner, output, _ = exported
    expected = getattr(aligner, f"map_{side}")
    rng = np.random.default_rng(11)
    for rows in (1, 2, 64):
        batch = rng.standard_normal((rows, DIMS[side])).astype(np.float32)
        mapped = run(output / f"{side}.onnx", batch)
        assert mapped.dtype == np.float32
        np.testing.assert_allclose(mapped, expected(batch), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("side", DIMS)
def test_files_carry_their_identity_and_no_paths(
    exported: tuple[Aligner, Path, list[str]], side: str
) -> None:
    aligner, output, _ = exported
    path = output / f"{side}.onnx"
    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert properties["model_fingerprint"] == FINGERPRINTS[side]
    assert (properties["kind"], properties["side"]) == (aligner.kind, side)
    assert int(properties["input_dim"]) == DIMS[side]
    mapped = run(path, np.ones((3, DIMS[side]), np.float32))
    assert int(properties["output_dim"]) == mapped.shape[1]
    assert str(Path.cwd()).encode() not in path.read_bytes()


def test_model_card_and_lines_name_both_networks(
    exported: tuple[Aligner, Path, list[str]],
) -> None:
    _, output, lines = exported
    card = (output / "README.md").read_text()
    for side, line in zip(DIMS, lines, strict=True):
        assert f"{side}.onnx" in line and f"{DIMS[side]} ->" in line
        assert f"`{side}.onnx` | {DIMS[side]} |" in card
        assert FINGERPRINTS[side] in card
    assert "biometric" in card


def test_another_dimension_is_refused(exported: tuple[Aligner, Path, list[str]]) -> None:
    _, output, _ = exported
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        run(output / "enroll.onnx", np.zeros((1, DIMS["runtime"]), np.float32))


@pytest.mark.slow
def test_same_unstamped_aligner_gives_the_same_bytes_quietly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    aligner = fitted("procrustes", stamped=False)
    with caplog.at_level(logging.INFO):
        for copy in "ab":
            list(export_aligner(aligner, tmp_path / copy))
    for name in ("enroll.onnx", "runtime.onnx", "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "`unknown`" in (tmp_path / "a" / "README.md").read_text()
    assert capfd.readouterr().out == ""
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


@pytest.mark.slow
def test_a_network_that_differs_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligner = fitted("procrustes")
    exact = aligner.map_runtime
    monkeypatch.setattr(aligner, "map_runtime", lambda matrix: exact(matrix) + np.float32(1e-4))
    with pytest.raises(RuntimeError, match=r"runtime\.onnx differs"):
        list(export_aligner(aligner, tmp_path))
    assert not list(tmp_path.iterdir())


def test_unknown_kind_is_refused(tmp_path: Path) -> None:
    class Identity(Aligner):
        kind = "identity"

        def _fit(self, *views: object) -> None: ...

        def map_enroll(self, matrix: np.ndarray) -> np.ndarray:
            return matrix

        map_runtime = map_enroll

    with pytest.raises(InputError, match="'identity' cannot be exported"):
        list(export_aligner(Identity(), tmp_path))


def test_missing_extra_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnxruntime.*pip install 'nessa\[onnx\]'"):
        importlib.reload(nessa.export.networks)
    monkeypatch.undo()
    importlib.reload(nessa.export.networks)
