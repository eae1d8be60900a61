"""The synthetic corpus: same bytes however it is made, and voices that can be told apart."""

import csv
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from nessa.corpus.config import SetSize
from nessa.errors import InputError
from nessa.files import read_json
from nessa.synth import (
    SAMPLE_RATE,
    AcousticRanges,
    Settings,
    VoiceRanges,
    synthesize_corpus,
)
from nessa.synth.acoustics import BANDS, Session, draw_room, record
from nessa.synth.espeak import SAMPLE_RATE as SPEECH_RATE
from nessa.synth.voices import draw_utterance, draw_voice
from nessa.synth.words import WORDS
from tests.conftest import ROOT, Command

pytest.importorskip("espeakng_loader", reason="needs the extra `mini`")


def size(speakers: int, sessions: int, utterances: int) -> SetSize:
    return SetSize(speakers=speakers, sessions=sessions, utterances=utterances)


PLAN = {"train": size(5, 2, 2), "eval": size(3, 3, 1)}


def tree(directory: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("synth") / "corpus"
    synthesize_corpus(directory, PLAN, Settings(3), nj=2)
    return directory


@pytest.mark.slow
def test_tree_is_shaped_as_voxceleb(corpus: Path) -> None:
    wavs = sorted(corpus.glob("wav/*/*/*.wav"))
    assert len(wavs) == 5 * 2 * 2 + 3 * 3 * 1
    with open(corpus / "meta.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == ["VoxCeleb1 ID", "VGGFace1 ID", "Gender", "Nationality", "Set"]
    assert [row["Set"] for row in rows] == ["train"] * 5 + ["eval"] * 3
    assert {row["VoxCeleb1 ID"] for row in rows} == {path.name for path in corpus.glob("wav/*")}
    assert {row["Gender"] for row in rows} == {"m", "f"}
    assert not list(corpus.rglob("*.tmp"))


def test_audio_is_speech_of_the_length_asked_for(corpus: Path) -> None:
    for path in corpus.glob("wav/*/*/*.wav"):
        samples = read_wav(path)
        assert 0.8 * SAMPLE_RATE < samples.size <= 3.0 * SAMPLE_RATE + 1
        level = 20 * np.log10(np.sqrt(np.mean((samples / 32768.0) ** 2)))
        assert -33 < level < -15
        assert np.mean(np.abs(samples) >= 32766) < 0.001  # clipped


def test_no_two_utterances_are_alike(corpus: Path) -> None:
    contents = [path.read_bytes() for path in corpus.glob("wav/*/*/*.wav")]
    assert len(set(contents)) == len(contents)


@pytest.mark.slow
@pytest.mark.parametrize("nj", [1, 3])
def test_bytes_do_not_depend_on_the_number_of_processes(
    corpus: Path, tmp_path: Path, nj: int
) -> None:
    synthesize_corpus(tmp_path, PLAN, Settings(3), nj=nj)
    assert tree(tmp_path) == tree(corpus)


@pytest.mark.slow
def test_a_speaker_does_not_depend_on_the_others(corpus: Path, tmp_path: Path) -> None:
    """The synthesizer's hidden state must not leak from one speaker to the next."""
    synthesize_corpus(tmp_path, {"train": size(1, 2, 2), "eval": size(2, 3, 1)}, Settings(3))
    small, large = tree(tmp_path / "wav"), tree(corpus / "wav")
    assert len(small) == 4 + 6
    assert small.items() <= large.items()


@pytest.mark.slow
def test_seed_decides(corpus: Path, tmp_path: Path) -> None:
    synthesize_corpus(tmp_path, PLAN, Settings(4), nj=2)
    ours, theirs = tree(tmp_path / "wav"), tree(corpus / "wav")
    assert ours.keys() == theirs.keys()
    assert all(ours[name] != theirs[name] for name in ours)


@pytest.mark.slow
def test_other_settings_replace_the_corpus(tmp_path: Path) -> None:
    synthesize_corpus(tmp_path, {"train": size(3, 1, 1)}, Settings(1))
    synthesize_corpus(tmp_path, {"train": size(2, 2, 1)}, Settings(1))
    assert len(list(tmp_path.glob("wav/*"))) == 2
    assert len(list(tmp_path.glob("wav/*/*"))) == 4
    assert read_json(tmp_path / "corpus.json")["sets"]["train"]["sessions"] == 2


@pytest.mark.slow
def test_sets_in_another_order_replace_the_corpus(tmp_path: Path) -> None:
    sets = {"train": size(1, 1, 1), "eval": size(2, 1, 1)}
    for ordered in (sets, dict(reversed(sets.items()))):
        synthesize_corpus(tmp_path, ordered, Settings(1))
    assert {path.name for path in tmp_path.glob("wav/*")} == {"id10001", "id10002", "id20001"}


@pytest.mark.slow
def test_same_settings_make_only_what_is_missing(tmp_path: Path) -> None:
    synthesize_corpus(tmp_path, PLAN, Settings(3))
    before = tree(tmp_path)
    kept = tmp_path / "wav/id10001/s01/00001.wav"
    stamp = kept.stat().st_mtime_ns
    for path in (tmp_path / "wav/id10002").rglob("*.wav"):
        path.unlink()
    for folder in sorted((tmp_path / "wav/id10002").rglob("*"), reverse=True):
        folder.rmdir()
    (tmp_path / "wav/id10002").rename(tmp_path / "wav/.id10002.tmp")  # as a killed process leaves
    (tmp_path / "wav/.id10002.tmp/s99").mkdir()
    synthesize_corpus(tmp_path, PLAN, Settings(3))
    assert tree(tmp_path) == before
    assert kept.stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_killed_and_taken_up_again_equals_undisturbed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from nessa.corpus.config import SetSize\n"
        "from nessa.synth import Settings, synthesize_corpus\n"
        "train = SetSize(speakers=40, sessions=2, utterances=2)\n"
        "synthesize_corpus(Path(sys.argv[1]), {'train': train}, Settings(5), nj=2)\n"
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(killed)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(list(killed.glob("wav/id*"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 5 <= len(list(killed.glob("wav/id*"))) < 40, "killed too early or too late"
    assert not (killed / "meta.csv").exists()
    for directory in (killed, whole):
        synthesize_corpus(directory, {"train": size(40, 2, 2)}, Settings(5), nj=2)
    assert tree(killed) == tree(whole)


@pytest.mark.slow
def test_a_file_system_without_locks_can_hold_a_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refused)
    synthesize_corpus(tmp_path / "corpus", {"eval": size(1, 1, 1)})
    assert len(list(tmp_path.glob("corpus/wav/*/*/*.wav"))) == 1


def test_a_kill_while_the_stamp_is_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".corpus.json.x1.tmp").write_text("{")
    synthesize_corpus(tmp_path, {"train": size(1, 1, 1)})
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("stamp", [None, "{}", '{"name": "mine", "digest": "x"}', "[]"])
def test_a_folder_that_is_not_ours_is_refused_untouched(tmp_path: Path, stamp: str | None) -> None:
    (tmp_path / "wav").mkdir()
    for name in ("wav/thesis.txt", ".draft.tmp"):
        (tmp_path / name).write_text("ten years of work")
    if stamp is not None:
        (tmp_path / "corpus.json").write_text(stamp)
    before = tree(tmp_path)
    with pytest.raises(InputError, match="no synthetic corpus"):
        synthesize_corpus(tmp_path, PLAN)
    assert tree(tmp_path) == before and len(before) >= 2


def test_an_impossible_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'dev' has 10000 speakers"):
        synthesize_corpus(tmp_path / "corpus", {"dev": size(10_000, 1, 1)})
    for impossible in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValidationError, match="greater than 0"):
            size(*impossible)


def test_missing_synthesizer_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(InputError, match=r"pip install 'nessa\[mini\]'"):
        synthesize_corpus(tmp_path / "corpus", PLAN)


def test_a_broken_synthesizer_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import espeakng_loader

    broken = tmp_path / "libespeak-ng.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(broken))
    with pytest.raises(InputError, match=r"libespeak-ng\.so.*pip install --force-reinstall"):
        synthesize_corpus(tmp_path / "corpus", PLAN)


def test_a_speaker_that_fails_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("nessa.synth.tree.record", fail)  # forked processes inherit it
    with pytest.raises(ChildProcessError, match="id10001 failed"):
        synthesize_corpus(tmp_path, {"train": size(2, 1, 1)})
    assert not (tmp_path / "meta.csv").exists()
    assert not list(tmp_path.glob("wav/id*"))


def test_senseless_settings_are_refused(tmp_path: Path) -> None:
    nowhere = VoiceRanges(accents=("en-nowhere",))
    for message, settings, nj in (
        ("'en-nowhere'.*en-gb-scotland", Settings(voices=nowhere), 1),
        ("0 processes", Settings(), 0),
        ("seed -1", Settings(-1), 1),
    ):
        with pytest.raises(InputError, match=message):
            synthesize_corpus(tmp_path / "corpus", PLAN, settings, nj)
    assert not (tmp_path / "corpus").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("ten years of work")
    with pytest.raises(InputError, match="name another"):
        synthesize_corpus(tmp_path / "corpus", PLAN)


def test_words_are_distinct() -> None:
    assert len(set(WORDS)) == len(WORDS) >= 200


def long_term_spectra(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Log long-term spectrum of each utterance on 60 bands (N, 60), and its speaker (N,)."""
    spectra, speakers = [], []
    for path in sorted(directory.glob("wav/*/*/*.wav")):
        samples = read_wav(path).astype(np.float64)
        power = np.abs(np.fft.rfft(samples, 2 * 30720)) ** 2
        bands = np.log(power[1:24001].reshape(60, -1).mean(axis=1))
        spectra.append(bands - bands.mean())
        speakers.append(path.parts[-3])
    return np.array(spectra), np.array(speakers)


def same_and_other_distances(directory: Path) -> tuple[float, float]:
    spectra, speakers = long_term_spectra(directory)
    distances = np.sqrt(((spectra[:, None] - spectra[None]) ** 2).mean(axis=-1))
    same = speakers[:, None] == speakers[None]
    return float(distances[same & ~np.eye(len(same), dtype=bool)].mean()), float(
        distances[~same].mean()
    )


@pytest.mark.slow
def test_speakers_differ_and_sessions_blur_the_difference(tmp_path: Path) -> None:
    quiet = AcousticRanges(
        equalizer_db=0.0,
        low_cut=(40.0, 41.0),
        high_cut=(7700.0, 7800.0),
        snr_db=(40.0, 41.0),
        reverberation_time=(0.1, 0.11),
        direct_to_reverberant_db=(30.0, 31.0),
    )
    plan = {"eval": size(12, 3, 2)}
    synthesize_corpus(tmp_path / "clean", plan, Settings(1, acoustics=quiet), nj=2)
    synthesize_corpus(tmp_path / "real", plan, Settings(1), nj=2)
    clean_same, clean_other = same_and_other_distances(tmp_path / "clean")
    real_same, real_other = same_and_other_distances(tmp_path / "real")
    assert clean_other > 1.5 * clean_same
    assert real_other / real_same < 0.8 * clean_other / clean_same


def click(**changes: object) -> np.ndarray:
    """A second with a click in its middle, (16000,), recorded by a session that changes nothing."""
    plain: dict = {
        "equalizer_db": np.zeros(BANDS.size), "low_cut": 1.0, "high_cut": 1e5, "snr_db": 100.0,
        "room": room_of({}), "noise_slope_db": 0.0, "level_db": -50.0,
    }  # fmt: skip
    speech = np.zeros(SPEECH_RATE, np.int16)
    speech[SPEECH_RATE // 2] = 20000
    return record(speech, Session(**plain | changes), np.random.default_rng(0)).astype(float)


def room_of(echoes: dict[int, float]) -> np.ndarray:
    """The direct sound, and an echo after each number of samples."""
    room = np.zeros(9600, np.float32)
    room[[0, *echoes]] = 1, *echoes.values()
    return room


def test_a_session_has_its_room() -> None:
    heard = click(room=room_of({4000: 0.5}))
    assert heard[12000] == pytest.approx(0.5 * heard[8000], rel=0.01)
    late = click(room=room_of({9000: 0.5}))
    assert np.abs(late[:7000]).max() < 0.01 * late[8000], "no echo before the sound"


@pytest.mark.parametrize("level", [-50.0, -45.0])
def test_a_session_has_its_level(level: float) -> None:
    heard = np.sqrt(np.mean((click(level_db=level) / 32767) ** 2))
    assert 20 * np.log10(heard) == pytest.approx(level, abs=0.2)


def test_the_direct_sound_is_at_least_as_loud_as_the_room() -> None:
    ranges = AcousticRanges(direct_to_reverberant_db=(6.0, 12.0))
    room = draw_room(np.random.default_rng(0), ranges)
    assert 6 <= -20 * np.log10(np.linalg.norm(room[1:])) <= 12


def test_a_session_has_its_pitch() -> None:
    ranges = VoiceRanges()
    voice = draw_voice(np.random.default_rng(0), "f", ranges)
    low, high = (
        draw_utterance(np.random.default_rng(1), voice, 2.0, pitch, ranges).pitch
        for pitch in (-20.0, 20.0)
    )
    assert high - low == 40


# ---- Noises and rooms for the training of encoders ----------------------------------------------


def test_noises_and_rooms_are_loud_and_all_different(corpus: Path) -> None:
    noises, rooms = sorted(corpus.glob("noise/*.wav")), sorted(corpus.glob("rir/*.wav"))
    assert len(noises) == len(rooms) == 24
    for path in noises:
        samples = read_wav(path)
        assert samples.size == 6 * SAMPLE_RATE
        assert 0.4 * 32768 < np.abs(samples).max() < 32767
    for path in rooms:
        samples = read_wav(path)
        assert 0.1 * SAMPLE_RATE <= samples.size <= 0.4 * SAMPLE_RATE
        assert samples[0] == np.abs(samples).max() == 32767  # the direct sound
    contents = [path.read_bytes() for path in (*noises, *rooms)]
    assert len(set(contents)) == len(contents)


def test_rooms_decay_in_their_length(corpus: Path) -> None:
    for path in corpus.glob("rir/*.wav"):
        tail = read_wav(path)[1:] / 32768.0
        remaining = np.cumsum(tail[::-1] ** 2)[::-1] / np.sum(tail**2)  # Schroeder's integral
        fifth = np.argmax(remaining < 10**-1.2)  # a fifth of 60 dB
        assert 0.15 < fifth / tail.size < 0.25


def test_kinds_of_noise_differ_in_how_their_level_wavers(corpus: Path) -> None:
    swings = []
    for path in sorted(corpus.glob("noise/*.wav")):
        power = (read_wav(path).astype(np.float64) ** 2).reshape(60, -1).mean(axis=1)
        swings.append(float(np.std(10 * np.log10(power))))
    stationary, fluctuating, babble = (np.mean(swings[kind::3]) for kind in range(3))
    assert max(swings[::3]) < 2.5
    assert stationary < babble < fluctuating
    assert min(swings[1::3]) > 3


@pytest.mark.slow
def test_seed_decides_noises_and_rooms_and_sets_do_not(corpus: Path, tmp_path: Path) -> None:
    plan = {"dev": size(1, 1, 1)}
    synthesize_corpus(tmp_path, plan, Settings(3))
    for kind in ("noise", "rir"):
        assert tree(tmp_path / kind) == tree(corpus / kind)
    synthesize_corpus(tmp_path, plan, Settings(4))  # replaces the corpus
    for kind in ("noise", "rir"):
        ours, theirs = tree(tmp_path / kind), tree(corpus / kind)
        assert ours.keys() == theirs.keys()
        assert all(ours[name] != theirs[name] for name in ours)


@pytest.mark.slow
def test_noises_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(seed: int) -> Iterator[np.ndarray]:
        yield np.zeros(10, np.int16)
        raise KeyboardInterrupt

    plan = {"dev": size(1, 1, 1)}
    with monkeypatch.context() as patch:
        patch.setattr("nessa.synth.tree.make_noises", stopped)
        with pytest.raises(KeyboardInterrupt):
            synthesize_corpus(tmp_path, plan)
    assert not (tmp_path / "noise").exists()
    assert not (tmp_path / "meta.csv").exists()
    synthesize_corpus(tmp_path, plan)
    assert len(list(tmp_path.glob("noise/*.wav"))) == 24
    assert not list(tmp_path.glob(".*"))


# ---- From a recipe ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_recipe_is_its_sets_and_its_seed(nessa: Command, corpus: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((ROOT / "recipes/mini/recipe.yaml").read_text())
    settings |= {
        "seed": 3,
        "corpus": {"sets": {name: plan.model_dump() for name, plan in PLAN.items()}},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings, sort_keys=False))
    done = nessa("synth", "--recipe", recipe, "--nj", 2, "--output", tmp_path / "corpus")
    assert done.status == 0, done.err
    assert tree(tmp_path / "corpus") == tree(corpus)


def test_a_corpus_of_no_sets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"corpus: no sets.*corpus\.sets"):
        synthesize_corpus(tmp_path / "corpus", {})
    assert not (tmp_path / "corpus").exists()
