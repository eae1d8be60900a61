"""A folder of Lhotse manifests as cuts of one supervision each."""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from division import warn_of_no_sessions
from lhotse import CutSet, Features, Recording, SupervisionSegment, load_manifest
from lhotse.cut import MonoCut, MultiCut
from lhotse.features.io import is_in_memory
from lhotse.utils import fastcopy
from sources import Source, check_span

from nessa.corpus.audio import TOLERANCE, read_audio_header, reason
from nessa.corpus.listed import GivenMatrix
from nessa.corpus.sets import sox_effects
from nessa.errors import InputError, about, named
from nessa.files import find_listed, id_fault, read_table
from nessa.kaldi.datadir import read_optional

log = logging.getLogger(__name__)
SUFFIXES = (".jsonl", ".jsonl.gz")
GENDERS = {"m": "m", "male": "m", "f": "f", "female": "f"}  # as spk2gender has them
PLACE = re.compile(r"(:\d+)?(\[[\d:,]*\])?$")  # in a file of features: Kaldi's offset and range


class LhotseDir(Source):
    """The manifests of a folder.

    Supervisions that cannot be used are among `utt2spk`, and refused or skipped by `cuts`. Tables
    beside the manifests (utt2session, utt2domain, spk2gender, text) go before what these say; the
    first two have a line for every utterance.

    Args:
        directory: holds one manifest of cuts, or one of recordings and one of supervisions.
        given: whether models take the features of cuts; otherwise these count as not there.
        allow_pipes: run the commands of recordings.

    Raises:
        InputError: no such manifests, a supervision without a speaker, one that is there twice,
            an id that tables cannot hold, or a table of others.
    """

    def __init__(self, directory: Path, given: bool, allow_pipes: bool) -> None:
        self.directory, self._allow_pipes = directory, allow_pipes
        self._sessions = read_optional(directory, "utt2session")
        self._domains = read_optional(directory, "utt2domain")
        self._genders = read_optional(directory, "spk2gender")
        self._text = read_optional(directory, "text", empty=True)
        self._scps: dict[Path, dict[str, str]] = {}  # of features
        self._found: dict[str, MonoCut | str] = {}  # the cut, or what is wrong with it
        self.utt2spk = {}
        for segment, cut in _read(directory, given):
            with about(directory):
                _name(segment, cut)
            if segment.id in self._found:
                raise InputError(f"{directory}: supervision {segment.id!r} is there twice")
            self._found[segment.id] = cut
            self.utt2spk[segment.id] = segment.speaker
        self._check_hit("text", self._text, self.utt2spk.keys(), "utterance")
        self._check_hit("spk2gender", self._genders, set(self.utt2spk.values()), "speaker")
        valid = [cut for cut in self._found.values() if not isinstance(cut, str)]
        self.has_domains = bool(self._domains) or any(
            _said(cut.supervisions[0], "domain") for cut in valid
        )
        self.segmented = any(map(_is_part, valid))
        genders = {self._gender(cut.supervisions[0]) for cut in valid}
        if unknown := sorted(genders - GENDERS.keys() - {""}):
            log.warning(
                "%s: gender %s is neither m nor f; taken as not known", directory, named(unknown)
            )
        recordings = Counter(cut.recording_id for cut in valid if cut.has_recording)
        said = any(_said(cut.supervisions[0], "session") for cut in valid)
        if not self._sessions and not said and max(recordings.values(), default=0) < 2:
            warn_of_no_sessions(directory)
        # Of a manifest, and with its files found: parts of a recording follow each other.
        self._last: tuple[Recording, Recording] | None = None

    def _check_hit(
        self, name: str, table: Mapping[str, str], known: Collection[str], what: str
    ) -> None:
        """Refuse a table of other keys: what it lacks is taken from the manifest in silence."""
        if table and known and table.keys().isdisjoint(known):
            raise InputError(
                f"{self.directory / name}: no line is of a {what} of the manifests, the first is "
                f"of {next(iter(table))!r}; give a line of {min(known)!r} and the others, or "
                "remove the table"
            )

    def domain_of(self, utterance: str) -> str | None:
        """As its supervision says, where there is no utt2domain."""
        cut = self._found[utterance]
        if isinstance(cut, str):
            return None
        if self._domains:
            return self._domains.get(utterance)
        return _said(cut.supervisions[0], "domain")

    def _cut(self, utterance: str) -> MonoCut:
        cut = self._found[utterance]
        where = f"{self.directory}: utterance {utterance!r}"
        if isinstance(cut, str):
            raise InputError(f"{where}: {cut}")
        if cut.has_features:
            with about(f"{where}: features"):
                cut = fastcopy(cut, features=self._found_features(cut.features))
        sources = cut.recording.sources if cut.has_recording else []
        kinds = {source.type for source in sources} - {"file"}
        if elsewhere := sorted(kinds - {"command"}):
            without = ", or, if all encoders take given features, call CutSet.drop_recordings()"
            raise InputError(
                f"{where}: audio of recording {cut.recording_id!r} is of type {elsewhere[0]!r}, "
                "which a wav.scp cannot name; write it to a file"
                f"{without if cut.has_features else ''}, and make the manifest again"
            )
        if kinds and not self._allow_pipes:
            raise InputError(
                f"{where}: audio of recording {cut.recording_id!r} is a command, which is not run "
                "unless you allow it: --set corpus.allow_pipes=true, or write it to a file"
            )
        if cut.has_recording:
            with about(where):
                sox_effects(cut.recording)  # or it is refused
                cut = fastcopy(cut, recording=self._located(cut.recording))
        segment = cut.supervisions[0]
        custom = {**(segment.custom or {}), "session": self._session(cut)}
        custom.pop("domain", None)
        if domain := self._domain(segment):
            custom["domain"] = domain
        segment = fastcopy(
            segment,
            custom=custom,
            gender=GENDERS.get(self._gender(segment)),
            text=self._text.get(utterance, segment.text),
        )
        return fastcopy(cut, supervisions=[segment])

    def _gender(self, segment: SupervisionSegment) -> str:
        """As the table or the manifest has it; "" where it is not known."""
        return (self._genders.get(segment.speaker) or segment.gender or "").lower()

    def _located(self, recording: Recording) -> Recording:
        """A recording whose files are there, are audio, and as long as its manifest says."""
        if self._last is not None and self._last[0] == recording:
            return self._last[1]
        sources = []
        for source in recording.sources:
            if source.type == "file":
                path = find_listed(source.source, self.directory / "recordings")
                header = read_audio_header(path, channels=None)
                said = recording.sampling_rate, recording.num_samples
                slack = TOLERANCE * header.sampling_rate
                other = abs(header.num_samples - recording.num_samples) > slack
                if not recording.transforms and (other or header.sampling_rate != said[0]):
                    raise InputError(
                        f"{path}: {header.num_samples} samples at {header.sampling_rate} Hz, but "
                        f"the manifest says {said[1]} at {said[0]} Hz; make the manifest again"
                    )
                source = fastcopy(source, source=str(path))
            sources.append(source)
        located = fastcopy(recording, sources=sources)
        self._last = recording, located
        return located

    def _found_features(self, features: Features) -> Features:
        """Features whose file is there: Lhotse's readers would run what looks like a command."""
        if is_in_memory(features.storage_type):
            return features
        place = PLACE.sub("", features.storage_path)
        path = find_listed(place, self.directory / "features")
        if features.storage_type == "kaldiio" and path.suffix == ".scp":  # of Lhotse's KaldiWriter
            return fastcopy(features, storage_path=self._place_in(path, features.storage_key))
        return fastcopy(features, storage_path=f"{path}{features.storage_path[len(place) :]}")

    def _place_in(self, scp: Path, key: str) -> str:
        """Where the matrix of a key lies, as the `ark:offset` that a feats.scp needs."""
        if scp not in self._scps:
            self._scps[scp] = read_table(scp)
        if key not in self._scps[scp]:
            raise InputError(f"{scp}: no line for {key!r}; make the features again")
        return GivenMatrix.find(self._scps[scp][key], scp).place

    def _session(self, cut: MonoCut) -> str:
        if self._sessions:
            return self._line(self._sessions, "utt2session", cut.id)
        own = _said(cut.supervisions[0], "session")
        return own or (cut.recording_id if cut.has_recording else cut.id)

    def _domain(self, segment: SupervisionSegment) -> str:
        if self._domains:
            return self._line(self._domains, "utt2domain", segment.id)
        return _said(segment, "domain")


