"""ECAPA-TDNN (Desplanques et al., arXiv 2005.07143), at any width."""

import torch
from torch import Tensor, nn

from nessa.encoders.layers import ConvBlock, Encoder, make_pooling, masked, masked_mean
from nessa.encoders.settings import ECAPAConfig, res2net_groups

# Sizes of the published network; a narrower one has narrower layers, in proportion to its channels.
SQUEEZED = 128  # width of the squeeze-excitation's hidden layer
AGGREGATED = 1536  # channels that are pooled


class Res2Conv(nn.Module):
    """Hierarchical convolution over groups of channels (Res2Net, arXiv 1904.01169)."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.scale = res2net_groups(channels)
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


class ECAPA(Encoder):
    """Three SE-Res2 blocks, their outputs aggregated, pooling, one affine layer."""

    def __init__(self, config: ECAPAConfig) -> None:
        super().__init__()
        channels = config.channels
        self.first = ConvBlock(config.features.num_filters, channels, kernel=5)
        self.blocks = nn.ModuleList(SERes2Block(channels, dilation) for dilation in (2, 3, 4))
        aggregated = min(3 * channels, AGGREGATED)
        self.aggregate = nn.Conv1d(3 * channels, aggregated, 1)
        self.pooling = make_pooling(config.pooling, aggregated, channels)
        self.norm = nn.BatchNorm1d(2 * aggregated)
        self.embedding = nn.Linear(2 * aggregated, config.dim)

    def embed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, F, T) -> (B, D)."""
        x = self.first(x, mask)  # (B, C, T)
        outputs = []
        for block in self.blocks:
            x = block(x, mask)
            outputs.append(x)
        x = masked(self.aggregate(torch.cat(outputs, dim=1)).relu(), mask)
        return self.embedding(self.norm(self.pooling(x, mask)))
