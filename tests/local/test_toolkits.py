"""Whoever comes from another toolkit starts with its files, as its tools wrote them."""

from collections.abc import Callable
from pathlib import Path

import kaldi_native_io
import kaldiio
import numpy as np
import pytest
import yaml

from nessa.encoders.arks import GivenEmbeddings
from nessa.encoders.settings import ArksConfig
from nessa.files import read_json
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.scoring.cosine import cosine_scores
from nessa.trials import Trials
from tests.conftest import ROOT, Command
from tests.local.test_arks import renamed, wespeaker_names
from tests.local.test_programs import Programs, programs  # noqa: F401
from tests.pairs import all_trials, two_views

SPEAKERS, TESTED = 30, "id00024"  # and those after it


class Files:
    """Embeddings of 30 speakers, and trials of the last 6, under the names of VoxCeleb's files."""

    def __init__(self, folder: Path) -> None:
        x, _, utt2spk = two_views(SPEAKERS, 4)
        self.embeddings = renamed(x)
        self.utt2spk = {wespeaker_names(utt): speaker for utt, speaker in utt2spk.items()}
        self.trials = all_trials({u: s for u, s in self.utt2spk.items() if s >= TESTED})
        self.scores = cosine_scores(self.embeddings, self.embeddings, self.trials)
        self.folder, self.data = folder, folder / "data"
        self.data.mkdir()

    def write(self, name: str, lines: list[str]) -> Path:
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))
        return self.folder / name

    def columns(self) -> list[tuple[str, str, bool, float]]:
        assert self.trials.labels is not None
        labels = self.trials.labels.tolist()
        rows = (self.trials.enroll, self.trials.test, labels, self.scores)
        return list(zip(*rows, strict=True))

    def speakers(self) -> None:
        self.write("data/utt2spk", [f"{u} {s}" for u, s in self.utt2spk.items()])


def wespeaker(files: Files) -> tuple[Path, Path, Path]:
    """exp/<model>/embeddings/vox1/xvector.scp, vox1_O_cleaned.kaldi, vox1_O_cleaned.kaldi.score."""
    ark, scp = files.folder / "xvector_000.ark", files.folder / "xvector.scp"
    e = files.embeddings
    kaldiio.save_ark(str(ark), dict(zip(e.keys, e.matrix, strict=True)), scp=str(scp))
    files.speakers()
    words = ("nontarget", "target")
    trials = [f"{e} {t} {words[label]}" for e, t, label, _ in files.columns()]
    scores = [f"{e} {t} {s:.5f} {words[label]}" for e, t, label, s in files.columns()]
    return scp, files.write("data/trials", trials), files.write("scores", scores)


def three_d_speaker(files: Files) -> tuple[Path, Path, Path]:
    """extract.py: a table and an ark of 1 x D matrices for each process; trials with 1 and 0."""
    (files.folder / "embs").mkdir()
    e = files.embeddings
    for rank in range(3):
        vectors = {key: e.matrix[row][None] for row, key in enumerate(e.keys) if row % 3 == rank}
        ark = files.folder / f"embs/xvector_{rank:02d}.ark"
        kaldiio.save_ark(str(ark), vectors, scp=str(ark.with_suffix(".scp")))
    files.speakers()
    trials = [f"{e} {t} {int(label)}" for e, t, label, _ in files.columns()]
    scores = [f"{e} {t} {int(label)} {s:.5f}" for e, t, label, s in files.columns()]
    return files.folder / "embs", files.write("data/trials", trials), files.write("scores", scores)


def speechbrain(files: Files) -> tuple[Path, Path, Path]:
    """veri_test.txt, and scores.txt with ids without a suffix; it writes no arks."""
    files.speakers()
    files.embeddings.write(files.folder / "x")
    trials = [f"{int(label)} {e} {t}" for e, t, label, _ in files.columns()]
    bare = [(e[:-4], t[:-4], int(label), s) for e, t, label, s in files.columns()]
    scores = [f"{e} {t} {label} {s:f}" for e, t, label, s in bare]
    return files.folder / "x", files.write("data/trials", trials), files.write("scores", scores)


def kaldi(files: Files) -> tuple[Path, Path, Path]:
    """extract_xvectors.sh: vectors in an ark of relative path, here text."""
    (files.folder / "exp/xvectors").mkdir(parents=True)
    ark, scp = "exp/xvectors/xvector.1.ark", "exp/xvectors/xvector.scp"
    specifier = f"ark,t,scp:{files.folder}/{ark},{files.folder}/{scp}"
    with kaldi_native_io.FloatVectorWriter(specifier) as writer:
        for key, vector in zip(files.embeddings.keys, files.embeddings.matrix, strict=True):
            writer.write(key, vector)
    table = files.folder / scp
    table.write_text(table.read_text().replace(f"{files.folder}/", ""))
    files.speakers()
    words = ("nontarget", "target")
    trials = [f"{e} {t} {words[label]}" for e, t, label, _ in files.columns()]
    scores = [f"{e} {t} {s:.6f}" for e, t, _, s in files.columns()]
    return table, files.write("data/trials", trials), files.write("scores", scores)


@pytest.mark.parametrize("toolkit", [wespeaker, three_d_speaker, speechbrain, kaldi])
def test_files_of_other_toolkits_are_taken_as_they_are(
    toolkit: Callable[[Files], tuple[Path, Path, Path]],
    tmp_path: Path,
    programs: Programs,  # noqa: F811
    nessa: Command,
) -> None:
    files = Files(tmp_path)
    table, trials, scores = toolkit(files)
    assert nessa("validate", files.data).status == 0

    settings = yaml.safe_load((ROOT / "recipes/arks/recipe.yaml").read_text())
    settings["corpus"]["paths"] = {"data": str(files.data)}
    del settings["sizes"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    out = tmp_path / "out"
    done = programs("arks", "--recipe", recipe, "--corpus", tmp_path, "--output", out)
    assert done.status == 0, done
    prepared = Trials.read(out / "eval/trials")
    assert (prepared.enroll, prepared.test) == (files.trials.enroll, files.trials.test)
    assert nessa("prepare", "--recipe", recipe, out).status == 0

    given = GivenEmbeddings("old", ArksConfig(pretrained="arks", path=str(table)))
    utt2spk = read_utt2spk(out / "eval")
    found = given.read_set("eval", utt2spk)
    expected = files.embeddings.select(utt2spk).matrix
    np.testing.assert_allclose(found.matrix, expected, atol=1e-5)

    words = ["score", "--enroll", table, "--runtime", table, "--trials", trials]
    assert nessa(*words, "--output", tmp_path / "ours").status == 0
    words = ["evaluate", "--trials", trials, "--utt2spk", files.data / "utt2spk", "--draws", 5]
    words += ["--output", tmp_path / "out.json", "--scores", scores, tmp_path / "ours"]
    done = nessa(*words)
    assert done.status == 0, done
    theirs, ours = read_json(tmp_path / "out.json")
    assert theirs["eer"] == pytest.approx(ours["eer"], abs=2e-3)
    assert ("matched" in theirs) == (toolkit is speechbrain)


def test_tables_of_one_process_each_are_read_together(tmp_path: Path) -> None:
    for rank in range(12):
        one = Embeddings([f"u{rank:02d}"], [[rank, 1]])
        one.write_ark(tmp_path / f"xvector_{rank}.ark", tmp_path / f"xvector_{rank}.scp")
    assert Embeddings.read(tmp_path).keys == [f"u{rank:02d}" for rank in range(12)]
    Embeddings(["all"], [[1, 1]]).write(tmp_path)
    assert Embeddings.read(tmp_path).keys == ["all"]
