"""How much memory a program may take: the machine's, or what a container or Slurm allows it."""

from collections.abc import Iterator
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")  # lines `number:controllers:path`; see cgroups(7)


def memory_limit() -> int | None:
    """Bytes that the control groups of this process allow it; None: they do not limit it."""
    return min(_limits(), default=None)


def available_memory() -> int:
    """Bytes that programs can take without others being pushed out, and that this one may."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min([int(line.split()[1]) * 1024, *_limits()])
    raise OSError("/proc/meminfo has no MemAvailable")


def _limits() -> Iterator[int]:
    """Of the process's groups and of those that they are in, of both versions."""
    for line in OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = CONTROL_GROUPS / "memory" if controllers else CONTROL_GROUPS
        file = "memory.limit_in_bytes" if controllers else "memory.max"
        own = top / path.lstrip("/")
        # In a container the path may be the host's, of which it sees the last folder as the top.
        for group in (own, *own.parents):
            if not group.is_relative_to(top):
                break
            text = (group / file).read_text().strip() if (group / file).is_file() else "max"
            if text != "max":
                yield int(text)
