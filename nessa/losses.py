"""Training criteria of encoders and of the aligner."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class AAMSoftmax(nn.Module):
    """Additive angular margin softmax (ArcFace, arXiv 1801.07698).

    Args:
        dim: embedding dimension D.
        classes: number of train speakers.
        margin: in radians, added to the angle of the right class; `ramp` scales it in training.
        scale: of the cosines.
    """

    def __init__(self, dim: int, classes: int, margin: float, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dim))
        nn.init.xavier_normal_(self.weight)
        self.margin, self.scale = margin, scale

    def forward(self, embeddings: Tensor, labels: Tensor, ramp: float = 1.0) -> Tensor:
        """Embeddings (B, D), labels (B,) -> scalar."""
        cosine = functional.linear(
            functional.normalize(embeddings), functional.normalize(self.weight)
        )  # (B, classes)
        margin = self.margin * ramp
        target = cosine.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
        moved = target * math.cos(margin) - (1 - target**2).sqrt() * math.sin(margin)
        # Past pi - margin the cosine would rise again; go on linearly there.
        moved = torch.where(target > math.cos(math.pi - margin), moved, target - margin**2)
        logits = cosine.scatter(1, labels[:, None], moved)
        return functional.cross_entropy(self.scale * logits, labels)


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


def supervised_contrastive(similarity: Tensor) -> Tensor:
    """Supervised contrastive loss (arXiv 2004.11362, L_out), profiles against utterances and back.

    Args:
        similarity: scaled cosines of each speaker's profile with each speaker's R utterances,
            shape (P, P, R).

    Returns:
        The mean negative log-probability of a profile's own utterances among all utterances, plus
        that of an utterance's own profile among all profiles.
    """
    own = similarity.diagonal(dim1=0, dim2=1)  # (R, P)
    by_profile = similarity.flatten(1).logsumexp(dim=1) - own.mean(dim=0)  # (P,)
    by_utterance = similarity.logsumexp(dim=0) - own.T  # (P, R)
    return by_profile.mean() + by_utterance.mean()
