"""Profiles of databases: mapped into a new table, interrupted, followed, verified, switched."""

import importlib.util
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from nessa.alignment import Aligner, ProcrustesAligner
from nessa.alignment.outliers import Outliers
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.production.migration import lag_of, migrate, verify_migration
from nessa.stores.base import ProfileStore, Rows
from nessa.stores.urls import open_database
from tests.conftest import ROOT, Command
from tests.pairs import two_views

psycopg = pytest.importorskip("psycopg", reason="pip install 'nessa[postgres,test]'")
try:
    import pymilvus
    from milvus_lite import server_manager
except ImportError:
    pymilvus = None

from nessa.stores import postgres  # noqa: E402

COUNT = 150
on_milvus = pytest.mark.skipif(pymilvus is None, reason="pip install 'nessa[milvus,test]'")


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return ProcrustesAligner().fit(*two_views(40, 2))


@pytest.fixture(scope="module")
def saved(aligner: Aligner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aligners") / "aligner"
    aligner.save(folder)
    return folder


@pytest.fixture(scope="module")
def profiles() -> Embeddings:
    return two_views(30, 5, first_speaker=200)[0]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "ROWS_PER_BLOCK", 40)
    if pymilvus is not None:
        monkeypatch.setattr("nessa.stores.milvus.ROWS_PER_BLOCK", 40)


class Kept(NamedTuple):
    """A database under test, and how others change its raw rows."""

    source: ProfileStore
    target: ProfileStore
    put: Callable[[int, np.ndarray], None]
    drop: Callable[[int], None]
    index: Callable[[], None]


def fill_postgres(url: str, profiles: Embeddings, table: str = "profiles") -> str:
    """A table of raw profiles with ids from 1 and names; nessa's URL of it."""
    with psycopg.connect(url) as connection:
        connection.execute(
            f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text, embedding vector)"
        )
        cursor = connection.cursor()
        rows = zip(range(1, COUNT + 1), profiles.keys, profiles.matrix.tolist(), strict=True)
        cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s, %s::real[])", list(rows))
    return f"{url}&table={table}"


def fill_milvus(path: Path, profiles: Embeddings) -> str:
    """The same in a collection with a dynamic field."""
    with closing(pymilvus.MilvusClient(str(path))) as client:
        client.create_collection(
            "profiles", dimension=12, vector_field_name="embedding", metric_type="COSINE"
        )
        client.insert(
            "profiles",
            [
                {"id": row + 1, "name": key, "embedding": vector}
                for row, (key, vector) in enumerate(
                    zip(profiles.keys, profiles.matrix, strict=True)
                )
            ],
        )
    return f"milvus:{path}?collection=profiles"


@pytest.fixture(params=["postgres", pytest.param("milvus", marks=on_milvus), "qdrant"])
def kept(request: pytest.FixtureRequest, profiles: Embeddings, tmp_path: Path) -> Iterator[Kept]:
    """Every kind of database, filled."""
    yield from globals()[f"kept_in_{request.param}"](request, profiles, tmp_path)


def kept_in_postgres(
    request: pytest.FixtureRequest, profiles: Embeddings, tmp_path: Path
) -> Iterator[Kept]:
    url = request.getfixturevalue("database")
    opened = open_database(fill_postgres(url, profiles), "mapped")

    def run(statement: str, *values: object) -> None:
        with psycopg.connect(url) as connection:
            connection.execute(statement, values)

    put = "INSERT INTO profiles VALUES (%s, 'new', %s::real[]) ON CONFLICT (id) DO UPDATE SET"
    put += " embedding = excluded.embedding"
    with closing(opened):
        yield Kept(
            opened.source,
            opened.target,
            lambda key, vector: run(put, key, vector.tolist()),
            lambda key: run("DELETE FROM profiles WHERE id = %s", key),
            opened.index,
        )


def kept_in_milvus(
    request: pytest.FixtureRequest, profiles: Embeddings, tmp_path: Path
) -> Iterator[Kept]:
    url = fill_milvus(tmp_path / "profiles.db", profiles)
    opened = open_database(url, "mapped")
    with closing(opened), closing(pymilvus.MilvusClient(str(tmp_path / "profiles.db"))) as client:
        yield Kept(
            opened.source,
            opened.target,
            lambda key, vector: client.upsert(
                "profiles", [{"id": key, "name": "new", "embedding": vector}]
            ),
            lambda key: client.delete("profiles", ids=[key]),
            opened.index,
        )


