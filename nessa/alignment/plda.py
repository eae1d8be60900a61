"""Two-view probabilistic linear discriminant analysis: one speaker factor seen by two models."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, eigh, solve_triangular
from torch import nn

from nessa.alignment.covariance import inverse_root, shrunk, within_speakers
from nessa.alignment.dev import DevSet, Statistics, both_ways_eer
from nessa.alignment.linear import Arrays, LinearAligner, ranks
from nessa.alignment.views import (
    FLOATS_PER_BLOCK,
    SIDES,
    Floats,
    Labels,
    Matrix,
    Rows,
    Side,
    Stacked,
    blocks,
    fit_mean,
    mean_of,
)
from nessa.errors import InputError
from nessa.kaldi.directions import SAFE, checked_lengths
from nessa.kaldi.embeddings import Embeddings, profile_means
from nessa.trials import Trials

SHRINKAGES = (0.1, 0.01, 0.001, 0.3, 0.6, 0.8, 0.9)


class PLDAAligner(LinearAligner):
    """One latent speaker factor h ~ N(0, I_q) behind both views of centered embeddings:

        x = A h + e_x,   y = B h + e_y,   e_x ~ N(0, S_x),   e_y ~ N(0, S_y)

    (Prince & Elder 2007, for two views). It is fitted to the stacked vectors (x, y) of the align
    utterances, whose two noises may correlate, since both come from the same recording; trials
    are between recordings and need S_x and S_y only. In closed form: the within-speaker
    covariance S, shrunk towards a multiple of I per view; then, where S is whitened, the
    covariance of the speaker means is I/n + C C^T (n: harmonic mean of utterances per speaker),
    whose leading eigenvectors give C = (A, B), the maximum likelihood solution where all speakers
    have n utterances. Eigenvalues that noise alone can have (Marchenko & Pastur 1967) are left
    out.

    With G_x = A^T S_x^-1 A and G_y likewise, the cross term of the log likelihood ratio of two
    single utterances is x^T S_x^-1 A K B^T S_y^-1 y, K = (I + G_x + G_y)^-1. So the maps are
    x -> x S_x^-1 A K^1/2 and y -> y S_y^-1 B K^1/2; length normalization stands for the other
    terms, and the cosine is close to a monotone function of the ratio. `llr` is the ratio itself.

    Args:
        length_normalize: center by normalize(normalize(x) - mean) as the other aligners do. Real
            embeddings need it (Garcia-Romero & Espy-Wilson 2011); where embeddings are Gaussian,
            as simulated ones can be, x - mean keeps the model exact, for profiles too.
    """

    kind = "plda"

    def __init__(self, length_normalize: bool = True) -> None:
        super().__init__()
        self.length_normalize = length_normalize

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        mean = fit_mean if self.length_normalize else mean_of
        sides = zip(SIDES, (enroll, runtime), strict=True)
        means = {f"{side}_mean": mean(view).astype(np.float32) for side, view in sides}
        self.arrays = dict(means)
        views = self._centered(enroll, "enroll"), self._centered(runtime, "runtime")

        def candidates() -> Iterator[tuple[str, Arrays]]:
            for label, model in Scatter.of(*views, labels).models():
                yield label, means | model.arrays()

        self._choose(candidates(), dev)

    def dev_eer(self, dev: DevSet) -> float:
        """See `Aligner.dev_eer`; of the likelihood ratios, which are what PLDA is for."""
        g_x, g_y = (self.arrays[f"{side}_precision"].astype(np.float64) for side in SIDES)
        ratio = Ratio((self.arrays["enroll_map"], self.arrays["runtime_map"]), (g_x, g_y))
        sides = zip(SIDES, (dev.enroll, dev.runtime), ratio.maps, ratio.quadratics, strict=True)
        x, y = (
            ratio_terms(self._centered(self._checked(own.matrix, side, own.keys), side), *terms)
            for side, own, *terms in sides
        )
        return both_ways_eer(x, y, dev)

    def network(self, side: Side) -> nn.Module:
        """The map of one side; see `Aligner.network`."""
        if not self.length_normalize:
            raise InputError("only a PLDA fitted with length_normalize=True can be exported")
        return super().network(side)

    def _centered(self, matrix: Matrix, side: Side) -> Matrix:
        if self.length_normalize:
            return super()._centered(matrix, side)
        return matrix - self.arrays[f"{side}_mean"]

    def _scaled(self, matrix: Matrix, name: Callable[[int], str]) -> Matrix:
        """See `Aligner._scaled`; lengths matter where they are not normalized."""
        if self.length_normalize:
            return super()._scaled(matrix, name)
        measured = checked_lengths(matrix, name)
        odd = np.flatnonzero((measured < SAFE[0]) | (measured > SAFE[1]))
        if len(odd):
            raise InputError(
                f"{name(int(odd[0]))} has length {measured[odd[0]]:.0e}; without length_normalize, "
                f"PLDA takes {SAFE[0]:.0e} to {SAFE[1]:.0e}: divide all by one number"
            )
        return matrix

    def llr(
        self,
        profiles: Matrix,
        counts: npt.NDArray[np.int64],
        runtime: Matrix,
        pairs: npt.NDArray[np.int64],
    ) -> Floats:
        """Log likelihood ratio (natural) of each trial: one speaker against two.

        Args:
            profiles: means of raw enrollment embeddings, (N, Dx).
            counts: utterances behind each profile, (N,).
            runtime: raw runtime embeddings of one utterance each, (M, Dy).
            pairs: row of `profiles` and row of `runtime` of each trial, (T, 2).

        Returns:
            (T,), in trial order.
        """
        a, b = (
            self._centered(self._checked(matrix, side), side) @ self.arrays[f"{side}_map"]
            for side, matrix in zip(SIDES, (profiles, runtime), strict=True)
        )
        g = [self.arrays[f"{side}_precision"].astype(np.float64) for side in SIDES]
        # The maps' basis is h' = K^-1/2 h, in which the prior precision is K.
        prior = np.eye(len(g[0])) - g[0] - g[1]
        return factor_llr((a, g[0]), counts, (b, g[1]), pairs, prior)

    def scores(
        self,
        enroll: Embeddings,
        runtime: Embeddings,
        trials: Trials,
        enroll_map: Mapping[str, Sequence[str]] | None = None,
    ) -> Floats:
        """The likelihood ratio of a list's trials; see `llr`.

        Args:
            enroll: raw embeddings of the enrollment utterances, (N, Dx).
            runtime: raw embeddings of the test utterances, (M, Dy).
            trials: T trials.
            enroll_map: {profile: utterances} of the profiles that the trials name.

        Returns:
            (T,), natural logarithm, in trial order.

        Raises:
            InputError: a trial names what has no embedding.
        """
        return self.llr(*trial_vectors(enroll, runtime, trials, enroll_map))


class TrialVectors(NamedTuple):
    """What a likelihood ratio asks for, of a trial list: see `PLDAAligner.llr`."""

    profiles: Matrix  # (N, Dx)
    counts: npt.NDArray[np.int64]  # (N,)
    runtime: Matrix  # (M, Dy)
    pairs: npt.NDArray[np.int64]  # (T, 2)


def trial_vectors(
    enroll: Embeddings,
    runtime: Embeddings,
    trials: Trials,
    enroll_map: Mapping[str, Sequence[str]] | None,
) -> TrialVectors:
    """The distinct profiles and utterances of a list; an id that is no profile is an utterance.

    Raises:
        InputError: a trial names what has no embedding.
    """
    enroll_map = enroll_map or {}
    names, enroll_codes = trials.enroll_index
    tested, test_codes = trials.test_index
    members = {name: enroll_map.get(name, [name]) for name in names}
    return TrialVectors(
        profile_means(enroll, members).matrix,
        np.array([len(utterances) for utterances in members.values()]),
        runtime.select(tested).matrix,
        np.stack([enroll_codes, test_codes], axis=1),
    )


def factor_llr(
    enroll: tuple[npt.ArrayLike, Floats],
    counts: npt.NDArray[np.int64],
    runtime: tuple[npt.ArrayLike, Floats],
    pairs: npt.NDArray[np.int64],
    prior: Floats,
) -> Floats:
    """Log likelihood ratio of profiles of n utterances against single runtime utterances.

    Given h, utterances are independent, so all that a profile says of h is exp(n a^T h -
    n h^T G_x h / 2), a = A^T S_x^-1 x with x the mean of its n utterances; a runtime utterance
    says the same with b, G_y and n = 1. With prior precision P of h, L = P + n G_x + G_y,
    L_x = P + n G_x, L_y = P + G_y and v = n a + b,

        LLR = 1/2 [v^T L^-1 v - n^2 a^T L_x^-1 a - b^T L_y^-1 b
                   - log|L| - log|P| + log|L_x| + log|L_y|].

    Cost: O(T q), and O((N + M) q^2) per distinct count.

    Args:
        enroll: statistics a (N, q) and precision G_x (q, q) of one utterance.
        counts: n of each profile, (N,).
        runtime: statistics b (M, q) and precision G_y (q, q).
        pairs: rows of the two sides of each trial, (T, 2).
        prior: P, (q, q).

    Returns:
        (T,), natural logarithm.
    """
    (a, g_x), (b, g_y) = (
        (np.asarray(statistics, np.float64), g) for statistics, g in (enroll, runtime)
    )
    scores = np.empty(len(pairs))
    for n in np.unique(counts):
        precisions = prior + n * g_x + g_y, prior + n * g_x, prior + g_y
        joint, own_x, own_y = map(np.linalg.inv, precisions)
        logdet, logdet_x, logdet_y = (np.linalg.slogdet(p)[1] for p in precisions)
        constant = (logdet_x + logdet_y - logdet - np.linalg.slogdet(prior)[1]) / 2
        terms_a = np.einsum("nq,nq->n", n * a @ (joint - own_x), n * a) / 2
        terms_b = np.einsum("mq,mq->m", b @ (joint - own_y), b) / 2
        crossed = n * a @ joint
        trials = np.flatnonzero(counts[pairs[:, 0]] == n)
        for part in blocks(len(trials), FLOATS_PER_BLOCK // len(prior)):
            block = trials[part]
            i, j = pairs[block].T
            cross = np.einsum("tq,tq->t", crossed[i], b[j])
            scores[block] = cross + terms_a[i] + terms_b[j] + constant
    return scores


class Scatter(NamedTuple):
    """What the align set says of the stacked model z = C h + e, D = Dx + Dy."""

    within: Floats  # unbiased within-speaker covariance (D, D)
    between: Floats  # covariance of the speakers' means (D, D)
    speakers: int
    utterances: float  # per speaker, harmonic mean
    enroll_dim: int

    @classmethod
    def of(cls, a: Rows, b: Rows, labels: Labels) -> "Scatter":
        """Of centered views (N, Dx), (N, Dy) and their speakers (N,).

        Raises:
            InputError: no speaker has two utterances.
        """
        scatter, means, counts = within_speakers(Stacked(a, b), labels)
        within = scatter / (len(labels) - len(counts))
        harmonic = float(1 / np.mean(1 / counts))
        return cls(within, np.cov(means.T), len(counts), harmonic, a.shape[1])

    def solve(self, shrinkage: float) -> tuple[Floats, Floats]:
        """C (D, q), columns in falling order of significance, and S (D, D)."""
        noise = (1 - shrinkage) * self.within
        for view in (slice(self.enroll_dim), slice(self.enroll_dim, None)):
            noise[view, view] = shrunk(self.within[view, view], shrinkage)
        root = cholesky(noise, lower=True)
        half = solve_triangular(root, self.between, lower=True)
        values, vectors = eigh(solve_triangular(root, half.T, lower=True))
        values, vectors = values[::-1], vectors[:, ::-1]
        edge = (1 + np.sqrt(len(noise) / self.speakers)) ** 2 / self.utterances
        q = max(1, int((values > edge).sum()))
        strength = np.sqrt(np.maximum(values[:q] - 1 / self.utterances, 1e-6))
        return root @ vectors[:, :q] * strength, noise

    def models(self, largest_rank: int | None = None) -> Iterator[tuple[str, "Ratio"]]:
        """Yield (description, model) for each shrinkage and rank, the best guess first."""
        for shrinkage in SHRINKAGES:
            loading, noise = self.solve(shrinkage)
            for rank in ranks(min(loading.shape[1], largest_rank or loading.shape[1])):
                model = Ratio.of(loading[:, :rank], noise, self.enroll_dim)
                yield f"shrinkage {shrinkage}, rank {rank}", model


class Ratio(NamedTuple):
    """The likelihood ratio of two single utterances, in the basis h' = K^-1/2 h.

    There the precision of h given both is I, and that of its prior P = I - G_x - G_y. With
    a = x M_x and b = y M_y, the ratio (see `factor_llr`) is

        a . b + a Q_x a^T + b Q_y b^T + constant,
        Q_x = (I - (I - G_y)^-1) / 2,   Q_y = (I - (I - G_x)^-1) / 2.
    """

    maps: tuple[Floats, Floats]  # M, (Dx, q) and (Dy, q)
    precisions: tuple[Floats, Floats]  # G, (q, q)

    @classmethod
    def of(cls, loading: Floats, noise: Floats, enroll_dim: int) -> "Ratio":
        """Of the loading C (D, q) and the noise S (D, D) of the stacked views."""
        sides = slice(enroll_dim), slice(enroll_dim, None)
        filters = [np.linalg.solve(noise[v, v], loading[v]) for v in sides]  # S^-1 A
        precisions = [loading[v].T @ f for v, f in zip(sides, filters, strict=True)]
        root = inverse_root(np.eye(loading.shape[1]) + sum(precisions))  # K^1/2
        maps = filters[0] @ root, filters[1] @ root
        return cls(maps, (root @ precisions[0] @ root, root @ precisions[1] @ root))

    @property
    def quadratics(self) -> tuple[Floats, Floats]:
        """Q of both sides, (q, q)."""
        identity = np.eye(len(self.precisions[0]))
        of_x, of_y = ((identity - np.linalg.inv(identity - g)) / 2 for g in self.precisions)
        return of_y, of_x

    def arrays(self) -> Arrays:
        """Maps and precisions as the arrays of an aligner."""
        named = {f"{side}_map": m for side, m in zip(SIDES, self.maps, strict=True)}
        named |= {f"{side}_precision": g for side, g in zip(SIDES, self.precisions, strict=True)}
        return {name: array.astype(np.float32) for name, array in named.items()}


def ratio_terms(inputs: Matrix, matrix: Floats, quadratic: Floats) -> Statistics:
    """z = x M (N, D) and u = z Q z^T (N,), of x (N, D_in), M (D_in, D) and Q (D, D)."""
    z = inputs @ matrix
    return z, np.einsum("nd,nd->n", z @ quadratic, z)
