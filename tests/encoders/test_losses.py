"""Losses against their definitions, written out one element at a time."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from nessa.alignment.training import supervised_contrastive
from nessa.encoders.losses import GE2E, AAMSoftmax, Prototypical, risen


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5])
def test_aam_adds_the_margin_to_the_angle_of_the_right_class(margin: float) -> None:
    loss = AAMSoftmax(8, 5, margin=margin, scale=30.0)
    loss.weight.data = unit(5, 8, seed=1)  # none of the right angles comes near its turning point
    x, labels = unit(6, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    w = functional.normalize(loss.weight.detach(), dim=1)
    expected = []
    for row, label in zip(x, labels, strict=True):
        angles = [math.acos(float(row @ weight)) for weight in w]
        logits = [30 * math.cos(a) for a in angles]
        logits[label] = 30 * math.cos(angles[label] + margin)
        expected.append(-logits[label] + math.log(sum(math.exp(v) for v in logits)))
    assert float(loss(x, labels).detach()) == pytest.approx(sum(expected) / 6, rel=1e-4)


def test_aam_does_not_depend_on_the_length_of_an_embedding() -> None:
    loss = AAMSoftmax(8, 5, margin=0.2, scale=30.0)
    x, labels = unit(4, 8), torch.tensor([0, 1, 2, 3])
    assert torch.allclose(loss(x, labels), loss(7 * x, labels), rtol=1e-4)


def test_aam_rises_as_the_right_angle_grows_even_past_its_turning_point() -> None:
    loss = AAMSoftmax(2, 2, margin=0.5, scale=30.0)
    loss.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    angles = torch.linspace(0.1, math.pi - 0.01, 50)
    x = torch.stack([angles.cos(), -angles.sin()], dim=1)
    values = [float(loss(row[None], torch.tensor([0])).detach()) for row in x]
    assert all(a < b + 1e-4 for a, b in pairwise(values))


def test_ge2e_leaves_an_utterance_out_of_its_own_centroid() -> None:
    p, k, d = 4, 3, 6
    x = unit(p, k, d)
    loss = GE2E()
    expected = []
    for j in range(p):
        for i in range(k):
            logits = []
            for q in range(p):
                others = [x[q, u] for u in range(k) if not (q == j and u == i)]
                centroid = functional.normalize(torch.stack(others).mean(0), dim=0)
                logits.append(10 * float(x[j, i] @ centroid) - 5)
            expected.append(-logits[j] + math.log(sum(math.exp(v) for v in logits)))
    value = float(loss(x.flatten(0, 1), p).detach())
    assert value == pytest.approx(sum(expected) / (p * k), rel=1e-4)


def test_supervised_contrastive_is_its_definition_both_ways() -> None:
    p, r = 4, 3
    similarity = 5 * torch.randn(p, p, r, generator=torch.Generator().manual_seed(1))
    s = similarity.tolist()
    by_profile, by_utterance = [], []
    for i in range(p):
        total = sum(math.exp(s[i][j][u]) for j in range(p) for u in range(r))
        by_profile += [math.log(total) - s[i][i][u] for u in range(r)]
        for u in range(r):
            total = sum(math.exp(s[q][i][u]) for q in range(p))
            by_utterance.append(math.log(total) - s[i][i][u])
    expected = sum(by_profile) / (p * r) + sum(by_utterance) / (p * r)
    assert float(supervised_contrastive(similarity)) == pytest.approx(expected, rel=1e-5)


def test_supervised_contrastive_stays_finite_where_a_profile_is_far_from_all() -> None:
    similarity = torch.full((3, 3, 2), 60.0)
    similarity[1] = similarity[:, 1] = -60.0
    similarity.requires_grad_()
    loss = supervised_contrastive(similarity)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(similarity.grad).all()


def test_the_nearest_of_several_centers_counts() -> None:
    loss = AAMSoftmax(8, 4, margin=0.2, scale=30.0, sub_centers=3)
    x, labels = unit(5, 8), torch.tensor([0, 1, 2, 3, 0])
    centers = functional.normalize(loss.weight.detach(), dim=1).reshape(4, 3, 8)
    nearest = torch.stack([(centers @ row).max(dim=1).values for row in x])  # (B, classes)
    logits = 30 * nearest
    for row, label in enumerate(labels.tolist()):
        logits[row, label] = 30 * math.cos(math.acos(float(nearest[row, label])) + 0.2)
    expected = functional.cross_entropy(logits, labels)
    assert float(loss(x, labels).detach()) == pytest.approx(float(expected), rel=1e-4)


def test_the_nearest_wrong_classes_have_to_keep_a_margin() -> None:
    loss = AAMSoftmax(8, 6, margin=0.2, scale=30.0, top_k=2, top_k_margin=0.1)
    x, labels = unit(5, 8), torch.tensor([0, 1, 2, 3, 0])
    cosines = (x @ functional.normalize(loss.weight.detach(), dim=1).T).tolist()
    for ramp in (1.0, 0.5, 0.0):
        logits = [[30 * c for c in row] for row in cosines]
        for row, label in enumerate(labels.tolist()):
            wrong = sorted((c, k) for k, c in enumerate(cosines[row]) if k != label)[-2:]
            for cosine, k in wrong:
                logits[row][k] = 30 * math.cos(math.acos(cosine) - 0.1 * ramp)
            logits[row][label] = 30 * math.cos(math.acos(cosines[row][label]) + 0.2 * ramp)
        expected = functional.cross_entropy(torch.tensor(logits), labels)
        found = float(loss(x, labels, ramp=ramp).detach())
        assert found == pytest.approx(float(expected), rel=1e-4)


def test_prototypical_compares_the_last_utterance_with_the_mean_of_the_others() -> None:
    p, k, d = 4, 3, 6
    x = 3 * unit(p, k, d)
    loss = Prototypical()
    expected = []
    for speaker in range(p):
        logits = []
        for other in range(p):
            prototype = (x[other, 0] + x[other, 1]) / 2
            cosine = functional.cosine_similarity(x[speaker, 2], prototype, dim=0)
            logits.append(10 * float(cosine) - 5)
        expected.append(-logits[speaker] + math.log(sum(map(math.exp, logits))))
    found = float(loss(x.flatten(0, 1), p).detach())
    assert found == pytest.approx(sum(expected) / p, rel=1e-4)


def test_the_margin_rises_between_two_parts_of_the_training() -> None:
    assert [risen((0.2, 0.6), done) for done in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx(
        [0, 0, 0.5, 1, 1]
    )
    assert risen((0.0, 0.0), 0.0) == 1
    assert [risen((0.5, 0.5), done) for done in (0.0, 0.4, 0.5, 1.0)] == [0, 0, 1, 1]
    assert risen((0.0, 0.4), 0.1) == pytest.approx(0.25)
