"""The figures of the report, as PNG and SVG with reproducible bytes."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from nessa.alignment.store import load
from nessa.evaluation.conditions import SINGLE
from nessa.files import Record, atomic_open
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.roc import Roc, det_points, eer
from nessa.recipe.config import Recipe
from nessa.recipe.layout import aligner_dir
from nessa.recipe.systems import NESSA, RAW, System
from nessa.recipe.thresholds import best_threshold
from nessa.report.tables import CLAIM, MEAN, system_label

Scores = npt.NDArray[np.float32]
Labels = npt.NDArray[np.bool_]
Curves = Mapping[str, Scores]  # name in the legend -> scores (T,)
# Okabe and Ito's colors, which color-blind readers can tell apart; the line styles do as well.
DET_STYLES = [
    ("#000000", "--"),
    ("#000000", "-"),
    ("#E69F00", "-."),
    ("#0072B2", ":"),
    ("#009E73", "--"),
    ("#CC79A7", "-."),
    ("#56B4E9", "--"),
    ("#999999", "-"),
]
LAST = ("#D55E00", "-")  # of the last curve, which is the one that the others are compared with
TICKS = np.array([0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4,
                  0.6, 0.8, 0.9])  # fmt: skip
RESOLUTION = 0.01  # probit units between two points of a curve: about one pixel
MARGIN = 5.0  # how many times below the lowest and above the highest EER the axes reach
# Color, line and marker of two curves, safe for color blindness (Okabe and Ito's).
TWO_STYLES = [("#0072B2", "-", "o"), ("#D55E00", "--", "s")]
LOWEST = -50  # % of the gain; a bar that ends lower is cut, and says how low
BINS = 80
CLASSES = {False: ("non-target", "#0072B2"), True: ("target", "#D55E00")}  # Okabe and Ito's
Row = Mapping[str, Scores]  # title of a column -> scores (T,)
LIMIT = 8.0  # log odds; beyond, few trials decide
# Okabe and Ito's colors, for color-blind readers; the line styles tell as well.
RELIABILITY_STYLES = [("#000000", "--"), ("#D55E00", "-"), ("#0072B2", "-."), ("#009E73", ":")]
RatioCurves = Mapping[str, npt.NDArray[np.float32]]  # name in the legend -> LLRs (T,)
SPEAKERS = 8
COLORS = ["#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"]
MARKERS = ("o", "x")  # of the old and of the new model
Points = npt.NDArray[np.float64]


def write_det(panels: Mapping[str, Curves], labels: Labels, stem: Path) -> list[Path]:
    """Draw DET curves and write them as PNG and SVG; the same scores give the same bytes.

    Args:
        panels: title -> curves of one panel, all on the same trials.
        labels: of the trials, (T,), True for a target.
        stem: the files' path without its suffix.

    Returns:
        The paths of the two files.
    """
    return save_figure(lambda: det_figure(panels, labels), stem)


def det_figure(panels: Mapping[str, Curves], labels: Labels) -> Figure:
    """One panel per title, side by side on the same axes; see `write_det`."""
    figure = Figure(figsize=(5.2 * len(panels), 5.5), dpi=120, layout="constrained")
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    rates = {
        title: {name: eer(scores, labels) for name, scores in curves.items()}
        for title, curves in panels.items()
    }
    limits = _limits([rate for panel in rates.values() for rate in panel.values()])
    for axes, (title, curves) in zip(grid.flat, panels.items(), strict=True):
        styles = [*islice(cycle(DET_STYLES), len(curves) - 1), LAST]
        for (name, scores), (color, style) in zip(curves.items(), styles, strict=True):
            label = f"{name}: EER {100 * rates[title][name]:.2f} %"
            axes.plot(*det_curve(scores, labels), color=color, linestyle=style, label=label)
        _dress(axes, title, limits)
    return figure


def det_curve(
    scores: Scores, labels: Labels
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The DET curve in probit units, thinned to what can be seen.

    Args:
        scores: (T,), higher for a more likely target.
        labels: (T,), True for a target.

    Returns:
        (probit of the false alarm rates, probit of the miss rates), each (P,).
    """
    # Rates of 0 and 1 lie at infinity; half a trial is where a corner of the curve ends instead.
    least = 0.5 / len(labels)
    points = ndtri(np.clip(det_points(scores, labels), least, 1 - least))
    cells = np.round(points / RESOLUTION)
    new = np.append(True, np.any(np.diff(cells, axis=1) != 0, axis=0))
    return points[0, new], points[1, new]


