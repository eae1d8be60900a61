"""Identification as tables: whole galleries, and households."""

from collections.abc import Iterator, Sequence
from typing import Any

from nessa.evaluation.households import RANDOM_HOUSEHOLDS
from nessa.files import Record
from nessa.text import Row, markdown_columns, percent, plain_columns, with_interval, wrapped

NAMES = ("aligner", "enroll", "runtime")  # of a system, where there are several
NOTES = (
    "Gallery: a profile of each enrolled speaker, half of the set's; the others are guests. "
    "Probes are utterances of sessions that the profiles do not touch. Rank 1: the share of "
    "enrolled speakers' probes whose own profile scores highest. FNIR: the share that is missed "
    "or taken for another, where at most 1 % or 0.1 % of the guests' probes are taken for "
    "somebody; – where there are too few of them to tell.",
    f"Households: {RANDOM_HOUSEHOLDS:,} of each size drawn at random, and hard ones of the "
    "speakers most alike, one for each enrolled speaker; two guests each. Mistaken: members' "
    "probes whose own profile does not score highest; FNIR at a threshold for all households at "
    "which at most 1 % of the guests' probes are taken for a member.",
)


def format_identification(records: Sequence[Record]) -> str:
    """Records of `nessa.evaluation.rates` for the terminal."""
    if not records:
        return "no profiles, no identification"
    tables = [plain_columns(table) for table in _tables(records)]
    return "\n\n".join([*tables, wrapped(NOTES)])


def identification_section(records: Sequence[Record]) -> list[str]:
    """Markdown lines; none without records."""
    if not records:
        return []
    galleries, households = map(markdown_columns, _tables(records))
    return ["## Identification", "", galleries, "", NOTES[0], "", households, "", NOTES[1], ""]


def _tables(records: Sequence[Record]) -> tuple[list[Row], list[Row]]:
    return _gallery_rows(records), _household_rows(records)


def _gallery_rows(records: Sequence[Record]) -> list[Row]:
    named = _names_of(records)
    header: Row = (*named, "profile of", "rank 1 %", "FNIR % at FPIR 1 %", "at FPIR 0.1 %")
    rows = [header]
    for system, profile, own in _groups(records, named, "profile"):
        (closed,) = (record for record in own if record["task"] == "closed")
        opened = [record for record in own if record["task"] == "open"]
        rank = with_interval(closed["rank1"], closed["rank1_ci"], percent)
        rows.append((*system, str(profile), rank, *map(_fnir, opened)))
    return rows


def _fnir(record: Record) -> str:
    if record["fnir"] is None:
        return "–"
    return with_interval(record["fnir"], record["fnir_ci"], percent)


def _household_rows(records: Sequence[Record]) -> list[Row]:
    """Households of the smallest and the largest size, and one between."""
    named = _names_of(records)
    homes = [record for record in records if record["task"] == "household"]
    sizes = sorted({record["n"] for record in homes})
    shown = sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]}) if sizes else []
    header: Row = (*named, "profile of", "households")
    for size in shown:
        header += (f"mistaken %, n = {size}", f"FNIR %, n = {size}")
    rows = [header]
    for system, profile, own in _groups(homes, named, "profile"):
        for drawn in dict.fromkeys(record["drawn"] for record in own):
            row: Row = (*system, str(profile), drawn)
            for size in shown:
                (record,) = (r for r in own if (r["drawn"], r["n"]) == (drawn, size))
                fnir = record["fnir"]
                row += (percent(record["misidentified"]), "–" if fnir is None else percent(fnir))
            rows.append(row)
    return rows


def _names_of(records: Sequence[Record]) -> Row:
    return NAMES if "aligner" in records[0] else ()


def _groups(
    records: Sequence[Record], named: Row, key: str
) -> Iterator[tuple[Row, Any, list[Record]]]:
    """Records of one system and one value of `key`, in the order in which they come."""

    def place(record: Record) -> tuple[Row, Any]:
        return tuple(record[name] for name in named), record[key]

    for system, value in dict.fromkeys(map(place, records)):
        yield system, value, [record for record in records if place(record) == (system, value)]