def _said(segment: SupervisionSegment, key: str) -> str:
    """What a supervision says of itself in `custom`, where 0 is a name as well; "" for nothing."""
    value = (segment.custom or {}).get(key)
    return "" if value is None else str(value)


def _name(segment: Any, cut: MonoCut | str) -> None:
    """Make text of the ids of a supervision and its cut, which to Lhotse may be numbers.

    Raises:
        InputError: no speaker, or an id that tables cannot hold.
    """
    segment.id = str(segment.id)
    segment.speaker = "" if segment.speaker is None else str(segment.speaker)
    if not segment.speaker:
        raise InputError(f"supervision {segment.id!r} has no speaker; add it")
    ids = {"supervision": segment.id, "speaker": segment.speaker}
    if not isinstance(cut, str):
        (own,) = cut.supervisions
        cut.id, own.id, own.speaker = segment.id, segment.id, segment.speaker
        if cut.has_recording:
            cut.recording.id = own.recording_id = ids["recording"] = str(cut.recording.id)
    for what, name in ids.items():
        if fault := id_fault(name):
            raise InputError(f"{what} {name!r} {fault}")


Found = tuple[Any, MonoCut | str]  # a supervision, and its cut or what is wrong with it


def _read(directory: Path, given: bool) -> Iterator[Found]:
    manifests = [p for p in sorted(directory.glob("*")) if p.name.endswith(SUFFIXES)]
    found = {
        kind: [path for path in manifests if kind in path.name]
        for kind in ("cuts", "recordings", "supervisions")
    }
    if len(found["cuts"]) == 1:
        return _of_cuts(_load(found["cuts"][0], "cuts"), found["cuts"][0], given)
    if len(found["recordings"]) == len(found["supervisions"]) == 1:
        recordings, supervisions = (
            _load(found[kind][0], kind) for kind in ("recordings", "supervisions")
        )
        return _of_supervisions(_by_id(recordings, found["recordings"][0]), supervisions)
    raise InputError(
        f"{directory}: neither a Kaldi data directory (no utt2spk) nor Lhotse's: expected one "
        "*cuts*.jsonl.gz, or one *recordings*.jsonl.gz and one *supervisions*.jsonl.gz"
    )


