"""Align sets from files: in memory or, where they are larger, in their arks; fitted alike."""

import shutil
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import pytest

from nessa.alignment import AlignTable, DevSet, NeuralAligner, ProcrustesAligner, neural, table
from nessa.alignment.training import Training
from nessa.alignment.views import SIDES
from nessa.errors import InputError
from nessa.files import write_table
from nessa.kaldi.embeddings import Embeddings, merge_parts
from nessa.kaldi.lazy import StoredVectors
from tests.pairs import all_trials, two_views

SETTINGS = {"dim": 16, "hidden_dim": 32, "steps": 20, "speakers_per_batch": 30}


class Files:
    """An align set of two models on disk, in parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.x, self.y, self.speakers = two_views(40, 5)
        for name, view, parts in (("x", self.x, 3), ("y", self.y, 2)):
            for part in range(parts):
                view.select(view.keys[part::parts]).write_part(folder / name, part + 1)
            merge_parts(folder / name, parts, None, view.stamp)
        write_table(folder / "utt2spk", self.speakers)

    def open(self) -> AlignTable:
        return AlignTable.open(self.folder / "x", self.folder / "y", self.folder)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def stored(files: Files, monkeypatch: pytest.MonkeyPatch) -> AlignTable:
    monkeypatch.setattr(table, "MEMORY_SHARE", 0)
    opened = files.open()
    assert isinstance(opened.enroll, StoredVectors) and isinstance(opened.runtime, StoredVectors)
    return opened


def assert_same(found: AlignTable, files: Files) -> None:
    wanted = AlignTable.of(files.x, files.y, files.speakers)
    loaded = found.loaded()
    np.testing.assert_array_equal(loaded.enroll, wanted.enroll)
    np.testing.assert_array_equal(loaded.runtime, wanted.runtime)
    np.testing.assert_array_equal(loaded.labels, wanted.labels)
    for side in SIDES:
        assert list(found.utterances(side)) == files.x.keys


def test_what_fits_is_in_memory(files: Files) -> None:
    opened = files.open()
    assert isinstance(opened.enroll, np.ndarray)
    assert opened.stamps == (files.x.stamp, files.y.stamp)
    assert_same(opened, files)


def test_what_does_not_stays_in_its_arks(stored: AlignTable, files: Files) -> None:
    assert_same(stored, files)
    assert stored.enroll.shape == files.x.matrix.shape
    rows = np.random.default_rng(1).integers(len(files.x), size=300)
    np.testing.assert_array_equal(stored.enroll[rows], files.x.matrix[rows])
    np.testing.assert_array_equal(stored.runtime[7:90], files.y.matrix[7:90])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "halved"),
    [("shared", False), ("shared", True), ("to-enroll", False), ("to-runtime", False)],
)
def test_nessa_is_fitted_alike(
    stored: AlignTable, files: Files, monkeypatch: pytest.MonkeyPatch, mode: str, halved: bool
) -> None:
    monkeypatch.setattr(neural, "FEWEST_HALVED", 40 if halved else 41)
    x, y, names = two_views(10, 3, first_speaker=5000)
    dev = DevSet(x, y, all_trials(names))
    one = NeuralAligner(**SETTINGS, mode=mode).fit_table(stored, dev)
    other = NeuralAligner(**SETTINGS, mode=mode).fit(files.x, files.y, files.speakers, dev)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)
    one.fit_table(stored, dev, freeze="enroll")


def test_other_aligners_load_it(stored: AlignTable, files: Files) -> None:
    one = ProcrustesAligner().fit_table(stored)
    other = ProcrustesAligner().fit(files.x, files.y, files.speakers)
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name])


def test_tables_of_another_order_or_type_are_joined_in_memory(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MEMORY_SHARE", 0)
    scp = files.folder / "y/xvector.scp"
    listed = scp.read_text()
    scp.write_text("".join(reversed(listed.splitlines(keepends=True))))
    assert_same(files.open(), files)
    place = f"ark,scp:{files.folder}/y.ark,{scp}"
    with kaldiio.WriteHelper(place) as writer:
        for key, vector in zip(files.y.keys, files.y.matrix, strict=True):
            writer(key, vector.astype(np.float64))
    assert_same(files.open(), files)
    utt2spk = files.folder / "utt2spk"
    utt2spk.write_text("".join(reversed(utt2spk.read_text().splitlines(keepends=True))))
    assert_same(files.open(), files)


def test_tables_of_several_processes_are_joined_in_memory(files: Files) -> None:
    """As 3D-Speaker leaves them: none of them all, and no info.json."""
    folder = files.folder / "x"
    shutil.rmtree(folder)
    for rank in range(3):
        name = f"xvector_{rank:02}"
        files.x.select(files.x.keys[rank::3]).write_ark(
            folder / f"{name}.ark", folder / f"{name}.scp"
        )
    opened = files.open()
    assert opened.stamps == (None, files.y.stamp)
    rows = Embeddings(list(opened.utterances("enroll")), opened.enroll).rows(files.x.keys)
    np.testing.assert_array_equal(opened.enroll[rows], files.x.matrix)
    np.testing.assert_array_equal(opened.runtime[rows], files.y.matrix)


def test_a_data_directory_may_have_more_utterances(stored: AlignTable, files: Files) -> None:
    more = files.speakers | {"id00000-a": "id00000", "zz": "zz"}
    write_table(files.folder / "utt2spk", more)
    assert_same(files.open(), files)


def test_blanks_behind_a_speaker_make_no_other_speaker(files: Files) -> None:
    path = files.folder / "utt2spk"
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}{' ' * (row % 3)}\n" for row, line in enumerate(lines)))
    assert_same(files.open(), files)
    path.write_text("".join(f"{line} x\n" for line in lines))
    with pytest.raises(InputError, match=r"utt2spk: .*one speaker"):
        files.open()


def test_an_utterance_of_two_speakers_is_refused(stored: AlignTable, files: Files) -> None:
    path = files.folder / "utt2spk"
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, f"{first.split()[0]} another\n", *others]))
    with pytest.raises(InputError, match=r"utt2spk: line 2: duplicate key"):
        files.open()


@pytest.mark.parametrize("share", [0, 1])
def test_lines_behind_the_last_embedding_are_read_too(
    files: Files, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(table, "MEMORY_SHARE", share)
    path = files.folder / "utt2spk"
    known = path.read_text()
    first, last = files.x.keys[0], files.x.keys[-1]
    for more, fault in (
        (f"{last} another", "line 201: duplicate key"),
        (f"{first} another", "line 201: duplicate key"),
        ("zz", "line 201"),
        ("zz one two", "'zz': expected one speaker"),
    ):
        path.write_text(f"{known}{more}\n")
        with pytest.raises(InputError, match=f"utt2spk: {fault}"):
            files.open()


def test_a_second_speaker_between_other_lines_is_refused(files: Files) -> None:
    path = files.folder / "utt2spk"
    lines = path.read_text().splitlines()
    lines.insert(3, f"{files.x.keys[1]} another")
    path.write_text("\n".join([*lines, ""]))
    with pytest.raises(InputError, match="utt2spk: line 4: duplicate key"):
        files.open()


@pytest.mark.parametrize("share", [0, 1])
def test_faults_are_named(files: Files, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(table, "MEMORY_SHARE", share)
    first = files.x.keys[0]
    write_table(files.folder / "utt2spk", dict(list(files.speakers.items())[1:]))
    with pytest.raises(InputError, match=f"utt2spk.*no speaker for {first!r}"):
        files.open()
    write_table(files.folder / "utt2spk", dict.fromkeys(files.speakers, "one"))
    with pytest.raises(InputError, match="one speaker"):
        files.open()
    write_table(files.folder / "utt2spk", files.speakers)
    Embeddings(files.y.keys[:-1], files.y.matrix[:-1]).write(files.folder / "y")
    with pytest.raises(InputError, match="differ in 1 utterances"):
        files.open()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_where_it_lies(
    stored: AlignTable, files: Files, value: float
) -> None:
    ark = files.folder / "x/xvector.1.ark"
    content = bytearray(ark.read_bytes())
    content[-4:] = np.float32(value).tobytes()
    ark.write_bytes(content)
    opened = files.open()
    with pytest.raises(InputError, match=r"xvector.1.ark: byte \d+: .* not finite"):
        NeuralAligner(**SETTINGS).fit_table(opened)


def disjoint(views: tuple[Embeddings, Embeddings, dict[str, str]]) -> tuple[Embeddings, Embeddings]:
    """Of each speaker some utterances by the one model, and the others by the other."""
    x, y, speakers = views
    number = {key: int(key.rpartition("-")[2]) for key in x.keys}
    assert len({*speakers.values()}) < len(x.keys)
    return (
        x.select([key for key in x.keys if number[key] % 2 == 0]),
        y.select([key for key in y.keys if number[key] % 2]),
    )


def test_views_may_share_speakers_alone() -> None:
    views = two_views(100, 8)
    x, y = disjoint(views)
    with pytest.raises(InputError, match="differ in"):
        AlignTable.of(x, y, views[2])
    found = AlignTable.by_speaker(x, y, views[2])
    speakers = views[2]
    rows = {
        tuple(row): key for view in (x, y) for key, row in zip(view.keys, view.matrix, strict=True)
    }
    assert len(found.enroll) == len(x) == len(y)
    for a, b, label in zip(found.enroll, found.runtime, found.labels, strict=True):
        names = {speakers[rows[tuple(a)]], speakers[rows[tuple(b)]]}
        assert names == {sorted(set(speakers.values()))[label]}
    assert len({tuple(row) for row in np.asarray(found.enroll)}) == len(x)  # none twice


def with_profiles(view: Embeddings, speakers: dict[str, str]) -> tuple[Embeddings, dict[str, str]]:
    """A view, and the speakers, with a stored profile of each speaker, whose audio is gone."""
    owners = {f"{name}-profile": name for name in sorted({*speakers.values()})}
    matrix = np.concatenate([view.matrix[: len(owners)], view.matrix])
    return Embeddings([*owners, *view.keys], matrix), speakers | owners


@pytest.mark.slow
def test_each_half_of_speakers_alone_teaches_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher meets no recording of its own model on both sides."""
    monkeypatch.setattr(neural, "FEWEST_HALVED", 40)
    x, y, speakers = two_views(40, 4)
    stored, speakers = with_profiles(y, speakers)
    *dev, others = two_views(10, 3, first_speaker=5000)
    found = AlignTable.by_speaker(x, stored, speakers)
    assert found.recordings is not None
    taught = []
    started = Training.__init__

    def start(self: Training, *arguments: Any, **options: Any) -> None:
        taught.append(arguments[-2])
        started(self, *arguments, **options)

    monkeypatch.setattr(Training, "__init__", start)
    held_out = DevSet(dev[0], dev[1], all_trials(others))
    NeuralAligner(**SETTINGS | {"steps": 5}).fit_table(found, held_out)
    first, second, own = taught
    assert (own == found.recordings).all()
    for recordings in (first, second):
        assert (recordings[:, 0] == recordings[:, 1]).all()
    both = np.sort(np.concatenate([first[:, 0], second[:, 0]]))
    np.testing.assert_array_equal(both, np.sort(found.recordings[:, 1]))


