"""Features that a corpus brings: read to their end, and refused where they say nothing."""

import numpy as np
from lhotse.cut import MonoCut
from numpy.typing import NDArray

from nessa.corpus.audio import SHORTEST, reason
from nessa.errors import InputError, about, is_out_of_memory


def load_features(cut: MonoCut) -> NDArray[np.float32]:
    """The features of a cut that has some, (T, F).

    Raises:
        InputError: unreadable, or see `check_features`.
    """
    with about(f"utterance {cut.id!r} ({cut.features.storage_path})"):
        try:
            matrix = np.asarray(cut.load_features(), np.float32)
        except Exception as error:  # Lhotse's and Kaldi's readers raise many types
            if is_out_of_memory(error):
                raise
            raise InputError(f"cannot be read: {reason(error)}; make it again") from None
        check_features(matrix)
    return matrix


def check_features(matrix: NDArray[np.float32]) -> None:
    """Refuse features (T, F) that are too short, not finite, or the same in every frame."""
    check_frames(len(matrix))
    if not np.isfinite(matrix).all():
        raise InputError("features are not finite; make them again")
    if (matrix == matrix[0]).all():
        raise InputError("features are the same in all frames, as those of silence; remove them")


def check_frames(frames: int) -> None:
    """Refuse features that are too short."""
    if frames < SHORTEST:
        raise InputError(f"only {frames} frames; too short for an embedding, remove it")
