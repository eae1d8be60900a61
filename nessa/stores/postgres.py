"""PostgreSQL with pgvector: a table of raw profiles, and one of mapped ones beside it.

    postgresql://user@host/database?table=profiles&id=id&embedding=embedding&live=profiles_live

What is not ours in a URL is libpq's, `sslmode` or `options=-c hnsw.ef_search=100` for instance;
passwords are best left to its PGPASSWORD or ~/.pgpass. The application reads the view `live`, which
has the columns of the raw table. The mapped table holds ids, vectors and stamps alone, so that
whatever else is known of a profile stays in one place.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import psycopg
from pgvector.psycopg import register_vector
from psycopg import errors, sql

from nessa.errors import InputError, first_line
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

log = logging.getLogger(__name__)
ROWS_PER_BLOCK = 10_000
DEFAULTS = {"table": "", "id": "id", "embedding": "embedding", "live": ""}
VECTORS = ("vector", "halfvec", "real[]", "double precision[]")  # what can be cast to vector
STAGING = sql.Identifier("nessa_staging")
# By the aliases of its tables; one with more, such as WHERE, is somebody else's.
NAME = r'(?:[^\s"]|"[^"]*")+'
OWN_VIEW = re.compile(rf"SELECT .+ FROM {NAME} raw(?: JOIN {NAME} mapped USING \({NAME}\))?;")
INDEXED = 2000  # dimensions of a vector at most that pgvector's HNSW takes


class Postgres:
    """The raw and the mapped table of a database, and the view that the application reads.

    Args:
        url: see the module.
        to: name of the mapped table; with its schema, if it is in another than the first.

    Raises:
        InputError: no connection, table, column or extension; the raw table is a mapped one, or
            the mapped one is not, or the view has the name of one.
    """

    def __init__(self, url: str, to: str) -> None:
        place, _, query = url.partition("?")
        given = parse_query(query)
        own = DEFAULTS | {name: given.pop(name) for name in DEFAULTS if name in given}
        if not own["table"]:
            raise InputError("the URL names no table; add ?table=NAME")
        if to == own["table"]:
            raise InputError(f"table {to!r} holds the raw profiles; name a new table")
        self._live = own["live"] or f"{own['table']}_live"
        check_live(self._live, own["table"], to)
        server = f"{place}?{urlencode(given, quote_via=quote)}"
        self._connection = _connect(server, own["table"], autocommit=True)
        self._columns = _columns(self._connection, own["table"])
        _check_raw(own["table"], own["id"], own["embedding"], self._columns)
        found = _columns(self._connection, to)
        if found and not {SPACE, SOURCE} <= found.keys():
            raise InputError(f"table {to!r}: is there, and not made by nessa; name a new table")
        key_type = self._columns[own["id"]], _collation(self._connection, own["table"], own["id"])
        fields = self._connection, server, own["id"], own["embedding"], *key_type
        self.source = Table(own["table"], *fields, mapped=False)
        self.target = Table(to, *fields, mapped=True)

    def check(self) -> None:
        """Nothing is lost: the view joins the rows to the raw ones; see `Database.check`."""

    def index(self) -> None:
        """HNSW by cosine; see `Database.index`."""
        create = sql.SQL("CREATE INDEX ON {} USING hnsw ({} vector_cosine_ops)")
        with self.target.alone():
            if not self.target.is_indexed():
                self._connection.execute(create.format(self.target.identifier, self.target.vector))

    def statement(self, store: ProfileStore) -> str:
        """SQL; see `Database.statement`."""
        found = self._found_view()
        others = found is not None and not found.is_ours
        note = f"-- replaces {self._live!r}, which nessa did not make\n" if others else ""
        return note + self._view(store, found).as_string(self._connection)

    def serve(self, store: ProfileStore) -> None:
        """See `Database.serve`."""
        if store is self.target:
            self.target.check_index()
        if (found := self._found_view()) and not found.is_ours:
            kind, remedy = ("view", "drop it, or give") if found.is_view else ("table", "give")
            raise InputError(
                f"{kind} {self._live!r}: is there, and not made by nessa; {remedy} another &live="
            )
        view = self._view(store, found)
        with _explained(self.source.name):
            try:
                self._connection.execute(view)
            except errors.InvalidTableDefinition as error:
                raise InputError(
                    f"view {self._live!r}: was made of other columns ({first_line(error)}); ALTER "
                    "VIEW ... RENAME COLUMN keeps its grants and options, or make it anew with "
                    "these, or give another &live="
                ) from None
        kind = self._columns[self.source.embedding]
        if store is self.source and not kind.startswith("vector"):
            log.warning(
                "%s: %r is of type %s, but vector in the view %r, where an index of the column is "
                "not used; if you search by one, read the table itself",
                store, self.source.embedding, kind, self._live,
            )  # fmt: skip

    def close(self) -> None:
        """See `Database.close`."""
        self._connection.close()

    def _found_view(self) -> "_View | None":
        """What is there by the name of the live view."""
        query = """
            SELECT relkind = 'v', pg_get_viewdef(oid, true), reloptions FROM pg_class
            WHERE oid = to_regclass(%s)"""
        with _explained(self.source.name):
            name = _identifier(self._live).as_string(self._connection)
            found = self._connection.execute(query, [name]).fetchone()
        if found is None:
            return None
        is_view, definition, options = found
        is_ours = bool(is_view and OWN_VIEW.fullmatch(" ".join(definition.split())))
        return _View(is_view, is_ours, f" WITH ({', '.join(options)})" if options else "")

    def _view(self, store: ProfileStore, found: "_View | None") -> sql.Composed:
        """The columns of the raw table, with the vectors of one of the two.

        It takes the place of the view that was found, and its options.

        The cast leaves their dimension open, which a view could not change otherwise.
        """
        raw = self.source
        vectors = sql.SQL("mapped" if store is self.target else "raw")
        columns = [
            sql.SQL("{}.{}::vector AS {}").format(vectors, raw.vector, raw.vector)
            if name == raw.embedding
            else sql.SQL("raw.{}").format(sql.Identifier(name))
            for name in self._columns
        ]
        join = sql.SQL(" JOIN {} mapped USING ({})").format(self.target.identifier, raw.id)
        return sql.SQL("CREATE OR REPLACE VIEW {}{} AS SELECT {} FROM {} raw{}").format(
            _identifier(self._live),
            sql.SQL(found.options if found else ""),
            sql.SQL(", ").join(columns),
            raw.identifier,
            join if store is self.target else sql.SQL(""),
        )


class _View(NamedTuple):
    """What is there by the name of a view."""

    is_view: bool
    is_ours: bool
    options: str  # WITH ..., such as security_invoker, which it must keep


class Table:
    """A table of profiles; see `ProfileStore`.

    Args:
        name: of the table, with or without its schema.
        connection: commits each statement.
        server: URL of further connections.
        key, embedding: its columns.
        key_type, collation: of the ids, as PostgreSQL writes it; the latter may be empty.
        mapped: whether the rows are stamped.
    """

    def __init__(
        self,
        name: str,
        connection: psycopg.Connection,
        server: str,
        key: str,
        embedding: str,
        key_type: str,
        collation: str,
        mapped: bool,
    ) -> None:
        self.name, self.embedding = name, embedding
        self.identifier = _identifier(name)
        self.id, self.vector = sql.Identifier(key), sql.Identifier(embedding)
        self._connection, self._server, self._mapped = connection, server, mapped
        self._type, self._collation = sql.SQL(key_type), sql.SQL(collation)

    def __str__(self) -> str:
        return f"table {self.name!r}"

    def __len__(self) -> int:
        if not self._is_there():
            return 0
        with _explained(self.name):
            row = self._connection.execute(self._sql("SELECT count(*) FROM {table}")).fetchone()
        return row[0] if row else 0

    def read(self, keys: Sequence[str] | None = None, vectors: bool = True) -> Iterator[Rows]:
        """See `ProfileStore.read`; all rows are those at the time of the call."""
        if not self._is_there():
            return
        columns = ["{id}::text", "{vector}" if vectors else "NULL"]
        columns += [SPACE, SOURCE] if self._mapped else []
        query = self._sql(f"SELECT {', '.join(columns)} FROM {{table}}")
        with _explained(self.name):
            if keys is not None:
                query += self._sql(" WHERE {id} = ANY(%s::text[]::{type}[])")
                cursor = self._connection.cursor(binary=True).execute(query, [list(keys)])
                yield self._rows(cursor.fetchall(), vectors)
                return
            if not self._mapped:
                self._check_unique()
            # A connection of its own: what is written meanwhile ends no transaction of this one.
            with (
                _connect(self._server, self.name) as stream,
                stream.cursor("nessa", binary=True) as cursor,
            ):
                cursor.execute(query)
                while found := cursor.fetchmany(ROWS_PER_BLOCK):
                    yield self._rows(found, vectors)

    def write(self, rows: Rows) -> None:
        """See `ProfileStore.write`; all rows or none."""
        create = (
            "CREATE TABLE IF NOT EXISTS {table} ({id} {type} {collation} PRIMARY KEY, {columns})"
        )
        staging = "CREATE TEMP TABLE IF NOT EXISTS {staging} (key text, {columns})"
        insert = """
            INSERT INTO {table} ({id}, {names}) SELECT key::{type}, {names} FROM {staging}
            ON CONFLICT ({id}) DO UPDATE SET ({names}) = ROW({changed})"""
        dim = rows.matrix.shape[1]
        if dim > INDEXED:  # said before all rows are mapped, not after
            raise InputError(
                f"{self}: mapped vectors have {dim:,} dimensions, and pgvector's index takes "
                f"{INDEXED:,}; fit the aligner with a lower dim, or with start: plda alone"
            )
        values = zip(rows.keys, rows.matrix, *zip(*rows.stamps, strict=True), strict=True)
        with self.alone():
            cursor = self._connection.cursor()
            for statement in (create, f"{staging} ON COMMIT DELETE ROWS"):
                cursor.execute(self._sql(statement, dim))
            with cursor.copy(self._sql("COPY {staging} FROM STDIN (FORMAT BINARY)")) as copy:
                copy.set_types(["text", "vector", "text", "text"])
                for value in values:
                    copy.write_row(value)
            cursor.execute(self._sql(insert))

    def delete(self, keys: Sequence[str]) -> None:
        """See `ProfileStore.delete`."""
        statement = self._sql("DELETE FROM {table} WHERE {id} = ANY(%s::text[]::{type}[])")
        with _explained(self.name):
            self._connection.execute(statement, [list(keys)])

    def search(self, queries: Matrix, count: int) -> list[list[str]]:
        """See `ProfileStore.search`."""
        self.check_index()  # without one all rows would be compared, and the answers be perfect
        query = self._sql("SELECT {id}::text FROM {table} ORDER BY {vector} <=> %s LIMIT %s")
        found = []
        with _explained(self.name), self._connection.transaction():
            # A small table would be read as a whole, and its index never be asked.
            self._connection.execute("SET LOCAL enable_seqscan = off")
            for vector in queries:
                rows = self._connection.execute(query, [vector, count]).fetchall()
                found.append([row[0] for row in rows])
        return found

    def check_index(self) -> None:
        """Refuse a table without an index for search."""
        if not self.is_indexed():
            raise InputError(f"{self}: has no index for search; run nessa store map again")

    def is_indexed(self) -> bool:
        """Whether it has an index for search: HNSW by cosine, of all rows, that is complete."""
        # By its name an index could be taken for that of another table.
        there = """
            SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
            JOIN pg_am ON pg_am.oid = relam JOIN pg_opclass ON pg_opclass.oid = indclass[0]
            JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
            WHERE indrelid = to_regclass(%s) AND amname = 'hnsw' AND indisvalid
            AND opcname = 'vector_cosine_ops' AND indpred IS NULL AND attname = %s"""
        with _explained(self.name):
            name = self.identifier.as_string(self._connection)
            found = self._connection.execute(there, [name, self.embedding]).fetchone()
            return found is not None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A transaction that waits for those of other runs that write to the table."""
        with _explained(self.name), self._connection.transaction():
            lock = "SELECT pg_advisory_xact_lock(hashtext(%s))"
            self._connection.execute(lock, [f"nessa {self.name}"])
            yield

    def _sql(self, template: str, dim: int = 0) -> sql.Composed:
        names = [self.vector, sql.Identifier(SPACE), sql.Identifier(SOURCE)]
        types = [f"vector({dim})", "text", "text"]
        columns = [
            sql.SQL("{} {} NOT NULL").format(name, sql.SQL(kind))
            for name, kind in zip(names, types, strict=True)
        ]
        changed = [sql.SQL("excluded.{}").format(name) for name in names]
        return sql.SQL(template).format(
            table=self.identifier,
            staging=STAGING,
            id=self.id,
            vector=self.vector,
            type=self._type,
            collation=self._collation,
            columns=sql.SQL(", ").join(columns),
            names=sql.SQL(", ").join(names),
            changed=sql.SQL(", ").join(changed),
        )

    def _is_there(self) -> bool:
        return bool(_columns(self._connection, self.name))

    def _rows(self, found: list[tuple], vectors: bool) -> Rows:
        keys = [row[0] for row in found]
        if None in keys:
            raise InputError(f"{self}: a row has a null id; fill it or remove the row")
        vectors_found = [_as_array(row[1]) if vectors else () for row in found]
        matrix = stacked(vectors_found, keys, str(self))
        return Rows(keys, matrix, [Stamp(*row[2:]) for row in found] if self._mapped else [])

    def _check_unique(self) -> None:
        """Refuse an id that is there twice, as it may be where no unique index forbids it."""
        query = """
            SELECT {id}::text FROM {table} WHERE {id} IS NOT NULL
            GROUP BY {id} HAVING count(*) > 1 LIMIT 1"""
        if row := self._connection.execute(self._sql(query)).fetchone():
            raise InputError(f"{self}: duplicate id {row[0]!r}; remove one")


