"""nessa study durations: test speech cut and embedded again, with a recipe's own aligners."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from lhotse.cut import MonoCut

from nessa.alignment import ProcrustesAligner
from nessa.corpus.copies import middle_part
from nessa.encoders import load_model, parse_settings, save_model, save_pretrained
from nessa.encoders.base import SpeakerModel
from nessa.encoders.config import EncoderConfig
from nessa.encoders.extraction import extract
from nessa.encoders.trained import TrainedModel, build
from nessa.errors import InputError
from nessa.files import read_json
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp
from nessa.recipe import durations
from nessa.recipe.durations import write_durations
from nessa.recipe.resolve import load_recipe
from nessa.recipe.studies import read_studies
from nessa.report.studies import study_sections
from tests.conftest import Command
from tests.pairs import all_trials
from tests.speech import prepare_set, read_cuts
from tests.toy import ENCODER


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """Two untrained encoders, and Procrustes in NESSA's place: recipe, data and exp."""
    monkeypatch.setattr(durations, "SECONDS", (0.4, 0.9, 3.0))
    prepare_set(tmp_path, "eval", range(5), seconds=(0.6, 1.2))
    speakers = read_utt2spk(tmp_path / "eval")
    all_trials(speakers).write(tmp_path / "eval/trials")
    exp, sides = tmp_path / "exp", []
    for name, dim in (("x", 8), ("y", 12)):
        config = parse_settings({**ENCODER, "dim": dim})
        assert isinstance(config, EncoderConfig)
        torch.manual_seed(1)
        save_model(exp / "encoders" / name, config, build(config))
        model = load_model(exp / "encoders" / name)
        assert isinstance(model, SpeakerModel)
        sides.append(extract(model, list(read_cuts(tmp_path, "eval"))))
        sides[-1].write(exp / "embeddings" / name / "eval", speakers)
    aligner = ProcrustesAligner().fit(*sides, speakers)
    aligner.save(exp / "aligners/nessa/x-y")
    aligner.mirrored().save(exp / "aligners/nessa/y-x")
    settings = {
        "name": "toy",
        "corpus": {"program": "mini"},
        "prepare": {"program": "voxceleb"},
        "encoders": {"x": ENCODER, "y": {**ENCODER, "dim": 12}},
        "update": ["x", "y"],
        "evaluation": {"bootstrap_draws": 200},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "recipe.yaml", tmp_path, exp


@pytest.mark.slow
def test_each_length_has_both_models_and_both_pairs(
    run: tuple[Path, Path, Path], nessa: Command
) -> None:
    recipe, data, exp = run
    done = nessa("study", "durations", "--recipe", recipe, "--data", data, "--exp", exp)
    assert done.status == 0, done
    assert "0.4 s" in done.out and "3 s" not in done.out and "full" in done.out
    records = read_json(exp / "studies/durations.json")["records"]
    cells = {(r["label"], r["aligner"], r["enroll"], r["runtime"]): r for r in records}
    assert len(cells) == len(records) == 12
    for label, shortened in (("0.4 s", 1.0), ("0.9 s", 0.5), ("full", 0.0)):
        for cell in (
            ("raw", "x", "x"),
            ("raw", "y", "y"),
            ("nessa", "x", "y"),
            ("nessa", "y", "x"),
        ):
            record = cells[label, *cell]
            assert 0 <= record["eer_ci"][0] <= record["eer"] <= record["eer_ci"][1] <= 1
            assert abs(record["shortened"] - shortened) < 0.3
            assert cell[0] == "nessa" or record["gain"] is None
    studies = read_studies(load_recipe(recipe), data, exp)
    text = "\n".join(study_sections(studies))
    assert "## Gain over the duration of the test speech" in text
    assert "| 0.4 s   | x      | x       | single" in text


def test_the_middle_is_taken_and_short_speech_stays(run: tuple[Path, Path, Path]) -> None:
    _, data, _ = run
    for cut in read_cuts(data, "eval"):
        short = middle_part(cut, 0.7)
        assert short.duration == min(cut.duration, 0.7) and short.id == cut.id
        before, after = short.start, cut.duration - short.end
        assert before == pytest.approx(after, abs=1e-3)
        assert len(np.squeeze(short.load_audio())) == round(short.duration * 16000)


def test_what_is_silent_when_it_is_cut_is_left_out_of_that_length_aloud(
    run: tuple[Path, Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    recipe, data, exp = run
    cuts = sorted(read_cuts(data, "eval"), key=lambda cut: cut.duration)
    longest = cuts[-1]
    path = longest.recording.sources[0].source
    samples, rate = soundfile.read(path)
    middle = slice(len(samples) // 2 - 3300, len(samples) // 2 + 3300)
    samples[middle] = 0
    soundfile.write(path, samples, rate)
    records = write_durations(load_recipe(recipe), data, exp, exp / "out.json")
    assert {record["label"] for record in records} == {"0.4 s", "0.9 s", "full"}
    told = r"trials, test speech of 0.4 s: 1 utterances .* with \d+ of \d+ trials; .*: .*silent"
    assert len(re.findall(told, caplog.text)) == caplog.text.count("left out") == 1
    assert longest.id in caplog.text


def test_a_length_that_no_model_embeds_is_left_out_aloud(
    run: tuple[Path, Path, Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, data, exp = run
    read = TrainedModel.read

    def read_long(self: TrainedModel, cut: MonoCut) -> torch.Tensor:
        if cut.duration < 0.5:
            raise InputError("needs half a second")
        return read(self, cut)

    monkeypatch.setattr(TrainedModel, "read", read_long)
    records = write_durations(load_recipe(recipe), data, exp, exp / "out.json")
    assert {record["label"] for record in records} == {"0.9 s", "full"}
    assert "and so is this length" in caplog.text and "needs half a second" in caplog.text


def test_full_speech_of_another_model_is_refused(run: tuple[Path, Path, Path]) -> None:
    recipe, data, exp = run
    place = exp / "embeddings/y/eval"
    stamp = ModelStamp("y", "of an earlier training", "eval")
    full = Embeddings.read(place)
    Embeddings(full.keys, full.matrix, stamp).write(place, read_utt2spk(data / "eval"))
    with pytest.raises(InputError, match=r"y/eval: .* another model 'y' .*--stage extract"):
        write_durations(load_recipe(recipe), data, exp, exp / "out.json")


def test_a_study_without_models_is_refused(run: tuple[Path, Path, Path]) -> None:
    recipe, data, exp = run
    given = parse_settings({"pretrained": "arks", "path": str(exp / "embeddings/x")})
    assert not isinstance(given, EncoderConfig)
    (exp / "encoders/x/model.safetensors").unlink()
    save_pretrained(exp / "encoders/x", given)
    with pytest.raises(InputError, match="needs both models and the audio"):
        write_durations(load_recipe(recipe), data, exp, exp / "out.json")
