"""Tables as Kaldi's users have them: `nessa validate` and stage prepare give the same verdict."""

import shutil
from collections.abc import Callable
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from lhotse.kaldi import load_kaldi_data_dir

from nessa.corpus.tables import parse_segment, validate_tables, wrong_duration
from nessa.corpus.validation import validate
from nessa.files import read_table, write_table
from tests.conftest import Command
from tests.kaldi_corpora import write_audio_dir, write_feature_dir
from tests.local.test_kaldi_dir import GIVEN, Own, own, programs  # noqa: F401
from tests.speech import read_cuts

Change = Callable[[Path], object]


def lines(name: str, change: Callable[[list[str]], list[str]], mark: str = "") -> Change:
    def spoil(directory: Path) -> None:
        text = (directory / name).read_text().splitlines()
        (directory / name).write_text(mark + "".join(f"{x}\n" for x in change(text)), newline="")

    return spoil


def each(name: str, change: Callable[[str], str], mark: str = "") -> Change:
    return lines(name, lambda text: list(map(change, text)), mark)


def all_tables(change: Callable[[str], str], mark: str = "") -> Change:
    def spoil(directory: Path) -> None:
        for name in ("utt2spk", "spk2utt", "wav.scp", "segments", "text"):
            each(name, change, mark)(directory)

    return spoil


def tabbed(line: str) -> str:
    return line.replace(" ", "\t", 1)


def write(name: str, text: str) -> Change:
    return lambda directory: (directory / name).write_text(text)


def link(name: str) -> Change:
    """To a file that is gone."""
    return lambda directory: (directory / name).symlink_to(directory / "gone")


def first(directory: Path) -> str:
    return min(read_table(directory / "utt2spk"))


def on_first(name: str, line: Callable[[str], str]) -> Change:
    def spoil(directory: Path) -> None:
        lines(name, lambda text: [line(text[0]), *text[1:]])(directory)

    return spoil


def relative(directory: Path) -> None:
    each("wav.scp", lambda line: line.replace(f"{directory}/", ""))(directory)


GOOD: dict[str, Change] = {
    "as it is": lambda directory: None,
    "tabs": all_tables(tabbed),
    "several blanks": all_tables(lambda line: line.replace(" ", " \t  ", 1)),
    "trailing blanks": all_tables(lambda line: line + " \t"),
    "CRLF": all_tables(lambda line: line + "\r"),
    "byte order mark": all_tables(str, "\ufeff"),
    "empty lines at the end": lambda d: [
        lines(n, lambda x: [*x, "", " "])(d) for n in ("utt2spk", "text")
    ],
    "empty transcripts": each("text", lambda line: line.split()[0]),
    "an empty transcript": on_first("text", lambda line: line.split()[0] + " "),
    "tabbed transcript": each("text", lambda line: line.replace(" ", "\t")),
    "to the end": each("segments", lambda line: " ".join([*line.split()[:3], "-1"])),
    "to the end, as a float": on_first(
        "segments", lambda line: " ".join([*line.split()[:3], "-1.00"])
    ),
    "relative paths": relative,
    "no spk2utt": lambda directory: (directory / "spk2utt").unlink(),
}
BAD: dict[str, tuple[Change, str]] = {
    "not sorted": (lines("utt2spk", lambda x: x[::-1]), "utt2spk: not sorted; run `LC_ALL=C sort"),
    "wav.scp not sorted": (lines("wav.scp", lambda x: x[::-1]), "wav.scp: not sorted"),
    "segments not sorted": (lines("segments", lambda x: x[::-1]), "segments: not sorted"),
    "one of two swapped": (lines("spk2utt", lambda x: [x[1], x[0], *x[2:]]), "spk2utt: not sorted"),
    "all segments wrong": (
        each("segments", lambda x: " ".join(x.split()[:3])),
        "and 45 more: expected",
    ),
    "start after the end": (
        each("segments", lambda x: " ".join([*x.split()[:2], "9", "1"])),
        "and 45 more: expected",
    ),
    "another negative end": (
        each("segments", lambda x: " ".join([*x.split()[:3], "-5"])),
        "and 45 more: expected",
    ),
    "an end that is no number": (
        on_first("segments", lambda x: " ".join([*x.split()[:3], "nan"])),
        "'spk000_rec0_0': expected",
    ),
    "no recording": (
        each("segments", lambda x: x.split()[0] + " lost 0 0.5"),
        "recording 'lost' is not in wav.scp",
    ),
    "all audio gone": (each("wav.scp", lambda x: x + ".gone"), "and 21 more: "),
    "all speakers unlike": (
        lambda d: (
            each("utt2spk", lambda x: x.split()[0] + " x")(d),
            (d / "spk2utt").unlink(),
        ),
        "the speaker is no prefix",
    ),
    "stale sessions": (
        lambda d: write_table(
            d / "utt2session", dict.fromkeys([*read_table(d / "utt2spk"), "nobody"], "s")
        ),
        "utt2session (1): 'nobody' is not in the set",
    ),
    "stale trials": (
        lambda d: (d / "trials").write_text(
            f"{first(d)} gone-1 target\n{first(d)} gone-2 nontarget\n"
        ),
        "trials (2): 'gone-1', 'gone-2' is not in the set (utt2spk), as fix_data_dir.sh",
    ),
    "stale profiles": (
        lambda d: (
            write("enroll_map", "p gone-1\n")(d),
            write("trials", f"p {first(d)} target\n")(d),
        ),
        "enroll_map (1): 'gone-1'",
    ),
    "a missing transcript": (lines("text", lambda x: x[1:]), "text: no line for utterance 'spk000"),
    "a mark inside": (
        lines("utt2spk", lambda x: [x[0], "\ufeff" + x[1], *x[2:]]),
        "byte order mark",
    ),
    "duplicates": (lines("wav.scp", lambda x: [x[0], *x]), "line 2: duplicate key"),
    "a list that is gone": (link("trials"), "trials: is a link to nothing"),
    "a further list that is gone": (link("trials_hard"), "trials_hard: is a link to nothing"),
    "genders": (
        lambda d: write_table(d / "spk2gender", dict.fromkeys(read_table(d / "spk2utt"), "female")),
        "neither m nor f: 'spk000', 'spk001', 'spk002' and 9 more",
    ),
}


