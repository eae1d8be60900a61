r"""Speaker embeddings, and the Kaldi tables (ark, scp) that keep them on disk.

An ark is a row of records, each a key, a space and a vector, binary or text:

    key \0BFV \4<int32 dim><float32 x dim>      "DV": float64; little-endian
    key  [ 1.5 2 -3 ]

An scp lists `key ark:offset`, the offset being that of the vector, after the key and the space.

Reading is strict: whatever is not a finite vector of one common dimension under a unique key is
refused with its file and place. Nothing read is executed: no pickles, and no pipes unless asked.
"""

import contextlib
import mmap
import os
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from nessa.errors import InputError
from nessa.files import atomic_open, read_json, read_lines, write_json, write_table

XVECTOR_TABLES = ("xvector.scp", "spk_xvector.scp")  # the tables that info.json speaks for

_FLOAT32 = np.dtype("<f4")
_BINARY = b"\0B"
_FLOAT, _DOUBLE = b"FV \4", b"DV \4"
_HEADER_BYTES = len(_BINARY + _FLOAT) + 4  # and an int32 dimension
_MATRICES = (b"FM ", b"DM ", b"CM ", b"CM2", b"CM3")
_MAX_KEY_BYTES = 4096  # looked through for the space that ends a key
_MIN_RUN, _MAX_RUN = 16, 4096  # records of one layout that are worth reading as an array; at once
_ROWS_PER_WRITE = 8192
_COLUMNS_PER_SUM = 16  # one cache line of float32; bounds the float64 copy that a mean needs


@dataclass(frozen=True)
class ModelStamp:
    """What `info.json` says of the model that made a set of embeddings.

    Attributes:
        model: name of the model in the recipe.
        fingerprint: sha256 over the weights and the feature configuration.
        set: the data set that was extracted: train, align, dev, eval...
    """

    model: str
    fingerprint: str
    set: str


