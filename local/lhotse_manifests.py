"""A folder of Lhotse manifests as cuts of one supervision each."""

import re
from collections.abc import Iterator
from pathlib import Path

from lhotse import CutSet, Features, load_manifest
from lhotse.cut import MonoCut
from lhotse.utils import fastcopy
from sources import Source

from nessa.errors import InputError
from nessa.kaldi.datadir import read_optional

SUFFIXES = (".jsonl", ".jsonl.gz")


class LhotseDir(Source):
    """The manifests of a folder.

    Args:
        directory: holds one manifest of cuts, or one of recordings and one of supervisions.
        allow_pipes: run the commands of recordings, and load from addresses.

    Raises:
        InputError: no such manifests, or a supervision without a speaker.
    """

    def __init__(self, directory: Path, allow_pipes: bool) -> None:
        self.directory, self._allow_pipes = directory, allow_pipes
        self._sessions = read_optional(directory, "utt2session")
        self._cuts: dict[str, MonoCut] = {}
        for cut in _read(directory):
            for own in _of_one_supervision(cut):
                if own.id in self._cuts:
                    raise InputError(f"{directory}: supervision {own.id!r} is there twice")
                if not own.supervisions[0].speaker:
                    raise InputError(f"{directory}: supervision {own.id!r} has no speaker; add it")
                self._cuts[own.id] = own
        self.has_domains = any(
            "domain" in (cut.supervisions[0].custom or {}) for cut in self._cuts.values()
        )
        self.utt2spk = {name: cut.supervisions[0].speaker for name, cut in self._cuts.items()}
        self.segmented = any(
            cut.has_recording and (cut.start > 0 or cut.recording_id != name)
            for name, cut in self._cuts.items()
        )

    def _cut(self, utterance: str) -> MonoCut:
        cut = self._cuts[utterance]
        where = f"{self.directory}: utterance {utterance!r}"
        if cut.has_features and not _file_of(cut.features).exists():
            raise InputError(  # Lhotse's readers would run what looks like a command
                f"{where}: features in {cut.features.storage_path!r}, which is no file; "
                "restore it, or write them to one"
            )
        sources = cut.recording.sources if cut.has_recording else []
        kinds = {source.type for source in sources} - {"file", "memory"}
        if kinds and not self._allow_pipes:
            raise InputError(
                f"{where}: audio of recording {cut.recording_id!r} is a {kinds.pop()}, which is "
                "not run or loaded unless you allow it: --set corpus.allow_pipes=true, or write "
                "it to a file"
            )
        segment = cut.supervisions[0]
        custom = {**(segment.custom or {}), "session": self._session(cut)}
        return fastcopy(cut, supervisions=[fastcopy(segment, custom=custom)])

    def _session(self, cut: MonoCut) -> str:
        own = (cut.supervisions[0].custom or {}).get("session")
        recording = cut.recording_id if cut.has_recording else cut.id
        return str(self._sessions.get(cut.id) or own or recording)


def _read(directory: Path) -> CutSet:
    if directory.is_file():
        return load_manifest(directory, CutSet)
    manifests = [p for p in sorted(directory.glob("*")) if p.name.endswith(SUFFIXES)]
    found = {
        kind: [path for path in manifests if kind in path.name]
        for kind in ("cuts", "recordings", "supervisions")
    }
    if len(found["cuts"]) == 1:
        return load_manifest(found["cuts"][0], CutSet)
    if len(found["recordings"]) == len(found["supervisions"]) == 1:
        return CutSet.from_manifests(
            recordings=load_manifest(found["recordings"][0]),
            supervisions=load_manifest(found["supervisions"][0]),
        )
    raise InputError(
        f"{directory}: neither a Kaldi data directory (no utt2spk) nor Lhotse's: expected one "
        "*cuts*.jsonl.gz, or one *recordings*.jsonl.gz and one *supervisions*.jsonl.gz"
    )


def _file_of(features: Features) -> Path:
    """The file, without the `:offset` of Kaldi's arks."""
    return Path(re.sub(r":\d+$", "", features.storage_path))


def _of_one_supervision(cut: MonoCut) -> Iterator[MonoCut]:
    for segment in cut.supervisions:
        part = cut.truncate(offset=segment.start, duration=segment.duration, preserve_id=True)
        supervision = fastcopy(segment, start=0.0)
        yield fastcopy(part, id=segment.id, supervisions=[supervision])
