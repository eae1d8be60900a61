"""The paper's baseline: compare in the space of logits over one list of speakers."""

from typing import ClassVar

from nessa.alignment.base import Aligner, DevSet, checked
from nessa.alignment.preprocessing import length_normalize, speaker_means
from nessa.alignment.views import Labels, Matrix


class LogitAligner(Aligner):
    """Maps an embedding to its cosines with the align speakers, in its own model's space.

    Contrastively trained models have no classifier head; their logits are taken against the
    per-speaker mean embeddings. Both sides use the same speakers, so the logits are comparable.
    """

    kind = "logit"

    remove_mean: ClassVar[bool] = True  # subtract each utterance's mean logit

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
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


class UncenteredLogitAligner(LogitAligner):
    """The logits as they are, each utterance's mean kept."""

    kind = "logit_uncentered"
    remove_mean = False
