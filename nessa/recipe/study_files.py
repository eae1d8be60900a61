"""The files of studies, and by what a stale one is known."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from nessa.corpus.origins import COPIES, SOURCES
from nessa.corpus.speakers import COMPARED, TESTED
from nessa.errors import InputError
from nessa.files import Record, digest, file_digest, read_json, spots_digest, write_json
from nessa.kaldi.datadir import MAIN_LIST, trial_lists
from nessa.recipe.config import Recipe
from nessa.recipe.layout import aligner_dir, embeddings_dir, score_file
from nessa.recipe.systems import NESSA, System, update_cells

DURATIONS = "durations"  # of `nessa.recipe.durations`, which trains nothing
ROLLOUT = "rollout"  # of `nessa.recipe.rollout`, which trains nothing
TABLES = ("utt2spk", "utt2domain", COPIES, SOURCES)  # of the compared sets
# The sections of the recipe that a study's outcome does not depend on.
OTHER_SECTIONS = {"name", "controls", "baselines", "scoring"}


def study_digest(name: str, recipe: Recipe, data: Path, exp: Path) -> str:
    """What a study was made of, by which a stale one is known: settings, and files.

    The embeddings are known by `spots_digest`, which takes no time. A study of what is missing is
    stale.
    """
    folders = [embeddings_dir(exp, *cell) for cell in product(recipe.update, COMPARED)]
    arks = [ark for folder in folders for ark in sorted(folder.glob("xvector.*.ark"))]
    spots = {str(ark.relative_to(exp)): spots_digest(ark).hex() for ark in arks}
    files = [data / part / table for part in COMPARED for table in TABLES]
    files += [path for part in TESTED for path in trial_lists(data / part)]
    if name == DURATIONS:
        folders = [aligner_dir(exp, System(NESSA, *pair)) for pair in recipe.pairs]
        files += [path for folder in folders for path in sorted(folder.glob("*"))]
    if name == ROLLOUT:
        cells = product(update_cells(recipe), TESTED)
        files += [score_file(exp / "scores", cell, MAIN_LIST, part) for cell, part in cells]
    known = [[path.name, file_digest(path) if path.is_file() else None] for path in files]
    return digest([recipe.model_dump(mode="json", exclude=OTHER_SECTIONS), spots, known])


def write_study(output: Path, name: str, key: str, records: Sequence[Record]) -> None:
    """Write a study as JSON: {"study", "digest", "records"}.

    Args:
        output: the file.
        name: of the study.
        key: its `study_digest`, taken before anything was read.
        records: what it found.
    """
    write_json(output, {"study": name, "digest": key, "records": records})


def read_study(path: Path) -> dict[str, Any]:
    """A file of `write_study`.

    Raises:
        InputError: it is none.
    """
    study = read_json(path)
    if not isinstance(study, dict) or not study.keys() >= {"digest", "records"}:
        raise InputError(f"{path}: not a study; run it again, or remove the file")
    return study