def kept_in_qdrant(
    request: pytest.FixtureRequest, profiles: Embeddings, tmp_path: Path
) -> Iterator[Kept]:
    qdrant_client = pytest.importorskip("qdrant_client", reason="pip install 'nessa[test]'")
    place = ROOT / "docs/examples/qdrant_store.py"
    spec = importlib.util.spec_from_file_location("qdrant_store", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROWS_PER_BLOCK = 40
    models, client = qdrant_client.models, qdrant_client.QdrantClient(":memory:")
    size = models.VectorParams(size=12, distance=models.Distance.COSINE)
    client.create_collection("profiles", vectors_config=size)

    def put(key: int, vector: np.ndarray, name: str = "new") -> None:
        point = models.PointStruct(id=key, vector=vector.tolist(), payload={"name": name})
        client.upsert("profiles", [point])

    for row, (key, vector) in enumerate(zip(profiles.keys, profiles.matrix, strict=True)):
        put(row + 1, vector, key)
    yield Kept(
        module.QdrantStore(client, "profiles"),
        module.QdrantStore(client, "mapped"),
        put,
        lambda key: client.delete("profiles", points_selector=[key]),
        lambda: None,  # Qdrant does by itself
    )


def contents(store: ProfileStore) -> dict[str, np.ndarray]:
    return {
        key: vector
        for rows in store.read()
        for key, vector in zip(rows.keys, rows.matrix, strict=True)
    }


def agrees(store: ProfileStore, aligner: Aligner, raw: np.ndarray, keys: list[str]) -> None:
    found = contents(store)
    assert sorted(found) == sorted(keys)
    mapped = np.stack([found[key] for key in keys])
    np.testing.assert_allclose(mapped, aligner.map_enroll(raw), atol=1e-5)


# --- every kind of database ---------------------------------------------------------------------


@pytest.mark.slow
def test_rows_are_mapped_and_those_that_change_are_followed(
    kept: Kept, aligner: Aligner, profiles: Embeddings
) -> None:
    source, target, put, drop, index = kept
    matrix, keys = profiles.matrix.copy(), [str(row + 1) for row in range(COUNT)]
    assert migrate(source, target, aligner, Outliers(), dry_run=True) == (COUNT, COUNT, 0)
    assert len(target) == 0
    assert migrate(source, target, aligner, Outliers()) == (COUNT, COUNT, 0)
    agrees(target, aligner, matrix, keys)
    assert migrate(source, target, aligner, Outliers()) == (COUNT, 0, 0)
    index()
    lines = list(verify_migration(source, target, aligner))
    assert f"{target}: 150 profiles, the ids of {source}, within" in lines[0]
    assert "150 queries: recall@1 " in lines[1]

    matrix[4], matrix[0] = matrix[5], 0
    put(5, matrix[4])
    drop(1)
    put(1000, matrix[7])
    changed = np.concatenate([matrix[1:], matrix[7:8]])
    lines = list(verify_migration(source, target, aligner))
    assert f"{target}: 148 profiles, ids of {source}, within" in lines[0]
    assert lag_of(source, target) == (2, 1)
    told = f"is behind {source}: 2 to map, 1 to delete; run nessa store map again"
    assert lines[1] == f"  {told}"
    assert migrate(source, target, aligner, Outliers(), dry_run=True) == (COUNT, 2, 1)
    assert migrate(source, target, aligner, Outliers()) == (COUNT, 2, 1)
    agrees(target, aligner, changed, [*keys[1:], "1000"])
    assert len(list(verify_migration(source, target, aligner))) == 2
    assert lag_of(source, target) == (0, 0)


@pytest.mark.slow
def test_a_side_that_is_fitted_anew_in_its_space_needs_a_new_table(
    kept: Kept, aligner: Aligner, profiles: Embeddings
) -> None:
    other = ProcrustesAligner().fit(*two_views(50, 2))
    other.joined = aligner.space()  # as with the runtime side frozen, on a scale of its own
    assert migrate(kept.source, kept.target, aligner, Outliers()) == (COUNT, COUNT, 0)
    assert migrate(kept.source, kept.target, aligner, Outliers()) == (COUNT, 0, 0)
    for run in (
        lambda: migrate(kept.source, kept.target, other, Outliers()),
        lambda: list(verify_migration(kept.source, kept.target, other)),
    ):
        with pytest.raises(InputError, match=r"on another scale; give the .* or name a new table"):
            run()
    agrees(kept.target, aligner, profiles.matrix, [str(row + 1) for row in range(COUNT)])
    (row,) = kept.target.read(["7"])
    (stamp,) = row.stamps
    untold = row._replace(stamps=[stamp._replace(source=stamp.source.partition(".")[2])])
    kept.target.write(untold._replace(more=raw_of(kept.source, "7").more))
    assert lag_of(kept.source, kept.target).newer == 1  # by an earlier version
    assert migrate(kept.source, kept.target, aligner, Outliers()) == (COUNT, 1, 0)


def test_the_mirror_writes_over_no_profiles_of_the_other_model(
    database: str, aligner: Aligner, profiles: Embeddings
) -> None:
    fill_postgres(database, profiles)
    mirror, others = aligner.mirrored(), two_views(30, 5, first_speaker=200)[1]
    urls = [f"{database}&table=profiles", fill_postgres(database, others, "others")]
    with (
        closing(open_database(urls[0], "mapped")) as own,
        closing(open_database(urls[1], "mapped")) as other,
    ):
        migrate(own.source, own.target, aligner, Outliers())
        for run in (
            lambda: migrate(other.source, other.target, mirror, Outliers()),
            lambda: list(verify_migration(other.source, other.target, mirror)),
        ):
            with pytest.raises(InputError, match=r"of the other model, .* name a new table"):
                run()
        agrees(own.target, aligner, profiles.matrix, [str(row + 1) for row in range(COUNT)])
    with closing(open_database(urls[1], "others_mapped")) as other:
        assert migrate(other.source, other.target, mirror, Outliers()).mapped == COUNT


def test_another_table_deletes_nothing(kept: Kept, aligner: Aligner) -> None:
    migrate(kept.source, kept.target, aligner, Outliers(None))
    for key in range(1, COUNT // 2 + 2):  # more than half
        kept.drop(key)
    told = r"76 of 150 profiles, such as .* is it the table .* delete them from .* into a new one"
    for run in (
        lambda: migrate(kept.source, kept.target, aligner, Outliers(None)),
        lambda: lag_of(kept.source, kept.target),
    ):
        with pytest.raises(InputError, match=told):
            run()
    assert len(kept.target) == COUNT
    kept.target.delete(["1", "2"])
    assert migrate(kept.source, kept.target, aligner, Outliers(None)) == (74, 0, 74)


def test_a_store_of_ones_own_with_the_wrong_rows_is_refused(
    request: pytest.FixtureRequest, aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    (kept,) = kept_in_qdrant(request, profiles, tmp_path)
    with pytest.raises(InputError, match="collection 'profiles': is there, and not made by nessa"):
        migrate(kept.source, kept.source, aligner, Outliers())
    migrate(kept.source, kept.target, aligner, Outliers())
    again = type(kept.target)(kept.target._client, "again")
    with pytest.raises(InputError, match="collection 'mapped': is mapped already; name that of"):
        migrate(kept.target, again, aligner, Outliers())
    assert len(again) == 0


def test_the_order_of_rows_does_not_decide_whose_they_are(
    database: str, profiles: Embeddings
) -> None:
    aligner = ProcrustesAligner().fit(*two_views(400, 5, noise=(0.1, 0.1)))
    keys, few = two_views(30, 5, first_speaker=1000, noise=(0.1, 0.1))[0], 50  # more than a block
    matrix = np.concatenate([-keys.matrix[:few], keys.matrix[few:]])
    url = fill_postgres(database, Embeddings(keys.keys, matrix))
    with closing(open_database(url, "mapped")) as opened:
        outliers = Outliers(aligner.detectors["enroll"])
        assert migrate(opened.source, opened.target, aligner, outliers).mapped == COUNT
        assert len(outliers.found) >= few


def test_a_refusal_leaves_a_table_in_use_as_it_is(database: str) -> None:
    clean = {"noise": (0.1, 0.1)}
    aligner = ProcrustesAligner().fit(*two_views(400, 5, **clean))
    url = fill_postgres(database, two_views(30, 5, first_speaker=1000, **clean)[0])
    with closing(open_database(url, "mapped")) as opened:
        source, target, detector = opened.source, opened.target, aligner.detectors["enroll"]
        migrate(source, target, aligner, Outliers(detector))
        before = contents(target)
        with psycopg.connect(database) as connection:  # of another model, in all blocks
            turned = "SELECT array_agg(x ORDER BY n DESC) FROM unnest(embedding::real[])"
            turned = f"({turned} WITH ORDINALITY AS values (x, n))::vector"
            connection.execute(f"UPDATE profiles SET embedding = {turned}")
        with pytest.raises(InputError, match="they seem to be of another model"):
            migrate(source, target, aligner, Outliers(detector))
        after = contents(target)
    assert all(np.array_equal(after[key], vector) for key, vector in before.items())


def test_what_is_no_profile_is_named(kept: Kept, aligner: Aligner) -> None:
    source, target, put, *_ = kept
    put(99, np.zeros(12, np.float32))
    with pytest.raises(InputError, match=f"{source}: id '99' is zero, which has no direction"):
        migrate(source, target, aligner, Outliers())


@pytest.mark.slow
def test_rows_that_differ_are_found(kept: Kept, aligner: Aligner, profiles: Embeddings) -> None:
    source, target, _, drop, _ = kept
    migrate(source, target, aligner, Outliers())
    other = ProcrustesAligner().fit(*two_views(50, 2))
    with pytest.raises(InputError, match=f"{target}: .* name a new table for this aligner"):
        migrate(source, target, other, Outliers())
    with pytest.raises(InputError, match="made by another aligner"):
        list(verify_migration(source, target, other))
    (row,) = target.read(["7"])
    target.write(row._replace(matrix=np.roll(row.matrix, 1, axis=1), more=raw_of(source, "7").more))
    with pytest.raises(InputError, match=f"{target}: vectors of '7' differ by"):
        list(verify_migration(source, target, aligner))
    target.delete(["7"])
    drop(8)
    assert lag_of(source, target) == (1, 1)
    target.delete([str(row + 1) for row in range(COUNT)])
    with pytest.raises(InputError, match=f"{target}: is behind {source}: 149 to map, 0 to delete"):
        list(verify_migration(source, target, aligner))


@pytest.mark.slow
def test_an_empty_table_is_named(kept: Kept, aligner: Aligner) -> None:
    source, target, _, drop, _ = kept
    for row in range(COUNT):
        drop(row + 1)
    for run in (
        lambda: migrate(source, target, aligner, Outliers()),
        lambda: list(verify_migration(source, target, aligner)),
    ):
        with pytest.raises(InputError, match=f"{source}: holds no profiles"):
            run()


def raw_of(source: ProfileStore, key: str) -> Rows:
    (row,) = source.read([key])
    return row


@on_milvus
@pytest.mark.slow
def test_text_ids_of_milvus_hold_any_characters(
    aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    keys = [f'O\'Brien\\new\n"{row:03d}"' for row in range(COUNT)]
    with closing(pymilvus.MilvusClient(str(tmp_path / "p.db"))) as client:
        client.create_collection(
            "profiles",
            dimension=12,
            id_type="string",
            max_length=64,
            vector_field_name="embedding",
            metric_type="COSINE",
        )
        rows = zip(keys, profiles.matrix, strict=True)
        client.insert("profiles", [{"id": key, "embedding": vector} for key, vector in rows])
        with closing(open_database(f"milvus:{tmp_path}/p.db?collection=profiles", "mapped")) as own:
            source, target = own.source, own.target
            assert migrate(source, target, aligner, Outliers()) == (COUNT, COUNT, 0)
            agrees(target, aligner, profiles.matrix, keys)
            source.delete(keys[3:4])
            assert migrate(source, target, aligner, Outliers()) == (COUNT - 1, 0, 1)
            assert len(list(verify_migration(source, target, aligner))) == 2


# --- the commands, and a kill -------------------------------------------------------------------

# Kills itself in the middle of what it writes: of a block for PostgreSQL, between two for Milvus.
KILLED = """
import os, signal, sys
from nessa.cli.main import main
from nessa.stores import {module}
{module}.ROWS_PER_BLOCK = 40
calls, inner = [], {owner}.{method}
def killed(self, *arguments, **more):
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, *arguments, **more)
{owner}.{method} = killed
sys.argv = ["nessa", *sys.argv[1:]]
main()
"""


def kill(words: list[object], **places: object) -> None:
    if places["module"] == "milvus":  # one process has a file of Milvus Lite
        server_manager.server_manager_instance.release_all()
    code = KILLED.format(**places)
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True)
    assert done.returncode == -9, done


@pytest.mark.slow
def test_a_killed_run_goes_on(
    nessa: Command, database: str, aligner: Aligner, saved: Path, profiles: Embeddings
) -> None:
    url = fill_postgres(database, profiles)
    words = ["store", "map", url, "--to", "mapped", "--aligner", saved]
    for call in (5, 60):  # rows, the second of them in the second block that is left
        kill(words, module="postgres", owner="postgres.psycopg.Copy", method="write_row", call=call)
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM mapped").fetchone() == (40,)
    done = nessa(*words)
    assert done.status == 0 and "150 profiles: 110 mapped, 40 as they were, 0 deleted" in done.out
    assert nessa(*words[:1], "verify", *words[2:]).status == 0


@on_milvus
@pytest.mark.slow
def test_a_killed_run_goes_on_in_milvus(
    nessa: Command, tmp_path: Path, saved: Path, profiles: Embeddings
) -> None:
    url = fill_milvus(tmp_path / "p.db", profiles)
    words = ["store", "map", url, "--to", "mapped", "--aligner", saved]
    owner = "milvus.Collection"
    maker = "milvus.MilvusClient"  # killed with a collection that has no index yet
    kill(words, module="milvus", owner=maker, method="create_index", call=1)
    kill(words, module="milvus", owner=owner, method="write", call=3)
    done = nessa(*words)
    assert "150 profiles: 70 mapped, 80 as they were, 0 deleted" in done.out
    done = nessa(*words[:1], "verify", *words[2:])
    assert "collection 'mapped': 150 profiles" in done.out
    assert "to switch: MilvusClient(...).create_alias(collection_name='mapped'" in done.out
    for command, name in (("switch", "mapped"), ("rollback", "profiles"), ("switch", "mapped")):
        assert nessa("store", command, *words[2:5]).status == 0
        with closing(pymilvus.MilvusClient(str(tmp_path / "p.db"))) as client:
            assert client.describe_alias("profiles_live")["collection_name"] == name
    with closing(pymilvus.MilvusClient(str(tmp_path / "p.db"))) as client:
        (row,) = client.get("profiles_live", ids=[3], output_fields=["name"])
        assert row["name"] == profiles.keys[2]


@on_milvus
@pytest.mark.slow
def test_what_milvus_does_not_have_yet_is_no_error(
    tmp_path: Path, aligner: Aligner, saved: Path, profiles: Embeddings
) -> None:
    url = fill_milvus(tmp_path / "p.db", profiles)
    with closing(open_database(url, "mapped")) as opened:
        migrate(opened.source, opened.target, aligner, Outliers())
    server_manager.server_manager_instance.release_all()
    words = ["store", "verify", url, "--to", "mapped", "--aligner", str(saved)]
    code = "from nessa.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert "to switch: MilvusClient(...).create_alias" in done.stdout
    assert "Traceback" not in done.stderr and "WARNING" not in done.stderr, done.stderr


def test_a_table_that_most_have_left_is_replaced_while_it_is_read(
    nessa: Command, database: str, saved: Path, profiles: Embeddings
) -> None:
    url = fill_postgres(database, profiles)
    assert nessa("store", "map", url, "--to", "mapped", "--aligner", saved).status == 0
    assert nessa("store", "switch", url, "--to", "mapped").status == 0
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DELETE FROM profiles WHERE id > 70")
        told = "map into a new one (--to), switch to it, and drop table 'mapped' then"
        nessa("store", "map", url, "--to", "mapped", "--aligner", saved).refused(told)
        nessa("store", "switch", url, "--to", "mapped").refused(told)
        assert nessa("store", "map", url, "--to", "new", "--aligner", saved).status == 0
        assert nessa("store", "switch", url, "--to", "new").status == 0
        connection.execute("DROP TABLE mapped")
        assert connection.execute("SELECT count(*) FROM profiles_live").fetchone() == (70,)


def test_the_order_of_fields_is_no_change_of_a_row() -> None:
    """Where it were one, all profiles of Milvus would be mapped again by each run."""
    fields = {"name": "ann", "day": 3}
    turned, changed = dict(reversed(fields.items())), fields | {"day": 4}
    one, other, third = (
        Rows(["1"], np.ones((1, 2), np.float32), more=[more]).digests()
        for more in (fields, turned, changed)
    )
    assert one == other != third


@on_milvus
def test_a_mapped_collection_is_made_indexed_and_loaded_as_the_raw_one(
    aligner: Aligner, profiles: Embeddings, tmp_path: Path
) -> None:
    kinds = pymilvus.DataType
    with closing(pymilvus.MilvusClient(str(tmp_path / "p.db"))) as client:
        schema, index = client.create_schema(auto_id=False), client.prepare_index_params()
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("note", kinds.VARCHAR, max_length=9, nullable=True)
        schema.add_field("embedding", kinds.FLOAT_VECTOR, dim=12)
        index.add_index("embedding", index_type="IVF_FLAT", metric_type="COSINE")
        client.create_collection("profiles", schema=schema, index_params=index)
        rows = enumerate(profiles.matrix[:9])
        client.insert("profiles", [{"id": row, "note": None, "embedding": v} for row, v in rows])
        with closing(open_database(f"milvus:{tmp_path}/p.db?collection=profiles", "mapped")) as own:
            assert migrate(own.source, own.target, aligner, Outliers()) == (9, 9, 0)
            for store in (own.target, own.source):
                client.release_collection(store.name)
                own.serve(store)
                assert client.get_load_state(store.name) == client.get_load_state("profiles_live")
        (row,) = client.query("mapped", filter="id in [3]", output_fields=["note"])
        assert row["note"] is None
        (name,) = client.list_indexes("mapped")
        assert client.describe_index("mapped", name)["index_type"] == "IVF_FLAT"


@on_milvus
@pytest.mark.slow
def test_a_second_migration_of_milvus_is_switched_and_rolled_back(
    nessa: Command, tmp_path: Path, aligner: Aligner, profiles: Embeddings
) -> None:
    url = fill_milvus(tmp_path / "p.db", profiles)
    for to in ("mapped", "mapped2"):
        with closing(open_database(url, to)) as opened:
            migrate(opened.source, opened.target, aligner, Outliers())
    switches = [("switch", "mapped", "mapped"), ("switch", "mapped2", "mapped2")]
    for command, to, read in [*switches, ("rollback", "mapped", "profiles")]:
        assert nessa("store", command, url, "--to", to).status == 0
        with closing(pymilvus.MilvusClient(str(tmp_path / "p.db"))) as client:
            assert client.describe_alias("profiles_live")["collection_name"] == read


def test_the_application_reads_the_view(
    nessa: Command, database: str, aligner: Aligner, saved: Path, profiles: Embeddings
) -> None:
    url = fill_postgres(database, profiles)
    words = [url, "--to", "mapped"]
    done = nessa("store", "map", *words, "--aligner", saved, "--dry-run")
    assert "table 'profiles' to table 'mapped' (dry run): 150 profiles: 150 mapped" in done.out
    nessa("store", "switch", *words).refused(
        "table 'mapped': 0 profiles, but 150", "nessa store map again"
    )
    assert nessa("store", "map", *words, "--aligner", saved).status == 0
    done = nessa("store", "verify", *words, "--aligner", saved)
    switch, back = (
        line.partition(": ")[2] for line in done.out.splitlines() if line.startswith("to ")
    )
    mapped = aligner.map_enroll(profiles.matrix)
    with psycopg.connect(database, autocommit=True) as connection:
        postgres.register_vector(connection)

        def third() -> tuple:
            query = "SELECT id, name, embedding::real[] FROM profiles_live WHERE id = 3"
            return connection.execute(query).fetchone()

        for command, statement, matrix in (
            ("switch", switch, mapped),
            ("rollback", back, profiles.matrix),
        ):
            for change in (
                lambda c=command: nessa("store", c, *words),
                lambda s=statement: connection.execute(s),
            ):
                change()
                key, name, vector = third()
                assert (key, name) == (3, profiles.keys[2])
                np.testing.assert_allclose(vector, matrix[2], atol=1e-5)
        connection.execute(switch)
        connection.execute("SET enable_seqscan = off")
        query = "EXPLAIN SELECT name FROM profiles_live ORDER BY embedding <=> %s LIMIT 5"
        plan = "\n".join(row[0] for row in connection.execute(query, [mapped[0]]))
        assert "Index Scan using mapped_embedding_idx" in plan
        assert nessa("store", "map", *words, "--aligner", saved).status == 0  # has its index
        query = "SELECT count(*) FROM pg_indexes WHERE tablename = 'mapped' AND indexdef ~ 'hnsw'"
        assert connection.execute(query).fetchone() == (1,)


def test_a_switch_keeps_the_options_of_the_view_and_so_row_level_security(
    nessa: Command, database: str, saved: Path, profiles: Embeddings
) -> None:
    words = [fill_postgres(database, profiles), "--to", "mapped"]
    own = "POLICY own ON {} USING (id {})"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER TABLE profiles ENABLE ROW LEVEL SECURITY")
        connection.execute(f"CREATE {own.format('profiles', '<= 10')}")
        assert nessa("store", "rollback", *words).status == 0
        connection.execute("ALTER VIEW profiles_live SET (security_invoker = true)")
        assert nessa("store", "map", *words, "--aligner", saved).status == 0
        connection.execute("ALTER TABLE mapped ENABLE ROW LEVEL SECURITY")
        connection.execute(f"CREATE {own.format('mapped', 'IN (SELECT id FROM profiles)')}")
        done = nessa("store", "verify", *words, "--aligner", saved)
        printed = [
            line.partition(": ")[2] for line in done.out.splitlines() if line.startswith("to ")
        ]
        connection.execute("CREATE ROLE nessa_reader")
        try:
            connection.execute("GRANT SELECT ON profiles, mapped, profiles_live TO nessa_reader")
            for change in (
                lambda: nessa("store", "switch", *words),
                lambda: nessa("store", "rollback", *words),
                *(lambda statement=line: connection.execute(statement) for line in printed),
            ):
                change()
                connection.execute("SET ROLE nessa_reader")
                query = "SELECT count(*) FROM profiles_live"
                assert connection.execute(query).fetchone() == (10,)
                assert connection.execute("SELECT count(*) FROM mapped").fetchone() == (10,)
                connection.execute("RESET ROLE")
        finally:
            connection.execute("RESET ROLE")
            connection.execute("DROP OWNED BY nessa_reader")
            connection.execute("DROP ROLE nessa_reader")


def test_profiles_that_row_level_security_hides_are_not_taken_for_deleted(
    nessa: Command, database: str, saved: Path, profiles: Embeddings
) -> None:
    url = fill_postgres(database, profiles)
    words = ["--to", "mapped", "--aligner", saved]
    assert nessa("store", "map", url, *words).status == 0
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER TABLE profiles ENABLE ROW LEVEL SECURITY")
        connection.execute("CREATE POLICY own ON profiles USING (id > 60)")
        connection.execute("CREATE ROLE nessa_writer")
        try:
            connection.execute("GRANT ALL ON profiles, mapped TO nessa_writer")
            as_writer = f"{url}&options=-c role=nessa_writer"
            told = "table 'profiles': PostgreSQL: query would be affected by row-level security"
            remedy = "as the tables' owner or, where it is FORCEd, with BYPASSRLS"
            nessa("store", "map", as_writer, *words).refused(told, remedy)
            nessa("store", "verify", as_writer, *words).refused(told)
            nessa("store", "switch", as_writer, *words[:2]).refused(told)
            assert connection.execute("SELECT count(*) FROM mapped").fetchone() == (COUNT,)
            connection.execute("ALTER TABLE profiles OWNER TO nessa_writer")
            connection.execute("ALTER TABLE mapped OWNER TO nessa_writer")
            done = nessa("store", "map", as_writer, *words)
            assert "150 profiles: 0 mapped, 150 as they were, 0 deleted" in done.out, done
            connection.execute("ALTER TABLE profiles FORCE ROW LEVEL SECURITY")
            nessa("store", "map", as_writer, *words).refused(told, remedy)
            connection.execute("ALTER ROLE nessa_writer BYPASSRLS")
            assert nessa("store", "map", as_writer, *words).out == done.out
        finally:
            connection.execute("REASSIGN OWNED BY nessa_writer TO CURRENT_USER")
            connection.execute("DROP OWNED BY nessa_writer")
            connection.execute("DROP ROLE nessa_writer")


@pytest.mark.parametrize(
    "made",
    [
        "VIEW profiles_live AS SELECT * FROM profiles WHERE id < 100",
        "VIEW profiles_live AS SELECT raw.* FROM profiles raw WHERE id < 100",
        "VIEW profiles_live AS SELECT mapped.* FROM profiles raw JOIN profiles mapped USING (id)"
        " WHERE raw.id < 100",
        "VIEW profiles_live AS SELECT id, name, embedding::vector(12) FROM profiles",
        "MATERIALIZED VIEW profiles_live AS SELECT raw.* FROM profiles raw",
        "TABLE profiles_live (id int)",
    ],
)
def test_what_has_the_name_of_the_view_is_left_as_it_is(
    nessa: Command, database: str, profiles: Embeddings, made: str
) -> None:
    url = fill_postgres(database, profiles)
    with psycopg.connect(database) as connection:
        connection.execute(f"CREATE {made}")
    done = nessa("store", "rollback", url, "--to", "mapped")
    what, remedy = ("view", "drop it, or give") if made.startswith("VIEW") else ("table", "give")
    told = f"is there, and not made by nessa; {remedy} another &live="
    done.refused(f"nessa: error: {what} 'profiles_live': {told}")
    with closing(open_database(url, "mapped")) as store:
        assert store.statement(store.source).startswith("-- replaces 'profiles_live', which nessa")


def test_a_view_of_other_columns_is_left_as_it_is(
    nessa: Command, database: str, profiles: Embeddings
) -> None:
    words = ["store", "rollback", fill_postgres(database, profiles), "--to", "mapped"]
    assert nessa(*words).status == 0
    with psycopg.connect(database) as connection:
        connection.execute("ALTER TABLE profiles RENAME name TO called")
    told = "view 'profiles_live': was made of other columns"
    nessa(*words).refused(told, "ALTER VIEW ... RENAME COLUMN keeps its grants and options")
    with psycopg.connect(database) as connection:
        connection.execute("ALTER VIEW profiles_live RENAME COLUMN name TO called")
    assert nessa(*words).status == 0


def test_a_statement_that_the_server_refuses_names_its_table_once(
    nessa: Command, database: str, profiles: Embeddings
) -> None:
    url = fill_postgres(database, profiles)
    done = nessa("store", "rollback", f"{url}&live=nowhere.live", "--to", "mapped")
    done.refused("nessa: error: table 'profiles': PostgreSQL: schema ")


def test_a_view_without_the_index_of_its_column_is_told(
    nessa: Command,
    database: str,
    saved: Path,
    profiles: Embeddings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = fill_postgres(database, profiles)
    told = "'embedding' is of type halfvec(12), but vector in the view 'profiles_live'"
    assert nessa("store", "rollback", url, "--to", "mapped").status == 0
    assert "is of type" not in caplog.text
    with psycopg.connect(database) as connection:
        connection.execute("DROP VIEW profiles_live")
        connection.execute("ALTER TABLE profiles ALTER embedding TYPE halfvec(12)")
    assert nessa("store", "rollback", url, "--to", "mapped").status == 0
    assert f"table 'profiles': {told}" in caplog.text and "read the table" in caplog.text
    assert nessa("store", "map", url, "--to", "mapped", "--aligner", saved).status == 0
    assert nessa("store", "verify", url, "--to", "mapped", "--aligner", saved).status == 0


@pytest.mark.parametrize(
    ("kind", "make"),
    [("uuid", "gen_random_uuid()"), ("text", "'Ann, ' || id || ' \"x\"'"), ("varchar(9)", "id")],
)
def test_ids_and_vectors_of_other_types(
    nessa: Command, database: str, saved: Path, profiles: Embeddings, kind: str, make: str
) -> None:
    fill_postgres(database, profiles)
    with psycopg.connect(database) as connection:
        connection.execute("CREATE SCHEMA app")
        columns = f'({make})::{kind} AS "Key", embedding::real[] AS x'
        connection.execute(f'CREATE TABLE app."Voices" AS SELECT {columns} FROM profiles')
    words = [f"{database}&table=app.Voices&id=Key&embedding=x&live=app.current", "--to", "app.new"]
    assert nessa("store", "map", *words, "--aligner", saved).status == 0
    done = nessa("store", "verify", *words, "--aligner", saved)
    assert "table 'app.new': 150 profiles, the ids of table 'app.Voices'" in done.out
    assert nessa("store", "switch", *words).status == 0
    with psycopg.connect(database) as connection:
        query = 'SELECT count(*) FROM app.current JOIN app.new USING ("Key")'
        assert connection.execute(query).fetchone() == (COUNT,)


def test_ids_with_a_collation_are_looked_up_by_their_index(
    nessa: Command, database: str, saved: Path, profiles: Embeddings
) -> None:
    url = fill_postgres(database, profiles)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute('ALTER TABLE profiles ALTER id TYPE text COLLATE "C"')
        words = [url, "--to", "mapped"]
        assert nessa("store", "map", *words, "--aligner", saved).status == 0
        assert nessa("store", "switch", *words).status == 0
        connection.execute("SET enable_seqscan = off")
        query = "EXPLAIN SELECT embedding FROM profiles_live WHERE id = '7'"
        plan = "\n".join(row[0] for row in connection.execute(query))
        assert "mapped_pkey" in plan and "Seq Scan" not in plan, plan


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE profiles SET embedding = NULL WHERE id = 3", "'3': the embedding is null"),
        (
            "ALTER TABLE profiles DROP CONSTRAINT profiles_pkey; ALTER TABLE profiles ALTER id"
            " DROP NOT NULL; UPDATE profiles SET id = NULL WHERE id = 3",
            "a row has a null id",
        ),
        (
            "ALTER TABLE profiles DROP CONSTRAINT profiles_pkey;"
            " UPDATE profiles SET id = 4 WHERE id = 3",
            "duplicate id '4'",
        ),
        (
            "ALTER TABLE profiles DROP CONSTRAINT profiles_pkey; ALTER TABLE profiles ALTER id"
            " DROP NOT NULL; UPDATE profiles SET id = NULL WHERE id < 3",
            "a row has a null id; fill it or remove the row",
        ),
        ("UPDATE profiles SET embedding = '[1,2]' WHERE id = 3", "has dimension"),
        ("UPDATE profiles SET embedding = '[1,2]'", "have dimension 2; this aligner takes 12"),
        ("DELETE FROM profiles", "holds no profiles"),
        ("DROP TABLE profiles", "no such table"),
        ("ALTER TABLE profiles RENAME id TO key", "no column 'id'"),
        ("ALTER TABLE profiles ALTER embedding TYPE text", "'embedding' is of type text"),
        ("ALTER TABLE profiles ADD nessa_space text", "is mapped already"),
        ("CREATE TABLE mapped (id int)", "table 'mapped': is there, and not made by nessa"),
    ],
)
def test_what_cannot_be_migrated_is_named(
    nessa: Command, database: str, saved: Path, profiles: Embeddings, change: str, told: str
) -> None:
    url = fill_postgres(database, profiles)
    with psycopg.connect(database) as connection:
        connection.execute(change)
    done = nessa("store", "map", url, "--to", "mapped", "--aligner", saved, "--dry-run")
    done.refused("nessa: error: table '", told)


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("real[]", "embedding[2] = 'NaN'", "id '3': vector of '3' has 1 NaN"),
        ("real[]", "embedding[2] = NULL", "'3': the embedding has a null in it"),
        ("real[]", "embedding = '{}'", "'3' has dimension 0"),
        (
            "real[]",
            "embedding = array_fill(1, '{12,2}')::real[]",
            "'3': the embedding is an array of arrays",
        ),
        ("double precision[]", "embedding[1] = 1e39", "id '3': vector of '3' has 1 infinite"),
    ],
)
def test_an_array_that_is_no_vector_is_named(
    nessa: Command,
    database: str,
    saved: Path,
    profiles: Embeddings,
    kind: str,
    change: str,
    told: str,
) -> None:
    url = fill_postgres(database, profiles)
    with psycopg.connect(database) as connection:
        connection.execute(
            f"ALTER TABLE profiles ALTER embedding TYPE {kind} USING embedding::real[]"
        )
        connection.execute(f"UPDATE profiles SET {change} WHERE id = 3")
    done = nessa("store", "map", url, "--to", "mapped", "--aligner", saved, "--dry-run")
    done.refused("nessa: error: table 'profiles': ", told)


