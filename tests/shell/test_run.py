"""run.sh: which stages run, what is remembered, what is refused. The tool itself is a stand-in."""

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nessa.recipe.stages import STAGES
from tests.conftest import ROOT, start_recipe

# Stands in for Python: resolves a recipe to a plan, and notes every other command in $CALLS.
# The setting `late=...` matters from stage align on, `model=...` from stage encoders on, any other
# from the first stage on.
FAKE_PYTHON = f"""#!{sys.executable}
import os, sys, time
words = sys.argv[1:]
if words[:2] == ["-I", "-S"]:  # preload.py run PID SOCKET PROGRAM ARGUMENT ...
    words = words[6:]
if words[0] == "-c":
    print("3.11.9")
elif words[0].endswith("preload.py"):  # the server, which others wait for
    pass
elif words[0].endswith("check_environment.py"):
    if "voiceprints" in words:
        print("voiceprints>=1")
elif words[:4] == ["-m", "nessa.cli", "recipe", "resolve"]:
    matters_from = {{"late": 5, "model": 2}}
    settings = [w for w in words if "=" in w]
    exp = words[words.index("--work-dir") + 1] + "/exp"
    os.makedirs(exp, exist_ok=True)
    open(exp + "/recipe.yaml", "w").write(" ".join(settings))
    print("name mini\\nmodels old new\\nextract_sets align dev eval")
    print("corpus mini\\nprepare voxceleb\\nshards", os.environ.get("SHARDS", "2"))
    print("backends", os.environ.get("BACKENDS", "old"))
    print("symmetric raw:old:old raw:new:new\\nfitted logit:new:old")
    print("mapped logit:new:old\\nsystems logit:new:old")
    print("exported", os.environ.get("EXPORTED", "logit:new:old"))
    print("extras", os.environ.get("EXTRAS", ""))
    print("missing_encoders", os.environ.get("MISSING", ""))
    print("tables", os.environ.get("TABLES", ""))
    for number, stage in enumerate({STAGES}):
        seen = [w for w in settings if number >= matters_from.get(w.split("=")[0], 0)]
        print("digest", stage, f"{{stage}}-{{len(seen)}}-{{'.'.join(seen)}}")
elif words[:4] == ["-m", "nessa.cli", "recipe", "slurm"]:
    if words[-1].endswith("bad.yaml"):
        sys.exit(print("Error: retries", file=sys.stderr) or 2)
    print("retries 0\\ncorpus.cpus 1\\nextract.cpus 1")
else:
    name = words[0] if words[0] != "-m" else words[1]
    if name == "nessa.cli":
        name = words[3] if words[2] == "recipe" else words[2]
    noted = [f"{{key}}={{os.environ.get(key)}}" for key in os.environ.get("NOTED", "").split()]
    with open(os.environ["CALLS"], "a") as calls:
        print(name, *words, *noted, sep="\\t", file=calls)
    if name == os.environ.get("SLEEP"):
        time.sleep(300)
    if name == os.environ.get("FAIL"):
        sys.exit(print("Error: the data are bad", file=sys.stderr) or 2)
    if name == "report":
        folder = words[words.index("--exp") + 1] + "/report"
        os.makedirs(folder, exist_ok=True)
        open(folder + "/results.md", "w").write("| the table |\\n")
        print("| the table |")
"""

CHAIN = ["local/mini.py", "local/voxceleb.py", "prepare", "train", "train"]
CHAIN += ["try-encoders"] + ["extract"] * 6 + ["fit-backend"] + ["score"] * 2 + ["evaluate"]
LATE = ["align", "map", "score", "evaluate", "identify", "report", "export"]  # align and on
CHAIN += LATE


