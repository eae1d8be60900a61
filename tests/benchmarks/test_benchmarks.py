"""Benchmarks: what they work on and report. How long they take is for a person to read."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import accelerator
from benchmarks.__main__ import main
from benchmarks.alignment import flops_of
from benchmarks.measurement import Bound, Comparison, Measurement, in_turns, peak_memory
from benchmarks.running import BENCHMARKS
from benchmarks.workload import SIZES, Workload
from nessa.files import read_json
from tests.conftest import ROOT, Command


@pytest.fixture
def bench(in_process: Callable[[str, Callable[[], None]], Command]) -> Command:
    """`python -m benchmarks` inside this process."""
    return in_process("benchmarks", main)


def test_ours_and_the_others_take_turns() -> None:
    calls: list[str] = []
    seconds = in_turns(lambda: calls.append("a"), lambda: calls.append("b"), repeats=3)
    assert calls == ["a", "b"] * 3
    assert [len(taken) for taken in seconds] == [3, 3]


def test_a_line_shows_medians_ranges_ratios_and_what_is_missed() -> None:
    measured = Measurement(
        "work",
        "7 things",
        [3.0, 1.0, 2.0],
        [Comparison("sort", [0.5, 0.25, 4.0]), Comparison("peak", [1.5], wanted=0.8)],
        [Bound("memory, MiB", 12, 10)],
    )
    assert str(measured).splitlines() == [
        "work, 7 things: 2 s (1 to 3)",
        "  0.25 times as fast as sort: 0.5 s (0.25 to 4)",
        "  0.75 times as fast as (wanted 0.8) peak: 1.5 s",
        "  memory, MiB: 12 (wanted 10 at most)",
        "  MISSED: 0.75 times as fast as peak, wanted 0.8",
        "  MISSED: memory, MiB: 12, wanted 10 at most",
    ]
    assert len(measured.to_dict()["missed"]) == 2
    assert not measured.unjudged().missed() and "wanted" not in str(measured.unjudged())


def test_memory_is_that_of_the_work() -> None:
    assert 90e6 < peak_memory(lambda: np.ones(100_000_000, np.uint8)) < 130e6
    assert peak_memory(lambda: None) < 10e6


def test_memory_that_was_freed_and_is_kept_is_not_there_before() -> None:
    program = """if True:
        import numpy as np
        from benchmarks.measurement import peak_memory

        freed = [np.ones(20_000_000, np.uint8) for _ in range(10)]
        del freed
        print(peak_memory(lambda: np.ones(100_000_000, np.uint8)))"""
    keep = 'source utils/memory.sh; keep_freed_memory; exec "$@"'
    command = ["bash", "-c", keep, "bash", sys.executable, "-c", program]
    peak = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert 90e6 < int(peak) < 130e6


def test_products_are_counted() -> None:
    aligned = np.ones((3, 5), np.float32)
    from torch import from_numpy

    assert flops_of(lambda: from_numpy(aligned) @ from_numpy(aligned.T.copy())) == 2 * 3 * 5 * 3


def test_a_reference_that_is_not_installed_is_named(
    bench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("benchmarks.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn.metrics.pairwise", None)
    bench().refused("scikit-learn", "pip install 'nessa[bench]'")


def test_the_workload_has_its_size_whatever_the_speakers() -> None:
    size = SIZES["small"]
    workload = Workload(size, Path())
    enroll, runtime, utt2spk = workload.align
    assert enroll.keys == runtime.keys == list(utt2spk) == sorted(utt2spk)
    assert (len(enroll), enroll.dim, runtime.dim) == (size.utterances, 256, 192)
    counts = np.unique(list(utt2spk.values()), return_counts=True)[1]
    assert len(counts) == size.speakers and np.ptp(counts) <= 1
    trials, speakers = workload.trials, workload.eval[2]
    assert len(trials) == size.trials
    same = [speakers[e] == speakers[t] for e, t in zip(trials.enroll, trials.test, strict=True)]
    assert trials.labels is not None and trials.labels.tolist() == same
    assert 0.5 <= np.mean(same) < 0.6
    assert np.array_equal(Workload(size, Path()).align[0].matrix, enroll.matrix)


def test_voxceleb_is_as_large_as_it_is() -> None:
    size = SIZES["voxceleb"]
    assert (size.speakers, size.utterances, size.trials) == (5994, 1_092_009, 579_818)
    assert size.tenth().utterances == 109_200 and size.tenth().cohort == size.cohort == 5994


@pytest.mark.slow
def test_every_benchmark_reports_its_lines_and_their_growth(bench: Command, tmp_path: Path) -> None:
    done = bench("--output", tmp_path / "bench.json")
    assert done.status == 0, done
    record = read_json(tmp_path / "bench.json")
    assert record["size"] == "small" and record["machine"]["flops"] > 1e9
    assert list(dict.fromkeys(line["benchmark"] for line in record["lines"])) == list(BENCHMARKS)
    for line in record["lines"]:
        assert f"{line['benchmark']}: {line['line']}, {line['size']}: " in done.out
        assert line["comparisons"] or line["bounds"]
        assert min(*line["seconds"], *line["tenth"], line["growth"]) > 0
        assert all(min(other["ratio"], *other["seconds"]) > 0 for other in line["comparisons"])
        same = [b["value"] for b in line["bounds"] if b["what"].startswith("1 - cosine")]
        assert all(value < 1e-5 for value in same)
    assert "MISSED" not in done.out, "less work than is judged"


def test_unknown_benchmarks_are_refused_before_any_runs(bench: Command) -> None:
    done = bench("--only", "metrics", "--only", "metric")
    done.refused("no benchmark 'metric'", "metrics")
    assert done.out == ""


@pytest.mark.slow
def test_the_accelerators_figures_come_on_a_cpu_too() -> None:
    done = CliRunner().invoke(accelerator.run, catch_exceptions=False)
    assert done.exit_code == 0
    begins = [line.partition(":")[0] for line in done.output.splitlines()[1:]]
    assert begins[:4] == ["matrix product", "aligner", "extraction", "training"]
    assert "2,400 pairs" in done.output and "1 - cosine at most" in done.output