def test_a_run_that_was_killed_before_its_index_is_not_verified(
    nessa: Command, database: str, aligner: Aligner, saved: Path, profiles: Embeddings
) -> None:
    url = fill_postgres(database, profiles)
    with closing(open_database(url, "mapped")) as opened:
        migrate(opened.source, opened.target, aligner, Outliers())
    words = [url, "--to", "mapped", "--aligner", saved]
    nessa("store", "verify", *words).refused(
        "table 'mapped': has no index for search", "run nessa store map again"
    )
    assert nessa("store", "map", *words).status == 0
    assert nessa("store", "verify", *words).status == 0


@pytest.mark.parametrize(
    "index",
    [
        "(embedding vector_l2_ops)",
        "(embedding vector_cosine_ops) WHERE id > 1",
        "((embedding::halfvec(12)) halfvec_cosine_ops)",
        "(other vector_cosine_ops)",
    ],
)
def test_an_index_that_the_search_does_not_use_is_none(
    database: str, aligner: Aligner, profiles: Embeddings, index: str
) -> None:
    url = fill_postgres(database, profiles)
    with closing(open_database(url, "mapped")) as opened:
        migrate(opened.source, opened.target, aligner, Outliers())
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("ALTER TABLE mapped ADD COLUMN other vector(12)")
            connection.execute(f"CREATE INDEX ON mapped USING hnsw {index}")
        queries = np.ones((1, aligner.map_enroll(profiles.matrix[:1]).shape[1]), np.float32)
        with pytest.raises(InputError, match="table 'mapped': has no index for search"):
            opened.target.search(queries, 1)
        opened.index()
        assert opened.target.search(queries, 1)


