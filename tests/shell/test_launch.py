"""utils/launch.sh: many jobs, a log each, none left behind."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, stdin_of

LAUNCH = ROOT / "utils" / "launch.sh"


@pytest.fixture
def launch(tmp_path: Path):
    def run(jobs: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        return subprocess.run(
            [LAUNCH, "--log", "log/{1}.log", *options, "--", *command],
            cwd=tmp_path,
            input=jobs,
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


def test_options_of_the_callers_shell_do_not_matter(launch, tmp_path, monkeypatch):
    """As of one that exports SHELLOPTS, and writes over no file."""
    monkeypatch.setenv("SHELLOPTS", "noclobber")
    for word in ("first", "second"):
        done = launch("a", "echo", word)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "log/a.log").read_text().splitlines()[2:-1] == ["second"]


def test_a_dry_run_shows_the_first_command_and_runs_none(launch, tmp_path):
    done = launch("a b", "touch", "{1} x", options=("--dry-run", "true"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "jobs: 2; the first, with its log in log/a.log:\n  touch a\\ x\n"
    assert not list(tmp_path.iterdir())


# Stand-ins for Slurm's commands: a task runs at once, and sees nothing of the launcher's
# environment, as where a site or the user asks for --export=NONE.
SLURM = {
    "sbatch": 'env -i PATH="$PATH" SLURM_ARRAY_TASK_ID=0 bash "${@: -2}" && echo 1',
    "scontrol": "echo MaxArraySize = 1001",
    "squeue": "",
    "scancel": "",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Options of the launcher, for a job on a cluster."""
    programs = tmp_path / "slurm"
    programs.mkdir()
    for name, body in SLURM.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return "--backend", "slurm", "--name", "test", "--scratch", str(tmp_path)


def test_lines_of_setup_may_run_commands(launch, slurm, tmp_path):
    """As `$(conda info --base)`, in the task, where it may say something else."""
    lines = ("--setup", "export HERE=$(echo $SLURM_ARRAY_TASK_ID)", "--setup=export TOO=`echo 2`")
    done = launch("a", "bash", "-c", "echo $HERE $TOO", options=(*slurm, *lines))
    assert done.returncode == 0, done.stderr
    assert "\n0 2\n" in (tmp_path / "log/a.log").read_text()


def test_variables_of_setup_are_not_the_launchers(launch, slurm, tmp_path):
    """As those that a site's scripts leave behind."""
    line = "server=1 log=elsewhere show=true arguments=none status_dir=/"
    done = launch("a", sys.executable, "-m", "this", options=(*slurm, "--setup", line))
    assert done.returncode == 0, done.stderr
    assert "Zen" in (tmp_path / "log/a.log").read_text()


def test_what_slurm_tells_a_job_that_submits_others_does_not_reach_them(
    launch, slurm, tmp_path, monkeypatch
):
    """As where run.sh is a job: its tasks would take what it asked for as what they did."""
    own = 'SLURM_ARRAY_TASK_ID=0 bash "${@: -2}" && echo 1'  # with the environment of sbatch
    (tmp_path / "slurm/sbatch").write_text(f"#!/usr/bin/env bash\n{own}\n")
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_MEM_PER_CPU", "SLURM_CONF"):
        monkeypatch.setenv(name, "4")
    assert launch("a", "env", options=slurm).returncode == 0
    named = re.findall(r"^SLURM_\w+", (tmp_path / "log/a.log").read_text(), re.MULTILINE)
    assert sorted(named) == ["SLURM_ARRAY_TASK_ID", "SLURM_CONF"]


def test_what_run_sh_exports_reaches_the_tasks_of_slurm(launch, slurm, tmp_path, monkeypatch):
    scripts = [ROOT / "run.sh", *(ROOT / "utils").glob("*.sh")]
    lines = [line.split("#")[0] for path in scripts for line in path.read_text().splitlines()]
    exports = [line for line in lines if line.lstrip().startswith("export ")]
    names = set(re.findall(r"\b([A-Z_]+)=", " ".join(exports))) - {"PATH"}  # that of the machine
    assert len(names) > 10
    for name in names:
        monkeypatch.setenv(name, str(2**25 + 1))  # a number, for malloc
    assert launch("a", "env", options=slurm).returncode == 0
    log = (tmp_path / "log/a.log").read_text().splitlines()
    assert {line.split("=")[0] for line in log if line.endswith(f"={2**25 + 1}")} == names


