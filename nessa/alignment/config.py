"""Settings of the aligners."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from nessa.alignment import ALIGNERS
from nessa.schema import Distinct, Fraction, Positive, Section, Seed, nearest


class NeuralConfig(Section):
    """NESSA: the networks f and g and their training (see docs of `nessa.alignment.neural`)."""

    mode: Literal["shared", "to-enroll", "to-runtime"] = "shared"
    # ratio: a likelihood ratio, of mode shared; cosine: of vectors that have one length.
    score: Literal["ratio", "cosine"] = "ratio"
    # Of the maps of PLDA and CCA, at most; regression, with which other modes start, keeps both
    # models'.
    dim: Positive = 512
    hidden_dim: Annotated[int, Field(ge=0)] = 512  # of the MLP; 0: linear maps
    length_power: Fraction = 0.0  # with which embeddings' lengths count; 0: only directions do
    # Of the covariance that is whitened, at least 1e-4; 1: no whitening.
    whitening_shrinkage: Fraction = 0.2
    # Of the linear maps, in mode shared. best: the ratio of PLDA, fused with those of products of
    # coordinates and the cosines of CCA and regression; of score cosine, CCA or regression, by the
    # dev EER.
    start: Literal["best", "plda", "cca", "ridge", "random"] = "best"
    # Of the hidden layer; none: 0.6 up to 1,000 align speakers, 0.2 from 2,500 on.
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    steps: Positive = 400
    speakers_per_batch: Annotated[int, Field(ge=2)] = 1000
    utterances_per_speaker: Annotated[int, Field(ge=2)] = 2
    # None: 3e-3 up to 200 align speakers, 8e-3 from 1,000 on.
    learning_rate: PositiveFloat | None = None
    weight_decay: NonNegativeFloat = 0.3
    # Weight of what the better model by itself teaches; of score ratio in mode shared alone.
    distillation: NonNegativeFloat = 1.0
    evaluate_every: Positive = 50  # steps between two evaluations of the dev EER

    @model_validator(mode="after")
    def _only_a_ratio_starts_as_plda(self) -> "NeuralConfig":
        if self.start == "plda" and self.score != "ratio":
            raise ValueError(
                "start: plda is a likelihood ratio; set score to ratio, or another start"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Digests of settings are as they were before there was a length_power."""
        settings = dumped(self)
        if not self.length_power:
            settings.pop("length_power", None)
        return settings

    @model_validator(mode="after")
    def _only_a_ratio_has_lengths(self) -> "NeuralConfig":
        if self.length_power and (self.score, self.mode) != ("ratio", "shared"):
            raise ValueError(
                "length_power: only score ratio in mode shared can use lengths; set it to 0"
            )
        return self


class AlignerConfig(NeuralConfig):
    """NESSA in a recipe, trained once for each seed."""

    # The first seed's training is named nessa, those of others nessa.seed<S>.
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), Distinct] = (1,)

    @property
    def training(self) -> dict[str, Any]:
        """The settings of each training, which `NeuralConfig` has; its seed is beside them."""
        return self.model_dump(exclude={"seeds"})

    # Of recipes alone: saved aligners may have a start that they did not read.
    @model_validator(mode="after")
    def _only_a_shared_space_has_a_start(self) -> "AlignerConfig":
        if self.start != "best" and self.mode != "shared":
            raise ValueError(
                f"start: {self.start} is for mode shared; {self.mode} starts as a regression: "
                "leave start out"
            )
        return self

    # Likewise; what has no teacher has a weight of 0 as well.
    @model_validator(mode="after")
    def _only_a_ratio_is_taught(self) -> "AlignerConfig":
        unread = (self.score, self.mode) != ("ratio", "shared")
        if unread and self.distillation not in (0, NeuralConfig().distillation):
            raise ValueError(
                f"distillation: {self.distillation} is for score ratio in mode shared: leave it out"
            )
        return self


def _is_baseline(name: str) -> str:
    baselines = [kind for kind in ALIGNERS if kind != "neural"]
    if name not in baselines:
        raise ValueError(f"no baseline {name!r}{nearest(name, baselines)}")
    return name


Baseline = Annotated[str, AfterValidator(_is_baseline)]
