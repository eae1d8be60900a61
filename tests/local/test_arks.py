"""Embeddings of other toolkits in the place of models: every kind of ark, and the arks recipe."""

import json
from collections.abc import Callable
from pathlib import Path

import kaldi_native_io
import kaldiio
import numpy as np
import pytest
import yaml

from nessa.encoders import GivenEmbeddings, load_model, save_pretrained
from nessa.encoders.settings import ArksConfig
from nessa.errors import InputError
from nessa.files import read_table, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.trials import Trials
from tests.conftest import ROOT, Command
from tests.local.test_programs import Done, Programs, programs, refuse  # noqa: F401
from tests.pairs import all_trials, two_views
from tests.speech import prepare_set
from tests.walks import walk

Write = Callable[[Path, Embeddings], Path]


def by_kaldiio(text: bool) -> Write:
    def write(folder: Path, embeddings: Embeddings) -> Path:
        vectors = dict(zip(embeddings.keys, embeddings.matrix, strict=True))
        place = str(folder / "xvector.ark")
        kaldiio.save_ark(place, vectors, scp=str(folder / "xvector.scp"), text=text)
        return folder / "xvector.scp"

    return write


def by_kaldi_native_io(text: bool) -> Write:
    def write(folder: Path, embeddings: Embeddings) -> Path:
        kind = "ark,t,scp" if text else "ark,scp"
        specifier = f"{kind}:{folder}/xvector.ark,{folder}/xvector.scp"
        with kaldi_native_io.FloatVectorWriter(specifier) as writer:
            for key, vector in zip(embeddings.keys, embeddings.matrix, strict=True):
                writer.write(key, vector)
        return folder / "xvector.scp"

    return write


def as_ours(folder: Path, embeddings: Embeddings) -> Path:
    embeddings.write(folder)
    return folder


WRITERS = {
    "kaldiio, binary": by_kaldiio(text=False),
    "kaldiio, text": by_kaldiio(text=True),
    "kaldi_native_io, binary": by_kaldi_native_io(text=False),
    "kaldi_native_io, text": by_kaldi_native_io(text=True),
    "ours": as_ours,
}


def wespeaker_names(key: str) -> str:
    """id00001-s0-00001 as WeSpeaker calls it."""
    return "/".join(key.split("-")) + ".wav"


def renamed(embeddings: Embeddings, stamped: bool = False) -> Embeddings:
    keys = [wespeaker_names(key) for key in embeddings.keys]
    return Embeddings(keys, embeddings.matrix, embeddings.stamp if stamped else None)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """utt2spk of 60 speakers; trials among the last 12 of them, in Kaldi's format."""
    _, _, utt2spk = two_views(60, 4)
    folder = tmp_path / "corpus"
    write_table(folder / "utt2spk", {wespeaker_names(u): s for u, s in utt2spk.items()})
    tested = {u: s for u, s in utt2spk.items() if s >= "id00048"}
    trials = all_trials({wespeaker_names(u): s for u, s in tested.items()})
    trials.write(folder / "trials")
    return folder


@pytest.fixture
def recipe(tmp_path: Path, corpus: Path) -> Path:
    settings = yaml.safe_load((ROOT / "recipes/arks/recipe.yaml").read_text())
    settings["corpus"]["paths"] = {"data": str(corpus)}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in settings.items() if k != "sizes"}))
    return path


def change(recipe: Path, section: str, **values: object) -> None:
    settings = yaml.safe_load(recipe.read_text())
    settings[section] |= values
    recipe.write_text(yaml.safe_dump(settings))


