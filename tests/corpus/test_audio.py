"""Audio as it comes: what is read in full, and what is refused by what it is."""

import io
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import lhotse.audio.backend
import numpy as np
import pytest
import soundfile
from lhotse import AudioSource, SupervisionSegment
from lhotse.cut import MonoCut
from lhotse.utils import fastcopy

from nessa.corpus.audio import NoDecoderError, header_of, read_audio, read_audio_header, run_command
from nessa.corpus.lengths import samples_of_mp3
from nessa.corpus.mp4 import read_mp4_header
from nessa.corpus.utterances import Utterance, make_cut, make_cuts, read_recording
from nessa.errors import InputError
from nessa.files import STARTED_IN
from tests.speech import hum, tone

RATE = 16000
SOUND = tone(3, 2.0, np.random.default_rng(0))


def write(path: Path, samples: np.ndarray = SOUND, rate: int = RATE, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def with_size(path: Path, size: int, change: Callable[[bytes], bytes] = bytes) -> Path:
    """A WAV that was streamed: its header does not know the size of its data."""
    content = bytearray(write(path).read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", size)
    path.write_bytes(change(bytes(content)))
    return path


def streamed_aiff(path: Path) -> Path:
    """As sox streams it: so many whole frames as fit in 0x7F000000 bytes."""
    content = bytearray(write(path, subtype="PCM_24").read_bytes())
    place = content.index(b"SSND") + 4
    content[place : place + 4] = struct.pack(">I", 0x7F000000 // 3 * 3 + 8)
    path.write_bytes(content)
    return path


def flac_of_unknown_length(path: Path) -> Path:
    content = bytearray(write(path).read_bytes())
    content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])
    path.write_bytes(content)
    return path


def cut_of(path: Path, start: float = 0.0, seconds: float | None = None) -> MonoCut:
    recording = read_recording("s-u", path)
    length = seconds or recording.duration - start
    return make_cut(recording, SupervisionSegment("s-u", "s-u", start, length, speaker="s"))


def mp3(path: Path, seconds: float = 4.0, rate: int = RATE) -> bytes:
    write(path, hum(round(seconds * rate)), rate)
    return path.read_bytes()


WHOLE: dict[str, Callable[[Path], Path]] = {
    "wav of size 0": lambda d: with_size(d / "a.wav", 0),
    "wav of size ffffffff": lambda d: with_size(d / "a.wav", 0xFFFFFFFF),
    "wav of size 7ffff000": lambda d: with_size(d / "a.wav", 0x7FFFF000),
    "wav of size 7fffffff": lambda d: with_size(d / "a.wav", 0x7FFFFFFF),
    "aiff of 24 bit, streamed": lambda d: streamed_aiff(d / "a.aiff"),
    "flac of unknown length": lambda d: flac_of_unknown_length(d / "a.flac"),
    "sph": lambda d: write(d / "a.sph", format="NIST"),
    "sph in capitals": lambda d: write(d / "A.SPH", format="NIST"),
    "wv1, which is sph": lambda d: write(d / "a.wv1", format="NIST"),
    "aiff": lambda d: write(d / "a.aiff"),
    "wav of doubles": lambda d: write(d / "a.wav", subtype="DOUBLE"),
}


@pytest.mark.parametrize("form", WHOLE)
def test_all_of_it_is_read(tmp_path: Path, form: str) -> None:
    path = WHOLE[form](tmp_path)
    assert read_audio_header(path) == (RATE, len(SOUND))
    np.testing.assert_allclose(read_audio(cut_of(path), RATE, "m"), SOUND, atol=1e-4)
    part = read_audio(cut_of(path, 0.5, 1.0), RATE, "m")
    np.testing.assert_allclose(part, SOUND[8000:24000], atol=1e-4)


def with_sample(path: Path, value: float, place: int, **options: str) -> Path:
    return write(path, np.where(np.arange(len(SOUND)) == place, value, SOUND), **options)


def cut_off(path: Path, share: float = 0.6, **options: str) -> Path:
    content = write(path, **options).read_bytes()
    path.write_bytes(content[: round(share * len(content))])
    return path


def joined(path: Path) -> Path:
    path.write_bytes(mp3(path) * 2)
    return path


def half(path: Path) -> Path:
    content = mp3(path)
    path.write_bytes(content[: len(content) // 2])
    return path


# Formats whose header, or last page, tells that something is missing: format and subtype.
TELLING = {
    "sph": ("NIST", "PCM_16"), "sph of ulaw": ("NIST", "ULAW"), "aiff": ("AIFF", "PCM_24"),
    "au": ("AU", "PCM_16"), "au of ulaw": ("AU", "ULAW"), "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "FLOAT"), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TELLING)
def test_what_is_cut_off_is_refused_in_every_format(tmp_path: Path, kind: str) -> None:
    form, subtype = TELLING[kind]
    path = write(tmp_path / f"a.{kind.split()[0]}", format=form, subtype=subtype)
    assert read_audio_header(path) == (RATE, len(SOUND))
    content = path.read_bytes()
    path.write_bytes(content + b"\0\0")  # as of a tag
    assert read_audio_header(path).sampling_rate == RATE
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(content[: round(share * len(content))])
        with pytest.raises(InputError, match=rf"{path.name}: (is cut|has no s|is not read)"):
            read_audio_header(path)


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_an_ogg_is_cut_off_wherever_its_last_page_ends(tmp_path: Path, kind: str) -> None:
    content = write(tmp_path / f"a.{kind}", format="OGG", subtype=TELLING[kind][1]).read_bytes()
    last = content.rindex(b"OggS")
    path = tmp_path / f"b.{kind}"
    for end in (last + 4, last + 17, last + 26, last + 27, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(InputError, match=rf"{path.name}: is cut off"):
            read_audio_header(path)


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nan": (lambda d: with_sample(d / "a.wav", np.nan, 9000, subtype="FLOAT"), "sample 9000"),
    "inf": (lambda d: with_sample(d / "a.wav", np.inf, 31999, subtype="DOUBLE"), "sample 31999"),
    "-inf in aiff": (lambda d: with_sample(d / "a.aiff", -np.inf, 0, subtype="FLOAT"), "sample 0 "),
    "silence": (lambda d: write(d / "a.wav", 0 * SOUND), "silent: all samples are 0"),
    "silent flac": (lambda d: write(d / "a.flac", 0 * SOUND), "silent"),
    "constant": (lambda d: write(d / "a.sph", 0 * SOUND + 0.25, format="NIST"), "constant.*0.25"),
    "raw": (lambda d: write(d / "a.wav").rename(d / "a.raw"), "not readable audio.*no header"),
    "RAW": (lambda d: write(d / "a.wav").rename(d / "a.RAW"), "not readable audio.*no header"),
    "pcm": (lambda d: write(d / "a.wav").rename(d / "a.pcm"), "not readable audio.*no header"),
    "wav cut off": (lambda d: cut_off(d / "a.wav"), "cut off"),
    "flac cut off": (lambda d: cut_off(d / "a.flac"), "cut off"),
    "mp3 cut off": (lambda d: half(d / "a.mp3"), "MP3 of 1.. s, cut off from 4.0 s.*restore it or"),
    "mp3 joined": (lambda d: joined(d / "a.mp3"), "MP3 of 8.. s, of which libsndfile reads 4.0 s"),
    "nothing": (lambda d: write(d / "a.wav", SOUND[:0]), "has no samples"),
    "no bytes": (lambda d: _bytes(d / "a.flac", b""), "not readable audio"),
    "webm": (
        lambda d: _bytes(d / "a.webm", b"\x1aE\xdf\xa3" * 99),
        "readable audio; .*if players take it, write it as wav",
    ),
    "text": (lambda d: _bytes(d / "a.wav", b"not audio" * 99), "not readable audio"),
}  # fmt: skip


def _bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("fault", REFUSED)
def test_what_would_be_read_wrongly_is_refused_or_skipped(tmp_path: Path, fault: str) -> None:
    make, told = REFUSED[fault]
    path = make(tmp_path)
    with pytest.raises(InputError, match=rf"{path.name}: .*{told}"):
        read_audio_header(path)
    good = write(tmp_path / "good.wav")
    utterances = [Utterance(f"s-{n}", "s", "t", p) for n, p in enumerate((path, good))]
    skipped: dict[str, str] = {}
    assert [cut.id for cut in make_cuts(utterances, skipped)] == ["s-1"]
    assert list(skipped) == ["s-0"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda x: x * 0, "silent"),
        (lambda x: x * 0 + 0.5, "constant"),
        (lambda x: np.where(np.arange(len(x)) == 700, np.nan, x), r"sample 700 \(at 0.04 s\)"),
        (lambda x: np.where(np.arange(len(x)) == 800, -np.inf, x), "sample 800"),
    ],
    ids=["silent", "constant", "nan", "inf"],
)
def test_an_utterance_inside_of_a_recording_is_judged_by_its_own_samples(
    tmp_path: Path, spoil: Callable[[np.ndarray], np.ndarray], told: str
) -> None:
    path = write(tmp_path / "a.wav")
    cut = cut_of(path, 0.5, 1.0)
    samples = SOUND.copy()
    samples[8000:24000] = spoil(samples[8000:24000])
    write(path, samples, subtype="FLOAT")
    with pytest.raises(InputError, match=rf"'s-u' \(.*a\.wav\): .*{told}"):
        read_audio(cut, RATE, "m")


@pytest.mark.parametrize("seconds", [0.3, 1.0, 7.7])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_frames_of_mp3_are_counted(tmp_path: Path, rate: int, seconds: float) -> None:
    content = mp3(tmp_path / "a.mp3", seconds, rate)
    found = samples_of_mp3(b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128) + content + b"TAG" * 40)
    assert found is not None and 0 <= found - seconds * rate <= 4 * 1152
    assert read_audio_header(tmp_path / "a.mp3") == (rate, round(seconds * rate))


COMMANDS = {
    "cat {}; exit 3": "status 3",
    "head -c 20000 {}; false": "status 1",
    "false | cat {}": "status 1",
    "cat {} {}.gone": "status 1 .*gone",
    "no-such-program {}": "status 127",
    "cat {}": "",
    "cat {} {} | head -c 64044": "",  # cat is killed by a pipe that nobody reads on
}


def test_relative_paths_of_commands_are_of_the_folder_where_run_sh_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "called").mkdir()
    content = write(tmp_path / "called/a.wav").read_bytes()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(STARTED_IN, str(tmp_path / "called"))
    assert run_command("cat a.wav") == content
    for elsewhere in ("", str(tmp_path / "gone")):
        monkeypatch.setenv(STARTED_IN, elsewhere)
        assert run_command("cat called/a.wav") == content


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_fails_is_refused_whatever_it_wrote(tmp_path: Path, command: str) -> None:
    path, told = write(tmp_path / "a.wav"), COMMANDS[command]
    cut = cut_of(path)
    words = command.replace("{}", str(path))
    source = AudioSource("command", [0], words)
    piped = fastcopy(cut, recording=fastcopy(cut.recording, sources=[source]))
    if told:
        with pytest.raises(InputError, match=told):
            run_command(words)
        with pytest.raises(InputError, match=told):
            read_audio(piped, RATE, "m")
    else:
        assert header_of(io.BytesIO(run_command(words)), words) == (RATE, len(SOUND))
        np.testing.assert_allclose(read_audio(piped, RATE, "m"), SOUND, atol=1e-4)


