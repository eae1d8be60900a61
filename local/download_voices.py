#!/usr/bin/env python3
"""Stage corpus: real voices from public corpora, as a Kaldi data directory with spk2set.

Speech Commands (CC BY 4.0) and LibriSpeech train-clean-100 (CC BY 4.0) come through Lhotse.
speechocean762 (free for any use) is not among Lhotse's: unpack it as <corpus>/speechocean762,
from https://www.openslr.org/101.

- strings: three takes of one speaker of Speech Commands joined, at most four strings a speaker;
- sentences: the utterances of speechocean762;
- librispeech: pieces of four seconds of one chapter of each speaker, for align alone.

python local/download_voices.py --recipe exp/recipe.yaml --corpus data/corpus --nj 2
"""

import contextlib
import logging
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from division import takes_made
from kaldi_dir import other_paths
from lhotse.recipes.librispeech import download_librispeech
from lhotse.recipes.speechcommands import download_speechcommands
from program import corpus_arguments, read_paths, run_program

from nessa.errors import InputError
from nessa.files import atomic_open, read_table, write_table
from nessa.kaldi.datadir import spk2utt_of

log = logging.getLogger(__name__)

RATE = 16000  # Hz
TAKES = 3  # of a string
STRINGS = 4  # of a speaker, at most
PIECE = 4 * RATE  # samples of a piece of LibriSpeech
PIECES = 4  # of a speaker, at most
SENTENCES = "speechocean762"  # the folder that is unpacked by hand
# Speakers of sets other than align, drawn among those of at least so many utterances.
HELD_OUT = {"strings": {"eval": 250, "dev": 150}, "sentences": {"eval": 60, "dev": 30}}
FEWEST = {"strings": STRINGS, "sentences": 1}
DOWNLOADS = {
    "Speech Commands": partial(download_speechcommands, "2"),
    "LibriSpeech train-clean-100": partial(download_librispeech, dataset_parts="train-clean-100"),
}


class Clip(NamedTuple):
    """An utterance to be written: files one after the other, or a part of a file."""

    id: str
    speaker: str
    session: str
    files: tuple[Path, ...]
    start: int = 0
    samples: int = -1

    @property
    def origin(self) -> str:
        """What its audio is made of, which other seeds choose among others of the same words."""
        return f"{' '.join(file.name for file in self.files)} {self.start} {self.samples}"


def main() -> None:
    """Make the directory, unless the recipe names one."""
    arguments = corpus_arguments(__doc__, writes_sets=False)
    recipe, corpus = arguments.recipe, arguments.corpus
    if not takes_made(recipe, other_paths(recipe)):
        given = read_paths(recipe, list(recipe.corpus.paths)).values()
        log.info("%s: on disk; nothing to download", ", ".join(map(str, given)))
        return
    check_sentences(corpus / SENTENCES)  # before gigabytes are downloaded
    for name, download in DOWNLOADS.items():
        try:
            download(target_dir=corpus)
        except (OSError, tarfile.TarError) as error:  # what urllib and tarfile raise
            raise InputError(
                f"cannot download {name} to {corpus}: {error}; check the network (what is there is "
                f"kept), or give a directory: --{recipe.name} DIR"
            ) from error
    make_corpus(corpus, recipe.seed)


def make_corpus(corpus: Path, seed: int) -> None:
    """Make the data directory from the corpora that lie in the same folder."""
    rng = np.random.default_rng(seed)
    clips = {
        "strings": list(find_strings(corpus / "SpeechCommands2", rng)),
        "sentences": list(find_sentences(corpus / SENTENCES)),
        "librispeech": list(find_pieces(corpus / "LibriSpeech" / "train-clean-100")),
    }
    for clip in (clip for own in clips.values() for clip in own):
        write_audio(corpus / "wav" / clip.speaker / f"{clip.id}.flac", clip)
    write_tables(corpus, clips, divide(clips, rng))


