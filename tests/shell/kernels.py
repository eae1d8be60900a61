"""Print what the libraries' kernels give: one sha256 of each, and the instruction sets in use."""

import hashlib
import json

import numpy as np
import scipy.fft
import scipy.linalg
import torch
from threadpoolctl import threadpool_info
from torch.nn import functional


def sums() -> dict[str, bytes]:
    """Bytes of sums that kernels of other widths would add up in another order."""
    rng = np.random.default_rng(1)
    a = rng.standard_normal((300, 257)).astype(np.float32)
    x = torch.from_numpy(rng.standard_normal((8, 64, 197)).astype(np.float32)).requires_grad_()
    w = torch.from_numpy(rng.standard_normal((96, 64, 5)).astype(np.float32)).requires_grad_()
    y = functional.conv1d(x, w, dilation=2)
    y.square().mean().backward()
    t = torch.from_numpy(a)
    square = a.T.astype(np.float64) @ a
    arrays = {
        "numpy matmul": a @ a.T,
        "numpy sum, exp, log": np.log(np.exp(a).sum(axis=0)),
        "numpy eigh": np.linalg.eigh(square)[0],
        "scipy eigh": scipy.linalg.eigh(square)[1],
        "scipy fft": scipy.fft.rfft(a),
        "torch conv1d": y.detach().numpy(),
        "torch conv1d's gradients": np.concatenate([x.grad.ravel(), w.grad.ravel()]),
        "torch matmul": (t @ t.T).numpy(),
        "torch reductions": torch.stack([t.log_softmax(1).sum(1), t.tanh().std(1)]).numpy(),
        "torch fft": torch.fft.rfft(t).numpy(),
        "torch gelu, normalize": functional.normalize(functional.gelu(t)).numpy(),
    }
    return {name: np.ascontiguousarray(array).tobytes() for name, array in arrays.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(
        json.dumps(
            {
                "torch": torch.backends.cpu.get_cpu_capability(),
                "blas": sorted(
                    {i["architecture"] for i in threadpool_info() if "architecture" in i}
                ),
                "sums": {name: hashlib.sha256(value).hexdigest() for name, value in sums().items()},
            }
        )
    )
