"""A whole architecture, as anybody adds one: this file, and the line of the registry below.

As a program it is `nessa` with this architecture.
"""

from torch import Tensor, nn

from nessa.cli.main import main
from nessa.encoders.config import EncoderConfig
from nessa.encoders.kinds import ARCHITECTURES, Kind
from nessa.encoders.layers import Encoder, StatisticsPooling, masked
from nessa.schema import Positive

LINE = "small", Kind("tests.encoders.small.SmallConfig", "tests.encoders.small.Small")


class SmallConfig(EncoderConfig):
    hidden: Positive = 8


class Small(Encoder):
    """Has no batch normalization, so that two processes on CPUs train as one does."""

    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(config.features.num_filters, config.hidden, 1)
        self.pooling = StatisticsPooling()
        self.embedding = nn.Linear(2 * config.hidden, config.dim)

    def embed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.embedding(self.pooling(masked(self.hidden(x).relu(), mask), mask))


if __name__ == "__main__":
    ARCHITECTURES[LINE[0]] = LINE[1]
    main()
