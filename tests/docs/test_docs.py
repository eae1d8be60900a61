"""Links, paths, examples of help texts and public names: what documentation promises is there."""

import doctest
import importlib
import inspect
import pkgutil
import re
from operator import attrgetter
from pathlib import Path
from pydoc import locate

import pytest

import nessa
from tests.conftest import ROOT

PAGES = sorted(
    path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/*/*.md")]
)


def anchors(page: Path) -> set[str]:
    """The ids that headings get, as GitHub and mkdocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_functions_are_where_the_page_says(page: Path) -> None:
    """As in `nessa/trials.py:Trials.read` or `local/tree.py`."""
    # Blocks, and the names of those that are files to be written.
    text = re.sub(r"^(`\S+`:\n\n)?```.*?^```", "", page.read_text(), flags=re.M | re.S)
    roots = r"(?:nessa|local|tests|benchmarks|docs|utils|conf)/"
    for path, name in re.findall(rf"`({roots}[\w/]+\.\w+)(?::([\w.]+))?`", text):
        assert (ROOT / path).is_file(), f"{page}: {path}"
        if name and path.startswith("nessa/"):
            module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            assert attrgetter(name)(importlib.import_module(module)), f"{page}: {path}:{name}"
        elif name:
            defined = re.findall(r"^(?:def |class )?(\w+)\b", (ROOT / path).read_text(), re.M)
            assert name in defined, f"{page}: {path}:{name}"
    for name in re.findall(r"`(nessa(?:\.\w+)+)`", text):
        assert page.name == "CHANGELOG.md" or locate(name), f"{page}: {name}"  # it has old names


GUIDES = [page for page in PAGES if not page.name.startswith("RESULTS")]  # written by nessa report


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_put_the_programs_that_they_call_in_path(page: Path) -> None:
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", page.read_text(), re.M | re.S)
    called = re.search(r"^ *(nessa|python|torchrun) ", "".join(blocks), re.M)
    assert not called or re.search(r"export PATH=\$PWD/.venv/bin:\$PATH", "".join(blocks))


def test_the_reference_names_what_is_there() -> None:
    text = (ROOT / "docs/api.md").read_text()
    for name, members in re.findall(r"^::: (\S+)(?:\n.*members: \[(.*?)\])?", text, re.M):
        module = importlib.import_module(name)
        assert all(hasattr(module, member) for member in members.split(", ") if member), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_imports_of_examples_are_there(page: Path) -> None:
    for module, names in re.findall(r"^from (nessa\S*) import (.+)$", page.read_text(), re.M):
        if page.name != "CONTRIBUTING.md":  # run by test_contributing.py
            assert all(locate(f"{module}.{name.strip()}") for name in names.split(",")), module


def modules() -> list[str]:
    found = pkgutil.walk_packages(nessa.__path__, "nessa.")
    return [name for name in (module.name for module in found) if "._" not in name]


@pytest.mark.parametrize("name", modules())
def test_every_public_name_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, name
    for member, value in vars(module).items():
        own = getattr(value, "__module__", None) == name
        if (
            member.startswith("_")
            or not own
            or not (inspect.isclass(value) or inspect.isfunction(value))
        ):
            continue
        assert value.__doc__, f"{name}.{member}"
        if not inspect.isclass(value) or issubclass(value, Exception):
            continue
        for method, function in vars(value).items():
            if not method.startswith("_") and inspect.isfunction(function):
                inherited = any(getattr(base, method, None) for base in value.__mro__[1:])
                assert function.__doc__ or inherited, f"{name}.{member}.{method}"


EXAMPLES = (
    "nessa.errors", "nessa.metrics.roc", "nessa.scoring.cosine", "nessa.kaldi.embeddings",
    "nessa.trials",
)  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings_hold(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted and not outcome.failed


def test_no_example_is_left_out() -> None:
    files = (ROOT / "nessa").rglob("*.py")
    with_examples = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in files
        if re.search(r"^ +>>> ", path.read_text(), re.M)
    }
    assert with_examples == set(EXAMPLES)
