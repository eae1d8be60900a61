"""Settings of speaker models: ours, and the kinds of pretrained ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from nessa.corpus.config import SetName
from nessa.errors import InputError
from nessa.schema import DEFAULT_KIND, Fraction, Positive, Section, explain, one_of, read_yaml


class FeatureConfig(Section):
    """Log-mel filterbank (Lhotse's Fbank); part of a model and of its fingerprint."""

    type: Literal["fbank", "given"] = "fbank"  # given: the corpus brings them, as feats.scp
    sampling_rate: Positive = 16000  # Hz
    scale: float = 1.0  # of the samples; 32768 for models trained on those of 16-bit integers
    num_filters: Positive = 80
    frame_length: float = 0.025  # seconds
    frame_shift: float = 0.01  # seconds
    low_freq: float = 20.0  # Hz
    high_freq: float = -400.0  # Hz; counted from the Nyquist frequency where not positive
    window: Literal["povey", "hamming", "hanning", "blackman", "rectangular"] = "povey"
    snip_edges: bool = False  # only frames that lie in the utterance as a whole, as in Kaldi
    mean_norm: bool = True  # subtract each utterance's mean over time


class AugmentationConfig(Section):
    """On-line augmentation of training crops, by Lhotse."""

    noise_prob: Fraction = 0.5
    snr: tuple[float, float] = (5.0, 20.0)  # dB, drawn uniformly
    reverb_prob: Fraction = 0.3
    speeds: tuple[float, ...] = (1.0,)  # a speaker at another speed counts as another speaker


class LossConfig(Section):
    """The training criterion of an encoder; all but the type is for aam only."""

    type: Literal["aam", "ge2e", "prototypical"]
    margin: float = 0.2  # radians
    margin_ramp: tuple[Fraction, Fraction] = (0.0, 0.4)  # parts of the steps between which it rises
    scale: float = 30.0
    sub_centers: Positive = 1  # per speaker; the nearest counts
    top_k: Annotated[int, Field(ge=0)] = 0  # this many nearest other speakers get a margin, too
    top_k_margin: float = 0.06

    @model_validator(mode="after")
    def _ramp_rises(self) -> "LossConfig":
        if self.margin_ramp[0] > self.margin_ramp[1]:
            raise ValueError(f"margin_ramp: {self.margin_ramp} ends before it begins")
        return self


class FineTuningConfig(Section):
    """Large-margin fine-tuning: more steps, on long crops, with a large margin."""

    steps: Positive
    crop: Annotated[float, Field(gt=0.1)] = 6.0  # seconds
    margin: float = 0.5  # radians
    speakers_per_batch: Positive = 32
    learning_rate: float = 1e-4


class EncoderConfig(Section):
    """A speaker encoder of ours, and how it is trained."""

    architecture: Literal["tdnn", "ecapa", "resnet"]
    channels: Positive
    dim: Positive
    pooling: Literal["statistics", "attentive"] | None = None  # the architecture's own where none
    blocks: tuple[Positive, Positive, Positive, Positive] = (3, 4, 6, 3)  # resnet only; this is 34
    features: FeatureConfig = FeatureConfig()
    loss: LossConfig
    augmentation: AugmentationConfig = AugmentationConfig()
    train_part: tuple[Fraction, Fraction] = (0.0, 1.0)  # which part of the train speakers it sees
    steps: Positive
    speakers_per_batch: Positive = 32
    utterances_per_speaker: Annotated[int, Field(ge=2)] = 2
    crop: Annotated[float, Field(gt=0.1)] = 2.0  # seconds
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    fine_tuning: FineTuningConfig | None = None
    average: Positive = 1  # the weights are the mean of those at the last so many checkpoints
    precision: Literal["float32", "bf16"] = "float32"  # bf16: autocast, on a GPU only
    checkpoint_every: Positive = 100  # steps
    seed: int = 1

    @model_validator(mode="after")
    def _architecture_has_its_shape(self) -> "EncoderConfig":
        multiple = 8 if self.channels >= 512 else 4  # groups of channels, see nessa.encoders.ecapa
        if self.architecture == "ecapa" and self.channels % multiple:
            raise ValueError(f"channels: ecapa needs a multiple of {multiple}, not {self.channels}")
        if self.architecture != "resnet" and self.blocks != (3, 4, 6, 3):
            raise ValueError(f"blocks: only resnet has some, {self.architecture} has not")
        return self

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
                "fine_tuning goes on with the speakers at speed 1.0; add it to augmentation.speeds"
            )
        return self

    @model_validator(mode="after")
    def _given_features_stay_as_they_are(self) -> "EncoderConfig":
        sound = self.augmentation
        changed = sound.noise_prob or sound.reverb_prob or sound.speeds != (1.0,)
        if self.features.type == "given" and changed:
            raise ValueError(
                "augmentation: given features cannot be augmented as audio can; set noise_prob "
                "and reverb_prob to 0, and speeds to [1.0]"
            )
        return self