def test_an_index_that_was_never_finished_is_none_and_a_small_table_is_searched_by_its_own(
    database: str, aligner: Aligner, profiles: Embeddings
) -> None:
    url = fill_postgres(database, profiles)
    with psycopg.connect(database, autocommit=True) as connection:
        with closing(open_database(url, "mapped")) as opened:
            migrate(opened.source, opened.target, aligner, Outliers())
            opened.index()
            query = next(opened.target.read(["1"])).matrix
            assert opened.target.search(query, 1) == [["1"]]
        used = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = %s"
        deadline = time.monotonic() + 10  # the server counts when a connection is closed
        while connection.execute(used, ["mapped_embedding_idx"]).fetchone() == (0,):
            assert time.monotonic() < deadline, "all rows were compared"
            time.sleep(0.05)
        connection.execute(  # as CREATE INDEX CONCURRENTLY leaves one when it is interrupted
            "UPDATE pg_index SET indisvalid = false "
            "WHERE indexrelid = 'mapped_embedding_idx'::regclass"
        )
        with (
            closing(open_database(url, "mapped")) as opened,
            pytest.raises(InputError, match="table 'mapped': has no index for search"),
        ):
            opened.serve(opened.target)


def test_a_block_of_rows_is_written_alone(database: str, profiles: Embeddings) -> None:
    """What was deleted since the block before does not come back with the next one."""
    with closing(open_database(fill_postgres(database, profiles), "mapped")) as opened:
        row = np.ones((1, 12), np.float32)
        opened.target.write(Rows(["1"], row, [("space", "source")]))
        opened.target.delete(["1"])
        opened.target.write(Rows(["2"], row, [("space", "source")]))
        assert [rows.keys for rows in opened.target.read()] == [["2"]]


