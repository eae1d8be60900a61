#!/usr/bin/env python3
"""Stage 1: a VoxCeleb-shaped corpus -> Lhotse manifests and Kaldi data directories.

The corpus holds wav/<speaker>/<session>/<utterance>.wav, VoxCeleb's meta.csv, whose column `Set`
says which set a speaker is in, and optionally trials/<set>.txt, lists that name files
(`1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav`), and noise/ and rir/, recordings
of noise and of room impulse responses for the encoders' augmentation.

    python local/voxceleb.py --recipe exp/recipe.yaml --corpus data/corpus --output data
"""

import argparse
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from nessa.config import load_recipe
from nessa.corpus import Utterance, make_cuts, run_program, sort_utterances, write_backgrounds
from nessa.errors import InputError
from nessa.files import read_lines
from nessa.sets import write_set
from nessa.trials import Trials

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
            raise InputError(f"{options.corpus}/meta.csv: no speaker of set {name!r}; run stage 0")
    for name, genders in sets.items():
        utterances = sort_utterances(find_utterances(options.corpus / "wav", genders))
        skipped: dict[str, str] = {}
        cuts = list(make_cuts(utterances, skipped if options.skip_bad else None))
        trials = {}
        path = options.corpus / "trials" / f"{name}.txt"
        if path.exists():
            names = {file_name(utterance): utterance.id for utterance in utterances}
            trials["trials"] = read_list(path, names, skipped)
        counts = write_set(options.output, name, cuts, trials=trials, skipped=skipped)
        log.info(
            "%s: %d speakers, %d utterances, %d skipped, %d trials given",
            options.output / name,
            counts.speakers,
            counts.utterances,
            len(skipped),
            sum(map(len, trials.values())),
        )
    backgrounds = write_backgrounds(options.output, options.corpus)
    log.info("%s: %d noises, %d rooms", options.output, backgrounds["noise"], backgrounds["rir"])


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


def read_list(path: Path, names: Mapping[str, str], skipped: dict[str, str]) -> Trials:
    """Read a VoxCeleb trial list, file names translated to utterance ids.

    Trials of skipped utterances are left out, and said so in `skipped`.
    """
    enroll: list[str] = []
    test: list[str] = []
    labels: list[bool] = []
    for number, line in read_lines(path):
        label, *files = line.split() or [""]
        if label not in ("0", "1") or len(files) != 2:
            raise InputError(f"{path}: line {number}: expected `1|0 file file`, got {line!r}")
        for file in files:
            if file not in names:
                raise InputError(
                    f"{path}: line {number}: {file!r} matches no utterance of the set; "
                    "restore the file, or remove the line"
                )
        pair = [names[file] for file in files]
        if not skipped.keys().isdisjoint(pair):
            skipped[f"{path.name}:{number}"] = f"trial of a skipped utterance: {line}"
            continue
        enroll.append(pair[0])
        test.append(pair[1])
        labels.append(label == "1")
    return Trials(enroll, test, np.array(labels))


if __name__ == "__main__":
    run_program(main)
