"""Identification in the four cells of a recipe's model update."""

import logging
from pathlib import Path

from nessa.errors import TooFewError, about
from nessa.evaluation.rates import Comparison, drawn_profiles, identification_rates
from nessa.files import Record
from nessa.kaldi.embeddings import Embeddings
from nessa.recipe.config import Recipe
from nessa.recipe.layout import embeddings_dir, scored_sides
from nessa.recipe.systems import update_cells
from nessa.scoring.sides import Sides

log = logging.getLogger(__name__)


def identify_cells(recipe: Recipe, set_dir: Path, exp: Path) -> list[Record]:
    """Identification rates in the four cells, of the same profiles and test utterances.

    Args:
        recipe: names the models, the draws and their seed.
        set_dir: see `Comparison.draw`.
        exp: holds embeddings/ and mapped/.

    Returns:
        The records of `identification_rates`, with "aligner", "enroll" and "runtime" in front;
        none where the set has no drawn profiles, or too few speakers with profiles.

    Raises:
        InputError: see `Comparison.draw`; or embeddings are missing.
    """
    if not drawn_profiles(set_dir):  # and others would be averaged after mapping
        return []
    draws, seed = recipe.evaluation.bootstrap_draws, recipe.evaluation.seed
    models = [Embeddings.read(embeddings_dir(exp, m, set_dir.name)) for m in recipe.update]
    try:
        protocol, households = Comparison.draw(set_dir, models, seed)
    except TooFewError as error:
        log.warning("no identification: %s", error)
        return []
    records = []
    for cell in update_cells(recipe):
        sides = Sides.read(*scored_sides(exp, cell, set_dir.name))
        with about(*sides.paths):
            rates = identification_rates(
                protocol, sides.enroll, sides.runtime, households, draws, seed
            )
        records += [{**cell._asdict(), **record} for record in rates]
    return records
