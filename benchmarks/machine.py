"""What the machine can do at best: the limits that benchmarks are held against."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measurement import timed
from nessa.threads import thread_count

PRODUCT = 2048  # rows and columns of the matrices whose product shows the peak
COPIED = 2**27  # float32 that are copied, or written: 512 MiB
REPEATS = 5


@dataclass(frozen=True)
class Machine:
    """Measured limits.

    Attributes:
        flops: of a large float32 matrix product, per second.
        copy: bytes per second that are copied to new memory.
        disk: bytes per second that are written to the disk, and are safe there.
    """

    flops: float
    copy: float
    disk: float

    @classmethod
    def measure(cls, folder: Path) -> "Machine":
        """Take the best of some repeats.

        Args:
            folder: on the disk.
        """
        a = np.random.default_rng(0).random((PRODUCT, PRODUCT), np.float32)
        product = _best(lambda: a @ a)
        block = np.ones(COPIED, np.float32)
        copied = _best(block.copy)
        written = _best(lambda: _write(folder / "speed", block))
        return cls(2 * PRODUCT**3 / product, block.nbytes / copied, block.nbytes / written)

    def __str__(self) -> str:
        return (
            f"{thread_count()} threads, matrix products {self.flops / 1e9:.0f} GFLOP/s, copies "
            f"{self.copy / 1e9:.2f} GB/s, disk {self.disk / 1e9:.2f} GB/s"
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form, with what else tells machines apart."""
        return {
            **vars(self),
            "threads": thread_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        }


def _best(work: Callable[[], object]) -> float:
    return min(timed(work) for _ in range(REPEATS))


def _write(path: Path, block: np.ndarray) -> None:
    with open(path, "wb") as file:
        file.write(block.data)
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
