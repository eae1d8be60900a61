"""The figures of the report, as PNG and SVG with reproducible bytes."""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from nessa.files import Record, atomic_open
from nessa.metrics.roc import Roc
from nessa.recipe.systems import NESSA
from nessa.recipe.thresholds import P_TARGET
from nessa.report.tables import CLAIM, MEAN, main_records, system_label

Scores = npt.NDArray[np.float32]
Labels = npt.NDArray[np.bool_]
Curves = Mapping[str, Scores]  # name in the legend, or title of a column -> scores (T,)
Points = npt.NDArray[np.float64]
Share = Literal["row"] | bool

# Okabe and Ito's colors, which color-blind readers can tell apart; line styles and markers differ
# as well.
COLORS = BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
DET_STYLES = [
    (BLACK, "--"),
    (BLACK, "-"),
    (ORANGE, "-."),
    (BLUE, ":"),
    (GREEN, "--"),
    (PURPLE, "-."),
    (SKY, "--"),
    ("#999999", "-"),
]
LAST = (RED, "-")  # of the last curve, which is the one that the others are compared with
TWO_STYLES = [(BLUE, "-", "o"), (RED, "--", "s")]

TICKS = np.array([0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4,
                  0.6, 0.8, 0.9])  # fmt: skip
RESOLUTION = 0.01  # probit units between two points of a curve: about one pixel
MARGIN = 5.0  # how many times below the lowest and above the highest EER the axes reach
LOWEST = -50  # % of the gain; a bar that ends lower is cut, and labeled with its value


