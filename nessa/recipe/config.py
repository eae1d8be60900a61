"""The recipe: one strict schema for everything a recipe can set; see `nessa.recipe.resolve`."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nessa.alignment.config import AlignerConfig, Baseline
from nessa.corpus.config import CorpusConfig, PrepareConfig
from nessa.encoders.config import ExtractionConfig
from nessa.encoders.kinds import are_trained
from nessa.schema import Distinct, Name, Positive, Section, Seed

# Programs of local/ that make a train set for encoders to train, or none at all.
MAKE_TRAIN_TO_TRAIN = ("kaldi_dir", "arks")


class ScoringConfig(Section):
    """Score normalization, and calibration on the dev set."""

    cohort: Literal["align", "train"] = "align"  # AS-norm: the set whose speakers' means it uses
    top_n: Annotated[int, Field(ge=2)] = 300  # cohort scores that count
    p_target: Annotated[float, Field(gt=0, lt=1)] = 0.01  # where the calibration is to fit best
    allow_outliers: bool = False  # map embeddings that are nearly all unlike the align data


class EvaluationConfig(Section):
    """Metrics and their intervals."""

    bootstrap_draws: Positive = 1000
    seed: Seed = 1


class Recipe(Section):
    """Everything that decides what a run computes."""

    name: Name
    seed: Seed = 1
    corpus: CorpusConfig
    prepare: PrepareConfig
    encoders: dict[Name, dict[str, Any]]  # settings of models, see `nessa.encoders.kinds`
    extraction: ExtractionConfig = ExtractionConfig()
    update: tuple[Name, Name]  # (old model, new model that replaces it)
    controls: bool = True  # also align each model with itself
    baselines: Annotated[tuple[Baseline, ...], Distinct] = ("logit", "procrustes")
    aligner: AlignerConfig = AlignerConfig()
    scoring: ScoringConfig = ScoringConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _update_names_encoders(self) -> "Recipe":
        for model in self.update:
            if model not in self.encoders:
                raise ValueError(f"update: no encoder {model!r}; there are {list(self.encoders)}")
        if len(set(self.update)) == 1:
            raise ValueError(f"update: both models are {model!r}; name an old one and a new one")
        return self

    @model_validator(mode="after")
    def _train_set_is_made(self) -> "Recipe":
        places = {"extraction.sets": self.extraction.sets, "scoring.cohort": [self.scoring.cohort]}
        asking = [place for place, sets in places.items() if "train" in sets]
        program = self.prepare.program
        if asking and program in MAKE_TRAIN_TO_TRAIN and not are_trained(self.encoders):
            raise ValueError(
                f"{asking[0]}: {program} makes no set 'train' where no encoder is trained; take it "
                "out of extraction.sets, and let scoring.cohort be align"
            )
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