class Tree:
    """A copy of the shell side, with a stand-in for everything behind it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a repository"
        self.root.mkdir()
        shutil.copytree(ROOT / "utils", self.root / "utils")
        self.stage_list = self.root / "nessa/recipe/stages.txt"
        self.stage_list.parent.mkdir(parents=True)
        shutil.copy(ROOT / "nessa/recipe/stages.txt", self.stage_list)
        shutil.copy(ROOT / "run.sh", self.root)
        for recipe in ("mini", "other"):
            (self.root / "recipes" / recipe).mkdir(parents=True)
            (self.root / "recipes" / recipe / "recipe.yaml").touch()
        self.exp = self.root / "recipes/mini/exp"
        self.python = folder / "python"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)
        self.call_file = folder / "calls"

    def start(self, *options: str, program: str = "run.sh", **settings: str) -> subprocess.Popen:
        own = {"NESSA_PYTHON": str(self.python), "CALLS": str(self.call_file)}
        return subprocess.Popen(
            [self.root / program, *options],
            cwd=self.root.parent,
            env={**os.environ, **own, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *options: str, **settings: str) -> subprocess.CompletedProcess:
        process = self.start(*options, **settings)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(options, process.returncode, stdout, stderr)

    def path_with(self, name: str, body: str) -> str:
        """PATH with a stand-in for a program of the system, and those of earlier calls."""
        program = self.root.parent / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        return f"{program.parent}:{os.environ['PATH']}"

    def lines(self) -> list[str]:
        """The commands called since the last time that this was asked."""
        lines = self.call_file.read_text().splitlines() if self.call_file.exists() else []
        self.call_file.unlink(missing_ok=True)
        return lines

    def calls(self) -> list[str]:
        return [line.split("\t")[0] for line in self.lines()]

    def wait_for_call(self, name: str) -> None:
        deadline = time.monotonic() + 30
        while not self.call_file.exists() or f"{name}\t" not in self.call_file.read_text():
            assert time.monotonic() < deadline, f"{name} was never called"
            time.sleep(0.05)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = Tree(tmp_path_factory.mktemp("finished"))
    run = tree.run()
    assert run.returncode == 0, run.stderr
    return tree.exp.parent


@pytest.fixture
def finished(tree: Tree, finished_once: Path) -> Tree:
    """A tree whose stages are all done."""
    shutil.copytree(finished_once, tree.exp.parent, dirs_exist_ok=True)
    return tree


def test_a_bare_run_does_all_stages_in_order_and_prints_the_table(tree):
    run = tree.run()
    assert run.returncode == 0, run.stderr
    assert tree.calls() == CHAIN
    assert re.findall(r"stage (\d+): \w+ done", run.stdout) == [str(n) for n in range(10)]
    assert re.search(r"\n\d{4}-\d\d-\d\d [\d:]{8} \(run.sh:\d+\) stage 2: encoders", run.stdout)
    assert "| the table |" in run.stdout


@pytest.mark.slow
def test_every_stage_logs_into_its_folder(finished):
    logs = {str(path.relative_to(finished.exp / "log")) for path in finished.exp.rglob("*.log")}
    assert logs == {
        "corpus/mini.log",
        "prepare/voxceleb.log",
        "prepare/prepare.log",
        "encoders/old.log",
        "encoders/new.log",
        "extract/try-encoders.log",
        *(f"extract/{model}.{job}.log" for model in ("old", "new") for job in (1, 2, "merge")),
        "symmetric/fit.old.log",
        "symmetric/evaluate.log",
        "symmetric/raw.old-old.log",
        "symmetric/raw.new-new.log",
        "asymmetric/logit.new-old.log",
        "align/logit.new-old.log",
        "map/logit.new-old.log",
        "asymmetric/evaluate.log",
        "asymmetric/identify.log",
        "report/report.log",
        "export/logit.new-old.log",
    }


@pytest.mark.slow
def test_logs_of_jobs_that_a_stage_no_longer_has_are_removed(finished):
    logs = finished.exp / "log/encoders"
    (logs / "removed-from-the-recipe.log").touch()
    assert finished.run().returncode == 0
    assert len(list(logs.iterdir())) == 3  # the stage did not run
    finished.run("--stage", "encoders", "--stop-stage", "encoders", "--dry-run", "true")
    assert len(list(logs.iterdir())) == 3
    assert finished.run("--stage", "encoders", "--stop-stage", "encoders").returncode == 0
    assert {log.name for log in logs.iterdir()} == {"old.log", "new.log"}


def test_a_second_run_does_nothing_and_says_so(finished):
    run = finished.run()
    assert run.returncode == 0
    assert finished.calls() == []
    assert "all done" in run.stdout
    assert "| the table |" in run.stdout
    assert "all done before" in finished.run("--dry-run", "true").stdout


@pytest.mark.slow
def test_a_models_file_that_is_not_there_stops_runs_that_need_it_and_removes_no_markers(finished):
    missing = {"MISSING": "encoders.old: no such file 'a  b.onnx'; correct it"}
    run = finished.run("--set", "model=1", **missing)
    assert run.returncode == 2 and finished.calls() == []
    assert "encoders.old: no such file 'a  b.onnx'; correct it" in run.stderr
    assert finished.run("--set", "model=1", "--dry-run", "true", **missing).returncode == 2
    others = finished.run("--set", "model=1", "--stage", "align", **missing)
    assert others.returncode == 0 and finished.calls() == LATE
    assert finished.run("--stop-stage", "prepare", "--stage", "prepare", **missing).returncode == 0


@pytest.mark.slow
def test_what_models_need_is_asked_for_only_by_stages_that_load_them(finished):
    needed = {"EXTRAS": "voiceprints"}
    changed = ("--set", "other=2")
    for options in ((), ("--stage", "report"), (*changed, "--stop-stage", "prepare")):
        assert finished.run(*options, **needed).returncode == 0
    for stage in ("encoders", "extract"):
        run = finished.run("--stage", stage, "--stop-stage", stage, **needed)
        assert run.returncode == 2 and "lacks voiceprints>=1; install with" in run.stderr
        assert (finished.exp / ".done" / "corpus").exists()
    gone = finished.run(*changed, MISSING="encoders.old: no such file 'x'; correct it", **needed)
    assert gone.returncode == 2 and "no such file 'x'" in gone.stderr


def test_a_refused_set_up_removes_no_marker(finished):
    markers = sorted((finished.exp / ".done").iterdir())
    assert finished.run("--stage", "corpus", EXTRAS="voiceprints").returncode == 2
    assert sorted((finished.exp / ".done").iterdir()) == markers


@pytest.mark.slow
def test_a_run_that_begins_after_the_report_prints_the_table_too(finished):
    run = finished.run("--stage", "export")
    assert run.returncode == 0 and "all done before" not in run.stdout
    assert finished.calls() == ["export"]
    assert run.stdout.count("| the table |") == 1
    assert finished.run("--stage", "report").stdout.count("| the table |") == 1


@pytest.mark.slow
def test_only_the_stages_that_a_changed_setting_touches_run_again(finished):
    finished.run("--set", "late=1")
    assert finished.calls() == LATE
    finished.run("--set", "late=1", "--set", "other=2")
    assert finished.calls() == CHAIN


@pytest.mark.slow
def test_changed_tables_of_the_corpus_are_prepared_again(finished):
    older, newer = str(int(time.time()) - 9), str(int(time.time()) + 99)
    assert finished.run(TABLES=f"a {newer}").returncode == 0
    assert finished.calls() == CHAIN[1:], "the marker is as of an earlier version, and older"
    for _ in range(2):
        assert "all done before" in finished.run(TABLES=f"a {newer}").stdout
    run = finished.run("--stage", "report", "--dry-run", "true", TABLES=f"b {newer}")
    assert "warning: stages prepare were not finished with these settings or tables" in run.stdout
    assert finished.run("--stop-stage", "prepare", TABLES=f"b {older}").returncode == 0
    assert finished.calls() == CHAIN[1:3]


@pytest.mark.slow
def test_what_an_earlier_version_finished_stays_done_until_tables_change(finished):
    older = str(int(time.time()) - 999)
    assert "all done before" in finished.run("--dry-run", "true", TABLES=f"a {older}").stdout
    assert "all done before" in finished.run(TABLES=f"a {older}").stdout
    assert finished.calls() == []
    assert finished.run("--stop-stage", "prepare", TABLES=f"b {older}").returncode == 0
    assert finished.calls() == CHAIN[1:3]


@pytest.mark.slow
def test_what_is_finished_stays_so_while_the_corpus_is_away(finished):
    newer = str(int(time.time()) + 99)
    assert finished.run(TABLES=f"a {newer}").returncode == 0
    marker = finished.exp / ".done/prepare"
    before = marker.stat().st_mtime_ns
    finished.lines()
    for tables in ("", f"a {newer}"):
        assert "all done before" in finished.run(TABLES=tables).stdout
    assert "warning" not in finished.run("--stage", "export", TABLES="").stdout
    assert finished.calls() == ["export"]
    assert finished.run("--set", "late=1", TABLES="").returncode == 0
    assert finished.calls() == LATE
    assert marker.stat().st_mtime_ns == before, "nor is it written again"
    assert finished.run("--stop-stage", "prepare", TABLES=f"b {newer}").returncode == 0
    assert finished.calls() == CHAIN[1:3]


@pytest.mark.slow
def test_stages_can_be_run_alone(finished):
    for first, last, calls in (
        ("0", "corpus", CHAIN[:1]),
        ("encoders", "2", ["train", "train"]),
        ("report", "report", ["report"]),
    ):
        assert finished.run("--stage", first, "--stop-stage", last).returncode == 0
        assert finished.calls() == calls


@pytest.mark.slow
def test_a_stage_after_others_of_other_settings_says_so(finished):
    told = "not finished with these settings"
    report = ("--stage", "report", "--stop-stage", "report")
    assert told not in finished.run(*report).stdout
    assert finished.run("--set", "late=1").returncode == 0
    run = finished.run(*report)
    assert run.returncode == 0
    (line,) = (line for line in run.stdout.splitlines() if told in line)
    assert "warning: stages align map asymmetric were" in line
    assert told not in finished.run(*report, "--set", "late=1").stdout
    assert told in finished.run(*report, "--dry-run", "true").stdout
    assert told not in finished.run("--set", "late=2").stdout


@pytest.mark.slow
def test_a_stage_after_one_that_was_stopped_says_so(finished):
    failed = finished.run("--set", "late=1", FAIL="align")
    assert failed.returncode == 2 and "without --stage resumes there" in failed.stderr
    run = finished.run("--set", "late=1", "--stage", "map", "--dry-run", "true")
    assert "warning: stages align were not finished with these settings" in run.stdout
    failed = finished.run("--set", "late=1", "--stage", "map", FAIL="score")
    assert "./run.sh with --stage asymmetric resumes there" in failed.stderr


@pytest.mark.slow
def test_what_comes_after_a_stage_run_alone_is_out_of_date(finished):
    finished.run("--stage", "map", "--stop-stage", "map")
    finished.lines()
    finished.run()
    assert finished.calls() == LATE[2:]


@pytest.mark.slow
def test_stop_stage_stops_and_the_next_run_carries_on(tree):
    run = tree.run("--stop-stage", "1")
    assert run.returncode == 0
    assert "stages up to prepare are done" in run.stdout
    assert tree.calls() == CHAIN[:3]
    tree.run()
    assert tree.calls() == CHAIN[3:]


@pytest.mark.slow
def test_a_call_that_runs_nothing_changes_nothing(finished):
    """Its settings touch stages that come after the last one wanted."""
    files = [finished.exp / "recipe.yaml", *(finished.exp / ".done").iterdir()]
    before = {file: file.read_text() for file in files}
    run = finished.run("--set", "late=1", "--stop-stage", "extract")
    assert run.returncode == 0 and "stages up to extract are done" in run.stdout
    assert finished.calls() == []
    assert {file: file.read_text() for file in files if file.exists()} == before
    assert "all done before" in finished.run().stdout
    assert finished.run("--set", "late=1").returncode == 0
    assert "late=1" in files[0].read_text()


def test_help_lists_the_stages(tree):
    text = tree.run("--help").stdout
    assert re.findall(r"^ +(\d) (\w+) +\w", text, re.MULTILINE) == [
        (str(number), stage) for number, stage in enumerate(STAGES)
    ]
    assert "stages.txt" not in text and "  --stage STAGE  " in text


@pytest.mark.slow
def test_a_new_stage_is_a_line_and_a_function(tree):
    lines = tree.stage_list.read_text().splitlines(keepends=True)
    tree.stage_list.write_text("".join([*lines[:4], "plots  look at them\n", *lines[4:]]))
    script = tree.root / "run.sh"
    own = 'stage_plots() {\n  run_one "${nessa[@]}" doctor\n}\n\nstage_symmetric() {'
    script.write_text(script.read_text().replace("stage_symmetric() {", own))
    python = tree.python.read_text().replace("'extract', ", "'extract', 'plots', ")
    tree.python.write_text(python)
    assert " 4 plots  look at them\n 5 symmetric " in tree.run("--help").stdout.replace(
        "\n  ", "\n"
    )
    assert tree.run("--stop-stage", "plots").returncode == 0
    assert tree.calls()[-2:] == ["extract", "doctor"]
    assert (tree.exp / "log/plots/doctor.log").exists() and (tree.exp / ".done/plots").exists()
    assert tree.run("--stop-stage", "5").returncode == 0
    assert tree.calls()[0] == "fit-backend"


@pytest.mark.slow
def test_a_failed_stage_is_not_taken_for_done(tree):
    run = tree.run(FAIL="align")
    assert run.returncode == 2
    assert "Error: the data are bad" in run.stderr
    assert "log/align/logit.new-old.log" in run.stderr
    assert "stage align failed" in run.stderr
    assert tree.calls()[-1] == "align"
    assert tree.run().returncode == 0
    assert tree.calls() == LATE


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_leaves_no_job_and_carries_on(tree, sent):
    run = tree.start(SLEEP="train")
    tree.wait_for_call("train")
    os.killpg(run.pid, sent) if sent == signal.SIGKILL else run.send_signal(sent)
    assert run.wait(timeout=30) == (-sent if sent == signal.SIGKILL else 128 + sent)
    tree.lines()
    again = tree.run()  # the lock would refuse it if a job were still there
    assert again.returncode == 0, again.stderr
    assert tree.calls() == CHAIN[3:]


@pytest.mark.slow
def test_ctrl_c_while_the_recipe_is_read_ends_the_run_without_a_word(tmp_path):
    run = start_recipe(tmp_path, "--size", "tiny")
    lock = tmp_path / "exp/.lock"
    while not lock.exists() or not lock.read_text():
        time.sleep(0.01)
    time.sleep(0.2)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    assert run.communicate(timeout=30) == ("", "")
    assert run.returncode == 130


@pytest.mark.slow
def test_a_second_run_at_once_is_refused_and_names_the_first(tree):
    first = tree.start(SLEEP="prepare")
    tree.wait_for_call("prepare")
    second = tree.run("--stage", "0")
    assert second.returncode == 1
    assert f"process {first.pid} on " in second.stderr and ", started 2" in second.stderr
    elsewhere = tree.run("--stop-stage", "0", "--work-dir", "elsewhere")
    assert elsewhere.returncode == 0
    first.terminate()
    first.communicate(timeout=30)


@pytest.mark.slow
def test_what_a_killed_run_left_behind_can_be_stopped(tree):
    """Where run.sh alone was killed, and what starts its jobs was not."""
    killed = tree.start(SLEEP="prepare")
    tree.wait_for_call("prepare")
    killed.kill()
    killed.wait()
    refused = tree.run()
    assert refused.returncode == 1
    (left,) = re.findall(r"; its jobs: process (\d+)\)", refused.stderr)
    os.kill(int(left), signal.SIGTERM)
    killed.communicate(timeout=30)
    tree.lines()
    assert tree.run("--stop-stage", "prepare").returncode == 0
    assert tree.calls() == CHAIN[1:3]


@pytest.mark.slow
def test_what_is_left_where_the_launcher_was_killed_too_can_be_stopped(tree):
    killed = tree.start(SLEEP="prepare")
    tree.wait_for_call("prepare")
    (launcher,) = re.findall(r"its jobs: process (\d+)", (tree.exp / ".lock").read_text())
    for process in (killed.pid, int(launcher)):
        os.kill(process, signal.SIGKILL)
    killed.wait()
    refused = tree.run()
    assert refused.returncode == 1
    (left,) = re.findall(r"; the processes here that hold it: ([\d ]+);", refused.stderr)
    assert not {str(killed.pid), launcher} & set(left.split())
    for process in map(int, left.split()):
        assert os.getpgid(process) == killed.pid
        os.kill(process, signal.SIGTERM)
    killed.communicate(timeout=30)
    assert tree.run("--stop-stage", "corpus").returncode == 0


def test_wrong_settings_for_slurm_are_refused_before_the_work_directory_is_touched(tree):
    run = tree.run("--backend", "slurm", "--slurm-conf", "bad.yaml")
    assert run.returncode == 2 and run.stderr == "Error: retries\n"
    assert not tree.exp.exists()


def test_only_a_run_that_stopped_leaves_word_of_the_jobs_that_it_may_have_in_slurm(tree):
    run_task = 'shift $(($# - 2)); SLURM_ARRAY_TASK_ID=0 bash "$@"; echo 1'
    tree.path_with("sbatch", run_task)
    tree.path_with("scontrol", "echo MaxArraySize = 1001")
    tree.path_with("scancel", "")
    path = tree.path_with("squeue", "")
    on_slurm = ("--stop-stage", "corpus", "--backend", "slurm")
    assert tree.run(*on_slurm, PATH=path, FAIL="local/mini.py").returncode == 2
    assert (tree.exp / ".slurm").exists()
    run = tree.run(*on_slurm, PATH=path)
    assert run.returncode == 0, run.stderr
    assert tree.calls() == ["local/mini.py"] * 2
    assert not (tree.exp / ".slurm").exists()


def test_jobs_of_another_user_in_slurm_keep_a_run_out(tree):
    """As in a work directory of a group."""
    digest = hashlib.sha256(f"{tree.exp.parent}\n".encode()).hexdigest()[:8]
    queue = f"case $* in *--user*) ;; *) echo nessa-{digest}-align 12 ada;; esac"
    tree.exp.mkdir(parents=True)
    (tree.exp / ".slurm").touch()
    run = tree.run(PATH=tree.path_with("squeue", queue))
    assert run.returncode == 1 and tree.calls() == []
    assert "in use by jobs of an earlier run (job 12 of ada)" in run.stderr
    assert run.stderr.endswith(f"scancel --name=nessa-{digest}-align\n")
    assert (tree.exp / ".slurm").exists()


@pytest.mark.parametrize("option", ["--cpus-per-task=4", "-c4", "--cpus-per-gpu=2"])
def test_cpus_that_the_programs_would_not_know_of_are_refused(tree, option):
    run = tree.run("--backend", "slurm", f"--sbatch={option}")
    assert run.returncode == 2
    assert f"--sbatch={option}: " in run.stderr and "cpus" in run.stderr
    assert not tree.exp.exists()


def test_a_process_that_the_callers_environment_names_lives_on(tree):
    """As one that some other program exports as `server`."""
    keeps = tree.root.parent / "keeps"
    keeps.mkdir()
    tree.path_with("scontrol", "echo MaxArraySize = 1001")
    tree.path_with("squeue", "")
    path = tree.path_with("sbatch", "exit 1")
    with subprocess.Popen(["sleep", "60"]) as other:
        named = {"server": str(other.pid), "server_dir": str(keeps)}
        run = tree.run("--backend", "slurm", PATH=path, **named)
        assert run.returncode == 1 and "sbatch refused the job" in run.stderr
        assert other.poll() is None and keeps.exists()
        other.kill()


def test_where_the_file_system_has_no_locks_a_run_warns_and_goes_on(tree):
    path = tree.path_with("flock", "echo 'flock: 9: Function not implemented' >&2; exit 71")
    run = tree.run("--stop-stage", "0", PATH=path)
    assert run.returncode == 0, run.stderr
    assert f"warning: no lock can be had in {tree.exp}" in run.stdout
    assert tree.calls() == CHAIN[:1]


def test_a_folder_that_cannot_be_removed_fails_no_stage(tree):
    """As where NFS keeps a file that some process has open."""
    (tree.exp / ".jobs.1").mkdir(parents=True)
    failing = '[ "$1" != -rf ] || { echo "rm: Device or resource busy" >&2; exit 1; }; /bin/rm "$@"'
    run = tree.run("--stop-stage", "0", PATH=tree.path_with("rm", failing))
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.slow
def test_what_is_left_out_is_decided_from_stage_prepare_on_even_after_a_finished_run(finished):
    assert finished.run("--skip-bad", "true").returncode == 0
    lines = finished.lines()
    (prepare,) = (line for line in lines if line.startswith("local/voxceleb.py"))
    assert "--skip-bad" in prepare.split("\t")
    extract = [line.split("\t") for line in lines if line.startswith("extract\t")]
    assert len(extract) == 6 and all("--skip-bad" in words for words in extract)
    beside = [words.count("--beside") for words in extract if "--merge" in words]
    assert beside == [2, 2]
    names = [line.split("\t")[0] for line in lines]
    assert names.index("leave-out") == names.index("fit-backend") - 1
    assert "all done before" in finished.run("--skip-bad", "true").stdout
    assert finished.run().returncode == 0
    assert "--skip-bad" not in "".join(finished.lines())


@pytest.mark.slow
def test_what_stage_extract_alone_leaves_out_comes_back(finished):
    """It is taken out of sets that stage prepare made whole."""
    alone = ("--skip-bad", "true", "--stage", "extract", "--stop-stage", "extract")
    assert finished.run(*alone, "--dry-run", "true").returncode == 0
    assert "all done before" in finished.run("--dry-run", "true").stdout
    assert finished.run(*alone, FAIL="leave-out").returncode == 2
    finished.lines()
    assert finished.run().returncode == 0
    assert finished.calls() == CHAIN[1:]


@pytest.mark.slow
def test_what_one_model_cannot_embed_is_decided_anew_for_another_model(finished):
    skip, changed = ("--skip-bad", "true", "--dry-run", "true"), ("--set", "model=2")
    assert "stage 2: encoders" in finished.run(*changed, "--dry-run", "true").stdout
    assert finished.run(*skip[:2]).returncode == 0
    assert "all done before" in finished.run(*skip).stdout
    assert re.findall(r"stage (\d): ", finished.run(*skip, *changed).stdout)[0] == "1"


@pytest.mark.slow
def test_what_somebody_is_writing_stays(finished):
    old, locked = (finished.exp / name for name in (".a.k1ll3d_1.tmp", ".b.k1ll3d_2.tmp"))
    prepared = finished.exp.parent / "data/align/.utt2spk.k1ll3d_3.tmp"
    prepared.parent.mkdir(parents=True)
    old.touch()
    prepared.touch()
    with open(locked, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert finished.run().returncode == 0
    assert locked.exists() and not old.exists() and not prepared.exists()
    assert finished.run().returncode == 0
    assert not locked.exists()


def test_what_killed_jobs_left_is_removed_behind_links_too(tree):
    """As of folders on another disk."""
    data = tree.exp.parent / "data"
    links = [tree.exp, data, data / "copies"]
    inside = ["inside", "eval", "inside"]
    left = [tree.root.parent / f"disk{n}/{i}/.a.k1ll3d__.tmp" for n, i in enumerate(inside)]
    for link, path in zip(links, left, strict=True):
        path.parent.mkdir(parents=True)
        path.touch()
        link.symlink_to(path.parents[1])
    assert tree.run("--stop-stage", "0").returncode == 0
    assert [path for path in left if path.exists()] == []


def test_hidden_files_of_the_users_own_stay(tree):
    """As in a folder of Kaldi recipes, whose data/ and exp/ are there already."""
    names = ["exp/.draft.tmp", "data/eval/.notes.tmp", "data/lang/.lexicon.k1ll3d__.tmp"]
    own = [tree.exp.parent / name for name in names]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert tree.run("--stop-stage", "0").returncode == 0
    assert [path for path in own if not path.exists()] == []


def test_a_folder_that_may_not_be_read_stops_no_run(tree):
    """As lost+found of a disk; root, who reads all, has a stand-in for find that fails alike."""
    failing = '/usr/bin/find "$@"; echo "find: lost+found: Permission denied" >&2; exit 1'
    run = tree.run("--stop-stage", "0", PATH=tree.path_with("find", failing))
    assert (run.returncode, run.stderr) == (0, "")


def test_options_of_the_callers_shell_do_not_matter(tree):
    """As of one that exports SHELLOPTS, and writes over no file."""
    for _ in range(2):
        run = tree.run("--stage", "corpus", "--stop-stage", "corpus", SHELLOPTS="noclobber")
        assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("options", [(), ("--dry-run", "true")])
def test_a_folder_for_temporary_files_is_relative_to_the_caller(tree, options):
    refused = tree.run("--stop-stage", "0", *options, TMPDIR="mine")
    told = f"cannot write to {tree.root.parent}/mine; set TMPDIR to a folder that has room\n"
    assert refused.returncode == 1 and refused.stderr.endswith(told)
    (tree.root.parent / "mine").mkdir()
    run = tree.run("--stop-stage", "0", *options, TMPDIR="mine")
    assert run.returncode == 0, run.stderr


def test_jobs_compute_with_one_thread_and_know_where_they_were_called_from(tree):
    """Sums depend on the number of threads, and relative paths of a recipe on the folder."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "4")
    noted = " ".join([*threads, "NESSA_STARTED_IN"])
    assert tree.run("--stop-stage", "corpus", NOTED=noted, **threads).returncode == 0
    (line,) = tree.lines()
    assert line.split("\t")[-4:] == [
        *(f"{name}=1" for name in threads),
        f"NESSA_STARTED_IN={tree.root.parent}",
    ]


