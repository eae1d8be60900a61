"""Which scores to add up, and with what weights: logistic regression on dev trials."""

from collections.abc import Sequence

import numpy as np

from nessa.alignment.views import Floats
from nessa.metrics.roc import cllr
from nessa.scoring.calibration import Calibration

WORTH = 0.01  # of the Cllr, by which each further score must lower it


def fit_weights(scores: Sequence[Floats], labels: np.ndarray) -> dict[int, float]:
    """Weights above 0 of the scores that are worth it (Brümmer et al. 2007, linear fusion).

    The score of the lowest Cllr comes first, then whichever lowers it most, while one does by
    `WORTH` and no weight turns negative: a score that is only subtracted tells of chance.

    Args:
        scores: K scores of the same trials, (T,) each, the likeliest the first.
        labels: (T,), True for a target trial.

    Returns:
        {k: weight}, in the order in which they were taken; {0: 1} where no score is of use.
    """
    chosen: dict[int, float] = {}
    lowest = 1.0  # bit, of no score at all
    while True:
        tried = [_fit([*chosen, k], scores, labels) for k in range(len(scores)) if k not in chosen]
        sound = [found for found in tried if min(found[1].values()) > 0]
        error, weights = min(sound, key=lambda found: found[0], default=(np.inf, chosen))
        if error > (1 - WORTH) * lowest:
            return chosen or {0: 1.0}
        chosen, lowest = weights, error


def _fit(
    taken: list[int], scores: Sequence[Floats], labels: np.ndarray
) -> tuple[float, dict[int, float]]:
    """Cllr of the fusion of some scores, and their weights."""
    first, *others = taken
    measures = {str(k): scores[k] for k in others}
    fitted = Calibration.fit(scores[first], labels, p_target=0.5, quality=measures)
    weights = [fitted.scale, *fitted.quality.values()]
    return cllr(fitted.apply(scores[first], measures), labels), dict(
        zip(taken, weights, strict=True)
    )
