"""Perturbed copies of a set's audio, as Kaldi's recipes make them for training.

Aligners learn from more voices, rooms and channels than were recorded. At another speed, or with
other formants, a speaker counts as another one, `<copy>-<speaker>`; every other copy is one more
utterance of its speaker, `<utterance>-<copy>`, as in Kaldi's perturb_data_dir_speed.sh and
augment_data_dir.py.
"""

import heapq
import io
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import soundfile
from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.cut import Cut, MonoCut, append_cuts

from nessa.corpus.audio import SHORTEST, load_audio, reason
from nessa.corpus.config import CopyConfig
from nessa.corpus.formants import move_formants
from nessa.corpus.manifests import CutTable, is_of_others, open_manifest
from nessa.corpus.origins import SOURCES
from nessa.corpus.sets import SetCounts, write_set
from nessa.corpus.utterances import SKIPPING, make_cut, read_recording, with_results
from nessa.errors import InputError, is_out_of_memory
from nessa.kaldi.datadir import is_there, read_optional
from nessa.progress import progress

FOLDER = "copies"  # of the data folder; holds the audio
MADE_UP = "made-up"  # a folder beside those of copies, in whose names is no dash
UTTERANCES_PER_JOB = 100  # some seconds of work


class Background(NamedTuple):
    """What is added to speech: recordings of noise, and room impulse responses."""

    noises: Sequence[Recording] = ()
    rooms: Sequence[Recording] = ()


def remove_copies(data: Path) -> None:
    """Remove the audio of all copies, and the background that was made for them."""
    for path in filter(is_made, (data / FOLDER).glob("*")):  # the folder itself may be a link
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def is_made(path: Path) -> bool:
    """Whether all that is there, in data/copies, was left by preparations, whole or killed."""
    if path.is_symlink() and not path.exists():  # to a disk that was cleared
        return True
    if not path.is_dir():
        return path.name.endswith(".jsonl.gz") and not is_of_others(path)
    copy = re.escape(path.name)  # its files are called as `_CopyMaker` does, by their speakers
    known = rf"([^/]+)/({copy}-\1.*|\1.*-{copy})\.flac"
    if path.name == MADE_UP:
        known = r"(noise|rir)/\d+\.wav"
    for place, folders, files in os.walk(path):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        below = os.path.relpath(place, path)
        if not all(re.fullmatch(known, f"{below}/{name}") for name in (*links, *files)):
            return False
    return True


def add_copies(
    data: Path,
    name: str,
    copies: Mapping[str, CopyConfig],
    background: Background,
    seed: int,
    nj: int,
    skipped: dict[str, str] | None,
) -> SetCounts:
    """Add perturbed copies of its audio to a set that is on disk.

    The audio is written to data/copies/<copy>/, 16-bit FLAC; utt2copy tells the copies apart. Of
    additional speakers (utt2source) no copies are made. The same input gives the same samples,
    whatever `nj`. Memory: as `CutTable`, and one id an utterance.

    Args:
        data: the recipe's data folder.
        name: of the set, which holds no copies yet. Until it holds them, it counts as incomplete.
        copies: {name of a copy: how its audio is perturbed}.
        background: what copies with noise or reverberation draw from, of any sampling rate.
        seed: of all that is drawn.
        nj: number of processes.
        skipped: receives the copies that cannot be made, {id: why}; None refuses them.

    Raises:
        InputError: an utterance has no audio, or its audio cannot be read, or is called as a copy
            would be.
    """
    directory = data / name
    table = CutTable(data, name)
    (directory / "utt2spk").unlink()
    additional = read_optional(directory, SOURCES)
    chosen = [index for index in range(len(table)) if table.id(index) not in additional]
    segmented = is_there(directory / "segments")
    makers = [
        _CopyMaker(data / FOLDER / copy, copy, config, background, seed)
        for copy, config in copies.items()
    ]
    _check_cuts(directory, table, makers)
    manifests = []
    for maker in makers:
        manifests.append(data / FOLDER / f"{maker.copy}.jsonl.gz")
        with open_manifest(manifests[-1]) as write:
            for cut in maker.make(table, chosen, nj, skipped):
                write(cut)
    recorded = (table[index] for index in range(len(table)))
    made = (CutSet.from_jsonl_lazy(manifest) for manifest in manifests)
    cuts = heapq.merge(recorded, *made, key=lambda cut: cut.id.encode())
    counts = write_set(data, name, cuts, segmented=segmented)
    for manifest in manifests:
        manifest.unlink()
    return counts


