"""What a database of profiles is to a migration: four methods, and `len`.

`nessa.production.migration` maps one store into another one and verifies it by these alone.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl

import numpy as np

from nessa.errors import InputError
from nessa.kaldi.ark import Matrix

SPACE, SOURCE = "nessa_space", "nessa_source"  # columns of mapped rows: their stamp


class Stamp(NamedTuple):
    """What a mapped row is, and what it was made of.

    Attributes:
        space: fingerprint of the space that the vector is in.
        source: digests of the map that made it, and of the raw row that it was made of; at most 64
            characters. See `nessa.production.migration`.
    """

    space: str
    source: str


class Rows(NamedTuple):
    """Some rows of a store.

    Attributes:
        keys: N ids as text; integers and UUIDs as they are written.
        matrix: (N, D); (N, 0) where vectors were not asked for.
        stamps: of mapped rows, N of them; empty of raw ones.
        more: what else each row holds that must go where the vector goes, by field; empty where
            a mapped row is joined to its raw one.
    """

    keys: list[str]
    matrix: Matrix
    stamps: Sequence[Stamp] = ()
    more: Sequence[dict[str, Any]] = ()

    def digests(self) -> list[str]:
        """Of each row, 32 characters that tell whether it has changed: of its vector and `more`."""
        vectors = [row.tobytes() for row in np.ascontiguousarray(self.matrix, np.float32)]
        texts = [json.dumps(row, sort_keys=True, default=str).encode() for row in self.more]
        pairs = zip(vectors, texts or [b""] * len(vectors), strict=True)
        return [hashlib.blake2b(b"".join(pair), digest_size=16).hexdigest() for pair in pairs]

    def take(self, rows: Sequence[int]) -> "Rows":
        """Some of the rows, by their places."""
        stamps, more = self.stamps, self.more
        return Rows(
            [self.keys[row] for row in rows],
            self.matrix[rows],
            [stamps[row] for row in rows if stamps],
            [more[row] for row in rows if more],
        )


class ProfileStore(Protocol):
    """A table of profiles. As text, it is what messages call it."""

    def __len__(self) -> int:
        """How many rows there are; 0 where there is no table yet."""

    def read(self, keys: Sequence[str] | None = None, vectors: bool = True) -> Iterator[Rows]:
        """All rows, or those of some ids that are there, in blocks and in any order.

        Memory: a block. Rows that others change meanwhile are given as they were, or as they are.

        Raises:
            InputError: a row without id or vector, or vectors of several dimensions.
        """

    def write(self, rows: Rows) -> None:
        """Insert mapped rows, replacing those of the same ids; make the table if there is none.

        A reader sees a row as it was or as it is now, never a part of it.
        """

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the rows of some ids."""

    def search(self, queries: Matrix, count: int) -> list[list[str]]:
        """The ids of the `count` nearest rows by cosine to each query (Q, D), the nearest first.

        By the index that the application uses, not by comparing with all rows.
        """


class Database(Protocol):
    """Two stores in one database, one of which the application reads by a name of its own.

    Attributes:
        source: the raw profiles.
        target: the mapped ones, which need not be there yet.
    """

    source: ProfileStore
    target: ProfileStore

    def check(self) -> None:
        """Refuse to map a source of which mapped rows would lose something; before `migrate`."""

    def index(self) -> None:
        """Make the target's index for search, if there is none."""

    def statement(self, store: ProfileStore) -> str:
        """What makes the application read one of the two, in the database's own language."""

    def serve(self, store: ProfileStore) -> None:
        """Run that statement: at once, for all that read.

        Raises:
            InputError: the target has no index for search.
        """

    def close(self) -> None:
        """Close its connections."""


def parse_query(query: str) -> dict[str, str]:
    """What follows the ? of a database's URL, read as libpq reads it: a + is a plus."""
    return dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))


def check_live(live: str, table: str, to: str) -> None:
    """Refuse what the application is to read by, where a table has the name.

    Raises:
        InputError: it is that of the raw or of the mapped table.
    """
    if live in (table, to):
        raise InputError(
            f"{live!r} is what the application is to read by, and the name of a table; give "
            "another --to or &live="
        )


def stacked(vectors: Sequence[Any], keys: Sequence[str], place: str) -> Matrix:
    """Vectors (D,) of a database as a matrix (N, D).

    Raises:
        InputError: a null, or one in a vector, or another dimension than the first row's; names
            the row.
    """
    dim = None
    for key, vector in zip(keys, vectors, strict=True):
        if vector is None:
            raise InputError(f"{place}: {key!r}: the embedding is null; fill it or remove the row")
        dim = len(vector) if dim is None else dim
        if len(vector) != dim:
            raise InputError(
                f"{place}: {key!r} has dimension {len(vector)}, {keys[0]!r} {dim}; "
                "keep one model's embeddings alone"
            )
        if dim and isinstance(vector[0], list):
            raise InputError(f"{place}: {key!r}: the embedding is an array of arrays; flatten it")
    with np.errstate(over="ignore"):  # infinite then, which is refused as such
        matrix = np.array(vectors, np.float32).reshape(len(vectors), dim or 0)
    for row in np.flatnonzero(np.isnan(matrix).any(axis=1)).tolist():  # a null is one of these
        if None in list(vectors[row]):
            raise InputError(f"{place}: {keys[row]!r}: the embedding has a null in it; fill it")
    return matrix
