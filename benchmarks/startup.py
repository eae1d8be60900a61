"""How long the command line takes to answer: `--help` of every command."""

import subprocess
import sys
from collections.abc import Iterator
from statistics import median

from benchmarks.machine import Machine
from benchmarks.measurement import Bound, Comparison, Measurement, in_turns
from benchmarks.workload import Workload

MOST = 0.5  # seconds


def bench_startup(workload: Workload, machine: Machine) -> Iterator[Measurement]:
    """The slowest of all commands, beside a Python that does nothing."""
    from nessa.cli.main import cli

    seconds = {name: _times("-m", "nessa.cli", name, "--help") for name in cli.commands}
    slowest = max(seconds, key=lambda name: median(seconds[name]))
    yield Measurement(
        "nessa COMMAND --help",
        f"the slowest of {len(seconds)}, {slowest}",
        seconds[slowest],
        [Comparison("Python that does nothing", _times("-c", "pass"))],
        [Bound("seconds", median(seconds[slowest]), MOST)],
    )


def _times(*words: str) -> list[float]:
    def run() -> None:
        subprocess.run([sys.executable, *words], check=True, capture_output=True)

    return in_turns(run, repeats=3)[0]
