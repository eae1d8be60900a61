"""Kills, full disks and lost folders at any moment: a run that is started again ends the same."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from nessa.recipe.stages import STAGES
from tests.conftest import ROOT, copy_work_dir, run_recipe, start_recipe
from tests.shell.test_pipeline import assert_same, outcome

pytestmark = pytest.mark.slow

KILLS = 30
FULL_DISKS = 20
LITTLE_ROOM = 32  # KiB
# One aligner is enough, and what comes after its scores takes long to start and makes little.
OPTIONS = ("--size", "tiny", "--stop-stage", "asymmetric", "--set", "baselines=[]")
OPTIONS += ("--set", "controls=false", "--set", "aligner.seeds=[1]")
MADE = ("encoders", "embeddings", "aligners", "mapped", "scores")


def assert_same_as(work_dir: Path, tiny: Path) -> None:
    """Everything that `work_dir` holds is as in the undisturbed run, and all of it is there."""
    made = (*(f"exp/{folder}/" for folder in MADE), "data/")
    expected = outcome(tiny)
    found = {name: data for name, data in outcome(work_dir).items() if name.startswith(made)}
    assert_same(found, {name: expected[name] for name in found})
    for name in (*made[:2], "exp/mapped/nessa/new-old/", "exp/scores/nessa/old-new/", "data/"):
        assert {other for other in expected if other.startswith(name)} <= found.keys()


def stages_done(work_dir: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return sum(not name.endswith(".tmp") for name in os.listdir(work_dir / "exp/.done"))
    return 0


def has_reached(moment: int, work_dir: Path, started: int, done_before: int) -> bool:
    """Moment 0: the run has begun; 1: a job of it has; 2: it has finished a stage."""
    if moment == 1:
        logs = (work_dir / "exp/log").rglob("*.log")
        return any(path.stat().st_mtime_ns > started for path in logs)
    return moment == 0 or stages_done(work_dir) > done_before


def kill_after(moment: int, work_dir: Path, seconds: float, nj: int) -> bool:
    """Run, and kill everything some seconds after a moment; see `has_reached`.

    Tells whether it was still running.
    """
    started, done_before = time.time_ns(), stages_done(work_dir)
    process = start_recipe(work_dir, "--nj", str(nj), *OPTIONS)
    while process.poll() is None and not has_reached(moment, work_dir, started, done_before):
        time.sleep(0.05)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    running = process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    out, err = process.communicate()
    assert running or process.returncode == 0, (out, err)
    return running


def test_thirty_kills_at_random_moments_change_no_byte(tiny: Path, tmp_path: Path) -> None:
    """With 1, 2 and 8 jobs in turns; slow as the machine may be, every third finishes a stage."""
    rng = np.random.default_rng(20240112)
    kills = 0
    seen: Counter[int] = Counter()
    while kills < KILLS:
        if stages_done(tmp_path) == 8:  # done before the last kill: make the later stages again
            for stage in STAGES[2:8]:
                (tmp_path / f"exp/.done/{stage}").unlink()
            for folder in MADE:
                shutil.rmtree(tmp_path / "exp" / folder)
        if kill_after(kills % 3, tmp_path, rng.uniform(0, 3), (1, 2, 8)[kills // 3 % 3]):
            kills += 1
            seen[stages_done(tmp_path)] += 1
    assert len(seen) >= 6, f"killed with so many stages done, so often: {seen}"
    done = run_recipe(tmp_path, *OPTIONS)
    assert done.status == 0, done.err
    assert_same_as(tmp_path, tiny)


# --- a disk that is full ------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in memory, where there is the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "nessa-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no right to mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def leave_free(disk: Path, kib: int) -> None:
    size = shutil.disk_usage(disk).used // 1024 + kib
    subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)


def test_a_disk_that_is_full_again_and_again_changes_no_byte(tiny: Path, small_disk: Path) -> None:
    """In every stage it has little room, and more after each failure; runs carry on from there."""
    work_dir = small_disk / "work"
    failures: Counter[str] = Counter()
    for stage in STAGES[:8]:
        for step in count():
            leave_free(small_disk, LITTLE_ROOM * 5**step)
            done = run_recipe(work_dir, *OPTIONS, "--stop-stage", stage)
            if done.status == 0:
                break
            failures[stage] += 1
            said = done.out + done.err
            assert done.status == 1, said
            assert "Traceback" not in said
            assert "No space left on device" in said or "full" in said, said
    assert failures.total() >= FULL_DISKS and len(failures) >= 6, failures
    assert_same_as(work_dir, tiny)


def test_a_failed_job_is_not_taken_for_done_where_its_exit_code_cannot_be_written(
    small_disk: Path, tmp_path: Path
) -> None:
    (small_disk / "scratch").mkdir()
    fill = f"head -c 2000000 /dev/zero >{small_disk}/filler 2>/dev/null; exit 3"
    words = ["--scratch", f"{small_disk}/scratch", "--log", f"{tmp_path}/log"]
    launch = [ROOT / "utils/launch.sh", *words, "--", "bash", "-c", fill]
    done = subprocess.run(launch, input="a", capture_output=True, text=True)
    assert done.returncode == 1 and "1 of 1 jobs failed" in done.stderr


# --- other accidents ----------------------------------------------------------------------------


def test_a_disk_that_is_read_only_is_named(tiny: Path, small_disk: Path) -> None:
    leave_free(small_disk, 200_000)
    work_dir = copy_work_dir(tiny, small_disk / "work")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = run_recipe(work_dir, "--size", "tiny", "--stage", "extract")
    assert done.status == 1 and f"cannot write to {work_dir}/exp" in done.err
    embeddings = work_dir / "exp/embeddings/old/eval"
    words = ["map", "--aligner", work_dir / "exp/aligners/nessa/old-old", "--enroll", embeddings]
    words += ["--runtime", embeddings, "--output", work_dir / "mapped"]
    nessa = [sys.executable, "-m", "nessa.cli", *words]
    direct = subprocess.run(nessa, cwd=ROOT, capture_output=True, text=True)
    assert direct.returncode == 1 and "Traceback" not in direct.stderr
    assert f"{work_dir}/mapped" in direct.stderr and "Read-only file system" in direct.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    done = run_recipe(Path("/proc/work"), "--size", "tiny")
    assert done.status == 1 and "cannot write to /proc/work" in done.err
    (tmp_path / "file").touch()
    done = run_recipe(tmp_path / "file", "--size", "tiny")
    assert done.status == 1 and f"cannot write to {tmp_path / 'file'}" in done.err


def test_a_log_folder_that_is_removed_meanwhile_loses_nothing(tiny: Path, tmp_path: Path) -> None:
    for folder in ("data", "exp/encoders"):
        shutil.copytree(tiny / folder, tmp_path / folder)
    process = start_recipe(tmp_path, "--size", "tiny", "--stage", "3", "--stop-stage", "3")
    while process.poll() is None:
        shutil.rmtree(tmp_path / "exp/log", ignore_errors=True)
        time.sleep(0.05)
    _, err = process.communicate()
    assert process.returncode == 0, err
    expected = {k: v for k, v in outcome(tiny).items() if k.startswith("exp/embeddings/")}
    found = outcome(tmp_path, tiny)
    assert_same({name: found[name] for name in expected}, expected)


def test_times_that_go_backwards_change_nothing(tiny: Path, tmp_path: Path) -> None:
    """What is up to date is told by content: a clock that was wrong does not matter."""
    shutil.copytree(tiny, tmp_path / "work")
    for number, path in enumerate(sorted((tmp_path / "work").rglob("*"))):
        os.utime(path, (4e9 - 1000 * number,) * 2)
    before = outcome(tmp_path / "work", tiny)
    done = run_recipe(tmp_path / "work", "--size", "tiny")
    assert done.status == 0 and "all done before" in done.out
    done = run_recipe(tmp_path / "work", "--size", "tiny", "--stage", "3", "--stop-stage", "4")
    assert done.status == 0, done.err
    found = outcome(tmp_path / "work", tiny)
    for name in set(before) - set(found):
        assert name.startswith("exp/.done/")
    assert_same(found, {name: before[name] for name in found})
