"""How far an aligner reaches: which embeddings are like those that it was fitted on.

A map says nothing of embeddings unlike its align data, and nothing in a vector says which model
made it. Both show in its distance from the align data (Mahalanobis, of length-normalised x):

    d(x) = |(normalize(x) - mean) W|

W is the inverse root of the shrunk covariance of half of the align speakers, divided by what
99.9 % of the utterances of the other half stay within: 1 is that limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from nessa.alignment.covariance import inverse_root, shrunk
from nessa.alignment.preprocessing import EPSILON, blocks, length_normalize
from nessa.alignment.views import Labels, Matrix, Rows

INSIDE = 0.999  # of the utterances of speakers that W has not seen
SHRINKAGE = 0.1
LEAST_VARIANCE = 1e-9  # where the align data have none


@dataclass(frozen=True)
class Reach:
    """Of one side of an aligner.

    Attributes:
        mean: (D,).
        whitening: W, (D, D), such that the limit is 1.
    """

    mean: Matrix
    whitening: Matrix

    @classmethod
    def fit(cls, view: Rows, labels: Labels) -> Self:
        """By the embeddings (N, D) of the align set, and the speakers (N,) of its rows."""
        count, dim = 0, view.shape[1]
        total, products = np.zeros(dim), np.zeros((dim, dim))
        for rows in _of_half(view, labels, 0):
            count += len(rows)
            wide = rows.astype(np.float64)  # a covariance is a small difference of these
            total += wide.sum(axis=0)
            products += wide.T @ wide
        mean = total / count
        covariance = products / count - np.outer(mean, mean)
        root = inverse_root(shrunk(covariance, SHRINKAGE) + LEAST_VARIANCE * np.eye(dim))
        unscaled = cls(mean.astype(np.float32), root.astype(np.float32))
        distances = [unscaled.distances(rows) for rows in _of_half(view, labels, 1)]
        limit = max(float(np.quantile(np.concatenate(distances), INSIDE)), EPSILON)
        return cls(unscaled.mean, (root / limit).astype(np.float32))

    def distances(self, matrix: Matrix) -> Matrix:
        """Embeddings (N, D) -> (N,); beyond 1 they are unlike the align data.

        Its square is taken apart, |x W|^2 / |x|^2 - 2 x W (mean W)^T / |x| + |mean W|^2, so that
        rows are read once beside the product.
        """
        mean, whitening = torch.from_numpy(self.mean), torch.from_numpy(self.whitening)
        centre = mean @ whitening
        found = [torch.empty(0)]
        for rows in blocks(len(matrix)):
            part = torch.from_numpy(matrix[rows])
            product = part @ whitening
            scale = 1 / part.norm(dim=1).clamp_min(EPSILON)
            square = (product.norm(dim=1) * scale) ** 2 - 2 * (product @ centre) * scale
            found.append((square + centre @ centre).clamp_min(0).sqrt())
        return torch.cat(found).numpy()


def _of_half(view: Rows, labels: Labels, half: int) -> Iterator[Matrix]:
    """Length-normalised rows of every other speaker."""
    for rows in blocks(len(view)):
        yield length_normalize(view[rows][labels[rows] % 2 == half])
