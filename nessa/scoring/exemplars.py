"""Profiles kept as several vectors, not averaged: the largest or the mean of the cosines."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from nessa.kaldi.embeddings import Embeddings
from nessa.scoring.cosine import cosine_scores
from nessa.trials import Trials

Combine = Literal["max", "mean"]


def exemplar_scores(
    enroll: Embeddings,
    runtime: Embeddings,
    trials: Trials,
    profiles: Mapping[str, Sequence[str]],
    combine: Combine,
) -> npt.NDArray[np.float32]:
    """Combine the cosines of a test utterance with each utterance of a profile.

    Memory: about 55 bytes for each of these cosines.

    Args:
        enroll: embeddings of the profiles' utterances, and of enrollment ids that are utterances.
        runtime: embeddings of the test utterances.
        trials: T trials.
        profiles: {profile: utterances}.
        combine: max, which one good match is enough for, or mean, which all count for.

    Returns:
        float32 (T,), in trial order.

    Raises:
        InputError: as `cosine_scores`.
    """
    index = trials.enroll_index
    members = [profiles.get(name, [name]) for name in index.names]
    sizes = np.array([len(own) for own in members])[index.codes]  # (T,)
    expanded = Trials(
        [utterance for code in index.codes.tolist() for utterance in members[code]],
        [name for name, size in zip(trials.test, sizes.tolist(), strict=True) for _ in range(size)],
        None,
    )
    cosines = cosine_scores(enroll, runtime, expanded)
    starts = np.cumsum(sizes) - sizes
    if combine == "max":
        return np.maximum.reduceat(cosines, starts)
    sums = np.add.reduceat(cosines.astype(np.float64), starts)
    return (sums / sizes).astype(np.float32)
