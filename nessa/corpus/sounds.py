"""Whether audio or features are others than before, under the same ids and of the same lengths."""

import hashlib
from collections.abc import Iterable, Iterator

from lhotse.cut import MonoCut

from nessa.files import spots_digest


def sounds_digest(cuts: Iterable[MonoCut]) -> str:
    """sha256 (hex) over some bytes of the files of utterances, wherever these lie.

    A file is known by its size and by what stands at three of its places: enough to tell a corpus
    from its denoised copy, and cheap beside decoding. What is no file, such as a command, is known
    by its text. A file that cannot be read counts as empty; who reads it will say so.
    """
    known: dict[str, bytes] = {}
    sha = hashlib.sha256()
    for cut in cuts:
        for place, key in _places(cut):
            if place not in known:
                known[place] = spots_digest(place)
            sha.update(known[place] + key.encode() + b"\n")
    return sha.hexdigest()


def _places(cut: MonoCut) -> Iterator[tuple[str, str]]:
    """The files of an utterance, and what else tells its part of them apart."""
    if cut.has_features:
        yield cut.features.storage_path, str(cut.features.storage_key)
    for source in cut.recording.sources if cut.has_recording else ():
        if source.type == "file":
            yield str(source.source), ""
        else:
            yield "", str(source.source)
