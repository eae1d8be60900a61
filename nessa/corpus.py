"""Data preparation: utterances on disk -> Lhotse manifests and Kaldi data directories.

What the programs in `local/` share. A program lists `Utterance`s of its corpus; here they
become sets, and sets are checked and given trials.
"""

import gzip
import itertools
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
from lhotse import AudioSource, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet

from nessa.config import PrepareConfig, TrialCount
from nessa.datadir import read_optional, read_utt2spk, spk2utt_of, validate_data_dir
from nessa.errors import InputError
from nessa.files import atomic_open, read_table, write_table
from nessa.progress import progress
from nessa.trials import Trials, largest_profile, make_profile_trials, make_trials

log = logging.getLogger(__name__)

SETS = ("train", "align", "dev", "eval")
BACKGROUNDS = ("noise", "rir")  # what augments the training of encoders
PROFILE_NONTARGETS = 20  # non-target tests of a profile
# What other steps add to a data directory; utt2spk because it marks the directory as complete.
_GENERATED = ("utt2spk", "trials", "trials_profile", "enroll_map", "skipped")


@dataclass(frozen=True)
class Utterance:
    """One audio file with one speaker."""

    id: str  # <speaker>-<session>-<utterance>
    speaker: str
    session: str
    path: Path
    gender: str | None = None  # "m" or "f"


def read_recording(name: str, path: Path) -> Recording:
    """Read the header of an audio file; the samples are not read.

    Args:
        name: becomes the recording's id.
        path: of the audio.

    Raises:
        InputError: missing, unreadable, empty, or more than one channel.
    """
    path = path.resolve()
    try:
        header = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError) as error:
        what = "is not readable audio" if path.exists() else "no such file"
        raise InputError(f"{path}: {what} ({name}); restore or remove it") from error
    if header.frames == 0:
        raise InputError(f"{path}: {name} has no samples; restore or remove it")
    if header.channels != 1:
        raise InputError(f"{path}: {name} has {header.channels} channels; mix it down to one")
    return Recording(
        id=name,
        sources=[AudioSource(type="file", channels=[0], source=str(path))],
        sampling_rate=header.samplerate,
        num_samples=header.frames,
        duration=header.frames / header.samplerate,
    )


def make_manifests(
    utterances: Sequence[Utterance], *, skip_bad: bool = False, what: str = "prepare"
) -> tuple[RecordingSet, SupervisionSet, dict[str, str]]:
    """Describe utterances as Lhotse does: one recording and one supervision each.

    Args:
        utterances: of one set; ids are unique.
        skip_bad: leave out utterances whose audio cannot be used, instead of refusing.
        what: a word for the progress line.

    Returns:
        Recordings, supervisions (session in `custom["session"]`), both sorted by id, and the
        utterances left out: {id: why}.

    Raises:
        InputError: an id occurs twice or does not start with its speaker, or audio cannot be used.
    """
    recordings: list[Recording] = []
    supervisions: list[SupervisionSegment] = []
    skipped: dict[str, str] = {}
    ordered = sorted(utterances, key=lambda utterance: utterance.id.encode())
    _check_ids(ordered)
    for utterance in progress(ordered, total=len(ordered), what=what):
        try:
            recording = read_recording(utterance.id, utterance.path)
        except InputError as error:
            if not skip_bad:
                raise InputError(f"{error}, or use --skip-bad") from error
            skipped[utterance.id] = str(error)
            continue
        recordings.append(recording)
        supervisions.append(_supervision(utterance, recording.duration))
    return (
        RecordingSet.from_recordings(recordings),
        SupervisionSet.from_segments(supervisions),
        skipped,
    )


def _check_ids(ordered: Sequence[Utterance]) -> None:
    for utterance in ordered:
        # Kaldi sorts utt2spk by either column and needs the same order.
        if not utterance.id.startswith(f"{utterance.speaker}-"):
            raise InputError(
                f"{utterance.path}: utterance id {utterance.id!r} does not start with its speaker "
                f"and a dash ({utterance.speaker}-); rename it"
            )
        if len(utterance.id.split()) != 1:
            raise InputError(f"{utterance.path}: a name with spaces cannot be an id; rename it")
    for first, second in itertools.pairwise(ordered):
        if first.id == second.id:
            raise InputError(
                f"{second.path}: utterance id {second.id!r} is also that of {first.path}; "
                "remove one"
            )


