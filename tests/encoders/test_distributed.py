"""Several processes train as one does with the whole batch; a killed one loses nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from nessa.encoders import parse_settings
from nessa.encoders.kinds import ARCHITECTURES
from nessa.encoders.training import train_encoder
from nessa.recipe.resolve import load_recipe
from tests.conftest import ROOT
from tests.encoders import small
from tests.speech import prepare_augmentation, prepare_set

pytestmark = pytest.mark.slow

ECAPA = {"architecture": "ecapa", "channels": 8}
SMALL = {"architecture": "small"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    prepare_set(data, "train", range(12))
    prepare_augmentation(data)
    return data


def write_recipe(folder: Path, shape: dict[str, object] = ECAPA, **changes: object) -> Path:
    encoder = {
        **shape,
        "dim": 8,
        "features": {"num_filters": 20},
        "loss": {"type": "aam"},
        "augmentation": {"speeds": [0.9, 1.0]},
        "steps": 12,
        "speakers_per_batch": 4,
        "crop": 0.5,
        "checkpoint_every": 2,
    }
    settings = {
        "name": "test",
        "corpus": {},
        "prepare": {"program": "tree"},
        "encoders": dict.fromkeys(("old", "new"), encoder | changes),
        "update": ["old", "new"],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def command(recipe: Path, data: Path, output: Path, processes: int = 1) -> list[str]:
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone"]
        start += [f"--nproc-per-node={processes}"]
    words = [small.__file__, "train", "--recipe", recipe, "--model", "new"]
    return [*start, *map(str, [*words, "--data", data, "--output", output])]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def losses(output: Path) -> np.ndarray:
    return np.loadtxt(output / "loss.tsv", skiprows=1)[:, 1]


@pytest.mark.parametrize("loss", ["aam", "ge2e", "prototypical"])
def test_two_processes_train_as_one_with_the_doubled_batch(
    loss: str, data: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    recipe = write_recipe(tmp_path, SMALL, loss={"type": loss})
    call = command(recipe, data, two, processes=2)
    done = subprocess.run(call, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.setitem(ARCHITECTURES, *small.LINE)
    settings = load_recipe(recipe).encoders["new"] | {"speakers_per_batch": 8}
    train_encoder(parse_settings(settings), data, one, workers=0)
    curves = [losses(output) for output in (two, one)]
    assert len(curves[0]) == 12
    assert np.ptp(curves[0]) > 0.05  # it has learnt something
    np.testing.assert_allclose(curves[0], curves[1], atol=1e-3)


@pytest.mark.parametrize("status", [0, 1, 2])
def test_under_slurm_the_status_is_that_of_the_process_that_fails(
    tmp_path: Path, status: int
) -> None:
    """Bad input (2), which one of the processes may see before the others, is not tried again."""
    srun = tmp_path / "srun"  # stands in for Slurm's, on one node
    srun.write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    (tmp_path / "job.py").write_text(
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1': sys.exit(int(sys.argv[1]))\n"
        "time.sleep(60 * int(sys.argv[1]))\n"
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    training = [sys.executable, "-m", "job", str(status)]
    done = subprocess.run(
        [ROOT / "utils/srun_train.sh", "--processes", "2", "--", *training],
        cwd=tmp_path,
        env={**environment(), "PATH": path, "SLURM_JOB_ID": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr


def test_a_training_killed_again_and_again_ends_with_the_same_weights(
    data: Path, tmp_path: Path
) -> None:
    """Killed in the main phase, at its end, and in fine-tuning; the weights are a mean of two."""
    recipe = write_recipe(tmp_path, fine_tuning={"steps": 6, "crop": 0.6}, average=2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run(command(recipe, data, whole), env=environment(), check=True)
    kills = 0
    for step in (3, 8, 12, 15):
        process = subprocess.Popen(
            command(recipe, data, parts), env=environment(), start_new_session=True
        )
        while process.poll() is None and not reached(parts, step):
            time.sleep(0.005)
        kills += process.poll() is None
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert kills >= 2
    subprocess.run(command(recipe, data, parts), env=environment(), check=True)
    for name in ("model.safetensors", "loss.tsv", "training.json", "config.yaml"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def reached(output: Path, step: int) -> bool:
    return (output / "loss.tsv").exists() and len(losses(output).reshape(-1)) >= step
