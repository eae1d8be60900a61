"""Training criteria of encoders."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nessa.encoders.config import EncoderConfig
from nessa.encoders.distributed import Processes


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
        """Go on with another classifier's centers of the speakers at speed 1.0.

        Args:
            before: the classifier of speakers at all speeds.
            speeds: which these are; those of a speaker follow each other.
        """
        assert isinstance(self.loss, AAMSoftmax) and isinstance(before.loss, AAMSoftmax)
        centers = before.loss.weight.detach()  # (speakers * speeds * K, D)
        centers = centers.unflatten(0, (-1, len(speeds), before.loss.sub_centers))
        own = centers[:, speeds.index(1.0)].flatten(0, 1)  # (speakers * K, D)
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
    if done < first:
        return 0.0
    return (done - first) / (last - first)


class AAMSoftmax(nn.Module):
    """Additive angular margin softmax (ArcFace, arXiv 1801.07698).

    With several centers per class the nearest counts (sub-center ArcFace, Deng et al. 2020). With
    the inter-top-k penalty (Zhao et al., arXiv 2110.05042) the nearest wrong classes have to keep
    a margin, too.

    Args:
        dim: embedding dimension D.
        classes: number of train speakers.
        margin: in radians, added to the angle of the right class; `ramp` scales it in training.
        scale: of the cosines.
        sub_centers: K of each class.
        top_k: how many wrong classes get a margin.
        top_k_margin: in radians, subtracted from their angles; `ramp` scales it as well.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        margin: float,
        scale: float,
        sub_centers: int = 1,
        top_k: int = 0,
        top_k_margin: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes * sub_centers, dim))  # class by class
        nn.init.xavier_normal_(self.weight)
        self.margin, self.scale, self.sub_centers = margin, scale, sub_centers
        self.top_k, self.top_k_margin = min(top_k, classes - 1), top_k_margin

    def forward(self, embeddings: Tensor, labels: Tensor, ramp: float = 1.0) -> Tensor:
        """Embeddings (B, D), labels (B,) -> scalar."""
        cosine = functional.linear(
            functional.normalize(embeddings), functional.normalize(self.weight)
        )  # (B, classes * K)
        if self.sub_centers > 1:
            cosine = cosine.unflatten(1, (-1, self.sub_centers)).amax(dim=2)  # (B, classes)
        margin = self.margin * ramp
        target = cosine.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
        moved = _moved(target, margin)
        # Past pi - margin the cosine would rise again; go on linearly there.
        moved = torch.where(target > math.cos(math.pi - margin), moved, target - margin**2)
        logits = cosine.scatter(1, labels[:, None], moved)
        if self.top_k:
            others = cosine.detach().scatter(1, labels[:, None], -torch.inf)
            nearest = others.topk(self.top_k, dim=1).indices  # (B, top_k)
            closer = cosine.gather(1, nearest).clamp(-1 + 1e-6, 1 - 1e-6)
            logits = logits.scatter(1, nearest, _moved(closer, -self.top_k_margin * ramp))
        return functional.cross_entropy(self.scale * logits, labels)


def _moved(cosine: Tensor, margin: float) -> Tensor:
    """cos(angle + margin) of angles given by their cosines."""
    return cosine * math.cos(margin) - (1 - cosine**2).sqrt() * math.sin(margin)


class _OfCosines(nn.Module):
    """A loss of cosines, with a scale and an offset that are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.tensor(-5.0))


class GE2E(_OfCosines):
    """Generalized end-to-end loss, softmax form (Wan et al., arXiv 1710.10467).

    A batch holds P speakers with K utterances each, in this order.
    """

    def forward(self, embeddings: Tensor, speakers: int) -> Tensor:
        """Embeddings (P * K, D), speaker by speaker -> scalar."""
        e = functional.normalize(embeddings).unflatten(0, (speakers, -1))  # (P, K, D)
        p, k, _ = e.shape
        centroids = functional.normalize(e.mean(dim=1), dim=-1)  # (P, D)
        without_own = functional.normalize(e.sum(dim=1, keepdim=True) - e, dim=-1)  # eq. 8
        cosine = torch.einsum("pkd,qd->pkq", e, centroids)
        own = (e * without_own).sum(dim=-1)  # (P, K)
        same = torch.eye(p, dtype=torch.bool, device=e.device)[:, None, :].expand(p, k, p)
        cosine = torch.where(same, own[:, :, None], cosine)  # eq. 9
        logits = self.scale.clamp(min=1e-2) * cosine + self.bias
        labels = torch.arange(p, device=e.device).repeat_interleave(k)
        return functional.cross_entropy(logits.flatten(0, 1), labels)  # eq. 6


class Prototypical(_OfCosines):
    """Angular prototypical loss (Chung et al., arXiv 2003.11982).

    A batch holds P speakers with K utterances each, in this order. A speaker's last utterance is
    the query, the mean of the others the prototype.
    """

    def forward(self, embeddings: Tensor, speakers: int) -> Tensor:
        """Embeddings (P * K, D), speaker by speaker -> scalar."""
        e = embeddings.unflatten(0, (speakers, -1))  # (P, K, D)
        queries = functional.normalize(e[:, -1], dim=-1)
        prototypes = functional.normalize(e[:, :-1].mean(dim=1), dim=-1)
        logits = self.scale.clamp(min=1e-2) * (queries @ prototypes.T) + self.bias
        return functional.cross_entropy(logits, torch.arange(speakers, device=e.device))