class _Task(NamedTuple):
    """A copy to write: drawing is cheap and loading is not, so processes load what one draws."""

    original: MonoCut
    name: str
    audio: Cut  # loads perturbed
    path: Path


@dataclass(frozen=True)
class _CopyMaker:
    """Makes one copy of a set.

    Attributes:
        folder: receives the audio.
        copy: its name.
        config: how its audio is perturbed.
        background: what it draws from.
        seed: of all that is drawn.
    """

    folder: Path
    copy: str
    config: CopyConfig
    background: Background
    seed: int

    def make(
        self, table: CutTable, chosen: Sequence[int], nj: int, skipped: dict[str, str] | None
    ) -> Iterator[MonoCut]:
        """The copies of the chosen cuts, sorted by id as `LC_ALL=C sort` sorts."""
        order = sorted(chosen, key=lambda index: self._rename(table.id(index)).encode())
        tasks = (self._draw(table[index]) for index in order)
        results = with_results(_write, tasks, nj, UTTERANCES_PER_JOB)
        for task, made in progress(results, total=len(order), what=f"copy {self.copy}"):
            if isinstance(made, Recording):
                yield make_cut(made, self._supervision(task.original.supervisions[0], made))
                continue
            problem = f"no copy {self.copy!r} can be made: {made}"
            if skipped is None:
                original = task.original
                raise InputError(
                    f"utterance {original.id!r} ({original.recording.sources[0].source}): "
                    f"{problem}; remove the utterance, use {SKIPPING}, or change "
                    f"prepare.align_copies.{self.copy}"
                )
            skipped[task.name] = problem

    def takes(self, name: str) -> bool:
        """Whether a recorded id looks like that of a copy."""
        if self.config.is_another_voice:
            return name.startswith(f"{self.copy}-")
        return name.endswith(f"-{self.copy}")

    def _rename(self, utterance: str) -> str:
        if self.config.is_another_voice:
            return f"{self.copy}-{utterance}"
        return f"{utterance}-{self.copy}"

    def _draw(self, cut: MonoCut) -> _Task:
        name = self._rename(cut.id)
        speaker = cut.supervisions[0].speaker
        rng, of_speaker = (
            np.random.default_rng([self.seed, zlib.crc32(drawn.encode())])
            for drawn in (name, f"{self.copy}-{speaker}")
        )
        folder = self.folder / _file_name(speaker)
        audio = _perturbed(cut, self.config, self.background, rng, of_speaker)
        return _Task(cut, name, audio, folder / f"{_file_name(name)}.flac")

    def _supervision(self, original: SupervisionSegment, made: Recording) -> SupervisionSegment:
        """Without what was said and when, which holds no longer."""
        speaker = original.speaker
        return SupervisionSegment(
            id=made.id,
            recording_id=made.id,
            start=0.0,
            duration=made.duration,
            channel=0,
            speaker=f"{self.copy}-{speaker}" if self.config.is_another_voice else speaker,
            gender=original.gender,
            language=original.language,
            custom={**original.custom, "copy": self.copy, "copy_of": original.id},
        )


def _check_cuts(directory: Path, table: CutTable, makers: Iterable[_CopyMaker]) -> None:
    """Refuse what has no audio, and ids that stand among those of a copy, or are the same."""
    for index in range(len(table)):
        cut = table[index]
        if not cut.has_recording or cut.has_features:
            what = "given features" if cut.has_features else "no audio"
            raise InputError(
                f"{directory}: utterance {cut.id!r} has {what}, of which no copies can be made; "
                "remove prepare.align_copies"
            )
        for maker in makers:
            if taken := next(filter(maker.takes, (cut.id, cut.recording_id)), None):
                raise InputError(
                    f"{directory}: {taken!r} is called as a copy of prepare.align_copies."
                    f"{maker.copy} would be; give the copy another name"
                )


