"""Kaldi's ark of vectors, byte by byte: found, checked, gathered and written.

An ark is a row of records, each a key, a space and a vector, binary or text:

    key \0BFV \4<int32 dim><float32 x dim>      "DV": float64; little-endian
    key \0BFM \4<int32 1>\4<int32 dim>...       "DM": float64; a matrix of one row is a vector
    key  [ 1.5 2 -3 ]                            of one line, or of one row between its brackets

Nearly all arks hold float32 vectors of one dimension and nothing else. These are found and checked
as arrays, without an object for each, and copied straight out of the mapped file. Whatever differs
in any way is checked by itself, and read or refused.
"""

import errno
import mmap
import os
import re
import struct
from array import array
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from nessa.errors import InputError, about
from nessa.files import find_listed, id_fault, parse_numbers
from nessa.kaldi.datadir import is_there
from nessa.kaldi.scp import lies_beside
from nessa.threads import background, in_threads

_FLOAT32 = np.dtype("<f4")
_BINARY = b"\0B"
_FLOAT, _DOUBLE = b"FV \4", b"DV \4"
_HEADER_BYTES = len(_BINARY + _FLOAT) + 4  # and an int32 dimension
_MATRICES = (b"FM \4", b"DM \4")
_COMPRESSED = (b"CM ", b"CM2", b"CM3")
_GZIP = b"\x1f\x8b"
_ROWS_BYTES = 5  # a matrix has its number of rows, marked and as an int32, before the dimension
_SPACE, _DELETE = b" \x7f"  # around the printable ASCII letters
_MAX_KEY_BYTES = 4096  # looked through for what ends a key
_MAX_TEXT_BYTES = 2**22  # looked through for the bracket that ends a text vector
_SHORTEST_LABEL = _HEADER_BYTES + 2  # of a key of one letter
_MIN_RUN = 16  # records of one layout that are worth looking for as an array
_RECORDS_PER_BLOCK = 16384  # checked as one array
_BYTES_PER_BLOCK = 2**22  # gathered or written as one array: stays in the cache
_KEY_ENDS = (b" ", b"\t", b"\n")  # to Kaldi's readers; writers use the first
_KEY_END = re.compile(b"|".join(_KEY_ENDS))
Offsets = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Block = tuple[list[str], Matrix]  # keys, and their vectors (N, D)


