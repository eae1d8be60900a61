"""What the corpus programs share: their options, writing a set, and how they end.

A new corpus is one file beside this one: it lists the `Utterance`s of each set and calls
`write_utterances`. `local/tree.py` is the shortest example.
"""

import argparse
import logging
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import soundfile
from lhotse import Recording
from lhotse.cut import MonoCut
from numpy.typing import NDArray
from trial_lists import TrialList

from nessa.corpus.audio import check_length
from nessa.corpus.copies import (
    FOLDER,
    MADE_UP,
    Background,
    add_copies,
    is_made,
    remove_copies,
)
from nessa.corpus.features import check_frames
from nessa.corpus.leaving_out import BROKEN, whole_profiles
from nessa.corpus.manifests import read_background
from nessa.corpus.sets import SetCounts, users_own, write_set, write_skipped
from nessa.corpus.speakers import SETS
from nessa.corpus.utterances import SKIPPING, Utterance, make_cuts, read_recording
from nessa.encoders.kinds import given_dimensions, given_shifts, sampling_rates
from nessa.errors import InputError, about, explained
from nessa.kaldi.datadir import GIVEN_MAP, read_utt2spk
from nessa.recipe.config import Recipe
from nessa.recipe.resolve import load_recipe
from nessa.synth.acoustics import SAMPLE_RATE
from nessa.synth.background import make_noises, make_rooms
from nessa.trials import write_enroll_map

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arguments:
    """The options of a corpus program."""

    recipe: Recipe  # resolved
    recipe_path: Path
    corpus: Path  # folder of a corpus that is made or downloaded
    output: Path  # the recipe's data folder
    nj: int  # number of processes; does not change the result
    skip_bad: bool  # leave out utterances whose audio cannot be used, instead of stopping


def all_sets(recipe: Recipe) -> Collection[str]:
    """Those that a program may write, whatever the recipe says."""
    return SETS


