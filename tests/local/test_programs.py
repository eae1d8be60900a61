"""The programs in local/: from a corpus on disk to data directories, by their command lines."""

import gzip
import importlib
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from lhotse import RecordingSet

from nessa.corpus.finishing import finish_sets
from nessa.corpus.validation import validate_tables
from nessa.files import read_table, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.recipe.resolve import load_recipe
from nessa.trials import Trials
from tests.conftest import ROOT
from tests.speech import hum

ENCODER = {
    "architecture": "tdnn", "channels": 8, "dim": 8, "steps": 1, "loss": {"type": "ge2e"}
}  # fmt: skip
HEADER = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"


@dataclass
class Done:
    """How a program ended, and what it said."""

    status: int
    out: str
    err: str


class Programs:
    """Runs programs of local/ inside this process: each start would cost seconds of imports."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self.monkeypatch, self.capsys, self.caplog = monkeypatch, capsys, caplog
        monkeypatch.syspath_prepend(str(ROOT / "local"))
        caplog.set_level(logging.INFO)

    def __call__(self, program: str, *arguments: object) -> Done:
        self.caplog.clear()
        self.monkeypatch.setattr("sys.argv", [f"{program}.py", *map(str, arguments)])
        status = 0
        try:
            module = importlib.import_module(program)
            module.run_program(module.main)
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = self.capsys.readouterr()
        return Done(status, out + self.caplog.text, err)

    def tree(self, recipe: Path, corpus: Path, data: Path, *options: str) -> Done:
        return self("tree", "--recipe", recipe, "--corpus", corpus, "--output", data, *options)

    def librispeech(
        self,
        corpus: Path,
        data: Path,
        *options: str,
        prepare: dict | None = None,
        **settings: object,
    ) -> Done:
        recipe = data.parent / "librispeech.yaml"
        changed = {
            "name": "librispeech",
            "corpus": {"paths": {"librispeech": str(corpus)}, **settings},
            "prepare": {
                "program": "librispeech",
                "held_out": {"align": 2, "dev": 2, "eval": 2},
                **(prepare or {}),
            },
            "encoders": dict.fromkeys(("old", "new"), ENCODER),
            "update": ["old", "new"],
        }
        recipe.write_text(yaml.safe_dump(changed))
        words = ["--recipe", recipe, "--corpus", data / "corpus", "--output", data]
        return self("librispeech", *words, *options)


@pytest.fixture
def programs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Programs:
    return Programs(monkeypatch, capsys, caplog)


def refuse(done: Done, *messages: str) -> None:
    assert done.status == 2, done
    assert "Traceback" not in done.err
    for message in messages:
        assert message in done.err


def mini(recipe: Path, corpus: Path, **environment: str) -> Done:
    """Run local/mini.py as a command: this process would miss what its `nessa synth` says."""
    command = [sys.executable, ROOT / "local/mini.py", "--recipe", recipe, "--corpus", corpus]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    settings = {
        "name": "mini",
        "corpus": {
            "program": "mini",
            "sets": {
                "train": {"speakers": 3, "sessions": 2, "utterances": 1},
                "eval": {"speakers": 4, "sessions": 3, "utterances": 2},
            },
        },
        "prepare": {
            "program": "tree",
            "trials": {"eval": {"targets": 30, "nontargets": 100}},
        },
        "encoders": dict.fromkeys(("old", "new"), ENCODER),
        "update": ["old", "new"],
    }
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def voxceleb(tmp_path: Path) -> Path:
    """A tree with VoxCeleb's names, session names with dashes and underscores included."""
    corpus = tmp_path / "corpus"
    speakers = {"id10270": "m", "id10271": "f"}
    for speaker in speakers:
        for session in ("x6uYqmx31kE", "-5r0dWxy17C", "_p-a"):
            for utterance in ("00001", "00002"):
                path = corpus / "wav" / speaker / session / f"{utterance}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, hum(800), 16000)
    rows = [f"{s}\tname\t{g}\tUK\teval\n" for s, g in speakers.items()]
    rows.append("id10001\tname\tf\tUK\ttrain\n")
    path = corpus / "wav/id10001/a/00001.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, hum(800), 16000)
    (corpus / "meta.csv").write_text(HEADER + "".join(rows))
    (corpus / "trials").mkdir()
    (corpus / "trials/eval.txt").write_text(
        "1 id10270/x6uYqmx31kE/00001.wav id10270/-5r0dWxy17C/00002.wav\n"
        "0 id10270/_p-a/00001.wav id10271/-5r0dWxy17C/00002.wav\n"
    )
    return corpus


