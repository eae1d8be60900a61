"""The layers of nessa/: who may import whom, who may know a recipe, and how large modules get."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "docs" / "architecture.py"
spec = spec_from_file_location("architecture", SCRIPT)
assert spec is not None and spec.loader is not None
architecture = module_from_spec(spec)
spec.loader.exec_module(architecture)

MOST_MODULES, MOST_LINES = 10, 500  # beside the packages; of a module
LAYERS = architecture.LAYERS
BELOW_RECIPE = LAYERS[: LAYERS.index("recipe")]
Rule = Callable[[Path], list[str]]  # a package -> what breaks the rule, a line each


def climbs(package: Path) -> list[str]:
    found = []
    for module, targets in architecture.read_imports(package).items():
        for target in targets:
            own, other = (architecture.layer_of(name) for name in (module, target))
            if own and other and LAYERS.index(other) > LAYERS.index(own):  # nessa itself has none
                found.append(f"{module} imports {target}, which is above it")
    return found


def unknown_layers(package: Path) -> list[str]:
    found = {architecture.layer_of(module) for module in architecture.read_modules(package)}
    return [f"{name} is in no layer" for name in sorted(found - {"", *LAYERS})]


def circles(package: Path) -> list[str]:
    try:
        TopologicalSorter(architecture.read_imports(package)).prepare()
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def recipes_below(package: Path) -> list[str]:
    """What names Recipe, or a path in exp/, in a layer that may know neither."""
    return [
        f"{module}: {name}"
        for module, path in architecture.read_modules(package).items()
        if architecture.layer_of(module) in BELOW_RECIPE
        for name in _recipe_names(ast.parse(path.read_text()))
    ]


def _recipe_names(tree: ast.AST) -> Iterator[str]:
    """Identifiers, parameters and strings but docstrings."""
    nodes = list(ast.walk(tree))
    prose = [id(node.value) for node in nodes if isinstance(node, ast.Expr)]
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)) if id(node) not in prose:
                if text in ("Recipe", "exp") or "exp/" in text:
                    yield text
            case ast.Name(id="Recipe") | ast.alias(name="Recipe") | ast.Attribute(attr="Recipe"):
                yield "Recipe"
            case ast.arg(arg="exp"):
                yield "exp"


def crowds(package: Path) -> list[str]:
    beside = [path.stem for path in package.glob("*.py") if path.stem != "__init__"]
    return [f"{len(beside)} modules beside the packages"] if len(beside) > MOST_MODULES else []


def giants(package: Path) -> list[str]:
    lengths = {
        module: len(path.read_text().splitlines())
        for module, path in architecture.read_modules(package).items()
    }
    return [f"{name}: {count} lines" for name, count in lengths.items() if count > MOST_LINES]


RULES: list[Rule] = [unknown_layers, climbs, circles, recipes_below, crowds, giants]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_the_layers_hold(rule: Rule) -> None:
    assert rule(ROOT / "nessa") == []


SOUND = {
    "__init__.py": "",
    "errors.py": "",
    "files.py": "from nessa.errors import InputError\n",
    "kaldi/__init__.py": '"""Docstrings may speak of exp/ and of a Recipe."""\n',
    "kaldi/ark.py": "from nessa.files import digest\n",
    "kaldi/scp.py": "from nessa.kaldi.ark import Ark\n",
    "scoring/__init__.py": "",
    "scoring/cosine.py": "from nessa.kaldi.scp import read\n",
    "recipe/__init__.py": "from nessa.scoring import cosine\nRecipe = 'exp/recipe.yaml'\n",
}
# Files that break a rule in a package that is otherwise in order.
BREACHES: list[tuple[Rule, dict[str, str]]] = [
    (unknown_layers, {"helpers/__init__.py": ""}),
    (climbs, {"files.py": "import nessa.kaldi.ark\n"}),
    (climbs, {"kaldi/ark.py": "def read():\n    from nessa.scoring.cosine import cosine\n"}),
    (circles, {"kaldi/ark.py": "def read():\n    from nessa.kaldi import scp\n"}),
    (recipes_below, {"kaldi/ark.py": "from nessa.recipe import Recipe\n"}),
    (recipes_below, {"kaldi/ark.py": "def read(recipe: 'Recipe') -> None: ...\n"}),
    (recipes_below, {"kaldi/ark.py": "def read(exp): ...\n"}),
    (recipes_below, {"kaldi/ark.py": "PLACE = 'exp/embeddings'\n"}),
    (crowds, {f"more{number}.py": "" for number in range(MOST_MODULES)}),
    (giants, {"kaldi/ark.py": "\n" * (MOST_LINES + 1)}),
]


@pytest.mark.parametrize(("rule", "files"), BREACHES)
def test_a_breach_is_found(rule: Rule, files: dict[str, str], tmp_path: Path) -> None:
    write_package(tmp_path, SOUND)
    assert [one(tmp_path / "nessa") for one in RULES] == [[]] * len(RULES)
    write_package(tmp_path, files)
    assert rule(tmp_path / "nessa")


def write_package(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / "nessa" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.slow
def test_the_picture_shows_the_imports() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_stale_picture_is_refused(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    script = docs / SCRIPT.name
    script.write_text(SCRIPT.read_text())
    (tmp_path / "nessa").symlink_to(ROOT / "nessa")
    page = docs / "architecture.md"
    page.write_text((ROOT / "docs" / "architecture.md").read_text().replace("report -->", "-->"))
    check = [sys.executable, script, "--check"]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1
    subprocess.run(check[:2], check=True)
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
