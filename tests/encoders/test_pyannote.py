"""pyannote.audio's models: real classes with weights made up here, and a hub made here."""

import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from nessa.corpus.audio import read_audio
from nessa.encoders import SpeakerModel, load_model, parse_settings, save_pretrained, selftest
from nessa.encoders.extraction import extract
from nessa.encoders.settings import PyannoteConfig
from nessa.errors import InputError
from tests.encoders.pyannotes import save_checkpoint, skip_without_pyannote
from tests.speech import prepare_set, read_cuts


def loaded(folder: Path, source: Path | str, **settings: Any) -> SpeakerModel:
    config = parse_settings({"pretrained": "pyannote", "source": str(source), **settings})
    assert isinstance(config, PyannoteConfig)
    save_pretrained(folder, config)
    model = load_model(folder)
    assert isinstance(model, SpeakerModel)
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare_set(folder, "eval", range(4), seconds=(0.7, 2.0))
    return folder


def test_the_library_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyannote.audio", None)
    with pytest.raises(InputError, match=r"pip install 'nessa\[pyannote\]'"):
        loaded(tmp_path / "m", "x")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dim"), [("XVectorSincNet", 512), ("WeSpeakerResNet34", 256)])
def test_a_local_checkpoint(kind: str, dim: int, data: Path, tmp_path: Path) -> None:
    skip_without_pyannote()
    checkpoint = save_checkpoint(tmp_path / "source", kind)
    model = loaded(tmp_path / "m", tmp_path / "source")
    assert model.dim == dim
    assert model.fingerprint == loaded(tmp_path / "again", checkpoint).fingerprint
    other = loaded(tmp_path / "other", save_checkpoint(tmp_path / "else", kind, seed=2))
    assert other.fingerprint != model.fingerprint

    from pyannote.audio import Inference, Model

    theirs = Inference(Model.from_pretrained(checkpoint), window="whole")
    cuts = list(read_cuts(data, "eval"))
    found = extract(model, cuts, 4.0).matrix
    for cut, vector in zip(cuts, found, strict=True):
        samples = read_audio(cut, 16000, "m")[None]
        expected = theirs({"waveform": samples, "sample_rate": 16000})
        np.testing.assert_allclose(vector, expected, atol=1e-4 * np.abs(expected).max())
    findings = selftest.check_encoder(selftest.open_encoder(tmp_path / "m"), cuts)
    assert not [str(each) for each in findings if each.fault]
    with pytest.raises(InputError, match=r"model 'm' fails on utterances of 0\.00 s"):
        model.embed([torch.zeros(30)])


def test_checkpoints_that_are_refused(tmp_path: Path) -> None:
    skip_without_pyannote()

    def refused(source: Path, message: str, **settings: Any) -> None:
        with pytest.raises(InputError, match=message):
            loaded(tmp_path / "m", source, **settings)

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"empty/pytorch_model\.bin: no such file")
    (tmp_path / "junk.bin").write_bytes(b"junk")
    refused(tmp_path / "junk.bin", r"junk\.bin")
    torch.save({"state_dict": {}}, tmp_path / "other.bin")
    refused(tmp_path / "other.bin", r"other\.bin is not a checkpoint of pyannote\.audio")
    checkpoint = save_checkpoint(tmp_path / "source", "XVectorSincNet")
    refused(checkpoint, "has no revision", revision="main")
    content = torch.load(checkpoint, weights_only=False)
    torch.save(content | {"callback": Path("x")}, tmp_path / "more.bin")
    refused(tmp_path / "more.bin", r"holds a pathlib\.\w+; .* set `trust: true`")
    assert loaded(tmp_path / "m", tmp_path / "more.bin", trust=True).dim == 512
    content["pyannote.audio"]["architecture"]["module"] = "antigravity"
    torch.save(content, tmp_path / "module.bin")
    refused(tmp_path / "module.bin", r"runs the module 'antigravity'; .* `trust: true`")
    del content["state_dict"]["embedding.weight"]
    content["pyannote.audio"]["architecture"]["module"] = "pyannote.audio.models.embedding"
    torch.save(content, tmp_path / "part.bin")
    refused(tmp_path / "part.bin", r"pyannote\.audio cannot load it: .*state_dict")


@pytest.mark.slow
def test_a_model_of_another_kind(tmp_path: Path) -> None:
    skip_without_pyannote()
    source = save_checkpoint(tmp_path / "source", "PyanNet")
    with pytest.raises(InputError, match="a PyanNet, which does not give an embedding per utt"):
        loaded(tmp_path / "m", source)


# ---- The hub ------------------------------------------------------------------------------------

ANSWERS = {
    "gated": (403, "GatedRepo"),
    "private": (401, "RepoNotFound"),
    "gone": (404, "RepoNotFound"),
    "pipeline": (404, "EntryNotFound"),
    "version": (404, "RevisionNotFound"),
    "broken": (418, ""),
}


class Hub(BaseHTTPRequestHandler):
    """Answers as the model hub does for owner/<name of ANSWERS>; owner/model has a checkpoint."""

    checkpoint: bytes = b""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        name = self.path.split("/")[2]
        status, code = ANSWERS.get(name, (200, ""))
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        content = self.checkpoint if status == 200 else b""
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"etag"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    skip_without_pyannote()
    from huggingface_hub import constants

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield Hub
        server.shutdown()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("owner/gated", "accepted its conditions: .* page, and log in with .* HF_TOKEN"),
        ("owner/private", "no such model, or it is private: correct the name, or log in"),
        ("owner/gone", "no such model, or it is private"),
        ("owner/pipeline", r"no pytorch_model\.bin: a pipeline"),
        ("owner/version", "no revision 'v9'"),
        ("owner/broken", "cannot be reached, or fails .*418"),
        ("a/b/c", "no name on the hub, which is owner/name"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    hub: type[Hub], tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        loaded(tmp_path / "m", source, revision="v9")
    assert f"source {source!r}" in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_model_of_the_hub_and_a_hub_that_is_away(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    checkpoint = save_checkpoint(tmp_path / "source", "XVectorSincNet")
    hub.checkpoint = checkpoint.read_bytes()
    model = loaded(tmp_path / "m", "owner/model")
    assert model.fingerprint == loaded(tmp_path / "local", checkpoint).fingerprint
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert loaded(tmp_path / "again", "owner/model").fingerprint == model.fingerprint
    with pytest.raises(InputError, match=r"hub cannot be reached.*: connect, or copy its"):
        loaded(tmp_path / "n", "owner/other")
