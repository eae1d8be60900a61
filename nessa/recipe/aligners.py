"""The aligners that a recipe names."""

from nessa.alignment.base import Aligner
from nessa.alignment.neural import NeuralAligner
from nessa.alignment.store import aligner_class
from nessa.errors import InputError
from nessa.recipe.config import Recipe
from nessa.recipe.systems import aligner_names, is_nessa, seed_of


def make_aligner(name: str, recipe: Recipe) -> Aligner:
    """An unfitted aligner by its name in the recipe: logit, procrustes, nessa, nessa.seed2 ...

    Raises:
        InputError: the recipe has no such aligner.
    """
    names = aligner_names(recipe)
    if name not in names:
        raise InputError(f"the recipe has no aligner {name!r}; there are {', '.join(names)}")
    if not is_nessa(name):
        return aligner_class(name)()
    return NeuralAligner(seed=seed_of(name, recipe), **recipe.aligner.training)
