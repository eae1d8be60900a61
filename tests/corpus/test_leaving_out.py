"""What one model cannot embed is left out for all of them, with all that names it."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from nessa.corpus.leaving_out import leave_out
from nessa.corpus.validation import validate
from nessa.encoders import build, parse_settings, save_model
from nessa.encoders.trained import TrainedModel
from nessa.errors import InputError
from nessa.files import read_table, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.recipe.resolve import load_recipe
from nessa.report.results import _circumstances
from nessa.trials import Trials
from tests.conftest import Command
from tests.kaldi_corpora import write_audio_dir
from tests.local.test_programs import ENCODER
from tests.pairs import all_trials
from tests.speech import prepare_set

SPEAKERS = range(3)
LOST = {"spk000_rec0_0": "too short", "spk001_rec1_1": "too short", "spk009_x": "of another set"}
TABLES = ("utt2session", "utt2dur", "utt2domain", "text", "utt2copy", "utt2source")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "data/eval"
    utt2spk = write_audio_dir(folder, SPEAKERS)
    for name in TABLES:
        write_table(folder / name, dict.fromkeys(utt2spk, "0.70"))
    write_table(folder / "utt2copy", {"spk000_rec1_0": "slow spk000_rec0_0"})
    write_table(folder / "utt2source", {"spk001_rec1_1": "align_also"})
    write_table(folder / "spk2gender", dict.fromkeys(utt2spk.values(), "f"))
    all_trials(utt2spk).write(folder / "trials")
    profiles = {
        "spk000-p2-1": "spk000_rec0_0 spk000_rec0_1", "spk001-p2-1": "spk001_rec0_0 spk001_rec0_1",
        "spk002-p1-1": "spk002_rec0_0",
    }  # fmt: skip
    write_table(folder / "enroll_map", profiles)
    (folder / "trials_profile").write_text(
        "spk000-p2-1 spk000_rec1_0 target\nspk001-p2-1 spk001_rec1_0 target\n"
        "spk001-p2-1 spk001_rec1_1 target\n"
        "spk002-p1-1 spk001_rec1_0 nontarget\n"
    )
    assert validate(folder) == []
    return folder


def test_all_that_names_them_goes(directory: Path) -> None:
    before = len(Trials.read(directory / "trials"))
    utterances, trials = leave_out(directory, LOST)
    assert utterances == 2
    assert validate(directory) == []
    kept = read_utt2spk(directory)
    assert len(kept) == 10 and not LOST.keys() & kept.keys()
    left = len(Trials.read(directory / "trials"))
    assert 0 < left < before and trials == before - left + 2
    assert (directory / "trials_profile").read_text() == (
        "spk001-p2-1 spk001_rec1_0 target\nspk002-p1-1 spk001_rec1_0 nontarget\n"
    )
    assert list(read_table(directory / "enroll_map")) == ["spk001-p2-1", "spk002-p1-1"]
    assert sorted(read_table(directory / "skipped")) == ["spk000-p2-1", *sorted(LOST)[:2]]
    assert not read_table(directory / "utt2copy") and not read_table(directory / "utt2source")
    assert leave_out(directory, LOST) == (0, 0)


@pytest.mark.slow
def test_a_call_that_was_killed_at_any_file_is_completed(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "trials_q").write_text(
        "q0 spk000_rec1_0 target\nq1 spk001_rec1_0 target\nq1 spk002_rec1_0 nontarget\n"
    )
    write_table(directory / "enroll_map_given", {"q0": "spk000_rec0_0", "q1": "spk001_rec0_1"})
    replace, left = os.replace, 0

    def stop(old: str, new: Path) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        replace(old, new)

    def outcome(folder: Path) -> dict[str, str]:
        return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}

    whole = tmp_path / "whole/eval"
    shutil.copytree(directory, whole)
    leave_out(whole, LOST)
    for files in range(100):
        again = tmp_path / f"{files}/eval"
        shutil.copytree(directory, again)
        left = files
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr("os.replace", stop)
            leave_out(again, LOST)
            break
        leave_out(again, LOST)
        assert outcome(again) == outcome(whole), files
    assert 10 < files < 100


def test_something_must_be_left(directory: Path) -> None:
    with pytest.raises(InputError, match="no utterance that all models can embed"):
        leave_out(directory, dict.fromkeys(read_utt2spk(directory), "short"))
    lost = [u for u, speaker in read_utt2spk(directory).items() if speaker != "spk002"]
    with pytest.raises(InputError, match=r"/trials: without .* and 0 non-target trials"):
        leave_out(directory, dict.fromkeys(lost, "short"))
    tested = ("spk000_rec1_0", "spk001_rec1_0", "spk001_rec1_1")
    with pytest.raises(InputError, match="trials_profile: all trials"):
        leave_out(directory, dict.fromkeys(tested, "short"))


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Two encoders."""
    folders = []
    for name in ("old", "new"):
        config = parse_settings(ENCODER)
        torch.manual_seed(1)
        encoder = build(config)
        with torch.no_grad():
            encoder(torch.randn(4, 50, 80), None)
        save_model(tmp_path / "exp/encoders" / name, config, encoder)
        folders.append(tmp_path / "exp/encoders" / name)
    return folders


