"""Walks of the documentation: the commands on these pages are run, as they stand there."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from nessa.corpus.utterances import Utterance, make_cuts
from nessa.encoders import (
    SpeakerModel,
    build,
    load_model,
    parse_settings,
    save_model,
    save_pretrained,
)
from nessa.encoders.config import EncoderConfig, PretrainedConfig
from nessa.encoders.extraction import extract
from nessa.encoders.settings import WESPEAKER_FEATURES
from nessa.files import read_table
from nessa.recipe.resolve import resolve
from tests.conftest import ROOT, Command, copy_work_dir
from tests.encoders.exported import save_network
from tests.encoders.pyannotes import save_checkpoint, skip_without_pyannote
from tests.kaldi_corpora import write_audio_dir
from tests.walks import commands, program, walk

LINEAR = {"procrustes", "diagonal", "lambda_orthogonal", "low_rank", "ridge", "cca", "plda",
          "classifier"}  # fmt: skip


def test_the_recipe_of_the_page_is_short_and_right(tmp_path: Path) -> None:
    recipe = re.search(r"<<EOF\n(.*?)^EOF$", commands("your-corpus.md", {}), re.M | re.S)
    assert recipe is not None
    assert len(recipe[1].splitlines()) <= 30
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe[1])
    for size in (None, "look"):
        assert resolve(path, size).prepare.program == "kaldi_dir"
    given = "{type: given, num_filters: 40}"
    changes = [f"encoders.{model}.features={given}" for model in ("old", "new")]
    new = resolve(path, overrides=changes).encoders["new"]
    assert new["features"]["num_filters"] == 40


@pytest.mark.slow
def test_a_corpus_of_ones_own(tmp_path: Path) -> None:
    write_audio_dir(tmp_path / "corpus", range(24), utterances=8)
    places = {"/path/to/your/data": tmp_path / "corpus", "/path/to/your/recipe": tmp_path / "mine"}
    out = walk("your-corpus.md", places)
    assert f"{tmp_path / 'corpus'}: valid" in out
    assert "recovered gain %" in out
    assert f"{tmp_path / 'mine/exp/embeddings/new/eval'}: valid" in out


@pytest.mark.slow
def test_a_store_mapped_and_networks_verified(tiny: Path, tmp_path: Path) -> None:
    places = {
        "recipes/mini/exp": tiny / "exp",
        "recipes/mini/data": tiny / "data",
        "/tmp/nessa-migration": tmp_path / "work",
    }
    out = walk("migration.md", places)
    assert "16 profiles would be mapped" in out
    assert "enroll: 16 profiles in the order of" in out and "id,distance" in out
    assert out.count("of the aligner on 10,000 embeddings") == 2
    assert list((tmp_path / "work/mapped/enroll").glob("part-*.parquet"))
    assert len(re.findall(r"^\S+ \S+ -?\d+\.\d{4}$", out, re.M)) == 9


@pytest.mark.slow
def test_a_rollout(tiny: Path, tmp_path: Path) -> None:
    mini = copy_work_dir(tiny, tmp_path / "mini")
    out = walk("rollout.md", {"recipes/mini": mini})
    assert "aligned, re-enroll on use" in out and "day 90" in out
    assert (mini / "exp/studies/rollout.json").is_file()


@pytest.mark.slow
def test_a_database_migrated_and_switched(tiny: Path, tmp_path: Path, database: str) -> None:
    places = {
        "recipes/mini/exp": tiny / "exp",
        "postgresql:///voices?host=/var/run/postgresql": database,
        "/tmp/nessa-outliers.csv": tmp_path / "outliers.csv",
    }
    out = walk("stores.md", places)
    assert "16 profiles: 16 mapped, 0 as they were, 0 deleted" in out
    assert "table 'profiles_new': 16 profiles, the ids of table 'profiles', within" in out
    assert "now read: table 'profiles_new', 16 profiles, of 16 in table 'profiles'" in out
    assert out.count("now read: table 'profiles'\n") == 2
    assert (tmp_path / "outliers.csv").is_file()


# Distances of random networks are far below 0.5; this is one that some impostors reach.
AMONG_THE_SCORES = "awk '{print 1 - $3}' $WORK/old.scores | sort -g | sed -n 24p"
OLD_DIM = 48  # fewer than the few speakers here have utterances


def light_resnet(folder: Path, nessa: Command) -> Path:
    """An ONNX file of WeSpeaker's form: a small ResNet with random weights."""
    settings = {
        "architecture": "resnet",
        "channels": 8,
        "dim": 40,
        "features": WESPEAKER_FEATURES,
        "loss": {"type": "aam"},
        "steps": 1,
    }
    config = parse_settings(settings)
    assert isinstance(config, EncoderConfig)
    torch.manual_seed(7)
    save_model(folder / "resnet", config, build(config))
    done = nessa("export", "--encoder", folder / "resnet", "--output", folder / "onnx")
    assert done.status == 0, done
    return folder / "onnx/encoder.onnx"


