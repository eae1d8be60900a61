#!/usr/bin/env python3
"""Stage prepare: a corpus laid out as VoxCeleb is -> Lhotse manifests and Kaldi data directories.

The corpus holds wav/<speaker>/<session>/<utterance>.wav, VoxCeleb's meta.csv, whose column `Set`
says which set a speaker is in, and optionally trials/<set>.txt, lists that name files
(`1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav`), and noise/ and rir/, recordings
of noise and of room impulse responses for the encoders' augmentation.

    python local/tree.py --recipe exp/recipe.yaml --corpus data/corpus --output data
"""

import argparse
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from voxceleb_lists import TrialList

from nessa.corpus.preparation import run_program
from nessa.corpus.sets import write_set, write_skipped
from nessa.corpus.utterances import Utterance, make_cuts, sort_utterances, write_backgrounds
from nessa.errors import InputError
from nessa.files import read_lines
from nessa.recipe.resolve import load_recipe

log = logging.getLogger(__name__)

COLUMNS = ["VoxCeleb1 ID", "VGGFace1 ID", "Gender", "Nationality", "Set"]


def main() -> None:
    """Prepare every set of the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, required=True, help="the resolved recipe")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with wav/ and meta.csv")
    parser.add_argument("--output", type=Path, required=True, help="the recipe's data folder")
    parser.add_argument("--nj", type=int, default=1, help="number of processes")
    parser.add_argument("--skip-bad", action="store_true", help="leave out unusable audio")
    options = parser.parse_args()
    sets = read_meta(options.corpus / "meta.csv")
    for name in load_recipe(options.recipe).corpus.sets:
        if name not in sets:
            place = f"{options.corpus}/meta.csv"
            raise InputError(f"{place}: no speaker of set {name!r}; run ./run.sh --stage corpus")
    prepare_tree(options.corpus, sets, options.output, options.nj, options.skip_bad)
    write_backgrounds(options.output, [options.corpus / "noise"], [options.corpus / "rir"])


def prepare_tree(
    corpus: Path, sets: Mapping[str, Mapping[str, str]], data: Path, nj: int, skip_bad: bool
) -> None:
    """Write the sets of a tree.

    Args:
        corpus: the tree.
        sets: {set: {speaker: gender}}.
        data: the recipe's data folder.
        nj: number of processes.
        skip_bad: leave out unusable audio.
    """
    for name, genders in sets.items():
        utterances = sort_utterances(find_utterances(corpus / "wav", genders))
        path = corpus / "trials" / f"{name}.txt"
        given = TrialList.read(path) if path.exists() else None
        skipped: dict[str, str] = {}
        cuts = make_cuts(utterances, skipped if skip_bad else None, nj, corpus)
        counts = write_set(data, name, cuts)
        if given is not None:
            known = {utterance.id for utterance in utterances}
            given.among(known, skipped).write(data / name / "trials")
        write_skipped(data, name, skipped)
        log.info(
            "%s: %d speakers, %d utterances, %d skipped, %d trials given",
            data / name,
            counts.speakers,
            counts.utterances,
            len(skipped),
            0 if given is None else len(given.trials),
        )


def read_meta(path: Path) -> dict[str, dict[str, str]]:
    """Read VoxCeleb's table of speakers: {set: {speaker: gender}}."""
    lines = list(read_lines(path))
    if not lines or lines[0][1].split("\t") != COLUMNS:
        raise InputError(f"{path}: line 1: expected the tab-separated columns {', '.join(COLUMNS)}")
    sets: dict[str, dict[str, str]] = {}
    for number, line in lines[1:]:
        fields = line.split("\t")
        if len(fields) != len(COLUMNS) or fields[2] not in ("m", "f"):
            raise InputError(f"{path}: line {number}: expected id, id, m or f, nationality, set")
        if Path(fields[0]).name != fields[0]:
            raise InputError(f"{path}: line {number}: {fields[0]!r} is no speaker, but a path")
        sets.setdefault(fields[4], {})[fields[0]] = fields[2]
    return sets


def find_utterances(wav: Path, genders: Mapping[str, str]) -> Iterator[Utterance]:
    """List the files of some speakers: <speaker>/<session>/<utterance>.wav."""
    for speaker, gender in genders.items():
        found = False
        for path in sorted((wav / speaker).glob("*/*.wav")):
            found = True
            session = path.parent.name
            yield Utterance(f"{speaker}-{session}-{path.stem}", speaker, session, path, gender)
        if not found:
            raise InputError(
                f"{wav / speaker}: no <session>/<utterance>.wav of speaker {speaker}; "
                "restore the folder, or remove the speaker from meta.csv"
            )


def file_name(utterance: Utterance) -> str:
    """What VoxCeleb's lists call an utterance: <speaker>/<session>/<utterance>.wav."""
    return "/".join(utterance.path.parts[-3:])


if __name__ == "__main__":
    run_program(main)
