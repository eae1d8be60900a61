"""Sets on disk: one pass over a set's cuts writes its manifests and its Kaldi data directory."""

import contextlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

from lhotse import AudioSource, Features, Recording
from lhotse.cut import MonoCut
from lhotse.utils import fastcopy

from nessa.corpus.manifests import Write, is_of_others, manifest_path, open_manifest
from nessa.corpus.origins import COPIES, SOURCES
from nessa.corpus.speakers import SETS
from nessa.errors import InputError
from nessa.files import atomic_open, write_table
from nessa.kaldi.datadir import ENROLL_MAP, GIVEN_MAP

# What the supervisions of utterances that were not recorded for a set have in `custom`.
_MARKS = {COPIES: ("copy", "copy_of"), SOURCES: ("added_from",)}
# What other steps add to a data directory; utt2spk because it marks the directory as complete.
_GENERATED = ("utt2spk", ENROLL_MAP, GIVEN_MAP, "skipped", *_MARKS)
_ALWAYS = ("utt2spk", "spk2utt", "utt2dur", "utt2session")  # the first becomes visible last
_TABLES = (
    "wav.scp",
    "segments",
    "feats.scp",
    "utt2domain",
    "spk2gender",
    "text",
)  # that a set may have, or not
# Lhotse's transforms of recordings: sox's effect, and which of their settings it takes.
_SOX = {
    "Resample": ("rate", "target_sampling_rate"),
    "Speed": ("speed", "factor"),
    "Tempo": ("tempo", "factor"),
    "Volume": ("vol", "factor"),
}
_KINDS = ("recordings", "supervisions", "cuts")  # of manifests
_OF_EMBEDDINGS = {"spk2utt", "utt2session"}  # what local/arks.py, which makes no manifests, writes
_OF_SPEECH = {"wav.scp", "segments", "feats.scp", "utt2dur", "text"}  # and what it does not


class SetCounts(NamedTuple):
    """Size of a set."""

    speakers: int
    utterances: int
    hours: float


def write_set(
    data: Path, name: str, cuts: Iterable[MonoCut], *, segmented: bool = False
) -> SetCounts:
    """Write a set's manifests and its Kaldi data directory.

    The same input gives the same bytes. What an earlier preparation made of the set (trials,
    profiles, the list of skipped utterances) goes. Memory: one speaker's utterances, and a
    segmented set's recordings.

    Args:
        data: receives manifests/<name>_{recordings,supervisions,cuts}.jsonl.gz and <name>/.
        name: train, align, dev or eval.
        cuts: sorted by id as `LC_ALL=C sort` sorts; one supervision each, with speaker, gender and
            text if known, session and, in all or none, domain in `custom`; all of them with a
            recording, with features, or with both. Marks of copies (copy, copy_of) and of
            additional speakers (added_from) in `custom` become tables.
        segmented: the cuts are parts of longer recordings, as in Kaldi's `segments`.

    Raises:
        InputError: the set is empty or not sorted, a speaker's utterances do not follow each
            other, some have a domain, audio or features and others none, or two recordings have
            one id.
    """
    directory = data / name
    cuts = iter(cuts)
    first = next(cuts, None)
    if first is None:
        raise InputError(f"set {name!r} has no utterances; is the corpus complete?")
    clear_set(data, name)
    tables = [*_ALWAYS]
    tables += ["utt2domain"] if "domain" in first.supervisions[0].custom else []
    tables += ["text"] if first.supervisions[0].text is not None else []
    tables += ["feats.scp"] if first.has_features and _is_kaldis(first.features) else []
    tables += ["segments"] if segmented else ["wav.scp"] if first.has_recording else []
    kinds = _KINDS[0 if first.has_recording else 1 :]
    with contextlib.ExitStack() as stack:

        def open_table(table: str) -> IO[str]:
            return stack.enter_context(atomic_open(directory / table))

        files = {table: open_table(table) for table in tables}
        manifests = {
            kind: stack.enter_context(open_manifest(manifest_path(data, name, kind)))
            for kind in kinds
        }
        writer = _SetWriter(name, files, manifests, open_table)
        for cut in chain([first], cuts):
            writer.add(cut)
        writer.finish()
        if segmented:
            write_table(directory / "wav.scp", writer.audio)
        if None not in writer.genders.values():  # Kaldi takes the table for complete
            write_table(directory / "spk2gender", writer.genders)
    return SetCounts(len(writer.genders), writer.utterances, writer.seconds / 3600)


