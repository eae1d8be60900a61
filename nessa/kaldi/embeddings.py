"""Speaker embeddings, and the Kaldi tables (ark, scp) that keep them on disk.

An scp lists `key ark:offset`, the offset being that of the vector in an ark; see `nessa.kaldi.ark`.

Reading is strict: whatever is not a finite vector of one common dimension under a unique key is
refused with its file and place. Nothing read is executed: no pickles, and no pipes.
"""

import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from nessa.errors import InputError, named
from nessa.files import write_table
from nessa.kaldi.ark import Ark, Matrix, check_alike, open_listed
from nessa.kaldi.checks import as_float32, check_finite, check_ids, check_unique
from nessa.kaldi.datadir import is_there, utterances_by_speaker
from nessa.kaldi.directory import (
    SPEAKER_ARK,
    SPEAKER_COUNTS,
    SPEAKER_TABLE,
    begin,
    complete,
    read_parts,
    write_part,
    write_tables,
)
from nessa.kaldi.scp import Listing, are_sorted, merge_scps, read_scp, without_keys
from nessa.kaldi.stamps import XVECTOR_TABLES, ModelStamp, read_stamp

_COLUMNS_PER_SUM = 16  # one cache line of float32; bounds the float64 copy that a mean needs


class Embeddings:
    """Speaker embeddings under their keys: utterance, speaker or profile ids.

    Attributes:
        keys: N unique ids without white space.
        matrix: float32 (N, D), C-contiguous, finite; row i belongs to keys[i].
        stamp: the model that made them, or None if unknown.

    Examples:
        >>> embeddings = Embeddings(["ann-1", "bob-1"], [[1, 0], [0, 1]])
        >>> len(embeddings), embeddings.dim
        (2, 2)
        >>> embeddings.select(["bob-1"]).matrix.tolist()
        [[0.0, 1.0]]
    """

    def __init__(
        self, keys: Iterable[str], matrix: npt.ArrayLike, stamp: ModelStamp | None = None
    ) -> None:
        """Check and keep keys and matrix; a C-contiguous float32 array is kept without a copy.

        Args:
            keys: N ids.
            matrix: real (N, D), D at least 1.
            stamp: the model that made them.

        Raises:
            InputError: a key that is empty, repeated or has white space, a matrix of another
                shape, or a value that is NaN, infinite or beyond float32.
        """
        self.keys = list(keys)
        self.matrix = as_float32(matrix)
        self.stamp = stamp
        if self.matrix.ndim != 2 or self.matrix.shape[0] != len(self.keys):
            shape = self.matrix.shape
            raise InputError(f"{len(self.keys)} keys need a matrix of as many rows, got {shape}")
        if self.matrix.shape[1] == 0:
            raise InputError("embeddings need at least one dimension, got a matrix of 0 columns")
        check_ids(self.keys)
        check_unique(self.keys)
        check_finite(self.keys, self.matrix)

    @classmethod
    def _read(
        cls, keys: list[str], matrix: Matrix, finite: bool, where: Callable[[int], str]
    ) -> Self:
        """Embeddings whose keys and values were checked one by one while they were read."""
        check_unique(keys, where)
        if not finite:
            check_finite(keys, matrix, where)
        made = cls.__new__(cls)
        made.keys, made.matrix, made.stamp = keys, matrix, None
        return made

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return dict(zip(self.keys, range(len(self)), strict=True))

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Embeddings({len(self)} x {self.dim}, stamp={self.stamp})"

    @property
    def dim(self) -> int:
        """D, the dimension of the vectors."""
        return self.matrix.shape[1]

    @classmethod
    def read(cls, path: Path | str) -> "Embeddings":
        """Read an ark, an scp, or an embeddings directory.

        A directory is read through its `xvector.scp`, or through all `xvector_NN.scp` that
        3D-Speaker's processes write, if there is none. Tables of the embeddings directory carry
        the stamp of the `info.json` beside them. Relative paths inside an scp are found as
        `nessa.files.find_listed` says. Memory: 4 N D bytes and the largest ark's share.

        Args:
            path: `*.ark` (binary or text, float or double), `*.scp`, or a directory.

        Returns:
            The embeddings, in file order.

        Raises:
            InputError: anything but finite vectors of one dimension under unique keys, or an
                `info.json` that does not fit them.
        """
        path = Path(path)
        _refuse_table(path)
        if path.is_dir():
            if parts := scps_of_ranks(path):
                listing = merge_scps(f"{path}/xvector_NN.scp", [read_scp(part) for part in parts])
                return _read_listed(listing)
            path = path / "xvector.scp"
        if path.suffix == ".ark":
            embeddings = _read_ark(path)
        elif path.suffix == ".scp":
            embeddings = _read_listed(read_scp(path))
        else:
            wanted = "expected a .scp, an .ark or an embeddings directory"
            missing = "no such file or folder; has the stage that makes it been run?"
            raise InputError(f"{path}: {wanted if path.exists() else missing}")
        if path.name in XVECTOR_TABLES:
            embeddings.stamp = read_stamp(path, len(embeddings), embeddings.dim)
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
                f"no vector for {named(missing)} among {len(self)} embeddings; "
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
        directory = Path(directory)
        _check_utterances(directory, self.keys, utt2spk)  # before what is there is written over
        ordered = self if are_sorted(self.keys) else self.select(sorted(self.keys))
        parts = [write_part(directory, 1, [(self.keys, self.matrix)], relative)]
        listing = merge_scps(str(directory), parts)
        _complete(directory, parts, listing, ordered, utt2spk, self.stamp, relative)

    def write_part(self, directory: Path | str, job: int) -> None:
        """Write `xvector.JOB.ark` and its scp, one shard of an embeddings directory.

        The directory is complete, or complete again, once `merge_parts` has run.

        Args:
            directory: made if missing.
            job: number of the shard, from 1.
        """
        write_part(Path(directory), job, [(self.keys, self.matrix)])

    def write_ark(
        self, ark: Path | str, scp: Path | str | None = None, relative: bool = False
    ) -> None:
        """Write one binary float32 ark, and the scp that lists it after it.

        Args:
            ark: path of the ark.
            scp: path of the scp, or None for none.
            relative: write scp paths relative to the working directory, not absolute.
        """
        listed = Path(scp) if scp is not None else None
        write_tables(Path(ark), listed, [(self.keys, self.matrix)], relative)


