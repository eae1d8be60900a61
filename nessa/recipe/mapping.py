"""Mapping what a recipe's systems are scored on."""

from collections.abc import Iterator
from pathlib import Path

from nessa.alignment.store import load
from nessa.production.mapping import map_sides
from nessa.recipe.config import Recipe
from nessa.recipe.layout import COHORT, SCORED_SETS, aligner_dir, mapped_dir, own_cohort
from nessa.recipe.systems import System, has_as_norm


def map_system(recipe: Recipe, data: Path, exp: Path, system: System) -> Iterator[str]:
    """Map all that a system is scored on: the dev and eval sets, and the cohort of AS-norm.

    The cohort's vectors are means over a speaker's utterances, averaged as profiles are, in the
    own space of each model.

    Args:
        recipe: names the cohort's set.
        data: holds data directories; the enrollment map of a set names profiles to map as well.
        exp: holds aligners/ and embeddings/; receives mapped/.
        system: what to map.

    Yields:
        A line per set and side.

    Raises:
        InputError: see `map_sides`; or there is no aligner.
    """
    aligner = load(aligner_dir(exp, system))
    embeddings = exp / "embeddings"
    for name in SCORED_SETS:
        sides = embeddings / system.enroll / name, embeddings / system.runtime / name
        enroll_map = data / name / "enroll_map"
        profiles = enroll_map if enroll_map.is_file() else None
        yield from map_sides(aligner, *sides, profiles, mapped_dir(exp, system, name))
    if has_as_norm(system):
        cohort = own_cohort(exp, system, recipe.scoring.cohort)
        yield from map_sides(aligner, *cohort, None, mapped_dir(exp, system, COHORT))
