"""The corpus on disk, laid out like VoxCeleb; an interrupted run can be resumed."""

import contextlib
import fcntl
import itertools
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import wave
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from nessa.corpus.config import SetName, SetSize
from nessa.corpus.speakers import unusual_order
from nessa.errors import InputError, explained
from nessa.files import atomic_open, digest, read_json, write_json
from nessa.progress import progress
from nessa.synth.acoustics import SAMPLE_RATE, AcousticRanges, draw_session, record
from nessa.synth.background import make_noises, make_rooms
from nessa.synth.espeak import ACCENTS, Espeak
from nessa.synth.espeak import SAMPLE_RATE as ESPEAK_RATE
from nessa.synth.voices import VoiceRanges, draw_utterance, draw_voice

SET_SIZE_LIMIT = 9999  # speakers: ids are one digit for the set and four for the speaker
_FORMAT = 1  # raised when the same settings come to give other samples


@dataclass(frozen=True)
class Speaker:
    """One speaker to make."""

    set: str
    number: int  # what all of the speaker's randomness comes from, with the corpus seed
    size: SetSize

    @property
    def id(self) -> str:
        """As VoxCeleb's: `id` and five digits."""
        return f"id{self.number:05d}"

    @property
    def gender(self) -> str:
        """Alternates, so that every set is balanced."""
        return "mf"[self.number % 2]

    @property
    def utterances(self) -> int:
        """Over all sessions."""
        return self.size.sessions * self.size.utterances


@dataclass(frozen=True)
class Settings:
    """All that decides the samples of a corpus, besides the sizes of its sets."""

    seed: int = 0
    seconds: tuple[float, float] = (1.5, 3.0)
    voices: VoiceRanges = field(default_factory=VoiceRanges)
    acoustics: AcousticRanges = field(default_factory=AcousticRanges)


DEFAULT = Settings()


def synthesize_corpus(
    directory: Path, sets: Mapping[SetName, SetSize], settings: Settings = DEFAULT, nj: int = 1
) -> None:
    """Make a synthetic corpus: `wav/<speaker>/<session>/<utterance>.wav` and `meta.csv`.

    Beside them, `noise/*.wav` and `rir/*.wav` are recordings to augment training speech with.
    The bytes depend on sets and settings alone, not on `nj`, nor on how often the work was
    interrupted and resumed. A speaker depends on its set's position and its own number only: a
    corpus with more speakers contains the smaller one's.

    Args:
        directory: of the corpus; made if missing. A corpus made with other settings is replaced.
        sets: {name: how much of the set to make}.
        settings: everything else that decides the samples.
        nj: number of processes.

    Raises:
        InputError: espeak-ng is missing, a setting is not possible, or `directory` is or holds
            something that is not a synthetic corpus.
    """
    _check_settings(settings, nj)
    if not sets:
        raise InputError("corpus: no sets; say in corpus.sets how many speakers to make")
    speakers = list(_list_speakers(sets))
    espeak = Espeak()
    stamp = {
        "format": _FORMAT,
        "espeak": espeak.version,
        "settings": asdict(settings),
        "sets": {name: size.model_dump() for name, size in sets.items()},
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be made a folder ({error.strerror}); name another one"
        ) from error
    with _locked(directory):
        order = unusual_order(sets)
        _open_directory(directory, {"digest": digest([stamp, order] if order else stamp), **stamp})
        wav = directory / "wav"
        wav.mkdir(exist_ok=True)
        missing = [speaker for speaker in speakers if not (wav / speaker.id).is_dir()]
        _in_processes(lambda speaker: _make_speaker(wav, speaker, settings, espeak), missing, nj)
        _make_recordings(directory / "noise", make_noises(settings.seed))
        _make_recordings(directory / "rir", make_rooms(settings.seed))
        _write_meta(directory / "meta.csv", speakers, settings)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Wait for other makers of the same corpus.

    Forked processes inherit the lock: it is free only when the last of them has ended, also where
    the run that started them was killed.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # of a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _check_settings(settings: Settings, nj: int) -> None:
    if nj < 1:
        raise InputError(f"corpus: {nj} processes cannot make anything; give at least 1")
    if settings.seed < 0:
        raise InputError(f"corpus: seed {settings.seed} is negative; give 0 or more")
    for accent in settings.voices.accents:
        if accent not in ACCENTS:
            raise InputError(f"corpus: no accent {accent!r}; use one of {', '.join(ACCENTS)}")


def _list_speakers(sets: Mapping[SetName, SetSize]) -> Iterator[Speaker]:
    for position, (name, size) in enumerate(sets.items(), start=1):
        if position > 9 or size.speakers > SET_SIZE_LIMIT:
            raise InputError(
                f"corpus: set {name!r} has {size.speakers} speakers; "
                f"at most 9 sets of 1 to {SET_SIZE_LIMIT} speakers can be made"
            )
        for speaker in range(1, size.speakers + 1):
            yield Speaker(name, position * (SET_SIZE_LIMIT + 1) + speaker, size)


