"""Extraction: batches, shards and restarts never change an embedding; bad audio is named."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kaldi_native_io
import numpy as np
import pytest
import soundfile
import torch
from lhotse import Recording
from lhotse.cut import MonoCut
from lhotse.utils import fastcopy

from nessa.corpus.audio import read_audio
from nessa.corpus.leaving_out import leave_out
from nessa.corpus.manifests import manifest_path, write_manifest
from nessa.encoders import (
    GivenEmbeddings,
    build,
    load_model,
    parse_settings,
    save_model,
    save_pretrained,
)
from nessa.encoders.base import SpeakerModel
from nessa.encoders.config import FeatureConfig
from nessa.encoders.extraction import extract
from nessa.encoders.features import FeatureExtractor, read_features
from nessa.encoders.settings import ArksConfig
from nessa.encoders.shards import extract_shard, import_embeddings, merge_shards, skipped_in
from nessa.errors import InputError
from nessa.files import STARTED_IN, read_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from tests.conftest import Command
from tests.speech import prepare_set, read_cuts, turn_around


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    prepare_set(data, "eval", range(8), sessions=2, utterances=3, seconds=(0.5, 3.0))
    return data


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    """A copy whose audio may be damaged (manifests point to it)."""
    folder = tmp_path / "data"
    shutil.rmtree(folder, ignore_errors=True)
    prepare_set(folder, "eval", range(3), sessions=2, utterances=2)
    return folder


@pytest.fixture(scope="module", params=["tdnn", "ecapa"])
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param) / "test"
    config = parse_settings(
        {
            "architecture": request.param,
            "channels": 16,
            "dim": 24,
            "features": {"num_filters": 20},
            "loss": {"type": "aam"},
            "steps": 1,
        }
    )
    torch.manual_seed(3)
    encoder = build(config)
    with torch.no_grad():
        for _ in range(5):
            encoder(torch.randn(8, 50, 20))
    save_model(directory, config, encoder)
    return directory


@pytest.fixture(scope="module")
def model(model_dir: Path):
    return load_model(model_dir)


def cuts_of(data: Path) -> list:
    return sorted(read_cuts(data, "eval"), key=lambda cut: cut.id)


@pytest.mark.slow
def test_the_batch_never_changes_an_embedding(model, prepared: Path) -> None:
    cuts = cuts_of(prepared)
    alone = torch.cat([model.embed([model.read(cut)]) for cut in cuts]).numpy()
    for batch_seconds in (4.0, 30.0, 1000.0):
        together = extract(model, cuts, batch_seconds).matrix
        norms = np.linalg.norm(alone, axis=1) * np.linalg.norm(together, axis=1)
        assert ((alone * together).sum(axis=1) / norms).min() >= 0.99999


@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, 1, 3])
def test_readers_never_change_an_embedding(model, prepared: Path, workers: int | None) -> None:
    cuts, threads = cuts_of(prepared), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ours = extract(model, cuts, 10.0, workers=workers)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    plain = extract(model, cuts, 10.0, workers=0)
    assert ours.keys == plain.keys
    np.testing.assert_allclose(ours.matrix, plain.matrix, atol=1e-4)


@pytest.mark.slow
def test_what_a_reader_meets_is_named_without_a_traceback(model, data: Path) -> None:
    path = audio_of(data, 4)
    path.write_bytes(b"no audio")
    with pytest.raises(InputError, match="cannot be read") as error:
        extract(model, cuts_of(data), 2.0, workers=2)
    assert cuts_of(data)[4].id in str(error.value)


@pytest.mark.slow
def test_the_directory_is_kaldis_and_stamped(model, prepared: Path, tmp_path: Path) -> None:
    for shard in (2, 1, 3):
        extract_shard(model, prepared, "eval", tmp_path, shard, 3, 20.0)
    merged, _ = merge_shards(model, prepared, "eval", tmp_path, 3)
    utt2spk = read_utt2spk(prepared / "eval")
    assert merged.keys == sorted(utt2spk)
    with kaldi_native_io.SequentialFloatVectorReader(f"scp:{tmp_path / 'xvector.scp'}") as reader:
        theirs = {key: np.array(value) for key, value in reader}
    assert list(theirs) == merged.keys
    np.testing.assert_array_equal(np.stack(list(theirs.values())), merged.matrix)
    read = Embeddings.read(tmp_path)
    assert read.stamp is not None
    assert (read.stamp.model, read.stamp.set) == ("test", "eval")
    assert read.stamp.fingerprint == model.fingerprint
    means = Embeddings.read(tmp_path / "spk_xvector.scp")
    own = [utt for utt, speaker in utt2spk.items() if speaker == means.keys[0]]
    np.testing.assert_allclose(means.matrix[0], merged.select(own).matrix.mean(axis=0), atol=1e-5)
    counts = dict(line.split() for line in (tmp_path / "num_utts.ark").read_text().splitlines())
    assert counts == dict.fromkeys(means.keys, "6")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}


@pytest.mark.slow
def test_a_restart_keeps_finished_shards_and_ends_with_the_same_bytes(
    model, prepared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for shard in (1, 2):
        extract_shard(model, prepared, "eval", out, shard, 2, 20.0)
    merge_shards(model, prepared, "eval", out, 2)
    whole = contents(out)
    kept = (out / "xvector.1.ark").stat().st_mtime_ns
    (out / ".xvector.2.json").unlink()  # what a kill between ark and stamp leaves
    (out / "xvector.2.ark").write_bytes(b"half")
    with pytest.raises(InputError, match="shard 2 of 2"):
        merge_shards(model, prepared, "eval", out, 2)
    for shard in (1, 2):
        extract_shard(model, prepared, "eval", out, shard, 2, 20.0)
    assert (out / "xvector.1.ark").stat().st_mtime_ns == kept
    merge_shards(model, prepared, "eval", out, 2)
    assert contents(out) == whole


@pytest.mark.parametrize(
    "damage",
    [
        lambda ark: ark.unlink(),
        lambda ark: ark.write_bytes(ark.read_bytes()[:-8]),
        lambda ark: ark.with_suffix(".scp").write_bytes(b"\xff"),
    ],
    ids=["removed", "truncated", "no scp"],
)
def test_a_damaged_shard_is_not_merged_and_is_extracted_again(
    data: Path, tmp_path: Path, damage
) -> None:
    shard, ark = (Whimsical({}), data, "eval", tmp_path), tmp_path / "xvector.1.ark"
    extract_shard(*shard, 1, 1, 20.0)
    whole = ark.read_bytes()
    damage(ark)
    with pytest.raises(InputError, match="shard 1 of 1 is missing or damaged"):
        merge_shards(*shard, 1)
    extract_shard(*shard, 1, 1, 20.0)
    assert ark.read_bytes() == whole
    merge_shards(*shard, 1)


def test_a_copied_directory_is_extracted_again_for_its_scp_names_the_original(
    data: Path, tmp_path: Path
) -> None:
    model, copy = Whimsical({}), tmp_path / "copy"
    extract_shard(model, data, "eval", tmp_path / "original", 1, 1, 20.0)
    shutil.copytree(tmp_path / "original", copy)
    with pytest.raises(InputError, match="copy: shard 1 of 1"):
        merge_shards(model, data, "eval", copy, 1)
    extract_shard(model, data, "eval", copy, 1, 1, 20.0)
    assert f" {copy}/xvector.1.ark:" in (copy / "xvector.1.scp").read_text()


def test_a_directory_that_is_reached_by_a_link_is_whole(data: Path, tmp_path: Path) -> None:
    model, shard = Whimsical({}), tmp_path / "exp/xvector.1.ark"
    extract_shard(model, data, "eval", shard.parent, 1, 1, 20.0)
    (tmp_path / "link").symlink_to("exp")
    made = shard.stat().st_mtime_ns
    extract_shard(model, data, "eval", tmp_path / "link", 1, 1, 20.0)
    merge_shards(model, data, "eval", tmp_path / "link", 1)
    assert shard.stat().st_mtime_ns == made


def test_a_shard_of_an_earlier_version_is_kept(data: Path, tmp_path: Path) -> None:
    """Its stamp tells nothing of the ark."""
    shard, stamp = (Whimsical({}), data, "eval", tmp_path), tmp_path / ".xvector.1.json"
    extract_shard(*shard, 1, 1, 20.0)
    told = json.loads(stamp.read_text())
    del told["spots"]
    stamp.write_text(json.dumps(told))
    extract_shard(*shard, 1, 1, 20.0)
    assert "spots" not in stamp.read_text()


@pytest.mark.slow
def test_shards_of_another_model_or_division_are_not_swept_in(
    model, prepared: Path, tmp_path: Path
) -> None:
    for shard in (1, 2, 3):
        extract_shard(model, prepared, "eval", tmp_path, shard, 3, 20.0)
    with pytest.raises(InputError, match="shard 1 of 2"):
        merge_shards(model, prepared, "eval", tmp_path, 2)
    for shard in (1, 2):
        extract_shard(model, prepared, "eval", tmp_path, shard, 2, 20.0)
    merge_shards(model, prepared, "eval", tmp_path, 2)
    assert not (tmp_path / "xvector.3.ark").exists()


def audio_of(data: Path, row: int) -> Path:
    return Path(cuts_of(data)[row].recording.sources[0].source)


def test_other_audio_of_the_same_ids_and_lengths_is_extracted_anew(
    model, data: Path, tmp_path: Path
) -> None:
    extract_shard(model, data, "eval", tmp_path, 1, 1, 20.0)
    before = (tmp_path / "xvector.1.ark").read_bytes()
    turn_around(audio_of(data, 4))
    extract_shard(model, data, "eval", tmp_path, 1, 1, 20.0)
    after = (tmp_path / "xvector.1.ark").read_bytes()
    assert after != before
    extract_shard(model, data, "eval", tmp_path, 1, 1, 20.0)  # is there already
    assert (tmp_path / "xvector.1.ark").read_bytes() == after


@pytest.mark.parametrize("skip_bad", [False, True])
def test_finished_shards_stay_while_the_corpus_is_away(
    data: Path, tmp_path: Path, skip_bad: bool
) -> None:
    shard = Whimsical({}), data, "eval", tmp_path / "out"
    extract_shard(*shard, 1, 1, 20.0)
    before = contents(tmp_path / "out")
    (data / "audio").rename(data / "away")
    remedy = r"12 of 12 utterances cannot be used.*mount its disk or.*\./run\.sh --stage prepare$"
    with pytest.raises(InputError, match=remedy):
        extract_shard(*shard, 1, 1, 20.0, skip_bad=skip_bad)
    (data / "away").rename(data / "audio")
    assert contents(tmp_path / "out") == before
    assert merge_shards(*shard, 1)[1] == 0


@pytest.mark.parametrize("skip_bad", [False, True])
def test_commands_of_another_folder_are_not_skipped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skip_bad: bool
) -> None:
    def as_command(cut: MonoCut) -> MonoCut:
        (source,) = cut.recording.sources
        command = f"cat audio/{Path(source.source).name}"
        sources = [fastcopy(source, type="command", source=command)]
        return fastcopy(cut, recording=fastcopy(cut.recording, sources=sources))

    monkeypatch.setenv(STARTED_IN, str(data))
    cuts, skipped = list(map(as_command, cuts_of(data))), dict[str, str]()
    assert len(extract(Whimsical({}), cuts)) == len(cuts)
    monkeypatch.setenv(STARTED_IN, str(tmp_path))
    with pytest.raises(InputError, match=rf"commands run in {tmp_path}: call \./run\.sh in the"):
        extract(Whimsical({}), cuts, skipped=skipped if skip_bad else None)
    monkeypatch.setenv(STARTED_IN, str(data))
    audio_of(data, 0).unlink()
    assert len(extract(Whimsical({}), cuts, skipped=skipped)) == len(cuts) - 1


def test_a_file_that_is_gone_is_told_from_a_bad_one_and_may_be_left_out(data: Path) -> None:
    cuts, skipped = cuts_of(data), dict[str, str]()
    audio_of(data, 0).write_bytes(b"no audio")
    with pytest.raises(InputError, match=r"mend it, remove it and run .*prepare, or .*--skip-bad"):
        extract(Whimsical({}), cuts)
    audio_of(data, 0).unlink()
    with pytest.raises(InputError, match="its file is not there: mount its disk"):
        extract(Whimsical({}), cuts)
    assert len(extract(Whimsical({}), cuts, skipped=skipped)) == len(cuts) - 1
    assert list(skipped) == [cuts[0].id]


def test_other_parts_of_the_same_recordings_are_extracted_anew(data: Path, tmp_path: Path) -> None:
    whole, model = cuts_of(data), Whimsical({})

    def extracted(cuts: list[MonoCut]) -> bytes:
        write_manifest(manifest_path(data, "eval", "cuts"), cuts)
        extract_shard(model, data, "eval", tmp_path, 1, 1, 20.0)
        return (tmp_path / "xvector.1.ark").read_bytes()

    def starting(second: float) -> list[MonoCut]:
        return [fastcopy(cut, start=second, duration=0.4) for cut in whole]

    louder = [fastcopy(c, recording=c.recording.perturb_volume(2.0)) for c in starting(0.1)]
    made = [extracted(cuts) for cuts in (starting(0.0), starting(0.1), louder)]
    assert len(set(made)) == 3
    assert extracted(louder) == made[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(b"no audio at all" * 100), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "cannot be read|too short"),
    ],
    ids=["missing", "empty", "garbage", "truncated"],
)
def test_bad_audio_is_named(model, data: Path, tmp_path: Path, damage, message: str) -> None:
    path = audio_of(data, 4)
    damage(path)
    with pytest.raises(InputError, match=message) as error:
        extract_shard(model, data, "eval", tmp_path / "out", 1, 1, 20.0)
    assert cuts_of(data)[4].id in str(error.value) and str(path) in str(error.value)
    assert not (tmp_path / "out" / "xvector.scp").exists()


@pytest.mark.slow
def test_bad_audio_is_counted_or_left_out_and_listed(
    model_dir: Path, data: Path, tmp_path: Path, nessa: Command
) -> None:
    cuts, out = cuts_of(data), tmp_path / "out"
    bad = [cuts[row].id for row in (3, 4, 8)]
    for row in (3, 4, 8):
        audio_of(data, row).write_bytes(b"no audio")
    words = ["extract", "--encoder", model_dir, "--data", data, "--set", "eval"]
    words += ["--output", out, "--shards", 2]
    nessa(*words, "--shard", 1).refused(f"{bad[0]!r}", "2 of 6", "--skip-bad")
    assert not out.exists() or not list(out.rglob("*.ark"))
    for shard in (1, 2):
        assert nessa(*words, "--shard", shard, "--skip-bad").status == 0
    nessa(*words, "--merge").refused("shard 1 of 2", "skipped", "extract it again")
    done = nessa(*words, "--merge", "--skip-bad")
    assert done.status == 0 and "9 embeddings" in done.out and "3 skipped" in done.out
    skipped = read_table(out / "eval/skipped")
    assert sorted(skipped) == sorted(bad)
    assert all("cannot be read: Error opening" in reason for reason in skipped.values())
    whole = Embeddings.read(out / "eval")
    assert sorted(whole.keys) == sorted({cut.id for cut in cuts} - set(bad))
    alone = extract(load_model(model_dir), [cuts[5]]).matrix[0]
    np.testing.assert_allclose(whole.select([cuts[5].id]).matrix[0], alone, atol=1e-5)
    # Once the audio is repaired, a shard that lacks some is not taken for done.
    prepare_set(data, "eval", range(3), sessions=2, utterances=2)
    for shard in (1, 2):
        assert nessa(*words, "--shard", shard).status == 0
    assert nessa(*words, "--merge").status == 0
    assert not (out / "eval/skipped").exists()


def test_a_reader_that_is_killed_is_told_without_a_traceback(
    model_dir: Path, data: Path, tmp_path: Path, nessa: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory ends

    monkeypatch.setattr("nessa.encoders.trained.TrainedModel.read", killed)
    words = ["--data", data, "--set", "eval", "--output", tmp_path / "out", "--workers", 1]
    done = nessa("extract", "--encoder", model_dir, *words)
    assert done.status == 1 and "Traceback" not in done.err
    assert "a process that reads audio was killed; was there not enough memory?" in done.err
    assert not list(tmp_path.glob("out/*/*.ark"))


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.0, 0.25, -0.5])
def test_what_is_silent_or_constant_is_refused_or_left_out(model, data: Path, level: float) -> None:
    path = audio_of(data, 0)
    soundfile.write(path, np.full(soundfile.info(path).frames, level), 16000)
    cuts = cuts_of(data)[:3]
    with pytest.raises(InputError, match=rf"{path.name}.*: is (silent|constant): all samples are"):
        extract(model, cuts)
    skipped: dict[str, str] = {}
    assert extract(model, cuts, skipped=skipped).keys == [cut.id for cut in cuts[1:]]
    assert list(skipped) == [cuts[0].id]


def test_another_sampling_rate_is_refused(model, data: Path) -> None:
    cut = cuts_of(data)[0]
    cut.recording.sampling_rate = 8000
    with pytest.raises(InputError, match="8000 Hz"):
        read_audio(cut, 16000, "test")


def test_a_missing_manifest_is_named(model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"eval_cuts\.jsonl\.gz: no such manifest"):
        extract_shard(model, tmp_path, "eval", tmp_path / "out", 1, 1, 20.0)


@pytest.mark.parametrize("snip_edges", [False, True])
@pytest.mark.parametrize("samples", [16001, 48000, 80160])
def test_features_of_long_utterances_are_made_in_blocks(
    monkeypatch: pytest.MonkeyPatch, snip_edges: bool, samples: int
) -> None:
    extractor = FeatureExtractor(FeatureConfig(snip_edges=snip_edges, scale=3.0))
    audio = torch.randn(2, samples, generator=torch.Generator().manual_seed(1))
    whole = extractor(audio)
    monkeypatch.setattr("nessa.encoders.features.LONG", 16000)
    np.testing.assert_allclose(extractor(audio).numpy(), whole.numpy(), atol=1e-5)


def test_given_features_may_have_one_dimension_alone() -> None:
    extractor = FeatureExtractor(FeatureConfig(type="given", num_filters=1, sampling_rate=500))
    features = torch.randn(2, 9, 1)
    assert torch.equal(extractor(features), features - features.mean(dim=1, keepdim=True))


class Whimsical(SpeakerModel):
    """Embeds noise; fails on some utterances, alone and in batches."""

    name, fingerprint, dim = "whimsical", "f" * 64, 4

    def __init__(self, faults: dict[int, Any]) -> None:
        self.faults = faults  # number of samples of an utterance -> what becomes of it

    def read(self, cut: MonoCut) -> torch.Tensor:
        return read_audio(cut, 16000, self.name)

    def embed(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        rows = []
        for samples in inputs:
            fault = self.faults.get(len(samples), samples[:4])
            if isinstance(fault, Exception):
                raise fault
            rows.append(torch.as_tensor(fault, dtype=torch.float32))
        return torch.stack(rows)


def test_a_gpu_gets_no_more_readers_than_the_process_may_have_cores(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a job of Slurm; what readers, which are processes of their own, read goes unseen."""
    seen = set()

    class OnGpu(Whimsical):
        device = SimpleNamespace(type="cuda")

        def read(self, cut: MonoCut) -> torch.Tensor:
            seen.add(cut.id)
            return super().read(cut)

    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    cuts = cuts_of(data)
    extract(OnGpu({}), cuts, 2.0)
    assert seen == {cut.id for cut in cuts}


