"""The x-vector time-delay network (Snyder et al., 2018), at any width."""

from torch import Tensor, nn

from nessa.encoders.layers import ConvBlock, Encoder, make_pooling
from nessa.encoders.settings import XVectorConfig


class XVector(Encoder):
    """Five time-delay layers, pooling, one affine layer."""

    def __init__(self, config: XVectorConfig) -> None:
        super().__init__()
        inputs, channels = config.features.num_filters, config.channels
        self.frames = nn.ModuleList(
            [
                ConvBlock(inputs, channels, kernel=5),
                ConvBlock(channels, channels, kernel=3, dilation=2),
                ConvBlock(channels, channels, kernel=3, dilation=3),
                ConvBlock(channels, channels),
                ConvBlock(channels, 3 * channels),
            ]
        )
        self.pooling = make_pooling(config.pooling, 3 * channels, channels)
        self.embedding = nn.Linear(6 * channels, config.dim)

    def embed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, F, T) -> (B, D)."""
        for layer in self.frames:
            x = layer(x, mask)
        return self.embedding(self.pooling(x, mask))
