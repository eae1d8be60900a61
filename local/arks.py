#!/usr/bin/env python3
"""Stage 1: utt2spk and trials -> data directories of sets of which there are only embeddings.

corpus.paths names either a directory per set (`align`, `dev`, `eval`), or one for all of them
(`data`). Each holds utt2spk and, optionally, utt2session, spk2gender and trials. One for all is
divided by speaker: those of its trials are `eval`; prepare.held_out says how many of the others
are `dev` (and, where it has no trials, `eval`); who is left is `align`.

    python local/arks.py --recipe exp/recipe.yaml --corpus data/corpus --output data
"""

import argparse
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nessa.config import Recipe, load_recipe
from nessa.corpus import run_program, split_speakers
from nessa.datadir import read_optional, read_utt2spk, spk2utt_of
from nessa.errors import InputError, about
from nessa.files import write_table
from nessa.trials import Trials, trial_speakers

log = logging.getLogger(__name__)

SETS = ("align", "dev", "eval")
WHOLE = "data"


@dataclass(frozen=True)
class Part:
    """The utterances of a set, the directory that tells of them, and its lists of trials."""

    directory: Path
    utt2spk: dict[str, str]
    lists: tuple[Path, ...] = ()


def main() -> None:
    """Write a data directory per set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, required=True, help="the resolved recipe")
    parser.add_argument("--corpus", type=Path, help="taken as every stage 1 program takes it")
    parser.add_argument("--output", type=Path, required=True, help="the recipe's data folder")
    parser.add_argument("--nj", type=int, default=1, help="taken as every stage 1 program takes it")
    options = parser.parse_args()
    for name, part in find_sets(load_recipe(options.recipe)).items():
        write_directory(options.output / name, part)
        speakers = len(set(part.utt2spk.values()))
        log.info(
            "%s: %d speakers, %d utterances", options.output / name, speakers, len(part.utt2spk)
        )


def find_sets(recipe: Recipe) -> dict[str, Part]:
    """The sets that the recipe's paths name, or that one directory is divided into."""
    paths = {name: Path(path) for name, path in recipe.corpus.paths.items()}
    unknown = paths.keys() - {WHOLE, *SETS}
    if unknown:
        raise InputError(
            f"recipe {recipe.name!r}: corpus.paths: nothing is called {min(unknown)!r}; name "
            f"`{WHOLE}`, or `align`, `dev` and `eval`"
        )
    if WHOLE in paths and len(paths) == 1:
        return divide(recipe, paths[WHOLE])
    missing = [name for name in SETS if name not in paths]
    if missing or WHOLE in paths:
        raise InputError(
            f"recipe {recipe.name!r}: corpus.paths needs `align`, `dev` and `eval`, or `{WHOLE}` "
            f"alone; run with --set corpus.paths.{(missing or [WHOLE])[0]}=DIR"
        )
    return {
        name: Part(path, read_utt2spk(path), () if name == "align" else lists_in(path))
        for name, path in paths.items()
    }


def lists_in(directory: Path) -> tuple[Path, ...]:
    """The trial lists of a directory: `trials`, and others as `trials_<name>`."""
    return tuple(sorted(directory.glob("trials*")))


def divide(recipe: Recipe, directory: Path) -> dict[str, Part]:
    """Divide one directory by speaker; the speakers of its trials are `eval`."""
    utt2spk = read_utt2spk(directory)
    held_out = dict(recipe.prepare.held_out)
    lists = lists_in(directory)
    tested: set[str] = set()
    for path in lists:
        with about(path, directory / "utt2spk"):
            tested.update(*trial_speakers(Trials.read(path), utt2spk))
    if tested:
        held_out.pop("eval", None)
    others = set(utt2spk.values()) - tested
    speakers = split_speakers(others, held_out, recipe.seed, directory)
    speakers["align"] = speakers.pop("train") + speakers.get("align", [])
    if tested:
        speakers["eval"] = sorted(tested)
    for name in SETS:
        if name not in speakers:
            raise InputError(
                f"{directory}: no speakers for set {name!r}; say in prepare.held_out how many"
            )
    set_of = {speaker: name for name in SETS for speaker in speakers[name]}
    return {
        name: Part(
            directory,
            {utt: speaker for utt, speaker in utt2spk.items() if set_of[speaker] == name},
            lists if name == "eval" else (),
        )
        for name in SETS
    }


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