def _load(path: Path, kind: str) -> Iterator[Any]:
    """The items of a manifest, which Lhotse reads as they come."""
    try:
        yield from load_manifest(path, CutSet) if kind == "cuts" else load_manifest(path)
    except InputError:
        raise
    except Exception as error:  # Lhotse checks nothing before it uses it
        raise InputError(f"{path}: not a manifest of {kind} ({reason(error)})") from None


def _by_id(recordings: Iterator[Any], path: Path) -> dict[str, Recording]:
    found: dict[str, Recording] = {}
    for one in recordings:
        if found.setdefault(one.id, one) != one:  # Recording.from_file takes the file's stem
            raise InputError(
                f"{path}: several recordings have the id {one.id!r}; make the manifests again with "
                "an id for each, as by Recording.from_file(path, recording_id=...)"
            )
    return found


def _of_supervisions(
    recordings: dict[str, Recording], supervisions: Iterator[Any]
) -> Iterator[Found]:
    """What Lhotse would drop or cut short in silence is named."""
    for segment in supervisions:
        recording = recordings.get(segment.recording_id)
        if recording is None:
            yield (
                segment,
                (
                    f"of recording {segment.recording_id!r}, which the recordings manifest lacks; "
                    "add the recording, or remove the supervision"
                ),
            )
        else:
            yield segment, _part_of(recording, segment, segment.start)


def _part_of(recording: Recording, segment: Any, start: float) -> MonoCut | str:
    """A supervision that starts at a second of a recording, as a cut."""
    try:
        end = check_span(start, start + segment.duration, recording)
        channel = _channel(segment, recording.channel_ids, recording.id)
    except InputError as error:
        return str(error)
    return MonoCut(
        id=segment.id,
        start=start,
        duration=end - start,
        channel=channel,
        supervisions=[fastcopy(segment, start=0.0, duration=end - start, channel=channel)],
        recording=recording,
    )


def _channel(segment: Any, there: list[int], recording: str) -> int:
    wanted = segment.channel if isinstance(segment.channel, list) else [segment.channel]
    if len(wanted) != 1:
        raise InputError(f"is of channels {wanted}; a supervision here is of one: name it")
    if wanted[0] not in there:
        raise InputError(
            f"is of channel {wanted[0]}, but recording {recording!r} has {there}; correct it"
        )
    return wanted[0]


def _of_cuts(cuts: Iterator[Any], path: Path, given: bool) -> Iterator[Found]:
    alone = []
    for cut in cuts:
        if not cut.supervisions:
            alone.append(cut.id)
        for segment in cut.supervisions:
            yield segment, _part_of_cut(cut, segment, given)
    if alone:
        log.warning("%s: no supervision, so no speaker: %s; left out", path, named(alone))


def _part_of_cut(cut: Any, segment: Any, given: bool) -> MonoCut | str:
    if not isinstance(cut, MonoCut | MultiCut):
        return (
            f"in cut {cut.id!r}, which is mixed or padded ({type(cut).__name__}); give the cuts "
            "before that, or save the audio (cut.save_audio)"
        )
    if not given:
        if not cut.has_recording:
            return (
                f"in cut {cut.id!r}, which has no recording; add it or, with features alone, set "
                "features.type of the encoders to given, which pretrained ones without `features` "
                "cannot"
            )
        cut = fastcopy(cut, features=None)
    if isinstance(cut, MultiCut) and cut.has_features:
        return (
            f"in cut {cut.id!r}, whose features are of several channels (MultiCut); make them of "
            "each channel (cut.to_mono)"
        )
    if cut.has_recording and not cut.has_features:
        part = _part_of(cut.recording, segment, cut.start + segment.start)
        inside = segment.start >= -TOLERANCE and segment.end <= cut.duration + TOLERANCE
        if isinstance(part, str) or inside:
            return part
    if not (
        segment.start >= 0 and 0 < segment.duration <= cut.duration - segment.start + TOLERANCE
    ):
        return (
            f"from {segment.start:g} to {segment.end:g} s does not lie in cut {cut.id!r} of "
            f"{cut.duration:.2f} s; correct it"
        )
    length = min(segment.duration, cut.duration - segment.start)
    part = cut.truncate(offset=segment.start, duration=length, preserve_id=True)
    return fastcopy(part, id=segment.id, supervisions=[fastcopy(segment, start=0.0)])


def _is_part(cut: MonoCut) -> bool:
    """Whether a cut is not all of the recording of its name."""
    if not cut.has_recording:
        return False
    shorter = cut.duration < cut.recording.duration - TOLERANCE
    return cut.start > 0 or shorter or cut.recording_id != cut.id
