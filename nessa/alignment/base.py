"""What every aligner is: fitted on two views of the same speakers, it maps both into one space."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from nessa.alignment.outliers import Reach
from nessa.alignment.table import AlignTable
from nessa.alignment.views import SIDES, Labels, Matrix, Side
from nessa.errors import InputError
from nessa.files import atomic_open, read_json, write_json
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp
from nessa.trials import Trials

DESCRIPTION = "aligner.json"
ARRAYS = "aligner.safetensors"
REACH = "reach"  # begins the names of arrays that are not of the maps


@dataclass(frozen=True)
class DevSet:
    """Held-out speakers on which an aligner may choose when to stop.

    Attributes:
        enroll, runtime: their embeddings by the two models.
        trials: labeled pairs of an enrollment and a runtime utterance.

    Raises:
        InputError: trials without labels, or of utterances that one of the models has no
            embedding of.
    """

    enroll: Embeddings
    runtime: Embeddings
    trials: Trials

    def __post_init__(self) -> None:
        if self.trials.labels is None:
            raise InputError("no labels; write `enroll test target|nontarget`")
        # Both models embed both sides of a trial, for an aligner is judged in both directions.
        names = [*self.trials.enroll_index.names, *self.trials.test_index.names]
        for embeddings in (self.enroll, self.runtime):
            embeddings.rows(names)


class Aligner(ABC):
    """Maps enrollment embeddings (N, Dx) and runtime embeddings (N, Dy) to (N, D), unit length.

    A subclass computes its arrays in `_fit`, lists them in `arrays`, and applies them in the two
    maps. What it is made with (`settings`) and its arrays are all that is saved. An array that
    belongs to one side has a name that begins with it: "enroll" or "runtime".

    Attributes:
        fingerprints: of the enrollment and the runtime model, None where they were unstamped.
        reach: of each side, by which embeddings unlike the align data are found.
    """

    kind: ClassVar[str]
    by_rows: ClassVar[bool] = False  # whether `_fit` takes views that are larger than memory

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self.fingerprints: tuple[str | None, str | None] = (None, None)
        self.reach: dict[Side, Reach] = {}

    def fit(
        self,
        enroll: Embeddings,
        runtime: Embeddings,
        speakers: Mapping[str, str],
        dev: DevSet | None = None,
    ) -> Self:
        """Fit to the align set.

        Args:
            enroll: embeddings of the align utterances by the enrollment model, dimension Dx.
            runtime: embeddings of the same utterances by the runtime model, dimension Dy.
            speakers: utterance -> speaker.
            dev: held-out speakers; used by aligners that select on them.

        Raises:
            InputError: other utterances in the two views, an utterance without a speaker, fewer
                than two speakers, align utterances among dev's, or a dev set of other models.
        """
        return self.fit_table(AlignTable.of(enroll, runtime, speakers), dev)

    def fit_table(self, table: AlignTable, dev: DevSet | None = None) -> Self:
        """Fit to an align set that may be larger than memory; see `fit`."""
        if dev is not None:
            held_out = set(dev.enroll.keys)
            shared = min((key for key in table.utterances() if key in held_out), default=None)
            if shared is not None:
                raise InputError(f"{shared!r} is both in the align and the dev set")
        self.fingerprints = table.fingerprints
        if dev is not None:
            self.check_models(dev.enroll, dev.runtime)
        views = table if self.by_rows else table.loaded()
        self._fit(views.enroll, views.runtime, views.labels, dev)
        for side, view in zip(SIDES, (views.enroll, views.runtime), strict=True):
            if not self.keeps(side):
                self.reach[side] = Reach.fit(view, views.labels)
        return self

    def keeps(self, side: Side) -> bool:
        """Whether fitting again leaves a side as it is."""
        return False

    @abstractmethod
    def _fit(self, enroll: Any, runtime: Any, labels: Labels, dev: DevSet | None) -> None:
        """Rows of `enroll` (N, Dx) and `runtime` (N, Dy) are the same utterances.

        They are matrices, or, where the aligner is `by_rows`, of the kind `views.Rows`.
        """

    @abstractmethod
    def map_enroll(self, matrix: Matrix) -> Matrix:
        """Profiles or utterances of the enrollment model: (N, Dx) -> (N, D)."""

    @abstractmethod
    def map_runtime(self, matrix: Matrix) -> Matrix:
        """Utterances of the runtime model: (N, Dy) -> (N, D)."""

    def save(self, directory: Path | str) -> None:
        """Write aligner.safetensors, then aligner.json; the description comes last."""
        directory = Path(directory)
        arrays = {name: np.ascontiguousarray(array) for name, array in self.state().items()}
        (directory / DESCRIPTION).unlink(missing_ok=True)  # it does not describe the new arrays
        with atomic_open(directory / ARRAYS, "wb") as file:
            file.write(save(arrays))
        description = {
            "kind": self.kind,
            "settings": self.settings,
            "fingerprints": list(self.fingerprints),
        }
        write_json(directory / DESCRIPTION, description)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays that `restore` takes: of the maps, and of their reach."""
        reaches = {
            f"{REACH}.{side}.{name}": getattr(reach, name)
            for side, reach in self.reach.items()
            for name in ("mean", "whitening")
        }
        return self.arrays | reaches

    def space(self) -> str:
        """sha256 (hex) of the shared space: of the maps into it, whichever side they are on.

        An aligner and its mirror have one space, so that the profiles that both models have in
        it can be compared with the live utterances of either.
        """
        maps = []
        for side in SIDES:
            sha = hashlib.sha256(self.kind.encode())
            for name, array in sorted(self.arrays.items()):
                if name.startswith(side):
                    sha.update(f"{name.removeprefix(side)} {array.dtype} {array.shape}".encode())
                    sha.update(np.ascontiguousarray(array).tobytes())
            maps.append(sha.hexdigest())
        return hashlib.sha256("".join(sorted(maps)).encode()).hexdigest()

    def restore(
        self, arrays: dict[str, npt.NDArray[Any]], fingerprints: Sequence[str | None]
    ) -> None:
        """Take over what `save` wrote; `load` calls it."""
        self.arrays = {n: array for n, array in arrays.items() if not n.startswith(REACH)}
        self.reach = {
            side: Reach(arrays[f"{REACH}.{side}.mean"], arrays[f"{REACH}.{side}.whitening"])
            for side in SIDES
            if {f"{REACH}.{side}.mean", f"{REACH}.{side}.whitening"} <= arrays.keys()
        }
        self.fingerprints = (fingerprints[0], fingerprints[1])

    def mirrored(self) -> Self:
        """The aligner of the other update direction: the same maps with the sides swapped."""
        other = type(self)(**self._mirrored_settings())
        arrays = {_other_side(name): array for name, array in self.state().items()}
        other.restore(arrays, self.fingerprints[::-1])
        return other

    def _mirrored_settings(self) -> dict[str, Any]:
        return self.settings

    def check_models(self, enroll: Embeddings | None, runtime: Embeddings | None) -> None:
        """Refuse embeddings of another model than the one that this aligner was fitted on.

        Raises:
            InputError: a stamp differs from the aligner's fingerprint.
        """
        self.check_stamps(*(side.stamp if side is not None else None for side in (enroll, runtime)))

    def check_stamps(self, enroll: ModelStamp | None, runtime: ModelStamp | None) -> None:
        """The same by stamps; see `check_models`."""
        sides = zip(("enrollment", "runtime"), (enroll, runtime), self.fingerprints, strict=True)
        for side, stamp, expected in sides:
            if stamp and expected and stamp.fingerprint != expected:
                raise InputError(
                    f"{side} embeddings are of model {stamp.model!r} ({stamp.fingerprint[:12]}), "
                    f"but the aligner was fitted on model {expected[:12]}; extract them with "
                    f"that model, or fit an aligner for this one"
                )


