"""What NESSA learns from the better of the two models: its own scores.

The better model with itself tells speakers apart better than it does together with the other one.
Who it takes for alike is learned beside who is who. Of speakers that it was fitted on it only says
what their labels say; so, where there are enough speakers, each half of them is taught by one that
was fitted on the other half.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from nessa.alignment.dev import DevSet
from nessa.alignment.views import Side
from nessa.metrics.roc import eer
from nessa.scoring.cosine import cosine_scores

TEMPERATURE = 2.0  # of the scores by which a teacher is imitated
FEWEST_HALVED = 2000  # align speakers; fewer than half of them train no better teacher than PLDA


class Teacher(NamedTuple):
    """The better model with itself, whose scores the two models together come close to.

    Attributes:
        modules: its two sides, as they stay.
        place: of the better model among the views, 0 (enroll) or 1 (runtime).
        pupils: whether it teaches each speaker, (S,); None: it does.
    """

    modules: dict[Side, nn.Module]
    place: int
    pupils: npt.NDArray[np.bool_] | None = None


def better_model(dev: DevSet) -> int | None:
    """The place of the model with the lower dev EER of its cosines; None where they are alike."""
    errors = [
        np.mean([eer(cosine_scores(own, own, t), t.known_labels) for t in dev.lists])
        for own in (dev.enroll, dev.runtime)
    ]
    return None if errors[0] == errors[1] else int(np.argmin(errors))


def halves(speakers: int, seed: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether each speaker (S,) is of the one half, and of the other.

    By chance: numbers follow names, which may tell something of a speaker.
    """
    first = np.random.default_rng(seed).permutation(speakers) % 2 == 0
    return first, ~first


def distillation(similarity: Tensor, taught: Tensor) -> Tensor:
    """How far scores are from a teacher's: Kullback-Leibler divergences (Hinton et al. 2015).

    Args:
        similarity: scaled scores of profiles with utterances, (P, T).
        taught: a teacher's scores, likelihood ratios, of the same.

    Returns:
        The mean divergence from the teacher's distribution over the utterances of a profile, plus
        that over the profiles of an utterance, both at `TEMPERATURE`.
    """
    divergences = []
    for dim in (0, 1):
        own, wanted = ((s / TEMPERATURE).log_softmax(dim=dim) for s in (similarity, taught))
        divergences.append((wanted.exp() * (wanted - own)).sum(dim=dim).mean())
    return divergences[0] + divergences[1]
