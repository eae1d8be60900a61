"""The optimizer of every training here, and its learning rate, a function of the step alone."""

import math
from inspect import unwrap

import torch

WARMUP = 0.1  # part of the steps in which the rate rises


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` (arXiv 1711.05101), for trainings that are not compiled.

    Its methods import PyTorch's compiler, only to keep it away from themselves; that takes longer
    than a small aligner's training. These are the same methods without.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


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