def corpus_arguments(
    description: str,
    writes_sets: bool = True,
    sets_of: Callable[[Recipe], Collection[str]] = all_sets,
) -> Arguments:
    """Read the command line, which is the same for all programs of a stage.

    Args:
        description: the program's docstring; its first line is shown by --help.
        writes_sets: whether the program writes the recipe's sets (True), or makes or downloads
            the corpus (False), and then has neither --output nor --skip-bad.
        sets_of: the sets that the program may write; a user's directory of another name is let be.

    Raises:
        InputError: the recipe is not valid, or a set would be written over a user's directory.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--recipe", type=Path, required=True, help="resolved recipe")
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder of a corpus that is made or downloaded"
    )
    parser.add_argument("--nj", type=int, default=1, help="number of processes")
    if writes_sets:
        parser.add_argument("--output", type=Path, required=True, help="the recipe's data folder")
        parser.add_argument("--skip-bad", action="store_true", help="leave out unusable audio")
    else:
        parser.set_defaults(output=Path(), skip_bad=False)
    given = vars(parser.parse_args())
    if given["nj"] < 1:
        raise InputError(f"--nj {given['nj']}: give the number of processes, 1 or more")
    path = given.pop("recipe")
    arguments = Arguments(load_recipe(path), path, **given)
    if writes_sets:
        _check_apart(arguments, sets_of(arguments.recipe))
    return arguments


def _check_apart(arguments: Arguments, sets: Collection[str]) -> None:
    """Refuse a corpus that the sets would be written over, whether the recipe names it or not."""
    output, copies = arguments.output, arguments.recipe.prepare.align_copies
    written = [(output / name).resolve() for name in (*SETS, "manifests", FOLDER)]  # or removed
    for name, path in arguments.recipe.corpus.paths.items():
        if any(map(Path(path).resolve().is_relative_to, written)):
            raise InputError(
                f"{path}: is where stage prepare writes sets, over what is there (corpus.paths."
                f"{name}); move the corpus, or choose another --work-dir"
            )
    for name in sets:
        if own := users_own(output, name):
            raise InputError(
                f"{own}: stage prepare did not make this, and would write set {name!r} over it; "
                "move or remove it, or choose another --work-dir"
            )
    for name in (*copies, MADE_UP) if copies else ():
        folder = output / FOLDER / name
        if folder.exists() and not is_made(folder):
            raise InputError(
                f"{folder}: stage prepare did not make this, and would write copies beside it "
                "(prepare.align_copies); move or remove it, or choose another --work-dir"
            )


def read_paths(recipe: Recipe, names: Sequence[str]) -> dict[str, Path]:
    """The folders that a recipe names.

    Args:
        recipe: its corpus.paths.
        names: of those that the program reads.

    Raises:
        InputError: one that the program does not read, or that is not there.
    """
    paths = {name: Path(path) for name, path in recipe.corpus.paths.items()}
    for name, path in paths.items():
        if name not in names:
            of_ones_own = "remove it; for your own corpus, see docs/your-corpus.md"
            known = f"there are {', '.join(names)}" if names else of_ones_own
            raise InputError(
                f"corpus.paths: {recipe.prepare.program} reads nothing called {name!r}; {known}"
            )
        if not path.is_dir():
            raise InputError(f"{path}: no such folder (corpus.paths.{name}); correct it")
    return paths


def write_utterances(
    arguments: Arguments,
    name: str,
    utterances: Iterable[Utterance],
    corpus: Path,
    lists: Mapping[str, TrialList] = MappingProxyType({}),
) -> int:
    """Write the set `name` of a corpus of audio files; see `make_cuts` and `write_cuts`."""
    skipped: dict[str, str] = {}
    cuts = make_cuts(utterances, skipped if arguments.skip_bad else None, arguments.nj, corpus)
    return write_cuts(arguments, name, cuts, skipped, lists)


def write_cuts(
    arguments: Arguments,
    name: str,
    cuts: Iterable[MonoCut],
    skipped: dict[str, str],
    lists: Mapping[str, TrialList],
    segmented: bool = False,
    profiles: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> int:
    """Write a set's manifests, data directory and trial lists, and what was left out of it.

    Args:
        arguments: where to.
        name: of the set.
        cuts: see `write_set`.
        skipped: {item: why}, filled while cuts are read; receives the trials of these utterances.
        lists: {name of the file in the data directory: trial list}.
        segmented: see `write_set`.
        profiles: {profile: utterances}, of those that the lists name.

    Returns:
        The number of utterances, including those that were left out.

    Raises:
        InputError: see `write_set` and `TrialList.among`.
    """
    directory = arguments.output / name
    cuts = some_of(name, fit_for_models(cuts, arguments, skipped), skipped)
    counts = write_set(arguments.output, name, cuts, segmented=segmented)
    found = counts.utterances + len(skipped)
    if name == "align":
        remove_copies(arguments.output)
        if arguments.recipe.prepare.align_copies:
            counts = make_copies(arguments, skipped)
    if lists:
        known = read_utt2spk(directory)
        kept = whole_profiles(profiles, known)
        skipped |= dict.fromkeys(profiles.keys() - kept.keys(), BROKEN)
        if kept:
            write_enroll_map(directory / GIVEN_MAP, kept)
        for file, given in lists.items():
            trials = given.among(known, skipped, kept)
            trials.write(directory / file)
            log.info("%s: %d trials of %s", directory / file, len(trials), given.path)
    write_skipped(arguments.output, name, skipped)
    log.info(
        "%s: %d speakers, %d utterances, %.2f hours, %d skipped",
        directory, counts.speakers, counts.utterances, counts.hours, len(skipped),
    )  # fmt: skip
    return found


def some_of(name: str, cuts: Iterable[MonoCut], skipped: Mapping[str, str]) -> Iterator[MonoCut]:
    """Pass the cuts of a set on, and refuse a set of which all were skipped, {id: why}."""
    empty = True
    for cut in cuts:
        empty = False
        yield cut
    if empty and skipped:
        raise InputError(
            f"set {name!r}: all {len(skipped)} utterances were skipped; the first: "
            f"{next(iter(skipped.values()))}"
        )


def fit_for_models(
    cuts: Iterable[MonoCut], arguments: Arguments, skipped: dict[str, str]
) -> Iterator[MonoCut]:
    """Refuse or leave out what no model takes, rather than stop at it in a later stage."""
    encoders = arguments.recipe.encoders
    rates, dims = sampling_rates(encoders), given_dimensions(encoders)
    shifts = given_shifts(encoders)
    for cut in cuts:
        try:
            with about(f"utterance {cut.id!r}"):
                _check_fit(cut, rates, dims, shifts)
        except InputError as error:
            if not arguments.skip_bad:
                raise InputError(f"{error}, or use {SKIPPING}") from None
            skipped[cut.id] = str(error)
        else:
            yield cut


def _check_fit(cut: MonoCut, rates: set[int], dims: set[int], shifts: set[float]) -> None:
    for there, needed, what in (
        (cut.has_recording, rates, "audio"), (cut.has_features, dims, "features")
    ):  # fmt: skip
        if needed and not there:
            raise InputError(f"no {what}, which a model of the recipe takes; give it some")
    if cut.has_recording:
        rate = cut.recording.sampling_rate
        if rates and rate not in rates:
            raise InputError(
                f"sampled at {rate} Hz, the recipe's models take {min(rates)} Hz; resample it"
            )
        check_length(cut.num_samples, cut.sampling_rate)
    if cut.has_features and dims:
        check_frames(cut.num_frames)
        shift = cut.frame_shift
        if not any(math.isclose(shift, own, rel_tol=1e-3) for own in shifts):
            raise InputError(
                f"features every {shift} s, the recipe's models take {min(shifts)}; set "
                "features.frame_shift, or make them again"
            )
        if cut.num_features not in dims:
            raise InputError(
                f"features of dimension {cut.num_features}, the recipe's models take {min(dims)}; "
                "set features.num_filters, or make them again"
            )


def make_copies(arguments: Arguments, skipped: dict[str, str]) -> SetCounts:
    """Add the recipe's perturbed copies to the align set.

    Noise and rooms are the corpus's own; where it has none, those of the mini corpus are made.
    """
    data, recipe = arguments.output, arguments.recipe
    copies = recipe.prepare.align_copies
    noises = any(copy.snr is not None for copy in copies.values())
    rooms = any(copy.reverb for copy in copies.values())
    background = Background(
        find_background(data, "noise", make_noises, recipe.seed) if noises else [],
        find_background(data, "rir", make_rooms, recipe.seed) if rooms else [],
    )
    left_out = skipped if arguments.skip_bad else None
    return add_copies(data, "align", copies, background, recipe.seed, arguments.nj, left_out)


def find_background(
    data: Path, kind: str, make: Callable[[int], Iterator[NDArray[np.int16]]], seed: int
) -> list[Recording]:
    """The corpus's recordings of a kind ("noise" or "rir"), or those that `make` makes."""
    found = list(read_background(data, kind) or [])
    if found:
        return found
    folder = data / FOLDER / MADE_UP / kind
    log.info("%s: no recordings of kind %s in the corpus: made up", folder, kind)
    folder.mkdir(parents=True, exist_ok=True)
    for number, samples in enumerate(make(seed), start=1):
        path = folder / f"{number:05d}.wav"
        soundfile.write(path, samples, SAMPLE_RATE)
        found.append(read_recording(f"{kind}-{number:05d}", path))
    return found


def run_program(main: Callable[[], None]) -> None:
    """Run a program, and print bad input as a message; see `explained`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with explained(Path(sys.argv[0]).name):
        main()
