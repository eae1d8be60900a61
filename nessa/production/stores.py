"""Profile stores of a product, NumPy (.npz) or Parquet, mapped into an aligner's space in bulk.

    .npz       ids (N,) and embeddings (N, D)
    .parquet   a file, or a folder of files alone, with the columns id and embedding (a list of
               numbers, D in every row)

Ids are text, or bytes in UTF-8, or integers.

A mapped store is a folder of Parquet files, a part for so many rows; _info.json comes last.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nessa.alignment.base import Aligner
from nessa.alignment.outliers import Outliers
from nessa.alignment.views import SIDES, Side
from nessa.errors import InputError, about
from nessa.files import atomic_open, read_json, write_json
from nessa.kaldi.ark import Block
from nessa.kaldi.directions import checked_lengths
from nessa.kaldi.embeddings import Embeddings
from nessa.production.mapping import outliers_file

ROWS_PER_PART = 50_000
SUFFIXES = (".npz", ".parquet")
INFO = "_info.json"  # Parquet readers pass over names that begin with a line
ID, EMBEDDING = "id", "embedding"
SOURCE = b"nessa_source"  # metadata of a part: what it was made of
TOLERANCE = 1e-5  # of a value of a unit vector, between two machines' arithmetic
Matrix = npt.NDArray[np.float32]


def is_store(path: Path) -> bool:
    """Whether a path is named as a store, or is a folder of Parquet files."""
    return path.suffix in SUFFIXES or (path.is_dir() and any(path.glob("*.parquet")))


def map_stores(
    aligner: Aligner,
    stores: Mapping[Side, Path],
    output: Path,
    dry_run: bool,
    allow_outliers: bool = False,
) -> Iterator[str]:
    """Map the stores of some sides to `output`/<side>; see `map_store`.

    What is unlike the align data is listed in `output`/<side>_outliers.csv. A store does not say
    which model made it, so one that is unlike for the most part is refused.

    Args:
        aligner: fitted on the models of both sides.
        stores: {"enroll" or "runtime": store}.
        output: the folder that receives a folder per side.
        dry_run: check everything, and write nothing.
        allow_outliers: take a store most of which is unlike the align data.

    Yields:
        A line per store.
    """
    for side, source in stores.items():
        apply = partial(aligner.map_side, side=side)
        outliers = Outliers(aligner.detectors.get(side), allowed=allow_outliers)
        count, kept = map_store(source, output / side, apply, aligner.space(), outliers, dry_run)
        done = "would be mapped" if dry_run else f"mapped, {kept} of them by an earlier run"
        if not dry_run:
            outliers.write(outliers_file(output, side))
        yield f"{source}: {count} profiles {done}; {outliers}"


def map_store(
    source: Path,
    output: Path,
    apply: Callable[[Matrix], Matrix],
    space: str,
    outliers: Outliers,
    dry_run: bool = False,
) -> tuple[int, int]:
    """Map a store part by part; parts that an earlier run made of the same rows are kept.

    Memory: one part, of 50,000 rows, as it is and mapped, and 8 bytes an id; of .npz, the whole.

    Args:
        source: the store.
        output: the folder that receives the mapped one.
        apply: raw embeddings (N, D_in) -> mapped ones (N, D).
        space: fingerprint of the space that they are mapped into.
        outliers: gathers what is unlike the align data.
        dry_run: check everything, and write nothing.

    Returns:
        (rows, how many of them were there already).

    Raises:
        InputError: unreadable, or an id or an embedding that no store can have; names the row.
    """
    _need_parquet()
    if source.is_dir() and (source / INFO).is_file():
        raise InputError(f"{source}: is mapped already ({INFO}); name the store of raw embeddings")
    _check_unique(source)
    count = kept = dim = 0
    number = -1
    if not dry_run:
        (output / INFO).unlink(missing_ok=True)
    for number, (keys, matrix) in enumerate(read_store(source)):
        part = output / f"part-{number:06d}.parquet"
        made_of = _digest(space, keys, matrix)
        there = _is_made_of(part, made_of)
        with about(source):
            mapped = None if there else apply(matrix)  # which refuses another dimension
            outliers.check(keys, matrix)
        if mapped is None:
            kept += len(keys)
        else:
            dim = mapped.shape[1]
            if not dry_run:
                _write_part(part, keys, mapped, made_of)
        count += len(keys)
    if not count:
        raise InputError(f"{source}: holds no profiles")
    if not dry_run:
        for stale in output.glob("part-*.parquet"):
            if int(stale.stem.split("-")[1]) > number:
                stale.unlink()
        dim = dim or apply(matrix[:1]).shape[1]
        write_json(output / INFO, {"space": space, "dim": dim, "count": count})
    return count, kept


def verify_store(mapped: Path, source: Path, aligner: Aligner) -> str:
    """Read a mapped store back, and hold every row of it against its source mapped anew.

    Memory: one part of each.

    Args:
        mapped: the folder that `map_store` made, named by its side: enroll or runtime.
        source: the store of raw embeddings.
        aligner: that it was mapped with.

    Returns:
        A line that says what was found.

    Raises:
        InputError: unfinished, or of another aligner, or an id or a vector differs; names the row.
    """
    _need_parquet()
    if mapped.name not in SIDES or not (mapped / INFO).is_file():
        raise InputError(f"{mapped}: not a mapped store (enroll or runtime, with {INFO})")
    info = read_json(mapped / INFO)
    if not isinstance(info, dict) or info.get("space") != aligner.space():
        raise InputError(f"{mapped}: was mapped with another aligner; map it again")
    side: Side = "enroll" if mapped.name == "enroll" else "runtime"
    count, largest = 0, 0.0
    for raw, found in zip_longest(read_store(source), read_store(mapped)):
        if raw is None or found is None or raw[0] != found[0]:
            raise InputError(f"{mapped}: ids from row {count} differ from {source}; map it again")
        difference = float(np.abs(aligner.map_side(raw[1], side) - found[1]).max())
        if not difference <= TOLERANCE:
            raise InputError(
                f"{mapped}: vectors from row {count} differ by {difference:.1e}; map it again"
            )
        count, largest = count + len(raw[0]), max(largest, difference)
    return f"{mapped}: {count:,} profiles in the order of {source}, within {largest:.1e}"


def _check_unique(source: Path) -> None:
    """Refuse an id that is there twice; by hashes, as a set of a billion ids has no place."""
    hashes = np.concatenate([np.empty(0, np.int64), *map(_hashes, _read_ids(source))])
    hashes.sort()
    twice = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    seen: set[str] = set()
    for keys in _read_ids(source) if twice else ():
        for key in keys:
            if hash(key) in twice and key in seen:
                raise InputError(f"{source}: duplicate id {key!r}; remove one")
            if hash(key) in twice:
                seen.add(key)


def _hashes(keys: list[str]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(hash, keys), np.int64, len(keys))


def _read_ids(source: Path) -> Iterator[list[str]]:
    """The ids alone, in parts; embeddings are read, and refused, later."""
    if source.suffix == ".npz":
        return (keys for keys, _ in read_store(source))
    return (_strings(place, batch.column(ID)) for place, batch in _batches(source, [ID]))


def _digest(space: str, keys: list[str], matrix: Matrix) -> str:
    sha = hashlib.sha256("\n".join([space, *keys]).encode())
    sha.update(matrix.tobytes())
    return sha.hexdigest()


def read_store(path: Path) -> Iterator[Block]:
    """Parts of a store, checked as embeddings are.

    Raises:
        InputError: see `map_store`.
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


