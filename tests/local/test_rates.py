"""Audio of a sampling rate that no model of the recipe takes stops stage prepare, or is skipped."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nessa.encoders.kinds import sampling_rates
from nessa.errors import InputError
from tests.conftest import ROOT
from tests.speech import prepare_set, read_cuts

sys.path.insert(0, str(ROOT / "local"))

OURS = {"architecture": "tdnn", "dim": 8, "loss": {"type": "aam"}, "steps": 1, "channels": 8}
PYTHON = {"pretrained": "python", "factory": "m:f"}
ONNX = {"pretrained": "onnx", "file": "m.onnx"}
ARKS = {"pretrained": "arks", "path": "x.ark"}
PYANNOTE = {"pretrained": "pyannote", "source": "owner/name"}


@pytest.mark.parametrize(
    ("models", "rates"),
    [
        ([OURS, ONNX, PYTHON], {16000}),
        ([OURS | {"features": {"sampling_rate": 8000}}], {8000}),
        ([PYTHON | {"sampling_rate": 8000}, OURS], {8000, 16000}),
        ([ARKS, PYANNOTE], set()),
        ([{"pretrained": "resemblyzer"}, {"pretrained": "campplus", "crop": 1.0}], {16000}),
        ([OURS | {"features": {"type": "given", "num_filters": 20},
                  "augmentation": {"noise_prob": 0, "reverb_prob": 0}}], set()),
    ],
)  # fmt: skip
def test_rates_of_models(models: list[dict[str, Any]], rates: set[int]) -> None:
    assert sampling_rates({f"m{n}": model for n, model in enumerate(models)}) == rates


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_another_rate_is_refused_or_skipped(tmp_path: Path, rate: int) -> None:
    from program import fit_for_models

    prepare_set(tmp_path, "eval", range(2), sessions=1, utterances=2)
    cuts = list(read_cuts(tmp_path, "eval"))
    assert len(cuts) == 4 and np.all([cut.sampling_rate == 16000 for cut in cuts])
    cuts[1].recording.sampling_rate = rate
    recipe = SimpleNamespace(encoders={"old": OURS, "new": ONNX})
    skipped: dict[str, str] = {}
    strict: Any = SimpleNamespace(recipe=recipe, skip_bad=False)
    with pytest.raises(InputError, match=rf"{cuts[1].id}.*{rate} Hz.*16000 Hz.*--skip-bad"):
        list(fit_for_models(cuts, strict, skipped))
    lenient: Any = SimpleNamespace(recipe=recipe, skip_bad=True)
    assert list(fit_for_models(cuts, lenient, skipped)) == [cuts[0], *cuts[2:]]
    assert list(skipped) == [cuts[1].id]
