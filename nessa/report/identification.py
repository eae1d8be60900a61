"""Identification as tables: whole galleries, and households; records of `evaluation.rates`."""

from collections.abc import Iterator, Sequence

from nessa.evaluation.households import IMPOSTORS, RANDOM_HOUSEHOLDS
from nessa.files import Record
from nessa.text import ABSENT, Row, markdown_columns, percent, plain_columns, with_interval, wrapped

NAMES = ("aligner", "enroll", "runtime")  # of a system, where there are several
NOTES = (
    "Gallery: one profile of each enrolled speaker, half of the set's speakers; the others are "
    "impostors. Test utterances are from sessions without profile utterances. Rank 1: share of "
    "mated utterances whose own profile scores highest. FNIR: share of mated utterances that are "
    "missed or misidentified, at a threshold that accepts at most 1 % or 0.1 % of the impostors' "
    f"utterances; {ABSENT}: too few of these to tell.",
    f"Households: {RANDOM_HOUSEHOLDS:,} of each size drawn at random, and hard ones of the most "
    f"similar speakers, one per enrolled speaker; {IMPOSTORS} impostors each, where there are so "
    "many. Misidentified: members' utterances whose own profile does not score highest. FNIR: at "
    "one threshold for all households, which accepts at most 1 % of the impostors' utterances.",
)


def format_identification(records: Sequence[Record]) -> str:
    """The tables and what their columns mean, for the terminal."""
    if not records:
        return "no identification: the set has no profiles, or too few speakers with some"
    tables = [plain_columns(table(records)) for table in (_gallery_rows, _household_rows)]
    return "\n\n".join([*tables, wrapped(NOTES)])


def identification_section(records: Sequence[Record]) -> list[str]:
    """Markdown lines; none without records."""
    if not records:
        return []
    lines = ["## Identification", ""]
    for table, note in zip((_gallery_rows, _household_rows), NOTES, strict=True):
        lines += [markdown_columns(table(records)), "", note, ""]
    return lines


def _gallery_rows(records: Sequence[Record]) -> list[Row]:
    named = _names_of(records)
    header: Row = (*named, "profile of", "rank 1 %", "FNIR % at FPIR 1 %", "at FPIR 0.1 %")
    rows = [header]
    for system, profile, own in _by_profile(records, named):
        (closed,) = (record for record in own if record["task"] == "closed")
        opened = [record for record in own if record["task"] == "open"]
        rank = with_interval(closed["rank1"], closed["rank1_ci"], percent)
        rows.append((*system, str(profile), rank, *map(_fnir, opened)))
    return rows


def _household_rows(records: Sequence[Record]) -> list[Row]:
    """Households of the smallest and the largest size, and one between."""
    named = _names_of(records)
    homes = [record for record in records if record["task"] == "household"]
    sizes = sorted({record["n"] for record in homes})
    shown = sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]}) if sizes else []
    header: Row = (*named, "profile of", "households")
    for size in shown:
        header += (f"misidentified %, n = {size}", f"FNIR %, n = {size}")
    rows = [header]
    for system, profile, own in _by_profile(homes, named):
        for drawn in dict.fromkeys(record["drawn"] for record in own):
            row: Row = (*system, str(profile), drawn)
            for size in shown:
                (record,) = (r for r in own if (r["drawn"], r["n"]) == (drawn, size))
                row += (percent(record["misidentified"]), _fnir(record))
            rows.append(row)
    return rows


def _fnir(record: Record) -> str:
    if record["fnir"] is None:
        return ABSENT
    if "fnir_ci" not in record:
        return percent(record["fnir"])
    return with_interval(record["fnir"], record["fnir_ci"], percent)


def _names_of(records: Sequence[Record]) -> Row:
    return NAMES if "aligner" in records[0] else ()


def _by_profile(records: Sequence[Record], named: Row) -> Iterator[tuple[Row, int, list[Record]]]:
    """(system, size of its profiles, their records), in the order in which they come."""

    def place(record: Record) -> tuple[Row, int]:
        return tuple(record[name] for name in named), record["profile"]

    for system, size in dict.fromkeys(map(place, records)):
        yield system, size, [record for record in records if place(record) == (system, size)]