def scps_of_ranks(directory: Path) -> list[Path]:
    """The tables of a directory that 3D-Speaker wrote: one for each process, and none of all."""
    if is_there(directory / "xvector.scp"):
        return []
    return sorted(directory.glob("xvector_[0-9]*.scp"))


def _read_ark(path: Path) -> Embeddings:
    keys, offsets, matrix, finite = Ark.open(str(path), str(path), path).read()
    return Embeddings._read(keys, matrix, finite, lambda row: f"{path}: byte {offsets[row]}")


def _read_listed(listing: Listing) -> Embeddings:
    """Read what scp lines point to, opening each ark once."""
    if not listing.keys:
        raise InputError(f"{listing.name}: holds no vectors; run extraction again")
    matrix, finite = np.empty((0, 0), np.float32), True
    for number, source in enumerate(listing.sources):
        rows = np.flatnonzero(listing.source_of == number)
        place = listing.where(int(rows[0]))
        keys = [listing.keys[row] for row in rows.tolist()]
        ark = _open_source(listing.name, place, source)
        vectors = ark.find(keys, listing.offsets[rows])
        if not matrix.size:
            matrix = np.empty((len(listing.keys), vectors.dim), np.float32)
        check_alike(vectors, matrix.shape[1], place, source)
        finite &= vectors.gather(matrix, rows)
    return Embeddings._read(listing.keys, matrix, finite, listing.where)


def _refuse_table(path: Path) -> None:
    """Say of a product's table, which `nessa map` takes and writes, that it is no ark or scp."""
    if path.is_dir():
        is_table = any(path.glob("*.parquet")) and not is_there(path / "xvector.scp")
    else:
        is_table = path.suffix in (".npz", ".parquet") and path.exists()
    if is_table:
        raise InputError(
            f"{path}: is a table (.npz or Parquet), which is not read here; give a .scp, an .ark "
            "or an embeddings directory, which nessa map makes of such (docs/your-arks.md, 5)"
        )


def _open_source(table: str, place: str, source: str) -> Ark:
    """The file that `table` names, first at the line `place`."""
    if source.endswith("]"):
        raise InputError(
            f"{place}: range specifiers are not supported: {source}; "
            "write the range as a vector of its own"
        )
    if source.endswith("|"):
        raise InputError(
            f"{place}: {source} is a command, which is not run; write its output to an ark "
            f"(Kaldi: copy-vector scp:{table} ark,scp:new.ark,new.scp) and name that"
        )
    return open_listed(table, place, source)


