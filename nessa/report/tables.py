"""Evaluation records as tables: plain text for the terminal, Markdown for files.

Records are those of `nessa.recipe.evaluation.evaluate_systems`, in any order.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import chain

from nessa.files import Record
from nessa.metrics import table
from nessa.metrics.table import Metric
from nessa.recipe.config import Recipe
from nessa.recipe.systems import LDA_PLDA, NESSA, RAW
from nessa.text import ABSENT, Row, markdown_columns, plain_columns, share, with_interval, wrapped

MEAN = f"{NESSA}.mean"
CLAIM = 60  # % of the gain, which the paper claims
UNDEFINED = "undefined"
SYSTEM: Row = ("system", "enroll", "runtime", "trials")  # heads of what `system_cells` gives


def format_records(records: Sequence[Record]) -> str:
    """The table of systems for the terminal, and below it what its columns mean."""
    return f"{plain_columns(table_rows(records))}\n\n{wrapped(legend(records))}"


def markdown_table(records: Sequence[Record]) -> str:
    """The table of systems in Markdown, without a legend."""
    return markdown_columns(table_rows(records))


def table_rows(records: Sequence[Record], seeds: bool = True) -> list[Row]:
    """The heads of the columns, then a row per system and kind of trials.

    With `seeds`, those of a mean share one row below it. Without controls there is no column of the
    controlled gain, which comes last.
    """
    controls = controlled_models(records)
    metrics = (metric.title for metric in table.METRICS)
    rows: list[Row] = [(*SYSTEM, *metrics, "recovered gain %", "controlled gain %")]
    averaged: dict[Row, list[Record]] = {
        _cell(record): [] for record in records if record["aligner"] == MEAN
    }
    for record in ordered_records(records):
        if record["aligner"] == NESSA and _cell(record) in averaged:
            averaged[_cell(record)].append(record)
            continue
        figures = (_figure(record, metric) for metric in table.METRICS)
        gains = gain_with_interval(record), controlled_gain_with_interval(record, controls)
        rows.append((*system_cells(record), *figures, *gains))
        if seeds and record["aligner"] == MEAN:
            rows.append(_seeds_row(averaged[_cell(record)], controls))
    return rows if has_controlled_gains(records) else [row[:-1] for row in rows]


def _seeds_row(seeds: Sequence[Record], controls: Set[str]) -> Row:
    return (
        "  seeds " + ", ".join(str(seed["seed"]) for seed in seeds),
        "",
        "",
        "",
        *(", ".join(m.show(seed[m.key]) for seed in seeds) for m in table.METRICS),
        _listed([gain(seed) for seed in seeds]),
        _listed([controlled_gain(seed, controls) for seed in seeds]),
    )


def _listed(gains: Sequence[str]) -> str:
    return UNDEFINED if set(gains) == {UNDEFINED} else ", ".join(gains)


def controlled_models(records: Iterable[Record]) -> set[str]:
    """The models between whose controls gains can be counted."""
    return {r["enroll"] for r in records if r["aligner"] == NESSA and _is_control(r)}


def has_controlled_gains(records: Sequence[Record]) -> bool:
    """Whether the table has a column of the controlled gain."""
    controls = controlled_models(records)
    return any(controlled_gain(record, controls) != ABSENT for record in records)


def legend(records: Sequence[Record]) -> list[str]:
    """What the columns mean, one sentence group per line, for the rows that there are."""
    counts = {r["trials"]: f"{r['targets']} target, {r['nontargets']} non-target" for r in records}
    trials = "; ".join(f"{condition}: {count}" for condition, count in counts.items())
    lines = [
        table.legend(),
        "[low, high]: 95 % interval of a joint speaker bootstrap, the same draws for all systems.",
        "Recovered gain: (E_oo - E) / (E_oo - E_nn), where E is the EER, E_oo that of the raw old "
        "model on both sides and E_nn that of the raw new one. 100 %: as good as re-enrolling all "
        "speakers; undefined: the new model is not significantly better than the old one.",
    ]
    if has_controlled_gains(records):
        lines.append(
            "Controlled gain: the same between NESSA's controls, (E_oo' - E) / (E_oo' - E_nn'), "
            "where both models have NESSA as their back-end: what alignment alone recovers; "
            "undefined: the new model's control is not significantly better than the old one's."
        )
    lines.append(
        f"Trials: {trials}. single: the main list; profileN: the enrollment side is the mean of N "
        "utterances."
    )
    if any(record["aligner"] == MEAN for record in records):
        lines.append(
            "mean: average over trainings with different seeds, listed below it; alike: each of "
            "them is as it starts, which no seed decides."
        )
    if any(record["aligner"] == LDA_PLDA for record in records):
        lines.append(
            "lda_plda: one model on both sides as raw, but scored as Kaldi's recipes do, by LDA, "
            "length normalization and PLDA, fitted on the align set: what one model gives without "
            "NESSA. Gains are counted from the raw rows all the same."
        )
    if any(_is_control(record) for record in records):
        lines.append(
            "control: NESSA fitted with the same model on both sides. Its gain over the raw model "
            "comes from a better back-end, not from alignment."
        )
    return lines


def normalization_section(recipe: Recipe, records: Sequence[Record]) -> list[str]:
    """The section on AS-norm: Markdown lines."""
    scoring = recipe.scoring
    return [
        "## Score normalization",
        "",
        markdown_columns(list(_as_norm_rows(records))),
        "",
        "Two-sided AS-norm: an enrollment vector is normalized by its "
        f"{scoring.top_n} highest scores with the runtime cohort, a test vector by those with the "
        f"enrollment cohort. Cohort vectors are the speaker means of `{scoring.cohort}` in each "
        "model's own space, then mapped as the embeddings of that side are. NESSA: first seed.",
        "",
    ]


def _as_norm_rows(records: Sequence[Record]) -> Iterator[Row]:
    heads = ((metric.title, "with AS-norm") for metric in table.METRICS)
    yield *SYSTEM, *chain.from_iterable(heads)
    for record in ordered_records(records):
        if normalized := record["as_norm"]:
            figures = ((_figure(record, m), _figure(normalized, m)) for m in table.METRICS)
            yield *system_cells(record), *chain.from_iterable(figures)


def main_records(records: Sequence[Record]) -> list[Record]:
    """Those of the main trial list, which comes first."""
    return [record for record in records if record["trials"] == records[0]["trials"]]


def by_trials(records: Sequence[Record]) -> dict[str, list[Record]]:
    """{kind of trials: its records}, in the order of the kinds."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record["trials"], []).append(record)
    return grouped


