"""Stage extract tries each model first: what is refused, and what is only said."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from nessa.encoders import tryout
from nessa.errors import InputError
from tests.conftest import Command
from tests.encoders.spoilt import spoilt, trained
from tests.speech import RATE, leave_one_utterance, prepare_set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    prepare_set(folder, "align", range(8), seconds=(0.6, 2.6))
    return folder


def tried(encoder: Path, data: Path) -> list[str]:
    return list(tryout.try_encoder(encoder, data, "align"))


def test_a_good_encoder_is_tried_in_silence(tmp_path: Path, data: Path) -> None:
    said = "model 'none': tried on 16 utterances of 8 speakers"
    assert tried(spoilt(tmp_path, "none"), data) == [said]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("dropout", "another embedding each time .* evaluation mode"),
        ("batch_norm", "changes with the others of its batch .* evaluation mode"),
    ],
)
def test_training_mode_is_refused(tmp_path: Path, data: Path, fault: str, message: str) -> None:
    with pytest.raises(InputError, match=f"model '{fault}': .*{message}"):
        tried(spoilt(tmp_path, fault), data)


@pytest.mark.parametrize(
    ("fault", "message"),
    [("padding", "padding changes its embeddings"), ("dead", "dimensions: 4 of 32")],
)
def test_what_good_encoders_show_as_well_is_a_warning(
    tmp_path: Path, data: Path, fault: str, message: str
) -> None:
    warning, _ = tried(spoilt(tmp_path, fault), data)
    assert warning.startswith(f"warning: model '{fault}': {message}")
    assert warning.endswith("nessa check-encoder looks closer")


@pytest.mark.parametrize(
    ("alone", "message"),
    [(np.full((4, 3), np.nan), "are not finite; .* `features`"), (np.ones((4, 3)), "one and the")],
)
def test_embeddings_that_are_of_no_use_are_refused(
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    alone: np.ndarray,
    message: str,
) -> None:
    encoder = spoilt(tmp_path, "none")
    monkeypatch.setattr(tryout, "embed_alone", lambda *_: alone)
    with pytest.raises(InputError, match=f"model 'none': .*{message}"):
        tried(encoder, data)


@pytest.mark.slow
def test_mean_normalization_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tryout, "USEFUL", 0.0)  # the network is not trained
    prepare_set(tmp_path, "align", range(8))
    for number, wav in enumerate(sorted((tmp_path / "audio").iterdir())):
        loudness = (1, 0.01)[number % 2]  # as the microphone was near or far
        soundfile.write(wav, loudness * soundfile.read(wav)[0], RATE, "FLOAT")
    encoder = trained(tmp_path, "used", mean_norm=False)
    warning, _ = tried(encoder, tmp_path)
    assert "set features.mean_norm=true, if it was trained so" in warning
    assert tried(trained(tmp_path, "right"), tmp_path)[0].startswith("model 'right': tried")


def test_speakers_of_one_utterance_come_last(tmp_path: Path) -> None:
    prepare_set(tmp_path, "align", range(14))
    leave_one_utterance(tmp_path, "align", range(12))
    encoder = trained(tmp_path, "right")
    (line,) = tried(encoder, tmp_path)
    not_checked = "speakers: not checked, fewer than 8 pairs of utterances have the same speaker"
    assert line.endswith(f"tried on 14 utterances of 12 speakers; {not_checked}")


def test_a_slow_model_is_tried_on_few_utterances(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tryout, "BUDGET", 0.0)
    assert tried(spoilt(tmp_path, "dead"), data) == [
        "model 'dead': tried on 4 utterances of 4 speakers"
    ]


def test_what_extraction_reports_is_left_to_it(tmp_path: Path) -> None:
    prepare_set(tmp_path, "align", range(2), sessions=1, utterances=1)  # too few
    assert tried(spoilt(tmp_path, "none"), tmp_path) == []
    prepare_set(tmp_path / "bad", "align", range(4), sessions=1, utterances=2)
    for wav in sorted((tmp_path / "bad/audio").iterdir())[::2]:
        wav.unlink()
    (line,) = tried(spoilt(tmp_path, "none"), tmp_path / "bad")
    assert "4 utterances" in line


def test_some_embeddings_that_are_not_finite_are_no_training_mode(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(_: object, inputs: list[object]) -> np.ndarray:
        embedded = np.random.default_rng(1).normal(size=(len(inputs), 3))
        if len(inputs) > 1:
            embedded[0] = np.nan
        return embedded

    monkeypatch.setattr(tryout, "embed_alone", embed)
    monkeypatch.setattr(tryout, "embed_together", embed)
    warning, _ = tried(spoilt(tmp_path, "none"), data)
    assert "embeddings of 1 of 16 utterances are not finite" in warning


def test_memory_that_ends_stops_the_stage(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails_by(error: Exception) -> list[str]:
        def embed(*_: object) -> None:
            raise error

        monkeypatch.setattr(tryout, "embed_alone", embed)
        return tried(encoder, data)

    caplog.set_level("INFO", "nessa")
    encoder = spoilt(tmp_path, "none")
    assert fails_by(RuntimeError("too short")) == []
    assert "model 'none' is not tried: too short" in caplog.text
    with pytest.raises(MemoryError):
        fails_by(MemoryError())


def test_the_stage_tries_every_model_but_given_embeddings(
    tmp_path: Path, data: Path, nessa: Command
) -> None:
    encoder = spoilt(tmp_path / "exp/encoders", "none")
    settings = {
        "name": "own",
        "corpus": {},
        "prepare": {"program": "tree"},
        "encoders": {
            "none": yaml.safe_load((encoder / "config.yaml").read_text()),
            "given": {"pretrained": "arks", "path": str(tmp_path)},
        },
        "update": ["none", "given"],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    words = ["--recipe", tmp_path / "recipe.yaml", "--data", data, "--exp", tmp_path / "exp"]
    done = nessa("recipe", "try-encoders", *words)
    assert done.status == 0, done
    assert done.out == "model 'none': tried on 16 utterances of 8 speakers\n"
