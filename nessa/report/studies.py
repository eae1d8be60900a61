"""Studies in the report: tables of gains, and curves of the gain over what a study varies."""

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nessa.files import Record
from nessa.recipe.systems import NESSA, RAW
from nessa.report.extrapolation import speakers_needed
from nessa.report.plots import BLACK, TWO_STYLES, Plot, panels
from nessa.report.tables import CLAIM, by_system, gain_with_interval
from nessa.text import Row, markdown_columns, percent, plain_columns, with_interval

HEADER: Row = ("setting", "enroll", "runtime", "EER %", "recovered gain %")

TITLES = {
    "speakers": "Gain over the number of align speakers",
    "utterances": "Gain over the utterances of each align speaker",
    "width": "Gain over the width of the MLP",
    "parts": "Parts of the method",
    "freeze": "A new runtime model with frozen profiles",
    "augmentation": "Augmentation of the align set",
    "durations": "Gain over the duration of the test speech",
}

AXES = {
    "speakers": "align speakers",
    "utterances": "utterances per align speaker",
    "width": "hidden units (0: linear maps)",
}

FIRST_SEED = "Single-utterance trials, NESSA's first seed."

NOTES = {
    "freeze": "“Both sides trained” is the upper bound: stored profiles need not stay valid. In "
    "the other rows the enrollment side does not change by a bit. Single-utterance trials, mean of "
    "the seeds.",
    "durations": "Of each test utterance, at most that many seconds from its middle; enrollment is "
    "unchanged. Gains are between both models on speech of that length. Single-utterance trials, "
    "NESSA's first seed.",
    "augmentation": "Each row adds to the align set as recorded. Single-utterance trials, NESSA's "
    "first seed.",
}


def format_study(name: str, records: Sequence[Record]) -> str:
    """A study's records as a table for the terminal, and what a curve of speakers foretells."""
    table = plain_columns(_table(records))
    needed = speakers_needed(records) if name == "speakers" else None
    return f"{table}\n{needed}" if needed else table


def study_sections(studies: Mapping[str, Sequence[Record]]) -> list[str]:
    """Markdown lines: a section per study of `nessa.recipe.studies.read_studies`."""
    lines = []
    for name, records in studies.items():
        lines += [f"## {TITLES[name]}", "", markdown_columns(_table(records)), ""]
        if _known_points(name, records):
            lines += [f"![{TITLES[name]}, both update directions](study_{name}.svg)", ""]
        if name == "speakers" and (needed := speakers_needed(records)):
            lines += [needed, ""]
        lines += [f"By `nessa study {name}`. {NOTES.get(name, FIRST_SEED)}", ""]
    return lines


def study_plots(
    studies: Mapping[str, Sequence[Record]], run: Sequence[Record] = (), speakers: int = 0
) -> Iterator[Plot]:
    """The curves of the studies that have an axis and a gain that is defined.

    Args:
        studies: of `nessa.recipe.studies.read_studies`.
        run: the records of the run itself, on the trials of the studies.
        speakers: of its align set; where it stands on the curve of speakers. 0: unknown.
    """
    for name, records in studies.items():
        if known := _known_points(name, records):
            alt = f"Recovered gain over {AXES[name]}, both update directions."
            figure = _gain_curves(name, known)
            if name == "speakers" and speakers:
                _mark_run(figure.axes[0], known, by_system(run), speakers)
            yield Plot(f"study_{name}", figure, TITLES[name], alt)


def _known_points(name: str, records: Sequence[Record]) -> list[Record]:
    """The points of a study's curve; none where it has no axis, or no gain that is defined."""
    return [record for record in records if name in AXES and record["gain"] is not None]


def _mark_run(
    axes: Axes,
    records: Sequence[Record],
    systems: Mapping[tuple[str, str, str], Record],
    speakers: int,
) -> None:
    """Mark where the run itself stands, in each update direction of the curve."""
    pairs = dict.fromkeys((record["enroll"], record["runtime"]) for record in records)
    gains = [systems[NESSA, *pair]["gain"] for pair in pairs if (NESSA, *pair) in systems]
    known = [100 * gain for gain in gains if gain is not None]
    if known:
        label = f"this run: {speakers:,} speakers"
        axes.plot([speakers] * len(known), known, "*", color=BLACK, markersize=14, label=label)
        axes.legend()


def _gain_curves(name: str, records: Sequence[Record]) -> Figure:
    """Gain with its interval over the study's axis, one line per update direction."""
    figure, ((axes,),) = panels(5.5, 4)
    pairs = list(dict.fromkeys((r["enroll"], r["runtime"]) for r in records))
    for (enroll, runtime), (color, line, marker) in zip(pairs, TWO_STYLES, strict=False):
        own = [r for r in records if (r["enroll"], r["runtime"]) == (enroll, runtime)]
        values = [r["value"] for r in own]
        low, high = zip(*((100 * a, 100 * b) for a, b in (r["gain_ci"] for r in own)), strict=True)
        axes.fill_between(values, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(
            values,
            [100 * r["gain"] for r in own],
            color=color,
            linestyle=line,
            marker=marker,
            label=f"{enroll} enrolls, {runtime} runs",
        )
    axes.axhline(CLAIM, color="0.5", linewidth=0.8, linestyle=":")
    if name == "speakers":
        axes.set_xscale("log")
    elif name == "width":
        axes.set_xscale("symlog", linthresh=10)  # has a 0
    ticks = sorted({record["value"] for record in records})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=45)
    axes.minorticks_off()
    axes.set_xlabel(AXES[name])
    axes.set_ylabel("recovered gain (%)")
    axes.grid(color="0.9", linewidth=0.6)
    axes.legend()
    return figure


def _table(records: Sequence[Record]) -> list[Row]:
    """Header and rows, with a column of the trial lists in a study that has several."""
    rows: list[Row] = [HEADER, *map(_row, records)]
    if not any("condition" in record for record in records):
        return rows
    lists = ["trials", *(record["condition"] for record in records)]
    return [(*row[:3], name, *row[3:]) for row, name in zip(rows, lists, strict=True)]


def _row(record: Record) -> Row:
    error = with_interval(record["eer"], record["eer_ci"], percent)
    # A model with itself has no gain to recover.
    gain = "–" if record.get("aligner") == RAW else gain_with_interval(record)
    return record["label"], record["enroll"], record["runtime"], error, gain
