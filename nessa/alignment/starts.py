"""Where NESSA sets out from: of each linear aligner the best by the EER of the dev trials."""

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from nessa.alignment.config import NeuralConfig
from nessa.alignment.covariance import cross_product, ridge
from nessa.alignment.dev import DevSet, Statistics, both_ways_eer
from nessa.alignment.kernel import FEWEST_SPEAKERS, MOST_ROWS, KernelFeatures
from nessa.alignment.linear import canonical_maps
from nessa.alignment.plda import Scatter, ratio_terms
from nessa.alignment.views import (
    SIDES,
    Floats,
    Labels,
    Mapped,
    Matrix,
    Rows,
    length_normalize,
)

log = logging.getLogger(__name__)
PENALTIES = (0.1, 0.01, 1.0)  # of the regressions, in units of the mean eigenvalue
KERNEL_PENALTY = 0.3  # of regressions of products, likewise
REGRESSION_LANDMARKS = 1024
RATIO_FEATURES = 640, 300  # landmarks, and features whose covariances PLDA knows well enough

Features = tuple[KernelFeatures | None, KernelFeatures | None]  # of each side; None: as it is


class Start(NamedTuple):
    """Linear maps of centered embeddings, and how what they give is scored.

    Attributes:
        label: which linear aligner, with its settings.
        maps: (Dx, D) and (Dy, D).
        quadratics: Q of both sides, (D, D); None: z has unit length, and u is 0.
        features: of each side, which its map takes in the place of centered embeddings.
    """

    label: str
    maps: tuple[Floats, Floats]
    quadratics: tuple[Floats, Floats] | None = None
    features: Features = (None, None)

    def statistics(self, inputs: Matrix, place: int) -> Statistics:
        """z and u of a side's centered embeddings, or of their features, (N, D_in)."""
        if self.quadratics is not None:
            return ratio_terms(inputs, self.maps[place], self.quadratics[place])
        z = inputs @ self.maps[place]
        return length_normalize(z.astype(np.float32)), np.zeros(len(z))

    def scaled(self, scale: float) -> "Start":
        """The same, its z and u times a number, beside a side that stays as it is."""
        assert self.quadratics is not None
        (m_x, m_y), (q_x, q_y) = self.maps, self.quadratics
        maps, quadratics = (m_x * scale, m_y * scale), (q_x / scale, q_y / scale)
        return Start(f"{self.label}, times {scale}", maps, quadratics)


def find_starts(a: Rows, b: Rows, labels: Labels, config: NeuralConfig) -> list[Iterator[Start]]:
    """The candidates of each linear aligner that takes part, the best guess first.

    Args:
        a, b: centered views of the align utterances, (N, Dx), (N, Dy).
        labels: speaker of each row, (N,).
        config: its `start` says which aligners take part, its `score` whether ratios do.

    Raises:
        InputError: no speaker has two utterances.
    """
    makers: list[tuple[str, Callable[[], Iterator[Start]]]] = [
        ("cca", lambda: _correlations(a, b, labels, config.dim)),
        ("ridge", lambda: _regressions(a, b, onto=0)),
        ("ridge", lambda: _regressions(a, b, onto=1)),
    ]
    if config.score == "ratio":
        makers.insert(0, ("plda", lambda: _ratios(a, b, labels, config.dim)))
        if len(labels) <= MOST_ROWS and labels.max() >= FEWEST_SPEAKERS - 1:
            makers += [
                ("kernel", lambda: _kernel_ratios(a, b, labels, config.dim)),
                ("kernel", lambda: _regression_ratios(a, b, labels, config.dim, onto=1)),
                ("kernel", lambda: _regression_ratios(a, b, labels, config.dim, onto=0)),
            ]
    return [make() for name, make in makers if config.start in ("best", name)]


def _ratios(
    x: Rows,
    y: Rows,
    labels: Labels,
    dim: int,
    name: str = "PLDA",
    features: Features = (None, None),
) -> Iterator[Start]:
    """PLDA's of two views, which may be of other `features` than centered embeddings."""
    for label, model in Scatter.of(x, y, labels).models(dim):
        yield Start(f"{name}, {label}", model.maps, model.quadratics, features)


def _kernel_ratios(a: Rows, b: Rows, labels: Labels, dim: int) -> Iterator[Start]:
    """PLDA's of the products of both views."""
    of_a, of_b = (KernelFeatures.of(view, labels, *RATIO_FEATURES) for view in (a, b))
    x, y = Mapped(a, of_a.apply), Mapped(b, of_b.apply)
    yield from _ratios(x, y, labels, dim, "PLDA of products", (of_a, of_b))


def _regression_ratios(a: Rows, b: Rows, labels: Labels, dim: int, onto: int) -> Iterator[Start]:
    """PLDA's of one view as it is, and of the other one's kernel regression onto it."""
    source, target = (b, a) if onto == 0 else (a, b)
    features = KernelFeatures.of(source, labels, REGRESSION_LANDMARKS)
    regression = features.regressed(source, target, KERNEL_PENALTY)
    image = Mapped(source, regression.apply)
    x, y = (a, image) if onto == 0 else (image, b)
    own = (None, regression) if onto == 0 else (regression, None)
    name = f"PLDA of products' regression onto {SIDES[onto]}"
    yield from _ratios(x, y, labels, dim, name, own)


def _correlations(a: Rows, b: Rows, labels: Labels, dim: int) -> Iterator[Start]:
    for label, maps in canonical_maps(a, b, labels, dim):
        yield Start(f"CCA, {label}", maps)


def _regressions(a: Rows, b: Rows, onto: int) -> Iterator[Start]:
    """One view as it is, and the other one's regression onto it, for each penalty."""
    x, y = (a, b) if onto == 0 else (b, a)
    identity, gram, cross = np.eye(x.shape[1]), cross_product(y, y), cross_product(y, x)
    for penalty in PENALTIES:
        map_ = ridge(gram, cross, penalty)
        label = f"regression onto {SIDES[onto]}, penalty {penalty}"
        yield Start(label, (identity, map_) if onto == 0 else (map_, identity))


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
        dev: held-out speakers.
    """

    def error(start: Start) -> float:
        found = both_ways_eer(*statistics(start), dev)
        log.info("start: %s: dev EER %.4f", start.label, found)
        return found

    return min(candidates, key=error)
