"""The stages of run.sh: their names and numbers, and what their results depend on."""

from nessa.files import digest
from nessa.recipe.config import Recipe

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
