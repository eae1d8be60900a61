"""The sentences that a reader wants first: how EERs compare, what a gain is made of, its cost."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nessa.alignment.store import load
from nessa.alignment.views import SIDES
from nessa.encoders.models import load_model
from nessa.encoders.trained import TrainedModel
from nessa.recipe.config import Recipe
from nessa.recipe.layout import aligner_dir
from nessa.recipe.systems import NESSA, RAW, System
from nessa.report.tables import MEAN

LOGIT = "logit"
SECONDS = 3.0  # of the utterance whose embedding is counted


def compare_systems(recipe: Recipe, records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """New against old, NESSA against the logit space, and the back-end's share of its gain.

    NESSA stands with the mean of its seeds where there are several.

    Args:
        recipe: names the old and the new model, and the update directions.
        records: of `nessa.recipe.evaluation.evaluate_systems`.

    Yields:
        One sentence per comparison that the records allow.
    """
    old, new = recipe.update
    for trials in dict.fromkeys(record["trials"] for record in records):
        # A mean of seeds has a record of its own, which stands in for the single seeds.
        eers: dict[tuple[str, str, str], float] = {
            (record["aligner"], record["enroll"], record["runtime"]): record["eer"]
            for record in records
            if record["trials"] == trials
        }
        if (RAW, old, old) in eers and (RAW, new, new) in eers:
            change = relative_change(eers[RAW, new, new], eers[RAW, old, old])
            yield f"{trials}: new model against old: {change}"
        changes = [
            f"{relative_change(_nessa(eers, *pair), eers[LOGIT, *pair])} "
            f"({pair[0]} enrolls, {pair[1]} runs)"
            for pair in recipe.pairs
            if (LOGIT, *pair) in eers and (NESSA, *pair) in eers
        ]
        if changes:
            yield f"{trials}: NESSA against the logit space: {', '.join(changes)}"
        yield from _rivals(recipe, trials, records)
        # As with the EERs, the record of a mean comes after those of its seeds.
        gains = {
            (record["enroll"], record["runtime"]): record["gain"]
            for record in records
            if record["trials"] == trials and record["aligner"] in (NESSA, MEAN)
        }
        if gains.get((old, old)) is None or gains.get((new, new)) is None:
            continue
        yield (
            f"{trials}: a better back-end without alignment (controls) recovers "
            f"{gains[old, old]:.0%} with {old} on both sides and {gains[new, new]:.0%} with {new}"
        )
        for enroll, runtime in recipe.pairs:
            if gains.get((enroll, runtime)) is not None:
                whole, back_end = gains[enroll, runtime], gains[old, old]
                yield (
                    f"{trials}: {enroll} enrolls, {runtime} runs: of the {whole:.0%} that NESSA "
                    f"recovers, a better back-end alone gives {back_end:.0%} ({old} on both "
                    f"sides); alignment with {new} on one side adds "
                    f"{100 * (whole - back_end):.0f} points"
                )


def _rivals(recipe: Recipe, trials: str, records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """For each direction the aligner that comes nearest to NESSA, with the paired interval."""
    for enroll, runtime in recipe.pairs:
        rivals = [
            record
            for record in records
            if (record["trials"], record["enroll"], record["runtime"]) == (trials, enroll, runtime)
            and record.get("over_nessa") is not None
        ]
        if not rivals:
            continue
        nearest = min(rivals, key=lambda record: record["over_nessa"])
        low, high = nearest["over_nessa_ci"]
        beaten = sum(record["over_nessa_ci"][0] > 0 for record in rivals)
        yield (
            f"{trials}: {enroll} enrolls, {runtime} runs: the nearest to NESSA is "
            f"{nearest['aligner']}, whose EER is {100 * nearest['over_nessa']:.2f} "
            f"[{100 * low:.2f}, {100 * high:.2f}] points higher; NESSA is significantly better "
            f"than {beaten} of {len(rivals)}"
        )


def relative_change(error: float, reference: float) -> str:
    """How `error` compares with `reference`: "12.3 % lower EER"."""
    if reference == 0:
        return "same EER, 0 %" if error == 0 else "higher EER than 0 %"
    lowered = (reference - error) / reference
    return f"{abs(100 * lowered):.1f} % {'lower' if lowered >= 0 else 'higher'} EER"


def _nessa(eers: Mapping[tuple[str, str, str], float], enroll: str, runtime: str) -> float:
    return eers.get((MEAN, enroll, runtime), eers[NESSA, enroll, runtime])


def nessa_cost(recipe: Recipe, exp: Path) -> list[str]:
    """Lines that say what NESSA costs on each side, with the larger encoder as the measure.

    Args:
        recipe: names the models.
        exp: holds encoders/ and aligners/.

    Raises:
        InputError: an encoder or the aligner is missing.
    """
    aligner = load(aligner_dir(exp, System(NESSA, *recipe.pairs[0])))
    encoders = _encoder_costs(recipe, exp)
    larger = max(encoders, key=lambda name: encoders[name], default=None)
    lines = []
    for model, side in zip(recipe.pairs[0], SIDES, strict=True):
        module = aligner.network(side)
        own = _multiply_adds(module, torch.zeros(1, aligner.input_dim(side)))
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
    for name, settings in recipe.encoders.items():
        if "architecture" in settings:
            model = load_model(exp / "encoders" / name)
            assert isinstance(model, TrainedModel)
            frames = round(SECONDS / model.config.features.frame_shift)
            example = torch.zeros(1, frames, model.config.features.num_filters)
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
