"""The wheel: the package alone, which works without the recipes."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

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


def test_it_works_without_the_recipes(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    code = (
        "import nessa, numpy as np; from nessa.alignment import ProcrustesAligner;"
        "from nessa.report.page import write_page;"
        "x = nessa.Embeddings([f's{n//2}-{n}' for n in range(40)], np.random.randn(40, 8));"
        "speakers = {key: key.split('-')[0] for key in x.keys};"
        "ProcrustesAligner().fit(x, x, speakers).save('aligner'); print(nessa.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "site/nessa/__init__.py")
    assert (tmp_path / "aligner/aligner.json").is_file()
