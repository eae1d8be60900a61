"""The backend `slurm`, on a real Slurm of one node that the tests start on the loopback."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_recipe, start_recipe, stdin_of
from tests.shell.test_launch import wait_for
from tests.shell.test_pipeline import assert_same, outcome

CLUSTER = Path(__file__).with_name("cluster.sh")
LAUNCH = ROOT / "utils/launch.sh"
DAEMONS = [shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("slurmctld",)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(DAEMONS), reason="Slurm is not installed; .ci/run says how"),
]
Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A node of 8 cores, whatever the machine has; arrays have 6 tasks at most."""
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([CLUSTER, "--array-size", "6", "start", folder], check=True)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield
    subprocess.run([CLUSTER, "stop", folder], check=True)
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before


@pytest.fixture
def launch(cluster: None, tmp_path: Path) -> Launch:
    """Starts jobs; the name of what they do in Slurm's queue is that of the test."""

    def start(jobs: str, script: str, *options: str) -> subprocess.Popen[str]:
        words = ["--backend", "slurm", "--name", tmp_path.name, "--scratch", ".", "--nj", "4"]
        words += ["--log", "log/{1}.log", *options, "--", "bash", "-c", script]
        return subprocess.Popen(
            [LAUNCH, *words],
            cwd=tmp_path,
            stdin=stdin_of(jobs),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


def queue(*columns: str, name: str | None = None) -> list[list[str]]:
    """The columns of every task in the queue, an array's waiting ones each."""
    words = ["squeue", "--noheader", "--array", "--format", " ".join(columns)]
    words += ["--name", name] if name else []
    listed = subprocess.run(words, capture_output=True, text=True, check=True)
    return [line.split() for line in listed.stdout.splitlines()]


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_jobs_become_tasks_of_arrays_of_the_size_that_the_cluster_allows(
    launch: Launch, tmp_path: Path
) -> None:
    jobs = " ".join(f"j{number}:x" for number in range(14))
    script = "echo {1} {2} $SLURM_ARRAY_TASK_ID $SLURM_CPUS_PER_TASK $FROM_SETUP; sleep 0.2"
    options = ["--sbatch=--cpus-per-task=2", "--setup", "export FROM_SETUP='set up'"]
    ours = ("--job-name=mine", "--array=7", "--output=/dev/null")
    options += [f"--sbatch={option}" for option in ours]
    status, _, err = finished(launch(jobs, script, *options))
    assert status == 0, err
    for number in range(14):
        log = (tmp_path / f"log/j{number}.log").read_text()
        assert f"\nj{number} x {number % 6} 2 set up\n" in log
        assert "\n# exit code 0 after " in log
    assert not list(tmp_path.glob(".jobs.*"))
    assert queue("%i", name=tmp_path.name) == []


def test_lines_of_setup_may_use_variables_that_are_not_set(launch: Launch) -> None:
    """As many scripts of sites do, and `conda activate`."""
    options = ("--show", "true", "--setup", 'export MODULES="$NOT_SET_HERE:mine"')
    status, out, err = finished(launch("a", "echo $MODULES", *options))
    assert (status, out) == (0, ":mine\n"), err


def test_a_canceled_task_is_run_again(launch: Launch, tmp_path: Path) -> None:
    script = "echo x >>count.{1}; [[ {1} != b || $(wc -l <count.b) != 1 ]] || sleep 300"
    process = launch("a b c", script, "--retries", "1")
    wait_for((tmp_path / "count.b").exists)
    (job,) = {one[0] for one in queue("%i", name=tmp_path.name) if one[0].endswith("_1")}
    subprocess.run(["scancel", job], check=True)
    status, out, err = finished(process)
    assert status == 0, err
    assert "1 of 3 jobs failed; trying them again (1 of 1)" in out
    counts = {job: (tmp_path / f"count.{job}").read_text().count("x") for job in "abc"}
    assert counts == {"a": 1, "b": 2, "c": 1}


def test_when_retries_are_used_up_the_log_is_named(launch: Launch, tmp_path: Path) -> None:
    script = "echo the reason of {1} >&2; echo x >>count.{1}; [[ {1} == a ]] || kill -KILL $$"
    status, _, err = finished(launch("a b", script, "--retries", "1"))
    assert status == 1
    assert "1 of 2 jobs failed" in err and "log/b.log" in err and "the reason of b" in err
    assert (tmp_path / "count.b").read_text().count("x") == 2


def test_bad_input_is_not_tried_again(launch: Launch, tmp_path: Path) -> None:
    status, out, _ = finished(launch("a b", "echo x >>count.{1}; exit 2", "--retries", "3"))
    assert status == 2 and "again" not in out
    assert (tmp_path / "count.a").read_text() == "x\n"


def test_what_sbatch_refuses_is_told(launch: Launch) -> None:
    status, _, err = finished(launch("a", "true", "--sbatch=--partition=nowhere"))
    assert status == 1 and "sbatch refused the job" in err and "invalid partition" in err


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_launcher_leaves_no_job_in_the_queue(
    launch: Launch, tmp_path: Path, sent: signal.Signals
) -> None:
    process = launch("a b c d e f g h", "touch started.{1}; sleep 300")
    wait_for((tmp_path / "started.a").exists)
    process.send_signal(sent)
    status, _, err = finished(process)
    assert status == 128 + sent and "stopped, with all jobs" in err
    assert queue("%i %j", name=tmp_path.name) == []


def test_output_is_shown_where_it_is_asked_for(launch: Launch) -> None:
    assert finished(launch("a", "echo the result", "--show", "true"))[1] == "the result\n"


# --- a recipe -----------------------------------------------------------------------------------


@pytest.fixture
def prepared(tiny: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny / "data", tmp_path / "data")
    return tmp_path


OPTIONS = ("--size", "tiny", "--backend", "slurm", "--nj", "8", "--stage", "2", "--stop-stage", "3")


def test_training_and_extraction_end_with_the_bytes_of_the_local_run(
    cluster: None, tiny: Path, prepared: Path
) -> None:
    """A training is killed on the way, and tried again by Slurm."""
    process = start_recipe(prepared, *OPTIONS)
    checkpoint = prepared / "exp/encoders/new/checkpoint.pt"
    wait_for(checkpoint.exists, 90)
    (job,) = (row[0] for row in queue("%i %j") if row[1].startswith("nessa-") and "_1" in row[0])
    subprocess.run(["scancel", job], check=True)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, (out, err)
    assert "trying them again" in out
    made = ("exp/encoders/", "exp/embeddings/")
    expected = {name: data for name, data in outcome(tiny).items() if name.startswith(made)}
    found = outcome(prepared, tiny)
    assert_same({name: data for name, data in found.items() if name.startswith(made)}, expected)


def test_a_killed_run_keeps_others_out_until_its_jobs_are_gone(
    cluster: None, prepared: Path
) -> None:
    process = start_recipe(prepared, *OPTIONS)
    wait_for((prepared / "exp/log/encoders/new.log").exists, 60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for backend in ("slurm", "local"):
        done = run_recipe(prepared, "--size", "tiny", "--backend", backend)
        assert done.status == 1 and "in use by jobs of an earlier run" in done.err
    name = done.err.rsplit("--name=", 1)[1].split()[0]
    subprocess.run(["scancel", f"--name={name}"], check=True)
    wait_for(lambda: queue("%i", name=name) == [])
    done = run_recipe(prepared, "--size", "tiny", "--stop-stage", "corpus")
    assert done.status == 0, done.err


def test_a_stopped_run_leaves_no_job_in_the_queue(cluster: None, prepared: Path) -> None:
    process = start_recipe(prepared, *OPTIONS)
    wait_for((prepared / "exp/log/encoders/new.log").exists, 60)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [row for row in queue("%j %i") if row[0].startswith("nessa-")] == []
