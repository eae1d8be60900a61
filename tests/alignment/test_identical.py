"""Utterances or coordinates that do not differ: some aligners say so, the others are fitted."""

from collections.abc import Callable

import numpy as np
import pytest

from nessa import Embeddings, InputError
from nessa.alignment import ALIGNERS
from nessa.alignment.views import SIDES
from tests.aligners import small, views_for

Change = Callable[[np.ndarray], np.ndarray]


def identical(matrix: np.ndarray) -> np.ndarray:
    return np.repeat(matrix[::3], 3, axis=0)


def scaled(matrix: np.ndarray) -> np.ndarray:
    """One direction a speaker, at several lengths."""
    return identical(matrix) * (1 + np.arange(len(matrix)) % 3)[:, None]


def nearly(matrix: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(matrix.shape)
    return identical(matrix) + 1e-7 * noise


CHANGES: dict[str, tuple[Change, Change]] = {
    "both": (identical, identical),
    "enroll": (identical, np.array),
    "runtime": (np.array, identical),
    "lengths": (scaled, scaled),
    "rounding": (nearly, nearly),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("kind", [kind for kind in ALIGNERS if kind != "neural"])
def test_identical_utterances_are_refused_or_fitted(kind: str, case: str) -> None:
    enroll, runtime, speakers = views_for(kind, 30, 3)
    changed = [
        Embeddings(view.keys, change(view.matrix))
        for view, change in zip((enroll, runtime), CHANGES[case], strict=True)
    ]
    try:
        mapped = small(kind).fit(*changed, speakers).map_enroll(enroll.matrix)
    except InputError as error:
        assert kind == "plda" and "are all the same" in str(error)
    else:
        assert kind != "plda" and np.isfinite(mapped).all()


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("kind", [kind for kind in ALIGNERS if kind != "raw"])
def test_a_model_that_gives_one_vector_is_refused(kind: str, side: int) -> None:
    """As one does whose input is always silence."""
    views = list(views_for(kind, 30, 3)[:2])
    speakers = views_for(kind, 30, 3)[2]
    views[side] = Embeddings(views[side].keys, np.full_like(views[side].matrix, 0.1))
    with pytest.raises(InputError, match=f"the {SIDES[side]} embeddings .* are all the same"):
        small(kind).fit(*views, speakers)


@pytest.mark.parametrize("side", [0, 1])
def test_numbers_are_no_embeddings(side: int) -> None:
    views = list(views_for("neural", 30, 3)[:2])
    speakers = views_for("neural", 30, 3)[2]
    views[side] = Embeddings(views[side].keys, views[side].matrix[:, :1])
    with pytest.raises(InputError, match=f"the {SIDES[side]} embeddings .* have dimension 1"):
        small("ridge").fit(*views, speakers)


@pytest.mark.parametrize("shrinkage", [0.0, 0.2])
def test_coordinates_that_are_always_zero_are_fitted(shrinkage: float) -> None:
    enroll, runtime, speakers = views_for("neural", 30, 3)
    enroll = Embeddings(enroll.keys, enroll.matrix * (np.arange(enroll.dim) > 1))
    few = {"steps": 1, "start": "cca", "whitening_shrinkage": shrinkage}
    aligner = small("neural", **few).fit(enroll, runtime, speakers)
    assert np.isfinite(aligner.map_enroll(enroll.matrix)).all()
