"""ResNet over time and frequency (Zeinali et al., arXiv 1910.12592), at any width and depth."""

from torch import Tensor, nn

from nessa.encoders.layers import Encoder, make_pooling, masked
from nessa.encoders.settings import ResNetConfig

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


class ResNet(Encoder):
    """A convolution, four stages of blocks, pooling over time, one affine layer."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        channels = config.channels
        self.conv = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.blocks = nn.ModuleList()
        width, frequencies = channels, config.features.num_filters
        for stage, (count, stride) in enumerate(zip(config.blocks, STRIDES, strict=True)):
            outputs = channels * 2**stage
            self.blocks.append(BasicBlock(width, outputs, stride))
            self.blocks.extend(BasicBlock(outputs, outputs, 1) for _ in range(count - 1))
            width, frequencies = outputs, -(-frequencies // stride)
        pooled = width * frequencies
        self.pooling = make_pooling(config.pooling, pooled, width)
        self.embedding = nn.Linear(2 * pooled, config.dim)

    def embed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, F, T) -> (B, D)."""
        mask = None if mask is None else mask.unsqueeze(1)  # (B, 1, 1, T)
        x = masked(self.norm(self.conv(x.unsqueeze(1))).relu(), mask)  # (B, C, F, T)
        for block in self.blocks:
            x, mask = block(x, mask)
        x = x.flatten(1, 2)  # (B, 8C * F / 8, T / 8)
        return self.embedding(self.pooling(x, None if mask is None else mask.squeeze(1)))