def _limits(rates: list[float]) -> tuple[float, float]:
    """Ticks between which both axes reach, such that all EERs lie well inside."""
    inner = range(1, len(TICKS) - 1)
    low = int(np.searchsorted(TICKS, min(rates) / MARGIN, side="right")) - 1
    high = int(np.searchsorted(TICKS, max(rates) * MARGIN))
    return TICKS[min(max(low, 0), inner[-1])], TICKS[min(max(high, inner[0]), len(TICKS) - 1)]


def _dress(axes: Axes, title: str, limits: tuple[float, float]) -> None:
    low, high = ndtri(limits)
    axes.plot([low, high], [low, high], color="0.7", linewidth=0.8, zorder=0)  # where EERs lie
    names = [f"{100 * tick:g}" for tick in TICKS]
    axes.set_xticks(ndtri(TICKS), names)
    axes.set_yticks(ndtri(TICKS), names)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_box_aspect(1)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_title(title)
    axes.set_xlabel("false alarm rate (%)")
    axes.set_ylabel("miss rate (%)")
    axes.label_outer()
    axes.legend(loc="upper right", fontsize="small")


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


def write_gains(records: Sequence[Record], stem: Path) -> list[Path]:
    """Draw the single-utterance trials' gains; returns the paths of PNG and SVG, if there are any.

    Args:
        records: of `nessa.recipe.evaluation.evaluate_systems`.
        stem: the files' path without its suffix.
    """
    known = [record for record in records if _is_drawn(record, records)]
    return save_figure(lambda: gains_figure(known), stem) if known else []