def test_an_utterance_shorter_than_a_frame_is_refused_or_left_out(data: Path) -> None:
    path = audio_of(data, 0)
    soundfile.write(path, soundfile.read(path)[0][:896], 16000)  # 56 ms
    cuts = cuts_of(data)[:2]
    recording = Recording.from_file(path, recording_id=cuts[0].id)
    cuts[0] = fastcopy(cuts[0], recording=recording, duration=recording.duration)

    class Mean(Whimsical):
        features = FeatureExtractor(FeatureConfig(frame_length=0.064, snip_edges=True))

        def read(self, cut: MonoCut) -> torch.Tensor:
            return read_features(cut, self.features, self.name)

        def embed(self, inputs: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack([features[:, :4].std(dim=0) for features in inputs])

    message = rf"{cuts[0].id}.*{path.name}.*: only 896 samples, shorter than a frame .*1024.*remove"
    with pytest.raises(InputError, match=message):
        extract(Mean({}), cuts)
    skipped: dict[str, str] = {}
    assert extract(Mean({}), cuts, skipped=skipped).keys == [cuts[1].id]
    assert list(skipped) == [cuts[0].id]


FAULTS = {
    "nan": ([1, float("nan"), 0, 0], "is not finite"),
    "zero": ([0, 0, 0, 0], "is zero"),
    "tiny": ([1e-38, 0, 0, 1e-39], "has no direction"),
    "huge": ([3e38, 1, 1, 1], "has no direction"),
    "constant": ([0.5, 0.5, 0.5, 0.5], "has one value throughout"),
    "refused": (InputError("28 frames, the network needs 50"), "28 frames"),
    "failed": (RuntimeError("kernel size can't be greater"), "kernel size"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_one_bad_utterance_never_fails_a_batch(data: Path, fault: str) -> None:
    cuts, (what, told) = cuts_of(data), FAULTS[fault]
    model = Whimsical({cuts[2].num_samples: what})
    skipped: dict[str, str] = {}
    found = extract(model, cuts, batch_seconds=1000.0, skipped=skipped)
    assert found.keys == [cut.id for cut in cuts if cut is not cuts[2]]
    assert list(skipped) == [cuts[2].id] and told in skipped[cuts[2].id]
    if fault != "failed":
        with pytest.raises(InputError, match=rf"^utterance '{cuts[2].id}': .*{told}"):
            extract(model, cuts, batch_seconds=1000.0)


def test_the_utterance_that_a_model_fails_on_is_named_not_its_batch(data: Path) -> None:
    cuts = cuts_of(data)
    for faults, told in (
        ({cuts[2].num_samples: RuntimeError("of one")}, [cuts[2]]),
        ({}, sorted(cuts, key=lambda cut: (-cut.duration, cut.id))),
    ):

        class Model(Whimsical):
            def embed(self, inputs: list[torch.Tensor]) -> torch.Tensor:
                if len(inputs) > 1:
                    raise RuntimeError("of the batch")
                return super().embed(inputs)

        with pytest.raises(RuntimeError) as error:
            extract(Model(faults), cuts, batch_seconds=1000.0)
        ids = ", ".join(cut.id for cut in told)
        assert error.value.__notes__ == [f"raised by model 'whimsical' for utterances {ids}"]
        assert str(error.value) == ("of one" if faults else "of the batch")


MEMORY_ENDED = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", MEMORY_ENDED)
def test_where_memory_ends_no_utterance_is_called_bad(data: Path, error: Exception) -> None:
    cuts = cuts_of(data)
    with pytest.raises(type(error)):
        extract(Whimsical({cuts[2].num_samples: error}), cuts, skipped={})


@pytest.mark.parametrize("value", [[0, 0, 0, 0], [1, 2, 3, 4], [0.5, 0.5, 0.5, 0.5]])
def test_a_model_that_gives_one_embedding_is_refused(data: Path, value: list[float]) -> None:
    cuts = cuts_of(data)
    model = Whimsical({cut.num_samples: value for cut in cuts})
    with pytest.raises(InputError, match="'whimsical' gives one and the same embedding for all 12"):
        extract(model, cuts, skipped={})


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("fault", ["refused", "failed"])
def test_the_shortest_batch_may_fail_where_readers_share_the_cores(
    data: Path, two_threads: None, fault: str
) -> None:
    cuts, (what, told) = cuts_of(data), FAULTS[fault]
    shortest = min(cuts, key=lambda cut: cut.num_samples)
    model = Whimsical({shortest.num_samples: what})
    skipped: dict[str, str] = {}
    assert len(extract(model, cuts, batch_seconds=0.1, skipped=skipped)) == len(cuts) - 1
    assert list(skipped) == [shortest.id] and told in skipped[shortest.id]
    with pytest.raises(type(what), match=told) as error:
        extract(model, cuts, batch_seconds=0.1)
    assert shortest.id in f"{error.value} {getattr(error.value, '__notes__', '')}"


@pytest.mark.parametrize("error", MEMORY_ENDED)
def test_memory_may_end_where_readers_share_the_cores(
    data: Path, two_threads: None, error: Exception
) -> None:
    cuts = cuts_of(data)
    shortest = min(cut.num_samples for cut in cuts)
    with pytest.raises(type(error)):
        extract(Whimsical({shortest: error}), cuts, batch_seconds=0.1, skipped={})


@pytest.mark.parametrize("merged", [False, True])
def test_given_embeddings_forget_what_a_model_in_their_place_had_skipped(
    data: Path, tmp_path: Path, nessa: Command, merged: bool
) -> None:
    cuts, old, new = cuts_of(data), tmp_path / "exp/old", tmp_path / "exp/new"
    model = Whimsical({cuts[2].num_samples: FAULTS["zero"][0]})
    extract_shard(model, data, "eval", old / "eval", 1, 1, 20.0, skip_bad=True)
    merge_shards(model, data, "eval", old / "eval", 1, skip_bad=True)
    extract_shard(Whimsical({}), data, "eval", new / "eval", 1, 1, 20.0)
    Embeddings([cut.id for cut in cuts], np.eye(len(cuts))).write_ark(tmp_path / "given.ark")
    config = parse_settings({"pretrained": "arks", "path": str(tmp_path / "given.ark")})
    save_pretrained(tmp_path / "model", config)
    words = ["extract", "--encoder", tmp_path / "model", "--data", data, "--set", "eval"]
    assert nessa(*words, "--output", old, *(["--merge"] if merged else [])).status == 0
    assert not (old / "eval/skipped").exists()
    whole, skipped = merge_shards(
        Whimsical({}), data, "eval", new / "eval", 1, True, [old / "eval"]
    )
    assert len(whole) == len(cuts) and skipped == 0


def test_what_another_model_skipped_is_left_out_however_many_shards_it_has(
    model_dir: Path, data: Path, tmp_path: Path, nessa: Command
) -> None:
    cuts, old, new = cuts_of(data), tmp_path / "old", tmp_path / "new"
    faults = {cuts[row].num_samples: FAULTS["zero"][0] for row in (0, 11)}
    for shard, shards in ((4, 4), (1, 3), (2, 3), (3, 3)):  # the fourth is of an earlier run
        now = faults if shards == 3 else {cuts[10].num_samples: FAULTS["zero"][0]}
        extract_shard(
            Whimsical(now), data, "eval", old / "eval", shard, shards, 20.0, skip_bad=True
        )
    words = ["extract", "--encoder", model_dir, "--data", data, "--set", "eval", "--output", new]
    assert nessa(*words).status == 0
    nessa(*words, "--merge", "--beside", tmp_path / "odl").refused(
        f"--beside: {tmp_path}/odl/eval: no such folder; name the OUTPUT"
    )
    assert nessa(*words, "--merge", "--beside", old).status == 0
    assert sorted(read_table(new / "eval/skipped")) == [cuts[0].id, cuts[11].id]


def test_given_embeddings_are_known_without_what_a_model_skipped_in_align(
    data: Path, tmp_path: Path
) -> None:
    prepare_set(data, "align", range(3), sessions=2, utterances=2)  # those of eval as well
    bad, *cuts = sorted(read_cuts(data, "align"), key=lambda cut: cut.id)
    for name in ("align", "eval"):
        model = Whimsical({bad.num_samples: FAULTS["zero"][0]})
        extract_shard(model, data, name, tmp_path / "old" / name, 1, 1, 20.0, skip_bad=True)
    ark = tmp_path / "given.ark"
    Embeddings([cut.id for cut in cuts], np.eye(len(cuts))).write_ark(ark)
    given = GivenEmbeddings("new", ArksConfig(pretrained="arks", path=str(ark)))

    def fingerprints() -> list[str]:
        sets = {name: [tmp_path / "old" / name] for name in ("align", "eval")}
        made = [
            import_embeddings(given, data, name, tmp_path / "new" / name, beside)
            for name, beside in sets.items()
        ]
        return [stamp.fingerprint for one in made if (stamp := one.stamp)]

    first = fingerprints()
    leave_out(data / "align", skipped_in(tmp_path / "old/align"))  # as stage extract does
    assert len(set(fingerprints() + first)) == 1


def test_a_model_that_embeds_nothing_is_told_with_the_first_reason(
    data: Path, tmp_path: Path
) -> None:
    cuts = cuts_of(data)
    model = Whimsical({cut.num_samples: InputError("needs half a second") for cut in cuts})
    shard = model, data, "eval", tmp_path
    extract_shard(*shard, 1, 1, 20.0, skip_bad=True)
    told = rf"all 12 utterances were skipped; the first: utterance '{cuts[0].id}': needs half"
    with pytest.raises(InputError, match=told):
        merge_shards(*shard, 1, skip_bad=True)


@pytest.mark.parametrize("content", [b"", b'{"fingerprint": "', b"\xff", b"[]"])
def test_a_shard_whose_stamp_is_damaged_is_extracted_again(
    data: Path, tmp_path: Path, content: bytes
) -> None:
    shard, stamp = (Whimsical({}), data, "eval", tmp_path / "new"), tmp_path / "new/.xvector.1.json"
    extract_shard(*shard, 1, 1, 20.0)
    whole = stamp.read_bytes()
    stamp.write_bytes(content)
    with pytest.raises(InputError, match="shard 1 of 1 is missing or damaged"):
        merge_shards(*shard, 1)
    other = Whimsical({}), data, "eval", tmp_path / "old"
    extract_shard(*other, 1, 1, 20.0)
    assert merge_shards(*other, 1, True, [tmp_path / "new"])[1] == 0  # whose own merge refuses it
    extract_shard(*shard, 1, 1, 20.0)
    assert stamp.read_bytes() == whole
