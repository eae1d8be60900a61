"""Real voices from public corpora: what is made of trees shaped like them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from nessa.corpus.validation import validate_tables
from nessa.files import read_table, write_table
from tests.local.test_programs import Programs, programs, refuse  # noqa: F401

RATE = 16000


def write(path: Path, seconds: float, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * rng.standard_normal(round(seconds * RATE)), RATE)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Seven speakers of words (one of two takes only), three of sentences, two of LibriSpeech."""
    rng, folder = np.random.default_rng(0), tmp_path / "corpus"
    words = folder / "SpeechCommands2/speech_commands_v0.02"
    for speaker in range(7):
        for take in range(2 if speaker == 6 else 13):
            write(words / f"w{take % 5}" / f"{speaker:08x}_nohash_{take // 5}.wav", 1.0, rng)
    write(words / "_background_noise_/hiss.wav", 2.0, rng)
    ocean = folder / "speechocean762"
    for part, speakers in (("train", (1, 2)), ("test", (3,))):
        utt2spk = {f"{s:05d}{u}": f"{s:04d}" for s in speakers for u in range(3)}
        for utterance in utt2spk:
            write(ocean / "WAVE" / f"{utterance}.WAV", 1.5, rng)
        write_table(ocean / part / "utt2spk", utt2spk)
        write_table(ocean / part / "wav.scp", {u: f"WAVE/{u}.WAV" for u in utt2spk})
    for speaker in ("19", "26"):
        for chapter in ("100", "99"):
            place = folder / "LibriSpeech/train-clean-100" / speaker / chapter
            write(place / f"{speaker}-{chapter}-0000.flac", 9.0, rng)
            write(place / f"{speaker}-{chapter}-0001.flac", 13.0, rng)
    return folder


