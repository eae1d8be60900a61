"""What a benchmark measures: ours and others, in turns, and how they compare."""

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Comparison:
    """What ours is compared with: a reference, or a limit of the machine.

    Attributes:
        name: of the reference or limit.
        seconds: of each repeat, for the same work.
        wanted: how many times as fast ours should be at least; below 1 for a limit; None where
            the ratio is only shown.
    """

    name: str
    seconds: list[float]
    wanted: float | None = None


@dataclass(frozen=True)
class Bound:
    """A figure of ours that is no time, and the most that it should be; None where it is shown."""

    what: str
    value: float
    most: float | None

    @classmethod
    def memory(cls, peak: int, most: float) -> "Bound":
        """Bytes that ours took beside what there was before."""
        return cls("memory beside its input, MiB", peak / MEBIBYTE, most / MEBIBYTE)


@dataclass(frozen=True)
class Measurement:
    """Times of ours and of what it is compared with, measured in turns.

    Attributes:
        line: what was timed.
        size: with how much.
        seconds: of each repeat of ours.
        comparisons: with others.
        bounds: of other figures.
    """

    line: str
    size: str
    seconds: list[float]
    comparisons: list[Comparison] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)

    def unjudged(self) -> "Measurement":
        """The same without what is wanted, which is for much work."""
        comparisons = [replace(other, wanted=None) for other in self.comparisons]
        bounds = [replace(bound, most=None) for bound in self.bounds]
        return replace(self, comparisons=comparisons, bounds=bounds)

    def ratio(self, other: Comparison) -> float:
        """How many times as fast ours is, by the medians."""
        return median(other.seconds) / median(self.seconds)

    def missed(self) -> list[str]:
        """What is not as it should be, a sentence each."""
        problems = [
            f"{self.ratio(other):.3g} times as fast as {other.name}, wanted {other.wanted:g}"
            for other in self.comparisons
            if other.wanted is not None and self.ratio(other) < other.wanted
        ]
        problems += [
            f"{bound.what}: {bound.value:.3g}, wanted {bound.most:.3g} at most"
            for bound in self.bounds
            if bound.most is not None and bound.value > bound.most
        ]
        return problems

    def __str__(self) -> str:
        lines = [f"{self.line}, {self.size}: {_spread(self.seconds)}"]
        for other in self.comparisons:
            wanted = f" (wanted {other.wanted:g})" if other.wanted is not None else ""
            lines.append(
                f"  {self.ratio(other):.3g} times as fast as{wanted} {other.name}: "
                f"{_spread(other.seconds)}"
            )
        lines += [
            f"  {bound.what}: {bound.value:.3g}"
            + (f" (wanted {bound.most:.3g} at most)" if bound.most is not None else "")
            for bound in self.bounds
        ]
        lines += [f"  MISSED: {problem}" for problem in self.missed()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {
            "line": self.line,
            "size": self.size,
            "seconds": self.seconds,
            "comparisons": [
                {**vars(other), "ratio": self.ratio(other)} for other in self.comparisons
            ],
            "bounds": [vars(bound) for bound in self.bounds],
            "missed": self.missed(),
        }


def _spread(seconds: Sequence[float]) -> str:
    """The median, and from where to where the times go."""
    if len(seconds) == 1:
        return f"{seconds[0]:.3g} s"
    return f"{median(seconds):.3g} s ({min(seconds):.3g} to {max(seconds):.3g})"


Work = Callable[[], object]


def in_turns(*works: Work, repeats: int = 5) -> list[list[float]]:
    """Seconds of each repeat of each work; in turns, so that what slows the machine slows all."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, taken in zip(works, seconds, strict=True):
            taken.append(timed(work))
    return seconds


def timed(work: Work) -> float:
    """Seconds that a work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def scaled(seconds: Sequence[float], factor: float) -> list[float]:
    """What a reference would take for all of the work, of which it was given a part."""
    return [factor * taken for taken in seconds]


def peak_memory(work: Work) -> int:
    """Bytes of memory that a work takes at most beside what there is before; Linux counts them."""
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed and is kept would hide what is taken
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak until now
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
