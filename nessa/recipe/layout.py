"""Where the files of a run's systems lie.

exp/embeddings/<model>/<set>/
exp/backends/lda_plda/<model>.safetensors
exp/aligners/<aligner>/<enroll>-<runtime>/
exp/mapped/<aligner>/<enroll>-<runtime>/{dev,eval,cohort}/{enroll,runtime}/
exp/scores/<aligner>/<enroll>-<runtime>/
    {dev,eval}/<list>.scores, <list>.asnorm.scores    cosine, and with AS-norm
    calibration.json, calibration.asnorm.json         fitted on dev/trials
    eval/<list>.llr, <list>.asnorm.llr                natural-log likelihood ratios
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from nessa.corpus.speakers import TESTED
from nessa.kaldi.datadir import read_optional
from nessa.recipe.systems import LDA_PLDA, RAW, System

Kind = Literal["", ".asnorm"]  # of scores, as their files are named
COSINE: Kind = ""
AS_NORM: Kind = ".asnorm"
DEV, EVAL = TESTED
COHORT = "cohort"


def pair_dir(folder: Path, system: System) -> Path:
    """A system's place in exp/aligners, exp/mapped or exp/scores."""
    return folder / system.aligner / f"{system.enroll}-{system.runtime}"


def aligner_dir(exp: Path, system: System) -> Path:
    """The fitted aligner of a system."""
    return pair_dir(exp / "aligners", system)


def backend_file(exp: Path, model: str) -> Path:
    """LDA and PLDA as fitted for one model."""
    return exp / "backends" / LDA_PLDA / f"{model}.safetensors"


def embeddings_dir(exp: Path, model: str, set_name: str) -> Path:
    """The embeddings of a set, as a model extracted them."""
    return exp / "embeddings" / model / set_name


def skipped_by_models(exp: Path, models: Iterable[str], set_name: str) -> dict[str, str]:
    """{utterance: why} of a set, what one of the models could not embed (--skip-bad)."""
    skipped: dict[str, str] = {}
    for model in models:
        skipped |= read_optional(embeddings_dir(exp, model, set_name), "skipped")
    return skipped


def raw_sides(exp: Path, system: System, set_name: str) -> tuple[Path, Path]:
    """The embeddings of a set on both sides, each in its model's own space."""
    return (
        embeddings_dir(exp, system.enroll, set_name),
        embeddings_dir(exp, system.runtime, set_name),
    )


def raw_cohort(exp: Path, system: System, cohort_set: str) -> tuple[Path, Path]:
    """The speakers' means of the cohort's set on both sides, each in its model's own space."""
    enroll, runtime = raw_sides(exp, system, cohort_set)
    return enroll / "spk_xvector.scp", runtime / "spk_xvector.scp"


def mapped_dir(exp: Path, system: System, name: str) -> Path:
    """The mapped embeddings of a set (or of `COHORT`), with a folder for each side."""
    return pair_dir(exp / "mapped", system) / name


def scored_sides(exp: Path, system: System, set_name: str) -> tuple[Path, Path]:
    """The embeddings of a set on both sides, in the space in which the system scores them."""
    if _is_unmapped(system):
        return raw_sides(exp, system, set_name)
    mapped = mapped_dir(exp, system, set_name)
    return mapped / "enroll", mapped / "runtime"


def scored_cohort(exp: Path, system: System, cohort_set: str) -> tuple[Path, Path]:
    """The cohort on both sides, in the space in which the system scores."""
    if _is_unmapped(system):
        return raw_cohort(exp, system, cohort_set)
    return scored_sides(exp, system, COHORT)


def _is_unmapped(system: System) -> bool:
    return system.aligner == RAW and system.enroll == system.runtime


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