@pytest.mark.slow
def test_without_shared_utterances_nessa_is_nearly_as_good() -> None:
    views, settings = two_views(100, 8), {**SETTINGS, "steps": 1, "learning_rate": 1e-9}
    *dev, names = two_views(20, 3, first_speaker=5000)
    held_out = DevSet(dev[0], dev[1], all_trials(names))
    unpaired = AlignTable.by_speaker(*disjoint(views), views[2])
    error = NeuralAligner(**settings).fit_table(unpaired, held_out).dev_eer(held_out)
    paired = NeuralAligner(**settings).fit(*views, held_out).dev_eer(held_out)
    assert error < paired + 0.03


def test_shared_utterances_stay_pairs_and_lonely_speakers_are_left_out() -> None:
    x, y, speakers = two_views(6, 3)
    last, alone = speakers[x.keys[-1]], x.keys[1]
    y = y.select([key for key in y.keys if speakers[key] != last])
    x = x.select([key for key in x.keys if key != alone])
    found = AlignTable.by_speaker(x, y, speakers)
    assert found.labels.max() == 4  # without the last speaker
    rows = zip(found.utterances("runtime"), found.enroll, found.runtime, strict=True)
    for (key, a, b), recordings in zip(rows, found.recordings, strict=True):
        np.testing.assert_array_equal(b, y.matrix[y.rows([key])[0]])
        partner = next(other for other in x.keys if speakers[other] == speakers[key])
        np.testing.assert_array_equal(a, x.matrix[x.rows([partner if key == alone else key])[0]])
        assert (recordings[0] != recordings[1]) == (key == alone)
    assert set(found.utterances("runtime")) == set(y.keys)