def merge_parts(
    directory: Path | str,
    jobs: int,
    utt2spk: Mapping[str, str] | None = None,
    stamp: ModelStamp | None = None,
    left_out: Container[str] = (),
    relative: bool = False,
) -> Embeddings:
    """Complete an embeddings directory whose parts 1 to `jobs` are written.

    Writes the other files of `nessa.kaldi.directory`. Parts beyond `jobs`, left by a run with more
    of them, are removed. A part may be empty. Memory: all vectors, 4 N D bytes.

    Args:
        directory: holds `xvector.JOB.{ark,scp}`.
        jobs: number of parts.
        utt2spk: {utterance: speaker}, of exactly the utterances to merge; None leaves out
            the per-speaker files.
        stamp: the model that made the vectors; None leaves out `info.json`.
        left_out: utterances of the parts that are not merged.
        relative: write scp paths relative to the working directory, whatever those of the parts.

    Returns:
        The merged embeddings, C-sorted by key.

    Raises:
        InputError: a part is missing or broken, two parts share a key, there are no vectors at
            all, or `utt2spk` names other utterances than the parts.
    """
    directory = Path(directory)
    parts = read_parts(directory, [None] * jobs)
    listing = without_keys(merge_scps(str(directory), parts), left_out)
    merged = _read_listed(listing)
    _check_utterances(directory, merged.keys, utt2spk)
    if relative:
        listing = replace(listing, sources=[os.path.relpath(ark) for ark in listing.sources])
    _complete(directory, parts, listing, merged, utt2spk, stamp, relative)
    merged.stamp = stamp
    return merged


def _complete(
    directory: Path,
    parts: Sequence[Listing],
    listing: Listing,
    merged: Embeddings,
    utt2spk: Mapping[str, str] | None,
    stamp: ModelStamp | None,
    relative: bool,
) -> None:
    """Complete a directory whose parts, sorted in `listing`, hold the merged embeddings."""
    begin(directory, len(parts), len(merged), merged.dim, stamp)
    if utt2spk is not None:
        means, counts = speaker_means(merged, utt2spk)
        means.write_ark(directory / SPEAKER_ARK, directory / SPEAKER_TABLE, relative)
        write_table(directory / SPEAKER_COUNTS, counts)
    complete(directory, parts, listing)


def _check_utterances(
    directory: Path, keys: Sequence[str], utt2spk: Mapping[str, str] | None
) -> None:
    """Refuse what makes no complete directory: no vectors, or those of others than `utt2spk`."""
    if not keys:
        raise InputError(f"{directory}: holds no vectors; run extraction again")
    if utt2spk is None:
        return
    present = set(keys)
    if lacking := [key for key in utt2spk if key not in present]:
        raise InputError(
            f"{directory}: no vector for {named(lacking)} of utt2spk; run extraction again"
        )
    if unknown := [key for key in keys if key not in utt2spk]:
        raise InputError(
            f"{directory}: not in utt2spk: {named(unknown)}; remove the directory's parts and "
            "run extraction again"
        )


def profile_means(embeddings: Embeddings, enroll_map: Mapping[str, Sequence[str]]) -> Embeddings:
    """Voice profiles: the mean of each profile's enrollment utterances (not length-normalized).

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
    means = group_means(embeddings.matrix, rows, counts)
    return Embeddings(enroll_map, means, embeddings.stamp)


def group_means(
    matrix: npt.NDArray[np.floating], rows: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> Matrix:
    """Means of groups of rows, summed in float64.

    Args:
        matrix: (N, D).
        rows: the groups' rows, one group after the other.
        counts: how many each group has, at least one, (S,).

    Returns:
        float32 (S, D).
    """
    starts = np.cumsum(counts) - counts
    means = np.empty((len(counts), matrix.shape[1]), np.float32)
    for first in range(0, matrix.shape[1] if len(counts) else 0, _COLUMNS_PER_SUM):
        columns = slice(first, first + _COLUMNS_PER_SUM)
        gathered = matrix[rows, columns].astype(np.float64)
        means[:, columns] = np.add.reduceat(gathered, starts, axis=0) / counts[:, None]
    return means


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
    spoken = utterances_by_speaker(embeddings.keys, utt2spk)
    spk2utt = {speaker: spoken[speaker] for speaker in sorted(spoken, key=str.encode)}
    counts = {speaker: len(utterances) for speaker, utterances in spk2utt.items()}
    return profile_means(embeddings, spk2utt), counts
