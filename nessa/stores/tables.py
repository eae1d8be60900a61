"""Reading the tables of embeddings that products keep, NumPy's (.npz) or Parquet.

    .npz       ids (N,) and embeddings (N, D)
    .parquet   a file, or a folder of files alone, with the columns id and embedding (a list of
               numbers, D in every row)

Ids are text, or bytes in UTF-8, or integers; as in Kaldi's tables, none is empty or has white
space. A table to learn from also tells the speaker of each row, and maybe its session: arrays
`speakers` and `sessions`, columns speaker and session.
"""

import contextlib
import zlib
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from nessa.errors import InputError, about, first_line
from nessa.files import find_listed
from nessa.kaldi.ark import Block
from nessa.kaldi.directions import checked_lengths
from nessa.kaldi.embeddings import Embeddings, scps_of_ranks
from nessa.kaldi.scp import read_scp

ROWS_PER_PART = 50_000
SUFFIXES = (".npz", ".parquet")
ID, EMBEDDING = "id", "embedding"
ARRAYS = ("ids", "embeddings", "speakers", "sessions")  # of an .npz, the first two always


def is_store(path: Path) -> bool:
    """Whether a path is named as a store, or is a folder of Parquet files."""
    return path.suffix in SUFFIXES or (path.is_dir() and any(path.glob("*.parquet")))


def files_of(place: Path) -> list[Path]:
    """A table, or those of a folder, and the arks that they list."""
    if place.is_dir() and is_store(place):
        return sorted(place.iterdir())
    tables = _tables_of(place)
    files = [*tables, tables[0].with_name("info.json")]
    for table in tables:
        if table.suffix == ".scp":
            with contextlib.suppress(InputError):
                files += [find_listed(source, table) for source in read_scp(table).sources]
    return files


def _tables_of(place: Path) -> list[Path]:
    if place.is_dir():
        return scps_of_ranks(place) or [place / "xvector.scp"]
    return [place]


def read_store(path: Path) -> Iterator[Block]:
    """Parts of a store, checked as embeddings are.

    Raises:
        InputError: unreadable, or an id or an embedding that no store can have; names the row.
    """
    parts = _read_npz(path) if path.suffix == ".npz" else _read_parquet(path)
    dim, first = 0, 0
    for keys, matrix in parts:
        try:
            checked = Embeddings(keys, matrix)
        except InputError as error:
            raise InputError(f"{path}: rows from {first} (counted from 0): {error}") from None
        checked_lengths(checked.matrix, partial(_row_name, path, first, checked.keys))
        if dim and checked.dim != dim:
            raise InputError(
                f"{path}: rows from {first} have dimension {checked.dim}, those before {dim}"
            )
        dim, first = checked.dim, first + len(keys)
        yield checked.keys, checked.matrix


def read_table(path: Path) -> Embeddings:
    """All embeddings of an ark, an scp, an embeddings directory, .npz or Parquet, in memory.

    Raises:
        InputError: unreadable, or an id or an embedding that no table can have; names the row.
    """
    if not is_store(path):
        return Embeddings.read(path)
    if path.suffix != ".npz":
        need_parquet()
    parts = list(read_store(path))
    if not parts:
        raise InputError(f"{path}: holds no embeddings")
    keys, matrices = zip(*parts, strict=True)
    with about(path):
        return Embeddings(chain.from_iterable(keys), np.concatenate(matrices))


def read_keys(path: Path) -> Iterator[list[str]]:
    """The ids alone of anything that `read_table` reads, in parts; only these are checked.

    Memory: that of the vectors of an ark or an .npz.

    Raises:
        InputError: unreadable.
    """
    if is_store(path):
        if path.suffix != ".npz":
            need_parquet()
        yield from read_ids(path)
        return
    for table in _tables_of(path):
        yield read_scp(table).keys if table.suffix == ".scp" else Embeddings.read(table).keys


