"""What NESSA adds to a product: parameters and multiply-adds, beside those of the encoders."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nessa.alignment import NeuralAligner, load
from nessa.alignment.networks import input_dim
from nessa.config import EncoderConfig, Recipe
from nessa.encoders import TrainedModel, load_model
from nessa.layout import aligner_dir
from nessa.plan import NESSA, System

SECONDS = 3.0  # of the utterance whose embedding is counted


def nessa_cost(recipe: Recipe, exp: Path) -> list[str]:
    """Lines that say what NESSA costs on each side, with the larger encoder as the measure.

    Args:
        recipe: names the models.
        exp: holds encoders/ and aligners/.

    Raises:
        InputError: an encoder or the aligner is missing.
    """
    aligner = load(aligner_dir(exp, System(NESSA, *recipe.pairs[0])))
    assert isinstance(aligner, NeuralAligner)
    encoders = _encoder_costs(recipe, exp)
    larger = max(encoders, key=lambda name: encoders[name], default=None)
    lines = []
    for model, module in zip(recipe.pairs[0], aligner.modules.values(), strict=True):
        own = _multiply_adds(module, torch.zeros(1, input_dim(module)))
        line = (
            f"NESSA, side of {model}: {_parameters(module):,} parameters, {own:,} multiply-adds an "
            f"embedding"
        )
        if larger:
            line += (
                f": {own / encoders[larger]:.2%} of the {encoders[larger]:,} that {larger} "
                f"takes for {SECONDS:g} s of speech"
            )
        lines.append(line)
    return lines


def _encoder_costs(recipe: Recipe, exp: Path) -> dict[str, int]:
    """Multiply-adds of the encoders of ours; what goes on in others is not known."""
    costs = {}
    for name, config in recipe.encoders.items():
        if isinstance(config, EncoderConfig):
            model = load_model(exp / "encoders" / name)
            assert isinstance(model, TrainedModel)
            frames = round(SECONDS / config.features.frame_shift)
            example = torch.zeros(1, frames, config.features.num_filters)
            costs[name] = _multiply_adds(model.encoder, example)
    return costs


def _multiply_adds(module: nn.Module, example: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module.eval()(example)
    return counter.get_total_flops() // 2  # it counts a multiply-add as two operations


def _parameters(module: nn.Module) -> int:
    """Trained weights and what was computed from the align set: all that has to be stored."""
    return sum(array.numel() for array in module.state_dict().values())
