"""Histograms of scores, one column per cell of an update, before and after calibration."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nessa.report.figures import save_figure
from nessa.thresholds import best_threshold

BINS = 80
CLASSES = {False: ("non-target", "#0072B2"), True: ("target", "#D55E00")}  # Okabe and Ito's
Scores = npt.NDArray[np.float32]
Labels = npt.NDArray[np.bool_]
Row = Mapping[str, Scores]  # title of a column -> scores (T,)


def write_histograms(
    rows: Mapping[str, Row], labels: Labels, bayes: float, stem: Path
) -> list[Path]:
    """Draw the histograms and write them as PNG and SVG.

    Args:
        rows: name of the scores -> scores of each cell; the last row is the calibrated one.
        labels: of the trials, (T,), True for a target.
        bayes: the Bayes threshold, natural-log odds, drawn in the last row.
        stem: the files' path without its suffix.

    Returns:
        The paths of the two files.
    """
    return save_figure(lambda: histogram_figure(rows, labels, bayes), stem)


def histogram_figure(rows: Mapping[str, Row], labels: Labels, bayes: float) -> Figure:
    """A panel per row and cell, the panels of a row on the same axes; see `write_histograms`."""
    columns = len(next(iter(rows.values())))
    figure = Figure(figsize=(3.2 * columns, 2.7 * len(rows)), dpi=120, layout="constrained")
    grid = figure.subplots(len(rows), columns, sharex="row", sharey="row", squeeze=False)
    for number, (name, cells) in enumerate(rows.items()):
        edges = np.histogram_bin_edges(np.concatenate(list(cells.values())), BINS)
        for axes, (title, scores) in zip(grid[number], cells.items(), strict=True):
            _draw_classes(axes, scores, labels, edges)
            best = best_threshold(scores, labels)
            axes.axvline(best, color="black", linestyle="--", label="best for this cell")
            if number == len(rows) - 1:
                axes.axvline(bayes, color="black", label="Bayes threshold")
            axes.set_xlabel(name)
            axes.set_yticks([])
            if number == 0:
                axes.set_title(title, fontsize="medium")
    for row in grid:
        row[-1].legend(fontsize="x-small")
    return figure


def _draw_classes(axes: Axes, scores: Scores, labels: Labels, edges: npt.NDArray) -> None:
    for label, (name, colour) in CLASSES.items():
        heights, _ = np.histogram(scores[labels == label], edges, density=True)
        axes.stairs(heights, edges, fill=True, alpha=0.5, color=colour, label=name)
