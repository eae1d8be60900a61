"""The loss that an encoder's configuration asks for, at every moment of its training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nessa.config import EncoderConfig
from nessa.distributed import Processes
from nessa.losses import GE2E, AAMSoftmax, Prototypical


class Criterion(nn.Module):
    """(Embeddings, labels, progress) -> scalar; its mean over the processes is the loss.

    Args:
        config: of the encoder.
        classes: number of train speakers, those at other speeds included.
        speakers_per_batch: P of this process.
        processes: that train together.
    """

    def __init__(
        self, config: EncoderConfig, classes: int, speakers_per_batch: int, processes: Processes
    ) -> None:
        super().__init__()
        self.processes = processes
        self.speakers = speakers_per_batch * processes.size
        self.ramp = config.loss.margin_ramp
        self.loss: nn.Module
        if config.loss.type == "aam":
            options = config.loss.model_dump(exclude={"type", "margin_ramp"})
            self.loss = AAMSoftmax(config.dim, classes, **options)
        elif config.loss.type == "ge2e":
            self.loss = GE2E()
        else:
            self.loss = Prototypical()

    def forward(self, embeddings: Tensor, labels: Tensor, done: float) -> Tensor:
        """`done`: the part of the steps that is over, which sets the margin."""
        if isinstance(self.loss, AAMSoftmax):
            return self.loss(embeddings, labels, ramp=risen(self.ramp, done))
        # These losses compare the utterances of a batch, so those of all processes.
        return self.loss(self.processes.gather(embeddings), self.speakers)

    def take_over(self, before: "Criterion", speeds: Sequence[float]) -> None:
        """Go on with another classifier's centres of the speakers at speed 1.0.

        Args:
            before: the classifier of speakers at all speeds.
            speeds: which these are; those of a speaker follow each other.
        """
        assert isinstance(self.loss, AAMSoftmax) and isinstance(before.loss, AAMSoftmax)
        centres = before.loss.weight.detach()  # (speakers * speeds * K, D)
        centres = centres.unflatten(0, (-1, len(speeds), before.loss.sub_centres))
        own = centres[:, speeds.index(1.0)].flatten(0, 1)  # (speakers * K, D)
        with torch.no_grad():
            self.loss.weight.copy_(own)


def risen(ramp: tuple[float, float], done: float) -> float:
    """How much of the margin there is, from 0 to 1.

    Args:
        ramp: parts of the training at which it starts to rise and is all there.
        done: part of the training that is over.
    """
    first, last = ramp
    if done >= last:
        return 1.0
    return max(0.0, (done - first) / (last - first))
