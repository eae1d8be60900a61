"""The paper's baseline: compare in the space of logits over one list of speakers."""

import numpy as np
import numpy.typing as npt

from nessa.alignment.base import Aligner, DevSet, Matrix, checked
from nessa.alignment.preprocessing import length_normalize, speaker_means


class LogitAligner(Aligner):
    """Maps an embedding to its cosines with the align speakers, in its own model's space.

    Contrastively trained models have no classifier head; their logits are taken against the
    per-speaker mean embeddings. Both sides use the same speakers, so the logits are comparable.

    Args:
        remove_mean: subtract each utterance's mean logit.
    """

    kind = "logit"

    def __init__(self, remove_mean: bool = True) -> None:
        super().__init__(remove_mean=remove_mean)
        self.remove_mean = remove_mean

    def _fit(
        self, enroll: Matrix, runtime: Matrix, labels: npt.NDArray[np.int64], dev: DevSet | None
    ) -> None:
        for side, matrix in (("enroll", enroll), ("runtime", runtime)):
            rows = speaker_means(length_normalize(matrix), labels)
            self.arrays[f"{side}_speakers"] = length_normalize(rows)  # (S, D)

    def map_enroll(self, matrix: Matrix) -> Matrix:
        """(N, Dx) -> (N, S)."""
        return self._logits(matrix, "enroll")

    def map_runtime(self, matrix: Matrix) -> Matrix:
        """(N, Dy) -> (N, S)."""
        return self._logits(matrix, "runtime")

    def _logits(self, matrix: Matrix, side: str) -> Matrix:
        speakers = self.arrays[f"{side}_speakers"]
        logits = length_normalize(checked(matrix, speakers.shape[1], side)) @ speakers.T
        if self.remove_mean:
            logits -= logits.mean(axis=1, keepdims=True)
        return length_normalize(logits)
