"""What is asked of a cluster: checked before anything is submitted."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nessa.recipe.stages import STAGES
from tests.conftest import ROOT, Command, run_recipe
from tests.shell.slurm.simulation import Simulation, simulate


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "stages: {encoder: {cpus: 4}}",
            ["stages.encoder: no such stage; did you mean 'encoders'?"],
        ),
        ("defaults: {tme: '30'}", ["defaults.tme", "did you mean 'time'?"]),
        ("defaults: {time: 4:00:00}", ["defaults.time", "in quotes"]),
        ("defaults: {time: soon}", ["defaults.time", "'soon'"]),
        ("defaults: {options: [qos=long]}", ["defaults.options", "--qos=long"]),
        ("defaults: {options: [--cpus-per-task=4]}", ["defaults.options", "write cpus: N"]),
        ("retries: -1", ["retries"]),
        ("stages: {align: {cpus: 4}, align: {cpus: 8}}", ["line 1", "'align' is there twice"]),
        ("defaults: {nodes: 2}", ["defaults.nodes", "write it under stages.encoders"]),
        (
            "stages: {encoders: {nodes: 2}, align: {processes: 4}}",
            ["stages.align.processes", "write it under stages.encoders"],
        ),
    ],
)
def test_wrong_settings_are_named(
    nessa: Command, tmp_path: Path, text: str, parts: list[str]
) -> None:
    conf = tmp_path / "slurm.yaml"
    conf.write_text(text)
    nessa("recipe", "slurm", "--conf", conf).refused(str(conf), *parts)


def test_a_stage_s_settings_go_before_the_defaults_key_by_key(
    nessa: Command, tmp_path: Path
) -> None:
    conf = tmp_path / "slurm.yaml"
    conf.write_text(
        "defaults: {memory: 4G, time: '30', options: [--qos=long],\n"
        '  setup: [module load a, "b\\n c"]}\n'
        "stages: {encoders: {memory: 9G, gpus: 2, processes: 2, nodes: 3}}\n"
    )
    lines = nessa("recipe", "slurm", "--conf", conf).out.splitlines()
    assert lines[0] == "retries 2"
    assert [line for line in lines if line.startswith("encoders.")] == [
        "encoders.processes 2",
        "encoders.cpus 1",
        *(
            f"encoders.sbatch --{option}"
            for option in (
                "time=30",
                "mem=9G",
                "cpus-per-task=1",
                "gpus-per-node=2",
                "nodes=3",
                "qos=long",
            )
        ),
        "encoders.setup module load a",
        "encoders.setup b",  # a line each, as run.sh reads them
        "encoders.setup c",
    ]
    assert sum(".processes " in line for line in lines) == 1
    assert "extract.sbatch --mem=4G" in lines and "extract.sbatch --nodes=1" in lines


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("defaults: {cpus: 8}", "align, map, report, export"),
        ("defaults: {cpus: 8}\nstages: {align: {cpus: 1}, report: {cpus: 1}}", "map, export"),
        ("stages: {align: {cpus: 4}, prepare: {cpus: 4}}", "align"),
        ("stages: {prepare: {cpus: 4}, extract: {cpus: 4}}", ""),
    ],
)
def test_cpus_that_no_job_of_a_stage_uses_are_warned_about(
    nessa: Command, tmp_path: Path, text: str, stages: str
) -> None:
    conf = tmp_path / "slurm.yaml"
    conf.write_text(text)
    done = nessa("recipe", "slurm", "--conf", conf)
    assert done.status == 0
    told = f"{conf}: the jobs of {stages} use one CPU, more would be reserved for nothing; "
    assert told in done.err if stages else not done.err


@pytest.mark.slow
def test_run_checks_them_first(tmp_path: Path) -> None:
    conf = tmp_path / "slurm.yaml"
    conf.write_text("retries: many")
    options = ("--backend", "slurm", "--slurm-conf", str(conf))
    run_recipe(tmp_path / "work", *options).refused(str(conf), "retries")
    run_recipe(tmp_path / "work", "--backend", "pbs").refused("must be local or slurm")


@pytest.mark.slow
def test_a_dry_run_shows_what_would_be_submitted_and_leaves_no_trace(tmp_path: Path) -> None:
    work = tmp_path / "work"
    options = ("--size", "tiny", "--backend", "slurm", "--nj", "3", "--sbatch=--account=speech")
    done = run_recipe(work, *options, "--dry-run", "true")
    assert done.status == 0, done.err
    lines = [line.split() for line in done.out.splitlines() if line.startswith("  sbatch ")]
    calls = [dict(word.split("=", 1) for word in line if "=" in word) for line in lines]
    extract = [call for call in calls if call["--job-name"].endswith("-extract")]
    assert [call["--array"] for call in extract] == ["0%3", "0-3%3", "0-1%3"]
    assert {(call["--mem"], call["--account"]) for call in extract} == {("4G", "speech")}
    assert f"the first, with its log in {work}/exp/log/extract/old.1.log:" in done.out
    assert len({call["--job-name"] for call in calls}) == len(STAGES)
    assert not work.exists()


@pytest.mark.slow
def test_the_cores_of_the_host_that_submits_do_not_limit_the_tasks(tmp_path: Path) -> None:
    options = (
        "--size",
        "tiny",
        "--backend",
        "slurm",
        "--stage",
        "extract",
        "--stop-stage",
        "extract",
    )
    done = run_recipe(tmp_path / "work", *options, "--dry-run", "true")
    assert re.findall(r"--array=(\S+)", done.out) == ["0%9999", "0-3%9999", "0-1%9999"]
    done = run_recipe(tmp_path / "work", *options, "--dry-run", "true", "--max-jobs-run", "3")
    assert re.findall(r"--array=(\S+)", done.out) == ["0%3", "0-3%3", "0-1%3"]


@pytest.mark.slow
@pytest.mark.parametrize(("cpus", "workers"), [(16, 4), (2, 1)])
def test_the_processes_of_a_training_share_the_cpus_of_their_node(
    tmp_path: Path, cpus: int, workers: int
) -> None:
    conf = tmp_path / "slurm.yaml"
    conf.write_text(f"stages: {{encoders: {{gpus: 4, processes: 4, cpus: {cpus}}}}}")
    options = ("--size", "tiny", "--backend", "slurm", "--slurm-conf", str(conf))
    stage = ("--stage", "encoders", "--stop-stage", "encoders")
    done = run_recipe(tmp_path / "work", *options, *stage, "--dry-run", "true")
    assert done.status == 0, done.err
    assert f" --workers {workers} " in done.out


@pytest.mark.slow
def test_a_job_of_an_extraction_reads_with_all_cpus_but_its_own(tmp_path: Path) -> None:
    conf = tmp_path / "slurm.yaml"
    conf.write_text("stages: {extract: {gpus: 1, cpus: 6}}")
    options = ("--size", "tiny", "--backend", "slurm", "--slurm-conf", str(conf))
    stage = ("--stage", "extract", "--stop-stage", "extract")
    done = run_recipe(tmp_path / "work", *options, *stage, "--dry-run", "true")
    assert done.status == 0, done.err
    assert " --workers 5\n" in done.out


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("bash", "dirname", "realpath"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    words = ["--backend", "slurm", "--name", "x", "--log", "x", "--", "true"]
    done = subprocess.run(
        [ROOT / "utils/launch.sh", *words],
        env={"PATH": str(tmp_path)},
        input="a",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "sbatch is not here" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "retries"), [(1, 3), (2, 0)])
def test_jobs_are_tried_as_often_as_allowed_whatever_happens_to_them(
    tmp_path: Path, seed: int, retries: int
) -> None:
    """Of 250 jobs, in arrays of at most 100 tasks, every tenth attempt is killed or fails."""
    simulation = Simulation(str(tmp_path), 0.05, 0.05, 100, seed)
    outcome = simulate(250, retries, simulation)
    lost = [
        job
        for job in range(250)
        if all(simulation.fate(job, attempt) != "done" for attempt in range(retries + 1))
    ]
    assert outcome.unfinished == lost
    assert outcome.status == (1 if lost else 0)
    assert outcome.fates["done"] == 250 - len(lost)
    if retries == 0:
        assert lost and outcome.arrays == 3
        assert f"{len(lost)} of 250 jobs failed" in outcome.said
        assert f"log/{lost[0]}.log" in outcome.said
    else:
        assert outcome.fates["killed"] and outcome.fates["failed"]
        assert "trying them again (1 of 3)" in outcome.said
