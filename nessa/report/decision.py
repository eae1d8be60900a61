"""Whether to update a model by alignment, in words, from the results of a recipe."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nessa.files import Record
from nessa.metrics.table import EER
from nessa.recipe.config import Recipe
from nessa.recipe.systems import LDA_PLDA, NESSA, RAW, is_nessa
from nessa.report.extrapolation import speakers_needed
from nessa.report.tables import by_system, main_records
from nessa.text import percent, share, with_interval

NEW_RUNS = "the new runtime model beside the old profiles"
NEW_ENROLLS = "enrolling by the new model beside the old runtime model"
ENOUGH = 1000  # align speakers with whom weak models' updates were seen to win


class Decision(NamedTuple):
    """Go or no-go.

    Attributes:
        go: whether the new runtime model, beside the old one's profiles, lowers the EER for sure.
        sentences: why, and what would change it.
    """

    go: bool
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.sentences)


class Verdict(NamedTuple):
    """What updating one side was worth.

    Attributes:
        go: whether it lowers the EER for sure.
        why: the figures, without a period.
    """

    go: bool
    why: str

    def __str__(self) -> str:
        return f"{'GO' if self.go else 'NO-GO'}: {self.why}"


def judge_update(
    recipe: Recipe, records: Sequence[Record], pair: tuple[str, str]
) -> Verdict | None:
    """Judge an update of one side by the 95 % interval of what it takes off the EER, paired.

    Args:
        recipe: names the old and the new model.
        records: of one kind of trials.
        pair: the enrollment and the runtime model after the update.

    Returns:
        None without records of NESSA for the pair, or of one of the models.
    """
    systems = by_system(records)
    old, new = recipe.update
    needed = (RAW, old, old), (RAW, new, new), (NESSA, *pair)
    if not all(system in systems for system in needed):
        return None
    before, after, updated = (systems[system] for system in needed)
    gain, interval = updated["gain"], updated["gain_ci"]
    # Metrics of before lack it. A gain leaves out draws in which the new model is not better.
    low, high = updated.get("under_old_ci") or interval or (-np.inf, np.inf)
    what = "lowers" if low > 0 else "raises" if high < 0 else "may not lower"
    update = NEW_RUNS if pair == (old, new) else NEW_ENROLLS
    if gain is not None:
        told = with_interval(gain, interval, share)
        recovered = f", {told} % of the gain of re-enrolling ({_rate(after)} %)"
    elif after.get("under_old_ci", (0, 0))[1] < 0:
        recovered = f"; re-enrolling raises it ({_rate(after)} %)"
    else:
        recovered = f"; the gain of re-enrolling ({_rate(after)} %) cannot be told"
    return Verdict(
        low > 0,
        f"{update} {what} the EER: {_rate(updated)} % instead of {_rate(before)} % without "
        f"an update{recovered}",
    )


def decide(recipe: Recipe, records: Sequence[Record], curve: Sequence[Record]) -> Decision:
    """Judge the update of the runtime model alone, and say what would change the outcome.

    Args:
        recipe: names the models.
        records: of `evaluate_systems`, of all systems; the trials of the first one count.
        curve: of the study `speakers`.
    """
    own = main_records(records)
    old, new = recipe.update
    verdict = judge_update(recipe, own, (old, new))
    assert verdict is not None
    go = verdict.go
    lines = [str(verdict), *_others(old, new, own)]
    curve = [record for record in curve if (record["enroll"], record["runtime"]) == (old, new)]
    if needed := speakers_needed(curve):
        lines.append(needed)
    elif curve and not go and all(record["gain"] is not None for record in curve):
        here = max(record["value"] for record in curve)
        more = f": give some hundreds, better {ENOUGH:,} or more" if here < ENOUGH else ""
        lines.append(
            f"The curve of the {here:,.0f} align speakers does not tell how many would be "
            f"enough{more}."
        )
    return Decision(go, tuple(lines))


def _others(old: str, new: str, records: Sequence[Record]) -> list[str]:
    """What else could be done with the same tables."""
    rows = [r for r in records if (r["enroll"], r["runtime"]) == (old, new)]
    rivals = [f"{r['aligner']} {_rate(r)} %" for r in rows if not is_nessa(r["aligner"])]
    plda = [r for r in records if r["aligner"] == LDA_PLDA and r["enroll"] == old == r["runtime"]]
    return [
        f"Other maps: {', '.join(rivals)}.",
        *(f"The old model alone, scored by LDA and PLDA: {_rate(r)} %." for r in plda),
    ]


def _rate(record: Record) -> str:
    return with_interval(record[EER.key], record[f"{EER.key}_ci"], percent)
