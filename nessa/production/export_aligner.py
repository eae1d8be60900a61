"""A fitted aligner's two maps as ONNX files for production, checked against the aligner."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from nessa import __version__
from nessa.alignment.base import Aligner
from nessa.alignment.dev import verdict_sentence
from nessa.alignment.views import SIDES, Matrix, Side
from nessa.errors import InputError
from nessa.kaldi.directions import LARGEST, SAFE, SMALLEST
from nessa.kaldi.stamps import names_model
from nessa.production.mapping import TOLERANCE, without_domains
from nessa.production.onnx import OPSET, facts_lines, open_session, to_onnx, write_export
from nessa.scoring.calibration import Calibration

log = logging.getLogger(__name__)
CHECKED_BATCHES = (1, 7)  # rows
EXPONENTS = (-30, 30)  # of the lengths of random embeddings


def export_aligner(
    aligner: Aligner,
    output: Path,
    calibration: Calibration | None = None,
    facts: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Write enroll.onnx, runtime.onnx and a model card, README.md.

    Each network takes `embedding`, float32 (N, D_in), as its model made it, and gives `mapped`,
    float32 (N, D), of unit length: the cosine of two mapped vectors is their dot product.
    Nothing is written unless both networks agree with the aligner in onnxruntime.

    Args:
        aligner: a fitted aligner.
        output: the folder that receives the files.
        calibration: of its scores; goes into the metadata of both files and the card.
        facts: further metadata, such as {"license": ..., "training_data": ...}.

    Returns:
        A line per network.

    Raises:
        InputError: not fitted, no export for this kind of aligner, a calibration by more than
            the score, or a README.md in `output` that is not a card.
        RuntimeError: an exported network differs from the aligner by more than `TOLERANCE`, or
            maps a zero vector.
    """
    properties = dict(facts)
    if sentence := verdict_sentence(aligner.fitting):
        properties["verdict"] = sentence
    if calibration is not None:
        if calibration.quality:
            raise InputError(
                f"a calibration by {', '.join(calibration.quality)} cannot go with a network, "
                "which knows the score alone; fit one without --utt2dur and --enroll-map"
            )
        properties |= {
            "calibration_scale": repr(calibration.scale),
            "calibration_offset": repr(calibration.offset),
        }
    if told := without_domains(aligner):
        log.warning("%s: %s", output, told)
    exported = [_export_side(aligner, side, properties) for side in SIDES]
    files = {f"{network.side}.onnx": network.content for network in exported}
    write_export(output, files, _model_card(aligner, exported, properties))
    return [
        f"{output / name}: {network.input_dim} -> {network.output_dim} dimensions, "
        f"within {network.difference:.1e} of the aligner"
        for name, network in zip(files, exported, strict=True)
    ]


