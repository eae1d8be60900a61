"""Verification of exported networks: run in onnxruntime, and compared with the original."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from nessa.alignment.base import Aligner
from nessa.alignment.views import Matrix, Side
from nessa.encoders.config import FeatureConfig
from nessa.encoders.models import load_model
from nessa.encoders.trained import TrainedModel
from nessa.errors import InputError, first_line
from nessa.production.export_aligner import random_embeddings
from nessa.production.export_encoder import KIND, LEAST_COSINE, least_cosine
from nessa.production.mapping import TOLERANCE
from nessa.production.onnx import onnx, open_session

OF_PAIR = {"calibration_scale", "threshold"}  # metadata that are of both maps
ROWS = 10_000  # embeddings on which a network is compared with its aligner
NEEDED = ("kind", "side", "space", "model_fingerprint", "input_dim", "output_dim", "nessa_version")
NEEDED_OF_ENCODER = ("kind", "model_fingerprint", "features", "output_dim", "nessa_version")


def verify_model(
    path: Path, aligner: Aligner | None = None, encoder: Path | None = None
) -> Iterator[str]:
    """Check a network that `nessa export` wrote.

    Args:
        path: enroll.onnx, runtime.onnx or encoder.onnx.
        aligner: the original to compare with, on 10,000 embeddings; None: no comparison.
        encoder: the same for an encoder: the directory of the trained one.

    Yields:
        Lines about the file and the findings.

    Raises:
        InputError: no such file, not exported by nessa, or a network that contradicts its
            metadata; or only an original of the other kind.
    """
    properties = read_properties(path)
    originals = {"aligner": aligner, "encoder": encoder}
    kind = "encoder" if properties["kind"] == KIND else "aligner"
    if originals[kind] is None and any(originals.values()):
        raise InputError(f"{path}: to compare this network, give --{kind}")
    if kind == "encoder":
        yield from _verify_encoder(path, properties, encoder)
    else:
        yield from _verify_aligner(path, properties, aligner)


def _verify_encoder(
    path: Path, properties: dict[str, str], directory: Path | None
) -> Iterator[str]:
    yield f"{path}: encoder, {properties['output_dim']} dimensions"
    yield from _listed(properties)
    try:
        filters = FeatureConfig.model_validate_json(properties["features"]).num_filters
    except ValidationError:
        raise InputError(f"{path}: invalid features in its metadata; export it again") from None
    noise = np.random.default_rng(0).standard_normal((2, 200, filters))
    found = _run(path, noise.astype(np.float32), "feats", "embs")
    if found.shape != (2, int(properties["output_dim"])) or not np.isfinite(found).all():
        raise InputError(f"{path}: gives {found.shape} for two utterances; export it again")
    if directory is None:
        return
    model = load_model(directory)
    if not isinstance(model, TrainedModel) or model.fingerprint != properties["model_fingerprint"]:
        raise InputError(f"{path}: exported from another encoder than {directory}; export it again")
    cosine = least_cosine(model, path.read_bytes())
    if not cosine >= LEAST_COSINE:
        raise InputError(f"{path}: cosine {cosine:.6f} with the encoder, less than {LEAST_COSINE}")
    yield f"  cosine {cosine:.6f} with the encoder"


def _listed(properties: dict[str, str]) -> Iterator[str]:
    return (f"  {name}: {value}" for name, value in properties.items())


def _verify_aligner(
    path: Path, properties: dict[str, str], aligner: Aligner | None
) -> Iterator[str]:
    dims = int(properties["input_dim"]), int(properties["output_dim"])
    what = f"side {properties['side']} of a {properties['kind']} aligner"
    yield f"{path}: {what}, {dims[0]} -> {dims[1]} dimensions"
    yield from _listed(properties)
    batch = random_embeddings(np.random.default_rng(0), ROWS, dims[0])
    mapped = _run(path, batch)
    alone = np.concatenate([_run(path, batch[row : row + 1]) for row in range(3)])
    if mapped.shape != (ROWS, dims[1]):
        raise InputError(f"{path}: gives {mapped.shape} for {batch.shape}; export it again")
    if not np.allclose(np.linalg.norm(mapped, axis=1), 1, atol=TOLERANCE):
        raise InputError(f"{path}: gives vectors that are not of unit length; export it again")
    if np.isfinite(_run(path, np.zeros((1, dims[0]), np.float32))).all():
        raise InputError(f"{path}: maps a zero vector, which has no direction; export it again")
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
    difference = _difference(aligner, side, batch, mapped)
    mirror = aligner.mirrored()
    if not difference <= TOLERANCE and _difference(mirror, side, batch, mapped) <= TOLERANCE:
        raise InputError(f"{path}: exported from the mirror of this aligner; give that one")
    decides = not OF_PAIR.isdisjoint(properties)
    # Earlier versions did not tell the pair.
    if decides and properties.get("pair", aligner.pair()) != aligner.pair():
        raise InputError(
            f"{path}: its calibration or threshold is of before a side of this aligner was fitted "
            "anew; fit those of this one, export it again, and deploy both files"
        )
    if batch.shape[1] != aligner.input_dim(side):
        raise InputError(
            f"{path}: takes {batch.shape[1]} dimensions, and the {side} side of the aligner "
            f"{aligner.input_dim(side)}: of another model; export this one again"
        )
    if not difference <= TOLERANCE:
        raise InputError(
            f"{path}: differs from the aligner by {difference:.1e}, more than {TOLERANCE:.0e}"
        )
    return f"  within {difference:.1e} of the aligner on {len(batch):,} embeddings"


def _difference(aligner: Aligner, side: Side, batch: Matrix, mapped: Matrix) -> float:
    """The largest from what a side makes of a batch; infinite where it takes other dimensions."""
    if batch.shape[1] != aligner.input_dim(side):
        return np.inf
    return float(np.abs(mapped - aligner.map_side(batch, side)).max())


def read_properties(path: Path) -> dict[str, str]:
    """The metadata of an exported network.

    Raises:
        InputError: no such file, or a folder, or not such a network.
    """
    if path.is_dir():
        raise InputError(
            f"{path}: is a folder; name an .onnx file in it, or of a mapped store give --source"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file; nessa export makes such files")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        onnx.checker.check_model(model)
    except Exception as error:  # of onnx and of protobuf
        raise InputError(f"{path}: not an ONNX model ({first_line(error)})") from None
    properties = {entry.key: entry.value for entry in model.metadata_props}
    needed = NEEDED_OF_ENCODER if properties.get("kind") == KIND else NEEDED
    lacking = [name for name in needed if name not in properties]
    dims = properties.get("input_dim", "0") + properties.get("output_dim", "")
    if lacking or not dims.isdecimal():
        raise InputError(
            f"{path}: not an aligner or encoder that nessa exported (no "
            f"{', '.join(lacking) or 'dimensions'} in its metadata); export it again"
        )
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return {"opset": str(opset), **properties}


def _run(path: Path, batch: Matrix, given: str = "embedding", wanted: str = "mapped") -> Matrix:
    try:
        return open_session(path.read_bytes()).run([wanted], {given: batch})[0]
    except Exception as error:  # of onnxruntime
        raise InputError(f"{path}: fails in onnxruntime: {first_line(error)}") from None
