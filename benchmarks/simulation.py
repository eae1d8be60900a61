"""Paired embeddings whose truth is known, and the best score that anybody can give them.

Two models see a speaker's factor h ~ N(0, I_q), each in its own way and with its own noise:

    x = m_x + A h + e_x,  e_x ~ N(0, S_x)   (Dx)        y = m_y + B h + e_y,  e_y ~ N(0, S_y)  (Dy)

and may then warp it: in a random basis of its space, each coordinate of one half is shifted by
s cos(t), with t a coordinate of the other half. The warp can be undone exactly, so that the
Bayes-optimal score is known with it too. No linear map can undo it, since cos(t) hardly
correlates with t; a network with one hidden layer can.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nessa.alignment.plda import factor_llr, trial_vectors
from nessa.alignment.views import Matrix
from nessa.kaldi.embeddings import Embeddings
from nessa.trials import Trials

SPEAKERS_PER_BLOCK = 256
WEAKEST = 0.7  # strength of the last dimension of a factor or a noise, the first one's being 1


class Block(NamedTuple):
    """Some speakers' utterances.

    Attributes:
        keys: utterance ids, <speaker>-<session>-<utterance>, length N.
        speakers: speaker of each utterance, length N.
        enroll: embeddings by the enrollment model, float32 (N, Dx).
        runtime: embeddings of the same utterances by the runtime model, float32 (N, Dy).
    """

    keys: list[str]
    speakers: list[str]
    enroll: Matrix
    runtime: Matrix


class Simulation:
    """Two models and the speakers whom they see.

    Args:
        dims: (Dx, Dy).
        factor_dim: q, dimension of the speaker factor; at most the smaller of `dims`.
        noise: standard deviation of the two models' noise per dimension, relative to that of the
            factor in the dimensions that it fills, root mean square.
        warp: s, the largest shift of a coordinate; the factor's own standard deviation in a
            coordinate is at most 1. 0: no warp.
        seed: of the models; sets are drawn by their own number.
    """

    def __init__(
        self,
        dims: tuple[int, int] = (128, 160),
        factor_dim: int = 96,
        noise: tuple[float, float] = (1.9, 1.5),
        warp: float = 0.0,
        seed: int = 1,
    ) -> None:
        self.seed = seed
        self.factor_dim = factor_dim
        rng = np.random.default_rng(seed)
        self._enroll, self._runtime = (
            _Model(dim, factor_dim, level, warp, rng)
            for dim, level in zip(dims, noise, strict=True)
        )

    def blocks(self, speakers: int, utterances: int, set_number: int = 0) -> Iterator[Block]:
        """Draw a set, some speakers at a time; a longer set begins with the shorter one.

        Memory: one block, whatever the number of speakers.

        Args:
            speakers: how many.
            utterances: of each.
            set_number: sets of different numbers have different speakers.

        Yields:
            Blocks of up to `SPEAKERS_PER_BLOCK` speakers, in key order.
        """
        for number, first in enumerate(range(0, speakers, SPEAKERS_PER_BLOCK)):
            rng = np.random.default_rng((self.seed, set_number, number))
            count = min(SPEAKERS_PER_BLOCK, speakers - first)
            factors = rng.standard_normal((SPEAKERS_PER_BLOCK, self.factor_dim), np.float32)
            factors = factors.repeat(utterances, axis=0)
            names = [f"id{set_number:02d}{first + s:06d}" for s in range(count)]
            yield Block(
                [f"{name}-s01-{u:05d}" for name in names for u in range(1, utterances + 1)],
                [name for name in names for _ in range(utterances)],
                *(
                    # A whole block, and then a part: products of fewer rows may have other bits.
                    model.see(
                        factors, np.random.default_rng((self.seed, set_number, number, side))
                    )[: count * utterances]
                    for side, model in enumerate((self._enroll, self._runtime))
                ),
            )

    def sample(
        self, speakers: int, utterances: int, set_number: int = 0
    ) -> tuple[Embeddings, Embeddings, dict[str, str]]:
        """Draw a whole set: what `Aligner.fit` takes. See `blocks`.

        Returns:
            Embeddings by the enrollment and by the runtime model, and {utterance: speaker}.
        """
        keys, names, enroll, runtime = zip(
            *self.blocks(speakers, utterances, set_number), strict=True
        )
        utt2spk = dict(zip(chain(*keys), chain(*names), strict=True))
        return (
            Embeddings(utt2spk, np.concatenate(enroll)),
            Embeddings(utt2spk, np.concatenate(runtime)),
            utt2spk,
        )

    def optimal_scores(
        self,
        enroll: Embeddings,
        runtime: Embeddings,
        trials: Trials,
        enroll_map: Mapping[str, Sequence[str]] | None = None,
    ) -> npt.NDArray[np.float64]:
        """The Bayes-optimal score: the log likelihood ratio under the true model.

        Args:
            enroll: enrollment utterances as drawn, (N, Dx).
            runtime: runtime utterances as drawn, (M, Dy).
            trials: T trials of an utterance or a profile and an utterance, never with the same
                utterance on both sides.
            enroll_map: {profile: utterances}. The score is the best given all of a profile's
                utterances; with a warp, their mean alone says less.

        Returns:
            (T,), natural logarithm, in trial order.
        """
        straight = Embeddings(enroll.keys, self._enroll.unwarp(enroll.matrix))
        profiles, counts, tested, pairs = trial_vectors(straight, runtime, trials, enroll_map)
        return factor_llr(
            (self._enroll.statistics(profiles), self._enroll.precision),
            counts,
            (self._runtime.statistics(self._runtime.unwarp(tested)), self._runtime.precision),
            pairs,
            np.eye(self.factor_dim),
        )


class _Model:
    """One side: x = m + A h + e, warped."""

    def __init__(
        self, dim: int, factor_dim: int, noise: float, warp: float, rng: np.random.Generator
    ) -> None:
        strengths = np.linspace(1, WEAKEST, factor_dim)
        self.loading = _rotation(dim, rng)[:factor_dim] * strengths[:, None]  # A^T, (q, D)
        spectrum = np.linspace(1, WEAKEST, dim)
        spectrum *= noise * np.sqrt(np.mean(strengths**2) / np.mean(spectrum**2))
        self.noise_root = spectrum[:, None] * _rotation(dim, rng)  # S = root^T root, (D, D)
        length = np.sqrt((strengths**2).sum() + (spectrum**2).sum())
        self.mean = 0.3 * length * _unit(rng.standard_normal(dim))
        self.warp = _Warp(dim, warp, rng)
        covariance = self.noise_root.T @ self.noise_root
        self.filter = np.linalg.solve(covariance, self.loading.T)  # S^-1 A, (D, q)
        self.precision = self.loading @ self.filter  # A^T S^-1 A, (q, q)

    def see(self, factors: Matrix, rng: np.random.Generator) -> Matrix:
        """Embeddings (N, D) of utterances of speakers with `factors` (N, q)."""
        noise = rng.standard_normal((len(factors), len(self.mean)), np.float32)
        straight = factors @ self.loading.astype(np.float32)
        straight += noise @ self.noise_root.astype(np.float32)
        straight += self.mean.astype(np.float32)
        return (straight + self.warp.shift(straight)).astype(np.float32)

    def unwarp(self, matrix: Matrix) -> Matrix:
        """Undo the warp of (N, D): it shifts by what it leaves alone."""
        return (matrix - self.warp.shift(matrix)).astype(np.float32)

    def statistics(self, straight: Matrix) -> npt.NDArray[np.float64]:
        """A^T S^-1 (x - m): all that x says of the speaker, (N, D) -> (N, q)."""
        return (straight - self.mean) @ self.filter


class _Warp:
    """The shift s cos(x V) U, which is the same for x and for x + shift, since U V = 0."""

    def __init__(self, dim: int, strength: float, rng: np.random.Generator) -> None:
        basis = _rotation(dim, rng)
        units = dim // 2
        self.strength = strength
        self.v = basis[:units].T  # (D, H)
        self.u = basis[units : 2 * units]  # (H, D)

    def shift(self, x: Matrix) -> Matrix:
        """(N, D) -> (N, D)."""
        if not self.strength:
            return np.zeros_like(x)
        return (self.strength * np.cos(x @ self.v.astype(np.float32)) @ self.u).astype(np.float32)


def _rotation(dim: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A random orthogonal matrix (D, D)."""
    q, r = np.linalg.qr(rng.standard_normal((dim, dim)))
    return q * np.sign(np.diag(r))


def _unit(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return vector / np.linalg.norm(vector)
