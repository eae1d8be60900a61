"""The command line: help, exit codes, and bad input, which is a message and never a traceback."""

import logging
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest

from nessa.cli.main import cli
from nessa.encoders import build, parse_settings, save_model
from nessa.encoders.config import LossConfig
from nessa.encoders.models import save_pretrained
from nessa.encoders.settings import XVectorConfig
from nessa.files import read_json, read_table, write_json, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp
from nessa.recipe.resolve import load_recipe
from nessa.schema import read_yaml
from nessa.scoring.calibration import Calibration, read_calibration
from nessa.trials import Trials, read_scores
from tests.aligners import fitted
from tests.conftest import ROOT, Command
from tests.speech import prepare_set
from tests.toy import ENCODER, Toy

LARGE = (  # the commands whose memory depends on what they are given
    "prepare, train, extract, assess, align, map, score, calibrate, threshold, evaluate, report, "
    "study, verify, store map, store verify, store switch, validate"
)
PIPELINE = "synth prepare train extract align map score calibrate evaluate report export"


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


# --- help and exit codes ------------------------------------------------------------------------


def commands(group: click.Group = cli, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command that can be given, as its words."""
    found = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += commands(command, (*words, name))
        else:
            found.append((*words, name))
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(nessa: Command, words: tuple[str, ...]) -> None:
    done = nessa(*words, "--help")
    assert done.status == 0
    assert re.search(rf"Example: nessa {' '.join(words)}\s", done.out)


def test_commands_are_listed_in_the_order_of_the_pipeline(nessa: Command) -> None:
    text = nessa("--help").out.partition("Corpus and models:\n")[2]
    listed = re.findall(r"^  ([a-z-]+)  ", text, re.M)
    assert sorted(listed) == sorted(cli.commands)
    assert " ".join(name for name in listed if name in PIPELINE.split()) == PIPELINE


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys\nfrom nessa.cli.main import main\nsys.argv = ['nessa', '--help']\n"
        "try: main()\nfinally: print(sorted({'torch', 'lhotse', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_jobs_do_not_wait_for_what_few_of_them_need() -> None:
    """The libraries that jobs of a run share."""
    shared = re.search(r"readonly libraries='(.*?)'", (ROOT / "run.sh").read_text(), re.S)
    assert shared is not None
    few = "{'scipy.signal', 'scipy.stats', 'matplotlib', 'onnx', 'torch._dynamo'}"
    code = f"import sys, {', '.join(shared[1].split())}\nprint(sorted({few} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done


@pytest.mark.slow
def test_bad_input_as_the_shell_sees_it(toy: Toy) -> None:
    words = ["validate", str(toy.folder / "nowhere")]
    done = subprocess.run(
        [sys.executable, "-m", "nessa.cli", *words], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == f"nessa: error: {words[1]}: no such folder; has stage prepare been run?\n"


@pytest.mark.parametrize("words", LARGE.split(", "))
def test_the_help_of_a_command_says_how_much_memory_it_takes(nessa: Command, words: str) -> None:
    """As the message on memory that has run out promises."""
    assert "Memory" in nessa(*words.split(), "--help").out


def test_align_map_and_score_work_together(nessa: Command, toy: Toy) -> None:
    assert nessa(*toy.align()).status == 0
    assert nessa(*toy.map()).status == 0
    done = nessa(*toy.score(toy.folder / "mapped/enroll", toy.folder / "mapped/runtime"))
    assert done.status == 0
    assert f"{toy.folder / 'scores'}: 90 trials, EER" in done.out


def test_relative_scp_paths_stay_right_where_the_folder_is_moved(
    nessa: Command, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, moved = toy.folder / "made", toy.folder / "moved"
    arks = {"pretrained": "arks", "path": str(toy.x / "eval")}
    save_pretrained(toy.exp / "given", parse_settings(arks, "encoders.given"))
    prepare_set(toy.data, "voices", range(2))
    config = XVectorConfig(
        architecture="tdnn", channels=8, dim=4, steps=1, loss=LossConfig(type="aam")
    )
    save_model(toy.exp / "own", config, build(config))
    made.mkdir()
    monkeypatch.chdir(made)
    nessa(*toy.align())
    extract = ["extract", "--data", toy.data, "--encoder"]
    own = [*extract, toy.exp / "own", "--set", "voices", "--output", "own"]
    given = [*extract, toy.exp / "given", "--set", "eval", "--output", "given"]
    for shard in (1, 2):
        assert nessa(*own, "--shards", 2, "--shard", shard).status == 0
    assert nessa(*own, "--shards", 2, "--merge", "--relative").status == 0
    assert nessa(*given, "--merge", "--relative").status == 0
    for nj in (1, 4):
        output = "--output", f"mapped{nj}"
        assert nessa(*toy.map(), *output, "--nj", nj, "--relative").status == 0
    made.rename(moved)
    monkeypatch.chdir(moved)
    for table in (
        *("own/voices/xvector.scp", "own/voices/spk_xvector.scp"),
        *("given/eval/xvector.scp", "given/eval/spk_xvector.scp"),
        *(f"mapped{nj}/{side}/xvector.scp" for nj in (1, 4) for side in ("enroll", "runtime")),
    ):
        folder = table.rsplit("/", 1)[0]
        assert all(f" {folder}/" in line for line in Path(table).read_text().splitlines()), table
        Embeddings.read(table)


@pytest.mark.parametrize("place", ["there", "there/below", "gone"])
def test_a_folder_that_cannot_be_written_to_is_named_before_the_work(
    nessa: Command, toy: Toy, place: str
) -> None:
    (toy.folder / "there").write_text("a file")
    (toy.folder / "gone").symlink_to(toy.folder / "nothing")
    folder, data = toy.folder / place, ["--data", toy.folder / "no_data"]
    extracted = ["extract", "--encoder", toy.exp, *data, "--set", "eval", "--output", folder]
    for words, named in (
        ([*toy.align(), *data, "--output", folder], folder),
        ([*toy.align(), *data, "--mirror", folder], folder),
        (["train", "--recipe", toy.recipe, *data, "--model", "x", "--output", folder], folder),
        (extracted, folder / "eval"),
    ):
        done = nessa(*words)
        assert done.status == 1 and f"nessa: error: {named}: " in done.err, done
    assert not (toy.folder / "aligner").exists()


def test_a_dev_trial_whose_label_contradicts_utt2spk_is_refused(nessa: Command, toy: Toy) -> None:
    trials = toy.data / "dev/trials"
    lines = trials.read_text().splitlines(keepends=True)
    targets = [line for line in lines if line.endswith(" target\n")]
    wrong = targets[0].replace(" target", " nontarget")  # which the other trials do not contradict
    trials.write_text("".join([wrong, targets[-1]]))
    nessa(*toy.align()).refused(
        f"{trials}: trial ",
        "is a nontarget, but of speakers 'id00100' and 'id00100'",
        "utt2spk",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line.replace(" target", ""), "{0}: no labels; write"),
        (lambda line: line.replace(" target", " nontarget"), "{0}: trial "),
        (lambda line: line, "{0}: 1 target and 0 non-target trials; an error rate needs some"),
        (lambda line: "stranger " + line.split(" ", 1)[1], "{0}, {1}"),
    ],
)
def test_a_fault_of_a_further_dev_list_names_it(
    nessa: Command, toy: Toy, change: Callable[[str], str], message: str
) -> None:
    dev = toy.data / "dev"
    lines = (dev / "trials").read_text().splitlines(keepends=True)
    target = next(line for line in lines if line.endswith(" target\n"))
    further = dev / "trials_words"
    further.write_text(change(target))
    fit = ["recipe", "fit-backend", "--data", toy.data, "--exp", toy.exp, "--model", "x"]
    for command in (toy.align(), fit):
        nessa(*command).refused(message.format(further, toy.x / "dev"))


def test_a_speaker_in_align_and_dev_is_refused(nessa: Command, toy: Toy) -> None:
    align, dev = (toy.data / name / "utt2spk" for name in ("align", "dev"))
    speakers = read_table(dev)
    write_table(align, read_table(align) | speakers)  # of more utterances than have embeddings
    assert nessa(*toy.align()).status == 0
    write_table(dev, {u: s.replace("id00100", "id00007") for u, s in speakers.items()})
    nessa(*toy.align()).refused(f"{align}, {dev}: speaker 'id00007' is in both; keep")
    dev.unlink()
    assert nessa(*toy.align()).status == 0


def test_a_back_end_is_fitted_and_scores_its_model(nessa: Command, toy: Toy) -> None:
    score = toy.stage("score", "lda_plda:x:x")
    path = toy.exp / "backends/lda_plda/x.safetensors"
    nessa(*score).refused(f"{path}: no such file", "--stage symmetric")
    fit = ["recipe", "fit-backend", "--data", toy.data, "--exp", toy.exp, "--model"]
    nessa(*fit, "z").refused("embeddings/z/dev: no such file or folder")
    assert f"{path}: LDA from 12 to 12 dimensions" in nessa(*fit, "x").out
    assert f"{toy.exp}/scores/lda_plda/x-x/eval/trials.scores: 90 trials, EER" in nessa(*score).out


def test_the_mirror_of_an_aligner_scores_the_other_direction_alike(
    nessa: Command, toy: Toy
) -> None:
    mirror = toy.folder / "mirror"
    assert nessa(*toy.align(), "--mirror", mirror).status == 0
    lines = []
    for aligner, sides in ((toy.folder / "aligner", "xy"), (mirror, "yx")):
        enroll, runtime = (toy.exp / "embeddings" / side / "eval" for side in sides)
        mapped = toy.folder / "mapped" / sides
        done = nessa(*toy.map(enroll, runtime), "--aligner", aligner, "--output", mapped)
        assert done.status == 0, done
        lines.append(nessa(*toy.score(mapped / "enroll", mapped / "runtime")))
    # Every pair of utterances is on the list in both orders, so that the two lists agree.
    assert lines[0].out == lines[1].out
    nessa(*toy.map(), "--aligner", mirror).refused("x/eval", "model 'x'")


@pytest.mark.parametrize("place", ["--output", "--mirror"])
def test_the_aligner_in_use_is_not_written_over_by_its_update(
    nessa: Command, toy: Toy, place: str
) -> None:
    fitted("neural").save(toy.folder / "aligner")
    before = {path: path.read_bytes() for path in (toy.folder / "aligner").iterdir()}
    words = ["align", "--freeze", "enroll", "--from", toy.folder / "aligner", "--data", toy.data]
    words += ["--enroll", toy.x, "--runtime", toy.x, "--output", toy.folder / "new"]
    done = nessa(*words, place, toy.folder / "new/../aligner")
    done.refused("aligner: would be lost, and may be in use; give another folder")
    assert {path: path.read_bytes() for path in (toy.folder / "aligner").iterdir()} == before


def test_a_mirror_does_not_take_the_place_of_its_aligner(nessa: Command, toy: Toy) -> None:
    folder, link = toy.folder / "aligner", toy.folder / "link"
    link.symlink_to(folder)
    for mirror in (folder, link, toy.data / "../aligner"):
        nessa(*toy.align(), "--mirror", mirror).refused("--mirror is --output")
    assert nessa(*toy.align(), "--runtime", toy.x, "--mirror", link).status == 0  # with itself
    assert read_json(folder / "aligner.json")["fingerprints"] == ["x" * 64] * 2


@pytest.mark.slow
def test_a_new_runtime_model_joins_without_touching_mapped_profiles(
    nessa: Command, toy: Toy
) -> None:
    aligner, updated, ark = (toy.folder / name for name in ("aligner", "new", "mapped/enroll"))
    assert nessa(*toy.align("nessa")).status == 0
    assert nessa(*toy.map()).status == 0
    profiles = (ark / "xvector.1.ark").read_bytes()
    update = ["align", "--freeze", "enroll", "--from", aligner, "--data", toy.data]
    update += ["--enroll", toy.x, "--runtime", toy.x, "--output", updated]  # x now runs as well
    done = nessa(*update)
    assert done.status == 0, done
    by_update = [*toy.map(runtime=toy.x / "eval"), "--aligner", updated]
    nessa(*by_update).refused("mapped/runtime", "fitted anew", "give another --output")
    done = nessa(*by_update, "--output", updated)
    assert done.status == 0, done
    for folder in (ark, updated / "enroll"):
        assert (folder / "xvector.1.ark").read_bytes() == profiles
    # The store as it was before the update, against the new runtime side.
    done = nessa(*toy.score(ark, updated / "runtime"))
    assert done.status == 0, done
    nessa(*update, "--enroll", toy.y).refused("model 'y'")
    nessa(*toy.align("nessa"), "--freeze", "enroll").refused("--freeze and --from")
    nessa(*toy.align("nessa"), "--freeze", "enroll", "--from", aligner).refused("--recipe")
    nessa(*toy.align())
    nessa(*update).refused("procrustes aligner; only NESSA")


# --- training -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_loss_goes_to_tensorboard_too(
    nessa: Command, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = "torch.utils.tensorboard"
    logged: list[tuple[object, ...]] = []

    def writer(folder: str) -> SimpleNamespace:
        return SimpleNamespace(add_scalar=lambda *scalar: logged.append((folder, *scalar)))

    prepare_set(toy.data, "train", range(4))
    output = toy.folder / "model"
    words = ["train", "--recipe", toy.recipe, "--model", "x", "--data", toy.data]
    words += ["--output", output, "--workers", 0]
    monkeypatch.setitem(sys.modules, library, None)
    nessa(*words, "--tensorboard").refused("pip install 'nessa[tensorboard]'")
    monkeypatch.setitem(sys.modules, library, SimpleNamespace(SummaryWriter=writer))
    done = nessa(*words, "--tensorboard")
    assert done.status == 0, done
    ((folder, name, loss, step),) = logged
    assert (folder, name, step) == (str(output / "tensorboard"), "loss", 1)
    assert float((output / "loss.tsv").read_text().split()[-1]) == pytest.approx(loss)


# --- scores, calibrated and compared ------------------------------------------------------------


def test_dev_calibrates_what_eval_is_evaluated_with(nessa: Command, toy: Toy) -> None:
    cohort = toy.x / "align/spk_xvector.scp"
    norm = ["--enroll-cohort", cohort, "--runtime-cohort", cohort, "--top-n", 20]
    dev, calibration = toy.folder / "dev.scores", toy.folder / "calibration.json"
    trials = ["--trials", toy.data / "dev/trials"]
    done = nessa(*toy.score(toy.x / "dev", toy.x / "dev"), *norm, *trials, "--output", dev)
    assert done.status == 0, done
    fit = ["calibrate", *trials, "--scores", dev, "--output"]
    for target_prior in (0.01, 0.5):
        done = nessa(*fit, toy.folder / "own.json", "--p-target", target_prior)
        assert done.status == 0, done
        fitted = Calibration.fit(read_scores(dev)[1], Trials.read(trials[1]).labels, target_prior)
        assert read_calibration(toy.folder / "own.json") == replace(fitted, method="as_norm")
    done = nessa(*fit, calibration)
    assert done.status == 0, done
    plain, llr = toy.folder / "plain", toy.folder / "llr"
    assert nessa(*toy.score(), "--output", plain).status == 0
    done = nessa(*toy.score(), *norm, "--calibration", calibration, "--output", llr)
    assert done.status == 0, done
    speakers = ["--utt2spk", toy.data / "eval/utt2spk", "--draws", 20]
    output = toy.folder / "figures.json"
    words = ["evaluate", "--trials", toy.trials, *speakers, "--llr", "--output", output]
    done = nessa(*words, "--scores", llr, plain, llr)  # further files need no further option
    assert done.status == 0, done
    assert "minCllr" in done.out and f"above {llr}" in done.out
    records = read_json(output)
    assert [record["scores"] for record in records] == [str(llr), str(plain), str(llr)]
    repeated = nessa(*words, "--scores", llr, "--scores", plain, llr)
    assert (repeated.status, read_json(output)) == (0, records)
    assert records[2]["over_first_ci"] == [0, 0]


def test_durations_go_to_the_calibration_and_to_the_scores(nessa: Command, toy: Toy) -> None:
    for name in ("dev", "eval"):
        utterances = read_utt2spk(toy.data / name)
        seconds = {
            utterance: 1 + len(utterances) % 7 + n % 5 for n, utterance in enumerate(utterances)
        }
        write_table(toy.data / name / "utt2dur", seconds)
    dev, calibration = toy.folder / "dev.scores", toy.folder / "calibration.json"
    trials = ["--trials", toy.data / "dev/trials"]
    assert nessa(*toy.score(toy.x / "dev", toy.x / "dev"), *trials, "--output", dev).status == 0
    words = ["calibrate", *trials, "--scores", dev, "--output", calibration]
    assert nessa(*words, "--utt2dur", toy.data / "dev/utt2dur").status == 0
    words = [*toy.score(), "--calibration", calibration]
    nessa(*words).refused(str(calibration), "log seconds", "give --utt2dur")
    assert nessa(*words, "--utt2dur", toy.data / "eval/utt2dur").status == 0
    nessa(*words, "--utt2dur", toy.data / "dev/utt2dur").refused(
        "dev/utt2dur", "'id00200-s0-00000'"
    )


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--enroll-cohort", "a"], ["--enroll-cohort and --runtime-cohort go together"]),
        (["--utt2dur", "a"], ["--utt2dur is for --calibration"]),
        (["--top-n", "0"], ["--top-n"]),
        (["--calibration", "nowhere"], ["nowhere: no such file"]),
        (["--enroll-cohort", "nowhere", "--runtime-cohort", "nowhere"], ["nowhere: "]),
    ],
    ids=lambda words: words[0],
)
def test_options_of_scoring_that_do_not_fit_are_told(
    nessa: Command, toy: Toy, words: list[str], parts: list[str]
) -> None:
    nessa(*toy.score(), *words).refused(*parts)
    assert not (toy.folder / "scores").exists()


def test_no_output_takes_the_place_of_an_input(nessa: Command, toy: Toy) -> None:
    assert nessa(*toy.score()).status == 0
    scores, linked = toy.folder / "scores", toy.folder / "linked"
    linked.symlink_to(toy.trials)
    before = toy.trials.read_bytes(), scores.read_bytes()
    given = ["--trials", toy.trials, "--scores", scores]
    carried = ["--threshold", 0.5, "--old", scores, "--new", scores, "--utt2spk", scores]
    for words, output, name in (
        (toy.score(), toy.trials, "--trials"),
        (toy.score(), linked, "--trials"),
        (["calibrate", *given], scores, "--scores"),
        (["threshold", "--trials", toy.trials, *carried], scores, "--old"),
        (["evaluate", *given], toy.trials, "--trials"),
        (["evaluate", *given[:3], linked, scores], scores, "a score file"),
    ):
        said = f"{output}: is {name} as well, and would be lost; give another --output"
        nessa(*words, "--output", output).refused(said)
    assert (toy.trials.read_bytes(), scores.read_bytes()) == before
    nessa(*toy.score(toy.folder / "gone"), "--output", toy.data).refused(f"{toy.data}: is a folder")


def test_evaluation_without_speakers_says_why_there_are_no_intervals(
    nessa: Command, toy: Toy
) -> None:
    assert nessa(*toy.score()).status == 0
    words = ["evaluate", "--trials", toy.trials, "--scores", toy.folder / "scores"]
    done = nessa(*words)
    assert done.status == 0
    assert "No intervals" in done.out and "--utt2spk" in done.out
    nessa(*words, "--enroll-map", toy.trials).refused("--enroll-map", "--utt2spk")


@pytest.mark.slow
def test_recipes_and_scoring_do_not_wait_for_torch(toy: Toy) -> None:
    code = (
        "import sys\nfrom nessa.cli.main import main\n"
        "try: main()\nfinally: print(sorted({'torch', 'lhotse'} & sys.modules.keys()))"
    )
    resolve = ["recipe", "resolve", "--recipe", toy.recipe, "--work-dir", toy.folder]
    for command in (resolve, toy.score(), toy.stage("score", "raw:x:x")):
        words = [sys.executable, "-c", code, *map(str, command)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"


# --- words that are not understood --------------------------------------------------------------


def test_a_misspelt_option_names_the_nearest(nessa: Command, toy: Toy) -> None:
    words = [str(word).replace("--trials", "--trails") for word in toy.score()]
    nessa(*words).refused("--trails", "--trials")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("algner.dim=64", "unknown key 'algner'; did you mean 'aligner'?"),
        ("aligner.hiden_dim=64", "unknown key 'aligner.hiden_dim'; did you mean 'hidden_dim'?"),
    ],
)
def test_a_misspelt_setting_names_the_nearest(
    nessa: Command, toy: Toy, setting: str, message: str
) -> None:
    resolve = ["recipe", "resolve", "--recipe", toy.recipe, "--work-dir", toy.folder]
    nessa(*resolve, "--set", setting).refused(str(toy.recipe), message)
    assert not (toy.folder / "exp/recipe.yaml").exists()


def test_unknown_models_and_aligners_are_named_with_those_there_are(
    nessa: Command, toy: Toy
) -> None:
    train = ["train", "--recipe", toy.recipe, "--data", toy.data, "--output", toy.folder]
    nessa(*train, "--model", "z").refused(str(toy.recipe), "'z'", "['x', 'y']")
    nessa(*toy.align("nesa")).refused("'nesa'", "logit, procrustes, nessa")
    output = ["--data", toy.data, "--set", "eval", "--output", toy.folder / "out"]
    nessa("extract", "--encoder", toy.exp / "z", *output).refused(f"{toy.exp}/z/", "stage encoders")


@pytest.mark.parametrize("system", ["raw", "raw:x", "raw:x:x:x"])
def test_a_system_is_three_names(nessa: Command, toy: Toy, system: str) -> None:
    nessa(*toy.evaluate(system)).refused(repr(system), "aligner:enroll:runtime")


@pytest.mark.parametrize(("shard", "shards"), [(0, 2), (3, 2), (1, 0)])
def test_a_shard_lies_among_the_shards(nessa: Command, toy: Toy, shard: int, shards: int) -> None:
    options = ["--shard", shard, "--shards", shards, "--data", toy.data, "--set", "eval"]
    done = nessa("extract", "--encoder", toy.exp, *options, "--output", toy.folder / "out")
    done.refused("--shard")


# --- files that are missing or damaged ----------------------------------------------------------


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """Directory of an untrained encoder."""
    config = parse_settings(ENCODER)
    save_model(tmp_path / "encoder", config, build(config).eval())
    return tmp_path / "encoder"


@pytest.mark.parametrize(
    ("keep", "message"),
    [(0, "cannot be read"), (20, "cannot be read"), (44, "cannot be read"), (2000, "samples")],
)
def test_audio_that_was_damaged_since_it_was_prepared_is_named(
    nessa: Command, encoder: Path, tmp_path: Path, keep: int, message: str
) -> None:
    data, output = tmp_path / "data", tmp_path / "embeddings"
    prepare_set(data, "eval", range(2))
    words = ["extract", "--encoder", encoder, "--data", data, "--set", "eval", "--output", output]
    assert nessa(*words).status == 0
    victim = data / "audio/id00001-s1-00000.wav"
    victim.write_bytes(victim.read_bytes()[:keep])
    shutil.rmtree(output)
    nessa(*words).refused("'id00001-s1-00000'", str(victim), message, "repair or remove it")
    assert not list(output.rglob("*.ark"))
    nessa(*words, "--merge").refused(f"{output}/eval", "shard 1")


def ark(directory: Path) -> Path:
    return directory / "xvector.1.ark"


def with_value(value: float) -> Callable[[Toy], None]:
    """Puts a number in the place of the first vector's second one."""

    def damage(toy: Toy) -> None:
        path = ark(toy.x / "eval")
        content = bytearray(path.read_bytes())
        place = content.index(b"\0BFV \4") + 10 + 4
        content[place : place + 4] = struct.pack("<f", value)
        path.write_bytes(content)

    return damage


def truncated(toy: Toy) -> None:
    path = ark(toy.x / "eval")
    path.write_bytes(path.read_bytes()[:-3])


def without_ark(toy: Toy) -> None:
    ark(toy.x / "eval").unlink()


def with_trial_of(name: str) -> Callable[[Toy], None]:
    def damage(toy: Toy) -> None:
        with open(toy.trials, "a") as file:
            file.write(f"{name} id00200-s0-00000 nontarget\n")

    return damage


def of_another_dimension(toy: Toy) -> None:
    shutil.copy(ark(toy.y / "eval"), ark(toy.x / "eval"))


def with_info_of_another(toy: Toy) -> None:
    shutil.copy(toy.y / "eval/info.json", toy.x / "eval/info.json")


def without_trials(toy: Toy) -> None:
    toy.trials.unlink()


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (with_value(np.nan), ["xvector.scp: line 1", "'id00200-s0-00000'", "NaN", "again"]),
        (with_value(np.inf), ["xvector.scp: line 1", "'id00200-s0-00000'", "inf", "again"]),
        (truncated, ["xvector.1.ark: byte", "'id00204-s0-00001'", "3 bytes beyond", "again"]),
        (without_ark, ["xvector.scp: line 1", "xvector.1.ark: no such file", "stage"]),
        (of_another_dimension, ["xvector.1.ark: byte", "stale; write both again"]),
        (with_info_of_another, ["info.json: says 10 vectors of dimension 20", "has 10 of dim"]),
        (with_trial_of("id9-s0-1"), ["eval/trials", "x/eval", "'id9-s0-1'", "leave them out"]),
        (without_trials, ["eval/trials: no such file", "stage"]),
    ],
    ids=["nan", "inf", "truncated", "no-ark", "other-ark", "other-info", "trial", "no-trials"],
)
def test_damaged_input_is_named(
    nessa: Command, toy: Toy, damage: Callable[[Toy], None], parts: list[str]
) -> None:
    damage(toy)
    nessa(*toy.score()).refused(*parts)
    assert not (toy.folder / "scores").exists()


