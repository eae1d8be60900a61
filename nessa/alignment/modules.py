"""Maps as torch modules.

Numbers of equations are those of docs/method.md.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nessa.alignment.kernel import KernelFeatures
from nessa.alignment.views import Center, Floats, Matrix, Side


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
        kept = center.scaling  # in files, "lengths"
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


def _mlp(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """One hidden layer; zero at the start."""
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), last)
