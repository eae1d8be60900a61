"""Embeddings and their Kaldi tables: exact round trips, and nothing doubtful read."""

import gzip
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import kaldi_native_io
import kaldiio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import nessa.kaldi.directory
import nessa.kaldi.scp
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings, merge_parts, profile_means, speaker_means
from nessa.kaldi.lazy import StoredVectors
from nessa.kaldi.stamps import ModelStamp

# Files are fsynced, so a test's time is the disk's; each example overwrites the file before it.
relaxed = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

STAMP = ModelStamp("new", "0f" * 32, "eval")

ids = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), min_size=1, max_size=12
).filter(lambda key: key.split() == [key])
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def embeddings(draw):
    keys = draw(st.lists(ids, min_size=1, max_size=40, unique=True))
    shape = (len(keys), draw(st.integers(1, 6)))
    return Embeddings(keys, draw(hnp.arrays(np.float32, shape, elements=finite)))


def numbered(count, dim=8, seed=0, first=0, name="id{:05d}-s00-{:05d}"):
    keys = [name.format(number // 3, number) for number in range(first, first + count)]
    return Embeddings(keys, np.random.default_rng(seed).standard_normal((count, dim), np.float32))


def assert_same(left, right):
    assert left.keys == right.keys
    np.testing.assert_array_equal(left.matrix, right.matrix)
    assert np.signbit(left.matrix).tolist() == np.signbit(right.matrix).tolist()


def record(key, *values, kind=b"FV", size=None):
    dtype = {b"FV": "<f4", b"DV": "<f8"}[kind]
    size = len(values) if size is None else size
    payload = np.array(values, dtype).tobytes()
    return key.encode() + b" \0B" + kind + b" \4" + struct.pack("<i", size) + payload


@pytest.fixture
def refuse(tmp_path):
    """Write bytes to a file, and expect that reading it is refused with all of the fragments."""

    def check(content, *fragments, name="x.ark"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            Embeddings.read(path)
        for fragment in (str(path), *fragments):
            assert fragment in str(caught.value)

    return check


# Embeddings in memory


def test_construction_casts_and_keeps():
    single = np.zeros((2, 3), np.float32)
    assert Embeddings(["a", "b"], single).matrix is single
    made = Embeddings(iter(["a", "b"]), [[1, 2], [3, 4]])
    assert made.matrix.dtype == np.float32
    assert made.matrix.flags.c_contiguous
    assert (len(made), made.dim, made.stamp) == (2, 2, None)
    strided = Embeddings(["a", "b"], np.arange(8.0).reshape(2, 4)[:, ::2])
    assert strided.matrix.flags.c_contiguous
    assert len(Embeddings([], np.empty((0, 4)))) == 0


@pytest.mark.parametrize(
    ("keys", "matrix", "message"),
    [
        (["a", "a"], np.zeros((2, 2)), "row 1: duplicate key 'a', also at row 0"),
        (["a", ""], np.zeros((2, 2)), "row 1: key '' is empty"),
        (["a b"], np.zeros((1, 2)), "'a b' has white space"),
        (["a\u00a0b"], np.zeros((1, 2)), "white space"),
        (["a\0"], np.zeros((1, 2)), "NUL"),
        ([b"a"], np.zeros((1, 2)), "is not a string"),
        (["a"], np.zeros((2, 2)), "1 keys need a matrix of as many rows"),
        (["a", "b"], np.zeros(2), "2 keys need a matrix"),
        (["a"], np.zeros((1, 0)), "at least one dimension"),
        (["a"], [["x"]], "real numbers"),
        (["a", "b"], [[1, 2], [3]], "real numbers"),
        (["a", "b"], [[1, 2], [np.nan, np.nan]], "row 1: vector of 'b' has 2 NaN values"),
        (["a"], [[1, -np.inf]], "'a' has 1 infinite values"),
        (["a"], [[1, 1e300]], "'a' has 1 infinite values"),
        (["a"], np.array([[1 + 2j]]), "real numbers"),
        (["\ud800"], np.zeros((1, 2)), "UTF-8"),
        (["a", "b\ufeff"], np.zeros((2, 2)), "row 1: key 'b.*' has a byte order mark"),
    ],
)
def test_doubtful_embeddings_are_refused(keys, matrix, message):
    with pytest.raises(InputError, match=message):
        Embeddings(keys, matrix)


@relaxed
@given(embeddings(), st.data())
def test_rows_gathers_what_a_loop_over_the_keys_finds(table, data):
    wanted = data.draw(st.lists(st.sampled_from(table.keys)))
    rows = table.rows(wanted)
    assert rows.dtype == np.int64
    assert rows.tolist() == [table.keys.index(key) for key in wanted]


@relaxed
@given(embeddings(), st.data())
def test_select_reorders_and_keeps_the_stamp(table, data):
    wanted = data.draw(st.lists(st.sampled_from(table.keys), unique=True))
    table.stamp = STAMP
    chosen = table.select(wanted)
    assert chosen.keys == wanted
    assert chosen.stamp == STAMP
    for key, vector in zip(wanted, chosen.matrix, strict=True):
        np.testing.assert_array_equal(vector, table.matrix[table.keys.index(key)])


def test_missing_keys_are_counted_and_named_once():
    with pytest.raises(InputError, match=r"no vector for 'w', 'x', 'y' and 1 more among 3"):
        numbered(3).rows(["w", "x", "id00000-s00-00001", "w", "y", "z"])
    with pytest.raises(InputError, match="no vector for 'w'"):
        numbered(3).select(["w"])


# Means


@pytest.mark.slow
@relaxed
@given(embeddings(), st.data())
def test_profile_means_equal_a_plain_loop(table, data):
    utterances = st.lists(st.sampled_from(table.keys), min_size=1, unique=True)
    enroll_map = data.draw(st.dictionaries(ids, utterances, min_size=1, max_size=5))
    profiles = profile_means(table, enroll_map)
    assert profiles.keys == list(enroll_map)
    for vector, members in zip(profiles.matrix, enroll_map.values(), strict=True):
        picked = np.array([table.matrix[table.keys.index(key)] for key in members], np.float64)
        rounding = 1e-12 * np.abs(picked).max() + np.finfo(np.float32).smallest_subnormal
        np.testing.assert_allclose(vector, picked.mean(axis=0), rtol=1e-6, atol=rounding)


def test_means_are_summed_in_double_precision():
    table = Embeddings(["a", "b", "c"], [[1e8], [1.0], [-1e8]])
    assert profile_means(table, {"p": table.keys}).matrix[0, 0] == np.float32(1 / 3)


def test_means_cover_dimensions_beyond_one_block():
    table = numbered(10, dim=50)
    got = profile_means(table, {"p": table.keys}).matrix[0]
    np.testing.assert_allclose(got, table.matrix.mean(axis=0, dtype=np.float64), rtol=1e-6)


def test_speaker_means_are_sorted_counted_and():
    table = Embeddings(["u3", "u1", "u2"], [[3, 0], [1, 1], [2, 2]], STAMP)
    means, counts = speaker_means(table, {"u1": "é", "u2": "z", "u3": "é", "unused": "q"})
    assert list(counts.items()) == [("z", 1), ("é", 2)]  # C order: z before é
    assert means.keys == ["z", "é"]
    assert means.matrix.tolist() == [[2, 2], [2, 0.5]]
    assert means.stamp == STAMP


def test_means_of_nothing_or_of_unknown_utterances_are_refused():
    table = numbered(3)
    with pytest.raises(InputError, match="profile 'p' has no utterances"):
        profile_means(table, {"p": []})
    with pytest.raises(InputError, match="profile 'p' lists an utterance twice"):
        profile_means(table, {"p": [table.keys[0]] * 2})
    with pytest.raises(InputError, match="no vector for 'absent'"):
        profile_means(table, {"p": ["absent"]})
    with pytest.raises(InputError, match=r"no speaker for 'id.*1', 'id.*2'"):
        speaker_means(table, {table.keys[0]: "s"})
    assert len(profile_means(table, {})) == 0


# Round trips, and agreement with other Kaldi readers and writers


@relaxed
@given(embeddings())
def test_ark_and_scp_round_trip(tmp_path, table):
    table.write_ark(tmp_path / "x.ark", tmp_path / "x.scp")
    assert_same(Embeddings.read(tmp_path / "x.ark"), table)
    assert_same(Embeddings.read(tmp_path / "x.scp"), table)


@relaxed
@given(embeddings())
def test_ark_bytes_are_those_of_kaldiio(tmp_path, table):
    table.write_ark(tmp_path / "x.ark")
    kaldiio.save_ark(
        str(tmp_path / "k.ark"), dict(zip(table.keys, table.matrix, strict=True)), text=False
    )
    assert (tmp_path / "x.ark").read_bytes() == (tmp_path / "k.ark").read_bytes()


@pytest.mark.parametrize("count", [1, 15, 16, 17, 100, 5000])
def test_runs_of_equal_records_read_as_records_one_by_one(tmp_path, count):
    table = numbered(count)
    table.write_ark(tmp_path / "x.ark", tmp_path / "x.scp")
    assert_same(Embeddings.read(tmp_path / "x.ark"), table)
    assert_same(Embeddings.read(tmp_path / "x.scp"), table)


def test_runs_stop_at_the_first_record_that_differs(tmp_path):
    """Every kind of change in the middle of what looks like one run of 60 equal records."""
    head = [record(f"k{n:02d}", n, n) for n in range(30)]
    tail = [record(f"k{n:02d}", n, n) for n in range(31, 60)]
    values = [[n, n] for n in range(60)]
    for middle, key in [
        (record("longer-key", 30, 30), "longer-key"),
        (record("é3", 30, 30), "é3"),  # as many bytes as k30
        (record("k30", 30, 30, kind=b"DV"), "k30"),
        (b"k30  [ 30 30 ]\n", "k30"),
    ]:
        path = tmp_path / "x.ark"
        path.write_bytes(b"".join([*head, middle, *tail]))
        table = Embeddings.read(path)
        assert table.keys == [f"k{n:02d}" if n != 30 else key for n in range(60)]
        np.testing.assert_array_equal(table.matrix, values)


def test_other_readers_read_ours_exactly(tmp_path):
    table = numbered(50)
    ark, scp = tmp_path / "x.ark", tmp_path / "x.scp"
    table.write_ark(ark, scp)
    for loaded in (dict(kaldiio.load_ark(str(ark))), dict(kaldiio.load_scp(str(scp)).items())):
        assert_same(Embeddings(loaded, np.array(list(loaded.values()))), table)
    for specifier in (f"ark:{ark}", f"scp:{scp}"):
        with kaldi_native_io.SequentialFloatVectorReader(specifier) as reader:
            loaded = {key: np.array(value) for key, value in reader}
        assert_same(Embeddings(loaded, np.array(list(loaded.values()))), table)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("double", [False, True])
def test_arks_of_other_writers_are_read_exactly(tmp_path, text, double):
    values = np.random.default_rng(1).standard_normal((20, 5)).astype(np.float32)
    values = np.round(values * 64) / 64  # six decimal digits, all that Kaldi's text mode writes
    table = Embeddings([f"utt{n}" for n in range(20)], values)
    native = kaldi_native_io.DoubleVectorWriter if double else kaldi_native_io.FloatVectorWriter
    mode = "ark,scp,t" if text else "ark,scp"
    with native(f"{mode}:{tmp_path}/n.ark,{tmp_path}/n.scp") as writer:
        for key, vector in zip(table.keys, values, strict=True):
            writer.write(key, vector.astype(np.float64 if double else np.float32))
    kaldiio.save_ark(
        f"{tmp_path}/k.ark",
        {
            key: vector.astype(np.float64 if double else np.float32)
            for key, vector in zip(table.keys, values, strict=True)
        },
        scp=f"{tmp_path}/k.scp",
        text=text,
    )
    for name in ("n.ark", "n.scp", "k.ark", "k.scp"):
        assert_same(Embeddings.read(tmp_path / name), table)


def test_a_long_ark_of_doubles(tmp_path):
    rows = [record(f"k{number:02d}", number, -number, kind=b"DV") for number in range(60)]
    (tmp_path / "x.ark").write_bytes(b"".join(rows))
    matrix = Embeddings.read(tmp_path / "x.ark").matrix
    np.testing.assert_array_equal(matrix, [[number, -number] for number in range(60)])


def test_text_integers_are_floats(tmp_path):
    (tmp_path / "x.ark").write_text("a  [ 1 2 3 ]\nb [ 4e0 -5 .5 ]")
    assert Embeddings.read(tmp_path / "x.ark").matrix.tolist() == [[1, 2, 3], [4, -5, 0.5]]


def test_text_rows_of_growing_length(tmp_path):
    """In memory text may take more bytes than in its file."""
    rows = [f"k{n} [ 1 2 3 4 5 6 7 8 9 0 ]\n" for n in range(200)]
    (tmp_path / "x.ark").write_text("".join(rows))
    np.testing.assert_array_equal(
        Embeddings.read(tmp_path / "x.ark").matrix, [[1, 2, 3, 4, 5, 6, 7, 8, 9, 0]] * 200
    )


def test_scp_order_and_subsets_over_several_arks(tmp_path):
    left, right = numbered(30), numbered(30, first=30, seed=1)
    left.write_ark(tmp_path / "l.ark", tmp_path / "l.scp")
    right.write_ark(tmp_path / "r.ark", tmp_path / "r.scp")
    lines = [*(tmp_path / "l.scp").read_text().splitlines(), *(tmp_path / "r.scp").open()]
    order = np.random.default_rng(2).permutation(60)[:40]
    (tmp_path / "x.scp").write_text("".join(lines[row].rstrip() + "\n" for row in order))
    both = Embeddings(left.keys + right.keys, np.concatenate([left.matrix, right.matrix]))
    assert_same(Embeddings.read(tmp_path / "x.scp"), both.select([both.keys[n] for n in order]))


@pytest.mark.parametrize("change", ["swap", "skip", "rename"])
def test_an_scp_that_departs_from_its_ark_is_followed_and_still_checked(tmp_path, change):
    table = numbered(9000)
    table.write_ark(tmp_path / "x.ark", tmp_path / "x.scp")
    lines = (tmp_path / "x.scp").read_text().splitlines(keepends=True)
    rows = list(range(9000))
    if change == "swap":
        rows[6000], rows[6001] = rows[6001], rows[6000]
    if change == "skip":
        del rows[5000:5010]
    if change == "rename":
        lines[6000] = lines[6000].replace("id", "di")
    (tmp_path / "x.scp").write_text("".join(lines[row] for row in rows))
    if change == "rename":
        with pytest.raises(InputError, match=r"vector of 'di\d+-s00-06000' is not here"):
            Embeddings.read(tmp_path / "x.scp")
    else:
        chosen = table.select([table.keys[row] for row in rows])
        assert_same(Embeddings.read(tmp_path / "x.scp"), chosen)


def test_scp_lists_files_of_one_bare_vector(tmp_path):
    kaldi_native_io.FloatVector([1.0, 2.0]).write(f"{tmp_path}/b.vec", binary=True)
    (tmp_path / "t.vec").write_text(" [ 3 4 ]\n")
    (tmp_path / "x.scp").write_text(f"b {tmp_path}/b.vec\nt {tmp_path}/t.vec\n")
    assert Embeddings.read(tmp_path / "x.scp").matrix.tolist() == [[1, 2], [3, 4]]


def test_relative_scp_paths_are_written_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = numbered(4)
    table.write_ark("exp/a b/x.ark", "exp/a b/x.scp", relative=True)
    assert (tmp_path / "exp/a b/x.scp").read_text().split("\n")[0].endswith(" exp/a b/x.ark:18")
    assert_same(Embeddings.read("exp/a b/x.scp"), table)


# Refusals

GOOD = record("a", 1, 2)


@pytest.mark.parametrize("fillers", [0, 40])  # 40 are enough to be read as one array
@pytest.mark.parametrize(
    ("bad", "offset", "complaint"),
    [
        (record("b", 1, np.nan), 2, "vector of 'b' has 1 NaN values; extract it again"),
        (record("b", np.inf, 1), 2, "'b' has 1 infinite values; extract it again"),
        (record("b", 1e39, 1, kind=b"DV"), 2, "'b' has values beyond float32"),
        (record("b", 1, np.nan, kind=b"DV"), 2, "'b' has 1 NaN values"),
        (record("b", 1, 2, 3), 2, "'b' has dimension 3, those before it 2"),
        (record("b", 1, 2, kind=b"DV")[:-3], 2, "'b' goes 3 bytes beyond the end"),
        (record("b", 1, 2)[:-1], 2, "'b' goes 1 bytes beyond the end"),
        (record("b", 1, 2)[:8], 2, "'b' is cut short"),
        (b"b \0", 2, "'b' is cut short"),
        (b"b ", 2, "'b' is cut short"),
        (b"b", 0, "expected a key and a vector"),
        (record("b", size=0), 2, "'b' has dimension 0"),
        (record("b", 1, size=-1), 2, "'b' has dimension -1"),
        (record("b", 1, size=2**31 - 1), 2, "'b' goes 8589934584 bytes beyond the end"),
        (record("a", 3, 4), 2, "duplicate key 'a', also at"),
        (record("", 3, 4), 0, "expected a key and a vector"),
        (record("b\tc", 3, 4), 2, "'b' begins b'c \\x00BFV"),
        (record("b\x0bc", 3, 4), 0, "'b\\x0bc' has white space"),
        (record("b\0", 3, 4), 0, "NUL"),
        (record("b\ufeff", 3, 4), 0, "byte order mark"),
        (b"\xff" + GOOD, 0, "key is not UTF-8"),
        (b"b \0BFM \4\2\0\0\0\4\2\0\0\0" + bytes(16), 2, "'b' is a matrix of 2 rows"),
        (b"b \0BDM \4\2\0\0\0\4\1\0\0\0" + bytes(16), 2, "'b' is a matrix of 2 rows"),
        (b"b \0BFM \4\0\0\0\0\4\2\0\0\0", 2, "'b' is a matrix of 0 rows"),
        (b"b \0BFM \4\1\0\0\0\4\2\0\0\0" + bytes(7), 2, "'b' goes 1 bytes beyond the end"),
        (b"b \0BFM \4\1\0\0\0\4\3\0\0\0" + bytes(12), 2, "'b' has dimension 3"),
        (b"b \0BFM \4\1\0\0\0\4\2", 2, "'b' is cut short"),
        (b"b \0BFM \4\1\0\0\0\x08\2\0\0\0" + bytes(8), 2, "'b' has no dimension"),
        (b"b \0BCM \0\0\0\0", 2, "'b' is a compressed matrix"),
        (b"b \0BCM2 \0\0\0\0", 2, "'b' is a compressed matrix"),
        (b"b \0B\4\2\0\0\0\4\1\0\0\0\4\1\0\0\0", 2, "write it as FV"),
        (b"b \0BFV \x08\2\0\0\0" + bytes(8), 2, "write it as FV"),
        (b"b NPY12345678", 2, "'b' begins b'NPY12345', not as a Kaldi vector"),
        (b"b  [\n 1 2\n 3 4 ]\n", 2, "is a matrix of 2 rows"),
        (b"b  [ 1 2", 2, "is cut short"),
        (b"b  [ 1 2\nc  [ 3 4 ]\n", 2, "'b' has no ']': it is cut short"),
        (b"b  [ 1 2 ] 3\n", 2, "is followed by more on its line"),
        (b"b  [ ]\n", 2, "'b' is empty"),
        (b"b  [ 1 x ]\n", 2, "not a number"),
        (b"b  [ 1 1_0 ]\n", 2, "not a number"),
        (b"b  [ 1 nan ]\n", 2, "'b' has 1 NaN values"),
        (b"b  [ 1 1e39 ]\n", 2, "'b' has values beyond float32"),
        (b"\n", 0, "expected a key and a vector"),
    ],
)
def test_bad_records_are_refused_with_key_and_byte(refuse, bad, offset, complaint, fillers):
    good = b"".join(record(f"f{number:02d}", 1, 2) for number in range(fillers)) + GOOD
    refuse(good + bad, f"byte {len(good) + offset}: ", complaint)


@pytest.mark.slow
@relaxed
@given(st.data())
def test_a_damaged_ark_is_read_or_refused_but_never_crashes(tmp_path, data):
    whole = b"".join(record(f"k{number:02d}", number, 1) for number in range(40))
    start = data.draw(st.integers(0, len(whole)))
    patch = data.draw(st.binary(max_size=12))
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    path = tmp_path / "x.ark"
    path.write_bytes((whole[:start] + patch + whole[start + len(patch) :])[:cut])
    try:
        table = Embeddings.read(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert np.isfinite(table.matrix).all()
        assert len(set(table.keys)) == len(table)


def test_empty_and_unreadable_files_are_refused(refuse, tmp_path):
    refuse(b"", "holds no vectors")
    refuse(b"", "holds no vectors", name="x.scp")
    refuse(b"", "expected a .scp, an .ark or an embeddings directory", name="x.txt")
    os.mkfifo(tmp_path / "fifo.ark")
    with pytest.raises(InputError, match="not a regular file"):
        Embeddings.read(tmp_path / "fifo.ark")
    with pytest.raises(InputError, match="no such file"):
        Embeddings.read(tmp_path / "absent.ark")
    with pytest.raises(InputError, match=r"xvector\.scp: no such file"):
        Embeddings.read(tmp_path)
    with pytest.raises(InputError, match=r"absent\.npz: no such file or folder"):
        Embeddings.read(tmp_path / "absent.npz")


def test_a_compressed_ark_is_called_so(tmp_path):
    Embeddings(["a"], np.ones((1, 2))).write_ark(tmp_path / "x.ark", tmp_path / "x.scp")
    (tmp_path / "y.ark").write_bytes(gzip.compress((tmp_path / "x.ark").read_bytes()))
    (tmp_path / "y.scp").write_text((tmp_path / "x.scp").read_text().replace("x.ark", "y.ark"))
    for name in ("y.ark", "y.scp"):
        with pytest.raises(InputError, match=r"y\.ark: is compressed; write it .* in its place"):
            Embeddings.read(tmp_path / name)
    (tmp_path / "new.ark").write_bytes(gzip.decompress((tmp_path / "y.ark").read_bytes()))
    (tmp_path / "y.scp").write_text((tmp_path / "x.scp").read_text().replace("x.ark", "new.ark"))
    for name in ("new.ark", "y.scp"):
        assert Embeddings.read(tmp_path / name).keys == ["a"]


def test_tables_of_products_are_called_so(tmp_path):
    """As those that `nessa map` writes where it was given one."""
    (folder := tmp_path / "mapped").mkdir()
    for path in (tmp_path / "x.npz", tmp_path / "x.parquet", folder / "1.parquet"):
        path.touch()
        place = folder if path.parent == folder else path
        with pytest.raises(InputError, match=rf"{place}: is a table \(.*; give a .scp"):
            Embeddings.read(place)
    two = Embeddings(["a", "b"], np.eye(2))
    two.write(folder)
    assert Embeddings.read(folder).keys == two.keys


def test_a_key_longer_than_its_ark_is_refused(tmp_path):
    Embeddings(["a"], np.ones((1, 2))).write_ark(tmp_path / "x.ark", tmp_path / "x.scp")
    line = (tmp_path / "x.scp").read_text()
    (tmp_path / "x.scp").write_text(f"{line}{'b' * 99}{line[1:]}")
    with pytest.raises(InputError, match="is not here: the scp is stale"):
        Embeddings.read(tmp_path / "x.scp")


def test_a_path_that_is_too_long_for_the_system_is_refused(tmp_path):
    (tmp_path / "x.scp").write_text(f"a {'x' * 5000}:2\n")
    with pytest.raises(InputError, match=r"x\.scp: line 1: x+: no such file"):
        Embeddings.read(tmp_path / "x.scp")


def test_a_claimed_size_allocates_nothing(tmp_path):
    """A 20-byte file that claims 8 GB is refused inside 4 GB of address space."""
    path = tmp_path / "x.ark"
    path.write_bytes(record("a", 1, 2, size=2**31 - 1))
    code = (
        "import sys, resource; from nessa.kaldi.embeddings import Embeddings, InputError\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({4 << 30}, {resource.RLIM_INFINITY}))\n"
        "try: Embeddings.read(sys.argv[1])\n"
        "except InputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert "beyond the end of the file" in done.stdout, done.stderr


@pytest.mark.slow
def test_more_arks_than_files_may_be_open_at_once(tmp_path):
    """The limit is raised as far as it may be; what is beyond that names the remedy."""
    for part in range(40):
        Embeddings([f"u{part:02d}"], np.ones((1, 4), np.float32)).write_part(tmp_path, part + 1)
    merge_parts(tmp_path, 40)
    code = (
        "import sys, resource; from pathlib import Path; from nessa.errors import InputError\n"
        "from nessa.kaldi.lazy import StoredVectors\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, int(sys.argv[2])))\n"
        "try: print(sum(map(len, StoredVectors(Path(sys.argv[1])).open())), 'read')\n"
        "except InputError as error: print(error)\n"
    )
    for most, said in (("100", "40 read"), ("20", "Too many open files; raise `ulimit -n`")):
        command = [sys.executable, "-c", code, tmp_path / "xvector.scp", most]
        done = subprocess.run(command, capture_output=True, text=True)
        assert said in done.stdout, done.stderr


class Canary:
    """Makes a file when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickles_are_refused_and_not_loaded(refuse, tmp_path):
    canary = tmp_path / "canary"
    refuse(GOOD + b"b PKL" + pickle.dumps(Canary(canary)), "'b' is a Python pickle")
    assert not canary.exists()


def test_pipes_are_refused_and_not_run(refuse, tmp_path):
    canary = tmp_path / "canary"
    refuse(f"a touch {canary} |\n".encode(), "line 1: touch", "not run", name="x.scp")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ("a {ark}:2\na {ark}:2\n", ["line 2: duplicate key 'a'", "line 1"]),
        ("a {ark}:2\n\na {ark}:2\n", ["line 2", "expected `key ark:offset`"]),
        ("a\n", ["line 1", "expected `key ark:offset`"]),
        ("a {ark}:2[0:1]\n", ["line 1", "range specifiers are not supported"]),
        ("a {ark}.gone:2\n", ["line 1", "no such file"]),
        ("c {ark}:2\n", ["byte 2: vector of 'c' is not here: the scp is stale"]),
        ("a {ark}:3\n", ["byte 3: vector of 'a' is not here"]),
        ("a {ark}:1\n", ["byte 1: vector of 'a' is not here"]),
        ("a {ark}:21\n", ["byte 21: vector of 'a' is not here"]),  # the ark has 20 bytes
        ("a {ark}:9999\n", ["byte 9999: vector of 'a' is not here"]),
        ("a {ark}\n", ["begins b'a \\x00BFV"]),
        ("a {bare}\n", ["byte 0: vector of 'a' is followed by more"]),
        ("a {ark}:2\nw {other}:2\n", ["line 2", "dimension 3, those before it 2"]),
        ("b {nan}:2\n", ["line 1: vector of 'b' has 1 NaN values"]),
    ],
)
def test_bad_scps_are_refused_with_line(refuse, tmp_path, content, fragments):
    paths = {name: tmp_path / f"{name}.ark" for name in ("ark", "other", "nan", "bare")}
    paths["ark"].write_bytes(GOOD)
    paths["other"].write_bytes(record("w", 1, 2, 3))
    paths["nan"].write_bytes(record("b", 1, np.nan))
    paths["bare"].write_bytes(GOOD[2:] + b"more")
    refuse(content.format(**paths).encode(), *fragments, name="x.scp")


# The embeddings directory

UTT2SPK = {f"id{n // 3:05d}-s00-{n:05d}": f"id{n // 3:05d}" for n in range(12)}


def listing(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_a_complete_directory(tmp_path):
    table = numbered(12)
    table.stamp = STAMP
    shuffled = table.select([table.keys[n] for n in np.random.default_rng(3).permutation(12)])
    shuffled.write(tmp_path, UTT2SPK)
    assert set(listing(tmp_path)) == {
        *("xvector.1.ark", "xvector.1.scp", "xvector.scp", "spk_xvector.ark", "spk_xvector.scp"),
        *("num_utts.ark", "info.json"),
    }
    back = Embeddings.read(tmp_path)
    assert_same(back, table)
    assert back.stamp == STAMP
    assert Embeddings.read(tmp_path / "xvector.scp").stamp == STAMP
    profiles = Embeddings.read(tmp_path / "spk_xvector.scp")
    assert profiles.stamp == STAMP
    assert_same(profiles, speaker_means(table, UTT2SPK)[0])
    assert (tmp_path / "num_utts.ark").read_text() == "".join(f"id{n:05d} 3\n" for n in range(4))
    assert json.loads((tmp_path / "info.json").read_text()) == {
        "model": "new", "fingerprint": "0f" * 32, "set": "eval", "dim": 8, "count": 12,
    }  # fmt: skip


def write_parts(directory, table, jobs, only=None):
    for job in range(1, jobs + 1):
        if only is None or job in only:
            table.select(table.keys[job - 1 :: jobs]).write_part(directory, job)


def test_equal_input_gives_equal_bytes_whatever_came_before(tmp_path):
    table = numbered(12)
    write_parts(tmp_path, table, 3)
    merge_parts(tmp_path, 3, UTT2SPK, STAMP)
    fresh = listing(tmp_path)

    numbered(12, dim=4, seed=9).write(tmp_path, UTT2SPK)
    write_parts(tmp_path, numbered(12, seed=5), 7)
    merge_parts(tmp_path, 7, UTT2SPK, STAMP)
    assert "xvector.7.ark" in listing(tmp_path)
    (tmp_path / ".xvector.2.ark.k1ll3d__.tmp").touch()  # half-written
    write_parts(tmp_path, table, 3)
    merged = merge_parts(tmp_path, 3, UTT2SPK, STAMP)
    assert listing(tmp_path) == fresh
    assert_same(merged, Embeddings.read(tmp_path))
    assert merged.stamp == STAMP


def test_merged_vectors_and_means_do_not_depend_on_the_number_of_parts(tmp_path):
    table = numbered(12)
    for jobs in (1, 5, 20):  # of 20 parts some are empty
        write_parts(tmp_path / str(jobs), table, jobs)
        assert_same(merge_parts(tmp_path / str(jobs), jobs, UTT2SPK), table)
    assert (
        len({(tmp_path / name / "spk_xvector.ark").read_bytes() for name in ("1", "5", "20")}) == 1
    )


def test_without_speakers_or_stamp_their_files_are_left_out_and_old_ones_removed(tmp_path):
    stamped = numbered(12)
    stamped.stamp = STAMP
    stamped.write(tmp_path, UTT2SPK)
    merge_parts(tmp_path, 1)
    assert sorted(listing(tmp_path)) == ["xvector.1.ark", "xvector.1.scp", "xvector.scp"]
    assert Embeddings.read(tmp_path).stamp is None


def test_merging_refuses_missing_repeated_and_unexpected_utterances(tmp_path):
    table = numbered(12)
    write_parts(tmp_path, table, 5, only={1, 3})
    with pytest.raises(InputError, match=r"no 'xvector.2.scp', 'xvector.4.scp', 'x"):
        merge_parts(tmp_path, 5, UTT2SPK)
    write_parts(tmp_path, table, 5, only={2, 4})
    table.select(table.keys[:1]).write_part(tmp_path, 5)
    with pytest.raises(InputError, match=r"xvector.5.scp: line 1: duplicate key 'id00000-s00-0000"):
        merge_parts(tmp_path, 5, UTT2SPK)
    numbered(1, dim=3, first=77).write_part(tmp_path, 5)
    with pytest.raises(
        InputError, match=r"xvector.5.scp: line 1: .*dimension 3, those before it 8"
    ):
        merge_parts(tmp_path, 5, UTT2SPK)
    write_parts(tmp_path, table, 5)
    with pytest.raises(InputError, match="no vector for 'absent' of utt2spk"):
        merge_parts(tmp_path, 5, UTT2SPK | {"absent": "id"})
    with pytest.raises(InputError, match=r"not in utt2spk: .* and 9 more"):
        merge_parts(tmp_path, 5, {})
    with pytest.raises(InputError, match="holds no vectors"):
        Embeddings([], np.empty((0, 8))).write(tmp_path / "empty")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 11}, "says 11 vectors of dimension 8, but xvector.scp has 12 of dimension 8"),
        ({"dim": 9}, "says 12 vectors of dimension 9"),
        ({"model": None}, "no 'model' of type str"),
        ({"count": "12"}, "no 'count' of type int"),
        ({"side": "left"}, "side 'left' is neither enroll nor runtime"),
    ],
)
def test_a_stamp_that_does_not_fit_is_refused(tmp_path, change, message):
    table = numbered(12)
    table.stamp = STAMP
    table.write(tmp_path)
    info = json.loads((tmp_path / "info.json").read_text())
    (tmp_path / "info.json").write_text(json.dumps(info | change))
    with pytest.raises(InputError, match=rf"info\.json: {message}"):
        Embeddings.read(tmp_path)


@pytest.mark.parametrize("original", ["made anew", "gone"])
def test_a_copied_or_moved_directory_is_not_read_from_the_original(tmp_path, original):
    """The tables name the arks of the original, which are another model's by now."""
    first, copy, table = tmp_path / "first", tmp_path / "copy", numbered(12)
    table.stamp = STAMP
    table.write(first, UTT2SPK)
    shutil.copytree(first, copy)
    shutil.rmtree(first)
    if original == "made anew":
        numbered(12, seed=1).write(first, UTT2SPK)
    for read in (
        lambda: Embeddings.read(copy),
        lambda: Embeddings.read(copy / "spk_xvector.scp"),
        lambda: list(StoredVectors(copy / "xvector.scp").open()),
    ):
        with pytest.raises(InputError, match=r"copy/\w+\.scp: line 1: .*first.*--stage prepare"):
            read()


def test_tables_of_ours_may_name_arks_through_links_relatively_or_elsewhere(tmp_path, monkeypatch):
    table = numbered(12)
    table.stamp = STAMP
    (tmp_path / "disk").mkdir()
    (tmp_path / "exp").symlink_to("disk")
    table.write(tmp_path / "exp/set")
    assert_same(Embeddings.read(tmp_path / "disk/set"), table)

    monkeypatch.chdir(tmp_path / "disk")
    table.write("relative", relative=True)
    (tmp_path / "disk").rename(tmp_path / "moved")
    assert_same(Embeddings.read(tmp_path / "moved/relative"), table)

    own, without_info = tmp_path / "own", tmp_path / "without_info"
    table.write(own)
    shutil.copytree(own, tmp_path / "without_ark", ignore=lambda *_: ["xvector.1.ark"])
    assert_same(Embeddings.read(tmp_path / "without_ark"), table)
    shutil.copytree(own, without_info, ignore=lambda *_: ["info.json"])
    assert_same(Embeddings.read(without_info), table)


def test_a_job_killed_at_any_moment_is_never_seen_half_done(tmp_path, monkeypatch):
    """Fail at the n-th file for every n: what is complete is right, and a rerun mends the rest."""
    old, new = numbered(12, seed=1), numbered(12, seed=2)
    old.stamp, new.stamp = replace(STAMP, model="old"), STAMP
    new.write(tmp_path / "reference", UTT2SPK)
    directory = tmp_path / "rerun"
    real = nessa.kaldi.directory.atomic_open

    def rerun():
        new.write(directory, UTT2SPK)
        for name, content in listing(tmp_path / "reference").items():
            moved = content.replace(b"/reference/", b"/rerun/")
            assert (directory / name).read_bytes() == moved

    for fatal in range(20):
        old.write(directory, UTT2SPK)
        opened = iter(range(100))

        def failing(path, mode="w", opened=opened, fatal=fatal):
            if next(opened) == fatal:
                raise OSError(28, "No space left on device")
            return real(path, mode)

        with monkeypatch.context() as patched:
            patched.setattr(nessa.kaldi.directory, "atomic_open", failing)
            patched.setattr(nessa.files, "atomic_open", failing)
            patched.setattr(nessa.kaldi.scp, "atomic_open", failing)
            try:
                new.write(directory, UTT2SPK)
            except OSError:
                assert not (directory / "xvector.scp").exists()
                if (directory / "spk_xvector.scp").exists():  # never without its model
                    assert Embeddings.read(directory / "spk_xvector.scp").stamp == STAMP
                rerun()
            else:
                assert fatal == 7  # two files of the part, two of the speakers, and three more
                return
    pytest.fail("never ran to its end")


def test_the_tables_that_a_killed_job_was_removing_never_lack_their_model(tmp_path, monkeypatch):
    table, real = numbered(12), Path.unlink
    table.stamp = STAMP
    for fatal in range(20):
        table.write(tmp_path, UTT2SPK)
        removed = iter(range(100))

        def failing(path, missing_ok=False, removed=removed, fatal=fatal):
            if next(removed) == fatal:
                raise KeyboardInterrupt
            real(path, missing_ok)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", failing)
            try:
                table.write_part(tmp_path, 1)
            except KeyboardInterrupt:
                left = sorted(path.name for path in tmp_path.glob("*xvector.[sa]*"))
                assert not left or (tmp_path / "info.json").exists(), left
            else:
                assert fatal > 5  # the tables, the counts and info.json
                return
    pytest.fail("never ran to its end")


def test_an_ark_cut_while_written_keeps_the_old_one_and_no_scp(tmp_path, monkeypatch):
    old, new = numbered(12, seed=1), numbered(12, seed=2)
    old.write_ark(tmp_path / "x.ark", tmp_path / "x.scp")
    before = (tmp_path / "x.ark").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        new.write_ark(tmp_path / "x.ark", tmp_path / "x.scp")
    assert listing(tmp_path) == {"x.ark": before}


def test_what_is_no_complete_directory_leaves_the_one_that_is_there(tmp_path):
    Embeddings(["a", "b"], np.eye(2)).write(tmp_path, {"a": "s", "b": "s"})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for embeddings in (Embeddings(["q"], np.eye(1)), Embeddings([], np.empty((0, 2)))):
        with pytest.raises(InputError, match="run extraction again"):
            embeddings.write(tmp_path, {"r": "s"})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