@pytest.fixture
def program(programs: Programs, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    import download_voices

    monkeypatch.setattr(
        download_voices,
        "HELD_OUT",
        {"strings": {"eval": 2, "dev": 2}, "sentences": {"eval": 1, "dev": 1}},
    )
    return download_voices


def test_a_directory_of_three_kinds(program, corpus: Path) -> None:
    program.make_corpus(corpus, seed=1)
    utt2spk, set_of = read_table(corpus / "utt2spk"), read_table(corpus / "spk2set")
    speakers = {name: [s for s in set_of if s.startswith(name)] for name in ("0", "so", "ls")}
    assert {name: len(own) for name, own in speakers.items()} == {"0": 6, "so": 3, "ls": 2}
    counts = {n: sum(s.startswith(n) for s in utt2spk.values()) for n in speakers}
    assert counts == {"0": 24, "so": 9, "ls": 8}
    of_sets = [sorted(set_of[s] for s in own) for own in speakers.values()]
    assert of_sets[0] == ["align"] * 2 + ["dev"] * 2 + ["eval"] * 2
    assert of_sets[1:] == [["align", "dev", "eval"], ["align"] * 2]
    sessions = read_table(corpus / "utt2session")
    assert len({sessions[u] for u, s in utt2spk.items() if s == "ls19"}) == 1
    for utterance, place in read_table(corpus / "wav.scp").items():
        seconds = {"0": 3.0, "s": 1.5, "l": 4.0}[utterance[0]]
        assert soundfile.info(corpus / place).duration == pytest.approx(seconds)


def test_no_take_is_used_twice(program, corpus: Path) -> None:
    clips = list(program.find_strings(corpus / "SpeechCommands2", np.random.default_rng(1)))
    files = [file for clip in clips for file in clip.files]
    assert len(files) == len(set(files)) == 72
    assert all(file.name.startswith(clip.speaker) for clip in clips for file in clip.files)


def test_the_same_seed_gives_the_same_corpus(program, corpus: Path) -> None:
    tables = ("utt2spk", "spk2set", "wav.scp")
    program.make_corpus(corpus, seed=1)
    first = [(corpus / table).read_bytes() for table in tables]
    program.make_corpus(corpus, seed=1)
    assert [(corpus / table).read_bytes() for table in tables] == first
    program.make_corpus(corpus, seed=2)
    assert (corpus / "spk2set").read_bytes() != first[1]


def test_another_seed_in_the_same_folder_gives_its_own_audio(program, corpus: Path) -> None:
    def made() -> dict[str, bytes]:
        places = read_table(corpus / "wav.scp")
        return {u: soundfile.read(corpus / place)[0].tobytes() for u, place in places.items()}

    for seed in (1, 2):  # of 24 strings, some are of the same words by both
        program.make_corpus(corpus, seed=seed)
    second = made()
    kept = next((corpus / "wav").rglob("so*.flac"))
    when = kept.stat().st_mtime_ns
    program.make_corpus(corpus, seed=2)
    assert kept.stat().st_mtime_ns == when
    shutil.rmtree(corpus / "wav")
    program.make_corpus(corpus, seed=2)
    assert made() == second


def recipe_of(corpus: Path, **paths: str) -> Path:
    """The recipe of voices, with where its corpus lies."""
    recipe = corpus.parent / "recipe.yaml"
    settings = {
        "name": "voices",
        "corpus": {"program": "download_voices", "paths": paths},
        "prepare": {
            "program": "kaldi_dir",
            "trials": {name: {"targets": 1, "nontargets": 1} for name in ("dev", "eval")},
        },
        "encoders": {name: {"pretrained": "resemblyzer"} for name in ("old", "new")},
        "update": ["old", "new"],
    }
    recipe.write_text(yaml.safe_dump(settings))
    return recipe


def test_it_is_a_corpus_for_the_recipe(program, corpus: Path, programs: Programs) -> None:  # noqa: F811
    program.make_corpus(corpus, seed=1)
    data = corpus.parent / "data"
    words = ["--recipe", recipe_of(corpus), "--corpus", corpus, "--output", data]
    done = programs("kaldi_dir", *words)
    assert done.status == 0, done
    assert [validate_tables(data / name) for name in ("align", "dev", "eval")] == [[]] * 3


def test_what_cannot_be_downloaded_is_told_in_a_line(
    program,
    corpus: Path,
    programs: Programs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(target_dir: Path) -> None:
        raise OSError("no route to host")

    words = ["--recipe", recipe_of(corpus), "--corpus", corpus]
    monkeypatch.setattr(program, "DOWNLOADS", {"Speech Commands": offline})
    refuse(programs("download_voices", *words), "Speech Commands", "no route", "--voices DIR")
    monkeypatch.setattr(program, "DOWNLOADS", {})
    assert programs("download_voices", *words).status == 0


@pytest.mark.parametrize("name", ["voices", "data", "align"])
def test_nothing_is_downloaded_where_the_recipe_names_a_directory(
    program,
    corpus: Path,
    programs: Programs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr(program, "DOWNLOADS", {"Speech Commands": lambda target_dir: 1 / 0})
    recipe = recipe_of(corpus, **{name: str(corpus.parent)})
    done = programs("download_voices", "--recipe", recipe, "--corpus", corpus.parent / "empty")
    assert done.status == 0 and f"{corpus.parent}: on disk; nothing to download" in done.out, done
    recipe = recipe_of(corpus, **{name: "/nowhere"})
    done = programs("download_voices", "--recipe", recipe, "--corpus", corpus.parent / "empty")
    refuse(done, f"/nowhere: no such folder (corpus.paths.{name})")


def test_additional_align_speakers_do_not_stand_for_the_corpus(
    program,
    corpus: Path,
    programs: Programs,  # noqa: F811
) -> None:
    recipe = recipe_of(corpus, align_also=str(corpus))
    done = programs("download_voices", "--recipe", recipe, "--corpus", corpus.parent / "empty")
    refuse(done, "empty/speechocean762: no such folder")


def test_what_must_be_unpacked_by_hand_is_asked_for_before_the_downloads(
    program,
    corpus: Path,
    programs: Programs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def download(target_dir: Path) -> None:
        raise AssertionError("gigabytes")

    words = ["--recipe", recipe_of(corpus), "--corpus", corpus]
    monkeypatch.setattr(program, "DOWNLOADS", {"Speech Commands": download})
    (corpus / "speechocean762").rename(corpus / "elsewhere")
    refuse(programs("download_voices", *words), "speechocean762", "openslr.org/101")
    recipe_of(corpus, voices=str(corpus))
    assert programs("download_voices", *words).status == 0
