"""Aligners by their kind, and from the folders that `Aligner.save` wrote."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from nessa.alignment import ALIGNERS
from nessa.alignment.base import (
    ARRAYS,
    CALIBRATION,
    DESCRIPTION,
    JOINED,
    SEAL,
    Aligner,
    seal_of,
)
from nessa.alignment.neural import NeuralAligner
from nessa.alignment.views import SIDES
from nessa.errors import InputError
from nessa.files import read_json
from nessa.lazy import imported
from nessa.scoring.calibration import read_calibration

# What aligners raise where arrays are missing, or not of the shapes that belong together.
UNFIT = (AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError)


def aligner_class(kind: str) -> type[Aligner]:
    """The class that is registered for a kind.

    Raises:
        KeyError: there is none.
    """
    return imported(ALIGNERS[kind])


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
        content = arrays_path.read_bytes()
        arrays = load_arrays(content)
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
        maps = _maps(aligner)
    except UNFIT:
        maps = False
    if not maps:
        raise InputError(f"{arrays_path}: not the arrays of such an aligner; fit it again")
    # Aligners of older versions have no seal.
    if description.get(SEAL, seal := seal_of(description, content)) != seal:
        raise InputError(
            f"{path}: was changed since it was saved, or {ARRAYS} is another aligner's; restore "
            "both, or fit it again"
        )
    aligner.fitting, aligner.joined = description.get("fitting", {}), description.get(JOINED)
    if (calibration := Path(directory) / CALIBRATION).is_file():
        aligner.calibration = read_calibration(calibration)
    return aligner


def _maps(aligner: Aligner) -> bool:
    """Whether both sides map something into one space."""
    rng = np.random.default_rng(0)
    dims = set()
    for side in SIDES:
        vectors = rng.standard_normal((2, aligner.input_dim(side))).astype(np.float32)
        mapped = aligner.map_side(vectors, side)
        if mapped.ndim != 2 or not np.isfinite(mapped).all():
            return False
        dims.add(mapped.shape[1])
    return len(dims) == 1


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
        and isinstance(description.get("fitting", {}), dict)
        and isinstance(description.get(JOINED), str | None)
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
