"""What every aligner is: fitted on two views of the same speakers, it maps both into one space."""

import hashlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save
from torch import nn
from torch.random import fork_rng

from nessa.alignment.dev import DevSet, both_ways_eer, calibrate_on, check_dims, check_labels, judge
from nessa.alignment.domains import DomainOf, Shifted, domain_shifts, shifted
from nessa.alignment.outliers import OutlierDetector
from nessa.alignment.table import AlignTable
from nessa.alignment.views import SIDES, Labels, Mapped, Matrix, Rows, Side, blocks, check_vary
from nessa.errors import InputError
from nessa.files import atomic_open, digest, remove_leftovers, write_json
from nessa.kaldi.directions import checked_lengths, well_scaled
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp, names_model, pair_of, same_model
from nessa.scoring.calibration import Calibration

log = logging.getLogger(__name__)
DESCRIPTION = "aligner.json"
ARRAYS = "aligner.safetensors"
CALIBRATION = "calibration.json"
JOINED = "joined"  # of an aligner whose space was there before
SEAL = "sha256"  # of the description and the arrays: tells whether they belong together
DETECTOR, SHIFT = "detector", "domain"  # begin the names of arrays that are not of the maps


class Aligner(ABC):
    """Maps enrollment embeddings (N, Dx) and runtime embeddings (N, Dy) to (N, D), unit length.

    A subclass names its settings, with defaults, as the parameters of `__init__`, and keeps each as
    an attribute of that name. `_fit` computes `arrays`, and `_map` applies them. Of a
    subclass, settings and arrays are all that is saved. The name of an array begins with the side
    that it belongs to: "enroll" or "runtime".

    Attributes:
        fingerprints: of the enrollment and the runtime model, None where they were unstamped.
        detectors: of each side; they find embeddings unlike the align data.
        fitting: what the fit found, for people to read in aligner.json; it decides nothing.
        calibration: from its cosines to natural-log likelihood ratios, by the dev set; or None.
        shifts: of each side, {domain of the align set: what moves its mean to that of all}.
        joined: the space that a side was in before and stays in, while the other one was fitted
            anew; None: the space is this aligner's own.
        has_roles: whether mapped vectors are compared only with those of the other side.
    """

    kind: ClassVar[str]
    by_rows: ClassVar[bool] = False  # whether `_fit` takes views that are larger than memory

    def __init__(self) -> None:
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self.fingerprints: tuple[str | None, str | None] = (None, None)
        self.detectors: dict[Side, OutlierDetector] = {}
        self.fitting: dict[str, Any] = {}
        self.calibration: Calibration | None = None
        self.shifts: dict[Side, dict[str, Matrix]] = {side: {} for side in SIDES}
        self.joined: str | None = None
        self.has_roles = False

    @property
    def settings(self) -> dict[str, Any]:
        """{parameter of `__init__`: value}."""
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

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
        """Fit to an align set that may be larger than memory; see `fit`.

        Where it fails, the aligner is what it was.
        """
        before = {n: dict(v) if isinstance(v, dict) else v for n, v in vars(self).items()}
        try:
            self._fit_anew(table, dev)
        except BaseException:
            vars(self).update(before)
            raise
        return self

    def _fit_anew(self, table: AlignTable, dev: DevSet | None) -> None:
        if dev is not None:
            held_out = set(dev.enroll.keys)
            shared = min((key for key in table.all_utterances() if key in held_out), default=None)
            if shared is not None:
                raise InputError(f"{shared!r} is both in the align and the dev set")
            check_labels(dev)
        own = zip(SIDES, self.fingerprints, table.fingerprints, strict=True)
        enroll, runtime = (
            # What model a side was fitted on, stays known.
            old if self.keeps(side) and (new is None or names_model(old)) else new
            for side, old, new in own
        )
        self.fingerprints = enroll, runtime
        self.fitting, self.calibration = {}, None
        if dev is not None:
            self._check_stamps(dev.enroll, dev.runtime)
            check_dims(dev, table.enroll, table.runtime)
        views = table if self.by_rows else table.loaded()
        views = replace(
            views, enroll=self._fittable(views, "enroll"), runtime=self._fittable(views, "runtime")
        )
        domains = views.domains or (None, None)
        for side, view, known in zip(SIDES, (views.enroll, views.runtime), domains, strict=True):
            check_vary(view, side)
            if not self.keeps(side):
                self.shifts[side] = domain_shifts(view, known) if known else {}
        fitted = self._centered_table(views)
        moved = dev and self._moved(dev)
        # Aligners seed torch's generators; the caller's go on as if nothing had been drawn.
        with fork_rng(range(torch.cuda.device_count())):
            self._fit(fitted.enroll, fitted.runtime, fitted.labels, moved)
        if dev is not None and moved is not None:
            sides = self.map_views(moved.enroll, moved.runtime)
            other = self.mirrored().map_views(moved.runtime, moved.enroll)
            self.fitting |= judge(dev, [sides, other])
            calibration = calibrate_on(dev, [sides, other])
            self.calibration = replace(calibration, pair=self.pair(), method="cosine")
        for side, view in zip(SIDES, (views.enroll, views.runtime), strict=True):
            if not self.keeps(side):
                found = OutlierDetector.fit(view, views.labels)
                self.detectors[side] = replace(found, length_range=self.length_range(side))

    def _moved(self, dev: DevSet) -> DevSet:
        """A dev set as `_fit` takes it: of rows that can be squared, centered by their domains."""

        def moved(own: Embeddings, side: Side) -> Embeddings:
            name = f"{side} embedding of dev utterance {{!r}}"
            matrix = self._scaled(own.matrix, lambda row: name.format(own.keys[row]))
            return self.center_domains(Embeddings(own.keys, matrix, own.stamp), side, dev.domains)

        enroll, runtime = moved(dev.enroll, "enroll"), moved(dev.runtime, "runtime")
        return replace(dev, enroll=enroll, runtime=runtime)

    def _centered_table(self, table: AlignTable) -> AlignTable:
        """The same with both views centered by their domains; see `center_domains`."""
        if table.domains is None:
            return table
        of_x, of_y = table.domains
        x = Shifted(table.enroll, of_x, self.shifts["enroll"])
        y = Shifted(table.runtime, of_y, self.shifts["runtime"])
        moved = replace(table, enroll=x, runtime=y)
        in_memory = isinstance(table.enroll, np.ndarray)
        return replace(moved, enroll=x[:], runtime=y[:]) if in_memory else moved

    def _fittable(self, table: AlignTable, side: Side) -> Rows:
        """A view whose rows can be squared; refuses one without direction by its id."""
        view: Rows = table.enroll if side == "enroll" else table.runtime

        def name(row: int, first: int = 0) -> str:
            key = next(islice(table.utterances(side), first + row, None))
            return f"{side} embedding of align utterance {key!r}"

        if isinstance(view, np.ndarray):
            return self._scaled(view, name)
        odd = False
        for rows in blocks(len(view)):
            found = view[rows]
            odd |= self._scaled(found, partial(name, first=rows.start)) is not found
        return Mapped(view, lambda rows: self._scaled(rows, name)) if odd else view

    def length_range(self, side: Side) -> tuple[float, float] | None:
        """The lengths of the shortest and the longest align embedding of one side.

        Where the align set has domains, as they are once moved by these; see `center_domains`.
        None, as of most aligners: lengths do not count.
        """
        return None

    def keeps(self, side: Side) -> bool:
        """Whether fitting again leaves a side as it is."""
        return False

    @abstractmethod
    def _fit(self, enroll: Any, runtime: Any, labels: Labels, dev: DevSet | None) -> None:
        """Rows of `enroll` (N, Dx) and `runtime` (N, Dy) are the same utterances.

        They are matrices, or, where the aligner is `by_rows`, of the kind `views.Rows`.
        """

    @abstractmethod
    def input_dim(self, side: Side) -> int:
        """Dx or Dy of a fitted aligner."""

    @abstractmethod
    def _map(self, matrix: Matrix, side: Side) -> Matrix:
        """Finite float32 embeddings (N, D_in) of one side -> (N, D), unit length."""

    def network(self, side: Side) -> nn.Module:
        """The map of one side as a network, for export: float32 (N, D_in) -> (N, D).

        Raises:
            InputError: it has no such form.
        """
        raise InputError(f"aligners of kind {self.kind!r} cannot be exported")

    def map_enroll(self, matrix: Matrix) -> Matrix:
        """Profiles or utterances of the enrollment model: (N, Dx) -> (N, D); see `map_side`."""
        return self.map_side(matrix, "enroll")

    def map_runtime(self, matrix: Matrix) -> Matrix:
        """Utterances of the runtime model: (N, Dy) -> (N, D); see `map_side`."""
        return self.map_side(matrix, "runtime")

    def map_side(self, matrix: Matrix, side: Side, keys: Sequence[str] | None = None) -> Matrix:
        """Embeddings (N, D_in) of one side -> (N, D), unit length.

        Args:
            matrix: as the model made them; at any scale, unless lengths count.
            side: enroll or runtime.
            keys: their ids, for messages.

        Raises:
            InputError: not fitted, another dimension, values that are not finite, or a row
                without direction (zero, or beyond 1e-36 to 1e36).
        """
        return self._map(self._checked(matrix, side, keys), side)

    def map_views(
        self, enroll: Embeddings, runtime: Embeddings, domains: Mapping[str, DomainOf] | None = None
    ) -> tuple[Embeddings, Embeddings]:
        """Embeddings of both models, mapped, without their stamps; see `map_side`.

        Args:
            enroll, runtime: as the models made them.
            domains: by which they are centered before; see `center_domains`.
        """

        def mapped(side: Side, raw: Embeddings) -> Embeddings:
            moved = self.center_domains(raw, side, domains or {})
            return Embeddings(raw.keys, self.map_side(moved.matrix, side, raw.keys))

        return mapped("enroll", enroll), mapped("runtime", runtime)

    def center_domains(
        self, embeddings: Embeddings, side: Side, domains: Mapping[str, DomainOf]
    ) -> Embeddings:
        """Embeddings of one side, to be mapped, whose domains' means are moved to the align set's.

        Args:
            embeddings: as the model made them.
            side: enroll or runtime.
            domains: {utterance or profile: domain, or those of its utterances}; what is not there,
                or of a domain that the align set lacks, stays as it is.

        Raises:
            InputError: a vector without direction.
        """
        shifts, keys = self.shifts[side], embeddings.keys
        # Of another dimension they are refused when they are mapped.
        if not domains or not any(len(shift) == embeddings.dim for shift in shifts.values()):
            return embeddings
        checked_lengths(embeddings.matrix, lambda row: f"{side} embedding of {keys[row]!r}")
        matrix = shifted(embeddings.matrix, [domains.get(key) for key in keys], shifts)
        return Embeddings(keys, matrix, embeddings.stamp)

    def dev_eer(self, dev: DevSet) -> float:
        """Mean EER, as a fraction, of all lists of `dev` in both update directions after mapping.

        The map of a side serves both directions; where vectors depend on their role, as NESSA's
        do, the aligner has its own `dev_eer`.
        """
        x, y = (
            (mapped.matrix, np.zeros(len(mapped)))
            for mapped in self.map_views(dev.enroll, dev.runtime)
        )
        return both_ways_eer(x, y, dev)

    def check_fitted(self) -> None:
        """Refuse an aligner that has no maps yet."""
        if not self.arrays:
            raise InputError(f"this {self.kind} aligner is not fitted; fit it, or load one")

    def _checked(self, matrix: Matrix, side: Side, keys: Sequence[str] | None = None) -> Matrix:
        """`matrix` as float32 (N, D_in), at a scale that can be squared; see `map_side`."""
        self.check_fitted()
        dim = self.input_dim(side)
        matrix = np.asarray(matrix, dtype=np.float32)
        if matrix.ndim != 2:
            raise InputError(f"{side} embeddings have shape {matrix.shape}; give (N, {dim})")
        matrix = np.ascontiguousarray(matrix)  # PyTorch takes no reversed rows
        self._check_dim(side, matrix.shape[1])
        if not np.isfinite(matrix).all():
            row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
            raise InputError(f"{_row_name(side, row, keys)} is not finite")
        return self._scaled(matrix, partial(_row_name, side, keys=keys))

    def _check_dim(self, side: Side, dim: int) -> None:
        if dim != (own := self.input_dim(side)):
            raise InputError(
                f"{side} embeddings have dimension {dim}; this aligner takes {own}: give those of "
                "its model, the sides not swapped"
            )

    def _scaled(self, matrix: Matrix, name: Callable[[int], str]) -> Matrix:
        """Rows of the same directions, at lengths that float32 can square; others are changed.

        An aligner to which these lengths matter refuses such rows of the align set.

        Raises:
            InputError: a row without direction.
        """
        return well_scaled(matrix, name)

    def save(self, directory: Path | str) -> None:
        """Write aligner.safetensors, then aligner.json; the description comes last.

        With a calibration, calibration.json too, as `nessa calibrate` writes and reads it.

        Raises:
            InputError: not fitted.
        """
        self.check_fitted()
        directory = Path(directory)
        content = save({name: np.ascontiguousarray(array) for name, array in self.state().items()})
        remove_leftovers(directory, ARRAYS)  # which hold means of align speakers
        with atomic_open(directory / ARRAYS, "wb") as file:
            file.write(content)
            file.flush()  # where the disk is full, the aligner that is there stays whole
            for name in (DESCRIPTION, CALIBRATION):  # they do not describe the new arrays
                (directory / name).unlink(missing_ok=True)
        if self.calibration is not None:
            write_json(directory / CALIBRATION, self.calibration.to_dict())
        description = {
            "kind": self.kind,
            "settings": self.settings,
            "fingerprints": list(self.fingerprints),
        }
        if self.joined:
            description[JOINED] = self.joined
        seal = {SEAL: seal_of(description, content)}
        write_json(directory / DESCRIPTION, description | seal | {"fitting": self.fitting})

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays that `restore` takes: of the maps, the outlier detectors and the domains."""
        detectors = {
            f"{DETECTOR}.{side}.{name}": getattr(detector, name)
            for side, detector in self.detectors.items()
            for name in ("mean", "whitening")
        }
        shifts = {
            f"{SHIFT}.{side}.{domain}": shift
            for side, own in self.shifts.items()
            for domain, shift in own.items()
        }
        return self.arrays | detectors | shifts

    def restore(
        self, arrays: dict[str, npt.NDArray[Any]], fingerprints: Sequence[str | None]
    ) -> None:
        """Restore the state written by `save`."""
        self.arrays = {n: array for n, array in arrays.items() if n.startswith(SIDES)}
        names = {side: [f"{DETECTOR}.{side}.{n}" for n in ("mean", "whitening")] for side in SIDES}
        self.detectors = {
            side: OutlierDetector(arrays[mean], arrays[whitening], self.length_range(side))
            for side, (mean, whitening) in names.items()
            if arrays.keys() >= {mean, whitening}
        }
        self.shifts = {
            side: {
                name.removeprefix(f"{SHIFT}.{side}."): array
                for name, array in arrays.items()
                if name.startswith(f"{SHIFT}.{side}.")
            }
            for side in SIDES
        }
        self.fingerprints = (fingerprints[0], fingerprints[1])

    def space(self) -> str:
        """sha256 (hex) of the shared space: of the maps into it, whichever side they are on.

        An aligner and its mirror have one space, so that the profiles that both models have in
        it can be compared with the runtime utterances of either. A side that joins a frozen one
        is in the space that this one has: what it mapped before stays valid.
        """
        return self.joined or self.pair()

    def pair(self) -> str:
        """sha256 (hex) of both maps, which scores, calibrations and thresholds are of.

        It is that of the space, unless a side has joined one that was there before.
        """
        return pair_of(map(self.map_digest, SIDES))

    def map_digest(self, side: Side) -> str:
        """sha256 (hex) of the map of one side: changed by each fit but those that freeze it."""
        # Settings, for some change the map that arrays make; of an aligner and its mirror alike.
        settings = min(digest(self.settings), digest(self._mirrored_settings()))
        sha = hashlib.sha256(f"{self.kind} {settings}".encode())
        for name, array in sorted(self.arrays.items()):
            if name.startswith(side):
                sha.update(f"{name.removeprefix(side)} {array.dtype} {array.shape}".encode())
                sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()

    def mirrored(self) -> Self:
        """The aligner of the other update direction: the same maps with the sides swapped."""
        other = type(self)(**self._mirrored_settings())
        arrays = {other_side(name): array for name, array in self.state().items()}
        other.restore(arrays, self.fingerprints[::-1])
        other.fitting, other.calibration = self.fitting, self.calibration
        other.joined = self.joined
        return other

    def _mirrored_settings(self) -> dict[str, Any]:
        return self.settings

    def check_models(self, enroll: Embeddings, runtime: Embeddings) -> None:
        """Refuse embeddings of another model than the one that this aligner was fitted on.

        Those without a stamp are warned about.

        Raises:
            InputError: a stamp differs from the aligner's fingerprint, or a dimension from the
                one that it takes; or it is not fitted.
        """
        self.check_fitted()
        self._check_stamps(enroll, runtime)
        self._check_dim("enroll", enroll.dim)
        self._check_dim("runtime", runtime.dim)

    def _check_stamps(self, *sides: Embeddings) -> None:
        for side, own, expected in zip(SIDES, sides, self.fingerprints, strict=True):
            self.check_stamp(side, own.stamp)
            if expected and own.stamp is None:
                log.warning(
                    "%s embeddings without info.json; are they of the model that the aligner was "
                    "fitted on?", side,
                )  # fmt: skip

    def check_stamp(self, side: Side, stamp: ModelStamp | None) -> bool:
        """Refuse a stamp of another model than this side was fitted on; see `check_models`.

        Returns:
            Whether it is known that they are of its model; False where that cannot be told.
        """
        place = SIDES.index(side)
        expected, other = self.fingerprints[place], self.fingerprints[1 - place]
        same = same_model(stamp, expected)
        swapped = same is None and same_model(stamp, other)
        if stamp and expected and (same is False or swapped):
            name = {"enroll": "enrollment", "runtime": "runtime"}[side]
            raise InputError(
                f"{name} embeddings are of model {stamp.model!r} ({stamp.fingerprint[:12]}), "
                f"but the aligner was fitted on model {expected[:12]}; extract them with "
                f"that model, or fit an aligner for this one"
            )
        return bool(same)


def seal_of(description: Mapping[str, Any], arrays: bytes) -> str:
    """sha256 (hex) of what an aligner is: kind, settings, fingerprints, its space and arrays."""
    own = {name: description[name] for name in ("kind", "settings", "fingerprints")}
    if JOINED in description:
        own[JOINED] = description[JOINED]
    return digest([own, hashlib.sha256(arrays).hexdigest()])


def _row_name(side: Side, row: int, keys: Sequence[str] | None) -> str:
    name = f"{side} embedding in row {row}"
    return name if keys is None else f"{name} ({keys[row]!r})"


def other_side(name: str) -> str:
    """A name, as of an array, with the sides swapped."""
    other = {"enroll": "runtime", "runtime": "enroll"}
    return re.sub("enroll|runtime", lambda side: other[side[0]], name, count=1)
