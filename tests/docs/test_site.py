"""The site: built without a warning, every page in its navigation and short enough to read."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from nessa import __version__
from tests.conftest import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
WORDS = 1200  # of a page, at most


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].partition("\nhooks:")[0]
    listed = re.findall(r"[\w/-]+\.md$", navigation, re.M)
    pages = [str(page.relative_to(ROOT / "docs")) for page in PAGES]
    assert sorted(listed) == sorted([*pages, "CHANGELOG.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_are_short(page: Path) -> None:
    assert len(re.findall(r"(?<!\S)[^\s|]*\w\S*", page.read_text())) <= WORDS


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning is an error."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_what_is_made_for_it(site: Path) -> None:
    assert "Neural" in (site / "api/index.html").read_text()
    assert f">{__version__} (" in (site / "CHANGELOG/index.html").read_text()
    assert "EER %" in (site / "recipes/mini/RESULTS/index.html").read_text()


@pytest.mark.slow
def test_no_link_of_the_site_is_dead(site: Path) -> None:
    """Those to files of the repository neither, which become part of it."""
    checked = 0
    for page in site.rglob("*.html"):
        if page == site / "404.html":  # which names the site's address
            continue
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if not re.match(r"[a-z]+:", link):
                assert (page.parent / unquote(link)).exists(), f"{page.relative_to(site)}: {link}"
                checked += 1
    assert checked > 1000
