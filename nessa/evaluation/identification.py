"""Identification: which enrolled speaker is it, if any.

A gallery holds one profile of each enrolled speaker. A *mated* test utterance is one of theirs, a
*non-mated* one of an impostor, who has no profile.

Definitions follow ISO/IEC 19795-1 and NIST's FRVT 1:N (P. Grother, M. Ngan, K. Hanaoka, "Face
Recognition Vendor Test, Part 2: Identification", NISTIR 8271). With s the scores of a test
utterance with the gallery and t a threshold:

    closed set   rank-k rate  share of mated ones whose own profile is among the k highest s
    open set     FPIR(t)      share of non-mated ones with max s >= t
                 FNIR(t)      share of mated ones whose own profile is not the highest or has
                              s < t; DIR = 1 - FNIR

Ties never help: a profile that scores as high as the own one counts as ranked before it, and no
threshold separates equal scores. Rates are fractions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nessa.errors import InputError
from nessa.evaluation.protocol import Codes
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.bootstrap import Estimate, draw_counts
from nessa.scoring.cosine import cosine_matrix

FPIRS = (0.01, 0.001)  # at which FNIR is reported for a whole gallery
SCORE_FLOATS = 2**22  # 16 MiB of float32: one block of test x gallery scores


class OperatingPoint(NamedTuple):
    """Open-set error rates at one threshold.

    Attributes:
        threshold: an utterance is accepted if its highest score is at least this.
        false_positives: accepted non-mated test utterances.
        fpir: their share, at most the one asked for.
        fnir: share of mated test utterances that are missed.
    """

    threshold: float
    false_positives: int
    fpir: float
    fnir: float


@dataclass(frozen=True, eq=False)
class Search:
    """The outcome of searching one gallery, or many, with test utterances.

    Attributes:
        mated: number of the speaker of each mated test utterance (M,).
        own: its score with its own profile (M,).
        rank: 1 + the other profiles that score at least as high (M,).
        nonmated: number of the speaker of each non-mated test utterance (N,).
        top: its highest score (N,).
        distinct: different utterances among the non-mated ones. N, unless an utterance searches
            several galleries.
    """

    mated: Codes
    own: NDArray[np.floating]
    rank: Codes
    nonmated: Codes
    top: NDArray[np.floating]
    distinct: int

    @classmethod
    def of(cls, scores: ArrayLike, speakers: ArrayLike) -> "Search":
        """What scores say.

        Args:
            scores: (P, G) of test utterances with profiles, higher for a more likely match.
            speakers: (P,) number of each utterance's speaker: the column of its own profile, or G
                and above for those who have none.

        Raises:
            InputError: shapes that do not fit, an empty gallery, or a score that is not finite.
        """
        scores, speakers = np.asarray(scores), np.asarray(speakers)
        if scores.ndim != 2 or speakers.shape != scores.shape[:1] or not scores.shape[1]:
            raise InputError(
                f"scores of shape {scores.shape} and speakers of shape {speakers.shape}; give "
                "(P, G) and (P,), with at least one profile"
            )
        _check_numbers(speakers)
        if not np.issubdtype(scores.dtype, np.floating):
            scores = scores.astype(np.float64)
        if not np.isfinite(scores).all():
            test, profile = np.argwhere(~np.isfinite(scores))[0]
            raise InputError(
                f"the score of test utterance {test} with profile {profile} (counted from 0) is "
                f"{scores[test, profile]}; score it again"
            )
        is_mated = speakers < scores.shape[1]
        mated, nonmated = speakers[is_mated], speakers[~is_mated]
        of_mated = scores[is_mated]
        own = of_mated[np.arange(len(mated)), mated]
        rank = np.count_nonzero(of_mated >= own[:, None], axis=1)
        return cls(mated, own, rank, nonmated, scores[~is_mated].max(axis=1), len(nonmated))

    def rank_rate(self, k: int = 1) -> float:
        """Share of mated test utterances whose own profile is among the `k` highest.

        Raises:
            InputError: no mated test utterances.
        """
        self._check_mated()
        return float(np.mean(self.rank <= k))

    def operating_point(self, fpir: float) -> OperatingPoint | None:
        """Error rates at the lowest threshold whose FPIR is at most `fpir`.

        Of N non-mated utterances, floor(fpir N) may be accepted. The threshold is the next number
        above the highest of their scores that then has to be rejected; where several have that
        score, all are rejected, and the FPIR reached is lower.

        Returns:
            The point; None where less than one non-mated utterance may be accepted (0.1 % of 300):
            any threshold above them all would do, and its true FPIR may well exceed
            `fpir`. An utterance that searches several galleries counts once here, since searching
            again tells nothing about other impostors.

        Raises:
            InputError: no mated or no non-mated utterances, or an FPIR that is not between 0 and 1.
        """
        self._check_open(fpir)
        if _allowed(fpir, self.distinct) < 1:
            return None
        highest = self._sorted.highest_rejected(fpir, np.ones(len(self.top), np.int64))
        accepted = int(np.count_nonzero(self.top > highest))
        return OperatingPoint(
            float(np.nextafter(highest, highest.dtype.type(np.inf))),
            accepted,
            accepted / len(self.top),
            float(np.mean(self._found <= highest)),
        )

    @cached_property
    def _found(self) -> NDArray[np.floating]:
        """Score with which each mated utterance is found (M,); -inf where it never is."""
        return np.where(self.rank == 1, self.own, self.own.dtype.type(-np.inf))

    @cached_property
    def _sorted(self) -> "_Descending":
        return _Descending.of(self.top)

    def _check_mated(self) -> None:
        if not len(self.mated):
            raise InputError("no mated test utterances; give some of enrolled speakers")

    def _check_open(self, fpir: float) -> None:
        self._check_mated()
        if not len(self.nonmated):
            raise InputError(
                "no non-mated test utterances; open-set identification needs some of impostors"
            )
        if not 0 < fpir < 1:
            raise InputError(f"FPIR {fpir} must lie between 0 and 1, such as 0.01")


class _Descending(NamedTuple):
    """Scores (N,) from the highest: their order, and the last place of each of T tied groups."""

    scores: NDArray[np.floating]  # (N,)
    order: Codes  # (N,)
    ends: Codes  # (T,)

    @classmethod
    def of(cls, scores: NDArray[np.floating]) -> "_Descending":
        order = np.argsort(-scores)
        ordered = scores[order]
        return cls(ordered, order, np.append(ordered[1:] != ordered[:-1], True).nonzero()[0])

    def highest_rejected(self, fpir: float, weights: Codes) -> np.floating:
        """The highest score that must be rejected, if at most `fpir` of all weight is accepted."""
        accepted = np.cumsum(weights[self.order])[self.ends]  # down to and with each group
        group = np.searchsorted(accepted, _allowed(fpir, accepted[-1]), side="right")
        return self.scores[self.ends[group]]


def _allowed(fpir: float, count: int) -> int:
    """How many of `count` may be accepted: floor(fpir count), and fewer than all."""
    return min(int(fpir * count + 1e-6), count - 1)  # 0.29 * 100 is just below 29


def search(gallery: Embeddings, tests: Embeddings, speakers: ArrayLike) -> Search:
    """Compare every test utterance with every profile, by cosine.

    Memory: under 64 MiB for the scores, in blocks of 16 MiB, and about 50 bytes per test utterance.

    Args:
        gallery: profiles (G, D).
        tests: utterances (P, D), in the space of the profiles.
        speakers: (P,) number of each utterance's speaker: the row of its own profile in the
            gallery, or G and above for those who have none.

    Raises:
        InputError: dimensions that differ, a zero vector, an empty gallery, or not one speaker
            per test utterance.
    """
    speakers = check_speakers(gallery, tests, speakers)
    return joined_searches(
        [Search.of(scores, speakers[block]) for block, scores in score_blocks(gallery, tests)]
    )


def check_speakers(gallery: Embeddings, tests: Embeddings, speakers: ArrayLike) -> Codes:
    """The test speakers (P,): numbers from 0, those of the gallery's rows first.

    Raises:
        InputError: no profiles, no test utterances, or not a number for each.
    """
    speakers = np.asarray(speakers)
    if not len(gallery) or not len(tests):
        raise InputError(
            f"{len(gallery)} profiles and {len(tests)} test utterances; give some of each"
        )
    if speakers.shape != (len(tests),):
        raise InputError(
            f"{len(tests)} test utterances but speakers of shape {speakers.shape}; give one each"
        )
    _check_numbers(speakers)
    return speakers


def _check_numbers(speakers: NDArray) -> None:
    if not np.issubdtype(speakers.dtype, np.integer) or speakers.min(initial=0) < 0:
        raise InputError("speakers must be numbers from 0, those of the gallery's rows first")


def score_blocks(
    gallery: Embeddings, tests: Embeddings
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield (rows of the test utterances, their scores with the gallery (B, G))."""
    step = max(1, SCORE_FLOATS // len(gallery))
    for start in range(0, len(tests), step):
        block = slice(start, start + step)
        part = Embeddings(tests.keys[block], tests.matrix[block])
        yield block, cosine_matrix(gallery, part).T


def joined_searches(parts: Sequence[Search], distinct: int | None = None) -> Search:
    """The searches one after the other; of their non-mated utterances `distinct` differ, or all."""
    nonmated = np.concatenate([part.nonmated for part in parts])
    return Search(
        np.concatenate([part.mated for part in parts]),
        np.concatenate([part.own for part in parts]),
        np.concatenate([part.rank for part in parts]),
        nonmated,
        np.concatenate([part.top for part in parts]),
        len(nonmated) if distinct is None else distinct,
    )


class SearchEstimates(NamedTuple):
    """Rates of a search, and of bootstrap draws of its test speakers.

    Attributes:
        rank1: rank-1 rate.
        fnir: FNIR at each FPIR, None where there are too few utterances.
    """

    rank1: Estimate
    fnir: list[Estimate | None]


def bootstrap_search(
    result: Search, fpirs: Sequence[float] = FPIRS, draws: int = 1000, seed: int = 0
) -> SearchEstimates:
    """Speaker bootstrap of a search.

    Enrolled speakers and impostors are drawn with replacement, separately; an utterance weighs the
    count of its speaker, and each draw has its own threshold. The gallery stays: the intervals
    cover other test speakers, not other galleries. A draw in which no non-mated utterance may be
    accepted has its threshold above them all. Searches with the same utterances get the same draws,
    so that `metrics.difference` and `recovered_gain` (of FNIR, or of 1 - rank1) are paired.

    Raises:
        InputError: no draws, or see `Search.operating_point`.
    """
    if draws < 1:
        raise InputError(f"{draws} draws were asked for; an interval needs at least 1")
    points = [result.operating_point(fpir) for fpir in fpirs]
    rng = np.random.default_rng(seed)
    # By rank of the speakers' numbers, so that every speaker drawn has utterances.
    mated, nonmated = (
        np.unique(codes, return_inverse=True)[1] for codes in (result.mated, result.nonmated)
    )
    first = result.rank == 1
    rank1, fnir = np.empty(draws), np.empty((len(fpirs), draws))
    for draw in range(draws):
        weights, impostor_weights = (
            draw_counts(int(codes.max()) + 1, rng)[codes] for codes in (mated, nonmated)
        )
        rank1[draw] = weights[first].sum() / weights.sum()
        for row, fpir in enumerate(fpirs):
            if points[row] is not None:
                highest = result._sorted.highest_rejected(fpir, impostor_weights)
                fnir[row, draw] = weights[result._found <= highest].sum() / weights.sum()
    return SearchEstimates(
        Estimate(result.rank_rate(), rank1),
        [point and Estimate(point.fnir, fnir[row]) for row, point in enumerate(points)],
    )
