"""Aligners by their kind, and from the folders that `Aligner.save` wrote."""

from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from nessa.alignment import ALIGNERS
from nessa.alignment.base import ARRAYS, CALIBRATION, DESCRIPTION, Aligner
from nessa.alignment.neural import NeuralAligner
from nessa.errors import InputError
from nessa.files import read_json
from nessa.scoring.calibration import read_calibration


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
    path, arrays_path = Path(directory) / DESCRIPTION, Path(directory) / ARRAYS
    if not path.is_file():
        raise InputError(
            f"{directory}: no aligner here ({DESCRIPTION}); run ./run.sh --stage align"
        )
    description = read_json(path)
    try:
        arrays = load_file(arrays_path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{arrays_path}: cannot be read: {error}") from None
    if not _describes_an_aligner(description):
        raise InputError(f"{path}: does not describe an aligner; fit it again")
    if description["kind"] not in ALIGNERS:
        raise InputError(f"{path}: unknown kind of aligner {description['kind']!r}")
    try:
        aligner = aligner_class(description["kind"])(**description["settings"])
    except (TypeError, InputError) as error:
        raise InputError(f"{path}: {error}; fit it again") from None
    try:
        aligner.restore(arrays, description["fingerprints"])
    except (IndexError, KeyError, RuntimeError):
        raise InputError(
            f"{arrays_path}: not the arrays of such an aligner; fit it again"
        ) from None
    aligner.fitting = description.get("fitting", {})
    if (calibration := Path(directory) / CALIBRATION).is_file():
        aligner.calibration = read_calibration(calibration)
    return aligner


def _describes_an_aligner(description: Any) -> bool:
    if not isinstance(description, dict):
        return False
    kind, settings, fingerprints = (
        description.get(key) for key in ("kind", "settings", "fingerprints")
    )
    return (
        isinstance(kind, str)
        and isinstance(settings, dict)
        and isinstance(fingerprints, list)
        and len(fingerprints) == 2
        and all(isinstance(one, str | None) for one in fingerprints)
    )


def load_to_update(directory: Path | str) -> NeuralAligner:
    """Load a NESSA aligner one side of which is to be trained anew; see `NeuralAligner.fit`.

    Raises:
        InputError: see `load`; or an aligner of another kind, which has no side to keep.
    """
    aligner = load(directory)
    if not isinstance(aligner, NeuralAligner):
        raise InputError(f"{directory}: a {aligner.kind} aligner; only NESSA keeps a side frozen")
    return aligner
