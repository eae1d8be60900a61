"""What one threshold for all cells of a model update costs over one per cell."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nessa.evaluation.conditions import Condition
from nessa.files import Record
from nessa.metrics.roc import Roc, act_dcf, min_dcf
from nessa.recipe.config import Recipe
from nessa.recipe.layout import AS_NORM, COSINE, Kind
from nessa.recipe.scoring import read_condition_scores
from nessa.recipe.systems import System, update_cells
from nessa.scoring.sides import Scores

P_TARGET = 0.01  # of the detection cost that a threshold is chosen for
KINDS: dict[Kind, str] = {COSINE: "cosine", AS_NORM: "as-norm"}
Labels = npt.NDArray[np.bool_]
Cells = Mapping[System, Scores]  # cell of the update -> scores (T,), all of the same trials


def read_cells(
    recipe: Recipe, scores_dir: Path, condition: Condition
) -> dict[tuple[Kind, bool], Cells]:
    """The scores of the four cells: {(kind, calibrated): {cell: (T,)}}.

    Raises:
        InputError: a score file is missing or does not fit the trials.
    """
    return {
        (kind, calibrated): {
            cell: read_condition_scores(scores_dir, cell, condition, kind, calibrated)
            for cell in update_cells(recipe)
        }
        for kind in KINDS
        for calibrated in (False, True)
    }


def threshold_costs(scores: Mapping[tuple[Kind, bool], Cells], labels: Labels) -> list[Record]:
    """Detection costs with one threshold for all cells, and with one per cell.

    Args:
        scores: of `read_cells`.
        labels: of the trials, (T,), True for a target.

    Returns:
        A record per kind of scores: {"scores", "calibrated", "own", "common", "bayes"}, the mean
        over the cells of the normalized detection cost: at each cell's best threshold, at the
        one threshold that is best for all, and at the Bayes threshold, which needs no trials to
        be found (None where scores are not calibrated).
    """
    records = []
    for (kind, calibrated), cells in scores.items():
        pooled = np.concatenate(list(cells.values()))
        bayes = [act_dcf(values, labels, P_TARGET) for values in cells.values()]
        records.append(
            {
                "scores": KINDS[kind],
                "calibrated": calibrated,
                "own": float(np.mean([min_dcf(v, labels, P_TARGET) for v in cells.values()])),
                # All cells have the same trials, so that pooled rates are the mean of theirs.
                "common": min_dcf(pooled, np.tile(labels, len(cells)), P_TARGET),
                "bayes": float(np.mean(bayes)) if calibrated else None,
            }
        )
    return records


def best_threshold(scores: Scores, labels: Labels) -> float:
    """The threshold with the least detection cost, at the prior `P_TARGET`.

    Args:
        scores: (T,).
        labels: (T,), True for a target.
    """
    roc = Roc.of(scores, labels)
    best = roc.cheapest(P_TARGET)
    below = int(roc.misses[best] + roc.rejections[best])  # trials under the threshold
    return float(np.append(np.sort(scores), np.inf)[below])
