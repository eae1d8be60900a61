"""Profile stores of a product: mapped in parts, resumed, refused by row."""

import csv
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import nessa.stores.tables
from nessa.alignment import Aligner, ProcrustesAligner
from nessa.errors import InputError
from nessa.files import write_json
from nessa.kaldi.embeddings import Embeddings
from nessa.production import stores
from nessa.production.stores import map_stores, verify_store
from nessa.stores.tables import read_store, read_table
from tests.conftest import Command
from tests.pairs import two_views

CLEAN = (0.1, 0.1)  # noise, less of which lets a model show in its embeddings


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return ProcrustesAligner().fit(*two_views(40, 2))


@pytest.fixture(scope="module")
def profiles() -> Embeddings:
    return two_views(30, 5, first_speaker=200)[0]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nessa.stores.tables, "ROWS_PER_PART", 40)  # of 150


def write(path: Path, keys: list, matrix: np.ndarray, fixed: bool = False, rows: int = 25) -> Path:
    vectors: pa.Array = pa.array(matrix.tolist(), pa.list_(pa.float32()))
    if fixed:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    parquet.write_table(pa.table({"id": keys, "embedding": vectors}), path, row_group_size=rows)
    return path


def store(form: str, folder: Path, profiles: Embeddings) -> Path:
    keys, matrix = profiles.keys, profiles.matrix
    if form == "npz":
        np.savez(folder / "store.npz", ids=np.array(keys), embeddings=matrix)
        return folder / "store.npz"
    if form == "folder":
        (folder / "store").mkdir()
        write(folder / "store/a.parquet", keys[:70], matrix[:70])
        write(folder / "store/b.parquet", keys[70:], matrix[70:], fixed=True)
        return folder / "store"
    return write(folder / "store.parquet", keys, matrix.astype(np.float64), form == "fixed")


def map_store(source: Path, output: Path, aligner: Aligner) -> tuple[int, int]:
    """The profiles of an enrollment side, and how many of them were mapped already."""
    (line,) = map_stores(aligner, {"enroll": source}, output, dry_run=False)
    count, kept = re.findall(r"(\d+) profiles mapped, (\d+) of them", line)[0]
    return int(count), int(kept)


@pytest.mark.parametrize("form", ["npz", "lists", "fixed", "folder"])
def test_every_form_is_mapped_with_its_ids(
    nessa: Command, aligner: Aligner, profiles: Embeddings, tmp_path: Path, form: str
) -> None:
    aligner.save(tmp_path / "aligner")
    source = store(form, tmp_path, profiles)
    words = ["map", "--aligner", tmp_path / "aligner", "--output", tmp_path / "out"]
    done = nessa(*words, "--enroll", source, "--dry-run")
    assert done.status == 0 and "150 profiles would be mapped" in done.out
    assert not (tmp_path / "out").exists()
    assert nessa(*words, "--enroll", source).status == 0
    table = parquet.read_table(tmp_path / "out/enroll")
    assert table.column("id").to_pylist() == profiles.keys
    mapped = np.stack(table.column("embedding").to_numpy(zero_copy_only=False))
    np.testing.assert_allclose(mapped, aligner.map_enroll(profiles.matrix), atol=1e-6)
    assert len(list((tmp_path / "out/enroll").glob("part-*.parquet"))) >= 4
    nessa(*words, "--enroll", tmp_path / "out/enroll").refused("is mapped already")


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    aligner: Aligner, profiles: Embeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, parts = store("lists", tmp_path, profiles), tmp_path / "parts"
    calls, whole = [], stores._write_part

    def killed(path: Path, keys: list[str], *rest: object) -> None:
        calls.append(len(keys))
        if len(calls) == 3:
            raise KeyboardInterrupt
        whole(path, keys, *rest)

    map_store(source, tmp_path / "whole", aligner)
    with monkeypatch.context() as patch:
        patch.setattr(stores, "_write_part", killed)
        with pytest.raises(KeyboardInterrupt):
            map_store(source, parts, aligner)
    assert not (parts / "enroll/_info.json").exists()
    for name in ("enroll/.part-000002.parquet", ".enroll_outliers.csv"):  # half-written
        (parts / f"{name}.k1ll3d__.tmp").touch()
    count, kept = map_store(source, parts, aligner)
    assert (count, kept) == (150, sum(calls[:2]))
    for folder in ("", "enroll"):
        assert {*os.listdir(parts / folder)} == {*os.listdir(tmp_path / "whole" / folder)}
    for path in (tmp_path / "whole/enroll").iterdir():
        assert path.read_bytes() == (parts / "enroll" / path.name).read_bytes()


