"""Aligners by their kind, and from the folders that `Aligner.save` wrote."""

from importlib import import_module
from pathlib import Path

from nessa.alignment import ALIGNERS
from nessa.alignment.base import Aligner, read_description
from nessa.alignment.neural import NeuralAligner
from nessa.errors import InputError


def aligner_class(kind: str) -> type[Aligner]:
    """The class that is registered for a kind.

    Raises:
        KeyError: there is none.
    """
    module, _, name = ALIGNERS[kind].rpartition(".")
    return getattr(import_module(module), name)


def load(directory: Path | str) -> Aligner:
    """Load an aligner that `Aligner.save` wrote.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    directory = Path(directory)
    description, arrays = read_description(directory)
    if description["kind"] not in ALIGNERS:
        raise InputError(f"{directory}: unknown kind of aligner {description['kind']!r}")
    aligner = aligner_class(description["kind"])(**description["settings"])
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
