"""Our own encoders: features (B, T, F) -> embeddings (B, D); see `nessa.encoders.training`."""

from pathlib import Path

import torch
from lhotse.cut import MonoCut
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from nessa.corpus.audio import read_audio
from nessa.encoders.base import SpeakerModel, weights_digest
from nessa.encoders.config import EncoderConfig, FeatureConfig
from nessa.encoders.features import FeatureExtractor, read_features
from nessa.encoders.kinds import class_of
from nessa.encoders.layers import Encoder
from nessa.errors import InputError
from nessa.files import atomic_open, digest
from nessa.schema import save_yaml

CONFIG = "config.yaml"
# Batches are padded to a multiple: on a CPU a convolution sets up slowly for every new length.
FRAMES_PER_BUCKET = 16
WEIGHTS = "model.safetensors"
REMEDY = "restore it, or remove it and run ./run.sh --stage encoders, which trains it again"
STAMP = "training.json"  # what the weights beside it were trained with


def build(config: EncoderConfig) -> Encoder:
    """A freshly initialized encoder."""
    return class_of(dict(config))(config)


class TrainedModel(SpeakerModel):
    """A trained encoder with the features that belong to it.

    Attributes:
        config: architecture and features.
        encoder: in evaluation mode, on a GPU where there is one.
    """

    def __init__(self, name: str, config: EncoderConfig, encoder: nn.Module) -> None:
        self.name, self.config, self.dim = name, config, config.dim
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = encoder.eval().to(self.device)
        self.fingerprint = fingerprint(encoder, config.features)
        self.features = FeatureExtractor(config.features)

    def read(self, cut: MonoCut) -> Tensor:
        """Features, shape (T, F); where a GPU is to make them, samples (S,)."""
        if self.device.type == "cuda" and self.config.features.type == "fbank":
            return read_audio(cut, self.config.features.sampling_rate, self.name)
        return read_features(cut, self.features, self.name)

    @torch.inference_mode()
    def embed(self, inputs: list[Tensor]) -> Tensor:
        """What `read` gave of B utterances -> embeddings (B, D); padding is masked."""
        if inputs[0].ndim == 1:
            inputs = self._features_of(inputs)
        lengths = [len(features) for features in inputs]
        longest = max(lengths)
        if len(inputs) > 1:
            longest = -(-longest // FRAMES_PER_BUCKET) * FRAMES_PER_BUCKET
        padded = torch.zeros(len(inputs), longest, inputs[0].shape[1], device=self.device)
        for row, features in zip(padded, inputs, strict=True):
            row[: len(features)] = features
        full = min(lengths) == longest
        mask = None if full else torch.tensor(lengths, device=self.device)
        # In float32, whatever the precision of training, and not in the TF32 that cuDNN would take:
        # embeddings of a GPU are those of a CPU, and of the model's ONNX, under one fingerprint.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self.encoder(padded, mask).float().cpu()

    def _features_of(self, samples: list[Tensor]) -> list[Tensor]:
        """Waveforms (S_i,) -> features (T_i, F) on the device; those of one length all at once."""
        self.features.to(self.device)
        moved = [waveform.to(self.device, non_blocking=True) for waveform in samples]
        if len({len(waveform) for waveform in samples}) == 1:
            return list(self.features(torch.stack(moved)))
        return [self.features(waveform[None])[0] for waveform in moved]


def fingerprint(encoder: nn.Module, features: FeatureConfig) -> str:
    """sha256 (hex) over the weights and the feature configuration."""
    return digest([weights_digest(encoder), features.model_dump(mode="json")])


def save_model(directory: Path | str, config: EncoderConfig, encoder: nn.Module) -> None:
    """Write config.yaml, then model.safetensors; the weights are there last, and whole.

    The files do not tell on which device the encoder was.
    """
    directory = Path(directory)
    (directory / WEIGHTS).unlink(missing_ok=True)  # they do not belong to the new config.yaml
    save_yaml(directory / CONFIG, config)
    weights = {name: tensor.cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    with atomic_open(directory / WEIGHTS, "wb") as file:
        file.write(save(weights))


def load_trained(directory: Path, name: str, config: EncoderConfig) -> TrainedModel:
    """Load a model that `save_model` wrote.

    Raises:
        InputError: the weights are missing or unreadable, or do not fit the configuration.
    """
    if not (directory / WEIGHTS).is_file():
        raise InputError(f"{directory / WEIGHTS}: no such file; run ./run.sh --stage encoders")
    encoder = build(config)
    try:
        weights: dict[str, Tensor] = load_file(directory / WEIGHTS)
        encoder.load_state_dict(weights)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{directory / WEIGHTS}: not a safetensors file ({error}); {REMEDY}"
        ) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(
            f"{directory / WEIGHTS}: does not fit {CONFIG}: {reason}; {REMEDY}"
        ) from None
    return TrainedModel(name, config, encoder)