def test_parts_of_another_store_are_made_again(
    aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    source = store("lists", tmp_path, profiles)
    for keys in (profiles.keys, profiles.keys[:50]):
        write(source, keys, profiles.matrix[: len(keys)])
        out = tmp_path / "out"
        assert map_store(source, out, aligner)[0] == len(keys)
    assert sum(len(keys) for keys, _ in read_store(tmp_path / "out/enroll")) == 50
    renamed = [f"{key}-of-old" for key in keys]
    write(source, renamed, profiles.matrix[:50])
    assert map_store(source, out, aligner) == (50, 0)
    assert read_ids(out / "enroll") == renamed


def test_a_store_that_is_mapped_anew_is_unfinished_until_the_end(
    aligner: Aligner, profiles: Embeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = store("lists", tmp_path, profiles), tmp_path / "out"
    map_store(source, out, aligner)
    write(source, profiles.keys, profiles.matrix[::-1])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stores, "_write_part", killed)
    with pytest.raises(KeyboardInterrupt):
        map_store(source, out, aligner)
    with pytest.raises(InputError, match="not a mapped store"):
        verify_store(out / "enroll", source, aligner)


def test_a_side_that_is_fitted_anew_in_its_space_needs_a_new_folder(
    aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    source, out = store("npz", tmp_path, profiles), tmp_path / "out"
    other = ProcrustesAligner().fit(*two_views(50, 2))
    other.joined = aligner.space()  # as with the runtime side frozen, on a scale of its own
    for kept in (0, 150):
        assert map_store(source, out, aligner) == (150, kept)
    with pytest.raises(InputError, match="on another scale; give another --output"):
        map_store(source, out, other)
    for own in (other, aligner.mirrored()):
        with pytest.raises(InputError, match="name the aligner that it was mapped with"):
            verify_store(out / "enroll", source, own)
    shutil.copytree(out, tmp_path / "before")
    for part in (tmp_path / "before/enroll").glob("*.parquet"):  # by an earlier version
        table = parquet.read_table(part)
        told = {k: v for k, v in table.schema.metadata.items() if k != b"nessa_map"}
        parquet.write_table(table.replace_schema_metadata(told), part)
    with pytest.raises(InputError, match="on another scale; give another --output"):
        map_store(source, tmp_path / "before", other)
    assert map_store(source, tmp_path / "before", aligner)[0] == 150
    assert "within" in verify_store(out / "enroll", source, aligner)
    (tmp_path / "link").mkdir()
    (tmp_path / "link/enroll").symlink_to((out / "enroll").rename(tmp_path / "elsewhere"))
    assert "within" in verify_store(tmp_path / "link/enroll", source, aligner)


def test_a_broken_part_is_made_again_of_an_aligner_that_joined_a_space_too(
    aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    joined = ProcrustesAligner().fit(*two_views(50, 2))
    joined.joined = aligner.space()
    source, out = store("npz", tmp_path, profiles), tmp_path / "out"
    for own in (aligner, joined):
        shutil.rmtree(out, ignore_errors=True)
        map_store(source, out, own)
        parts = sorted((out / "enroll").glob("part-*.parquet"))
        before = parts[0].read_bytes()
        parts[0].write_bytes(before[:99])
        assert map_store(source, out, own)[0] == 150
        assert parts[0].read_bytes() == before


def test_a_store_that_another_aligner_mapped_is_left_as_it_is(
    nessa: Command, aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    source, mapped = store("npz", tmp_path, profiles), tmp_path / "out/enroll"
    for name, own in (("first", aligner), ("second", ProcrustesAligner().fit(*two_views(50, 2)))):
        own.save(tmp_path / name)
    words = ["map", "--enroll", source, "--output", mapped.parent, "--aligner"]
    assert nessa(*words, tmp_path / "first").status == 0
    refused = "was mapped by another aligner; give another --output"
    for missing in ("none", "_info.json"):  # the latter where a run was interrupted
        (mapped / missing).unlink(missing_ok=True)
        before = {path: path.read_bytes() for path in mapped.iterdir()}
        for more in ([], ["--dry-run"]):
            nessa(*words, tmp_path / "second", *more).refused("out/enroll", refused)
        assert {path: path.read_bytes() for path in mapped.iterdir()} == before
    assert nessa(*words, tmp_path / "first").status == 0


def test_the_profiles_of_the_other_model_are_not_written_over_by_those_of_the_mirror(
    nessa: Command, aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    aligner.save(tmp_path / "first")
    aligner.mirrored().save(tmp_path / "mirror")
    source, out = store("npz", tmp_path, profiles), tmp_path / "out"
    others = two_views(9, 5)[1]
    heard = write(tmp_path / "y.parquet", others.keys, others.matrix)
    words = ["map", "--enroll", source, "--aligner", tmp_path / "first", "--output", out]
    assert nessa(*words).status == 0
    words = ["map", "--enroll", heard, "--aligner", tmp_path / "mirror", "--output"]
    for missing in ("none", "_info.json"):  # the latter where a run was interrupted
        (out / "enroll" / missing).unlink(missing_ok=True)
        before = contents(out)
        nessa(*words, out).refused(f"{out}/enroll: ", "of the other model", "another --output")
        assert contents(out) == before
    assert nessa(*words, tmp_path / "own").status == 0


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("fault", ["arks", "store", "row"])
def test_a_store_is_not_written_where_the_other_side_is_refused(
    nessa: Command, aligner: Aligner, profiles: Embeddings, tmp_path: Path, fault: str
) -> None:
    aligner.save(tmp_path / "aligner")
    source, out = store("npz", tmp_path, profiles), tmp_path / "out"
    runtime = source
    if fault == "arks":
        runtime = tmp_path / "y"
        Embeddings(["u"], np.ones((1, 3), np.float32)).write(runtime)  # of another dimension
    elif fault == "row":
        heard = two_views(30, 5, first_speaker=200)[1].matrix
        matrix = np.where(np.arange(150)[:, None] == 99, 0, heard)
        runtime = write(tmp_path / "y.parquet", profiles.keys, matrix)
    else:
        (out / "runtime").mkdir(parents=True)
        write_json(out / "runtime/_info.json", {"space": "of another"})
    words = "map", "--enroll", source, "--runtime", runtime, "--aligner", tmp_path / "aligner"
    for more in ([], ["--dry-run"]):
        done = nessa(*words, "--output", out, *more)
        told = {
            "arks": "/y: ",
            "row": "y.parquet: row 99",
            "store": "was mapped by another aligner",
        }
        done.refused(told[fault])
    assert not (out / "enroll").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda k, m: (["x y", *k[1:]], m), "rows from 0 .*'x y'.*white space"),
        (lambda k, m: ([*k[:-1], k[-2]], m), "duplicate id"),
        (lambda k, m: ([*k[:-1], k[0]], m), "duplicate id 'id00200-s0-00000'"),
        (lambda k, m: (k, np.where(np.arange(len(m))[:, None] == 99, np.nan, m)), "rows from"),
        (lambda k, m: ([*k[:-1], None], m), "row 149: the id is null"),
        (lambda k, m: (k[:0], m[:0]), "holds no profiles"),
    ],
    ids=["white space", "twice", "twice, far apart", "nan", "null", "empty"],
)
def test_bad_rows_are_named(
    aligner: Aligner, profiles: Embeddings, tmp_path: Path, spoil, message: str
) -> None:
    path, out = write(tmp_path / "bad.parquet", profiles.keys, profiles.matrix), tmp_path / "out"
    map_store(path, out, aligner)
    before = contents(out)
    write(path, *spoil(profiles.keys, np.roll(profiles.matrix, 1, axis=0)))
    with pytest.raises(ValueError, match=f"bad.parquet: .*{message}"):
        map_store(path, out, aligner)
    assert contents(out) == before  # which an application may be reading


def test_what_is_no_store_is_refused(nessa: Command, aligner: Aligner, tmp_path: Path) -> None:
    aligner.save(tmp_path / "aligner")
    words = ["map", "--aligner", tmp_path / "aligner", "--output", tmp_path / "out", "--enroll"]
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    nessa(*words, tmp_path / "a.parquet").refused("a.parquet: not Parquet")
    nessa(*words, tmp_path / "none.parquet").refused("none.parquet: no such file")
    parquet.write_table(pa.table({"key": ["a"]}), tmp_path / "b.parquet")
    nessa(*words, tmp_path / "b.parquet").refused("b.parquet: no column 'id'")
    for longer in ([1.0, 2.0], [1.0, 2.0, 3.0]):  # the latter of an even number of values
        ragged = pa.array([[1.0], longer], pa.list_(pa.float32()))
        table = pa.table({"id": ["a", "b"], "embedding": ragged})
        parquet.write_table(table, tmp_path / "c.parquet")
        nessa(*words, tmp_path / "c.parquet").refused("c.parquet: embeddings of several dimensions")
    np.savez(tmp_path / "d.npz", ids=np.array(["a"]), embeddings=np.ones(3))
    nessa(*words, tmp_path / "d.npz").refused("d.npz: expected ids (N,)")
    np.savez(tmp_path / "e.npz", ids=np.array([object()], object), embeddings=np.ones((1, 3)))
    nessa(*words, tmp_path / "e.npz").refused("e.npz: not an .npz")
    nessa(*words, tmp_path / "none.npz").refused("none.npz: no such file")
    write(tmp_path / "f.parquet", ["a"], np.ones((1, 7), np.float32))
    nessa(*words, tmp_path / "f.parquet").refused("dimension 7")


def test_files_of_two_models_are_no_store(profiles: Embeddings, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", profiles.keys[:70], profiles.matrix[:70])
    write(tmp_path / "b.parquet", profiles.keys[70:], profiles.matrix[70:, :7])
    told = f"{tmp_path}: rows from 70 have dimension 7, those before 12"
    with pytest.raises(InputError, match=re.escape(told)):
        list(read_store(tmp_path))


def test_another_models_store_is_refused_though_nothing_names_its_model(
    nessa: Command, tmp_path: Path
) -> None:
    ProcrustesAligner().fit(*two_views(400, 5, noise=CLEAN)).save(tmp_path / "aligner")
    profiles = two_views(30, 5, first_speaker=1000, noise=CLEAN)[0]
    turned = np.roll(profiles.matrix, 3, axis=1)  # of the right dimension
    source = write(tmp_path / "other.parquet", profiles.keys, profiles.matrix)
    words = ["map", "--aligner", tmp_path / "aligner", "--output", tmp_path / "out"]
    assert nessa(*words, "--enroll", source).status == 0
    before = contents(tmp_path / "out")
    write(source, profiles.keys, turned)
    for more in ([], ["--dry-run"]):
        done = nessa(*words, "--enroll", source, *more)
        done.refused("other.parquet: ", " of 150 embeddings are unlike", "another model")
    assert contents(tmp_path / "out") == before
    write(source, profiles.keys, np.concatenate([turned[:50], profiles.matrix[50:]]))
    assert nessa(*words, "--enroll", source).status == 0  # whatever the first parts hold
    write(source, profiles.keys, turned)
    done = nessa(*words, "--enroll", source, "--allow-outliers")
    assert done.status == 0 and " unlike the align data (" in done.out


def test_outliers_are_listed_the_farthest_first(nessa: Command, tmp_path: Path) -> None:
    ProcrustesAligner().fit(*two_views(400, 5, noise=CLEAN)).save(tmp_path / "aligner")
    profiles = two_views(30, 5, first_speaker=1000, noise=CLEAN)[0]
    matrix = profiles.matrix.copy()
    matrix[90] = np.eye(12)[0]
    matrix[7] = -matrix[7]
    source = write(tmp_path / "store.parquet", profiles.keys, matrix)
    words = ["map", "--aligner", tmp_path / "aligner", "--output", tmp_path / "out"]
    assert "unlike the align data" in nessa(*words, "--enroll", source, "--dry-run").out
    assert not (tmp_path / "out").exists()
    for _ in range(2):  # a second run keeps the parts, and finds the same
        assert nessa(*words, "--enroll", source).status == 0
        with open(tmp_path / "out/enroll_outliers.csv", newline="") as file:
            found = {row["id"]: float(row["distance"]) for row in csv.DictReader(file)}
        assert {profiles.keys[7], profiles.keys[90]} <= found.keys() and len(found) < 8
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_mapped_store_is_read_back_and_held_against_its_source(
    nessa: Command,
    aligner: Aligner,
    profiles: Embeddings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aligner.save(tmp_path / "aligner")
    source, mapped = store("folder", tmp_path, profiles), tmp_path / "out/enroll"
    nessa("map", "--aligner", tmp_path / "aligner", "--enroll", source, "--output", mapped.parent)
    words = ["verify", mapped, "--aligner", tmp_path / "aligner", "--source"]
    done = nessa(*words, source)
    assert done.status == 0 and "150 profiles in the order of" in done.out, done.err
    assert done.out.endswith(f"; pair: {aligner.pair()}\n")
    with monkeypatch.context() as patch:
        patch.chdir(mapped)
        assert nessa(words[0], ".", *words[2:], source).status == 0
    less = write(tmp_path / "less.parquet", profiles.keys[:-1], profiles.matrix[:-1])
    nessa(*words, less).refused("out/enroll: ids from row", "differ from")
    last = max(mapped.glob("part-*.parquet"))
    content = last.read_bytes()
    last.unlink()
    nessa(*words, source).refused("out/enroll: ids from row", "differ from")
    last.write_bytes(content)
    part = mapped / "part-000001.parquet"
    table = parquet.read_table(part)
    turned = table.column("embedding").take(list(reversed(range(len(table)))))
    parquet.write_table(table.set_column(1, "embedding", turned), part)
    nessa("map", "--aligner", tmp_path / "aligner", "--enroll", source, "--output", mapped.parent)
    remove = "remove the folder, and map it again"  # a run that resumes keeps the part
    nessa(*words, source).refused("out/enroll: vectors from row", "differ by", remove)
    ProcrustesAligner().fit(*two_views(50, 2)).save(tmp_path / "other")
    other = ["--aligner", tmp_path / "other", "--source", source]
    remedy = "name the aligner that it was mapped with, or map it into another folder"
    nessa("verify", mapped, *other).refused("mapped with another aligner", remedy)
    nessa("verify", source, *other).refused("not a mapped store")
    assert nessa("verify", mapped, "--source", source).status == 2


VECTORS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
LISTS = pa.array(VECTORS.tolist(), pa.list_(pa.float32()))
NAMES = ["ann", "b\N{LATIN SMALL LETTER O WITH DIAERESIS}b", "z"]
BYTES = [name.encode() for name in NAMES]


def read_ids(path: Path) -> list[str]:
    return [key for keys, _ in read_store(path) for key in keys]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array(NAMES, pa.large_string()), NAMES),
        (pa.array(BYTES, pa.large_binary()), NAMES),
        (pa.array([b"ab", b"cd", b"ef"], pa.binary(2)), ["ab", "cd", "ef"]),
        (pa.array(BYTES, pa.binary()).dictionary_encode(), NAMES),
        (pa.array(NAMES).dictionary_encode(), NAMES),
        (pa.array([7, 8, 10**15], pa.int64()), ["7", "8", "1000000000000000"]),
        (np.array(BYTES), NAMES),
        (np.array([7, 8, 9], np.uint32), ["7", "8", "9"]),
    ],
    ids=["large", "bytes", "fixed", "coded bytes", "coded", "integers", "npz bytes", "npz numbers"],
)
def test_ids_are_text_bytes_or_integers(tmp_path: Path, ids, expected: list[str]) -> None:
    if isinstance(ids, np.ndarray):
        np.savez(tmp_path / "s.npz", ids=ids, embeddings=VECTORS)
        assert read_ids(tmp_path / "s.npz") == expected
    else:
        parquet.write_table(pa.table({"id": ids, "embedding": LISTS}), tmp_path / "s.parquet")
        assert read_ids(tmp_path / "s.parquet") == expected


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (pa.array([1.0, 2.0, 3.0]), "column 'id' is of type double"),
        (pa.array([1.0, 2.0, 3.0], pa.float32()).dictionary_encode(), "column 'id' is of type"),
        (pa.array([True, False, True]), "column 'id' is of type bool"),
        (pa.array([1, 2, 3], pa.timestamp("s")), "column 'id' is of type timestamp"),
        (pa.array([["a"], ["b"], ["c"]]), "column 'id' is of type list"),
        (pa.array([b"a", b"\xff\xfe", b"c"]), "row 1: id b'.*' is not UTF-8"),
        (pa.array([b"a\0", b"b\0", b"c\0"], pa.binary(2)), "'a"),
        (pa.array(["a", "b", None]), "row 2: the id is null"),
        (np.array([1.0, 2.0, 3.0]), "found float64"),
        (np.array([b"a", b"\xff", b"c"]), "row 1: id b'.*' is not UTF-8"),
    ],
    ids=[
        "float",
        "coded float",
        "bool",
        "time",
        "list",
        "bytes",
        "nul",
        "null",
        "npz",
        "npz bytes",
    ],
)
def test_other_ids_are_refused(tmp_path: Path, ids, told: str) -> None:
    path = tmp_path / "s.parquet"
    if isinstance(ids, np.ndarray):
        path = tmp_path / "s.npz"
        np.savez(path, ids=ids, embeddings=VECTORS)
    else:
        parquet.write_table(pa.table({"id": ids, "embedding": LISTS}), path)
    with pytest.raises(InputError, match=rf"s\.\w+: .*{told}"):
        read_ids(path)