def test_two_dimensions_do_not_score(nessa: Command, toy: Toy) -> None:
    done = nessa(*toy.score(toy.x / "eval", toy.y / "eval"))
    done.refused("x/eval, ", "y/eval: ", "dimension 12, runtime ones 20", "nessa map")


def test_two_models_do_not_score_unmapped(nessa: Command, toy: Toy) -> None:
    other = Embeddings.read(toy.x / "eval")
    other.stamp = ModelStamp("z", "z" * 64, "eval")
    other.write(toy.folder / "z")
    done = nessa(*toy.score(toy.x / "eval", toy.folder / "z"))
    done.refused("x/eval is of model 'x'", f"{toy.folder / 'z'} of 'z'", "nessa map")


def test_missing_folders_and_files_are_named(nessa: Command, toy: Toy) -> None:
    gone = toy.folder / "gone"
    recipe = ["--recipe", toy.recipe, "--exp", toy.exp, "--data", toy.data]
    for words, *parts in (
        (toy.score(gone), f"{gone}: no such file or folder"),
        (["assess", f"{gone}.txt", gone, "--output", gone], f"{gone}.txt: no such file or folder"),
        (toy.score(gone / "xvector.scp"), f"{gone}/xvector.scp: no such file"),
        ([*toy.score(), "--enroll-map", gone], f"{gone}: no such file"),
        (toy.map(), f"{toy.folder / 'aligner'}: no aligner here", "stage align"),
        (
            ["export", "--aligner", gone, "--output", toy.folder],
            f"{gone}: no aligner",
            "stage align",
        ),
        (toy.evaluate("raw:x:x"), "raw/x-x/eval/trials.scores: no such file"),
        (["report", *recipe], "metrics/symmetric.json: no such file", "stage symmetric"),
        (["synth", "--recipe", gone, "--output", toy.folder], f"{gone}: no such file"),
    ):
        nessa(*words).refused(*parts)


