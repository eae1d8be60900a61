"""Milvus: a collection of raw profiles, and one of mapped ones beside it.

    milvus:profiles.db?collection=profiles&embedding=embedding&live=profiles_live
    milvus:http://localhost:19530?collection=profiles

What follows `milvus:` is the URI that pymilvus takes, a file of Milvus Lite or a server; its token
is read from the environment, MILVUS_TOKEN. The application reads the alias `live`. A mapped
collection has all fields of the raw one, copied, and the stamps.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pymilvus import DataType, MilvusClient, MilvusException
from pymilvus.orm.iterator import QueryIterator

from nessa.errors import InputError
from nessa.stores.base import (
    SOURCE,
    SPACE,
    Matrix,
    ProfileStore,
    Rows,
    Stamp,
    check_live,
    parse_query,
    stacked,
)

# What fails is raised as well. After the import, at which pymilvus sets levels of its own.
for logger in ("faiss", "grpc", "milvus_lite", "pymilvus"):
    logging.getLogger(logger).setLevel(logging.CRITICAL)
ROWS_PER_BLOCK = 2_000  # some megabytes in a message
STAMP_LENGTH = 64  # characters
UNQUOTED = set('"\\\n\r')  # in a text id: what pymilvus writes into a filter as it is
KEPT = ("is_primary", "is_partition_key", "nullable")  # of a field
VECTORS = [kind for kind in DataType if kind.name.endswith("VECTOR")]
COMMON = "_default"  # the partition of a collection without partitions
DEFAULTS = {"collection": "", "embedding": "embedding", "live": ""}


class Milvus:
    """The raw and the mapped collection of a database, and the alias that the application reads.

    Args:
        url: see the module.
        to: name of the mapped collection.

    Raises:
        InputError: no connection, collection or field; the raw collection is a mapped one, or has
            further vectors, or the mapped one is not mapped, or the alias has the name of one.
    """

    def __init__(self, url: str, to: str) -> None:
        uri, _, query = url.partition(":")[2].partition("?")
        given = parse_query(query)
        if unknown := given.keys() - DEFAULTS.keys():
            raise InputError(f"the URL has an unknown {min(unknown)!r}; it takes {list(DEFAULTS)}")
        own = DEFAULTS | given
        name = own["collection"]
        if not name:
            raise InputError("the URL names no collection; add ?collection=NAME")
        if to == name:
            raise InputError(f"collection {to!r} holds the raw profiles; name a new collection")
        self._live = own["live"] or f"{name}_live"
        check_live(self._live, name, to)
        with _explained(name):
            self._client = MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""))
            if not self._client.has_collection(name):
                raise InputError(f"collection {name!r}: no such collection")
            schema = self._client.describe_collection(name)
            if self._client.has_collection(to) and SPACE not in _fields(self._client, to):
                raise InputError(
                    f"collection {to!r}: is there, and not made by nessa; name a new collection"
                )
        _check_raw(name, own["embedding"], schema)
        self.source = Collection(self._client, name, own["embedding"], schema, mapped=False)
        self.target = Collection(self._client, to, own["embedding"], schema, mapped=True)
        # A row does not say which of them it is in; those of a key are made anew by Milvus itself.
        self._keyed = any(field.get("is_partition_key") for field in schema["fields"])

    def check(self) -> None:
        """Refuse named partitions; see `Database.check`."""
        name = self.source.name
        with _explained(name):
            partitions = [] if self._keyed else self._client.list_partitions(name)
        if named := [partition for partition in partitions if partition != COMMON]:
            raise InputError(
                f"collection {name!r}: has the partition {named[0]!r}, which the mapped rows would "
                "lose; copy it into a collection with a partition key instead"
            )

    def index(self) -> None:
        """Milvus indexes what is flushed by itself; see `Database.index`."""
        with _explained(self.target.name):
            self._client.flush(self.target.name)

    def statement(self, store: ProfileStore) -> str:
        """Python; see `Database.statement`."""
        what = "alter_alias" if self._has_alias() else "create_alias"
        name = self._collection(store)
        return f"MilvusClient(...).{what}(collection_name={name!r}, alias={self._live!r})"

    def serve(self, store: ProfileStore) -> None:
        """See `Database.serve`."""
        name = self._collection(store)
        with _explained(name):
            self._client.load_collection(name)  # which the application may not do itself
            change = self._client.alter_alias if self._has_alias() else self._client.create_alias
            change(name, self._live)

    def close(self) -> None:
        """See `Database.close`."""
        self._client.close()

    def _collection(self, store: ProfileStore) -> str:
        return self.target.name if store is self.target else self.source.name

    def _has_alias(self) -> bool:
        """Of whichever collection; another migration may have switched to its own."""
        try:
            return bool(self._client.describe_alias(self._live))
        except MilvusException:  # or it cannot be asked, which the change then tells
            return False


class Collection:
    """A collection of profiles; see `ProfileStore`.

    Args:
        client: of the database.
        name: of the collection.
        embedding: the field of its vectors.
        schema: of the raw collection, as Milvus describes it.
        mapped: whether the rows are stamped.
    """

    def __init__(
        self,
        client: MilvusClient,
        name: str,
        embedding: str,
        schema: dict[str, Any],
        mapped: bool,
    ) -> None:
        self.name = name
        self._client, self._schema = client, schema
        self._embedding, self._mapped = embedding, mapped
        key = next(field for field in schema["fields"] if field.get("is_primary"))
        self._id: str = key["name"]
        self._id_type = int if key["type"] == DataType.INT64 else str

    def __str__(self) -> str:
        return f"collection {self.name!r}"

    def __len__(self) -> int:
        if not self._is_there():
            return 0
        with _explained(self.name):
            found = self._client.query(self.name, filter="", output_fields=["count(*)"])
        return int(found[0]["count(*)"])

    def read(self, keys: Sequence[str] | None = None, vectors: bool = True) -> Iterator[Rows]:
        """See `ProfileStore.read`."""
        if not self._is_there():
            return
        fields = ["*"] if vectors else [self._id, *([SPACE, SOURCE] if self._mapped else [])]
        with _explained(self.name):
            self._client.load_collection(self.name)
            if keys is not None:
                among = self._among(keys)
                found = self._client.query(self.name, filter=among, output_fields=fields)
                yield self._rows(found, vectors)
                return
            for found in self._pages(fields):
                yield self._rows(found, vectors)

    def write(self, rows: Rows) -> None:
        """See `ProfileStore.write`."""
        with _explained(self.name):
            if not self._is_there():
                self._create(rows.matrix.shape[1])
            records = [self._record(rows, place) for place in range(len(rows.keys))]
            self._client.upsert(self.name, records)

    def delete(self, keys: Sequence[str]) -> None:
        """See `ProfileStore.delete`."""
        with _explained(self.name):
            for start in range(0, len(keys), ROWS_PER_BLOCK):  # of all that are gone
                among = self._among(keys[start : start + ROWS_PER_BLOCK])
                self._client.delete(self.name, filter=among)

    def search(self, queries: Matrix, count: int) -> list[list[str]]:
        """See `ProfileStore.search`."""
        with _explained(self.name):
            self._client.load_collection(self.name)
            found = self._client.search(
                self.name, list(queries), limit=count, anns_field=self._embedding
            )
        return [[str(hit[self._id]) for hit in hits] for hits in found]

    def _is_there(self) -> bool:
        """Whether it can be read; a mapped one without index was interrupted while it was made."""
        with _explained(self.name):
            return self._client.has_collection(self.name) and (
                not self._mapped or bool(self._client.list_indexes(self.name))
            )

    def _among(self, keys: Sequence[str]) -> str:
        """The filter of some ids."""
        return f"{self._id} in {_literal([self._id_type(key) for key in keys])}"

    def _pages(self, fields: list[str]) -> Iterator[list[dict[str, Any]]]:
        """All rows by id; after an id that pymilvus does not quote, its iterator begins anew."""
        pages = self._rest("", fields)
        while found := pages.next():
            yield found
            last = found[-1][self._id]
            if UNQUOTED & set(str(last)):
                pages.close()
                pages = self._rest(f"{self._id} > {_literal(last)}", fields)
        pages.close()

    def _rest(self, where: str, fields: list[str]) -> QueryIterator:
        return self._client.query_iterator(
            self.name, batch_size=ROWS_PER_BLOCK, filter=where, output_fields=fields
        )

    def _rows(self, found: list[dict[str, Any]], vectors: bool) -> Rows:
        keys = [str(row[self._id]) for row in found]
        vectors_found = [row[self._embedding] if vectors else () for row in found]
        stamps = [Stamp(row[SPACE], row[SOURCE]) for row in found] if self._mapped else []
        own = {self._id, self._embedding, SPACE, SOURCE}
        more = [{name: row[name] for name in row.keys() - own} for row in found]
        return Rows(keys, stacked(vectors_found, keys, str(self)), stamps, more)

    def _record(self, rows: Rows, place: int) -> dict[str, Any]:
        own = {self._id: self._id_type(rows.keys[place]), self._embedding: rows.matrix[place]}
        return rows.more[place] | own | dict(zip((SPACE, SOURCE), rows.stamps[place], strict=True))

    def _create(self, dim: int) -> None:
        dynamic = self._schema["enable_dynamic_field"]
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=dynamic)
        for field in self._schema["fields"]:
            own = {"dim": dim} if field["name"] == self._embedding else field.get("params", {})
            more = {name: field[name] for name in KEPT if field.get(name)}
            if "element_type" in field:
                more["element_type"] = DataType(field["element_type"])
            schema.add_field(field["name"], DataType(field["type"]), **own, **more)
        for name in (SPACE, SOURCE):
            schema.add_field(name, DataType.VARCHAR, max_length=STAMP_LENGTH)
        if not self._client.has_collection(self.name):
            self._client.create_collection(self.name, schema=schema, consistency_level="Strong")
        index = self._client.prepare_index_params()
        index.add_index(self._embedding, metric_type="COSINE", **self._raw_index())
        self._client.create_index(self.name, index)

    def _raw_index(self) -> dict[str, Any]:
        """The kind of index that the raw collection has, and its settings where Milvus tells."""
        raw = self._schema["collection_name"]
        own: dict[str, Any] = {}
        for name in self._client.list_indexes(raw, self._embedding):
            own = self._client.describe_index(raw, name)
        return {"index_type": own.get("index_type", "AUTOINDEX"), "params": own.get("params", {})}


def _fields(client: MilvusClient, name: str) -> list[str]:
    return [field["name"] for field in client.describe_collection(name)["fields"]]


def _check_raw(name: str, embedding: str, schema: dict[str, Any]) -> None:
    types = {field["name"]: field["type"] for field in schema["fields"]}
    if embedding not in types:
        raise InputError(f"collection {name!r}: no field {embedding!r}; there are {list(types)}")
    if types[embedding] != DataType.FLOAT_VECTOR:
        raise InputError(f"collection {name!r}: field {embedding!r} is no FLOAT_VECTOR")
    if SPACE in types:
        raise InputError(f"collection {name!r}: is mapped already; name that of raw profiles")
    if more := [field for field, kind in types.items() if kind in VECTORS and field != embedding]:
        raise InputError(
            f"collection {name!r}: has further vectors, {more[0]!r}; one can be mapped"
        )


def _literal(value: int | str | Sequence[int | str]) -> str:
    """As filters write it; those of Milvus Lite take no parameters."""
    return json.dumps(value, ensure_ascii=False)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What Milvus refuses, as bad input that names the collection."""
    try:
        yield
    except MilvusException as error:
        raise InputError(f"collection {name!r}: Milvus: {error.message}") from None