@pytest.mark.parametrize(
    ("vectors", "told"),
    [
        (pa.array([1.0, 2.0, 3.0]), "double"),
        (pa.array(["[1, 2]", "[3, 4]", "[5, 6]"]), "string"),
        (pa.array([b"1234"] * 3, pa.binary(4)), "fixed_size_binary"),
        (pa.array([["1", "2"]] * 3), "list"),
        (pa.array([[[1.0]]] * 3), "list"),
        (pa.array([{"x": 1.0}] * 3), "struct"),
        (pa.array([[True, False]] * 3), "list"),
        (pa.array([None] * 3), "null"),
    ],
    ids=["number", "json", "bytes", "texts", "nested", "struct", "bools", "nothing"],
)
@pytest.mark.parametrize("form", ["file", "folder"])
def test_columns_that_are_no_lists_of_numbers_are_refused(
    nessa: Command, aligner: Aligner, tmp_path: Path, form: str, vectors: pa.Array, told: str
) -> None:
    aligner.save(tmp_path / "aligner")
    path = tmp_path / "s.parquet" if form == "file" else tmp_path / "s/s.parquet"
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pa.table({"id": NAMES, "embedding": vectors}), path)
    source = path if form == "file" else path.parent
    words = ["map", "--aligner", tmp_path / "aligner", "--output", tmp_path / "out"]
    nessa(*words, "--enroll", source).refused(
        "s.parquet: column 'embedding' is of type", told, "list of numbers"
    )


