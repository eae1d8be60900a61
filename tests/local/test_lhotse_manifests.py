"""Lhotse manifests: what cannot be used is refused or listed, as of a Kaldi directory."""

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import (
    AudioSource,
    CutSet,
    Features,
    NumpyFilesWriter,
    Recording,
    RecordingSet,
    SupervisionSegment,
    SupervisionSet,
)
from lhotse.cut import MonoCut, MultiCut
from lhotse.features.io import KaldiWriter
from lhotse.utils import fastcopy

from nessa.corpus.audio import read_audio
from nessa.corpus.sets import write_set
from nessa.corpus.sounds import sounds_digest
from nessa.corpus.validation import validate
from nessa.errors import InputError
from nessa.files import read_table, write_table
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "local"))

RATE = 16000
NOISE = (0.1 * np.random.default_rng(0).standard_normal((2 * RATE, 2))).astype(np.float32)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    yield tmp_path


def recording(name: str, channels: int = 1) -> Recording:
    soundfile.write(f"{name}.wav", NOISE[:, :channels], RATE, subtype="FLOAT")
    return Recording.from_file(f"{name}.wav", recording_id=name)


def segment(name: Any, of: Any, start: float, duration: float, **more: Any) -> SupervisionSegment:
    return SupervisionSegment(name, of, start, duration, **{"speaker": str(name)[0], **more})


def write(recordings: list[Recording], segments: list[SupervisionSegment]) -> None:
    RecordingSet.from_recordings(recordings).to_file("m/x_recordings.jsonl.gz")
    SupervisionSet.from_segments(segments).to_file("m/x_supervisions.jsonl.gz")


def write_cuts(*cuts: Any) -> None:
    CutSet.from_cuts(cuts).to_file("m/cuts.jsonl.gz")


def read(
    skipped: dict[str, str] | None = None, given: bool = False, allow_pipes: bool = False
) -> list[MonoCut]:
    from lhotse_manifests import LhotseDir

    found = LhotseDir(Path("m"), given, allow_pipes)
    return list(found.cuts(found.utt2spk, skipped))


def mono(name: str, of: Recording, *segments: SupervisionSegment, **more: Any) -> MonoCut:
    shape = {"start": 0.0, "duration": 2.0, "channel": 0} | more
    return MonoCut(id=name, recording=of, supervisions=list(segments), **shape)


def supervised(*segments: SupervisionSegment) -> Callable[[], None]:
    return lambda: write(
        [recording("a"), recording("s", 2)], [segment("A-1", "a", 0, 1), *segments]
    )


def cut(make: Callable[[Recording], Any]) -> Callable[[], None]:
    def write_both() -> None:
        a = recording("a")
        write_cuts(mono("good", a, segment("A-1", "a", 0, 1)), make(a))

    return write_both


def gone() -> None:
    write(
        [recording("a"), recording("b")], [segment(n, n[0].lower(), 0, 1) for n in ("A-1", "B-1")]
    )
    Path("b.wav").unlink()


