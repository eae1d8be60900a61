"""The wheel: the package alone, which works without the recipes."""

import contextlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from nessa import __version__
from tests.conftest import ROOT
from tests.walks import program

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist, made by the build backend without a network, of a clean copy."""
    folder = tmp_path_factory.mktemp("built")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    code = (
        "from setuptools import build_meta as b;"
        f"b.build_wheel({str(folder)!r}); b.build_sdist({str(folder)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder / "source", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"nessa"}
    assert "nessa/report/index.html.j2" in names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "nessa").rglob("*.py")}
    assert modules <= set(names)


def test_the_sdist_can_be_built_from(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "nessa/report/index.html.j2"} <= names


def install(form: str, built: Path, site: Path) -> dict[str, bytes]:
    """By pip; gives the content of every file of the package."""
    (file,) = built.glob(form)
    words = ["--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--target", site]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", *words, file],
        capture_output=True,
        text=True,
    )
    assert pip.returncode == 0, pip.stderr
    files = (path for path in (site / "nessa").rglob("*") if path.is_file())
    return {str(path.relative_to(site)): path.read_bytes() for path in files}


def test_it_works_from_an_empty_folder(built: Path, tiny: Path, tmp_path: Path) -> None:
    """Installed from either form, without the recipes: the program of docs/api.md."""
    site, empty = tmp_path / "site", tmp_path / "empty"
    assert install("*.tar.gz", built, tmp_path / "other") == install("*.whl", built, site)
    empty.mkdir()

    def run(*command: object) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=empty,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import nessa; print(nessa.__file__)").strip() == f"{site}/nessa/__init__.py"
    assert run("-m", "nessa.cli", "--version").split()[-1] == __version__
    run("-c", program("api.md", {"recipes/mini": tiny, "steps=600": "steps=5"}))
    assert (empty / "my-aligner/aligner.json").is_file()


def test_the_version_is_the_same_everywhere() -> None:
    for file, form in (("CITATION.cff", "version: (.+)"), ("CHANGELOG.md", "## ([0-9.]+) ")):
        found = re.search(f"^{form}", (ROOT / file).read_text(), re.M)
        assert found is not None and found[1] == __version__, file


def test_what_set_up_installs_suits_the_oldest_python() -> None:
    """A pin that needs a later patch of Python would make set-up fail on some systems."""
    oldest = re.search(r'^requires-python = ">=(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert oldest is not None
    pins = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "utils/constraints.txt").read_text(), re.M))
    checked = 0
    for name, version in pins.items():
        with contextlib.suppress(metadata.PackageNotFoundError):
            found = metadata.metadata(name)
            if found["Version"] == version:
                needed = SpecifierSet(found["Requires-Python"] or "")
                assert needed.contains(f"{oldest[1]}.0"), f"{name} {version}: Python {needed}"
                checked += 1
    assert checked > 50
