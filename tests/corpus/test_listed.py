"""What wav.scp and feats.scp may name: places in arks, ranges of frames, relative paths."""

import io
from pathlib import Path

import kaldi_native_io
import kaldiio
import numpy as np
import pytest
import soundfile

from nessa.corpus.listed import GivenMatrix, read_listed
from nessa.errors import InputError

RATE = 16000
SOUND = (0.3 * np.sin(np.arange(8000) / 7)).astype(np.float32)
MATRIX = np.arange(60, dtype=np.float32).reshape(20, 3)


def wav_ark(folder: Path) -> list[str]:
    sounds = {n: (RATE, (SOUND * k * 8000).astype(np.int16)) for n, k in (("a", 1), ("b", 2))}
    kaldiio.save_ark(str(folder / "w a.ark"), sounds, scp=str(folder / "w.scp"))
    return [line.split(" ", 1)[1] for line in (folder / "w.scp").read_text().splitlines()]


def flac_ark(folder: Path) -> list[str]:
    """As ESPnet's format_wav_scp does with flac.ark."""
    sounds = {n: (RATE, (SOUND * k * 8000).astype(np.int16)) for n, k in (("a", 1), ("b", 2))}
    ark, scp = str(folder / "f.ark"), str(folder / "f.scp")
    kinds = {"write_function": "soundfile", "write_kwargs": {"format": "flac"}}
    kaldiio.save_ark(ark, sounds, scp=scp, **kinds)
    return [line.split(" ", 1)[1] for line in (folder / "f.scp").read_text().splitlines()]


def bare_files(folder: Path) -> list[str]:
    places = []
    for k, name in enumerate("ab", start=1):
        place = folder / f"{name}:1.wav"
        soundfile.write(place, (SOUND * k * 8000).astype(np.int16), RATE)
        places.append(str(place))
    return places


@pytest.mark.parametrize("write", [wav_ark, flac_ark, bare_files])
@pytest.mark.parametrize("relative", [False, True])
def test_recordings_in_arks_and_files(tmp_path: Path, write, relative: bool) -> None:
    for k, place in enumerate(write(tmp_path), start=1):
        named = place.replace(f"{tmp_path}/", "") if relative else place
        table = tmp_path / "data/eval/wav.scp"
        recording = read_listed("rec", named, table)
        assert (recording.id, recording.num_samples) == ("rec", len(SOUND))
        assert recording.sampling_rate == RATE
        samples = recording.load_audio()[0] * 32768
        np.testing.assert_array_equal(samples, (SOUND * k * 8000).astype(np.int16))


@pytest.mark.parametrize(
    ("content", "offset"),
    [
        (b"a RIFF\xff\xff\xff\x7fWAVE", 2),
        (b"a AUDIO\4\xff\xff\xff\x7ffLaC", 2),
        (b"a AUDIO\4", 2),
        (b"a \0BFM \4", 2),
        (b"a RIFF", 2),
        (b"a RIFF\x04\0\0\0WAVE", 99),
        (b"a RIFF\x04\0\0\0WAVE", 2),
    ],
)
def test_what_is_no_recording_is_refused_with_its_place(
    tmp_path: Path, content: bytes, offset: int
) -> None:
    (tmp_path / "x.ark").write_bytes(content)
    with pytest.raises(InputError, match=r"x.ark:? ?(byte )?[0-9]+: (no recording|is not read)"):
        read_listed("a", f"x.ark:{offset}", tmp_path / "wav.scp")


def test_channels_in_arks_are_counted(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((100, 2)), RATE, format="wav")
    (tmp_path / "x.ark").write_bytes(b"a " + buffer.getvalue())
    with pytest.raises(InputError, match=r"x.ark: byte 2: has 2 channels; mix it down"):
        read_listed("a", "x.ark:2", tmp_path / "wav.scp")


def matrices(folder: Path, **options) -> str:
    with kaldiio.WriteHelper(f"ark,scp:{folder}/x.ark,{folder}/x.scp", **options) as writer:
        writer("other", MATRIX + 1)
        writer("a", MATRIX)
    return (folder / "x.scp").read_text().splitlines()[1].split()[1]


@pytest.mark.parametrize("compressed", [0, 2])
@pytest.mark.parametrize(
    ("range_", "rows", "columns"),
    [
        ("", (0, 20), (0, 3)),
        ("[0:4]", (0, 5), (0, 3)),
        ("[7:7]", (7, 8), (0, 3)),
        ("[15:19]", (15, 20), (0, 3)),
        ("[15:21]", (15, 20), (0, 3)),  # as Kaldi: some frames late
        ("[2:9,1:2]", (2, 10), (1, 3)),
        ("[:,0:1]", (0, 20), (0, 2)),
        ("[2:5,:]", (2, 6), (0, 3)),
        ("[:]", (0, 20), (0, 3)),
    ],
)
def test_ranges_of_features_are_those_of_kaldi(
    tmp_path: Path, compressed: int, range_: str, rows: tuple, columns: tuple
) -> None:
    place = matrices(tmp_path, **({"compression_method": compressed} if compressed else {}))
    relative = place.replace(f"{tmp_path}/", "")
    for named in (place, relative):
        found = GivenMatrix.find(named + range_, tmp_path / "data/feats.scp")
        assert (found.rows, found.columns) == (rows[1] - rows[0], columns[1] - columns[0])
        read = kaldi_native_io.FloatMatrix.read(found.place).numpy()
        np.testing.assert_allclose(read, MATRIX[slice(*rows), slice(*columns)], atol=0.3)


@pytest.mark.parametrize(
    ("range_", "message"),
    [
        ("[5:4]", "20 rows and 3 columns; correct the range"),
        ("[0:23]", "correct the range"),
        ("[20:21]", "correct the range"),
        ("[0:4,0:9]", "correct the range"),
        ("[a:b]", "expected a range as"),
        ("[,0:1]", "expected a range as"),
        ("[]", "expected a range as"),
        ("[0:-1]", "expected a range as"),
        ("[0:99999999999999999999]", "expected a range as"),
        (" |", "is a command, which is not run"),
    ],
)
def test_ranges_beyond_the_matrix_are_refused(tmp_path: Path, range_: str, message: str) -> None:
    place = matrices(tmp_path)
    with pytest.raises(InputError, match=message):
        GivenMatrix.find(place + range_, tmp_path / "feats.scp")
