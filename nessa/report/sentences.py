"""Sentences about the results: how EERs compare, what a gain is made of, what NESSA costs."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nessa.alignment.dev import verdict_sentence
from nessa.alignment.store import load
from nessa.alignment.views import SIDES
from nessa.encoders.models import load_model
from nessa.encoders.trained import TrainedModel
from nessa.files import Record
from nessa.metrics.table import EER
from nessa.recipe.config import Recipe
from nessa.recipe.layout import aligner_dir
from nessa.recipe.systems import LDA_PLDA, NESSA, RAW, System
from nessa.report.tables import (
    by_system,
    by_trials,
    controlled_gain_with_interval,
    controlled_models,
    with_unit,
)

Systems = Mapping[tuple[str, str, str], Record]  # of `by_system`
LOGIT = "logit"
SECONDS = 3.0  # of the utterance whose embedding is counted


def verdicts(recipe: Recipe, exp: Path) -> Iterator[str]:
    """Yield for each update direction what NESSA's first seed was worth on dev, and what it is.

    Args:
        recipe: names the update directions.
        exp: holds aligners/.
    """
    for pair in recipe.pairs:
        fitting = load(aligner_dir(exp, System(NESSA, *pair))).fitting
        if sentence := verdict_sentence(fitting):
            yield f"{_direction(pair)}: {sentence}"
        if fitting.get("step") == 0 and "start" in fitting:
            parts = fitting.get("weights", [fitting["start"]])
            why = (
                "training gains nothing on dev beyond noise"
                if fitting["start"] in parts
                else "the part that was trained adds nothing to the score on dev"
            )
            yield f"{_direction(pair)}: NESSA is as it starts, {' and '.join(parts)}: {why}"


def compare_systems(recipe: Recipe, records: Sequence[Record]) -> Iterator[str]:
    """New against old, NESSA against its rivals, the back-end's share of its gain, and the rest.

    NESSA stands with the mean of its seeds where there are several.

    Args:
        recipe: names the old and the new model, and the update directions.
        records: of `nessa.recipe.evaluation.evaluate_systems`.

    Yields:
        One sentence per comparison that the records allow.
    """
    for trials, own in by_trials(records).items():
        systems = by_system(own)
        for sentences in (_changes, _rivals, _back_end, _controlled):
            yield from (f"{trials}: {sentence}" for sentence in sentences(recipe, systems))


def _changes(recipe: Recipe, systems: Systems) -> Iterator[str]:
    """Relative changes of the EER."""
    eers = {system: record[EER.key] for system, record in systems.items()}
    old, new = recipe.update
    if (RAW, old, old) in eers and (RAW, new, new) in eers:
        change = relative_change(eers[RAW, new, new], eers[RAW, old, old])
        yield f"new model against old: {change}"
    back_ends = [
        f"{relative_change(eers[LDA_PLDA, model, model], eers[RAW, model, model])} ({model})"
        for model in recipe.update
        if (LDA_PLDA, model, model) in eers and (RAW, model, model) in eers
    ]
    if back_ends:
        yield f"LDA and PLDA against the cosine, one model: {', '.join(back_ends)}"
    changes = [
        f"{relative_change(eers[NESSA, *pair], eers[LOGIT, *pair])} ({_direction(pair)})"
        for pair in recipe.pairs
        if (LOGIT, *pair) in eers and (NESSA, *pair) in eers
    ]
    if changes:
        yield f"NESSA against the logit space: {', '.join(changes)}"


def _rivals(recipe: Recipe, systems: Systems) -> Iterator[str]:
    """For each direction the best other aligner against NESSA, with the paired interval."""
    for pair in recipe.pairs:
        rivals = [
            record
            for (_, *models), record in systems.items()
            if tuple(models) == pair and record.get("over_nessa") is not None
        ]
        if not rivals:
            continue
        best = min(rivals, key=lambda record: record["over_nessa"])
        ends = [round(100 * end, 2) for end in (best["over_nessa"], *best["over_nessa_ci"])]
        sense = "lower" if ends[0] < 0 else "higher"
        if sense == "lower":
            ends = [-ends[0], -ends[2], -ends[1]]
        excess, low, high = (end + 0.0 for end in ends)  # no -0.00
        beaten = sum(record["over_nessa_ci"][0] > 0 for record in rivals)
        yield (
            f"{_direction(pair)}: the best other aligner is {best['aligner']}, whose EER is "
            f"{excess:.2f} [{low:.2f}, {high:.2f}] points {sense}; "
            f"NESSA is significantly better than {beaten} of {len(rivals)}"
        )


def _back_end(recipe: Recipe, systems: Systems) -> Iterator[str]:
    """How much of NESSA's gain its controls, which align nothing, have as well."""
    old, new = recipe.update
    gains = {
        (enroll, runtime): record["gain"]
        for (name, enroll, runtime), record in systems.items()
        if name == NESSA
    }
    if gains.get((old, old)) is None or gains.get((new, new)) is None:
        return
    back_end = gains[old, old]
    yield (
        f"a better back-end without alignment (controls) recovers {back_end:.0%} with {old} on "
        f"both sides and {gains[new, new]:.0%} with {new}"
    )
    for pair in recipe.pairs:
        if (whole := gains.get(pair)) is not None:
            added = round(100 * (whole - back_end))
            yield (
                f"{_direction(pair)}: NESSA recovers {whole:.0%}, a better back-end alone "
                f"{back_end:.0%} ({old} on both sides); alignment with {new} on one side "
                f"{'costs' if added < 0 else 'adds'} {abs(added)} points"
            )


