"""A recipe's systems on disk: where their files lie, and how they are scored and calibrated.

exp/mapped/<aligner>/<enroll>-<runtime>/{dev,eval,cohort}/{enroll,runtime}/
exp/scores/<aligner>/<enroll>-<runtime>/
    {dev,eval}/<list>.scores, <list>.asnorm.scores    cosine, and with AS-norm
    calibration.json, calibration.asnorm.json         fitted on dev/trials
    eval/<list>.llr, <list>.asnorm.llr                natural-log likelihood ratios
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nessa.calibration import fit_calibration
from nessa.conditions import Condition
from nessa.config import Recipe
from nessa.errors import about
from nessa.plan import RAW, System, has_as_norm
from nessa.scoring import Calibration
from nessa.trials import Trials, join_scores, read_scores, write_scores
from nessa.verification import Scores, Sides, score_summary

Kind = Literal["", ".asnorm"]  # of scores, as their files are named
COSINE: Kind = ""
AS_NORM: Kind = ".asnorm"
DEV, EVAL = SCORED_SETS = ("dev", "eval")
COHORT = "cohort"
PROFILE_LIST = "trials_profile"


def pair_dir(folder: Path, system: System) -> Path:
    """A system's place in exp/aligners, exp/mapped or exp/scores."""
    return folder / system.aligner / f"{system.enroll}-{system.runtime}"


def aligner_dir(exp: Path, system: System) -> Path:
    """The fitted aligner of a system."""
    return pair_dir(exp / "aligners", system)


def mapped_dir(exp: Path, system: System, name: str) -> Path:
    """The mapped embeddings of a set (or of `COHORT`), with a folder for each side."""
    return pair_dir(exp / "mapped", system) / name


def own_cohort(exp: Path, system: System, cohort_set: str) -> tuple[Path, Path]:
    """The speakers' means of the cohort's set, in each model's own space."""
    tables = [
        exp / "embeddings" / model / cohort_set / "spk_xvector.scp"
        for model in (system.enroll, system.runtime)
    ]
    return tables[0], tables[1]


def score_file(
    scores_dir: Path,
    system: System,
    list_name: str,
    set_name: str = EVAL,
    kind: Kind = COSINE,
    calibrated: bool = False,
) -> Path:
    """The scores, or the calibrated ones, of a system on a trial list of a set."""
    name = f"{list_name}{kind}.{'llr' if calibrated else 'scores'}"
    return pair_dir(scores_dir, system) / set_name / name


def read_condition_scores(
    scores_dir: Path,
    system: System,
    condition: Condition,
    kind: Kind = COSINE,
    calibrated: bool = False,
) -> Scores:
    """The scores (T,) of a system on the eval trials of a condition, joined by key.

    Raises:
        InputError: the score file is unreadable, or a trial has no score in it.
    """
    path = score_file(scores_dir, system, condition.list_name, EVAL, kind, calibrated)
    scored, scores = read_scores(path)
    with about(path):
        return join_scores(condition.trials, scored, scores, allow_extra=True)


def score_system(recipe: Recipe, data: Path, exp: Path, system: System) -> Iterator[str]:
    """Score a system's dev and eval trials, and calibrate on dev what eval has.

    Args:
        recipe: its section `scoring`.
        data: holds the sets, with their trials.
        exp: holds embeddings/ or mapped/; receives scores/.
        system: what to score; a raw model with itself needs no mapping.

    Yields:
        What was written, a line each.

    Raises:
        InputError: embeddings or trials are missing or do not fit, the cohort is smaller than
            scoring.top_n, or the dev trials have no labels.
    """
    cohort = Sides.read(*_cohort_paths(recipe, exp, system)) if has_as_norm(system) else None
    calibrations: dict[Kind, Calibration] = {}
    for set_name in SCORED_SETS:
        sides = Sides.read(*_side_paths(exp, system, set_name))
        for path in _lists(data / set_name):
            if path.name == PROFILE_LIST:
                sides = sides.with_profiles(path.with_name("enroll_map"))
            trials = Trials.read(path)
            with about(path):
                scores = {COSINE: sides.cosine(trials)}
                if cohort is not None:
                    top_n = recipe.scoring.top_n
                    scores[AS_NORM] = sides.as_norm(scores[COSINE], trials, cohort, top_n)
            for kind, values in scores.items():
                place = exp / "scores", system, path.name, set_name, kind
                write_scores(score_file(*place), trials, values)
                yield score_summary(score_file(*place), trials, values)
                if set_name == DEV:
                    fitted = pair_dir(exp / "scores", system) / f"calibration{kind}.json"
                    p_target = recipe.scoring.p_target
                    calibrations[kind] = fit_calibration(path, score_file(*place), fitted, p_target)
                else:
                    llrs = calibrations[kind].apply(values)
                    write_scores(score_file(*place, calibrated=True), trials, llrs)


def _lists(set_dir: Path) -> list[Path]:
    """Single-utterance trials; profiles are evaluated only, and a set may have none."""
    lists = [set_dir / "trials"]
    if set_dir.name == EVAL and (set_dir / PROFILE_LIST).is_file():
        lists.append(set_dir / PROFILE_LIST)
    return lists


def _side_paths(exp: Path, system: System, set_name: str) -> tuple[Path, Path]:
    if _is_unmapped(system):
        directory = exp / "embeddings" / system.enroll / set_name
        return directory, directory
    mapped = mapped_dir(exp, system, set_name)
    return mapped / "enroll", mapped / "runtime"


def _cohort_paths(recipe: Recipe, exp: Path, system: System) -> tuple[Path, Path]:
    if _is_unmapped(system):
        return own_cohort(exp, system, recipe.scoring.cohort)
    mapped = mapped_dir(exp, system, COHORT)
    return mapped / "enroll", mapped / "runtime"


def _is_unmapped(system: System) -> bool:
    return system.aligner == RAW and system.enroll == system.runtime
