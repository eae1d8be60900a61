"""Identification protocols: who is enrolled, with which profiles, and what is tested.

All systems of a comparison take one protocol, so that they meet the same profiles and utterances.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nessa.corpus.draw_trials import check_sessions, make_profile_trials, spare_utterances
from nessa.errors import InputError, TooFewError
from nessa.kaldi.datadir import utterances_by_speaker

PROFILE_SIZES = (1, 3, 10)  # utterances of a profile
Codes = NDArray[np.int64]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protocol:
    """Who is enrolled, with which profiles, and the test utterances.

    Speakers are numbered: enrolled ones from 0 to E - 1, in the order of `enrolled`, which is
    that of a gallery's rows, and impostors from E on.

    Attributes:
        profiles: {size: {speaker: profile}}; every size enrolls the same speakers.
        enroll_map: {profile: utterances}, of these profiles.
        mated: {utterance: speaker} of enrolled speakers; of sessions without profile utterances.
        nonmated: {utterance: speaker} of impostors, who have no profile.
    """

    profiles: Mapping[int, Mapping[str, str]]
    enroll_map: Mapping[str, Sequence[str]]
    mated: Mapping[str, str]
    nonmated: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.profiles or not self.enrolled:
            raise InputError("a protocol without profiles; enroll at least one speaker")
        enrolled = set(self.enrolled)
        for size, gallery in self.profiles.items():
            if set(gallery) != enrolled:
                raise InputError(
                    f"speaker {min(set(gallery) ^ enrolled)!r} has a profile of one size and none "
                    f"of {size}; enroll the same speakers in every size"
                )
            for profile in gallery.values():
                if len(set(self.enroll_map.get(profile, ()))) != size:
                    raise InputError(
                        f"profile {profile!r} has not {size} different utterances in the "
                        "enrollment map; correct the map"
                    )
        if enrolled != set(self.mated.values()):
            raise InputError(
                f"speaker {min(enrolled ^ set(self.mated.values()))!r} has a profile or "
                "test utterances, but not both; enrolled speakers need both"
            )
        if not self.nonmated or enrolled & set(self.nonmated.values()):
            raise InputError(
                "impostors must be speakers who are not enrolled, got "
                f"{sorted(enrolled & set(self.nonmated.values()))[:3] or 'none'}; leave some out "
                "of the gallery"
            )
        enrolling = {utt for utterances in self.enroll_map.values() for utt in utterances}
        if both := enrolling & (set(self.mated) | set(self.nonmated)):
            raise InputError(
                f"utterance {min(both)!r} is in a profile and a test utterance; remove it from one"
            )

    @cached_property
    def enrolled(self) -> list[str]:
        """The E enrolled speakers."""
        return sorted(next(iter(self.profiles.values())))

    @cached_property
    def impostors(self) -> list[str]:
        """The speakers who are not enrolled."""
        return sorted(set(self.nonmated.values()))

    @property
    def utterances(self) -> list[str]:
        """The P test utterances, mated before non-mated."""
        return [*self.mated, *self.nonmated]

    @property
    def speakers(self) -> Codes:
        """Number of the speaker of each test utterance (P,)."""
        names = [*self.enrolled, *self.impostors]
        number = dict(zip(names, range(len(names)), strict=True))
        spoken = [*self.mated.values(), *self.nonmated.values()]
        return np.array([number[speaker] for speaker in spoken], np.int64)


def draw_protocol(
    utt2spk: Mapping[str, str],
    utt2session: Mapping[str, str],
    sizes: Sequence[int] = PROFILE_SIZES,
    enrolled_share: float = 0.5,
    seed: int = 0,
) -> Protocol:
    """Draw who is enrolled, their profiles, and the test utterances.

    A size that too few speakers can give is left out with a warning. Speakers who cannot give
    the largest one left, with a session left for testing, are never enrolled and stay impostors.
    Profiles are called `<speaker>-p<size>-0`: those of `make_profile_trials` count from 1, so
    that one is never taken for the other.

    Args:
        utt2spk: {utterance: speaker}.
        utt2session: {utterance: session}; sessions are named within a speaker.
        sizes: numbers of utterances of a profile.
        enrolled_share: share of the speakers that is enrolled; all others are impostors.
        seed: seed of the draw.

    Returns:
        See `protocol_of`.

    Raises:
        InputError: an utterance without a session, fewer than 2 enrolled speakers or no impostor,
            or no size that enough speakers can give.
    """
    spare = spare_utterances(utt2spk, utt2session)
    wanted = _enrolled_count(len(spare), enrolled_share)
    able = {size: [s for s in spare if spare[s] >= size] for size in sizes}
    kept = [size for size in sizes if len(able[size]) >= wanted]
    for size in sorted(set(sizes) - set(kept)):
        log.warning(
            "no profiles of %d utterances: %d of %d speakers have as many outside one session, "
            "%d are to be enrolled", size, len(able[size]), len(spare), wanted,
        )  # fmt: skip
    if not kept:
        raise TooFewError(
            f"no profile size of {list(sizes)} can be given by {wanted} of {len(spare)} speakers "
            "with one session left for testing; enroll fewer, or give speakers more sessions"
        )
    givers = set(able[max(kept)])
    drawn, _ = make_profile_trials(
        {utt: speaker for utt, speaker in utt2spk.items() if speaker in givers},
        utt2session,
        None,
        sizes=kept,
        profiles=1,
        n_nontarget=0,
        seed=seed,
    )
    enroll_map = {profile.removesuffix("1") + "0": drawn[profile] for profile in drawn}
    return protocol_of(enroll_map, utt2spk, utt2session, enrolled_share, seed)


def protocol_of(
    enroll_map: Mapping[str, Sequence[str]],
    utt2spk: Mapping[str, str],
    utt2session: Mapping[str, str],
    enrolled_share: float = 0.5,
    seed: int = 0,
) -> Protocol:
    """Draw a protocol with profiles that are there already, such as those of a set's enroll_map.

    Each enrolled speaker gets a profile of the largest size, drawn at random, and of every other
    size one whose utterances are among those of the next larger: sizes are nested and meet the
    same test utterances, so that they differ in size alone. Mated are all utterances of the
    sessions that the largest profile does not touch, non-mated all those of the other speakers.
    The draw depends on the content of the arguments only, not on their order.

    Args:
        enroll_map: {profile: utterances}; see `make_profile_trials`.
        utt2spk: {utterance: speaker}.
        utt2session: {utterance: session}; sessions are named within a speaker.
        enrolled_share: share of the speakers that is enrolled.
        seed: seed of the draw.

    Raises:
        InputError: an utterance without a speaker or session, a profile of several speakers or
            none, fewer than 2 enrolled speakers or no impostor, or too few speakers with nested
            profiles of all sizes and a session outside them.
    """
    spoken = _by_speaker(utt2spk, utt2session)
    profiles: dict[str, dict[str, set[str]]] = {speaker: {} for speaker in spoken}
    for profile in sorted(enroll_map):
        profiles[_profile_speaker(profile, enroll_map, utt2spk)][profile] = set(enroll_map[profile])
    sizes = sorted({len(utterances) for utterances in enroll_map.values()}, reverse=True)
    rng = np.random.default_rng(seed)
    chosen: dict[str, dict[int, str]] = {}
    mated: dict[str, list[str]] = {}
    for speaker, own in profiles.items():
        nest = _nest(own, sizes, rng)
        touched = {utt2session[utt] for profile in nest.values() for utt in own[profile]}
        free = [utt for utt in spoken[speaker] if utt2session[utt] not in touched]
        if nest and free:
            chosen[speaker], mated[speaker] = nest, free
    wanted = _enrolled_count(len(spoken), enrolled_share)
    if len(chosen) < wanted:
        raise TooFewError(
            f"{wanted} of {len(spoken)} speakers are to be enrolled, but only {len(chosen)} have "
            f"nested profiles of {sizes[::-1]} utterances and a session outside them; enroll "
            "fewer, or remove the largest profiles from the enrollment map"
        )
    enrolled = sorted(rng.permutation(list(chosen))[:wanted].tolist())
    galleries = {size: {s: chosen[s][size] for s in enrolled} for size in reversed(sizes)}
    return Protocol(
        galleries,
        {name: list(enroll_map[name]) for each in galleries.values() for name in each.values()},
        {utterance: speaker for speaker in enrolled for utterance in mated[speaker]},
        {utt: speaker for speaker in spoken if speaker not in set(enrolled)
         for utt in spoken[speaker]},
    )  # fmt: skip


def _by_speaker(utt2spk: Mapping[str, str], utt2session: Mapping[str, str]) -> dict[str, list[str]]:
    """{speaker: utterances}, both sorted."""
    check_sessions(utt2spk, utt2session)
    return dict(sorted(utterances_by_speaker(sorted(utt2spk), utt2spk).items()))


def _enrolled_count(speakers: int, share: float) -> int:
    count = round(share * speakers)
    if not 2 <= count < speakers:
        raise TooFewError(
            f"a share of {share} of {speakers} speakers is {count} enrolled; identification "
            "needs 2 or more enrolled speakers and an impostor: choose another share, or add "
            "speakers"
        )
    return count


def _profile_speaker(
    profile: str, enroll_map: Mapping[str, Sequence[str]], utt2spk: Mapping[str, str]
) -> str:
    utterances = enroll_map[profile]
    unknown = [utterance for utterance in utterances if utterance not in utt2spk]
    if unknown:
        raise InputError(
            f"profile {profile!r}: no speaker is known for {unknown[0]!r}; add it to utt2spk, or "
            "remove the profile"
        )
    speakers = {utt2spk[utterance] for utterance in utterances}
    if len(speakers) != 1 or len(set(utterances)) < len(utterances):
        raise InputError(
            f"profile {profile!r} has {len(utterances)} utterances, {len(set(utterances))} of them "
            f"different, of {len(speakers)} speakers; it needs different ones of one speaker: "
            "correct the enrollment map"
        )
    return speakers.pop()


def _nest(
    profiles: Mapping[str, set[str]], sizes: Sequence[int], rng: np.random.Generator
) -> dict[int, str]:
    """{size: profile} by falling size, each within the one before; {} where a size lacks."""
    nest: dict[int, str] = {}
    around = set().union(*profiles.values())
    for size in sizes:
        within = [
            name
            for name, utterances in profiles.items()
            if len(utterances) == size and utterances <= around
        ]
        if not within:
            return {}
        nest[size] = within[rng.integers(len(within))]
        around = profiles[nest[size]]
    return nest
