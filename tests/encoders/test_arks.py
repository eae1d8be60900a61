"""Given embeddings: the vectors, not the path, tell which model made them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from nessa import Embeddings
from nessa.encoders import GivenEmbeddings
from nessa.encoders.settings import ArksConfig
from nessa.encoders.shards import import_embeddings
from nessa.files import write_table
from nessa.kaldi.datadir import read_utt2spk, spk2utt_of
from nessa.kaldi.stamps import ModelStamp
from tests.conftest import Command
from tests.pairs import two_views
from tests.toy import Toy


def given(path: Path | str) -> GivenEmbeddings:
    return GivenEmbeddings("old", ArksConfig(pretrained="arks", path=str(path)))


def sets_of(folder: Path) -> tuple[Path, Embeddings]:
    """A data folder with align and eval, and embeddings of both."""
    x, _, names = two_views(40, 3)
    data = folder / "data"
    for name, keys in (("align", x.keys[:90]), ("eval", x.keys[90:])):
        write_table(data / name / "utt2spk", {key: names[key] for key in keys})
    return data, Embeddings(x.keys, x.matrix)


def fingerprint(path: Path, data: Path, output: Path, name: str = "eval") -> str:
    stamp = import_embeddings(given(path), data, name, output).stamp
    assert stamp is not None
    return stamp.fingerprint


def test_vectors_that_a_table_lacks_are_named_before_encoders_are_trained(
    tmp_path: Path, nessa: Command
) -> None:
    toy = Toy(tmp_path)
    for name in ("align", "dev", "eval"):
        utt2spk = read_utt2spk(toy.data / name)
        write_table(toy.data / name / "spk2utt", spk2utt_of(utt2spk))
        write_table(toy.data / name / "utt2session", {u: u for u in utt2spk})
        write_table(toy.data / name / "wav.scp", dict.fromkeys(utt2spk, str(toy.recipe)))
    settings = yaml.safe_load(toy.recipe.read_text())
    settings["encoders"]["y"] = {"pretrained": "arks", "path": str(toy.y / "{set}")}
    toy.recipe.write_text(yaml.safe_dump(settings))
    words = "prepare", "--recipe", toy.recipe, toy.data
    done = nessa(*words)
    assert done.status == 0 and "no vector" not in done.out, done
    part = Embeddings.read(toy.y / "align")
    part.select(part.keys[1:]).write(toy.y / "align")
    done = nessa(*words)
    said = f"warning: {toy.y}/align: no vector for {part.keys[0]!r} of set 'align'"
    assert done.status == 0 and done.out.count("no vector") == 1 and said in done.out, done
    for ark in toy.y.rglob("*.ark"):  # the keys are enough
        ark.unlink()
    assert nessa(*words).out == done.out
    shutil.rmtree(toy.y / "dev")  # another toolkit makes them after stage prepare
    (toy.y / "eval/xvector.scp").unlink()
    done = nessa(*words)
    for place in (f"{toy.y}/dev", f"{toy.y}/eval/xvector.scp"):
        assert f"warning: {place}: no such file" in done.out, done
    assert done.status == 0 and "(model 'y', for stage extract)" in done.out, done


def grown(x: Embeddings) -> Embeddings:
    more = [f"z{n}" for n in range(5)]
    return Embeddings([*x.keys, *more], np.vstack([x.matrix, x.matrix[:5] + 1]))


def rotated(x: Embeddings) -> Embeddings:
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((x.dim, x.dim)))[0]
    return Embeddings(x.keys, x.matrix @ turn)


SAME: dict[str, Callable[[Embeddings], Embeddings]] = {
    "as it was": lambda x: x,
    "in another order": lambda x: x.select(x.keys[::-1]),
    "with more utterances": grown,
}
OTHER: dict[str, Callable[[Embeddings], Embeddings]] = {
    "rotated": rotated,
    "scaled": lambda x: Embeddings(x.keys, 2 * x.matrix),
    "cut": lambda x: Embeddings(x.keys, x.matrix[:, :-1]),
    "of other utterances": lambda x: Embeddings(x.keys, x.matrix[::-1]),
}


@pytest.mark.parametrize("change", [*SAME, *OTHER])
def test_content_tells_models_apart(tmp_path: Path, change: str) -> None:
    data, x = sets_of(tmp_path)
    path = tmp_path / "x.ark"
    x.write_ark(path)
    before = fingerprint(path, data, tmp_path / "before")
    assert before.startswith("arks:")  # which tells it from the fingerprints of models
    assert before == fingerprint(path, data, tmp_path / "align", "align")
    (SAME | OTHER)[change](x).write_ark(path)
    assert (fingerprint(path, data, tmp_path / "after") == before) == (change in SAME)


@pytest.mark.parametrize("form", ["elsewhere", "scp", "{set}"])
def test_the_same_vectors_elsewhere_are_of_the_same_model(tmp_path: Path, form: str) -> None:
    data, x = sets_of(tmp_path)
    x.write_ark(tmp_path / "x.ark")
    before = fingerprint(tmp_path / "x.ark", data, tmp_path / "before")
    x.write_ark(tmp_path / "b/y.ark", tmp_path / "b/y.scp")
    for name, keys in (("align", x.keys[:90]), ("eval", x.keys[90:])):
        x.select(keys).write_ark(tmp_path / f"{name}.ark")
    place = {"elsewhere": "b/y.ark", "scp": "b/y.scp"}.get(form, "{set}.ark")
    assert fingerprint(tmp_path / place, data, tmp_path / "after") == before


@pytest.mark.parametrize("file", ["x.ark", "x.scp", "info.json"])
def test_a_changed_file_is_seen(tmp_path: Path, file: str) -> None:
    _, x = sets_of(tmp_path)
    x.write_ark(tmp_path / "x.ark", tmp_path / "x.scp")
    (tmp_path / "info.json").write_text("{}")
    before = given(tmp_path / "x.scp").fingerprint
    assert before == given(tmp_path / "x.scp").fingerprint
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes() + b"\n")
    assert given(tmp_path / "x.scp").fingerprint != before


@pytest.mark.parametrize("file", ["xvector_01.ark", "xvector_00.scp"])
def test_a_changed_file_of_3d_speakers_processes_is_seen(tmp_path: Path, file: str) -> None:
    data, x = sets_of(tmp_path)
    for rank in range(2):
        part = tmp_path / f"embs/xvector_{rank:02d}"
        x.select(x.keys[rank::2]).write_ark(part.with_suffix(".ark"), part.with_suffix(".scp"))
    assert import_embeddings(given(tmp_path / "embs"), data, "eval", tmp_path / "out").stamp
    before = given(tmp_path / "embs").fingerprint
    assert before == given(tmp_path / "embs").fingerprint
    path = tmp_path / "embs" / file
    path.write_bytes(path.read_bytes() + b"\n")
    assert given(tmp_path / "embs").fingerprint != before


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_a_stamp_does_not_hide_that_nearly_all_is_unlike(
    nessa: Command, tmp_path: Path, share: float
) -> None:
    """A share of the vectors is another model's, under the right model's stamp."""
    from nessa.alignment import ProcrustesAligner

    x, y, names = two_views(60, 3)
    stamp = ModelStamp("old", "f" * 64, "align")
    x = Embeddings(x.keys, x.matrix + 3, stamp)
    ProcrustesAligner().fit(x, y, names).save(tmp_path / "aligner")
    matrix = x.matrix.copy()
    matrix[: round(share * len(x))] *= -1
    Embeddings(x.keys, matrix, stamp).write(tmp_path / "raw")
    words = ["map", "--aligner", tmp_path / "aligner", "--enroll", tmp_path / "raw"]
    done = nessa(*words, "--output", tmp_path / "out")
    if share < 1:
        assert done.status == 0, done
    else:
        done.refused("another model", "whatever info.json says")
        assert nessa(*words, "--output", tmp_path / "out", "--allow-outliers").status == 0
