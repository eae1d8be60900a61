"""Benchmarks: what they report. How long they take is for a person to read, never for a test."""

from pathlib import Path

import pytest

from nessa.bench import BENCHMARKS, Measurement, compare
from nessa.files import read_json
from tests.conftest import Command


def test_ours_and_the_reference_take_turns() -> None:
    calls: list[str] = []
    measured = compare("work", lambda: calls.append("a"), "other", lambda: calls.append("b"), 3)
    assert calls == ["b", "a"] * 3
    assert len(measured.seconds) == len(measured.reference_seconds) == 3


def test_a_line_shows_medians_ranges_and_their_ratio() -> None:
    measured = Measurement("work", [3.0, 1.0, 2.0], "sort", [0.5, 0.25, 4.0])
    assert measured.ratio == 4
    assert str(measured) == "work: 2 s (1 to 3); sort: 0.5 s (0.25 to 4); ratio 4.00"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_prints_and_writes_its_measurements(
    nessa: Command, tmp_path: Path, name: str
) -> None:
    done = nessa("bench", "--only", name, "--output", tmp_path / "bench.json")
    assert done.status == 0
    records = read_json(tmp_path / "bench.json")
    assert len(records) == len(done.out.splitlines()) > 0
    for entry, line in zip(records, done.out.splitlines(), strict=True):
        assert line.startswith(f"{name}: {entry['what']}: ") and entry["reference"] in line
        assert (entry["benchmark"], entry["size"]) == (name, "small")
        assert len(entry["seconds"]) == len(entry["reference_seconds"]) >= 3
        assert min(*entry["seconds"], *entry["reference_seconds"], entry["ratio"]) > 0
        assert entry["machine"].keys() == {"cpus", "architecture", "python", "numpy"}


def test_unknown_benchmarks_are_refused_before_any_runs(nessa: Command) -> None:
    done = nessa("bench", "--only", "metrics", "--only", "metric")
    done.refused("no benchmark 'metric'", "metrics")
    assert done.out == ""