def test_what_one_model_skips_all_do_without(
    tmp_path: Path, models: list[Path], nessa: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, exp = tmp_path / "data", tmp_path / "exp"
    prepare_set(data, "eval", SPEAKERS)
    prepare_set(data, "align", range(3, 5))
    prepare_set(data, "dev", range(5, 7))
    utterances = list(read_utt2spk(data / "eval"))
    all_trials(read_utt2spk(data / "eval")).write(data / "eval/trials")
    recipe = tmp_path / "recipe.yaml"
    settings = {
        "name": "own", "corpus": {"program": "mini"}, "prepare": {"program": "tree"},
        "encoders": {"old": ENCODER, "new": ENCODER}, "update": ["old", "new"],
        "extraction": {"shards": 2},
    }  # fmt: skip
    recipe.write_text(yaml.safe_dump(settings))
    words = {
        model.name: [
            "extract", "--encoder", model, "--data", data, "--set", "eval", "--shards", 2,
            "--workers", 0, "--skip-bad", "--output", exp / "embeddings" / model.name,
        ]
        for model in models
    }  # fmt: skip
    whole = TrainedModel.read

    def refuse(self, cut):
        if self.name == "new" and cut.id in (utterances[1], utterances[-1]):
            raise InputError(f"utterance {cut.id!r}: 28 frames, the network needs 50")
        return whole(self, cut)

    monkeypatch.setattr(TrainedModel, "read", refuse)
    for model in models:
        for shard in (1, 2):
            assert nessa(*words[model.name], "--shard", shard).status == 0
    beside = [w for model in models for w in ("--beside", exp / "embeddings" / model.name)]
    for model in models:
        done = nessa(*words[model.name], "--merge", *beside)
        assert done.status == 0 and "2 skipped" in done.out, done
    done = nessa("recipe", "leave-out", "--recipe", recipe, "--data", data, "--exp", exp)
    assert done.status == 0 and "2 utterances that a model cannot embed" in done.out, done
    kept = read_utt2spk(data / "eval")
    assert sorted(kept) == sorted(set(utterances) - {utterances[1], utterances[-1]})
    for model in models:
        place = exp / "embeddings" / model.name / "eval"
        assert Embeddings.read(place).keys == sorted(kept)
        assert validate(place) == []
        assert "28 frames" in read_table(place / "skipped")[utterances[1]]
    assert "model 'new': " in read_table(exp / "embeddings/old/eval/skipped")[utterances[1]]
    trials = Trials.read(data / "eval/trials")
    assert {*trials.enroll, *trials.test} <= kept.keys()
    told = _circumstances(load_recipe(recipe), exp)
    assert told["Left out"] == "2 utterances of eval"
    assert told["Machine"] == "not recorded"