def _supervision(utterance: Utterance, duration: float) -> SupervisionSegment:
    return SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=duration,
        speaker=utterance.speaker,
        gender=utterance.gender,
        custom={"session": utterance.session},
    )


def write_set(
    data: Path | str,
    name: str,
    recordings: RecordingSet,
    supervisions: SupervisionSet,
    *,
    trials: Trials | None = None,
    skipped: Mapping[str, str] | None = None,
) -> None:
    """Write a set's manifests and its Kaldi data directory.

    The same input gives the same bytes. What an earlier preparation made of the set (trials,
    profiles) goes.

    Args:
        data: receives manifests/<name>_{recordings,supervisions,cuts}.jsonl.gz and <name>/.
        name: train, align, dev or eval.
        recordings: one per utterance, with the utterance's id.
        supervisions: one per recording; speaker, gender if known, session in `custom`.
        trials: the set's list, where the corpus brings one.
        skipped: utterances left out: {id: why}.

    Raises:
        InputError: the set is empty.
    """
    segments = sorted(supervisions, key=lambda segment: segment.id.encode())
    if not segments:
        raise InputError(f"set {name!r} has no utterances; is the corpus complete?")
    directory = Path(data) / name
    for generated in _GENERATED:
        (directory / generated).unlink(missing_ok=True)
    by_id = {recording.id: recording for recording in recordings}
    _write_manifests(Path(data) / "manifests", name, by_id, segments)
    _write_tables(directory, by_id, segments)
    if trials is not None:
        trials.write(directory / "trials")
    if skipped:
        write_table(directory / "skipped", skipped)


def write_backgrounds(data: Path | str, corpus: Path) -> dict[str, int]:
    """Describe the noises and rooms that encoders are trained with, where the corpus has some.

    Args:
        data: receives manifests/{noise,rir}_recordings.jsonl.gz; what an earlier preparation
            left there of a corpus that had them goes.
        corpus: its folders noise/ and rir/, at any depth, hold *.wav.

    Returns:
        {"noise": number of recordings, "rir": number of recordings}.

    Raises:
        InputError: audio that cannot be used.
    """
    counts = {}
    for kind in BACKGROUNDS:
        names = {
            path.relative_to(corpus).with_suffix("").as_posix(): path
            for path in (corpus / kind).rglob("*.wav")
        }
        manifest = Path(data) / "manifests" / f"{kind}_recordings.jsonl.gz"
        if names:
            ordered = sorted(names, key=str.encode)
            write_manifest(manifest, [read_recording(name, names[name]) for name in ordered])
        else:
            manifest.unlink(missing_ok=True)
        counts[kind] = len(names)
    return counts


def _write_manifests(
    manifests: Path, name: str, recordings: Mapping[str, Recording],
    segments: Sequence[SupervisionSegment],
) -> None:  # fmt: skip
    write_manifest(
        manifests / f"{name}_recordings.jsonl.gz", (recordings[s.recording_id] for s in segments)
    )
    write_manifest(manifests / f"{name}_supervisions.jsonl.gz", segments)
    cuts = (
        MonoCut(
            id=segment.id,
            start=segment.start,
            duration=segment.duration,
            channel=0,
            supervisions=[segment],
            recording=recordings[segment.recording_id],
        )
        for segment in segments
    )
    write_manifest(manifests / f"{name}_cuts.jsonl.gz", cuts)


def _write_tables(
    directory: Path, recordings: Mapping[str, Recording], segments: Sequence[SupervisionSegment]
) -> None:
    utt2spk = {segment.id: segment.speaker for segment in segments}
    paths = {s.id: recordings[s.recording_id].sources[0].source for s in segments}
    genders = {segment.speaker: segment.gender for segment in segments if segment.gender}
    write_table(directory / "wav.scp", paths)
    write_table(directory / "utt2dur", {s.id: f"{s.duration:.4f}" for s in segments})
    write_table(directory / "utt2session", {s.id: s.custom["session"] for s in segments})
    write_table(directory / "spk2utt", spk2utt_of(utt2spk))
    if len(genders) == len(set(utt2spk.values())):
        write_table(directory / "spk2gender", genders)
    else:  # Kaldi takes the table for complete
        (directory / "spk2gender").unlink(missing_ok=True)
    write_table(directory / "utt2spk", utt2spk)  # last: without it, there is no data directory


