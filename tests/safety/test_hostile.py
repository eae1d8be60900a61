"""Nothing in a file is executed: commands and pickles are refused by name, and run nothing."""

import gzip
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from nessa.files import write_json
from nessa.kaldi.embeddings import Embeddings
from tests.conftest import ROOT, Command, run_recipe
from tests.local.test_kaldi_dir import GIVEN, Own, own, programs  # noqa: F401
from tests.local.test_programs import ENCODER, refuse
from tests.speech import prepare_set

COMMANDS = ("touch canary |", "| touch canary", "`touch canary` |", "$(touch canary) |")


class Payload:
    """Unpickled, it would leave a canary."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("canary"),)


@pytest.fixture(autouse=True)
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Commands are run, if they are, in a folder that is looked through afterwards."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob("canary")) and not (ROOT / "canary").exists()


def score(nessa: Command, path: object, *parts: str) -> None:
    """`nessa score` of a table is refused with these words."""
    Path("trials").write_text("a b\n")
    words = ["--enroll", path, "--runtime", path, "--trials", "trials", "--output", "scores"]
    nessa("score", *words).refused(str(path), *parts)
    assert not Path("scores").exists()


def test_a_pickle_in_an_ark(nessa: Command) -> None:
    record = b"a PKL " + pickle.dumps(Payload())
    Path("x.ark").write_bytes(record)
    score(nessa, "x.ark", "'a'", "pickle, which is never loaded")
    Path("x.scp").write_text(f"a {Path('x.ark').absolute()}:2\n")
    score(nessa, "x.scp", "'a'", "pickle, which is never loaded")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_an_scp_of_embeddings(nessa: Command, command: str) -> None:
    Path("x.scp").write_text(f"a {command}\n")
    score(nessa, "x.scp", "line 1")


TABLES = {"wav.scp": ENCODER, "feats.scp": GIVEN}  # and what takes them


def write_commands(table: str, command: str) -> Path:
    """A data directory of 12 speakers, all of whose speech is this command."""
    keys = [f"s{speaker:02d}-{n}" for speaker in range(12) for n in range(4)]
    folder = Path("corpus").absolute()
    folder.mkdir()
    (folder / "utt2spk").write_text("".join(f"{key} {key.split('-')[0]}\n" for key in keys))
    (folder / table).write_text("".join(f"{key} {command}\n" for key in keys))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("table", TABLES)
def test_a_command_in_a_data_directory(own: Own, table: str, command: str) -> None:  # noqa: F811
    refuse(own.prepare(data=write_commands(table, command), encoder=TABLES[table]), f"/{table}")


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_a_command_in_a_corpus_of_a_run(table: str) -> None:
    settings = [f"corpus.paths.data={write_commands(table, COMMANDS[0])}", "corpus.program=null"]
    count = "{targets: 2, nontargets: 2}"
    settings += ["prepare.program=kaldi_dir", "corpus.sets={}"]
    settings += [f"prepare.trials={{dev: {count}, eval: {count}}}"]
    settings += ["prepare.held_out={align: 4, dev: 2, eval: 2}"]
    if table == "feats.scp":
        for model in ("old", "new"):
            sound = "augmentation={noise_prob: 0, reverb_prob: 0, speeds: [1.0]}"
            settings += [f"encoders.{model}.features.type=given", f"encoders.{model}.{sound}"]
            settings += [f"encoders.{model}.features.num_filters=40"]  # of one corpus
    options = [word for setting in settings for word in ("--set", setting)]
    done = run_recipe(Path("work").absolute(), *options, "--stop-stage", "1")
    done.refused(f"corpus/{table}")


def test_a_command_in_a_manifest(nessa: Command) -> None:
    prepare_set(Path("data").absolute(), "eval", range(2))
    path = Path("data/manifests/eval_cuts.jsonl.gz")
    cuts = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    for cut in cuts:
        cut["custom"] = {"x": "!!python/object/apply:os.system [touch canary]"}
        cut["supervisions"][0]["speaker"] = ["touch canary"]
    path.write_bytes(gzip.compress("".join(f"{json.dumps(cut)}\n" for cut in cuts).encode()))
    from nessa.corpus.manifests import CutTable
    from nessa.errors import InputError

    with pytest.raises(InputError, match="line 1: not a cut with an id and a speaker"):
        CutTable(Path("data"), "eval")


def test_python_in_yaml(nessa: Command) -> None:
    text = "name: !!python/object/apply:os.system ['touch canary']\n"
    for name in ("recipe.yaml", "conf.yaml", "config.yaml"):
        Path(name).write_text(text)
    nessa("recipe", "resolve", "--recipe", "recipe.yaml", "--work-dir", ".").refused(
        "recipe.yaml: line 1", "not plain YAML"
    )
    nessa("recipe", "slurm", "--conf", "conf.yaml").refused("conf.yaml: line 1", "not plain YAML")
    words = ["--data", ".", "--set", "eval", "--output", "out"]
    nessa("extract", "--encoder", ".", *words).refused("config.yaml: line 1", "not plain YAML")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.pt", "aligner.safetensors"])
def test_a_pickle_in_the_place_of_weights(nessa: Command, name: str) -> None:
    data = Path("data").absolute()
    prepare_set(data, "train", range(4))
    recipe = Path("recipe.yaml")
    shutil.copy(ROOT / "recipes/mini/recipe.yaml", recipe)
    work = Path("work").absolute()
    nessa("recipe", "resolve", "--recipe", recipe, "--size", "tiny", "--work-dir", work)
    folder = Path("folder")
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Payload()))
    settings = work / "exp/recipe.yaml"
    if name == "checkpoint.pt":
        words = ["--recipe", settings, "--model", "new", "--data", data, "--output", folder]
        nessa("train", *words).refused(f"folder/{name}", "damaged, or no checkpoint of ours")
    elif name == "model.safetensors":
        config = json.dumps({"architecture": "tdnn", "channels": 8, "dim": 4, "steps": 1,
                             "loss": {"type": "aam"}})  # fmt: skip
        (folder / "config.yaml").write_text(config)
        words = ["--data", data, "--set", "train", "--output", "out"]
        nessa("extract", "--encoder", folder, *words).refused(f"folder/{name}", "safetensors")
    else:
        description = {"kind": "procrustes", "settings": {}, "fingerprints": [None, None]}
        write_json(folder / "aligner.json", description)
        Embeddings(["a"], np.ones((1, 4))).write("embeddings")
        words = ["--enroll", "embeddings", "--runtime", "embeddings", "--output", "out"]
        nessa("map", "--aligner", folder, *words).refused(f"folder/{name}", "cannot be read")