def pyannotes_settings(folder: Path) -> dict[str, str]:
    """pyannote/embedding in small, with random weights; where there is no library, a stand-in."""
    try:
        skip_without_pyannote()
    except pytest.skip.Exception:
        torch.manual_seed(8)
        save_network(folder / "old.onnx", OLD_DIM, ("feats", "embs"))
        return {"pretrained": "onnx", "file": str(folder / "old.onnx")}
    save_checkpoint(folder / "pyannote", "XVectorSincNet", dimension=OLD_DIM)
    return {"pretrained": "pyannote", "source": str(folder / "pyannote")}


@pytest.mark.slow
def test_from_pyannote_to_wespeaker(tmp_path: Path, database: str, nessa: Command) -> None:
    """Profiles in the database are of utterances that are gone when the page begins."""
    import psycopg

    old = pyannotes_settings(tmp_path)
    utt2spk = write_audio_dir(tmp_path / "enrolled", range(24))
    config = parse_settings(old)
    assert isinstance(config, PretrainedConfig)
    save_pretrained(tmp_path / "old", config)
    model = load_model(tmp_path / "old")
    assert isinstance(model, SpeakerModel)
    wav = read_table(tmp_path / "enrolled/wav.scp")
    spoken = [Utterance(f"{s}-{u}-0", s, u, Path(wav[u])) for u, s in sorted(utt2spk.items())]
    embedded = extract(model, list(make_cuts(spoken)))
    shutil.rmtree(tmp_path / "enrolled")
    with psycopg.connect(database) as connection:
        form = f"vector({OLD_DIM})"
        connection.execute(f"CREATE TABLE profiles (id text PRIMARY KEY, embedding {form})")
        for speaker in sorted(set(utt2spk.values())):
            own = [row for row, one in enumerate(spoken) if one.speaker == speaker]
            profile = embedded.matrix[own].mean(axis=0).tolist()
            connection.execute("INSERT INTO profiles VALUES (%s, %s::real[])", (speaker, profile))
    write_audio_dir(tmp_path / "runtime", range(24), utterances=8, seed=1)
    rng = np.random.default_rng(2)
    for path in sorted((tmp_path / "runtime/audio").iterdir()):  # at some distance each
        samples, rate = soundfile.read(path)
        soundfile.write(path, 10 ** rng.uniform(-2, 0) * samples, rate, "FLOAT")
    places = {
        "/path/to/runtime": tmp_path / "runtime",
        "/path/to/migration": tmp_path / "work",
        "postgresql:///voices?host=/var/run/postgresql": database,
        "{pretrained: pyannote, source: pyannote/embedding}": json.dumps(old),
        "models/voxceleb_resnet34_LM.onnx": light_resnet(tmp_path, nessa),
        "--threshold 0.5 ": f"--threshold $({AMONG_THE_SCORES}) ",
    }
    out = walk("migrations/pyannote-to-wespeaker.md", places)
    assert out.count("repetition: ok") == 2 and "FAULT" not in out
    assert "GO" in out and (tmp_path / "work/by-speaker/aligner.json").is_file()
    sessions = read_table(tmp_path / "work/assessment/data/dev/utt2session")
    assert sessions.items() <= read_table(tmp_path / "runtime/utt2session").items()
    assert re.search(r"work/new.scores: \d+ trials, EER", out)
    assert "-p3-1 " in (tmp_path / "work/new.scores").read_text()
    assert "24 profiles: 24 mapped, 0 as they were, 0 deleted" in out
    assert "now read: table 'profiles_wespeaker', 24 profiles, of 24 in table 'profiles'" in out
    assert out.count("now read: table 'profiles'\n") == 2


