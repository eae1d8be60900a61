"""Errors and costs over the days of a rollout, by the strategy that brings the new model in.

The strategies are those of a study of model versions in speaker recognition (arXiv 2007.12069),
and the two that an aligner adds. Users come independently, each with the same chance every day; a
profile is one utterance. A cell's rates are those of its eval trials, at the threshold that has
the wanted false-accept rate on dev. What follows is expected values: nothing is drawn.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from nessa.errors import InputError
from nessa.evaluation.conditions import Condition, read_conditions
from nessa.files import Record
from nessa.kaldi.datadir import MAIN_LIST
from nessa.recipe.circumstances import warn_of_metrics
from nessa.recipe.config import Recipe
from nessa.recipe.layout import DEV, EVAL, score_file
from nessa.recipe.scoring import read_condition_scores
from nessa.recipe.study_files import ROLLOUT, study_digest, write_study
from nessa.recipe.systems import NESSA, RAW, System
from nessa.trials import Trials, join_scores, read_labeled, read_scores

USE = 0.1  # chance that a user comes on a day
FALSE_ACCEPTS = 0.01  # on dev, of every cell
DAYS = (0, 1, 3, 7, 14, 30, 60, 90)


class Rates(NamedTuple):
    """Of the trials of a cell, at its threshold."""

    miss: float
    false_accepts: float


class Strategy(NamedTuple):
    """How users are served until they have a profile of the new model, and after.

    Attributes:
        label: in words.
        before: rates until then.
        after: rates from then on.
        runs: encoders that hear an utterance, before and after.
        moves: whether an accepted user's utterance becomes a profile of the new model.
        asks: share of the first visits, and of all users on day 0, that have to enroll anew.
    """

    label: str
    before: Rates
    after: Rates
    runs: tuple[int, int]
    moves: bool
    asks: tuple[float, float] = (0.0, 0.0)


def write_rollout(recipe: Recipe, data: Path, exp: Path, output: Path) -> list[Record]:
    """Write what each strategy does on some days, as a study.

    Args:
        recipe: names the old and the new model.
        data: holds dev and eval.
        exp: holds scores/.
        output: receives {"study", "digest", "records"}.

    Returns:
        A record per strategy and day: {"strategy", "day", "miss", "false_accepts"}, rates among
        that day's attempts; "runs", the encoders run for an attempt, on average; "asked", the
        share of all users that were asked to enroll anew until then; "old_profiles", that of users
        who have no profile of the new model.

    Raises:
        InputError: scores or trials are missing, or those of eval are of profiles.
    """
    warn_of_metrics(recipe, exp)
    key = study_digest(ROLLOUT, recipe, data, exp)
    records = [r for strategy in _strategies(recipe, data, exp) for r in _days(strategy)]
    write_study(output, ROLLOUT, key, records)
    return records


def _strategies(recipe: Recipe, data: Path, exp: Path) -> list[Strategy]:
    old, new = recipe.update
    dev, condition = read_labeled(data / DEV / MAIN_LIST), _main(data / EVAL)
    before, aligned, after = (
        _rates(exp / "scores", dev, condition, system)
        for system in (System(RAW, old, old), System(NESSA, old, new), System(RAW, new, new))
    )
    refused = Rates(1.0, 0.0)  # an old profile says nothing to the new model
    return [
        Strategy("no update", before, before, (1, 1), moves=False),
        Strategy("re-enroll at once", after, after, (1, 1), moves=False, asks=(0.0, 1.0)),
        Strategy("re-enroll on use", refused, after, (1, 1), moves=True, asks=(1.0, 0.0)),
        Strategy("double version", before, after, (2, 1), moves=True),
        Strategy("aligned", aligned, aligned, (1, 1), moves=False),
        Strategy("aligned, re-enroll on use", aligned, after, (1, 1), moves=True),
    ]


def _main(set_dir: Path) -> Condition:
    main = next(read_conditions(set_dir))
    if main.enroll_map is not None:
        raise InputError(
            f"{set_dir / MAIN_LIST}: names profiles, and in a rollout a profile is one utterance; "
            "name this list trials_<name>, and give `trials` of utterances"
        )
    return main


def _rates(scores_dir: Path, dev: Trials, condition: Condition, system: System) -> Rates:
    """Of a cell on eval, at the threshold that dev gives."""
    scores = join_scores(dev, *read_scores(score_file(scores_dir, system, MAIN_LIST, DEV)))
    threshold = np.quantile(scores[~dev.known_labels], 1 - FALSE_ACCEPTS)
    labels = condition.trials.known_labels
    accepted = read_condition_scores(scores_dir, system, condition) >= threshold
    return Rates(float((~accepted[labels]).mean()), float(accepted[~labels].mean()))


def _days(strategy: Strategy) -> list[Record]:
    """The strategy's records: users move on day by day."""
    records, waiting, asked = [], 1.0, strategy.asks[1]
    asks_first = strategy.asks[0]
    moved = (1.0 if asks_first else 1 - strategy.before.miss) if strategy.moves else 0.0
    for day in range(max(DAYS) + 1):
        if day in DAYS:
            shares = waiting, 1 - waiting
            rates = [
                float(np.dot(shares, pair))
                for pair in zip(strategy.before, strategy.after, strict=True)
            ]
            records.append(
                {
                    "strategy": strategy.label,
                    "day": day,
                    "miss": rates[0],
                    "false_accepts": rates[1],
                    "runs": float(np.dot(shares, strategy.runs)),
                    "asked": asked,
                    "old_profiles": 0.0 if strategy.asks[1] else waiting,
                }
            )
        asked += asks_first * waiting * USE
        waiting *= 1 - USE * moved
    return records
