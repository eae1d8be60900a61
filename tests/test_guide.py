"""docs/your-corpus.md: the commands on the page are run, as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nessa.config import EncoderConfig
from nessa.resolution import resolve
from tests.conftest import ROOT
from tests.kaldi_corpora import write_audio_dir

GUIDE = ROOT / "docs/your-corpus.md"
PLACES = {"corpus": "/path/to/your/data", "recipe": "/path/to/your/recipe"}


def commands(**places: Path) -> str:
    """All shell blocks of the page, with the reader's own places."""
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(), re.M | re.S))
    for name, place in places.items():
        assert PLACES[name] in script
        script = script.replace(PLACES[name], str(place))
    return script


def test_the_recipe_of_the_page_is_short_and_right(tmp_path: Path) -> None:
    recipe = re.search(r"<<EOF\n(.*?)^EOF$", commands(), re.M | re.S)
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
def test_the_commands_of_the_page_work(tmp_path: Path) -> None:
    write_audio_dir(tmp_path / "corpus", range(24), utterances=8)
    script = commands(corpus=tmp_path / "corpus", recipe=tmp_path / "mine")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env={
            **os.environ,
            "NESSA_PYTHON": sys.executable,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert f"{tmp_path / 'corpus'}: valid" in done.stdout
    assert "recovered gain %" in done.stdout
    assert f"{tmp_path / 'mine/exp/embeddings/new/eval'}: valid" in done.stdout


@pytest.mark.slow
def test_the_migration_of_the_guide_works(tiny: Path, tmp_path: Path) -> None:
    guide = (ROOT / "docs/migration.md").read_text()
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", guide, re.M | re.S))
    places = {"recipes/mini/exp": tiny / "exp", "/tmp/nessa-migration": tmp_path / "work"}
    for place, own in places.items():
        assert place in script
        script = script.replace(place, str(own))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done
    assert "16 profiles would be mapped" in done.stdout
    assert done.stdout.count("of the aligner on 10,000 embeddings") == 2
    assert list((tmp_path / "work/mapped/enroll").glob("part-*.parquet"))
