"""Audio and features that change under the same ids are noticed, wherever they lie."""

import shutil
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from lhotse import AudioSource, Features, NumpyFilesWriter, Recording, SupervisionSegment
from lhotse.cut import MonoCut

from nessa.corpus.listed import ArkAudio, GivenMatrix, read_listed
from nessa.corpus.sounds import part_of, sounds_digest
from nessa.corpus.utterances import make_cut
from tests.speech import RATE, prepare_set, read_cuts, turn_around


def given(name: str, matrix: GivenMatrix) -> MonoCut:
    return with_features(name, matrix.rows, matrix.columns, "kaldiio", matrix.place, name)


def with_features(name: str, rows: int, columns: int, storage: str, path: str, key: str) -> MonoCut:
    features = Features(
        type="fbank", num_frames=rows, num_features=columns, frame_shift=0.01, sampling_rate=RATE,
        start=0.0, duration=rows * 0.01, storage_type=storage, storage_path=path, storage_key=key,
        recording_id=name, channels=0,
    )  # fmt: skip
    segment = SupervisionSegment(name, name, 0.0, rows * 0.01, speaker=name)
    return make_cut(None, segment, features)


def matrices(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((300, 20)).astype(np.float32) for name in "ab"}


@pytest.mark.parametrize("options", [{}, {"compression_method": 2}, {"text": True}])
@pytest.mark.parametrize("range_", ["", "[40:89]"])
def test_features_in_arks(tmp_path: Path, options: dict, range_: str) -> None:
    def cuts() -> dict[str, MonoCut]:
        lines = (tmp_path / "x.scp").read_text().splitlines()
        places = dict(line.split() for line in lines)
        return {
            name: given(name, GivenMatrix.find(place + range_, tmp_path / "x.scp"))
            for name, place in places.items()
        }

    def write(**content: np.ndarray) -> None:
        ark, scp = str(tmp_path / "x.ark"), str(tmp_path / "x.scp")
        kaldiio.save_ark(ark, content, scp=scp, **options)

    write(**matrices(0))
    before = {name: sounds_digest([cut]) for name, cut in cuts().items()}
    write(**matrices(0))
    assert {name: sounds_digest([cut]) for name, cut in cuts().items()} == before
    write(**matrices(0) | {"b": matrices(1)["b"]})
    after = {name: sounds_digest([cut]) for name, cut in cuts().items()}
    assert after["a"] == before["a"] and after["b"] != before["b"]


def test_other_frames_of_the_same_features(tmp_path: Path) -> None:
    kaldiio.save_ark(str(tmp_path / "x.ark"), matrices(0), scp=str(tmp_path / "x.scp"))
    place = (tmp_path / "x.scp").read_text().split()[1]
    parts = [GivenMatrix.find(place + part, tmp_path) for part in ("[0:49]", "[50:99]", "[0:49]")]
    first, second, again = (sounds_digest([given("a", part)]) for part in parts)
    assert first == again != second


def test_features_in_folders(tmp_path: Path) -> None:
    def digest(seed: int) -> str:
        shutil.rmtree(tmp_path / "feats", ignore_errors=True)
        cuts = []
        with NumpyFilesWriter(tmp_path / "feats") as writer:
            for name, matrix in matrices(seed).items():
                key = writer.write(name, matrix)
                cuts.append(with_features(name, 300, 20, writer.name, writer.storage_path, key))
        return sounds_digest(cuts)

    assert digest(0) == digest(0) != digest(1)


def test_audio_in_arks(tmp_path: Path) -> None:
    def recordings(seed: int, folder: Path = tmp_path) -> list[Recording]:
        folder.mkdir(exist_ok=True)
        rng, table = np.random.default_rng(seed), folder / "x.scp"
        sounds = {name: (RATE, rng.integers(-9000, 9000, 8000, np.int16)) for name in "ab"}
        kaldiio.save_ark(str(folder / "x y.ark"), sounds, scp=str(table))
        lines = [line.split(" ", 1) for line in table.read_text().splitlines()]
        return [read_listed(name, place, table) for name, place in lines]

    before = sounds_digest(recordings(0))
    assert sounds_digest(recordings(0)) == before != sounds_digest(recordings(1))
    assert sounds_digest(recordings(0, tmp_path / "moved")) == before


@pytest.mark.parametrize(
    "command",
    ["cat x", "tail -c +5 x | head", "tail -c +5 x y | head -c 3", "tail -c +5 'x | head -c 3"],
)
def test_other_commands_are_no_audio_in_arks(command: str) -> None:
    assert ArkAudio.of_command(command) is None


def test_other_commands_are_other_sounds() -> None:
    commands = ("sox a.wav -t wav -", "sox a.wav -t wav - gain -3", "sox a.wav -t wav -")
    first, second, again = (
        sounds_digest([Recording("a", [AudioSource("command", [0], command)], RATE, RATE, 1.0)])
        for command in commands
    )
    assert first == again != second


def of_recording(channel: int = 0, channels: tuple[int, ...] = (0, 1), **more: object) -> MonoCut:
    """All of one channel of a recording, each channel in a file."""
    sources = [AudioSource("file", [own], f"{place}.wav") for place, own in enumerate(channels)]
    recording = Recording("a", sources, RATE, RATE, 1.0, [*channels], **more)
    return make_cut(recording, SupervisionSegment("a", "a", 0.0, 1.0, channel))


def test_parts_of_recordings_are_told_apart() -> None:
    assert part_of(of_recording(channels=(0,))) == []
    assert part_of(given("a", GivenMatrix("x.ark:3", 100, 20))) == []
    louder = {"name": "Volume", "kwargs": {"factor": 2.0}}
    cuts = [
        of_recording(), of_recording(1), of_recording(channels=(1, 0)),
        of_recording(channels=(0,), transforms=[louder]),
        of_recording(channels=(0,)).truncate(offset=0.2),
        of_recording(channels=(0,)).truncate(duration=0.8),
    ]  # fmt: skip
    parts = [str(part_of(cut)) for cut in cuts]
    assert len(set(parts)) == len(cuts) and "[]" not in parts


@pytest.mark.slow
def test_files_wherever_they_lie(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        prepare_set(tmp_path / folder, "eval", range(1))
    one, two = (list(read_cuts(tmp_path / folder, "eval")) for folder in ("one", "two"))
    before = sounds_digest(one)
    assert sounds_digest(two) == before
    assert sounds_digest(cut.recording for cut in one) == before
    turn_around(one[2].recording.sources[0].source)
    assert sounds_digest(one) != before
    missing = Path(two[0].recording.sources[0].source)
    missing.unlink()
    assert sounds_digest(two) != before