@pytest.fixture
def kaldi(own: Own) -> Path:  # noqa: F811
    mine = own.folder / "mine"
    utt2spk = write_audio_dir(mine, range(12), segmented=True)
    write_table(mine / "text", dict.fromkeys(utt2spk, "hello there"))
    return mine


@pytest.mark.slow
@pytest.mark.parametrize("change", GOOD)
def test_good_tables_are_valid_and_prepared(own: Own, kaldi: Path, change: str) -> None:  # noqa: F811
    utt2spk = read_table(kaldi / "utt2spk")
    GOOD[change](kaldi)
    assert validate(kaldi) == []
    done = own.prepare(data=kaldi)
    assert done.status == 0, done
    assert own.table("utt2spk") == utt2spk


@pytest.mark.slow
@pytest.mark.parametrize("change", BAD)
def test_bad_tables_are_refused_by_both_in_the_same_words(
    own: Own,  # noqa: F811
    kaldi: Path,
    change: str,
) -> None:
    spoil, message = BAD[change]
    spoil(kaldi)
    problems = validate(kaldi)
    assert len(problems) == 1 and message in problems[0], problems
    done = own.prepare(data=kaldi)
    assert done.status == 2 and problems[0] in done.err, done


@pytest.mark.parametrize(
    "name", ["utt2spk", "spk2utt", "spk2set", "feats.scp", "utt2dur", "enroll_map"]
)
def test_links_to_nothing_are_no_tables_that_were_left_out(tmp_path: Path, name: str) -> None:
    write_audio_dir(tmp_path, range(3))
    (tmp_path / name).unlink(missing_ok=True)
    link(name)(tmp_path)
    (problem,) = validate(tmp_path)
    assert problem == f"{tmp_path / name}: is a link to nothing; restore it, or remove the link"


@pytest.mark.parametrize(
    "ids",
    [
        {"1_2": "1", "13_1": "13"},
        {"ann.1": "ann", "ann-b.1": "ann-b", "ann_c.1": "ann_c"},
        {"a-1": "a", "a!-1": "a!"},
        {"spk1u1": "spk1", "spk10u1": "spk10"},
    ],
)
def test_speakers_that_sort_another_way_than_utterances_are_refused_for_all_of_the_corpus(
    tmp_path: Path, ids: dict[str, str]
) -> None:
    write_table(tmp_path / "utt2spk", ids)
    write_table(tmp_path / "wav.scp", dict.fromkeys(ids, "true |"))
    (problem,) = validate_tables(tmp_path)
    assert problem.startswith(f"{tmp_path}/utt2spk: sorted by utterance, speaker")
    assert validate_tables(tmp_path, has_audio=False) == []  # given embeddings have no such rule


def test_segments_are_parsed() -> None:
    assert parse_segment("rec 0.5 2") == ("rec", 0.5, 2)
    assert parse_segment("rec 0.5 -1") == ("rec", 0.5, float("inf"))
    assert parse_segment("rec 0.5 2 0") == parse_segment("rec 0.5 2 A") == ("rec", 0.5, 2)
    wrong = ("1 1", "-1 2", "2 1", "0 -0.5", "0 nan", "nan 1", "1", "0 1_0", "0 \u0661")
    of_channels = ("0 1 1", "0 1 B", "0 1 0 0")
    for line in (f"rec {times}" for times in (*wrong, *of_channels)):
        with pytest.raises(ValueError):
            parse_segment(line)