def test_tasks_are_waited_for_where_sbatch_is_killed_and_the_queue_cannot_be_read(
    launch, slurm, tmp_path
):
    """It is asked again: an answer that does not come is not that of an empty queue."""
    programs = {
        "sbatch": 'printf "%s\\n" "${@: -2}" >call; echo 1; kill -KILL $$',
        "squeue": """
            [[ -e asked ]] || { touch asked && exit 1; }
            mapfile -t task <call && SLURM_ARRAY_TASK_ID=0 bash "${task[@]}" """,
        "sleep": "",
    }
    for name, body in programs.items():
        (tmp_path / "slurm" / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / "slurm" / name).chmod(0o755)
    done = launch("a", "echo", "the end", options=slurm)
    assert done.returncode == 0, done.stderr
    assert "\nthe end\n" in (tmp_path / "log/a.log").read_text()


def test_options_of_sbatch_do_not_take_the_place_of_the_launchers(launch, slurm):
    """Of an option that is there twice, sbatch takes the last one."""
    given = {"--job-name": "mine", "--array": "7", "--output": "/dev/null", "--mem": "4G"}
    words = [f"--sbatch={name}={value}" for name, value in given.items()]
    told = launch("a", "env", options=(*slurm, *words, "--dry-run", "true")).stdout
    (call,) = (line for line in told.splitlines() if line.startswith("  sbatch "))
    last = dict(word.split("=", 1) for word in call.split() if "=" in word)
    assert last["--job-name"] == "test" and last["--array"] == "0%1" and last["--mem"] == "4G"
    assert last["--output"].endswith("/0.%a.out")


def test_a_percent_sign_in_the_place_of_outputs_is_none_of_slurms_patterns(launch, slurm):
    told = launch("a", "env", options=(*slurm, "--scratch", "50%x", "--dry-run", "true")).stdout
    assert " --output=50%%x/.jobs.XXXXXX/0.%a.out 50%x/.jobs.XXXXXX/task.sh" in told


def test_fields_replace_placeholders_and_nothing_else_changes(launch, tmp_path):
    words = ["{1}", "{2}{1}", "a b", "*", "&", "-n", "", "{3}", "$HOME", "\\"]
    launch("x&y:new", "python3", "-c", "import sys; print(sys.argv[1:])", *words)
    expected = ["x&y", "newx&y", *words[2:]]
    assert str(expected) in (tmp_path / "log/x&y.log").read_text()


def test_a_second_run_replaces_the_log(launch, tmp_path):
    launch("a", "echo", "first")
    launch("a", "echo", "second")
    assert "first" not in (tmp_path / "log/a.log").read_text()


def test_a_log_folder_that_is_removed_while_it_is_made_is_made_again(launch, tmp_path, monkeypatch):
    failing = tmp_path / "bin/mkdir"
    failing.parent.mkdir()
    failing.write_text(
        f'#!/bin/bash\n[ -e {tmp_path}/failed ] && exec /bin/mkdir "$@"\n'
        f": >{tmp_path}/failed; exit 1\n"
    )
    failing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{failing.parent}:{os.environ['PATH']}")
    run = launch("a", "echo", "done")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "failed").exists()


@pytest.mark.slow
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
    first = run.stderr.splitlines()[0]
    assert first == "2 of 3 jobs failed, the first with exit code 7; its log, log/7.log, ends with:"
    assert "the reason of 7" in run.stderr
    assert "the reason of 8" not in run.stderr


def test_a_full_disk_is_told_where_the_log_is_empty(launch, tmp_path, monkeypatch):
    full = tmp_path / "bin/df"
    full.parent.mkdir()
    full.write_text('#!/bin/sh\nexpr "$2" : "$FULL" >/dev/null && echo disk 0 0 7 0% /\n')
    full.chmod(0o755)
    monkeypatch.setenv("PATH", f"{full.parent}:{os.environ['PATH']}")
    scratch = str(tmp_path)  # of exit codes, without which a job has failed
    for pattern, folder in (("log", "log"), (scratch, scratch), (".*", "log")):  # both are one disk
        monkeypatch.setenv("FULL", f"{pattern}$")
        job = ("bash", "-c", ": >log/{1}.log; exit 2")  # "# exit code 2" alone is there
        run = launch("a", *job, options=("--scratch", scratch))
        assert run.returncode == 2
        assert run.stderr.count("has only") == 1
        assert f"the disk of {folder} has only 7 KiB left" in run.stderr


