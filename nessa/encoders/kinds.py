"""The kinds of speaker models: to add one takes its module and a line here.

The class of an architecture is an `Encoder`, that of a pretrained family a `SpeakerModel`; its
attribute `settings` is the section that configures it. Modules are imported when they are needed.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from nessa.encoders.config import EncoderConfig, PretrainedConfig
from nessa.errors import InputError
from nessa.schema import explain, nearest

ARCHITECTURES = {
    "tdnn": "nessa.encoders.tdnn.XVector",
    "ecapa": "nessa.encoders.ecapa.ECAPA",
    "resnet": "nessa.encoders.resnet.ResNet",
}
PRETRAINED = {
    "onnx": "nessa.encoders.onnx.OnnxModel",
    "speechbrain": "nessa.encoders.speechbrain.SpeechBrainModel",
    "pyannote": "nessa.encoders.pyannote.PyannoteModel",
    "resemblyzer": "nessa.encoders.resemblyzer.ResemblyzerModel",
    "campplus": "nessa.encoders.campplus.CampplusModel",
    "python": "nessa.encoders.factory.PythonModel",
    "arks": "nessa.encoders.arks.GivenEmbeddings",
}


def class_of(settings: Mapping[str, Any], place: str = "") -> Any:
    """The class that a model's settings name by `pretrained` or `architecture`.

    Args:
        settings: as a recipe has them under the model's name.
        place: where they are, such as "encoders.old", for messages.

    Raises:
        InputError: they name none.
    """
    key, kinds = "architecture", ARCHITECTURES
    if "pretrained" in settings:
        key, kinds = "pretrained", PRETRAINED
    name = f"{place}.{key}" if place else key
    if key not in settings:
        raise InputError(f"key {name!r} is missing; give it, or `pretrained`")
    kind = str(settings[key])
    if kind not in kinds:
        raise InputError(f"{name}: no kind of model {kind!r}{nearest(kind, kinds)}")
    module, _, found = kinds[kind].rpartition(".")
    return getattr(import_module(module), found)


def sampling_rates(encoders: Mapping[str, Mapping[str, Any]]) -> set[int]:
    """The sampling rates (Hz) of the audio that some models take, as far as settings say them.

    Args:
        encoders: settings of models by their names; see `class_of`.
    """
    rates: set[int] = set()
    for name, settings in encoders.items():
        config = parse_settings(settings, f"encoders.{name}")
        features = getattr(config, "features", None)
        if features is None:
            rates |= {getattr(config, "sampling_rate", 0)}
        elif features.type == "fbank":
            rates.add(features.sampling_rate)
    return rates - {0}


def given_dimensions(encoders: Mapping[str, Mapping[str, Any]]) -> set[int]:
    """The dimensions of the given features that some models take; see `sampling_rates`."""
    configs = [parse_settings(each, f"encoders.{name}") for name, each in encoders.items()]
    features = [getattr(config, "features", None) for config in configs]
    return {each.num_filters for each in features if each is not None and each.type == "given"}


def parse_settings(
    settings: Mapping[str, Any], place: str = ""
) -> EncoderConfig | PretrainedConfig:
    """Check a model's settings, and fill in the defaults.

    Args:
        settings, place: as for `class_of`.

    Raises:
        InputError: a key or a value that this kind of model cannot have.
    """
    schema = class_of(settings, place).settings
    try:
        return schema.model_validate(settings)
    except ValidationError as error:
        raise InputError("; ".join(explain(error, schema, place))) from None