def users_own(data: Path, name: str) -> Path | None:
    """A set's manifest or directory that no preparation, whole or killed, left there, if any.

    Args:
        data: the recipe's data folder.
        name: of the set.
    """
    manifests = [manifest_path(data, name, kind) for kind in _KINDS]
    if others := next(filter(is_of_others, manifests), None):
        return others
    if manifest_path(data, name, "cuts").exists():
        return None
    there = {path.name for path in (data / name).glob("*")}
    of_lhotse = any(file.endswith((".jsonl", ".jsonl.gz")) for file in there)  # trials perhaps
    of_embeddings = there >= _OF_EMBEDDINGS and there.isdisjoint(_OF_SPEECH)
    return data / name if of_lhotse or ("utt2spk" in there and not of_embeddings) else None


def remove_other_sets(data: Path, written: Iterable[str]) -> None:
    """Remove the sets that `write_set` made earlier and this preparation does not write.

    Files in their directories that are not of a set stay.

    Args:
        data: the recipe's data folder.
        written: names of sets.
    """
    for name in set(SETS) - set(written):
        directory = data / name
        marks = directory / "utt2spk", manifest_path(data, name, "cuts")
        if users_own(data, name) or not all(mark.exists() for mark in marks):
            continue
        clear_set(data, name)
        with contextlib.suppress(OSError):  # something else is there, or it is a link
            directory.rmdir()


def clear_set(data: Path, name: str) -> None:
    """Remove what an earlier preparation, by whatever program, made of a set.

    Args:
        data: the recipe's data folder.
        name: of the set.
    """
    directory = data / name
    tables = [directory / table for table in (*_GENERATED, *_ALWAYS, *_TABLES)]
    manifests = [manifest_path(data, name, kind) for kind in _KINDS]
    for stale in (*tables, *directory.glob("trials*"), *manifests):
        stale.unlink(missing_ok=True)


def write_skipped(data: Path, name: str, skipped: Mapping[str, str]) -> None:
    """Write what was left out of a set, {item: why}; no file where that is nothing."""
    if skipped:
        write_table(data / name / "skipped", skipped)