def write_manifest(path: Path, items: Iterable[Any]) -> None:
    """Write Lhotse items as .jsonl.gz whose bytes depend on the items alone."""
    # Lhotse's own writer stamps the gzip header with the time.
    with (
        atomic_open(path, "wb") as file,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as stream,
    ):
        for item in items:
            stream.write(json.dumps(item.to_dict(), ensure_ascii=False).encode() + b"\n")


def check_disjoint(sets: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse sets that share speakers: results on them would be too good.

    Args:
        sets: {set: {utterance: speaker}}.

    Raises:
        InputError: names a speaker and its two sets.
    """
    owner: dict[str, str] = {}
    for name, utt2spk in sets.items():
        for speaker in sorted(set(utt2spk.values())):
            if speaker in owner:
                raise InputError(
                    f"speaker {speaker!r} is in set {owner[speaker]!r} and in set {name!r}; "
                    "keep it in one of them"
                )
            owner[speaker] = name


def finish_sets(data: Path | str, config: PrepareConfig, seed: int) -> None:
    """Check the sets that a program in `local/` wrote, and make the trials that it did not.

    A set of `config.trials` without a list gets single-utterance trials; each also gets trials
    with profiles of several utterances (trials_profile and enroll_map).

    Args:
        data: holds a data directory per set.
        config: the recipe's section `prepare`.
        seed: of the trials.

    Raises:
        InputError: a set is missing or inconsistent, or two sets share speakers.
    """
    data = Path(data)
    names = [name for name in SETS if (data / name / "utt2spk").exists()]
    for name in config.trials:
        if name not in names:
            raise InputError(
                f"{data / name}: no such set, but the recipe wants trials for it; "
                "prepare the set, or remove it from prepare.trials"
            )
    check_disjoint({name: read_utt2spk(data / name) for name in names})
    for name, count in config.trials.items():
        _make_trials(data / name, count, config.profile_sizes, seed)
    problems = [problem for name in names for problem in validate_data_dir(data / name)]
    if problems:
        raise InputError("\n".join(problems))


def _make_trials(directory: Path, count: TrialCount, sizes: Sequence[int], seed: int) -> None:
    utt2spk = read_utt2spk(directory)
    utt2session = read_table(directory / "utt2session")
    spk2gender = read_optional(directory, "spk2gender")
    if not (directory / "trials").exists():
        trials = make_trials(
            utt2spk, utt2session, spk2gender, count.targets, count.nontargets, seed
        )
        trials.write(directory / "trials")
        log.info("%s: %d trials made", directory, len(trials))
    for name in ("trials_profile", "enroll_map"):
        (directory / name).unlink(missing_ok=True)
    largest = largest_profile(utt2spk, utt2session)
    for size in sizes:
        if size > largest:
            log.warning(
                "%s: no profiles of %d utterances: a speaker has only %d outside one session",
                directory, size, largest,
            )  # fmt: skip
    sizes = [size for size in sizes if size <= largest]
    if sizes:
        largest_speaker = max(Counter(utt2spk.values()).values())
        profiles, trials = make_profile_trials(
            utt2spk,
            utt2session,
            spk2gender,
            sizes=sizes,
            # A tiny set has fewer utterances of others than that.
            n_nontarget=min(PROFILE_NONTARGETS, len(utt2spk) - largest_speaker),
            seed=seed,
        )
        write_table(
            directory / "enroll_map", {name: " ".join(utts) for name, utts in profiles.items()}
        )
        trials.write(directory / "trials_profile")
        log.info("%s: %d profiles, %d trials with them", directory, len(profiles), len(trials))


def run_program(main: Callable[[], None]) -> None:
    """Run a program of `local/`: bad input is a message and exit status 2, never a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        main()
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
