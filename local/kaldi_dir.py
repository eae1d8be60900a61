#!/usr/bin/env python3
"""Stage prepare: your own Kaldi data directory or Lhotse manifests -> a recipe's sets.

corpus.paths names a directory for all sets or one per set, see local/division.py. It is

- a Kaldi data directory: utt2spk, and wav.scp (with or without segments) or feats.scp;
- or Lhotse's: a folder with one *cuts* manifest, or one of recordings and one of supervisions.

Beside them may lie spk2gender, utt2session, utt2domain, text, trials and trials_<name>, and
enroll_map or spk2utt with the profiles that trials name. Without utt2session, the recording of a
segment is its session, and otherwise every utterance is one of its own.

The speakers of corpus.paths.align_also, one more such directory, are added to align; utt2source
lists their utterances, of which prepare.align_copies makes no copies.

Memory: Kaldi's tables; Lhotse manifests as a whole, 4 kB an utterance.

    python local/kaldi_dir.py --recipe exp/recipe.yaml --corpus data/corpus --output data
"""

import functools
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from division import ADDITIONAL, Part, find_additional, find_parts, find_unneeded_train
from kaldi_tables import KaldiDir
from lhotse.cut import MonoCut
from lhotse.utils import fastcopy
from lhotse_manifests import LhotseDir
from program import Arguments, corpus_arguments, run_program, write_cuts
from sources import Source
from trial_lists import TrialList

from nessa.corpus.domains import check_names, check_patterns
from nessa.corpus.finishing import check_has_trials
from nessa.corpus.sets import remove_other_sets
from nessa.corpus.speakers import COMPARED, SETS, TESTED, check_disjoint, check_learnable
from nessa.corpus.tables import speaker_order_problem
from nessa.corpus.utterances import usable_cuts, write_backgrounds
from nessa.encoders.kinds import are_trained, given_shifts
from nessa.errors import InputError
from nessa.kaldi.datadir import MAIN_LIST
from nessa.recipe.config import Recipe

SourceOf = Callable[[Path], Source]


def main() -> None:
    """Write every set that the recipe needs."""
    arguments = corpus_arguments(__doc__, sets_of=needed_sets)
    recipe = arguments.recipe

    @functools.cache
    def source(path: Path) -> Source:
        return open_source(path, recipe, arguments.skip_bad)

    def speakers(path: Path) -> dict[str, str]:
        return source(path).utt2spk

    sets = needed_sets(recipe)
    parts = find_parts(recipe, arguments.corpus, sets, speakers, other_paths(recipe))
    if "train" not in sets and (unneeded := find_unneeded_train(recipe, speakers)):
        parts["train"] = unneeded
    check_early(recipe, parts, source)
    additional = find_additional(recipe, parts, speakers)
    members = {name: [parts[name]] for name in sets}
    if recipe.prepare.align_includes_train and "train" in parts:
        members["align"].append(parts["train"])
    for name, own in members.items():
        everything = [*own, additional] if name == "align" and additional else own
        check_order(name, everything)
        if name == "align" and not recipe.prepare.align_copies:  # which are utterances as well
            spoken = (speaker for part in everything for speaker in part.utt2spk.values())
            check_learnable(folders_of(everything), spoken)
        check_alike(name, own, source, additional if name == "align" else None)
    write_backgrounds(arguments.output)  # removes those of an earlier corpus
    remove_other_sets(arguments.output, sets)
    for name, own in members.items():
        write_part(arguments, name, own, source, additional if name == "align" else None)


def needed_sets(recipe: Recipe) -> tuple[str, ...]:
    """All sets, but train only where an encoder is to be trained."""
    return SETS if are_trained(recipe.encoders) else COMPARED


def other_paths(recipe: Recipe) -> tuple[str, ...]:
    """Paths that a recipe may name besides, which no set is divided from."""
    return (ADDITIONAL,) if "train" in needed_sets(recipe) else (ADDITIONAL, "train")


def check_early(recipe: Recipe, parts: Mapping[str, Part], source: SourceOf) -> None:
    """Refuse what tables alone show and `finish_sets` would refuse after all audio is read."""
    speakers = {name: set(part.utt2spk.values()) for name, part in parts.items()}
    includes_train = recipe.prepare.align_includes_train
    check_disjoint(speakers, includes_train)
    for name in TESTED:
        given = any(path.name == MAIN_LIST for path in parts[name].lists)
        check_has_trials(parts[name].directory, name, recipe.prepare, given)
    for name, part in parts.items():
        if (name != "train" or includes_train) and not source(part.directory).has_domains:
            check_patterns(recipe.prepare.domains, speakers[name])


