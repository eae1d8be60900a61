"""Profile stores of a product: mapped in parts, resumed, refused by row."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import nessa.production.stores
from nessa.alignment import Aligner, ProcrustesAligner
from nessa.alignment.outliers import Outliers
from nessa.kaldi.embeddings import Embeddings
from nessa.production.stores import map_store, read_store
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
    monkeypatch.setattr(nessa.production.stores, "ROWS_PER_PART", 40)  # of 150


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
    aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    source = store("lists", tmp_path, profiles)
    space, calls = aligner.space(), []

    def killed(matrix: np.ndarray) -> np.ndarray:
        calls.append(len(matrix))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return aligner.map_enroll(matrix)

    map_store(source, tmp_path / "whole", aligner.map_enroll, space, Outliers())
    with pytest.raises(KeyboardInterrupt):
        map_store(source, tmp_path / "parts", killed, space, Outliers())
    assert not (tmp_path / "parts/_info.json").exists()
    count, kept = map_store(source, tmp_path / "parts", aligner.map_enroll, space, Outliers())
    assert (count, kept) == (150, sum(calls[:2]))
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


def test_parts_of_another_aligner_or_store_are_made_again(
    aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    source = store("lists", tmp_path, profiles)
    map_store(source, tmp_path / "out", aligner.map_enroll, "another space", Outliers())
    assert map_store(source, tmp_path / "out", aligner.map_enroll, aligner.space(), Outliers()) == (
        150,
        0,
    )
    write(source, profiles.keys[:50], profiles.matrix[:50])
    assert (
        map_store(source, tmp_path / "out", aligner.map_enroll, aligner.space(), Outliers())[0]
        == 50
    )
    assert sum(len(keys) for keys, _ in read_store(tmp_path / "out")) == 50


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda k, m: (["x y", *k[1:]], m), "rows from 0 .*'x y'.*white space"),
        (lambda k, m: ([*k[:-1], k[-2]], m), "duplicate id"),
        (lambda k, m: ([*k[:-1], k[0]], m), "duplicate id 'id00200-s0-00000'"),
        (lambda k, m: (k, np.where(np.arange(len(m))[:, None] == 99, np.nan, m)), "rows from"),
        (lambda k, m: ([*k[:-1], None], m), "null"),
        (lambda k, m: (k[:0], m[:0]), "holds no profiles"),
    ],
    ids=["white space", "twice", "twice, far apart", "nan", "null", "empty"],
)
def test_bad_rows_are_named(
    aligner: Aligner, profiles: Embeddings, tmp_path: Path, spoil, message: str
) -> None:
    path = write(tmp_path / "bad.parquet", *spoil(profiles.keys, profiles.matrix))
    with pytest.raises(ValueError, match=f"bad.parquet: .*{message}"):
        map_store(path, tmp_path / "out", aligner.map_enroll, aligner.space(), Outliers())
    assert not (tmp_path / "out/_info.json").exists()


def test_what_is_no_store_is_refused(nessa: Command, aligner: Aligner, tmp_path: Path) -> None:
    aligner.save(tmp_path / "aligner")
    words = ["map", "--aligner", tmp_path / "aligner", "--output", tmp_path / "out", "--enroll"]
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    nessa(*words, tmp_path / "a.parquet").refused("a.parquet: not Parquet")
    nessa(*words, tmp_path / "none.parquet").refused("none.parquet: no such file")
    parquet.write_table(pa.table({"key": ["a"]}), tmp_path / "b.parquet")
    nessa(*words, tmp_path / "b.parquet").refused("b.parquet: no column 'id'")
    ragged = pa.array([[1.0], [1.0, 2.0]], pa.list_(pa.float32()))
    parquet.write_table(pa.table({"id": ["a", "b"], "embedding": ragged}), tmp_path / "c.parquet")
    nessa(*words, tmp_path / "c.parquet").refused("c.parquet: embeddings of several dimensions")
    np.savez(tmp_path / "d.npz", ids=np.array(["a"]), embeddings=np.ones(3))
    nessa(*words, tmp_path / "d.npz").refused("d.npz: expected ids (N,)")
    np.savez(tmp_path / "e.npz", ids=np.array([object()], object), embeddings=np.ones((1, 3)))
    nessa(*words, tmp_path / "e.npz").refused("e.npz: not an .npz")
    write(tmp_path / "f.parquet", ["a"], np.ones((1, 7), np.float32))
    nessa(*words, tmp_path / "f.parquet").refused("dimension 7")


def test_another_models_store_is_refused_though_nothing_names_its_model(
    nessa: Command, tmp_path: Path
) -> None:
    ProcrustesAligner().fit(*two_views(400, 5, noise=CLEAN)).save(tmp_path / "aligner")
    profiles = two_views(30, 5, first_speaker=1000, noise=CLEAN)[0]
    turned = np.roll(profiles.matrix, 3, axis=1)  # of the right dimension
    source = write(tmp_path / "other.parquet", profiles.keys, turned)
    words = ["map", "--aligner", tmp_path / "aligner", "--output", tmp_path / "out"]
    for more in ([], ["--dry-run"]):
        done = nessa(*words, "--enroll", source, *more)
        done.refused("other.parquet: ", " of 40 embeddings are unlike", "another model")
    assert not (tmp_path / "out/enroll/_info.json").exists()
    done = nessa(*words, "--enroll", source, "--allow-outliers")
    assert done.status == 0 and " unlike the align data (" in done.out


def test_outliers_are_listed_the_farthest_first(nessa: Command, tmp_path: Path) -> None:
    ProcrustesAligner().fit(*two_views(400, 5, noise=CLEAN)).save(tmp_path / "aligner")
    profiles = two_views(30, 5, first_speaker=1000, noise=CLEAN)[0]
    matrix = profiles.matrix.copy()
    matrix[7] = np.eye(12)[0]
    matrix[90] = -matrix[90]
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
    nessa: Command, aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    aligner.save(tmp_path / "aligner")
    source, mapped = store("folder", tmp_path, profiles), tmp_path / "out/enroll"
    nessa("map", "--aligner", tmp_path / "aligner", "--enroll", source, "--output", mapped.parent)
    words = ["verify", mapped, "--aligner", tmp_path / "aligner", "--source"]
    done = nessa(*words, source)
    assert done.status == 0 and "150 profiles in the order of" in done.out, done.err
    less = write(tmp_path / "less.parquet", profiles.keys[:-1], profiles.matrix[:-1])
    nessa(*words, less).refused("out/enroll: ids from row", "differ from")
    part = mapped / "part-000001.parquet"
    table = parquet.read_table(part)
    turned = table.column("embedding").take(list(reversed(range(len(table)))))
    parquet.write_table(table.set_column(1, "embedding", turned), part)
    nessa(*words, source).refused("out/enroll: vectors from row", "differ by")
    ProcrustesAligner().fit(*two_views(50, 2)).save(tmp_path / "other")
    other = ["--aligner", tmp_path / "other", "--source", source]
    nessa("verify", mapped, *other).refused("mapped with another aligner")
    nessa("verify", source, *other).refused("not a mapped store")
    assert nessa("verify", mapped, "--source", source).status == 2