def _open_directory(directory: Path, stamp: Mapping[str, object]) -> None:
    """Leave in `directory` nothing but whole parts of this very corpus, and its stamp."""
    path = directory / "corpus.json"
    found = read_json(path) if path.exists() else {}
    own = isinstance(found, dict) and found.keys() >= stamp.keys()
    if not own and any(not _is_stamp_begun(inside) for inside in directory.iterdir()):
        raise InputError(
            f"{directory}: not empty, and no synthetic corpus (it has no corpus.json of nessa); "
            "name another folder, or empty this one"
        )
    for leftover in (*directory.glob(".*.tmp"), *directory.glob("wav/.*.tmp")):
        _remove(leftover)  # of a killed run
    if own and found["digest"] != stamp["digest"]:
        # The stamp goes last: a run killed here still knows the folder for its own.
        for name in ("meta.csv", "trials", "noise", "rir", "wav"):
            _remove(directory / name)
        path.unlink()
    if not path.exists():
        write_json(path, stamp)


def _is_stamp_begun(path: Path) -> bool:
    """Whether it is what a run leaves that is killed while it writes its stamp."""
    return path.is_file() and path.name.startswith(".corpus.json.") and path.suffix == ".tmp"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _make_speaker(wav: Path, speaker: Speaker, settings: Settings, espeak: Espeak) -> None:
    # Ctrl-C reaches all processes of a terminal; the parent ends this one, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with explained(f"synth, speaker {speaker.id}"):
        _write_speaker(wav, speaker, settings, espeak)


def _write_speaker(wav: Path, speaker: Speaker, settings: Settings, espeak: Espeak) -> None:
    temporary = wav / f".{speaker.id}.tmp"
    for session, utterance, samples in _speak(speaker, settings, espeak):
        folder = temporary / f"s{session:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        _write_wav(folder / f"{utterance:05d}.wav", samples)
    # No fsync, which would cost more than the synthesis: a killed process loses nothing that the
    # rename shows, and what a power cut may empty is refused by name in stage prepare.
    temporary.rename(wav / speaker.id)


def _speak(
    speaker: Speaker, settings: Settings, espeak: Espeak
) -> Iterator[tuple[int, int, NDArray[np.int16]]]:
    """Yield (session from 1, utterance from 1, samples (N,) at 16 kHz)."""
    rng = np.random.default_rng([settings.seed, speaker.number])
    ranges = settings.voices
    voice = draw_voice(rng, speaker.gender, ranges)
    espeak.set_voice(speaker.id, voice.accent, voice.definition, seed=speaker.number)
    longest = int(settings.seconds[1] * ESPEAK_RATE)
    for session in range(1, speaker.size.sessions + 1):
        place = draw_session(rng, settings.acoustics)
        mood = rng.uniform(-ranges.session_pitch_jitter, ranges.session_pitch_jitter)
        for utterance in range(1, speaker.size.utterances + 1):
            seconds = rng.uniform(*settings.seconds)
            words = draw_utterance(rng, voice, seconds, mood, ranges)
            speech = espeak.say(words.text, words.rate, words.pitch)[:longest]
            yield session, utterance, record(speech, place, rng)


def _make_recordings(folder: Path, recordings: Iterable[NDArray[np.int16]]) -> None:
    """Write numbered recordings, unless they are there."""
    if folder.is_dir():
        return
    temporary = folder.with_name(f".{folder.name}.tmp")
    temporary.mkdir()
    for number, samples in enumerate(recordings, start=1):
        _write_wav(temporary / f"{number:05d}.wav", samples)
    temporary.rename(folder)


def _write_wav(path: Path, samples: NDArray[np.int16]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.tobytes())


def _write_meta(path: Path, speakers: Iterable[Speaker], settings: Settings) -> None:
    with atomic_open(path) as file:
        file.write("VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n")
        for speaker in speakers:
            rng = np.random.default_rng([settings.seed, speaker.number])
            accent = draw_voice(rng, speaker.gender, settings.voices).accent
            file.write(
                f"{speaker.id}\tvoice{speaker.number}\t{speaker.gender}\t{accent}\t{speaker.set}\n"
            )


def _in_processes(make: Callable[[Speaker], None], speakers: list[Speaker], nj: int) -> None:
    """Make every speaker in a process of its own, `nj` at a time.

    A pool's workers would speak for many speakers, and espeak-ng would carry state from one to
    the next; a fork costs some milliseconds a speaker.
    """
    context = multiprocessing.get_context("fork")
    running: dict[int, tuple[ForkProcess, Speaker]] = {}
    waiting = iter(speakers)
    total = sum(speaker.utterances for speaker in speakers)
    with progress(total=total, what="synth") as done:
        try:
            while True:
                for speaker in itertools.islice(waiting, nj - len(running)):
                    process = context.Process(target=make, args=(speaker,))
                    process.start()
                    running[process.sentinel] = process, speaker
                if not running:
                    return
                for sentinel in multiprocessing.connection.wait(list(running)):
                    process, speaker = running.pop(cast(int, sentinel))
                    process.join()
                    if process.exitcode != 0:
                        raise ChildProcessError(
                            f"synth: speaker {speaker.id} failed (exit code {process.exitcode}); "
                            "its message is above"
                        )
                    done.update(speaker.utterances)
        finally:
            for process, _ in running.values():
                process.terminate()
                process.join()