class Embeddings:
    """Speaker embeddings under their keys: utterance, speaker or profile ids.

    Attributes:
        keys: N unique ids without white space.
        matrix: float32 (N, D), C-contiguous, finite; row i belongs to keys[i].
        stamp: the model that made them, or None if unknown.
    """

    def __init__(
        self,
        keys: Iterable[str],
        matrix: npt.ArrayLike,
        stamp: ModelStamp | None = None,
        where: Callable[[int], str] = "row {}".format,
    ) -> None:
        """Check and keep keys and matrix; a C-contiguous float32 array is kept without a copy.

        Args:
            keys: N ids.
            matrix: real (N, D), D at least 1.
            stamp: the model that made them.
            where: says where row i came from; messages about that row begin with it.

        Raises:
            InputError: a key that is empty, repeated or has white space, a matrix of another
                shape, or a value that is NaN, infinite or beyond float32.
        """
        self.keys = list(keys)
        self.matrix = _as_float32(matrix)
        self.stamp = stamp
        if self.matrix.ndim != 2 or self.matrix.shape[0] != len(self.keys):
            shape = self.matrix.shape
            raise InputError(f"{len(self.keys)} keys need a matrix of as many rows, got {shape}")
        if self.matrix.shape[1] == 0:
            raise InputError("embeddings need at least one dimension, got a matrix of 0 columns")
        _check_keys(self.keys, where)
        _check_finite(self.keys, self.matrix, where)
        self._row_of = {key: row for row, key in enumerate(self.keys)}
        if len(self._row_of) < len(self.keys):
            _refuse_duplicate(self.keys, where)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Embeddings({len(self)} x {self.dim}, stamp={self.stamp})"

    @property
    def dim(self) -> int:
        """D, the dimension of the vectors."""
        return self.matrix.shape[1]

    @classmethod
    def read(cls, path: Path | str, allow_pipes: bool = False) -> "Embeddings":
        """Read an ark, an scp, or an embeddings directory.

        A directory is read through its `xvector.scp`. Tables of the embeddings directory carry
        the stamp of the `info.json` beside them. Relative paths inside an scp are relative to
        the working directory, as in Kaldi. Memory: 4 N D bytes and the largest ark's share.

        Args:
            path: `*.ark` (binary or text, float or double), `*.scp`, or a directory.
            allow_pipes: run scp entries that end in `|` with `sh -c`, and read their output.

        Returns:
            The embeddings, in file order.

        Raises:
            InputError: anything but finite vectors of one dimension under unique keys, or an
                `info.json` that does not fit them.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "xvector.scp"
        if path.suffix == ".ark":
            embeddings = _read_ark(path)
        elif path.suffix == ".scp":
            embeddings = _read_listed(_read_scp(path), allow_pipes)
        else:
            wanted = "expected a .scp, an .ark or an embeddings directory"
            missing = "no such folder; has the stage that makes it been run?"
            raise InputError(f"{path}: {wanted if path.exists() else missing}")
        if path.name in XVECTOR_TABLES:
            embeddings.stamp = _read_stamp(path, embeddings)
        return embeddings

    def rows(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """Rows of `keys` in `matrix`, for gathering: `e.matrix[e.rows(keys)]`.

        Args:
            keys: K ids, in any order, repeated or not.

        Returns:
            int64 (K,).

        Raises:
            InputError: some keys have no vector.
        """
        rows = np.fromiter(map(self._row_of.get, keys, repeat(-1)), np.int64, len(keys))
        if rows.min(initial=0) < 0:
            missing = list(dict.fromkeys(key for key in keys if key not in self._row_of))
            raise InputError(
                f"{_some(missing)} have no vector among {len(self)} embeddings; "
                "extract them or leave them out of the list"
            )
        return rows

    def select(self, keys: Iterable[str]) -> "Embeddings":
        """The embeddings of `keys`, in that order, with the same stamp.

        Raises:
            InputError: some keys have no vector, or are repeated.
        """
        keys = list(keys)
        return Embeddings(keys, self.matrix[self.rows(keys)], self.stamp)

    def write(
        self,
        directory: Path | str,
        utt2spk: Mapping[str, str] | None = None,
        relative: bool = False,
    ) -> None:
        """Write a complete embeddings directory from one process.

        Args:
            directory: see `merge_parts` for what it will hold.
            utt2spk: {utterance: speaker}, of exactly these keys; None leaves out the per-speaker
                files.
            relative: write scp paths relative to the working directory, not absolute.

        Raises:
            InputError: no vectors, or `utt2spk` names other utterances.
        """
        self.write_part(directory, 1, relative)
        merge_parts(directory, 1, utt2spk, self.stamp, relative)

    def write_part(self, directory: Path | str, job: int, relative: bool = False) -> None:
        """Write `xvector.JOB.ark` and its scp, one shard of an embeddings directory.

        The directory is complete, or complete again, once `merge_parts` has run.

        Args:
            directory: made if missing.
            job: number of the shard, from 1.
            relative: write scp paths relative to the working directory, not absolute.
        """
        directory = Path(directory)
        _unseal(directory)
        self.write_ark(_part(directory, job, "ark"), _part(directory, job, "scp"), relative)

    def write_ark(
        self, ark: Path | str, scp: Path | str | None = None, relative: bool = False
    ) -> None:
        """Write one binary float32 ark, and the scp that lists it after it.

        Args:
            ark: path of the ark.
            scp: path of the scp, or None for none.
            relative: write scp paths relative to the working directory, not absolute.
        """
        dim = struct.pack("<i", self.dim)
        prefixes = [b"%b %b%b%b" % (key.encode(), _BINARY, _FLOAT, dim) for key in self.keys]
        rows = self.matrix.astype(_FLOAT32, copy=False).view(np.uint8)
        width = rows.shape[1]
        if scp is not None:
            Path(scp).unlink(missing_ok=True)  # its offsets are those of the ark to be replaced
        with atomic_open(ark, "wb") as file:
            for first in range(0, len(self), _ROWS_PER_WRITE):
                block = slice(first, first + _ROWS_PER_WRITE)
                pieces = [b""] * (2 * len(prefixes[block]))
                pieces[::2] = prefixes[block]
                pieces[1::2] = map(bytes, rows[block])
                file.write(b"".join(pieces))
        if scp is not None:
            location = os.path.relpath(ark) if relative else os.path.abspath(ark)
            ends = np.cumsum([len(prefix) + width for prefix in prefixes], dtype=np.int64)
            offsets = ends - (_HEADER_BYTES + width)
            with atomic_open(scp) as file:
                file.writelines(
                    f"{key} {location}:{offset}\n"
                    for key, offset in zip(self.keys, offsets.tolist(), strict=True)
                )


def merge_parts(
    directory: Path | str,
    jobs: int,
    utt2spk: Mapping[str, str] | None = None,
    stamp: ModelStamp | None = None,
    relative: bool = False,
) -> Embeddings:
    """Complete an embeddings directory whose parts 1 to `jobs` are written.

    Makes `xvector.scp` (all parts, C-sorted), `spk_xvector.{ark,scp}` (per-speaker means),
    `num_utts.ark` (text, `speaker count`) and, last, `info.json`. Parts beyond `jobs`, left by a
    run with more of them, are removed. A part may be empty. Memory: all vectors, 4 N D bytes.

    Args:
        directory: holds `xvector.JOB.{ark,scp}`.
        jobs: number of parts.
        utt2spk: {utterance: speaker}, of exactly the utterances in the parts; None leaves out
            the per-speaker files.
        stamp: the model that made the vectors; None leaves out `info.json`.
        relative: write the path of `spk_xvector.ark` relative to the working directory.

    Returns:
        The merged embeddings, C-sorted by key.

    Raises:
        InputError: a part is missing or broken, two parts share a key, there are no vectors at
            all, or `utt2spk` names other utterances than the parts.
    """
    directory = Path(directory)
    parts = [_part(directory, job, "scp") for job in range(1, jobs + 1)]
    if missing := [part.name for part in parts if not part.exists()]:
        raise InputError(f"{directory}: {_some(missing)} missing; run extraction again")
    listing = _merge_scps(directory, [_read_scp(part) for part in parts])
    merged = _read_listed(listing, allow_pipes=False)
    merged.stamp = stamp
    if utt2spk is not None:
        _check_same_utterances(directory, merged.keys, utt2spk)

    _unseal(directory)
    for name in ("spk_xvector.scp", "spk_xvector.ark", "num_utts.ark"):
        (directory / name).unlink(missing_ok=True)
    _remove_stale_parts(directory, jobs)
    if utt2spk is not None:
        means, counts = speaker_means(merged, utt2spk)
        means.write_ark(directory / "spk_xvector.ark", directory / "spk_xvector.scp", relative)
        write_table(directory / "num_utts.ark", counts)
    write_table(directory / "xvector.scp", dict(zip(listing.keys, listing.locations, strict=True)))
    if stamp is not None:
        info = {"model": stamp.model, "fingerprint": stamp.fingerprint, "set": stamp.set}
        write_json(directory / "info.json", info | {"dim": merged.dim, "count": len(merged)})
    return merged


def profile_means(embeddings: Embeddings, enroll_map: Mapping[str, Sequence[str]]) -> Embeddings:
    """Voice profiles: the mean of each profile's enrollment utterances (not length-normalised).

    Args:
        embeddings: utterance embeddings of the enrollment model, before any mapping.
        enroll_map: {profile: utterances}, none empty.

    Returns:
        The profiles, in the order of the map, summed in float64, with the same stamp.

    Raises:
        InputError: a profile without utterances or with a repeated one, or an utterance without
            a vector.
    """
    for profile, utterances in enroll_map.items():
        if not utterances:
            raise InputError(f"profile {profile!r} has no utterances; give it one or remove it")
        if len(set(utterances)) < len(utterances):
            raise InputError(f"profile {profile!r} lists an utterance twice; remove one")
    counts = np.array([len(utterances) for utterances in enroll_map.values()], np.int64)
    rows = embeddings.rows([key for utterances in enroll_map.values() for key in utterances])
    starts = np.cumsum(counts) - counts
    means = np.empty((len(counts), embeddings.dim), np.float32)
    for first in range(0, embeddings.dim if len(counts) else 0, _COLUMNS_PER_SUM):
        columns = slice(first, first + _COLUMNS_PER_SUM)
        gathered = embeddings.matrix[rows, columns].astype(np.float64)
        means[:, columns] = np.add.reduceat(gathered, starts, axis=0) / counts[:, None]
    return Embeddings(enroll_map, means, embeddings.stamp)


def speaker_means(
    embeddings: Embeddings, utt2spk: Mapping[str, str]
) -> tuple[Embeddings, dict[str, int]]:
    """The mean embedding of every speaker, over all utterances of theirs.

    Args:
        embeddings: utterance embeddings.
        utt2spk: {utterance: speaker}; may name more utterances.

    Returns:
        (means, C-sorted by speaker; {speaker: number of utterances} in the same order).

    Raises:
        InputError: an utterance has no speaker.
    """
    if orphans := [key for key in embeddings.keys if key not in utt2spk]:
        raise InputError(f"{_some(orphans)} have no speaker; add them to utt2spk")
    spk2utt: dict[str, list[str]] = {}
    for key in embeddings.keys:
        spk2utt.setdefault(utt2spk[key], []).append(key)
    spk2utt = {speaker: spk2utt[speaker] for speaker in sorted(spk2utt, key=str.encode)}
    counts = {speaker: len(utterances) for speaker, utterances in spk2utt.items()}
    return profile_means(embeddings, spk2utt), counts


# The embeddings directory


def _part(directory: Path, job: int, suffix: str) -> Path:
    return directory / f"xvector.{job}.{suffix}"


def _unseal(directory: Path) -> None:
    """Take away what says that the directory is complete, before anything under it changes."""
    for name in ("info.json", "xvector.scp"):
        (directory / name).unlink(missing_ok=True)


def _remove_stale_parts(directory: Path, jobs: int) -> None:
    for suffix in ("scp", "ark"):
        for path in directory.glob(f"xvector.*.{suffix}"):
            job = path.name.split(".")[1]
            if job.isdecimal() and int(job) > jobs:
                path.unlink()


def _check_same_utterances(
    directory: Path, keys: Sequence[str], utt2spk: Mapping[str, str]
) -> None:
    present = set(keys)
    if lacking := [key for key in utt2spk if key not in present]:
        raise InputError(
            f"{directory}: {_some(lacking)} of utt2spk have no vector; run extraction again"
        )
    if unknown := [key for key in keys if key not in utt2spk]:
        raise InputError(
            f"{directory}: {_some(unknown)} are not in utt2spk; remove the directory's parts "
            "and run extraction again"
        )


def _read_stamp(table: Path, embeddings: Embeddings) -> ModelStamp | None:
    """The stamp beside `table`, checked against what the table holds; None if there is none."""
    path = table.with_name("info.json")
    if not path.exists():
        return None
    info = read_json(path)
    fields = {"model": str, "fingerprint": str, "set": str, "dim": int, "count": int}
    for name, kind in fields.items():
        if not isinstance(info, dict) or not isinstance(info.get(name), kind):
            raise InputError(f"{path}: no {name!r} of type {kind.__name__}; run extraction again")
    count = info["count"] if table.name == "xvector.scp" else len(embeddings)
    if (info["dim"], count) != (embeddings.dim, len(embeddings)):
        raise InputError(
            f"{path}: says {info['count']} vectors of dimension {info['dim']}, but {table.name} "
            f"has {len(embeddings)} of dimension {embeddings.dim}; run extraction again"
        )
    return ModelStamp(info["model"], info["fingerprint"], info["set"])


# Reading


_Records = tuple[list[str], Sequence[int], bytes]  # keys, offsets of their vectors, float32 rows


class _Ark:
    """The vectors in the bytes of an ark."""

    def __init__(self, name: str, data: bytes | mmap.mmap) -> None:
        self.name = name
        self._data = data
        self.size = len(data)
        self._end = 0  # of the vector read last
        self._header: bytes | None = None  # of the binary vector read last, with what it means:
        self._type, self._width = _FLOAT, 0

    def records(self) -> Iterator[_Records]:
        """All records, in file order, in runs of one or more."""
        while self._end < self.size:
            start = self._end
            space = self._data.find(b" ", start, start + _MAX_KEY_BYTES)
            if space <= start:
                raise InputError(f"{self.name}: byte {start}: expected a key and a vector")
            try:
                key = self._data[start:space].decode()
            except UnicodeDecodeError as error:
                raise InputError(f"{self.name}: byte {start}: key is not UTF-8") from error
            yield [key], [space + 1], self._vector(key, space + 1)
            if run := self._run(space - start, self._end - start):
                yield run

    def records_at(self, keys: list[str], offsets: list[int]) -> Iterator[_Records]:
        """The records that an scp lists; offset 0 is a file of one bare vector."""
        row = 0
        in_order = True  # until the scp departs from the order of the ark
        while row < len(keys):
            key, offset = keys[row], offsets[row]
            start = offset - len(label := key.encode() + b" ")
            if offset and self._data[max(start, 0) : offset] != label:
                self._refuse(key, offset, "is not here: the scp is stale; write both again")
            yield [key], [offset], self._vector(key, offset)
            if not offset and self._end != self.size:
                self._refuse(key, offset, "is followed by more; is an `:offset` missing?")
            row += 1
            if in_order and (run := self._run(len(label) - 1, self._end - start)):
                end = row + len(run[0])
                in_order = keys[row:end] == run[0] and offsets[row:end] == list(run[1])
                if in_order:
                    yield run
                    row = end

    def _run(self, key_bytes: int, stride: int) -> _Records | None:
        """Records that follow and repeat the last one's layout to the byte, read as an array.

        Ids of one length, which are common, make every record as long as the one before it.
        What differs in any way is left to be read one by one. At most `_MAX_RUN` records.
        """
        label = b" " + (self._header or b"")
        body = key_bytes + len(label)
        if stride != body + self._width:  # the last one was text
            return None
        probe = self._end + (_MIN_RUN - 1) * stride + key_bytes
        if self._type != _FLOAT or self._data[probe : probe + len(label)] != label:
            return None
        count = min((self.size - self._end) // stride, _MAX_RUN)
        shaped = np.frombuffer(self._data, np.uint8, count * stride, self._end)
        shaped = shaped.reshape(count, stride)
        alike = (shaped[:, key_bytes:body] == np.frombuffer(label, np.uint8)).all(axis=1)
        alike &= ((shaped[:, :key_bytes] > 0x20) & (shaped[:, :key_bytes] < 0x7F)).all(axis=1)
        count = count if alike.all() else int(alike.argmin())
        joined = shaped[:count, :key_bytes].tobytes().decode()
        keys = [joined[i : i + key_bytes] for i in range(0, len(joined), key_bytes)]
        first = self._end + key_bytes + 1
        self._end += count * stride
        return keys, range(first, first + count * stride, stride), shaped[:count, body:].tobytes()

    def _vector(self, key: str, offset: int) -> bytes:
        start = offset + _HEADER_BYTES
        header = self._data[offset:start]
        if header != self._header:  # seldom: a table has one type and one dimension
            if not header.startswith(_BINARY):
                return self._text_vector(key, offset)
            self._parse(header, key, offset)
        self._end = start + self._width
        if self._end > self.size:
            over = self._end - self.size
            self._refuse(
                key, offset, f"goes {over} bytes beyond the end of the file; extract it again"
            )
        payload = self._data[start : self._end]
        if self._type == _FLOAT:
            return payload
        return self._narrow(np.frombuffer(payload, "<f8"), key, offset)

    def _parse(self, header: bytes, key: str, offset: int) -> None:
        """Take type and size of a binary vector from its header."""
        kind, dim = header[2:6], header[6:]
        if kind[:3] in _MATRICES:
            self._refuse(key, offset, "is a matrix, not a vector; write one vector per key")
        if len(header) == _HEADER_BYTES and kind not in (_FLOAT, _DOUBLE):
            self._refuse(key, offset, f"has type {kind!r}; write it as FV (float32)")
        if len(header) < _HEADER_BYTES:
            self._refuse(key, offset, "is cut short by the end of the file; extract it again")
        (count,) = struct.unpack("<i", dim)
        if count <= 0:
            self._refuse(key, offset, f"has dimension {count}; extract it again")
        self._header, self._type = header, kind
        self._width = count * (4 if kind == _FLOAT else 8)

    def _text_vector(self, key: str, offset: int) -> bytes:
        opening = self._data[offset : offset + 8].strip()
        if opening in (b"", b"\0"):
            self._refuse(key, offset, "is cut short by the end of the file; extract it again")
        if opening.startswith(b"PKL"):
            self._refuse(key, offset, "is a Python pickle, which is never loaded; write it as FV")
        if not opening.startswith(b"["):
            self._refuse(key, offset, f"begins {opening!r}, not as a Kaldi vector; write it as FV")
        newline = self._data.find(b"\n", offset)
        self._end = newline + 1 if newline >= 0 else self.size
        line = self._data[offset : self._end].strip()
        if not line.endswith(b"]"):
            self._refuse(key, offset, "has no ']' on its line: it is a matrix, or is cut short")
        numbers = line[1:-1].split()
        if not numbers:
            self._refuse(key, offset, "is empty; extract it again")
        try:
            values = np.array([float(number) for number in numbers])
        except ValueError:
            self._refuse(key, offset, "has an entry that is not a number; write it again")
        if b"_" in line:  # Python reads 1_000, Kaldi does not
            self._refuse(key, offset, "has an entry that is not a number; write it again")
        return self._narrow(values, key, offset)

    def _narrow(self, values: npt.NDArray[np.float64], key: str, offset: int) -> bytes:
        with np.errstate(over="ignore"):
            narrow = values.astype(_FLOAT32)
        if np.isinf(narrow[np.isfinite(values)]).any():
            self._refuse(key, offset, "has values beyond float32; extract it again")
        return narrow.tobytes()

    def _refuse(self, key: str, offset: int, complaint: str) -> NoReturn:
        raise InputError(f"{self.name}: byte {offset}: vector of {key!r} {complaint}")


@dataclass(frozen=True)
class _Listing:
    """The lines of one scp, or of several put together."""

    name: str
    keys: list[str]
    locations: list[str]  # as they stand in the lines
    where: Callable[[int], str]  # file and line of a row


def _read_scp(path: Path) -> _Listing:
    keys, locations = [], []
    for number, line in read_lines(path):
        fields = line.split(maxsplit=1)
        if len(fields) != 2:
            raise InputError(f"{path}: line {number}: expected `key ark:offset`, got {line!r}")
        keys.append(fields[0])
        locations.append(fields[1])
    return _Listing(str(path), keys, locations, lambda row: f"{path}: line {row + 1}")


def _merge_scps(directory: Path, parts: Sequence[_Listing]) -> _Listing:
    """The lines of all parts, C-sorted by key."""
    lines = [(part, row) for part in parts for row in range(len(part.keys))]
    lines.sort(key=lambda line: line[0].keys[line[1]].encode())
    return _Listing(
        str(directory),
        [part.keys[row] for part, row in lines],
        [part.locations[row] for part, row in lines],
        lambda row: lines[row][0].where(lines[row][1]),
    )


def _read_ark(path: Path) -> Embeddings:
    with _open_ark(str(path), str(path), path) as ark:
        keys, offsets, matrix = _stack(ark.records(), ark.name, ark.size)
    return Embeddings(keys, matrix, where=lambda row: f"{path}: byte {offsets[row]}")


def _read_listed(listing: _Listing, allow_pipes: bool) -> Embeddings:
    """Read what scp lines point to, opening each ark once."""
    if not listing.keys:
        raise InputError(f"{listing.name}: holds no vectors; run extraction again")
    groups: dict[str, list[int]] = {}  # rows of each source
    offsets = []
    for row, location in enumerate(listing.locations):
        source, offset = _split_location(location)
        offsets.append(offset)
        groups.setdefault(source, []).append(row)

    matrix = np.empty((0, 0), np.float32)
    for source, rows in groups.items():
        place = listing.where(rows[0])
        with _open_source(listing.name, place, source, allow_pipes) as ark:
            runs = ark.records_at(
                [listing.keys[row] for row in rows], [offsets[row] for row in rows]
            )
            _, _, block = _stack(runs, ark.name, ark.size)
        if not matrix.size:
            matrix = np.empty((len(offsets), block.shape[1]), np.float32)
        if block.shape[1] != matrix.shape[1]:
            raise InputError(
                f"{place}: {source} has vectors of dimension {block.shape[1]}, those before it "
                f"{matrix.shape[1]}; extract all with one model"
            )
        matrix[rows] = block
    return Embeddings(listing.keys, matrix, where=listing.where)


def _split_location(location: str) -> tuple[str, int]:
    """(source, offset) of `ark:offset`, of a file of one bare vector, or of a pipe."""
    source, _, offset = location.rpartition(":")
    if source and offset.isascii() and offset.isdecimal():
        return source, int(offset)
    return location, 0


@contextlib.contextmanager
def _open_source(table: str, place: str, source: str, allow_pipes: bool) -> Iterator[_Ark]:
    """The file or pipe that `table` names, first at the line `place`."""
    if source.endswith("]"):
        raise InputError(
            f"{place}: range specifiers are not supported: {source}; "
            "write the range as a vector of its own"
        )
    if not source.endswith("|"):
        with _open_ark(f"{table}: {source}", f"{place}: {source}", Path(source)) as ark:
            yield ark
    elif allow_pipes:
        output = _run_pipe(place, source.removesuffix("|"))
        yield _Ark(f"{place}: {source}", output)
    else:
        raise InputError(
            f"{place}: {source} is a command, which is not run; allow pipes if you trust the file"
        )


@contextlib.contextmanager
def _open_ark(name: str, place: str, path: Path) -> Iterator[_Ark]:
    """Map a file; `name` is the ark's in messages, `place` says who asked for it."""
    if not path.is_file():  # a FIFO or a device would block or never end
        what = "not a regular file" if path.exists() else "no such file"
        raise InputError(f"{place}: {what}; has the stage that makes it been run?")
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise InputError(f"{place}: empty file, holds no vectors; run extraction again")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{place}: cannot be read: {error.strerror}") from error
    with data:
        yield _Ark(name, data)


