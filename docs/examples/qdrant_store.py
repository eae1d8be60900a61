"""Profiles in Qdrant: the four methods of `nessa.stores.base.ProfileStore`, and `len`.

    old, new = QdrantStore(client, "profiles"), QdrantStore(client, "profiles_new")
    migrate(old, new, aligner, Outliers())

An alias is what the application reads: `client.update_collection_aliases` switches, and rolls back.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from nessa.stores.base import SOURCE, SPACE, Matrix, Rows, Stamp, stacked

ROWS_PER_BLOCK = 1000


class QdrantStore:
    """A collection with one unnamed vector per point; payloads go where their vectors go."""

    def __init__(self, client: QdrantClient, collection: str) -> None:
        self._client, self._name = client, collection

    def __str__(self) -> str:
        return f"collection {self._name!r}"

    def __len__(self) -> int:
        return self._client.count(self._name).count if self._is_there() else 0

    def read(self, keys: Sequence[str] | None = None, vectors: bool = True) -> Iterator[Rows]:
        """Scroll through the points, or retrieve some."""
        if not self._is_there():
            return
        if keys is not None:
            ids = [_id(key) for key in keys]
            found = self._client.retrieve(self._name, ids, with_vectors=vectors)
            yield self._rows(found, vectors)
            return
        page = None
        while True:
            found, page = self._client.scroll(
                self._name, limit=ROWS_PER_BLOCK, offset=page, with_vectors=vectors
            )
            if found:
                yield self._rows(found, vectors)
            if page is None:
                return

    def write(self, rows: Rows) -> None:
        """Upsert points, into a new collection if there is none."""
        if not self._is_there():
            size = VectorParams(size=rows.matrix.shape[1], distance=Distance.COSINE)
            self._client.create_collection(self._name, vectors_config=size)
        stamps = [{SPACE: stamp.space, SOURCE: stamp.source} for stamp in rows.stamps]
        points = [
            PointStruct(id=_id(key), vector=vector.tolist(), payload=more | stamp)
            for key, vector, more, stamp in zip(
                rows.keys, rows.matrix, rows.more, stamps, strict=True
            )
        ]
        self._client.upsert(self._name, points)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete points."""
        self._client.delete(self._name, points_selector=[_id(key) for key in keys])

    def search(self, queries: Matrix, count: int) -> list[list[str]]:
        """Ask Qdrant's own index."""
        found = [
            self._client.query_points(self._name, query=query.tolist(), limit=count).points
            for query in queries
        ]
        return [[str(point.id) for point in points] for points in found]

    def _is_there(self) -> bool:
        return self._client.collection_exists(self._name)

    def _rows(self, found: list, vectors: bool) -> Rows:
        keys = [str(point.id) for point in found]
        payloads = [dict(point.payload or {}) for point in found]
        stamps = [
            Stamp(payload.pop(SPACE), payload.pop(SOURCE))
            for payload in payloads
            if SPACE in payload
        ]
        if not vectors:
            return Rows(keys, np.empty((len(keys), 0), np.float32), stamps)
        matrix = stacked([point.vector for point in found], keys, str(self))
        return Rows(keys, matrix, stamps, payloads)


def _id(key: str) -> int | str:
    """Qdrant's ids are integers or UUIDs."""
    return int(key) if key.isdecimal() else key