def _controlled(recipe: Recipe, systems: Systems) -> Iterator[str]:
    """What NESSA gains between its controls, where a better back-end counts for nothing."""
    controls = controlled_models(systems.values())
    if not controls.issuperset(recipe.update):
        return
    for pair in recipe.pairs:
        if (NESSA, *pair) in systems:
            shown = controlled_gain_with_interval(systems[NESSA, *pair], controls)
            yield f"{_direction(pair)}: NESSA's controlled gain is {with_unit(shown)}"


def _direction(pair: tuple[str, str]) -> str:
    return f"{pair[0]} enrolls, {pair[1]} runs"


def relative_change(error: float, reference: float) -> str:
    """How `error` compares with `reference`: "12.3 % lower EER"."""
    if reference == 0:
        return "same EER, 0 %" if error == 0 else "higher EER than 0 %"
    lowered = round(100 * (reference - error) / reference, 1)
    return f"{abs(lowered):.1f} % {'lower' if lowered >= 0 else 'higher'} EER"


def nessa_cost(recipe: Recipe, exp: Path) -> list[str]:
    """What NESSA costs on each side, relative to the larger encoder; a line each.

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
            f"NESSA, side of {model}: {_parameters(module):,} parameters, {own:,} multiply-adds "
            "per embedding"
        )
        if larger:
            line += (
                f": {own / encoders[larger]:.2%} of the {encoders[larger]:,} that {larger} "
                f"takes for {SECONDS:g} s of speech"
            )
        lines.append(line)
    return lines


def _encoder_costs(recipe: Recipe, exp: Path) -> dict[str, int]:
    """Multiply-adds of the two encoders if trained here; those of pretrained ones are unknown."""
    costs = {}
    for name in recipe.update:
        if "architecture" in recipe.encoders[name]:
            model = load_model(exp / "encoders" / name)
            assert isinstance(model, TrainedModel)
            frames = round(SECONDS / model.config.features.frame_shift)
            example = torch.zeros(1, frames, model.config.features.num_filters)
            costs[name] = _multiply_adds(model.encoder, example)
    return costs


def _multiply_adds(module: nn.Module, example: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)
    shapes = copy.deepcopy(module).eval().to("meta")  # which computes nothing
    with torch.no_grad(), counter:
        shapes(example.to("meta"))
    return counter.get_total_flops() // 2  # it counts a multiply-add as two operations


def _parameters(module: nn.Module) -> int:
    """Trained weights and statistics of the align set: all that is stored."""
    return sum(array.numel() for array in module.state_dict().values())
