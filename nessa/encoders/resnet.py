"""ResNet over time and frequency (Zeinali et al., arXiv 1910.12592), at any width and depth."""

from torch import Tensor, nn

from nessa.encoders.layers import Pooling, length_mask, make_pooling, masked

STRIDES = (1, 2, 2, 2)  # of the four stages, each twice as wide as the one before it


class BasicBlock(nn.Module):
    """Two convolutions of 3 x 3 with a residual connection (He et al., arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B, inputs, F, T), mask -> (B, outputs, F / stride, T / stride), its mask."""
        # Every other frame: an utterance of L frames keeps ceil(L / 2), those of a convolution
        # over the utterance alone.
        mask = None if mask is None else mask[..., :: self.stride]
        y = masked(self.norm1(self.conv1(x)).relu(), mask)
        y = self.norm2(self.conv2(y)) + self.shortcut(x)
        return masked(y.relu(), mask), mask


class ResNet(nn.Module):
    """A convolution, four stages of blocks, pooling over time, one affine layer.

    Args:
        inputs: feature dimension F.
        channels: C of the first stage; the others have 2C, 4C and 8C.
        dim: embedding dimension D.
        pooling: over time, of all channels at all frequencies that are left.
        blocks: in each stage; (3, 4, 6, 3) makes ResNet34.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        dim: int,
        pooling: Pooling = "statistics",
        blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.blocks = nn.ModuleList()
        width, frequencies = channels, inputs
        for stage, (count, stride) in enumerate(zip(blocks, STRIDES, strict=True)):
            outputs = channels * 2**stage
            self.blocks.append(BasicBlock(width, outputs, stride))
            self.blocks.extend(BasicBlock(outputs, outputs, 1) for _ in range(count - 1))
            width, frequencies = outputs, -(-frequencies // stride)
        pooled = width * frequencies
        self.pooling = make_pooling(pooling, pooled, width)
        self.embedding = nn.Linear(2 * pooled, dim)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """
        Args:
            features: shape (B, T, F).
            lengths: valid frames of each utterance, shape (B,); None where all have T.

        Returns:
            Embeddings, shape (B, D), not length-normalized.
        """
        mask = None
        if lengths is not None:
            mask = length_mask(lengths, features.shape[1]).unsqueeze(1)  # (B, 1, 1, T)
        x = features.transpose(1, 2).unsqueeze(1)  # (B, 1, F, T)
        x = masked(self.norm(self.conv(x)).relu(), mask)
        for block in self.blocks:
            x, mask = block(x, mask)
        x = x.flatten(1, 2)  # (B, 8C * F / 8, T / 8)
        return self.embedding(self.pooling(x, None if mask is None else mask.squeeze(1)))