class WellScaled(nn.Module):
    """Rows of the same directions at a scale that can be squared; NaN where there is none.

    A network cannot refuse a row, as the aligner does, but no score of NaN passes for a match.

    Args:
        with_lengths: whether lengths count; those that can be squared then stay as they are.
    """

    def __init__(self, with_lengths: bool) -> None:
        super().__init__()
        self.with_lengths = with_lengths

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D), the largest value of a row 1 unless lengths count."""
        largest = x.abs().amax(dim=1, keepdim=True)
        valid = (largest >= SMALLEST) & (largest <= LARGEST)
        scaled = x / torch.where(valid, largest, torch.nan)
        if not self.with_lengths:
            return scaled
        length = scaled.norm(dim=1, keepdim=True)
        return scaled / length * (length * largest).clamp(*SAFE)


@dataclass(frozen=True)
class _Network:
    """One side as ONNX, and what the check of it found."""

    side: Side
    fingerprint: str
    input_dim: int
    output_dim: int
    content: bytes
    difference: float  # largest, from the aligner


def _export_side(aligner: Aligner, side: Side, facts: Mapping[str, str]) -> _Network:
    aligner.check_fitted()
    dim = aligner.input_dim(side)
    scaled = WellScaled(with_lengths=aligner.length_range(side) is not None)
    module = nn.Sequential(scaled, aligner.network(side)).eval()
    with torch.inference_mode():
        output_dim = module(torch.ones(1, dim)).shape[1]
    known = aligner.fingerprints[SIDES.index(side)]
    fingerprint = str(known) if names_model(known) else "unknown"
    properties = {
        **facts,
        "kind": aligner.kind,
        "side": side,
        "space": aligner.space(),
        "pair": aligner.pair(),
        "model_fingerprint": fingerprint,
        "input_dim": str(dim),
        "output_dim": str(output_dim),
    }
    example = torch.ones(2, dim)  # one row would make the exporter fix the batch size
    content = to_onnx(module, example, ("embedding", "mapped"), ("N",), properties)
    difference = _largest_difference(aligner, side, content, dim)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"{side}.onnx differs from the aligner by {difference:.1e}, more than {TOLERANCE:.0e}"
        )
    return _Network(side, fingerprint, dim, output_dim, content, difference)


def _largest_difference(aligner: Aligner, side: Side, content: bytes, input_dim: int) -> float:
    """Between onnxruntime and the aligner, on random rows of every length from tiny to large."""
    session = open_session(content)
    none = session.run(["mapped"], {"embedding": np.zeros((1, input_dim), np.float32)})[0]
    if not np.isnan(none).any():
        raise RuntimeError(f"{side}.onnx maps a zero vector, which has no direction")
    rng = np.random.default_rng(0)
    differences = []
    for rows in CHECKED_BATCHES:
        batch = random_embeddings(rng, rows, input_dim)
        (mapped,) = session.run(["mapped"], {"embedding": batch})
        differences.append(np.abs(mapped - aligner.map_side(batch, side)).max())
    return float(max(differences))


def random_embeddings(rng: np.random.Generator, rows: int, dim: int) -> Matrix:
    """Embeddings (rows, dim) of widely varying length."""
    lengths = 10.0 ** rng.uniform(*EXPONENTS, (rows, 1))
    return (lengths * rng.standard_normal((rows, dim))).astype(np.float32)


def _model_card(aligner: Aligner, exported: list[_Network], facts: Mapping[str, str]) -> str:
    told = facts_lines(facts)
    if "calibration_scale" in facts:
        told += "- Natural-log likelihood ratio of a score: calibration scale * score + offset.\n"
    if "threshold" in facts:
        told += (
            "- Accept a dot product (not a likelihood ratio) of at least `threshold`; `far` is "
            "the\n  false-accept rate that it was set for, on the trials of `nessa threshold`.\n"
        )
    if "unsure_from" in facts:
        told += "- From `unsure from` to below `unsure to`, ask for more speech instead.\n"
    if domains := without_domains(aligner):
        told += f"- {domains[0].upper()}{domains[1:]}.\n"
    for side in SIDES:
        if known := aligner.length_range(side):
            told += (
                f"- The lengths of embeddings count: give `{side}.onnx` those of the model, "
                f"{known[0]:.3g} to {known[1]:.3g} long in its align set, and no scaled ones.\n"
            )
    rows = "\n".join(
        f"| `{n.side}.onnx` | {n.input_dim} | {n.output_dim} | `{n.fingerprint}` "
        f"| {n.difference:.1e} |"
        for n in exported
    )
    return f"""\
# Speaker embedding aligner ({aligner.kind})

Two networks that map the speaker embeddings of two models into one space, made by nessa
{__version__}. Profiles go through `enroll.onnx`, runtime utterances through `runtime.onnx`.

| file | input dimension | output dimension | fingerprint of its model | difference |
|---|---|---|---|---|
{rows}

- Input `embedding`: float32 (N, input dimension), as the model gives it; length normalization and
  centering are inside. A profile is the mean of raw embeddings, taken before mapping.
- A row without direction (zero, or values beyond 1e-36 to 1e36) gives NaN; refuse it.
- Output `mapped`: float32 (N, output dimension), unit length; the score of a pair is the dot
  product. Any threshold must be set on scores of this aligner.
- ONNX opset {OPSET}. N may be any number of rows.
- Difference: the largest absolute difference between onnxruntime and the aligner, on random rows
  in batches of {" and ".join(map(str, CHECKED_BATCHES))}; more than {TOLERANCE:.0e} is refused.
- Use each network only with the model of its fingerprint (also in the file's metadata). Embeddings
  of another model with the same dimension give meaningless scores, not an error.
- Use the two files together: mapped vectors are comparable if their metadata `pair` is the same, or
  if one side was frozen while the other was fitted (`nessa align --freeze`).
{told}
Intended use: speaker verification and identification with different enrollment and runtime models.
Not tested: languages, channels and ages that the training data lack; disguised or synthetic voices,
against which it gives no protection.
"""
