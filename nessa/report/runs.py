"""Several runs side by side: recipes, sizes or seeds, by their results.json."""

from collections.abc import Iterable, Sequence, Set
from pathlib import Path

from nessa.errors import InputError
from nessa.files import Record, read_json
from nessa.metrics.table import EER
from nessa.recipe.systems import NESSA
from nessa.report.tables import (
    SYSTEM,
    UNDEFINED,
    controlled_gain,
    controlled_models,
    gain,
    ordered_records,
    system_cells,
)
from nessa.text import ABSENT, Row, markdown_columns, plain_columns

CELL = "Each cell: EER %, recovered gain, controlled gain."


def compare_runs(runs: Sequence[Path], markdown: bool = False) -> str:
    """A table with a row per system and trial list, and a column per run: its EER and gains.

    Args:
        runs: work directories, their exp folders, or files results.json.
        markdown: as Markdown instead of plain text.

    Raises:
        InputError: a run without results, or two of one name.
    """
    results = {name: read_results(run) for name, run in zip(_names(runs), runs, strict=True)}
    rows: dict[Row, dict[str, str]] = {}
    labels: dict[Row, set[str]] = {}
    for name, records in results.items():
        controls = controlled_models(records)
        for record in ordered_records(records):
            # NESSA's seeds share a row; the first one is the aligner `nessa`.
            label, *cells = system_cells(record)
            key = (record["aligner"], *cells)
            labels.setdefault(key, set()).add(label)
            rows.setdefault(key, {}).setdefault(name, _figures(record, controls))
    lines = [
        (_label(labels[key]), *key[1:], *(figures.get(run, ABSENT) for run in results))
        for key, figures in rows.items()
    ]
    table = (markdown_columns if markdown else plain_columns)([(*SYSTEM, *results), *lines])
    return f"{table}\n\n{CELL}"


def read_results(run: Path) -> list[Record]:
    """The records of a run; see `compare_runs`.

    Raises:
        InputError: there are none.
    """
    candidates = (run, run / "results.json", run / "exp" / "results.json")
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise InputError(f"{run}: no results.json here or in exp/; run its stage report first")
    records = read_json(path)
    keys = {"aligner", "enroll", "runtime", "trials", "eer", "gain", "seed"}
    if not isinstance(records, list) or not all(
        isinstance(record, dict) and keys <= record.keys() for record in records
    ):
        raise InputError(f"{path}: not the results of a run; run its stage report again")
    return records


def _names(runs: Iterable[Path]) -> list[str]:
    """Short names that differ: the last parts of the paths."""
    paths = [path.absolute() for path in runs]
    parts = [[p for p in path.parts if p not in ("exp", "results.json")] for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError("a run is named twice; name each once")


def _label(labels: Set[str]) -> str:
    """What a row is called; runs have means of their own numbers of seeds."""
    return next(iter(labels)) if len(labels) == 1 else f"{NESSA}, mean"


def _figures(record: Record, controls: Set[str]) -> str:
    # Runs of earlier versions have no controlled gain.
    known = "controlled_gain" in record
    gains = gain(record), controlled_gain(record, controls) if known else ABSENT
    shown = (text if text in (UNDEFINED, ABSENT) else f"{text} %" for text in gains)
    return ", ".join([EER.show(record[EER.key]), *shown])
