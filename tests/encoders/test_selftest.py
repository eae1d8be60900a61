"""nessa check-encoder: eight encoders spoilt on purpose, each named with what mends it."""

from pathlib import Path

import pytest
import soundfile

from nessa.encoders import save_pretrained, selftest
from nessa.encoders.config import FeatureConfig
from nessa.encoders.settings import WESPEAKER_FEATURES, OnnxConfig
from tests.conftest import Command
from tests.encoders.exported import save_plain
from tests.encoders.spoilt import spoilt, trained
from tests.speech import leave_one_utterance, prepare_set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    prepare_set(folder, "eval", range(6))
    return folder


def test_a_sound_encoder_passes(tmp_path: Path, nessa: Command, data: Path) -> None:
    done = nessa("check-encoder", spoilt(tmp_path, "none"), "--data", data)
    assert done.status == 0, done
    for check in ("repetition", "batch", "padding", "silence", "dimensions", "shortest speech"):
        assert f"{check}: ok" in done.out


@pytest.mark.parametrize(
    ("fault", "check", "remedy"),
    [
        ("dropout", "repetition", "evaluation mode"),
        ("batch_norm", "batch", "evaluation mode"),
        ("padding", "padding", "mask it"),
        ("nan", "silence", "bound the variance"),
        ("dead", "dimensions", "4 of 32"),
    ],
)
def test_faults_of_a_network(
    tmp_path: Path, nessa: Command, data: Path, fault: str, check: str, remedy: str
) -> None:
    done = nessa("check-encoder", spoilt(tmp_path, fault), "--data", data)
    done.refused("see above")
    (line,) = [line for line in done.out.splitlines() if line.startswith(f"{check}: FAULT")]
    assert remedy in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong", "setting"),
    [
        ({"mean_norm": False, "scale": 32768.0}, {"mean_norm": False}, "features.scale=32768.0"),
        ({}, {"mean_norm": False}, "features.mean_norm=true"),
        ({"window": "hamming"}, {"window": "povey"}, "features.window=hamming"),
    ],
)
def test_settings_that_the_original_does_not_have(
    tmp_path: Path, nessa: Command, data: Path, right: dict, wrong: dict, setting: str
) -> None:
    original, used = trained(tmp_path, "original", **right), trained(tmp_path, "used", **wrong)
    given = "--data", data, "--original", original
    assert "original: ok" in nessa("check-encoder", original, *given).out
    done = nessa("check-encoder", used, *given)
    done.refused("see above")
    assert f"set {setting}, which gives" in done.out


def test_features_for_a_recipe_that_has_none_are_told_as_a_whole(
    tmp_path: Path, nessa: Command, data: Path
) -> None:
    """Single ones would bring our defaults in the place of those that it has now."""

    def model(name: str, features: FeatureConfig, metadata: dict[str, str]) -> Path:
        file = str(save_plain(tmp_path / f"{name}.onnx", metadata))
        save_pretrained(
            tmp_path / name, OnnxConfig(pretrained="onnx", file=file, features=features)
        )
        return tmp_path / name

    right = WESPEAKER_FEATURES.model_copy(update={"mean_norm": False})
    given = "--data", data, "--original", model("right", right, {})
    done = nessa("check-encoder", model("used", WESPEAKER_FEATURES, {}), *given)
    assert f"set features.mean_norm=false ({right.line()}), which gives 1.0" in done.out
    says_so = {"features": WESPEAKER_FEATURES.model_dump_json()}
    done = nessa("check-encoder", model("exported", WESPEAKER_FEATURES, says_so), *given)
    assert "original: FAULT" in done.out and "set features" not in done.out


@pytest.mark.slow
def test_no_mean_normalization_shows_without_the_original(
    tmp_path: Path, nessa: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "USEFUL", 0.0)  # the network is not trained
    for number, wav in enumerate(sorted((data / "audio").iterdir())):
        loudness = (1, 0.01)[number % 2]  # as the microphone was near or far
        speaker, session, _ = wav.stem.split("-")
        place = tmp_path / "speech" / speaker / session / wav.name
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, loudness * soundfile.read(wav)[0], 16000, "FLOAT")
    encoder = trained(tmp_path, "used", mean_norm=False)
    done = nessa("check-encoder", encoder, "--audio", tmp_path / "speech")
    assert "set features.mean_norm=true, with which it is" in done.out