class Plot(NamedTuple):
    """A figure of the report, and its text on the page.

    Attributes:
        name: of its files, without the suffix.
        figure: as drawn.
        title: its heading.
        alt: a description, for screen readers as well.
        note: a sentence below it.
    """

    name: str
    figure: Figure
    title: str
    alt: str
    note: str = ""

    def save(self, folder: Path) -> list[Path]:
        """Write it as PNG and SVG; the same data give the same bytes.

        Returns:
            The paths of the two files.
        """
        paths = [folder / f"{self.name}{suffix}" for suffix in (".png", ".svg")]
        for path in paths:
            save_figure(self.figure, path)
        return paths


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the suffix; the same data give the same bytes."""
    # Ids in an SVG are random, and both formats are stamped, unless told otherwise.
    stamps = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
    with matplotlib.rc_context({"svg.hashsalt": "nessa"}), atomic_open(path, "wb") as file:
        figure.savefig(file, format=path.suffix[1:], metadata=stamps[path.suffix])


def panels(
    width: float, height: float, columns: int = 1, rows: int = 1, share: Share = False
) -> tuple[Figure, npt.NDArray[Any]]:
    """An empty figure of panels.

    Args:
        width, height: of a panel, inches.
        columns, rows: numbers of panels.
        share: axes alike in all panels, in those of a "row", or in none.

    Returns:
        The figure, and its axes (rows, columns).
    """
    figure = Figure(figsize=(width * columns, height * rows), dpi=120, layout="constrained")
    return figure, figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False)


def dress_square(
    axes: Axes, title: str, limits: tuple[float, float], x_label: str, y_label: str, legend: str
) -> None:
    """Dress a panel whose two axes are alike, with its diagonal."""
    axes.plot(limits, limits, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_box_aspect(1)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.label_outer()
    axes.legend(loc=legend, fontsize="small")


# ---- DET curves ----------------------------------------------------------------------------------


def det_plot(systems: Mapping[str, Curves], labels: Labels) -> Plot:
    """DET curves.

    Args:
        systems: title -> curves of one panel, all on the same trials.
        labels: of the trials, (T,), True for a target.
    """
    figure, grid = panels(5.2, 5.5, len(systems), share=True)
    panel_rocs = {
        title: {name: Roc.of(scores, labels) for name, scores in curves.items()}
        for title, curves in systems.items()
    }
    rocs = [roc for panel in panel_rocs.values() for roc in panel.values()]
    marked = [rate for roc in rocs for rate in min_dcf_point(roc) or ()]
    low, high = _limits([roc.eer() for roc in rocs], marked)
    names = [f"{100 * tick:g}" for tick in TICKS]
    for axes, (title, panel) in zip(grid.flat, panel_rocs.items(), strict=True):
        styles = [*islice(cycle(DET_STYLES), len(panel) - 1), LAST]
        for (name, roc), (color, style) in zip(panel.items(), styles, strict=True):
            label = f"{name}: EER {100 * roc.eer():.2f} %"
            axes.plot(*det_curve(roc), color=color, linestyle=style, label=label)
            if point := min_dcf_point(roc):
                axes.plot(*ndtri(point), color=color, marker="o", markersize=6)
        axes.plot([], [], "ko", markersize=6, label=f"minDCF, p = {P_TARGET:g}")
        axes.plot([], [], color="0.7", linewidth=0.8, label="miss = false alarm: EER")
        axes.set_xticks(ndtri(TICKS), names, rotation=90, fontsize="small")
        axes.set_yticks(ndtri(TICKS), names, fontsize="small")
        limits = ndtri(low), ndtri(high)
        dress_square(axes, title, limits, "false alarm rate (%)", "miss rate (%)", "upper right")
    drawn = dict.fromkeys(name for curves in systems.values() for name in curves)
    return Plot(
        "det",
        figure,
        "DET curves",
        f"Miss rate over false alarm rate, one panel per update direction: {', '.join(drawn)}.",
        "Main trials. NESSA: first seed.",
    )


def det_curve(roc: Roc) -> tuple[Points, Points]:
    """The DET curve in probit units, thinned to what can be seen.

    Returns:
        (probit of the false alarm rates, probit of the miss rates), each (P,).
    """
    # Rates of 0 and 1 lie at infinity; half a trial of the class is where the curve ends instead.
    rates = (roc.p_fa, roc.rejections[-1]), (roc.p_miss, roc.misses[-1])
    points = ndtri([np.clip(rate, 0.5 / count, 1 - 0.5 / count) for rate, count in rates])
    cells = np.round(points / RESOLUTION)
    new = np.append(True, np.any(np.diff(cells, axis=1) != 0, axis=0))
    return points[0, new], points[1, new]


def min_dcf_point(roc: Roc) -> tuple[float, float] | None:
    """(false alarm rate, miss rate) of the lowest detection cost at P_TARGET and costs of 1.

    None where it is not to be drawn: where a rate is 0, or nearly all are rejected.
    """
    best = roc.cheapest(P_TARGET)
    point = float(roc.p_fa[best]), float(roc.p_miss[best])
    return point if min(point) > 0 and max(point) < TICKS[-1] else None


def _limits(errors: list[float], marked: list[float]) -> tuple[float, float]:
    """Ticks between which both axes reach: EERs lie well inside, marked points inside."""
    inner = range(1, len(TICKS) - 1)
    low = int(np.searchsorted(TICKS, min([min(errors) / MARGIN, *marked]), side="right")) - 1
    high = int(np.searchsorted(TICKS, max([max(errors) * MARGIN, *marked])))
    return TICKS[min(max(low, 0), inner[-1])], TICKS[min(max(high, inner[0]), len(TICKS) - 1)]


# ---- recovered gain ------------------------------------------------------------------------------


def gains_plot(records: Sequence[Record]) -> Plot | None:
    """A group of bars per aligner, one for each update direction; None where no gain is defined.

    Args:
        records: of `nessa.recipe.evaluation.evaluate_systems`.
    """
    own = main_records(records)
    records = [record for record in own if _is_drawn(record, own)]
    if not records:
        return None
    names = list(dict.fromkeys(system_label(record) for record in records))
    pairs = list(dict.fromkeys((r["enroll"], r["runtime"]) for r in records))
    figure, ((axes,),) = panels(6.5, 0.5 * len(names) + 1.5)
    height = 0.8 / len(pairs)
    for number, (pair, (color, _, _)) in enumerate(zip(pairs, TWO_STYLES, strict=False)):
        for record in records:
            if (record["enroll"], record["runtime"]) != pair:
                continue
            place = names.index(system_label(record)) + (number - (len(pairs) - 1) / 2) * height
            gain, (low, high) = 100 * record["gain"], (100 * x for x in record["gain_ci"])
            axes.barh(place, max(gain, LOWEST), height, color=color, alpha=0.85)
            if gain < LOWEST:
                axes.text(LOWEST + 2, place, f"{gain:.0f}", va="center", fontsize="x-small")
            else:
                axes.plot([max(low, LOWEST), high], [place, place], color="black", linewidth=1)
        axes.barh(0, 0, color=color, label=f"{pair[0]} enrolls, {pair[1]} runs")
    axes.axvline(CLAIM, color="black", linestyle=":", label=f"{CLAIM} %")
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.axvline(100, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(left=LOWEST)
    axes.set_xlabel("recovered gain (%)")
    axes.grid(color="0.9", linewidth=0.6, axis="x")
    axes.legend(fontsize="small", loc="upper right")
    return Plot(
        "gains",
        figure,
        "Gain of every aligner",
        f"Bars of the recovered gain of every aligner in both update directions; a line at {CLAIM} "
        "%.",
        "Main trials; black lines are 95 % intervals.",
    )


def _is_drawn(record: Record, records: Sequence[Record]) -> bool:
    """Aligned systems with a gain; NESSA by the mean of its seeds where there is one."""
    if record["gain"] is None or record["enroll"] == record["runtime"]:
        return False
    averaged = any(other["aligner"] == MEAN for other in records)
    return record["aligner"] != NESSA or not averaged
