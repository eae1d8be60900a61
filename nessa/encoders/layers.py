"""Masked building blocks: padding never changes the embedding of a shorter utterance.

`mask` is 1 inside an utterance and 0 in its padding, shape (B, 1, T), or None where all
utterances of the batch fill it. Every convolution sees zeros beyond an utterance's end, as it
would if the utterance were alone, since each block masks its output.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nessa.encoders.settings import Pooling

ATTENTION = 128  # width of an attention's hidden layer at most, as published for ECAPA-TDNN


def length_mask(lengths: Tensor, frames: int) -> Tensor:
    """Lengths (B,) -> mask (B, 1, frames) of 0 and 1."""
    positions = torch.arange(frames, device=lengths.device)
    return (positions[None, :] < lengths[:, None]).unsqueeze(1).float()


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, C, T) with its padding set to zero; outside of training in place, x being fresh."""
    if mask is None:
        return x
    return x * mask if torch.is_grad_enabled() else x.mul_(mask)


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the valid frames: (B, C, T) -> (B, C, 1)."""
    if mask is None:
        return x.mean(dim=2, keepdim=True)
    return (x * mask).sum(dim=2, keepdim=True) / mask.sum(dim=2, keepdim=True)


class ConvBlock(nn.Module):
    """Convolution over time, ReLU, batch normalization; keeps the number of frames."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding=padding)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T)."""
        return masked(self.norm(functional.relu(self.conv(x))), mask)


VARIANCE_FLOOR = 1e-4  # under the square root, so that its gradient stays finite


def weighted_statistics(x: Tensor, weights: Tensor) -> Tensor:
    """Mean and standard deviation over time under weights that sum to 1: (B, C, T) -> (B, 2C)."""
    with _autocast_off(x.device.type):  # a variance in the few digits of bf16 would be noise
        x, weights = x.float(), weights.float()
        mean = _weighted_sum(x, weights)
        variance = _weighted_sum((x - mean.unsqueeze(2)).square(), weights)
    return torch.cat([mean, variance.clamp(min=VARIANCE_FLOOR).sqrt()], dim=1)


def _autocast_off(device: str) -> AbstractContextManager[Any]:
    """The device "meta", on which costs are counted, has no autocast."""
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    """Over time, under weights (B, C, T), or (B, 1, T) for all channels: (B, C, T) -> (B, C)."""
    if weights.shape[1] == 1:  # one product, and nothing as large as x beside it
        return (x @ weights.transpose(1, 2)).squeeze(2)
    return (weights * x).sum(dim=2)


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over time (Snyder et al., x-vectors, 2018)."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, T) -> (B, 2C)."""
        weights = torch.ones_like(x[:, :1], dtype=torch.float32) if mask is None else mask
        return weighted_statistics(x, weights / weights.sum(dim=2, keepdim=True))


class AttentiveStatisticsPooling(nn.Module):
    """Statistics under channel- and context-dependent attention (ECAPA-TDNN, 2005.07143).

    Args:
        channels: C.
        bottleneck: width of the attention's hidden layer.
    """

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        # One layer over (frame, mean, deviation), split so that the part that is the same for all
        # frames is computed once.
        self.hidden = nn.Conv1d(channels, bottleneck, 1)
        self.context = nn.Conv1d(2 * channels, bottleneck, 1, bias=False)
        self.scores = nn.Conv1d(bottleneck, channels, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, T) -> (B, 2C)."""
        mean = masked_mean(x, mask)
        spread = masked_mean((x - mean) ** 2, mask).clamp(min=VARIANCE_FLOOR).sqrt()
        context = self.context(torch.cat([mean, spread], dim=1))  # (B, bottleneck, 1)
        scores = self.scores(torch.tanh(self.hidden(x) + context))
        if mask is not None:
            scores = scores.masked_fill(mask == 0, -torch.inf)
        return weighted_statistics(x, scores.softmax(dim=2))


def make_pooling(kind: Pooling, pooled: int, channels: int) -> nn.Module:
    """The layer that turns frames into a vector twice as wide.

    Args:
        kind: of the statistics.
        pooled: channels C that it takes.
        channels: width of the layers before; narrow ones get a narrow attention.
    """
    if kind == "statistics":
        return StatisticsPooling()
    return AttentiveStatisticsPooling(pooled, min(ATTENTION, channels))


class Encoder(nn.Module, ABC):
    """A network from features to embeddings; an architecture is made of its settings."""

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """
        Args:
            features: shape (B, T, F).
            lengths: valid frames of each utterance, shape (B,); None where all have T.

        Returns:
            Embeddings, shape (B, D), not length-normalized.
        """
        mask = None if lengths is None else length_mask(lengths, features.shape[1])
        return self.embed(features.transpose(1, 2), mask)

    @abstractmethod
    def embed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Features (B, F, T) with zeros for padding, mask (B, 1, T) -> embeddings (B, D)."""
