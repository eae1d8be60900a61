"""Canonical correlation analysis of two views of the same speakers."""

from collections.abc import Iterator

import numpy as np
from scipy.linalg import svd

from nessa.alignment.base import DevSet
from nessa.alignment.covariance import between_utterances, cross_product, inverse_root, shrunk
from nessa.alignment.linear import Arrays, LinearAligner, centred_views
from nessa.alignment.views import Labels, Matrix

SHRINKAGES = (0.03, 0.003, 0.1, 0.3)
RANKS = (512, 128, 64, 32, 16)  # those above min(Dx, Dy) mean min(Dx, Dy)


class CCAAligner(LinearAligner):
    """Regularised CCA of pairs of *different* utterances of one speaker.

    The two views of one utterance share its channel and its words, which no trial does; an
    enrollment and a runtime utterance share the speaker only. So with centred x, y the
    cross-covariance is taken between each utterance and the others of its speaker,

        C_xy = mean over u of x_u (mean over the speaker's v != u of y_v)^T,

    which in the model x = A h + e, y = B h + e' is A B^T whatever the noises e, e' of one
    utterance have in common. With C_xx, C_yy shrunk towards a multiple of I (Vinod 1976) and
    C_xx^-1/2 C_xy C_yy^-1/2 = U R V^T, the maps are

        x -> x C_xx^-1/2 U R^1/2,   y -> y C_yy^-1/2 V R^1/2,

    the posterior means of h in probabilistic CCA (Bach & Jordan 2005). Rank and shrinkage have
    the lowest dev EER; without a dev set they are the first of `RANKS` and `SHRINKAGES`.
    """

    kind = "cca"

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        means, a, b = centred_views(enroll, runtime)
        c_ab = between_utterances(a, b, labels)
        c_aa, c_bb = cross_product(a, a) / len(a), cross_product(b, b) / len(b)

        def candidates() -> Iterator[tuple[str, Arrays]]:
            for shrinkage in SHRINKAGES:
                roots = [inverse_root(shrunk(c, shrinkage)) for c in (c_aa, c_bb)]
                u, r, vt = svd(roots[0] @ c_ab @ roots[1], full_matrices=False)
                for rank in sorted({min(rank, len(r)) for rank in RANKS}, reverse=True):
                    scale = np.sqrt(r[:rank])
                    maps = {
                        "enroll_map": (roots[0] @ u[:, :rank] * scale).astype(np.float32),
                        "runtime_map": (roots[1] @ vt[:rank].T * scale).astype(np.float32),
                    }
                    yield f"shrinkage {shrinkage}, rank {rank}", {**means, **maps}

        self._choose(candidates(), dev)
