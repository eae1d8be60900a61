"""ECAPA-TDNN (Desplanques et al., arXiv 2005.07143), at any width."""

import torch
from torch import Tensor, nn

from nessa.encoders.layers import (
    ConvBlock,
    Pooling,
    length_mask,
    make_pooling,
    masked,
    masked_mean,
)

# The published network has 512 or 1,024 channels, and the sizes below. A narrower one has fewer
# groups and narrower layers, in proportion to its channels.
RES2NET_SCALE = 8  # groups of channels, each convolved with what the one before it saw
NARROW_RES2NET_SCALE = 4
PUBLISHED_CHANNELS = 512
SQUEEZED = 128  # width of the squeeze-excitation's hidden layer
AGGREGATED = 1536  # channels that are pooled


class Res2Conv(nn.Module):
    """Hierarchical convolution over groups of channels (Res2Net, arXiv 1904.01169)."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.scale = RES2NET_SCALE if channels >= PUBLISHED_CHANNELS else NARROW_RES2NET_SCALE
        width = channels // self.scale
        self.convs = nn.ModuleList(
            ConvBlock(width, width, kernel=3, dilation=dilation) for _ in range(self.scale - 1)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        first, *groups = x.chunk(self.scale, dim=1)
        outputs, previous = [first], torch.zeros_like(first)
        for group, conv in zip(groups, self.convs, strict=True):
            previous = conv(group + previous, mask)
            outputs.append(previous)
        return torch.cat(outputs, dim=1)


class SqueezeExcitation(nn.Module):
    """Scales channels by what the whole utterance holds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = min(SQUEEZED, channels)
        self.squeeze = nn.Conv1d(channels, squeezed, 1)
        self.excite = nn.Conv1d(squeezed, channels, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        hidden = self.squeeze(masked_mean(x, mask)).relu()
        return x * self.excite(hidden).sigmoid()


class SERes2Block(nn.Module):
    """Dense, Res2 and dense layers with squeeze-excitation and a residual connection."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.before = ConvBlock(channels, channels)
        self.res2 = Res2Conv(channels, dilation)
        self.after = ConvBlock(channels, channels)
        self.gate = SqueezeExcitation(channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        y = self.after(self.res2(self.before(x, mask), mask), mask)
        return x + self.gate(y, mask)


class ECAPA(nn.Module):
    """Three SE-Res2 blocks, their outputs aggregated, pooling, one affine layer.

    Args:
        inputs: feature dimension F.
        channels: width of the frame-level layers, a multiple of 4, or of 8 from 512 on.
        dim: embedding dimension D.
        pooling: over time.
    """

    def __init__(
        self, inputs: int, channels: int, dim: int, pooling: Pooling = "attentive"
    ) -> None:
        super().__init__()
        self.first = ConvBlock(inputs, channels, kernel=5)
        self.blocks = nn.ModuleList(SERes2Block(channels, dilation) for dilation in (2, 3, 4))
        aggregated = min(3 * channels, AGGREGATED)
        self.aggregate = nn.Conv1d(3 * channels, aggregated, 1)
        self.pooling = make_pooling(pooling, aggregated, channels)
        self.norm = nn.BatchNorm1d(2 * aggregated)
        self.embedding = nn.Linear(2 * aggregated, dim)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """
        Args:
            features: shape (B, T, F).
            lengths: valid frames of each utterance, shape (B,); None where all have T.

        Returns:
            Embeddings, shape (B, D), not length-normalized.
        """
        mask = None if lengths is None else length_mask(lengths, features.shape[1])
        x = self.first(features.transpose(1, 2), mask)  # (B, C, T)
        outputs = []
        for block in self.blocks:
            x = block(x, mask)
            outputs.append(x)
        x = masked(self.aggregate(torch.cat(outputs, dim=1)).relu(), mask)
        return self.embedding(self.norm(self.pooling(x, mask)))
