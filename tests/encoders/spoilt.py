"""Encoders as a recipe's `python` factory makes them, each spoilt in a way that people meet."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from nessa.encoders.config import FeatureConfig
from nessa.encoders.features import FeatureExtractor

DIM = 16


class Spoilt(nn.Module):
    """Fbank, a layer, and pooling of mean and deviation.

    Args:
        fault: padding, batch_norm, dropout, dead or nan; anything else: none.
    """

    def __init__(self, fault: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        config = FeatureConfig(num_filters=24)
        self.fault, self.features = fault, FeatureExtractor(config)
        self.layer = nn.Linear(24, DIM)
        self.layer.weight.data = torch.randn(DIM, 24, generator=generator) / 5
        self.norm, self.dropout = nn.BatchNorm1d(2 * DIM), nn.Dropout(0.5)
        self.train(fault in ("batch_norm", "dropout"))
        self.norm.train(fault == "batch_norm")

    def forward(self, utterances: list[Tensor]) -> Tensor:
        matrices = [self.layer(self.features(s[None])[0]).relu() for s in utterances]
        if self.fault == "padding":
            matrices = list(pad_sequence(matrices, batch_first=True))
        pooled = torch.stack([self._pool(matrix) for matrix in matrices])
        if self.fault == "batch_norm" and len(pooled) > 1:
            pooled = self.norm(pooled)
        if self.fault == "dropout":
            pooled = self.dropout(pooled)
        if self.fault == "dead":
            pooled[:, 3:7] = 0.25
        return pooled

    def _pool(self, matrix: Tensor) -> Tensor:
        deviation = matrix.var(dim=0).sqrt()
        if self.fault == "nan":
            deviation = (matrix - matrix.mean(dim=0)).abs().mean(dim=0) / deviation
        return torch.cat([matrix.mean(dim=0), deviation])


def make(fault: str) -> nn.Module:
    """A model with a fault."""
    return Spoilt(fault)
