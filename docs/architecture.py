#!/usr/bin/env python3
"""Draw the packages of nessa/ into docs/architecture.md, from the imports of its modules.

python docs/architecture.py           write the picture and the table into the page
python docs/architecture.py --check   exit 1 where the page does not show today's imports
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
DRAWN = re.compile(r"(?<=<!-- drawn by docs/architecture.py -->\n).*?(?=<!-- end -->)", re.DOTALL)
# From the ground up: a module imports from its own layer and from those before it, never up.
BASE = (
    "errors", "files", "columns", "lazy", "optimizer", "progress", "threads", "schema", "text",
    "trials",
)  # fmt: skip
PACKAGES = (
    "metrics", "kaldi", "stores", "corpus", "synth", "encoders", "scoring", "alignment",
    "evaluation", "production", "recipe", "report", "cli",
)  # fmt: skip
LAYERS = (*BASE, *PACKAGES)

Graph = Mapping[str, set[str]]


def read_modules(package: Path) -> dict[str, Path]:
    """The modules of a package by their full names; a folder's `__init__` has the folder's."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def read_imports(package: Path) -> dict[str, set[str]]:
    """Module -> the package's modules that it imports, anywhere in it.

    Raises:
        ValueError: a relative import, or one of a module that is not there.
    """
    modules = read_modules(package)
    return {
        name: set(_imported(name, ast.parse(path.read_text()), modules)) - {name}
        for name, path in modules.items()
    }


def _imported(name: str, tree: ast.AST, modules: Mapping[str, Path]) -> Iterator[str]:
    root = name.partition(".")[0]
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{name}: line {node.lineno}: name the module in full")
            places = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [place if place in modules else str(node.module) for place in places]
        for module in found:
            if module.partition(".")[0] == root:
                if module not in modules:
                    raise ValueError(f"{name}: line {node.lineno}: no module {module}")
                yield module


def layer_of(module: str) -> str:
    """nessa.kaldi.ark -> kaldi, nessa.text -> text; the package itself has none: ""."""
    return module.partition(".")[2].partition(".")[0]


def between_packages(imports: Graph) -> dict[str, set[str]]:
    """Package -> those that it imports from; the modules beside the packages are one: base."""
    graph: dict[str, set[str]] = {name: set() for name in ("base", *PACKAGES)}
    for module, targets in imports.items():
        if layer_of(module):
            own = _package(module)
            graph[own] |= {_package(target) for target in targets if layer_of(target)} - {own}
    return graph


def _package(module: str) -> str:
    return "base" if layer_of(module) in BASE else layer_of(module)


def reduced(graph: Graph) -> dict[str, set[str]]:
    """The graph without the edges that a longer path implies."""

    def below(name: str) -> set[str]:
        return graph[name].union(*(below(other) for other in graph[name]))

    return {
        name: {own for own in targets if not any(own in below(o) for o in targets)}
        for name, targets in graph.items()
    }


def draw(package: Path) -> str:
    """The picture and the table, as Markdown."""
    modules, graph = read_modules(package), between_packages(read_imports(package))
    lines = ["```mermaid", "flowchart TD"]
    for name, targets in reversed(reduced(graph).items()):
        lines += [f"  {name} --> {target}" for target in sorted(targets, key=list(graph).index)]
    lines += ["```", "", "| package | holds | modules |", "|---|---|---|"]
    for name in reversed(PACKAGES):
        face = f"{package.name}.{name}"
        text = ast.get_docstring(ast.parse(modules[face].read_text())) or ""
        own = [module.rpartition(".")[2] for module in modules if module.startswith(f"{face}.")]
        lines.append(f"| `{name}/` | {text.splitlines()[0]} | {', '.join(own)} |")
    lines.append(f"| base | What every package may use. | {', '.join(BASE)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page, or check it."""
    text = PAGE.read_text()
    drawn = DRAWN.sub(lambda _: draw(ROOT / "nessa"), text)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(drawn)
    elif drawn != text:
        sys.exit(f"{PAGE.name} is stale; run python docs/architecture.py")


if __name__ == "__main__":
    main()
