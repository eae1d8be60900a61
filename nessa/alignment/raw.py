"""No alignment: what two models' embeddings are worth to each other as they are."""

import numpy as np

from nessa.alignment.base import DevSet
from nessa.alignment.linear import LinearAligner
from nessa.alignment.views import Labels, Matrix
from nessa.errors import InputError


class RawAligner(LinearAligner):
    """The identity: scores are plain cosines between the two models' embeddings.

    Independently trained models put speakers in unrelated directions, so chance is expected; it
    shows that alignment is needed. Both models must have one dimension D.
    """

    kind = "raw"

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        dims = enroll.shape[1], runtime.shape[1]
        if dims[0] != dims[1]:
            raise InputError(
                f"enrollment embeddings have dimension {dims[0]}, runtime ones {dims[1]}: raw "
                "cosine needs equal ones; leave 'raw' out of the recipe's baselines"
            )
        zero = np.zeros(dims[0], np.float32)  # a mean of 0: only length-normalised
        self.arrays = {"enroll_mean": zero, "runtime_mean": zero.copy()}
