"""Regression of the enrollment view on the runtime view by a small residual network."""

import torch
from torch import Tensor, nn

from nessa.alignment.covariance import least_squares, whitening
from nessa.alignment.dev import DevSet
from nessa.alignment.linear import centered_views
from nessa.alignment.modules import Centering
from nessa.alignment.networks import DEVICE, RowTrainedAligner
from nessa.alignment.views import Center, Labels, Matrix, Side

WHITENING_SHRINKAGE = 0.2  # of the covariance of the network's input, which is whitened


class RegressionAligner(RowTrainedAligner):
    """Predicts an utterance's enrollment embedding from its runtime embedding.

    The way that vector databases outlive a change of their embedding model: a residual MLP of one
    hidden layer maps the new model's queries into the space of the stored vectors (Drift-Adapter,
    Vejendla 2025, arXiv 2509.23471, whose linear maps are in `nessa.alignment.adapters`). With
    c(x), c(y) the centered views of one utterance and g the network of `SideNetwork`, it minimizes

        mean over utterances of |g(y) - c(x)|^2 = 2 - 2 cos(g(y), c(x)).

    No speaker enters the loss. Where Drift-Adapter adds its input, P is a matrix that starts at
    the least-squares map: our models' spaces are unrelated, and may differ in dimension. The
    enrollment side is only centered. The weights kept are the last whose dev EER is less than 2 %
    above the lowest or, without a dev set, the last.

    Args:
        hidden_dim: width of r.
        steps: of training.
        batch_size: utterances per step.
        learning_rate: highest, see `nessa.optimizer`.
        weight_decay: of AdamW.
        evaluate_every: steps between two evaluations of the dev EER.
        seed: of initialization and batches.
    """

    kind = "regression"

    def __init__(
        self,
        hidden_dim: int = 256,
        steps: int = 1000,
        batch_size: int = 512,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        evaluate_every: int = 100,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.hidden_dim, self.steps, self.batch_size = hidden_dim, steps, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.evaluate_every, self.seed = evaluate_every, seed

    def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: DevSet | None) -> None:
        torch.manual_seed(self.seed)
        means, target, source = centered_views(enroll, runtime)
        w = whitening(source, WHITENING_SHRINKAGE)
        start = least_squares(source, w, target)
        network = self.new_network(Center(means["runtime_mean"]), w, start).to(DEVICE)
        views = torch.from_numpy(target).to(DEVICE), torch.from_numpy(runtime).to(DEVICE)

        def loss(rows: Tensor) -> Tensor:
            x, y = (view[rows] for view in views)
            return (network.train()(y) - x).square().sum(dim=1).mean()

        modules: dict[Side, nn.Module] = {
            "enroll": Centering(Center(means["enroll_mean"])),
            "runtime": network,
        }
        self.train_on_rows(modules, network, len(target), loss, dev)
