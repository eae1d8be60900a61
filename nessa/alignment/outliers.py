"""Outliers: embeddings unlike those that an aligner was fitted on."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch

from nessa.alignment.covariance import inverse_root, shrunk
from nessa.alignment.views import EPSILON, Labels, Matrix, Rows, blocks, length_normalize
from nessa.errors import InputError
from nessa.files import atomic_open, remove_leftovers
from nessa.kaldi.directions import lengths, well_scaled

INSIDE = 0.999  # of the utterances of speakers that W has not seen
SHRINKAGE = 0.1
LEAST_VARIANCE = 1e-9  # where the align data have none
FEWEST_JUDGED = 10  # embeddings, by which the model that made them may be doubted
# More outliers than this share of the embeddings are refused: of a stamp alone, another domain may
# be the reason, but not of nearly all.
MOST, MOST_STAMPED = 0.5, 0.95
SCALED = 2.0  # times the longest align embedding: what is longer is unlike the align data


@dataclass(frozen=True)
class OutlierDetector:
    """Tells how far an embedding lies from the align data of one side.

    The distance is Mahalanobis', of length-normalized embeddings, relative to the one within which
    99.9 % of unseen speakers' utterances lie.

    Attributes:
        mean: (D,).
        whitening: W, (D, D), such that the limit is 1.
        length_range: the shortest and the longest align embedding, where lengths count; embeddings
            of `SCALED` times another length are outliers too.
    """

    mean: Matrix
    whitening: Matrix
    length_range: tuple[float, float] | None = None

    @classmethod
    def fit(cls, view: Rows, labels: Labels) -> Self:
        """Fit to the embeddings (N, D) of the align set and the speakers (N,) of its rows."""
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
        center = mean @ whitening
        found = [torch.empty(0)]
        for rows in blocks(len(matrix)):
            part = torch.from_numpy(well_scaled(matrix[rows], "embedding {}".format))
            product = part @ whitening
            scale = 1 / part.norm(dim=1).clamp_min(EPSILON)
            square = (product.norm(dim=1) * scale) ** 2 - 2 * (product @ center) * scale
            found.append((square + center @ center).clamp_min(0).sqrt())
        directions = torch.cat(found).numpy()
        if self.length_range is None:
            return directions
        (shortest, longest), own = self.length_range, lengths(matrix)
        times = np.maximum(own / longest, shortest / own)  # too long, or too short
        return np.maximum(directions, times / SCALED)


def _of_half(view: Rows, labels: Labels, half: int) -> Iterator[Matrix]:
    """Length-normalized rows of every other speaker."""
    for rows in blocks(len(view)):
        yield length_normalize(view[rows][labels[rows] % 2 == half])


@dataclass
class Outliers:
    """The outliers found on one side.

    Attributes:
        detector: of the aligner's side; None where it was fitted before there was one.
        stamped: whether the embeddings say that they are of the aligner's model.
        allowed: whether they are accepted, however many are outliers.
        total: how many embeddings there are; where it is not known (0), those so far are judged.
        count: embeddings that were checked.
        found: (id, distance) of the outliers; their distance is beyond 1.
    """

    detector: OutlierDetector | None = None
    stamped: bool = False
    allowed: bool = False
    total: int = 0
    count: int = 0
    found: list[tuple[str, float]] = field(default_factory=list)

    def check(self, keys: list[str], matrix: Matrix) -> None:
        """Find the outliers among some more embeddings (N, D).

        Raises:
            InputError: most of all are, or, of those with the model's stamp, nearly all.
        """
        self.count += len(keys)
        if self.detector is None:
            return
        distances = self.detector.distances(matrix)
        self.found += [(keys[row], float(distances[row])) for row in (distances > 1).nonzero()[0]]
        self._judge()

    def add(self, other: Self) -> None:
        """Add those of another part.

        Raises:
            InputError: see `check`.
        """
        self.count += other.count
        self.found += other.found
        self._judge()

    def _judge(self) -> None:
        count = self.total or self.count
        most = MOST_STAMPED if self.stamped else MOST
        if not self.allowed and count >= FEWEST_JUDGED and len(self.found) > most * count:
            despite = ", whatever info.json says" if self.stamped else ""
            if self.detector and self.detector.length_range:
                despite += ", or scaled, where lengths count (length_power)"
            raise InputError(
                f"{len(self.found)} of {count} embeddings are unlike those that the aligner was "
                f"fitted on, the first {self.found[0][0]!r}; they seem to be of another model"
                f"{despite}. If they are of the right one, give --allow-outliers (in a recipe, "
                "scoring.allow_outliers: true)"
            )

    def write(self, path: Path) -> None:
        """Write `id,distance` lines, the farthest first; no file without a detector."""
        remove_leftovers(path.parent, path.name)
        if self.detector is None:
            path.unlink(missing_ok=True)  # of an earlier run
            return
        with atomic_open(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "distance"])
            ordered = sorted(self.found, key=lambda outlier: (-outlier[1], outlier[0]))
            writer.writerows((key, f"{distance:.2f}") for key, distance in ordered)

    def __str__(self) -> str:
        if self.detector is None:
            return "outliers unknown, as the aligner is of an older version: fit it again"
        if not self.found:
            return "none unlike the align data"
        key, distance = max(self.found, key=lambda outlier: outlier[1])
        return (
            f"{len(self.found)} unlike the align data ({len(self.found) / self.count:.1%}), "
            f"the farthest {key!r} at {distance:.1f} times the limit"
        )
