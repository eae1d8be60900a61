"""Which model made the vectors of an embeddings directory: its info.json."""

from dataclasses import dataclass
from pathlib import Path

from nessa.errors import InputError
from nessa.files import read_json

XVECTOR_TABLES = ("xvector.scp", "spk_xvector.scp")  # the tables that info.json speaks for


@dataclass(frozen=True)
class ModelStamp:
    """What `info.json` says of the model that made a set of embeddings.

    Attributes:
        model: name of the model in the recipe.
        fingerprint: sha256 over the weights and the feature configuration.
        set: the data set that was extracted: train, align, dev, eval...
    """

    model: str
    fingerprint: str
    set: str


def read_stamp(table: Path, count: int, dim: int) -> ModelStamp | None:
    """The stamp beside a table, checked against what the table holds; None if there is none.

    Args:
        table: one of `XVECTOR_TABLES`.
        count: of its vectors.
        dim: of them.

    Raises:
        InputError: the info.json is no stamp, or is one of other vectors.
    """
    path = table.with_name("info.json")
    info = read_info(path.parent)
    if info is None:
        return None
    expected = info.count if table.name == "xvector.scp" else count
    if (info.dim, expected) != (dim, count):
        raise InputError(
            f"{path}: says {info.count} vectors of dimension {info.dim}, but {table.name} "
            f"has {count} of dimension {dim}; run extraction again"
        )
    return info.stamp


@dataclass(frozen=True)
class Info:
    """What `info.json` says of an embeddings directory."""

    stamp: ModelStamp
    dim: int
    count: int


def read_info(directory: Path) -> Info | None:
    """Read `info.json`; None if there is none.

    Raises:
        InputError: it is no stamp.
    """
    path = directory / "info.json"
    if not path.exists():
        return None
    info = read_json(path)
    fields = {"model": str, "fingerprint": str, "set": str, "dim": int, "count": int}
    for name, kind in fields.items():
        if not isinstance(info, dict) or not isinstance(info.get(name), kind):
            raise InputError(f"{path}: no {name!r} of type {kind.__name__}; run extraction again")
    stamp = ModelStamp(info["model"], info["fingerprint"], info["set"])
    return Info(stamp, info["dim"], info["count"])
