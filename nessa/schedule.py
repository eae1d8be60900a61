"""The learning rate of every training here, a function of the step alone."""

import math

WARMUP = 0.1  # part of the steps in which the rate rises


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then half a cosine down to zero.

    Args:
        step: from 0.
        steps: of the whole training.
        peak: the highest rate.
    """
    warmup = max(1.0, WARMUP * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
