"""Evaluation records as tables: plain text for the terminal, Markdown for files."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nessa.recipe.config import Recipe
from nessa.recipe.systems import NESSA, RAW
from nessa.text import (
    Row,
    cost,
    markdown_columns,
    percent,
    plain_columns,
    share,
    with_interval,
    wrapped,
)

AS_NORM_HEADER: Row = (
    "system", "enroll", "runtime", "trials", "EER %", "with AS-norm", "minDCF", "with AS-norm"
)  # fmt: skip
Record = Mapping[str, Any]
HEADER: Row = ("system", "enroll", "runtime", "trials", "EER %", "minDCF", "recovered gain %")
MEAN = f"{NESSA}.mean"
CLAIM = 60  # % of the gain, which the paper claims


def normalization_section(recipe: Recipe, records: Sequence[Record]) -> list[str]:
    """Markdown lines; see `nessa.recipe.evaluation.evaluate_systems` for the records."""
    scoring = recipe.scoring
    return [
        "## Score normalization",
        "",
        markdown_columns([AS_NORM_HEADER, *_as_norm_rows(records)]),
        "",
        f"AS-norm is two-sided: an enrollment vector is normalized by its {scoring.top_n} highest "
        "scores with a cohort of the runtime side, a runtime vector by those with a cohort of the "
        f"enrollment side. The cohorts are the means of the speakers of `{scoring.cohort}`, of "
        "each model in its own space, then mapped as profiles and live utterances are. NESSA is "
        "that of its first seed.",
        "",
    ]


def _as_norm_rows(records: Sequence[Record]) -> Iterator[Row]:
    for record in ordered_records(records):
        normalized = record["as_norm"]
        if normalized is None:
            continue
        figures = [
            with_interval(figures[name], figures[f"{name}_ci"], number)
            for name, number in (("eer", percent), ("min_dcf", cost))
            for figures in (record, normalized)
        ]
        yield system_label(record), record["enroll"], record["runtime"], record["trials"], *figures


def format_records(records: Sequence[Record]) -> str:
    """A plain-text table for the terminal, and below it what its columns mean.

    Args:
        records: of `nessa.recipe.evaluation.evaluate_systems`, in any order.

    Returns:
        Lines without a final line end.
    """
    return f"{plain_columns([HEADER, *table_rows(records)])}\n\n{wrapped(legend(records))}"


def markdown_table(records: Sequence[Record]) -> str:
    """The same table in Markdown, without a legend."""
    return markdown_columns([HEADER, *table_rows(records)])


def legend(records: Sequence[Record]) -> list[str]:
    """What the columns mean, one sentence group per line, for the rows that there are."""
    lines = [
        "EER: equal error rate, on the ROC convex hull. minDCF: normalized detection cost at "
        "p_target = 0.01, costs 1.",
        "[low, high]: 95 % interval of a joint speaker bootstrap, the same draws for all systems.",
        "Recovered gain: (E_oo - E) / (E_oo - E_nn), with E the EER, E_oo that of the raw old "
        "model with itself and E_nn that of the new one. 100 % is as good as enrolling everybody "
        "again; undefined: the new model is not significantly better than the old one.",
        _trials_line(records),
    ]
    if any(record["aligner"] == MEAN for record in records):
        lines.append(
            "mean: average over trainings with different seeds, which are listed below it."
        )
    if any(_is_control(record) for record in records):
        lines.append(
            "control: NESSA fitted on a model with itself. What that gains over the raw model is "
            "a better back-end, not alignment."
        )
    return lines


def _trials_line(records: Sequence[Record]) -> str:
    counts = {r["trials"]: f"{r['targets']} target, {r['nontargets']} non-target" for r in records}
    listed = "; ".join(f"{condition}: {count}" for condition, count in counts.items())
    return f"Trials: {listed}. profileN: the enrollment side is the mean of N utterances."


def table_rows(records: Sequence[Record]) -> list[Row]:
    """The table's rows below its header; the seeds of a mean share one row below it."""
    return list(_rows(records))


def _rows(records: Sequence[Record]) -> Iterator[Row]:
    ordered = ordered_records(records)
    averaged = {_cell(record) for record in records if record["aligner"] == MEAN}
    for record in ordered:
        if record["aligner"] == NESSA and _cell(record) in averaged:
            continue
        yield _row(record)
        if record["aligner"] == MEAN:
            yield _seeds_row(
                [r for r in ordered if r["aligner"] == NESSA and _cell(r) == _cell(record)]
            )


def ordered_records(records: Sequence[Record]) -> list[Record]:
    """By trials, then raw models, aligners by update direction, controls; otherwise as given."""
    conditions = list(dict.fromkeys(record["trials"] for record in records))
    pairs = list(dict.fromkeys(_pair(record) for record in records))

    def place(record: Record) -> tuple[int, int, int, bool]:
        symmetric = record["enroll"] == record["runtime"]
        group = 1 if not symmetric else 0 if record["aligner"] == RAW else 2
        mean_last = record["aligner"] == MEAN
        return conditions.index(record["trials"]), group, pairs.index(_pair(record)), mean_last

    return sorted(records, key=place)


def _pair(record: Record) -> tuple[str, str]:
    return record["enroll"], record["runtime"]


def _cell(record: Record) -> tuple[str, str, str]:
    return record["trials"], *_pair(record)


def _is_control(record: Record) -> bool:
    return record["aligner"] != RAW and record["enroll"] == record["runtime"]


def system_label(record: Record) -> str:
    """What a row calls its system."""
    name = record["aligner"]
    if name == MEAN:
        name = f"{NESSA}, mean of {len(record['seed'])}"
    return f"{name} (control)" if _is_control(record) else name


def _row(record: Record) -> Row:
    return (
        system_label(record),
        *_pair(record),
        record["trials"],
        with_interval(record["eer"], record["eer_ci"], percent),
        with_interval(record["min_dcf"], record["min_dcf_ci"], cost),
        _gain(record),
    )


def _seeds_row(seeds: Sequence[Record]) -> Row:
    gains = ["undefined" if seed["gain"] is None else share(seed["gain"]) for seed in seeds]
    return (
        "  seeds " + ", ".join(str(seed["seed"]) for seed in seeds),
        "",
        "",
        "",
        ", ".join(percent(seed["eer"]) for seed in seeds),
        ", ".join(cost(seed["min_dcf"]) for seed in seeds),
        "undefined" if set(gains) == {"undefined"} else ", ".join(gains),
    )


def _gain(record: Record) -> str:
    if record["gain"] is None:
        return "undefined"
    if record["aligner"] == RAW and record["gain"] == 0:
        return "–"  # the old model itself: what gains are counted from
    low, high = record["gain_ci"]
    if low == high:
        return share(record["gain"])  # the new model itself: 100 % by definition
    return with_interval(record["gain"], (low, high), share)
