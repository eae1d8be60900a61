"""Print what this Python lacks to run nessa, one requirement a line: nothing if nothing.

Usage: check_environment.py PYPROJECT EXTRA...
"""

import sys
import tomllib
from importlib import metadata
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ImportError:
    print("packaging")  # nothing else can be told without it
    sys.exit()


def lacks(requirement: Requirement) -> bool:
    """Tell whether no installed version satisfies `requirement`."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return True
    return not requirement.specifier.contains(version, prereleases=True)


def main(pyproject: str, *extras: str) -> None:
    """Read the requirements from `pyproject`, so that they are written down only once."""
    project = tomllib.loads(Path(pyproject).read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    for line in wanted:
        if lacks(Requirement(line)):
            print(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