def _run_pipe(place: str, command: str) -> bytes:
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").strip()
        raise InputError(f"{place}: command failed with status {done.returncode}: {complaint}")
    return done.stdout


def _stack(
    runs: Iterable[_Records], name: str, size: int
) -> tuple[list[str], list[int], npt.NDArray[np.float32]]:
    """(keys, offsets, matrix) of the records of one source of `size` bytes and one dimension."""
    keys: list[str] = []
    offsets: list[int] = []
    flat = np.empty(size, np.uint8)  # enough for binary; memory is taken only as it is filled
    used = width = 0  # bytes of all rows, of one row
    for run_keys, run_offsets, payload in runs:
        width = width or len(payload)
        if len(payload) != width * len(run_keys):
            item = _FLOAT32.itemsize
            raise InputError(
                f"{name}: byte {run_offsets[0]}: vector of {run_keys[0]!r} has dimension "
                f"{len(payload) // item}, those before it {width // item}; "
                "extract all with one model"
            )
        if used + len(payload) > len(flat):
            flat = np.concatenate([flat, np.empty(len(flat) + len(payload), np.uint8)])
        flat.data[used : used + len(payload)] = payload
        used += len(payload)
        keys += run_keys
        offsets += run_offsets
    return keys, offsets, flat[:used].view(_FLOAT32).reshape(len(keys), -1)


