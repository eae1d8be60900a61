#!/usr/bin/env python3
"""Stage prepare: utt2spk and trials -> data directories of sets that have only embeddings.

corpus.paths names a directory for all sets or one per set, see local/division.py. Each holds
utt2spk and, optionally, utt2session, spk2gender and trials.

    python local/arks.py --recipe exp/recipe.yaml --corpus data/corpus --output data
"""

import argparse
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from division import Part, find_parts

from nessa.corpus.preparation import run_program
from nessa.errors import InputError, about
from nessa.files import write_table
from nessa.kaldi.datadir import read_optional, read_utt2spk, spk2utt_of
from nessa.recipe.resolve import load_recipe
from nessa.trials import Trials

log = logging.getLogger(__name__)

SETS = ("align", "dev", "eval")


def main() -> None:
    """Write a data directory per set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, required=True, help="the resolved recipe")
    parser.add_argument("--corpus", type=Path, help="taken as every prepare program takes it")
    parser.add_argument("--output", type=Path, required=True, help="the recipe's data folder")
    parser.add_argument("--nj", type=int, default=1, help="taken as every prepare program takes it")
    parser.add_argument("--skip-bad", action="store_true", help="refused: there is no audio")
    options = parser.parse_args()
    if options.skip_bad:
        raise InputError(
            "--skip-bad is about audio, and this recipe has embeddings; take the utterances "
            "without a vector out of utt2spk"
        )
    for name, part in find_parts(load_recipe(options.recipe), SETS, read_utt2spk).items():
        write_directory(options.output / name, part)
        speakers = len(set(part.utt2spk.values()))
        log.info(
            "%s: %d speakers, %d utterances", options.output / name, speakers, len(part.utt2spk)
        )


def write_directory(directory: Path, part: Part) -> None:
    """Write a set's tables; utt2spk last, for it marks the directory as complete."""
    for stale in ("utt2spk", "spk2gender", "enroll_map"):
        (directory / stale).unlink(missing_ok=True)
    for stale in directory.glob("trials*"):
        stale.unlink()
    write_table(directory / "utt2session", sessions_of(part))
    genders = read_optional(part.directory, "spk2gender")
    if genders:
        with about(part.directory / "spk2gender"):
            write_table(directory / "spk2gender", select(genders, part.utt2spk.values()))
    write_table(directory / "spk2utt", spk2utt_of(part.utt2spk))
    for path in part.lists:
        Trials.read(path).write(directory / path.name)
    write_table(directory / "utt2spk", part.utt2spk)


def sessions_of(part: Part) -> dict[str, str]:
    """{utterance: session}; without utt2session, each utterance is one of its own."""
    sessions = read_optional(part.directory, "utt2session")
    if not sessions:
        log.warning(
            "%s: no utt2session: every utterance counts as a session of its own, and targets of "
            "one recording session are easier",
            part.directory,
        )
        return {utterance: utterance for utterance in part.utt2spk}
    with about(part.directory / "utt2session"):
        return select(sessions, part.utt2spk)


def select(table: Mapping[str, str], keys: Iterable[str]) -> dict[str, str]:
    """The lines of some keys, all of which must be there."""
    keys = set(keys)
    missing = sorted(keys - table.keys())
    if missing:
        raise InputError(f"no line for {missing[0]!r} ({len(missing)} such); add it")
    return {key: table[key] for key in keys}


if __name__ == "__main__":
    run_program(main)