def prepare_by(recipe: Path, program: str, **paths: Path) -> None:
    """Let a recipe's corpus at some paths be prepared by a program."""
    settings = yaml.safe_load(recipe.read_text())
    settings["corpus"] = {"paths": {name: str(path) for name, path in paths.items()}}
    settings["prepare"]["program"] = program
    recipe.write_text(yaml.safe_dump(settings))


@pytest.mark.parametrize(
    ("program", "place"),
    [
        ("kaldi_dir", "align"), ("arks", "align"), ("librispeech", "align"),
        ("kaldi_dir", "manifests"), ("kaldi_dir", "copies/mine"), ("kaldi_dir", "manifests/mine"),
        ("arks", "dev/mine"),
    ],
)  # fmt: skip
def test_a_corpus_where_a_set_is_written_is_refused(
    programs: Programs, program: str, place: str, recipe: Path, tmp_path: Path
) -> None:
    data, link = tmp_path / "data", tmp_path / "mine"
    write_table(data / place / "utt2spk", {"a-1": "a"})
    link.symlink_to(data / place)
    prepare_by(recipe, program, align=link)
    done = programs(program, "--recipe", recipe, "--corpus", tmp_path, "--output", data)
    refuse(done, f"{link}: is where stage prepare writes", "corpus.paths.align", "move the corpus")
    assert read_table(data / place / "utt2spk") == {"a-1": "a"}


