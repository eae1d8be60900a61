#!/usr/bin/env python3
"""Stage prepare: LibriSpeech -> Lhotse manifests and Kaldi data directories.

The corpus is a folder with SPEAKERS.TXT and <part>/<speaker>/<chapter>/<utterance>.flac, at
corpus.paths.librispeech or where stage corpus downloaded it; transcripts are not needed. The
speakers of its parts (corpus.parts, or all there are) are divided by prepare.held_out. Where the
recipe has sets made of synthetic speech (corpus.sets), they are taken from there, and all of
LibriSpeech is `eval`.

    python local/librispeech.py --recipe exp/recipe.yaml --corpus data/corpus --output data
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import tree
from program import corpus_arguments, read_paths, run_program, write_utterances

from nessa.corpus.sets import remove_other_sets
from nessa.corpus.speakers import split_speakers, with_train_in_align
from nessa.corpus.utterances import Utterance, sort_utterances, write_backgrounds
from nessa.errors import InputError
from nessa.files import read_lines
from nessa.recipe.config import Recipe

log = logging.getLogger(__name__)

MIN_SPEAKERS = 16  # to be divided into four sets


def main() -> None:
    """Prepare every set of the recipe."""
    arguments = corpus_arguments(__doc__)
    recipe, downloaded = arguments.recipe, arguments.corpus
    corpus = find_corpus(recipe, downloaded)
    utterances = split_single_chapters(read_corpus(recipe, corpus))
    sets = divide(recipe, {utterance.speaker for utterance in utterances})
    synthetic = tree.read_meta(downloaded / "meta.csv") if recipe.corpus.sets else {}
    write_backgrounds(arguments.output, [downloaded / "noise"], [downloaded / "rir"])
    tree.prepare_tree(arguments, synthetic)
    remove_other_sets(arguments.output, [*synthetic, *sets])
    for name, speakers in sets.items():
        own = sort_utterances(u for u in utterances if u.speaker in speakers)
        write_utterances(arguments, name, own, corpus)


def find_corpus(recipe: Recipe, downloaded: Path) -> Path:
    """The local copy that the recipe names, or the downloaded one."""
    return read_paths(recipe, ["librispeech"]).get("librispeech", downloaded / "LibriSpeech")


def read_corpus(recipe: Recipe, corpus: Path) -> list[Utterance]:
    """List the utterances of the recipe's parts, or of all parts of a local copy."""
    genders = read_speakers(corpus / "SPEAKERS.TXT")
    there = sorted({path.parents[2].name for path in corpus.glob("*/*/*/*.flac")})
    if not there:
        raise InputError(
            f"{corpus}: no <part>/<speaker>/<chapter>/*.flac; name the folder LibriSpeech"
        )
    for part in recipe.corpus.parts:
        if part not in there:
            raise InputError(
                f"{corpus}: no part {part!r} of corpus.parts; there are {', '.join(there)}; "
                f"download it, or change corpus.parts"
            )
    parts = recipe.corpus.parts or there
    log.info("%s: %s", corpus, ", ".join(parts))
    return list(find_utterances(corpus, parts, genders))


def divide(recipe: Recipe, speakers: set[str]) -> dict[str, set[str]]:
    """Which speakers are in which set: {set: speakers}."""
    if recipe.corpus.sets:
        return {"eval": speakers}
    where = f"recipe {recipe.name!r}"
    if len(speakers) < MIN_SPEAKERS:
        raise InputError(
            f"{where}: {len(speakers)} speakers are too few to learn from; add parts, or run with "
            "--size sample, where all of them are eval, and synthetic ones train"
        )
    sets = split_speakers(speakers, recipe.prepare.held_out, recipe.seed, where)
    if recipe.prepare.align_includes_train:
        sets = with_train_in_align(sets)
    return {name: set(names) for name, names in sets.items()}


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


def find_utterances(
    corpus: Path, parts: Sequence[str], genders: dict[str, str]
) -> Iterator[Utterance]:
    """List the audio: <part>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac."""
    for part in parts:
        for path in sorted((corpus / part).glob("*/*/*.flac")):
            chapter, speaker = path.parent.name, path.parent.parent.name
            if speaker not in genders:
                raise InputError(f"{path}: speaker {speaker!r} is not in SPEAKERS.TXT; add a line")
            yield Utterance(path.stem, speaker, chapter, path, genders[speaker])


def split_single_chapters(utterances: list[Utterance]) -> list[Utterance]:
    """Make every utterance a session of its own where a speaker has a single chapter.

    Target trials cross sessions, so that such a speaker would have none. Within a chapter they are
    easier than across chapters, hence the warning.
    """
    chapters = defaultdict(set)
    for utterance in utterances:
        chapters[utterance.speaker].add(utterance.session)
    single = {speaker for speaker, sessions in chapters.items() if len(sessions) == 1}
    if single:
        log.warning(
            "%d of %d speakers have a single chapter: their target trials stay within it, "
            "and are easier than trials across chapters", len(single), len(chapters),
        )  # fmt: skip
    return [
        replace(utterance, session=utterance.id) if utterance.speaker in single else utterance
        for utterance in utterances
    ]


if __name__ == "__main__":
    run_program(main)
