"""DET curves: miss against false alarm rate on probit axes, as files of reproducible bytes.

Source: A. Martin et al., "The DET curve in assessment of detection task performance" (1997).
"""

from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from nessa.metrics import det_points, eer
from nessa.report.figures import save_figure

Scores = npt.NDArray[np.float32]
Labels = npt.NDArray[np.bool_]
Curves = Mapping[str, Scores]  # name in the legend -> scores (T,)

# Okabe and Ito's colours, which colour-blind readers can tell apart; the line styles do as well.
STYLES = [
    ("#000000", "--"),
    ("#000000", "-"),
    ("#E69F00", "-."),
    ("#0072B2", ":"),
    ("#009E73", "--"),
    ("#CC79A7", "-."),
    ("#56B4E9", "--"),
    ("#999999", "-"),
]
LAST = ("#D55E00", "-")  # of the last curve, which is the one that the others are compared with
TICKS = np.array([0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4,
                  0.6, 0.8, 0.9])  # fmt: skip
RESOLUTION = 0.01  # probit units between two points of a curve: about one pixel
MARGIN = 5.0  # how many times below the lowest and above the highest EER the axes reach


def write_det(panels: Mapping[str, Curves], labels: Labels, stem: Path) -> list[Path]:
    """Draw DET curves and write them as PNG and SVG; the same scores give the same bytes.

    Args:
        panels: title -> curves of one panel, all on the same trials.
        labels: of the trials, (T,), True for a target.
        stem: the files' path without its suffix.

    Returns:
        The paths of the two files.
    """
    return save_figure(lambda: det_figure(panels, labels), stem)


def det_figure(panels: Mapping[str, Curves], labels: Labels) -> Figure:
    """One panel per title, side by side on the same axes; see `write_det`."""
    figure = Figure(figsize=(5.2 * len(panels), 5.5), dpi=120, layout="constrained")
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    rates = {
        title: {name: eer(scores, labels) for name, scores in curves.items()}
        for title, curves in panels.items()
    }
    limits = _limits([rate for panel in rates.values() for rate in panel.values()])
    for axes, (title, curves) in zip(grid.flat, panels.items(), strict=True):
        styles = [*islice(cycle(STYLES), len(curves) - 1), LAST]
        for (name, scores), (colour, style) in zip(curves.items(), styles, strict=True):
            label = f"{name}: EER {100 * rates[title][name]:.2f} %"
            axes.plot(*det_curve(scores, labels), color=colour, linestyle=style, label=label)
        _dress(axes, title, limits)
    return figure


def det_curve(
    scores: Scores, labels: Labels
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The DET curve in probit units, thinned to what can be seen.

    Args:
        scores: (T,), higher for a more likely target.
        labels: (T,), True for a target.

    Returns:
        (probit of the false alarm rates, probit of the miss rates), each (P,).
    """
    # Rates of 0 and 1 lie at infinity; half a trial is where a corner of the curve ends instead.
    least = 0.5 / len(labels)
    points = ndtri(np.clip(det_points(scores, labels), least, 1 - least))
    cells = np.round(points / RESOLUTION)
    new = np.append(True, np.any(np.diff(cells, axis=1) != 0, axis=0))
    return points[0, new], points[1, new]


def _limits(rates: list[float]) -> tuple[float, float]:
    """Ticks between which both axes reach, such that all EERs lie well inside."""
    inner = range(1, len(TICKS) - 1)
    low = int(np.searchsorted(TICKS, min(rates) / MARGIN, side="right")) - 1
    high = int(np.searchsorted(TICKS, max(rates) * MARGIN))
    return TICKS[min(max(low, 0), inner[-1])], TICKS[min(max(high, inner[0]), len(TICKS) - 1)]


def _dress(axes: Axes, title: str, limits: tuple[float, float]) -> None:
    low, high = ndtri(limits)
    axes.plot([low, high], [low, high], color="0.7", linewidth=0.8, zorder=0)  # where EERs lie
    names = [f"{100 * tick:g}" for tick in TICKS]
    axes.set_xticks(ndtri(TICKS), names)
    axes.set_yticks(ndtri(TICKS), names)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_box_aspect(1)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_title(title)
    axes.set_xlabel("false alarm rate (%)")
    axes.set_ylabel("miss rate (%)")
    axes.label_outer()
    axes.legend(loc="upper right", fontsize="small")