def test_utterances_of_either_view_are_not_of_dev_and_are_named_as_their_own() -> None:
    views = two_views(10, 4)
    x, y = disjoint(views)
    found = AlignTable.by_speaker(x, y, views[2])
    for keys in (x.keys, y.keys):
        names = {key: views[2][key] for key in keys}
        dev = DevSet(*(view.select(keys) for view in views[:2]), all_trials(names))
        with pytest.raises(InputError, match=f"'{keys[0]}' is both in the align and the dev set"):
            ProcrustesAligner().fit_table(found, dev)
    matrix = y.matrix.copy()
    matrix[3] = 0
    found = AlignTable.by_speaker(x, Embeddings(y.keys, matrix), views[2])
    with pytest.raises(InputError, match=f"runtime embedding of align utterance '{y.keys[3]}'"):
        ProcrustesAligner().fit_table(found)


def test_profiles_whose_audio_is_gone_take_part() -> None:
    """Each of one view alone; every live utterance is of both models."""
    x, y, speakers = two_views(20, 3)
    stored, speakers = with_profiles(x, speakers)
    found = AlignTable.by_speaker(stored, y, speakers)
    assert len(found.labels) == len(stored) and set(found.utterances("enroll")) == set(stored.keys)
    assert (np.bincount(found.labels) == 4).all()
    # A batch has no utterance in a profile and among those that the profile meets.
    nessa = NeuralAligner(**SETTINGS | {"steps": 5}).fit_table(found)
    assert nessa.fitting["step"] == 5


def test_a_batch_that_cannot_be_kept_apart_names_the_setting() -> None:
    x, y, speakers = two_views(3, 8)
    few = {f"{name}-{n}": name for name in set(speakers.values()) for n in range(2)}
    stored = Embeddings(list(few), x.matrix[: len(few)])
    found = AlignTable.by_speaker(stored, y, speakers | few)
    with pytest.raises(InputError, match=r"aligner\.utterances_per_speaker: .*lower it"):
        NeuralAligner(**SETTINGS | {"steps": 5, "utterances_per_speaker": 8}).fit_table(found)


def test_a_speaker_of_one_profile_and_no_more_teaches_nothing() -> None:
    x, y, speakers = two_views(6, 3)
    one = x.select(x.keys[::3])
    with pytest.raises(InputError, match="share 6 speakers, of whom 0 have two utterances"):
        AlignTable.by_speaker(one, y, speakers)


def test_without_a_shared_speaker_there_is_nothing_to_fit() -> None:
    x, _, names = two_views(4, 3)
    _, y, others = two_views(4, 3, first_speaker=500)
    with pytest.raises(InputError, match="share 0 speakers"):
        AlignTable.by_speaker(x, y, names | others)