@pytest.mark.parametrize("program", ["kaldi_dir", "arks", "librispeech"])
@pytest.mark.parametrize(
    ("place", "there"),
    [
        ("align", ("utt2spk", "wav.scp")),
        ("dev", ("utt2spk", "spk2utt", "utt2session", "feats.scp", "trials_own")),
        ("dev", ("utt2spk", "trials")),
        ("eval", ("cuts.jsonl.gz", "trials")),
    ],
)
def test_directories_that_are_not_named_are_not_written_over_either(
    programs: Programs,
    program: str,
    place: str,
    there: tuple[str, ...],
    recipe: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    for file in there:
        write_table(data / place / file, {"a-1": "a"})
    write_table(data / "all/utt2spk", {"a-1": "a"})
    prepare_by(recipe, program, data=data / "all")
    done = programs(program, "--recipe", recipe, "--corpus", tmp_path, "--output", data)
    refuse(done, f"{data / place}: stage prepare did not make", f"set {place!r}", "--work-dir")
    assert {path.name for path in (data / place).iterdir()} == set(there)


@pytest.mark.parametrize(
    ("program", "kind"),
    [("kaldi_dir", "cuts"), ("kaldi_dir", "recordings"), ("arks", "cuts"), ("librispeech", "cuts")],
)
def test_manifests_that_others_wrote_are_not_written_over(
    programs: Programs, program: str, kind: str, recipe: Path, tmp_path: Path
) -> None:
    """In Lhotse's usual place, where sets' are as well; nor is the set's directory beside them."""
    data = tmp_path / "data"
    users = data / f"manifests/dev_{kind}.jsonl.gz"
    users.parent.mkdir(parents=True)
    with gzip.open(users, "wt") as file:
        file.write("{}\n")
    before = users.read_bytes()
    write_table(data / "dev/utt2spk", {"a-1": "a"})
    write_table(data / "all/utt2spk", {"a-1": "a"})
    prepare_by(recipe, program, data=data / "all")
    done = programs(program, "--recipe", recipe, "--corpus", tmp_path, "--output", data)
    refuse(done, f"{users}: stage prepare did not make", "set 'dev'", "--work-dir")
    assert users.read_bytes() == before and (data / "dev/utt2spk").exists()


def test_mini_then_tree(programs: Programs, tmp_path: Path, recipe: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="needs the extra `mini`")
    corpus, data = tmp_path / "corpus", tmp_path / "data"
    done = programs("mini", "--recipe", recipe, "--corpus", corpus, "--nj", 2)
    assert done.status == 0, done
    for targets, drawn in ((30, 30), (20, 20), (99, 96)):  # there are no more than 96
        settings = yaml.safe_load(recipe.read_text())
        settings["prepare"]["trials"]["eval"]["targets"] = targets
        recipe.write_text(yaml.safe_dump(settings))
        assert programs.tree(recipe, corpus, data).status == 0
        config = load_recipe(recipe)
        finish_sets(data, config.prepare, config.seed)
        trials = Trials.read(data / "eval/trials")
        assert (trials.targets, trials.nontargets) == (drawn, 100)
    assert len(read_utt2spk(data / "train")) == 6
    assert len(read_utt2spk(data / "eval")) == 24
    assert validate_tables(data / "eval") == validate_tables(data / "train") == []
    for kind in ("noise", "rir"):
        recordings = RecordingSet.from_jsonl(data / f"manifests/{kind}_recordings.jsonl.gz")
        assert len(recordings) == 24
        assert {recording.sampling_rate for recording in recordings} == {16000}


@pytest.mark.slow
def test_mini_refuses_a_recipe_without_sets(tmp_path: Path, recipe: Path) -> None:
    settings = yaml.safe_load(recipe.read_text())
    settings["corpus"]["sets"] = {}
    recipe.write_text(yaml.safe_dump(settings))
    refuse(mini(recipe, tmp_path / "corpus"), "corpus.sets")


def test_voxceleb_names_become_ids(
    programs: Programs, tmp_path: Path, recipe: Path, voxceleb: Path
) -> None:
    data = tmp_path / "data"
    done = programs.tree(recipe, voxceleb, data)
    assert done.status == 0, done
    trials = Trials.read(data / "eval/trials")
    assert trials.enroll == ["id10270-x6uYqmx31kE-00001", "id10270-_p-a-00001"]
    assert trials.test == ["id10270--5r0dWxy17C-00002", "id10271--5r0dWxy17C-00002"]
    assert trials.labels.tolist() == [True, False]
    assert len(read_utt2spk(data / "eval")) == 12
    assert read_table(data / "eval/spk2gender") == {"id10270": "m", "id10271": "f"}
    assert validate_tables(data / "eval") == []


def test_a_name_that_matches_nothing_is_named(
    programs: Programs, tmp_path: Path, recipe: Path, voxceleb: Path
) -> None:
    with open(voxceleb / "trials/eval.txt", "a") as file:
        file.write("1 id10270/x6uYqmx31kE/00001.wav id10270/x6uYqmx31kE/00009.wav\n")
    done = programs.tree(recipe, voxceleb, tmp_path / "data")
    refuse(done, "eval.txt: line 3", "id10270-x6uYqmx31kE-00009")


@pytest.mark.parametrize("line", ["", "1 a/b/c.wav", "2 a/b/c.wav d/e/f.wav", "1 a b c"])
def test_a_malformed_list_is_refused(
    programs: Programs, tmp_path: Path, recipe: Path, voxceleb: Path, line: str
) -> None:
    (voxceleb / "trials/eval.txt").write_text(line + "\n")
    refuse(
        programs.tree(recipe, voxceleb, tmp_path / "data"),
        "eval.txt: " + ("line 1" if line else "empty"),
    )


def test_bad_audio_stops_or_is_skipped_with_its_trials(
    programs: Programs, tmp_path: Path, recipe: Path, voxceleb: Path
) -> None:
    data = tmp_path / "data"
    bad = voxceleb / "wav/id10270/x6uYqmx31kE/00001.wav"
    bad.write_bytes(b"")
    with open(voxceleb / "trials/eval.txt", "a") as file:
        file.write("1 id10270/_p-a/00001.wav id10270/-5r0dWxy17C/00002.wav\n")
    refuse(programs.tree(recipe, voxceleb, data), str(bad), "./run.sh --skip-bad true")
    done = programs.tree(recipe, voxceleb, data, "--skip-bad")
    assert done.status == 0, done
    assert "11 utterances, 0.00 hours, 2 skipped" in done.out
    assert set(read_table(data / "eval/skipped")) == {"id10270-x6uYqmx31kE-00001", "eval.txt:1"}
    assert len(Trials.read(data / "eval/trials")) == 2
    assert validate_tables(data / "eval") == []


def test_a_speaker_that_is_a_path_is_refused(
    programs: Programs, tmp_path: Path, recipe: Path, voxceleb: Path
) -> None:
    meta = voxceleb / "meta.csv"
    meta.write_text(meta.read_text().replace("id10270\t", "../wav/id10270\t", 1))
    done = programs.tree(recipe, voxceleb, tmp_path / "data")
    refuse(done, "meta.csv: line ", "'../wav/id10270' is no speaker")


def test_noises_and_rooms_become_manifests(
    programs: Programs, tmp_path: Path, recipe: Path, voxceleb: Path
) -> None:
    data = tmp_path / "data"
    noise, rir = (data / f"manifests/{kind}_recordings.jsonl.gz" for kind in ("noise", "rir"))
    assert programs.tree(recipe, voxceleb, data).status == 0
    assert not noise.exists() and not rir.exists()
    for name in ("b", "a-1", "a/1"):
        path = voxceleb / "noise" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, hum(800), 16000)
    assert programs.tree(recipe, voxceleb, data).status == 0
    first = noise.read_bytes()
    recordings = list(RecordingSet.from_jsonl(noise))
    assert [recording.id for recording in recordings] == ["noise/a-1", "noise/a/1", "noise/b"]
    assert recordings[0].load_audio() == pytest.approx(hum(800)[None], abs=1e-4)
    assert not rir.exists()
    assert programs.tree(recipe, voxceleb, data).status == 0
    assert noise.read_bytes() == first
    (voxceleb / "noise/b.wav").write_bytes(b"")
    refuse(programs.tree(recipe, voxceleb, data), "noise/b.wav", "restore or remove it")
    shutil.rmtree(voxceleb / "noise")
    assert programs.tree(recipe, voxceleb, data).status == 0
    assert not noise.exists()  # the earlier corpus's


