"""Embeddings of both models -> the shared space of an aligner, as embeddings directories."""

import logging
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from nessa.alignment import Aligner, load
from nessa.alignment.views import Matrix
from nessa.config import Recipe
from nessa.errors import about
from nessa.layout import COHORT, SCORED_SETS, aligner_dir, mapped_dir, own_cohort
from nessa.plan import System, has_as_norm
from nessa.tables import Block, Embeddings, ModelStamp, join_parts, profile_means, write_part
from nessa.trials import read_enroll_map

log = logging.getLogger(__name__)

ROWS_PER_BLOCK = 16384  # mapped while the ones before are written


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
    aligner: Aligner,
    enroll: Path,
    runtime: Path,
    enroll_map: Path | None,
    output: Path,
    nj: int = 1,
) -> None:
    """Map one set of embeddings of each model; writes `output`/enroll and `output`/runtime.

    Memory: the embeddings of both sides, and some blocks of mapped ones.

    Args:
        aligner: fitted on the two models.
        enroll: embeddings directory (or scp, ark) of the enrollment model.
        runtime: the same of the runtime model.
        enroll_map: profiles (`id utterance ...`) to map beside the enrollment utterances; a
            profile is averaged in the enrollment model's own space, which is what is stored.
        output: the folder that receives both sides.
        nj: processes, each of which writes an ark of a side.

    Raises:
        InputError: unreadable embeddings, or of another model or dimension than the aligner's.
    """
    enrolled, live = Embeddings.read(enroll), Embeddings.read(runtime)
    with about(enroll):
        aligner.check_models(enrolled, None)
        aligner.map_enroll(enrolled.matrix[:1])  # the dimension, before anything is written
    with about(runtime):
        aligner.check_models(None, live)
        aligner.map_runtime(live.matrix[:1])
    for path, embeddings in ((enroll, enrolled), (runtime, live)):
        if embeddings.stamp is None:
            log.warning("%s: no info.json; is this the model that the aligner was fitted on?", path)
    if enroll_map is not None:
        profiles = read_enroll_map(enroll_map)
        with about(enroll_map, enroll):
            enrolled = _joined(enrolled, profile_means(enrolled, profiles))
    _write_mapped(enrolled, aligner.map_enroll, output / "enroll", nj)
    _write_mapped(live, aligner.map_runtime, output / "runtime", nj)
    for side, embeddings, apply in (
        ("enroll", enrolled, aligner.map_enroll),
        ("runtime", live, aligner.map_runtime),
    ):
        stamp = _shared_space(aligner, embeddings.stamp)
        join_parts(output / side, nj, apply(embeddings.matrix[:1]).shape[1], stamp)


def _joined(first: Embeddings, second: Embeddings) -> Embeddings:
    matrix = np.concatenate([first.matrix, second.matrix])
    return Embeddings([*first.keys, *second.keys], matrix, first.stamp)


def _write_mapped(
    embeddings: Embeddings, apply: Callable[[Matrix], Matrix], directory: Path, nj: int
) -> None:
    """Map embeddings (N, D_in), and write parts 1 to `nj` of a directory."""
    edges = [round(part * len(embeddings) / nj) for part in range(nj + 1)]

    def blocks(first: int, last: int) -> Iterator[Block]:
        for start in range(first, last, ROWS_PER_BLOCK):
            rows = slice(start, min(start + ROWS_PER_BLOCK, last))
            yield embeddings.keys[rows], apply(embeddings.matrix[rows])

    def write(job: int) -> None:
        write_part(directory, job, blocks(*edges[job - 1 : job + 1]))

    if nj == 1:
        write(1)
        return
    # Forked, they share the embeddings. Threads of torch would not survive that: each has one.
    context = get_context("fork")
    processes = [
        context.Process(target=_with_one_thread, args=(write, job)) for job in range(1, nj + 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failed = [process.exitcode for process in processes if process.exitcode]
    if failed:
        raise RuntimeError(f"{directory}: a process ended with status {failed[0]}; see above")


def _with_one_thread(work: Callable[[int], None], job: int) -> None:
    torch.set_num_threads(1)
    work(job)


def _shared_space(aligner: Aligner, stamp: ModelStamp | None) -> ModelStamp | None:
    """The stamp of mapped vectors: not the model's any more, but of the space they are in."""
    if stamp is None:
        return None
    return ModelStamp(f"{stamp.model} in {aligner.kind} space", aligner.space(), stamp.set)
