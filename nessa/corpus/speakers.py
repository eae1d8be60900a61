"""Which speakers are in which set."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from nessa.errors import InputError

TestSet = Literal["dev", "eval"]
TESTED: tuple[TestSet, TestSet] = ("dev", "eval")  # have trials
COMPARED = ("align", *TESTED)  # of which aligners are made, chosen and tested
SETS = ("train", *COMPARED)


def split_speakers(
    speakers: Iterable[str],
    held_out: Mapping[str, float],
    seed: int,
    where: Path | str,
    remedy: str = "change prepare.held_out",
    rest_needed: bool = True,
) -> dict[str, list[str]]:
    """Divide the speakers of a corpus into sets.

    Args:
        speakers: all of them; their order does not matter.
        held_out: {set: number of its speakers, or, below 1, their share, which is 2 at least}; all
            others are `train`.
        seed: of the draw.
        where: the corpus, for messages.
        remedy: of too few speakers, for messages.
        rest_needed: whether train must have two speakers as the other sets.

    Returns:
        {set: sorted speakers}.

    Raises:
        InputError: there are too few speakers.
    """
    ordered = sorted(speakers, key=str.encode)
    shuffled = [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
    sets: dict[str, list[str]] = {}
    for name, amount in held_out.items():
        count = max(2, round(amount * len(ordered))) if amount < 1 else round(amount)
        sets[name], shuffled = shuffled[:count], shuffled[count:]
    sets["train"] = shuffled
    short = [name for name in sets if len(sets[name]) < 2 and (name != "train" or rest_needed)]
    if short:
        raise InputError(
            f"{where}: {len(ordered)} speakers leave {len(sets[short[0]])} for set {short[0]!r}, "
            f"which needs two or more; {remedy}"
        )
    return {name: sorted(sets[name], key=str.encode) for name in SETS if name in sets}


def with_train_in_align(sets: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The sets of `split_speakers` with the speakers of train in align, as well as its own."""
    return {**sets, "align": [*sets.get("align", []), *sets["train"]]}


def unusual_order(names: Iterable[str]) -> list[str]:
    """`names`, or nothing if sets stand as in `SETS` and other names as in the alphabet.

    Part of digests where the order decides results: they are independent of that of mappings.
    """
    found = list(names)
    usual = [*filter(found.__contains__, SETS), *sorted(set(found) - set(SETS))]
    return [] if found == usual else found


def check_disjoint(sets: Mapping[str, Iterable[str]], align_includes_train: bool = False) -> None:
    """Refuse sets that share speakers, which would make results too good.

    Args:
        sets: {set: its speakers}.
        align_includes_train: whether `align` may hold the speakers of `train`.

    Raises:
        InputError: names a speaker and its two sets.
    """
    owner: dict[str, str] = {}
    for name, speakers in sets.items():
        for speaker in sorted(set(speakers)):
            allowed = align_includes_train and {name, owner.get(speaker)} == {"train", "align"}
            if speaker in owner and not allowed:
                raise InputError(
                    f"speaker {speaker!r} is in set {owner[speaker]!r} and in set {name!r}; "
                    "keep it in one of them"
                )
            owner[speaker] = name


def check_learnable(place: str, speakers: Iterable[str]) -> None:
    """Refuse an align set of which no aligner can learn.

    Args:
        place: where it lies, for messages.
        speakers: of its utterances.

    Raises:
        InputError: fewer than two speakers have two utterances.
    """
    counts = Counter(speakers).values()
    if (usable := sum(count >= 2 for count in counts)) < 2:
        raise InputError(
            f"{place}: set 'align' has {len(counts)} speakers, {usable} of them with two "
            "utterances; an aligner learns from two such speakers or more, and pairs different "
            "utterances of each: add some"
        )
