"""On which machine, with which versions and settings, a run's metrics were made."""

import logging
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

log = logging.getLogger(__name__)
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
    if _another(own, recipe, "report"):
        raise InputError(f"the run in {exp} is not of this recipe; give {own}")


def warn_of_recipe(recipe: Recipe, exp: Path) -> None:
    """Say that a study of another recipe than the run's is made, but not reported."""
    own = exp / "recipe.yaml"
    if _another(own, recipe, "report"):
        log.warning(
            "the run in %s is not of this recipe: nessa report will not show the study; give %s "
            "for that", exp, own,
        )  # fmt: skip


def warn_of_metrics(recipe: Recipe, exp: Path) -> None:
    """Warn of metrics, and so scores, that were made with other settings than the recipe's."""
    for stage in other_settings(recipe, exp):
        log.warning(
            "%s: made with other settings than the recipe's, and used as it is; ./run.sh with "
            "these (--size, --set), and without --stage, makes it again",
            exp / "metrics" / f"{stage}.json",
        )


def other_settings(recipe: Recipe, exp: Path) -> dict[str, str]:
    """{stage: digest of the settings} of metrics that were made with others than the recipe's.

    Those of earlier versions do not tell.
    """
    places = {stage: exp / "metrics" / f"{stage}.recipe.yaml" for stage in METRICS}
    made = {stage: _another(place, recipe, stage) for stage, place in places.items()}
    return {stage: settings_digest(own) for stage, own in made.items() if own is not None}


def settings_digest(recipe: Recipe) -> str:
    """By which the pages tell settings."""
    return stage_digest(recipe, "report")[:12]


def _another(own: Path, recipe: Recipe, stage: str) -> Recipe | None:
    """The recipe of a file, if there and of other settings of a stage than the given one's."""
    if not own.exists():
        return None
    made = load_recipe(own)
    return made if stage_digest(made, stage) != stage_digest(recipe, stage) else None


def _place(metrics: Path) -> Path:
    return metrics.with_suffix(".machine.json")
