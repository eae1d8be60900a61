"""nessa assess, and align, from tables: the division, the decision, and what is refused."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from nessa.alignment import ProcrustesAligner
from nessa.alignment.store import load
from nessa.errors import InputError
from nessa.files import read_json, read_table, write_table
from nessa.kaldi.embeddings import Embeddings
from nessa.recipe import assessment, fitting
from nessa.recipe.assessment import prepare
from nessa.recipe.fitting import Tables, fit_to_tables
from nessa.trials import Trials, read_enroll_map
from tests.conftest import Command
from tests.pairs import two_views


def write_npz(path: Path, table: Embeddings, speakers: dict[str, str] | None = None) -> Path:
    columns = {"speakers": np.array([speakers[key] for key in table.keys])} if speakers else {}
    np.savez(path, ids=np.array(table.keys), embeddings=table.matrix, **columns)
    return path


def write_parquet(path: Path, table: Embeddings, speakers: dict[str, str], **more: list) -> Path:
    columns = {
        "id": table.keys,
        "embedding": pa.array(table.matrix.tolist(), pa.list_(pa.float32())),
    }
    columns |= {"speaker": [speakers[key] for key in table.keys]} | more
    parquet.write_table(pa.table(columns), path)
    return path


def write_scp(path: Path, table: Embeddings) -> Path:
    Embeddings(table.keys, table.matrix).write_ark(path.with_suffix(".ark"), path)
    return path


@pytest.fixture(scope="module")
def views() -> tuple[Embeddings, Embeddings, dict[str, str]]:
    return two_views(150, 4, noise=(0.8, 0.3))


@pytest.mark.slow
def test_strong_views_are_a_go(
    tmp_path: Path, nessa: Command, views: tuple[Embeddings, Embeddings, dict[str, str]]
) -> None:
    old, new, speakers = views
    tables = (
        write_parquet(tmp_path / "old.parquet", old, speakers),
        write_npz(tmp_path / "new.npz", new),
    )
    done = nessa("assess", *tables, "--output", tmp_path / "out")
    assert done.status == 0, done
    decision = read_json(tmp_path / "out/decision.json")
    assert decision["go"] is True
    assert "fitted and scored; now the same with fewer align speakers" in done.err
    assert "GO: the new runtime model beside the old profiles lowers the EER" in done.out
    assert (tmp_path / "out/exp/report/index.html").is_file()
    assert load(tmp_path / "out/exp/aligners/nessa/old-new").fitting["verdict"] == "helps"
    sets = [
        read_table(tmp_path / "out/data" / name / "utt2spk") for name in ("align", "dev", "eval")
    ]
    named = [set(table.values()) for table in sets]
    assert list(map(len, named)) == [105, 15, 30]
    assert len(set.union(*named)) == 150


@pytest.mark.slow
def test_views_that_share_nothing_are_a_no_go(tmp_path: Path, nessa: Command) -> None:
    old, new, speakers = two_views(60, 4, noise=(0.8, 0.3))
    shuffled = np.random.default_rng(1).permutation(60).repeat(4) * 4 + np.tile(np.arange(4), 60)
    other = Embeddings(new.keys, new.matrix[shuffled])  # speakers of whom old knows nothing
    write_table(tmp_path / "utt2spk", speakers)
    tables = write_scp(tmp_path / "old.scp", old), write_scp(tmp_path / "new.scp", other)
    given = "--utt2spk", tmp_path / "utt2spk"
    done = nessa("assess", *tables, *given, "--output", tmp_path / "out")
    assert done.status == 0, done
    assert read_json(tmp_path / "out/decision.json")["go"] is False
    assert "NO-GO: " in done.out


@pytest.mark.slow
def test_the_speakers_of_given_trials_are_held_out(
    tmp_path: Path, nessa: Command, views: tuple[Embeddings, Embeddings, dict[str, str]]
) -> None:
    old, new, speakers = views
    keys = old.keys[:40]  # of 10 speakers
    lines = [
        f"{a} {b} {'target' if speakers[a] == speakers[b] else 'nontarget'}\n"
        for a in keys
        for b in keys
        if a != b
    ]
    (tmp_path / "list").write_text("".join(lines))
    tables = write_npz(tmp_path / "old.npz", old, speakers), write_npz(tmp_path / "new.npz", new)
    given = "--trials", tmp_path / "list", "--output", tmp_path / "out"
    assert nessa("assess", *tables, *given).status == 0
    tested = read_table(tmp_path / "out/data/eval/utt2spk")
    assert sorted(tested) == sorted(keys)
    # The curve ends with the aligner of the table.
    found = read_json(tmp_path / "out/exp/metrics/asymmetric.json")
    table = {(r["enroll"], r["runtime"]): r["eer"] for r in found if r["aligner"] == "nessa"}
    curve = read_json(tmp_path / "out/exp/studies/speakers.json")["records"]
    assert {(r["enroll"], r["runtime"]): r["eer"] for r in curve[-2:]} == pytest.approx(table)
    (tmp_path / "list").write_text(f"{keys[0]} stranger nontarget\n")
    nessa("assess", *tables, *given).refused("list: 'stranger' is no utterance of both tables")
    (tmp_path / "list").write_text(f"{keys[0]} {keys[9]}\n")
    nessa("assess", *tables, *given).refused("list")
    (tmp_path / "list").write_text(f"{keys[0]} {keys[1]} nontarget\n{keys[0]} {keys[2]} target\n")
    nessa("assess", *tables, *given).refused(
        f"list: trial {keys[0]!r} {keys[1]!r} is a nontarget, but of speakers", "correct its label"
    )


def test_the_seed_decides_who_is_held_out(
    tmp_path: Path, nessa: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assessment, "run", Mock(side_effect=InputError("divided")))
    old, new, speakers = two_views(24, 2)
    tables = write_npz(tmp_path / "old.npz", old, speakers), write_npz(tmp_path / "new.npz", new)
    tested = []
    for seed in (1, 2):
        output = tmp_path / f"out{seed}"
        nessa("assess", *tables, "--seed", seed, "--output", output).refused("divided")
        tested.append(read_table(output / "data/eval/utt2spk"))
    assert tested[0] != tested[1]


@pytest.mark.slow
def test_align_takes_tables(
    tmp_path: Path, nessa: Command, views: tuple[Embeddings, Embeddings, dict[str, str]]
) -> None:
    old, new, speakers = views
    enroll = write_parquet(tmp_path / "old.parquet", old, speakers)
    runtime = write_npz(tmp_path / "new.npz", new)
    given = "--enroll", enroll, "--runtime", runtime, "--output", tmp_path / "aligner"
    assert nessa("align", *given).status == 0
    assert load(tmp_path / "aligner").fitting["verdict"] == "helps"


def test_the_verdict_counts_the_speakers_of_tables_not_what_few_targets_join(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fitting, "DEV_TRIALS", (15, 100))
    x, y, names = two_views(40, 10)
    tables = fitting.Tables(x, y, names, {key: key for key in x.keys}, (Path("x"), Path("y")))
    found = fitting.fit_to_tables(ProcrustesAligner(), tables).fitting
    assert (found["speakers"], found["verdict"]) == (4, "cannot tell")


@pytest.mark.slow
@pytest.mark.parametrize("shared", [30, 0])
def test_a_fleet_of_profiles_and_other_utterances(
    tmp_path: Path,
    nessa: Command,
    caplog: pytest.LogCaptureFixture,
    views: tuple[Embeddings, Embeddings, dict[str, str]],
    shared: int,
) -> None:
    """Stored profiles of the old model; of utterances heard since, the first are by both models."""
    old, new, speakers = views
    halves = old.keys[::2], old.keys[1::2]
    both = [key for key in halves[1] if int(speakers[key][2:]) < shared]
    enroll = write_npz(tmp_path / "old.npz", old.select(sorted([*halves[0], *both])), speakers)
    runtime = write_npz(tmp_path / "new.npz", new.select(halves[1]), speakers)
    given = "--enroll", enroll, "--runtime", runtime, "--output", tmp_path / "aligner"
    nessa("align", *given).refused(str(enroll))
    assert nessa("align", *given, "--by-speaker").status == 0
    if shared:
        assert "verdict" in load(tmp_path / "aligner").fitting
    else:
        assert "verdict" not in load(tmp_path / "aligner").fitting
        assert "utterances that both models have: nothing is held out" in caplog.text


def test_align_by_speaker_holds_out_the_dev_speakers_of_assess(tmp_path: Path) -> None:
    """On whom docs/migrations/pyannote-to-wespeaker.md carries the threshold over."""
    old, new, speakers = two_views(24, 2)
    tables = write_npz(tmp_path / "old.npz", old, speakers), write_npz(tmp_path / "new.npz", new)
    prepare(Tables.read(*tables), None, tmp_path / "out", seed=1)
    dev = read_table(tmp_path / "out/data/dev/utt2spk")
    profiles = {f"{name}-profile": name for name in dict.fromkeys(speakers.values())}
    stored = Embeddings([*old.keys, *profiles], np.concatenate([old.matrix, old.matrix[::2]]))
    write_npz(tables[0], stored, speakers | profiles)
    aligner = Mock()
    fit_to_tables(aligner, Tables.read(*tables), by_speaker=True)
    table, held_out = aligner.fit_table.call_args.args
    assert sorted(held_out.enroll.keys) == sorted(dev)
    assert len(set(table.labels.tolist())) == 24 - len(set(dev.values()))


def test_assess_draws_profiles_of_dev_alone(tmp_path: Path) -> None:
    """On which docs/migration.md carries a threshold of profiles over."""
    old, new, speakers = two_views(24, 4)
    tables = write_npz(tmp_path / "old.npz", old, speakers), write_npz(tmp_path / "new.npz", new)
    prepare(Tables.read(*tables), None, tmp_path / "out", seed=1)
    profiles = read_enroll_map(tmp_path / "out/data/dev/enroll_map")
    assert {len(members) for members in profiles.values()} == {3}
    trials = Trials.read(tmp_path / "out/data/dev/trials_profile")
    assert sorted(trials.enroll_index.names) == sorted(profiles)
    assert not (tmp_path / "out/data/eval/enroll_map").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "nothing tells the speakers"),
        ({"speakers": np.array(["ann lee"] * 8)}, "'ann lee': write one word"),
        ({"speakers": np.ones(8)}, "expected speakers (8,), text or integers"),
        ({"speakers": np.array(["ann"] * 7)}, "expected speakers (8,)"),
        ({"speakers": np.array(["ann"] * 8, object)}, "text saved by .astype(str)"),
    ],
)
def test_speakers_are_asked_for(
    tmp_path: Path, nessa: Command, change: dict[str, np.ndarray], said: str
) -> None:
    old, new, _ = two_views(4, 2)
    for name, view in (("old", old), ("new", new)):
        np.savez(tmp_path / f"{name}.npz", ids=view.keys, embeddings=view.matrix, **change)
    tables = tmp_path / "old.npz", tmp_path / "new.npz"
    nessa("assess", *tables, "--output", tmp_path / "out").refused("old.npz", said)


def test_an_utterance_without_a_speaker_is_named(tmp_path: Path, nessa: Command) -> None:
    old, new, speakers = two_views(4, 2)
    tables = write_npz(tmp_path / "old.npz", old), write_npz(tmp_path / "new.npz", new)
    write_table(tmp_path / "utt2spk", {key: speakers[key] for key in old.keys[1:]})
    given = "--utt2spk", tmp_path / "utt2spk", "--output", tmp_path / "out"
    nessa("assess", *tables, *given).refused("utt2spk: no speaker for 'id00000-s0-00000'")


def test_sessions_are_of_all_or_of_none(tmp_path: Path, nessa: Command) -> None:
    old, new, speakers = two_views(4, 2)
    tables = write_npz(tmp_path / "old.npz", old, speakers), write_npz(tmp_path / "new.npz", new)
    write_table(tmp_path / "utt2session", dict.fromkeys(old.keys[1:], "s1"))
    given = "--utt2session", tmp_path / "utt2session", "--output", tmp_path / "out"
    nessa("assess", *tables, *given).refused("utt2session: no session for 'id00000-s0-00000'")


@pytest.mark.parametrize("name", ["data/eval/trials", "exp/recipe.yaml"])
def test_data_and_runs_are_not_written_over(tmp_path: Path, nessa: Command, name: str) -> None:
    old, new, speakers = two_views(24, 2)
    tables = write_npz(tmp_path / "old.npz", old, speakers), write_npz(tmp_path / "new.npz", new)
    there = tmp_path / name
    there.parent.mkdir(parents=True)
    there.write_text("name: mini\n")
    before = sorted(tmp_path.rglob("*"))
    nessa("assess", *tables, "--output", tmp_path).refused(f"{tmp_path}: ", "another --output")
    assert sorted(tmp_path.rglob("*")) == before
    assert there.read_text() == "name: mini\n"


def test_an_assessment_that_was_interrupted_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, speakers = two_views(24, 2)
    tables = write_npz(tmp_path / "old.npz", old, speakers), write_npz(tmp_path / "new.npz", new)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(assessment, "import_embeddings", Mock(side_effect=KeyboardInterrupt))
        prepare(Tables.read(*tables), None, tmp_path / "out", seed=1)
    prepare(Tables.read(*tables), None, tmp_path / "out", seed=1)
    prepare(Tables.read(*tables), None, tmp_path / "out", seed=2)


def test_utterances_of_one_table_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new, speakers = two_views(24, 2)
    kept = old.select(old.keys[5:])
    tables = write_npz(tmp_path / "old.npz", kept), write_npz(tmp_path / "new.npz", new, speakers)
    prepare(Tables.read(*tables), None, tmp_path / "out", seed=1)
    (said,) = [line for line in caplog.messages if "left out" in line]
    assert f"{tables[1]}: 5 of 48 utterances are left out" in said
    assert f"{old.keys[0]!r}" in said and "and 2 more" in said


def test_tables_must_tell_the_same_speakers(tmp_path: Path, nessa: Command) -> None:
    old, new, speakers = two_views(4, 2)
    write_npz(tmp_path / "old.npz", old, speakers)
    write_npz(tmp_path / "new.npz", new, speakers | {new.keys[0]: "somebody"})
    done = nessa("assess", tmp_path / "old.npz", tmp_path / "new.npz", "--output", tmp_path / "out")
    done.refused("new.npz: another speaker of 'id00000-s0-00000'")