def find_strings(folder: Path, rng: np.random.Generator) -> Iterator[Clip]:
    """Takes, `<word>/<speaker>_nohash_<number>.wav`, joined; no take is used twice."""
    takes = defaultdict(list)
    for path in sorted(folder.glob("speech_commands_v*/*/*_nohash_*.wav")):
        takes[path.name.split("_")[0]].append(path)
    for speaker, files in takes.items():
        order = rng.permutation(len(files))
        for number in range(min(STRINGS, len(files) // TAKES)):
            chosen = [files[row] for row in order[number * TAKES : (number + 1) * TAKES]]
            name = f"{speaker}-{number}-{'_'.join(file.parent.name for file in chosen)}"
            yield Clip(name, speaker, name, tuple(chosen))


def check_sentences(folder: Path) -> None:
    """Refuse to begin without speechocean762, which is not downloaded."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; Lhotse does not download speechocean762: unpack it there, "
            "from https://www.openslr.org/101"
        )


def find_sentences(folder: Path) -> Iterator[Clip]:
    """The utterances of speechocean762, as its {train,test}/{wav.scp,utt2spk} list them."""
    for part in ("train", "test"):
        utt2spk = read_table(folder / part / "utt2spk")
        for utterance, place in read_table(folder / part / "wav.scp").items():
            speaker = f"so{utt2spk[utterance]}"
            name = f"{speaker}-{utterance}"
            yield Clip(name, speaker, name, (folder / place,))


def find_pieces(folder: Path) -> Iterator[Clip]:
    """Pieces of each speaker's first chapter."""
    for place in sorted(folder.iterdir()):
        chapter, number = min(place.iterdir()), 0
        speaker = f"ls{place.name}"
        for file in sorted(chapter.glob("*.flac")):
            for start in range(0, soundfile.info(file).frames - PIECE + 1, PIECE):
                if number < PIECES:
                    name = f"{speaker}-{chapter.name}-{number}"
                    yield Clip(name, speaker, f"{speaker}-{chapter.name}", (file,), start, PIECE)
                    number += 1


def write_audio(path: Path, clip: Clip) -> None:
    """Write a clip as FLAC, whole or not at all; one that is there, of the same origin, stays."""
    if path.is_file() and _origin_of(path) == clip.origin:
        return
    parts = []
    for file in clip.files:
        samples, rate = soundfile.read(file, clip.samples, clip.start, dtype="int16")
        if rate != RATE:
            raise InputError(f"{file}: sampled at {rate} Hz, expected {RATE}; resample it")
        parts.append(samples)
    with (
        atomic_open(path, "wb") as output,
        soundfile.SoundFile(output, "w", RATE, 1, "PCM_16", format="FLAC") as sound,
    ):
        sound.comment = clip.origin
        sound.write(np.concatenate(parts))


def _origin_of(path: Path) -> str:
    """What a clip says of its origin; "" where it says nothing, or is no audio any more."""
    with contextlib.suppress(soundfile.LibsndfileError), soundfile.SoundFile(path) as sound:
        return sound.comment
    return ""


def divide(clips: Mapping[str, Sequence[Clip]], rng: np.random.Generator) -> dict[str, str]:
    """{speaker: set}; who is not held out is align."""
    set_of: dict[str, str] = {}
    for kind, own in clips.items():
        counts = Counter(clip.speaker for clip in own)
        full = [name for name in sorted(counts) if counts[name] >= FEWEST.get(kind, 1)]
        drawn = [full[row] for row in rng.permutation(len(full))]
        for name, count in HELD_OUT.get(kind, {}).items():
            set_of |= dict.fromkeys(drawn[:count], name)
            drawn = drawn[count:]
        set_of |= dict.fromkeys(counts.keys() - set_of.keys(), "align")
    return set_of


def write_tables(
    corpus: Path, clips: Mapping[str, Sequence[Clip]], set_of: Mapping[str, str]
) -> None:
    """Write the tables of the data directory; utt2spk, which completes it, last."""
    every = [clip for own in clips.values() for clip in own]
    every.sort(key=lambda clip: clip.id.encode())
    utt2spk = {clip.id: clip.speaker for clip in every}
    write_table(corpus / "wav.scp", {c.id: f"wav/{c.speaker}/{c.id}.flac" for c in every})
    write_table(corpus / "utt2session", {clip.id: clip.session for clip in every})
    write_table(corpus / "spk2set", {speaker: set_of[speaker] for speaker in sorted(set_of)})
    write_table(corpus / "spk2utt", spk2utt_of(utt2spk))
    write_table(corpus / "utt2spk", utt2spk)
    log.info("%s: %d utterances of %d speakers", corpus, len(every), len(set_of))


if __name__ == "__main__":
    run_program(main)
