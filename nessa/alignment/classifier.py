"""One classifier of the align speakers over both models' embeddings."""

import numpy as np
import torch
from scipy.linalg import svd
from torch import Tensor, nn

from nessa.alignment.covariance import cross_product, whitening
from nessa.alignment.dev import DevSet
from nessa.alignment.linear import centered_views
from nessa.alignment.networks import DEVICE, RowTrainedAligner
from nessa.alignment.views import (
    SIDES,
    Center,
    Labels,
    Matrix,
    Side,
    length_normalize,
    means_by_speaker,
)
from nessa.encoders.losses import AAMSoftmax

WHITENING_SHRINKAGE = 0.5  # of the covariances that are whitened


class ClassifierAligner(RowTrainedAligner):
    """Linear maps of both views into one space, in which one classifier tells the speakers.

    As speaker encoders are trained (additive angular margin softmax, Deng et al. 2019, arXiv
    1801.07698), with the encoders frozen: with w(x), w(y) the centered and whitened views of one
    utterance,

        z_x = normalize(P_x w(x)),   z_y = normalize(P_y w(y)),

    the classifier's weights, a vector for each align speaker, are the same for both views: they
    draw a speaker's embeddings by either model to one place. Only z is kept, and scored by cosine.

    The maps start as Procrustes of w(x) and w(y), the weights as the speakers' means of z_x + z_y.
    The maps kept are the last whose dev EER is less than 2 % above the lowest, the start's
    included, or, without a dev set, the last. Shrinkage and scale were chosen on the dev sets of
    the recipes mini and voices, among 17 settings.

    Args:
        steps: of training.
        batch_size: utterances per step, each by both models.
        learning_rate: highest, see `nessa.optimizer`.
        weight_decay: of AdamW.
        margin: in radians.
        scale: of the cosines.
        evaluate_every: steps between two evaluations of the dev EER.
        seed: of the batches.
    """

    kind = "classifier"
    hidden_dim = 0  # linear maps

    def __init__(
        self,
        steps: int = 400,
        batch_size: int = 512,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.3,
        margin: float = 0.2,
        scale: float = 5.0,
        evaluate_every: int = 50,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.steps, self.batch_size, self.evaluate_every = steps, batch_size, evaluate_every
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.margin, self.scale, self.seed = margin, scale, seed

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        means, a, b = centered_views(enroll, runtime)
        whites = [whitening(view, WHITENING_SHRINKAGE) for view in (a, b)]
        u, _, vt = svd(whites[0] @ cross_product(a, b) @ whites[1], full_matrices=False)
        starts = u.astype(np.float32), vt.T.astype(np.float32)
        modules: dict[Side, nn.Module] = {
            side: self.new_network(Center(means[f"{side}_mean"]), white, start).to(DEVICE)
            for side, white, start in zip(SIDES, whites, starts, strict=True)
        }
        z_x, z_y = (
            length_normalize(view @ white @ start)
            for view, white, start in zip((a, b), whites, starts, strict=True)
        )
        centers = means_by_speaker(z_x + z_y, labels)
        head = AAMSoftmax(centers.shape[1], len(centers), self.margin, self.scale).to(DEVICE)
        head.weight.data = torch.from_numpy(length_normalize(centers)).to(DEVICE)
        views = [torch.from_numpy(view).to(DEVICE) for view in (enroll, runtime)]
        speakers = torch.from_numpy(labels.astype(np.int64)).to(DEVICE)

        def loss(rows: Tensor) -> Tensor:
            pairs = zip(modules.values(), views, strict=True)
            z = torch.cat([module(view[rows]) for module, view in pairs])
            return head(z, speakers[rows].repeat(2))

        trained = nn.ModuleList([head, *modules.values()])
        self.train_on_rows(modules, trained, len(speakers), loss, dev)
