"""The optimizer takes PyTorch's own steps, without what only its compiler needs."""

import subprocess
import sys

import pytest
import torch

from nessa.optimizer import AdamW

TRAINING = """
import sys, torch
from nessa.optimizer import AdamW
weight = torch.nn.Parameter(torch.ones(2))
optimizer = AdamW([weight])
weight.square().sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize("fused", [None, True])
def test_steps_are_those_of_pytorch_to_the_bit(fused: bool | None) -> None:
    start = torch.randn(7, 5, generator=torch.manual_seed(1))
    found = []
    for kind in (torch.optim.AdamW, AdamW, torch.optim.AdamW):
        weights = [torch.nn.Parameter(start.clone()), torch.nn.Parameter(start[0].clone())]
        groups = [{"params": weights[:1], "weight_decay": 0.3}, {"params": weights[1:]}]
        optimizer = kind(groups, lr=0.01, fused=fused)
        for step in range(6):
            if step == 3:  # as a training that was stopped goes on
                state, optimizer = optimizer.state_dict(), kind(groups, lr=1.0, fused=fused)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            (weights[0] @ weights[1] + weights[1].exp().sum()).square().sum().backward()
            optimizer.step()
        assert weights[0].grad is not None and not any(weight.isnan().any() for weight in weights)
        found.append([weight.detach() for weight in weights])
    for one, other in (found[:2], found[1:]):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(found[0][0], start)


@pytest.mark.slow
def test_nobody_waits_for_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
