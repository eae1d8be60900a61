"""Where the files of a run's systems lie.

exp/aligners/<aligner>/<enroll>-<runtime>/
exp/mapped/<aligner>/<enroll>-<runtime>/{dev,eval,cohort}/{enroll,runtime}/
exp/scores/<aligner>/<enroll>-<runtime>/
    {dev,eval}/<list>.scores, <list>.asnorm.scores    cosine, and with AS-norm
    calibration.json, calibration.asnorm.json         fitted on dev/trials
    eval/<list>.llr, <list>.asnorm.llr                natural-log likelihood ratios
"""

from pathlib import Path
from typing import Literal

from nessa.recipe.systems import System

Kind = Literal["", ".asnorm"]  # of scores, as their files are named
COSINE: Kind = ""
AS_NORM: Kind = ".asnorm"
DEV, EVAL = SCORED_SETS = ("dev", "eval")
COHORT = "cohort"


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


def calibration_file(scores_dir: Path, system: System, kind: Kind) -> Path:
    """The calibration of a system's scores of one kind."""
    return pair_dir(scores_dir, system) / f"calibration{kind}.json"