def test_copies_draw_from_the_corpus_own_noise_from_the_first_run_on(
    programs: Programs, tmp_path: Path, recipe: Path, voxceleb: Path
) -> None:
    data = tmp_path / "data"
    settings = yaml.safe_load(recipe.read_text())
    settings["prepare"]["align_copies"] = {"noise": {"snr": [5, 5]}}
    settings["corpus"]["sets"] = {}
    recipe.write_text(yaml.safe_dump(settings))
    meta = voxceleb / "meta.csv"
    meta.write_text(meta.read_text().replace("\ttrain", "\talign"))
    path = voxceleb / "noise/a.wav"
    path.parent.mkdir()
    soundfile.write(path, np.tile([0.1, -0.1], 400), 16000)
    found = []
    for _ in range(2):
        assert programs.tree(recipe, voxceleb, data).status == 0
        (made,) = (data / "copies").rglob("*.flac")
        found.append(made.read_bytes())
        assert not (data / "copies/made-up").exists()
    assert found[0] == found[1]
    samples = soundfile.read(made)[0]
    assert samples[::2].mean() - samples[1::2].mean() > 0.01


def test_missing_things_are_named(
    programs: Programs, tmp_path: Path, recipe: Path, voxceleb: Path
) -> None:
    data = tmp_path / "data"
    refuse(programs.tree(recipe, tmp_path / "nowhere", data), "nowhere/meta.csv", "no such file")
    meta = (voxceleb / "meta.csv").read_text()
    (voxceleb / "meta.csv").write_text(meta + "id10999\tname\tf\tUK\teval\n")
    refuse(programs.tree(recipe, voxceleb, data), "speaker id10999", "meta.csv")
    (voxceleb / "meta.csv").write_text(meta + "id10999\tname\tfemale\tUK\teval\n")
    refuse(programs.tree(recipe, voxceleb, data), "meta.csv: line 5")
    (voxceleb / "meta.csv").write_text(meta.replace("\ttrain", "\teval"))
    refuse(programs.tree(recipe, voxceleb, data), "no speaker of set 'train'")


