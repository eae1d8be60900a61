"""The kinds of speaker models: to add one takes its module and a line here.

A line names the section that configures a kind, and its class: an `Encoder` that is made of these
settings, or a `SpeakerModel`, of a pretrained family, made of a name and these. Their modules are
imported when they are needed, and those of our settings do not import torch.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from nessa.encoders.config import EncoderConfig, FeatureConfig, PretrainedConfig
from nessa.errors import InputError
from nessa.lazy import imported
from nessa.schema import explain, nearest


class Kind(NamedTuple):
    """Where a kind of speaker model is.

    Attributes:
        settings: module and name of its section.
        model: module and name of its class.
    """

    settings: str
    model: str


def _ours(settings: str, model: str) -> Kind:
    return Kind(f"nessa.encoders.settings.{settings}", f"nessa.encoders.{model}")


ARCHITECTURES = {
    "tdnn": _ours("XVectorConfig", "tdnn.XVector"),
    "ecapa": _ours("ECAPAConfig", "ecapa.ECAPA"),
    "resnet": _ours("ResNetConfig", "resnet.ResNet"),
}
PRETRAINED = {
    "onnx": _ours("OnnxConfig", "onnx.OnnxModel"),
    "speechbrain": _ours("SpeechBrainConfig", "speechbrain.SpeechBrainModel"),
    "pyannote": _ours("PyannoteConfig", "pyannote.PyannoteModel"),
    "resemblyzer": _ours("ResemblyzerConfig", "resemblyzer.ResemblyzerModel"),
    "campplus": _ours("CampplusConfig", "campplus.CampplusModel"),
    "python": _ours("PythonConfig", "python.PythonModel"),
    "arks": _ours("ArksConfig", "arks.GivenEmbeddings"),
}


def class_of(settings: Mapping[str, Any]) -> Any:
    """The class of the model whose kind its settings name; see `settings_class`."""
    return imported(_kind_of(settings).model)


def settings_class(
    settings: Mapping[str, Any], place: str = ""
) -> type[EncoderConfig] | type[PretrainedConfig]:
    """The section that configures the kind of model that `pretrained` or `architecture` names.

    Args:
        settings: as a recipe has them under the model's name.
        place: where they are, such as "encoders.old", for messages.

    Raises:
        InputError: they name none.
    """
    return imported(_kind_of(settings, place).settings)


def _kind_of(settings: Mapping[str, Any], place: str = "") -> Kind:
    key, kinds = "architecture", ARCHITECTURES
    if "pretrained" in settings:
        key, kinds = "pretrained", PRETRAINED
    name = f"{place}.{key}" if place else key
    if key not in settings:
        raise InputError(f"key {name!r} is missing; give it, or `pretrained`")
    kind = str(settings[key])
    if kind not in kinds:
        raise InputError(f"{name}: no kind of model {kind!r}{nearest(kind, kinds)}")
    return kinds[kind]


def sampling_rates(encoders: Mapping[str, Mapping[str, Any]]) -> set[int]:
    """The sampling rates (Hz) of the audio that some models take, as far as settings say them.

    Args:
        encoders: settings of models by their names; see `settings_class`.
    """
    rates: set[int] = set()
    for config in _parse_all(encoders):
        features = getattr(config, "features", None)
        if features is None:
            rates |= {getattr(config, "sampling_rate", 0)}
        elif features.type == "fbank":
            rates.add(features.sampling_rate)
    return rates - {0}


def given_dimensions(encoders: Mapping[str, Mapping[str, Any]]) -> set[int]:
    """The dimensions of the given features that some models take; see `sampling_rates`."""
    return {features.num_filters for features in _given_features(encoders)}


def given_shifts(encoders: Mapping[str, Mapping[str, Any]]) -> set[float]:
    """The frame shifts (seconds) of the given features that some models take."""
    return {features.frame_shift for features in _given_features(encoders)}


def _given_features(encoders: Mapping[str, Mapping[str, Any]]) -> list[FeatureConfig]:
    found = [getattr(config, "features", None) for config in _parse_all(encoders)]
    return [features for features in found if features is not None and features.type == "given"]


def are_trained(encoders: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether one of some models is to be trained, on the train set."""
    return any("architecture" in settings for settings in encoders.values())


def have_embeddings_alone(encoders: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether of all models only the embeddings are there, so that sets need no audio."""
    return all(settings.get("pretrained") == "arks" for settings in encoders.values())


def needs_of_corpus(encoders: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All that preparing a corpus depends on of the settings of models, see `sampling_rates`."""
    return {
        "trained": are_trained(encoders),
        "embeddings_alone": have_embeddings_alone(encoders),
        "sampling_rates": sorted(sampling_rates(encoders)),
        "dimensions": sorted(given_dimensions(encoders)),
        "frame_shifts": sorted(given_shifts(encoders)),
    }


def _parse_all(
    encoders: Mapping[str, Mapping[str, Any]],
) -> list[EncoderConfig | PretrainedConfig]:
    return [parse_settings(each, f"encoders.{name}") for name, each in encoders.items()]


def parse_settings(
    settings: Mapping[str, Any], place: str = ""
) -> EncoderConfig | PretrainedConfig:
    """Check a model's settings, and fill in the defaults.

    Args:
        settings, place: as for `settings_class`.

    Raises:
        InputError: a key or a value that this kind of model cannot have.
    """
    schema = settings_class(settings, place)
    try:
        return schema.model_validate(settings)
    except ValidationError as error:
        raise InputError("; ".join(explain(error, schema, place))) from None
