"""Training criteria of encoders and of the aligner."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class AAMSoftmax(nn.Module):
    """Additive angular margin softmax (ArcFace, arXiv 1801.07698).

    With several centres per class the nearest counts (sub-center ArcFace, Deng et al. 2020). With
    the inter-top-k penalty (Zhao et al., arXiv 2110.05042) the nearest wrong classes have to keep
    a margin, too.

    Args:
        dim: embedding dimension D.
        classes: number of train speakers.
        margin: in radians, added to the angle of the right class; `ramp` scales it in training.
        scale: of the cosines.
        sub_centres: K of each class.
        top_k: how many wrong classes get a margin.
        top_k_margin: in radians, subtracted from their angles; `ramp` scales it as well.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        margin: float,
        scale: float,
        sub_centres: int = 1,
        top_k: int = 0,
        top_k_margin: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes * sub_centres, dim))  # class by class
        nn.init.xavier_normal_(self.weight)
        self.margin, self.scale, self.sub_centres = margin, scale, sub_centres
        self.top_k, self.top_k_margin = min(top_k, classes - 1), top_k_margin

    def forward(self, embeddings: Tensor, labels: Tensor, ramp: float = 1.0) -> Tensor:
        """Embeddings (B, D), labels (B,) -> scalar."""
        cosine = functional.linear(
            functional.normalize(embeddings), functional.normalize(self.weight)
        )  # (B, classes * K)
        if self.sub_centres > 1:
            cosine = cosine.unflatten(1, (-1, self.sub_centres)).amax(dim=2)  # (B, classes)
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


class GE2E(nn.Module):
    """Generalised end-to-end loss, softmax form (Wan et al., arXiv 1710.10467).

    A batch holds P speakers with K utterances each, in this order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.tensor(-5.0))

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


class Prototypical(nn.Module):
    """Angular prototypical loss (Chung et al., arXiv 2003.11982).

    A batch holds P speakers with K utterances each, in this order. A speaker's last utterance is
    the query, the mean of the others the prototype.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def forward(self, embeddings: Tensor, speakers: int) -> Tensor:
        """Embeddings (P * K, D), speaker by speaker -> scalar."""
        e = embeddings.unflatten(0, (speakers, -1))  # (P, K, D)
        queries = functional.normalize(e[:, -1], dim=-1)
        prototypes = functional.normalize(e[:, :-1].mean(dim=1), dim=-1)
        logits = self.scale.clamp(min=1e-2) * (queries @ prototypes.T) + self.bias
        return functional.cross_entropy(logits, torch.arange(speakers, device=e.device))


def supervised_contrastive(similarity: Tensor) -> Tensor:
    """Supervised contrastive loss (arXiv 2004.11362, L_out), profiles against utterances and back.

    Args:
        similarity: scaled cosines of each speaker's profile with each speaker's R utterances,
            shape (P, P, R).

    Returns:
        The mean negative log-probability of a profile's own utterances among all utterances, plus
        that of an utterance's own profile among all profiles.
    """
    return _SupervisedContrastive.apply(similarity)


class _SupervisedContrastive(torch.autograd.Function):
    """The loss and its gradient from one exponential of each similarity.

    With E = exp(S - m), m a profile's highest similarity, and M the highest of all, a profile's sum
    is e^m sum E, an utterance's e^M sum (e^(m - M) E). The gradient by S is E times a number of the
    profile plus one of the profile times one of the utterance, less the own pairs' share.
    """

    @staticmethod
    def forward(ctx: Any, similarity: Tensor) -> Tensor:
        own = similarity.diagonal(dim1=0, dim2=1)  # (R, P)
        s = similarity.flatten(1)  # (P, P R)
        highest = s.amax(dim=1)  # (P,)
        e = (s - highest[:, None]).exp_()
        weight = (highest - highest.amax()).exp()  # (P,), e^(m - M)
        by_profile = e.sum(dim=1)  # (P,)
        # A profile far below the highest would leave nothing of its utterances' sums.
        by_utterance = (weight @ e).clamp(min=torch.finfo(e.dtype).tiny)  # (P R,)
        ctx.save_for_backward(e, weight, by_profile, by_utterance)
        ctx.shape = similarity.shape
        return (
            (highest + by_profile.log()).mean()
            + (highest.amax() + by_utterance.log()).mean()
            - own.mean() * 2
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        e, weight, by_profile, by_utterance = ctx.saved_tensors
        p, _, r = ctx.shape
        share = torch.addr(
            (gradient / p / by_profile)[:, None].expand(p, p * r),
            gradient / (p * r) * weight,
            1 / by_utterance,
        )
        result = share.mul_(e).view(ctx.shape)
        result.diagonal(dim1=0, dim2=1).sub_(2 * gradient / (p * r))
        return result