def _as_array(vector: Any) -> Any:
    """A value of the embedding column: of pgvector's own types, an array; or a list, or null."""
    return vector.to_numpy() if hasattr(vector, "to_numpy") else vector


def _connect(server: str, table: str, autocommit: bool = False) -> psycopg.Connection:
    with _explained(table):
        connection = psycopg.connect(server, autocommit=autocommit)
        # Rows that a policy hides would be taken for deleted; the server refuses to hide any.
        connection.execute("SET row_security = off")
        try:
            register_vector(connection)
        except psycopg.ProgrammingError:
            raise InputError(
                f"table {table!r}: no type vector in the search path; CREATE EXTENSION vector, or, "
                "where it is in another schema, add &options=-c%20search_path%3Dpublic,SCHEMA to "
                "the URL"
            ) from None
    return connection


def _identifier(name: str) -> sql.Identifier:
    return sql.Identifier(*name.split("."))


def _columns(connection: psycopg.Connection, table: str) -> dict[str, str]:
    """{column: its type} of a table, in order; empty where there is none."""
    query = """
        SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""
    with _explained(table):
        name = _identifier(table).as_string(connection)
        return dict(connection.execute(query, [name]).fetchall())


def _collation(connection: psycopg.Connection, table: str, column: str) -> str:
    """A COLLATE clause of a column; without it, no index of another table would be used for it."""
    query = """
        SELECT format('COLLATE %%I.%%I', nspname, collname) FROM pg_attribute
        JOIN pg_type ON pg_type.oid = atttypid
        JOIN pg_collation ON pg_collation.oid = attcollation
        JOIN pg_namespace ON pg_namespace.oid = collnamespace
        WHERE attrelid = to_regclass(%s) AND attname = %s AND attcollation <> typcollation"""
    with _explained(table):
        name = _identifier(table).as_string(connection)
        found = connection.execute(query, [name, column]).fetchone()
    return found[0] if found else ""


def _check_raw(table: str, key: str, embedding: str, columns: dict[str, str]) -> None:
    if not columns:
        raise InputError(f"table {table!r}: no such table")
    for name in (key, embedding):
        if name not in columns:
            raise InputError(f"table {table!r}: no column {name!r}; there are {list(columns)}")
    if {SPACE, SOURCE} & columns.keys():
        raise InputError(f"table {table!r}: is mapped already; name the table of raw profiles")
    if not columns[embedding].startswith(VECTORS):
        raise InputError(
            f"table {table!r}: column {embedding!r} is of type {columns[embedding]}; it must be "
            f"{', '.join(VECTORS)}"
        )


@contextmanager
def _explained(table: str) -> Iterator[None]:
    """What the server refuses, as bad input that names the table."""
    try:
        yield
    except psycopg.Error as error:
        told = f"table {table!r}: PostgreSQL: {first_line(error)}"
        if isinstance(error, errors.InsufficientPrivilege) and "row-level security" in str(error):
            told += "; run nessa as the tables' owner or, where it is FORCEd, with BYPASSRLS"
        raise InputError(told) from None
