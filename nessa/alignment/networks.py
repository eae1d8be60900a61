"""Maps as torch modules, and the aligners whose maps are trained as small networks.

Numbers of equations are those of docs/method.md.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from nessa.alignment.base import Aligner
from nessa.alignment.dev import DevSet
from nessa.alignment.kernel import KernelFeatures
from nessa.alignment.views import SIDES, Center, Floats, Matrix, Side
from nessa.errors import InputError
from nessa.optimizer import AdamW, learning_rate

log = logging.getLogger(__name__)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # of training
ALIKE = 0.02  # relative differences of dev EERs that chance makes
PATIENCE = 4  # evaluations with a higher dev EER, after which training ends
ROWS_AT_ONCE = 2048  # of a matrix mapped at once: the hidden layer stays in the cache


class CosineNetwork(nn.Module):
    """A side whose vectors are z, scored by their products alone."""

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D_in) -> z (N, D), as `forward` gives it, and u = 0 (N,); see `Fusion`."""
        z = self(x)
        return z, torch.zeros_like(z[:, 0])


class Centering(CosineNetwork):
    """normalize(normalize(x) - mean), or with the lengths that a `Center` keeps."""

    mean: Tensor
    lengths: Tensor | None

    def __init__(self, center: Center) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(center.mean))
        kept = center.lengths
        self.register_buffer("lengths", None if kept is None else torch.from_numpy(kept))

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D), unit length unless lengths are kept."""
        unit = functional.normalize(x, dim=1)
        if self.lengths is None:
            return functional.normalize(unit - self.mean, dim=1)  # (1)
        power, scale, shortest, longest = self.lengths
        length = x.norm(dim=1, keepdim=True).clamp(shortest, longest)
        return unit * (length**power / scale) - self.mean  # (9)


class Linear(nn.Module):
    """x M, of M (D_in, D)."""

    matrix: Tensor

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.tensor(matrix))

    def forward(self, x: Tensor) -> Tensor:
        """(N, D_in) -> (N, D)."""
        return x @ self.matrix


class RemoveMean(nn.Module):
    """Subtracts each row's mean."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        return x - x.mean(dim=1, keepdim=True)


class Normalize(nn.Module):
    """Scales each row to unit length."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        return functional.normalize(x, dim=1)


class WhitenedNetwork(nn.Module):
    """A side of whitened embeddings w = W c: a linear map P w, and a small MLP r(w) beside it.

    The whitened w has coordinates of one size, which lets the MLP r bend at once and all of the
    weights learn at one rate. Its own variances are what P starts from.

    Args:
        center: of the model's embeddings, of dimension D_in.
        whitening: W, symmetric, shape (D_in, D_in); see `covariance.whitening`.
        projection: start of P, shape (D_in, D).
        hidden_dim: width of the MLP r; 0 leaves it out.
        dropout: on its hidden layer, in training.
    """

    whitening: Tensor
    BESIDE = 0  # numbers that r gives beside those that are added to P w

    def __init__(
        self,
        center: Center,
        whitening: Tensor,
        projection: Tensor,
        hidden_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        inputs, outputs = projection.shape
        self.register_buffer("whitening", whitening)
        self.centering = Centering(center)
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.linear.weight.data = projection.T.contiguous()
        width = outputs + self.BESIDE
        self.residual = _mlp(inputs, hidden_dim, width, dropout) if hidden_dim else None


class SideNetwork(WhitenedNetwork, CosineNetwork):
    """f or g: a model's embedding -> the shared space.

    z = normalize(P w + r(w)),   w = W c,   c = normalize(normalize(x) - mean)
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, D_in) -> (N, D), unit length."""
        w = self.centering(x) @ self.whitening
        z = self.linear(w) if self.residual is None else self.linear(w) + self.residual(w)
        return functional.normalize(z, dim=1)


class RatioNetwork(WhitenedNetwork):
    """A side of NESSA's likelihood ratio: a model's embedding -> z and u.

        z = P w + k r_z(w),   u = z Q z^T + r_u(w),   w = W c,   c = normalize(normalize(x) - mean)

    The score of a trial is z_x . z_y + u_x + u_y, up to a constant a natural-log likelihood ratio.
    With P and Q of `plda.Ratio` and r = 0, which is the start, it is two-view PLDA's.

    Args:
        center, whitening, projection, hidden_dim, dropout: see `WhitenedNetwork`.
        quadratic: start of Q, shape (D, D).
        spread: k, the standard deviation of the start's z.
    """

    spread: Tensor
    BESIDE = 1  # r_u

    def __init__(
        self,
        center: Center,
        whitening: Tensor,
        projection: Tensor,
        hidden_dim: int,
        dropout: float,
        quadratic: Tensor,
        spread: float,
    ) -> None:
        super().__init__(center, whitening, projection, hidden_dim, dropout)
        self.register_buffer("spread", torch.tensor([spread], dtype=torch.float32))
        self.quadratic = nn.Parameter(quadratic)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D_in) -> z (N, D) and u (N,)."""
        w = self.centering(x) @ self.whitening  # (2)
        z, bent = self.linear(w), 0.0
        if self.residual is not None:
            residual = self.residual(w)
            z, bent = z + self.spread * residual[:, :-1], residual[:, -1]  # (3)
        return z, ((z @ self.quadratic) * z).sum(dim=1) + bent  # (4)


