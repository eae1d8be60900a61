#!/usr/bin/env python3
"""Stage prepare: local copies of VoxCeleb1 and 2 -> Lhotse manifests and Kaldi data directories.

corpus.paths names the copies: `voxceleb1` and `voxceleb2`, as they are extracted
(.../wav/<speaker>/<session>/<utterance>.wav, .../aac/.../<utterance>.m4a) or converted to wav or
flac; optionally `lists`, a folder of the trial lists if they do not lie beside VoxCeleb1, `musan`
and `rirs`.

eval is what the lists of VoxCeleb1 name. VoxCeleb2's dev part is divided by speaker:
prepare.held_out says how many are align and dev; all others are train, and with
prepare.align_includes_train in align as well. No speaker of VoxCeleb1 is in training.

Memory: the names of VoxCeleb1's utterances and of the tested ones, and a few MiB a process.

    python local/voxceleb.py --recipe exp/recipe.yaml --corpus data/corpus --output data --nj 4
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from program import Arguments, corpus_arguments, read_paths, run_program, write_utterances
from trial_lists import TrialList
from voxceleb_copies import Copy, find_copy, need_ffmpeg

from nessa.corpus.sets import remove_other_sets
from nessa.corpus.speakers import split_speakers, with_train_in_align
from nessa.corpus.utterances import Utterance, write_backgrounds
from nessa.errors import InputError, named
from nessa.recipe.config import Recipe

log = logging.getLogger(__name__)

PATHS = ("voxceleb1", "voxceleb2", "lists", "musan", "rirs")
# The official lists and their names here; the first one found is the main one.
LISTS = {
    "veri_test2.txt": "vox1_o_cleaned",
    "veri_test.txt": "vox1_o",
    "list_test_all2.txt": "vox1_e_cleaned",
    "list_test_all.txt": "vox1_e",
    "list_test_hard2.txt": "vox1_h_cleaned",
    "list_test_hard.txt": "vox1_h",
}
PUBLISHED_TRIALS = {
    "vox1_o": 37720, "vox1_o_cleaned": 37611, "vox1_e": 581480, "vox1_e_cleaned": 579818,
    "vox1_h": 552536, "vox1_h_cleaned": 550894,
}  # fmt: skip
PUBLISHED_SPEAKERS = {"voxceleb1": 1251, "voxceleb2": 5994}
PUBLISHED_UTTERANCES = 1092009  # of VoxCeleb2 dev


def main() -> None:
    """Prepare every set of the recipe."""
    arguments = corpus_arguments(__doc__)
    if "eval" in arguments.recipe.prepare.held_out:
        raise InputError(
            "prepare.held_out: eval is what the lists of VoxCeleb1 name, and is not held out of "
            "VoxCeleb2; remove eval"
        )
    paths = find_folders(arguments.recipe)
    first = find_copy(paths["voxceleb1"])
    second = find_copy(paths["voxceleb2"], without_test=True)
    need_ffmpeg(first, second)
    check_no_leak(first, second)
    prepare_eval(arguments, first, find_lists(paths))
    prepare_backgrounds(paths, arguments.output)  # which copies of align draw from
    prepare_training(arguments, second)


def find_folders(recipe: Recipe) -> dict[str, Path]:
    """The folders that the recipe names.

    Raises:
        InputError: one is missing, or unknown.
    """
    paths = read_paths(recipe, PATHS)
    for name in ("voxceleb1", "voxceleb2"):
        if name not in paths:
            raise InputError(
                f"where is {name}? Run with --{name} DIR; the corpus is given on request by its "
                "authors, see recipes/voxceleb/README.md"
            )
    return paths


def check_no_leak(first: Copy, second: Copy) -> None:
    """Refuse a speaker of VoxCeleb1 in VoxCeleb2, as training and test must not share speakers."""
    shared = sorted(first.speakers.keys() & second.speakers.keys())
    if shared:
        raise InputError(
            f"{second.root}: {named(shared)} is in VoxCeleb1 too "
            f"({first.speakers[shared[0]]}); give each corpus a folder of its own"
        )


def find_lists(paths: Mapping[str, Path]) -> dict[str, TrialList]:
    """Read the official lists, the main one first: {name: list}.

    Raises:
        InputError: there is neither of Vox1-O's lists.
    """
    beside = paths["voxceleb1"]
    folders = [beside, *(beside / name for name in ("meta", "lists", "trials"))]
    if "lists" in paths:
        folders.insert(0, paths["lists"])
    lists = {}
    for file, name in LISTS.items():
        place = next((folder / file for folder in folders if (folder / file).is_file()), None)
        if place is None:
            log.warning("no %s (%s)", file, name)
            continue
        lists[name] = TrialList.read_files(place)
        expected = PUBLISHED_TRIALS[name]
        compare(f"{place}: trials", len(lists[name].trials), expected)
    if not lists.keys() & {"vox1_o", "vox1_o_cleaned"}:
        raise InputError(
            f"{beside}: neither veri_test2.txt nor veri_test.txt, the lists of Vox1-O; download "
            "them from VoxCeleb's page, and name their folder: --set corpus.paths.lists=DIR"
        )
    return lists


def prepare_eval(arguments: Arguments, copy: Copy, lists: Mapping[str, TrialList]) -> None:
    """Write the utterances of the lists; the main list is `trials`, others `trials_<name>`."""
    compare(f"{copy.root}: speakers", len(copy.speakers), PUBLISHED_SPEAKERS["voxceleb1"])
    tested = {
        name
        for listed in lists.values()
        for index in (listed.trials.enroll_index, listed.trials.test_index)
        for name in index.names
    }
    main_list = next(iter(lists))
    files = {"trials" if n == main_list else f"trials_{n}": given for n, given in lists.items()}
    utterances = (u for u in find_utterances(copy, copy.speakers) if u.id in tested)
    write_utterances(arguments, "eval", utterances, copy.root, files)


def prepare_training(arguments: Arguments, copy: Copy) -> None:
    """Divide VoxCeleb2's speakers into train, align and dev."""
    compare(f"{copy.root}: speakers", len(copy.speakers), PUBLISHED_SPEAKERS["voxceleb2"])
    settings = arguments.recipe.prepare
    sets = split_speakers(copy.speakers, settings.held_out, arguments.recipe.seed, copy.root)
    twice = "train" if settings.align_includes_train else None
    if twice:
        sets = with_train_in_align(sets)
    remove_other_sets(arguments.output, ["eval", *sets])
    utterances = 0
    for name, speakers in sets.items():
        found = write_utterances(arguments, name, find_utterances(copy, speakers), copy.root)
        utterances += found if name != twice else 0
    compare(f"{copy.root}: utterances", utterances, PUBLISHED_UTTERANCES)


