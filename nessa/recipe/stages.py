"""The stages of run.sh, listed in stages.txt, and what their results depend on."""

from pathlib import Path

from nessa.corpus.speakers import unusual_order
from nessa.encoders.kinds import needs_of_corpus
from nessa.files import digest
from nessa.recipe.config import Recipe

STAGES = tuple(
    line.split()[0] for line in Path(__file__).with_name("stages.txt").read_text().splitlines()
)

# The first stage whose outcome a section of the recipe changes; one that is not here changes all.
# So a changed aligner does not make the encoders train again.
FIRST_STAGE = {
    "prepare": "prepare",
    "encoders": "encoders",
    "extraction": "extract",
    "update": "symmetric",
    "scoring": "symmetric",
    "evaluation": "symmetric",
    "baselines": "symmetric",  # PLDA among them has symmetric systems too
    "controls": "align",
    "aligner": "align",
}

# Mappings whose order decides as well: whose trials are the main list, and who is in a set.
ORDERED = (("corpus", "sets"), ("prepare", "held_out"), ("prepare", "domains"))


def stage_digest(recipe: Recipe, stage: str) -> str:
    """sha256 of the settings that the outcome of `stage` depends on."""
    before = STAGES[: STAGES.index(stage) + 1]
    settings = recipe.model_dump(mode="json")
    touching = {k: v for k, v in settings.items() if FIRST_STAGE.get(k, STAGES[0]) in before}
    if stage == "prepare":  # reads of the encoders what they need of the corpus, and no more
        touching["encoders"] = needs_of_corpus(recipe.encoders)
    mappings = {f"{part}.{key}": touching[part][key] for part, key in ORDERED if part in touching}
    orders = {name: order for name, keys in mappings.items() if (order := unusual_order(keys))}
    return digest([touching, orders] if orders else touching)
