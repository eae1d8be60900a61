"""On which machine, with which versions and settings, a run's metrics were made."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from nessa.errors import InputError
from nessa.files import read_json, write_json
from nessa.recipe.config import Recipe
from nessa.recipe.resolve import load_recipe
from nessa.recipe.stages import stage_digest
from nessa.schema import save_yaml

METRICS = ("symmetric", "asymmetric")  # files in exp/metrics, each by the stage of its name
LIBRARIES = ("torch", "lhotse", "numpy")
UNKNOWN = "not recorded"
KEYS = ("Machine", "Versions")
INSTRUCTIONS = {"avx512f": "AVX-512", "avx2": "AVX2"}  # by their flags, the newest first
MAKERS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}  # as /proc/cpuinfo calls them


def write_circumstances(metrics: Path, recipe: Recipe) -> None:
    """Write this machine, its versions and the settings beside a file of metrics, after it."""
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    here = {
        "Machine": f"{platform.machine()}{_instructions()} with {os.cpu_count()} cores",
        "Versions": f"Python {platform.python_version()}, {versions}",
    }
    write_json(_place(metrics), here)
    save_yaml(metrics.with_suffix(".recipe.yaml"), recipe)


def _instructions() -> str:
    """What results depend on: the instruction set that run.sh asks for, or the newest, and MKL's.

    MKL has kernels of its own for each maker's processors, unless it is asked for those of all.
    """
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    known = [name for flag, name in INSTRUCTIONS.items() if flag in text.split()]
    pinned = os.environ.get("ATEN_CPU_CAPABILITY", known[0] if known else "")
    maker = next((name for vendor, name in MAKERS.items() if vendor in text), "")
    if os.environ.get("MKL_CBWR") == "COMPATIBLE":
        maker = "kernels of all makers"
    said = ", ".join(filter(None, [pinned.upper(), maker]))
    return f" ({said})" if said else ""


def read_circumstances(metrics: Sequence[Path]) -> dict[str, str]:
    """The machines and versions of some files of metrics: {"Machine", "Versions"}.

    Raises:
        InputError: a file that says something else.
    """
    found = []
    for place in filter(Path.is_file, map(_place, metrics)):
        found.append(read_json(place))
        if not isinstance(found[-1], dict) or not all(
            isinstance(found[-1].get(key), str) for key in KEYS
        ):
            raise InputError(f"{place}: expected {' and '.join(KEYS)}; remove it")
    return {key: "; ".join(dict.fromkeys(one[key] for one in found)) or UNKNOWN for key in KEYS}


def check_recipe(recipe: Recipe, exp: Path) -> None:
    """Refuse another recipe than that of the run, whose settings the pages would show."""
    own = exp / "recipe.yaml"
    if own.exists() and stage_digest(load_recipe(own), "report") != stage_digest(recipe, "report"):
        raise InputError(f"the run in {exp} is not of this recipe; give {own}")


def check_metrics(recipe: Recipe, exp: Path) -> None:
    """Refuse metrics, and so scores, that were made before the recipe's settings changed.

    Those of earlier versions do not tell.
    """
    for stage in METRICS:
        metrics = exp / "metrics" / f"{stage}.json"
        own = metrics.with_suffix(".recipe.yaml")
        if own.exists() and stage_digest(load_recipe(own), stage) != stage_digest(recipe, stage):
            raise InputError(
                f"{metrics}: made with other settings than the recipe's; run ./run.sh with these "
                "(--size, --set), which makes it again"
            )


def _place(metrics: Path) -> Path:
    return metrics.with_suffix(".machine.json")
