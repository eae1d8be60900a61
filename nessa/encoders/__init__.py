"""Speaker encoders behind one interface: features (B, T, F) -> embeddings (B, D)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from nessa.config import EncoderConfig, FeatureConfig, read_yaml, save_yaml
from nessa.encoders.ecapa import ECAPA
from nessa.encoders.tdnn import XVector
from nessa.errors import InputError
from nessa.features import FeatureExtractor
from nessa.files import atomic_open, digest

ARCHITECTURES: dict[str, type[nn.Module]] = {"tdnn": XVector, "ecapa": ECAPA}
WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"


def build(config: EncoderConfig) -> nn.Module:
    """A freshly initialised encoder."""
    architecture = ARCHITECTURES[config.architecture]
    return architecture(config.features.num_filters, config.channels, config.dim)


@dataclass(frozen=True)
class SpeakerModel:
    """A trained encoder with the features that belong to it.

    Attributes:
        name: as the recipe names it.
        config: architecture and features.
        encoder: in evaluation mode.
        fingerprint: sha256 over weights and feature configuration.
    """

    name: str
    config: EncoderConfig
    encoder: nn.Module
    fingerprint: str

    def feature_extractor(self) -> FeatureExtractor:
        """What turns audio into this model's input."""
        return FeatureExtractor(self.config.features)


def fingerprint(encoder: nn.Module, features: FeatureConfig) -> str:
    """sha256 (hex) over the weights, by name, and the feature configuration."""
    sha = hashlib.sha256(digest(features.model_dump(mode="json")).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def save_model(directory: Path | str, config: EncoderConfig, encoder: nn.Module) -> None:
    """Write config.yaml, then model.safetensors; the weights are there last, and whole."""
    directory = Path(directory)
    save_yaml(directory / CONFIG, config)
    weights = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    with atomic_open(directory / WEIGHTS, "wb") as file:
        file.write(save(weights))


def load_model(directory: Path | str, name: str | None = None) -> SpeakerModel:
    """Load a model that `save_model` wrote.

    Args:
        directory: holds config.yaml and model.safetensors.
        name: what to call it; the directory's own name where None.

    Raises:
        InputError: a file is missing or unreadable, or weights and configuration do not agree.
    """
    directory = Path(directory)
    for file in (CONFIG, WEIGHTS):
        if not (directory / file).is_file():
            raise InputError(f"{directory / file}: no such file; train the encoder (stage 3) first")
    try:
        config = EncoderConfig.model_validate(read_yaml(directory / CONFIG))
    except ValidationError as error:
        raise InputError(f"{directory / CONFIG}: {error.errors()[0]['msg']}") from None
    encoder = build(config)
    try:
        weights: dict[str, Tensor] = load_file(directory / WEIGHTS)
        encoder.load_state_dict(weights)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{directory / WEIGHTS}: not a safetensors file ({error})") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{directory / WEIGHTS}: does not fit {CONFIG}: {reason}") from None
    encoder.eval()
    return SpeakerModel(
        name or directory.name, config, encoder, fingerprint(encoder, config.features)
    )
