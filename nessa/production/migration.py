"""Profiles of a database -> the shared space of an aligner, in a new table of the same database.

The raw table is only read. Every mapped row carries the fingerprint of its space and digests of the
map and of the raw row that it was made of, so that a run needs no memory of an earlier one: it maps
the rows whose digests are not there, and deletes those whose raw row is gone. To go on after an
interruption, and to follow rows that were changed, added or deleted since, are thus the same.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nessa.alignment.base import Aligner
from nessa.alignment.outliers import Outliers
from nessa.errors import InputError, about, named
from nessa.kaldi.checks import check_finite
from nessa.kaldi.directions import checked_lengths
from nessa.production.mapping import OTHER_MAP, TOLERANCE, without_domains
from nessa.progress import progress
from nessa.stores.base import Matrix, ProfileStore, Rows, Stamp

log = logging.getLogger(__name__)
QUERIES, NEAREST = 200, 10  # of the search that an index is judged by
MOST_GONE = 0.5  # of the mapped rows may have lost their raw row; more tells of a wrong table
AGAIN = "run nessa store map again"
MAP_DIGITS = 16  # of a map's digest in a stamp


class _Maker(NamedTuple):
    """What maps rows: the space that it maps into, and the digest of its map.

    Several maps lead into one space: that of the mirrored aligner, which is of the other model, and
    that of a side which was fitted anew, whose scores are on another scale.
    """

    space: str
    map: str

    @classmethod
    def of(cls, aligner: Aligner) -> "_Maker":
        """The enrollment side of an aligner."""
        return cls(aligner.space(), aligner.map_digest("enroll")[:MAP_DIGITS])

    def stamps(self, rows: Rows) -> list[Stamp]:
        """Of raw rows, the stamps of what it makes of them."""
        return [Stamp(self.space, f"{self.map}.{digest}") for digest in rows.digests()]


class Migrated(NamedTuple):
    """What a run did, or would do: rows of the source, and what became of them."""

    rows: int
    mapped: int
    deleted: int

    def __str__(self) -> str:
        kept = self.rows - self.mapped
        return (
            f"{self.rows:,} profiles: {self.mapped:,} mapped, {kept:,} as they were, "
            f"{self.deleted:,} deleted"
        )


class Lag(NamedTuple):
    """How far mapped rows are behind the raw ones, which applications change meanwhile.

    Attributes:
        newer: raw rows that have no mapped one, or have changed since it was made.
        gone: mapped rows whose raw one is gone.
    """

    newer: int
    gone: int

    def __str__(self) -> str:
        return f"{self.newer:,} to map, {self.gone:,} to delete"


def migrate(
    source: ProfileStore,
    target: ProfileStore,
    aligner: Aligner,
    outliers: Outliers,
    dry_run: bool = False,
) -> Migrated:
    """Map the rows of a store that another one lacks, or has from an older state of the row.

    All rows are judged before one is written: a refusal leaves a table in use as it is.

    Memory: two blocks of rows, as they are and mapped, and 100 bytes per outlier.

    Args:
        source: raw profiles.
        target: mapped ones; made where there are none.
        aligner: fitted with the model of the profiles as enrollment model.
        outliers: gathers what is unlike the align data.
        dry_run: check everything, and write nothing.

    Raises:
        InputError: no profiles, or mapped ones, or a row that the aligner cannot map; or the target
            has rows of others, of another aligner, or for the most part of another source.
    """
    if told := without_domains(aligner):
        log.warning("%s: %s", target, told)
    maker = _Maker.of(aligner)
    gone = _gone(source, target, maker)
    outliers.total = len(source)
    for what in ("check", "map"):  # all is judged before a row is written that is in use
        count = mapped = 0
        for rows in _shown(source, what):
            gone -= set(rows.keys)  # of those that came back meanwhile
            stamps, known = maker.stamps(rows), _stamps(target, rows.keys)
            changed = _behind(rows, stamps, known)
            if what == "check":
                _check(rows, source, aligner, outliers)
            elif changed:
                part = rows._replace(stamps=stamps).take(changed)
                matrix = aligner.map_side(part.matrix, "enroll", part.keys)
                target.write(part._replace(matrix=matrix))
            count, mapped = count + len(rows.keys), mapped + len(changed)
        if not count:
            raise InputError(f"{source}: holds no profiles")
        if dry_run or not mapped:
            break
    if gone and not dry_run:
        target.delete(sorted(gone))
    return Migrated(count, mapped, len(gone))


def _gone(source: ProfileStore, target: ProfileStore, maker: _Maker) -> set[str]:
    """The rows of the target that the source lacks; all are of its model in the maker's space."""
    gone: set[str] = set()
    total = 0
    for rows in target.read(vectors=False):
        _check_maker(target, rows, maker)
        there = {key for found in source.read(rows.keys, vectors=False) for key in found.keys}
        gone |= set(rows.keys) - there
        total += len(rows.keys)
    if len(gone) > MOST_GONE * total:
        raise InputError(
            f"{target}: {len(gone):,} of {total:,} profiles, such as {named(sorted(gone))}, are "
            f"not in {source}: is it the table that they were made of? If so, delete them from "
            f"{target} yourself, or map into a new one (--to), switch to it, and drop {target} then"
        )
    return gone