def find_utterances(copy: Copy, speakers: Iterable[str]) -> Iterator[Utterance]:
    """The utterances of some speakers, sorted by id as `LC_ALL=C sort` sorts."""
    # A speaker's utterances begin with its name and a dash.
    for speaker in sorted(speakers, key=lambda name: f"{name}-".encode()):
        yield from copy.utterances(speaker)


def prepare_backgrounds(paths: Mapping[str, Path], data: Path) -> None:
    """Prepare MUSAN's noises and music, and the simulated rooms of RIRS_NOISES, if named."""
    musan, rirs = paths.get("musan"), paths.get("rirs")
    # MUSAN's speech would add a second speaker; the recorded rooms of RIRS_NOISES have several
    # channels.
    noise = [musan / kind for kind in ("noise", "music")] if musan else []
    rooms = [rirs / "simulated_rirs"] if rirs else []
    for folder in (*noise, *rooms):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; is the corpus complete?")
    if not musan:
        log.warning("no MUSAN: encoders are trained without noise; --musan DIR adds it")
    if not rirs:
        log.warning(
            "no RIRS_NOISES: Lhotse simulates rooms if torchaudio is installed, otherwise there is "
            "no reverberation; --rirs DIR adds rooms"
        )
    write_backgrounds(data, noise, rooms)


def compare(what: str, found: int, published: int) -> None:
    """Warn of a difference from the published count; a part of the corpus may be used."""
    if found != published:
        log.warning("%s: %d, published: %d", what, found, published)


if __name__ == "__main__":
    run_program(main)
