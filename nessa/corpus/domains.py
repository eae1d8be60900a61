"""Domains: kinds of speech in one corpus, such as words and sentences, never pooled in results."""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from nessa.corpus.origins import SOURCES, read_copies
from nessa.errors import InputError
from nessa.files import write_table
from nessa.kaldi.datadir import (
    LEFT_BY_TOOLS,
    MAIN_LIST,
    PROFILE_LIST,
    TAKEN,
    read_optional,
    read_utt2spk,
)

log = logging.getLogger(__name__)
RESERVED = PROFILE_LIST.removeprefix(f"{MAIN_LIST}_")


def read_domains(directory: Path, patterns: Mapping[str, str]) -> dict[str, str]:
    """The domain of each utterance of a set; utt2domain is written where patterns decide.

    Args:
        directory: of the set.
        patterns: {domain: regular expression that a speaker's id matches as a whole}.

    Returns:
        {utterance: domain}; empty where the set has no domains. A copy has its original's, and
        what was added from elsewhere the name of its source.

    Raises:
        InputError: a speaker matches no pattern, or several; or a name that no trial list can have.
    """
    given = read_optional(directory, "utt2domain")
    check_names(set(given.values()), directory / "utt2domain")
    check_names(patterns, "prepare.domains")
    if given or not patterns:
        return given
    utt2spk = read_utt2spk(directory)
    copies, added = read_copies(directory), read_optional(directory, SOURCES)
    originals = {u: copies[u][1] if u in copies else u for u in utt2spk}
    found = {u: added.get(o) or _match(utt2spk[o], patterns) for u, o in originals.items()}
    write_table(directory / "utt2domain", found)
    return found


def check_patterns(patterns: Mapping[str, str], speakers: Iterable[str]) -> None:
    """Refuse what `read_domains` will refuse of the speakers of a set without utt2domain."""
    check_names(patterns, "prepare.domains")
    for speaker in sorted(speakers) if patterns else ():
        _match(speaker, patterns)


def warn_of_names(directory: Path) -> None:
    """Warn of domains by which no trial list can be called: stage prepare takes them in train."""
    domains = set(read_optional(directory, "utt2domain").values())
    for problem in name_problems(sorted(domains), directory / "utt2domain"):
        log.warning("%s, unless all is for training encoders", problem)


def name_problems(names: Iterable[str], where: Path | str) -> Iterator[str]:
    """A sentence for each domain by which no trial list can be called."""
    for name in names:
        if name == RESERVED or TAKEN.fullmatch(name):
            yield f"{where}: results call other trials {name!r}; rename the domain"
        elif "/" in name or name.endswith(LEFT_BY_TOOLS):
            yield (
                f"{where}: domain {name!r} cannot be the end of the name of a trial list, "
                f"{MAIN_LIST}_{name}; rename it"
            )


def check_names(names: Iterable[str], where: Path | str) -> None:
    """Refuse what `name_problems` names."""
    if problems := list(name_problems(names, where)):
        raise InputError("\n".join(problems))


def _match(speaker: str, patterns: Mapping[str, str]) -> str:
    found = [name for name, pattern in patterns.items() if re.fullmatch(pattern, speaker)]
    if len(found) != 1:
        raise InputError(
            f"prepare.domains: speaker {speaker!r} matches {len(found)} of the patterns; each "
            "must match one"
        )
    return found[0]


def ordered_domains(
    sets: Mapping[str, Mapping[str, str]], patterns: Mapping[str, str], given: Collection[str]
) -> list[str]:
    """The domains of some sets, that of their main trial lists first.

    Args:
        sets: {set: {utterance: domain}}.
        patterns: whose order decides, and which domains count; without them the number of
            utterances decides, among the domains that are in dev and in eval before others.
        given: the domains of a main list that came with the corpus, which are the first.
    """
    counts = Counter(domain for own in sets.values() for domain in own.values())
    shared = set(sets.get("dev", {}).values()) & set(sets.get("eval", {}).values())
    named = [name for name in patterns if name in counts]
    order = named or sorted(counts, key=lambda name: (name not in shared, -counts[name], name))
    return sorted(order, key=lambda name: name not in given)
