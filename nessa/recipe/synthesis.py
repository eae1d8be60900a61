"""From a recipe to its corpus: what `nessa synth` and stage 0 share."""

from pathlib import Path

from nessa.errors import InputError
from nessa.recipe.config import Recipe
from nessa.synth.tree import Settings, synthesize_corpus


def synthesize_recipe(recipe: Recipe, directory: Path, nj: int = 1) -> None:
    """Make the corpus that a recipe describes.

    Args:
        recipe: its `corpus.sets` say how much, its `seed` what.
        directory: of the corpus; see `synthesize_corpus`.
        nj: number of processes; does not change a byte.

    Raises:
        InputError: the recipe describes no synthetic corpus, or `synthesize_corpus` refuses.
    """
    if not recipe.corpus.sets:
        raise InputError(
            f"recipe {recipe.name!r}: corpus.sets is empty; say how many speakers to make"
        )
    synthesize_corpus(directory, recipe.corpus.sets, Settings(recipe.seed), nj)