class KernelNetwork(nn.Module):
    """A side whose vectors PLDA takes in products of coordinates; it is not trained.

        z = (c l_1 + q (c l_1)^2, ..., c l_L + q (c l_L)^2) V - m,   u = z Q z^T

    Args:
        center: of the model's embeddings, of dimension D_in.
        features: l, q, V and m, the map to z folded in; see `kernel.KernelFeatures`.
        quadratic: Q, shape (D, D).
    """

    landmarks: Tensor
    weight: Tensor
    projection: Tensor
    shift: Tensor
    quadratic: Tensor

    def __init__(self, center: Center, features: KernelFeatures, quadratic: Floats) -> None:
        super().__init__()
        self.centering = Centering(center)
        self.register_buffer("landmarks", torch.from_numpy(features.landmarks))
        self.register_buffer("weight", torch.tensor([features.weight], dtype=torch.float32))
        self.register_buffer("projection", torch.from_numpy(features.projection))
        self.register_buffer("shift", torch.from_numpy(features.mean))
        self.register_buffer("quadratic", torch.from_numpy(quadratic.astype(np.float32)))

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D_in) -> z (N, D) and u (N,)."""
        products = self.centering(x) @ self.landmarks.T
        z = (products + self.weight * products.square()) @ self.projection - self.shift
        return z, ((z @ self.quadratic) * z).sum(dim=1)


class Fusion(nn.Module):
    """f or g of NESSA: weighted parts side by side, given as one unit vector.

    With parts k that score z_xk . z_yk + u_xk + u_yk and weights w_k, all of one trial is again
    z_x . z_y + u_x + u_y, of z = (w_k^1/2 z_k for all k) and u = sum of w_k u_k.

    As any cosine can score it, so can every tool and index that knows cosines: with v = a (u - b),
    b and a = `balance` constants that make v as long as 1/a, and R = `radius` beyond all lengths,

        enroll [z, v, 1/a, s, 0] / R,   runtime [z, 1/a, v, 0, s] / R

    have unit length by the choice of s, and the product (z_x . z_y + u_x + u_y - b_x - b_y) /
    (R_x R_y): what makes a search for the largest inner product one for the largest cosine
    (Bachrach et al. 2014). Sides that are fitted together share all constants; one that joins a
    frozen side shares a, without which no constant scales and shifts the score. What lies beyond
    `LONGEST` of the radius is drawn in to it, and its cosines with it: no align utterance, but
    what is unlike them, and profiles of many utterances, whose noise is less.

    Args:
        parts: K modules that have `statistics`.
        weights: w of each.

    Attributes:
        role: which of the two vectors `forward` gives.
    """

    weights: Tensor
    offset: Tensor  # b
    balance: Tensor
    radius: Tensor
    LONGEST = 0.95

    def __init__(self, parts: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))
        for name, value in {"offset": 0.0, "balance": 1.0, "radius": 1.0}.items():
            self.register_buffer(name, torch.tensor([value], dtype=torch.float32))
        self.role: Side = "enroll"

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D_in) -> z (N, D), D the sum of the parts' dimensions, and u (N,)."""
        zs, us = zip(*(part.statistics(x) for part in self.parts), strict=True)  # for (6)
        z = torch.cat([w.sqrt() * z for w, z in zip(self.weights, zs, strict=True)], dim=1)
        return z, torch.stack(us, dim=1) @ self.weights

    def forward(self, x: Tensor) -> Tensor:
        """(N, D_in) -> (N, D + 4), unit length."""
        z, u = self.statistics(x)
        v = self.balance * (u - self.offset)[:, None]
        one = torch.ones_like(v) / self.balance
        pair = [v, one] if self.role == "enroll" else [one, v]
        vector = torch.cat([z, *pair], dim=1) / self.radius
        length = vector.square().sum(dim=1, keepdim=True).sqrt()
        vector = vector * (self.LONGEST / length).clamp(max=1)
        slack = (1 - vector.square().sum(dim=1, keepdim=True)).sqrt()
        none = torch.zeros_like(slack)
        return torch.cat([vector, *([slack, none] if self.role == "enroll" else [none, slack])], 1)


def _are_finite(modules: Mapping[Side, nn.Module]) -> bool:
    """Whether all weights are numbers."""
    weights = (weight for module in modules.values() for weight in module.parameters())
    return all(bool(weight.isfinite().all()) for weight in weights)


def _mlp(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """One hidden layer; zero at the start."""
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), last)


class NetworkAligner(Aligner):
    """An aligner with a module for each side: a network, a Fusion of several, or Centering.

    Attributes:
        modules: of the two sides, once fitted; their weights are the arrays.
        hidden_dim, dropout: of the networks; a subclass sets them.
        steps, batch_size, learning_rate, weight_decay, evaluate_every, seed: of `train_on_rows`;
            a subclass that trains by it sets them.
    """

    hidden_dim: int
    dropout: float = 0.0
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    evaluate_every: int
    seed: int

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

    def train_on_rows(
        self,
        modules: dict[Side, nn.Module],
        trained: nn.Module,
        rows: int,
        loss: Callable[[Tensor], Tensor],
        dev: DevSet | None,
    ) -> None:
        """Train by batches of rows that are drawn alike; see `train_modules`.

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
