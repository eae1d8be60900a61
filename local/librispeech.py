#!/usr/bin/env python3
"""Stage 1: a LibriSpeech-shaped corpus -> Lhotse manifests and a Kaldi data directory.

The corpus is any folder with SPEAKERS.TXT and <part>/<speaker>/<chapter>/<utterance>.flac;
transcripts are not needed. All of it becomes one set, `eval`.

    python local/librispeech.py --corpus LibriSpeech --output data
"""

import argparse
import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nessa.corpus import Utterance, make_cuts, run_program, sort_utterances
from nessa.errors import InputError
from nessa.files import read_lines
from nessa.sets import write_set

log = logging.getLogger(__name__)


def main() -> None:
    """Prepare the corpus as one set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, help="taken as every stage 1 program takes it")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with SPEAKERS.TXT")
    parser.add_argument("--output", type=Path, required=True, help="the recipe's data folder")
    parser.add_argument("--set", default="eval", help="name of the set (default: eval)")
    parser.add_argument("--nj", type=int, default=1, help="number of processes")
    parser.add_argument("--skip-bad", action="store_true", help="leave out unusable audio")
    options = parser.parse_args()
    genders = read_speakers(options.corpus / "SPEAKERS.TXT")
    utterances = list(find_utterances(options.corpus, genders))
    if not utterances:
        raise InputError(
            f"{options.corpus}: no <part>/<speaker>/<chapter>/*.flac; name the folder LibriSpeech"
        )
    utterances = sort_utterances(split_lone_chapters(utterances))
    skipped: dict[str, str] = {}
    cuts = make_cuts(utterances, skipped if options.skip_bad else None)
    counts = write_set(options.output, options.set, cuts, skipped=skipped)
    log.info(
        "%s: %d speakers, %d utterances, %d skipped",
        options.output / options.set,
        counts.speakers,
        counts.utterances,
        len(skipped),
    )


def read_speakers(path: Path) -> dict[str, str]:
    """Read SPEAKERS.TXT (`id | F or M | ...`): {speaker: "f" or "m"}."""
    genders: dict[str, str] = {}
    for number, line in read_lines(path):
        if line.startswith(";") or not line.strip():
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < 2 or fields[1] not in ("F", "M"):
            raise InputError(f"{path}: line {number}: expected `id | F or M | ...`, got {line!r}")
        genders[fields[0]] = fields[1].lower()
    return genders


def find_utterances(corpus: Path, genders: dict[str, str]) -> Iterator[Utterance]:
    """List the audio: <part>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac."""
    for path in sorted(corpus.glob("*/*/*/*.flac")):
        chapter, speaker = path.parent.name, path.parent.parent.name
        if speaker not in genders:
            raise InputError(f"{path}: speaker {speaker!r} is not in SPEAKERS.TXT; add a line")
        yield Utterance(path.stem, speaker, chapter, path, genders[speaker])


def split_lone_chapters(utterances: list[Utterance]) -> list[Utterance]:
    """Make every utterance a session of its own where a speaker has one chapter only.

    Targets cross sessions, so that such a speaker would have none; within a chapter they are
    easier than across, which is said aloud.
    """
    chapters = defaultdict(set)
    for utterance in utterances:
        chapters[utterance.speaker].add(utterance.session)
    lone = {speaker for speaker, sessions in chapters.items() if len(sessions) == 1}
    if lone:
        log.warning(
            "%d of %d speakers have a single chapter: their target trials stay within it, "
            "and are easier than trials across chapters",
            len(lone),
            len(chapters),
        )
    return [
        replace(utterance, session=utterance.id) if utterance.speaker in lone else utterance
        for utterance in utterances
    ]


if __name__ == "__main__":
    run_program(main)