def test_utterances_of_a_profile_without_embeddings_are_named(nessa: Command, toy: Toy) -> None:
    profiles = toy.data / "eval/enroll_map"
    write_table(profiles, {"id00200-p2-0": "id00200-s0-00000 id00200-s0-00009"})
    toy.trials.write_text("id00200-p2-0 id00201-s0-00001 nontarget\n")
    for words in (toy.score(), toy.map()):
        nessa(*toy.align())
        done = nessa(*words, "--enroll-map", profiles)
        done.refused(str(profiles), "x/eval", "'id00200-s0-00009'")


def test_trials_of_profiles_that_are_not_in_the_map_are_named(nessa: Command, toy: Toy) -> None:
    score_raw(nessa, toy)
    eval_set = toy.data / "eval"
    write_table(eval_set / "enroll_map", {"id00200-p1-0": "id00200-s0-00000"})
    (eval_set / "trials_profile").write_text("id00201-p1-0 id00201-s0-00001 target\n")
    for words in (toy.stage("score", "raw:x:x"), toy.evaluate("raw:x:x")):
        nessa(*words).refused("trials_profile", "'id00201-p1-0'", "enroll_map")


def score_raw(nessa: Command, toy: Toy) -> None:
    """Scores of both models with themselves, where `evaluate` expects them."""
    for model in ("x", "y"):
        done = nessa(*toy.stage("score", f"raw:{model}:{model}"))
        assert done.status == 0, done


