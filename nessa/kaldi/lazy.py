"""Embeddings larger than memory: they stay in their arks, and are read on demand."""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nessa.errors import InputError
from nessa.kaldi.ark import Ark, check_alike, open_listed
from nessa.kaldi.scp import Lines, stream_scp
from nessa.threads import in_threads

ROWS_PER_BLOCK = 4096
BLOCKS_AT_ONCE = 32  # read before the memory of the mapped arks is let go


class NotStorableError(Exception):
    """A table whose vectors have to be read at once: text, float64, or the output of a command."""


class StoredVectors:
    """Vectors (N, D) in the order of an scp. Memory: 12 bytes a vector.

    Args:
        scp: lists float32 vectors in arks.
    """

    def __init__(self, scp: Path) -> None:
        self._scp = scp
        self._codes: dict[str, int] = {}  # of the arks
        self._arks: dict[int, Ark] = {}
        self._dim = 0
        self._ark_of = np.empty(0, np.int32)
        self._offsets = np.empty(0, np.int64)

    def open(self) -> Iterator[list[str]]:
        """Check every record, and yield the keys; vectors can be read once that has ended.

        Raises:
            InputError: see `Embeddings.read`.
            NotStorableError: a vector that is not float32 in a file.
        """
        _allow_open_files()
        ark_of, offsets = [self._ark_of], [self._offsets]
        for lines in stream_scp(self._scp):
            # Lines whose arks alternate have a source each.
            own = [self._codes.setdefault(source, len(self._codes)) for source in lines.sources]
            codes = np.array(own, np.int32)[lines.source_of]
            for code in np.unique(codes).tolist():
                self._check(lines, code, np.flatnonzero(codes == code))
            ark_of.append(codes)
            offsets.append(lines.offsets)
            self._forget()
            yield lines.keys
        self._ark_of, self._offsets = np.concatenate(ark_of), np.concatenate(offsets)
        if not len(self):
            raise InputError(f"{self._scp}: holds no vectors; run extraction again")

    def _check(self, lines: Lines, code: int, rows: npt.NDArray[np.int64]) -> None:
        """Refuse lines of one ark whose vectors are not as they should be."""
        source = lines.sources[lines.source_of[rows[0]]]
        if source.endswith(("|", "]")):
            raise NotStorableError
        place = f"{self._scp}: line {lines.first + rows[0]}"
        if code not in self._arks:
            self._arks[code] = open_listed(self._scp, place, source)
        found = self._arks[code].find([lines.keys[row] for row in rows], lines.offsets[rows])
        if found.odd:
            raise NotStorableError
        self._dim = self._dim or found.dim
        check_alike(found, self._dim, place, source)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self), self._dim

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, rows: Any) -> npt.NDArray[np.float32]:
        """Read some vectors.

        Args:
            rows: K numbers or a slice.

        Returns:
            float32 (K, D).

        Raises:
            InputError: a value is not finite.
        """
        ark_of, offsets = self._ark_of[rows], self._offsets[rows]
        out = np.empty((len(offsets), self._dim), np.float32)
        for code in np.unique(ark_of).tolist():
            own = ark_of == code
            out[own] = self._arks[code].vectors_at(offsets[own])
        if not np.isfinite(out).all():
            row = int(np.flatnonzero(~np.isfinite(out).all(axis=1))[0])
            ark = self._arks[ark_of[row]]
            raise InputError(
                f"{ark.name}: byte {offsets[row]}: vector is not finite; extract it again"
            )
        return out

    def load(self) -> npt.NDArray[np.float32]:
        """All of the vectors, in memory."""
        out = np.empty(self.shape, np.float32)

        def read(start: int) -> None:
            block = slice(start, start + ROWS_PER_BLOCK)
            out[block] = self[block]

        starts = range(0, len(self), ROWS_PER_BLOCK)
        for first in range(0, len(starts), BLOCKS_AT_ONCE):
            in_threads(read, starts[first : first + BLOCKS_AT_ONCE])
            self._forget()
        return out

    def _forget(self) -> None:
        for ark in self._arks.values():
            ark.forget()


def _allow_open_files() -> None:
    """Raise the limit of open files as far as is allowed: each ark that is mapped counts as one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
