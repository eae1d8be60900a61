"""Perturbed copies: what becomes of the audio, of the speakers and of the set."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse.cut import MonoCut
from lhotse.utils import fastcopy
from scipy.signal import lfilter

from nessa.corpus import copies
from nessa.corpus.config import CopyConfig
from nessa.corpus.copies import Background, add_copies, remove_copies
from nessa.corpus.formants import Formants
from nessa.corpus.manifests import read_background
from nessa.corpus.origins import read_additions, read_copies
from nessa.corpus.sets import SetCounts, write_set
from nessa.corpus.utterances import Utterance, make_cut, make_cuts, read_recording
from nessa.corpus.validation import validate
from nessa.errors import InputError
from nessa.files import read_table
from nessa.kaldi.datadir import read_utt2spk
from tests.speech import RATE, hum, prepare_augmentation, prepare_set, read_cuts

SLOW, NOISE = CopyConfig(speed=0.9), CopyConfig(snr=(5, 20))
ALL = {
    "slow": SLOW,
    "fast": CopyConfig(speed=1.1),
    "voice": CopyConfig(speed=(0.8, 1.2), formants=(0.85, 1.15)),
    "noise": NOISE,
    "reverb": CopyConfig(reverb=True),
    "crop": CopyConfig(crop=(1, 2)),
    "codec": CopyConfig(codec="opus"),
    "everything": CopyConfig(crop=(1, 2), reverb=True, codec="vorbis", snr=(10, 10)),
}


@dataclass
class Prepared:
    """A set "align" with copies."""

    data: Path
    counts: SetCounts

    def __post_init__(self) -> None:
        self.cuts: dict[str, MonoCut] = {cut.id: cut for cut in read_cuts(self.data, "align")}
        self.copies = read_copies(self.data / "align")

    def pairs(self, copy: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Samples of the originals and of their copies."""
        found = [
            (self.samples(original), self.samples(utterance))
            for utterance, (name, original) in self.copies.items()
            if name == copy
        ]
        assert len(found) == len(self.cuts) - len(self.copies)
        return found

    def samples(self, utterance: str) -> np.ndarray:
        return self.cuts[utterance].load_audio()[0]

    def speakers(self, copy: str) -> set[str]:
        utt2spk = read_utt2spk(self.data / "align")
        return {utt2spk[u] for u, (name, _) in self.copies.items() if name == copy}


def with_copies(
    data: Path, wanted: dict[str, CopyConfig], nj: int = 1, skipped: dict[str, str] | None = None
) -> Prepared:
    """The set, which a test may have written, with copies; noise and room are at 16 kHz."""
    if not (data / "align").exists():
        prepare_set(data, "align", range(3), sessions=1, seconds=(2.5, 4.5))
    prepare_augmentation(data)
    background = Background(*(list(read_background(data, kind) or []) for kind in ("noise", "rir")))
    return Prepared(data, add_copies(data, "align", wanted, background, 1, nj, skipped))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return with_copies(tmp_path_factory.mktemp("copies"), ALL)


@pytest.mark.slow
def test_the_set_is_whole_and_valid(prepared: Prepared) -> None:
    align = prepared.data / "align"
    assert validate(align) == []
    assert len(read_utt2spk(align)) == prepared.counts.utterances == 6 * (1 + len(ALL))
    assert prepared.counts.speakers == 3 * 4
    sessions = read_table(align / "utt2session")
    for utterance, (_, original) in prepared.copies.items():
        assert sessions[utterance] == sessions[original]
    assert read_additions(align) == {u: f"copy {c}" for u, (c, _) in prepared.copies.items()}
    assert not list((prepared.data / "copies").glob("*.jsonl.gz"))


def test_another_speed_makes_other_speakers(prepared: Prepared) -> None:
    assert prepared.speakers("slow") == {f"slow-id0000{n}" for n in range(3)}
    assert prepared.speakers("fast") == {f"fast-id0000{n}" for n in range(3)}
    assert prepared.speakers("voice") == {f"voice-id0000{n}" for n in range(3)}
    for copy in ALL.keys() - {"slow", "fast", "voice"}:
        assert prepared.speakers(copy) == {f"id0000{n}" for n in range(3)}
    genders = read_table(prepared.data / "align/spk2gender")
    assert genders["slow-id00001"] == genders["id00001"] != genders["id00002"]


