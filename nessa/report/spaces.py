"""Pictures of the two embedding spaces, before and after alignment, in two dimensions."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nessa.alignment import load
from nessa.config import Recipe
from nessa.datadir import read_utt2spk
from nessa.layout import aligner_dir
from nessa.plan import NESSA, System
from nessa.report.figures import save_figure
from nessa.tables import Embeddings

SPEAKERS = 8
COLOURS = ["#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"]
MARKERS = ("o", "x")  # of the old and of the new model
Points = npt.NDArray[np.float64]


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
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    plane = directions[:2]
    # The sign of a component is arbitrary; the same picture comes out everywhere.
    signs = np.sign(plane[np.arange(len(plane)), np.abs(plane).argmax(axis=1)])
    return centred @ (plane * signs[:, None]).T


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
            colour = COLOURS[code % len(COLOURS)]
            axes.scatter(own[:, 0], own[:, 1], s=22, marker=marker, color=colour)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
