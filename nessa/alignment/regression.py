"""Regression of the enrollment view on the runtime view by a small residual network."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nessa.alignment.base import Aligner, DevSet, Matrix, checked
from nessa.alignment.linear import dev_eer
from nessa.alignment.neural import ROWS_PER_BLOCK, SideNetwork
from nessa.alignment.preprocessing import center, fit_mean
from nessa.schedule import learning_rate

log = logging.getLogger(__name__)

PREFIX = "runtime."


class RegressionAligner(Aligner):
    """Predicts an utterance's enrollment embedding from its runtime embedding.

    The way that vector databases outlive a change of their embedding model: a residual MLP of one
    hidden layer maps the new model's queries into the space of the stored vectors (Drift-Adapter,
    Vejendla 2025, arXiv 2509.23471). With c(x), c(y) the centred views of one utterance and
    g(y) = normalize(P c(y) + r(c(y))), it minimises

        mean over utterances of |g(y) - c(x)|^2 = 2 - 2 cos(g(y), c(x)).

    No speaker enters the loss. Where Drift-Adapter adds its input, P is a matrix that starts at
    the least-squares map: our models' spaces are unrelated, and may differ in dimension. The
    enrollment side is only centred. The weights kept are those of the lowest dev EER or, without
    a dev set, the last.

    Args:
        hidden_dim: width of r.
        steps: of training.
        batch_size: utterances per step.
        learning_rate: highest, see `nessa.schedule`.
        weight_decay: of AdamW.
        evaluate_every: steps between looks at the dev EER.
        seed: of initialisation and batches.
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
        super().__init__(
            hidden_dim=hidden_dim,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            evaluate_every=evaluate_every,
            seed=seed,
        )

    def _fit(
        self, enroll: Matrix, runtime: Matrix, labels: npt.NDArray[np.int64], dev: DevSet | None
    ) -> None:
        settings = self.settings
        torch.manual_seed(settings["seed"])
        x_mean, y_mean = fit_mean(enroll), fit_mean(runtime)
        target = center(enroll, x_mean)
        start = np.linalg.lstsq(center(runtime, y_mean), target, rcond=None)[0].astype(np.float32)
        self.network = self._network(y_mean, start)
        views = torch.from_numpy(target), torch.from_numpy(runtime)
        rng = np.random.default_rng(settings["seed"])
        optimizer = torch.optim.AdamW(
            self.network.parameters(), weight_decay=settings["weight_decay"]
        )
        best, best_eer = self._arrays(x_mean), np.inf
        for step in range(1, settings["steps"] + 1):
            rate = learning_rate(step - 1, settings["steps"], settings["learning_rate"])
            optimizer.param_groups[0]["lr"] = rate
            batch = torch.from_numpy(rng.integers(len(target), size=settings["batch_size"]))
            loss = self._step(optimizer, *(view[batch] for view in views))
            if step % settings["evaluate_every"] and step < settings["steps"]:
                continue
            self.arrays = self._arrays(x_mean)
            error = dev_eer(self, dev) if dev else np.nan
            log.info("step %d: loss %.4f, dev EER %.4f", step, loss, error)
            if dev is None or error < best_eer:
                best, best_eer = self.arrays, error
        self.restore(best, self.fingerprints)

    def _step(self, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
        loss = (self.network.train()(y) - x).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def _network(self, mean: Matrix, start: Matrix) -> SideNetwork:
        return SideNetwork(
            torch.from_numpy(mean), torch.from_numpy(start), self.settings["hidden_dim"], dropout=0
        )

    def _arrays(self, enroll_mean: Matrix) -> dict[str, npt.NDArray[Any]]:
        weights = self.network.state_dict()
        arrays = {PREFIX + name: tensor.numpy().copy() for name, tensor in weights.items()}
        return {"enroll_mean": enroll_mean, **arrays}

    def restore(self, arrays: dict[str, npt.NDArray[Any]], fingerprints: Any) -> None:
        """Take over what `save` wrote."""
        super().restore(arrays, fingerprints)
        weights = {
            name.removeprefix(PREFIX): torch.from_numpy(array)
            for name, array in arrays.items()
            if name.startswith(PREFIX)
        }
        start = arrays[f"{PREFIX}linear.weight"].T
        self.network = self._network(arrays[f"{PREFIX}centering.mean"], start)
        self.network.load_state_dict(weights)

    def map_enroll(self, matrix: Matrix) -> Matrix:
        """(N, Dx) -> (N, Dx): only centred."""
        mean = self.arrays["enroll_mean"]
        return center(checked(matrix, len(mean), "enroll"), mean)

    @torch.inference_mode()
    def map_runtime(self, matrix: Matrix) -> Matrix:
        """(N, Dy) -> (N, Dx)."""
        dim = len(self.arrays[f"{PREFIX}centering.mean"])
        blocks = torch.from_numpy(checked(matrix, dim, "runtime")).split(ROWS_PER_BLOCK)
        self.network.eval()
        return torch.cat([self.network(block) for block in blocks]).numpy()
