"""utils/instructions.sh: the same bytes on processors with AVX-512 and on those without."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

KERNELS = Path(__file__).with_name("kernels.py")
FLAGS = set(Path("/proc/cpuinfo").read_text().split()) if Path("/proc/cpuinfo").exists() else set()
lacking = {"avx512f", "cpuid_fault"} - FLAGS
can_hide = pytest.mark.skipif(
    bool(lacking) or not shutil.which("gcc"),
    reason=f"hiding AVX-512 needs gcc and a processor with {', '.join(lacking) or 'it'}",
)


def kernels(pinned: bool, **environment: str) -> dict:
    """What kernels.py prints, with or without the settings of instructions.sh."""
    pin = f"source {ROOT}/utils/instructions.sh; pin_instructions; " if pinned else ""
    done = subprocess.run(
        ["bash", "-c", f'{pin}exec "$@"', "_", sys.executable, str(KERNELS)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def avx2_only(tmp_path_factory) -> str:
    library = tmp_path_factory.mktemp("hidden") / "avx2_only.so"
    source = Path(__file__).with_name("avx2_only.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return str(library)


@pytest.mark.slow
@pytest.mark.skipif("avx2" not in FLAGS, reason="a processor without AVX2")
def test_the_libraries_use_avx2() -> None:
    found = kernels(pinned=True)
    assert found["torch"] == "AVX2" and found["blas"] == ["Haswell"]


@pytest.mark.slow
@pytest.mark.skipif("avx2" not in FLAGS, reason="a processor without AVX2")
def test_kernels_that_all_makers_have_are_taken_where_they_are_asked_for() -> None:
    ours, compatible = kernels(pinned=True), kernels(pinned=True, MKL_CBWR="COMPATIBLE")
    differ = {name for name, sum_ in ours["sums"].items() if sum_ != compatible["sums"][name]}
    assert "torch matmul" in differ and not any(name.startswith("numpy") for name in differ)


@pytest.mark.slow
@can_hide
def test_sums_have_the_same_bytes_without_avx512(avx2_only: str) -> None:
    here, there = kernels(pinned=True), kernels(pinned=True, LD_PRELOAD=avx2_only)
    assert here == there


@pytest.mark.slow
@can_hide
def test_without_the_settings_sums_differ(avx2_only: str) -> None:
    """So the test above can fail."""
    here, there = kernels(pinned=False), kernels(pinned=False, LD_PRELOAD=avx2_only)
    assert (here["torch"], there["torch"]) == ("AVX512", "AVX2")
    assert here["sums"] != there["sums"]
