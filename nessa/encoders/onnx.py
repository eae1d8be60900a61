"""A pretrained model as an ONNX file: features (B, T, F) in, embeddings (B, D) out.

This is how WeSpeaker publishes its models, and how `nessa export --encoder` writes ours.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.cut import MonoCut
from pydantic import ValidationError
from torch import Tensor

from nessa.corpus.audio import reason
from nessa.encoders.base import SpeakerModel, embed_by_length
from nessa.encoders.config import OF_COMPUTED, FeatureConfig
from nessa.encoders.external import external_files
from nessa.encoders.features import FeatureExtractor, read_features
from nessa.encoders.settings import OnnxConfig
from nessa.errors import InputError, is_out_of_memory
from nessa.files import digest, file_digest

PROBE_FRAMES = 200  # of the noise that a model's dimension is found with


class OnnxModel(SpeakerModel):
    """A model in onnxruntime, on the CPU.

    It has no input for lengths, so that only utterances of one length share a batch.

    Args:
        name: as the recipe names it.
        config: the file, and the features that it takes.

    Attributes:
        stated: the features that its file says it takes, as those that `nessa export` writes do.

    Raises:
        InputError: there is no such file, it is no model from features to embeddings, or says that
            it takes other features.
    """

    def __init__(self, name: str, config: OnnxConfig) -> None:
        self.name = name
        self._path = Path(config.file)
        self._features = FeatureExtractor(config.features)
        self._session = _open(self._path)
        self.stated = self._check_stated(config.features)
        self._input = self._check_input(config.features)
        self._one_by_one = self._input.shape[0] == 1
        outputs = [output.name for output in self._session.get_outputs()]
        self._output = self._choose_output(outputs, config.output)
        self.dim = self._find_dim(config.features.num_filters)
        described: list[Any] = [file_digest(self._path), config.features.model_dump(mode="json")]
        if outside := external_files(self._path):
            described.append(list(map(file_digest, outside)))
        self.fingerprint = digest([*described, *([self._output] if len(outputs) > 1 else [])])

    def read(self, cut: MonoCut) -> Tensor:
        """Features, shape (T, F)."""
        return read_features(cut, self._features, self.name)

    def embed(self, inputs: list[Tensor]) -> Tensor:
        """Feature matrices (T_i, F) -> embeddings (B, D).

        Raises:
            InputError: onnxruntime fails on them; some networks need more frames than others.
        """
        return embed_by_length(inputs, self._embed_batch)

    def _embed_batch(self, features: Tensor) -> Tensor:
        parts = features.split(1) if self._one_by_one else [features]
        return torch.cat([torch.from_numpy(self._run(part.numpy())) for part in parts])

    def _run(self, features: np.ndarray) -> np.ndarray:
        """(B, T, F) -> (B, D)."""
        given = {self._input.name: features.astype(np.float32)}
        try:
            return self._session.run([self._output], given)[0]
        except Exception as error:  # onnxruntime's own types
            if is_out_of_memory(error):
                raise
            raise InputError(
                f"{self._path}: fails on features of shape {_as_text(features.shape)}: "
                f"{reason(error)}"
            ) from error

    def _check_stated(self, features: FeatureConfig) -> FeatureConfig | None:
        text = self._session.get_modelmeta().custom_metadata_map.get("features", "")
        try:
            stated = FeatureConfig.model_validate_json(text)
        except ValidationError:  # of another toolkit
            return None
        if stated.type == "given":  # not computed, whatever is written; recipes take the defaults
            unread = {key: getattr(FeatureConfig(), key) for key in OF_COMPUTED}
            stated, features = (each.model_copy(update=unread) for each in (stated, features))
        if stated != features:
            raise InputError(
                f"{self._path}: was exported for other features than the recipe's; write into "
                f"encoders.{self.name}: {stated.line()}"
            )
        return stated

    def _check_input(self, features: FeatureConfig) -> Any:
        inputs = self._session.get_inputs()
        first = inputs[0]
        fits = len(inputs) == 1 and first.type == "tensor(float)" and len(first.shape) == 3
        if not fits:
            found = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
            raise InputError(
                f"{self._path}: expected one input of features, float (batch, frames, filters), "
                f"found {found}; export the model so"
            )
        if isinstance(first.shape[2], int) and first.shape[2] != features.num_filters:
            # As a whole: keys that a section leaves out have the defaults of our own encoders.
            whole = features.model_copy(update={"num_filters": first.shape[2]})
            raise InputError(
                f"{self._path}: takes {first.shape[2]} features a frame, but features.num_filters "
                f"is {features.num_filters}; write into encoders.{self.name}: {whole.line()}"
            )
        batch, frames, _ = first.shape
        if isinstance(frames, int) or (isinstance(batch, int) and batch != 1):
            raise InputError(
                f"{self._path}: takes {batch} utterances of {frames} frames only; export the model "
                "with any number of them"
            )
        return first

    def _choose_output(self, names: list[str], wanted: str | None) -> str:
        if wanted is None and len(names) == 1:
            return names[0]
        if wanted not in names:
            lacking = "name one" if wanted is None else f"none is {wanted!r}"
            raise InputError(
                f"{self._path}: has {len(names)} outputs ({', '.join(names)}), {lacking}: key "
                "`output` of the encoder"
            )
        return wanted

    def _find_dim(self, num_filters: int) -> int:
        rng = np.random.default_rng(0)
        first, second = (
            self._run(rng.standard_normal((1, PROBE_FRAMES, num_filters))) for _ in range(2)
        )
        shape = first.shape
        if len(shape) != 2 or shape[0] != 1:
            raise InputError(
                f"{self._path}: expected embeddings (batch, dimension) as output "
                f"{self._output!r}, found shape {_as_text(shape)} for one utterance; export the "
                "model so"
            )
        if np.array_equal(first, second):
            raise InputError(
                f"{self._path}: output {self._output!r} is the same for different features; name "
                "another one (key `output` of the encoder), or export the model again"
            )
        return shape[1]


def _open(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise InputError("ONNX models need onnxruntime: pip install 'nessa[onnx]'") from None
    if not path.is_file():
        raise InputError(f"{path}: no such model file; correct `file` in the recipe's encoders")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types
        raise InputError(f"{path}: not a model that onnxruntime reads: {reason(error)}") from None


def _as_text(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"