def shorter() -> None:
    write(
        [recording("a"), recording("b")], [segment(n, n[0].lower(), 0, 1) for n in ("A-1", "B-1")]
    )
    soundfile.write("b.wav", NOISE[: RATE // 2, 0], RATE)


BAD: dict[str, tuple[Callable[[], None], str]] = {
    "recording missing": (supervised(segment("B-1", "b", 0, 1)), "'b', which the recordings man"),
    "negative start": (supervised(segment("B-1", "a", -0.5, 1)), "from -0.5 to 0.5 s does not lie"),
    "beyond the end": (supervised(segment("B-1", "a", 1.7, 5)), "from 1.7 to 6.7 s does not lie"),
    "after the end": (supervised(segment("B-1", "a", 3.0, 1)), "from 3 to 4 s does not lie in rec"),
    "no duration": (supervised(segment("B-1", "a", 1.0, 0)), "from 1 to 1 s does not lie"),
    "channel missing": (supervised(segment("B-1", "a", 0, 1, channel=1)), "is of channel 1, but"),
    "two channels": (supervised(segment("B-1", "s", 0, 1, channel=[0, 1])), "is of channels"),
    "mixed": (
        cut(lambda a: mono("c", a, segment("B-1", "a", 0, 1)).mix(mono("d", a), snr=10)),
        "mixed or padded",
    ),
    "padded": (cut(lambda a: mono("c", a, segment("B-1", "a", 0, 1)).pad(5.0)), "mixed or padded"),
    "outside of its cut": (
        cut(lambda a: mono("c", a, segment("B-1", "a", 0.8, 1), duration=1.0)),
        "does not lie in cut 'c'",
    ),
    "begins before its cut": (
        cut(lambda a: mono("c", a, segment("B-1", "a", -0.3, 1), start=0.5, duration=1.0)),
        "does not lie in cut 'c'",
    ),
    "cut beyond its recording": (
        cut(lambda a: mono("c", a, segment("B-1", "a", 0, 2), start=1.0)),
        "does not lie in recording 'a'",
    ),
    "transform of Lhotse's alone": (
        cut(lambda a: mono("c", a.dereverb_wpe(), segment("B-1", "a", 0, 1))),
        "has the transform 'DereverbWPE', which a wav.scp cannot name; save the audio",
    ),
    "file gone": (gone, "no such file"),
    "file of another length": (shorter, "the manifest says 32000"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_what_lhotse_drops_or_cuts_short_is_refused_or_listed(fault: str) -> None:
    make, told = BAD[fault]
    make()
    with pytest.raises(InputError, match=rf"utterance 'B-1'.*{told}"):
        read()
    skipped: dict[str, str] = {}
    assert [cut.id for cut in read(skipped)] == ["A-1"]
    assert list(skipped) == ["B-1"] and told in skipped["B-1"]


FEATURES = np.random.default_rng(0).standard_normal((200, 7)).astype(np.float32)


def with_features(a: Recording) -> MonoCut:
    """All of a recording with features, at a place beside the manifest."""
    with NumpyFilesWriter("m/feats") as writer:
        key = writer.write("a", FEATURES)
    features = Features(
        type="fbank", num_frames=200, num_features=7, frame_shift=0.01, sampling_rate=RATE,
        start=0, duration=2.0, storage_type=writer.name, storage_path="feats", storage_key=key,
        recording_id="a", channels=0,
    )  # fmt: skip
    return mono("c", a, segment("A-1", "a", 0, 2), features=features)


def test_features_are_found_beside_the_manifest_where_models_take_them() -> None:
    write_cuts(with_features(recording("a")))
    (found,) = read(given=True)
    np.testing.assert_array_equal(found.load_features(), FEATURES)
    (found,) = read()
    assert found.has_recording and not found.has_features
    shutil.rmtree("m/feats")
    assert [cut.id for cut in read()] == ["A-1"]
    with pytest.raises(InputError, match=r"utterance 'A-1': features: feats: no such file"):
        read(given=True)


def test_features_of_lhotses_kaldi_writer_are_found_by_their_keys() -> None:
    cuts = []
    with KaldiWriter("m/feats") as writer:
        for name, matrix in (("a", FEATURES), ("b", 2 * FEATURES)):
            key = writer.write(f"key-{name}", matrix)
            cut = with_features(recording(name))
            own = fastcopy(cut.features, storage_type=writer.name, storage_key=key)
            own = fastcopy(own, storage_path="feats/feats.scp")
            supervisions = [segment(f"{name.upper()}-1", name, 0, 2)]
            cuts.append(fastcopy(cut, id=name, features=own, supervisions=supervisions))
    write_cuts(*cuts)
    found = read(given=True)
    np.testing.assert_allclose(found[1].load_features(), 2 * FEATURES, atol=0.2)  # compressed
    write_set(Path("data"), "eval", [_with_session(cut) for cut in found])
    assert validate(Path("data/eval")) == []
    assert re.search(r"feats.ark:\d+$", read_table("data/eval/feats.scp")["B-1"])
    before = sounds_digest(found)
    with KaldiWriter("m/feats") as writer:
        for key in ("key-a", "key-b"):
            writer.write(key, -FEATURES)
    assert sounds_digest(read(given=True)) != before
    scp = Path("m/feats/feats.scp")
    scp.write_text(scp.read_text().replace("key-a", "key-c"))
    with pytest.raises(InputError, match=r"'A-1': features: .*feats.scp: no line for 'key-a'"):
        read(given=True)


def test_features_alone_need_models_that_take_them() -> None:
    write_cuts(with_features(recording("a")).drop_recording())
    assert [cut.id for cut in read(given=True)] == ["A-1"]
    with pytest.raises(InputError, match=r"'A-1': .*'c', .* no recording; add it or.*type.*given"):
        read()


@pytest.mark.parametrize("audio", [True, False])
def test_features_of_several_channels_are_refused_where_models_take_them(audio: bool) -> None:
    stereo = recording("a", 2)
    features = fastcopy(with_features(stereo).features, channels=[0, 1])
    own = segment("A-1", "a", 0, 2, channel=[1])
    cut = MultiCut("c", 0.0, 2.0, [0, 1], recording=stereo, supervisions=[own], features=features)
    write_cuts(cut if audio else cut.drop_recording())
    with pytest.raises(InputError, match=r"'A-1': in cut 'c', whose features .*MultiCut.*to_mono"):
        read(given=True)
    if audio:  # which other models take, with its channel
        (found,) = read()
        np.testing.assert_allclose(read_audio(found, RATE, "m"), NOISE[:, 1], atol=1e-6)


def test_a_set_of_cuts_with_and_without_audio_or_features_is_refused() -> None:
    a = with_features(recording("a"))
    bare = mono("B-1", recording("b"), segment("B-1", "b", 0, 2))
    for first, second, told in (
        (a, bare, "'B-1' has audio, but 'A-1' has audio and features"),
        (a.drop_recording(), bare, "'B-1' has audio, but 'A-1' has features"),
        (a.drop_features(), fastcopy(a, id="d", supervisions=bare.supervisions), "features, but"),
    ):
        write_cuts(first, second)
        with pytest.raises(InputError, match=f"set 'eval': utterance .*{told}.*give all of them"):
            write_set(Path("data"), "eval", read(given=True), segmented=True)
    assert not Path("data/eval/utt2spk").exists()


def stereo() -> None:
    write(
        [recording("a", 2), recording("b", 2)],
        [
            segment("A-1", "a", 0.5, 1, channel=0),
            segment("B-1", "a", 0.5, 1, channel=1),
            segment("C-1", "b", 0.5, 1, channel=[1]),
        ],
    )


def stereo_cuts() -> None:
    a, b = recording("a", 2), recording("b", 2)
    both = [segment("A-1", "a", 0.5, 1, channel=0), segment("B-1", "a", 0.5, 1, channel=1)]
    write_cuts(
        MultiCut("ab", 0.0, 2.0, [0, 1], recording=a, supervisions=both),
        mono("c", b, segment("C-1", "b", 0.2, 1, channel=1), start=0.3, duration=1.5, channel=1),
    )


@pytest.mark.parametrize("make", [stereo, stereo_cuts])
def test_a_supervision_has_the_samples_of_its_channel(make: Callable[[], None]) -> None:
    make()
    cuts = read()
    assert [cut.id for cut in cuts] == ["A-1", "B-1", "C-1"]
    for found, channel in zip(cuts, (0, 1, 1), strict=True):
        expected = NOISE[RATE // 2 : RATE // 2 + RATE, channel]
        np.testing.assert_allclose(read_audio(found, RATE, "m"), expected, atol=1e-6)
    write_set(Path("data"), "eval", [_with_session(cut) for cut in cuts], segmented=True)
    assert validate(Path("data/eval")) == []
    audio = read_table("data/eval/wav.scp")
    assert list(audio) == ["a-0", "a-1", "b-1"]
    assert audio["a-1"].startswith("sox ") and audio["a-1"].endswith(" remix 2 |")
    assert len(list(RecordingSet.from_file("data/manifests/eval_recordings.jsonl.gz"))) == 2


def test_a_transformed_recording_is_transformed_in_wav_scp_too() -> None:
    a = recording("a").resample(8000).perturb_speed(1.1, affix_id=False)
    b = recording("b", 2).resample(8000).perturb_volume(0.5, affix_id=False)
    write([a, b], [segment("A-1", "a", 0.5, 1), segment("B-1", "b", 0.5, 1, channel=1)])
    cuts = read()
    assert [len(read_audio(cut, 8000, "m")) for cut in cuts] == [8000, 8000]
    write_set(Path("data"), "eval", [_with_session(cut) for cut in cuts], segmented=True)
    assert validate(Path("data/eval")) == []
    audio = read_table("data/eval/wav.scp")
    assert audio["a"].endswith("a.wav -t wav - rate 8000 speed 1.1 |")
    assert audio["b-1"].endswith("b.wav -t wav - remix 2 rate 8000 vol 0.5 |")


def test_a_command_of_two_channels_is_remixed_in_wav_scp() -> None:
    both = recording("a", 2)
    both = fastcopy(both, sources=[fastcopy(both.sources[0], type="command", source="cat a.wav")])
    write([both], [segment("A-1", "a", 0.5, 1, channel=1)])
    cuts = [_with_session(cut) for cut in read(allow_pipes=True)]
    write_set(Path("data"), "eval", cuts, segmented=True)
    place = read_table("data/eval/wav.scp")["a-1"]
    assert place == "cat a.wav | sox -t wav - -t wav - remix 2 |"


def test_a_recording_of_a_file_per_channel_names_the_file_of_the_channel() -> None:
    both = Recording.from_file(recording("a").sources[0].source, recording_id="a")
    sources = []
    for channel in (0, 1):
        soundfile.write(f"a{channel}.wav", NOISE[:, channel], RATE, subtype="FLOAT")
        sources.append(AudioSource("file", [channel], f"a{channel}.wav"))
    both = fastcopy(both, sources=sources, channel_ids=[0, 1])
    write([both], [segment(f"A-{k}", "a", 0.5, 1, channel=k) for k in (0, 1)])
    cuts = read()
    for found, channel in zip(cuts, (0, 1), strict=True):
        expected = NOISE[RATE // 2 : RATE // 2 + RATE, channel]
        np.testing.assert_allclose(read_audio(found, RATE, "m"), expected, atol=1e-6)
    write_set(Path("data"), "eval", [_with_session(cut) for cut in cuts], segmented=True)
    assert validate(Path("data/eval")) == []
    audio = read_table("data/eval/wav.scp")
    assert {name: Path(place).name for name, place in audio.items()} == {
        "a-0": "a0.wav", "a-1": "a1.wav"
    }  # fmt: skip
    assert [line.split()[0] for line in read_table("data/eval/segments").values()] == ["a-0", "a-1"]


def of_one_stem() -> tuple[list[Recording], list[SupervisionSegment]]:
    """A file of the same name for each of two speakers, as VoxCeleb has them."""
    recordings = []
    for k, speaker in enumerate("AB"):
        Path(speaker).mkdir()
        soundfile.write(f"{speaker}/1.wav", NOISE[:, k], RATE, subtype="FLOAT")
        recordings.append(Recording.from_file(f"{speaker}/1.wav"))
    return recordings, [segment(f"{speaker}-1", "1", 0, 2) for speaker in "AB"]


def test_recordings_of_one_id_are_not_taken_for_each_other() -> None:
    recordings, segments = of_one_stem()
    write_cuts(*(mono(s.id, a, s) for a, s in zip(recordings, segments, strict=True)))
    found = read()
    for k, one in enumerate(found):
        np.testing.assert_allclose(read_audio(one, RATE, "m"), NOISE[:, k], atol=1e-6)
    with pytest.raises(InputError, match=r"'B-1' is of recording '1' in .*B/1.wav.*A/1.wav; "):
        write_set(Path("data"), "eval", found, segmented=True)


def test_a_manifest_with_two_recordings_of_one_id_is_refused() -> None:
    write(*of_one_stem())
    with pytest.raises(InputError, match=r"x_recordings\.jsonl\.gz: several .* id '1'; make"):
        read()


def test_tables_beside_the_manifests_count_as_beside_those_of_kaldi() -> None:
    recordings = [recording("a"), recording("b")]
    write(recordings, [segment(f"{n.upper()}-1", n, 0, 1, gender="m", text="x") for n in "ab"])
    tables = {
        "utt2domain": {"A-1": "read", "B-1": "free"},
        "spk2gender": {"A": "f"},
        "text": {"A-1": "some words"},
    }
    for name, table in tables.items():
        write_table(Path("m") / name, table)
    found = [cut.supervisions[0] for cut in read()]
    assert [one.custom["domain"] for one in found] == ["read", "free"]
    assert [(one.gender, one.text) for one in found] == [("f", "some words"), ("m", "x")]
    for name in ("utt2domain", "utt2session"):
        write_table(Path("m") / name, {"A-1": "read"})
        with pytest.raises(InputError, match=f"m/{name}: no line for 'B-1'; add it"):
            read()
        Path("m", name).unlink()


def test_sessions_and_domains_that_are_numbers_are_their_names() -> None:
    numbers = [{"session": k, "domain": k} for k in (0, 0, 1)]
    names = ("A-1", "A-2", "A-3")
    write(
        [recording("a")],
        [segment(n, "a", 0, 1, custom=own) for n, own in zip(names, numbers, strict=True)],
    )
    write_set(Path("data"), "eval", read(), segmented=True)
    expected = dict(zip(names, "001", strict=True))
    for table in ("utt2session", "utt2domain"):
        assert read_table(Path("data/eval") / table) == expected


@pytest.fixture(params=["cuts", "recordings and supervisions"])
def write_either(
    request: pytest.FixtureRequest,
) -> Callable[[list[Recording], list[SupervisionSegment]], None]:
    def write_as_cuts(recordings: list[Recording], segments: list[SupervisionSegment]) -> None:
        both = RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(segments)
        CutSet.from_manifests(*both).to_file("m/cuts.jsonl.gz")

    return write_as_cuts if request.param == "cuts" else write


def test_ids_that_are_numbers_are_their_names(write_either: Callable[..., None]) -> None:
    first, second = (fastcopy(recording(name), id=k) for k, name in enumerate("ab"))
    segments = [segment(0, 0, 0, 1, speaker=0), segment(71, 1, 0, 1, speaker=7)]
    write_either([first, second], segments)
    write_set(Path("data"), "eval", read(), segmented=True)
    assert validate(Path("data/eval")) == []
    assert read_table("data/eval/utt2spk") == {"0": "0", "71": "7"}
    assert list(read_table("data/eval/wav.scp")) == ["0", "1"]


@pytest.mark.parametrize("kind", ["supervision", "speaker", "recording"])
def test_white_space_in_ids_is_refused_before_audio_is_read(
    write_either: Callable[..., None], kind: str
) -> None:
    name, speaker, of = {
        "supervision": ("B 1", "B", "b"),
        "speaker": ("B", "B 1", "b"),
        "recording": ("B-1", "B", "my b"),
    }[kind]
    recordings = [recording("a"), fastcopy(recording("b"), id=of)]
    write_either(recordings, [segment("A-1", "a", 0, 1), segment(name, of, 0, 1, speaker=speaker)])
    Path("a.wav").unlink()
    with pytest.raises(InputError, match=rf"^m: {kind} '(B 1|my b)' has white space in it; rename"):
        read()


def test_utterances_of_no_known_session_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    both = [recording("a"), recording("b")]
    write(both, [segment("A-1", "a", 0, 1), segment("B-1", "b", 0, 1)])
    read()
    assert "m: no utt2session: every utterance counts as a session of its own" in caplog.text
    caplog.clear()
    write(both, [segment("A-1", "a", 0, 1), segment("A-2", "a", 1, 1), segment("B-1", "b", 0, 1)])
    read()
    write(both, [segment(n, n[0].lower(), 0, 1, custom={"session": 1}) for n in ("A-1", "B-1")])
    read()
    write_table(Path("m/utt2session"), {"A-1": "s", "B-1": "s"})
    read()
    assert "utt2session" not in caplog.text


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_session_or_domain_is_none(empty: str | None) -> None:
    own = {"session": empty, "domain": empty}
    write([recording("a")], [segment("A-1", "a", 0, 1, custom=own)])
    write_set(Path("data"), "eval", read(), segmented=True)
    assert read_table("data/eval/utt2session") == {"A-1": "a"}
    assert not Path("data/eval/utt2domain").exists()


@pytest.mark.parametrize(("table", "key"), [("text", "utterance"), ("spk2gender", "speaker")])
def test_a_table_of_other_keys_beside_the_manifests_is_refused(table: str, key: str) -> None:
    write([recording("a")], [segment("A-1", "a", 0, 1)])
    write_table(Path("m") / table, {"a": "f"})
    with pytest.raises(InputError, match=rf"m/{table}: no line .* {key} .*'a'.* line of 'A"):
        read()


@pytest.mark.parametrize("allow_pipes", [False, True])
def test_audio_at_an_address_is_refused_with_what_to_do(allow_pipes: bool) -> None:
    far = recording("a")
    far.sources[0].type, far.sources[0].source = "url", "https://localhost/a.wav"
    write([far], [segment("A-1", "a", 0, 1)])
    with pytest.raises(InputError, match=r"'A-1': .*'a' is of type 'url'.*write it to a file") as e:
        read(allow_pipes=allow_pipes)
    assert "allow_pipes" not in str(e.value) and "drop_recordings" not in str(e.value)


def test_features_of_audio_at_an_address_can_be_used_without_the_audio() -> None:
    found = with_features(recording("a"))
    found.recording.sources[0].type = "url"
    write_cuts(found)
    with pytest.raises(InputError, match=r"'A-1': .*'url'.*CutSet\.drop_recordings\(\)"):
        read(given=True)
    with pytest.raises(InputError, match="write it to a file, and make"):
        read()
    write_cuts(found.drop_recording())
    assert [cut.id for cut in read(given=True)] == ["A-1"]


def _with_session(found: MonoCut) -> MonoCut:
    (own,) = found.supervisions
    return fastcopy(found, supervisions=[fastcopy(own, custom={"session": "s"})])


@pytest.mark.parametrize("content", ["{", '{"id": "x"}', "[1, 2]", '{"type": "MonoCut"}'])
def test_what_is_no_manifest_is_refused(content: str) -> None:
    Path("m/cuts.jsonl").write_text(content + "\n")
    with pytest.raises(InputError, match=r"cuts\.jsonl"):
        read()


def test_cuts_without_a_supervision_are_said(caplog: pytest.LogCaptureFixture) -> None:
    a = recording("a")
    write_cuts(mono("good", a, segment("A-1", "a", 0, 1)), mono("bare", a))
    assert [cut.id for cut in read()] == ["A-1"]
    assert "'bare'" in caplog.text


def test_genders_are_written_as_kaldi_does(caplog: pytest.LogCaptureFixture) -> None:
    words = {"a": "female", "b": "M", "c": "f", "d": None, "e": "other", "g": ""}
    recordings = [recording(name) for name in words]
    write(recordings, [segment(n, n, 0, 1, gender=gender) for n, gender in words.items()])
    found = {cut.id: cut.supervisions[0].gender for cut in read()}
    assert list(found.values()) == ["f", "m", "f", None, None, None]
    assert "gender 'other' is neither m nor f" in caplog.text
