#!/usr/bin/env python3
"""Stage corpus: synthesize the mini corpus, VoxCeleb-shaped.

python local/mini.py --recipe exp/recipe.yaml --corpus data/corpus --nj 2
"""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

from program import corpus_arguments, read_paths, run_program
from tree import read_meta

log = logging.getLogger(__name__)


def main() -> None:
    """Make the tree; stage prepare draws its trials."""
    arguments = corpus_arguments(__doc__, writes_sets=False)
    corpus = arguments.corpus
    if arguments.recipe.prepare.program == "tree":  # others have corpora beside this one
        read_paths(arguments.recipe, [])
    synthesize(arguments.recipe_path, corpus, arguments.nj)
    if (corpus / "trials").exists():
        log.info("%s: lists, as versions up to 0.2.0 wrote; removed", corpus / "trials")
        shutil.rmtree(corpus / "trials")
    genders = read_meta(corpus / "meta.csv")
    speakers = sum(map(len, genders.values()))
    log.info("%s: %d speakers in %d sets", corpus, speakers, len(genders))


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


if __name__ == "__main__":
    run_program(main)
