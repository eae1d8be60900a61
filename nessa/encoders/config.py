"""Settings that all speaker models share; `settings` has those of each kind."""

import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, model_validator

from nessa.corpus.config import SetName
from nessa.schema import Distinct, Fraction, Positive, Rising, Section, Seed

LEAST_FILTERS = 4  # that Lhotse's Fbank takes
# Settings of features that say how they are computed, which given ones do not read.
OF_COMPUTED = {
    "sampling_rate", "scale", "frame_length", "low_freq", "high_freq", "window", "snip_edges"
}  # fmt: skip
LONGEST_FRAME = 0.5  # seconds; more is meant in milliseconds, as Kaldi and torchaudio write it


def _not_empty(part: tuple[float, float]) -> tuple[float, float]:
    if part[0] >= part[1]:
        raise ValueError(f"{part} holds no speakers; end it after its beginning")
    return part


class FeatureConfig(Section):
    """Log-mel filterbank (Lhotse's Fbank); part of a model and of its fingerprint."""

    type: Literal["fbank", "given"] = "fbank"  # given: the corpus brings them, as feats.scp
    sampling_rate: Positive = 16000  # Hz
    scale: PositiveFloat = 1.0  # of the samples; 32768 for models trained on 16-bit integers
    num_filters: Positive = 80
    frame_length: PositiveFloat = 0.025  # seconds
    frame_shift: PositiveFloat = 0.01  # seconds
    low_freq: float = 20.0  # Hz
    high_freq: float = -400.0  # Hz; counted from the Nyquist frequency where not positive
    # As in Kaldi, but for blackman: Lhotse's is not symmetric; features differ by up to 0.28.
    window: Literal["povey", "hamming", "hanning", "blackman", "rectangular"] = "povey"
    snip_edges: bool = False  # only frames that lie in the utterance as a whole, as in Kaldi
    mean_norm: bool = True  # subtract each utterance's mean over time

    def line(self) -> str:
        """All of them, as a line of a recipe."""
        own = {"features": self.model_dump(mode="json")}
        return yaml.safe_dump(own, default_flow_style=True, sort_keys=False, width=1000)[1:-2]

    @model_validator(mode="after")
    def _frames_are_in_seconds(self) -> "FeatureConfig":
        for key in ("frame_shift",) if self.type == "given" else ("frame_length", "frame_shift"):
            if (value := getattr(self, key)) > LONGEST_FRAME:
                raise ValueError(
                    f"{key}: {value:g} s is longer than {LONGEST_FRAME:g}; give it in seconds, not "
                    "in milliseconds"
                )
        if self.type == "fbank" and int(self.frame_shift * self.sampling_rate) == 0:
            raise ValueError(
                f"frame_shift: {self.frame_shift:g} s is less than one sample at "
                f"{self.sampling_rate} Hz; change it"
            )
        return self

    @model_validator(mode="after")
    def _filters_have_their_frequencies(self) -> "FeatureConfig":
        if self.type == "given":
            return self
        nyquist = self.sampling_rate / 2
        high = self.high_freq if self.high_freq > 0 else nyquist + self.high_freq
        if not 0 < high <= nyquist:
            raise ValueError(
                f"high_freq: {high:g} Hz is not between 0 and {nyquist:g} Hz, half the "
                "sampling_rate; change it"
            )
        if not 0 <= self.low_freq < high:
            raise ValueError(
                f"low_freq: {self.low_freq:g} Hz is not between 0 and {high:g} Hz, where the "
                "filters end; change it, or high_freq"
            )
        samples = int(self.frame_length * self.sampling_rate)
        bins = (1 << (samples - 1).bit_length()) // 2  # padded to a power of two
        if not LEAST_FILTERS <= self.num_filters <= bins:
            raise ValueError(
                f"num_filters: {self.num_filters} is not between {LEAST_FILTERS} and {bins}, the "
                f"FFT bins of a frame of {self.frame_length:g} s at {self.sampling_rate} Hz; "
                "change it, or frame_length"
            )
        return self


class AugmentationConfig(Section):
    """On-line augmentation of training crops, by Lhotse."""

    noise_prob: Fraction = 0.5
    snr: Annotated[tuple[float, float], Rising] = (5.0, 20.0)  # dB, drawn uniformly
    reverb_prob: Fraction = 0.3
    # A speaker at another speed counts as another speaker.
    speeds: Annotated[tuple[PositiveFloat, ...], Field(min_length=1), Distinct] = (1.0,)


