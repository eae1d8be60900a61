"""Utterances on disk -> Lhotse cuts, with their audio checked by several processes."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from glob import escape, iglob
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from lhotse import AudioSource, Features, Recording, SupervisionSegment
from lhotse.cut import MonoCut
from lhotse.utils import fastcopy

from nessa.corpus.audio import AudioHeader, NoDecoderError, read_audio, read_audio_header
from nessa.corpus.features import load_features
from nessa.corpus.manifests import is_of_others, manifest_path, write_manifest
from nessa.errors import InputError

log = logging.getLogger(__name__)
ITEMS_PER_JOB = 2000  # audio files that a process looks at before it reports them
DECODED_PER_JOB = 200  # that it decodes
SKIPPING = "./run.sh --skip-bad true"  # a remedy
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Utterance:
    """One audio file with one speaker."""

    id: str  # <speaker>-<session>-<utterance>
    speaker: str
    session: str
    path: Path
    gender: str | None = None  # "m" or "f"


def sort_utterances(utterances: Iterable[Utterance]) -> list[Utterance]:
    """By id, as `LC_ALL=C sort` sorts."""
    return sorted(utterances, key=lambda utterance: utterance.id.encode())


def read_recording(name: str, path: Path) -> Recording:
    """The Lhotse recording of an audio file, with `name` as its id; see `read_audio_header`."""
    path = path.absolute()
    return recording_of(name, "file", str(path), read_audio_header(path))


def recording_of(
    name: str, kind: Literal["file", "command"], source: str, header: AudioHeader
) -> Recording:
    """The Lhotse recording of a file or of what a command prints, of a known header."""
    return Recording(
        id=name,
        sources=[AudioSource(type=kind, channels=[0], source=source)],
        sampling_rate=header.sampling_rate,
        num_samples=header.num_samples,
        duration=header.num_samples / header.sampling_rate,
    )


def make_cuts(
    utterances: Iterable[Utterance],
    skipped: dict[str, str] | None = None,
    nj: int = 1,
    corpus: Path | None = None,
) -> Iterator[MonoCut]:
    """The Lhotse cuts of utterances, with one recording and one supervision each.

    Memory: some thousands of utterances for each process.

    Args:
        utterances: of one set, sorted by id as `LC_ALL=C sort` sorts.
        skipped: receives the utterances whose audio cannot be used, {id: why}; all audio is then
            decoded. None refuses files with a bad header.
        nj: processes that read the files; does not change the result.
        corpus: its folder; a warning says how many files lie outside, behind symbolic links.

    Returns:
        Cuts in the same order (session in `supervision.custom["session"]`).

    Raises:
        InputError: an id occurs twice or does not start with its speaker, or audio cannot be used.
    """
    if corpus is not None:
        utterances = _watch_links(utterances, corpus)
    cuts = _cuts_by_header(utterances, skipped, nj)
    return cuts if skipped is None else usable_cuts(cuts, skipped, nj)


def _watch_links(utterances: Iterable[Utterance], corpus: Path) -> Iterator[Utterance]:
    """Pass utterances on, and warn at the end of files that links lead to outside the corpus."""
    inside = f"{os.path.realpath(corpus)}{os.sep}"
    outside: list[tuple[Path, str]] = []
    folder, place = Path(), ""  # utterances of a session follow each other
    for utterance in utterances:
        if utterance.path.parent != folder:
            folder = utterance.path.parent
            place = f"{os.path.realpath(folder)}{os.sep}"
        if os.path.islink(utterance.path) or not place.startswith(inside):
            target = os.path.realpath(utterance.path)
            if not target.startswith(inside):
                outside.append((utterance.path, target))
        yield utterance
    if outside:
        log.warning(
            "%s: %d files lie outside of it, behind symbolic links; the first is %s -> %s",
            corpus, len(outside), *outside[0],
        )  # fmt: skip


def _cuts_by_header(
    utterances: Iterable[Utterance], skipped: dict[str, str] | None, nj: int
) -> Iterator[MonoCut]:
    last: Utterance | None = None
    for utterance, header in with_results(_read_header, utterances, nj):
        _check_id(utterance, last)
        last = utterance
        if isinstance(header, AudioHeader):
            recording = recording_of(utterance.id, "file", str(utterance.path.absolute()), header)
            yield make_cut(recording, _supervision(utterance, recording.duration))
        elif skipped is None:
            raise InputError(f"{header} (utterance {utterance.id!r}), or use {SKIPPING}")
        else:
            skipped[utterance.id] = header


def _read_header(utterance: Utterance) -> AudioHeader | str:
    """The header of an utterance's file, or what is wrong with the file."""
    try:
        return read_audio_header(utterance.path)
    except NoDecoderError:
        raise
    except InputError as error:
        return str(error)


def usable_cuts(
    cuts: Iterable[MonoCut], skipped: dict[str, str] | None, nj: int = 1
) -> Iterator[MonoCut]:
    """Leave out the cuts whose audio or features cannot be read to their end, or not be embedded.

    Args:
        cuts: with a recording, with features, or with both.
        skipped: receives those that are left out, {id: why}; None refuses them.
        nj: processes that read; does not change the result.

    Raises:
        InputError: a cut is refused.
    """
    for cut, problem in with_results(find_problem, cuts, nj, DECODED_PER_JOB):
        if problem is None:
            yield cut
        elif skipped is None:
            raise InputError(f"{problem}, or use {SKIPPING}")
        else:
            skipped[cut.id] = problem


