"""Mapping the embeddings that a recipe's systems are scored on."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from nessa.alignment.domains import DomainOf, domain_of_mean
from nessa.alignment.store import load
from nessa.corpus.speakers import TESTED
from nessa.kaldi.datadir import (
    ENROLL_MAP,
    is_there,
    read_optional,
    read_utt2spk,
    utterances_by_speaker,
)
from nessa.production.mapping import map_sides
from nessa.recipe.config import Recipe
from nessa.recipe.layout import COHORT, aligner_dir, mapped_dir, raw_cohort, raw_sides
from nessa.recipe.systems import System, has_as_norm


def map_system(recipe: Recipe, data: Path, exp: Path, system: System) -> Iterator[str]:
    """Map the dev and eval sets, and the cohort of AS-norm.

    The cohort's vectors are means over a speaker's utterances, averaged as profiles are, in each
    model's own space.

    Args:
        recipe: names the cohort's set.
        data: holds data directories; the enrollment map of a set names profiles to map as well.
        exp: holds aligners/ and embeddings/; receives mapped/.
        system: what to map.

    Yields:
        A line per set and side.

    Raises:
        InputError: see `map_sides`; or there is no aligner.
    """
    aligner = load(aligner_dir(exp, system))
    # An earlier run may have mapped there with the two models exchanged.
    mapped = partial(map_sides, aligner, allow_outliers=recipe.scoring.allow_outliers, replace=True)
    domains: Mapping[str, DomainOf]
    for name in TESTED:
        enroll_map = data / name / ENROLL_MAP
        profiles = enroll_map if is_there(enroll_map) else None
        raw = raw_sides(exp, system, name)
        domains = read_optional(data / name, "utt2domain")
        yield from mapped(*raw, profiles, mapped_dir(exp, system, name), domains=domains)
    if has_as_norm(system):
        cohort = raw_cohort(exp, system, recipe.scoring.cohort)
        domains = speaker_domains(data / recipe.scoring.cohort)
        yield from mapped(*cohort, None, mapped_dir(exp, system, COHORT), domains=domains)


def speaker_domains(set_dir: Path) -> dict[str, DomainOf]:
    """{speaker: the domain of its utterances}; empty where the set has no domains."""
    domains = read_optional(set_dir, "utt2domain")
    spoken = utterances_by_speaker(domains, read_utt2spk(set_dir)) if domains else {}
    return {speaker: domain_of_mean(own, domains) for speaker, own in spoken.items()}
