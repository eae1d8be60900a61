"""Whether audio or features are others than before, under the same ids and of the same lengths."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from lhotse import Features, Recording
from lhotse.cut import MonoCut

from nessa.corpus.listed import ArkAudio
from nessa.files import spots_digest
from nessa.kaldi.scp import split_location

RANGE = re.compile(r"\[(\d*)[\d:,]*\]$")  # of frames, behind the place of a Kaldi matrix
WIDTHS = {b"\0BFM": 4, b"\0BDM": 8}  # bytes of a value; compressed or as text, at least one


class _Place(NamedTuple):
    """Some bytes of a file."""

    file: str
    start: int = 0
    size: int | None = None  # None: to its end


def sounds_digest(items: Iterable[MonoCut | Recording]) -> str:
    """sha256 (hex) over some bytes of the files of utterances or recordings, wherever these lie.

    A file, or a record in an ark, is known by its size and by what stands at three of its places:
    enough to tell a corpus from its denoised copy, and cheap beside decoding. What is no file, such
    as a command, is known by its text. A file that cannot be read counts as empty; who reads it
    will say so.
    """
    known: dict[_Place, bytes] = {}
    sha = hashlib.sha256()
    for item in items:
        for place, key in _places(item):
            if place not in known:
                known[place] = spots_digest(*place)
            sha.update(known[place] + key.encode() + b"\n")
    return sha.hexdigest()


def missing_files(item: MonoCut | Recording) -> list[str]:
    """Those files of an utterance or a recording that are not there."""
    files = (place.file for place, _ in _places(item))
    return [file for file in files if file and not os.path.exists(file)]


def part_of(cut: MonoCut) -> list[Any]:
    """What an utterance is of its recording or features; [] where it is all of them, untransformed.

    Returns:
        Nothing, or start and duration in seconds, its channel, those of each file, and transforms.
    """
    recording = cut.recording
    whole = recording or cut.features or cut
    start = 0.0 if recording else whole.start
    channels = [list(source.channels) for source in recording.sources] if recording else [[0]]
    transforms = recording.to_dict().get("transforms") if recording else None
    plain = (cut.start, cut.duration, cut.channel, channels) == (start, whole.duration, 0, [[0]])
    if plain and not transforms:
        return []
    return [cut.start, cut.duration, cut.channel, channels, transforms]


def _places(item: MonoCut | Recording) -> Iterator[tuple[_Place, str]]:
    """Where an utterance or a recording lies, and what else tells its part of the files apart."""
    recording = item if isinstance(item, Recording) else item.recording
    if recording is not item and item.has_features:
        yield _place_of_features(item.features)
    for source in recording.sources if recording else ():
        text = str(source.source)
        if source.type == "file":
            yield _Place(text), ""
        elif source.type == "command" and (audio := ArkAudio.of_command(text)):
            yield _Place(str(audio.ark), audio.start, audio.size), ""
        else:
            yield _Place(""), text


def _place_of_features(features: Features) -> tuple[_Place, str]:
    path, key = features.storage_path, str(features.storage_key)
    if features.storage_type != "kaldiio":
        return _Place(os.path.join(path, key) if os.path.isdir(path) else path), key
    found = RANGE.search(path)
    file, start = split_location(path[: found.start()] if found else path)
    key += path.removeprefix(file)
    if not start:  # a file of this matrix alone
        return _Place(file), key
    row = features.num_features * _width(file, start)
    first = int(found[1] or 0) if found else 0
    return _Place(file, start + first * row, features.num_frames * row), key


def _width(file: str, start: int) -> int:
    """Bytes that a value of a Kaldi matrix takes, or fewer."""
    try:
        with open(file, "rb") as opened:
            opened.seek(start)
            return WIDTHS.get(opened.read(4), 1)
    except OSError:
        return 1