def check_order(name: str, parts: list[Part]) -> None:
    """Refuse ids of a set by which utterances and speakers are not sorted alike, as Kaldi needs.

    Those that do not begin with their speaker are left to `Source.cuts`.
    """
    pairs = (pair for part in parts for pair in part.utt2spk.items())
    if problem := speaker_order_problem({u: s for u, s in pairs if u.startswith(s)}):
        raise InputError(f"{folders_of(parts)}: set {name!r}: {problem}")


def folders_of(parts: list[Part]) -> str:
    """What messages call parts."""
    return " and ".join(dict.fromkeys(str(part.directory) for part in parts))


def check_alike(
    name: str, parts: list[Part], source: SourceOf, additional: Part | None = None
) -> None:
    """Refuse a set of segments and of whole recordings, or with domains of some utterances.

    So are domains by which no trial list can be called, but of train, which has no trials.

    Args:
        name: of the set.
        parts: of one or more directories.
        source: opens these.
        additional: speakers of another corpus, which get a domain where they have none.
    """
    everything = [*parts, *([additional] if additional else [])]
    if len({source(part.directory).segmented for part in everything}) > 1:
        raise InputError(
            f"set {name!r}: of {folders_of(everything)}, one has segments and the other has not; "
            "make them alike"
        )
    examples = {
        source(part.directory).domain_of(utterance): utterance
        for part in parts
        for utterance in part.utt2spk
    }
    examples.pop(None, None)
    if "" in examples and len(examples) > 1:
        raise InputError(
            f"set {name!r}: some utterances have a domain, and others, such as "
            f"{examples['']!r}, have none; give all of them a line of utt2domain"
        )
    if name == "train" or not examples.keys() - {""}:
        return  # additional speakers lose their domains where the set has none
    for part in everything:
        own = map(source(part.directory).domain_of, part.utt2spk)
        check_names(sorted(set(filter(None, own))), f"{part.directory}, domains of set {name!r}")


def open_source(path: Path, recipe: Recipe, skip_bad: bool) -> Source:
    """Read the tables or manifests of a directory.

    Args:
        path: the directory.
        recipe: its encoders, and whether commands are run.
        skip_bad: utterances that cannot be used are left out.

    Raises:
        InputError: it is neither Kaldi's nor Lhotse's, or something in it is wrong.
    """
    shift = min(given_shifts(recipe.encoders), default=None)
    if (path / "utt2spk").is_file():
        return KaldiDir(path, shift, recipe.corpus.allow_pipes, skip_bad)
    return LhotseDir(path, shift is not None, recipe.corpus.allow_pipes)


def write_part(
    arguments: Arguments,
    name: str,
    parts: list[Part],
    source: SourceOf,
    additional: Part | None = None,
) -> None:
    """Write a set, made of parts of one or more directories, and of additional speakers."""
    utterances: dict[Path, dict[str, str]] = {}
    for part in parts:
        utterances.setdefault(part.directory, {}).update(part.utt2spk)
    skipped: dict[str, str] = {}
    left_out = skipped if arguments.skip_bad else None
    streams = [source(directory).cuts(own, left_out) for directory, own in utterances.items()]
    if additional:
        given = source(additional.directory).cuts(additional.utt2spk, left_out)
        domains = any(source(directory).has_domains for directory in utterances)
        streams.append(mark_additional(given, domains))
    cuts: Iterable[MonoCut] = heapq.merge(*streams, key=lambda cut: cut.id.encode())
    if arguments.skip_bad or arguments.recipe.prepare.decode:
        cuts = usable_cuts(cuts, left_out, arguments.nj)
    lists = {path.name: TrialList(path, trials) for path, trials in parts[0].lists.items()}
    profiles = parts[0].profiles
    segmented = source(parts[0].directory).segmented
    write_cuts(arguments, name, cuts, skipped, lists, segmented, profiles)


def mark_additional(cuts: Iterable[MonoCut], domains: bool) -> Iterator[MonoCut]:
    """Mark cuts as those of additional speakers.

    Args:
        cuts: of one supervision each.
        domains: whether the set has domains; what has none is one of its own.
    """
    for cut in cuts:
        segment = cut.supervisions[0]
        custom = segment.custom | {"added_from": ADDITIONAL}
        if domains:
            custom.setdefault("domain", ADDITIONAL)
        else:
            custom.pop("domain", None)
        yield fastcopy(cut, supervisions=[fastcopy(segment, custom=custom)])


if __name__ == "__main__":
    run_program(main)