def test_trials_without_labels_are_scored_but_not_evaluated(nessa: Command, toy: Toy) -> None:
    trials = Trials.read(toy.trials)
    Trials(trials.enroll, trials.test).write(toy.trials)
    score_raw(nessa, toy)
    nessa(*toy.evaluate("raw:x:x")).refused(str(toy.trials), "label")


def test_dev_trials_without_labels_cannot_stop_a_training(nessa: Command, toy: Toy) -> None:
    path = toy.data / "dev/trials"
    trials = Trials.read(path)
    Trials(trials.enroll, trials.test).write(path)
    nessa(*toy.align("nessa")).refused(str(path), "label")


def test_scores_of_another_list_are_not_evaluated(nessa: Command, toy: Toy) -> None:
    score_raw(nessa, toy)
    with_trial_of("id00201-s0-00000")(toy)
    enrolled = toy.trials.read_text().splitlines()
    toy.trials.write_text("\n".join(sorted(set(enrolled[5:]))) + "\n")
    assert nessa(*toy.evaluate("raw:x:x")).status == 0  # more scores than trials are fine
    settings = load_recipe(toy.recipe).model_dump(mode="json")
    assert read_yaml(toy.folder / "metrics.recipe.yaml") == settings  # by which reports warn
    toy.trials.write_text("\n".join([*enrolled[5:], "id00204-s0-00000 id00204-s0-00000 target"]))
    done = nessa(*toy.evaluate("raw:x:x"))
    done.refused(
        "x-x/eval/trials.scores",
        "'id00204-s0-00000 id00204-s0-00000'",
        "score the whole list again",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda lines: [], ["empty"]),
        (lambda lines: lines[1:], ["trial '", "without a score"]),
        (lambda lines: [*lines, with_score(lines[0], "0.123")], ["scored twice, differently"]),
        (lambda lines: [with_score(lines[0], "nan"), *lines[1:]], ["line 1:", "finite score"]),
        (lambda lines: [with_score(lines[0], "-inf"), *lines[1:]], ["line 1:", "finite score"]),
        (lambda lines: [lines[0], "", *lines[1:]], ["line 2:", "score the list again"]),
    ],
    ids=["empty", "missing", "two-scores", "nan", "inf", "blank"],
)
def test_damaged_scores_are_named(
    nessa: Command, toy: Toy, damage: Callable[[list[str]], list[str]], parts: list[str]
) -> None:
    score_raw(nessa, toy)
    scores = toy.exp / "scores/raw/x-x/eval/trials.scores"
    scores.write_text("".join(f"{line}\n" for line in damage(scores.read_text().splitlines())))
    nessa(*toy.evaluate("raw:x:x")).refused(str(scores), *parts)
    assert not (toy.folder / "metrics.json").exists()


