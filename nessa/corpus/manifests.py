"""Lhotse manifests: the same items give the same bytes, and reading needs little memory."""

import contextlib
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import RecordingSet
from lhotse.cut import MonoCut

from nessa.errors import InputError
from nessa.files import atomic_open

AGAIN = "prepare the corpus again: ./run.sh --stage prepare"
# Begins what `open_manifest` writes, without the byte of its compression: there is neither a name
# nor a time, of which others' writers leave one.
MARK = b"\x1f\x8b\x08\0\0\0\0\0\xff"
COMPRESSION = 3  # of gzip; 6 makes files a tenth smaller, and takes three times as long


Item = Any  # a Recording, SupervisionSegment or MonoCut; Lhotse is not typed
Write = Callable[[Item], None]


@contextlib.contextmanager
def open_manifest(path: Path) -> Iterator[Write]:
    """Give a function that appends to a .jsonl.gz, which appears complete or not at all."""
    # Lhotse's own writer stamps the gzip header with the time.
    with (
        atomic_open(path, "wb") as file,
        gzip.GzipFile("", "wb", compresslevel=COMPRESSION, fileobj=file, mtime=0) as stream,
    ):

        def write(item: Item) -> None:
            stream.write(json.dumps(item.to_dict(), ensure_ascii=False).encode() + b"\n")

        yield write


def write_manifest(path: Path, items: Iterable[Item]) -> None:
    """Write items as .jsonl.gz."""
    with open_manifest(path) as write:
        for item in items:
            write(item)


def is_of_others(path: Path) -> bool:
    """Whether a file is there that `open_manifest`, of no version, wrote."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        header = file.read(len(MARK) + 1)
    return header[:8] + header[9:] != MARK


def manifest_path(data: Path, name: str, kind: str) -> Path:
    """`data`/manifests/<name>_<kind>.jsonl.gz; kind is recordings, supervisions or cuts."""
    return data / "manifests" / f"{name}_{kind}.jsonl.gz"


def read_background(data: Path, kind: str) -> RecordingSet | None:
    """The noises ("noise") or room impulse responses ("rir") that encoders are trained with."""
    path = manifest_path(data, kind, "recordings")
    try:
        return RecordingSet.from_jsonl(path) if path.is_file() else None
    except Exception as error:  # Lhotse checks nothing before it uses it
        raise InputError(f"{path}: not a manifest of recordings ({error}); {AGAIN}") from None


class CutTable:
    """Cuts in little memory: an object is made only when it is asked for.

    A cut is kept as the line of its manifest, in one block that processes share: about 600 bytes
    instead of the object's 4,000.

    Attributes:
        speakers: of each cut, shape (N,), as indices into `names`.
        names: of the speakers, in order of their first cut.
    """

    def __init__(self, data: Path, name: str) -> None:
        """Read a manifest.

        Args:
            data: the recipe's data folder.
            name: of the set.

        Raises:
            InputError: there is no such manifest, or it is damaged.
        """
        lines = bytearray()
        ends, speakers = [0], []
        indices: dict[str, int] = {}
        self._path = manifest_path(data, name, "cuts")
        if not self._path.is_file():
            raise InputError(f"{self._path}: no such manifest; run ./run.sh --stage prepare")
        for number, line in enumerate(_read_lines(self._path), start=1):
            lines += line
            ends.append(len(lines))
            speaker = _speaker_of(line, f"{self._path}: line {number}")
            speakers.append(indices.setdefault(speaker, len(indices)))
        self._lines, self._ends = np.frombuffer(lines, np.uint8), np.array(ends)
        self.names = list(indices)
        self.speakers = np.array(speakers, np.int32)

    def __len__(self) -> int:
        return len(self.speakers)

    def __getitem__(self, index: int) -> MonoCut:
        try:
            return MonoCut.from_dict(self._item(index))
        except Exception as error:  # Lhotse checks nothing before it uses it
            raise InputError(
                f"{self._path}: line {index + 1}: not a Lhotse cut ({error}); {AGAIN}"
            ) from None

    def id(self, index: int) -> str:
        """The id of a cut."""
        return self._item(index)["id"]

    def _item(self, index: int) -> dict[str, Any]:
        start, end = self._ends[index : index + 2]
        return json.loads(self._lines[start:end].tobytes())

    def of_speaker(self) -> list[np.ndarray]:
        """The indices of each speaker's cuts, in the order of `names`."""
        order = np.argsort(self.speakers, kind="stable")
        counts = np.bincount(self.speakers, minlength=len(self.names))
        return np.split(order, np.cumsum(counts)[:-1])


def _read_lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be unpacked ({error}); {AGAIN}") from None


def _speaker_of(line: bytes, place: str) -> str:
    """The speaker of a cut; checks that the cut has an id as well."""
    try:
        item = json.loads(line)
        name, speaker = item["id"], item["supervisions"][0]["speaker"]
    except (ValueError, RecursionError, LookupError, TypeError):
        name = speaker = None
    if not isinstance(name, str) or not isinstance(speaker, str):
        raise InputError(f"{place}: not a cut with an id and a speaker; {AGAIN}")
    return speaker
