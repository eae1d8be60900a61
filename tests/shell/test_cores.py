"""utils/cores.sh: as many cores as the machine has, the process may use, and its groups allow."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

COUNT = """set -euo pipefail
source "$1/utils/cores.sh"
nproc() { echo 8; }
control_groups=$2 own_groups=$2/own
count_cores
"""


@pytest.mark.parametrize(
    ("own", "limits", "cores"),
    [
        ("0::/", {}, 8),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "150000 100000"}, 2),  # a container
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "9900000 100000"}, 8),
        ("0::/docker/abc", {"cpu.max": "300000 100000"}, 3),  # the path is the host's
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "500000 100000"}, 3),
        ("3:memory:/a\n2:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "400000"}, 4),  # version 1
        ("2:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "-1"}, 8),
        ("2:memory:/a", {"cpu/a/cpu.cfs_quota_us": "400000"}, 8),
    ],
)
def test_the_least_limit_counts(
    tmp_path: Path, own: str, limits: dict[str, str], cores: int
) -> None:
    (tmp_path / "own").write_text(f"{own}\n")
    for name, limit in limits.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
        file.with_name("cpu.cfs_period_us").write_text("100000\n")
    counted = subprocess.run(["bash", "-c", COUNT, "_", ROOT, tmp_path], capture_output=True)
    assert counted.stdout.decode() == f"{cores}\n", counted.stderr


def test_a_limit_of_threads_is_none_of_cores_nor_are_groups_needed(tmp_path: Path) -> None:
    count = COUNT.replace("nproc() { echo 8; }\n", "").replace("count_cores", "count_cores; nproc")
    counted = subprocess.run(
        ["bash", "-c", count, "_", ROOT, tmp_path],
        capture_output=True,
        env={"OMP_NUM_THREADS": "1"},
    )
    ours, threads = counted.stdout.decode().split()
    everything = subprocess.run(["nproc"], capture_output=True, env={}).stdout.decode().strip()
    assert (ours, threads) == (everything, "1"), counted.stderr
