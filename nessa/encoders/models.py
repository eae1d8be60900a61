"""Speaker models from their folders, whichever kind they are."""

from pathlib import Path

from nessa.encoders.arks import GivenEmbeddings
from nessa.encoders.base import SpeakerModel
from nessa.encoders.config import (
    ArksConfig,
    EncoderConfig,
    OnnxConfig,
    PretrainedConfig,
    PythonConfig,
    ResemblyzerConfig,
    SpeechBrainConfig,
    load_model_config,
)
from nessa.encoders.trained import CONFIG, load_trained
from nessa.errors import InputError
from nessa.schema import save_yaml


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
        raise InputError(f"{directory / CONFIG}: no such file; run ./run.sh --stage encoders")
    config = load_model_config(directory / CONFIG)
    name = name or directory.name
    if isinstance(config, EncoderConfig):
        return load_trained(directory, name, config)
    return _load_pretrained(name, config)


def _load_pretrained(name: str, config: PretrainedConfig) -> SpeakerModel | GivenEmbeddings:
    # Imported here, for each needs a library that the others do without.
    match config:
        case OnnxConfig():
            from nessa.encoders.onnx import OnnxModel

            return OnnxModel(name, config)
        case SpeechBrainConfig():
            from nessa.encoders.speechbrain import SpeechBrainModel

            return SpeechBrainModel(name, config)
        case ResemblyzerConfig():
            from nessa.encoders.resemblyzer import ResemblyzerModel

            return ResemblyzerModel(name, config)
        case PythonConfig():
            from nessa.encoders.factory import PythonModel

            return PythonModel(name, config)
        case ArksConfig():
            return GivenEmbeddings(name, config)


def save_pretrained(directory: Path | str, config: PretrainedConfig) -> None:
    """Make a model's directory of a configuration that names a pretrained one.

    Args:
        directory: receives config.yaml, with absolute paths of what is on disk.
        config: which model it is.

    Raises:
        InputError: the model cannot be loaded.
    """
    config = _with_absolute_paths(config)
    _load_pretrained(Path(directory).name, config)
    save_yaml(Path(directory) / CONFIG, config)


def _with_absolute_paths(config: PretrainedConfig) -> PretrainedConfig:
    paths = {
        key: str(Path(value).absolute())
        for key in ("file", "source")
        if (value := getattr(config, key, None)) and Path(value).exists()
    }
    return config.model_copy(update=paths)