def with_score(line: str, score: str) -> str:
    return " ".join([*line.split()[:2], score])


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda lines: [], ["eval/trials", "empty"]),
        (
            lambda lines: [*lines, *(line.replace("nontarget", "target") for line in lines)],
            ["eval/trials", "is a target in one and a non-target in the other"],
        ),
    ],
    ids=["empty", "two-labels"],
)
def test_damaged_trials_are_named(
    nessa: Command, toy: Toy, damage: Callable[[list[str]], list[str]], parts: list[str]
) -> None:
    score_raw(nessa, toy)
    toy.trials.write_text("".join(f"{x}\n" for x in damage(toy.trials.read_text().splitlines())))
    nessa(*toy.score()).refused(*parts)
    nessa(*toy.evaluate("raw:x:x")).refused(*parts)


def test_trials_of_one_class_are_scored_but_have_no_error_rate(nessa: Command, toy: Toy) -> None:
    score_raw(nessa, toy)
    lines = toy.trials.read_text().splitlines(keepends=True)
    toy.trials.write_text("".join(line for line in lines if line.endswith(" target\n")))
    done = nessa(*toy.score())
    assert done.status == 0 and "EER" not in done.out
    done = nessa(*toy.evaluate("raw:x:x"))
    done.refused("0 non-target trials", "needs some of each")


