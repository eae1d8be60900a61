"""Exported networks as a product meets them: read in onnxruntime, and held against the original."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from nessa.alignment import Aligner
from nessa.alignment.networks import Side
from nessa.errors import InputError
from nessa.export.aligners import TOLERANCE
from nessa.export.networks import open_session

ROWS = 10_000  # embeddings on which a network is held against its aligner
NEEDED = ("kind", "side", "space", "model_fingerprint", "input_dim", "output_dim", "nessa_version")
Matrix = npt.NDArray[np.float32]


def verify_aligner(path: Path, aligner: Aligner | None = None) -> Iterator[str]:
    """Check a network that `nessa export --aligner` wrote.

    Args:
        path: enroll.onnx or runtime.onnx.
        aligner: that it was exported from, to be compared on 10,000 embeddings; None leaves that
            out.

    Yields:
        Lines about the file and what was found.

    Raises:
        InputError: no such file, not a network of ours, or one that does not do what it says.
    """
    properties = read_properties(path)
    dims = int(properties["input_dim"]), int(properties["output_dim"])
    what = f"side {properties['side']} of a {properties['kind']} aligner"
    yield f"{path}: {what}, {dims[0]} -> {dims[1]} dimensions"
    for name, value in properties.items():
        yield f"  {name}: {value}"
    batch = _embeddings(ROWS, dims[0])
    mapped = _run(path, batch)
    alone = np.concatenate([_run(path, batch[row : row + 1]) for row in range(3)])
    if mapped.shape != (ROWS, dims[1]):
        raise InputError(f"{path}: gives {mapped.shape} for {batch.shape}; export it again")
    if not np.allclose(np.linalg.norm(mapped, axis=1), 1, atol=TOLERANCE):
        raise InputError(f"{path}: gives vectors that are not of unit length; export it again")
    if not np.allclose(mapped[:3], alone, atol=TOLERANCE):
        raise InputError(f"{path}: maps rows differently in batches and alone; export it again")
    yield f"  {ROWS:,} rows at once and one by one: unit length, the same"
    if aligner is not None:
        yield _compared(path, aligner, properties, batch, mapped)


def _compared(
    path: Path, aligner: Aligner, properties: dict[str, str], batch: Matrix, mapped: Matrix
) -> str:
    if properties["space"] != aligner.space():
        raise InputError(f"{path}: exported from another aligner; export this one again")
    side: Side = "enroll" if properties["side"] == "enroll" else "runtime"
    expected = aligner.map_enroll(batch) if side == "enroll" else aligner.map_runtime(batch)
    difference = float(np.abs(mapped - expected).max())
    if not difference <= TOLERANCE:
        raise InputError(
            f"{path}: differs from the aligner by {difference:.1e}, more than {TOLERANCE:.0e}"
        )
    return f"  within {difference:.1e} of the aligner on {len(batch):,} embeddings"


def read_properties(path: Path) -> dict[str, str]:
    """The metadata of an exported aligner's network.

    Raises:
        InputError: no such file, or not such a network.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; nessa export makes enroll.onnx and runtime.onnx")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        onnx.checker.check_model(model)
    except Exception as error:  # of onnx and of protobuf
        raise InputError(f"{path}: not an ONNX model ({str(error).splitlines()[0]})") from None
    properties = {entry.key: entry.value for entry in model.metadata_props}
    lacking = [name for name in NEEDED if name not in properties]
    if lacking or not (properties["input_dim"] + properties["output_dim"]).isdecimal():
        raise InputError(
            f"{path}: not an aligner that nessa exported (no {', '.join(lacking) or 'dimensions'} "
            "in its metadata); export it again"
        )
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return {"opset": str(opset), **properties}


def _run(path: Path, batch: Matrix) -> Matrix:
    try:
        return open_session(path.read_bytes()).run(["mapped"], {"embedding": batch})[0]
    except Exception as error:  # of onnxruntime
        raise InputError(f"{path}: fails in onnxruntime: {str(error).splitlines()[0]}") from None


def _embeddings(rows: int, dim: int) -> Matrix:
    """Random ones of every length from small to large."""
    rng = np.random.default_rng(0)
    lengths = 10.0 ** rng.uniform(-2, 2, (rows, 1))
    return (lengths * rng.standard_normal((rows, dim))).astype(np.float32)
