"""The examples of CONTRIBUTING.md: each part works with the files and lines that the page gives."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
import yaml

from nessa.alignment import ALIGNERS, aligner_class, load
from nessa.encoders import build, load_model, save_pretrained
from nessa.encoders.kinds import ARCHITECTURES, PRETRAINED, Kind, parse_settings
from nessa.metrics import table
from nessa.metrics.roc import Roc
from nessa.recipe.resolve import resolve
from tests.conftest import ROOT, Command
from tests.pairs import two_views
from tests.speech import RATE, prepare_set, read_cuts, tone

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
MINI = ROOT / "recipes/mini/recipe.yaml"


def example(before: str) -> str:
    """The block that follows the first sentence with some words."""
    found = re.search(rf"^[^#].*{re.escape(before)}.*?\n```\w*\n(.*?)^```$", PAGE, re.M | re.S)
    assert found is not None, before
    return found[1]


def register(
    monkeypatch: pytest.MonkeyPatch, path: str, registry: dict[str, object], name: str
) -> None:
    """Add the file of the page to the package, and its line to the registry."""
    module = ModuleType(path.removesuffix(".py").replace("/", "."))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(example(f"`{path}`"), path, "exec"), vars(module))
    ((kind, place),) = eval(f"{{{example(f'`{name}`')}}}", {"Kind": Kind}).items()
    monkeypatch.setitem(registry, kind, place)


def test_an_aligner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(monkeypatch, "nessa/alignment/speaker_procrustes.py", ALIGNERS, "ALIGNERS")
    enroll, runtime, speakers = two_views(50, 3)
    aligner = aligner_class("speaker_procrustes")(dim=6).fit(enroll, runtime, speakers)
    aligner.save(tmp_path)
    mapped = load(tmp_path).map_enroll(enroll.matrix)
    np.testing.assert_array_equal(mapped, aligner.map_enroll(enroll.matrix))
    same = (mapped * aligner.map_runtime(runtime.matrix)).sum(axis=1)
    assert mapped.shape == (150, 6) and same.mean() > 0.7
    recipe = resolve(MINI, overrides=["baselines=[speaker_procrustes]"])
    assert recipe.baselines == ("speaker_procrustes",)


def test_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "nessa/encoders/shallow.py", ARCHITECTURES, "ARCHITECTURES")
    own = {"architecture": "shallow", "channels": 8, "dim": 5, "loss": {"type": "ge2e"}, "steps": 1}
    encoder = build(parse_settings(own)).eval()
    features = torch.randn(2, 40, 80)
    features[1, 30:] = 0
    alone = torch.cat([encoder(features[:1]), encoder(features[1:, :30])])
    assert torch.allclose(encoder(features, torch.tensor([40, 30])), alone, atol=1e-5)


def test_a_family_of_pretrained_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(monkeypatch, "nessa/encoders/exported.py", PRETRAINED, "PRETRAINED")
    network = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, -1)),
        torch.nn.Conv1d(1, 4, 400, 160),
        torch.nn.AdaptiveAvgPool1d(1),
        torch.nn.Flatten(),
    )
    length = {1: torch.export.Dim("samples", min=RATE // 10, max=20 * RATE)}
    program = torch.export.export(network, (torch.randn(1, RATE),), dynamic_shapes=(length,))
    torch.export.save(program, tmp_path / "model.pt2")
    settings = parse_settings({"pretrained": "exported", "file": str(tmp_path / "model.pt2")})
    save_pretrained(tmp_path / "mine", settings)
    model = load_model(tmp_path / "mine")
    prepare_set(tmp_path, "eval", range(1))
    inputs = [model.read(cut) for cut in read_cuts(tmp_path, "eval")]
    assert model.dim == 4 and model.embed(inputs).shape == (len(inputs), 4)


@pytest.mark.slow
def test_a_corpus(tmp_path: Path, nessa: Command) -> None:
    for speaker in range(12):
        for session in range(4):
            path = tmp_path / f"wavs/id{speaker:02d}/s{session}/0.wav"
            path.parent.mkdir(parents=True)
            soundfile.write(path, tone(speaker, 0.5, np.random.default_rng(session)), RATE)
    settings = yaml.safe_load(example("`recipes/folders/recipe.yaml`"))
    settings["corpus"]["paths"]["data"] = str(tmp_path / "wavs")
    settings["prepare"]["trials"] = {
        name: {"targets": 4, "nontargets": 8} for name in ("dev", "eval")
    }
    mini = yaml.safe_load(MINI.read_text())
    recipe, data = tmp_path / "recipe.yaml", tmp_path / "data"
    recipe.write_text(yaml.safe_dump(settings | {key: mini[key] for key in ("encoders", "update")}))
    program = tmp_path / "folders.py"
    program.write_text(example("`local/folders.py`"))
    subprocess.run(
        [sys.executable, program, "--recipe", recipe, "--corpus", tmp_path, "--output", data],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'local'}"},
        check=True,
    )
    done = nessa("prepare", "--recipe", str(recipe), str(data))
    assert done.status == 0, done
    assert len((data / "eval/trials").read_text().splitlines()) == 12
    assert (data / "train/utt2spk").is_file() and (data / "align/utt2spk").is_file()


def test_a_metric() -> None:
    names = dict(vars(table))
    exec(example("`METRICS`"), names)
    (metric,) = eval(f"({PAGE.split('```python')[-1].split('```')[0]})", names)
    roc = Roc.of([0.1, 0.2, 0.3, 0.4], [False, True, False, True])
    assert metric.of(roc) == 0.5 and metric.show(0.5) == "50.00"


def test_a_stage() -> None:
    name, *subject = example("`nessa/recipe/stages.txt`").split()
    function = example("In `run.sh`")
    subprocess.run(["bash", "-n", "-c", function], check=True)
    assert subject and function.startswith(f"stage_{name}() {{")
