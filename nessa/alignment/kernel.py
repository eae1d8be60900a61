"""Products of coordinates as features: what a linear map of them tells, no linear map of c can.

Real models lie in spaces that are bent against each other, and some thousand pairs do not teach a
network how. A kernel of degree 2 needs no training: k(a, b) = a . b + q (a . b)^2 is the inner
product of all coordinates and, weighed by q, of all products of two (7). Its leading principal
components (Schoelkopf, Smola & Mueller 1998), found among the means of some speakers (Williams &
Seeger 2001), are features for two-view PLDA in the place of c; or their ridge regression onto the
other model's embeddings is (8).
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import eigh

from nessa.alignment.covariance import cross_product, ridge
from nessa.alignment.views import (
    Floats,
    Labels,
    Mapped,
    Matrix,
    Rows,
    Stacked,
    length_normalize,
    mean_of,
    means_by_speaker,
)

WEIGHT = 0.7  # q
LEAST = 1e-6  # variance of a feature, relative to the first: what is less is rounding
FEWEST_SPEAKERS = 100  # fewer span no space in which their utterances differ
# With more align utterances than this, networks learn more from them, and the features take long.
MOST_ROWS = 100_000


@dataclass(frozen=True, eq=False)  # known by identity, to a cache
class KernelFeatures:
    """Kernel principal components of centered embeddings c, (N, D) -> (N, F).

        (k(c, l_1), ..., k(c, l_L)) V - m

    Attributes:
        landmarks: l, (L, D), of unit length.
        weight: q.
        projection: V, (L, F).
        mean: m, (F,), of the align utterances.
    """

    landmarks: Matrix
    weight: float
    projection: Matrix
    mean: Matrix

    @classmethod
    def of(
        cls, view: Rows, labels: Labels, most_landmarks: int, most: int | None = None
    ) -> "KernelFeatures":
        """Of a centered view (N, D) and the speakers of its rows (N,).

        Args:
            view, labels: as above.
            most_landmarks: speakers whose means stand for all, at most.
            most: features, at most; None: as many as the landmarks give.
        """
        landmarks = _landmarks(view, labels, most_landmarks)
        products = landmarks.astype(np.float64) @ landmarks.T
        values, vectors = eigh(products + WEIGHT * products**2)
        order = np.flatnonzero(values > LEAST * values[-1])[::-1][:most]
        projection = (vectors[:, order] / np.sqrt(values[order])).astype(np.float32)
        features = cls(landmarks, WEIGHT, projection, np.zeros(len(order), np.float32))
        mean = mean_of(Mapped(view, features.apply))
        return replace(features, mean=mean.astype(np.float32))

    def apply(self, centered: Matrix) -> Matrix:
        """Features (N, F) of rows (N, D)."""
        products = centered @ self.landmarks.T
        return (products + self.weight * products**2) @ self.projection - self.mean

    def regressed(self, source: Rows, target: Rows, penalty: float) -> "KernelFeatures":
        """The same followed by the ridge regression of their values onto the other view (8).

        Args:
            source: the centered view that the features are of, (N, D).
            target: the other one, (N, D').
            penalty: in units of the mean eigenvalue of the features' covariance.
        """
        both = Stacked(Mapped(source, self.apply), target)  # products of both in one pass
        products = cross_product(both, both)
        own, other = both.parts
        return self.folded(ridge(products[own, own], products[own, other], penalty))

    def folded(self, maps: Floats) -> "KernelFeatures":
        """The same followed by a linear map (F, F')."""
        projection = (self.projection @ maps).astype(np.float32)
        return replace(self, projection=projection, mean=(self.mean @ maps).astype(np.float32))


def _landmarks(view: Rows, labels: Labels, most: int) -> Matrix:
    """Means of speakers, of unit length: of all, or of `most` that are drawn."""
    speakers = int(labels.max()) + 1
    drawn = np.random.default_rng(0).permutation(speakers)[:most]
    place = np.full(speakers, -1)
    place[drawn] = np.arange(len(drawn))
    rows = np.flatnonzero(place[labels] >= 0)
    return length_normalize(means_by_speaker(view[rows], place[labels[rows]]))