@pytest.mark.parametrize("kind", [pa.float16(), pa.float64(), pa.int8(), pa.uint16()])
@pytest.mark.parametrize("large", [False, True])
def test_numbers_of_any_type_are_read(tmp_path: Path, kind: pa.DataType, large: bool) -> None:
    of = pa.large_list if large else pa.list_
    vectors = pa.array([[1, 2], [3, 4], [5, 6]], of(kind))
    parquet.write_table(pa.table({"id": NAMES, "embedding": vectors}), tmp_path / "s.parquet")
    ((_, matrix),) = read_store(tmp_path / "s.parquet")
    assert matrix.dtype == np.float32 and matrix.tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("stray", ["notes.txt", "b.parquet.tmp", "day=1/b.parquet", "b.PARQUET"])
def test_what_does_not_belong_into_a_store_is_named(tmp_path: Path, stray: str) -> None:
    write(tmp_path / "a.parquet", NAMES, VECTORS)
    for harmless in ("_SUCCESS", ".a.parquet.crc"):
        (tmp_path / harmless).touch()
    assert read_ids(tmp_path) == NAMES
    (tmp_path / stray).parent.mkdir(exist_ok=True)
    (tmp_path / stray).touch()
    with pytest.raises(InputError, match=stray.split("/")[0]):
        read_ids(tmp_path)


