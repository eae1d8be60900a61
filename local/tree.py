#!/usr/bin/env python3
"""Stage prepare: a corpus laid out as VoxCeleb is -> Lhotse manifests and Kaldi data directories.

The corpus holds wav/<speaker>/<session>/<utterance>.wav, VoxCeleb's meta.csv, whose column `Set`
says which set a speaker is in, and optionally trials/<set>.txt, lists that name files
(`1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav`), and noise/ and rir/, recordings
of noise and of room impulse responses for the encoders' augmentation. Of a corpus that
local/mini.py makes, the trials are drawn: it removes lists.

    python local/tree.py --recipe exp/recipe.yaml --corpus data/corpus --output data
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from program import Arguments, corpus_arguments, read_paths, run_program, write_utterances
from trial_lists import TrialList

from nessa.corpus.sets import remove_other_sets
from nessa.corpus.utterances import Utterance, sort_utterances, write_backgrounds
from nessa.errors import InputError
from nessa.files import read_lines

COLUMNS = ["VoxCeleb1 ID", "VGGFace1 ID", "Gender", "Nationality", "Set"]


def main() -> None:
    """Prepare every set of the corpus."""
    arguments = corpus_arguments(__doc__)
    read_paths(arguments.recipe, [])  # the corpus is where stage corpus makes it
    sets = read_meta(arguments.corpus / "meta.csv")
    for name in arguments.recipe.corpus.sets:
        if name not in sets:
            raise InputError(
                f"{arguments.corpus}/meta.csv: no speaker of set {name!r}; "
                "run ./run.sh --stage corpus"
            )
    write_backgrounds(arguments.output, [arguments.corpus / "noise"], [arguments.corpus / "rir"])
    remove_other_sets(arguments.output, sets)
    prepare_tree(arguments, sets)


def prepare_tree(arguments: Arguments, sets: Mapping[str, Mapping[str, str]]) -> None:
    """Write the sets of a tree, {set: {speaker: gender}}."""
    corpus = arguments.corpus
    for name, genders in sets.items():
        path = corpus / "trials" / f"{name}.txt"
        lists = {"trials": TrialList.read_files(path)} if path.exists() else {}
        utterances = sort_utterances(find_utterances(corpus / "wav", genders))
        write_utterances(arguments, name, utterances, corpus, lists)


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


if __name__ == "__main__":
    run_program(main)
