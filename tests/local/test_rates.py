"""Audio of a sampling rate that no model of the recipe takes stops stage prepare, or is skipped."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import Features
from lhotse.utils import fastcopy

from nessa.corpus.audio import read_audio
from nessa.corpus.manifests import manifest_path, write_manifest
from nessa.corpus.utterances import find_problem
from nessa.encoders import build, parse_settings, save_model
from nessa.encoders.config import EncoderConfig
from nessa.encoders.kinds import sampling_rates
from nessa.encoders.selftest import check_encoder, open_encoder
from nessa.errors import InputError
from nessa.files import read_table, write_table
from tests.conftest import ROOT, Command
from tests.encoders.spoilt import spoilt
from tests.kaldi_corpora import write_audio_dir, write_feature_dir
from tests.speech import prepare_set, read_cuts

sys.path.insert(0, str(ROOT / "local"))

OURS = {"architecture": "tdnn", "dim": 8, "loss": {"type": "aam"}, "steps": 1, "channels": 8}
PYTHON = {"pretrained": "python", "factory": "m:f"}
GIVEN = OURS | {
    "features": {"type": "given", "num_filters": 20},
    "augmentation": {"noise_prob": 0, "reverb_prob": 0},
}
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
        ([GIVEN], set()),
    ],
)
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
    with pytest.raises(
        InputError, match=rf"{cuts[1].id}.*{rate} Hz.*16000 Hz.*run.sh --skip-bad t"
    ):
        list(fit_for_models(cuts, strict, skipped))
    lenient: Any = SimpleNamespace(recipe=recipe, skip_bad=True)
    assert list(fit_for_models(cuts, lenient, skipped)) == [cuts[0], *cuts[2:]]
    assert list(skipped) == [cuts[1].id]


@pytest.mark.parametrize("said", [8000, 16000])  # by the features, of which Lhotse takes the rate
def test_features_beside_audio_do_not_hide_its_rate(tmp_path: Path, said: int) -> None:
    from kaldi_tables import KaldiDir
    from program import fit_for_models

    utt2spk = write_audio_dir(tmp_path / "mine", range(1))
    for wav in (tmp_path / "mine/audio").iterdir():
        soundfile.write(wav, soundfile.read(wav)[0], 8000)
    write_feature_dir(tmp_path / "features", 1, len(utt2spk), frames=140, dim=20)
    places = read_table(tmp_path / "features/feats.scp").values()
    write_table(tmp_path / "mine/feats.scp", dict(zip(sorted(utt2spk), places, strict=True)))
    cut = next(iter(KaldiDir(tmp_path / "mine", 0.01, allow_pipes=False).cuts(utt2spk, None)))
    assert cut.sampling_rate == 8000
    cut = fastcopy(cut, features=fastcopy(cut.features, sampling_rate=said))
    recipe = SimpleNamespace(encoders={"old": GIVEN, "new": ONNX})
    strict: Any = SimpleNamespace(recipe=recipe, skip_bad=False)
    with pytest.raises(InputError, match=rf"{cut.id}.*8000 Hz.*16000 Hz.*run.sh --skip-bad t"):
        list(fit_for_models([cut], strict, {}))
    with pytest.raises(InputError, match=rf"{cut.id}.*8000 Hz.*16000 Hz; resample"):
        read_audio(cut, 16000, "new")
    assert find_problem(cut) is None


def test_an_utterance_without_what_a_model_takes_is_refused_or_skipped(tmp_path: Path) -> None:
    from kaldi_tables import KaldiDir
    from program import fit_for_models

    prepare_set(tmp_path, "eval", range(1), sessions=1, utterances=1)
    (audio,) = read_cuts(tmp_path, "eval")
    utt2spk = write_feature_dir(tmp_path / "mine", 1, 1, frames=140, dim=20)
    (features,) = KaldiDir(tmp_path / "mine", 0.01, allow_pipes=False).cuts(utt2spk, None)
    for cut, models, what in (
        (audio, [GIVEN, GIVEN], "features"), (audio, [OURS, GIVEN], "features"),
        (features, [ONNX, GIVEN], "audio"), (features, [OURS, OURS], "audio"),
    ):  # fmt: skip
        recipe = SimpleNamespace(encoders=dict(zip(("old", "new"), models, strict=True)))
        strict: Any = SimpleNamespace(recipe=recipe, skip_bad=False)
        with pytest.raises(InputError, match=f"{cut.id}.*: no {what}, which a model of the rec"):
            list(fit_for_models([cut], strict, {}))
        skipped: dict[str, str] = {}
        lenient: Any = SimpleNamespace(recipe=recipe, skip_bad=True)
        assert not list(fit_for_models([cut], lenient, skipped))
        assert list(skipped) == [cut.id]


def test_given_features_are_checked_whatever_the_rate_of_their_audio(
    tmp_path: Path, nessa: Command
) -> None:
    from kaldi_tables import KaldiDir

    utt2spk = write_feature_dir(tmp_path / "mine", 4, 3, frames=140, dim=20)
    cuts = KaldiDir(tmp_path / "mine", 0.01, allow_pipes=False).cuts(utt2spk, None)
    cuts = [fastcopy(cut, features=fastcopy(cut.features, sampling_rate=8000)) for cut in cuts]
    write_manifest(manifest_path(tmp_path, "eval", "cuts"), cuts)
    config = parse_settings(GIVEN)
    assert isinstance(config, EncoderConfig)
    save_model(tmp_path / "model", config, build(config))
    done = nessa("check-encoder", tmp_path / "model", "--data", tmp_path)
    assert "repetition: ok" in done.out and "shortest speech: ok" in done.out, done


def test_audio_of_another_rate_is_resampled_for_a_check_though_it_has_features(
    tmp_path: Path,
) -> None:
    prepare_set(tmp_path, "eval", range(2), sessions=1, utterances=2)
    cuts = [cut.resample(8000) for cut in read_cuts(tmp_path, "eval")]
    features = Features(
        type="fbank", num_frames=1, num_features=1, frame_shift=0.01, sampling_rate=16000, start=0,
        duration=9, storage_type="lilcom_files", storage_path="x", storage_key="x",
    )  # fmt: skip
    cuts = [fastcopy(cut, features=features) for cut in cuts]
    subject = open_encoder(spoilt(tmp_path, "none"))
    assert next(check_encoder(subject, cuts)).fault is None
