"""Settings of each kind of speaker model, beside those that all share.

Apart from the networks, so that a recipe is checked without waiting for torch.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from nessa.encoders.config import EncoderConfig, FeatureConfig, PretrainedConfig
from nessa.encoders.external import external_files
from nessa.schema import Positive

Pooling = Literal["statistics", "attentive"]

# --- architectures ------------------------------------------------------------------------------


class XVectorConfig(EncoderConfig):
    """The width of the x-vector network."""

    channels: Positive  # of the frame-level layers; the last one has three times as many
    pooling: Pooling = "statistics"


# A narrower ECAPA-TDNN than the published ones, of 512 or 1,024 channels, has fewer groups.
RES2NET_SCALE = 8  # groups of channels, each convolved with what the one before it saw
NARROW_RES2NET_SCALE = 4
PUBLISHED_CHANNELS = 512


def res2net_groups(channels: int) -> int:
    """Into how many groups ECAPA-TDNN divides its channels."""
    return RES2NET_SCALE if channels >= PUBLISHED_CHANNELS else NARROW_RES2NET_SCALE


def _divided(channels: int) -> int:
    groups = res2net_groups(channels)
    if channels % groups:
        raise ValueError(f"ecapa needs a multiple of {groups}, not {channels}")
    return channels


class ECAPAConfig(EncoderConfig):
    """The width of ECAPA-TDNN."""

    channels: Annotated[Positive, AfterValidator(_divided)]  # of the frame-level layers
    pooling: Pooling = "attentive"


class ResNetConfig(EncoderConfig):
    """The width and the depth of the ResNet."""

    channels: Positive  # C of the first stage; the others have 2C, 4C and 8C
    blocks: tuple[Positive, Positive, Positive, Positive] = (3, 4, 6, 3)  # this is ResNet34
    pooling: Pooling = "statistics"  # over time, of all channels at all frequencies that are left


# --- pretrained models --------------------------------------------------------------------------

# Fbank as WeSpeaker computes it (and Kaldi, save for its window): what its published models take.
WESPEAKER_FEATURES = FeatureConfig(scale=32768.0, window="hamming", high_freq=0.0, snip_edges=True)


class OnnxConfig(PretrainedConfig):
    """The file, and the features that it takes."""

    paths = ("file",)

    file: str
    features: FeatureConfig = WESPEAKER_FEATURES
    output: str | None = None  # that holds the embeddings, of a file with several

    def places(self) -> list[Path]:
        """The file, and those that it keeps weights in."""
        return [Path(self.file), *external_files(Path(self.file))]

    def missing(self) -> Path | None:
        """The file, if there is none."""
        return None if Path(self.file).is_file() else Path(self.file)


class SpeechBrainConfig(PretrainedConfig):
    """Where the model is."""

    paths, extra = ("source",), "speechbrain"

    source: str  # a local folder, or a name on the model hub
    sampling_rate: Positive = 16000  # Hz


class PyannoteConfig(PretrainedConfig):
    """Where the model is."""

    paths, extra = ("source",), "pyannote"

    source: str  # a checkpoint, a folder with pytorch_model.bin, or owner/name on the model hub
    revision: str | None = None  # commit, branch or tag on the hub
    trust: bool = False  # load a checkpoint that may run programs


class ResemblyzerConfig(PretrainedConfig):
    """Nothing to configure."""

    extra = "resemblyzer"
    sampling_rate: ClassVar[int] = 16000  # Hz, that the model was trained on


class CampplusConfig(PretrainedConfig):
    """How much of an utterance the model gets."""

    extra = "campplus"
    sampling_rate: ClassVar[int] = 16000  # Hz, that the model was trained on

    # Seconds from its middle; for a runtime model that listens to less. None: all of it.
    crop: Annotated[float, Field(ge=0.5)] | None = None


class PythonConfig(PretrainedConfig):
    """The function and its arguments."""

    factory: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+:[A-Za-z0-9_]+$")]  # module:function
    arguments: dict[str, Any] = Field({})  # passed by name
    sampling_rate: Positive = 16000  # Hz

    def places(self) -> list[Path]:
        """The file of the function's module, and the files and folders among the arguments."""
        return [*filter(None, [self.module_file()]), *self.files()]

    def files(self) -> list[Path]:
        """The files and folders among the arguments."""
        return [Path(text) for text in _texts(self.arguments) if os.path.exists(text)]

    def module_file(self) -> Path | None:
        """The file of the function's module, found without running any; None where none is."""
        top, *inside = self.factory.partition(":")[0].split(".")
        folders = ["", *sys.path]  # as when it is imported
        specs = (finder.find_spec(top, folders) for finder in sys.meta_path)
        spec = next(filter(None, specs), None)
        if spec is None:
            return None
        found = [Path(spec.origin)] if spec.origin else []
        if inside:  # whose specs would be found by running the packages that they are in
            packages = [Path(folder, *inside) for folder in spec.submodule_search_locations or []]
            found = [p for own in packages for p in (own / "__init__.py", Path(f"{own}.py"))]
        return next(filter(Path.is_file, found), None)


def _texts(value: Any) -> Iterator[str]:
    """Every str of nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def with_texts(value: Any, change: Callable[[str], Any]) -> Any:
    """The same nested lists and mappings, with each str changed."""
    if isinstance(value, dict):
        return {name: with_texts(each, change) for name, each in value.items()}
    if isinstance(value, list):
        return [with_texts(each, change) for each in value]
    return change(value) if isinstance(value, str) else value


class ArksConfig(PretrainedConfig):
    """A table for all sets, or one per set."""

    path: str  # an scp, an ark, an embeddings directory, .npz or Parquet; {set}: the set's name

    def place(self, set_name: str) -> Path:
        """The table that holds a set's embeddings, maybe among others."""
        return Path(self.path.replace("{set}", set_name))

    def missing(self) -> Path | None:
        """The table of eval, which every recipe has, if it is not there."""
        place = self.place("eval")
        return None if place.exists() else place
