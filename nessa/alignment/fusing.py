"""Which scores to add up, and with what weights: logistic regression on dev trials."""

from collections.abc import Sequence

import numpy as np

from nessa.alignment.views import Floats
from nessa.metrics.roc import cllr, eer
from nessa.scoring.calibration import Calibration

WORTH = 0.01  # of the Cllr, by which each further score must lower it

Weights = dict[int, float]  # by the number of the score


def fit_weights(scores: Sequence[Sequence[Floats]], labels: Sequence[np.ndarray]) -> Weights:
    """Weights above 0 of the scores that are worth it (Brümmer et al. 2007, linear fusion).

    The score of the lowest Cllr comes first, then whichever lowers it most, while one does by
    `WORTH`, the EER by which all else is chosen does not rise, and no weight turns negative: a
    score that is only subtracted tells of chance.

    Args:
        scores: K scores of the trials of the same L lists, (T,) each, the likeliest the first.
        labels: of each list (T,), True for a target trial.

    Returns:
        {k: weight}, in the order in which they were taken; {0: 1} where no score is of use.
    """
    pooled, all_labels = [np.concatenate(own) for own in scores], np.concatenate(labels)

    def error(weights: Weights) -> float:
        fused = [sum(w * scores[k][n] for k, w in weights.items()) for n in range(len(labels))]
        return float(np.mean([eer(own, known) for own, known in zip(fused, labels, strict=True)]))

    chosen: Weights = {}
    lowest, highest = 1.0, 1.0  # Cllr in bit, of no score at all, and EER
    while True:
        left = [k for k in range(len(pooled)) if k not in chosen]
        tried = sorted(
            (_fit([*chosen, k], pooled, all_labels) for k in left), key=lambda found: found[0]
        )
        for found, weights in tried:
            worth = found <= (1 - WORTH) * lowest and min(weights.values()) > 0
            if worth and (reached := error(weights)) <= highest:
                chosen, lowest, highest = weights, found, reached
                break
        else:
            return chosen or {0: 1.0}


def _fit(taken: list[int], scores: Sequence[Floats], labels: np.ndarray) -> tuple[float, Weights]:
    """Cllr of the fusion of some scores, and their weights."""
    first, *others = taken
    measures = {str(k): scores[k] for k in others}
    fitted = Calibration.fit(scores[first], labels, p_target=0.5, quality=measures)
    weights = [fitted.scale, *fitted.quality.values()]
    return cllr(fitted.apply(scores[first], measures), labels), dict(
        zip(taken, weights, strict=True)
    )
