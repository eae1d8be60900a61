"""A recipe's systems: which aligner maps which pair of models."""

from typing import NamedTuple

from nessa.errors import InputError
from nessa.recipe.config import Recipe

RAW = "raw"  # embeddings as they were extracted
NESSA = "nessa"
PLDA = "plda"
PLDA_LLR = "plda.llr"  # the aligner of PLDA, scored by its likelihood ratio instead of a cosine
LDA_PLDA = "lda_plda"  # one model on both sides, scored by LDA and PLDA as in Kaldi's recipes
SEED = ".seed"  # between "nessa" and an additional seed


class System(NamedTuple):
    """An aligner (or "raw") with the models on its two sides; written aligner:enroll:runtime."""

    aligner: str
    enroll: str
    runtime: str

    def __str__(self) -> str:
        return ":".join(self)

    @classmethod
    def parse(cls, text: str) -> "System":
        """The inverse of str().

        Raises:
            InputError: not three names.
        """
        names = text.split(":")
        if len(names) != 3 or not all(names):
            raise InputError(f"system {text!r}: expected aligner:enroll:runtime, as raw:old:old")
        return cls(*names)


def seed_of(name: str, recipe: Recipe) -> int:
    """The seed of a training of NESSA: that in its name, or the recipe's first."""
    return int(name.partition(SEED)[2] or recipe.aligner.seeds[0])


def is_nessa(name: str) -> bool:
    """Whether an aligner's name is that of a training of NESSA, or of their mean."""
    return name.split(".")[0] == NESSA


def aligner_names(recipe: Recipe) -> list[str]:
    """Every aligner: baselines, nessa, and nessa.seed<S> for each additional seed S."""
    additional = recipe.aligner.seeds[1:]
    return [*recipe.baselines, NESSA, *(f"{NESSA}{SEED}{seed}" for seed in additional)]


def symmetric_systems(recipe: Recipe) -> list[System]:
    """Each model with itself, unmapped: by cosine, and by LDA and PLDA where PLDA is a baseline."""
    names = [RAW, LDA_PLDA] if PLDA in recipe.baselines else [RAW]
    return [System(name, model, model) for name in names for model in recipe.encoders]


def aligned_systems(recipe: Recipe) -> list[System]:
    """Every aligner in every update direction, and NESSA's controls."""
    systems = [System(name, *pair) for name in aligner_names(recipe) for pair in recipe.pairs]
    if recipe.controls:
        systems += [System(NESSA, model, model) for model in recipe.encoders]
    return systems


def scored_systems(recipe: Recipe) -> list[System]:
    """The aligned systems, and PLDA by its likelihood ratio where PLDA is among them."""
    systems = aligned_systems(recipe)
    ratios = [s._replace(aligner=PLDA_LLR) for s in systems if s.aligner == PLDA]
    return systems + ratios


def has_as_norm(system: System) -> bool:
    """Whether a system is scored with AS-norm too.

    All are, except for NESSA's additional seeds, and a likelihood ratio, which is normalized.
    """
    name = system.aligner
    return name not in (PLDA_LLR, LDA_PLDA) and (name == NESSA or not is_nessa(name))


def update_cells(recipe: Recipe) -> list[System]:
    """The four cells of a model update, (enroll, runtime) in {old, new}^2.

    A model with itself is raw; the two update directions are mapped by NESSA's first seed.
    """
    old, new = recipe.update
    return [
        System(RAW, old, old),
        System(NESSA, new, old),
        System(NESSA, old, new),
        System(RAW, new, new),
    ]


def fitted_systems(recipe: Recipe) -> list[System]:
    """The systems that are fitted; the aligners of the other direction are their mirrors.

    NESSA's come first: they take longest, and cores should not wait for the last of them.
    """
    mirrored = recipe.pairs[1:]
    fitted = [s for s in aligned_systems(recipe) if (s.enroll, s.runtime) not in mirrored]
    return sorted(fitted, key=lambda system: not is_nessa(system.aligner))
