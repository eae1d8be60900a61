"""Speakers whose utterances do not differ: PLDA says so, the others are fitted."""

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
