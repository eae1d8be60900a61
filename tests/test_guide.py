"""Walks of the documentation: the commands on these pages are run, as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import kaldi_native_io
import pytest

from nessa.config import EncoderConfig
from nessa.files import write_table
from nessa.resolution import resolve
from tests.conftest import ROOT
from tests.kaldi_corpora import write_audio_dir
from tests.pairs import all_trials, two_views


def commands(page: str, places: dict[str, Path]) -> str:
    """All shell blocks of a page of docs/, with the reader's own places."""
    text = (ROOT / "docs" / page).read_text()
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S))
    for place, own in places.items():
        assert place in script
        script = script.replace(place, str(own))
    return script


def walk(page: str, places: dict[str, Path]) -> str:
    """Run the commands of a page as its reader would; gives what they print."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands(page, places)],
        cwd=ROOT,
        env={
            **os.environ,
            "NESSA_PYTHON": sys.executable,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


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
    assert isinstance(new, EncoderConfig) and new.features.num_filters == 40


@pytest.mark.slow
def test_a_corpus_of_ones_own(tmp_path: Path) -> None:
    write_audio_dir(tmp_path / "corpus", range(24), utterances=8)
    places = {"/path/to/your/data": tmp_path / "corpus", "/path/to/your/recipe": tmp_path / "mine"}
    out = walk("your-corpus.md", places)
    assert f"{tmp_path / 'corpus'}: valid" in out
    assert "recovered gain %" in out
    assert f"{tmp_path / 'mine/exp/embeddings/new/eval'}: valid" in out


@pytest.mark.slow
def test_a_pair_of_arks_of_ones_own(tmp_path: Path) -> None:
    old, new, utt2spk = two_views(80, 4, noise=(0.6, 0.2))
    tested = {utt: speaker for utt, speaker in utt2spk.items() if speaker >= "id00060"}
    write_table(tmp_path / "data/utt2spk", utt2spk)
    all_trials(tested).write(tmp_path / "data/trials")
    places = {"/path/to/your/data": tmp_path / "data", "/path/to/your/work": tmp_path / "work"}
    for name, view in (("old", old), ("new", new)):
        (tmp_path / name).mkdir()
        specifier = f"ark,scp:{tmp_path / name}/xvector.ark,{tmp_path / name}/xvector.scp"
        with kaldi_native_io.FloatVectorWriter(specifier) as writer:
            for key, vector in zip(view.keys, view.matrix, strict=True):
                writer.write(key, vector)
        places[f"/path/to/your/{name}/xvector.scp"] = tmp_path / name / "xvector.scp"
    out = walk("your-arks.md", places)
    assert "recovered gain %" in out and "nessa" in out
    assert out.count("unlike the align data") >= 2
    assert (tmp_path / "work/exp/report/index.html").is_file()
    assert len((tmp_path / "work/scores").read_text().splitlines()) == len(all_trials(tested))


@pytest.mark.slow
def test_a_store_mapped_and_networks_verified(tiny: Path, tmp_path: Path) -> None:
    places = {"recipes/mini/exp": tiny / "exp", "/tmp/nessa-migration": tmp_path / "work"}
    out = walk("migration.md", places)
    assert "16 profiles would be mapped" in out
    assert "enroll: 16 profiles in the order of" in out and "id,distance" in out
    assert out.count("of the aligner on 10,000 embeddings") == 2
    assert list((tmp_path / "work/mapped/enroll").glob("part-*.parquet"))
    assert len(re.findall(r"^\S+ \S+ -?\d+\.\d{4}$", out, re.M)) == 9
