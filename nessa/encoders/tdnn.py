"""The x-vector time-delay network (Snyder et al., 2018), at any width."""

from torch import Tensor, nn

from nessa.encoders.layers import ConvBlock, Pooling, length_mask, make_pooling


class XVector(nn.Module):
    """Five time-delay layers, pooling, one affine layer.

    Args:
        inputs: feature dimension F.
        channels: width of the frame-level layers; the last one is three times as wide.
        dim: embedding dimension D.
        pooling: over time.
    """

    def __init__(
        self, inputs: int, channels: int, dim: int, pooling: Pooling = "statistics"
    ) -> None:
        super().__init__()
        self.frames = nn.ModuleList(
            [
                ConvBlock(inputs, channels, kernel=5),
                ConvBlock(channels, channels, kernel=3, dilation=2),
                ConvBlock(channels, channels, kernel=3, dilation=3),
                ConvBlock(channels, channels),
                ConvBlock(channels, 3 * channels),
            ]
        )
        self.pooling = make_pooling(pooling, 3 * channels, channels)
        self.embedding = nn.Linear(6 * channels, dim)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """
        Args:
            features: shape (B, T, F).
            lengths: valid frames of each utterance, shape (B,); None where all have T.

        Returns:
            Embeddings, shape (B, D), not length-normalized.
        """
        mask = None if lengths is None else length_mask(lengths, features.shape[1])
        x = features.transpose(1, 2)  # (B, F, T)
        for layer in self.frames:
            x = layer(x, mask)
        return self.embedding(self.pooling(x, mask))
