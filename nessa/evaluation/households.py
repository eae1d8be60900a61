"""Households: small galleries, drawn at random or of similar speakers, and their impostors.

All systems of a comparison take the same households.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nessa.errors import InputError
from nessa.evaluation.identification import Search, check_speakers, joined_searches, score_blocks
from nessa.evaluation.protocol import Codes, Protocol
from nessa.kaldi.datadir import utterances_by_speaker
from nessa.kaldi.embeddings import Embeddings, profile_means
from nessa.scoring.cosine import cosine_matrix

HOUSEHOLD_SIZES = range(2, 8)  # profiles of a household
IMPOSTORS = 2  # of a household
RANDOM_HOUSEHOLDS = 2000  # of each size


class Similarity(NamedTuple):
    """How similar speakers sound, by embeddings of no compared system.

    Attributes:
        speakers: S names.
        matrix: float32 (S, S), higher for more similar speakers.
    """

    speakers: list[str]
    matrix: NDArray[np.float32]


def speaker_similarity(models: Sequence[Embeddings], utt2spk: Mapping[str, str]) -> Similarity:
    """How similar speakers sound to several models, weighted equally.

    Cosines of the speakers' means, centered on the mean of all speakers, standardized over all
    pairs of speakers of a model, and averaged over the models.

    Hard households chosen by one model are hardest for that model, by its own errors, and favor
    every other. So give all models of the comparison (the old and the new one), or none of them,
    and use the result for all systems. Use raw embeddings: aligned ones would favor an aligner.

    Memory: 12 S^2 bytes.

    Args:
        models: utterance embeddings by each model, as they were extracted.
        utt2spk: {utterance: speaker}.

    Raises:
        InputError: no model, fewer than 3 speakers, an utterance that a model lacks, or speakers
            who are all the same to a model.
    """
    spoken = utterances_by_speaker(sorted(utt2spk), utt2spk)
    if not models or len(spoken) < 3:
        raise InputError(
            f"{len(models)} models and {len(spoken)} speakers; similarity needs a model and at "
            "least 3 speakers"
        )
    names = sorted(spoken)
    total = np.zeros((len(names), len(names)), np.float32)
    for model in models:
        means = profile_means(model, {name: spoken[name] for name in names})
        centered = Embeddings(names, means.matrix - means.matrix.mean(axis=0))
        total += _standardized(cosine_matrix(centered, centered))
    return Similarity(names, total / np.float32(len(models)))


def _standardized(cosines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines (S, S), in place: mean 0 and standard deviation 1 over the pairs of two speakers."""
    size = len(cosines)
    np.fill_diagonal(cosines, 0)
    pairs = size * (size - 1)
    mean = cosines.sum(dtype=np.float64) / pairs
    variance = np.einsum("ij,ij->", cosines, cosines, dtype=np.float64) / pairs - mean**2
    if variance <= 1e-9:
        raise InputError("all pairs of speakers are equally similar; use embeddings that differ")
    cosines -= np.float32(mean)
    cosines /= np.float32(np.sqrt(variance))
    return cosines


@dataclass(frozen=True, eq=False)
class Households:
    """Small galleries and their impostors. Speakers are numbered as in `Protocol`.

    Attributes:
        drawn: "random", or "hard": similar speakers.
        members: (H, n) the enrolled speakers of each household.
        impostors: (H, I) its impostors.
    """

    drawn: str
    members: Codes
    impostors: Codes


def draw_households(
    protocol: Protocol,
    similarity: Similarity,
    sizes: Sequence[int] = HOUSEHOLD_SIZES,
    count: int = RANDOM_HOUSEHOLDS,
    impostors: int = IMPOSTORS,
    seed: int = 0,
) -> list[Households]:
    """Random and hard households of each size.

    Random: `count` households of speakers and impostors drawn without repetition in a household.
    Hard: each enrolled speaker with the most similar enrolled speakers and impostors; as many
    households as enrolled speakers. Use the result for all systems of a comparison: see
    `speaker_similarity` for what makes it fair.

    Memory: 16 (count + E) S bytes for S speakers, E of them enrolled.

    Args:
        protocol: names the speakers.
        similarity: of all these speakers, and maybe of others.
        sizes: n, numbers of profiles of a household.
        count: random households of each size.
        impostors: impostors of each household.
        seed: seed of the draw; each size has draws of its own.

    Returns:
        Random and hard households of the first size, of the second, ...

    Raises:
        InputError: fewer speakers or impostors than a household has, a speaker without
            similarities, or similarities that are not finite.
    """
    enrolled, others = len(protocol.enrolled), len(protocol.impostors)
    if not sizes or min(sizes) < 2 or max(sizes) > enrolled or count < 1:
        raise InputError(
            f"{count} households of {list(sizes)} profiles from {enrolled} enrolled speakers; "
            "a household has at least 2 of them: choose smaller ones, or enroll more speakers"
        )
    if not 1 <= impostors <= others:
        raise InputError(
            f"{impostors} impostors per household, of {others}; choose a number from 1 to {others}"
        )
    alike = _similarity_of(similarity, [*protocol.enrolled, *protocol.impostors])[:enrolled]
    mutual = alike[:, :enrolled].copy()
    np.fill_diagonal(mutual, np.inf)  # a household begins with the speaker it is built around
    nearest = np.argsort(-mutual, axis=1, kind="stable")
    nearest_impostors = enrolled + np.argsort(-alike[:, enrolled:], axis=1, kind="stable")
    drawn = []
    for size in sizes:
        rng = np.random.default_rng((seed, size))
        members = _draw_rows(count, enrolled, size, rng)
        strangers = enrolled + _draw_rows(count, others, impostors, rng)
        drawn.append(Households("random", members, strangers))
        drawn.append(Households("hard", nearest[:, :size], nearest_impostors[:, :impostors]))
    return drawn


