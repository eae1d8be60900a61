"""Encoder training: learns, does not depend on interruptions, and refuses what cannot work."""

from itertools import pairwise
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from lhotse import RecordingSet
from lhotse.utils import fastcopy

import nessa.encoders.training
from nessa.corpus.manifests import manifest_path, write_manifest
from nessa.corpus.utterances import read_recording
from nessa.encoders import load_model, save_pretrained
from nessa.encoders.augmentation import Augmenter
from nessa.encoders.batches import TrainBatches, TrainSpeakers
from nessa.encoders.config import AugmentationConfig, FeatureConfig, FineTuningConfig, LossConfig
from nessa.encoders.distributed import Processes
from nessa.encoders.features import read_crop
from nessa.encoders.losses import Criterion
from nessa.encoders.settings import PythonConfig, XVectorConfig
from nessa.encoders.trained import TrainedModel
from nessa.encoders.training import Training, train_encoder
from nessa.errors import InputError
from nessa.files import read_json, write_json
from nessa.optimizer import learning_rate
from tests.corpus.test_sounds import with_features
from tests.speech import RATE, prepare_augmentation, prepare_set, read_cuts, turn_around


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    prepare_set(data, "train", range(10))
    prepare_augmentation(data)
    return data


def config(loss: str = "aam", steps: int = 6, **more: object) -> XVectorConfig:
    augmentation = AugmentationConfig(speeds=(0.9, 1.0, 1.1))
    settings = {"speakers_per_batch": 8, "checkpoint_every": 2, "crop": 0.5, **more}
    return XVectorConfig(
        architecture="tdnn",
        channels=8,
        dim=8,
        features=FeatureConfig(num_filters=20),
        loss=LossConfig(type=loss),
        augmentation=settings.pop("augmentation", augmentation),
        steps=steps,
        **settings,
    )


def weights(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["aam", "ge2e"])
def test_training_separates_its_speakers(loss: str, data: Path, tmp_path: Path) -> None:
    quiet = AugmentationConfig(noise_prob=0, reverb_prob=0)
    settings = config(loss, steps=100, learning_rate=1e-2, augmentation=quiet)
    train_encoder(settings, data, tmp_path, workers=0)
    model = load_model(tmp_path)
    batches = TrainBatches(
        TrainSpeakers(data, (0, 1)), config(loss, augmentation=quiet), Processes()
    )
    waves, labels = batches[10_000]
    with torch.inference_mode():
        e = torch.nn.functional.normalize(model.encoder(model.features(waves)))
    cosine, same = e @ e.T, labels[:, None] == labels[None]
    off_diagonal = ~torch.eye(len(e), dtype=torch.bool)
    targets, nontargets = cosine[same & off_diagonal], cosine[~same]
    assert (targets[:, None] > nontargets[None]).float().mean() > 0.9


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_encoder(config(), data, tmp_path / "whole", workers=0)
    load = TrainBatches.__getitem__

    def fail_at_four(self: TrainBatches, step: int) -> object:
        if step == 4:
            raise KeyboardInterrupt
        return load(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainBatches, "__getitem__", fail_at_four)
        with pytest.raises(KeyboardInterrupt):
            train_encoder(config(), data, tmp_path / "parts", workers=0)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    assert (tmp_path / "parts" / "checkpoint.pt").exists()
    train_encoder(config(), data, tmp_path / "parts", workers=1)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert not (tmp_path / "parts" / "checkpoint.pt").exists()


