"""Speaker models behind one interface: audio in, embeddings out; ours, and pretrained ones."""

from pathlib import Path

from nessa.config import ArksConfig, EncoderConfig, PretrainedConfig, load_model_config, save_yaml
from nessa.encoders.arks import GivenEmbeddings
from nessa.encoders.base import SpeakerModel
from nessa.encoders.trained import (
    CONFIG,
    TrainedModel,
    build,
    fingerprint,
    load_trained,
    save_model,
)
from nessa.errors import InputError

__all__ = [
    "GivenEmbeddings",
    "SpeakerModel",
    "TrainedModel",
    "build",
    "fingerprint",
    "load_model",
    "save_model",
    "save_pretrained",
]


def load_model(directory: Path | str, name: str | None = None) -> SpeakerModel | GivenEmbeddings:
    """Load a model from its directory.

    Args:
        directory: holds config.yaml and, of a model of ours, model.safetensors.
        name: what to call it; the directory's own name where None.

    Returns:
        The model, or, where there is none, its embeddings.

    Raises:
        InputError: a file is missing or unreadable, or weights and configuration do not agree.
    """
    directory = Path(directory)
    if not (directory / CONFIG).is_file():
        raise InputError(f"{directory / CONFIG}: no such file; train the encoder (stage 3) first")
    config = load_model_config(directory / CONFIG)
    if isinstance(config, EncoderConfig):
        return load_trained(directory, name or directory.name, config)
    if isinstance(config, ArksConfig):
        return GivenEmbeddings(name or directory.name, config)
    raise InputError(f"{directory / CONFIG}: {config.pretrained} models are not there yet")


def save_pretrained(directory: Path | str, config: PretrainedConfig) -> None:
    """Make a model's directory of a configuration that names a pretrained one.

    Args:
        directory: receives config.yaml.
        config: which model it is.

    Raises:
        InputError: the model cannot be loaded.
    """
    save_yaml(Path(directory) / CONFIG, config)
    load_model(directory)
