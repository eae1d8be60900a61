"""Profile stores of a product, mapped into an aligner's space in bulk; see `nessa.stores`.

A mapped store is a folder of Parquet files, a part for so many rows, with ids as text; _info.json
comes last.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nessa.alignment.base import Aligner
from nessa.alignment.outliers import Outliers
from nessa.alignment.views import SIDES, Side
from nessa.errors import InputError, about
from nessa.files import atomic_open, read_json, remove_leftovers, write_json
from nessa.kaldi.ark import Matrix
from nessa.production.mapping import (
    OTHER_MAP,
    TOLERANCE,
    check_apart,
    outliers_file,
    without_domains,
)
from nessa.stores.tables import EMBEDDING, ID, need_parquet, read_ids, read_store, store_files

log = logging.getLogger(__name__)
INFO = "_info.json"  # Parquet readers pass over names that begin with a line
# Metadata of a part: the space that its vectors are in, the map that made them (not told by earlier
# versions), and what it was made of.
SPACE, MAP, SOURCE = b"nessa_space", b"nessa_map", b"nessa_source"
PART = re.compile(r"part-\d{6,}\.parquet")


def map_stores(
    aligner: Aligner,
    stores: Mapping[Side, Path],
    output: Path,
    dry_run: bool,
    allow_outliers: bool = False,
) -> Iterator[str]:
    """Map the stores of some sides to `output`/<side>, part by part.

    All are read and judged before one is written: a refusal leaves a store in use as it is. Parts
    that an earlier run made of the same rows are kept.

    What is unlike the align data is listed in `output`/<side>_outliers.csv. A store does not say
    which model made it, so one that is unlike for the most part is refused.

    Memory: one part, of 50,000 rows, as it is and mapped, and 8 bytes an id; of .npz, the whole.

    Args:
        aligner: fitted on the models of both sides.
        stores: {"enroll" or "runtime": store}.
        output: the folder that receives a folder per side.
        dry_run: check everything, and write nothing.
        allow_outliers: take a store most of which is unlike the align data.

    Yields:
        A line per store.

    Raises:
        InputError: unreadable, or an id or an embedding that no store can have; names the row. Or
            a folder holds what another aligner mapped, or this one's mirror, or this side before it
            was fitted anew, which an application may be reading.
    """
    if stores and (told := without_domains(aligner)):
        log.warning("%s: %s", output, told)
    found = {side: Outliers(aligner.detectors.get(side), allowed=allow_outliers) for side in stores}
    counts = {
        side: _check(source, output / side, aligner, side, found[side])
        for side, source in stores.items()  # all, before one is written
    }
    for side, source in stores.items():
        done = "would be mapped"
        if not dry_run:
            kept = _write(source, output / side, aligner, side)
            done = f"mapped, {kept} of them by an earlier run"
            found[side].write(outliers_file(output, side))
        yield f"{source}: {counts[side]} profiles {done}; {found[side]}"


def _check(source: Path, output: Path, aligner: Aligner, side: Side, outliers: Outliers) -> int:
    """Judge folders and rows, as `map_stores` does; the number of rows."""
    need_parquet()
    if source.is_dir() and (source / INFO).is_file():
        raise InputError(f"{source}: is mapped already ({INFO}); name the store of raw embeddings")
    check_apart(source, [output])  # the other side's holds its own parts alone, see `_check_free`
    _check_free(output, aligner, side)
    outliers.total = _check_unique(source)
    for keys, matrix in read_store(source):
        with about(source):
            aligner.map_side(matrix[:1], side)  # which refuses another dimension
            outliers.check(keys, matrix)
    if not outliers.total:
        raise InputError(f"{source}: holds no profiles")
    return outliers.total


def _write(source: Path, output: Path, aligner: Aligner, side: Side) -> int:
    """Map what is in order; the number of rows that were there already."""
    space, map_digest = aligner.space(), aligner.map_digest(side)
    count = kept = 0
    (output / INFO).unlink(missing_ok=True)
    remove_leftovers(output)
    for number, (keys, matrix) in enumerate(read_store(source)):
        part = output / f"part-{number:06d}.parquet"
        made_of = _digest(map_digest, keys, matrix)
        if (_metadata(part) or {}).get(SOURCE) == made_of:
            kept += len(keys)
        else:
            mapped = aligner.map_side(matrix, side)
            of = {SPACE: space.encode(), MAP: map_digest.encode(), SOURCE: made_of}
            _write_part(part, keys, mapped, of)
        count += len(keys)
    for path in output.glob("part-*.parquet"):  # of an earlier run
        if int(path.stem.removeprefix("part-")) > number:
            path.unlink()
    dim = aligner.map_side(matrix[:1], side).shape[1]
    write_json(output / INFO, {"space": space, "dim": dim, "count": count})
    return kept


def verify_store(mapped: Path, source: Path, aligner: Aligner) -> str:
    """Read a mapped store back, and hold every row of it against its source mapped anew.

    Memory: one part of each.

    Args:
        mapped: the folder that `map_stores` made, named by its side: enroll or runtime.
        source: the store of raw embeddings.
        aligner: that it was mapped with.

    Returns:
        A line that says what was found.

    Raises:
        InputError: unfinished, or of another aligner, or an id or a vector differs; names the row.
    """
    need_parquet()
    name = Path(os.path.abspath(mapped)).name  # of a link, its own
    if name not in SIDES or not (mapped / INFO).is_file():
        raise InputError(f"{mapped}: not a mapped store (enroll or runtime, with {INFO})")
    side: Side = "enroll" if name == "enroll" else "runtime"
    info = read_json(mapped / INFO)
    of_space = isinstance(info, dict) and info.get("space") == aligner.space()
    if not of_space or not _are_of_map(map(_metadata, store_files(mapped)), aligner, side):
        raise InputError(
            f"{mapped}: was mapped with another aligner; name the aligner that it was mapped with, "
            "or map it into another folder"
        )
    count, largest = 0, 0.0
    for raw, found in zip_longest(read_store(source), read_store(mapped)):
        if raw is None or found is None or raw[0] != found[0]:
            raise InputError(f"{mapped}: ids from row {count} differ from {source}; map it again")
        difference = float(np.abs(aligner.map_side(raw[1], side) - found[1]).max())
        if not difference <= TOLERANCE:
            raise InputError(
                f"{mapped}: vectors from row {count} differ by {difference:.1e}; remove the "
                "folder, and map it again"
            )
        count, largest = count + len(raw[0]), max(largest, difference)
    found = f"{mapped}: {count:,} profiles in the order of {source}, within {largest:.1e}"
    return f"{found}; pair: {aligner.pair()}"


def _check_unique(source: Path) -> int:
    """The number of ids; refuses one that is there twice, by hashes: a billion have no place."""
    hashes = np.concatenate([np.empty(0, np.int64), *map(_hashes, read_ids(source))])
    hashes.sort()
    twice = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    seen: set[str] = set()
    for keys in read_ids(source) if twice else ():
        for key in keys:
            if hash(key) in twice and key in seen:
                raise InputError(f"{source}: duplicate id {key!r}; remove one")
            if hash(key) in twice:
                seen.add(key)
    return len(hashes)


def _check_free(output: Path, aligner: Aligner, side: Side) -> None:
    """Refuse a folder with files of others, or with a store of another space or map."""
    space, others = aligner.space(), False
    parts = {path: _metadata(path) for path in (store_files(output) if output.is_dir() else [])}
    for path, metadata in parts.items():
        made = metadata is None or not {SPACE, SOURCE}.isdisjoint(metadata)
        if not PART.fullmatch(path.name) or not made:
            raise InputError(
                f"{path}: is no part of a mapped store, and would be read as one; move it away, "
                "or give another --output"
            )
        known = metadata or {}
        others = others or known.get(SPACE, space.encode()) != space.encode()
    if (output / INFO).is_file():
        info = read_json(output / INFO)
        others = others or not isinstance(info, dict) or info.get("space") != space
    if others:
        raise InputError(f"{output}: was mapped by another aligner; give another --output")
    whole = [metadata for metadata in parts.values() if metadata is not None]  # others go
    if not _are_of_map(whole, aligner, side):
        raise InputError(f"{output}: {OTHER_MAP}; give another --output")


def _are_of_map(parts: Iterable[dict[bytes, bytes] | None], aligner: Aligner, side: Side) -> bool:
    """Whether parts, by their metadata, are of an aligner's map, or may be."""
    own = aligner.map_digest(side).encode()
    unknown = b"" if aligner.joined else own  # earlier versions did not tell, and map once more
    return all((part or {}).get(MAP, unknown) == own for part in parts)


def _hashes(keys: list[str]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(hash, keys), np.int64, len(keys))


def _digest(map_digest: str, keys: list[str], matrix: Matrix) -> bytes:
    sha = hashlib.sha256("\n".join([map_digest, *keys]).encode())
    sha.update(matrix.tobytes())
    return sha.hexdigest().encode()


def _write_part(path: Path, keys: list[str], matrix: Matrix, metadata: dict[bytes, bytes]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    table = pa.table({ID: pa.array(keys, pa.string()), EMBEDDING: vectors})
    with atomic_open(path, "wb") as file:
        parquet.write_table(table.replace_schema_metadata(metadata), file)


def _metadata(path: Path) -> dict[bytes, bytes] | None:
    """What a part says of itself; None where it is missing or broken."""
    import pyarrow as pa
    from pyarrow import parquet

    if not path.is_file():
        return None
    try:
        return parquet.read_schema(path).metadata or {}
    except pa.ArrowException:
        return None
