"""The report's section on calibration: the four cells of an update, and one threshold for all."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nessa.evaluation.conditions import SINGLE
from nessa.files import Record
from nessa.recipe.config import Recipe
from nessa.recipe.layout import AS_NORM, COSINE, Kind
from nessa.recipe.systems import NESSA, System, update_cells
from nessa.recipe.thresholds import P_TARGET, Cells, Labels
from nessa.report.plots import write_histograms, write_reliability
from nessa.text import Row, cost, markdown_columns

BAYES = float(np.log((1 - P_TARGET) / P_TARGET))  # the threshold of LLRs, costs 1
CELLS: Row = ("enroll", "runtime", "system", "scores", "minCllr", "Cllr", "minDCF", "actDCF")
COSTS: Row = ("scores", "calibrated", "a threshold per cell", "one for all", "more", "Bayes")


def write_calibration_figures(
    scores: Mapping[tuple[Kind, bool], Cells], labels: Labels, folder: Path
) -> list[Path]:
    """Score histograms before and after calibration, and reliability curves.

    Args:
        scores: of `nessa.recipe.thresholds.read_cells`.
        labels: of the trials, (T,), True for a target.
        folder: receives calibration.{png,svg} and reliability.{png,svg}.

    Returns:
        The paths of the files.
    """
    named = {key: {cell_label(c): s for c, s in cells.items()} for key, cells in scores.items()}
    rows = {"cosine": named[COSINE, False], "log likelihood ratio": named[COSINE, True]}
    panels = {"cosine": named[COSINE, True], "AS-norm": named[AS_NORM, True]}
    return [
        *write_histograms(rows, labels, BAYES, folder / "calibration"),
        *write_reliability(panels, labels, folder / "reliability"),
    ]


def cell_label(cell: System) -> str:
    """ "new enrolls, old runs (nessa)"."""
    return f"{cell.enroll} enrolls, {cell.runtime} runs ({cell.aligner})"


def calibration_section(
    recipe: Recipe, records: Sequence[Record], thresholds: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Markdown lines.

    Args:
        recipe: names the cells.
        records: of `nessa.recipe.evaluation.evaluate_systems`.
        thresholds: of `nessa.recipe.thresholds.threshold_costs`.
    """
    return [
        "## Calibration, single-utterance trials",
        "",
        markdown_columns([CELLS, *_cell_rows(recipe, records)]),
        "",
        "Each pair of models has a calibration of its own, an affine map to natural-log "
        "likelihood ratios, fitted on the dev trials by logistic regression weighted to a target "
        f"prior of {recipe.scoring.p_target:g}. Cllr: cost of the likelihood ratios in bits; "
        "minCllr: after the best monotone recalibration. actDCF: normalized detection cost at the "
        "Bayes threshold; minDCF: at the best one.",
        "",
        markdown_columns([COSTS, *_cost_rows(thresholds)]),
        "",
        f"Normalized detection cost at p_target = {P_TARGET:g}, the mean of the four cells: with "
        "the best threshold of each cell, with the best that all share, and how much more that "
        f"costs; and at the Bayes threshold {BAYES:.2f}, which is known without eval trials.",
        "",
        "![Histograms of scores in every cell, before and after calibration](calibration.svg)",
        "",
        "![Likelihood ratios against what the trials bear out](reliability.svg) Above the "
        "diagonal the ratios understate that two speakers are one, below it they overstate it.",
        "",
    ]


def _cell_rows(recipe: Recipe, records: Sequence[Record]) -> Iterator[Row]:
    first_seed = recipe.aligner.seeds[0]
    for cell in update_cells(recipe):
        seed = first_seed if cell.aligner == NESSA else None
        record = next(
            r
            for r in records
            if (r["aligner"], r["enroll"], r["runtime"]) == cell
            and (r["trials"], r["seed"]) == (SINGLE, seed)
        )
        for name, figures in (("cosine", record), ("AS-norm", record["as_norm"])):
            names = "min_cllr", "cllr", "min_dcf", "act_dcf"
            values = [cost(figures[n]) for n in names]
            yield cell.enroll, cell.runtime, cell.aligner, name, *values


def _cost_rows(thresholds: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for record in thresholds:
        more = record["common"] / record["own"] - 1 if record["own"] > 0 else 0.0
        yield (
            record["scores"],
            "yes" if record["calibrated"] else "no",
            cost(record["own"]),
            cost(record["common"]),
            f"{more:+.1%}",
            "–" if record["bayes"] is None else cost(record["bayes"]),
        )
