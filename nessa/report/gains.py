"""Recovered gain of every aligner as bars, against the 60 % that the method promises."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from nessa.conditions import SINGLE
from nessa.plan import NESSA, RAW
from nessa.report.figures import TWO_STYLES, save_figure
from nessa.report.study import CLAIM
from nessa.report.table import MEAN, Record, system_label

LOWEST = -50  # % of the gain; a bar that ends lower is cut, and says how low


def write_gains(records: Sequence[Record], stem: Path) -> list[Path]:
    """Draw the single-utterance trials' gains; returns the paths of PNG and SVG, if there are any.

    Args:
        records: of `nessa.evaluation.evaluate_systems`.
        stem: the files' path without its suffix.
    """
    known = [record for record in records if _is_drawn(record, records)]
    return save_figure(lambda: gains_figure(known), stem) if known else []


def gains_figure(records: Sequence[Record]) -> Figure:
    """A group of bars per aligner, one for each update direction, with its interval."""
    names = list(dict.fromkeys(system_label(record) for record in records))
    pairs = list(dict.fromkeys((r["enroll"], r["runtime"]) for r in records))
    figure = Figure(figsize=(6.5, 0.5 * len(names) + 1.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(pairs)
    for number, (pair, (colour, _, _)) in enumerate(zip(pairs, TWO_STYLES, strict=False)):
        for record in records:
            if (record["enroll"], record["runtime"]) != pair:
                continue
            place = names.index(system_label(record)) + (number - (len(pairs) - 1) / 2) * height
            gain, (low, high) = 100 * record["gain"], (100 * x for x in record["gain_ci"])
            axes.barh(place, max(gain, LOWEST), height, color=colour, alpha=0.85)
            if gain < LOWEST:
                axes.text(LOWEST + 2, place, f"{gain:.0f}", va="center", fontsize="x-small")
            else:
                axes.plot([max(low, LOWEST), high], [place, place], color="black", linewidth=1)
        axes.barh(0, 0, color=colour, label=f"{pair[0]} enrolls, {pair[1]} runs")
    axes.axvline(CLAIM, color="black", linestyle=":", label=f"{CLAIM} %")
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.axvline(100, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(left=LOWEST)
    axes.set_xlabel("recovered gain (%)")
    axes.grid(color="0.9", linewidth=0.6, axis="x")
    axes.legend(fontsize="small", loc="upper right")
    return figure


def _is_drawn(record: Record, records: Sequence[Record]) -> bool:
    """Aligned systems with a gain; NESSA by the mean of its seeds where there is one."""
    if record["trials"] != SINGLE or record["aligner"] == RAW or record["gain"] is None:
        return False
    if record["enroll"] == record["runtime"]:
        return False
    averaged = any(other["aligner"] == MEAN for other in records)
    return record["aligner"] != NESSA or not averaged
