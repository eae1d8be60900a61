"""The examples that help texts give: after ./run.sh each of them works, as it stands there."""

import logging
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from nessa.cli.main import cli
from nessa.kaldi.embeddings import Embeddings
from tests.conftest import ROOT, Command, copy_work_dir

pytestmark = pytest.mark.slow
PROFILES = "postgresql:///voices?table=profiles"


def examples(group: click.Group = cli) -> Iterator[str]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from examples(command)
        for text in re.findall(r"Example: (.+?)(?:\n\n|\Z)", command.help or "", re.DOTALL):
            yield " ".join(text.split())


@pytest.fixture(scope="module")
def checkout(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has after ./run.sh, at size tiny."""
    folder = tmp_path_factory.mktemp("checkout")
    copy_work_dir(tiny, folder / "recipes/mini")
    shutil.copy(ROOT / "recipes/mini/recipe.yaml", folder / "recipes/mini")
    shutil.copytree(ROOT / "conf", folder / "conf")
    return folder


@pytest.fixture
def profiles(checkout: Path, database: str) -> str:
    """A database as the examples have it: a table of the old model's profiles, and its map."""
    import psycopg

    means = Embeddings.read(checkout / "recipes/mini/exp/embeddings/old/eval/spk_xvector.scp")
    with psycopg.connect(database) as connection:
        form = f"vector({means.dim})"
        connection.execute(f"CREATE TABLE profiles (id text PRIMARY KEY, embedding {form})")
        connection.cursor().executemany(
            "INSERT INTO profiles VALUES (%s, %s::real[])",
            zip(means.keys, means.matrix.tolist(), strict=True),
        )
    return f"{database}&table=profiles"


@pytest.mark.parametrize("example", list(examples()))
def test_the_example_works(
    example: str,
    checkout: Path,
    nessa: Command,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(checkout)
    program, *words = shlex.split(example)
    if PROFILES in words:
        url = request.getfixturevalue("profiles")
        words = [url if word == PROFILES else word for word in words]
        aligner = "recipes/mini/exp/aligners/nessa/old-new"
        assert nessa("store", "map", url, "--to", "profiles_new", "--aligner", aligner).status == 0
    done = nessa(*words)
    logging.getLogger("nessa").setLevel(logging.NOTSET)
    assert program == "nessa" and done.status == 0, done


def test_every_command_has_one() -> None:
    assert len(list(examples())) >= len(cli.commands)
