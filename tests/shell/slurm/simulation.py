#!/usr/bin/env python3
"""A cluster that exists on paper: Slurm's commands, whose tasks are killed and fail at random.

    python tests/shell/slurm/simulation.py --jobs 10000 --killed 0.02 --failed 0.01

sends that many jobs through utils/launch.sh, and prints what became of them. Tasks do run, by the
launcher's own script, some at a time; those that are killed leave nothing behind, as when a node
is lost. A job's fate depends on the seed, its number and the attempt alone.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LAUNCH = Path(__file__).resolve().parents[3] / "utils/launch.sh"
COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")
SETTINGS = "NESSA_SIMULATION"  # in the environment of the commands


@dataclass(frozen=True)
class Simulation:
    """What happens to tasks.

    Attributes:
        folder: holds the count of each job's attempts, and the calls of sbatch.
        killed: chance that a task is killed.
        failed: chance that its command fails.
        array_size: of the cluster.
        seed: of the fates.
    """

    folder: str
    killed: float
    failed: float
    array_size: int
    seed: int

    def fate(self, job: int, attempt: int) -> str:
        """What becomes of a job's attempt, from 0: done, failed or killed."""
        draw = np.random.default_rng([self.seed, job, attempt]).random()
        if draw < self.killed:
            return "killed"
        return "failed" if draw < self.killed + self.failed else "done"


@dataclass(frozen=True)
class Outcome:
    """What a run of the launcher came to."""

    status: int
    seconds: float
    fates: Counter[str]  # of all attempts
    arrays: int  # that were submitted
    unfinished: list[int]  # jobs without success
    said: str


def simulate(jobs: int, retries: int, simulation: Simulation) -> Outcome:
    """Send jobs 0 to `jobs` - 1 through the launcher."""
    folder = Path(simulation.folder)
    (folder / "bin").mkdir()
    for name in COMMANDS:
        (folder / "bin" / name).symlink_to(Path(__file__).resolve())
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        SETTINGS: json.dumps(simulation.__dict__),
    }
    words = ["--backend", "slurm", "--name", "simulated", "--scratch", str(folder), "--nj", "9999"]
    words += ["--log", f"{folder}/log/{{1}}.log", "--retries", str(retries)]
    start = time.monotonic()
    done = subprocess.run(
        [
            LAUNCH,
            *words,
            "--",
            "bash",
            "-c",
            f"[[ $FATE == done ]] && echo x >>{folder}/made.{{1}}",
        ],
        env=environment,
        input=" ".join(map(str, range(jobs))),
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - start
    attempts = [len(list_lines(folder / f"attempts.{job}")) for job in range(jobs)]
    fates = Counter(
        simulation.fate(job, attempt) for job in range(jobs) for attempt in range(attempts[job])
    )
    unfinished = [job for job in range(jobs) if not list_lines(folder / f"made.{job}")]
    arrays = len(list_lines(folder / "arrays"))
    return Outcome(done.returncode, seconds, fates, arrays, unfinished, done.stdout + done.stderr)


def list_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# --- Slurm's commands, as links to this file -----------------------------------------------------


def sbatch(simulation: Simulation, words: list[str]) -> int:
    """Run the tasks of an array; what `--wait --parsable` prints and returns."""
    options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
    script, base = words[-2:]
    tasks = numbers(options["--array"].partition("%")[0])
    assert max(tasks) < simulation.array_size, "an array beyond MaxArraySize"
    folder = Path(simulation.folder)
    with open(folder / "arrays", "a") as file:
        print(options["--array"], file=file)
    print(len(list_lines(folder / "arrays")), flush=True)

    def run(task: int) -> int:
        count = folder / f"attempts.{int(base) + task}"
        fate = simulation.fate(int(base) + task, len(list_lines(count)))
        with open(count, "a") as file:
            print(fate, file=file)
        if fate == "killed":
            return 1
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "FATE": fate}
        with open(options["--output"].replace("%a", str(task)), "w") as output:
            return subprocess.run(
                ["bash", script, base], env=environment, stdout=output, stderr=output
            ).returncode

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return max(pool.map(run, tasks))


def numbers(text: str) -> list[int]:
    """ "3,5-7" -> [3, 5, 6, 7]."""
    found: list[int] = []
    for part in text.split(","):
        first, last = re.fullmatch(r"(\d+)(?:-(\d+))?", part).groups()  # type: ignore[union-attr]
        found += range(int(first), int(last or first) + 1)
    return found


def command(name: str, words: list[str]) -> int:
    simulation = Simulation(**json.loads(os.environ[SETTINGS]))
    if name == "sbatch":
        return sbatch(simulation, words)
    if name == "scontrol":
        print(f"MaxArraySize            = {simulation.array_size}")
    return 0  # squeue: nothing is left once sbatch has returned


def main() -> None:
    parser = argparse.ArgumentParser(description="Jobs through the launcher, on paper.")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--killed", type=float, default=0.02)
    parser.add_argument("--failed", type=float, default=0.01)
    parser.add_argument("--retries", type=int, default=2)
    parser.add_argument("--array-size", type=int, default=1001)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(
            folder, options.killed, options.failed, options.array_size, options.seed
        )
        outcome = simulate(options.jobs, options.retries, simulation)
    print(f"{options.jobs} jobs in {outcome.arrays} arrays, {outcome.seconds:.0f} s")
    print(", ".join(f"{count} attempts {fate}" for fate, count in sorted(outcome.fates.items())))
    print(f"{len(outcome.unfinished)} jobs without success, exit status {outcome.status}")
    print(outcome.said)


if __name__ == "__main__":
    name = Path(sys.argv[0]).name
    if name in COMMANDS:
        sys.exit(command(name, sys.argv[1:]))
    main()