@pytest.mark.parametrize("name", ["a.m4a", "a.M4A", "a.mp4", "a.m4b"])
def test_a_missing_ffmpeg_is_said_and_nothing_skipped(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setattr("nessa.corpus.audio.read_mp4_header", lambda path: (RATE, 32000, 1))
    monkeypatch.setattr("nessa.corpus.audio.find_spec", lambda name: None)
    (tmp_path / name).write_bytes(b"mp4")
    utterances = [Utterance("s-0", "s", "t", tmp_path / name)]
    with pytest.raises(NoDecoderError, match=r"ffmpeg is not in PATH.*install ffmpeg"):
        list(make_cuts(utterances, skipped={}))


def test_reading_leaves_lhotses_decoders_as_they_were(tmp_path: Path) -> None:
    before = lhotse.audio.backend.get_current_audio_backend()
    read_audio(cut_of(write(tmp_path / "a.wav")), RATE, "m")
    with pytest.raises(InputError):
        (tmp_path / "a.wav").write_bytes(b"")
        read_audio(fastcopy(cut_of(write(tmp_path / "b.wav")), duration=9.0), RATE, "m")
    assert lhotse.audio.backend.get_current_audio_backend() is before


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_file_that_has_become_shorter_is_not_filled_up(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    cut = cut_of(path)
    write(path, SOUND[:-800])  # 50 ms less may be rounding
    assert len(read_audio(cut, RATE, "m")) == len(SOUND)
    write(path, SOUND[:-3200])
    with pytest.raises(InputError, match=rf"{name}.*cannot be read") as raised:
        read_audio(cut, RATE, "m")
    assert "report" not in str(raised.value)


def test_a_decoder_of_another_rate_than_the_header_says_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav")
    cut = cut_of(path)
    write(path, np.tile(SOUND, 3))
    with pytest.raises(InputError, match=r"decodes to 96000 samples, .* says 32000 ") as raised:
        read_audio(cut, RATE, "m")
    assert "write it as wav" in str(raised.value) and "Lhotse" not in str(raised.value)


def box(kind: bytes, *inside: bytes) -> bytes:
    body = b"".join(inside)
    return struct.pack(">I", 8 + len(body)) + kind + body


def mp4_with(edits: bytes, movie_rate: int = 1000, samples: int = 32000) -> bytes:
    """The boxes of a file of two seconds at 16 kHz of which the header is read."""
    timed = struct.Struct(">12xII").pack
    entry = box(b"mp4a", bytes(8), bytes(8), struct.pack(">H", 1))
    stsd = box(b"stsd", struct.pack(">4xI", 1), entry)
    mdia = box(b"mdia", box(b"mdhd", timed(16000, samples)), box(b"minf", box(b"stbl", stsd)))
    trak = box(b"trak", box(b"edts", box(b"elst", edits)), mdia)
    return box(b"moov", box(b"mvhd", timed(movie_rate, 2000)), trak)


@pytest.mark.parametrize(
    ("edits", "samples"),
    [
        (struct.pack(">4xI Ii4x", 1, 2000, 0), 32000),
        (struct.pack(">4xI Ii4x", 1, 1000, 0), 16000),
        (struct.pack(">4xI Ii4x Ii4x", 2, 50, -1, 2000, 0), 32000),  # begins with silence
        (struct.pack(">B3xI Qq4x", 1, 1, 2000, 1000), 31000),  # 64-bit times
        (struct.pack(">4xI Ii4x", 1, 50, -1), 32000),
    ],
)
def test_edit_lists_of_mp4(tmp_path: Path, edits: bytes, samples: int) -> None:
    (tmp_path / "a.m4a").write_bytes(mp4_with(edits))
    assert read_mp4_header(tmp_path / "a.m4a") == (16000, samples, 1)


def test_an_mp4_without_a_time_scale_is_named(tmp_path: Path) -> None:
    edits = struct.pack(">4xI Ii4x", 1, 2000, 0)
    (tmp_path / "a.m4a").write_bytes(mp4_with(edits, movie_rate=0))
    with pytest.raises(InputError, match=r"a\.m4a: not an MP4 audio file"):
        read_mp4_header(tmp_path / "a.m4a")


@pytest.mark.parametrize("start", [0, 1024])  # of the first edit, behind the encoder's priming
def test_a_fragmented_mp4_is_told_from_one_of_no_samples(tmp_path: Path, start: int) -> None:
    edits = struct.pack(">4xI Ii4x", 1, 0, start)
    (tmp_path / "a.m4a").write_bytes(mp4_with(edits, samples=0))
    with pytest.raises(InputError, match=r"a\.m4a: .*fragmented MP4.*-c copy -movflags faststart"):
        read_audio_header(tmp_path / "a.m4a")
