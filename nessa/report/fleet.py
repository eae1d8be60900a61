"""The strategies of an update to a better model, and the EER of each."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nessa.files import Record
from nessa.metrics.table import EER
from nessa.recipe.config import Recipe
from nessa.recipe.systems import NESSA, RAW
from nessa.report.plots import BLACK, RED, Plot, panels
from nessa.report.tables import by_system, main_records


class Strategy(NamedTuple):
    """One update strategy.

    Attributes:
        name: of it, in words.
        mapped: whether NESSA maps both sides.
        record: of its system, on the main trials.
    """

    name: str
    mapped: bool
    record: Record


def update_strategies(recipe: Recipe, records: Sequence[Record]) -> Iterator[Strategy]:
    """Yield the strategies whose systems were evaluated, from not updating to re-enrolling.

    Args:
        recipe: names the old and the new model.
        records: of `nessa.recipe.evaluation.evaluate_systems`.
    """
    systems = by_system(main_records(records))
    old, new = recipe.update
    for name, system in {
        "do not update": (RAW, old, old),
        f"{new} enrolls, {old} runs": (NESSA, new, old),
        f"{old} enrolls, {new} runs": (NESSA, old, new),
        f"{new} on both sides": (NESSA, new, new),
        "re-enroll all speakers": (RAW, new, new),
    }.items():
        if system in systems:
            yield Strategy(name, system[0] == NESSA, systems[system])


def fleet_plot(strategies: Sequence[Strategy]) -> Plot:
    """The EER of each strategy with its interval, a row each, beside that of the first one."""
    figure, ((axes,),) = panels(5.2, 0.42 * len(strategies) + 0.8)
    highest = max(100 * strategy.record["eer_ci"][1] for strategy in strategies)
    for row, strategy in enumerate(strategies):
        value = 100 * strategy.record[EER.key]
        low, high = (100 * end for end in strategy.record[f"{EER.key}_ci"])
        color = RED if strategy.mapped else BLACK
        axes.plot([low, high], [row, row], color=color, linewidth=2)
        axes.plot(value, row, color=color, marker="o", markersize=7)
        axes.text(1.06 * highest, row, f"{value:.2f}", va="center", color=color)
    axes.axvline(100 * strategies[0].record[EER.key], color="0.6", linestyle=":", zorder=0)
    names = [
        f"{strategy.name} (NESSA)" if strategy.mapped else strategy.name for strategy in strategies
    ]
    axes.set_yticks(range(len(strategies)), names)
    axes.set_ylim(len(strategies) - 0.5, -0.5)
    axes.set_xlim(0, 1.2 * highest)
    axes.set_xlabel("EER (%), with 95 % interval; lower is better")
    axes.grid(color="0.9", linewidth=0.6, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    return Plot(
        "fleet",
        figure,
        "EER of each update strategy",
        "EER with its interval of every update strategy; those that NESSA maps "
        "in orange; a dotted line at the EER without an update.",
        "Main trials.",
    )
