"""Embeddings of both models -> the shared space of an aligner, as embeddings directories."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nessa.alignment.base import Aligner
from nessa.alignment.outliers import Outliers
from nessa.alignment.views import SIDES, Side
from nessa.errors import InputError, about
from nessa.kaldi.ark import Block, Matrix
from nessa.kaldi.directions import checked_lengths
from nessa.kaldi.directory import join_parts, write_part
from nessa.kaldi.embeddings import Embeddings, profile_means
from nessa.kaldi.scp import Listing
from nessa.kaldi.stamps import ModelStamp, read_info
from nessa.stores.tables import files_of
from nessa.trials import read_enroll_map

log = logging.getLogger(__name__)
ROWS_PER_BLOCK = 16384  # mapped while the ones before are written


def map_sides(
    aligner: Aligner,
    enroll: Path | None,
    runtime: Path | None,
    enroll_map: Path | None,
    output: Path,
    nj: int = 1,
    allow_outliers: bool = False,
    domains: Mapping[str, str] | None = None,
) -> list[str]:
    """Map one set of embeddings of each model; writes `output`/enroll and `output`/runtime.

    Either may be left out: a store of profiles is the enrollment side alone. What is unlike the
    align data is listed in `output`/enroll_outliers.csv and `output`/runtime_outliers.csv.

    Memory: the embeddings of a side, for each process.

    Args:
        aligner: fitted on the two models.
        enroll: embeddings directory (or scp, ark) of the enrollment model.
        runtime: the same of the runtime model.
        enroll_map: profiles (`id utterance ...`) to map beside the enrollment utterances; a
            profile is averaged in the enrollment model's own space, which is what is stored.
        output: the folder that receives both sides.
        nj: processes; two sides are then mapped at the same time, in half as many arks each.
        allow_outliers: take embeddings most of which are unlike the align data.
        domains: {utterance or profile: domain}; see `Aligner.center_domains`. A profile that is
            not there is of the domain of its first utterance.

    Returns:
        A line per side.

    Raises:
        InputError: unreadable embeddings, or without direction, or of another model or dimension
            than the aligner's, or that seem to be; or no side at all.
    """
    sides = _sides(aligner, enroll, runtime, enroll_map, output, allow_outliers, domains)
    for side in sides:
        side.check_info()
    parts = max(1, nj // len(sides))
    jobs = [(side, part) for side in sides for part in range(1, parts + 1)]
    if nj == 1:
        found = [side.map_part(part, parts, alone=True) for side, part in jobs]
    else:
        # Threads of torch do not survive a fork, and many processes need none.
        context, one_thread = get_context("fork"), (1,)
        with ProcessPoolExecutor(nj, context, torch.set_num_threads, one_thread) as pool:
            started = [pool.submit(side.map_part, part, parts, False) for side, part in jobs]
            found = [done.result() for done in started]
    lines = []
    of_sides = [found[first : first + parts] for first in range(0, len(found), parts)]
    # All sides are judged before one is finished.
    judged = [
        side.together([part.outliers for part in own])
        for side, own in zip(sides, of_sides, strict=True)
    ]
    for side, own, outliers in zip(sides, of_sides, judged, strict=True):
        join_parts(side.output, [part.listing for part in own], own[0].dim, own[0].stamp)
        outliers.write(outliers_file(side.folder, side.name))
        lines.append(f"{side.source}: {outliers.count} embeddings mapped; {outliers}")
    return lines


def check_sides(
    aligner: Aligner,
    enroll: Path | None,
    runtime: Path | None,
    enroll_map: Path | None,
    output: Path,
    allow_outliers: bool = False,
) -> Iterator[str]:
    """Check all that `map_sides` would read, and write nothing.

    Args:
        aligner, enroll, runtime, enroll_map, output, allow_outliers: as there.

    Yields:
        A line per side.

    Raises:
        InputError: as there.
    """
    for side in _sides(aligner, enroll, runtime, enroll_map, output, allow_outliers):
        yield side.check()


def _sides(
    aligner: Aligner,
    enroll: Path | None,
    runtime: Path | None,
    enroll_map: Path | None,
    output: Path,
    allow_outliers: bool,
    domains: Mapping[str, str] | None = None,
) -> list["_Side"]:
    common = output, allow_outliers, domains or {}
    sides = []
    if enroll is not None:
        sides.append(_Side(aligner, "enroll", enroll, enroll_map, *common))
    if runtime is not None:
        sides.append(_Side(aligner, "runtime", runtime, None, *common))
    if not sides:
        raise InputError("nothing to map; name the embeddings of a side, or of both")
    return sides


def with_profiles(
    domains: Mapping[str, str], profiles: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """The domains of utterances, and of profiles those of their first utterances.

    Args:
        domains: {utterance or profile: domain}.
        profiles: {profile: utterances}.
    """
    firsts = {profile: utterances[0] for profile, utterances in profiles.items()}
    known = {p: domains[u] for p, u in firsts.items() if u in domains}
    return known | dict(domains)


def outliers_file(folder: Path, side: Side) -> Path:
    """Where the outliers of a side are listed, beside its mapped embeddings."""
    return folder / f"{side}_outliers.csv"


def check_apart(source: Path, output: Path) -> None:
    """Refuse a folder for mapped embeddings where the raw ones lie, which would be lost.

    Args:
        source: embeddings directory, ark, scp or store.
        output: the folder that the mapped ones of its side go to.

    Raises:
        InputError: one is the other, or holds it; or an ark that an scp names lies there.
    """
    if output.resolve() in {path.parent.resolve() for path in files_of(source)}:
        raise InputError(
            f"{source}: lies in {output}, where the mapped embeddings would go, and would be "
            "lost; give another --output"
        )


class _Part(NamedTuple):
    """What a part holds; the listing is left out where it would go from process to process."""

    listing: Listing | None
    dim: int
    stamp: ModelStamp | None
    outliers: Outliers


@dataclass(frozen=True)
class _Side:
    """One side's embeddings, and where they are to go."""

    aligner: Aligner
    name: Side
    source: Path
    enroll_map: Path | None
    folder: Path
    allow_outliers: bool
    domains: Mapping[str, str]

    @property
    def output(self) -> Path:
        return self.folder / self.name

    def check_info(self) -> None:
        """Refuse what can be told before any side is written: its place, or another's stamp."""
        check_apart(self.source, self.output)
        info = read_info(self.source) if self.source.is_dir() else None
        if info is not None:
            with about(self.source):
                self.aligner.check_stamp(self.name, info.stamp)

    def check(self) -> str:
        """Read and check everything; a line that says what would be mapped."""
        self.check_info()
        embeddings = self._read()
        with about(self.source):
            dim = self._map(embeddings, slice(1), self.domains).shape[1]
            outliers = self._outliers(embeddings)
            outliers.check(embeddings.keys, embeddings.matrix)
        return (
            f"{self.source}: {len(embeddings)} embeddings of dimension {embeddings.dim} would be "
            f"mapped to dimension {dim} in {self.output}; {outliers}"
        )

    def together(self, parts: list[Outliers]) -> Outliers:
        """The outliers of all parts; refused where they are most of the side."""
        with about(self.source):
            for part in parts[1:]:
                parts[0].add(part)
        return parts[0]

    def _outliers(self, embeddings: Embeddings) -> Outliers:
        expected = self.aligner.fingerprints[SIDES.index(self.name)]
        stamped = embeddings.stamp is not None and expected is not None
        detector = self.aligner.detectors.get(self.name)
        return Outliers(detector, stamped, self.allow_outliers, total=len(embeddings))

    def map_part(self, part: int, parts: int, alone: bool) -> _Part:
        """Map and write one part."""
        embeddings, domains = self._read(), self._domains()
        with about(self.source):
            dim = self._map(embeddings, slice(1), domains).shape[1]
        first, last = (round(k * len(embeddings) / parts) for k in (part - 1, part))
        outliers = self._outliers(embeddings)

        def blocks() -> Iterator[Block]:
            # The blocks are those of a single process, also where a part begins or ends within
            # one: products of other rows together may differ in the last bit.
            for start in range(first - first % ROWS_PER_BLOCK, last, ROWS_PER_BLOCK):
                block = slice(start, min(start + ROWS_PER_BLOCK, len(embeddings)))
                rows = slice(max(start, first), min(block.stop, last))
                with about(self.source):
                    outliers.check(embeddings.keys[rows], embeddings.matrix[rows])
                mapped = self._map(embeddings, block, domains)
                yield embeddings.keys[rows], mapped[rows.start - start : rows.stop - start]

        listing = write_part(self.output, part, blocks())
        stamp = _shared_space(self.aligner, embeddings.stamp)
        return _Part(listing if alone else None, dim, stamp, outliers)

    def _map(self, embeddings: Embeddings, rows: slice, domains: Mapping[str, str]) -> Matrix:
        block = Embeddings(embeddings.keys[rows], embeddings.matrix[rows])
        moved = self.aligner.center_domains(block, self.name, domains)
        return self.aligner.map_side(moved.matrix, self.name, moved.keys)

    def _domains(self) -> Mapping[str, str]:
        """{utterance or profile: domain}."""
        if self.enroll_map is None or not self.domains:
            return self.domains
        return with_profiles(self.domains, read_enroll_map(self.enroll_map))

    def _read(self) -> Embeddings:
        """The embeddings, of the aligner's model, with the profiles that are to be mapped."""
        embeddings = Embeddings.read(self.source)
        with about(self.source):
            self.aligner.check_stamp(self.name, embeddings.stamp)
        with about(self.source):
            checked_lengths(embeddings.matrix, lambda row: f"vector of {embeddings.keys[row]!r}")
        if embeddings.stamp is None:
            log.warning(
                "%s: no info.json; is this the model that the aligner was fitted on?", self.source
            )
        if self.enroll_map is None:
            return embeddings
        profiles = read_enroll_map(self.enroll_map)
        with about(self.enroll_map, self.source):
            return _joined(embeddings, profile_means(embeddings, profiles))


def _joined(first: Embeddings, second: Embeddings) -> Embeddings:
    matrix = np.concatenate([first.matrix, second.matrix])
    return Embeddings([*first.keys, *second.keys], matrix, first.stamp)


def _shared_space(aligner: Aligner, stamp: ModelStamp | None) -> ModelStamp | None:
    """The stamp of mapped vectors: not the model's any more, but of the space they are in."""
    if stamp is None:
        return None
    return ModelStamp(f"{stamp.model} in {aligner.kind} space", aligner.space(), stamp.set)