@pytest.mark.slow
def test_in_bf16_the_network_is_rounded_and_the_loss_is_not(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does by default, on the CPU."""
    forward = Criterion.forward
    rounding = []

    def exact(self: Criterion, embeddings: torch.Tensor, *rest: object) -> torch.Tensor:
        rounding.append(bool((embeddings == embeddings.bfloat16()).all()))
        loss = forward(self, embeddings, *rest)
        with torch.autocast("cpu", enabled=False):
            assert loss == forward(self, embeddings.float(), *rest)
        return loss

    monkeypatch.setattr(Criterion, "forward", exact)
    curves = []
    for bf16 in (False, True):
        training = Training(config(), TrainSpeakers(data, (0, 1)), Processes(), "test")
        training._bf16 = bf16
        curves.append(list(training.run(workers=0)))
    assert rounding == [False] * 6 + [True] * 6
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.01)
    assert curves[1] != curves[0]


@pytest.mark.parametrize("content", [b"", b"half", b"PK\x03\x04 and so on"])
def test_a_damaged_checkpoint_is_refused_by_name(
    data: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint\.pt: damaged.*remove it"):
        train_encoder(config(), data, tmp_path, workers=0)


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_not_taken_up(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        nessa.encoders.training, "save_model", lambda *_: (_ for _ in ()).throw(OSError)
    )
    with pytest.raises(OSError):
        train_encoder(config(seed=1), data, tmp_path / "a", workers=0)
    monkeypatch.undo()
    train_encoder(config(seed=2), data, tmp_path / "a", workers=0)
    train_encoder(config(seed=2), data, tmp_path / "b", workers=0)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


@pytest.mark.slow
def test_weights_of_other_settings_are_not_taken_for_those_of_an_old_stamp(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_encoder(config(seed=1), data, tmp_path, workers=0)
    first = weights(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            nessa.encoders.training, "write_json", killed
        )  # which comes after the weights
        train_encoder(config(seed=2), data, tmp_path, workers=0)
    assert weights(tmp_path) != first
    train_encoder(config(seed=1), data, tmp_path, workers=0)
    assert weights(tmp_path) == first


@pytest.mark.slow
def test_a_finished_training_is_not_done_again_unless_settings_change(
    data: Path, tmp_path: Path
) -> None:
    train_encoder(config(), data, tmp_path, workers=0)
    first = weights(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}  # may be read-only
    train_encoder(config(), data, tmp_path, workers=0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    train_encoder(config(seed=5), data, tmp_path, workers=0)
    assert weights(tmp_path) != first


def test_a_training_that_ends_early_leaves_the_finished_encoder_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_set(tmp_path, "train", range(4))
    settings = config(augmentation=AugmentationConfig(noise_prob=0, reverb_prob=0))
    out, load = tmp_path / "out", TrainBatches.__getitem__
    train_encoder(settings, tmp_path, out, workers=0)
    before = (out / "model.safetensors").stat().st_mtime_ns

    def stopped(self: TrainBatches, step: int) -> object:
        if step == 3:
            raise KeyboardInterrupt
        return load(self, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainBatches, "__getitem__", stopped)
        train_encoder(settings.model_copy(update={"seed": 2}), tmp_path, out, workers=0)
    (tmp_path / "audio").rename(tmp_path / "away")
    with pytest.raises(InputError, match="cannot be read"):
        train_encoder(settings, tmp_path, out, workers=0)
    (tmp_path / "away").rename(tmp_path / "audio")
    train_encoder(settings, tmp_path, out, workers=0)
    assert (out / "model.safetensors").stat().st_mtime_ns == before


def test_a_damaged_stamp_is_taken_for_none(data: Path, tmp_path: Path) -> None:
    train_encoder(config(), data, tmp_path, workers=0)
    first, stamp = weights(tmp_path), (tmp_path / "training.json").read_bytes()
    (tmp_path / "training.json").write_bytes(stamp[:20])
    train_encoder(config(), data, tmp_path, workers=0)
    assert weights(tmp_path) == first and (tmp_path / "training.json").read_bytes() == stamp


def test_damaged_weights_are_trained_again_once_they_are_removed(
    data: Path, tmp_path: Path
) -> None:
    train_encoder(config(), data, tmp_path, workers=0)
    first, file = weights(tmp_path), tmp_path / "model.safetensors"
    file.write_bytes(first[:-100])
    remedy = (
        r"model\.safetensors: not a safetensors file .*restore it, or remove it and run .*encoders"
    )
    for use in (load_model, lambda place: train_encoder(config(), data, place, workers=0)):
        with pytest.raises(InputError, match=remedy):
            use(tmp_path)
    file.unlink()
    train_encoder(config(), data, tmp_path, workers=0)
    assert weights(tmp_path) == first


@pytest.mark.slow
def test_a_pretrained_model_in_between_is_not_taken_for_the_trained_one(
    data: Path, tmp_path: Path
) -> None:
    train_encoder(config(), data, tmp_path, workers=0)
    before = (tmp_path / "model.safetensors").stat()
    trained = load_model(tmp_path).fingerprint
    save_pretrained(tmp_path, PythonConfig(pretrained="python", factory=f"{__name__}:make"))
    assert load_model(tmp_path).fingerprint != trained
    train_encoder(config(), data, tmp_path, workers=0)
    model, after = load_model(tmp_path), (tmp_path / "model.safetensors").stat()
    assert isinstance(model, TrainedModel) and model.fingerprint == trained
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    (tmp_path / "model.safetensors").unlink()
    train_encoder(config(), data, tmp_path, workers=0)
    assert load_model(tmp_path).fingerprint == trained


def make() -> torch.nn.Module:
    """A pretrained model of one weight."""

    class Loudness(torch.nn.Linear):
        def forward(self, utterances: list[torch.Tensor]) -> torch.Tensor:
            return super().forward(torch.stack([each.std()[None] for each in utterances]))

    return Loudness(1, 3)


def test_a_train_set_is_known_by_its_samples_too(data: Path) -> None:
    speakers = TrainSpeakers(data, (0, 1))
    before = speakers.digest()
    assert TrainSpeakers(data, (0, 1)).digest() == before
    turn_around(speakers.cut(3, 0).recording.sources[0].source)
    assert TrainSpeakers(data, (0, 1)).digest() != before


def test_a_train_set_is_known_by_the_parts_of_its_recordings(tmp_path: Path) -> None:
    prepare_set(tmp_path, "train", range(2), sessions=1)
    whole = list(read_cuts(tmp_path, "train"))

    def digest(**part: float) -> str:
        cuts = [fastcopy(cut, **part) for cut in whole]
        write_manifest(manifest_path(tmp_path, "train", "cuts"), cuts)
        return TrainSpeakers(tmp_path, (0, 1)).digest()

    digests = [digest(), digest(duration=0.4), digest(duration=0.4, start=0.1)]
    assert len(set(digests)) == 3 and digest() == digests[0]


def test_other_speakers_of_the_same_utterances_are_noticed(tmp_path: Path) -> None:
    prepare_set(tmp_path, "train", range(5))
    cuts = list(read_cuts(tmp_path, "train"))
    quiet = AugmentationConfig(noise_prob=0, reverb_prob=0)
    settings, out = config("ge2e", steps=2, augmentation=quiet), tmp_path / "out"

    def trained() -> bytes:
        train_encoder(settings, tmp_path, out, workers=0)
        return weights(out)

    first = trained()
    for cut in cuts:
        if cut.supervisions[0].speaker == "id00004":
            cut.supervisions[0].speaker = "id00003"
    write_manifest(manifest_path(tmp_path, "train", "cuts"), cuts)
    stamp = read_json(out / "training.json")
    merged = trained()
    assert merged != first
    stamp.pop("speakers")  # as trainings of before, which go on to count
    write_json(out / "training.json", stamp)
    assert trained() == merged


def test_how_often_is_saved_changes_a_training_only_where_weights_are_averaged(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loaded = TrainBatches.__getitem__, list[int]()

    def stopped_once(self: TrainBatches, step: int) -> object:
        loaded.append(step)
        if len(loaded) == 3:
            raise KeyboardInterrupt
        return load(self, step)

    def train(every: int, average: int = 1) -> None:
        settings = config(steps=4, checkpoint_every=every, average=average)
        train_encoder(settings, data, tmp_path, workers=0)

    monkeypatch.setattr(TrainBatches, "__getitem__", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        train(every=2)
    train(every=1)
    train(every=4)
    stamp = read_json(tmp_path / "training.json")
    stamp["config"]["checkpoint_every"] = 2  # as in trainings of before, which go on to count
    write_json(tmp_path / "training.json", stamp)
    train(every=1)
    assert loaded == [0, 1, 2, 2, 3]
    for every in (2, 1):
        train(every, average=2)
    assert loaded[5:] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_whether_rooms_are_made_up_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It depends on torchaudio, which is not needed here: no batch has drawn a room."""
    prepare_set(tmp_path, "train", range(4))
    rare = AugmentationConfig(noise_prob=0, reverb_prob=1e-9)
    settings, out = config(steps=2, augmentation=rare), tmp_path / "out"

    def trained(torchaudio: object) -> int:
        monkeypatch.setattr("nessa.encoders.augmentation.find_spec", lambda _: torchaudio)
        train_encoder(settings, tmp_path, out, workers=0)
        return (out / "model.safetensors").stat().st_mtime_ns

    without = trained(None)
    assert trained(None) == without
    made_up = trained(object())
    assert made_up > without
    stamp = read_json(out / "training.json")
    del stamp["made_up_rooms"]  # as trainings of before, which go on to count
    write_json(out / "training.json", stamp)
    assert trained(object()) == trained(None) == made_up


@pytest.mark.slow
def test_other_noises_and_rooms_of_the_same_names_are_noticed(tmp_path: Path) -> None:
    prepare_set(tmp_path, "train", range(10))
    prepare_augmentation(tmp_path)
    out = tmp_path / "out"
    train_encoder(config(), tmp_path, out, workers=0)
    stamp = read_json(out / "training.json")
    for name in ("noise", "rir"):
        before = weights(out)
        train_encoder(config(), tmp_path, out, workers=0)
        assert weights(out) == before
        turn_around(tmp_path / "audio" / f"{name}.wav")
        train_encoder(config(), tmp_path, out, workers=0)
        assert weights(out) != before
    del stamp["background"]  # as trainings of before, which go on to count
    write_json(out / "training.json", stamp)
    before = weights(out)
    train_encoder(config(), tmp_path, out, workers=0)
    assert weights(out) == before


def test_batches_depend_on_seed_and_step_alone(data: Path) -> None:
    speakers = TrainSpeakers(data, (0, 1))
    one, two = (TrainBatches(speakers, config(), Processes()) for _ in range(2))
    two[0]
    for a, b in zip(one[3], two[3], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one[3][0], one[4][0])
    other = TrainBatches(speakers, config(seed=2), Processes())
    assert not torch.equal(one[3][1], other[3][1])
    waves, labels = one[3]
    assert waves.shape == (8 * 2, RATE // 2) and waves.dtype == torch.float32
    assert labels.tolist() == [label for label in labels[::2].tolist() for _ in range(2)]
    assert one.classes == 10 * 3


def test_the_seed_decides_the_weights_at_the_start(data: Path) -> None:
    speakers = TrainSpeakers(data, (0, 1))
    one, again, other = (
        next(Training(config(seed=seed), speakers, Processes(), "test").result().parameters())
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_without_averaging_the_last_weights_are_kept_alone(data: Path) -> None:
    kept = []
    for every in (1, 2):
        training = Training(
            config(steps=2, checkpoint_every=every),
            TrainSpeakers(data, (0, 1)),
            Processes(),
            "test",
        )
        list(training.run(workers=0))
        kept.append(training.result().state_dict())
    assert all(torch.equal(value, kept[1][name]) for name, value in kept[0].items())


def test_fine_tuning_goes_on_from_the_centers_of_speed_1() -> None:
    before, after = (Criterion(config(), classes, 2, Processes()) for classes in (6, 2))
    after.take_over(before, (0.9, 1.0, 1.1))
    assert torch.equal(after.loss.weight, before.loss.weight[[1, 4]])


def test_crops_of_given_features_lie_anywhere(tmp_path: Path) -> None:
    rows = np.arange(100, dtype=np.float32)[:, None].repeat(4, axis=1)
    kaldiio.save_ark(str(tmp_path / "x.ark"), {"a": rows}, scp=str(tmp_path / "x.scp"))
    place = (tmp_path / "x.scp").read_text().split()[1]
    cut = with_features("a", 100, 4, "kaldiio", place, "a")
    settings = FeatureConfig(type="given", num_filters=4)
    taken = [read_crop(cut, settings, 10, position)[:, 0] for position in (0, 0.5, 1)]
    for start, crop in zip((0, 45, 90), taken, strict=True):
        np.testing.assert_array_equal(crop, range(start, start + 10))


def test_train_part_splits_the_speakers(data: Path) -> None:
    first, second = TrainSpeakers(data, (0, 0.4)), TrainSpeakers(data, (0.4, 1))
    assert len(first) == 4 and len(second) == 6
    assert not set(first.names) & set(second.names)
    with pytest.raises(InputError, match="train_part"):
        TrainSpeakers(data, (0.5, 0.55))


def test_augmentation_changes_sound_but_not_shape(data: Path) -> None:
    speakers = TrainSpeakers(data, (0, 1))
    cut = speakers.cut(0, 0)

    def wave(**augmentation: object) -> np.ndarray:
        settings = AugmentationConfig(**{"noise_prob": 0, "reverb_prob": 0, **augmentation})
        augment = Augmenter(settings, speakers.noises, speakers.rirs)
        return augment.draw(cut, 4000, 1.0, np.random.default_rng(0))()

    plain = wave()
    assert plain.shape == (4000,)
    noisy, rooms = wave(noise_prob=1, snr=(0, 0)), wave(reverb_prob=1)
    for changed in (noisy, rooms):
        assert changed.shape == (4000,) and not np.allclose(changed, plain, atol=1e-4)
    noise = noisy - plain  # at 0 dB, noise and speech have equal power
    assert 10 * np.log10(np.mean(plain**2) / np.mean(noise**2)) == pytest.approx(0, abs=1.5)
    plain_sound = Augmenter(AugmentationConfig(noise_prob=0, reverb_prob=0), None, None)
    long = plain_sound.draw(cut, 5 * RATE, 1.0, np.random.default_rng(0))()
    assert long.shape == (5 * RATE,) and np.isfinite(long).all()


def test_a_crop_of_faster_speech_is_not_filled_by_its_own_repetition(data: Path) -> None:
    augment = Augmenter(AugmentationConfig(noise_prob=0, reverb_prob=0), None, None)
    cut = TrainSpeakers(data, (0, 1)).cut(0, 0)
    wave = augment.draw(cut, 4000, 1.25, np.random.default_rng(0))()
    assert not np.array_equal(wave[:800], wave[3200:])


def test_a_noise_shorter_than_the_crop_is_heard_all_through(tmp_path: Path, data: Path) -> None:
    cut = TrainSpeakers(data, (0, 1)).cut(0, 0)
    noise = np.random.default_rng(0).standard_normal(800)
    soundfile.write(tmp_path / "noise.wav", 0.1 * noise, RATE)
    recordings = RecordingSet.from_recordings([read_recording("n", tmp_path / "noise.wav")])

    def wave(probability: float) -> np.ndarray:
        settings = AugmentationConfig(noise_prob=probability, reverb_prob=0, snr=(10, 10))
        augment = Augmenter(settings, recordings, None)
        return augment.draw(cut, 4000, 1.0, np.random.default_rng(0))()

    plain = wave(0)
    added = (wave(1) - plain).reshape(5, 800)
    np.testing.assert_allclose(added, added[[0] * 5], atol=1e-6)
    assert 10 * np.log10(np.mean(plain**2) / np.mean(added**2)) == pytest.approx(10, abs=0.1)


def test_augmentation_without_recordings_is_left_out_aloud(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = TrainSpeakers(data, (0, 1)).cut(0, 0)

    def wave(**wanted: float) -> np.ndarray:
        augment = Augmenter(AugmentationConfig(**wanted), None, None)
        return augment.draw(cut, 4000, 1.0, np.random.default_rng(0))()

    plain = wave(noise_prob=0, reverb_prob=0)
    assert "noise_prob" not in caplog.text
    assert np.array_equal(wave(noise_prob=1, reverb_prob=0), plain)
    assert "noise_prob is 1" in caplog.text and "trained without" in caplog.text


def test_a_noise_of_another_sampling_rate_is_refused(data: Path) -> None:
    speakers = TrainSpeakers(data, (0, 1))
    with pytest.raises(InputError, match=r"'noise' has 16000 Hz.* 8000 Hz"):
        Augmenter(AugmentationConfig(), speakers.noises, speakers.rirs, 8000)


def test_noises_and_rooms_that_no_training_draws_change_nothing(tmp_path: Path) -> None:
    prepare_set(tmp_path, "train", range(2), sessions=1)
    quiet = AugmentationConfig(noise_prob=0, reverb_prob=0)

    def digests() -> list[str]:
        speakers = TrainSpeakers(tmp_path, (0, 1), quiet)
        changes = {"features": FeatureConfig(sampling_rate=8000), "augmentation": quiet}
        TrainBatches(speakers, config().model_copy(update=changes), Processes())
        return [speakers.digest(), speakers.background_digest()]

    before = digests()
    prepare_augmentation(tmp_path)
    assert digests() == before


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train_cuts.*stage prepare"):
        train_encoder(config(), tmp_path, tmp_path / "out", workers=0)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert np.argmax(rates) in (9, 10) and max(rates) == pytest.approx(1.0)
    assert all(a <= b for a, b in pairwise(rates[:10]))
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[-1] < 0.01


@pytest.mark.parametrize(
    ("step", "key"), [(2, "learning_rate"), (3, r"fine_tuning\.learning_rate")]
)
def test_a_loss_that_diverges_names_step_and_key(
    data: Path, step: int, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = FineTuningConfig(steps=2, crop=0.5, speakers_per_batch=8)
    training = Training(
        config(steps=2, fine_tuning=tuning), TrainSpeakers(data, (0, 1)), Processes(), "test"
    )
    forward, calls = Criterion.forward, []

    def diverging(self: Criterion, *inputs: object) -> torch.Tensor:
        calls.append(1)
        return forward(self, *inputs) * (torch.nan if len(calls) == step else 1)

    monkeypatch.setattr(Criterion, "forward", diverging)
    with pytest.raises(InputError, match=rf"loss is nan at step {step}; lower {key}$"):
        list(training.run(workers=0))
