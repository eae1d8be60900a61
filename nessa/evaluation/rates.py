"""How well a system identifies: closed set, open set and households, as records."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nessa.errors import about, named
from nessa.evaluation.households import (
    HOUSEHOLD_SIZES,
    IMPOSTORS,
    Households,
    draw_households,
    search_households,
    speaker_similarity,
)
from nessa.evaluation.identification import FPIRS, Search, bootstrap_search, search
from nessa.evaluation.protocol import Protocol, draw_protocol, protocol_of
from nessa.files import Record
from nessa.kaldi.datadir import ENROLL_MAP, GIVEN_MAP, is_there, read_optional, read_utt2spk
from nessa.kaldi.embeddings import Embeddings, profile_means
from nessa.metrics.bootstrap import figures
from nessa.scoring.sides import Sides, averaged_late, check_members
from nessa.trials import read_enroll_map

log = logging.getLogger(__name__)
HOUSEHOLD_FPIR = 0.01


def identification_rates(
    protocol: Protocol,
    enroll: Embeddings,
    runtime: Embeddings,
    households: Sequence[Households] = (),
    draws: int = 1000,
    seed: int = 0,
) -> list[Record]:
    """Identification rates of one system: closed set, open set and households.

    Memory: see `search_households`; and the profiles and test utterances, twice.

    Args:
        protocol: profiles and test utterances, the same for all systems of a comparison.
        enroll: embeddings of the enrollment side. Mapped ones hold the profiles under their ids;
            of raw ones, which may lack them, profiles are averaged (of mapped ones with a warning).
        runtime: utterances of the runtime side, in the space of `enroll`.
        households: from `draw_households`, the same for all systems of a comparison.
        draws: of the speaker bootstrap; see `bootstrap_search`.
        seed: of the bootstrap, the same for all systems of a comparison.

    Returns:
        JSON-able records of three kinds of task, for each "profile" size:
        "closed": "gallery", "mated", "rank1", "rank1_ci", "rank5".
        "open", for each FPIR: "fpir", "fpir_reached", "false_positives", "threshold", "fnir",
        "fnir_ci", "dir", "gallery", "mated", "nonmated".
        "household", for each of `households`: "drawn", "n", "households", "misidentified" (of
        members, 1 - rank1), the open-set figures at FPIR 1 % without an interval, pooled over
        households; "mated" and "nonmated" count searches, "nonmated_distinct" utterances.
        Figures at an FPIR that too few utterances can resolve are None: `Search.operating_point`.

    Raises:
        InputError: an utterance or profile without an embedding, or see `search` and
            `bootstrap_search`.
    """
    with about("enrollment side"):
        profiles = _profiles(protocol, enroll)
    with about("runtime side"):
        tests = runtime.select(protocol.utterances)
    speakers = protocol.speakers
    records: list[Record] = []
    for size, names in protocol.profiles.items():
        gallery = profiles.select(names[speaker] for speaker in protocol.enrolled)
        records += _gallery_records(size, search(gallery, tests, speakers), gallery, draws, seed)
        for homes in households:
            result = search_households(gallery, tests, speakers, homes)
            records.append(_household_record(size, result, homes))
    return records


class Comparison(NamedTuple):
    """What all systems of a comparison share."""

    protocol: Protocol
    households: list[Households]

    @classmethod
    def draw(cls, set_dir: Path, models: Sequence[Embeddings], seed: int) -> "Comparison":
        """Draw the protocol and the households of a set.

        Args:
            set_dir: data directory with utt2spk and, optionally, utt2session (without it, every
                utterance is a session of its own, with a warning) and enroll_map (without it,
                profiles are drawn).
            models: embeddings of all its utterances, which say who sounds alike; see
                `speaker_similarity`.
            seed: of all draws.

        Raises:
            TooFewError: too few speakers have profiles.
            InputError: a file or an embedding is missing.
        """
        utt2spk = read_utt2spk(set_dir)
        utt2session = read_optional(set_dir, "utt2session")
        if not utt2session:
            utt2session = {utterance: utterance for utterance in utt2spk}
            log.warning(
                "%s: no utt2session: every utterance counts as a session of its own, and test "
                "utterances of a profile's recording session are easier", set_dir,
            )  # fmt: skip
        with about(set_dir):
            if profiles := drawn_profiles(set_dir):
                protocol = protocol_of(profiles, utt2spk, utt2session, seed=seed)
            else:
                protocol = draw_protocol(utt2spk, utt2session, seed=seed)
            similarity = speaker_similarity(models, utt2spk)
            sizes = [size for size in HOUSEHOLD_SIZES if size <= len(protocol.enrolled)]
            impostors = min(IMPOSTORS, len(protocol.impostors))
            homes = draw_households(protocol, similarity, sizes, impostors=impostors, seed=seed)
            return cls(protocol, homes)


def drawn_profiles(set_dir: Path) -> dict[str, list[str]]:
    """{profile: utterances} of a set, but for those of given trials, which may be of any size."""
    if not is_there(set_dir / ENROLL_MAP):
        return {}
    given = read_optional(set_dir, GIVEN_MAP)
    profiles = read_enroll_map(set_dir / ENROLL_MAP)
    return {name: utterances for name, utterances in profiles.items() if name not in given}


def identify_sides(
    set_dir: Path,
    enroll: Path,
    runtime: Path,
    draws: int,
    seed: int,
    similarity: Sequence[Path] = (),
) -> list[Record]:
    """Identification by one system, whose two sides lie in one space.

    Args:
        set_dir: see `Comparison.draw`.
        enroll, runtime: embeddings of both sides.
        draws, seed: of the bootstrap and of the protocol.
        similarity: raw embeddings that say who sounds alike, by each model of a comparison; without
            any, both sides do, and hard households are not those of other systems.

    Raises:
        InputError: see `Comparison.draw` and `Sides.read`.
    """
    sides = Sides.read(enroll, runtime)
    models = [Embeddings.read(path) for path in similarity] or [sides.enroll, sides.runtime]
    comparison = Comparison.draw(set_dir, models, seed)
    check_members(set_dir / ENROLL_MAP, comparison.protocol.enroll_map, sides.enroll, enroll)
    with about(enroll, runtime):
        return identification_rates(
            comparison.protocol, sides.enroll, sides.runtime, comparison.households, draws, seed
        )


def _profiles(protocol: Protocol, enroll: Embeddings) -> Embeddings:
    """The profiles of the protocol: those that are there, or means where none is."""
    if set(protocol.enroll_map).isdisjoint(enroll.keys):
        if late := averaged_late(enroll, protocol.enroll_map):
            log.warning(
                "profile %s: averaged after mapping, which raises error rates; put an enroll_map "
                "(`profile utterance ...`) into the data directory, unless it has one, give it to "
                "nessa map (--enroll-map), and run this again", named(late),
            )  # fmt: skip
        return profile_means(enroll, protocol.enroll_map)
    return enroll.select(protocol.enroll_map)


def _gallery_records(
    size: int, result: Search, gallery: Embeddings, draws: int, seed: int
) -> Iterator[Record]:
    estimates = bootstrap_search(result, FPIRS, draws, seed)
    yield {
        "task": "closed",
        "profile": size,
        "gallery": len(gallery),
        "mated": len(result.mated),
        **figures("rank1", estimates.rank1),
        "rank5": result.rank_rate(5),
    }
    for fpir, estimate in zip(FPIRS, estimates.fnir, strict=True):
        yield {
            "task": "open",
            "profile": size,
            "gallery": len(gallery),
            "mated": len(result.mated),
            "nonmated": len(result.nonmated),
            **_open_figures(result, fpir),
            "fnir_ci": list(estimate.interval) if estimate else None,
        }


def _household_record(size: int, result: Search, homes: Households) -> Record:
    return {
        "task": "household",
        "profile": size,
        "drawn": homes.drawn,
        "n": homes.members.shape[1],
        "households": len(homes.members),
        "mated": len(result.mated),
        "nonmated": len(result.nonmated),
        "nonmated_distinct": result.distinct,
        "misidentified": 1 - result.rank_rate(),
        **_open_figures(result, HOUSEHOLD_FPIR),
    }


def _open_figures(result: Search, fpir: float) -> Record:
    point = result.operating_point(fpir)
    return {
        "fpir": fpir,
        "fpir_reached": point.fpir if point else None,
        "false_positives": point.false_positives if point else None,
        "threshold": point.threshold if point else None,
        "fnir": point.fnir if point else None,
        "dir": 1 - point.fnir if point else None,
    }