def _file_name(text: str) -> str:
    """No part of a path, whatever characters the id has."""
    return quote(text, safe="").replace(".", "%2E")


def _write(task: _Task) -> Recording | str:
    """Write a copy's audio; its recording, or why there is none."""
    rate = task.audio.sampling_rate
    try:
        samples = load_audio(task.audio)[0]
    except Exception as error:  # Lhotse's audio backends raise many types
        if is_out_of_memory(error):
            raise
        return reason(error)
    if len(samples) < SHORTEST * 0.01 * rate:
        return f"only {len(samples)} samples; too short for an embedding"
    if not np.isfinite(samples).all():
        return "samples are not finite"
    # Softer rather than clipped; models do not hear the level.
    samples = samples / max(1.0, np.abs(samples).max())
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, rate, "PCM_16", format="FLAC")
    task.path.parent.mkdir(parents=True, exist_ok=True)
    # Neither renamed nor fsynced: no table names it before all are written.
    with open(task.path, "wb") as file:
        file.write(encoded.getvalue())
    try:
        return read_recording(task.name, task.path)
    except InputError as error:  # of a part that is silent
        return str(error)


def _perturbed(
    cut: MonoCut,
    config: CopyConfig,
    background: Background,
    rng: np.random.Generator,
    of_speaker: np.random.Generator,
) -> Cut:
    """All that `config` asks for, in the order of its fields; computed when it is loaded.

    What makes another voice is drawn by `of_speaker`, which is the same for all of a speaker's.
    """
    rate = cut.sampling_rate
    if config.crop is not None:
        cut = random_part(cut, rng.uniform(*config.crop), rng)
    if (speed := _drawn(config.speed, of_speaker)) is not None:
        cut = cut.perturb_speed(speed, affix_id=False)
    if (ratio := _drawn(config.formants, of_speaker)) is not None:
        cut = move_formants(cut, ratio)
    if config.reverb:
        room = background.rooms[int(rng.integers(len(background.rooms)))]
        cut = cut.reverb_rir(room.resample(rate), affix_id=False)
    if config.codec is not None:
        cut = cut.compress(config.codec, config.compression)
    if config.snr is None:
        return cut
    noise = background.noises[int(rng.integers(len(background.noises)))].resample(rate)
    return with_noise(cut, noise, config.snr, rng)


def with_noise(
    cut: Cut, noise: Recording, snr: tuple[float, float], rng: np.random.Generator
) -> Cut:
    """A cut with a random part of a noise, which is repeated where it is shorter.

    Args:
        cut: speech.
        noise: of its sampling rate.
        snr: range, in dB.
        rng: draws the part and the ratio.
    """
    section: Cut = random_part(noise.to_cut(), cut.duration, rng)
    if section.duration < cut.duration:
        times = math.ceil(cut.duration / section.duration)
        section = append_cuts([section] * times).truncate(duration=cut.duration)
    return cut.mix(section, snr=rng.uniform(*snr), preserve_id="left")


def _drawn(factor: float | tuple[float, float] | None, rng: np.random.Generator) -> float | None:
    """Of a pair, one between them, in hundredths: resampling by others takes long filters."""
    return round(rng.uniform(*factor), 2) if isinstance(factor, tuple) else factor


def random_part(cut: MonoCut, seconds: float, rng: np.random.Generator) -> MonoCut:
    """A part of `seconds`, or all of the cut where it is shorter."""
    position = rng.random()  # drawn always, so that the stream does not depend on the length
    if cut.duration <= seconds:
        return cut
    return cut.truncate(
        offset=position * (cut.duration - seconds), duration=seconds, preserve_id=True
    )


def middle_part(cut: MonoCut, seconds: float) -> MonoCut:
    """The middle `seconds`, or all of the cut where it is shorter."""
    if cut.duration <= seconds:
        return cut
    offset = (cut.duration - seconds) / 2
    return cut.truncate(offset=offset, duration=seconds, preserve_id=True)
