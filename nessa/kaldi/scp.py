"""Kaldi's scp files: which key lies where, read as arrays where lines look as they should.

A line is `key ark:offset`, the offset being that of a vector in an ark; `key file`, a file of one
bare vector; or `key command |`.
"""

import os
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, starmap
from operator import lt
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from nessa.errors import InputError
from nessa.files import atomic_open, find_listed, read_blocks, split_lines

LINES_PER_BLOCK = 16384  # written at once
_OFFSET_DIGITS = 18  # what an int64 holds; no file is as long
_NEWLINE, _SPACE, _COLON, _ZERO, _DELETE = b"\n :0\x7f"
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Listing:
    """The lines of one scp, or of several put together.

    Attributes:
        name: of the scp, for messages.
        keys: N.
        sources: the distinct files and pipes, in order of their first line.
        source_of: row among `sources` of each key, (N,).
        offsets: in the source, (N,); 0 for all of it.
        where: file and line of a row.
    """

    name: str
    keys: list[str]
    sources: list[str]
    source_of: Numbers
    offsets: Numbers
    where: Callable[[int], str]


def write_scp(path: Path, listing: Listing) -> None:
    """Write an scp, whole or not at all."""
    with atomic_open(path) as file:
        for first in range(0, len(listing.keys), LINES_PER_BLOCK):
            rows = slice(first, first + LINES_PER_BLOCK)
            locations = zip(
                listing.keys[rows],
                map(listing.sources.__getitem__, listing.source_of[rows].tolist()),
                listing.offsets[rows].tolist(),
                strict=True,
            )
            file.write("".join(starmap(_line, locations)))


def _line(key: str, source: str, offset: int) -> str:
    return f"{key} {source}:{offset}\n" if offset else f"{key} {source}\n"


@dataclass(frozen=True)
class Lines:
    """Some consecutive lines; as in `Listing`, but a source may be there more than once."""

    keys: list[str]
    sources: list[str]
    source_of: Numbers
    offsets: Numbers
    first: int  # number of the first line, from 1


def stream_scp(path: Path) -> Iterator[Lines]:
    """Read an scp, some ten thousand lines at a time.

    Raises:
        InputError: unreadable, or a line without a location.
    """
    for first, block in read_blocks(path):
        yield _parse_alike(block, first) or _parse_each(block, path, first)


def read_scp(path: Path) -> Listing:
    """Read an scp.

    Raises:
        InputError: see `stream_scp`.
    """
    keys: list[str] = []
    rows: dict[str, int] = {}  # of the sources
    source_of, offsets = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for lines in stream_scp(path):
        keys += lines.keys
        source_of.append(_codes(lines.sources, rows)[lines.source_of])
        offsets.append(lines.offsets)
    return Listing(
        str(path),
        keys,
        list(rows),
        np.concatenate(source_of),
        np.concatenate(offsets),
        lambda row: f"{path}: line {row + 1}",
    )


def merge_scps(name: str, parts: Sequence[Listing]) -> Listing:
    """The lines of all parts, C-sorted by key; one part that is sorted is taken as it is."""
    if len(parts) == 1 and are_sorted(parts[0].keys):
        return parts[0]
    keys = [key for part in parts for key in part.keys]
    ends = np.cumsum([len(part.keys) for part in parts])
    order = sorted(range(len(keys)), key=keys.__getitem__)  # by code point is as by UTF-8 byte

    def where(row: int) -> str:
        part = int(np.searchsorted(ends, order[row], side="right"))
        return parts[part].where(order[row] - int(ends[part]) + len(parts[part].keys))

    rows: dict[str, int] = {}
    codes = [_codes(part.sources, rows)[part.source_of] for part in parts]
    offsets = np.concatenate([part.offsets for part in parts])
    sorted_keys = [keys[row] for row in order]
    return Listing(
        name, sorted_keys, list(rows), np.concatenate(codes)[order], offsets[order], where
    )


def without_keys(listing: Listing, left_out: Container[str]) -> Listing:
    """The lines of other keys than some."""
    rows = [row for row, key in enumerate(listing.keys) if key not in left_out]
    if len(rows) == len(listing.keys):
        return listing
    return replace(
        listing,
        keys=[listing.keys[row] for row in rows],
        source_of=listing.source_of[rows],
        offsets=listing.offsets[rows],
        where=lambda row: listing.where(rows[row]),
    )


def are_sorted(keys: Sequence[str]) -> bool:
    """Whether they are sorted as `LC_ALL=C sort` sorts, and all different."""
    return all(starmap(lt, pairwise(keys)))


def _codes(sources: Sequence[str], rows: dict[str, int]) -> Numbers:
    """The row of each source in the table of all, which grows."""
    return np.array([rows.setdefault(source, len(rows)) for source in sources], np.int64)