@pytest.mark.parametrize("writer", WRITERS)
def test_every_kind_of_ark_is_imported(
    writer: str, corpus: Path, tmp_path: Path, nessa: Command
) -> None:
    x, _, _ = two_views(60, 4)
    table = tmp_path / "theirs"
    table.mkdir()
    path = WRITERS[writer](table, renamed(x))
    save_pretrained(tmp_path / "old", ArksConfig(pretrained="arks", path=str(path)))
    words = ["extract", "--encoder", tmp_path / "old", "--data", corpus.parent]
    words += ["--set", "corpus", "--output", tmp_path / "out"]
    assert nessa(*words).status == 0  # a shard: nothing to do
    done = nessa(*words, "--merge")
    assert done.status == 0, done
    assert "240 embeddings of dimension 12" in done.out
    imported = Embeddings.read(tmp_path / "out/corpus")
    expected = renamed(x).select(imported.keys).matrix
    np.testing.assert_allclose(imported.matrix, expected, rtol=0, atol=1e-5)
    assert imported.stamp is not None
    assert (imported.stamp.model, imported.stamp.set) == ("old", "corpus")
    means = Embeddings.read(tmp_path / "out/corpus/spk_xvector.scp")
    assert len(means) == 60


def test_a_table_that_says_whose_it_is_keeps_its_fingerprint(tmp_path: Path) -> None:
    x, _, utt2spk = two_views(3, 2)
    x.write(tmp_path / "theirs" / "eval")
    given = GivenEmbeddings("old", ArksConfig(pretrained="arks", path=f"{tmp_path}/theirs/{{set}}"))
    stamp = given.read_set("eval", utt2spk).stamp
    assert stamp is not None and x.stamp is not None
    assert (stamp.model, stamp.fingerprint, stamp.set) == ("x", x.stamp.fingerprint, "eval")


def test_an_utterance_without_a_vector_is_named(tmp_path: Path) -> None:
    x, _, utt2spk = two_views(3, 2)
    path = by_kaldiio(text=False)(tmp_path, x)
    given = GivenEmbeddings("old", ArksConfig(pretrained="arks", path=str(path)))
    with pytest.raises(InputError, match=r"xvector\.scp: no vector for 'missing'"):
        given.read_set("eval", {**utt2spk, "missing": "id00000"})


def test_pipes_in_a_table_are_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "xvector.scp").write_text(f"a touch {mark} |\n")
    config = ArksConfig(pretrained="arks", path=str(tmp_path / "xvector.scp"))
    save_pretrained(tmp_path / "old", config)
    model = load_model(tmp_path / "old")
    assert isinstance(model, GivenEmbeddings)
    with pytest.raises(InputError, match="is a command, which is not run"):
        model.read_set("eval", {"a": "a"})
    assert not mark.exists()


# ---- stage prepare ------------------------------------------------------------------------------


def run(programs: Programs, recipe: Path, data: Path) -> Done:  # noqa: F811
    return programs("arks", "--recipe", recipe, "--corpus", data / "corpus", "--output", data)


def prepare(programs: Programs, recipe: Path, data: Path) -> None:  # noqa: F811
    done = run(programs, recipe, data)
    assert done.status == 0, done


def test_one_directory_is_divided_by_speaker(
    programs: Programs,  # noqa: F811
    recipe: Path,
    corpus: Path,
    tmp_path: Path,
    nessa: Command,
    caplog: pytest.LogCaptureFixture,
) -> None:
    change(recipe, "prepare", trials={"dev": {"targets": 20, "nontargets": 60}})
    data = tmp_path / "data"
    done = run(programs, recipe, data)
    assert done.status == 0 and caplog.text.count("no utt2session") == 1, done
    done = nessa("prepare", "--recipe", recipe, data)
    assert done.status == 0, done
    sets = {name: read_utt2spk(data / name) for name in ("align", "dev", "eval")}
    speakers = {name: set(utt2spk.values()) for name, utt2spk in sets.items()}
    assert {name: len(found) for name, found in speakers.items()} == {
        "align": 43, "dev": 5, "eval": 12
    }  # fmt: skip
    assert speakers["eval"] == {f"id{n:05d}" for n in range(48, 60)}
    assert sum(map(len, sets.values())) == len(read_utt2spk(corpus))
    assert (data / "eval/trials").read_bytes() == (corpus / "trials").read_bytes()
    assert len(Trials.read(data / "dev/trials")) == 80