def test_identification_of_a_set_on_the_command_line(nessa: Command, toy: Toy) -> None:
    eval_set = toy.data / "eval"
    speakers = read_utt2spk(eval_set)
    write_table(eval_set / "utt2session", {key: key.split("-")[2] for key in speakers})
    command = ["evaluate", "--identify", eval_set, "--enroll", toy.x / "eval", "--runtime"]
    done = nessa(*command, toy.x / "eval", "--output", toy.folder / "identification.json")
    assert done.status == 0 and "rank 1 %" in done.out, done
    records = read_json(toy.folder / "identification.json")
    assert {record["task"] for record in records} == {"closed", "open", "household"}
    other = toy.folder / "other.json"
    assert nessa(*command, toy.x / "eval", "--output", other, "--seed", 2).status == 0
    assert read_json(other) != records
    nessa(*command, toy.x / "eval", "--similarity", toy.folder / "lost").refused("lost: no such")
    nessa(*command, toy.y / "eval").refused("dimension 12", "map both into one space")
    write_table(eval_set / "utt2session", dict.fromkeys(list(speakers)[1:], "s"))
    nessa(*command, toy.x / "eval").refused("utt2session")
    assert nessa(*command[:3]).status == nessa("evaluate").status == 2


@pytest.mark.parametrize(
    "ignored",
    [
        ["--trials", "t"],
        ["--scores", "a"],
        ["a"],
        ["a", "b"],
        ["--llr"],
        ["--utt2spk", "u"],
        ["--enroll-map", "m"],
        ["--llr", "--utt2spk", "u"],
    ],
)
def test_identification_refuses_what_it_would_ignore(nessa: Command, ignored: list[str]) -> None:
    command = ["evaluate", "--identify", "eval", "--enroll", "x", "--runtime", "y"]
    done = nessa(*command, *ignored)
    names = [word for word in ignored if word.startswith("--")] or ["more than one score file"]
    done.refused(f"{', '.join(names)}: not with --identify")