def lag_of(source: ProfileStore, target: ProfileStore) -> Lag:
    """How far a mapped store is behind, by ids and stamps; what the first row was mapped by counts.

    Memory: a block of rows.

    Raises:
        InputError: the target has no rows, or for the most part those of another source.
    """
    first = next((stamp for rows in target.read(vectors=False) for stamp in rows.stamps), None)
    if first is None:
        raise InputError(f"{target}: 0 profiles, but {len(source):,} in {source}; {AGAIN}")
    maker = _Maker(first.space, first.source.partition(".")[0])
    gone, newer = _gone(source, target, maker), 0
    for rows in _shown(source, "compare"):
        gone -= set(rows.keys)
        newer += len(_behind(rows, maker.stamps(rows), _stamps(target, rows.keys)))
    return Lag(newer, len(gone))


def verify_migration(source: ProfileStore, target: ProfileStore, aligner: Aligner) -> Iterator[str]:
    """Hold the rows of a mapped store against their sources mapped anew, and its index against all.

    Rows that are behind their source are counted: others may change it at any time.

    The index is judged by queries made of some profiles: each with noise of its own length added,
    which leaves a cosine of 0.7 as another utterance of the speaker might.

    Memory: two blocks of rows.

    Args:
        source, target, aligner: as given to `migrate`.

    Yields:
        Lines that say what was found.

    Raises:
        InputError: a row differs from what its own stamp says, or is of another aligner; names
            some. Or all are behind, or for the most part of another source.
    """
    maker = _Maker.of(aligner)
    gone, total, count, largest = _gone(source, target, maker), 0, 0, 0.0
    sample = _Sample(QUERIES)
    for rows in _shown(source, "verify"):
        gone -= set(rows.keys)
        total += len(rows.keys)
        found: dict[str, Matrix] = {}
        known: dict[str, Stamp] = {}
        for part in target.read(rows.keys):
            found |= zip(part.keys, part.matrix, strict=True)
            known |= zip(part.keys, part.stamps, strict=True)
        behind = set(_behind(rows, maker.stamps(rows), known))
        rows = rows.take([row for row in range(len(rows.keys)) if row not in behind])
        if not rows.keys:
            continue
        mapped = aligner.map_side(rows.matrix, "enroll", rows.keys)
        difference = np.abs(mapped - np.stack([found[key] for key in rows.keys])).max(axis=1)
        if wrong := [rows.keys[row] for row in np.flatnonzero(~(difference <= TOLERANCE))]:
            raise InputError(
                f"{target}: vectors of {named(wrong)} differ by {difference.max():.1e}; delete "
                f"them, and {AGAIN}"
            )
        sample.add(mapped)
        count, largest = count + len(rows.keys), max(largest, float(difference.max()))
    if not total:
        raise InputError(f"{source}: holds no profiles")
    lag = Lag(total - count, len(gone))
    if not count:
        raise InputError(f"{target}: is behind {source}: {lag}; {AGAIN}")
    ids = "ids" if any(lag) else "the ids"
    yield f"{target}: {count:,} profiles, {ids} of {source}, within {largest:.1e}"
    if any(lag):
        yield f"  is behind {source}: {lag}; {AGAIN}"
    yield _recall(target, sample.queries())


