"""NESSA and every baseline mapper behind one interface: fit, map both sides, save, load."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nessa.alignment.base import Aligner, DevSet, read_description
from nessa.alignment.cca import CCAAligner
from nessa.alignment.logit import LogitAligner
from nessa.alignment.neural import NeuralAligner
from nessa.alignment.plda import PLDAAligner
from nessa.alignment.procrustes import ProcrustesAligner
from nessa.alignment.raw import RawAligner
from nessa.alignment.regression import RegressionAligner
from nessa.alignment.ridge import RidgeAligner
from nessa.alignment.table import AlignTable
from nessa.config import Recipe
from nessa.errors import InputError
from nessa.plan import aligner_names, seed_index

__all__ = [
    "AlignTable",
    "Aligner",
    "CCAAligner",
    "DevSet",
    "LogitAligner",
    "NeuralAligner",
    "PLDAAligner",
    "ProcrustesAligner",
    "RawAligner",
    "RegressionAligner",
    "RidgeAligner",
    "load",
    "load_to_update",
    "make_aligner",
]

KINDS: dict[str, type[Aligner]] = {
    aligner.kind: aligner
    for aligner in (
        RawAligner,
        LogitAligner,
        ProcrustesAligner,
        RidgeAligner,
        CCAAligner,
        PLDAAligner,
        RegressionAligner,
        NeuralAligner,
    )
}

BASELINES: dict[str, Callable[[], Aligner]] = {  # by their names in a recipe
    "raw": RawAligner,
    "logit": LogitAligner,
    "logit_uncentred": partial(LogitAligner, remove_mean=False),
    "procrustes": ProcrustesAligner,
    "ridge": RidgeAligner,
    "cca": CCAAligner,
    "plda": PLDAAligner,
    "regression": RegressionAligner,
}


def load(directory: Path | str) -> Aligner:
    """Load an aligner that `Aligner.save` wrote.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    directory = Path(directory)
    description, arrays = read_description(directory)
    if description["kind"] not in KINDS:
        raise InputError(f"{directory}: unknown kind of aligner {description['kind']!r}")
    aligner = KINDS[description["kind"]](**description["settings"])
    aligner.restore(arrays, description["fingerprints"])
    return aligner


def load_to_update(directory: Path | str) -> NeuralAligner:
    """Load a NESSA aligner one side of which is to be trained anew; see `NeuralAligner.fit`.

    Raises:
        InputError: see `load`; or an aligner of another kind, which has no side to keep.
    """
    aligner = load(directory)
    if not isinstance(aligner, NeuralAligner):
        raise InputError(f"{directory}: a {aligner.kind} aligner; only NESSA keeps a side frozen")
    return aligner


def make_aligner(name: str, recipe: Recipe) -> Aligner:
    """An unfitted aligner by its name in the recipe: logit, procrustes, nessa, nessa.seed2 ...

    Raises:
        InputError: the recipe has no such aligner.
    """
    names = aligner_names(recipe)
    if name not in names:
        raise InputError(f"the recipe has no aligner {name!r}; there are {', '.join(names)}")
    if name in BASELINES:
        return BASELINES[name]()
    seed = recipe.aligner.seeds[seed_index(name)]
    settings: dict[str, Any] = recipe.aligner.model_dump(exclude={"seeds"})
    return NeuralAligner(seed=seed, **settings)
