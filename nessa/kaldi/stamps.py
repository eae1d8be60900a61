"""Which model made the vectors of an embeddings directory: its info.json."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from nessa.errors import InputError
from nessa.files import read_json, write_json
from nessa.kaldi.datadir import is_there

VECTORS = "arks:"  # begins the fingerprint of vectors that nothing names a model of
XVECTOR_TABLES = ("xvector.scp", "spk_xvector.scp")  # the tables that info.json is about
MAPPED = re.compile(r" in \w+ space$")  # the end of the model's name, of mapped embeddings


@dataclass(frozen=True)
class ModelStamp:
    """The model that made a set of embeddings.

    Attributes:
        model: name of the model in the recipe.
        fingerprint: sha256 over the weights and the feature configuration; or `VECTORS` and a
            sha256 over some of the vectors.
        set: the data set that was extracted: train, align, dev, eval...
        side: enroll or runtime, of mapped vectors that are compared only with the other side's;
            None: of others.
        map: digest of the map that made mapped vectors, see `Aligner.map_digest`; None: of others.
        pair: of this map and the one that it was fitted to, see `Aligner.pair`; None: of others.
    """

    model: str
    fingerprint: str
    set: str
    side: str | None = None
    map: str | None = None
    pair: str | None = None

    def mapped(
        self, kind: str, space: str, map_: str, side: str | None = None, pair: str | None = None
    ) -> "ModelStamp":
        """The stamp of the same embeddings in another space: not the model's any more.

        Args:
            kind: of aligner.
            space: its fingerprint.
            map_: digest of the map, of which several may lead into a space.
            side: that they are compared as; None where it does not matter.
            pair: of both maps of the aligner.
        """
        return ModelStamp(f"{self.model} in {kind} space", space, self.set, side, map_, pair)

    @property
    def is_mapped(self) -> bool:
        """Whether the embeddings are mapped ones."""
        return MAPPED.search(self.model) is not None


def pair_of(maps: Iterable[str]) -> str:
    """The sha256 (hex) of an aligner's two maps, by their digests."""
    return hashlib.sha256("".join(sorted(maps)).encode()).hexdigest()


def names_model(fingerprint: str | None) -> bool:
    """Whether a fingerprint is a model's, not of some of its vectors, and known."""
    return bool(fingerprint) and not str(fingerprint).startswith(VECTORS)


def same_model(stamp: ModelStamp | None, fingerprint: str | None) -> bool | None:
    """Whether embeddings are of the model of a fingerprint; None where that cannot be told."""
    if not stamp or not stamp.fingerprint or not fingerprint:
        return None
    # Mapped embeddings have their space's fingerprint, never that of some vectors.
    if names_model(stamp.fingerprint) != names_model(fingerprint) and not stamp.is_mapped:
        return None
    return stamp.fingerprint == fingerprint


@dataclass(frozen=True)
class Info:
    """Content of `info.json`: the model, and dimension and number of the vectors."""

    stamp: ModelStamp
    dim: int
    count: int


def write_info(directory: Path, stamp: ModelStamp, dim: int, count: int) -> None:
    """Write `info.json`."""
    known = {name: value for name, value in asdict(stamp).items() if value is not None}
    write_json(directory / "info.json", known | {"dim": dim, "count": count})


def read_info(directory: Path) -> Info | None:
    """Read `info.json`; None if there is none.

    Raises:
        InputError: a field is missing or of another type.
    """
    path = directory / "info.json"
    if not is_there(path):
        return None
    info = read_json(path)
    fields = {"model": str, "fingerprint": str, "set": str, "dim": int, "count": int}
    for name, kind in fields.items():
        if not isinstance(info, dict) or not isinstance(info.get(name), kind):
            raise InputError(f"{path}: no {name!r} of type {kind.__name__}; run extraction again")
    side = info.get("side")
    if side not in (None, "enroll", "runtime"):
        raise InputError(f"{path}: side {side!r} is neither enroll nor runtime; map them again")
    made_by = {name: info.get(name) for name in ("map", "pair")}
    for name, digest in made_by.items():
        if not isinstance(digest, str | None):
            raise InputError(f"{path}: {name} {digest!r} is no text; map them again")
    stamp = ModelStamp(info["model"], info["fingerprint"], info["set"], side, **made_by)
    return Info(stamp, info["dim"], info["count"])


def read_stamp(table: Path, count: int, dim: int) -> ModelStamp | None:
    """The stamp beside a table, checked against what the table holds; None if there is none.

    Args:
        table: one of `XVECTOR_TABLES`.
        count: of its vectors.
        dim: of them.

    Raises:
        InputError: see `read_info`; or it is about other vectors.
    """
    info = read_info(table.parent)
    if info is None:
        return None
    expected = info.count if table.name == "xvector.scp" else count
    if (info.dim, expected) != (dim, count):
        raise InputError(
            f"{table.with_name('info.json')}: says {info.count} vectors of dimension {info.dim}, "
            f"but {table.name} has {count} of dimension {dim}; run extraction again"
        )
    return info.stamp