def _parse_alike(block: bytes, first: int) -> Lines | None:
    """The lines of a block if all are `key ark:offset` in plain ASCII, or None."""
    data = np.frombuffer(block, np.uint8)
    ends, spaces = np.flatnonzero(data == _NEWLINE), np.flatnonzero(data == _SPACE)
    plain = np.count_nonzero(data <= _SPACE) == 2 * len(ends) and data.max() < _DELETE
    if not plain or len(spaces) != len(ends):
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    colons = np.flatnonzero(data == _COLON)
    if not len(colons) or not ((starts < spaces) & (spaces < ends)).all():
        return None
    last = colons[np.searchsorted(colons, ends) - 1]
    offsets = _decimals(data, last + 1, ends)
    if offsets is None or (last < spaces + 2).any():
        return None
    is_key = np.zeros(len(data) + 1, np.int8)
    is_key[starts] = 1
    is_key[spaces + 1] -= 1
    keys = data[is_key[:-1].cumsum(dtype=np.int8).view(np.bool_)].tobytes().decode().split()
    first_of_run = _changes(data, spaces + 1, last)
    runs = np.flatnonzero(first_of_run)
    sources = [block[spaces[row] + 1 : last[row]].decode() for row in runs.tolist()]
    return Lines(keys, sources, np.cumsum(first_of_run) - 1, offsets, first)


def _decimals(data: npt.NDArray[np.uint8], starts: Numbers, ends: Numbers) -> Numbers | None:
    """The numbers that are written between places of `data`; None where something else is."""
    sizes = ends - starts
    if sizes.min() < 1 or sizes.max() > _OFFSET_DIGITS:
        return None
    values = np.zeros(len(starts), np.int64)
    for place in range(int(sizes.max())):
        there = place < sizes
        digits = data[np.where(there, starts + place, starts)].astype(np.int64) - _ZERO
        if not ((digits >= 0) & (digits <= 9)).all():
            return None
        values = np.where(there, 10 * values + digits, values)
    return values


def _changes(data: npt.NDArray[np.uint8], starts: Numbers, ends: Numbers) -> npt.NDArray[np.bool_]:
    """Where the text between two places differs from that of the line before, (N,)."""
    sizes = ends - starts
    changes = np.concatenate([[True], sizes[1:] != sizes[:-1]])
    for size in np.unique(sizes).tolist():
        same = np.flatnonzero(~changes & (sizes == size))  # as long as the one before
        windows = sliding_window_view(data, size)
        changes[same] = (windows[starts[same]] != windows[starts[same - 1]]).any(axis=1)
    return changes


def _parse_each(block: bytes, path: Path, first: int) -> Lines:
    """The lines of a block, one by one; the first of them is line `first`."""
    keys, sources, offsets = [], [], []
    for number, line in enumerate(split_lines(block, path, first), first):
        fields = line.strip().split(maxsplit=1)
        if len(fields) != 2:
            raise InputError(f"{path}: line {number}: expected `key ark:offset`, got {line!r}")
        source, offset = split_location(fields[1])
        keys.append(fields[0])
        sources.append(source)
        offsets.append(offset)
    return Lines(keys, sources, np.arange(len(keys)), np.array(offsets, np.int64), first)


def find_place(place: str, table: Path) -> tuple[Path, int | None]:
    """The file that a line of wav.scp or feats.scp names, and the offset there, None for none.

    Args:
        place: a file, or a place in an ark, as `x.ark:123`.
        table: that names it; see `nessa.files.find_listed`.

    Raises:
        InputError: there is no such file.
    """
    source, offset = split_location(place)
    if source != place and not os.path.exists(place):  # a name may end in a colon and digits
        return find_listed(source, table), offset
    return find_listed(place, table), None


def lies_beside(source: str, table: Path) -> bool:
    """Whether the file that a line of a table names is the one of that name beside the table.

    In a copy of a folder, tables still name the files of the original.

    Raises:
        InputError: a relative path of no file, see `nessa.files.find_listed`.
    """
    own = table.parent / os.path.basename(source)
    gone = os.path.isabs(source) and not os.path.exists(source)
    return os.path.isfile(own) and not gone and find_listed(source, table).samefile(own)


def split_location(location: str) -> tuple[str, int]:
    """(source, offset) of `ark:offset`; offset 0 for a file of one bare vector, or a pipe."""
    source, _, offset = location.rpartition(":")
    if source and offset.isascii() and offset.isdecimal():
        return source, int(offset) if len(offset) <= _OFFSET_DIGITS else 10**_OFFSET_DIGITS
    return location, 0