def test_copies_of_a_trial_list_that_tools_leave_are_no_lists(
    programs: Programs,  # noqa: F811
    recipe: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    all_trials(read_utt2spk(corpus)).write(corpus / "trials.bak")
    for name in ("trials~", "trials_hard~", "trials_hard.bak", "trials_profile.bak"):
        (corpus / name).write_text("nobody id00000/s0/00000.wav target\n")
    (corpus / "trials_old").mkdir()
    prepare(programs, recipe, tmp_path / "data")
    speakers = set(read_utt2spk(tmp_path / "data/eval").values())
    assert speakers == {f"id{n:05d}" for n in range(48, 60)}
    assert [path.name for path in (tmp_path / "data/eval").glob("trials*")] == ["trials"]


def test_a_directory_per_set(
    programs: Programs,  # noqa: F811
    recipe: Path,
    tmp_path: Path,
) -> None:
    for name, first in (("align", 0), ("dev", 20), ("eval", 30)):
        _, _, utt2spk = two_views(10, 4, first_speaker=first)
        write_table(tmp_path / name / "utt2spk", utt2spk)
        write_table(tmp_path / name / "utt2session", {utt: utt[-1] for utt in utt2spk})
        all_trials(utt2spk).write(tmp_path / name / "trials")
    paths = {name: str(tmp_path / name) for name in ("align", "dev", "eval")}
    change(recipe, "corpus", paths=paths)
    prepare(programs, recipe, tmp_path / "data")
    for name in ("dev", "eval"):
        assert (tmp_path / "data" / name / "trials").read_bytes() == (
            tmp_path / name / "trials"
        ).read_bytes()
    assert not (tmp_path / "data/align/trials").exists()
    del paths["dev"]
    change(recipe, "corpus", paths=paths)
    refuse(run(programs, recipe, tmp_path / "data"), "paths.dev=DIR")
    change(recipe, "corpus", paths={"evil": "x"})
    refuse(run(programs, recipe, tmp_path / "data"), "'evil'")


def test_only_what_is_written_over_is_refused(
    programs: Programs,  # noqa: F811
    recipe: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    write_table(tmp_path / "data/train/utt2spk", {"a-1": "a"})  # a user's; none is written here
    prepare(programs, recipe, tmp_path / "data")
    assert read_table(tmp_path / "data/train/utt2spk") == {"a-1": "a"}


def test_a_domain_by_which_no_list_can_be_called_is_refused(
    programs: Programs,  # noqa: F811
    recipe: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    write_table(corpus / "utt2domain", dict.fromkeys(read_utt2spk(corpus), "tel/clean"))
    done = run(programs, recipe, tmp_path / "data")
    refuse(done, f"{corpus}, domains of set 'align': domain 'tel/clean'", "rename it")


def test_domains_are_those_of_the_directory_or_of_the_patterns_now(
    programs: Programs,  # noqa: F811
    recipe: Path,
    corpus: Path,
    tmp_path: Path,
    nessa: Command,
) -> None:
    data = tmp_path / "data"
    for first, second in ("ab", "ba"):
        change(recipe, "prepare", domains={first: "id000[0-2].", second: "id000[3-9]."})
        prepare(programs, recipe, data)
        assert nessa("prepare", "--recipe", recipe, data).status == 0
        found = read_table(data / "align/utt2domain")
        utt2spk = read_utt2spk(data / "align")
        assert found == {u: first if s < "id00030" else second for u, s in utt2spk.items()}
    given = {u: f"d{s[-1]}" for u, s in read_utt2spk(corpus).items()}
    write_table(corpus / "utt2domain", given)
    prepare(programs, recipe, data)
    assert read_table(data / "align/utt2domain").items() <= given.items()


def test_a_work_directory_that_another_program_prepared_can_be_used(
    programs: Programs,  # noqa: F811
    recipe: Path,
    tmp_path: Path,
    nessa: Command,
) -> None:
    change(recipe, "prepare", trials={"dev": {"targets": 20, "nontargets": 60}})
    data = tmp_path / "data"
    prepare_set(data, "align", range(2), sessions=1, utterances=1)
    (data / "align/segments").write_text("a b 0 1\n")
    (data / "align/notes").write_text("mine\n")
    prepare(programs, recipe, data)
    done = nessa("prepare", "--recipe", recipe, data)
    assert done.status == 0, done
    tables = {path.name for path in (data / "align").iterdir()}
    assert tables == {"utt2spk", "spk2utt", "utt2session", "notes"}
    assert not list(data.glob("manifests/*"))


def test_audio_and_features_of_a_directory_may_be_elsewhere(
    programs: Programs,  # noqa: F811
    recipe: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    utt2spk = read_utt2spk(corpus)
    write_table(corpus / "wav.scp", {"rec": "/elsewhere/rec.wav", "rec2": "sph2pipe x.sph |"})
    write_table(corpus / "segments", {"others-1": "rec3 0 1"})
    for name in ("feats.scp", "vad.scp", "utt2dur", "utt2num_frames", "reco2dur"):
        write_table(corpus / name, {"others-1": "1"})
    write_table(corpus / "utt2session", {u: u.split("/")[1] for u in utt2spk})
    prepare(programs, recipe, tmp_path / "data")
    tables = {path.name for path in (tmp_path / "data/eval").iterdir()}
    assert tables == {"utt2spk", "spk2utt", "utt2session", "trials"}


def test_faults_of_a_directory_are_named(
    programs: Programs,  # noqa: F811
    recipe: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    (corpus / "utt2session").write_text("id00000/s0/00000.wav s0\n")
    refuse(
        run(programs, recipe, tmp_path / "data"),
        "corpus/utt2session",
        "no line for utterance 'id000",
        "more; add it",
    )
    (corpus / "utt2session").unlink()
    (corpus / "trials").write_text("nobody id00000/s0/00000.wav target\n")
    refuse(run(programs, recipe, tmp_path / "data"), "corpus/trials", "'nobody'")
    (corpus / "trials").unlink()
    refuse(
        run(programs, recipe, tmp_path / "data"), "no speakers for set 'eval'", "prepare.held_out"
    )


def test_embeddings_have_no_copies_and_no_additional_speakers(
    programs: Programs,  # noqa: F811
    recipe: Path,
    corpus: Path,
    tmp_path: Path,
    nessa: Command,
) -> None:
    change(recipe, "prepare", align_copies={"slow": {"speed": 0.9}})
    prepare(programs, recipe, tmp_path / "data")
    done = nessa("prepare", "--recipe", recipe, tmp_path / "data")
    done.refused("data/align: no copies: local/arks.py", "remove prepare.align_copies")
    change(recipe, "corpus", paths={"data": str(corpus), "align_also": str(corpus)})
    refuse(run(programs, recipe, tmp_path / "data"), "'align_also'")


# ---- the whole recipe ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_walk_of_the_page_leads_to_the_report_and_on(tmp_path: Path, corpus: Path) -> None:
    x, y, _ = two_views(60, 4, noise=(0.9, 0.5))
    tables = {}
    for model, views, writer in (
        ("old", x, "kaldi_native_io, text"),
        ("new", y, "kaldiio, binary"),
    ):
        (tmp_path / model).mkdir()
        tables[model] = WRITERS[writer](tmp_path / model, renamed(views))
    work = tmp_path / "work"
    places = {"/path/to/your/data": corpus, "/path/to/your/work": work}
    for model, path in tables.items():
        places[f"/path/to/your/{model}/xvector.scp"] = path
    out = walk("your-arks.md", places)
    assert "recovered gain %" in out
    assert out.count(f"{tables['new']}: 240 embeddings mapped; ") == 1
    assert len((work / "scores").read_text().splitlines()) == len(Trials.read(corpus / "trials"))
    assert (work / "exp/report/index.html").is_file()
    records = json.loads((work / "exp/results.json").read_text())
    cells = {(r["aligner"], r["enroll"], r["runtime"]): r["eer"] for r in records}
    assert cells["raw", "new", "new"] < cells["raw", "old", "old"] < 0.3
    for pair in (("new", "old"), ("old", "new")):
        assert cells["nessa", *pair] < 0.3
    assert (work / "exp/export/nessa.new-old/enroll.onnx").exists()
    assert not (work / "data/manifests").exists()
