"""The spaces of both models, and the shared one, in the report: some speakers' embeddings."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from nessa.alignment.store import load
from nessa.kaldi.datadir import read_optional, read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.recipe.config import Recipe
from nessa.recipe.layout import aligner_dir, embeddings_dir
from nessa.recipe.systems import NESSA, System
from nessa.report.plots import COLORS, Plot, Points, panels

MODEL_MARKERS = ("o", "x")  # of the old and of the new model


def spaces_plot(recipe: Recipe, exp: Path, set_dir: Path) -> Plot:
    """Some speakers' embeddings in the spaces of both models, and in the shared space.

    Args:
        recipe: names the old and the new model.
        exp: holds embeddings/ and aligners/.
        set_dir: data directory of the eval set.
    """
    old, new = recipe.update
    aligner = load(aligner_dir(exp, System(NESSA, new, old)))
    utt2spk = read_utt2spk(set_dir)
    speakers = sorted(set(utt2spk.values()))[: len(COLORS)]
    keys = sorted(key for key, speaker in utt2spk.items() if speaker in speakers)
    codes = np.array([speakers.index(utt2spk[key]) for key in keys])
    raw = {
        m: Embeddings.read(embeddings_dir(exp, m, set_dir.name)).select(keys) for m in (old, new)
    }
    domains = read_optional(set_dir, "utt2domain")
    of_new, of_old = aligner.map_views(raw[new], raw[old], domains)
    shared = _plane(np.concatenate([of_old.matrix, of_new.matrix]))
    first, second = MODEL_MARKERS
    views = {
        f"{old}, its own space": {first: _plane(raw[old].matrix)},
        f"{new}, its own space": {second: _plane(raw[new].matrix)},
        f"the shared space: {old} (o) and {new} (x)": {
            first: shared[: len(keys)],
            second: shared[len(keys) :],
        },
    }
    figure, grid = panels(4, 4.2, len(views))
    for axes, (title, models) in zip(grid.flat, views.items(), strict=True):
        for marker, points in models.items():
            for code, color in zip(range(len(speakers)), COLORS, strict=False):
                x, y = points[codes == code].T
                axes.scatter(x, y, s=22, marker=marker, color=color)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(title, fontsize="medium")
    return Plot(
        "spaces",
        figure,
        "The two spaces, before and after",
        f"Embeddings of {len(speakers)} eval speakers, a color each: by the old model, by the new "
        "model, and by both in the shared space.",
        "The plane of the two largest principal components of each panel.",
    )


def _plane(vectors: npt.NDArray[np.floating]) -> Points:
    """Vectors (N, D), scaled to unit length, in the plane of their two principal components."""
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centered = vectors - vectors.mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(centered, full_matrices=False)
    plane = directions[:2]
    # The sign of a component is arbitrary; the same picture comes out everywhere.
    signs = np.sign(plane[np.arange(len(plane)), np.abs(plane).argmax(axis=1)])
    return centered @ (plane * signs[:, None]).T
