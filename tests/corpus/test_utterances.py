"""Data preparation: manifests and data directories that agree, and refusals that name the fault."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Features, MonoCut, RecordingSet, SupervisionSet
from lhotse.kaldi import load_kaldi_data_dir

from nessa.corpus.config import PrepareConfig, TrialCount
from nessa.corpus.durations import duration_differences
from nessa.corpus.finishing import finish_sets
from nessa.corpus.manifests import read_background
from nessa.corpus.sets import write_set, write_skipped
from nessa.corpus.speakers import check_disjoint
from nessa.corpus.utterances import (
    Utterance,
    make_cuts,
    sort_utterances,
    usable_cuts,
    write_backgrounds,
)
from nessa.corpus.validation import validate_tables
from nessa.errors import InputError
from nessa.files import read_table, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.trials import Trials, read_enroll_map
from tests.speech import hum


def make_utterances(
    folder: Path, speakers: list[str], sessions: int = 3, utterances: int = 2
) -> list[Utterance]:
    """Audio of 0.1 s and a little more, 16 kHz, for speakers of alternating gender."""
    made = []
    for number, speaker in enumerate(speakers):
        for session in (f"s{k}" for k in range(sessions)):
            for utterance in range(utterances):
                path = folder / speaker / session / f"{utterance}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, hum(1600 + len(made)), 16000)
                name = f"{speaker}-{session}-{utterance}"
                made.append(Utterance(name, speaker, session, path, "mf"[number % 2]))
    return made


def prepare(data: Path, name: str, utterances: list[Utterance]) -> Path:
    write_set(data, name, make_cuts(sort_utterances(utterances)))
    return data / name


@pytest.fixture
def audio(tmp_path: Path) -> list[Utterance]:
    # "id1" is a prefix of "id10": the order that needs a separator after the speaker.
    return make_utterances(tmp_path / "audio", ["id10", "id1", "id2", "ID3"])


@pytest.fixture
def directory(tmp_path: Path, audio: list[Utterance]) -> Path:
    return prepare(tmp_path / "data", "eval", audio)


def c_sorted(path: Path) -> bool:
    lines = path.read_bytes().splitlines(keepends=True)
    done = subprocess.run(
        ["sort", "-c", path], env={**os.environ, "LC_ALL": "C"}, capture_output=True, check=False
    )
    return bool(lines) and done.returncode == 0


def test_data_directory_is_consistent(directory: Path, audio: list[Utterance]) -> None:
    assert validate_tables(directory) == []
    for name in ("wav.scp", "utt2spk", "spk2utt", "utt2dur", "spk2gender", "utt2session"):
        assert c_sorted(directory / name), name
    assert read_utt2spk(directory) == {u.id: u.speaker for u in audio}
    assert read_table(directory / "wav.scp") == {u.id: str(u.path.resolve()) for u in audio}
    assert read_table(directory / "spk2gender") == {
        "id10": "m", "id1": "f", "id2": "m", "ID3": "f"
    }  # fmt: skip
    for utterance in audio:
        seconds = soundfile.info(str(utterance.path)).duration
        assert float(read_table(directory / "utt2dur")[utterance.id]) == pytest.approx(
            seconds, abs=1e-4
        )


def test_lhotse_reads_both_and_they_agree(directory: Path, audio: list[Utterance]) -> None:
    manifests = directory.parent / "manifests"
    recordings = RecordingSet.from_file(manifests / "eval_recordings.jsonl.gz")
    supervisions = SupervisionSet.from_file(manifests / "eval_supervisions.jsonl.gz")
    cuts = CutSet.from_file(manifests / "eval_cuts.jsonl.gz")
    from_kaldi, _, _ = load_kaldi_data_dir(directory, sampling_rate=16000)
    lengths = {recording.id: recording.duration for recording in from_kaldi}
    assert lengths.keys() == {recording.id for recording in recordings}
    for recording in recordings:  # Lhotse rounds Kaldi's durations down to milliseconds
        assert recording.duration == pytest.approx(lengths[recording.id], abs=1.1e-3)
    assert {s.id: (s.speaker, s.custom["session"]) for s in supervisions} == {
        u.id: (u.speaker, u.session) for u in audio
    }
    for cut in cuts:
        assert cut.load_audio().shape == (1, cut.num_samples)
        assert cut.supervisions[0].id == cut.id == cut.recording.id


def test_bytes_do_not_depend_on_order_or_time(tmp_path: Path, audio: list[Utterance]) -> None:
    def written(data: Path, utterances: list[Utterance]) -> dict[str, bytes]:
        prepare(data, "eval", utterances)
        return {str(p.relative_to(data)): p.read_bytes() for p in data.rglob("*") if p.is_file()}

    first = written(tmp_path / "a", audio)
    assert written(tmp_path / "b", audio[::-1]) == first
    assert written(tmp_path / "a", audio) == first


def test_preparing_again_removes_what_was_made_of_the_old_set(
    directory: Path, audio: list[Utterance]
) -> None:
    for name in ("trials", "trials_profile", "enroll_map", "skipped"):
        (directory / name).write_text("stale\n")
    prepare(directory.parent, "eval", audio)
    assert not {"trials", "trials_profile", "enroll_map", "skipped"} & set(os.listdir(directory))


def test_genders_are_written_only_where_all_are_known(
    tmp_path: Path, audio: list[Utterance]
) -> None:
    unknown = [Utterance(u.id, u.speaker, u.session, u.path) for u in audio if u.speaker == "id1"]
    known = [u for u in audio if u.speaker != "id1"]
    directory = prepare(tmp_path / "data", "eval", [*known, *unknown])
    assert not (directory / "spk2gender").exists()
    assert validate_tables(directory) == []


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0), 16000)


def noise(path: Path) -> None:
    path.write_bytes(b"no audio at all" * 100)


def stereo(path: Path) -> None:
    soundfile.write(path, np.zeros((1600, 2)), 16000)


def test_audio_that_breaks_off_or_is_too_short_is_found_by_decoding(
    tmp_path: Path, audio: list[Utterance]
) -> None:
    flac = audio[3].path.with_suffix(".flac")
    soundfile.write(flac, np.random.default_rng(1).standard_normal(16000) / 9, 16000)
    flac.write_bytes(flac.read_bytes()[:9000])  # its header promises all samples
    soundfile.write(audio[5].path, hum(700), 16000)
    audio[3] = replace(audio[3], path=flac)
    skipped: dict[str, str] = {}
    kept = [cut.id for cut in make_cuts(audio, skipped, nj=2)]
    assert list(skipped) == [audio[3].id, audio[5].id]
    assert f"{flac}: is cut off" in skipped[audio[3].id]
    assert "only 700 samples; too short" in skipped[audio[5].id]
    assert kept == [utterance.id for utterance in audio if utterance.id not in skipped]


def test_noises_are_found_as_flac_and_behind_links_or_their_folder_is_refused(
    tmp_path: Path,
) -> None:
    disk, noise = tmp_path / "disk", tmp_path / "musan/noise"
    for path in (disk / "a.wav", noise / "b.flac", noise / "c.wav", noise / "c.flac"):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, hum(1600), 16000)
    (noise / "more").symlink_to(disk)
    (noise / "again").symlink_to(noise)  # the same files, at any depth
    write_backgrounds(tmp_path / "data", [noise])
    found = read_background(tmp_path / "data", "noise")
    assert found is not None
    assert [r.id for r in found] == ["noise/b", "noise/c", "noise/more/a"]
    assert [Path(r.sources[0].source).suffix for r in found] == [".flac", ".wav", ".wav"]
    (tmp_path / "rirs").mkdir()
    with pytest.raises(InputError, match=r"rirs: no \*.wav or \*.flac; is the corpus complete"):
        write_backgrounds(tmp_path / "data", [noise], [tmp_path / "rirs"])


def test_files_behind_links_that_lead_out_of_the_corpus_are_told(
    tmp_path: Path, audio: list[Utterance], caplog: pytest.LogCaptureFixture
) -> None:
    corpus = audio[0].path.parents[2]
    assert len(list(make_cuts(audio, corpus=corpus))) == len(audio)
    assert not caplog.records
    audio[1].path.rename(tmp_path / "elsewhere.wav")
    audio[1].path.symlink_to(tmp_path / "elsewhere.wav")
    audio[2].path.rename(audio[2].path.with_name("moved"))  # within the corpus
    audio[2].path.symlink_to(audio[2].path.with_name("moved"))
    session = audio[-1].path.parent
    session.rename(tmp_path / "session")
    session.symlink_to(tmp_path / "session")
    assert len(list(make_cuts(audio, corpus=corpus))) == len(audio)
    (record,) = caplog.records
    assert "3 files lie outside" in record.message
    assert f"{audio[1].path} -> {tmp_path / 'elsewhere.wav'}" in record.message


@pytest.mark.parametrize("spoil", [Path.unlink, empty, no_samples, noise, stereo])
def test_unusable_audio_is_named_or_skipped_and_listed(
    tmp_path: Path, audio: list[Utterance], spoil: object
) -> None:
    spoil(audio[3].path)  # type: ignore[operator]
    with pytest.raises(InputError) as refusal:
        list(make_cuts(audio))
    assert str(audio[3].path) in str(refusal.value)
    assert audio[3].id in str(refusal.value)
    skipped: dict[str, str] = {}
    cuts = make_cuts(sort_utterances(audio), skipped)
    write_set(tmp_path / "data", "eval", cuts)
    write_skipped(tmp_path / "data", "eval", skipped)
    directory = tmp_path / "data/eval"
    assert len(read_utt2spk(directory)) == len(audio) - 1
    assert list(read_table(directory / "skipped")) == [audio[3].id]
    assert validate_tables(directory) == []


@pytest.mark.parametrize(
    ("name", "speaker", "message"),
    [
        ("id1x-s0-0", "id1", "does not start with its speaker"),
        ("other-s0-0", "id1", "does not start with its speaker"),
        ("id1-s0 0-0", "id1", "spaces"),
        ("id1-s0-0", "id1", "is also that of"),
    ],
)
def test_bad_ids_are_refused(audio: list[Utterance], name: str, speaker: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(make_cuts(sort_utterances([*audio, Utterance(name, speaker, "s0", audio[0].path)])))


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'dev' has no utterances"):
        write_set(tmp_path, "dev", [])


def test_sets_must_not_share_speakers() -> None:
    check_disjoint({"train": ["a"], "dev": ["b"], "eval": ["c"]})
    with pytest.raises(InputError, match="'b' is in set 'dev' and in set 'eval'"):
        check_disjoint({"dev": ["a", "b"], "eval": ["b", "c"]})


# ---- finishing ----------------------------------------------------------------------------------

CONFIG = PrepareConfig.model_validate(
    {
        "program": "voxceleb",
        "trials": {"eval": {"targets": 20, "nontargets": 60}},
        "profile_sizes": [1, 3, 10],
    }
)


def test_finishing_makes_trials_and_profiles(
    directory: Path, audio: list[Utterance], caplog: pytest.LogCaptureFixture
) -> None:
    finish_sets(directory.parent, CONFIG, seed=1)
    sessions = {u.id: (u.speaker, u.session) for u in audio}
    trials = Trials.read(directory / "trials")
    assert (trials.targets, trials.nontargets) == (20, 60)
    for enroll, test, target in zip(trials.enroll, trials.test, trials.labels, strict=True):
        assert (sessions[enroll][0] == sessions[test][0]) == target
        assert sessions[enroll] != sessions[test]
    profiles = read_enroll_map(directory / "enroll_map")
    assert {len(utterances) for utterances in profiles.values()} == {1, 3}
    assert "no profiles of 10 utterances" in caplog.text  # 4 are left of 6 with a session for tests
    for enroll, test in zip(*_sides(directory / "trials_profile"), strict=True):
        assert sessions[test] not in {sessions[utterance] for utterance in profiles[enroll]}
    assert validate_tables(directory) == []


def _sides(path: Path) -> tuple[list[str], list[str]]:
    trials = Trials.read(path)
    return trials.enroll, trials.test


def test_a_list_that_is_there_stays(directory: Path) -> None:
    given = "id1-s0-0 id1-s1-0 target\nid1-s0-0 id2-s1-0 nontarget\n"
    (directory / "trials").write_text(given)
    finish_sets(directory.parent, CONFIG, seed=1)
    assert (directory / "trials").read_text() == given


def test_a_list_whose_link_leads_nowhere_is_not_drawn_anew(directory: Path) -> None:
    (directory / "trials").symlink_to(directory / "gone")
    with pytest.raises(InputError, match="trials: is a link to nothing"):
        finish_sets(directory.parent, CONFIG, seed=1)


def test_finishing_is_seeded(directory: Path) -> None:
    made = []
    for seed in (1, 1, 2):
        (directory / "trials").unlink(missing_ok=True)
        finish_sets(directory.parent, CONFIG, seed)
        made.append([(directory / n).read_bytes() for n in ("trials", "trials_profile")])
    assert made[0] == made[1]
    assert made[0][0] != made[2][0]
    assert made[0][1] != made[2][1]


def test_trials_stay_within_a_domain(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    utt2spk = read_utt2spk(directory)
    first = sorted(set(utt2spk.values()))[:2]
    patterns = {"words": "|".join(first), "sentences": f"(?!({'|'.join(first)})$).*"}
    config = CONFIG.model_copy(update={"domains": patterns})
    config = config.model_copy(update={"trials": {"eval": TrialCount(targets=10, nontargets=20)}})
    finish_sets(directory.parent, config, seed=1)
    domains = read_table(directory / "utt2domain")
    assert {u: d == "words" for u, d in domains.items()} == {
        u: s in first for u, s in utt2spk.items()
    }
    for name, domain in (("trials", "words"), ("trials_sentences", "sentences")):
        trials = Trials.read(directory / name)
        assert (trials.targets, trials.nontargets) == (10, 20)
        assert {domains[u] for u in (*trials.enroll, *trials.test)} == {domain}
    profiles = read_enroll_map(directory / "enroll_map")
    for enroll, test in zip(*_sides(directory / "trials_profile"), strict=True):
        assert {domains[u] for u in profiles[enroll]} == {domains[test]}
    assert {domains[utts[0]] for utts in profiles.values()} == {"words", "sentences"}
    assert validate_tables(directory) == []
    (directory / "utt2domain").unlink()
    narrow = config.model_copy(update={"domains": {"words": first[0]}})
    with pytest.raises(InputError, match=r"prepare\.domains: speaker '.*' matches 0"):
        finish_sets(directory.parent, narrow, seed=1)


def test_a_speaker_of_two_domains_has_profiles_in_each(directory: Path) -> None:
    domains = {u: ("far field", "phone")[u.endswith("-1")] for u in read_utt2spk(directory)}
    write_table(directory / "utt2domain", domains)
    finish_sets(directory.parent, CONFIG, seed=1)
    profiles = read_enroll_map(directory / "enroll_map")
    enroll, test = _sides(directory / "trials_profile")
    assert {domains[u] for u in test} == {"far field", "phone"}
    for profile, heard in zip(enroll, test, strict=True):
        assert {domains[u] for u in profiles[profile]} == {domains[heard]}
    assert {"id1-p1-1", "id1-p1-1-phone"} <= profiles.keys()


def test_domains_that_the_recipe_does_not_name_are_left_out_with_a_warning(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    domains = {u: ("far", "phone")[u.endswith("-1")] for u in read_utt2spk(directory)}
    write_table(directory / "utt2domain", domains)
    config = CONFIG.model_copy(update={"domains": {"phone": "id1", "read": ".*"}})
    finish_sets(directory.parent, config, seed=1)
    trials = Trials.read(directory / "trials")
    assert {domains[u] for u in (*trials.enroll, *trials.test)} == {"phone"}
    assert not (directory / "trials_far").exists()
    assert f"{directory}/utt2domain: prepare.domains does not name 'far'; nothing" in caplog.text


@pytest.mark.parametrize("name", ["single", "profile", "profile3", "words.profile2"])
def test_domains_that_results_would_call_as_other_trials_are_refused(
    directory: Path, name: str
) -> None:
    config = CONFIG.model_copy(update={"domains": {name: ".*"}})
    said = f"results call other trials {name!r}; rename the domain"
    with pytest.raises(InputError, match=rf"prepare\.domains: {said}"):
        finish_sets(directory.parent, config, seed=1)
    write_table(directory / "utt2domain", dict.fromkeys(read_utt2spk(directory), name))
    with pytest.raises(InputError, match=f"{directory}/utt2domain: {said}"):
        finish_sets(directory.parent, CONFIG, seed=1)


@pytest.mark.parametrize("name", ["words/few", "words.old"])
def test_domains_by_which_no_trial_list_can_be_called_are_refused(
    directory: Path, name: str
) -> None:
    config = CONFIG.model_copy(update={"domains": {name: ".*"}})
    with pytest.raises(InputError, match=rf"prepare\.domains: domain '{name}' .* trials_{name}"):
        finish_sets(directory.parent, config, seed=1)


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate 3 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate")],
    ids=["MemoryError", "torch"],
)
def test_no_utterance_is_called_bad_where_memory_ends(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    for name in ("load_audio", "load_features"):
        monkeypatch.setattr(MonoCut, name, fails)
    features = Features(
        type="fbank", num_frames=200, num_features=7, frame_shift=0.01, sampling_rate=16000,
        start=0, duration=2.0, storage_type="numpy_files", storage_path="x", storage_key="x",
    )  # fmt: skip
    cut = MonoCut("a", start=0, duration=2.0, channel=0, features=features)
    with pytest.raises(type(error), match="allocate"):
        list(usable_cuts([cut], {}))


def test_sets_of_other_durations_are_warned_about(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finish_sets(directory.parent, CONFIG, seed=1)
    assert "medians" not in caplog.text
    durations = read_table(directory / "utt2dur")
    for factor, warned in ((1.9, False), (2.1, True)):
        longer = {u: f"{factor * float(d):.4f}" for u, d in durations.items()}
        differences = list(
            duration_differences({"eval": directory, "align": made(directory, longer)})
        )
        assert bool(differences) == warned
    assert "eval are 0.1 s long and those of align" in differences[0]


def made(directory: Path, durations: dict[str, str]) -> Path:
    """A set that has nothing but durations."""
    write_table(directory.parent / "other" / "utt2dur", durations)
    return directory.parent / "other"


def test_finishing_refuses_shared_speakers(directory: Path, audio: list[Utterance]) -> None:
    prepare(directory.parent, "train", [u for u in audio if u.speaker == "id2"])
    with pytest.raises(InputError, match="'id2' is in set 'train' and in set 'eval'"):
        finish_sets(directory.parent, CONFIG, seed=1)


def test_finishing_refuses_an_align_set_of_one_speaker(
    directory: Path, audio: list[Utterance]
) -> None:
    prepare(directory.parent, "align", [u for u in audio if u.speaker == "id2"])
    (directory / "utt2spk").unlink()
    with pytest.raises(InputError, match="data/align: set 'align' has 1 speakers"):
        finish_sets(directory.parent, PrepareConfig(program="voxceleb"), seed=1)


def test_finishing_names_a_set_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="eval: no such set"):
        finish_sets(tmp_path, CONFIG, seed=1)


# ---- validation ---------------------------------------------------------------------------------


def edit(name: str, old: str, new: str) -> object:
    def change(directory: Path) -> None:
        text = (directory / name).read_text()
        assert old in text
        (directory / name).write_text(text.replace(old, new, 1))

    return change


def shuffle(name: str) -> object:
    def change(directory: Path) -> None:
        lines = (directory / name).read_text().splitlines(keepends=True)
        (directory / name).write_text("".join(lines[::-1]))

    return change


def remove(*names: str) -> object:
    def change(directory: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return change


def append(name: str, line: str) -> object:
    def change(directory: Path) -> None:
        with open(directory / name, "a") as file:
            file.write(line + "\n")

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shuffle("utt2spk"), "utt2spk: not sorted"),
        (shuffle("wav.scp"), "wav.scp: not sorted"),
        (remove("wav.scp"), "neither wav.scp nor feats.scp"),
        (remove("utt2spk"), "utt2spk: no such file"),
        (edit("utt2spk", "id2-s0-0 id2", "id2-s0-0 id9"), "no prefix of 'id2-s0-0'"),
        (edit("utt2spk", "id2-s0-0 id2", "id2-s0-0"), "expected `key value`"),
        (edit("utt2spk", "id2-s0-0 id2", "id2-s0-0 id2 id2"), "expected one speaker"),
        (edit("spk2utt", " id2-s0-1", ""), "spk2utt: not the inverse"),
        (edit("spk2gender", "id1 f", "id1 female"), "neither m nor f: 'id1'"),
        (edit("spk2gender", "id1 f\n", ""), "no line for speaker 'id1'"),
        (edit("utt2dur", "id1-s0-0", "id1-s0-00"), "utt2dur (1): 'id1-s0-00' is not in the set"),
        (edit("wav.scp", "id1/s0/0.wav", "id1/s0/gone.wav"), "gone.wav"),
        (append("wav.scp", "zz-1 zz.wav"), "wav.scp (1): 'zz-1' is not in the set"),
        (edit("trials", "id1-s0-0 ", "id1-s0-9 "), "trials (1): 'id1-s0-9' is not in the set"),
        (append("enroll_map", "id9-p1-1 id9-s0-0"), "enroll_map (1): 'id9-s0-0' is not in the set"),
        (append("trials_profile", "id9-p1-1 id1-s0-0 target"), "'id9-p1-1' is not in the set"),
        (append("utt2spk", "id1-s0-0 id1"), "duplicate key"),
    ],
)
def test_validation_names_each_fault(directory: Path, spoil: object, message: str) -> None:
    finish_sets(directory.parent, CONFIG, seed=1)
    assert validate_tables(directory) == []
    spoil(directory)  # type: ignore[operator]
    problems = validate_tables(directory)
    assert any(message in problem for problem in problems), problems


def test_segments_cut_recordings_into_utterances(directory: Path) -> None:
    table = read_table(directory / "wav.scp")
    (directory / "wav.scp").write_text(f"whole {table['id1-s0-0']}\n")
    segments = dict.fromkeys(table, "whole 0.0 0.1")
    (directory / "segments").write_text("".join(f"{u} {s}\n" for u, s in segments.items()))
    assert validate_tables(directory) == []
    edit("segments", "whole 0.0 0.1", "whole 0.1 0.1")(directory)  # type: ignore[operator]
    edit("segments", "whole 0.0", "other 0.0")(directory)  # type: ignore[operator]
    problems = "\n".join(validate_tables(directory))
    assert "start < end" in problems
    assert "'other' is not in wav.scp" in problems


def test_features_without_audio_are_valid(directory: Path) -> None:
    shutil.move(directory / "wav.scp", directory / "feats.scp")
    assert validate_tables(directory) == []


def test_pipes_are_neither_run_nor_refused(directory: Path, tmp_path: Path) -> None:
    table = read_table(directory / "wav.scp")
    canary = tmp_path / "canary"
    (directory / "wav.scp").write_text("".join(f"{u} touch {canary} |\n" for u in table))
    assert validate_tables(directory) == []
    assert not canary.exists()


def test_a_missing_folder_is_a_problem(tmp_path: Path) -> None:
    assert "no such folder" in validate_tables(tmp_path / "nowhere")[0]