def test_a_failure_whose_log_is_gone_keeps_its_status(launch):
    run = launch("a", "bash", "-c", "rm -r log; exit 2")
    assert run.returncode == 2
    assert "there is no such log" in run.stderr


def test_all_jobs_run_although_one_fails(launch, tmp_path):
    launch("1 0", "bash", "-c", "touch done.{1}; exit {1}")
    assert (tmp_path / "done.0").exists()


def test_a_job_killed_by_a_signal_still_closes_its_log(launch, tmp_path):
    run = launch("a", "bash", "-c", "echo begun; kill -KILL $$")
    assert run.returncode == 1
    assert "with exit code 137 (killed; was there not enough memory?); its log" in run.stderr
    log = (tmp_path / "log/a.log").read_text()
    assert "begun" in log
    assert "\n# exit code 137 after " in log


def test_a_job_without_an_exit_code_was_killed(launch):
    run = launch("a", "bash", "-c", "kill -KILL $PPID")
    assert run.returncode == 1
    assert "the first without an exit code (killed, or the disk is full)" in run.stderr


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


def test_show_copies_the_warnings_of_commands_too(launch, tmp_path):
    """Which nessa logs on stderr with much else."""
    (tmp_path / "job.py").write_text(
        "import logging\n"
        "from nessa.cli.main import main\n"
        "try: main()\n"
        "finally:\n"
        "    log = logging.getLogger('nessa.job')\n"
        "    log.info('progress'); log.warning('no genders')\n"
    )
    job = (sys.executable, "job.py", "--version")
    assert "no genders" not in launch("a", *job).stdout
    done = launch("a", *job, options=("--show", "true"))
    assert re.search(r"^[-\d]+ [:,\d]+ WARNING \(job.py:6\) no genders\n", done.stdout, re.M)
    assert "progress" not in done.stdout
    assert (tmp_path / "log/a.log").read_text().count("no genders") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--log", "x", "--", "true"], "the jobs are missing"),
        (["--", "true"], "--log is missing"),
        (["--log", "x"], "the command is missing"),
        (["--log", "x", "--nj", "0", "--", "true"], "--nj must be a whole number"),
        (["--log", "x", "--backend", "pbs", "--", "true"], "unknown backend 'pbs'"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path, arguments, message):
    run = subprocess.run(
        [LAUNCH, *arguments], input="", cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert message in run.stderr


def start_sleepers(tmp_path: Path, prelude: str = "") -> tuple[subprocess.Popen, list[int]]:
    """Launch two jobs that each start a child and sleep; return all four jobs' process ids."""
    command = f"{prelude} sleep 300 & echo $! >{{1}}.child; echo $$ >{{1}}.job; wait; sleep 300"
    launcher = subprocess.Popen(
        [LAUNCH, "--nj", "2", "--log", "log/{1}.log", "--", "bash", "-c", command],
        stdin=stdin_of("a b c"),
        cwd=tmp_path,
    )
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
        [LAUNCH, "--log", "log", "--", "bash", "-c", command],
        stdin=stdin_of("a"),
        cwd=tmp_path,
        start_new_session=True,
    )
    file = tmp_path / "job"
    wait_for(lambda: file.exists() and file.read_text().strip())
    os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()
    wait_for(lambda: not is_alive(int(file.read_text())))


@pytest.fixture
def serve(tmp_path):
    """Starts a Python that has imported some modules; gives the launcher's option."""
    servers = []

    def start(modules: str) -> str:
        socket = tmp_path / "socket"
        command = [sys.executable, ROOT / "utils/preload.py", "serve", socket, *modules.split()]
        servers.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True))
        if modules == "missing":
            servers[-1].wait()
        return f"{servers[-1].pid} {socket}"

    start.servers = servers
    yield start
    for server in servers:
        server.kill()
        server.wait()
        server.stderr.close()


@pytest.fixture
def preloading(launch, serve, tmp_path):
    """Runs the module `job` in forks of a Python that has imported `slow`."""
    (tmp_path / "slow.py").write_text(
        "import pathlib\nwith open('imports', 'a') as file: print('once', file=file)\n"
    )

    def run(jobs: str, *arguments: str, program: str, modules: str = "slow", nj: int = 2):
        (tmp_path / "job.py").write_text(program)
        options = ("--nj", str(nj), "--server", serve(modules))
        return launch(jobs, sys.executable, "-m", "job", *arguments, options=options)

    return run