def find_problem(cut: MonoCut) -> str | None:
    """Read a cut to its end; what is wrong with it, or None."""
    try:
        if cut.has_recording:
            read_audio(cut, cut.recording.sampling_rate, "any")
        if cut.has_features:
            load_features(cut)
    except NoDecoderError:
        raise
    except InputError as error:
        return str(error)
    return None


def with_results(
    function: Callable[[T], R], items: Iterable[T], nj: int, items_per_job: int = ITEMS_PER_JOB
) -> Iterator[tuple[T, R]]:
    """Each item with the function's result, in order, computed by several processes.

    Memory: some `2 * nj * items_per_job` items and results.
    """
    if nj == 1:
        yield from ((item, function(item)) for item in items)
        return
    items = iter(items)
    batches = iter(lambda: list(islice(items, items_per_job)), [])
    with ProcessPoolExecutor(nj) as pool:
        jobs: deque[tuple[list[T], Future[list[R]]]] = deque()
        try:
            for batch in batches:
                jobs.append((batch, pool.submit(_apply, function, batch)))
                if len(jobs) > 2 * nj:  # bounds the memory, and keeps every process busy
                    done, job = jobs.popleft()
                    yield from zip(done, job.result(), strict=True)
            for done, job in jobs:
                yield from zip(done, job.result(), strict=True)
        finally:
            # Where one is refused, so is all. Waits: a pool that is left to itself while Python
            # ends may end it with a traceback.
            pool.shutdown(cancel_futures=True)


def _apply(function: Callable[[T], R], items: list[T]) -> list[R]:
    return [function(item) for item in items]


def make_cut(
    recording: Recording | None, supervision: SupervisionSegment, features: Features | None = None
) -> MonoCut:
    """The part of a recording (or the features) that a supervision is about."""
    return MonoCut(
        id=supervision.id,
        start=supervision.start,
        duration=supervision.duration,
        channel=supervision.channel,
        supervisions=[fastcopy(supervision, start=0.0)],
        recording=recording,
        features=features,
    )


def _check_id(utterance: Utterance, last: Utterance | None) -> None:
    # Kaldi sorts utt2spk by either column and needs the same order.
    if not utterance.id.startswith(f"{utterance.speaker}-"):
        raise InputError(
            f"{utterance.path}: utterance id {utterance.id!r} does not start with its speaker "
            f"and a dash ({utterance.speaker}-); rename it"
        )
    if len(utterance.id.split()) != 1:
        raise InputError(f"{utterance.path}: a name with spaces cannot be an id; rename it")
    if last is not None and last.id == utterance.id:
        raise InputError(
            f"{utterance.path}: utterance id {utterance.id!r} is also that of {last.path}; "
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


def write_backgrounds(data: Path, noise: Sequence[Path] = (), rir: Sequence[Path] = ()) -> None:
    """Write manifests of the noises and rooms for the encoders' augmentation, if there are any.

    Args:
        data: receives manifests/{noise,rir}_recordings.jsonl.gz; those of an earlier preparation
            are removed.
        noise: folders that hold *.wav or *.flac, at any depth, behind links as well; a
            recording's id is its path from the folder's parent.
        rir: the same for room impulse responses.

    Raises:
        InputError: audio that cannot be used, none in a folder that is there, or a manifest that
            no preparation wrote.
    """
    for kind, folders in (("noise", noise), ("rir", rir)):
        names: dict[str, Path] = {}
        for folder in folders:
            found = [*_below(folder, "flac"), *_below(folder, "wav")]  # of both, the latter is used
            if not found and folder.is_dir():
                raise InputError(f"{folder}: no *.wav or *.flac; is the corpus complete?")
            names |= {p.relative_to(folder.parent).with_suffix("").as_posix(): p for p in found}
        manifest = manifest_path(data, kind, "recordings")
        if is_of_others(manifest):
            raise InputError(
                f"{manifest}: stage prepare did not make this, and its own would take its place; "
                "move or remove it, or choose another --work-dir"
            )
        if names:
            ordered = sorted(names, key=str.encode)
            write_manifest(manifest, [read_recording(name, names[name]) for name in ordered])
        else:
            manifest.unlink(missing_ok=True)
        log.info("%s: %d %s recordings", data, len(names), kind)


def _below(folder: Path, suffix: str) -> Iterator[Path]:
    """Files below a folder, behind links as well; a folder that several paths lead to, once."""
    roots, seen = [str(folder)], set()
    for root in roots:  # those behind links follow, which `os.walk` does not enter
        for place, folders, _ in os.walk(root):
            if (real := os.path.realpath(place)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            below = [os.path.join(place, name) for name in folders]
            roots += filter(os.path.islink, below)
            yield from map(Path, iglob(f"{escape(place)}/*.{suffix}"))
