"""What mkdocs asks while it builds the site: pages link to files of the repository beside docs/.

Those files become part of the site, at their place in the repository, so that no link is dead:
Markdown as pages, others as they are. Links are written as they work in the repository, and
turned round here.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()(?!https?://|#)([^)\s#]+)")
CHANGELOG = "CHANGELOG.md"  # in the navigation alone
OWN_PLACES = {"README.md": "overview.md"}  # a README would be the first page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository that pages link to, and those that these link to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()] + [CHANGELOG]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        if not page.startswith("docs/"):
            path = ROOT / page
            files.append(File.generated(config, _place(page), abs_src_path=str(path)))
        if page.endswith(".md"):
            new = [target for target in _targets(page) if target not in seen]
            seen.update(new)
            waiting += [target for target in new if not target.startswith("docs/")]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn a page's links to the places that files have on the site."""
    place = page.file.src_uri
    source = next((name for name, own in OWN_PLACES.items() if own == place), place)
    if not page.file.generated_by:
        source = f"docs/{source}"

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        return posixpath.relpath(_place(target), posixpath.dirname(place) or ".")

    return LINK.sub(turned, markdown)


def _place(path: str) -> str:
    """Where a file of the repository is among those of the site."""
    return OWN_PLACES.get(path, path.removeprefix("docs/"))


def _targets(page: str) -> Iterator[str]:
    """The files, by their paths in the repository, that a page links to."""
    for link in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
        if (ROOT / target).is_file():
            yield target