@pytest.mark.slow
def test_a_switch_looks_at_rows_and_index_not_at_counts(
    nessa: Command, database: str, saved: Path, profiles: Embeddings
) -> None:
    url = fill_postgres(database, profiles)
    words = [url, "--to", "mapped"]
    assert nessa("store", "map", *words, "--aligner", saved).status == 0
    with psycopg.connect(database, autocommit=True) as connection:
        for change, told in (
            ("UPDATE profiles SET id = 1000 WHERE id = 3", "1 to map, 1 to delete"),
            ("UPDATE profiles SET embedding = embedding + embedding WHERE id = 4", "1 to map, 0"),
        ):
            connection.execute(change)
            nessa("store", "switch", *words).refused(
                f"table 'mapped': is behind table 'profiles': {told}", "run nessa store map again"
            )
            done = nessa("store", "verify", *words, "--aligner", saved)
            assert f"is behind table 'profiles': {told}" in done.out and "to switch: " in done.out
            assert nessa("store", "map", *words, "--aligner", saved).status == 0
        connection.execute("DELETE FROM profiles WHERE id = 5")
        nessa("store", "switch", *words, "--allow-behind", 0).refused("or add --allow-behind 1")
        done = nessa("store", "switch", *words, "--allow-behind", 1)
        assert "now read: table 'mapped'" in done.out and "0 to map, 1 to delete" in done.out
        connection.execute("DROP INDEX mapped_embedding_idx")
        nessa("store", "switch", *words, "--allow-behind", 1).refused(
            "table 'mapped': has no index", "run nessa store map again"
        )