def test_work_dir_is_relative_to_the_caller(tree):
    assert tree.run("--stop-stage", "0", "--work-dir", "my work").returncode == 0
    assert (tree.root.parent / "my work/exp/log/corpus/mini.log").exists()
    assert not tree.exp.exists()


@pytest.mark.slow
def test_a_stage_without_jobs_is_skipped(tree):
    run = tree.run(EXPORTED="")
    assert run.returncode == 0 and "nothing to do" in run.stdout
    assert tree.calls() == CHAIN[:-1]


@pytest.mark.slow
def test_only_a_recipe_that_names_back_ends_fits_some(tree):
    run = tree.run("--stage", "symmetric", "--stop-stage", "symmetric", BACKENDS="")
    assert run.returncode == 0 and "nothing to do" not in run.stdout
    assert tree.calls() == ["score", "score", "evaluate"]


def test_fewer_jobs_may_run_at_once_than_a_stage_is_split_into(tree):
    stage = ("--stage", "extract", "--stop-stage", "extract", "--nj", "9", "--max-jobs-run", "2")
    run = tree.run(*stage, "--backend", "slurm", "--dry-run", "true")
    assert set(re.findall(r"--array=\S+?%(\d+) ", run.stdout)) == {"2"}, run


def test_jobs_may_be_more_than_fit_into_an_argument(tree):
    """Of 128 KiB."""
    stage = ("--stage", "extract", "--stop-stage", "extract", "--dry-run", "true")
    run = tree.run(*stage, SHARDS="9999")
    assert run.returncode == 0, run.stderr
    assert "jobs: 19998; the first" in run.stdout


