"""The mixed-gallery curve: EER while the stored profiles move to another model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nessa.report.figures import TWO_STYLES, save_figure


def write_gallery(records: Sequence[Mapping[str, Any]], stem: Path) -> list[Path]:
    """Draw the records of `nessa.gallery.mixed_gallery`; returns the paths of PNG and SVG."""
    return save_figure(lambda: gallery_figure(records), stem)


def gallery_figure(records: Sequence[Mapping[str, Any]]) -> Figure:
    """One line per runtime model: EER over the share of profiles that are the old model's."""
    figure = Figure(figsize=(5.5, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    runtimes = list(dict.fromkeys(record["runtime"] for record in records))
    for runtime, (colour, line, marker) in zip(runtimes, TWO_STYLES, strict=False):
        points = [(r["old_share"], r["eer"]) for r in records if r["runtime"] == runtime]
        shares, errors = zip(*points, strict=True)
        axes.plot(
            [100 * share for share in shares], [100 * error for error in errors],
            color=colour, linestyle=line, marker=marker, label=f"{runtime} runs",
        )  # fmt: skip
    axes.set_xlabel("profiles that are still the old model's (%)")
    axes.set_ylabel("EER (%)")
    axes.set_ylim(bottom=0)
    axes.grid(color="0.9", linewidth=0.6)
    axes.legend()
    return figure
