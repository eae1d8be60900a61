"""Encoders: padding changes nothing, a saved model is the same model, damage is named."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nessa.encoders import build, fingerprint, load_model, parse_settings, save_model
from nessa.encoders.config import EncoderConfig, FeatureConfig
from nessa.encoders.kinds import ARCHITECTURES, settings_class
from nessa.encoders.layers import make_pooling
from nessa.errors import InputError
from tests.encoders import small

ALL = [*ARCHITECTURES, small.LINE[0]]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more architecture, to which all that is tested of every one applies."""
    monkeypatch.setitem(ARCHITECTURES, *small.LINE)


def config(architecture: str, **features: object) -> EncoderConfig:
    """Settings of a small network; whatever size an architecture asks for is 16."""
    common = {
        "architecture": architecture,
        "dim": 12,
        "features": {"num_filters": 10, **features},
        "loss": {"type": "aam"},
        "steps": 1,
    }
    fields = settings_class(common).model_fields
    sizes = {name: 16 for name, field in fields.items() if field.is_required()}
    return parse_settings(sizes | common)


def trained_looking(architecture: str, seed: int = 0) -> torch.nn.Module:
    """An encoder whose batch-norm statistics are not the trivial ones."""
    torch.manual_seed(seed)
    encoder = build(config(architecture))
    with torch.no_grad():
        for _ in range(3):
            encoder(2 * torch.randn(8, 40, 10) + 1)
    return encoder.eval()


@pytest.mark.parametrize("architecture", ALL)
@torch.inference_mode()
def test_padding_and_company_do_not_change_an_embedding(architecture: str) -> None:
    encoder = trained_looking(architecture)
    lengths = torch.tensor([5, 17, 40, 23, 38])
    utterances = [torch.randn(int(length), 10) for length in lengths]
    batch = torch.full((5, 47, 10), 1e3)  # what lies in the padding must not matter
    for row, utterance in enumerate(utterances):
        batch[row, : len(utterance)] = utterance
    alone = torch.cat([encoder(utterance[None]) for utterance in utterances])
    batch[torch.arange(47)[None] >= lengths[:, None]] = 0
    together = encoder(batch, lengths)
    cosine = torch.nn.functional.cosine_similarity(alone, together)
    assert cosine.min() > 1 - 1e-6
    assert torch.allclose(alone, together, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("architecture", ALL)
def test_settings_of_others_are_refused_by_name(architecture: str) -> None:
    settings = config(architecture).model_dump() | {"no_such": 1}
    with pytest.raises(InputError, match=r"unknown key 'encoders\.a\.no_such'"):
        parse_settings(settings, "encoders.a")


@pytest.mark.parametrize("architecture", ALL)
def test_every_weight_gets_a_gradient(architecture: str) -> None:
    encoder = build(config(architecture))
    encoder(torch.randn(4, 30, 10)).square().sum().backward()
    silent = [name for name, w in encoder.named_parameters() if w.grad is None]
    assert not silent


@pytest.mark.parametrize("architecture", ALL)
def test_a_saved_model_is_the_same_model(architecture: str, tmp_path: Path) -> None:
    encoder = trained_looking(architecture)
    save_model(tmp_path / "m", config(architecture), encoder)
    model = load_model(tmp_path / "m")
    x = torch.randn(3, 30, 10)
    with torch.inference_mode():
        assert torch.equal(model.encoder(x), encoder(x))
    assert model.name == "m"
    assert model.fingerprint == fingerprint(encoder, config(architecture).features)


def test_the_fingerprint_tells_weights_and_features_apart() -> None:
    one, two = trained_looking("tdnn", 0), trained_looking("tdnn", 1)
    features = config("tdnn").features
    other = config("tdnn", low_freq=50.0).features
    assert len({fingerprint(one, features), fingerprint(two, features)}) == 2
    assert fingerprint(one, features) != fingerprint(one, other)
    assert fingerprint(one, features) == fingerprint(trained_looking("tdnn", 0), features)


def test_missing_and_damaged_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.yaml: no such file.*stage encoders"):
        load_model(tmp_path)
    save_model(tmp_path, config("tdnn"), trained_looking("tdnn"))
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a safetensors file"):
        load_model(tmp_path)
    weights.write_bytes(whole)
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("channels: 16", "channels: 20"))
    with pytest.raises(InputError, match="does not fit"):
        load_model(tmp_path)
    (tmp_path / "config.yaml").write_text(text.replace("channels: 16", "channels: many"))
    with pytest.raises(InputError, match=r"config\.yaml"):
        load_model(tmp_path)


def test_a_pickle_in_place_of_weights_is_not_loaded(tmp_path: Path) -> None:
    save_model(tmp_path, config("tdnn"), trained_looking("tdnn"))
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return Path.touch, (canary,)

    torch.save(Evil(), tmp_path / "model.safetensors")
    with pytest.raises(InputError):
        load_model(tmp_path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("architecture", "channels", "dim", "millions"),
    [("ecapa", 512, 192, 6.2), ("ecapa", 1024, 192, 14.7), ("resnet", 32, 256, 6.6)],
)
def test_published_networks_have_their_published_size(
    architecture: str, channels: int, dim: int, millions: float
) -> None:
    settings = config(architecture).model_copy(
        update={"channels": channels, "dim": dim, "features": FeatureConfig()}
    )
    count = sum(weight.numel() for weight in build(settings).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("architecture", ["tdnn", "ecapa", "resnet"])
def test_pooling_is_a_choice(architecture: str) -> None:
    own = config(architecture)
    names = {}
    for pooling in ("statistics", "attentive"):
        encoder = build(own.model_copy(update={"pooling": pooling}))
        assert encoder(torch.randn(2, 30, 10)).shape == (2, 12)
        names[pooling] = set(encoder.state_dict())
    assert names["statistics"] < names["attentive"]
    assert (
        set(build(own).state_dict())
        == names["attentive" if architecture == "ecapa" else "statistics"]
    )


def test_a_deeper_resnet() -> None:
    shallow, deep = (
        build(config("resnet").model_copy(update={"blocks": blocks}))
        for blocks in ((1, 1, 1, 1), (3, 8, 36, 3))
    )
    assert len(deep.blocks) == 50 and len(shallow.blocks) == 4


@pytest.mark.parametrize("kind", ["statistics", "attentive"])
@torch.inference_mode()
def test_statistics_of_frames_in_bf16_are_those_of_float32(kind: str) -> None:
    torch.manual_seed(0)
    pooling = make_pooling(kind, pooled=8, channels=8)
    frames = (5 + 0.1 * torch.randn(4, 8, 201)).bfloat16()
    expected = pooling(frames.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = pooling(frames)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


@pytest.mark.parametrize("architecture", ALL)
def test_costs_can_be_counted_where_nothing_is_computed(architecture: str) -> None:
    encoder = build(config(architecture)).eval().to("meta")
    assert encoder(torch.zeros(1, 100, 10, device="meta")).shape == (1, 12)