def test_jobs_that_are_forks_see_what_jobs_see(preloading, launch, tmp_path, monkeypatch):
    program = """
import os, slow, sys
print(__name__, sys.argv[1:], os.getcwd(), os.environ["COLOR"], sys.stdin.read(), flush=True)
print("err", file=sys.stderr)
os.system("echo child")
sys.exit(int(sys.argv[2]))
"""
    monkeypatch.setenv("COLOR", "red")
    assert preloading("a:0 b:2 c:0", "{1}", "{2}", "x y", program=program).returncode == 2
    assert (tmp_path / "imports").read_text() == "once\n"
    forked = {job: (tmp_path / f"log/{job}.log").read_text().splitlines() for job in "abc"}
    launch("a:0 b:2 c:0", sys.executable, "-m", "job", "{1}", "{2}", "x y")
    for job, lines in forked.items():
        alone = (tmp_path / f"log/{job}.log").read_text().splitlines()
        assert lines[0] == alone[0] and lines[2:-1] == alone[2:-1]
        assert lines[-1].startswith(f"# exit code {2 if job == 'b' else 0} after")


def test_a_fork_that_fails_or_is_killed_says_so(preloading, tmp_path):
    program = """
import os, sys
if sys.argv[1] == "raises": raise ValueError("a reason")
os.kill(os.getpid(), 9)
"""
    assert preloading("raises dies", "{1}", program=program).returncode == 1
    raised = (tmp_path / "log/raises.log").read_text()
    assert raised.splitlines()[-2] == "ValueError: a reason"
    assert "# exit code 1 after" in raised
    assert "# exit code 137 after" in (tmp_path / "log/dies.log").read_text()


def test_forks_end_as_programs_do(preloading, tmp_path):
    """What was left for the exit is done; what was printed is there; the status is the same."""
    program = """
import atexit, logging, sys, threading, time
logging.basicConfig(stream=sys.stdout)
atexit.register(print, "at exit", end="")
def late():
    time.sleep(0.3)
    print("a thread")
threading.Thread(target=late).start()
print("printed", end=" ")
if sys.argv[1] == "interrupted": raise KeyboardInterrupt
if sys.argv[1] == "leaves": sys.exit("with a message")
sys.exit({"nothing": None, "number": 3, "true": True}[sys.argv[1]])
"""
    statuses = {"nothing": 0, "number": 3, "true": 1, "leaves": 1, "interrupted": 130}
    preloading(" ".join(statuses), "{1}", program=program)
    for job, status in statuses.items():
        log = (tmp_path / f"log/{job}.log").read_text()
        assert f"# exit code {status} after" in log, log
        assert log.index("printed") < log.index("a thread") < log.index("at exit"), log
    assert "with a message" in (tmp_path / "log/leaves.log").read_text()


def test_without_the_modules_jobs_run_by_themselves(preloading, serve, tmp_path):
    program = "import sys; print(*sys.argv[1:])"
    done = preloading("a b", "{1}", program=program, modules="missing")
    assert done.returncode == 0
    assert "No module named 'missing'" in serve.servers[0].stderr.read()
    assert "\na\n" in (tmp_path / "log/a.log").read_text()


def test_files_run_in_forks_too(launch, serve, tmp_path):
    """With what lies beside them, and with functions for processes of their own."""
    program = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from beside import square

def more(number): return square(number) + 1