# ---- LibriSpeech --------------------------------------------------------------------------------


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    """Sixteen speakers in two parts; all but the first, 14, have one chapter."""
    corpus = tmp_path / "LibriSpeech"
    corpus.mkdir()
    lines = ["; comment"]
    for speaker in range(14, 30):
        part = "dev" if speaker < 18 else "test"
        for chapter in ("208", "209")[: 2 if speaker == 14 else 1]:
            for number in range(3):
                path = corpus / f"{part}/{speaker}/{chapter}/{speaker}-{chapter}-{number:04d}.flac"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, hum(800), 16000)
        lines.append(f"{speaker} | {'FM'[speaker % 2]} | {part} | 1 | A")
    (corpus / "SPEAKERS.TXT").write_text("\n".join(lines) + "\n")
    return corpus


SETS = ("train", "align", "dev", "eval")


def of_all_sets(data: Path, table: str) -> dict[str, str]:
    return {key: value for name in SETS for key, value in read_table(data / name / table).items()}


def test_librispeech_is_divided_and_chapters_are_sessions_where_there_are_several(
    programs: Programs, tmp_path: Path, librispeech: Path
) -> None:
    data = tmp_path / "data"
    done = programs.librispeech(librispeech, data)
    assert done.status == 0, done
    assert "15 of 16 speakers have a single chapter" in done.out
    sessions = of_all_sets(data, "utt2session")
    assert sessions["14-208-0000"] == sessions["14-208-0001"] == "208"
    assert sessions["14-209-0000"] == "209"
    assert sessions["17-208-0000"] != sessions["17-208-0001"]
    assert of_all_sets(data, "spk2gender") == {str(n): "fm"[n % 2] for n in range(14, 30)}
    speakers = [set(read_utt2spk(data / name).values()) for name in SETS]
    assert [len(found) for found in speakers] == [10, 2, 2, 2]
    assert len(set.union(*speakers)) == 16
    assert [validate_tables(data / name) for name in SETS] == [[]] * 4


def test_all_align_speakers_of_librispeech_may_be_those_of_train(
    programs: Programs, tmp_path: Path, librispeech: Path
) -> None:
    prepare = {"held_out": {"dev": 2, "eval": 2}, "align_includes_train": True}
    done = programs.librispeech(librispeech, tmp_path / "data", prepare=prepare)
    assert done.status == 0, done
    align, train = (read_utt2spk(tmp_path / "data" / name) for name in ("align", "train"))
    assert align == train and len(set(align.values())) == 12


def test_parts_of_librispeech_can_be_chosen(
    programs: Programs, tmp_path: Path, librispeech: Path
) -> None:
    data = tmp_path / "data"
    refuse(programs.librispeech(librispeech, data, parts=["train-clean-5"]), "there are dev, test")
    refuse(
        programs.librispeech(librispeech, data, parts=["dev"]),
        "4 speakers are too few",
        "--size sample",
    )