def test_speakers_of_one_utterance_come_last(tmp_path: Path) -> None:
    """A dozen of them, the first ones, make no pair of one speaker."""
    prepare_set(tmp_path, "eval", range(14))
    leave_one_utterance(tmp_path, "eval", range(12))
    chosen = [cut.supervisions[0].speaker for cut in selftest.reference_of(tmp_path, "eval")]
    several = [f"id{speaker:05d}" for speaker in (12, 13)]
    assert chosen == [*several[:1] * 4, *several[1:] * 4, *(f"id{k:05d}" for k in range(10))]
    for wav in (tmp_path / "audio").iterdir():
        speaker, session, number = wav.stem.split("-")
        if speaker in several or (session, number) == ("s0", "00000"):
            place = tmp_path / "speech" / speaker / wav.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(wav)
    assert len(selftest.reference_in(tmp_path / "speech")) == 4 + 4 + 10


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("speakers", "utterances", "single", "why"),
    [
        (1, 4, 0, "there are fewer than 5 speakers"),
        (2, 4, 0, "there are fewer than 5 speakers"),
        (5, 1, 0, "fewer than 8 pairs of utterances have the same speaker"),
        (12, 2, 11, "fewer than 8 pairs of utterances have the same speaker"),
        (8, 2, 1, "fewer than 8 pairs of utterances have the same speaker"),
    ],
)
def test_speech_of_few_pairs_is_said_not_to_be_compared(
    tmp_path: Path, nessa: Command, speakers: int, utterances: int, single: int, why: str
) -> None:
    """By a single pair, or by two speakers, chance found faults of good encoders."""
    prepare_set(tmp_path, "eval", range(speakers), sessions=1, utterances=utterances)
    leave_one_utterance(tmp_path, "eval", range(single))
    done = nessa("check-encoder", trained(tmp_path, "m"), "--data", tmp_path)
    assert done.out.splitlines()[-1] == f"speakers: not checked, {why}"


def test_files_of_ones_own_are_the_reference(tmp_path: Path, nessa: Command, data: Path) -> None:
    encoder = spoilt(tmp_path, "none")
    for wav in (data / "audio").iterdir():
        speaker, session, number = wav.stem.split("-")
        place = tmp_path / "speech" / speaker / session / f"{number}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(wav)
    assert nessa("check-encoder", encoder, "--audio", tmp_path / "speech").status == 0
    (tmp_path / "empty").mkdir()
    done = nessa("check-encoder", encoder, "--audio", tmp_path / "empty")
    done.refused("empty: expected <speaker>/**/*.wav of two speakers or more")
    nessa("check-encoder", encoder, "--audio", tmp_path / "gone").refused("gone: no such folder")


def test_a_reference_of_another_sampling_rate_is_resampled(
    tmp_path: Path, nessa: Command, data: Path
) -> None:
    for wav in (data / "audio").iterdir():
        samples, rate = soundfile.read(wav)
        place = tmp_path / "speech" / wav.stem.split("-")[0] / wav.name
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, samples[::2], rate // 2)
    words = "check-encoder", spoilt(tmp_path, "none"), "--audio", tmp_path / "speech"
    assert nessa(*words).status == 0


def test_the_folder_is_looked_at_before_speech_is_made(
    tmp_path: Path, nessa: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def synthesize(*_: object) -> None:
        raise AssertionError("speech was made")

    monkeypatch.setattr("nessa.synth.synthesize_corpus", synthesize)
    nessa("check-encoder", tmp_path / "gone").refused(str(tmp_path / "gone/config.yaml"))
    encoder = spoilt(tmp_path, "none")
    done = nessa("check-encoder", encoder, "--original", tmp_path / "lost")
    done.refused(str(tmp_path / "lost/config.yaml"))
