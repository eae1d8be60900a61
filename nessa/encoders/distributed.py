"""Training by several processes that torchrun starts: what they share, and how they agree.

Each process holds the whole network and its own part of a batch. Together they do what one process
would with the whole batch, but for the order of sums.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.nn.parallel import DistributedDataParallel

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Processes:
    """The processes of one training, as one of them sees them.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        device: that this process computes on.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def gather(self, x: Tensor) -> Tensor:
        """Rows (B, ...) of each process -> those of all, (size * B, ...), with gradients."""
        return x if self.size == 1 else _Gather.apply(x, self.rank, self.size)

    def mean(self, x: Tensor) -> Tensor:
        """The mean over all processes, with gradients; the same shape."""
        return x if self.size == 1 else self.gather(x[None]).mean(dim=0)

    def parallel(self, objective: nn.Module) -> nn.Module:
        """A module whose gradients become the means over all processes."""
        if self.size == 1:
            return objective
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(objective, device_ids=ids, broadcast_buffers=False)

    def synchronise_norms(self, network: nn.Module) -> nn.Module:
        """The network with batch normalization over the batches of all processes."""
        if self.size == 1:
            return network
        if self.device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(network)
        for name, child in network.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(network, name, _SyncBatchNorm(child, self))
            else:
                self.synchronise_norms(child)
        return network


@contextlib.contextmanager
def join_processes() -> Iterator[Processes]:
    """Meet the other processes that torchrun started; alone without torchrun.

    Yields:
        This process among them, with a GPU of its own where there is one.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = CPU
    if torch.cuda.is_available():
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if "WORLD_SIZE" not in os.environ:
        yield Processes(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    processes = Processes(dist.get_rank(), dist.get_world_size(), device)
    logger = logging.getLogger("nessa")
    level = logger.level
    try:
        if not processes.first:
            logger.setLevel(logging.WARNING)
        yield processes
    finally:
        logger.setLevel(level)
        dist.destroy_process_group()


class _Gather(Function):
    """all_gather with gradients: what each process made of a row comes back to its owner."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.size = rank, size
        parts = [torch.empty_like(x) for _ in range(size)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(ctx.size)[ctx.rank], None, None


class _SyncBatchNorm(nn.Module):
    """Batch normalization over all processes on a CPU, where nn.SyncBatchNorm does not work.

    Has the parameters, buffers and names of the layer whose place it takes.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, processes: Processes) -> None:
        super().__init__()
        self.processes, self.eps, self.momentum = processes, norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...); in training only, as encoders are used by one process."""
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        # Two steps, for the mean of squares less the square of the mean would lose digits. All
        # processes have batches of one shape.
        mean = self.processes.mean(x.mean(dim=axes))
        centered = x - mean.view(shape)
        variance = self.processes.mean((centered**2).mean(dim=axes))
        with torch.no_grad():
            count = self.processes.size * x.numel() // x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return centered * scale.view(shape) + self.bias.view(shape)