def test_paths_that_a_program_does_not_read_are_refused_before_anything_is_made(
    programs: Programs, tmp_path: Path, recipe: Path, voxceleb: Path, librispeech: Path
) -> None:
    data = tmp_path / "data"
    settings = yaml.safe_load(recipe.read_text())
    settings["corpus"]["paths"] = {"data": str(voxceleb)}
    recipe.write_text(yaml.safe_dump(settings))
    done = programs.tree(recipe, voxceleb, data)
    refuse(done, "corpus.paths: tree reads nothing called 'data'", "docs/your-corpus.md")
    done = programs("mini", "--recipe", recipe, "--corpus", data / "corpus")
    refuse(done, "corpus.paths: tree reads nothing called 'data'", "docs/your-corpus.md")
    paths = {"librispeech": str(librispeech), "data": str(librispeech)}
    done = programs.librispeech(librispeech, data, paths=paths)
    refuse(done, "corpus.paths: librispeech reads nothing called 'data'; there are librispeech")
    words = ["--recipe", tmp_path / "librispeech.yaml", "--corpus", data]
    refuse(programs("download_librispeech", *words), "reads nothing called 'data'")
    assert not data.exists()


def test_librispeech_is_found_before_synthetic_sets_are_written(
    programs: Programs, tmp_path: Path, voxceleb: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(voxceleb, data / "corpus")
    sets = {"eval": {"speakers": 2, "sessions": 3, "utterances": 2}}
    corpus = {"paths": {"librispeech": str(tmp_path / "nowhere")}, "sets": sets}
    done = programs.librispeech(tmp_path / "nowhere", data, **corpus)
    refuse(done, "nowhere: no such folder (corpus.paths.librispeech)")
    assert [path.name for path in data.iterdir()] == ["corpus"]


def test_librispeech_refusals(programs: Programs, tmp_path: Path, librispeech: Path) -> None:
    data = tmp_path / "data"
    refuse(programs.librispeech(tmp_path / "nowhere", data), "nowhere: no such folder")
    (librispeech / "dev/17/208/17-208-0001.flac").write_bytes(b"")
    refuse(programs.librispeech(librispeech, data), "17-208-0001.flac")
    done = programs.librispeech(librispeech, data, "--skip-bad")
    assert done.status == 0
    (skipped,) = data.glob("*/skipped")
    assert list(read_table(skipped)) == ["17-208-0001"]
    (librispeech / "SPEAKERS.TXT").write_text("14 | F | dev | 1 | A\n")
    refuse(programs.librispeech(librispeech, data), "speaker '15'")
    (librispeech / "SPEAKERS.TXT").write_text("14 F\n")
    refuse(programs.librispeech(librispeech, data), "SPEAKERS.TXT: line 1")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "SPEAKERS.TXT").write_text("14 | F | dev | 1 | A\n")
    refuse(programs.librispeech(empty, data), "<part>/<speaker>/<chapter>/*.flac")


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", ["mini", "tree", "voxceleb", "librispeech", "download_librispeech", "arks"]
)
def test_programs_start_from_anywhere(tmp_path: Path, program: str) -> None:
    command = [sys.executable, str(ROOT / "local" / f"{program}.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--corpus" in done.stdout


@pytest.mark.parametrize("program", ["tree", "librispeech"])
def test_a_corpus_that_is_not_there_is_a_message(
    programs: Programs, tmp_path: Path, recipe: Path, program: str
) -> None:
    data = tmp_path / "data"
    arguments = ("--recipe", recipe, "--output", data, "--corpus")
    refuse(programs(program, *arguments, tmp_path / "nowhere"), "nowhere/", "no such file")
    (tmp_path / "file").write_text("not a folder")
    refuse(programs(program, *arguments, tmp_path / "file"), "file/", "cannot be read")
    assert not data.exists()


@pytest.mark.slow
def test_mini_without_its_synthesizer_is_a_message(tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "espeakng_loader.py").write_text("raise ImportError('not installed')")
    done = mini(recipe, tmp_path / "corpus", PYTHONPATH=f"{tmp_path}:{ROOT}")
    refuse(done, "pip install 'nessa[mini]'")
