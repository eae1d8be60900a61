"""Logits against their definition."""

import numpy as np

from nessa.alignment import UncenteredLogitAligner
from tests.pairs import two_views


def test_logits_are_cosines_with_the_align_speakers_in_the_models_own_space() -> None:
    enroll, runtime, speakers = two_views(7, 3)
    aligner = UncenteredLogitAligner().fit(enroll, runtime, speakers)
    unit = enroll.matrix / np.linalg.norm(enroll.matrix, axis=1, keepdims=True)
    means = unit.reshape(7, 3, -1).mean(axis=1)
    logits = unit @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    logits /= np.linalg.norm(logits, axis=1, keepdims=True)
    np.testing.assert_allclose(aligner.map_enroll(enroll.matrix), logits, atol=1e-5)