@pytest.mark.slow
def test_each_job_gets_its_model_and_shard(tree):
    tree.run("--nj", "1")
    shards = [
        (Path(words[words.index("--encoder") + 1]).name, words[words.index("--shard") + 1])
        for words in (line.split("\t") for line in tree.lines())
        if "--shard" in words
    ]
    assert shards == [("old", "1"), ("old", "2"), ("new", "1"), ("new", "2")]


@pytest.mark.slow
def test_each_job_of_a_system_gets_its_name(tree):
    tree.run("--nj", "1")
    named = [
        (words[0], words[words.index("--system") + 1])
        for words in (line.split("\t") for line in tree.lines())
        if "--system" in words and words[0] in ("map", "score")
    ]
    assert named == [
        ("score", "raw:old:old"),
        ("score", "raw:new:new"),
        ("map", "logit:new:old"),
        ("score", "logit:new:old"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "vox"], "unknown recipe 'vox'; there are: mini other"),
        (["--recipe", "../recipes/mini"], "no recipe.yaml in this folder"),
        (["--stagge", "3"], "did you mean --stage?"),
        (["--stage", "10"], "--stage 10: there are stages 0 to 9"),
        (["--stop-stage", "alin"], "--stop-stage alin: no such stage; did you mean align?"),
        (["--stage", "align", "--stop-stage", "4"], "--stage align comes after --stop-stage 4"),
        (["--nj", "0"], "--nj must be a whole number"),
        (["stage", "3"], "unexpected argument 'stage'"),
        (["--work-dir", "a{1}"], "the name of a work directory may not have {1} in it"),
        (["--set", "x=$(touch canary)"], "asks for a command to be run"),
        (["--sbatch=--account=speech"], "--sbatch and --slurm-conf are for --backend slurm"),
        (["--slurm-conf", "mine.yaml"], "--sbatch and --slurm-conf are for --backend slurm"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(tree, options, message):
    run = tree.run(*options)
    assert run.returncode == 2
    assert message in run.stderr
    assert tree.calls() == []
    assert not tree.exp.exists()
    assert not list(tree.root.parent.rglob("canary"))


@pytest.mark.slow
def test_a_recipe_may_be_any_folder(tree):
    folder = tree.root.parent / "my recipe"
    folder.mkdir()
    (folder / "recipe.yaml").touch()
    assert tree.run("--recipe", "./my recipe", "--stop-stage", "1").returncode == 0
    assert (folder / "exp/.done/prepare").exists()
    assert not tree.exp.exists()


def test_places_of_corpora_become_settings(tree):
    tree.run("--voxceleb1", "here", "--musan", "/Ann's: #2", "--stop-stage", "0")
    settings = (tree.exp / ".done/corpus").read_text()
    assert f"corpus.paths.voxceleb1='{tree.root.parent}/here'" in settings
    assert "corpus.paths.musan='/Ann''s: #2'" in settings  # as YAML writes it
    assert "voxceleb2" not in settings


@pytest.mark.slow
@pytest.mark.parametrize(("nj", "workers"), [("1", "1"), ("2", "1"), ("9", "4")])
def test_trainings_share_the_processes_that_load_audio(tree, nj, workers):
    tree.run("--nj", nj, "--stage", "encoders", "--stop-stage", "encoders")
    assert [line.split("\t--workers\t")[1].split("\t")[0] for line in tree.lines()] == [workers] * 2


@pytest.mark.slow
def test_a_check_of_the_gpu_runs_everything_each_time(tree):
    for _ in range(2):
        check = tree.run("--work-dir", "work", program="utils/gpu_check.sh")
        assert check.returncode == 0, check.stderr
        assert tree.calls() == ["benchmarks.accelerator", *CHAIN, "torch.distributed.run"]
    assert "all of it ran" in check.stdout