def gains_figure(records: Sequence[Record]) -> Figure:
    """A group of bars per aligner, one for each update direction, with its interval."""
    names = list(dict.fromkeys(system_label(record) for record in records))
    pairs = list(dict.fromkeys((r["enroll"], r["runtime"]) for r in records))
    figure = Figure(figsize=(6.5, 0.5 * len(names) + 1.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(pairs)
    for number, (pair, (color, _, _)) in enumerate(zip(pairs, TWO_STYLES, strict=False)):
        for record in records:
            if (record["enroll"], record["runtime"]) != pair:
                continue
            place = names.index(system_label(record)) + (number - (len(pairs) - 1) / 2) * height
            gain, (low, high) = 100 * record["gain"], (100 * x for x in record["gain_ci"])
            axes.barh(place, max(gain, LOWEST), height, color=color, alpha=0.85)
            if gain < LOWEST:
                axes.text(LOWEST + 2, place, f"{gain:.0f}", va="center", fontsize="x-small")
            else:
                axes.plot([max(low, LOWEST), high], [place, place], color="black", linewidth=1)
        axes.barh(0, 0, color=color, label=f"{pair[0]} enrolls, {pair[1]} runs")
    axes.axvline(CLAIM, color="black", linestyle=":", label=f"{CLAIM} %")
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.axvline(100, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(left=LOWEST)
    axes.set_xlabel("recovered gain (%)")
    axes.grid(color="0.9", linewidth=0.6, axis="x")
    axes.legend(fontsize="small", loc="upper right")
    return figure


def _is_drawn(record: Record, records: Sequence[Record]) -> bool:
    """Aligned systems with a gain; NESSA by the mean of its seeds where there is one."""
    if record["trials"] != SINGLE or record["aligner"] == RAW or record["gain"] is None:
        return False
    if record["enroll"] == record["runtime"]:
        return False
    averaged = any(other["aligner"] == MEAN for other in records)
    return record["aligner"] != NESSA or not averaged


def write_histograms(
    rows: Mapping[str, Row], labels: Labels, bayes: float, stem: Path
) -> list[Path]:
    """Draw the histograms and write them as PNG and SVG.

    Args:
        rows: name of the scores -> scores of each cell; the last row is the calibrated one.
        labels: of the trials, (T,), True for a target.
        bayes: the Bayes threshold, natural-log odds, drawn in the last row.
        stem: the files' path without its suffix.

    Returns:
        The paths of the two files.
    """
    return save_figure(lambda: histogram_figure(rows, labels, bayes), stem)


def histogram_figure(rows: Mapping[str, Row], labels: Labels, bayes: float) -> Figure:
    """A panel per row and cell, the panels of a row on the same axes; see `write_histograms`."""
    columns = len(next(iter(rows.values())))
    figure = Figure(figsize=(3.2 * columns, 2.7 * len(rows)), dpi=120, layout="constrained")
    grid = figure.subplots(len(rows), columns, sharex="row", sharey="row", squeeze=False)
    for number, (name, cells) in enumerate(rows.items()):
        edges = np.histogram_bin_edges(np.concatenate(list(cells.values())), BINS)
        for axes, (title, scores) in zip(grid[number], cells.items(), strict=True):
            _draw_classes(axes, scores, labels, edges)
            best = best_threshold(scores, labels)
            axes.axvline(best, color="black", linestyle="--", label="best for this cell")
            if number == len(rows) - 1:
                axes.axvline(bayes, color="black", label="Bayes threshold")
            axes.set_xlabel(name)
            axes.set_yticks([])
            if number == 0:
                axes.set_title(title, fontsize="medium")
    for row in grid:
        row[-1].legend(fontsize="x-small")
    return figure


def _draw_classes(axes: Axes, scores: Scores, labels: Labels, edges: npt.NDArray) -> None:
    for label, (name, color) in CLASSES.items():
        heights, _ = np.histogram(scores[labels == label], edges, density=True)
        axes.stairs(heights, edges, fill=True, alpha=0.5, color=color, label=name)


def write_gallery(records: Sequence[Mapping[str, Any]], stem: Path) -> list[Path]:
    """Draw the records of `nessa.recipe.gallery.mixed_gallery`; returns the files' paths."""
    return save_figure(lambda: gallery_figure(records), stem)


def gallery_figure(records: Sequence[Mapping[str, Any]]) -> Figure:
    """One line per runtime model: EER over the share of profiles that are the old model's."""
    figure = Figure(figsize=(5.5, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    runtimes = list(dict.fromkeys(record["runtime"] for record in records))
    for runtime, (color, line, marker) in zip(runtimes, TWO_STYLES, strict=False):
        points = [(r["old_share"], r["eer"]) for r in records if r["runtime"] == runtime]
        shares, errors = zip(*points, strict=True)
        axes.plot(
            [100 * share for share in shares], [100 * error for error in errors],
            color=color, linestyle=line, marker=marker, label=f"{runtime} runs",
        )  # fmt: skip
    axes.set_xlabel("profiles that are still the old model's (%)")
    axes.set_ylabel("EER (%)")
    axes.set_ylim(bottom=0)
    axes.grid(color="0.9", linewidth=0.6)
    axes.legend()
    return figure


def write_reliability(panels: Mapping[str, RatioCurves], labels: Labels, stem: Path) -> list[Path]:
    """Draw reliability curves and write them as PNG and SVG.

    Args:
        panels: title -> natural-log likelihood ratios of up to four cells, on the same trials.
        labels: of the trials, (T,), True for a target.
        stem: the files' path without its suffix.

    Returns:
        The paths of the two files.
    """
    return save_figure(lambda: reliability_figure(panels, labels), stem)


def reliability_figure(panels: Mapping[str, RatioCurves], labels: Labels) -> Figure:
    """One panel per title, side by side on the same axes; see `write_reliability`."""
    figure = Figure(figsize=(4.6 * len(panels), 4.8), dpi=120, layout="constrained")
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    for axes, (title, curves) in zip(grid.flat, panels.items(), strict=True):
        axes.plot([-LIMIT, LIMIT], [-LIMIT, LIMIT], color="0.7", linewidth=0.8, zorder=0)
        for (name, llrs), (color, line) in zip(curves.items(), RELIABILITY_STYLES, strict=False):
            axes.plot(*reliability_curve(llrs, labels), color=color, linestyle=line, label=name)
        axes.set_xlim(-LIMIT, LIMIT)
        axes.set_ylim(-LIMIT, LIMIT)
        axes.set_box_aspect(1)
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_title(title)
        axes.set_xlabel("log likelihood ratio (natural)")
        axes.set_ylabel("borne out by the trials")
        axes.label_outer()
        axes.legend(loc="upper left", fontsize="small")
    return figure


def reliability_curve(
    llrs: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The log likelihood ratios that isotonic regression (PAV) finds, over those given.

    Each point is a block of trials that the regression joins: N. Brümmer and J. du Preez,
    "Application-independent evaluation of speaker detection" (2006).

    Args:
        llrs: natural-log likelihood ratios (T,).
        labels: (T,), True for a target.

    Returns:
        (mean given, found), each (B,); blocks of one class only, whose ratio is infinite, are
        left out.
    """
    given = np.asarray(llrs, np.float64)
    hull = Roc.of(given, labels).hull
    below = (hull.misses + hull.rejections).astype(np.int64)  # trials under each vertex
    sums = np.append(0, np.cumsum(np.sort(given)))
    means = np.diff(sums[below]) / np.diff(below)
    targets, nontargets = np.diff(hull.p_miss), -np.diff(hull.p_fa)
    both = (targets > 0) & (nontargets > 0)
    return means[both], np.log(targets[both] / nontargets[both])


def write_spaces(recipe: Recipe, exp: Path, set_dir: Path, stem: Path) -> list[Path]:
    """Draw some speakers' embeddings; returns the paths of PNG and SVG.

    Args:
        recipe: names the old and the new model.
        exp: holds embeddings/ and aligners/.
        set_dir: data directory of the eval set.
        stem: the files' path without its suffix.
    """
    old, new = recipe.update
    aligner = load(aligner_dir(exp, System(NESSA, new, old)))
    utt2spk = read_utt2spk(set_dir)
    speakers = sorted(set(utt2spk.values()))[:SPEAKERS]
    keys = sorted(key for key, speaker in utt2spk.items() if speaker in speakers)
    codes = np.array([speakers.index(utt2spk[key]) for key in keys])
    raw = {
        m: Embeddings.read(exp / "embeddings" / m / set_dir.name).select(keys) for m in (old, new)
    }
    mapped = np.concatenate(
        [aligner.map_runtime(raw[old].matrix), aligner.map_enroll(raw[new].matrix)]
    )
    shared = principal_plane(_unit(mapped))
    panels = {
        f"{old}, its own space": [(principal_plane(_unit(raw[old].matrix)), MARKERS[0])],
        f"{new}, its own space": [(principal_plane(_unit(raw[new].matrix)), MARKERS[1])],
        f"the shared space: {old} (o) and {new} (x)": [
            (shared[: len(keys)], MARKERS[0]),
            (shared[len(keys) :], MARKERS[1]),
        ],
    }
    return save_figure(lambda: _figure(panels, codes), stem)


def principal_plane(vectors: npt.NDArray[np.floating]) -> Points:
    """Vectors (N, D) in the plane of their two largest principal components, (N, 2)."""
    centered = vectors - vectors.mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(centered, full_matrices=False)
    plane = directions[:2]
    # The sign of a component is arbitrary; the same picture comes out everywhere.
    signs = np.sign(plane[np.arange(len(plane)), np.abs(plane).argmax(axis=1)])
    return centered @ (plane * signs[:, None]).T


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _figure(panels: dict[str, list[tuple[Points, str]]], codes: npt.NDArray[np.int64]) -> Figure:
    figure = Figure(figsize=(4 * len(panels), 4.2), dpi=120, layout="constrained")
    for axes, (title, views) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        _draw(axes, views, codes)
        axes.set_title(title, fontsize="medium")
    return figure


def _draw(axes: Axes, views: list[tuple[Points, str]], codes: npt.NDArray[np.int64]) -> None:
    for points, marker in views:
        for code in np.unique(codes):
            own = points[codes == code]
            color = COLORS[code % len(COLORS)]
            axes.scatter(own[:, 0], own[:, 1], s=22, marker=marker, color=color)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
