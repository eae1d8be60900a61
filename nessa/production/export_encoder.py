"""A trained encoder as an ONNX file, checked against the encoder."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch.nn import functional

from nessa.encoders.trained import TrainedModel
from nessa.production.onnx import OPSET, facts_lines, open_session, to_onnx, write_export

FILE = "encoder.onnx"
KIND = "encoder"  # in the metadata; no aligner has this kind
CHECKED_SHAPES = ((1, 57), (3, 200), (2, 811))  # utterances, frames
LEAST_COSINE = 0.9999


def export_encoder(
    model: TrainedModel, output: Path, facts: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Write encoder.onnx and a model card, README.md.

    The network takes `feats`, float32 (B, T, F), utterances of one length, and gives `embs`,
    float32 (B, D), as WeSpeaker's exports do; `nessa` loads it back as `pretrained: onnx`.

    Args:
        model: a trained encoder.
        output: the folder that receives the files.
        facts: further metadata, such as {"license": ..., "training_data": ...}.

    Returns:
        A line about the file.

    Raises:
        InputError: a README.md in `output` that is not a card.
        RuntimeError: the exported network's embeddings differ from the encoder's.
    """
    features = model.config.features
    example = torch.zeros(2, 200, features.num_filters)
    properties = {
        **facts,
        "kind": KIND,
        "model_fingerprint": model.fingerprint,
        "features": features.model_dump_json(),
        "output_dim": str(model.dim),
    }
    content = to_onnx(model.encoder, example, ("feats", "embs"), ("B", "T"), properties)
    cosine = least_cosine(model, content)
    if not cosine >= LEAST_COSINE:
        raise RuntimeError(
            f"{FILE}: cosine {cosine:.6f} with the encoder, less than {LEAST_COSINE}"
        )
    write_export(output, {FILE: content}, _model_card(model, cosine, facts))
    return f"{output / FILE}: {model.dim} dimensions, cosine {cosine:.6f} with the encoder"


def least_cosine(model: TrainedModel, content: bytes) -> float:
    """The least cosine between encoder.onnx in onnxruntime and the encoder, on noise.

    Each utterance has its own mean; otherwise a network embeds all noise alike.
    """
    session = open_session(content)
    generator = torch.Generator().manual_seed(0)
    least = 1.0
    for batch, frames in CHECKED_SHAPES:
        shape = batch, frames, model.config.features.num_filters
        means = 3 * torch.randn((batch, 1, shape[2]), generator=generator)
        features = means + torch.randn(shape, generator=generator)
        expected = model.embed(list(features))
        found = torch.from_numpy(session.run(["embs"], {"feats": features.numpy()})[0])
        least = min(least, float(functional.cosine_similarity(found, expected).min()))
    return least


def _model_card(model: TrainedModel, cosine: float, facts: Mapping[str, str]) -> str:
    config = model.config
    features = config.features.model_dump(mode="json")
    rows = "\n".join(f"| {key} | {value} |" for key, value in features.items())
    return f"""\
# Speaker encoder {model.name} ({config.architecture})

`{FILE}` embeds log-mel filterbank features. ONNX opset {OPSET}.

- Input `feats`: float32 (B, T, {config.features.num_filters}), B utterances of T frames each; do
  not pad.
- Output `embs`: float32 (B, {model.dim}), not length-normalized.
- Fingerprint of the encoder: `{model.fingerprint}`
- Least cosine between onnxruntime and the encoder on test inputs: {cosine:.6f}
{facts_lines(facts)}
| features | |
|---|---|
{rows}

To use it in a recipe:

```yaml
encoders:
  {model.name}:
    pretrained: onnx
    file: {FILE}
    {config.features.line()}
```
"""
