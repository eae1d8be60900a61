"""Aligners whose maps are small networks: how such a map looks, is saved and is applied."""

from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from nessa.alignment.base import Aligner, Matrix, checked

Side = Literal["enroll", "runtime"]
SIDES: tuple[Side, Side] = ("enroll", "runtime")
ROWS_PER_BLOCK = 16384  # of a matrix mapped at once; bounds the memory of the hidden layer


class Centering(nn.Module):
    """normalize(normalize(x) - mean)."""

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D), unit length."""
        return functional.normalize(functional.normalize(x, dim=1) - self.mean, dim=1)


class SideNetwork(nn.Module):
    """f or g: a model's embedding -> the shared space.

    Args:
        mean: of the model's length-normalised align embeddings, shape (D_in,).
        projection: start of P, shape (D_in, D).
        hidden_dim: width of the MLP r.
        dropout: on its hidden layer, in training.
    """

    def __init__(self, mean: Tensor, projection: Tensor, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        inputs, outputs = projection.shape
        self.centering = Centering(mean)
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.linear.weight.data = projection.T.contiguous()
        last = nn.Linear(hidden_dim, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.residual = nn.Sequential(
            nn.Linear(inputs, hidden_dim), nn.GELU(), nn.Dropout(dropout), last
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, D_in) -> (N, D), unit length."""
        c = self.centering(x)
        # A coordinate of a unit vector is about 1 / sqrt(D_in): too small for the GELU to bend.
        spread = c * c.shape[1] ** 0.5
        return functional.normalize(self.linear(c) + self.residual(spread), dim=1)


class NetworkAligner(Aligner):
    """An aligner with a module for each side: a SideNetwork, or Centering where it stays as it is.

    Attributes:
        modules: of the two sides, once fitted.
        hidden_dim, dropout: of the networks; a subclass sets them.
    """

    hidden_dim: int
    dropout: float = 0.0

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.modules: dict[Side, nn.Module] = {}

    def network(self, mean: Matrix, start: Matrix) -> SideNetwork:
        """A fresh network; see `SideNetwork` for the mean (D_in,) and the start of P (D_in, D)."""
        tensors = torch.from_numpy(mean), torch.from_numpy(start)
        return SideNetwork(*tensors, self.hidden_dim, self.dropout)

    def keep(self, modules: dict[Side, nn.Module]) -> None:
        """Take `modules` as the outcome of the fit."""
        self.modules = modules
        self.arrays = {
            f"{side}.{name}": tensor.detach().numpy()
            for side, module in modules.items()
            for name, tensor in module.state_dict().items()
        }

    def restore(self, arrays: dict[str, npt.NDArray[Any]], fingerprints: Any) -> None:
        """Take over what `save` wrote."""
        super().restore(arrays, fingerprints)
        for side in SIDES:
            weights = {
                name.removeprefix(f"{side}."): array
                for name, array in arrays.items()
                if name.startswith(f"{side}.")
            }
            module: nn.Module = (
                Centering(torch.from_numpy(weights["mean"]))
                if "mean" in weights
                else self.network(weights["centering.mean"], weights["linear.weight"].T)
            )
            module.load_state_dict({n: torch.from_numpy(array) for n, array in weights.items()})
            self.modules[side] = module.eval()

    def map_enroll(self, matrix: Matrix) -> Matrix:
        """(N, Dx) -> (N, D)."""
        return self.map_side(matrix, "enroll")

    def map_runtime(self, matrix: Matrix) -> Matrix:
        """(N, Dy) -> (N, D)."""
        return self.map_side(matrix, "runtime")

    @torch.inference_mode()
    def map_side(self, matrix: Matrix, side: Side) -> Matrix:
        """(N, D_in) of one side -> (N, D)."""
        module = self.modules[side].eval()
        mean = next(iter(module.buffers()))
        blocks = torch.from_numpy(checked(matrix, len(mean), side)).split(ROWS_PER_BLOCK)
        return torch.cat([module(block) for block in blocks]).numpy()
