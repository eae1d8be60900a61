"""What tells weights apart."""

import hashlib

import torch
from torch import nn


def weights_digest(module: nn.Module) -> str:
    """sha256 (hex) over a module's weights and buffers, by name; the same on any device."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        numbers = tensor.detach().cpu().contiguous().reshape(-1)
        sha.update(numbers.view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return sha.hexdigest()