class LossConfig(Section):
    """The training criterion of an encoder; all but the type is for aam only."""

    type: Literal["aam", "ge2e", "prototypical"]
    margin: NonNegativeFloat = 0.2  # radians
    # Parts of the steps between which the margin rises.
    margin_ramp: Annotated[tuple[Fraction, Fraction], Rising] = (0.0, 0.4)
    scale: PositiveFloat = 30.0
    sub_centers: Positive = 1  # per speaker; the nearest counts
    top_k: Annotated[int, Field(ge=0)] = 0  # this many nearest other speakers get a margin, too
    top_k_margin: NonNegativeFloat = 0.06


class FineTuningConfig(Section):
    """Large-margin fine-tuning: more steps, on long crops, with a large margin."""

    steps: Positive
    crop: Annotated[float, Field(gt=0.1)] = 6.0  # seconds
    margin: NonNegativeFloat = 0.5  # radians
    speakers_per_batch: Positive = 32
    learning_rate: PositiveFloat = 1e-4


class EncoderConfig(Section):
    """A speaker encoder of ours, and how it is trained; an architecture adds its own settings."""

    architecture: str  # see `nessa.encoders.kinds`
    dim: Positive
    features: FeatureConfig = FeatureConfig()
    loss: LossConfig
    augmentation: AugmentationConfig = AugmentationConfig()
    # Which part of the train speakers it sees.
    train_part: Annotated[tuple[Fraction, Fraction], AfterValidator(_not_empty)] = (0.0, 1.0)
    steps: Positive
    speakers_per_batch: Positive = 32
    utterances_per_speaker: Annotated[int, Field(ge=2)] = 2
    crop: Annotated[float, Field(gt=0.1)] = 2.0  # seconds
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 1e-4
    fine_tuning: FineTuningConfig | None = None
    average: Positive = 1  # the weights are the mean of those at the last so many checkpoints
    # Of training; bf16: autocast, on a GPU only. Embeddings are always extracted in float32.
    precision: Literal["float32", "bf16"] = "float32"
    checkpoint_every: Positive = 100  # steps
    seed: Seed = 1

    @model_validator(mode="after")
    def _fine_tuning_has_its_classifier(self) -> "EncoderConfig":
        if self.fine_tuning is None:
            return self
        if self.loss.type != "aam":
            raise ValueError(
                f"fine_tuning: loss {self.loss.type} has no margin to enlarge; "
                "remove fine_tuning, or set loss.type to aam"
            )
        if 1.0 not in self.augmentation.speeds:
            raise ValueError(
                "augmentation.speeds: fine_tuning goes on with the speakers at speed 1.0; add it"
            )
        return self

    @model_validator(mode="after")
    def _given_features_stay_as_they_are(self) -> "EncoderConfig":
        audio = self.augmentation
        changed = audio.noise_prob or audio.reverb_prob or audio.speeds != (1.0,)
        if self.features.type == "given" and changed:
            raise ValueError(
                "augmentation: given features cannot be augmented as audio can; set noise_prob "
                "and reverb_prob to 0, and speeds to [1.0]"
            )
        return self


class PretrainedConfig(Section):
    """A model that others trained; a family of them adds its own settings."""

    paths: ClassVar[tuple[str, ...]] = ()  # keys whose value may be a path
    # Of pyproject.toml, that the family's library comes with; None: installed for every recipe.
    extra: ClassVar[str | None] = None

    pretrained: str  # see `nessa.encoders.kinds`

    def places(self) -> list[Path]:
        """The files and folders that the model is in, some of which may not be there."""
        return [Path(getattr(self, key)) for key in self.paths]

    def missing(self) -> Path | None:
        """The first of them that is not there, but for what may be a name on a model hub."""
        paths = (Path(getattr(self, key)) for key in self.paths)
        return next((path for path in paths if path.is_absolute() and not path.exists()), None)


def files_in(place: Path) -> list[Path]:
    """A file, or all files below a folder, save what Git, hubs and Python keep in folders there."""
    if not place.is_dir():
        return [place]
    found: list[Path] = []
    entered: set[str] = set()  # links may lead back
    for folder, inside, names in os.walk(place, followlinks=True):
        if (own := os.path.realpath(folder)) in entered:
            inside.clear()
            continue
        entered.add(own)
        inside[:] = [name for name in inside if name[0] != "." and name != "__pycache__"]
        found += (path for name in names if (path := Path(folder, name)).is_file())
    return sorted(found)


def _are_enough(sets: tuple[SetName, ...]) -> tuple[SetName, ...]:
    for name in ("align", "dev", "eval"):
        if name not in sets:
            raise ValueError(f"no {name!r}, without which no aligner is fitted and tested; add it")
    return sets


class ExtractionConfig(Section):
    """What is extracted, in how many shards (their number is part of the result)."""

    sets: Annotated[tuple[SetName, ...], Distinct, AfterValidator(_are_enough)] = (
        "align", "dev", "eval",
    )  # fmt: skip
    shards: Positive = 4