@pytest.mark.slow
def test_the_readme(tiny: Path, tmp_path: Path) -> None:
    mini = copy_work_dir(tiny, tmp_path / "mini")
    places = {
        "./run.sh    ": f"./run.sh --size tiny --work-dir {mini} ",
        "tests/run.sh": "tests/run.sh --help",  # not all tests within a test
        "/tmp/nessa-tiny": mini,
        "recipes/mini": mini,
        "/tmp/nessa-frozen": tmp_path / "frozen",
    }
    out = walk("../README.md", places)
    assert "recovered gain %" in out and "exp/results.json" in out
    assert (tmp_path / "frozen/aligner.json").is_file()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1100


def figures(recipe: str, page: str, trials: str, column: int = 4) -> dict[tuple[str, ...], str]:
    """{(system, enroll, runtime): figure without its interval} of a page of results."""
    text = (ROOT / "recipes" / recipe / page).read_text().partition("\n## ")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines()]
    return {tuple(row[:3]): row[column].split()[0] for row in rows if row[3:4] == [trials]}


def test_the_figures_of_the_readme_are_those_of_the_results() -> None:
    rows = [
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in (ROOT / "README.md").read_text().splitlines()
        if re.search(r"\| \d+\.\d\d \|$", line)
    ]
    sources = ("mini", "RESULTS.md", "single"), ("voices", "RESULTS-light.md", "single")
    sources += ("voices", "RESULTS.md", "single"), ("voices", "RESULTS.md", "sentences")
    for column, source in zip(zip(*rows, strict=True), sources, strict=True):
        eers = figures(*source)
        aligned = {key: eer for key, eer in eers.items() if key[1:] == ("old", "new")}
        linear = [eer for (name, *_), eer in aligned.items() if name in LINEAR]
        nessa = {
            key[1:]: eer
            for key, eer in eers.items()
            if key[0].startswith("nessa") and key[1] != key[2]
        }
        assert column == (
            eers["raw", "old", "old"],
            eers["logit", "old", "new"],
            min(linear, key=float),
            nessa["old", "new"],
            nessa["new", "old"],
            eers["raw", "new", "new"],
        )


def test_the_gains_of_the_readme_are_those_of_the_results() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())

    def gain(recipe: str, page: str, column: int) -> str:
        found = figures(recipe, page, "single", column).items()
        (value,) = (v for (name, *pair), v in found if "nessa, " in name and pair == ["old", "new"])
        return f"{float(value):.0f} %"

    light = [gain("voices", "RESULTS-light.md", column) for column in (6, 7)]
    assert f"**helps**; {light[0]} of the gain of re-enrolling (controlled gain {light[1]})" in text
    controlled = gain("mini", "RESULTS.md", 7)
    assert f"([controlled gain](docs/results.md#the-two-gains) {controlled})" in text
    ratio = "plda.llr", "old", "new"
    mini = figures("mini", "RESULTS.md", "single")[ratio]
    light_eer = figures("voices", "RESULTS-light.md", "single")[ratio]
    assert f"reaches {mini} on mini and {light_eer} on `light`" in text


@pytest.mark.slow
def test_metrics_by_hand(tiny: Path, tmp_path: Path) -> None:
    out = walk("metrics.md", {"recipes/mini": tiny, "/tmp/nessa-llr": tmp_path})
    assert "FNIR" in out and "actDCF" in out


@pytest.mark.slow
def test_the_report_made_anew(tiny: Path, tmp_path: Path) -> None:
    mini = copy_work_dir(tiny, tmp_path / "mini")
    kaldi = {"copy-vector scp:recipes/mini": f"echo {mini}"}  # no Kaldi here
    places = {"recipes/mini": mini, "/tmp/nessa-RESULTS.md": tmp_path / "RESULTS.md"}
    out = walk("results.md", kaldi | places)
    assert "Each cell: EER %" in out
    assert (tmp_path / "RESULTS.md").read_text().startswith("# Results of recipe mini")


@pytest.mark.slow
def test_the_example_in_python(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(program("api.md", {"recipes/mini": tiny, "steps=600": "steps=5"}), {})
    assert (tmp_path / "my-aligner/aligner.json").is_file()
