"""Your own corpus: the directory, or the part of one, that each set is made of.

corpus.paths names a directory per set (`train`, `align`, `dev`, `eval`), or one for all sets
(`data`), which is divided by speaker. The speakers of its trials are `eval`; prepare.held_out says
how many of the others the other sets get (and `eval`, if it has no trials).
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nessa.corpus.speakers import split_speakers
from nessa.errors import InputError, about
from nessa.kaldi.datadir import PROFILE_LIST
from nessa.recipe.config import Recipe
from nessa.trials import Trials, trial_speakers

WHOLE = "data"
log = logging.getLogger(__name__)
ReadSpeakers = Callable[[Path], Mapping[str, str]]


@dataclass(frozen=True)
class Part:
    """Some speakers of a directory.

    Attributes:
        directory: as the recipe names it.
        utt2spk: {utterance: speaker}.
        lists: trial lists.
    """

    directory: Path
    utt2spk: dict[str, str]
    lists: tuple[Path, ...] = ()


def find_parts(recipe: Recipe, sets: tuple[str, ...], read: ReadSpeakers) -> dict[str, Part]:
    """Find what each set is made of.

    Args:
        recipe: its paths, held_out and seed.
        sets: the sets needed; without `train`, the remaining speakers are `align`.
        read: reads {utterance: speaker} of a directory.

    Raises:
        InputError: a set without speakers, or a path that belongs to none.
    """
    paths = {name: Path(path) for name, path in recipe.corpus.paths.items()}
    unknown = sorted(paths.keys() - {WHOLE, *sets})
    if unknown:
        raise InputError(
            f"corpus.paths: no set is called {unknown[0]!r}; name {', '.join(sets)}, or {WHOLE} "
            "for all of them"
        )
    for name, path in paths.items():
        if not path.exists():
            raise InputError(f"{path}: no such folder (corpus.paths.{name}); correct it")
    own = [name for name in sets if name in paths]
    parts = {}
    if WHOLE in paths:
        others = tuple(name for name in sets if name not in own)
        parts = _divide(recipe, paths[WHOLE], others, read(paths[WHOLE]))
    for name in own:
        lists = () if name in ("train", "align") else lists_in(paths[name])
        parts[name] = Part(paths[name], dict(read(paths[name])), lists)
    for name in sets:
        if name not in parts:
            raise InputError(
                f"corpus.paths: nothing for set {name!r}; run with --set corpus.paths.{name}=DIR, "
                f"or --set corpus.paths.{WHOLE}=DIR for a directory of all sets"
            )
    return {name: parts[name] for name in sets}


def lists_in(directory: Path) -> tuple[Path, ...]:
    """The trial lists of a directory: `trials`, and others as `trials_<name>`."""
    if not directory.is_dir():
        return ()
    return tuple(p for p in sorted(directory.glob("trials*")) if p.name != PROFILE_LIST)


def _divide(
    recipe: Recipe, directory: Path, sets: tuple[str, ...], utt2spk: Mapping[str, str]
) -> dict[str, Part]:
    held_out = {k: v for k, v in recipe.prepare.held_out.items() if k in sets}
    lists = lists_in(directory) if "eval" in sets else ()
    tested = _speakers_of(lists, directory, utt2spk)
    if tested:
        held_out.pop("eval", None)
    others = set(utt2spk.values()) - tested
    speakers = split_speakers(others, held_out, recipe.seed, directory)
    if "train" not in sets:
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
    set_of = {speaker: name for name in sets for speaker in speakers[name]}
    own: dict[str, dict[str, str]] = {name: {} for name in sets}
    for utterance, speaker in utt2spk.items():
        if speaker in set_of:
            own[set_of[speaker]][utterance] = speaker
    return {n: Part(directory, own[n], lists if n == "eval" else ()) for n in sets}


def warn_of_no_sessions(directory: Path) -> None:
    """Warn that without utt2session every utterance is a session of its own."""
    log.warning(
        "%s: no utt2session: every utterance counts as a session of its own, and targets of one "
        "recording session are easier", directory,
    )  # fmt: skip


def _speakers_of(lists: Iterable[Path], directory: Path, utt2spk: Mapping[str, str]) -> set[str]:
    found: set[str] = set()
    for path in lists:
        with about(path, directory):
            found.update(*trial_speakers(Trials.read(path), utt2spk))
    return found