def test_a_voice_is_drawn_for_each_speaker(prepared: Prepared) -> None:
    """Told by how much shorter the copies are than their originals."""
    speeds: dict[str, set[float]] = {}
    for utterance, (name, original) in prepared.copies.items():
        if name == "voice":
            lengths = (len(prepared.samples(u)) for u in (original, utterance))
            speed = round(next(lengths) / next(lengths), 3)
            speeds.setdefault(prepared.cuts[utterance].supervisions[0].speaker, set()).add(speed)
    assert [len(own) for own in speeds.values()] == [1, 1, 1]
    drawn = set().union(*speeds.values())
    assert len(drawn) > 1 and all(0.8 <= speed <= 1.2 for speed in drawn)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("ratio", [0.85, 1.0, 1.15])
def test_formants_move_and_pitch_stays(rate: int, ratio: float) -> None:
    """A pulse train through a resonance at 1.5 kHz."""
    seconds, pitch, formant = 2, 125, 1500
    pulses = np.zeros(seconds * rate)
    pulses[(np.arange(seconds * pitch) * rate / pitch).astype(int)] = 1
    radius, angle = np.exp(-np.pi * 400 / rate), 2 * np.pi * formant / rate
    voiced = lfilter([1], [1, -2 * radius * np.cos(angle), radius**2], pulses)
    moved = Formants(ratio)(voiced[None].astype(np.float32), rate)[0]
    assert moved.shape == voiced.shape and moved.dtype == np.float32
    if ratio == 1:
        np.testing.assert_allclose(moved, voiced, atol=1e-4 * np.abs(voiced).max())
    spectrum = np.abs(np.fft.rfft(moved * np.hanning(len(moved))))
    harmonics = spectrum[np.arange(pitch, 2 * formant, pitch) * seconds]
    assert pitch * (1 + harmonics.argmax()) == pytest.approx(ratio * formant, abs=pitch)
    between = spectrum[np.arange(pitch * 3 // 2, formant, pitch) * seconds]
    assert between.max() < 0.1 * harmonics.max()


def test_what_is_shorter_than_a_window_keeps_its_length() -> None:
    assert Formants(1.1)(np.ones((1, 5), np.float32), RATE).shape == (1, 5)
    np.testing.assert_array_equal(Formants(1.1)(np.zeros((2, 900), np.float32), RATE), 0)


@pytest.mark.parametrize(("copy", "speed"), [("slow", 0.9), ("fast", 1.1)])
def test_speed_changes_length_and_pitch(prepared: Prepared, copy: str, speed: float) -> None:
    def strongest(samples: np.ndarray) -> float:
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        return spectrum.argmax() * RATE / len(samples)

    for original, made in prepared.pairs(copy):
        assert len(made) == pytest.approx(len(original) / speed, abs=2)
        assert strongest(made) == pytest.approx(speed * strongest(original), rel=0.01)


def test_noise_has_the_ratio_that_was_asked_for(tmp_path: Path) -> None:
    # The noise lasts 3 s, the longest utterances 4.5.
    prepared = with_copies(tmp_path, {f"n{snr}": CopyConfig(snr=(snr, snr)) for snr in (0, 5, 20)})
    for snr in (0, 5, 20):
        for original, made in prepared.pairs(f"n{snr}"):
            noise = made - original
            assert decibels(original, noise) == pytest.approx(snr, abs=0.5)
            assert decibels(noise[-RATE // 2 :], noise) == pytest.approx(0, abs=1)  # to the end


def test_the_ratio_is_drawn_from_its_range(prepared: Prepared) -> None:
    found = [decibels(original, made - original) for original, made in prepared.pairs("noise")]
    assert all(4.5 <= snr <= 20.5 for snr in found) and np.ptp(found) > 1


def decibels(signal: np.ndarray, other: np.ndarray) -> float:
    return 10 * float(np.log10(np.mean(signal**2) / np.mean(other**2)))


def test_crops_are_parts_of_a_length_in_the_range(prepared: Prepared) -> None:
    lengths = set()
    for original, made in prepared.pairs("crop"):
        assert RATE <= len(made) <= 2 * RATE
        assert quantized(made) in quantized(original)
        lengths.add(len(made))
    assert len(lengths) == 6


def test_what_is_shorter_than_a_crop_stays_whole(tmp_path: Path) -> None:
    for original, made in with_copies(tmp_path, {"crop": CopyConfig(crop=(9, 9))}).pairs("crop"):
        assert quantized(made) == quantized(original)


def quantized(samples: np.ndarray) -> bytes:
    return np.round(samples * 32768).astype(np.int16).tobytes()


@pytest.mark.parametrize(("copy", "loss"), [("reverb", 0.5), ("codec", 6)])
def test_rooms_and_codecs_keep_length_and_level(prepared: Prepared, copy: str, loss: float) -> None:
    for original, made in prepared.pairs(copy):
        assert len(made) == len(original)
        assert abs(decibels(made, original)) < loss  # noise, which the voices have, is not coded
        assert 0.2 < np.corrcoef(original, made)[0, 1] < 0.999


def test_one_copy_can_have_all(prepared: Prepared) -> None:
    for _, made in prepared.pairs("everything"):
        assert RATE <= len(made) <= 2 * RATE


def test_loud_speech_is_not_clipped(tmp_path: Path) -> None:
    loud = 0.99 * np.sign(np.sin(np.arange(2 * RATE)))
    write_recordings(tmp_path, {"a-1-1": loud}, RATE)
    ((original, made),) = with_copies(tmp_path, {"n": CopyConfig(snr=(0, 0))}).pairs("n")
    speech = original * np.dot(made, original) / np.dot(original, original)
    assert decibels(speech, made - speech) == pytest.approx(0, abs=0.5)
    assert decibels(speech, original) < -1  # softer, for the sum has its peak at full scale


def write_recordings(data: Path, recordings: dict[str, np.ndarray], rate: int) -> None:
    """A set "align" of utterances <speaker>-<session>-<number>."""
    (data / "audio").mkdir(exist_ok=True)
    made = []
    for key, samples in sorted(recordings.items()):
        path = data / "audio" / f"{len(made)}.wav"
        soundfile.write(path, samples, rate)
        made.append(Utterance(key, key.rsplit("-", 2)[0], "s", path))
    write_set(data, "align", make_cuts(made))


@pytest.mark.slow
def test_same_bytes_whatever_the_number_of_processes(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "UTTERANCES_PER_JOB", 2)
    few = with_copies(tmp_path, {name: ALL[name] for name in ("noise", "slow")}, nj=3)
    for name in ("noise", "slow"):  # nor do the other copies matter
        assert audio(few.data, name) == audio(prepared.data, name)
    once = content(few.data)
    remove_copies(few.data)
    prepare_set(few.data, "align", range(3), sessions=1, seconds=(2.5, 4.5))
    assert content(with_copies(few.data, {"slow": SLOW, "noise": NOISE}).data) == once


def test_copies_are_drawn_by_the_seed(tmp_path: Path) -> None:
    found = []
    for folder, seed in (("one", 1), ("again", 1), ("other", 2)):
        prepare_set(tmp_path / folder, "align", range(1), 1, 1, seconds=(2, 2))
        wanted = {"crop": CopyConfig(crop=(1, 1.5))}
        add_copies(tmp_path / folder, "align", wanted, Background(), seed, 1, None)
        found.append(audio(tmp_path / folder, "crop"))
    assert found[0] == found[1] != found[2]


def audio(data: Path, copy: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data / "copies" / copy).rglob("*.flac")}


def content(data: Path) -> dict[str, bytes]:
    files = [*(data / "align").iterdir(), *(data / "copies").rglob("*.*")]
    return {str(path.relative_to(data)): path.read_bytes() for path in files}


def test_a_set_counts_as_incomplete_until_it_has_its_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "read_recording", interrupted)
    with pytest.raises(KeyboardInterrupt):
        with_copies(tmp_path, {"slow": SLOW})
    assert not (tmp_path / "align/utt2spk").exists()
    assert list((tmp_path / "copies").rglob("*.flac"))
    remove_copies(tmp_path)
    assert not list((tmp_path / "copies").rglob("*"))


def test_what_others_put_beside_copies_stays(tmp_path: Path) -> None:
    """In folders of any form, a link, and a manifest."""
    folder, elsewhere = tmp_path / "copies", tmp_path / "elsewhere"
    ours = ["slow/a/slow-a-1.flac", "noise/a/a-1-noise.flac", "made-up/rir/00001.wav"]
    users = ["mine/a/a-1.flac", "slow2/a/slow-a-1.flac", "talk/a-1-talk.flac", "b.jsonl.gz"]
    for name in (*ours, *users):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (elsewhere / "a").mkdir(parents=True)
    (elsewhere / "a/a-1.wav").touch()
    (folder / "links").mkdir()
    links = [folder / "link", folder / "links/a"]
    for link in links:
        link.symlink_to(elsewhere)
    remove_copies(tmp_path)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left - {"link/a/a-1.wav", "links/a/a/a-1.wav"} == set(users)
    assert all(link.is_symlink() for link in links)
    assert sorted(path.name for path in folder.iterdir()) == [
        "b.jsonl.gz", "link", "links", "mine", "slow2", "talk"
    ]  # fmt: skip


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("key", "name", "config"),
    [("slow-b-1-1", "slow", SLOW), ("b-1-noise", "noise", NOISE), ("slow-1-1", "slow", SLOW)],
)
def test_ids_that_copies_would_have_too_are_refused(
    tmp_path: Path, key: str, name: str, config: CopyConfig
) -> None:
    write_recordings(tmp_path, dict.fromkeys(["b-1-1", key], hum(RATE)), RATE)
    with pytest.raises(InputError, match=rf"align: '{key}' .*align_copies\.{name} would be; give"):
        with_copies(tmp_path, {name: config})


def test_files_lie_in_the_folder_whatever_the_ids(tmp_path: Path) -> None:
    speaker = "../../../up"
    write_recordings(tmp_path, {f"{speaker}-1-1": hum(RATE)}, RATE)
    prepared = with_copies(tmp_path, {"slow": SLOW})
    assert prepared.speakers("slow") == {f"slow-{speaker}"}
    (path,) = (tmp_path / "copies/slow").rglob("*.flac")
    assert read_table(tmp_path / "align/wav.scp")[f"slow-{speaker}-1-1"] == str(path)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_noise_and_rooms_are_resampled(tmp_path: Path, rate: int) -> None:
    rng = np.random.default_rng(1)
    write_recordings(tmp_path, {"a-1-1": 0.1 * rng.standard_normal(rate)}, rate)
    config = CopyConfig(snr=(10, 10), reverb=True, speed=1.1)
    prepared = with_copies(tmp_path, {"n": CopyConfig(snr=(10, 10)), "all": config})
    ((original, made),) = prepared.pairs("n")
    assert decibels(original, made - original) == pytest.approx(10, abs=0.5)
    assert {cut.sampling_rate for cut in prepared.cuts.values()} == {rate}
    assert validate(tmp_path / "align") == []


def test_a_codec_that_does_not_take_the_sampling_rate_is_refused(tmp_path: Path) -> None:
    write_recordings(tmp_path, {"a-1-1": hum(22050)}, 22050)
    with pytest.raises(
        InputError,
        match=r"0\.wav\): no copy 'c' can be made: .*run.sh --skip-bad t.*align_copies\.c",
    ):
        with_copies(tmp_path, {"c": CopyConfig(codec="opus")})


def test_what_cannot_be_copied_is_refused_or_skipped(tmp_path: Path) -> None:
    sounds = {"a-1-1": hum(RATE), "a-1-2": hum(RATE // 15)}
    write_recordings(tmp_path, sounds, RATE)
    with pytest.raises(InputError, match=r"'a-1-2' \(.*1\.wav\): no copy 'f' .* too short"):
        with_copies(tmp_path, {"f": CopyConfig(speed=2)})
    write_recordings(tmp_path, sounds, RATE)
    skipped: dict[str, str] = {}
    prepared = with_copies(tmp_path, {"f": CopyConfig(speed=2)}, skipped=skipped)
    assert list(prepared.copies) == ["f-a-1-1"] and list(skipped) == ["f-a-1-2"]
    assert validate(tmp_path / "align") == []


def test_features_alone_cannot_be_copied(tmp_path: Path) -> None:
    prepare_set(tmp_path, "align", range(2))
    bare = [fastcopy(cut, recording=None) for cut in read_cuts(tmp_path, "align")]
    write_set(tmp_path, "align", bare)
    with pytest.raises(InputError, match=r"has no audio, of which no copies .*align_copies$"):
        with_copies(tmp_path, {"slow": SLOW})


def test_segments_are_copied_by_themselves(tmp_path: Path) -> None:
    long = np.concatenate([hum(RATE), hum(RATE, 0.2)])
    write_recordings(tmp_path, {"a-1-1": long}, RATE)
    recording = read_recording("a-1", tmp_path / "audio/0.wav")
    (whole,) = read_cuts(tmp_path, "align")
    parts = [
        make_cut(
            recording,
            fastcopy(
                whole.supervisions[0], id=f"a-1-{n}", recording_id="a-1", start=n, duration=1.0
            ),
        )
        for n in (0, 1)
    ]
    write_set(tmp_path, "align", parts, segmented=True)
    prepared = with_copies(tmp_path, {"slow": SLOW, "crop": CopyConfig(crop=(0.5, 0.5))})
    assert validate(tmp_path / "align") == []
    segments = read_table(tmp_path / "align/segments")
    assert segments["a-1-1"] == "a-1 1.0000 2.0000"
    assert segments["a-1-1-crop"] == "a-1-1-crop 0.0000 0.5000"
    for level, number in ((0.1, 0), (0.2, 1)):
        crop = prepared.samples(f"a-1-{number}-crop")
        middle = prepared.samples(f"slow-a-1-{number}")[1000:-1000]
        assert [np.abs(x).max() for x in (crop, middle)] == pytest.approx([level] * 2, abs=0.01)


def test_additional_speakers_are_not_copied(tmp_path: Path) -> None:
    prepare_set(tmp_path, "align", range(3), sessions=1)
    cuts = list(read_cuts(tmp_path, "align"))
    for cut in cuts[2:4]:
        cut.supervisions[0].custom["added_from"] = "align_also"
    write_set(tmp_path, "align", cuts)
    prepared = with_copies(tmp_path, {"noise": NOISE})
    assert prepared.speakers("noise") == {"id00000", "id00002"}
    added = [cut.id for cut in cuts[2:4]]
    assert read_table(tmp_path / "align/utt2source") == dict.fromkeys(added, "align_also")
    kinds = set(read_additions(tmp_path / "align").values())
    assert kinds == {"copy noise", "speakers of align_also"}


@pytest.mark.parametrize("line", ["u copy", "u copy original more"])
def test_a_table_of_copies_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "utt2copy").write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"utt2copy: 'u': expected `utterance copy original`"):
        read_copies(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"compression": 0.5},
        {"crop": (0.01, 1)},
        {"crop": (2, 1)},
        {"speed": 3},
        {"formants": 0.1},
        {"speed": (1.1, 0.9)},
    ],
)
def test_a_copy_must_perturb(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"copy of nothing|greater than or|before it begins|less"):
        CopyConfig(**settings)


@pytest.mark.parametrize("factor", [1, (1, 1), (0.996, 1.004)])  # drawn in hundredths
@pytest.mark.parametrize("name", ["speed", "formants"])
def test_a_factor_that_changes_nothing_makes_no_other_voice(name: str, factor: object) -> None:
    for others in ({}, {"snr": (5, 20)}):
        with pytest.raises(
            ValueError, match=f"{name}: a factor of 1 changes nothing; name another"
        ):
            CopyConfig(**{name: factor, **others})
