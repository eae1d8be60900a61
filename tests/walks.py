"""Pages of the documentation that lead somewhere: their commands, run as they stand there."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.conftest import ROOT

PRELOAD = ROOT / "utils/preload.py"
# What the commands of pages take long to import.
LIBRARIES = ("nessa.cli.main", "nessa.corpus.finishing", "nessa.encoders.shards")
LIBRARIES += ("nessa.recipe.aligners", "nessa.production.export_aligner", "nessa.report.results")


def commands(page: str, places: Mapping[str, Path | str]) -> str:
    """All shell blocks of a page of docs/, with the reader's own places."""
    return _blocks("sh", page, places)


def program(page: str, places: Mapping[str, Path | str]) -> str:
    """All Python blocks of a page of docs/ as one program, with the reader's own places."""
    return _blocks("python", page, places)


def _blocks(language: str, page: str, places: Mapping[str, Path | str]) -> str:
    text = (ROOT / "docs" / page).read_text()
    script = "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S))
    for place, own in places.items():
        assert place in script
        script = script.replace(place, str(own))
    return script


def walk(page: str, places: Mapping[str, Path | str]) -> str:
    """Run the commands of a page as its reader would; gives what they print.

    `nessa` runs in forks of one Python: each start would cost seconds of imports.
    """
    words = sys.executable, "-I", "-S", PRELOAD, "run", *server(), "-m", "nessa.cli"
    nessa = f'nessa() {{ {shlex.join(map(str, words))} "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", nessa + commands(page, places)],
        cwd=ROOT,
        env={
            **os.environ,
            "NESSA_PYTHON": sys.executable,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


@cache
def server() -> tuple[str, Path]:
    """Process and socket of a Python that has imported LIBRARIES; it ends with this one."""
    socket = Path(tempfile.mkdtemp(prefix="nessa-walks-")) / "socket"
    words = sys.executable, PRELOAD, "serve", socket, *LIBRARIES
    return str(subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL).pid), socket