@pytest.mark.parametrize(("claimed", "wrong"), [("0.5", True), ("1", False), ("1.5", True)])
def test_a_duration_may_be_neither_shorter_nor_longer(claimed: str, wrong: bool) -> None:
    assert (wrong_duration(claimed, 1.0) is not None) == wrong


def test_text_is_kept_for_lhotse(own: Own, kaldi: Path) -> None:  # noqa: F811
    words = {u: f"word {n}" if n % 3 else "" for n, u in enumerate(read_table(kaldi / "utt2spk"))}
    (kaldi / "text").write_text("".join(f"{u}\t{text}\n" for u, text in words.items()))
    done = own.prepare(data=kaldi)
    assert done.status == 0, done
    made = read_table(own.data / "eval/text", empty=True)
    assert made and made.items() <= words.items()
    assert validate(own.data / "eval") == []
    _, supervisions, _ = load_kaldi_data_dir(own.data / "eval", 16000)
    assert supervisions is not None
    assert {segment.id: segment.text for segment in supervisions} == made
    (kaldi / "text").unlink()
    assert own.prepare(data=kaldi).status == 0
    assert not (own.data / "eval/text").exists()


@pytest.mark.parametrize("vad", [True, False])
def test_that_a_vad_is_not_applied_is_said(own: Own, vad: bool) -> None:  # noqa: F811
    write_feature_dir(own.folder / "mine", 12, 4, frames=50, dim=7)
    if vad:
        shutil.copy(own.folder / "mine/feats.scp", own.folder / "mine/vad.scp")
    done = own.prepare(data=own.folder / "mine", encoder=GIVEN)
    assert done.status == 0, done
    assert ("vad.scp is not applied" in done.out) == vad


RANGES = {
    "absolute": lambda place: place + "[0:29]",
    "beside the table": lambda place: Path(place).name + "[5:34]",
    "by another way": lambda place: place.replace("feats.ark", "../mine/feats.ark") + "[20:49]",
}


@pytest.mark.parametrize("kind", RANGES)
def test_ranges_and_relative_places_of_features_are_prepared(
    own: Own,  # noqa: F811
    kind: str,
) -> None:
    mine, place = own.folder / "mine", RANGES[kind]
    utt2spk = write_feature_dir(mine, 12, 4, frames=50, dim=7)
    whole = read_table(mine / "feats.scp")
    write_table(mine / "feats.scp", {utt: place(where) for utt, where in whole.items()})
    assert validate(mine) == []
    done = own.prepare(data=mine, encoder=GIVEN)
    assert done.status == 0, done
    assert own.table("utt2spk") == utt2spk
    first = int(place("x").partition("[")[2].partition(":")[0])
    for cut in read_cuts(own.data, "eval"):
        expected = kaldiio.load_mat(whole[cut.id])[first : first + 30]
        np.testing.assert_array_equal(cut.load_features(), expected)
        assert cut.duration == pytest.approx(0.3)
    assert validate(own.data / "eval") == []


@pytest.mark.slow
def test_recordings_in_arks_are_prepared_and_read(own: Own) -> None:  # noqa: F811
    mine = own.folder / "mine"
    utt2spk = write_audio_dir(mine, range(12))
    wav = read_table(mine / "wav.scp")
    sounds = {utt: (16000, soundfile.read(place, dtype="int16")[0]) for utt, place in wav.items()}
    kaldiio.save_ark(str(mine / "w.ark"), sounds, scp=str(mine / "wav.scp"))
    text = (mine / "wav.scp").read_text()
    (mine / "wav.scp").write_text(text.replace(f"{mine}/", ""))
    assert validate(mine) == []
    done = own.prepare(data=mine)
    assert done.status == 0, done
    assert own.table("utt2spk") == utt2spk
    for cut in read_cuts(own.data, "eval"):
        np.testing.assert_array_equal(cut.load_audio()[0] * 32768, sounds[cut.id][1])


def test_a_directory_of_given_embeddings_needs_speakers_alone(
    tmp_path: Path, nessa: Command
) -> None:
    (tmp_path / "utt2spk").write_text("b/2.wav bob\na/1.wav ann\nann_2 ann\n")
    (tmp_path / "trials").write_text("1 a/1.wav ann_2\n0 b/2.wav ann_2\n")
    assert "valid, for given embeddings (recipe arks)" in nessa("validate", tmp_path).out
    (tmp_path / "spk2utt").write_text("ann a/1.wav\n")
    (problem,) = validate(tmp_path)
    assert problem.startswith(f"{tmp_path}/spk2utt: not the inverse of utt2spk")
