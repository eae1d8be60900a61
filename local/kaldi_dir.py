#!/usr/bin/env python3
"""Stage 1: your own corpus, a Kaldi data directory or Lhotse manifests -> the sets of a recipe.

corpus.paths names a directory for all sets or one per set, see local/division.py. It is

- a Kaldi data directory: utt2spk, and wav.scp (with or without segments) or feats.scp;
- or Lhotse's: a folder with one *cuts* manifest, or one of recordings and one of supervisions.

Beside them may lie spk2gender, utt2session, trials and trials_<name>. Without utt2session, the
recording of a segment is its session, and otherwise every utterance is one of its own.

Memory: Kaldi's tables; Lhotse manifests as a whole, 4 kB an utterance.

    python local/kaldi_dir.py --recipe exp/recipe.yaml --corpus data/corpus --output data
"""

import argparse
import heapq
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from division import Part, find_parts
from kaldi_tables import KaldiDir
from lhotse.cut import MonoCut
from lhotse_manifests import LhotseDir

from nessa.corpus.preparation import run_program
from nessa.corpus.sets import write_set, write_skipped
from nessa.corpus.utterances import usable_cuts
from nessa.encoders import parse_settings
from nessa.errors import InputError
from nessa.recipe.config import Recipe
from nessa.recipe.resolve import load_recipe
from nessa.trials import Trials

log = logging.getLogger(__name__)

SETS = ("train", "align", "dev", "eval")
Source = KaldiDir | LhotseDir
SourceOf = Callable[[Path], Source]


def main() -> None:
    """Write every set that the recipe needs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, required=True, help="the resolved recipe")
    parser.add_argument("--corpus", type=Path, help="taken as every stage 1 program takes it")
    parser.add_argument("--output", type=Path, required=True, help="the recipe's data folder")
    parser.add_argument("--nj", type=int, default=1, help="with --skip-bad: processes that decode")
    parser.add_argument("--skip-bad", action="store_true", help="leave out unusable audio")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    sources: dict[Path, Source] = {}

    def source(path: Path) -> Source:
        if path not in sources:
            sources[path] = open_source(path, recipe)
        return sources[path]

    parts = find_parts(recipe, needed_sets(recipe), lambda path: source(path).utt2spk)
    for name, part in parts.items():
        own = [part]
        if name == "align" and recipe.prepare.align_includes_train and "train" in parts:
            own.append(parts["train"])
        write_part(options.output, name, own, source, options.skip_bad, options.nj)


def needed_sets(recipe: Recipe) -> tuple[str, ...]:
    """All sets, but train only where an encoder is to be trained."""
    trains = any("architecture" in model for model in recipe.encoders.values())
    return SETS if trains else SETS[1:]


def open_source(path: Path, recipe: Recipe) -> Source:
    """Read the tables or manifests of a directory.

    Raises:
        InputError: it is neither Kaldi's nor Lhotse's, or something in it is wrong.
    """
    ours = [model for model in recipe.encoders.values() if "architecture" in model]
    features = [parse_settings(model).features for model in ours]
    given = {feature.frame_shift for feature in features if feature.type == "given"}
    if len(given) > 1:
        raise InputError("encoders: given features have one frame_shift, not several")
    if (path / "utt2spk").is_file():
        shift = given.pop() if given else None
        return KaldiDir(path, shift, recipe.corpus.allow_pipes)
    return LhotseDir(path, recipe.corpus.allow_pipes)


def write_part(
    data: Path, name: str, parts: list[Part], source: SourceOf, skip_bad: bool, nj: int
) -> None:
    """Write a set, made of parts of one or more directories."""
    utterances: dict[Path, dict[str, str]] = {}
    for part in parts:
        utterances.setdefault(part.directory, {}).update(part.utt2spk)
    segmented = {source(directory).segmented for directory in utterances}
    if len(segmented) > 1:
        raise InputError(
            f"set {name!r}: of {' and '.join(map(str, utterances))}, one has segments and the "
            "other has not; make them alike"
        )
    skipped: dict[str, str] = {}
    streams = [
        source(directory).cuts(own, skipped if skip_bad else None)
        for directory, own in utterances.items()
    ]
    cuts: Iterator[MonoCut] = heapq.merge(*streams, key=lambda cut: cut.id.encode())
    if skip_bad:
        cuts = usable_cuts(cuts, skipped, nj)
    counts = write_set(data, name, cuts, segmented=segmented.pop())
    for path in parts[0].lists:
        copy_list(path, data / name, skipped)
    write_skipped(data, name, skipped)
    log.info(
        "%s: %d speakers, %d utterances, %.2f hours, %d skipped",
        data / name, counts.speakers, counts.utterances, counts.hours, len(skipped),
    )  # fmt: skip


def copy_list(path: Path, directory: Path, skipped: dict[str, str]) -> None:
    """Copy a trial list, without the trials of skipped utterances."""
    trials = Trials.read(path)
    kept = [
        a not in skipped and b not in skipped
        for a, b in zip(trials.enroll, trials.test, strict=True)
    ]
    for row, keep in enumerate(kept):
        if not keep:
            skipped[f"{path.name}:{row + 1}"] = "trial of a skipped utterance"
    (trials if all(kept) else trials.select(kept)).write(directory / path.name)


if __name__ == "__main__":
    run_program(main)
