"""Where NESSA sets out from: the best of the linear aligners, by the EER of the dev trials."""

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from nessa.alignment.config import NeuralConfig
from nessa.alignment.covariance import cross_product
from nessa.alignment.dev import DevSet
from nessa.alignment.linear import canonical_maps
from nessa.alignment.plda import Scatter
from nessa.alignment.views import Floats, Labels, Matrix, Rows, length_normalize
from nessa.errors import InputError
from nessa.metrics.roc import eer
from nessa.trials import Trials

log = logging.getLogger(__name__)
PENALTIES = (0.1, 0.01, 1.0)  # of the regressions, in units of the mean eigenvalue
TRIAL_FLOATS = 2**20  # gathered at a time

Statistics = tuple[Matrix | Floats, Matrix | Floats]  # z (N, D) and u (N,) of a side's vectors


class Start(NamedTuple):
    """Linear maps of centered embeddings, and how what they give is scored.

    Attributes:
        label: which linear aligner, with its settings.
        maps: (Dx, D) and (Dy, D).
        quadratics: Q of both sides, (D, D); None: z has unit length, and u is 0.
    """

    label: str
    maps: tuple[Floats, Floats]
    quadratics: tuple[Floats, Floats] | None = None

    def statistics(self, centered: Matrix, side: int) -> Statistics:
        """z and u of centered embeddings (N, D_in) of side 0 (enroll) or 1 (runtime)."""
        z = centered @ self.maps[side]
        if self.quadratics is None:
            return length_normalize(z.astype(np.float32)), np.zeros(len(z))
        return z, np.einsum("nd,nd->n", z @ self.quadratics[side], z)


def find_starts(a: Rows, b: Rows, labels: Labels, config: NeuralConfig) -> Iterator[Start]:
    """Yield the candidates, of at most `config.dim` dimensions, the best guess first.

    Args:
        a, b: centered views of the align utterances, (N, Dx), (N, Dy).
        labels: speaker of each row, (N,).
        config: its `start` says which aligners take part, its `score` whether ratios do.

    Raises:
        InputError: no speaker has two utterances.
    """
    wanted = config.start
    if config.score == "ratio" and wanted in ("best", "plda"):
        for label, model in Scatter.of(a, b, labels).models(config.dim):
            yield Start(f"PLDA, {label}", model.maps, model.quadratics)
    if wanted in ("best", "cca"):
        for label, maps in canonical_maps(a, b, labels, config.dim):
            yield Start(f"CCA, {label}", maps)
    if wanted in ("best", "ridge"):
        yield from _regressions(a, b, config.dim)


def _regressions(a: Rows, b: Rows, dim: int) -> Iterator[Start]:
    """Each view beside the other one's regression onto it, both of unit power.

    z_x = [x, x V], z_y = [y W, y]: the score is the mean of those in both models' spaces.
    """
    if a.shape[1] + b.shape[1] > dim:
        return
    c_aa, c_bb, c_ab = cross_product(a, a), cross_product(b, b), cross_product(a, b)
    for penalty in PENALTIES:
        to_b, to_a = _ridge(c_aa, c_ab, penalty), _ridge(c_bb, c_ab.T, penalty)
        maps = (
            np.hstack([np.eye(len(c_aa)), to_b / _power(to_b, c_aa, len(a))]),
            np.hstack([to_a / _power(to_a, c_bb, len(b)), np.eye(len(c_bb))]),
        )
        yield Start(f"regression both ways, penalty {penalty}", maps)


def _ridge(gram: Floats, cross: Floats, penalty: float) -> Floats:
    scaled = penalty * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.linalg.solve(gram + scaled, cross)


def _power(map_: Floats, gram: Floats, count: int) -> float:
    """Root mean square length of the N rows behind a Gram matrix, mapped."""
    return float(np.sqrt(np.trace(map_.T @ gram @ map_) / count))


def find_joins(kept: Rows, joining: Rows, labels: Labels) -> Iterator[Start]:
    """Yield candidates by which a view joins one that stays as it is; their two sides are alike.

    With M_x, M_y and Q_y two-view PLDA's of the kept z and the joining view y, their cross term is
    z M_x . y M_y = z . (y M_y M_x^T): the joining view's own z is y M_y M_x^T.

    Args:
        kept: z of the side that stays, (N, D).
        joining: centered view of the other side, (N, D_in).
        labels: speaker of each row, (N,).
    """
    for label, model in Scatter.of(kept, joining, labels).models():
        m_x, m_y = model.maps
        to_basis = np.linalg.pinv(m_x.T, rcond=1e-4)  # (D, q): from z to the basis of Q
        projection = m_y @ m_x.T
        quadratic = to_basis @ model.quadratics[1] @ to_basis.T
        yield Start(f"PLDA, {label}", (projection, projection), (quadratic, quadratic))


def random_start(enroll_dim: int, runtime_dim: int, config: NeuralConfig) -> Start:
    """Small random maps, to show what the others are worth; scored by cosine."""
    rng = np.random.default_rng(0)
    dims = enroll_dim, runtime_dim
    width = min(config.dim, *dims)
    maps = [rng.standard_normal((dim, width)) / np.sqrt(dim) for dim in dims]
    return Start("random", (maps[0], maps[1]))


def choose_start(
    candidates: Iterator[Start],
    statistics: Callable[[Start], tuple[Statistics, Statistics]],
    dev: DevSet,
) -> Start:
    """The candidate of the lowest dev EER, of both update directions.

    Args:
        candidates: at least one.
        statistics: gives z and u of the dev set's two sides under a candidate.
        dev: their keys, and the trials.

    Raises:
        InputError: no candidate has as few dimensions as were asked for.
    """
    best, lowest = None, np.inf
    for start in candidates:
        error = both_ways_eer(*statistics(start), dev)
        log.info("start: %s: dev EER %.4f", start.label, error)
        if best is None or error < lowest:
            best, lowest = start, error
    return best or first_start(candidates)


def first_start(candidates: Iterator[Start]) -> Start:
    """The first candidate.

    Raises:
        InputError: there is none.
    """
    start = next(candidates, None)
    if start is None:
        raise InputError("start: no such start has as few dimensions as dim; raise dim")
    return start


def both_ways_scores(x: Statistics, y: Statistics, dev: DevSet) -> tuple[Floats, Floats]:
    """Scores (T,) of the dev trials with x enrolled and y tested, and the other way round."""
    return _scores(x, y, dev), _scores(y, x, dev, swapped=True)


def both_ways_eer(x: Statistics, y: Statistics, dev: DevSet) -> float:
    """Mean EER of both directions, since the space serves both."""
    assert dev.trials.labels is not None
    return float(np.mean([eer(s, dev.trials.labels) for s in both_ways_scores(x, y, dev)]))


def _scores(enroll: Statistics, runtime: Statistics, dev: DevSet, swapped: bool = False) -> Floats:
    """z_x . z_y + u_x + u_y of each trial."""
    trials: Trials = dev.trials
    keyed = (dev.runtime, dev.enroll) if swapped else (dev.enroll, dev.runtime)
    rows = [
        embeddings.rows(index.names)[index.codes]
        for embeddings, index in zip(keyed, (trials.enroll_index, trials.test_index), strict=True)
    ]
    (z_x, u_x), (z_y, u_y) = enroll, runtime
    scores = u_x[rows[0]].astype(np.float64) + u_y[rows[1]]
    step = max(1, TRIAL_FLOATS // z_x.shape[1])
    for first in range(0, len(scores), step):
        i, j = (own[first : first + step] for own in rows)
        scores[first : first + step] += np.einsum("td,td->t", z_x[i], z_y[j])
    return scores