def _row_name(path: Path, first: int, keys: list[str], row: int) -> str:
    return f"{path}: row {first + row} ({keys[row]!r})"


def _read_npz(path: Path) -> Iterator[Block]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            keys, matrix = arrays["ids"], arrays["embeddings"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: not an .npz with `ids` and `embeddings` ({error})") from None
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


def _files(folder: Path) -> list[Path]:
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

    for file in _files(path) if path.is_dir() else [path]:
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
            what = str(error).splitlines()[0]
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

    found, plain = schema.field(ID).type, schema.field(ID).type
    if types.is_dictionary(plain):
        plain = plain.value_type
    if not is_text(plain) and not types.is_integer(plain):
        raise InputError(f"{file}: column {ID!r} is of type {found}; write text, or integers")
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


def _strings(place: _Place, column: Any) -> list[str]:
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InputError(f"{place.row(row)}: the id is null; fill it or remove the row")
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


def _write_part(path: Path, keys: list[str], matrix: Matrix, made_of: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    table = pa.table({ID: pa.array(keys, pa.string()), EMBEDDING: vectors})
    with atomic_open(path, "wb") as file:
        parquet.write_table(table.replace_schema_metadata({SOURCE: made_of.encode()}), file)


def _is_made_of(path: Path, made_of: str) -> bool:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        metadata = parquet.read_schema(path).metadata if path.is_file() else None
    except pa.ArrowException:
        return False
    return metadata is not None and metadata.get(SOURCE) == made_of.encode()


def _need_parquet() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputError("stores need pyarrow: run `pip install 'nessa[parquet]'` first") from None
