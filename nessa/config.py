"""The recipe: one strict schema for everything a recipe can set; see `nessa.resolution`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from nessa.files import digest

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
SetName = Literal["train", "align", "dev", "eval"]


class Section(BaseModel):
    """A part of the recipe: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SetSize(Section):
    """How much speech a set of the synthetic corpus holds."""

    speakers: Positive
    sessions: Positive
    utterances: Positive  # per session


class CorpusConfig(Section):
    """Stage 0: where the corpus lies, or which program makes or downloads it, and what."""

    program: Name | None = None  # local/<program>.py; none for a corpus that is on disk
    paths: dict[Name, str] = {}  # where parts of it lie; which there may be, stage 1's program says
    parts: tuple[str, ...] = ()  # of a corpus that is published in parts, such as LibriSpeech
    allow_pipes: bool = False  # run the commands that a wav.scp has in the place of files
    sets: dict[SetName, SetSize] = {}


class TrialCount(Section):
    """How many trials to draw for a set that has no list of its own."""

    targets: Positive
    nontargets: Positive


class PrepareConfig(Section):
    """Stage 1: which program reads the corpus, and the trials made for sets without a list."""

    program: Name  # local/<program>.py
    # For a corpus that is not divided into sets: the number of speakers that these sets get, or,
    # below 1, their part of all speakers; those who are left train the encoders.
    held_out: dict[Literal["align", "dev", "eval"], Annotated[float, Field(gt=0)]] = {}
    align_includes_train: bool = False  # aligners also learn from the encoders' speakers
    trials: dict[Literal["dev", "eval"], TrialCount] = {}
    profile_sizes: tuple[Positive, ...] = (3,)  # enrollment utterances per profile


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
    sub_centres: Positive = 1  # per speaker; the nearest counts
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


OURS = "ours"
MODEL_KINDS: dict[str, type[Section]] = {
    OURS: EncoderConfig,
    "onnx": OnnxConfig,
    "speechbrain": SpeechBrainConfig,
    "resemblyzer": ResemblyzerConfig,
    "python": PythonConfig,
    "arks": ArksConfig,
}


def _kind_of_model(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("pretrained", OURS))
    return str(getattr(value, "pretrained", OURS))


ModelConfig = Annotated[
    Annotated[EncoderConfig, Tag(OURS)]
    | Annotated[OnnxConfig, Tag("onnx")]
    | Annotated[SpeechBrainConfig, Tag("speechbrain")]
    | Annotated[ResemblyzerConfig, Tag("resemblyzer")]
    | Annotated[PythonConfig, Tag("python")]
    | Annotated[ArksConfig, Tag("arks")],
    Discriminator(_kind_of_model),
]


class ExtractionConfig(Section):
    """Stage 4: what is extracted, in how many shards (their number is part of the result)."""

    sets: tuple[SetName, ...] = ("align", "dev", "eval")
    shards: Positive = 4
    batch_seconds: float = 120.0  # audio per batch


class AlignerConfig(Section):
    """NESSA: the networks f and g and their training (see docs of `nessa.alignment.neural`)."""

    mode: Literal["shared", "to-enroll", "to-runtime"] = "shared"
    dim: Positive = 128
    hidden_dim: Annotated[int, Field(ge=0)] = 512  # of the MLP; 0: linear maps
    whitening_shrinkage: Fraction = 0.2  # of the covariance that is whitened; 1: no whitening
    start: Literal["cca", "random"] = "cca"  # of the linear maps
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    steps: Positive = 1000
    speakers_per_batch: Positive = 1000
    utterances_per_speaker: Annotated[int, Field(ge=2)] = 2
    learning_rate: float = 8e-3
    weight_decay: float = 0.05
    evaluate_every: Positive = 50  # steps between looks at the dev EER
    seeds: tuple[int, ...] = (1,)


Baseline = Literal[
    "raw", "logit", "logit_uncentred", "procrustes", "ridge", "cca", "plda", "regression"
]


class ScoringConfig(Section):
    """Stages 5 and 8: score normalisation, and calibration on the dev set."""

    cohort: Literal["align", "train"] = "align"  # AS-norm: the set whose speakers' means it uses
    top_n: Annotated[int, Field(ge=2)] = 300  # cohort scores that count
    p_target: Annotated[float, Field(gt=0, lt=1)] = 0.01  # where the calibration is to fit best


class EvaluationConfig(Section):
    """Stages 5 and 8: metrics."""

    bootstrap_draws: Positive = 1000
    seed: int = 1


class Recipe(Section):
    """Everything that decides what a run computes."""

    name: Name
    seed: int = 1
    corpus: CorpusConfig
    prepare: PrepareConfig
    encoders: dict[Name, ModelConfig]
    extraction: ExtractionConfig = ExtractionConfig()
    update: tuple[Name, Name]  # (old model, new model that replaces it)
    controls: bool = True  # also align each model with itself
    baselines: tuple[Baseline, ...] = ("logit", "procrustes")
    aligner: AlignerConfig = AlignerConfig()
    scoring: ScoringConfig = ScoringConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _update_names_encoders(self) -> "Recipe":
        for model in self.update:
            if model not in self.encoders:
                raise ValueError(f"update: no encoder {model!r}; there are {list(self.encoders)}")
        return self

    @model_validator(mode="after")
    def _cohort_is_extracted(self) -> "Recipe":
        if self.scoring.cohort not in self.extraction.sets:
            raise ValueError(
                f"scoring.cohort: set {self.scoring.cohort!r} is not among extraction.sets; add it"
            )
        return self

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(enrollment model, runtime model) in both update directions."""
        old, new = self.update
        return (new, old), (old, new)


# The first stage that each section changes; a marker of a stage depends on all of the sections
# up to it, so that a changed aligner does not make the encoders train again.
FIRST_STAGE = {
    "name": 0,
    "seed": 0,
    "corpus": 0,
    "prepare": 1,
    "encoders": 3,
    "extraction": 4,
    "update": 5,
    "controls": 6,
    "baselines": 6,
    "aligner": 6,
    "scoring": 5,
    "evaluation": 5,
}
STAGES = range(11)


def stage_digest(recipe: Recipe, stage: int) -> str:
    """sha256 of the settings that the outcome of `stage` depends on."""
    settings = recipe.model_dump(mode="json")
    return digest({key: settings[key] for key, first in FIRST_STAGE.items() if first <= stage})
