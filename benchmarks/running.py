"""Which benchmarks there are, and running them at two sizes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.alignment import bench_map, bench_nessa
from benchmarks.corpus import bench_prepare
from benchmarks.extraction import bench_extraction
from benchmarks.machine import Machine
from benchmarks.measurement import Measurement
from benchmarks.metrics import bench_bootstrap, bench_metrics
from benchmarks.scoring import bench_as_norm, bench_cosine
from benchmarks.startup import bench_startup
from benchmarks.tables import bench_arks
from benchmarks.workload import SIZES, Workload
from nessa.errors import InputError
from nessa.text import plain_columns

BENCHMARKS: dict[str, Callable[[Workload, Machine], Iterator[Measurement]]] = {
    "prepare": bench_prepare,
    "extraction": bench_extraction,
    "arks": bench_arks,
    "nessa": bench_nessa,
    "map": bench_map,
    "cosine": bench_cosine,
    "as-norm": bench_as_norm,
    "metrics": bench_metrics,
    "bootstrap": bench_bootstrap,
    "startup": bench_startup,
}

FIXED = ("startup",)  # the same at every size
JUDGED = "voxceleb"  # the size that what is wanted is for: less work is all overhead
LINEAR = 0.7, 1.3  # of ten times the time for a tenth


@dataclass(frozen=True)
class Result:
    """One line at full size and, by a shorter look, at a tenth of it."""

    benchmark: str
    whole: Measurement
    tenth: Measurement

    @property
    def growth(self) -> float:
        """The time over ten times that for a tenth; 1 where cost grows as the work does."""
        return median(self.whole.seconds) / (10 * median(self.tenth.seconds))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {
            "benchmark": self.benchmark,
            **self.whole.to_dict(),
            "tenth": self.tenth.seconds,
            "growth": self.growth,
        }


def run_benchmarks(
    names: Sequence[str], size: str, tell: Callable[[str], None]
) -> tuple[Machine, list[Result]]:
    """Measure the machine, then every line at full size and, where that matters, at a tenth of it.

    Args:
        names: benchmarks to run; all where empty.
        size: one of `SIZES`.
        tell: receives what is known, as soon as it is.

    Raises:
        InputError: an unknown name or size.
    """
    for name in names:
        if name not in BENCHMARKS:
            raise InputError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    if size not in SIZES:
        raise InputError(f"no size {size!r}; there are {', '.join(SIZES)}")
    results: list[Result] = []
    with TemporaryDirectory() as folder:
        places = Path(folder) / "whole", Path(folder) / "tenth"
        for place in places:
            place.mkdir()
        machine = Machine.measure(places[0])
        tell(f"machine: {machine}")
        whole = Workload(SIZES[size], places[0])
        tenth = Workload(SIZES[size].tenth(), places[1])
        for name in dict.fromkeys(names or BENCHMARKS):
            lines = list(BENCHMARKS[name](whole, machine))
            smaller = lines if name in FIXED else BENCHMARKS[name](tenth, machine)
            for measured, small in zip(lines, smaller, strict=True):
                if size != JUDGED:
                    measured = measured.unjudged()
                tell(f"{name}: {measured}")
                results.append(Result(name, measured, small))
    return machine, results


def format_growth(results: Sequence[Result], size: str) -> str:
    """How the time of each line grows from a tenth of the work to all of it."""
    rows = [("line", "size", "a tenth", "all", "of linear growth", "")]
    for result in results:
        if result.benchmark in FIXED:
            continue
        growth = result.growth
        linear = size != JUDGED or LINEAR[0] <= growth <= LINEAR[1]
        rows.append(
            (
                result.whole.line,
                result.whole.size,
                f"{median(result.tenth.seconds):.3g} s",
                f"{median(result.whole.seconds):.3g} s",
                f"{growth:.2f}",
                "" if linear else "MISSED",
            )
        )
    return plain_columns(rows)
