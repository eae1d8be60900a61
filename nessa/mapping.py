"""Embeddings of both models -> the shared space of an aligner, as embeddings directories."""

from pathlib import Path

import numpy as np

from nessa.alignment import Aligner
from nessa.files import digest
from nessa.tables import Embeddings, ModelStamp, profile_means
from nessa.trials import read_enroll_map


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
    aligner.check_models(enrolled, live)
    if enroll_map is not None:
        profiles = profile_means(enrolled, read_enroll_map(enroll_map))
        enrolled = _joined(enrolled, profiles)
    for side, embeddings, function in (
        ("enroll", enrolled, aligner.map_enroll),
        ("runtime", live, aligner.map_runtime),
    ):
        stamp = _shared_space(aligner, embeddings.stamp)
        Embeddings(embeddings.keys, function(embeddings.matrix), stamp).write(output / side)


def _joined(first: Embeddings, second: Embeddings) -> Embeddings:
    matrix = np.concatenate([first.matrix, second.matrix])
    return Embeddings([*first.keys, *second.keys], matrix, first.stamp)


def _shared_space(aligner: Aligner, stamp: ModelStamp | None) -> ModelStamp | None:
    """The stamp of mapped vectors: not the model's any more, but of the space they are in."""
    if stamp is None:
        return None
    space = digest([aligner.kind, list(aligner.fingerprints), aligner.digest()])
    return ModelStamp(f"{stamp.model} in {aligner.kind} space", space, stamp.set)
