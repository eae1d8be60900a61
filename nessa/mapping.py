"""Embeddings of both models -> the shared space of an aligner, as embeddings directories."""

import logging
from pathlib import Path

import numpy as np

from nessa.alignment import Aligner, load
from nessa.config import Recipe
from nessa.errors import about
from nessa.layout import COHORT, SCORED_SETS, aligner_dir, mapped_dir, own_cohort
from nessa.plan import System, has_as_norm
from nessa.tables import Embeddings, ModelStamp, profile_means
from nessa.trials import read_enroll_map

log = logging.getLogger(__name__)


def map_system(recipe: Recipe, data: Path, exp: Path, system: System) -> None:
    """Map all that a system is scored on: the dev and eval sets, and the cohort of AS-norm.

    The cohort's vectors are means over a speaker's utterances, averaged as profiles are, in the
    own space of each model.

    Args:
        recipe: names the cohort's set.
        data: holds data directories; the enrollment map of a set names profiles to map as well.
        exp: holds aligners/ and embeddings/; receives mapped/.
        system: what to map.

    Raises:
        InputError: see `map_sides`; or there is no aligner.
    """
    aligner = load(aligner_dir(exp, system))
    embeddings = exp / "embeddings"
    for name in SCORED_SETS:
        sides = embeddings / system.enroll / name, embeddings / system.runtime / name
        enroll_map = data / name / "enroll_map"
        profiles = enroll_map if enroll_map.is_file() else None
        map_sides(aligner, *sides, profiles, mapped_dir(exp, system, name))
    if has_as_norm(system):
        cohort = own_cohort(exp, system, recipe.scoring.cohort)
        map_sides(aligner, *cohort, None, mapped_dir(exp, system, COHORT))


def map_sides(
    aligner: Aligner, enroll: Path, runtime: Path, enroll_map: Path | None, output: Path
) -> None:
    """Map one set of embeddings of each model; writes `output`/enroll and `output`/runtime.

    Args:
        aligner: fitted on the two models.
        enroll: embeddings directory (or scp, ark) of the enrollment model.
        runtime: the same of the runtime model.
        enroll_map: profiles (`id utterance ...`) to map beside the enrollment utterances; a
            profile is averaged in the enrollment model's own space, which is what is stored.
        output: the folder that receives both sides.

    Raises:
        InputError: unreadable embeddings, or of another model or dimension than the aligner's.
    """
    enrolled, live = Embeddings.read(enroll), Embeddings.read(runtime)
    with about(enroll):
        aligner.check_models(enrolled, None)
    with about(runtime):
        aligner.check_models(None, live)
    for path, embeddings in ((enroll, enrolled), (runtime, live)):
        if embeddings.stamp is None:
            log.warning("%s: no info.json; is this the model that the aligner was fitted on?", path)
    if enroll_map is not None:
        profiles = read_enroll_map(enroll_map)
        with about(enroll_map, enroll):
            enrolled = _joined(enrolled, profile_means(enrolled, profiles))
    with about(enroll):
        mapped_enroll = aligner.map_enroll(enrolled.matrix)
    with about(runtime):
        mapped_runtime = aligner.map_runtime(live.matrix)
    for side, embeddings, mapped in (
        ("enroll", enrolled, mapped_enroll),
        ("runtime", live, mapped_runtime),
    ):
        stamp = _shared_space(aligner, embeddings.stamp)
        Embeddings(embeddings.keys, mapped, stamp).write(output / side)


def _joined(first: Embeddings, second: Embeddings) -> Embeddings:
    matrix = np.concatenate([first.matrix, second.matrix])
    return Embeddings([*first.keys, *second.keys], matrix, first.stamp)


def _shared_space(aligner: Aligner, stamp: ModelStamp | None) -> ModelStamp | None:
    """The stamp of mapped vectors: not the model's any more, but of the space they are in."""
    if stamp is None:
        return None
    return ModelStamp(f"{stamp.model} in {aligner.kind} space", aligner.space(), stamp.set)
