"""utils/launch.sh: many jobs, a log each, none left behind."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

LAUNCH = ROOT / "utils" / "launch.sh"


@pytest.fixture
def launch(tmp_path: Path):
    def run(jobs: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        return subprocess.run(
            [LAUNCH, "--log", "log/{1}.log", "--jobs", jobs, *options, "--", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    """Tell whether a process runs; one that only waits to be collected does not."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_log_tells_the_command_the_output_and_the_end(launch, tmp_path):
    assert launch("a", "bash", "-c", "echo out of {1}; echo err >&2").returncode == 0
    log = (tmp_path / "log/a.log").read_text().splitlines()
    assert log[0] == r"# bash -c echo\ out\ of\ a\;\ echo\ err\ \>\&2"
    assert re.fullmatch(r"# started at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", log[1])
    assert log[2:-1] == ["out of a", "err"]
    assert re.fullmatch(r"# exit code 0 after \d+ seconds at [-\d]+ [:\d]+", log[-1])


def test_fields_replace_placeholders_and_nothing_else_changes(launch, tmp_path):
    words = ["{1}", "{2}{1}", "a b", "*", "&", "-n", "", "{3}", "$HOME", "\\"]
    launch("x&y:new", "python3", "-c", "import sys; print(sys.argv[1:])", *words)
    expected = ["x&y", "newx&y", *words[2:]]
    assert str(expected) in (tmp_path / "log/x&y.log").read_text()


def test_a_second_run_replaces_the_log(launch, tmp_path):
    launch("a", "echo", "first")
    launch("a", "echo", "second")
    assert "first" not in (tmp_path / "log/a.log").read_text()


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_jobs_than_asked_for_run_at_once(launch, tmp_path, limit):
    jobs = " ".join(str(i) for i in range(8))
    step = "echo + >>events; sleep 0.2; echo - >>events"
    assert launch(jobs, "bash", "-c", step, options=("--nj", str(limit))).returncode == 0
    running, most = 0, 0
    for event in (tmp_path / "events").read_text().split():
        running += 1 if event == "+" else -1
        most = max(most, running)
    assert running == 0
    assert most == limit
    assert len(list((tmp_path / "log").iterdir())) == 8


@pytest.mark.parametrize(
    ("codes", "status"), [("0 0", 0), ("2 0", 2), ("2 2", 2), ("2 1", 1), ("0 3", 1)]
)
def test_the_status_tells_bad_input_from_other_failures(launch, codes, status):
    assert launch(codes, "bash", "-c", "exit {1}").returncode == status


def test_a_failure_is_reported_with_its_log_and_last_lines(launch):
    run = launch("0 7 8", "bash", "-c", "echo the reason of {1}; exit {1}", options=("--nj", "3"))
    assert "2 of 3 jobs failed" in run.stderr
    assert "log/7.log" in run.stderr
    assert "the reason of 7" in run.stderr
    assert "the reason of 8" not in run.stderr


def test_all_jobs_run_although_one_fails(launch, tmp_path):
    launch("1 0", "bash", "-c", "touch done.{1}; exit {1}")
    assert (tmp_path / "done.0").exists()


def test_a_job_killed_by_a_signal_still_closes_its_log(launch, tmp_path):
    run = launch("a", "bash", "-c", "echo begun; kill -KILL $$")
    assert run.returncode == 1
    log = (tmp_path / "log/a.log").read_text()
    assert "begun" in log
    assert "\n# exit code 137 after " in log


def test_a_missing_program_is_a_failed_job(launch, tmp_path):
    assert launch("a", "no-such-program").returncode == 1
    log = (tmp_path / "log/a.log").read_text()
    assert "no-such-program" in log
    assert "# exit code 127" in log


def test_show_copies_stdout_only(launch, tmp_path):
    command = ("bash", "-c", "echo result; echo progress >&2; exit 2")
    assert launch("a", *command).stdout == ""
    run = launch("a", *command, options=("--show", "true"))
    assert run.stdout == "result\n"
    assert run.returncode == 2
    log = (tmp_path / "log/a.log").read_text()
    assert "result\n" in log
    assert "progress\n" in log


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--log", "x", "--", "true"], "--jobs is missing"),
        (["--jobs", "a", "--", "true"], "--log is missing"),
        (["--jobs", "a", "--log", "x"], "the command is missing"),
        (["--jobs", "a", "--log", "x", "--nj", "0", "--", "true"], "--nj must be a whole number"),
        (["--jobs", "a", "--log", "x", "--backend", "pbs", "--", "true"], "unknown backend 'pbs'"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path, arguments, message):
    run = subprocess.run([LAUNCH, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2
    assert message in run.stderr


def start_sleepers(tmp_path: Path, prelude: str = "") -> tuple[subprocess.Popen, list[int]]:
    """Launch two jobs that each start a child and sleep; return all four jobs' process ids."""
    command = f"{prelude} sleep 300 & echo $! >{{1}}.child; echo $$ >{{1}}.job; wait; sleep 300"
    arguments = ["--nj", "2", "--log", "log/{1}.log", "--jobs", "a b c"]
    launcher = subprocess.Popen([LAUNCH, *arguments, "--", "bash", "-c", command], cwd=tmp_path)
    files = [tmp_path / f"{job}.{kind}" for job in "ab" for kind in ("child", "job")]
    wait_for(lambda: all(file.exists() and file.read_text().strip() for file in files))
    return launcher, [int(file.read_text()) for file in files]


@pytest.mark.parametrize(
    "sent",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_launcher_leaves_no_process(tmp_path, sent):
    launcher, processes = start_sleepers(tmp_path)
    launcher.send_signal(sent)
    assert launcher.wait(timeout=20) == 128 + sent
    wait_for(lambda: not any(map(is_alive, processes)))
    assert not (tmp_path / "c.job").exists()  # the job that had to wait was not begun
    assert "# exit code 143" in (tmp_path / "log/a.log").read_text()


@pytest.mark.slow
def test_jobs_that_ignore_the_signal_are_killed(tmp_path):
    launcher, processes = start_sleepers(tmp_path, prelude="trap '' TERM;")
    launcher.terminate()
    assert launcher.wait(timeout=30) == 128 + signal.SIGTERM
    wait_for(lambda: not any(map(is_alive, processes)))


def test_a_kill_of_the_process_group_reaches_the_jobs(tmp_path):
    command = "echo $$ >job; exec sleep 300"
    launcher = subprocess.Popen(
        [LAUNCH, "--log", "log", "--jobs", "a", "--", "bash", "-c", command],
        cwd=tmp_path,
        start_new_session=True,
    )
    file = tmp_path / "job"
    wait_for(lambda: file.exists() and file.read_text().strip())
    os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()
    wait_for(lambda: not is_alive(int(file.read_text())))