def _behind(rows: Rows, stamps: list[Stamp], known: Mapping[str, Stamp]) -> list[int]:
    """The raw rows, by their places, whose mapped ones have not the stamps that they should."""
    return [row for row, key in enumerate(rows.keys) if known.get(key) != stamps[row]]


def _shown(store: ProfileStore, what: str) -> Iterator[Rows]:
    """All rows of a store, with progress."""
    with progress(total=len(store), what=what) as bar:
        for rows in store.read():
            yield rows
            bar.update(len(rows.keys))


def _recall(target: ProfileStore, queries: Matrix) -> str:
    """How many of the nearest rows the index finds."""
    found = target.search(queries, NEAREST)  # first, as it needs an index
    nearest = _exact(target, queries)
    pairs = list(zip(nearest, found, strict=True))
    rates = {k: np.mean([len({*a[:k]} & {*b[:k]}) / len(a[:k]) for a, b in pairs]) for k in (1, 10)}
    return (
        f"  index against exact search, {len(queries)} queries: recall@1 {rates[1]:.3f}, "
        f"recall@10 {rates[10]:.3f}"
    )


def _exact(target: ProfileStore, queries: Matrix) -> list[list[str]]:
    """The ids nearest to each query (Q, D), by comparing with all rows."""
    keys = np.empty((len(queries), 0), object)
    cosines = np.empty((len(queries), 0), np.float32)
    for rows in _shown(target, "search"):
        cosines = np.hstack([cosines, queries @ rows.matrix.T])
        keys = np.hstack([keys, np.tile(np.array(rows.keys, object), (len(queries), 1))])
        order = np.argsort(-cosines, axis=1)[:, :NEAREST]
        cosines, keys = (np.take_along_axis(table, order, axis=1) for table in (cosines, keys))
    return keys.tolist()


class _Sample:
    """Some of the vectors that pass by, each with the same probability."""

    def __init__(self, size: int) -> None:
        self._size, self._rng = size, np.random.default_rng(0)
        self._matrix: Matrix | None = None
        self._draws: npt.NDArray[np.float64] = np.empty(0)

    def add(self, matrix: Matrix) -> None:
        """Vectors (N, D) of unit length."""
        drawn = np.concatenate([self._draws, self._rng.random(len(matrix))])
        both = matrix if self._matrix is None else np.concatenate([self._matrix, matrix])
        order = np.argsort(drawn)[: self._size]
        self._draws, self._matrix = drawn[order], both[order]

    def queries(self) -> Matrix:
        """Those kept, with noise of unit length added, at unit length."""
        assert self._matrix is not None
        noise = self._rng.standard_normal(self._matrix.shape)
        noisy = self._matrix + noise / np.linalg.norm(noise, axis=1, keepdims=True)
        return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)


def _check(rows: Rows, source: ProfileStore, aligner: Aligner, outliers: Outliers) -> None:
    if rows.stamps:
        raise InputError(f"{source}: is mapped already; name that of raw profiles")
    with about(str(source)):
        check_finite(rows.keys, rows.matrix, lambda row: f"id {rows.keys[row]!r}")
        checked_lengths(rows.matrix, lambda row: f"id {rows.keys[row]!r}")
        aligner.map_enroll(rows.matrix[:1])  # which refuses another dimension
        outliers.check(rows.keys, rows.matrix)


def _stamps(target: ProfileStore, keys: list[str]) -> dict[str, Stamp]:
    parts = target.read(keys, vectors=False)
    return {key: stamp for rows in parts for key, stamp in zip(rows.keys, rows.stamps, strict=True)}


def _check_maker(target: ProfileStore, rows: Rows, maker: _Maker) -> None:
    if len(rows.stamps) != len(rows.keys):
        raise InputError(f"{target}: is there, and not made by nessa; name a new one")
    for key, stamp in zip(rows.keys, rows.stamps, strict=True):
        if stamp.space != maker.space:
            raise InputError(
                f"{target}: {key!r} is of space {stamp.space[:12]}, made by another aligner than "
                f"that of {maker.space[:12]}; give that one, or name a new table for this aligner"
            )
        made_by, told, _ = stamp.source.partition(".")
        if told and made_by != maker.map:  # earlier versions did not tell, and map once more
            raise InputError(
                f"{target}: {key!r} {OTHER_MAP}; give the aligner that made it, or name a new table"
            )
