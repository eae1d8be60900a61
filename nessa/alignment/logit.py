"""The paper's baseline: compare in the space of logits over one list of speakers."""

from typing import ClassVar

from torch import nn

from nessa.alignment.base import Aligner
from nessa.alignment.dev import DevSet
from nessa.alignment.modules import Linear, Normalize, RemoveMean
from nessa.alignment.views import Labels, Matrix, Side, length_normalize, means_by_speaker


class LogitAligner(Aligner):
    """Maps an embedding to its cosines with the align speakers, in its own model's space.

    Contrastively trained models have no classifier head; their logits are taken against the
    per-speaker mean embeddings. Both sides use the same speakers, so the logits are comparable.
    """

    kind = "logit"

    remove_mean: ClassVar[bool] = True  # subtract each utterance's mean logit

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        for side, matrix in (("enroll", enroll), ("runtime", runtime)):
            rows = means_by_speaker(length_normalize(matrix), labels)
            self.arrays[f"{side}_speakers"] = length_normalize(rows)  # (S, D)

    def input_dim(self, side: Side) -> int:
        """Dx or Dy."""
        return self.arrays[f"{side}_speakers"].shape[1]

    def network(self, side: Side) -> nn.Module:
        """The map of one side; see `Aligner.network`."""
        logits = [Normalize(), Linear(self.arrays[f"{side}_speakers"].T)]
        mean = [RemoveMean()] if self.remove_mean else []
        return nn.Sequential(*logits, *mean, Normalize())

    def _map(self, matrix: Matrix, side: Side) -> Matrix:
        logits = length_normalize(matrix) @ self.arrays[f"{side}_speakers"].T
        if self.remove_mean:
            logits -= logits.mean(axis=1, keepdims=True)
        return length_normalize(logits)


class UncenteredLogitAligner(LogitAligner):
    """The logits as they are, each utterance's mean kept."""

    kind = "logit_uncentered"
    remove_mean = False
