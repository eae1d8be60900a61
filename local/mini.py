#!/usr/bin/env python3
"""Stage corpus: synthesize the mini corpus, VoxCeleb-shaped, with trial lists.

python local/mini.py --recipe exp/recipe.yaml --corpus data/corpus --nj 2
"""

import logging
import subprocess
import sys
from pathlib import Path

from program import corpus_arguments, run_program
from tree import file_name, find_utterances, read_meta

from nessa.corpus.draw_trials import make_trials
from nessa.files import atomic_open
from nessa.trials import Trials

log = logging.getLogger(__name__)


def main() -> None:
    """Make the tree, then a list for each set that the recipe wants trials for."""
    arguments = corpus_arguments(__doc__, writes_sets=False)
    recipe, corpus = arguments.recipe, arguments.corpus
    synthesize(arguments.recipe_path, corpus, arguments.nj)
    genders = read_meta(corpus / "meta.csv")
    speakers = sum(map(len, genders.values()))
    log.info("%s: %d speakers in %d sets", corpus, speakers, len(genders))
    for name, count in recipe.prepare.trials.items():
        if name not in genders:
            continue  # a set that another corpus gives
        utterances = list(find_utterances(corpus / "wav", genders[name]))
        trials = make_trials(
            {utterance.id: utterance.speaker for utterance in utterances},
            {utterance.id: utterance.session for utterance in utterances},
            genders[name],
            count.targets,
            count.nontargets,
            recipe.seed,
        )
        path = corpus / "trials" / f"{name}.txt"
        write_list(path, trials, {utt.id: file_name(utt) for utt in utterances})


def synthesize(recipe: Path, corpus: Path, nj: int) -> None:
    """Run `nessa synth`.

    It forks for every speaker, and a process that has not loaded torch forks several times as
    fast as this one would.
    """
    command = [sys.executable, "-m", "nessa.cli", "synth", "--nj", str(nj)]
    command += ["--recipe", str(recipe), "--output", str(corpus)]
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def write_list(path: Path, trials: Trials, files: dict[str, str]) -> None:
    """Write a list as VoxCeleb does: `1|0 speaker/session/utterance.wav ...`."""
    assert trials.labels is not None
    with atomic_open(path) as file:
        for enroll, test, label in zip(trials.enroll, trials.test, trials.labels, strict=True):
            file.write(f"{label:d} {files[enroll]} {files[test]}\n")
    log.info("%s: %d trials", path, len(trials))


if __name__ == "__main__":
    run_program(main)
