"""How much memory a program may take: the least that its control groups and the machine allow."""

from pathlib import Path

import pytest

from nessa.alignment import memory

MIB = 2**20


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    return tmp_path


def limit(file: Path, value: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{value}\n")


def test_without_control_groups_the_machine_decides(groups: Path) -> None:
    assert memory.memory_limit() is None
    assert memory.available_memory() > MIB


@pytest.mark.parametrize(
    ("own", "file"),
    [
        ("0::/", "memory.max"),  # a container
        ("0::/slurm/job_7/step_0", "slurm/job_7/memory.max"),  # above the process
        ("0::/docker/abc", "memory.max"),  # the path is the host's
        ("4:memory:/slurm/job_7", "memory/slurm/job_7/memory.limit_in_bytes"),  # version 1
        ("3:cpuset:/a\n2:cpu,memory:/b", "memory/b/memory.limit_in_bytes"),
    ],
)
def test_the_least_limit_counts(groups: Path, own: str, file: str) -> None:
    (groups / "own").write_text(f"{own}\n")
    limit(groups / file, str(MIB))
    for other in ("slurm/memory.max", "memory/memory.limit_in_bytes"):
        limit(groups / other, "max" if other.endswith("max") else str(2**63 - 4096))
    assert memory.memory_limit() == memory.available_memory() == MIB


def test_what_is_not_limited_is_the_machines(groups: Path) -> None:
    (groups / "own").write_text("0::/\n3:cpuset:/small\n")
    limit(groups / "memory.max", "max")
    limit(groups / "memory/small/memory.limit_in_bytes", str(MIB))
    assert memory.memory_limit() is None
