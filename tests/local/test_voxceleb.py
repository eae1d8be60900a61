"""VoxCeleb: every layout, the official lists, sets without leaks, m4a, and the whole recipe."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import audioread
import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
import yaml
from lhotse import Recording

from nessa.corpus.manifests import read_background
from nessa.corpus.mp4 import read_mp4_header
from nessa.corpus.utterances import read_recording
from nessa.corpus.validation import validate_tables
from nessa.errors import InputError
from nessa.files import read_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.trials import Trials
from tests.conftest import ROOT, VOXCELEB_LISTS, need, run_recipe
from tests.local.test_programs import ENCODER, Done, Programs, programs, refuse  # noqa: F401
from tests.speech import RATE, hum, read_cuts, tone

sys.path.insert(0, str(ROOT / "local"))

SESSIONS = ("x6uYqmx31kE", "-5r0dWxy17C", "_p-aWxy17C8")
TESTED = range(10270, 10278)
TRAINED = range(12, 36)


def write_speakers(
    folder: Path, speakers: range, utterances: int = 2, seconds: float = 0.8
) -> None:
    """<speaker>/<session>/<utterance>.wav, with voices."""
    for speaker in speakers:
        rng = np.random.default_rng(speaker)
        for session in SESSIONS:
            for number in range(1, utterances + 1):
                path = folder / f"id{speaker:05d}" / session / f"{number:05d}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, tone(speaker, seconds + 0.1 * rng.random(), rng), RATE)


def write_list(path: Path, count: int, seed: int = 0) -> None:
    """An official list: half targets across sessions, half non-targets."""
    rng = np.random.default_rng(seed)
    lines = []
    for row in range(count):
        label = row % 2
        first, other = rng.choice(TESTED, 2, replace=False)
        second = first if label else other
        sessions = rng.choice(SESSIONS, 2, replace=False)
        numbers = rng.integers(1, 3, 2)
        names = [
            f"id{speaker:05d}/{session}/{number:05d}.wav"
            for speaker, session, number in zip((first, second), sessions, numbers, strict=True)
        ]
        lines.append(f"{label} {' '.join(names)}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))


def to_m4a(folder: Path) -> None:
    """Encode every wav below, in its place, as the corpus is distributed."""
    for path in folder.rglob("*.wav"):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", path]
        subprocess.run([*command, "-c:a", "aac", path.with_suffix(".m4a")], check=True)
        path.unlink()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both corpora as they lie after extraction, VoxCeleb2 converted to wav."""
    folder = tmp_path_factory.mktemp("voxceleb")
    write_speakers(folder / "vox1/dev/wav", TESTED[:5])
    write_speakers(folder / "vox1/test/wav", TESTED[5:])
    write_speakers(folder / "vox2/dev/wav", TRAINED)
    write_speakers(folder / "vox2/test/wav", range(17, 18))
    write_list(folder / "vox1/veri_test2.txt", 60)
    write_list(folder / "vox1/veri_test.txt", 64)
    write_list(folder / "vox1/meta/list_test_hard2.txt", 80, seed=1)
    (folder / "vox1/vox1_meta.csv").write_text(
        "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
        + "".join(f"id{s}\tname\t{'fm'[s % 2]}\tUK\ttest\n" for s in TESTED)
    )
    (folder / "vox2/vox2_meta.csv").write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \n"
        + "".join(f"id{s:05d} ,n00{s} ,{'fm'[s % 2]} ,dev \n" for s in TRAINED)
    )
    return folder


