"""The library leaves what belongs to its caller as it was."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nessa.encoders.batches import TrainSpeakers
from nessa.encoders.distributed import Processes
from nessa.encoders.kinds import parse_settings
from nessa.encoders.training import Training
from tests.aligners import small, views_for
from tests.conftest import ROOT
from tests.speech import prepare_set

UNTOUCHED = """
import importlib, random, sys, torch, numpy, lhotse.audio.backend as backend
import lhotse.features.kaldi.layers as layers
def state():
    current = backend.CURRENT_AUDIO_BACKEND
    methods = [vars(c) for c in vars(layers).values() if isinstance(c, type)]
    return (str(current), torch.get_rng_state().sum().item(), numpy.random.get_state()[1].sum(),
            random.getstate(), [sorted((k, id(v)) for k, v in m.items()) for m in methods])
before = state()
for module in sys.argv[1:]:
    importlib.import_module(module)
    assert state() == before, module
"""


@pytest.mark.slow
def test_importing_changes_nothing() -> None:
    modules = ["nessa", "nessa.corpus.audio", "nessa.encoders.features", "nessa.alignment.neural"]
    words = [sys.executable, "-c", UNTOUCHED, *modules, "nessa.cli"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["neural", "regression", "classifier", "plda"])
def test_fitting_an_aligner_draws_from_its_own_seed(kind: str) -> None:
    views = views_for(kind, 20, 3)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = small(kind).fit(*views)
    assert torch.equal(torch.rand(3), expected)
    other = small(kind).fit(*views)
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name])


def test_training_an_encoder_draws_from_its_own_seed(tmp_path: Path) -> None:
    prepare_set(tmp_path, "train", range(3), sessions=1, utterances=2)
    settings = {"architecture": "tdnn", "channels": 8, "dim": 8, "loss": {"type": "aam"},
                "steps": 2, "fine_tuning": {"steps": 1, "crop": 1.0}}  # fmt: skip
    losses = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        expected = torch.rand(3)
        torch.manual_seed(seed)
        training = Training(
            parse_settings(settings), TrainSpeakers(tmp_path, (0.0, 1.0)), Processes(), "a"
        )
        assert torch.equal(torch.rand(3), expected)
        losses.append(list(training.run(0)))
    assert losses[0] == losses[1]
