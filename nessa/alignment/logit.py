"""The paper's baseline: compare in the space of logits over one list of speakers."""

from typing import Self

from nessa.alignment.base import Aligner, DevSet, checked
from nessa.alignment.preprocessing import length_normalize, speaker_means
from nessa.alignment.views import Labels, Matrix
from nessa.errors import InputError


class LogitAligner(Aligner):
    """Maps an embedding to its cosines with the align speakers, in its own model's space.

    Contrastively trained models have no classifier head; their logits are taken against the
    per-speaker mean embeddings. Both sides use the same speakers, so the logits are comparable.
    Models that were trained as classifiers of one list of speakers have rows of their own for
    them; see `of_classifiers`.

    Args:
        remove_mean: subtract each utterance's mean logit.
    """

    kind = "logit"

    def __init__(self, remove_mean: bool = True) -> None:
        super().__init__(remove_mean=remove_mean)
        self.remove_mean = remove_mean

    @classmethod
    def of_classifiers(cls, enroll: Matrix, runtime: Matrix, remove_mean: bool = True) -> Self:
        """The logit space of two classifiers, which needs no fit.

        Args:
            enroll: weight rows of the enrollment model's head, (S, Dx).
            runtime: those of the runtime model's head for the same speakers, (S, Dy).
            remove_mean: see the class.

        Raises:
            InputError: other numbers of speakers.
        """
        if len(enroll) != len(runtime):
            raise InputError(
                f"{len(enroll)} and {len(runtime)} classifier rows; give those of the speakers "
                "that both models were trained on, in one order"
            )
        aligner = cls(remove_mean)
        for side, rows in (("enroll", enroll), ("runtime", runtime)):
            aligner.arrays[f"{side}_speakers"] = length_normalize(rows)
        return aligner

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