@pytest.mark.parametrize(
    ("ignored", "message"),
    [
        (["--enroll", "x"], "--enroll: is for --identify"),
        (["--runtime", "x"], "--runtime: is for --identify"),
        (["--similarity", "x"], "--similarity: is for --identify"),
        (["--draws", "100"], "--draws: is for the intervals"),
        (["--seed", "3"], "--seed: is for the intervals"),
        (["--enroll-map", "m"], "--enroll-map is for the intervals"),
    ],
)
def test_evaluation_refuses_what_it_would_ignore(
    nessa: Command, ignored: list[str], message: str
) -> None:
    nessa("evaluate", "--trials", "t", "--scores", "s", *ignored).refused(message)


def test_scoring_refuses_what_it_would_ignore(nessa: Command, toy: Toy) -> None:
    nessa(*toy.score(), "--top-n", 5).refused("--top-n: is for AS-norm, which needs both cohorts")


@pytest.mark.parametrize(
    ("ignored", "message"),
    [
        (["--beside", "other"], "--beside: is for --merge"),
        (["--merge", "--shard", "1"], "--shard: not with --merge"),
        (["--merge", "--batch-seconds", "9"], "--batch-seconds: not with --merge"),
        (["--relative"], "--relative: is for --merge"),
    ],
)
def test_extraction_refuses_what_it_would_ignore(
    nessa: Command, ignored: list[str], message: str
) -> None:
    words = "extract", "--encoder", "e", "--data", "d", "--set", "eval", "--output", "o"
    nessa(*words, *ignored).refused(message)


def test_a_set_of_no_data_is_refused(nessa: Command) -> None:
    nessa("check-encoder", "e", "--set", "dev").refused("--set: is for --data")
    nessa("check-encoder", "e", "--set", "dev", "--audio", "a").refused("--set: is for --data")


def test_stores_are_mapped_by_one_process(nessa: Command, toy: Toy) -> None:
    nessa(*toy.align())
    profiles = Embeddings.read(toy.x / "eval")
    np.savez(toy.folder / "s.npz", ids=np.array(profiles.keys), embeddings=profiles.matrix)
    words = "map", "--aligner", toy.folder / "aligner", "--output", toy.folder / "mapped"
    stores = "--enroll", toy.folder / "s.npz", "--nj", 2
    nessa(*words, *stores).refused("--nj: is for arks; a store is mapped by one process")
    nessa(*words, *stores[:2], "--relative").refused("--relative: is for arks; a store has no scp")
    assert nessa(*words, *stores, "--runtime", toy.y / "eval").status == 0


@pytest.mark.parametrize("option", ["--calibration", "--threshold"])
def test_what_is_for_aligners_is_refused_beside_an_encoder(nessa: Command, option: str) -> None:
    words = "export", "--encoder", "e", "--output", "o"
    nessa(*words, option, "c").refused(f"{option}: is for --aligner")
    nessa(*words, "--aligner", "a", option, "c").refused("give --aligner or --encoder")


def test_alignment_reads_nothing_of_the_eval_set(nessa: Command, toy: Toy) -> None:
    for folder in (toy.data, toy.x, toy.y):
        shutil.rmtree(folder / "eval")
    done = nessa(*toy.align("nessa"))
    assert done.status == 0, done


@pytest.mark.parametrize("given", ["eval", "eval/xvector.scp"])
def test_mapped_arks_are_not_verified_as_stores(nessa: Command, toy: Toy, given: str) -> None:
    nessa(*toy.align())
    nessa(*toy.map())
    mapped = toy.folder / "mapped/enroll"
    done = nessa("verify", mapped, "--aligner", toy.folder / "aligner", "--source", toy.x / given)
    done.refused(f"{toy.x / given}: not a store", "mapped arks have no --source check")


# --- embeddings of the wrong model --------------------------------------------------------------


def test_an_aligner_refuses_the_sides_exchanged(nessa: Command, toy: Toy) -> None:
    nessa(*toy.align())
    done = nessa(*toy.map(toy.y / "eval", toy.x / "eval"))
    done.refused("y/eval", "model 'y'", "fitted on", "extract them with that model")
    done = nessa(*toy.map(toy.x / "eval", toy.x / "eval"))
    done.refused("x/eval: runtime embeddings are of model 'x'")
    assert not (toy.folder / "mapped").exists()


