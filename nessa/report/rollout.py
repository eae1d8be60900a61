"""The study of a rollout as a table: a row per strategy, a column per day."""

from collections.abc import Sequence

from nessa.files import Record
from nessa.recipe.rollout import FALSE_ACCEPTS, USE
from nessa.text import Row, markdown_columns, percent, plain_columns

NOTE = (
    f"Misses among the attempts of a day, every cell at {FALSE_ACCEPTS:.0%} false accepts on dev; "
    f"a user comes on a day with a chance of {USE:.0%}. By `nessa study rollout`."
)


def format_rollout(records: Sequence[Record]) -> str:
    """For the terminal."""
    return f"{plain_columns(_table(records))}\n{NOTE}"


def rollout_section(records: Sequence[Record]) -> list[str]:
    """Markdown lines; none without records."""
    if not records:
        return []
    title = "## Rollout: misses % over the days, by strategy"
    return [title, "", markdown_columns(_table(records)), "", NOTE, ""]


def _table(records: Sequence[Record]) -> list[Row]:
    days = list(dict.fromkeys(record["day"] for record in records))
    last = days[-1]
    header = (
        "strategy",
        *(f"day {day}" for day in days),
        "encoder runs, day 0",
        "asked to enroll",
        f"old profiles, day {last}",
    )
    rows: list[Row] = [header]
    for strategy in dict.fromkeys(record["strategy"] for record in records):
        own = {record["day"]: record for record in records if record["strategy"] == strategy}
        misses = (percent(own[day]["miss"]) for day in days)
        shares = f"{own[last]['asked']:.0%}", f"{own[last]['old_profiles']:.0%}"
        rows.append((strategy, *misses, f"{own[0]['runs']:.1f}", *shares))
    return rows