def test_without_pyarrow_a_table_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", NAMES, VECTORS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"^Parquet needs pyarrow: run `pip install 'nessa\[parq"):
        read_table(path)


def test_a_store_is_never_written_over_nor_mixed_with_files_of_others(
    nessa: Command, aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    aligner.save(tmp_path / "aligner")
    words = ["map", "--aligner", tmp_path / "aligner", "--output", tmp_path / "out"]
    (tmp_path / "out").mkdir()
    source = store("folder", tmp_path, profiles).rename(tmp_path / "out/enroll")
    before = {path: path.read_bytes() for path in source.iterdir()}
    for given in (source, next(source.iterdir())):
        nessa(*words, "--enroll", given).refused(str(given), "give another --output")
    other = store("npz", tmp_path, profiles)  # of the other side
    nessa(*words, "--enroll", other, "--runtime", source).refused(str(source), "another --output")
    assert {path: path.read_bytes() for path in source.iterdir()} == before
    raw = source.rename(tmp_path / "raw")
    source.mkdir()
    other, stale = source / "part-00007-9f3a.parquet", source / "part-000900.parquet"
    for path in (other, stale):
        path.write_bytes(b"x")
    nessa(*words, "--enroll", raw).refused(str(other), "is no part of a mapped store")
    other.unlink()
    assert nessa(*words, "--enroll", raw).status == 0
    assert not stale.exists() and sum(len(keys) for keys, _ in read_store(source)) == 150


def test_a_store_is_not_mixed_with_parquet_or_arks_of_others(
    nessa: Command, aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    aligner.save(tmp_path / "aligner")
    source, out = store("npz", tmp_path, profiles), tmp_path / "out"
    heard = two_views(30, 5, first_speaker=200)[0]
    heard.write(tmp_path / "heard")
    words = ["map", "--aligner", tmp_path / "aligner", "--output", out, "--enroll"]
    (out / "enroll").mkdir(parents=True)
    part = write(out / "enroll/part-000007.parquet", profiles.keys, profiles.matrix)
    before = contents(out)
    nessa(*words, source).refused(f"{part}: is no part of a mapped store", "another --output")
    nessa(*words, tmp_path / "heard").refused(f"{out}/enroll: holds Parquet", "another --output")
    assert contents(out) == before
    part.unlink()
    assert nessa(*words, tmp_path / "heard").status == 0
    before = contents(out)
    nessa(*words, source).refused(f"{out}/enroll/", "is no .parquet file", "move it elsewhere")
    assert contents(out) == before


def test_an_array_by_the_name_of_a_store_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, np.zeros((3, 4), np.float32))
    with pytest.raises(InputError, match=r"a\.npz: not an \.npz"):
        next(read_store(tmp_path / "a.npz"))


def test_arks_beside_a_store_are_judged_once(
    nessa: Command, aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    aligner.save(tmp_path / "aligner")
    heard = two_views(30, 5, first_speaker=200)[1]
    Embeddings(heard.keys, heard.matrix).write(tmp_path / "heard")
    sides = ["--enroll", store("npz", tmp_path, profiles), "--runtime", tmp_path / "heard"]
    words = ["map", "--aligner", tmp_path / "aligner", *sides, "--output", tmp_path / "out"]
    for more in (["--dry-run"], [], ["--nj", "2"]):
        done = nessa(*words, *more)
        warned = done.err.count("no info.json")  # of other processes, not to be seen here
        assert done.status == 0 and warned == ("--nj" not in more), done
        assert done.out.index("store.npz: 150 ") < done.out.index("heard: 150 ")
        assert (tmp_path / "out").exists() == ("--dry-run" not in more)
    assert read_table(tmp_path / "out/enroll").keys == profiles.keys
    assert Embeddings.read(tmp_path / "out/runtime").keys == heard.keys
