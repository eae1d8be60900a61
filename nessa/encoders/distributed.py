"""Training by several processes that torchrun starts: what they share, and how they agree.

Each process holds the whole network and its own part of a batch. Together they do what one process
would with the whole batch, but for the order of sums and, without GPUs, for batch normalization.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.parallel import DistributedDataParallel

log = logging.getLogger(__name__)
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
        return x if self.size == 1 else torch.cat(all_gather(x))

    def mean(self, x: Tensor) -> Tensor:
        """The mean of a scalar over all processes."""
        return self.gather(x[None]).mean()

    def parallel(self, objective: nn.Module) -> nn.Module:
        """A module whose gradients become the means over all processes."""
        if self.size == 1:
            return objective
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(objective, device_ids=ids, broadcast_buffers=False)

    def synchronize_norms(self, network: nn.Module) -> nn.Module:
        """The network with batch normalization over all processes, which torch has for GPUs."""
        if self.size == 1:
            return network
        if self.device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(network)
        log.warning("no GPUs: each process normalizes its own part of a batch")
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
