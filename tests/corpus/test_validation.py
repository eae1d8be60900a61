"""nessa validate: every fault is found, named, and comes with its remedy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nessa.files import read_table, write_json, write_table
from nessa.kaldi.embeddings import Embeddings
from tests.conftest import Command
from tests.kaldi_corpora import write_audio_dir, write_feature_dir
from tests.pairs import two_views
from tests.speech import hum


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def append(path: Path, line: str) -> None:
    with open(path, "a") as file:
        file.write(line)


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    write_audio_dir(tmp_path / "audio", range(3))
    return tmp_path / "audio"


@pytest.fixture
def segmented(tmp_path: Path) -> Path:
    write_audio_dir(tmp_path / "segmented", range(3), segmented=True)
    return tmp_path / "segmented"


def wav(directory: Path) -> Path:
    return directory / "audio/spk000_rec0_0.wav"


FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "audio is gone": (lambda d: wav(d).unlink(), ("spk000_rec0_0.wav", "restore it")),
    "audio is empty": (lambda d: wav(d).write_bytes(b""), ("spk000_rec0_0.wav", "not readable")),
    "two channels": (
        lambda d: soundfile.write(wav(d), hum(1600).reshape(800, 2), 16000),
        ("2 channels", "mix it down"),
    ),
    "another rate": (
        lambda d: soundfile.write(wav(d), hum(5600), 8000),
        ("16000 Hz", "'spk000_rec0_0'", "resample"),
    ),
    "another duration": (
        lambda d: write_table(d / "utt2dur", dict.fromkeys(read_table(d / "utt2spk"), "0.9")),
        ("utt2dur: not the duration", "and 9 more"),
    ),
    "a duration that is no number": (
        lambda d: write_table(d / "utt2dur", dict.fromkeys(read_table(d / "utt2spk"), "long")),
        ("utt2dur: not the duration", "and 9 more"),
    ),
    "not sorted": (
        lambda d: append(d / "utt2spk", "spk000_rec0_zz spk000\n"),
        ("utt2spk: not sorted", "LC_ALL=C sort"),
    ),
    "a duplicate": (
        lambda d: append(d / "utt2spk", "spk002_rec1_1 spk002\n"),
        ("line 13: duplicate key", "remove one"),
    ),
    "an unknown tested utterance": (
        lambda d: (d / "trials").write_text("spk000_rec0_0 nobody target\n"),
        ("trials (1): 'nobody' is not in the set", "fix_data_dir.sh", "remove what names them"),
    ),
    "frames of others": (
        lambda d: (d / "utt2num_frames").write_text("nobody 3\n"),
        ("utt2num_frames", "'nobody'"),
    ),
    "speakers of others": (
        lambda d: change(d / "spk2utt", "spk000_rec0_0 ", ""),
        ("spk2utt: not the inverse", "make it again"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_audio_directories(fault: str, audio: Path, nessa: Command) -> None:
    assert nessa("validate", audio).status == 0
    spoil, said = FAULTS[fault]
    spoil(audio)
    nessa("validate", audio).refused(*said)


def test_all_problems_are_told_at_once(audio: Path, nessa: Command) -> None:
    wav(audio).write_bytes(b"")
    soundfile.write(audio / "audio/spk001_rec0_0.wav", hum(5600), 8000)
    nessa("validate", audio).refused("spk000_rec0_0", "spk001_rec0_0")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "not readable"), (b"RIFF", "not readable"), (None, "no such file")],
)
def test_a_fault_of_all_recordings_is_one_line(
    audio: Path, nessa: Command, content: bytes | None, said: str
) -> None:
    for place in (audio / "audio").iterdir():
        place.unlink() if content is None else place.write_bytes(content)
    done = nessa("validate", audio)
    done.refused(said, "'spk000_rec0_0', 'spk000_rec0_1', 'spk000_rec1_0' and 9 more: ")
    assert len(done.err.splitlines()) == 1


def test_faults_of_two_kinds_are_two_lines(audio: Path, nessa: Command) -> None:
    for number, place in enumerate(sorted((audio / "audio").iterdir())):
        if number % 3 == 0:
            place.write_bytes(b"")
        elif number % 3 == 1:
            soundfile.write(place, np.random.default_rng(1).random((800 + number, 2)), 16000)
    done = nessa("validate", audio)
    done.refused("and 1 more: ", "2 channels")
    assert len(done.err.splitlines()) == 2


def test_copies_and_sources_of_no_utterance(audio: Path, nessa: Command) -> None:
    (audio / "utt2copy").write_text("spk000_rec0_0 slow gone\n")
    (audio / "utt2source").write_text("nobody align_also\n")
    nessa("validate", audio).refused(
        "utt2copy: utterance 'gone' is not in the set", "utt2source: utterance 'nobody'"
    )


def test_segments(segmented: Path, nessa: Command) -> None:
    assert nessa("validate", segmented).status == 0
    change(segmented / "segments", "0.70 1.40", "0.70 1.90")
    nessa("validate", segmented).refused("'spk000_rec0_1' does not lie in its recording")


def test_features(tmp_path: Path, nessa: Command) -> None:
    write_feature_dir(tmp_path / "a", 3, 2, frames=20, dim=7)
    assert nessa("validate", tmp_path / "a").status == 0
    write_feature_dir(tmp_path / "b", 3, 2, frames=20, dim=8)
    tables = [read_table(tmp_path / name / "feats.scp") for name in "ab"]
    odd = "spk0001-0000"
    write_table(tmp_path / "a/feats.scp", tables[0] | {odd: tables[1][odd]})
    nessa("validate", tmp_path / "a").refused("7 dimensions", repr(odd))
    write_table(tmp_path / "a/feats.scp", tables[0] | {odd: f"{tmp_path}/a/utt2spk:0"})
    nessa("validate", tmp_path / "a").refused(repr(odd), "no Kaldi matrix")


def spoil_scp(directory: Path) -> None:
    lines = (directory / "xvector.scp").read_text().splitlines(keepends=True)
    (directory / "xvector.scp").write_text("".join(lines[::-1]))


def spoil_mean(directory: Path) -> None:
    means = Embeddings.read(directory / "spk_xvector.scp")
    means.matrix[1] += 1
    means.write_ark(directory / "spk_xvector.ark", directory / "spk_xvector.scp")


def zero(directory: Path) -> None:
    x, _, utt2spk = two_views(4, 3)
    x.matrix[2] = 0
    x.write(directory, utt2spk)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_scp, ("not sorted", "LC_ALL=C sort")),
        (spoil_mean, ("not the mean", "'id00001'", "merge")),
        (zero, ("'id00000-s0-00002' is zero", "extract it again")),
        (lambda d: change(d / "num_utts.ark", " 3", " 4"), ("num_utts.ark: other counts",)),
        (lambda d: (d / "xvector.1.ark").unlink(), ("xvector.1.ark",)),
        (lambda d: write_json(d / "info.json", {"model": "x"}), ("info.json",)),
    ],
)
def test_embeddings(
    spoil: Callable[[Path], object], said: tuple[str, ...], tmp_path: Path, nessa: Command
) -> None:
    x, _, utt2spk = two_views(4, 3)
    x.write(tmp_path / "x", utt2spk)
    assert nessa("validate", tmp_path / "x").status == 0
    spoil(tmp_path / "x")
    nessa("validate", tmp_path / "x").refused(*said)


@pytest.mark.parametrize(("name", "count"), [("speaker-{}", " 3"), ("id00000", " 12")])
def test_ids_of_embeddings_need_not_begin_with_the_speaker(
    name: str, count: str, tmp_path: Path, nessa: Command
) -> None:
    x, _, utt2spk = two_views(4, 3)
    x.write(tmp_path / "x", {u: name.format(s) for u, s in utt2spk.items()})
    done = nessa("validate", tmp_path / "x")
    assert done.status == 0, done
    change(tmp_path / "x/num_utts.ark", count, " 4")
    nessa("validate", tmp_path / "x").refused("num_utts.ark: other counts", "merge")


def test_speaker_files_of_other_utterances_are_seen_where_ids_begin_with_the_speaker(
    tmp_path: Path, nessa: Command
) -> None:
    x, _, utt2spk = two_views(4, 3)
    x.write(tmp_path / "x", utt2spk)
    change(tmp_path / "x/num_utts.ark", "id00000 3\nid00001 3", "id00000 2\nid00001 4")
    nessa("validate", tmp_path / "x").refused("num_utts.ark: other counts", "merge")
    moved = {key.replace("id00000-s0-00002", "id00001-s1-00003"): key for key in x.keys}
    Embeddings(list(moved), x.matrix).write(tmp_path / "y", {key: key[:7] for key in moved})
    for name in ("spk_xvector.scp", "num_utts.ark"):
        shutil.copy(tmp_path / "x" / name, tmp_path / "y" / name)
    nessa("validate", tmp_path / "y").refused("not the mean", "'id00000', 'id00001'", "merge")


def test_a_data_folder_is_checked_set_by_set(tmp_path: Path, nessa: Command) -> None:
    for name, speakers in (("train", range(5, 7)), ("align", range(3)), ("dev", range(3, 5))):
        write_audio_dir(tmp_path / name, speakers)
    done = nessa("validate", tmp_path)
    assert done.status == 0 and "medians" not in done.err
    assert done.out.splitlines() == [
        f"{tmp_path / name}: valid" for name in ("train", "align", "dev")
    ]
    wav(tmp_path / "align").unlink()
    append(tmp_path / "dev/utt2lang", "nobody en\n")
    nessa("validate", tmp_path).refused("align/wav.scp", "dev/utt2lang (1): 'nobody'")


def test_sets_that_share_speakers_are_refused(tmp_path: Path, nessa: Command) -> None:
    write_audio_dir(tmp_path / "train", range(2))
    write_audio_dir(tmp_path / "align", range(3))
    write_audio_dir(tmp_path / "dev", range(3, 5))
    assert nessa("validate", tmp_path).status == 0
    write_audio_dir(tmp_path / "dev", range(2, 5))
    wav(tmp_path / "train").unlink()
    done = nessa("validate", tmp_path)
    done.refused("spk000_rec0_0.wav", "'spk002' is in set 'align' and in set 'dev'; keep it in one")


def test_sets_that_differ_in_duration_are_warned_about(tmp_path: Path, nessa: Command) -> None:
    for name, seconds in (("train", "1.0"), ("align", "4.0"), ("dev", "8.0")):
        write_feature_dir(tmp_path / name, 3, 2, frames=20, dim=7)
        for table in ("utt2spk", "spk2utt", "feats.scp"):
            path = tmp_path / name / table
            path.write_text(path.read_text().replace("spk", name))
        keys = read_table(tmp_path / name / "utt2spk")
        write_table(tmp_path / name / "utt2dur", dict.fromkeys(keys, seconds))
    done = nessa("validate", tmp_path)
    assert done.status == 0
    assert "utterances of align are 4.0 s long and those of dev 8.0 s (medians)" in done.err
    assert "train" not in done.err
    assert "medians" not in nessa("validate", tmp_path / "dev").err
    keys = read_table(tmp_path / "dev/utt2spk")
    for wrong in ("long", "1_0"):
        write_table(tmp_path / "dev/utt2dur", dict.fromkeys(keys, wrong))
        nessa("validate", tmp_path).refused("dev/utt2dur: not all are seconds")


def test_embeddings_of_several_sets(tmp_path: Path, nessa: Command) -> None:
    x, _, utt2spk = two_views(4, 3)
    for name in ("dev", "eval"):
        x.write(tmp_path / name, utt2spk)
    assert nessa("validate", tmp_path).out.count(": valid") == 2
    (tmp_path / "eval/xvector.1.ark").unlink()
    nessa("validate", tmp_path).refused("eval", "xvector.1.ark")


def test_embeddings_of_a_table_for_each_process(tmp_path: Path, nessa: Command) -> None:
    x, _, _ = two_views(4, 3)
    (tmp_path / "eval").mkdir()
    for rank, keys in enumerate((x.keys[::2], x.keys[1::2])):
        place = tmp_path / f"eval/xvector_{rank:02}.ark"
        x.select(keys).write_ark(place, place.with_suffix(".scp"))
    assert nessa("validate", tmp_path).out == f"{tmp_path / 'eval'}: valid\n"
    place.unlink()
    nessa("validate", tmp_path / "eval").refused("xvector_01.ark: no such file")


def test_what_is_neither(tmp_path: Path, nessa: Command) -> None:
    nessa("validate", tmp_path).refused("neither utt2spk nor xvector.scp")
    nessa("validate", tmp_path / "nowhere").refused("no such folder")
    (tmp_path / "utt").write_text("a a\n")
    nessa("validate", tmp_path / "utt").refused("utt: is a file; name the folder that it is in")
