"""Reliability of likelihood ratios: what they say against what the trials bear out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from nessa.metrics import Roc
from nessa.report.figures import save_figure

LIMIT = 8.0  # log odds; beyond, few trials decide
# Okabe and Ito's colours, for colour-blind readers; the line styles tell as well.
STYLES = [("#000000", "--"), ("#D55E00", "-"), ("#0072B2", "-."), ("#009E73", ":")]
Labels = npt.NDArray[np.bool_]
Curves = Mapping[str, npt.NDArray[np.float32]]  # name in the legend -> LLRs (T,)


def write_reliability(panels: Mapping[str, Curves], labels: Labels, stem: Path) -> list[Path]:
    """Draw reliability curves and write them as PNG and SVG.

    Args:
        panels: title -> natural-log likelihood ratios of up to four cells, on the same trials.
        labels: of the trials, (T,), True for a target.
        stem: the files' path without its suffix.

    Returns:
        The paths of the two files.
    """
    return save_figure(lambda: reliability_figure(panels, labels), stem)


def reliability_figure(panels: Mapping[str, Curves], labels: Labels) -> Figure:
    """One panel per title, side by side on the same axes; see `write_reliability`."""
    figure = Figure(figsize=(4.6 * len(panels), 4.8), dpi=120, layout="constrained")
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    for axes, (title, curves) in zip(grid.flat, panels.items(), strict=True):
        axes.plot([-LIMIT, LIMIT], [-LIMIT, LIMIT], color="0.7", linewidth=0.8, zorder=0)
        for (name, llrs), (colour, line) in zip(curves.items(), STYLES, strict=False):
            axes.plot(*reliability_curve(llrs, labels), color=colour, linestyle=line, label=name)
        axes.set_xlim(-LIMIT, LIMIT)
        axes.set_ylim(-LIMIT, LIMIT)
        axes.set_box_aspect(1)
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_title(title)
        axes.set_xlabel("log likelihood ratio (natural)")
        axes.set_ylabel("borne out by the trials")
        axes.label_outer()
        axes.legend(loc="upper left", fontsize="small")
    return figure


def reliability_curve(
    llrs: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The log likelihood ratios that isotonic regression (PAV) finds, over those given.

    Each point is a block of trials that the regression joins: N. Brümmer and J. du Preez,
    "Application-independent evaluation of speaker detection" (2006).

    Args:
        llrs: natural-log likelihood ratios (T,).
        labels: (T,), True for a target.

    Returns:
        (mean given, found), each (B,); blocks of one class only, whose ratio is infinite, are
        left out.
    """
    given = np.asarray(llrs, np.float64)
    hull = Roc.of(given, labels).hull
    below = (hull.misses + hull.rejections).astype(np.int64)  # trials under each vertex
    sums = np.append(0, np.cumsum(np.sort(given)))
    means = np.diff(sums[below]) / np.diff(below)
    targets, nontargets = np.diff(hull.p_miss), -np.diff(hull.p_fa)
    both = (targets > 0) & (nontargets > 0)
    return means[both], np.log(targets[both] / nontargets[both])