def test_vectors_too_long_for_an_index_are_refused_before_any_row(
    database: str, profiles: Embeddings
) -> None:
    url = fill_postgres(database, profiles)
    with closing(open_database(url, "mapped")) as opened:
        for dim in (2001, 2000):
            rows = Rows(["1"], np.ones((1, dim), np.float32), [("space", "source")])
            if dim > 2000:
                with pytest.raises(InputError, match=r"2,001 dimensions.*takes 2,000"):
                    opened.target.write(rows)
                assert len(opened.target) == 0
            else:
                opened.target.write(rows)
                opened.index()


@on_milvus
def test_partitions_of_milvus_are_refused_unless_a_key_makes_them(
    nessa: Command, saved: Path, tmp_path: Path
) -> None:
    with closing(pymilvus.MilvusClient(str(tmp_path / "p.db"))) as client:
        for name, keyed in (("named", False), ("keyed", True)):
            schema = client.create_schema(auto_id=False)
            schema.add_field("id", pymilvus.DataType.INT64, is_primary=True)
            schema.add_field(
                "tenant", pymilvus.DataType.VARCHAR, max_length=9, is_partition_key=keyed
            )
            schema.add_field("embedding", pymilvus.DataType.FLOAT_VECTOR, dim=12)
            client.create_collection(name, schema=schema)
        client.create_partition("named", "acme")
    words = ["--to", "new", "--aligner", saved]
    url = f"milvus:{tmp_path}/p.db?collection="
    for option in ([], ["--dry-run"]):
        nessa("store", "map", f"{url}named", *words, *option).refused(
            "collection 'named': has the partition 'acme'", "partition key"
        )
    nessa("store", "verify", f"{url}named", *words).refused("collection 'named': holds no profiles")
    nessa("store", "switch", f"{url}named", "--to", "new").refused("0 profiles, but 0")
    done = nessa("store", "rollback", f"{url}named", "--to", "new")
    assert "now read: collection 'named'" in done.out, done
    nessa("store", "map", f"{url}keyed", *words).refused("collection 'keyed': holds no profiles")


