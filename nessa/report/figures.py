"""Figures as files: PNG and SVG, the same bytes for the same figure."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from nessa.files import atomic_open

# Colour, line and marker of two curves, safe for colour blindness (Okabe and Ito's).
TWO_STYLES = [("#0072B2", "-", "o"), ("#D55E00", "--", "s")]


def save_figure(draw: Callable[[], Figure], stem: Path) -> list[Path]:
    """Draw a figure and write it as PNG and SVG.

    Args:
        draw: makes the figure; called with reproducible ids in force.
        stem: the files' path without its suffix.

    Returns:
        The paths of the two files.
    """
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    # Ids in an SVG are random, and both formats are stamped, unless told otherwise.
    stamps = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
    with matplotlib.rc_context({"svg.hashsalt": "nessa"}):
        figure = draw()
        for path in paths:
            with atomic_open(path, "wb") as file:
                figure.savefig(file, format=path.suffix[1:], metadata=stamps[path.suffix])
    return paths