def read_labels(path: Path, column: str) -> dict[str, str] | None:
    """{id: what a further column of a store says of it}; None where there is no such column.

    Args:
        path: anything that `read_table` reads; Kaldi's tables have no columns.
        column: speaker or session; of .npz, the array is called by its plural.

    Raises:
        InputError: unreadable, or not a text or an integer for every row.
    """
    if not is_store(path):
        return None
    if path.suffix == ".npz":
        return _labels_of_npz(path, f"{column}s")
    need_parquet()
    from pyarrow import parquet

    first = next(iter(store_files(path) if path.is_dir() else [path]))
    if column not in parquet.read_schema(first).names:
        return None
    labels: dict[str, str] = {}
    for place, batch in _batches(path, [ID, column]):
        keys, found = _strings(place, batch.column(ID)), batch.column(column)
        labels |= zip(keys, _strings(place, found, column), strict=True)
    return labels


def _labels_of_npz(path: Path, name: str) -> dict[str, str] | None:
    arrays = _load_npz(path)
    if name not in arrays:
        return None
    keys, labels = arrays["ids"], arrays[name]
    if labels.shape != keys.shape or labels.dtype.kind not in "USiu":
        raise InputError(
            f"{path}: expected {name} {keys.shape}, text or integers; found {labels.dtype} "
            f"{labels.shape}"
        )
    start = _Place(path, 0)
    return dict(zip(_texts(start, keys.tolist()), _texts(start, labels.tolist()), strict=True))


def _row_name(path: Path, first: int, keys: list[str], row: int) -> str:
    return f"{path}: row {first + row} ({keys[row]!r})"


def _load_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file that has `ids` and `embeddings`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give an .npz with `ids` and `embeddings`")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name in ARRAYS}
        return found | {name: found[name] for name in ARRAYS[:2]}
    # TypeError: of an .npy, which is no context; the last two: of a damaged or unusual archive.
    except (
        OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile, zlib.error,
        NotImplementedError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{path}: not an .npz with `ids` and `embeddings`, text saved by .astype(str) ({error})"
        ) from None


def _read_npz(path: Path) -> Iterator[Block]:
    arrays = _load_npz(path)
    keys, matrix = arrays["ids"], arrays["embeddings"]
    shapes = keys.ndim == 1 and matrix.ndim == 2 and len(keys) == len(matrix)
    if not shapes or keys.dtype.kind not in "USiu" or matrix.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: expected ids (N,), text or integers, and embeddings (N, D), numbers; found "
            f"{keys.dtype} {keys.shape} and {matrix.dtype} {matrix.shape}"
        )
    for start in range(0, len(keys), ROWS_PER_PART):
        rows = slice(start, start + ROWS_PER_PART)
        yield _texts(_Place(path, start), keys[rows].tolist()), matrix[rows]


def _read_parquet(path: Path) -> Iterator[Block]:
    return (_block(place, batch) for place, batch in _batches(path, [ID, EMBEDDING]))


class _Place(NamedTuple):
    """A part of a file."""

    file: Path
    first: int  # row, from 0

    def row(self, row: int) -> str:
        """What a message calls a row of the part."""
        return f"{self.file}: row {self.first + row}"


def store_files(folder: Path) -> list[Path]:
    """The files of a store; those that Parquet readers pass over may lie among them."""
    names = [path for path in sorted(folder.iterdir()) if not path.name.startswith(("_", "."))]
    strays = [path for path in names if path.suffix != ".parquet" or not path.is_file()]
    if strays:
        raise InputError(
            f"{strays[0]}: is no .parquet file, and no part of the store; move it elsewhere"
        )
    return names


