"""Encoders as a recipe's `python` factory makes them, each spoilt in a way that people meet."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from nessa.encoders import build, parse_settings, save_model, save_pretrained
from nessa.encoders.config import EncoderConfig, FeatureConfig
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


def spoilt(folder: Path, fault: str) -> Path:
    """The folder of a model with a fault."""
    settings = {
        "pretrained": "python",
        "factory": f"{__name__}:make",
        "arguments": {"fault": fault},
    }
    config = parse_settings(settings)
    assert not isinstance(config, EncoderConfig)
    save_pretrained(folder / fault, config)
    return folder / fault


def trained(folder: Path, name: str, **features: object) -> Path:
    """A network of ours, the same weights each time, with given features."""
    settings = {
        "architecture": "tdnn",
        "channels": 16,
        "dim": 24,
        "features": {"num_filters": 24, **features},
        "loss": {"type": "ge2e"},
        "steps": 1,
    }
    config = parse_settings(settings)
    assert isinstance(config, EncoderConfig)
    torch.manual_seed(3)
    save_model(folder / name, config, build(config))
    return folder / name