def test_urls_that_name_no_store(
    nessa: Command, database: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(url: str, *parts: str, to: str = "new") -> None:
        nessa("store", "map", url, "--to", to, "--aligner", saved).refused(*parts)

    refused("mysql://host/db?table=t", "'mysql' is no database", "postgresql: or milvus:")
    refused(database, "names no table", "?table=NAME")
    refused(f"{database}&table=t", "table 't' holds the raw profiles", to="t")
    remedy = "give another --to or &live="
    refused(f"{database}&table=t", "'t_live' is what the application", remedy, to="t_live")
    refused(f"{database}&table=t&live=t", "'t' is what the application is to read by", remedy)
    refused("postgresql:///db?host=/nowhere&table=t", "table 't': PostgreSQL: ")
    monkeypatch.setitem(sys.modules, "nessa.stores.postgres", None)
    refused(f"{database}&table=t", "pip install 'nessa[postgres]'")


def test_an_extension_outside_the_search_path_has_a_remedy(
    nessa: Command, database: str, saved: Path, profiles: Embeddings
) -> None:
    url, words = fill_postgres(database, profiles), ["--to", "mapped", "--aligner", saved]
    told = "table 'profiles': no type vector in the search path"
    with psycopg.connect(database) as connection:
        connection.execute("CREATE SCHEMA ext; ALTER EXTENSION vector SET SCHEMA ext")
    done = nessa("store", "map", url, *words)
    done.refused(told, "CREATE EXTENSION vector")
    remedy = done.err.partition("add ")[2].split()[0].replace("SCHEMA", "ext")
    assert nessa("store", "map", url + remedy, *words).status == 0
    assert nessa("store", "verify", url + remedy, *words).status == 0
    assert nessa("store", "switch", url + remedy, *words[:2]).status == 0
    with psycopg.connect(database + remedy) as connection:  # as libpq itself reads it
        assert connection.execute("SELECT '[1]'::vector::text").fetchone() == ("[1]",)
        connection.execute("DROP EXTENSION vector CASCADE")
    nessa("store", "map", url, *words).refused(told)


def test_a_url_is_read_as_libpq_reads_it(database: str, profiles: Embeddings) -> None:
    url = fill_postgres(database, profiles, '"a+b"').replace('"', "")
    with closing(open_database(f"{url}&application_name=a+b%2Bc%20d&live=", "mapped")) as opened:
        assert str(opened.source) == "table 'a+b'"
        opened.serve(opened.source)
    with closing(open_database(f"{url}&application_name=a+b%2Bc%20d", "mapped")) as opened:
        query = "SHOW application_name"
        assert opened._connection.execute(query).fetchone() == ("a+b+c d",)
    with pytest.raises(InputError, match="invalid sslmode value"):
        open_database(f"{url}&sslmode=", "mapped")


def test_two_first_runs_at_once_both_end(
    database: str, aligner: Aligner, profiles: Embeddings
) -> None:
    url, start = fill_postgres(database, profiles), threading.Barrier(2, timeout=30)

    def run(_: int) -> None:
        with closing(open_database(url, "mapped")) as opened:
            start.wait()
            assert migrate(opened.source, opened.target, aligner, Outliers()).rows == COUNT
            start.wait()
            opened.index()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))
    with psycopg.connect(database) as connection:
        query = "SELECT count(*) FROM pg_indexes WHERE tablename = 'mapped' AND indexdef ~ 'hnsw'"
        assert connection.execute(query).fetchone() == (1,)


