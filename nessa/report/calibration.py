"""The report's section on calibration: the four cells of an update, and one threshold for all."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nessa.files import Record
from nessa.metrics.roc import Roc
from nessa.recipe.config import Recipe
from nessa.recipe.layout import AS_NORM, COSINE, Kind
from nessa.recipe.systems import NESSA, update_cells
from nessa.recipe.thresholds import P_TARGET, Cells, Labels, best_threshold
from nessa.report.plots import BLACK, BLUE, GREEN, RED, Curves, Plot, Points, dress_square, panels
from nessa.report.tables import UNDEFINED, main_records
from nessa.text import ABSENT, Row, cost, markdown_columns

RELIABILITY_STYLES = [(BLACK, "--"), (RED, "-"), (BLUE, "-."), (GREEN, ":")]
CLASSES = {False: ("non-target", BLUE), True: ("target", RED)}
BINS = 80  # of a histogram
LIMIT = 8.0  # log odds; beyond, few trials decide
BAYES = float(np.log((1 - P_TARGET) / P_TARGET))  # the threshold of LLRs, costs 1
CELLS: Row = ("enroll", "runtime", "system", "scores", "minCllr", "Cllr", "minDCF", "actDCF")
COSTS: Row = ("scores", "calibrated", "a threshold per cell", "one for all", "more", "Bayes")


def calibration_plots(scores: Mapping[tuple[Kind, bool], Cells], labels: Labels) -> list[Plot]:
    """Score histograms before and after calibration, and reliability curves.

    Args:
        scores: of `nessa.recipe.thresholds.read_cells`.
        labels: of the trials, (T,), True for a target.
    """
    named = {
        key: {f"{c.enroll} enrolls, {c.runtime} runs ({c.aligner})": s for c, s in cells.items()}
        for key, cells in scores.items()
    }
    rows = {"cosine": named[COSINE, False], "log likelihood ratio": named[COSINE, True]}
    kinds = {"cosine": named[COSINE, True], "AS-norm": named[AS_NORM, True]}
    return [histogram_plot(rows, labels, BAYES), reliability_plot(kinds, labels)]


def calibration_section(
    recipe: Recipe, records: Sequence[Record], thresholds: Sequence[Record]
) -> list[str]:
    """Markdown lines.

    Args:
        recipe: names the cells.
        records: of `nessa.recipe.evaluation.evaluate_systems`.
        thresholds: of `nessa.recipe.thresholds.threshold_costs`.
    """
    return [
        "## Calibration, main trials",
        "",
        markdown_columns([CELLS, *_cell_rows(recipe, records)]),
        "",
        "Each pair of models has its own calibration, an affine map to natural-log likelihood "
        "ratios, fitted on the dev trials by logistic regression at a target prior of "
        f"{recipe.scoring.p_target:g}. Cllr: cost of the likelihood ratios in bits; minCllr: after "
        "the best monotone recalibration. actDCF: normalized detection cost at the Bayes "
        "threshold; minDCF: at the best one.",
        "",
        markdown_columns([COSTS, *_cost_rows(thresholds)]),
        "",
        f"Normalized detection cost at p_target = {P_TARGET:g}, mean of the four cells: at the "
        "best threshold of each cell, at the best common threshold, and by how much this costs "
        f"more; and at the Bayes threshold {BAYES:.2f}, which needs no eval trials.",
        "",
        "![Histograms of scores in every cell, before and after calibration](calibration.svg)",
        "",
        "![Observed over given likelihood ratios](reliability.svg) Above the diagonal the ratios "
        "understate that both sides are the same speaker; below it they overstate it.",
        "",
    ]


def _cell_rows(recipe: Recipe, records: Sequence[Record]) -> Iterator[Row]:
    first_seed = recipe.aligner.seeds[0]
    for cell in update_cells(recipe):
        seed = first_seed if cell.aligner == NESSA else None
        record = next(
            r
            for r in main_records(records)
            if (r["aligner"], r["enroll"], r["runtime"]) == cell and r["seed"] == seed
        )
        for name, figures in (("cosine", record), ("AS-norm", record["as_norm"])):
            names = "min_cllr", "cllr", "min_dcf", "act_dcf"
            values = [cost(figures[n]) for n in names]
            yield cell.enroll, cell.runtime, cell.aligner, name, *values


def _cost_rows(thresholds: Sequence[Record]) -> Iterator[Row]:
    for record in thresholds:
        yield (
            record["scores"],
            "yes" if record["calibrated"] else "no",
            cost(record["own"]),
            cost(record["common"]),
            _more(record["common"], record["own"]),
            ABSENT if record["bayes"] is None else cost(record["bayes"]),
        )


def _more(common: float, own: float) -> str:
    if own == 0:
        return UNDEFINED if common > 0 else f"{0:+.1%}"
    return f"{common / own - 1:+.1%}"


def histogram_plot(rows: Mapping[str, Curves], labels: Labels, bayes: float) -> Plot:
    """Histograms of scores, one panel per row and cell; the panels of a row share their axes.

    Args:
        rows: name of the scores -> scores of each cell; the last row is the calibrated one.
        labels: of the trials, (T,), True for a target.
        bayes: the Bayes threshold, natural-log odds, drawn in the last row.
    """
    figure, grid = panels(3.2, 2.7, len(next(iter(rows.values()))), len(rows), share="row")
    for number, (name, cells) in enumerate(rows.items()):
        edges = np.histogram_bin_edges(np.concatenate(list(cells.values())), BINS)
        for axes, (title, scores) in zip(grid[number], cells.items(), strict=True):
            for label, (kind, color) in CLASSES.items():
                heights, _ = np.histogram(scores[labels == label], edges, density=True)
                axes.stairs(heights, edges, fill=True, alpha=0.5, color=color, label=kind)
            best = best_threshold(scores, labels)
            axes.axvline(best, color="black", linestyle="--", label="best for this cell")
            if number == len(rows) - 1:
                axes.axvline(bayes, color="black", label="Bayes threshold")
            axes.set_xlabel(name)
            axes.set_yticks([])
            if number == 0:
                axes.set_title(title, fontsize="medium")
        grid[number][-1].legend(fontsize="x-small")
    return Plot(
        "calibration",
        figure,
        "Scores before and after calibration",
        "Histograms of target and non-target scores in the four cells of an update; below, as "
        "log likelihood ratios.",
    )


def reliability_plot(kinds: Mapping[str, Curves], labels: Labels) -> Plot:
    """Reliability curves, one panel per kind of scores.

    Args:
        kinds: title -> natural-log likelihood ratios of up to four cells, on the same trials.
        labels: of the trials, (T,), True for a target.
    """
    figure, grid = panels(4.6, 4.8, len(kinds), share=True)
    for axes, (title, curves) in zip(grid.flat, kinds.items(), strict=True):
        for (name, llrs), (color, line) in zip(curves.items(), RELIABILITY_STYLES, strict=False):
            axes.plot(*reliability_curve(llrs, labels), color=color, linestyle=line, label=name)
        given, found = "log likelihood ratio (natural)", "borne out by the trials"
        dress_square(axes, title, (-LIMIT, LIMIT), given, found, "upper left")
    return Plot(
        "reliability",
        figure,
        "Reliability of the likelihood ratios",
        "Observed over given log likelihood ratios in the four cells of an update, for cosine and "
        "AS-norm scores.",
        "Above the diagonal the ratios understate that both sides are the same speaker.",
    )


def reliability_curve(llrs: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Points, Points]:
    """The log likelihood ratios found by isotonic regression (PAV), over those given.

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