def by_system(records: Iterable[Record]) -> dict[tuple[str, str, str], Record]:
    """{(aligner, enroll, runtime): record} of one kind of trials; NESSA by the mean of its seeds.

    The record of a mean comes after those of its seeds.
    """
    return {
        (NESSA if r["aligner"] == MEAN else r["aligner"], r["enroll"], r["runtime"]): r
        for r in records
    }


def ordered_records(records: Sequence[Record]) -> list[Record]:
    """By trials, then raw models, the same by PLDA, aligners by update direction, controls."""
    conditions = list(dict.fromkeys(record["trials"] for record in records))
    pairs = list(dict.fromkeys(_pair(record) for record in records))

    def place(record: Record) -> tuple[int, int, int, bool]:
        symmetric = record["enroll"] == record["runtime"]
        unmapped = {RAW: 0, LDA_PLDA: 1}
        group = unmapped.get(record["aligner"], 3) if symmetric else 2
        mean_last = record["aligner"] == MEAN
        return conditions.index(record["trials"]), group, pairs.index(_pair(record)), mean_last

    return sorted(records, key=place)


def system_cells(record: Record) -> Row:
    """A row's first cells: the system and the trials."""
    return system_label(record), *_pair(record), record["trials"]


def system_label(record: Record) -> str:
    """What a row calls its system."""
    name = record["aligner"]
    if name == MEAN:
        what = "{} seeds alike" if record.get("alike") else "mean of {}"
        name = f"{NESSA}, {what.format(len(record['seed']))}"
    return f"{name} (control)" if _is_control(record) else name


def gain(record: Record) -> str:
    """The recovered gain in percent, without its interval."""
    return UNDEFINED if record["gain"] is None else share(record["gain"])


def with_unit(gain: str) -> str:
    """A gain of a table as a sentence has it."""
    return gain if gain == UNDEFINED else f"{gain} %"


def controlled_gain(record: Record, controls: Set[str]) -> str:
    """The controlled gain in percent; `ABSENT` of a model with itself, or without controls.

    Args:
        record: of a system.
        controls: see `controlled_models`.
    """
    pair = {*_pair(record)}
    if len(pair) == 1 or (record["controlled_gain"] is None and not pair <= controls):
        return ABSENT
    return gain({"gain": record["controlled_gain"]})


def gain_with_interval(record: Record) -> str:
    """The recovered gain in percent, with its interval where it has one."""
    if record["gain"] is None:
        return UNDEFINED
    if record.get("aligner") == RAW and record["gain"] == 0:
        return ABSENT  # the old model itself: what gains are counted from
    low, high = record["gain_ci"]
    if low == high:
        return share(record["gain"])  # the new model itself: 100 % by definition
    return with_interval(record["gain"], (low, high), share)


def controlled_gain_with_interval(record: Record, controls: Set[str]) -> str:
    """The controlled gain in percent, with its interval where it has one; see `controlled_gain`."""
    if record["enroll"] == record["runtime"] or record["controlled_gain"] is None:
        return controlled_gain(record, controls)
    return with_interval(record["controlled_gain"], record["controlled_gain_ci"], share)


def _figure(record: Record, metric: Metric) -> str:
    return with_interval(record[metric.key], record[f"{metric.key}_ci"], metric.show)


def _pair(record: Record) -> Row:
    return record["enroll"], record["runtime"]


def _cell(record: Record) -> Row:
    return record["trials"], *_pair(record)


def _is_control(record: Record) -> bool:
    return record["aligner"] not in (RAW, LDA_PLDA) and record["enroll"] == record["runtime"]