@on_milvus
def test_urls_that_name_no_collection(nessa: Command, saved: Path, tmp_path: Path) -> None:
    url = f"milvus:{tmp_path / 'm.db'}"
    for query, part in (
        ("", "names no collection"),
        ("?collection=c", "collection 'c': no such collection"),
        ("?collection=c&table=t", "unknown 'table'"),
        ("?collection=c&live=new", "'new' is what the application is to read by"),
    ):
        nessa("store", "map", url + query, "--to", "new", "--aligner", saved).refused(part)


def test_another_models_profiles_are_refused(
    nessa: Command, database: str, profiles: Embeddings, tmp_path: Path
) -> None:
    clean = {"noise": (0.1, 0.1)}
    ProcrustesAligner().fit(*two_views(400, 5, **clean)).save(tmp_path / "aligner")
    others = two_views(30, 5, first_speaker=1000, **clean)[0]
    turned = Embeddings(others.keys, np.roll(others.matrix, 3, axis=1))
    words = ["store", "map", fill_postgres(database, turned), "--to", "mapped"]
    words += ["--aligner", tmp_path / "aligner", "--outliers", tmp_path / "outliers.csv"]
    nessa(*words).refused("table 'profiles': ", " of 150 embeddings are unlike", "another model")
    assert nessa(*words, "--allow-outliers").status == 0
    assert (tmp_path / "outliers.csv").read_text().startswith("id,distance\n")


def test_a_file_of_outliers_that_cannot_be_written_is_told_first(
    nessa: Command, database: str, saved: Path, profiles: Embeddings, tmp_path: Path
) -> None:
    words = ["store", "map", fill_postgres(database, profiles), "--to", "mapped", "--aligner"]
    (tmp_path / "file").touch()
    nessa(*words, saved, "--outliers", tmp_path).refused(f"{tmp_path}: is a folder; name a file")
    done = nessa(*words, saved, "--outliers", tmp_path / "file/x.csv")
    assert done.status == 1 and f"{tmp_path / 'file'}: Not a directory" in done.err
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT to_regclass('mapped')").fetchone() == (None,)