@pytest.fixture
def corpus(made: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    shutil.copytree(made, tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The program ffmpeg in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        audioread.available_backends(flush_cache=True)  # it remembers what it found before
        yield
    audioread.available_backends(flush_cache=True)


def prepare(
    programs: Programs,  # noqa: F811
    corpus: Path,
    data: Path,
    *options: object,
    includes_train: bool = True,
    held_out: dict | None = None,
    **paths: Path,
) -> Done:
    places = {"voxceleb1": corpus / "vox1", "voxceleb2": corpus / "vox2"} | paths
    settings = {
        "name": "voxceleb",
        "corpus": {"paths": {name: str(path) for name, path in places.items()}},
        "prepare": {
            "program": "voxceleb",
            "held_out": held_out or {"align": 5, "dev": 4},
            "align_includes_train": includes_train,
        },
        "encoders": dict.fromkeys(("old", "new"), ENCODER),
        "update": ["old", "new"],
    }
    recipe = data.parent / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    words = ["--recipe", recipe, "--corpus", data / "corpus", "--output", data]
    return programs("voxceleb", *words, *options)


def speakers_of(data: Path) -> dict[str, set[str]]:
    names = ("train", "align", "dev", "eval")
    return {name: set(read_utt2spk(data / name).values()) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("includes_train", [True, False])
def test_sets_and_lists(
    programs: Programs,  # noqa: F811
    made: Path,
    tmp_path: Path,
    includes_train: bool,
) -> None:
    data = tmp_path / "data"
    done = prepare(programs, made, data, "--nj", 2, includes_train=includes_train)
    assert done.status == 0, done
    speakers = speakers_of(data)
    held_out = {"align": 5 + 15 * includes_train, "dev": 4, "train": 15, "eval": 8}
    assert {name: len(found) for name, found in speakers.items()} == held_out
    assert (speakers["train"] <= speakers["align"]) == includes_train
    assert speakers["eval"] == {f"id{s}" for s in TESTED}
    trained = speakers["train"] | speakers["align"] | speakers["dev"]
    assert trained == {f"id{s:05d}" for s in TRAINED}, "the test part is left alone"
    lists = {path.name: Trials.read(path) for path in (data / "eval").glob("trials*")}
    assert {name: len(trials) for name, trials in lists.items()} == {
        "trials": 60, "trials_vox1_o": 64, "trials_vox1_h_cleaned": 80
    }  # fmt: skip
    assert set(read_utt2spk(data / "eval")) == {
        name for trials in lists.values() for name in (*trials.enroll, *trials.test)
    }
    assert [validate_tables(data / name) for name in speakers] == [[]] * 4
    assert read_table(data / "eval/spk2gender")["id10271"] == "m"
    assert (
        read_table(data / "dev/spk2gender").items()
        <= {f"id{s:05d}": "fm"[s % 2] for s in TRAINED}.items()
    )
    for count in ("speakers: 8, published: 1251", "trials: 60, published: 37611"):
        assert count in done.out
    assert "no MUSAN" in done.out and "no RIRS_NOISES" in done.out


def test_all_align_speakers_may_be_those_of_train(
    programs: Programs,  # noqa: F811
    made: Path,
    tmp_path: Path,
) -> None:
    done = prepare(programs, made, tmp_path / "data", held_out={"dev": 4})
    assert done.status == 0, done
    speakers = speakers_of(tmp_path / "data")
    assert speakers["align"] == speakers["train"] and len(speakers["dev"]) == 4


def test_lists_of_a_folder_that_is_named_go_before_those_beside_the_corpus(
    programs: Programs,  # noqa: F811
    made: Path,
    tmp_path: Path,
) -> None:
    write_list(tmp_path / "lists/veri_test2.txt", 20)
    done = prepare(programs, made, tmp_path / "data", lists=tmp_path / "lists")
    assert done.status == 0, done
    assert len(Trials.read(tmp_path / "data/eval/trials")) == 20
    assert len(Trials.read(tmp_path / "data/eval/trials_vox1_o")) == 64, "of the corpus itself"


def test_eval_is_not_held_out_of_voxceleb2(
    programs: Programs,  # noqa: F811
    made: Path,
    tmp_path: Path,
) -> None:
    held_out = {"align": 5, "dev": 4, "eval": 3}
    done = prepare(programs, made, tmp_path / "data", held_out=held_out)
    refuse(done, "prepare.held_out: eval is what the lists of VoxCeleb1 name", "remove eval")
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(
    programs: Programs,  # noqa: F811
    made: Path,
    tmp_path: Path,
) -> None:
    trees = []
    for nj in (1, 3):
        data = tmp_path / str(nj) / "data"
        data.parent.mkdir()
        assert prepare(programs, made, data, "--nj", nj).status == 0
        files = sorted(path for path in data.rglob("*") if path.is_file())
        trees.append({path.relative_to(data): path.read_bytes() for path in files})
    assert trees[0] == trees[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("wav", "aac"),
        ("vox1_dev_wav/wav", "vox2_dev_aac/dev/aac"),
        (".", "dev/aac"),
    ],
)
def test_layouts(
    programs: Programs,  # noqa: F811
    made: Path,
    tmp_path: Path,
    first: str,
    second: str,
) -> None:
    corpus = tmp_path / "corpus"
    for part in ("dev", "test"):
        shutil.copytree(made / f"vox1/{part}/wav", corpus / "vox1" / first, dirs_exist_ok=True)
    shutil.copytree(made / "vox2/dev/wav", corpus / "vox2" / second)
    done = prepare(programs, corpus, tmp_path / "data", lists=made / "vox1")
    assert done.status == 0, done
    assert {len(found) for found in speakers_of(tmp_path / "data").values()} == {15, 20, 4, 8}
    assert not (tmp_path / "data/eval/spk2gender").exists()


def test_parts_are_told_apart_as_the_published_archives_extract_to_one_folder(
    tmp_path: Path,
) -> None:
    from voxceleb_copies import find_copy

    first, second = tmp_path / "vox1", tmp_path / "vox2"
    for folder in ("wav/id10270", "vox1_dev_wav/wav/id10001"):
        (first / folder).mkdir(parents=True)
    for folder in ("aac/id00017", "dev/aac/id00012"):
        (second / folder).mkdir(parents=True)
    assert list(find_copy(first, without_test=False).speakers) == ["id10001", "id10270"]
    assert list(find_copy(second, without_test=True).speakers) == ["id00012"]
    for name in ("id00012", "id00017"):
        (second / "wav" / name).mkdir(parents=True)  # converted
    assert find_copy(second, without_test=True).speakers == {"id00012": second / "wav/id00012"}


@pytest.mark.parametrize(
    ("without_test", "found", "beside"),
    [
        (False, ("id10001",), (".snapshots/1/id10001",)),
        (False, ("wav/id10001",), ("exp/xvectors/id10001", "exp/xvectors/id10002")),
        (False, ("wav/id10001",), ("dev/aac/id00012", "aac/.snapshots/id00017")),
        (True, ("wav/id00012",), ("dev/aac/id00012",)),
        (True, ("dev/aac/id00012", "train/aac/id00015"), ()),
    ],
)
def test_copies_are_found_beside_folders_of_the_users(
    without_test: bool, found: tuple[str, ...], beside: tuple[str, ...], tmp_path: Path
) -> None:
    from voxceleb_copies import find_copy

    for folder in (*found, *beside):
        (tmp_path / folder).mkdir(parents=True)
    speakers = find_copy(tmp_path, without_test).speakers
    assert [*speakers.values()] == [tmp_path / folder for folder in found]


def test_faults_of_the_copies_are_named(
    programs: Programs,  # noqa: F811
    corpus: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    refuse(prepare(programs, corpus, data, voxceleb3=corpus), "'voxceleb3'")
    refuse(prepare(programs, corpus, data, voxceleb2=corpus / "x"), "x: no such folder")
    refuse(
        prepare(programs, corpus, data, voxceleb2=corpus / "vox1/meta"), "no folder of a speaker"
    )
    leak = corpus / "vox2/dev/wav/id10270"
    shutil.copytree(corpus / "vox1/dev/wav/id10270", leak)
    refuse(prepare(programs, corpus, data), "'id10270'", "VoxCeleb1 too")
    shutil.rmtree(leak)
    shutil.copytree(corpus / "vox2/dev/wav/id00012", corpus / "vox2/dev/aac/id00012")
    refuse(prepare(programs, corpus, data), "'id00012' is in", "name one of the two folders")
    shutil.rmtree(corpus / "vox2/dev/aac")
    shutil.rmtree(corpus / "vox2/dev/wav/id00013" / SESSIONS[0])
    shutil.rmtree(corpus / "vox2/dev/wav/id00013" / SESSIONS[1])
    shutil.rmtree(corpus / "vox2/dev/wav/id00013" / SESSIONS[2])
    refuse(prepare(programs, corpus, data), "of speaker id00013")


def test_faults_of_the_lists_are_named(
    programs: Programs,  # noqa: F811
    corpus: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    path = corpus / "vox1/veri_test2.txt"
    text = path.read_text()
    path.write_text(text + "1 id10270/nothing/00001.wav id10270/x6uYqmx31kE/00001.wav\n")
    refuse(prepare(programs, corpus, data), "veri_test2.txt: line 61", "id10270-nothing-00001")
    path.write_text(text + "1 id10270/x6uYqmx31kE/00001.wav\n")
    refuse(prepare(programs, corpus, data), "veri_test2.txt: line 61", "the format of line 1")
    path.unlink()
    done = prepare(programs, corpus, data)
    assert done.status == 0
    assert len(Trials.read(data / "eval/trials")) == 64, "Vox1-O original stands in"
    (corpus / "vox1/veri_test.txt").unlink()
    refuse(prepare(programs, corpus, data), "lists of Vox1-O", "corpus.paths.lists=DIR")


@pytest.mark.slow
def test_bad_audio_stops_or_is_skipped_with_its_trials(
    programs: Programs,  # noqa: F811
    corpus: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    assert prepare(programs, corpus, data).status == 0
    whole = {name: len(read_utt2spk(data / name)) for name in ("train", "align", "dev")}
    first = Trials.read(data / "eval/trials").enroll[0]
    for name in (first, "id00012--5r0dWxy17C-00001"):
        (path,) = corpus.glob(f"vox?/*/wav/{name[:7]}/{name[8:-6]}/{name[-5:]}.wav")
        path.write_bytes(b"")
    refuse(prepare(programs, corpus, data), first, "or use ./run.sh --skip-bad true")
    assert prepare(programs, corpus, data, "--skip-bad", "--nj", 2).status == 0
    skipped = read_table(data / "eval/skipped")
    assert first in skipped and "veri_test2.txt:1" in skipped
    assert first not in read_utt2spk(data / "eval")
    after = {name: len(read_utt2spk(data / name)) for name in whole}
    assert sum(whole.values()) - sum(after.values()) in (1, 2)  # in align and train, or in one set
    assert validate_tables(data / "eval") == []


def test_noises_and_rooms(
    programs: Programs,  # noqa: F811
    made: Path,
    tmp_path: Path,
) -> None:
    musan, rirs = tmp_path / "musan", tmp_path / "RIRS_NOISES"
    for path in (
        musan / "noise/free-sound/noise-free-sound-0000.wav",
        musan / "music/fma/music-fma-0000.wav",
        musan / "speech/us-gov/speech-us-gov-0000.wav",
        rirs / "simulated_rirs/smallroom/Room001/Room001-00001.wav",
        rirs / "real_rirs_isotropic_noises/air_type1_air_binaural_aula_carolina.wav",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, hum(1600), RATE)
    data = tmp_path / "data"
    assert prepare(programs, made, data, musan=musan, rirs=rirs).status == 0
    names = {}
    for kind in ("noise", "rir"):
        recordings = read_background(data, kind)
        assert recordings is not None
        names[kind] = [recording.id for recording in recordings]
    assert names == {
        "noise": ["music/fma/music-fma-0000", "noise/free-sound/noise-free-sound-0000"],
        "rir": ["simulated_rirs/smallroom/Room001/Room001-00001"],
    }
    refuse(prepare(programs, made, data, musan=tmp_path / "RIRS_NOISES"), "is the corpus complete?")


# ---- the official lists -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "targets"),
    [("veri_test.txt", 37720, 18860), ("veri_test2.txt", 37611, 18802)],
)
def test_the_published_lists(
    name: str, count: int, targets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(VOXCELEB_LISTS)
    monkeypatch.syspath_prepend(str(ROOT / "local"))
    from trial_lists import TrialList

    trials = TrialList.read_files(VOXCELEB_LISTS / name).trials
    assert (len(trials), trials.targets, trials.nontargets) == (count, targets, count - targets)
    assert trials.enroll[0] == "id10270-x6uYqmx31kE-00001"


# ---- m4a ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("samples", [800, 16000, 16001, 52345])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_the_header_of_an_m4a_says_what_ffmpeg_decodes(
    samples: int, rate: int, tmp_path: Path, ffmpeg: None
) -> None:
    rng = np.random.default_rng(samples)
    soundfile.write(tmp_path / "a.wav", 0.1 * rng.standard_normal(samples), rate)
    to_m4a(tmp_path)
    found_rate, length, channels = read_mp4_header(tmp_path / "a.m4a")
    assert (found_rate, channels) == (rate, 1)
    decoded = Recording.from_file(tmp_path / "a.m4a").load_audio().shape[1]  # by ffmpeg
    assert abs(length - decoded) <= 1
    recording = read_recording("a", tmp_path / "a.m4a")
    part = recording.to_cut().truncate(duration=0.01).load_audio()
    assert part.shape == (1, round(0.01 * rate)) and np.abs(part).max() > 0


def test_what_is_no_m4a_is_refused(tmp_path: Path, ffmpeg: None) -> None:
    soundfile.write(tmp_path / "a.wav", hum(16000), RATE)
    to_m4a(tmp_path)
    whole = (tmp_path / "a.m4a").read_bytes()
    for content in (b"", b"RIFF junk" * 50, whole[: len(whole) // 2], whole[:20]):
        (tmp_path / "b.m4a").write_bytes(content)
        with pytest.raises(InputError, match=r"b\.m4a: is not readable audio"):
            read_recording("b", tmp_path / "b.m4a")


def test_m4a_without_ffmpeg_says_what_to_install(
    programs: Programs,  # noqa: F811
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    to_m4a(corpus / "vox2/dev/wav/id00012")
    monkeypatch.setenv("PATH", str(tmp_path))
    refuse(prepare(programs, corpus, tmp_path / "data"), ".m4a", "install it")


@pytest.mark.slow
def test_m4a_and_wav_make_the_same_sets(
    programs: Programs,  # noqa: F811
    made: Path,
    corpus: Path,
    tmp_path: Path,
    ffmpeg: None,
) -> None:
    to_m4a(corpus / "vox2/dev")
    assert prepare(programs, corpus, tmp_path / "data").status == 0
    (tmp_path / "other").mkdir()
    assert prepare(programs, made, tmp_path / "other/data").status == 0
    for name in ("train", "align", "dev"):
        encoded, plain = (
            read_cuts(tmp_path / "data", name),
            read_cuts(tmp_path / "other/data", name),
        )
        for first, second in zip(encoded, plain, strict=True):
            assert first.id == second.id and first.num_samples == second.num_samples
    loud, quiet = first.load_audio(), second.load_audio()
    assert np.corrcoef(loud, quiet)[0, 1] > 0.9


# ---- the recipe ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav", "m4a"])
def test_the_recipe_runs_on_trees_of_the_same_shape(
    kind: str, corpus: Path, tmp_path: Path, ffmpeg: None
) -> None:
    if kind == "m4a":
        to_m4a(corpus / "vox2/dev")
        (corpus / "vox2/dev/wav").rename(corpus / "vox2/dev/aac")
    places = "--voxceleb1", str(corpus / "vox1"), "--voxceleb2", str(corpus / "vox2")
    # What comes after the embeddings knows nothing of audio.
    stop = [] if kind == "wav" else ["--stop-stage", "extract"]
    work = tmp_path / "work"
    done = run_recipe(work, "--recipe", "voxceleb", *places, "--size", "tiny", *stop)
    assert done.status == 0, done
    if kind == "m4a":
        return
    records = json.loads((work / "exp/results.json").read_text())
    assert {record["trials"] for record in records} == {
        "single", "vox1_o", "vox1_h_cleaned", "profile3"
    }  # fmt: skip
    assert (work / "exp/export/nessa.new-old/enroll.onnx").exists()
