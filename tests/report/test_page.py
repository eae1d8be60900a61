"""The report's page, as a browser shows it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PROBE = """<script>
addEventListener("load", () => {
  const folded = [...document.querySelectorAll("details")];
  const answered = [...document.querySelectorAll("#verdict svg, #gain .big")]
    .every(one => one.getBoundingClientRect().height > 10);
  folded.forEach(one => one.open = true);
  const drawn = [...document.querySelectorAll("figure svg")].map(svg => {
    const box = svg.getBoundingClientRect();
    return [box.width, box.height, svg.querySelectorAll("path").length,
            document.getElementById(svg.getAttribute("aria-labelledby")).textContent.length];
  });
  const ids = [...document.querySelectorAll("[id]")].map(one => one.id);
  const found = {
    answered, width: innerWidth, scroll: document.documentElement.scrollWidth, drawn,
    repeated: ids.filter((id, place) => ids.indexOf(id) !== place),
    dangling: [...document.querySelectorAll("nav a")].map(a => a.getAttribute("href").slice(1))
      .filter(id => !document.getElementById(id)),
    ink: getComputedStyle(document.body).color,
    paper: getComputedStyle(document.body).backgroundColor,
  };
  document.title = JSON.stringify(found);
});
</script></body>"""


@pytest.fixture(scope="module")
def page(tiny: Path) -> str:
    return (tiny / "exp/report/index.html").read_text()


def show(page: str, folder: Path, width: int, dark: bool = False) -> dict:
    """What the browser made of the page, and what it complained about."""
    if BROWSER is None:
        pytest.skip("no Chromium here to open the report with")
    (folder / "page.html").write_text(page.replace("</body>", PROBE))
    if dark:
        (folder / "page.html").write_text(
            (folder / "page.html").read_text().replace("(prefers-color-scheme: dark)", "all")
        )
    # A window has a least width, a frame has not.
    frame = f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'
    (folder / "frame.html").write_text(
        f"<!doctype html><title>frame</title>{frame}<script>addEventListener('load', () => {{"
        "document.title = document.querySelector('iframe').contentDocument.title})</script>"
    )
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    words += ["--enable-logging=stderr", "--virtual-time-budget=5000", "--window-size=1400,1000"]
    words += [
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
        (folder / "frame.html").as_uri(),
    ]
    done = subprocess.run([BROWSER, *words], capture_output=True, text=True, timeout=120)
    found = json.loads(html.unescape(re.search("<title>(.*?)</title>", done.stdout, re.S)[1]))
    return found | {"console": [line for line in done.stderr.splitlines() if "CONSOLE" in line]}


@pytest.mark.parametrize("width", [1280, 400])
def test_everything_is_drawn_and_nothing_sticks_out(page: str, tmp_path: Path, width: int) -> None:
    found = show(page, tmp_path, width)
    assert found["console"] == []
    assert found["width"] == width and found["scroll"] <= width
    assert found["answered"]  # with all details folded
    assert len(found["drawn"]) == page.count("<figure ") >= 4
    for wide, high, paths, text in found["drawn"]:
        assert wide > 250 and high > 80 and paths > 10 and text > 20
    assert found["repeated"] == [] and found["dangling"] == []


def test_dark_mode_has_light_ink(page: str, tmp_path: Path) -> None:
    def lightness(color: str) -> float:
        return sum(map(int, re.findall(r"\d+", color)[:3])) / (3 * 255)

    for dark in (False, True):
        found = show(page, tmp_path, 800, dark)
        assert (lightness(found["ink"]) > lightness(found["paper"])) == dark
        assert abs(lightness(found["ink"]) - lightness(found["paper"])) > 0.7


def test_the_page_needs_nothing_else_and_tells_it_all(page: str, tiny: Path) -> None:
    addresses = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert addresses == [] and "@import" not in page and "url(http" not in page
    results = json.loads((tiny / "exp/results.json").read_text())
    for record in results:
        of_a_seed = record["aligner"] == "nessa" and record["enroll"] != record["runtime"]
        assert f"<td>{100 * record['eer']:.2f} [" in page or of_a_seed  # whose mean is there
    assert "<title>NESSA: results of recipe mini</title>" in page
    text = html.unescape(page)
    assert "nessa.cli train --recipe" in text and "hidden_dim: 64" in text
    for stage in ("corpus", "encoders", "extract", "align", "asymmetric"):
        assert f"<tr><td>{stage}</td>" in page