def _other_side(name: str) -> str:
    """The name of an array with the sides swapped; names without a side stay."""
    for side, other in (("enroll", "runtime"), ("runtime", "enroll")):
        for start in ("", f"{REACH}."):
            if name.startswith(start + side):
                return start + other + name.removeprefix(start + side)
    return name


def read_description(directory: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The description and the arrays that `Aligner.save` wrote.

    Raises:
        InputError: there is no aligner, or it cannot be read.
    """
    if not (directory / DESCRIPTION).is_file():
        raise InputError(
            f"{directory}: no aligner here ({DESCRIPTION}); run ./run.sh --stage align"
        )
    description = read_json(directory / DESCRIPTION)
    try:
        arrays = load_file(directory / ARRAYS)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{directory / ARRAYS}: cannot be read: {error}") from None
    if not _describes_an_aligner(description):
        raise InputError(f"{directory / DESCRIPTION}: does not describe an aligner; fit it again")
    return description, arrays


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


def checked(matrix: Matrix, dim: int, side: str) -> Matrix:
    """`matrix` as float32 (N, dim).

    Raises:
        InputError: another shape, or values that are not finite.
    """
    matrix = np.asarray(matrix, dtype=np.float32)
    if matrix.ndim != 2:
        raise InputError(f"{side} embeddings have shape {matrix.shape}; give (N, {dim})")
    if matrix.shape[1] != dim:
        raise InputError(
            f"{side} embeddings have dimension {matrix.shape[1]}; this aligner takes {dim}"
        )
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise InputError(f"{side} embedding in row {row} is not finite")
    return matrix
