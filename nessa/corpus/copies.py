"""Perturbed copies of a set's audio, as Kaldi's recipes make them for training.

Aligners learn from more voices, rooms and channels than were recorded. At another speed a speaker
counts as another one, `<copy>-<speaker>`; every other copy is one more utterance of its speaker,
`<utterance>-<copy>`, as in Kaldi's perturb_data_dir_speed.sh and augment_data_dir.py.
"""

import heapq
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from lhotse import Recording
from lhotse.cut import Cut, MonoCut
from lhotse.utils import fastcopy

from nessa.corpus.audio import reason
from nessa.corpus.config import CopyConfig
from nessa.corpus.manifests import CutTable
from nessa.corpus.sets import SetCounts, write_set
from nessa.corpus.utterances import make_cut, read_recording
from nessa.errors import InputError
from nessa.files import write_table
from nessa.kaldi.datadir import read_optional

COPIES = "utt2copy"  # `copy name original`, of the utterances of a set that are copies
FOLDER = "copies"  # of the data folder; holds the audio
UTTERANCES_PER_JOB = 100


class Background(NamedTuple):
    """What is added to speech: recordings of noise, and room impulse responses."""

    noises: Sequence[Recording]
    rooms: Sequence[Recording]


def add_copies(
    data: Path,
    name: str,
    copies: Mapping[str, CopyConfig],
    background: Background,
    seed: int,
    nj: int = 1,
) -> SetCounts:
    """Add perturbed copies of its audio to a set that is on disk.

    The audio is written to data/copies/<copy>/, 16-bit FLAC; utt2copy tells the copies apart. The
    same input gives the same samples, whatever `nj`. Memory: as `CutTable`, and a copy's cuts.

    Args:
        data: the recipe's data folder.
        name: of the set, which holds no copies yet.
        copies: {name of a copy: how its audio is perturbed}.
        background: what copies with noise or reverberation draw from.
        seed: of all that is drawn.
        nj: number of processes.

    Raises:
        InputError: an utterance has no audio, or its audio cannot be read.
    """
    table = CutTable(data, name)
    recorded = [table[index] for index in range(len(table))]
    if lacking := next((cut for cut in recorded if not cut.has_recording), None):
        raise InputError(
            f"{data / name}: utterance {lacking.id!r} has no audio to make copies of; "
            "remove prepare.align_copies"
        )
    streams, found = [iter(recorded)], {}
    for copy, config in copies.items():
        perturb = partial(_perturb, data / FOLDER / copy, copy, config, background, seed)
        made = list(_in_processes(perturb, recorded, nj))
        found |= {cut.id: f"{copy} {original.id}" for cut, original in zip(made, recorded)}
        streams.append(iter(sorted(made, key=_order)))
    segmented = any(cut.id != cut.recording_id for cut in recorded)
    counts = write_set(data, name, heapq.merge(*streams, key=_order), segmented=segmented)
    write_table(
        data / name / COPIES, dict(sorted(found.items(), key=lambda item: item[0].encode()))
    )
    return counts


def read_copies(directory: Path) -> dict[str, tuple[str, str]]:
    """{copy: (name of the copy, original utterance)} of a set.

    Raises:
        InputError: a line of its utt2copy is no such triple.
    """
    found = {}
    for utterance, value in read_optional(directory, COPIES).items():
        fields = value.split()
        if len(fields) != 2:
            raise InputError(
                f"{directory / COPIES}: {utterance!r}: expected `utterance copy original`; "
                "prepare the set again"
            )
        found[utterance] = (fields[0], fields[1])
    return found


def _order(cut: MonoCut) -> bytes:
    return cut.id.encode()


def _in_processes(perturb: Any, cuts: Iterable[MonoCut], nj: int) -> Iterator[MonoCut]:
    if nj == 1:
        yield from map(perturb, cuts)
        return
    with ProcessPoolExecutor(nj) as pool:
        yield from pool.map(perturb, cuts, chunksize=UTTERANCES_PER_JOB)


def _perturb(
    folder: Path, copy: str, config: CopyConfig, background: Background, seed: int, cut: MonoCut
) -> MonoCut:
    """Write the copy's audio; its cut."""
    segment = cut.supervisions[0]
    other = config.speed is not None
    name = f"{copy}-{cut.id}" if other else f"{cut.id}-{copy}"
    speaker = f"{copy}-{segment.speaker}" if other else segment.speaker
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    path = folder / segment.speaker / f"{name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        samples = _perturbed(cut, config, background, rng).load_audio()[0]
    except Exception as error:  # Lhotse's audio backends raise many types
        raise InputError(
            f"utterance {cut.id!r} ({cut.recording.sources[0].source}): no copy {copy!r} can be "
            f"made: {reason(error)}; repair or remove it"
        ) from None
    soundfile.write(path, np.clip(samples, -1, 1), cut.sampling_rate, "PCM_16")
    recording = read_recording(name, path)
    supervision = fastcopy(
        segment, id=name, recording_id=name, speaker=speaker, duration=recording.duration
    )
    return make_cut(recording, supervision)


def _perturbed(
    cut: MonoCut, config: CopyConfig, background: Background, rng: np.random.Generator
) -> Cut:
    """All that `config` asks for, in the order of its fields."""
    if config.crop is not None:
        cut = random_part(cut, rng.uniform(*config.crop), rng)
    if config.speed is not None:
        cut = cut.perturb_speed(config.speed, affix_id=False)
    if config.reverb:
        cut = cut.reverb_rir(background.rooms[rng.integers(len(background.rooms))], affix_id=False)
    if config.codec is not None:
        cut = cut.compress(config.codec, config.compression)
    if config.snr is None:
        return cut
    noise = background.noises[rng.integers(len(background.noises))].to_cut()
    section = random_part(noise, cut.duration, rng)
    return cut.mix(section, snr=rng.uniform(*config.snr), preserve_id="left")


def random_part(cut: MonoCut, seconds: float, rng: np.random.Generator) -> MonoCut:
    """A part of `seconds`, or all of the cut where it is shorter."""
    position = rng.random()  # drawn always, so that the stream does not depend on the length
    if cut.duration <= seconds:
        return cut
    return cut.truncate(
        offset=position * (cut.duration - seconds), duration=seconds, preserve_id=True
    )
