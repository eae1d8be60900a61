"""Files of a line per trial, in any order of columns.

Toolkits order the columns of trial lists and score files in many ways. Which one it is, is told
from all lines of the first block: a column of labels holds nothing else. Where two fit, the file is
refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nessa.errors import InputError
from nessa.files import parse_numbers, read_blocks, split_lines

LINE_END = "\0"  # between lines that are split together: not in a line that was read
WORDS = {"target": True, "tgt": True, "nontarget": False, "nontgt": False, "imp": False}
DIGITS = {"1": True, "0": False}
ENROLL, TEST, LABEL, SCORE = "enroll", "test", "label", "score"


class Columns(NamedTuple):
    """Some lines: what the columns hold, each of length T, or () and None where there are none."""

    enroll: Sequence[str]
    test: Sequence[str]
    labels: NDArray[np.bool_] | None
    scores: NDArray[np.float64] | None


@dataclass(frozen=True)
class Layout:
    """The columns of a file, and, where it has labels, its words for targets and non-targets."""

    columns: tuple[str, ...]
    words: Mapping[str, bool] = field(default_factory=dict)

    def parse(self, lines: list[str]) -> Columns | None:
        """What a block of lines holds, or None unless every line has this layout."""
        fields = _fields(lines, len(self.columns))
        if fields is None:
            return None
        found = dict(zip(self.columns, fields, strict=True))
        labels = scores = None
        if LABEL in found:
            if not set(found[LABEL]) <= self.words.keys():
                return None
            labels = np.fromiter(map(self.words.__getitem__, found[LABEL]), np.bool_, len(lines))
        if SCORE in found and (scores := _numbers(found[SCORE])) is None:
            return None
        return Columns(found.get(ENROLL, ()), found.get(TEST, ()), labels, scores)

    def __str__(self) -> str:
        words = {id(WORDS): "target|nontarget", id(DIGITS): "1|0"}
        return " ".join(
            words[id(self.words)] if column == LABEL else column for column in self.columns
        )


def with_labels(*columns: tuple[str, ...]) -> tuple[Layout, ...]:
    """The layouts of some columns with words, then those with digits, which ids may be too."""
    return tuple(Layout(each, words) for words in (WORDS, DIGITS) for each in columns)


def read_columns(
    path: Path | str, layouts: Sequence[Layout], what: str, remedy: str
) -> Iterator[Columns]:
    """Read a file in the one of some layouts that its lines have.

    Args:
        path: the file.
        layouts: that it may have.
        what: a line is, for messages.
        remedy: for messages about lines of another layout.

    Yields:
        Blocks of lines.

    Raises:
        InputError: unreadable; a line of no layout, or of another one than those before it; or a
            file that two layouts fit.
    """
    layout: Layout | None = None
    for first, block in read_blocks(path):
        lines = split_lines(block, path, first)
        layout = layout or _layout_of(lines, layouts, path, what, remedy)
        parsed = layout.parse(lines)
        if parsed is None:
            row = _first_unlike(lines, layout)
            raise InputError(
                f"{path}: line {first + row}: {lines[row]!r} is not {what} in the format of line "
                f"1, `{layout}`; {remedy}"
            )
        yield parsed


def _layout_of(
    lines: list[str], layouts: Sequence[Layout], path: Path | str, what: str, remedy: str
) -> Layout:
    """The layout of the first lines; where none fits all of them, of as many as possible."""
    first = [layout for layout in layouts if layout.parse(lines[:1])]
    if not first:
        raise InputError(f"{path}: line 1: {lines[0]!r} is not {what}; {remedy}")
    if len(first) == 1:
        return first[0]
    fitting = [layout for layout in first if layout.parse(lines)]
    if not fitting:
        return max(first, key=lambda layout: _first_unlike(lines, layout))
    if any(layout.words is WORDS for layout in fitting):
        fitting = [layout for layout in fitting if layout.words is WORDS]
    if len(fitting) > 1:
        raise InputError(
            f"{path}: may be lines `{fitting[0]}` or `{fitting[1]}`; write target|nontarget"
        )
    return fitting[0]


def _first_unlike(lines: list[str], layout: Layout) -> int:
    return next(row for row, line in enumerate(lines) if layout.parse([line]) is None)


def _fields(lines: list[str], width: int) -> list[list[str]] | None:
    """The columns of a block of lines, or None unless every line has `width` fields."""
    # One split of all lines makes no list per line, which would keep the garbage collector busy.
    fields = f" {LINE_END} ".join([*lines, ""]).split()
    if len(fields) != len(lines) * (width + 1) or set(fields[width :: width + 1]) != {LINE_END}:
        return None
    return [fields[column :: width + 1] for column in range(width)]


def _numbers(words: list[str]) -> NDArray[np.float64] | None:
    """Numbers that are finite as float32, too, or None."""
    try:
        values = np.array(parse_numbers(words), np.float64)
    except ValueError:
        return None
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused as such
        return values if np.isfinite(values.astype(np.float32)).all() else None