def test_an_aligner_refuses_a_model_that_was_trained_again(nessa: Command, toy: Toy) -> None:
    nessa(*toy.align())
    again = Embeddings.read(toy.x / "eval")
    again.stamp = ModelStamp("x", "f" * 64, "eval")
    again.write(toy.folder / "x2")
    nessa(*toy.map(toy.folder / "x2")).refused("x2", "ffffffffffff", "xxxxxxxxxxxx")


def test_unstamped_embeddings_are_mapped_with_a_warning(nessa: Command, toy: Toy) -> None:
    nessa(*toy.align())
    (toy.x / "eval/info.json").unlink()
    done = nessa(*toy.map())
    assert done.status == 0
    assert f"{toy.x / 'eval'}" in done.err
    assert "info.json" in done.err


def test_another_dimension_is_refused_where_no_stamp_tells(nessa: Command, toy: Toy) -> None:
    nessa(*toy.align())
    (toy.y / "eval/info.json").unlink()
    nessa(*toy.map(toy.y / "eval")).refused("y/eval: ", "dimension 20", "takes 12")


def test_align_sets_that_differ_are_named(nessa: Command, toy: Toy) -> None:
    Embeddings.read(toy.y / "dev").write(toy.y / "align")
    done = nessa(*toy.align())
    done.refused("x/align", "y/align", "'id00000-s0-00000'", "extract both from the same data")


def test_align_sets_of_other_utterances_are_paired_by_speaker(nessa: Command, toy: Toy) -> None:
    own = Embeddings.read(toy.y / "align")
    own.select(own.keys[1:]).write(toy.y / "align")
    nessa(*toy.align()).refused("x/align", "y/align", "extract both from the same data")
    assert nessa(*toy.align(), "--by-speaker").status == 0


def test_an_align_utterance_without_a_speaker_is_named(nessa: Command, toy: Toy) -> None:
    table = toy.data / "align/utt2spk"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[1:]))
    nessa(*toy.align()).refused(str(table), "'id00000-s0-00000'")


def test_a_damaged_aligner_is_named(nessa: Command, toy: Toy) -> None:
    nessa(*toy.align())
    weights = toy.folder / "aligner/aligner.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    nessa(*toy.map()).refused(str(weights))
    write_json(toy.folder / "aligner/aligner.json", {"kind": "oracle"})
    weights.unlink()
    nessa(*toy.map()).refused(str(toy.folder / "aligner"))


def test_the_doctor_tells_versions_the_machine_and_what_is_lacking(
    nessa: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("nessa.cli.doctor._needed", lambda extra: ["no-such-package", "numpy"])
    done = nessa("doctor")
    assert done.status == 0
    assert re.search(r"^nessa .*, Python 3\.", done.out)
    assert re.search(r"\d+ cores.* \d+ GiB of memory", done.out)
    assert "mini (recipe mini: synthetic speech): lacks no-such-package: pip install" in done.out
    (line,) = (line for line in done.out.splitlines() if line.startswith("  campplus "))
    assert line.endswith("pip install --no-deps no-such-package")  # which may bring CUDA
    assert "ffmpeg (audio in m4a, as VoxCeleb2 is distributed): not in PATH" in done.out
    steps = done.out.partition("next:\n")[2]
    assert "nessa assess OLD NEW" in steps and "pip install 'nessa[mini]'" in steps
    assert "install ffmpeg" in steps and "slurm" not in steps


def test_the_doctor_knows_no_extras_of_a_checkout_that_is_not_installed(
    nessa: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with NESSA_PYTHON, an environment of one's own."""

    def unknown(package: str) -> list[str]:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("nessa.cli.doctor.requires", unknown)
    extras = nessa("doctor").out.partition("extras:\n")[2].partition("programs:")[0]
    assert extras.startswith("  unknown: nessa is not installed") and "there" not in extras
    assert f"pip install --no-deps -e {ROOT}" in extras


def test_the_doctor_sends_on_to_what_is_there(
    nessa: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nessa.cli.doctor._needed", lambda extra: ["numpy"])
    monkeypatch.setattr("nessa.cli.doctor.shutil.which", lambda program: f"/bin/{program}")
    steps = nessa("doctor").out.partition("next:\n")[2]
    assert "./run.sh --size tiny" in steps and "--backend slurm" in steps
    assert "install" not in steps


def test_quiet_leaves_errors_alone(nessa: Command, tmp_path: Path) -> None:
    prepare_set(tmp_path / "data", "eval", range(2))
    config = XVectorConfig(
        architecture="tdnn", channels=8, dim=4, steps=1, loss=LossConfig(type="aam")
    )
    save_model(tmp_path / "model", config, build(config))
    words = [
        "extract",
        "--encoder",
        tmp_path / "model",
        "--data",
        tmp_path / "data",
        "--set",
        "eval",
    ]
    try:
        assert "model eval: 8/8" in nessa(*words, "--output", tmp_path / "a").err
        quiet = nessa("--quiet", *words, "--output", tmp_path / "b")
        assert quiet.status == 0 and quiet.err == ""
        nessa("--quiet", *words[:-1], "none", "--output", tmp_path / "c").refused(
            "no such manifest"
        )
    finally:
        logging.getLogger("nessa").setLevel(logging.NOTSET)


@pytest.mark.parametrize("command", ["export", "verify"])
def test_the_extra_for_networks_is_named(
    nessa: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # as where it is not installed
    for name in [name for name in sys.modules if name.startswith("nessa.production.")]:
        monkeypatch.setattr(name, sys.modules[name])  # its package has it again afterwards
        monkeypatch.delitem(sys.modules, name)
    words = ["--encoder", tmp_path, "--output", tmp_path / "o"] if command == "export" else ["x"]
    nessa(command, *words).refused("pip install 'nessa[onnx]'")