def _similarity_of(similarity: Similarity, names: Sequence[str]) -> NDArray[np.floating]:
    """Similarities (S, S) of the speakers `names`."""
    matrix = np.asarray(similarity.matrix)
    row_of = {name: row for row, name in enumerate(similarity.speakers)}
    if matrix.shape != (len(similarity.speakers), len(row_of)):
        raise InputError(
            f"similarities of shape {matrix.shape} for {len(row_of)} different speakers; give a "
            "square matrix, one row per speaker"
        )
    missing = [name for name in names if name not in row_of]
    if missing:
        raise InputError(
            f"speaker {missing[0]!r} has no similarities ({len(missing)} such speakers); compute "
            "them for all speakers of the protocol"
        )
    rows = np.array([row_of[name] for name in names])
    chosen = matrix[np.ix_(rows, rows)]
    if not np.isfinite(chosen).all():
        name = names[np.argwhere(~np.isfinite(chosen))[0][0]]
        raise InputError(f"speaker {name!r} has a similarity that is not finite; compute it again")
    return chosen


def _draw_rows(count: int, population: int, size: int, rng: np.random.Generator) -> Codes:
    """(count, size) numbers below `population`, different ones in each row."""
    return np.argsort(rng.random((count, population)), axis=1)[:, :size]


def search_households(
    gallery: Embeddings, tests: Embeddings, speakers: ArrayLike, households: Households
) -> Search:
    """Compare each household's members and impostors with its profiles, by cosine, and pool all.

    All test utterances of a speaker take part in each of its households.

    Memory: under 64 MiB for the scores, in blocks of 16 MiB, and under 20 n + 60 bytes per search
    of a household of n.

    Args:
        gallery: profiles (G, D), of which households are made.
        tests: utterances (P, D), in the space of the profiles.
        speakers: (P,) number of each test utterance's speaker; see `search`.
        households: see `draw_households`.

    Returns:
        One entry per test utterance and household, with the speakers' places in the household (n
        for impostors) as their numbers: for rates, not for `bootstrap_search`.

    Raises:
        InputError: see `search`; or no households, or members without a profile, or
            impostors with one.
    """
    speakers = check_speakers(gallery, tests, speakers)
    members, impostors = households.members, households.impostors
    if not members.size or not impostors.size:
        raise InputError("no households, or none with members and impostors; draw some")
    if members.max() >= len(gallery) or impostors.min() < len(gallery):
        raise InputError(
            f"households of another gallery than this one of {len(gallery)} profiles; draw them "
            "from the protocol of the gallery"
        )
    home, row = _attendance(np.concatenate([members, impostors], axis=1), speakers)
    parts = []
    for block, scores in score_blocks(gallery, tests):
        here = slice(*np.searchsorted(row, [block.start, block.stop]))
        profiles = members[home[here]]  # (R, n)
        is_own = profiles == speakers[row[here], None]
        place = np.where(is_own.any(axis=1), is_own.argmax(axis=1), members.shape[1])
        parts.append(Search.of(scores[row[here, None] - block.start, profiles], place))
    return joined_searches(parts, int(np.count_nonzero(speakers[np.unique(row)] >= len(gallery))))


def _attendance(present: Codes, speakers: Codes) -> tuple[Codes, Codes]:
    """Which test utterances take part in which household.

    Args:
        present: (H, m) speakers in each household.
        speakers: (P,) speaker of each test utterance.

    Returns:
        (household, row of the test utterance), each (R,), ordered by row.
    """
    order = np.argsort(speakers, kind="stable")  # each speaker's utterances are one run
    counts = np.bincount(speakers, minlength=int(present.max()) + 1)
    starts = np.cumsum(counts) - counts
    places = present.ravel()
    home = np.arange(len(present)).repeat(present.shape[1]).repeat(counts[places])
    ends = np.cumsum(counts[places])
    within = np.arange(len(home)) - (ends - counts[places]).repeat(counts[places])
    row = order[starts[places].repeat(counts[places]) + within]
    by_row = np.argsort(row, kind="stable")
    return home[by_row], row[by_row]
