"""Embeddings unlike those that an aligner was fitted on: found while they are mapped."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from nessa.alignment.reach import Reach
from nessa.errors import InputError
from nessa.files import atomic_open
from nessa.tables import Matrix

FEWEST_JUDGED = 10  # embeddings, by which the model that made them may be doubted


@dataclass
class Outliers:
    """Those of one side.

    Attributes:
        reach: of the aligner's side; None where it was fitted before there was one.
        certain: whether the embeddings are known to be of the aligner's model, or accepted anyhow.
        count: embeddings that were looked at.
        found: (id, distance) of the outliers; a distance beyond 1, see `nessa.alignment.reach`.
    """

    reach: Reach | None = None
    certain: bool = False
    count: int = 0
    found: list[tuple[str, float]] = field(default_factory=list)

    def look_at(self, keys: list[str], matrix: Matrix) -> None:
        """Find the outliers among some embeddings (N, D).

        Raises:
            InputError: most of them are, and nobody says that they are of the aligner's model.
        """
        self.count += len(keys)
        if self.reach is None:
            return
        distances = self.reach.distances(matrix)
        found = [(keys[row], float(distances[row])) for row in (distances > 1).nonzero()[0]]
        if not self.certain and len(found) > len(keys) / 2 and len(keys) >= FEWEST_JUDGED:
            raise InputError(
                f"{len(found)} of {len(keys)} embeddings are unlike those that the aligner was "
                f"fitted on, the first {found[0][0]!r}; they seem to be of another model. If they "
                "are of the right one, give --allow-outliers"
            )
        self.found += found

    def add(self, other: Self) -> None:
        """Take over what was found in another part."""
        self.count += other.count
        self.found += other.found

    def write(self, path: Path) -> None:
        """Write `id,distance` lines, the farthest first; no file where the reach is unknown."""
        if self.reach is None:
            path.unlink(missing_ok=True)  # of an earlier run
            return
        with atomic_open(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "distance"])
            ordered = sorted(self.found, key=lambda outlier: (-outlier[1], outlier[0]))
            writer.writerows((key, f"{distance:.2f}") for key, distance in ordered)

    def __str__(self) -> str:
        if self.reach is None:
            return "outliers unknown, as the aligner is of an older version: fit it again"
        if not self.found:
            return "none unlike the align data"
        key, distance = max(self.found, key=lambda outlier: outlier[1])
        return (
            f"{len(self.found)} unlike the align data ({len(self.found) / self.count:.1%}), "
            f"the farthest {key!r} at {distance:.1f} times the limit"
        )
