#!/usr/bin/env python3
"""Stage corpus: download parts of LibriSpeech by Lhotse, unless a local copy is given.

python local/download_librispeech.py --recipe exp/recipe.yaml --corpus data/corpus
"""

import argparse
import logging
import tarfile
from pathlib import Path

from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH, download_librispeech

from nessa.corpus.preparation import run_program
from nessa.errors import InputError
from nessa.recipe.resolve import load_recipe

log = logging.getLogger(__name__)


def main() -> None:
    """Download what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, required=True, help="the resolved recipe")
    parser.add_argument("--corpus", type=Path, required=True, help="receives LibriSpeech/<part>")
    parser.add_argument("--nj", type=int, default=1, help="taken as every corpus program takes it")
    options = parser.parse_args()
    corpus = load_recipe(options.recipe).corpus
    if "librispeech" in corpus.paths:
        log.info("%s: a local copy; nothing to download", corpus.paths["librispeech"])
        return
    parts = corpus.parts or MINI_LIBRISPEECH
    for part in parts:
        if part not in LIBRISPEECH + MINI_LIBRISPEECH:
            known = ", ".join(LIBRISPEECH + MINI_LIBRISPEECH)
            raise InputError(f"{options.recipe}: corpus.parts: no part {part!r}; there are {known}")
    try:
        download_librispeech(options.corpus, parts)
    except (OSError, tarfile.TarError) as error:  # what urllib and tarfile raise
        raise InputError(
            f"cannot download {', '.join(parts)} to {options.corpus}: {error}; check the network "
            "(what is there is kept), or give a local copy: --librispeech DIR"
        ) from error


if __name__ == "__main__":
    run_program(main)
