"""Embeddings of both models -> the shared space of an aligner, as embeddings directories."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nessa.alignment.base import Aligner
from nessa.alignment.domains import DomainOf, domain_of_mean, names_in
from nessa.alignment.outliers import Outliers
from nessa.alignment.views import SIDES, Side
from nessa.errors import InputError, about, named
from nessa.kaldi.ark import Block, Matrix
from nessa.kaldi.datadir import MAPPED_MAP, read_optional
from nessa.kaldi.directions import checked_lengths
from nessa.kaldi.directory import MEANS_OF_SPEAKERS, SPEAKER_COUNTS, join_parts, write_part
from nessa.kaldi.embeddings import Embeddings, profile_means
from nessa.kaldi.scp import Listing
from nessa.kaldi.stamps import ModelStamp, read_info
from nessa.stores.tables import files_of, is_store
from nessa.trials import read_enroll_map, write_enroll_map

log = logging.getLogger(__name__)
ROWS_PER_BLOCK = 16384  # mapped while the ones before are written
# Of what it makes, the space and the map are known all the same; its fingerprint is never kept.
UNKNOWN = ModelStamp("unknown model", "", "unknown")
TOLERANCE = 1e-5  # of any value of a mapped vector: another machine or program may differ so much
# Of vectors in the aligner's space, in messages that refuse to write over them.
OTHER_MAP = (
    "was mapped by the mirror of this aligner, of the other model, or before its side was fitted "
    "anew, on another scale"
)


def map_sides(
    aligner: Aligner,
    enroll: Path | None,
    runtime: Path | None,
    enroll_map: Path | None,
    output: Path,
    nj: int = 1,
    allow_outliers: bool = False,
    domains: Mapping[str, DomainOf] | None = None,
    dry_run: bool = False,
    before_writing: Callable[[], None] = lambda: None,
    relative: bool = False,
    replace: bool = False,
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
            profile is averaged in the enrollment model's own space, which is what is stored, and
            the map is kept beside.
        output: the folder that receives both sides.
        nj: processes; two sides are then mapped at the same time, in half as many arks each.
        allow_outliers: take embeddings most of which are unlike the align data.
        domains: {utterance or profile: domain}; see `Aligner.center_domains`. A profile that is
            not there is of the domain of its utterances.
        dry_run: read and judge everything, and write nothing.
        before_writing: called once all is judged; if it raises, nothing is written.
        relative: write scp paths relative to the working directory, not absolute.
        replace: write over what another map has made, which nobody else uses.

    Returns:
        A line per side.

    Raises:
        InputError: unreadable embeddings, or without direction, or of another model or dimension
            than the aligner's, or that seem to be; or no side at all. Or a folder holds what this
            aligner's mirror mapped, or this side before it was fitted anew, which may be in use.
    """
    common = output, allow_outliers, domains or {}, relative
    sides = _sides(aligner, enroll, runtime, enroll_map, common)
    for side in sides:
        check_apart(side.source, [other.output for other in sides])
        side.check_place(replace)
    counts = [side.speaker_counts() for side in sides]
    parts = max(1, nj // len(sides))
    jobs = [(side, part) for side in sides for part in range(1, parts + 1)]
    to_write = [] if dry_run else jobs
    # All sides are read and judged before one is written: a refusal leaves the output as it is.
    if nj == 1:
        judged = _judged(sides, [side.check_part(part, parts) for side, part in jobs])
        before_writing()
        found = [side.map_part(part, parts, alone=True) for side, part in to_write]
    else:
        # Threads of torch do not survive a fork, and many processes need none.
        context, one_thread = get_context("fork"), (1,)
        with ProcessPoolExecutor(nj, context, torch.set_num_threads, one_thread) as pool:
            checks = [pool.submit(side.check_part, part, parts) for side, part in jobs]
            judged = _judged(sides, [done.result() for done in checks])
            before_writing()
            started = [pool.submit(side.map_part, part, parts, False) for side, part in to_write]
            found = [done.result() for done in started]
    if dry_run:
        return [
            f"{side.source}: {outliers.count} embeddings would be mapped to {side.output}; "
            f"{outliers}"
            for side, outliers in zip(sides, judged, strict=True)
        ]
    lines = []
    for number, (side, outliers) in enumerate(zip(sides, judged, strict=True)):
        side.complete(found[number * parts : (number + 1) * parts], counts[number])
        outliers.write(outliers_file(side.folder, side.name))
        lines.append(f"{side.source}: {outliers.count} embeddings mapped; {outliers}")
    return lines


def without_domains(aligner: Aligner) -> str:
    """What to mind where embeddings are mapped without their domains; empty where it has none."""
    if not any(aligner.shifts.values()):
        return ""
    return (
        "domains are not centered here: calibration and threshold must be of embeddings that were "
        "mapped without --utt2domain, not of those that a recipe mapped"
    )


def _judged(sides: list["_Side"], found: list[Outliers]) -> list[Outliers]:
    """The outliers of each side, of those of all its parts."""
    parts = len(found) // len(sides)
    firsts = range(0, len(found), parts)
    return [side.together(found[k : k + parts]) for side, k in zip(sides, firsts, strict=True)]


def _sides(
    aligner: Aligner,
    enroll: Path | None,
    runtime: Path | None,
    enroll_map: Path | None,
    common: tuple[Path, bool, Mapping[str, DomainOf], bool],
) -> list["_Side"]:
    sides = []
    if enroll is not None:
        sides.append(_Side(aligner, "enroll", enroll, enroll_map, *common))
    if runtime is not None:
        sides.append(_Side(aligner, "runtime", runtime, None, *common))
    if not sides:
        raise InputError("nothing to map; name the embeddings of a side, or of both")
    return sides


def with_profiles(
    domains: Mapping[str, DomainOf], profiles: Mapping[str, Sequence[str]]
) -> dict[str, DomainOf]:
    """The domains of utterances, and of profiles those of their utterances.

    Args:
        domains: {utterance or profile: domain}.
        profiles: {profile: utterances}.
    """
    return {p: domain_of_mean(own, domains) for p, own in profiles.items()} | dict(domains)


def outliers_file(folder: Path, side: Side) -> Path:
    """Where the outliers of a side are listed, beside its mapped embeddings."""
    return folder / f"{side}_outliers.csv"


def check_apart(source: Path, outputs: Iterable[Path]) -> None:
    """Refuse a folder for mapped embeddings where raw ones lie, which would be lost.

    Args:
        source: embeddings directory, ark, scp or store.
        outputs: the folders that mapped ones go to.

    Raises:
        InputError: one is the source, or holds it; or an ark that an scp names lies there.
    """
    folders = {path.parent.resolve() for path in files_of(source)}
    for output in outputs:
        if output.resolve() in folders:
            raise InputError(
                f"{source}: lies in {output}, where mapped embeddings would go, and would be "
                "lost; give another --output"
            )


class _Part(NamedTuple):
    """What a part holds; the listing is left out where it would go from process to process."""

    listing: Listing | None
    dim: int
    stamp: ModelStamp


@dataclass(frozen=True)
class _Side:
    """One side's embeddings, and where they are to go."""

    aligner: Aligner
    name: Side
    source: Path
    enroll_map: Path | None
    folder: Path
    allow_outliers: bool
    domains: Mapping[str, DomainOf]
    relative: bool

    @property
    def output(self) -> Path:
        return self.folder / self.name

    def check_place(self, replace: bool) -> None:
        """Refuse a folder of a store or, unless `replace`, of another map into the space."""
        if is_store(self.output):
            raise InputError(f"{self.output}: holds Parquet files; give another --output for arks")
        if replace:
            return
        info = None
        with suppress(InputError):  # what cannot be read is made anew
            info = read_info(self.output)
        if info is None or info.stamp.fingerprint != self.aligner.space():
            return
        if info.stamp.map not in (None, self.aligner.map_digest(self.name)):
            raise InputError(f"{self.output}: {OTHER_MAP}; give another --output")

    def speaker_counts(self) -> dict[str, str]:
        """{speaker: utterances} of means of speakers, by which scoring knows profiles of others."""
        is_means = self.source.name in MEANS_OF_SPEAKERS
        return read_optional(self.source.parent, SPEAKER_COUNTS) if is_means else {}

    def together(self, parts: list[Outliers]) -> Outliers:
        """The outliers of all parts; refused where they are most of the side."""
        with about(self.source):
            for part in parts[1:]:
                parts[0].add(part)
        return parts[0]

    def _outliers(self, embeddings: Embeddings) -> Outliers:
        stamped = self.aligner.check_stamp(self.name, embeddings.stamp)
        detector = self.aligner.detectors.get(self.name)
        return Outliers(detector, stamped, self.allow_outliers, total=len(embeddings))

    def check_part(self, part: int, parts: int) -> Outliers:
        """Read the side, and find the outliers of one part; nothing is written."""
        embeddings = self._read()
        outliers = self._outliers(embeddings)
        if part == 1:
            self._warn(embeddings.stamp, outliers.stamped)
            self._check_domains(embeddings.keys)
        rows = slice(*_span(len(embeddings), part, parts))
        with about(self.source):
            self._map(embeddings, slice(1), self._domains())  # which refuses another dimension
            outliers.check(embeddings.keys[rows], embeddings.matrix[rows])
        return outliers

    def map_part(self, part: int, parts: int, alone: bool) -> _Part:
        """Map and write one part."""
        embeddings, domains = self._read(), self._domains()
        dim = self._map(embeddings, slice(1), domains).shape[1]
        first, last = _span(len(embeddings), part, parts)

        def blocks() -> Iterator[Block]:
            # The blocks are those of a single process, also where a part begins or ends within
            # one: products of other rows together may differ in the last bit.
            for start in range(first - first % ROWS_PER_BLOCK, last, ROWS_PER_BLOCK):
                block = slice(start, min(start + ROWS_PER_BLOCK, len(embeddings)))
                rows = slice(max(start, first), min(block.stop, last))
                mapped = self._map(embeddings, block, domains)
                yield embeddings.keys[rows], mapped[rows.start - start : rows.stop - start]

        listing = write_part(self.output, part, blocks(), self.relative)
        own = embeddings.stamp or UNKNOWN
        side = self.name if self.aligner.has_roles else None
        maps = self.aligner.space(), self.aligner.map_digest(self.name)
        stamp = own.mapped(self.aligner.kind, *maps, side, self.aligner.pair())
        return _Part(listing if alone else None, dim, stamp)

    def complete(self, parts: Sequence[_Part], counts: Mapping[str, str]) -> None:
        """Join the parts, all of which are written; `counts` as of `speaker_counts`."""
        # Before the folder is complete, or a killed run leaves it with the map of an earlier one.
        if self.enroll_map is None:
            (self.output / MAPPED_MAP).unlink(missing_ok=True)
        else:  # by which scoring knows the profiles; the one that is there may be given
            write_enroll_map(self.output / MAPPED_MAP, read_enroll_map(self.enroll_map))
        listings = [part.listing for part in parts]
        join_parts(self.output, listings, parts[0].dim, parts[0].stamp, counts)

    def _map(self, embeddings: Embeddings, rows: slice, domains: Mapping[str, DomainOf]) -> Matrix:
        block = Embeddings(embeddings.keys[rows], embeddings.matrix[rows])
        moved = self.aligner.center_domains(block, self.name, domains)
        return self.aligner.map_side(moved.matrix, self.name, moved.keys)

    def _domains(self) -> Mapping[str, DomainOf]:
        """{utterance or profile: domain}."""
        if self.enroll_map is None or not self.domains:
            return self.domains
        return with_profiles(self.domains, read_enroll_map(self.enroll_map))

    def _warn(self, stamp: ModelStamp | None, known: bool) -> None:
        """Warn where it is not known that the embeddings are of the aligner's model."""
        if stamp is None:
            log.warning(
                "%s: no info.json; is this the model that the aligner was fitted on?", self.source
            )
        elif self.aligner.fingerprints[SIDES.index(self.name)] and not known:
            log.warning(
                "%s: cannot tell whether %r is the model that the aligner was fitted on, as one of "
                "them is known by vectors alone; is it?",
                self.source,
                stamp.model,
            )

    def _check_domains(self, keys: Sequence[str]) -> None:
        """Refuse domains of others alone; warn of those that the aligner has no means of."""
        domains, known = self._domains(), self.aligner.shifts[self.name]
        several = (domains[key] for key in keys if key in domains)
        given = {d for own in several for d in names_in(own) if d}
        if domains and not given:
            raise InputError(
                f"{self.source}: the table of domains names none of its ids, as {keys[0]!r}; give "
                "one of these (`id domain`), or map this side by itself without --utt2domain"
            )
        if unknown := sorted(given - known.keys()):
            log.warning(
                "%s: the aligner has no means of domains %s, which are not centered (it has: %s)",
                self.source, named(unknown), named(sorted(known)) or "none",
            )  # fmt: skip

    def _read(self) -> Embeddings:
        """The embeddings, of the aligner's model, with the profiles that are to be mapped."""
        embeddings = Embeddings.read(self.source)
        with about(self.source):
            self.aligner.check_stamp(self.name, embeddings.stamp)
            checked_lengths(embeddings.matrix, lambda row: f"vector of {embeddings.keys[row]!r}")
        if self.enroll_map is None:
            return embeddings
        profiles = read_enroll_map(self.enroll_map)
        known = set(embeddings.keys)
        if both := [p for p, own in profiles.items() if p in known and own != [p]]:
            raise InputError(
                f"{self.enroll_map}: {named(both)} is an utterance, and a profile of others; "
                "rename it, or leave out the map where that is its mean already"
            )
        profiles = {p: own for p, own in profiles.items() if p not in known}
        with about(self.enroll_map, self.source):
            return _joined(embeddings, profile_means(embeddings, profiles))


def _span(count: int, part: int, parts: int) -> tuple[int, int]:
    """The rows of a part (from 1): the first, and the one after the last."""
    return round((part - 1) * count / parts), round(part * count / parts)


def _joined(first: Embeddings, second: Embeddings) -> Embeddings:
    matrix = np.concatenate([first.matrix, second.matrix])
    return Embeddings([*first.keys, *second.keys], matrix, first.stamp)