if __name__ == "__main__":
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        print(sys.argv, list(pool.map(more, [2, 3])), "json" in sys.modules)
"""
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/beside.py").write_text("def square(number): return number * number")
    (tmp_path / "programs/job.py").write_text(program)
    options = ("--server", serve("json"))
    done = launch("a b", sys.executable, "programs/job.py", "{1}", options=options)
    assert done.returncode == 0
    assert "\n['programs/job.py', 'a'] [5, 10] True\n" in (tmp_path / "log/a.log").read_text()


def test_options_of_python_run_by_themselves(launch, serve, tmp_path):
    (tmp_path / "job.py").write_text("import sys; print('json' in sys.modules)")
    options = ("--server", serve("json"))
    assert launch("a", sys.executable, "-S", "job.py", options=options).returncode == 0
    assert "\nFalse\n" in (tmp_path / "log/a.log").read_text()
    assert launch("a", sys.executable, "-m", "job", options=options).returncode == 0
    assert "\nTrue\n" in (tmp_path / "log/a.log").read_text()


@pytest.mark.slow
def test_a_job_that_is_given_up_before_it_began_leaves_the_server_in_peace(serve, tmp_path):
    (tmp_path / "slow.py").write_text("import time; time.sleep(2)")
    (tmp_path / "job.py").write_text("import sys; print('ran')")
    asking = [sys.executable, ROOT / "utils/preload.py", "run", *serve("slow").split(), "job.py"]
    wait_for((tmp_path / "socket").exists)
    given_up = subprocess.Popen(asking, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    given_up.send_signal(signal.SIGINT)
    assert given_up.communicate()[1] == "" and given_up.returncode == -signal.SIGINT
    done = subprocess.run(asking, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "ran\n" and done.stderr == ""
    serve.servers[0].kill()
    assert serve.servers[0].stderr.read() == ""


@pytest.mark.slow
def test_a_job_for_which_ctrl_c_is_ignored_goes_on(serve, tmp_path):
    """As those of run.sh, which ends them itself: else they would be taken for failed first."""
    (tmp_path / "job.py").write_text(
        "import time; open('began', 'w').close(); time.sleep(1); print('ran')"
    )
    asking = [sys.executable, ROOT / "utils/preload.py", "run", *serve("json").split(), "job.py"]
    shell = ["bash", "-c", 'trap "" INT; exec "$@"', "bash", *map(str, asking)]
    process = subprocess.Popen(shell, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    wait_for((tmp_path / "began").exists)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[0] == "ran\n" and process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("send", "status"),
    [
        (lambda launcher: os.kill(launcher, signal.SIGTERM), 143),
        (lambda launcher: os.killpg(launcher, signal.SIGINT), 130),  # as a terminal does
    ],
    ids=["terminated", "ctrl-c"],
)
def test_forks_are_stopped_with_the_launcher_and_the_server_stays(serve, tmp_path, send, status):
    (tmp_path / "job.py").write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(1)))\n"  # cleans up
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    command = [LAUNCH, "--log", "log/{1}.log", "--nj", "2", "--server", serve("json")]
    process = subprocess.Popen(
        [*command, "--", sys.executable, "-m", "job", "{1}"],
        stdin=stdin_of("a b"),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pids = [tmp_path / "a", tmp_path / "b"]
    wait_for(lambda: all(path.exists() and path.read_text() for path in pids))
    send(process.pid)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == status and "stopped, with all jobs" in errors
    assert not any(is_alive(int(path.read_text())) for path in pids)
    assert "Traceback" not in errors
    assert serve.servers[0].poll() is None


def test_the_server_ends_when_what_started_it_is_killed(tmp_path):
    serving = [sys.executable, ROOT / "utils/preload.py", "serve", tmp_path / "own/socket", "json"]
    (tmp_path / "own").mkdir()
    program = f"{shlex.join(map(str, serving))} & echo $! >server; wait"
    starter = subprocess.Popen(["bash", "-c", program], cwd=tmp_path)
    wait_for(lambda: (tmp_path / "own/socket").exists())
    server = int((tmp_path / "server").read_text())
    assert is_alive(server)
    starter.kill()
    starter.wait()
    wait_for(lambda: not is_alive(server))
    assert not (tmp_path / "own").exists()


@pytest.mark.slow
def test_forks_are_stopped_with_the_launcher_where_what_started_both_was_killed(tmp_path):
    """As run.sh by SIGKILL: the launcher goes on, and a kill of it ends its jobs."""
    (tmp_path / "own").mkdir()
    (tmp_path / "job.py").write_text(
        "import os, time\nprint(os.getppid(), os.getpid(), flush=True)\ntime.sleep(60)\n"
    )
    serving = [sys.executable, ROOT / "utils/preload.py", "serve", tmp_path / "own/socket", "json"]
    program = (
        f"{shlex.join(map(str, serving))} & server=$!; "
        f'{LAUNCH} --log log --server "$server {tmp_path}/own/socket" '
        f"-- {sys.executable} -m job <<<a & echo $server $! >started; wait"
    )
    starter = subprocess.Popen(["bash", "-c", program], cwd=tmp_path, stderr=subprocess.DEVNULL)
    log = tmp_path / "log"
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 2)
    server, launcher = map(int, (tmp_path / "started").read_text().split())
    starter.kill()
    starter.wait()
    time.sleep(1.5)  # the server looks every half a second
    watching, running = map(int, log.read_text().splitlines()[2].split())
    assert f"\nPPid:\t{server}\n" in Path(f"/proc/{watching}/status").read_text()
    os.kill(launcher, signal.SIGTERM)
    wait_for(lambda: not any(map(is_alive, (launcher, running, server))))
    assert not (tmp_path / "own").exists()
