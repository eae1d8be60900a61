"""Tables as text: aligned columns for the terminal, Markdown for files, and how figures look."""

from collections.abc import Callable, Iterable, Sequence
from textwrap import wrap

Row = tuple[str, ...]
ABSENT = "–"  # a cell without a figure
LINE_WIDTH = 100  # characters of a note in plain text


def plain_columns(rows: Sequence[Row]) -> str:
    """Rows, the first of which is the header, in aligned columns for the terminal."""
    widths = _widths(rows)
    lines = ["  ".join(_padded(row, widths)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown_columns(rows: Sequence[Row]) -> str:
    """The same in Markdown, padded so that it reads well as text too."""
    widths = _widths(rows)
    lines = [f"| {' | '.join(_padded(row, widths))} |" for row in rows]
    lines.insert(1, f"| {' | '.join('-' * width for width in widths)} |")
    return "\n".join(lines)


def wrapped(notes: Iterable[str]) -> str:
    """Sentences below a table of the terminal."""
    return "\n".join(line for note in notes for line in wrap(note, LINE_WIDTH))


def percent(fraction: float) -> str:
    """An error rate in percent, without the sign."""
    return f"{100 * fraction:.2f}"


def cost(value: float) -> str:
    """A detection cost or a Cllr."""
    return f"{value:.3f}"


def share(fraction: float) -> str:
    """A gain in percent, without the sign; coarser, for it is a ratio of differences."""
    return f"{100 * fraction:.1f}"


def with_interval(value: float, interval: Sequence[float], number: Callable[[float], str]) -> str:
    """`value [low, high]`, each written by `number`."""
    low, high = interval
    return f"{number(value)} [{number(low)}, {number(high)}]"


def _widths(rows: Sequence[Row]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _padded(row: Row, widths: Sequence[int]) -> list[str]:
    return [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