def _batches(path: Path, columns: list[str]) -> Iterator[tuple[_Place, Any]]:
    """Some columns of all files of a store, in parts of rows."""
    import pyarrow as pa
    from pyarrow import parquet

    for file in store_files(path) if path.is_dir() else [path]:
        if not file.is_file():
            raise InputError(f"{file}: no such file")
        try:
            # With pre_buffer, the whole file would be read ahead.
            with parquet.ParquetFile(file, pre_buffer=False) as opened:
                names = opened.schema_arrow.names
                if missing := [name for name in columns if name not in names]:
                    raise InputError(f"{file}: no column {missing[0]!r}; there are {names}")
                if twice := [name for name in columns if names.count(name) > 1]:
                    raise InputError(f"{file}: two columns {twice[0]!r}; remove one")
                if opened.metadata.num_rows:  # what is empty may have no types
                    _check_types(file, opened.schema_arrow, columns)
                first = 0
                for batch in opened.iter_batches(ROWS_PER_PART, columns=columns):
                    yield _Place(file, first), batch
                    first += len(batch)
        except (pa.ArrowException, OSError) as error:
            what = first_line(error)
            raise InputError(f"{file}: not Parquet with {ID} and {EMBEDDING} ({what})") from None


def _check_types(file: Path, schema: Any, columns: list[str]) -> None:
    """Refuse columns that hold no text and no lists of numbers, by their type."""
    from pyarrow import types

    def is_number(kind: Any) -> bool:
        return types.is_floating(kind) or types.is_integer(kind)

    def is_text(kind: Any) -> bool:
        tests = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary,
                 types.is_fixed_size_binary, types.is_string_view)  # fmt: skip
        return any(test(kind) for test in tests)

    for name in set(columns) - {EMBEDDING}:
        found = schema.field(name).type
        plain = found.value_type if types.is_dictionary(found) else found
        if not is_text(plain) and not types.is_integer(plain):
            raise InputError(f"{file}: column {name!r} is of type {found}; write text, or integers")
    if EMBEDDING not in columns:
        return
    kind = schema.field(EMBEDDING).type
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not lists or not is_number(kind.value_type):
        raise InputError(
            f"{file}: column {EMBEDDING!r} is of type {kind}; write a list of numbers in every row"
        )


def _block(place: _Place, batch: Any) -> Block:
    keys, vectors = _strings(place, batch.column(ID)), batch.column(EMBEDDING)
    if vectors.null_count:
        row = vectors.is_null().to_pylist().index(True)
        raise InputError(f"{place.row(row)}: the embedding is null; fill it or remove the row")
    values = vectors.flatten()
    dim, rest = divmod(len(values), max(len(vectors), 1))
    lengths = vectors.value_lengths() if hasattr(vectors, "value_lengths") else None
    if rest or (lengths is not None and not (lengths.to_numpy() == dim).all()):
        raise InputError(f"{place.file}: embeddings of several dimensions; write one model's alone")
    if values.null_count:
        row = values.is_null().to_pylist().index(True) // dim
        raise InputError(f"{place.row(row)}: a value is null; fill it or remove the row")
    matrix = values.to_numpy(zero_copy_only=False)
    if matrix.dtype == np.float32:
        matrix = matrix.copy()  # torch wants its own
    return keys, matrix.reshape(len(vectors), dim)


def _strings(place: _Place, column: Any, what: str = "the id") -> list[str]:
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InputError(f"{place.row(row)}: {what} is null; fill it or remove the row")
    return _texts(place, column.to_pylist())


def _texts(place: _Place, keys: list[Any]) -> list[str]:
    """Ids as text; bytes are UTF-8."""
    if not keys or not isinstance(keys[0], bytes):
        return [str(key) for key in keys]
    texts = []
    for row, key in enumerate(keys):
        try:
            texts.append(key.decode())
        except UnicodeDecodeError:
            raise InputError(
                f"{place.row(row)}: id {key!r} is not UTF-8 text; write text, or integers"
            ) from None
    return texts


def read_ids(source: Path) -> Iterator[list[str]]:
    """The ids alone, in parts; embeddings are read, and refused, later."""
    if source.suffix == ".npz":
        return (keys for keys, _ in read_store(source))
    return (_strings(place, batch.column(ID)) for place, batch in _batches(source, [ID]))


def need_parquet() -> None:
    """Refuse to go on without pyarrow."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputError(
            "Parquet needs pyarrow: run `pip install 'nessa[parquet]'` first"
        ) from None