# Checking


def _as_float32(matrix: npt.ArrayLike) -> npt.NDArray[np.float32]:
    try:
        array = np.asarray(matrix)
        if np.iscomplexobj(array):
            raise TypeError("these are complex")
        with np.errstate(over="ignore"):  # the overflow shows as infinity, and is refused as such
            return np.ascontiguousarray(array, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"embeddings need a matrix of real numbers: {error}") from error


def _check_keys(keys: list[str], where: Callable[[int], str]) -> None:
    for row, key in enumerate(keys):
        if not isinstance(key, str):
            raise InputError(f"{where(row)}: key {key!r} is not a string")
        if key.split() != [key] or "\0" in key:
            raise InputError(f"{where(row)}: key {key!r} is empty or has white space or NUL in it")
        if not key.isascii() and key != key.encode(errors="replace").decode():
            raise InputError(f"{where(row)}: key {key!r} cannot be written as UTF-8")


def _refuse_duplicate(keys: list[str], where: Callable[[int], str]) -> NoReturn:
    first_row: dict[str, int] = {}
    for row, key in enumerate(keys):
        if (first := first_row.setdefault(key, row)) != row:
            break
    raise InputError(f"{where(row)}: duplicate key {key!r}, also at {where(first)}; remove one")


def _check_finite(
    keys: list[str], matrix: npt.NDArray[np.float32], where: Callable[[int], str]
) -> None:
    # NaN and infinities survive min and max, which need no (N, D) temporary.
    if not len(matrix) or (np.isfinite(matrix.min()) and np.isfinite(matrix.max())):
        return
    row = next(row for row, vector in enumerate(matrix) if not np.isfinite(vector).all())
    nans = int(np.isnan(matrix[row]).sum())
    infinities = int(np.isinf(matrix[row]).sum())
    found = f"{nans} NaN" if nans else f"{infinities} infinite"
    raise InputError(f"{where(row)}: vector of {keys[row]!r} has {found} values; extract it again")


def _some(names: Sequence[str]) -> str:
    """`3 ids ('a', 'b', ...)`: how many, and the first of them."""
    shown = ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} ({shown})"
