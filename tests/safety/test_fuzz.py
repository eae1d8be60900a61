"""Damaged files of every kind are read as written or refused, quickly, in little memory."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.fuzzing import KINDS

# Inputs of each kind in the full run, 20,000 and some together; those that take long get fewer.
COUNTS = dict.fromkeys(KINDS, 1000) | {"ark": 3500, "scp": 2500, "trials": 2500, "recipe": 1500}
COUNTS |= {"checkpoint": 500, "encoder": 700, "weights": 700}
QUICK = ("ark", "scp", "trials")


def fuzz(name: str, count: int, seed: int) -> dict:
    """In a process of its own, whose memory is limited."""
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.fuzzing", name, str(count), str(seed)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(report: dict, count: int) -> None:
    unexplained = report["unexplained"]
    assert not unexplained, f"{len(unexplained)} of {count}:\n" + "\n".join(unexplained[:5])
    assert report["read"] + report["refused"] == count
    assert report["refused"]


@pytest.mark.parametrize("name", QUICK)
def test_some_damaged_files_are_read_or_refused(name: str) -> None:
    check(fuzz(name, 150, seed=1), 150)


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_damaged_files_are_read_or_refused(name: str) -> None:
    check(fuzz(name, COUNTS[name], seed=2), COUNTS[name])


def test_there_are_enough_inputs() -> None:
    assert sum(COUNTS.values()) >= 20_000
