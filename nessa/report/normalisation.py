"""The report's section on score normalisation: every system with AS-norm and without."""

from collections.abc import Iterator, Sequence

from nessa.columns import Row, cost, markdown_columns, percent, with_interval
from nessa.config import Recipe
from nessa.report.table import Record, ordered_records, system_label

HEADER: Row = (
    "system", "enroll", "runtime", "trials", "EER %", "with AS-norm", "minDCF", "with AS-norm"
)  # fmt: skip


def normalisation_section(recipe: Recipe, records: Sequence[Record]) -> list[str]:
    """Markdown lines; see `nessa.evaluation.evaluate_systems` for the records."""
    scoring = recipe.scoring
    return [
        "## Score normalisation",
        "",
        markdown_columns([HEADER, *_rows(records)]),
        "",
        f"AS-norm is two-sided: an enrollment vector is normalised by its {scoring.top_n} highest "
        "scores with a cohort of the runtime side, a runtime vector by those with a cohort of the "
        f"enrollment side. The cohorts are the means of the speakers of `{scoring.cohort}`, of "
        "each model in its own space, then mapped as profiles and live utterances are. NESSA is "
        "that of its first seed.",
        "",
    ]


def _rows(records: Sequence[Record]) -> Iterator[Row]:
    for record in ordered_records(records):
        normalised = record["as_norm"]
        if normalised is None:
            continue
        figures = [
            with_interval(figures[name], figures[f"{name}_ci"], number)
            for name, number in (("eer", percent), ("min_dcf", cost))
            for figures in (record, normalised)
        ]
        yield system_label(record), record["enroll"], record["runtime"], record["trials"], *figures