# Fbank as WeSpeaker computes it (and Kaldi, save for its window): what its published models take.
WESPEAKER_FEATURES = FeatureConfig(scale=32768.0, window="hamming", high_freq=0.0, snip_edges=True)


class OnnxConfig(Section):
    """A model as ONNX: features (B, T, F) in, embeddings (B, D) out, as WeSpeaker exports them."""

    pretrained: Literal["onnx"]
    file: str
    features: FeatureConfig = WESPEAKER_FEATURES


class SpeechBrainConfig(Section):
    """A model of SpeechBrain's EncoderClassifier."""

    pretrained: Literal["speechbrain"]
    source: str  # a local folder, or a name on the model hub
    sampling_rate: Positive = 16000  # Hz


class ResemblyzerConfig(Section):
    """Resemblyzer: an LSTM trained by GE2E, which its package brings along."""

    pretrained: Literal["resemblyzer"]


class PythonConfig(Section):
    """A model that a Python function makes; see `nessa.encoders.factory`."""

    pretrained: Literal["python"]
    factory: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+:[A-Za-z0-9_]+$")]  # module:function
    arguments: dict[str, Any] = {}  # passed by name
    sampling_rate: Positive = 16000  # Hz


class ArksConfig(Section):
    """No model at all, only its embeddings: a table for all sets, or one per set."""

    pretrained: Literal["arks"]
    path: str  # an scp, an ark or an embeddings directory; {set} stands for the set's name


PretrainedConfig = OnnxConfig | SpeechBrainConfig | ResemblyzerConfig | PythonConfig | ArksConfig

MODEL_KINDS: dict[str, type[Section]] = {
    DEFAULT_KIND: EncoderConfig,
    "onnx": OnnxConfig,
    "speechbrain": SpeechBrainConfig,
    "resemblyzer": ResemblyzerConfig,
    "python": PythonConfig,
    "arks": ArksConfig,
}
if TYPE_CHECKING:
    ModelConfig = EncoderConfig | PretrainedConfig
else:
    ModelConfig = one_of("pretrained", MODEL_KINDS)


class ExtractionConfig(Section):
    """What is extracted, in how many shards (their number is part of the result)."""

    sets: tuple[SetName, ...] = ("align", "dev", "eval")
    shards: Positive = 4
    batch_seconds: float = 120.0  # audio per batch


def load_model_config(path: Path | str) -> EncoderConfig | PretrainedConfig:
    """Read the configuration of one model, as a recipe's `encoders` holds it under a name.

    Raises:
        InputError: unreadable, or a key or a value that no kind of model has.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(ModelConfig)
    try:
        return adapter.validate_python(read_yaml(path))
    except ValidationError as error:
        raise InputError(f"{path}: " + "; ".join(explain(error, ModelConfig))) from None
