"""The aligners whose maps are trained as small networks."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nessa.alignment.base import Aligner
from nessa.alignment.dev import DevSet
from nessa.alignment.kernel import KernelFeatures
from nessa.alignment.modules import Centering, Fusion, KernelNetwork, RatioNetwork, SideNetwork
from nessa.alignment.views import SIDES, Center, Matrix, Side
from nessa.errors import InputError
from nessa.optimizer import AdamW, learning_rate

log = logging.getLogger(__name__)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # of training
ALIKE = 0.02  # relative differences of dev EERs that chance makes
PATIENCE = 4  # evaluations with a higher dev EER, after which training ends
ROWS_AT_ONCE = 2048  # of a matrix mapped at once: the hidden layer stays in the cache


def _are_finite(modules: Mapping[Side, nn.Module]) -> bool:
    """Whether all weights are numbers."""
    weights = (weight for module in modules.values() for weight in module.parameters())
    return all(bool(weight.isfinite().all()) for weight in weights)


class NetworkAligner(Aligner):
    """An aligner with a module for each side: a network, a Fusion of several, or Centering.

    Attributes:
        modules: of the two sides, once fitted; their weights are the arrays.
        hidden_dim, dropout: of the networks; a subclass sets them.
    """

    hidden_dim: int
    dropout: float = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.modules: dict[Side, nn.Module] = {}

    def new_network(
        self,
        center: Center,
        whitening: Matrix,
        start: Matrix,
        hidden_dim: int | None = None,
        quadratic: Matrix | None = None,
        spread: float = 1.0,
    ) -> SideNetwork | RatioNetwork:
        """A fresh network of a center, W (D_in, D_in) and P (D_in, D); see `SideNetwork`.

        With Q (D, D) and k, its `spread`, one that gives ratios; see `RatioNetwork`.
        """
        w, p = map(torch.from_numpy, (whitening, start))
        hidden = self.hidden_dim if hidden_dim is None else hidden_dim
        if quadratic is None:
            return SideNetwork(center, w, p, hidden, self.dropout)
        q = torch.from_numpy(quadratic)
        return RatioNetwork(center, w, p, hidden, self.dropout, q, spread)

    def train_modules(
        self,
        modules: dict[Side, nn.Module],
        step: Callable[[int], float],
        steps: int,
        evaluate_every: int,
        dev: DevSet | None,
    ) -> int:
        """Train, and keep the last weights whose dev EER is the lowest, or less than `ALIKE` above.

        The learning rate falls: of weights that are alike on dev, the later are the better ones.
        Without a dev set, the last are kept. The start is among those that are compared: where
        training makes it worse by more than that, as on few speakers, it is kept. Training ends
        early once the dev EER was higher `PATIENCE` times in a row, or the weights are no numbers.

        Args:
            modules: the two sides at their start; `step` changes them.
            step: takes step 0, 1, ... and gives its loss.
            steps: how many.
            evaluate_every: steps between two evaluations of the dev EER.
            dev: held-out speakers.

        Returns:
            The step whose weights are kept; 0: the start.

        Raises:
            InputError: without a dev set, weights that are no numbers.
        """
        self._set_modules(modules)
        kept, best, lowest = 0, copy.deepcopy(modules), self.dev_eer(dev) if dev else np.inf
        if dev:
            log.info("step 0: dev EER %.4f", lowest)
        for number in range(1, steps + 1):
            loss = step(number - 1)
            if number % evaluate_every and number < steps:
                continue
            if not (np.isfinite(loss) and _are_finite(modules)):
                if dev is None:
                    raise InputError(
                        f"{self.kind}: the training diverged by step {number}; lower learning_rate "
                        "(aligner.learning_rate of a recipe)"
                    )
                log.warning(
                    "%s: the training diverged by step %d: the weights of step %d are kept",
                    self.kind, number, kept,
                )  # fmt: skip
                break
            error = self.dev_eer(dev) if dev else np.nan
            log.info("step %d: loss %.4f, dev EER %.4f", number, loss, error)
            if dev is None or error <= (1 + ALIKE) * lowest:
                kept, best = number, copy.deepcopy(modules)
                lowest = min(lowest, error)
            elif number - kept >= PATIENCE * evaluate_every:
                log.info("the dev EER was higher %d times in a row: training ends", PATIENCE)
                break
        self._set_modules({side: module.cpu() for side, module in best.items()})
        return kept

    def _set_modules(self, modules: dict[Side, nn.Module]) -> None:
        self.modules = modules
        self.has_roles = isinstance(modules["enroll"], Fusion)
        for side, module in modules.items():
            if isinstance(module, Fusion):
                module.role = side
        # Copies: what is sent to other processes has its tensors moved, away from under a view.
        self.arrays = {
            f"{side}.{name}": tensor.detach().cpu().numpy().copy()
            for side, module in modules.items()
            for name, tensor in module.state_dict().items()
        }

    def restore(
        self, arrays: dict[str, npt.NDArray[Any]], fingerprints: Sequence[str | None]
    ) -> None:
        """Restore the state written by `save`."""
        super().restore(arrays, fingerprints)
        modules: dict[Side, nn.Module] = {}
        for side in SIDES:
            weights = {
                name.removeprefix(f"{side}."): array
                for name, array in arrays.items()
                if name.startswith(f"{side}.")
            }
            module = self._empty_module(weights)
            module.load_state_dict({n: torch.from_numpy(array) for n, array in weights.items()})
            modules[side] = module.eval()
        self._set_modules(modules)

    def _empty_module(self, weights: dict[str, npt.NDArray[Any]]) -> nn.Module:
        """A module of the kind and the dimensions that its weights tell."""
        if "weights" in weights:
            parts = []
            for k in range(len(weights["weights"])):
                prefix = f"parts.{k}."
                own = {
                    n.removeprefix(prefix): a for n, a in weights.items() if n.startswith(prefix)
                }
                parts.append(self._empty_module(own))
            return Fusion(parts, weights["weights"].tolist())
        if "mean" in weights:
            return Centering(Center(weights["mean"]))
        center = Center(weights["centering.mean"], weights.get("centering.lengths"))
        if "landmarks" in weights:
            weight = float(weights["weight"][0])
            features = KernelFeatures(
                weights["landmarks"], weight, weights["projection"], weights["shift"]
            )
            return KernelNetwork(center, features, weights["quadratic"])
        given = center, weights["whitening"], weights["linear.weight"].T
        hidden = None if "residual.0.weight" in weights else 0
        return self.new_network(*given, hidden, weights.get("quadratic"))

    def input_dim(self, side: Side) -> int:
        """Dx or Dy: the length of a mean."""
        names = (name for name in self.arrays if name.startswith(side) and name.endswith("mean"))
        return len(self.arrays[next(names)])

    def network(self, side: Side) -> nn.Module:
        """The map of one side; see `Aligner.network`."""
        return self.modules[side]

    @torch.inference_mode()
    def _map(self, matrix: Matrix, side: Side) -> Matrix:
        module = self.modules[side].eval()
        device = next(module.buffers()).device
        blocks = torch.from_numpy(matrix).split(ROWS_AT_ONCE)
        return torch.cat([module(block.to(device)).cpu() for block in blocks]).numpy()


class RowTrainedAligner(NetworkAligner):
    """An aligner of networks that is trained by batches of rows that are drawn alike.

    Attributes:
        steps, batch_size, learning_rate, weight_decay, evaluate_every, seed: a subclass sets them.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    evaluate_every: int
    seed: int

    def train_on_rows(
        self,
        modules: dict[Side, nn.Module],
        trained: nn.Module,
        rows: int,
        loss: Callable[[Tensor], Tensor],
        dev: DevSet | None,
    ) -> None:
        """Train, and keep the best on dev; see `train_modules`.

        Args:
            modules: the two sides at their start.
            trained: holds the parameters.
            rows: that there are.
            loss: of rows (B,), on `DEVICE`.
            dev: held-out speakers.
        """
        rng = np.random.default_rng(self.seed)
        optimizer = AdamW(trained.parameters(), weight_decay=self.weight_decay)

        def step(number: int) -> float:
            rate = learning_rate(number, self.steps, self.learning_rate)
            optimizer.param_groups[0]["lr"] = rate
            drawn = torch.from_numpy(rng.integers(rows, size=self.batch_size)).to(DEVICE)
            found = loss(drawn)
            optimizer.zero_grad()
            found.backward()
            optimizer.step()
            return found.item()

        self.train_modules(modules, step, self.steps, self.evaluate_every, dev)
