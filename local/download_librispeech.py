#!/usr/bin/env python3
"""Stage corpus: download parts of LibriSpeech by Lhotse, unless a local copy is given.

python local/download_librispeech.py --recipe exp/recipe.yaml --corpus data/corpus
"""

import logging
import tarfile

from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH, download_librispeech
from program import corpus_arguments, read_paths, run_program

from nessa.errors import InputError

log = logging.getLogger(__name__)


def main() -> None:
    """Download what is not there yet."""
    arguments = corpus_arguments(__doc__, writes_sets=False)
    corpus = arguments.recipe.corpus
    for path in read_paths(arguments.recipe, ["librispeech"]).values():
        log.info("%s: a local copy; nothing to download", path)
        return
    parts = corpus.parts or MINI_LIBRISPEECH
    for part in parts:
        if part not in LIBRISPEECH + MINI_LIBRISPEECH:
            known = ", ".join(LIBRISPEECH + MINI_LIBRISPEECH)
            raise InputError(
                f"{arguments.recipe_path}: corpus.parts: no part {part!r}; there are {known}"
            )
    try:
        download_librispeech(arguments.corpus, parts)
    except (OSError, tarfile.TarError) as error:  # what urllib and tarfile raise
        raise InputError(
            f"cannot download {', '.join(parts)} to {arguments.corpus}: {error}; check the network "
            "(what is there is kept), or give a local copy: --librispeech DIR"
        ) from error


if __name__ == "__main__":
    run_program(main)