class Ark:
    """The vectors in the bytes of an ark.

    Args:
        name: of the ark, for messages.
        data: all of its bytes, mapped.
    """

    def __init__(self, name: str, data: mmap.mmap) -> None:
        self.name, self.size = name, len(data)
        self._data, self._bytes = data, np.frombuffer(data, np.uint8)
        self._width = 0  # bytes of a vector as float32, once the first is read
        self._header: bytes | None = None  # of a float32 vector of that width

    @classmethod
    def open(cls, name: str, place: str, path: Path) -> "Ark":
        """Map a file.

        Args:
            name: of the ark, for messages about what is in it.
            place: says who asked for it, for messages about the file.
            path: the file.

        Raises:
            InputError: it is missing, empty, unreadable, compressed, or not a regular file.
        """
        try:
            if not path.is_file():  # a FIFO or a device would block or never end
                what = "not a regular file" if path.exists() else "no such file"
                raise InputError(f"{place}: {what}; has the stage that makes it been run?")
            with open(path, "rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    raise InputError(f"{place}: empty file, holds no vectors; run extraction again")
                if file.read(len(_GZIP)) == _GZIP:
                    raise InputError(
                        f"{place}: is compressed; write it uncompressed (gunzip <FILE >NEW.ark), "
                        "and name NEW.ark in its place"
                    )
                return cls(name, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            remedy = "; raise `ulimit -n`" if error.errno == errno.EMFILE else ""
            raise InputError(f"{place}: cannot be read: {error.strerror}{remedy}") from error

    def read(self) -> tuple[list[str], Offsets, Matrix, bool]:
        """Read all vectors, in file order.

        Returns:
            (N keys; offsets of their vectors; the vectors, (N, D); whether they are all finite)

        Raises:
            InputError: something else is there than vectors of one dimension under their keys.
        """
        keys: list[str] = []
        offsets = array("q")
        alone: list[int] = []  # rows that no run holds
        odd: dict[int, bytes] = {}  # row -> vector, of those that are not float32 in the ark
        matrix, finite, end = np.empty((0, 0), np.float32), True, 0
        while end < self.size:
            start, row = end, len(keys)
            key, offset = self._key_at(start)
            payload, end = self._vector(key, offset)
            keys.append(key)
            offsets.append(offset)
            if payload is not None:
                odd[row] = payload
                continue
            alone.append(row)
            # Enough for all that can follow: memory is taken only as it is filled.
            left = (self.size - end) // (self._width + _SHORTEST_LABEL)
            matrix = self._with_rows(matrix, row + 1 + left)
            run, run_finite = self._run(end, offset - 1 - start, end - start, matrix[row + 1 :])
            stride = end - start
            offsets.frombytes((offset + stride * np.arange(1, len(run) + 1)).tobytes())
            keys += run
            finite &= run_finite
            end += stride * len(run)
        matrix = self._with_rows(matrix, len(keys))[: len(keys)]
        places = np.frombuffer(offsets, np.int64)
        finite &= self._gather(places[alone], matrix, np.array(alone, np.int64))
        return keys, places, matrix, finite & _put(odd, matrix)

    def find(self, keys: Sequence[str], offsets: Offsets) -> "Found":
        """Find the vectors that an scp lists; offset 0 is a file of one bare vector.

        Args:
            keys: N, one or more.
            offsets: of their vectors, (N,).

        Raises:
            InputError: what is at an offset is not the vector of its key.
        """
        self._listed(keys[0], int(offsets[0]))  # says what the others should look like
        odd: dict[int, bytes] = {}
        for first in range(0, len(keys), _RECORDS_PER_BLOCK):
            block = slice(first, first + _RECORDS_PER_BLOCK)
            plain = self._plain(keys[block], offsets[block])
            for row in (first + np.flatnonzero(~plain)).tolist():
                payload = self._listed(keys[row], int(offsets[row]))
                if payload is not None:
                    odd[row] = payload
        return Found(self, offsets, odd, self._width // _FLOAT32.itemsize)

    def vectors_at(self, offsets: Offsets) -> Matrix:
        """The float32 vectors (N, D) at offsets (N,) that `find` has checked."""
        windows = sliding_window_view(self._bytes, self._width)
        return windows[offsets + _HEADER_BYTES].view(_FLOAT32)

    def forget(self) -> None:
        """Let go of the memory that holds what was read; it is read again where it is needed."""
        self._data.madvise(mmap.MADV_DONTNEED)

    def _with_rows(self, matrix: Matrix, count: int) -> Matrix:
        """The matrix with at least `count` rows."""
        if len(matrix) >= count:
            return matrix
        larger = np.empty((count, self._width // _FLOAT32.itemsize), np.float32)
        larger[: len(matrix)] = matrix.reshape(len(matrix), larger.shape[1])
        return larger

    def _gather(self, offsets: Offsets, out: Matrix, rows: npt.NDArray[np.int64]) -> bool:
        """Copy float32 vectors to some rows of `out`, and say whether they are all finite."""
        step = max(1, _BYTES_PER_BLOCK // self._width)

        def copy(first: int) -> bool:
            vectors = self.vectors_at(offsets[first : first + step])
            own = rows[first : first + step]
            if own[-1] - own[0] + 1 == len(own):
                out[own[0] : own[-1] + 1] = vectors
            else:
                out[own] = vectors
            return all_finite(vectors)

        return all(in_threads(copy, range(0, len(rows), step)))

    def _run(self, end: int, key_bytes: int, stride: int, out: Matrix) -> tuple[list[str], bool]:
        """Read the records from `end` on whose layout is that of the one before, to the byte.

        Ids of one length, which are common, make every record as long as the one before it.

        Returns:
            (their keys; whether their vectors, which `out` receives, are all finite)
        """
        label = b" " + (self._header or b"")
        probe = end + (_MIN_RUN - 1) * stride + key_bytes
        if self._data[probe : probe + len(label)] != label:
            return [], True
        records, body = sliding_window_view(self._bytes, stride), key_bytes + len(label)
        keys: list[str] = []
        copies: list[Future[bool]] = []
        total = (self.size - end) // stride
        with background() as submit:  # vectors are copied while the next keys are checked
            while len(keys) < total:
                first, count = len(keys), min(total - len(keys), _RECORDS_PER_BLOCK)
                start = end + first * stride
                found = records[start : start + count * stride : stride]  # (count, stride)
                own = _keys_of(found[:, :body].tobytes(), label, count, key_bytes)
                keys += own
                copies.append(submit(_copy, found[: len(own), body:], out[first : len(keys)]))
                if len(own) < count:
                    break
        return keys, all(copy.result() for copy in copies)

    def _plain(self, keys: Sequence[str], offsets: Offsets) -> Flags:
        """Which keys have, at their offsets, a float32 vector of the ark's dimension, (N,)."""
        labels = (" ".join(keys) + " ").encode()
        encoded = keys if labels.isascii() else [key.encode() for key in keys]
        sizes = np.fromiter(map(len, encoded), np.int64, len(keys)) + 1
        plain = offsets >= sizes
        plain &= offsets <= self.size - _HEADER_BYTES - self._width
        if self._header is None or not plain.any():
            return np.zeros(len(keys), np.bool_)
        headers = sliding_window_view(self._bytes, _HEADER_BYTES)
        plain[plain] = _same_rows(headers[offsets[plain]], np.frombuffer(self._header, np.uint8))
        wanted, starts = np.frombuffer(labels, np.uint8), np.cumsum(sizes) - sizes
        for size in np.unique(sizes[plain]).tolist():
            rows = np.flatnonzero(plain & (sizes == size))
            found = sliding_window_view(self._bytes, size)[offsets[rows] - size]
            plain[rows] = _same_rows(found, sliding_window_view(wanted, size)[starts[rows]])
        return plain

    def _key_at(self, start: int) -> tuple[str, int]:
        """The key of the record that begins at `start`, and the offset of its vector."""
        found = _KEY_END.search(self._data, start, start + _MAX_KEY_BYTES)
        if found is None or found.start() == start:
            raise InputError(f"{self.name}: byte {start}: expected a key and a vector")
        try:
            key = self._data[start : found.start()].decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self.name}: byte {start}: key is not UTF-8") from error
        if fault := id_fault(key):
            raise InputError(f"{self.name}: byte {start}: key {key!r} {fault}")
        return key, found.end()

    def _listed(self, key: str, offset: int) -> bytes | None:
        """What `_vector` says of a vector that an scp lists."""
        label, end = key.encode(), max(offset - 1, 0)
        before = self._data[max(end - len(label), 0) : end]
        if offset and (before != label or self._data[end:offset] not in _KEY_ENDS):
            self._refuse(key, offset, "is not here: the scp is stale; write both again")
        payload, end = self._vector(key, offset)
        if not offset and end != self.size:
            self._refuse(key, offset, "is followed by more; is an `:offset` missing?")
        return payload

    def _vector(self, key: str, offset: int) -> tuple[bytes | None, int]:
        """The vector at `offset` as float32, and where it ends; None for one to be gathered."""
        start = offset + _HEADER_BYTES
        header = self._data[offset:start]
        payload: bytes | None = None
        if not header.startswith(_BINARY):
            payload, end = self._text_vector(key, offset)
        else:
            kind, count = self._parse(header, key, offset)
            if kind in _MATRICES:
                start += _ROWS_BYTES
            double = kind in (_DOUBLE, _MATRICES[1])
            end = start + count * (8 if double else 4)
            if end > self.size:
                over = f"goes {end - self.size} bytes beyond the end of the file; extract it again"
                self._refuse(key, offset, over)
            if double:
                payload = self._narrow(np.frombuffer(self._data[start:end], "<f8"), key, offset)
            elif kind != _FLOAT:
                payload = self._data[start:end]
        self._check_width(end - start if payload is None else len(payload), key, offset)
        if payload is None:
            self._header = header
        return payload, end

    def _check_width(self, width: int, key: str, offset: int) -> None:
        self._width = self._width or width
        if width != self._width:
            dim, before = (bytes_ // _FLOAT32.itemsize for bytes_ in (width, self._width))
            other = f"has dimension {dim}, those before it {before}; extract all with one model"
            self._refuse(key, offset, other)

    def _parse(self, header: bytes, key: str, offset: int) -> tuple[bytes, int]:
        """Type and dimension of a binary vector."""
        kind, dim = header[2:6], header[6:]
        if kind[:3] in _COMPRESSED:
            self._refuse(key, offset, "is a compressed matrix; write one vector per key")
        if len(header) == _HEADER_BYTES and kind not in (_FLOAT, _DOUBLE, *_MATRICES):
            self._refuse(key, offset, f"has type {kind!r}; write it as FV (float32)")
        if kind in _MATRICES:
            rows = dim
            marked = self._data[offset + _HEADER_BYTES : offset + _HEADER_BYTES + _ROWS_BYTES]
            dim = marked.removeprefix(b"\4") if len(marked) == _ROWS_BYTES else b""
            if len(dim) > 4:
                self._refuse(key, offset, "has no dimension; extract it again")
            if len(rows) == 4 and rows != struct.pack("<i", 1):
                (many,) = struct.unpack("<i", rows)
                self._refuse(key, offset, f"is a matrix of {many} rows; write one vector per key")
        if len(dim) < 4:
            self._refuse(key, offset, "is cut short by the end of the file; extract it again")
        (count,) = struct.unpack("<i", dim)
        if count <= 0:
            self._refuse(key, offset, f"has dimension {count}; extract it again")
        return kind, count

    def _text_vector(self, key: str, offset: int) -> tuple[bytes, int]:
        opening = self._data[offset : offset + 8].strip()
        if opening in (b"", b"\0"):
            self._refuse(key, offset, "is cut short by the end of the file; extract it again")
        if opening.startswith(b"PKL"):
            self._refuse(key, offset, "is a Python pickle, which is never loaded; write it as FV")
        if not opening.startswith(b"["):
            self._refuse(key, offset, f"begins {opening!r}, not as a Kaldi vector; write it as FV")
        first = self._data.find(b"[", offset) + 1
        last = self._data.find(b"]", first, first + _MAX_TEXT_BYTES)
        if last < 0 or b"[" in self._data[first:last]:
            self._refuse(key, offset, "has no ']': it is cut short; extract it again")
        newline = self._data.find(b"\n", last)
        end = newline + 1 if newline >= 0 else self.size
        line = self._data[first:last]
        rows = [row for row in line.split(b"\n") if row.strip()]
        if len(rows) > 1:
            self._refuse(key, offset, f"is a matrix of {len(rows)} rows; write one vector per key")
        if self._data[last + 1 : end].strip():
            self._refuse(key, offset, "is followed by more on its line; write one vector per key")
        numbers = line.split()
        if not numbers:
            self._refuse(key, offset, "is empty; extract it again")
        try:
            values = np.array(parse_numbers([number.decode() for number in numbers]))
        except ValueError:
            self._refuse(key, offset, "has an entry that is not a number; write it again")
        return self._narrow(values, key, offset), end

    def _narrow(self, values: npt.NDArray[np.float64], key: str, offset: int) -> bytes:
        with np.errstate(over="ignore"):
            narrow = values.astype(_FLOAT32)
        if np.isinf(narrow[np.isfinite(values)]).any():
            self._refuse(key, offset, "has values beyond float32; extract it again")
        return narrow.tobytes()

    def _refuse(self, key: str, offset: int, complaint: str) -> NoReturn:
        raise InputError(f"{self.name}: byte {offset}: vector of {key!r} {complaint}")


def _same_rows(found: npt.NDArray[np.uint8], wanted: npt.NDArray[np.uint8]) -> Flags:
    """Where `found` (N, B) is as wanted, (N, B) or for all (B,), to the byte; (N,)."""
    # At once first: that is how it is nearly always, and takes a tenth of the time.
    repeats = 1 if wanted.ndim == 2 else len(found)
    if found.tobytes() == wanted.tobytes() * repeats:
        return np.ones(len(found), np.bool_)
    return (found == wanted).all(axis=1)


def _keys_of(layouts: bytes, label: bytes, count: int, key_bytes: int) -> list[str]:
    """Keys from what stands before `count` vectors, up to a record that has another layout."""
    text = layouts.decode("latin-1")
    keys = text.split(label.decode("latin-1"))[:-1]
    joined = np.frombuffer("".join(keys).encode("latin-1"), np.uint8)
    printable = len(joined) and joined.min() > _SPACE and joined.max() < _DELETE
    if printable and len(keys) == count and set(map(len, keys)) == {key_bytes}:
        return keys
    found = np.frombuffer(layouts, np.uint8).reshape(count, -1)
    own = found[:, :key_bytes]
    alike = ((own > _SPACE) & (own < _DELETE)).all(axis=1)
    alike &= (found[:, key_bytes:] == np.frombuffer(label, np.uint8)).all(axis=1)
    return [row.tobytes().decode() for row in own[: count if alike.all() else alike.argmin()]]


def _copy(payload: npt.NDArray[np.uint8], out: Matrix) -> bool:
    out.view(np.uint8)[:] = payload
    return all_finite(out)


def all_finite(vectors: Matrix) -> bool:
    """Whether no value is a NaN or an infinity."""
    # These survive min and max, which need no temporary of the vectors' shape.
    return not vectors.size or bool(np.isfinite(vectors.min()) and np.isfinite(vectors.max()))


def _put(vectors: dict[int, bytes], out: Matrix) -> bool:
    """Put vectors into their rows of `out`, and say whether they are all finite."""
    for row, vector in vectors.items():
        out[row] = np.frombuffer(vector, _FLOAT32)
    return all(all_finite(out[row]) for row in vectors)


@dataclass(frozen=True)
class Found:
    """Vectors that were found in an ark, and not read yet.

    Attributes:
        offsets: of the vectors in the ark, (N,).
        odd: row -> the vector, of those that are not float32 in the ark.
        dim: D, the dimension of the vectors.
    """

    ark: Ark
    offsets: Offsets
    odd: dict[int, bytes]
    dim: int

    def gather(self, out: Matrix, rows: npt.NDArray[np.int64]) -> bool:
        """Copy the vectors to rows (N,) of `out`, and say whether they are all finite."""
        odd = list(self.odd)
        finite = self.ark._gather(np.delete(self.offsets, odd), out, np.delete(rows, odd))
        return finite & _put({rows[row]: vector for row, vector in self.odd.items()}, out)


def open_listed(table: Path | str, place: str, source: str) -> Ark:
    """Map the file that a line of an scp names.

    Args:
        table: the scp.
        place: of the line, for messages about the file.
        source: the file, as it is written there; see `nessa.files.find_listed`.

    Raises:
        InputError: see `Ark.open`; or the table is one of ours in a copied or moved folder, and
            names an ark of the folder of before, which may be another model's by now.
    """
    table = Path(table)
    own = table.parent / os.path.basename(source)
    ours = is_there(table.parent / "info.json") and os.path.isfile(own)
    with about(place):
        if ours and not lies_beside(source, table):
            raise InputError(
                f"{source} is not the {own.name} beside this table: the folder was copied or "
                "moved; run ./run.sh --stage prepare if it is of a work directory, else make it "
                "again, or correct its paths"
            )
        file = find_listed(source, table)
    return Ark.open(f"{table}: {source}", f"{place}: {source}", file)


def check_alike(found: Found, dim: int, place: str, source: str) -> None:
    """Refuse vectors of another dimension than `dim`, that of the files listed before."""
    if found.dim != dim:
        raise InputError(
            f"{place}: {source} has vectors of dimension {found.dim}, those before it {dim}; "
            "extract all with one model"
        )


def write_records(file: IO[bytes], keys: Sequence[str], matrix: Matrix) -> Offsets:
    """Write binary float32 records.

    Args:
        file: open for writing; an ark so far.
        keys: N.
        matrix: their vectors, float32 (N, D).

    Returns:
        The offset of each vector in the file, (N,).
    """
    rows = matrix.astype(_FLOAT32, copy=False).view(np.uint8)
    width = rows.shape[1]
    header = _BINARY + _FLOAT + struct.pack("<i", matrix.shape[1])
    rows_per_block = max(1, _BYTES_PER_BLOCK // width)
    offsets, end = np.empty(len(keys), np.int64), file.tell()
    for first in range(0, len(keys), rows_per_block):
        block = slice(first, first + rows_per_block)
        labels = [key.encode() + b" " + header for key in keys[block]]
        sizes = np.fromiter(map(len, labels), np.int64, len(labels))
        starts = np.cumsum(sizes + width) - width  # of the vectors, in what follows
        records = np.empty(int(starts[-1]) + width, np.uint8)
        sliding_window_view(records, width, writeable=True)[starts] = rows[block]
        joined = np.frombuffer(b"".join(labels), np.uint8)
        moved = np.repeat(starts - np.cumsum(sizes), sizes)  # by the vectors before each label
        records[np.arange(len(joined)) + moved] = joined
        file.write(records.data)
        offsets[block] = end + starts - _HEADER_BYTES
        end += len(records)
    return offsets
