"""What tells weights apart."""

import hashlib

from torch import nn


def weights_digest(module: nn.Module) -> str:
    """sha256 (hex) over a module's weights and buffers, by name; the same on any device."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