class _SetWriter:
    """The open files of a set, to which its cuts are added one by one.

    Attributes:
        utterances, seconds: how much there is.
        genders: speaker -> "m", "f" or None.
        audio: recording -> file, of a segmented set.
    """

    def __init__(
        self,
        name: str,
        files: dict[str, IO[str]],
        manifests: Mapping[str, Write],
        open_table: Callable[[str], IO[str]],
    ) -> None:
        self.utterances, self.seconds = 0, 0.0
        self.genders: dict[str, str | None] = {}
        self.audio: dict[str, str] = {}
        self._recordings: set[str] = set()  # those of `audio`, which may have several channels
        self._name, self._files, self._manifests = name, files, manifests
        self._open_table = open_table  # for one that not every set has
        self._last = ("", "")  # utterance and speaker
        self._contents: _Contents | None = None  # of all utterances
        self._own: list[str] = []  # utterances of the speaker at hand

    def add(self, cut: MonoCut) -> None:
        """Write one cut to all tables and manifests."""
        segment = cut.supervisions[0]
        self._check_order(cut.id, segment.speaker)
        self._check_contents(cut)
        if segment.speaker != self._last[1]:
            self.finish()
            self.genders[segment.speaker] = segment.gender
        self._own.append(cut.id)
        self._last = (cut.id, segment.speaker)
        self.utterances += 1
        self.seconds += cut.duration
        self._table("utt2spk", cut.id, segment.speaker)
        self._table("utt2dur", cut.id, f"{cut.duration:.4f}")
        self._table("utt2session", cut.id, segment.custom["session"])
        self._add_domain(cut)
        if "text" in self._files:
            self._table("text", cut.id, " ".join((segment.text or "").split()))
        for table, fields in _MARKS.items():
            if segment.custom.keys() >= set(fields):
                if table not in self._files:
                    self._files[table] = self._open_table(table)
                self._table(table, cut.id, " ".join(segment.custom[field] for field in fields))
        if "feats.scp" in self._files:
            self._table("feats.scp", cut.id, cut.features.storage_path)
        if cut.has_recording:
            self._add_audio(cut)
        self._manifests["supervisions"](fastcopy(segment, start=cut.start))
        self._manifests["cuts"](cut)

    def finish(self) -> None:
        """Write the line of the last speaker's utterances."""
        if self._own:
            self._table("spk2utt", self._last[1], " ".join(self._own))
        self._own = []

    def _add_domain(self, cut: MonoCut) -> None:
        custom = cut.supervisions[0].custom
        if ("domain" in custom) != ("utt2domain" in self._files):
            raise InputError(
                f"set {self._name!r}: some utterances have a domain, and others, such as those "
                f"about {cut.id!r}, have none; give all of them a line of utt2domain"
            )
        if "domain" in custom:
            self._table("utt2domain", cut.id, custom["domain"])

    def _add_audio(self, cut: MonoCut) -> None:
        (source,) = (one for one in cut.recording.sources if cut.channel in one.channels)
        name, effects = cut.recording_id, sox_effects(cut.recording)
        if cut.recording.num_channels > 1:  # Kaldi's recordings have one
            name = f"{name}-{cut.channel}"
        if len(source.channels) > 1:
            effects = [f"remix {source.channels.index(cut.channel) + 1}", *effects]
        place = _place_of(source, effects)
        if "segments" not in self._files:
            self._table("wav.scp", cut.id, place)
        else:
            self._table("segments", cut.id, f"{name} {cut.start:.4f} {cut.end:.4f}")
            if self.audio.setdefault(name, place) != place:
                raise InputError(
                    f"set {self._name!r}: utterance {cut.id!r} is of recording {name!r} in "
                    f"{place}, but others of {name!r} in {self.audio[name]}; give each recording "
                    "an id of its own, in wav.scp and segments, or by Recording.from_file(path, "
                    "recording_id=...)"
                )
            if cut.recording_id in self._recordings:
                return
            self._recordings.add(cut.recording_id)
        self._manifests["recordings"](cut.recording)

    def _table(self, table: str, key: str, value: str) -> None:
        self._files[table].write(f"{key} {value}\n" if value else f"{key}\n")

    def _check_order(self, utterance: str, speaker: str) -> None:
        last_utterance, last_speaker = self._last
        if utterance.encode() <= last_utterance.encode():
            raise InputError(
                f"set {self._name!r}: utterance {utterance!r} comes after {last_utterance!r}; each "
                "must be there once, sorted as `LC_ALL=C sort` does"
            )
        if speaker != last_speaker and speaker in self.genders:
            raise InputError(
                f"set {self._name!r}: sorted by utterance, those of speaker {speaker!r} do not "
                f"follow each other ({utterance!r}); begin utterance ids with the speaker"
            )

    def _check_contents(self, cut: MonoCut) -> None:
        found = _Contents.of(cut)
        self._contents = self._contents or found
        if found != self._contents:
            raise InputError(
                f"set {self._name!r}: utterance {cut.id!r} has {found}, but {self._last[0]!r} has "
                f"{self._contents}; give all of them the same"
            )


class _Contents(NamedTuple):
    """What a set has of each utterance, and so which tables and manifests."""

    audio: bool
    features: bool
    kaldis: bool  # features

    @classmethod
    def of(cls, cut: MonoCut) -> "_Contents":
        kaldis = cut.has_features and _is_kaldis(cut.features)
        return cls(cut.has_recording, cut.has_features, kaldis)

    def __str__(self) -> str:
        words = ["audio"] * self.audio
        words += [f"features{' of Kaldi' * self.kaldis}"] * self.features
        return " and ".join(words) or "neither audio nor features"


def sox_effects(recording: Recording) -> list[str]:
    """What a recording's transforms are called by sox, which Kaldi's recipes run in wav.scp.

    Raises:
        InputError: sox has none of this kind.
    """
    if not recording.transforms:
        return []
    effects = []
    for transform in recording.to_dict()["transforms"]:
        if transform["name"] not in _SOX:
            raise InputError(
                f"recording {recording.id!r} has the transform {transform['name']!r}, which a "
                "wav.scp cannot name; save the audio (cut.save_audio), and make the manifest again"
            )
        effect, value = _SOX[transform["name"]]
        effects.append(f"{effect} {transform['kwargs'][value]}")
    return effects


def _place_of(source: AudioSource, effects: Sequence[str]) -> str:
    """What wav.scp says of a source: its file or command, or a command that applies effects."""
    file, is_command = str(source.source), source.type == "command"
    if not effects:
        return f"{file} |" if is_command else file
    given = f"{file} | sox -t wav -" if is_command else f"sox {shlex.quote(file)}"
    return f"{given} -t wav - {' '.join(effects)} |"


def _is_kaldis(features: Features) -> bool:
    """Whether they are in Kaldi's format: Lhotse names the storage after its reader."""
    return features.storage_type == "kaldiio"
