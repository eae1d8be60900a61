"""CAM++ through our extraction is the package's network on Kaldi's features."""

from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import torch
from lhotse.cut import MonoCut

from nessa.corpus.audio import read_audio
from nessa.corpus.utterances import Utterance, make_cuts
from nessa.encoders import SpeakerModel, load_model, parse_settings, save_pretrained
from nessa.encoders.campplus import NETWORK, WEIGHTS, _module, _package
from nessa.encoders.extraction import extract
from nessa.errors import InputError
from tests.conftest import LIBRISPEECH, need


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeakerModel:
    folder = tmp_path_factory.mktemp("campplus")
    try:
        save_pretrained(folder, parse_settings({"pretrained": "campplus"}))
    except InputError as error:
        pytest.skip(str(error))
    model = load_model(folder)
    assert isinstance(model, SpeakerModel)
    return model


@pytest.fixture(scope="module")
def cuts() -> list[MonoCut]:
    need(LIBRISPEECH)
    files = sorted(LIBRISPEECH.rglob("*.flac"))[::20]
    return list(make_cuts(Utterance(f"x-{k}", "x", "x", file) for k, file in enumerate(files)))


def own_embedding(samples: np.ndarray) -> np.ndarray:
    """The package's network on features that kaldi_native_fbank, on which it builds, computes."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(16000, samples.tolist())
    fbank.input_finished()
    features = np.stack([fbank.get_frame(frame) for frame in range(fbank.num_frames_ready)])
    features -= features.mean(axis=0)
    network = _module(_package() / NETWORK).CAMPPlus(feat_dim=80, embedding_size=192)
    network.load_state_dict(torch.load(_package() / WEIGHTS, weights_only=True))
    with torch.inference_mode():
        return network.eval()(torch.from_numpy(features)[None])[0].numpy()


@pytest.mark.slow
def test_it_is_what_the_package_computes(model: SpeakerModel, cuts: list[MonoCut]) -> None:
    for cut, ours in zip(cuts, extract(model, cuts).matrix, strict=True):
        theirs = own_embedding(read_audio(cut, 16000, "campplus").numpy())
        cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert cosine >= 0.9999


def test_a_runtime_that_listens_to_less_is_another_model(
    model: SpeakerModel, cuts: list[MonoCut], tmp_path: Path
) -> None:
    save_pretrained(tmp_path, parse_settings({"pretrained": "campplus", "crop": 1.0}))
    light = load_model(tmp_path)
    assert isinstance(light, SpeakerModel) and light.fingerprint != model.fingerprint
    middle = cuts[0].truncate(offset=(cuts[0].duration - 1) / 2, duration=1.0)
    expected = extract(model, [middle]).matrix[0]
    found = extract(light, cuts).matrix[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(InputError, match="crop"):
        parse_settings({"pretrained": "campplus", "crop": 0.1})
