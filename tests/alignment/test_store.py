"""Saved aligners: what was changed, or belongs to another, is refused by name."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nessa import InputError
from nessa.alignment import NeuralAligner, load
from tests.aligners import fitted
from tests.conftest import Command
from tests.pairs import two_views

Description = dict[str, Any]


def changed(**values: Any) -> Callable[[Description], Description]:
    return lambda description: description | values


EDITS: dict[str, Callable[[Description], Any]] = {
    "another kind": changed(kind="ridge"),
    "a kind of other arrays": changed(kind="logit"),
    "another fingerprint": changed(fingerprints=["a" * 64, None]),
    "swapped fingerprints": lambda d: d | {"fingerprints": ["b" * 64, "a" * 64]},
    "a setting": lambda d: d | {"settings": {"dim": 3}},
    "a foreign setting": changed(settings={"seed": 1}),
    "no kind": lambda d: {k: v for k, v in d.items() if k != "kind"},
    "a list": lambda d: [d],
    "a verdict that is none": changed(fitting=[1]),
    "another seal": changed(sha256="0" * 64),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fitted("procrustes").save(tmp_path / "aligner")
    return tmp_path / "aligner"


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_description_is_refused(nessa: Command, folder: Path, edit: str) -> None:
    path = folder / "aligner.json"
    path.write_text(json.dumps(EDITS[edit](json.loads(path.read_text()))))
    with pytest.raises(InputError, match=r"aligner\.(json|safetensors): "):
        load(folder)
    words = ["map", "--aligner", folder, "--enroll", folder, "--output", folder / "out"]
    nessa(*words).refused("/aligner.")


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("kind", ["logit", "plda", "neural", "raw"])
def test_arrays_of_another_aligner_are_refused(folder: Path, kind: str, sealed: bool) -> None:
    """Also of an older version, whose description has no seal."""
    fitted(kind).save(folder / "other")
    shutil.copy(folder / "other/aligner.safetensors", folder)
    path = folder / "aligner.json"
    description = json.loads(path.read_text())
    if not sealed:
        del description["sha256"]
        # Those of plda are a linear aligner's, too.
        description["kind"] = "logit" if kind == "plda" else "procrustes"
        if kind == "raw":
            description["kind"] = "cca_of_old"
    path.write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"aligner\.(json|safetensors): "):
        load(folder)


@pytest.mark.parametrize("spoil", [np.nan, np.inf, "cut"])
def test_arrays_that_map_nothing_are_refused(folder: Path, spoil: Any) -> None:
    arrays = load_file(folder / "aligner.safetensors")
    name = "runtime_map"
    arrays[name] = arrays[name][:-1].copy() if spoil == "cut" else arrays[name] * np.float32(spoil)
    save_file(arrays, folder / "aligner.safetensors")
    description = json.loads((folder / "aligner.json").read_text())
    for seal in (description, {k: v for k, v in description.items() if k != "sha256"}):
        (folder / "aligner.json").write_text(json.dumps(seal))
        with pytest.raises(InputError, match=r"aligner\.(json|safetensors): "):
            load(folder)


def test_on_a_full_disk_the_aligner_that_is_there_stays(folder: Path) -> None:
    before = load(folder).space()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(OSError, match=r"aligner\.safetensors|too large"):
            fitted("logit").save(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load(folder).space() == before


def test_the_means_of_speakers_that_a_killed_run_was_writing_are_removed(folder: Path) -> None:
    saved = sorted(folder.iterdir())
    (folder / ".aligner.safetensors.k1ll3d__.tmp").touch()
    fitted("procrustes").save(folder)
    assert sorted(folder.iterdir()) == saved


def test_the_fit_may_be_annotated(folder: Path) -> None:
    path = folder / "aligner.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fitting": {"by": "ann"}}))
    assert load(folder).fitting == {"by": "ann"}


def test_a_start_that_the_mode_does_not_read_may_be_saved(tmp_path: Path) -> None:
    aligner = NeuralAligner(mode="to-enroll", start="cca", steps=1, hidden_dim=0)
    aligner.fit(*two_views(20, 3)).save(tmp_path)
    assert load(tmp_path).space() == aligner.space()
