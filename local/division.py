"""Your own corpus: the directory, or the part of one, that each set is made of.

corpus.paths names a directory per set (`train`, `align`, `dev`, `eval`), or one for all sets
(`data`, or the recipe's name, unless a set has it), which is divided by speaker. Where it has a
`spk2set`, `speaker set` lines, those decide; if they have no `train` and an encoder is to be
trained, prepare.held_out.align says how many of the align speakers stay align, and the others are
train. Otherwise the speakers of its trials are `eval`, and prepare.held_out says how many of the
others the other sets get (and `eval`, if it has no trials). All speakers of `align_also`, another
corpus, are added to `align`.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nessa.corpus.profiles import GivenTrials, lists_in
from nessa.corpus.speakers import split_speakers
from nessa.corpus.tables import validate_division
from nessa.errors import InputError, about, named
from nessa.files import read_table
from nessa.kaldi.datadir import is_there, trial_lists
from nessa.recipe.config import Recipe
from nessa.trials import Trials, trial_speakers

WHOLE = "data"
ADDITIONAL = "align_also"
log = logging.getLogger(__name__)
ReadSpeakers = Callable[[Path], Mapping[str, str]]


@dataclass(frozen=True)
class Part:
    """Some speakers of a directory.

    Attributes:
        directory: as the recipe names it.
        utt2spk: {utterance: speaker}.
        lists: {file: trial list}.
        profiles: {profile: utterances}, of those that the lists name.
    """

    directory: Path
    utt2spk: dict[str, str]
    lists: Mapping[Path, Trials] = field(default_factory=dict)
    profiles: Mapping[str, list[str]] = field(default_factory=dict)


def takes_made(recipe: Recipe, others: Collection[str]) -> bool:
    """Whether a recipe takes what stage corpus makes, for it names no paths but others."""
    return bool(recipe.corpus.program) and recipe.corpus.paths.keys() <= set(others)


def find_parts(
    recipe: Recipe,
    made: Path,
    sets: tuple[str, ...],
    read: ReadSpeakers,
    others: tuple[str, ...] = (),
) -> dict[str, Part]:
    """Find what each set is made of.

    Args:
        recipe: its paths, held_out and seed.
        made: what stage corpus made; used where the recipe names no paths.
        sets: the sets needed; without `train`, the remaining speakers are `align`, or left out
            where held_out says how many are, and align does not include train.
        read: reads {utterance: speaker} of a directory.
        others: paths that a recipe may name besides, which no set is divided from.

    Raises:
        InputError: a set without speakers, or a path that belongs to none.
    """
    paths = {name: Path(path) for name, path in recipe.corpus.paths.items()}
    if takes_made(recipe, others):
        paths[WHOLE] = made
    unknown = sorted(paths.keys() - {WHOLE, recipe.name, *sets, *others})
    if unknown:
        raise InputError(
            f"corpus.paths: no set is called {unknown[0]!r}; name {', '.join(sets)}, or {WHOLE} "
            "for all of them"
        )
    for name, path in paths.items():
        if not path.exists():
            raise InputError(f"{path}: no such folder (corpus.paths.{name}); correct it")
        if path.is_file():
            raise InputError(
                f"{path}: is a file (corpus.paths.{name}); name the folder that it is in"
            )
    if recipe.name in paths.keys() - {WHOLE, *sets, *others}:
        if WHOLE in paths:
            raise InputError(
                f"corpus.paths: {WHOLE} and {recipe.name} both name the directory of all sets; "
                "remove one of them"
            )
        paths[WHOLE] = paths.pop(recipe.name)
    own = [name for name in sets if name in paths]
    parts = {}
    if WHOLE in paths:
        divided = tuple(name for name in sets if name not in own)
        parts = _divide(recipe, paths[WHOLE], divided, read(paths[WHOLE]))
    for name in own:
        lists = () if name in ("train", "align") else lists_in(paths[name])
        utt2spk = dict(read(paths[name]))
        given = _read_trials(paths[name], utt2spk, lists)
        if given.profiles and name == "dev":
            raise InputError(
                f"{paths[name]}: trials of dev name profiles ({named(list(given.profiles))}), but "
                "aligners are selected on single utterances; remove them, and some are drawn"
            )
        parts[name] = Part(paths[name], utt2spk, given.lists, given.profiles)
    for name in sets:
        if name not in parts:
            raise InputError(
                f"corpus.paths: nothing for set {name!r}; run with --set corpus.paths.{name}=DIR, "
                f"or --set corpus.paths.{WHOLE}=DIR for a directory of all sets"
            )
    return {name: parts[name] for name in sets}


def find_additional(recipe: Recipe, parts: Mapping[str, Part], read: ReadSpeakers) -> Part | None:
    """The additional speakers of `align`, from another corpus; None where the recipe names none.

    Args:
        recipe: its paths.
        parts: what the sets are made of.
        read: reads {utterance: speaker} of a directory.

    Raises:
        InputError: a speaker there is called as one of a set.
    """
    if ADDITIONAL not in recipe.corpus.paths:
        return None
    path = Path(recipe.corpus.paths[ADDITIONAL])
    utt2spk = dict(read(path))
    own = {speaker for part in parts.values() for speaker in part.utt2spk.values()}
    if shared := sorted(own & set(utt2spk.values())):
        raise InputError(
            f"{path}: speaker {named(shared)} is in the corpus as well (corpus.paths."
            f"{ADDITIONAL}); if it is somebody else, rename it, and leave it out otherwise"
        )
    return Part(path, utt2spk)


def find_unneeded_train(recipe: Recipe, read: ReadSpeakers) -> Part | None:
    """What corpus.paths.train adds to `align` where no train set is made; None where nothing.

    Args:
        recipe: its paths, and whether align includes the speakers of train.
        read: reads {utterance: speaker} of a directory.
    """
    if "train" not in recipe.corpus.paths:
        return None
    path = Path(recipe.corpus.paths["train"])
    utt2spk = dict(read(path))
    if recipe.prepare.align_includes_train:
        return Part(path, utt2spk)
    say_left_out(path, len(set(utt2spk.values())), "train")
    return None


def _read_trials(
    directory: Path, utt2spk: Mapping[str, str], lists: tuple[Path, ...]
) -> GivenTrials:
    given = GivenTrials.read(directory, utt2spk, lists)
    if lists:
        given.check(utt2spk)
    return given


def _divide(
    recipe: Recipe, directory: Path, sets: tuple[str, ...], utt2spk: Mapping[str, str]
) -> dict[str, Part]:
    """The parts of a directory of all sets."""
    lists = lists_in(directory) if "eval" in sets else ()
    unused = [] if "eval" in sets else [p.name for p in trial_lists(directory) if is_there(p)]
    if unused:
        log.warning(
            "%s: %s not used, for eval is another directory, corpus.paths.eval; without that path, "
            "the speakers of these trials are eval", directory, named(unused)
        )  # fmt: skip
    given = _read_trials(directory, utt2spk, lists)
    if is_there(directory / "spk2set"):
        set_of = _read_division(recipe, directory / "spk2set", sets, utt2spk)
        _check_tested(directory / "spk2set", set_of, given, utt2spk)
    else:
        set_of = _draw_division(recipe, directory, sets, given, utt2spk)
    own: dict[str, dict[str, str]] = {name: {} for name in sets}
    for utterance, speaker in utt2spk.items():
        if speaker in set_of:
            own[set_of[speaker]][utterance] = speaker
    parts = {name: Part(directory, own[name]) for name in sets}
    if "eval" in sets:
        parts["eval"] = Part(directory, own["eval"], given.lists, given.profiles)
    return parts


def _read_division(
    recipe: Recipe, path: Path, sets: tuple[str, ...], utt2spk: Mapping[str, str]
) -> dict[str, str]:
    """{speaker: set}; speakers of sets that are not made of this directory are left out.

    Where no train set is made of any, those of train are align if the recipe includes them there.
    """
    if problems := validate_division(path.parent, utt2spk):
        raise InputError("\n".join(problems))
    speakers = set(utt2spk.values())
    set_of = {speaker: name for speaker, name in read_table(path).items() if speaker in speakers}
    if "train" in sets and "train" not in set_of.values():
        set_of |= dict.fromkeys(_lent_to_train(recipe, path, set_of), "train")
    if "train" not in (*sets, *recipe.corpus.paths) and recipe.prepare.align_includes_train:
        set_of = {s: "align" if name == "train" else name for s, name in set_of.items()}
    left_out = Counter(set_of.values())
    for name in sorted(left_out.keys() - set(sets)):
        say_left_out(path, left_out[name], name)
    if empty := set(sets) - set(set_of.values()):
        raise InputError(f"{path}: no speaker of set {sorted(empty)[0]!r}; write some")
    return {speaker: name for speaker, name in set_of.items() if name in sets}


def _check_tested(
    path: Path, set_of: Mapping[str, str], given: GivenTrials, utt2spk: Mapping[str, str]
) -> None:
    """Refuse trials of speakers whom spk2set has in other sets than eval."""
    for place, own in _speakers_of(given, utt2spk).items():
        if strays := sorted(speaker for speaker in own if set_of.get(speaker) != "eval"):
            raise InputError(
                f"{place}: {path} has speaker {named(strays)} in another set than eval; correct "
                "it, or remove their trials"
            )


def _lent_to_train(recipe: Recipe, path: Path, set_of: Mapping[str, str]) -> list[str]:
    """The align speakers that are train, where a division has no others."""
    staying = recipe.prepare.held_out.get("align")
    if staying is None:
        raise InputError(
            f"{path}: no speaker of set 'train' for the encoders to be trained on; write some, or "
            "say in prepare.held_out.align how many of the align speakers stay align"
        )
    align = [speaker for speaker, name in set_of.items() if name == "align"]
    return split_speakers(align, {"align": staying}, recipe.seed, path)["train"]


def _draw_division(
    recipe: Recipe,
    directory: Path,
    sets: tuple[str, ...],
    given: GivenTrials,
    utt2spk: Mapping[str, str],
) -> dict[str, str]:
    """{speaker: set}, by the trials and by chance."""
    held_out = {k: v for k, v in recipe.prepare.held_out.items() if k in sets}
    tested = set[str]().union(*_speakers_of(given, utt2spk).values())
    if tested:
        held_out.pop("eval", None)
    others = set(utt2spk.values()) - tested
    needed = "train" in sets
    if tested:
        _check_others(recipe, directory, sets, others, tested)
    speakers = split_speakers(others, held_out, recipe.seed, directory, rest_needed=needed)
    if not needed and (recipe.prepare.align_includes_train or "align" not in held_out):
        speakers["align"] = speakers.pop("train") + speakers.get("align", [])
    if tested:
        speakers["eval"] = sorted(tested)
    if recipe.prepare.align_includes_train:
        speakers.setdefault("align", [])
    for name in sets:
        if name not in speakers:
            raise InputError(
                f"{directory}: no speakers for set {name!r}; say in prepare.held_out how many"
            )
    for name in speakers.keys() - set(sets):
        if speakers[name]:
            say_left_out(directory, len(speakers[name]), name)
    return {speaker: name for name in sets for speaker in speakers[name]}


def _check_others(
    recipe: Recipe,
    directory: Path,
    sets: tuple[str, ...],
    others: Collection[str],
    tested: Collection[str],
) -> None:
    """Refuse trials that leave too few `others`, however these are divided."""
    lent = recipe.prepare.align_includes_train and "train" in (*sets, *recipe.corpus.paths)
    needing = [name for name in sets if name != "eval" and not (name == "align" and lent)]
    if len(others) < 2 * len(needing):
        folders = ", ".join(f"corpus.paths.{name}" for name in needing)
        raise InputError(
            f"{directory}: {len(others)} speakers are too few for {', '.join(needing)}, of which "
            f"each needs two or more; the other {len(tested)} are in its trials, and so in eval: "
            f"add speakers, name folders of their own for the other sets ({folders}), or shorten "
            "the list of trials"
        )


def say_left_out(place: Path, speakers: int, name: str) -> None:
    """Log that speakers are of a set that is not made of them."""
    log.info(
        "%s: %d speakers of set %s are left out, for it is not made of them", place, speakers, name
    )


def warn_of_no_sessions(directory: Path) -> None:
    """Warn that without utt2session every utterance is a session of its own."""
    log.warning(
        "%s: no utt2session: every utterance counts as a session of its own, and targets of one "
        "recording session are easier", directory,
    )  # fmt: skip


def _speakers_of(given: GivenTrials, utt2spk: Mapping[str, str]) -> dict[Path, set[str]]:
    """The speakers of each list."""
    found = {}
    for path, trials in given.lists.items():
        with about(path, given.directory):
            found[path] = set[str]().union(*trial_speakers(trials, utt2spk, given.profiles))
    return found
