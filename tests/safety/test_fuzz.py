"""Damaged files of every kind are read as written or refused, quickly, in little memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import ROOT
from tests.fuzzing import KINDS

# Inputs of each kind in the full run, 20,000 and some together; those that take long get fewer.
COUNTS = dict.fromkeys(KINDS, 1000) | {"ark": 3500, "scp": 2500, "trials": 2500, "recipe": 1500}
COUNTS |= {"checkpoint": 500, "encoder": 700, "weights": 700}
QUICK = ("ark", "scp", "trials")
Fuzz = Callable[[str, int, int], dict]


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzz]:
    """`fuzz` in processes of their own, whose memory is limited."""
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    errors = tmp_path_factory.mktemp("fuzzing") / "stderr"
    with (
        open(errors, "w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "tests.fuzzing"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def fuzz(name: str, count: int, seed: int) -> dict:
            print(name, count, seed, file=stdin, flush=True)
            answer = json.loads(stdout.readline() or "{}")
            assert "unexplained" in answer, (answer, errors.read_text()[-3000:])
            return answer

        yield fuzz
        stdin.close()
    assert process.returncode == 0, errors.read_text()[-3000:]


def check(report: dict, count: int) -> None:
    unexplained = report["unexplained"]
    assert not unexplained, f"{len(unexplained)} of {count}:\n" + "\n".join(unexplained[:5])
    assert report["read"] + report["refused"] == count
    assert report["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_some_damaged_files_are_read_or_refused(name: str, fuzzer: Fuzz) -> None:
    check(fuzzer(name, 150, 1), 150)


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_damaged_files_are_read_or_refused(name: str, fuzzer: Fuzz) -> None:
    check(fuzzer(name, COUNTS[name], 2), COUNTS[name])


def test_there_are_enough_inputs() -> None:
    assert sum(COUNTS.values()) >= 20_000
