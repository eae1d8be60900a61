"""Speaker models from their folders, whichever kind they are."""

import os
from pathlib import Path

from nessa.encoders.arks import GivenEmbeddings
from nessa.encoders.base import SpeakerModel
from nessa.encoders.config import EncoderConfig, PretrainedConfig
from nessa.encoders.kinds import class_of, parse_settings
from nessa.encoders.trained import CONFIG, load_trained
from nessa.errors import InputError, about
from nessa.schema import read_yaml, save_yaml


def load_model(directory: Path | str) -> SpeakerModel | GivenEmbeddings:
    """Load a model from its directory.

    Args:
        directory: holds config.yaml and, of a model of ours, model.safetensors; the model is
            called as it is, also where it is `.`.

    Returns:
        The model, or, where there is none, its embeddings.

    Raises:
        InputError: a file is missing or unreadable, or weights and configuration do not agree.
    """
    directory = Path(directory)
    if not (directory / CONFIG).is_file():
        raise InputError(f"{directory / CONFIG}: no such file; run ./run.sh --stage encoders")
    settings = read_yaml(directory / CONFIG)
    with about(directory / CONFIG):
        config = parse_settings(settings)
    if isinstance(config, EncoderConfig):
        return load_trained(directory, _name_of(directory), config)
    return class_of(settings)(_name_of(directory), config)


def save_pretrained(directory: Path | str, config: PretrainedConfig) -> None:
    """Make a model's directory of a configuration that names a pretrained one.

    Args:
        directory: receives config.yaml, with absolute paths of what is on disk. What a training
            has left there stays, for `train_encoder` to find.
        config: which model it is.

    Raises:
        InputError: the model cannot be loaded.
    """
    paths = {key: Path(getattr(config, key)) for key in config.paths}
    absolute = {key: str(path.absolute()) for key, path in paths.items() if path.exists()}
    config = config.model_copy(update=absolute)
    class_of(dict(config))(_name_of(directory), config)
    save_yaml(Path(directory) / CONFIG, config)


def _name_of(directory: Path | str) -> str:
    return os.path.basename(os.path.abspath(directory))
