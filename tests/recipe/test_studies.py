"""Studies: what is varied, what is frozen, and what the report shows of them."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nessa.alignment import AlignTable, NeuralAligner
from nessa.alignment.config import AlignerConfig
from nessa.cli.main import cli
from nessa.errors import InputError
from nessa.files import read_json, write_json, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.recipe import studies
from nessa.recipe.fitting import fit_to_sets
from nessa.recipe.resolve import load_recipe
from nessa.recipe.studies import read_studies, run_study
from nessa.recipe.study_files import DURATIONS, ROLLOUT, study_digest
from nessa.report.studies import format_study, study_plots, study_sections
from nessa.trials import Trials
from tests.conftest import Command
from tests.toy import Toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def run(toy: Toy, name: str) -> list[dict]:
    output = toy.exp / "studies" / f"{name}.json"
    return run_study(name, load_recipe(toy.recipe), toy.data, toy.exp, output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "values"), [("speakers", [10, 20, 40]), ("utterances", [2]), ("width", [0, 4])]
)
def test_a_curve_has_both_update_directions_at_each_point(
    toy: Toy, name: str, values: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "SPEAKERS", (10, 20, 500))
    monkeypatch.setattr(studies, "WIDTHS", (0, 4))
    records = run(toy, name)
    assert [r["value"] for r in records] == [value for value in values for _ in range(2)]
    assert [(r["enroll"], r["runtime"]) for r in records[:2]] == [("y", "x"), ("x", "y")]
    assert all(0 <= r["eer_ci"][0] <= r["eer"] <= 0.5 for r in records)
    assert records == run(toy, name), "the same again"


@pytest.mark.slow
def test_every_part_is_taken_away_once(toy: Toy) -> None:
    records = run(toy, "parts")
    assert [r["label"] for r in records[::2]] == list(studies.PARTS)
    known = AlignerConfig.model_fields.keys()
    assert all(changes.keys() <= known for changes in studies.PARTS.values())


UNREAD = {"cosine instead of the ratio", "the ratio alone", "start: CCA", "random start"}
UNREAD |= {"no distillation"}


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        ({}, set()),
        ({"start": "plda"}, {"the ratio alone"}),
        ({"score": "cosine"}, {"cosine instead of the ratio", "no distillation"}),
        ({"start": "cca", "distillation": 0}, {"start: CCA", "no distillation"}),
        ({"hidden_dim": 0}, {"no MLP: linear maps"}),
        ({"length_power": 0.5}, set()),
        ({"mode": "to-enroll"}, {*UNREAD, "new model's space kept, old model mapped"}),
        ({"mode": "to-runtime"}, {*UNREAD, "old model's space kept, new model mapped"}),
    ],
)
def test_parts_are_those_that_differ_from_the_recipe(
    toy: Toy, settings: dict, left_out: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(toy.recipe)
    aligner = AlignerConfig(**(recipe.aligner.model_dump() | settings))
    recipe = recipe.model_copy(update={"aligner": aligner})

    def legal(runner: studies.StudyRunner, **changes: object) -> dict:
        NeuralAligner(**(aligner.training | changes))
        return {}

    monkeypatch.setattr(studies.StudyRunner, "both_ways", legal)
    points = list(studies.STUDIES["parts"](studies.StudyRunner(recipe, toy.data, toy.exp)))
    assert [point.label for point in points] == [p for p in studies.PARTS if p not in left_out]


@pytest.mark.slow
def test_frozen_updates_stand_beside_training_both_sides(toy: Toy) -> None:
    records = run(toy, "freeze")
    cells = [(r["label"].split()[0], r["enroll"], r["runtime"]) for r in records]
    joint = {cell[1:] for cell in cells if cell[0] == "both"}
    frozen = [cell for cell in cells if cell[0] != "both"]
    assert joint == {("x", "x"), ("y", "y"), ("x", "y"), ("y", "x")}
    assert len(frozen) == 4 and all(cell[0] == f"{cell[1]}'s" for cell in frozen)


@pytest.mark.slow
def test_each_addition_to_the_align_set_stands_alone_on_every_list(toy: Toy) -> None:
    utterances = sorted(read_utt2spk(toy.data / "align"))
    recorded, copies, others = utterances[:40], utterances[40:60], utterances[60:]
    names = ["slow", "noise"] * 10
    write_table(
        toy.data / "align/utt2copy",
        {u: f"{n} {o}" for u, n, o in zip(copies, names, recorded, strict=False)},
    )
    write_table(toy.data / "align/utt2source", dict.fromkeys(others, "align_also"))
    main = Trials.read(toy.trials)
    main.select(np.arange(len(main)) % 2 == 0).write(toy.data / "eval/trials_sentences")
    records = run(toy, "augmentation")
    labels = ["as recorded", "with copy slow", "with copy noise"]
    labels += ["with speakers of align_also", "with all of them"]
    assert [(r["condition"], r["label"]) for r in records[::2]] == [
        (condition, label) for condition in ("single", "sentences") for label in labels
    ]
    runner = studies.StudyRunner(load_recipe(toy.recipe), toy.data, toy.exp)
    everything = runner.evaluate(
        [studies.Point("", None, runner.both_ways())], runner.conditions[0]
    )
    (together,) = (r for r in records[:10:2] if r["label"] == labels[-1])
    assert together["eer"] == everything[0]["eer"]
    shown = format_study("augmentation", records).splitlines()
    assert shown[0].split()[3] == "trials" and "  sentences  " in shown[-1]
    assert shown[2].startswith("as recorded  ") and "| single" in "\n".join(
        study_sections({"augmentation": records})
    )


def test_fits_and_studies_know_whose_voice_a_copy_was(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speaker 1 is a copy of speaker 0, and the copies of speaker 2 have its own voice."""
    names = sorted(set(read_utt2spk(toy.data / "align").values()))
    keys = sorted(read_utt2spk(toy.data / "align"))
    originals = {2: 0, 3: 1, 5: 4}
    copies = {keys[copy]: f"slow {keys[original]}" for copy, original in originals.items()}
    copies[keys[7]] = "slow lost"
    fitted: list[AlignTable] = []

    def fit_table(aligner: NeuralAligner, table: AlignTable, *_: Any, **__: Any) -> NeuralAligner:
        fitted.append(table)
        return aligner

    monkeypatch.setattr(NeuralAligner, "fit_table", fit_table)
    for given in ({}, copies):
        write_table(toy.data / "align/utt2copy", given)
        fit_to_sets(NeuralAligner(), toy.x, toy.y, toy.data)
        studies.StudyRunner(load_recipe(toy.recipe), toy.data, toy.exp).fit(("x", "y"))
    own = list(range(len(names)))
    (toy.data / "align/utt2copy").unlink()
    fit_to_sets(NeuralAligner(), toy.x, toy.y, toy.data)
    assert fitted.pop().persons is None
    found = [table.persons.tolist() for table in fitted if table.persons is not None]
    assert found == [own, own] + 2 * [[0, 0, *own[1:-1]]]


@pytest.mark.parametrize("name", ["parts", "durations"])
def test_a_study_without_trials_of_utterances_is_refused(
    toy: Toy, nessa: Command, name: str
) -> None:
    own = read_utt2spk(toy.data / "eval")
    write_table(toy.data / "eval/enroll_map_given", {u: u for u in own})
    given = "--recipe", toy.recipe, "--data", toy.data, "--exp", toy.exp
    done = nessa("study", name, *given)
    done.refused(f"{toy.data}/eval: all trials name profiles, and", "add trials_<name>")


def test_an_align_set_without_additions_is_not_studied(toy: Toy) -> None:
    with pytest.raises(InputError, match=r"data/align: neither copies .*prepare\.align_copies"):
        run(toy, "augmentation")
    write_table(toy.data / "align/utt2copy", {"extracted-before": "slow id00000-s0-00000"})
    with pytest.raises(InputError, match=r"no embeddings of copy slow; .*--stage extract"):
        run(toy, "augmentation")


@pytest.mark.slow
def test_the_report_shows_studies_of_the_same_settings_only(
    toy: Toy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "SPEAKERS", (10,))
    recipe = load_recipe(toy.recipe)
    assert read_studies(recipe, toy.data, toy.exp) == {}
    records = run(toy, "speakers")
    found = read_studies(recipe, toy.data, toy.exp)
    assert found == {"speakers": read_json(toy.exp / "studies/speakers.json")["records"]}
    lines = study_sections(found)
    assert sum(line.startswith("| 10 speakers") for line in "\n".join(lines).split("\n")) == 2
    (plot,) = study_plots({"speakers": [_with_gain(r) for r in records]})
    paths = plot.save(toy.folder)
    assert [path.name for path in paths] == ["study_speakers.png", "study_speakers.svg"]
    changed = recipe.model_copy(update={"seed": 7})
    assert read_studies(changed, toy.data, toy.exp) == {}
    assert "run `nessa study speakers` again" in caplog.text


def test_a_study_of_other_embeddings_is_not_shown(
    toy: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a model that was trained again, or of other audio, under the same ids."""
    recipe, path = load_recipe(toy.recipe), toy.exp / "studies/width.json"
    made = {
        "study": "width",
        "digest": study_digest("width", recipe, toy.data, toy.exp),
        "records": [],
    }
    write_json(path, made)
    assert read_studies(recipe, toy.data, toy.exp) == {"width": []}
    before = Embeddings.read(toy.y / "eval")
    utt2spk = read_utt2spk(toy.data / "eval")
    before.write(toy.y / "eval", utt2spk)
    assert read_studies(recipe, toy.data, toy.exp) == {"width": []}, "the same again"
    Embeddings(before.keys, -before.matrix, before.stamp).write(toy.y / "eval", utt2spk)
    assert read_studies(recipe, toy.data, toy.exp) == {}
    assert "width.json: made with other settings, data or aligners; run `nessa study" in caplog.text
    shutil.rmtree(toy.y / "eval")
    assert read_studies(recipe, toy.data, toy.exp) == {}


def test_a_study_of_which_files_change_meanwhile_is_not_shown(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of those that it read at its start."""

    def points(runner: studies.StudyRunner) -> list[studies.Point]:
        (toy.data / "eval/trials_words").write_text("another list\n")
        return []

    monkeypatch.setitem(studies.STUDIES, "width", points)
    assert run(toy, "width") == []
    assert read_studies(load_recipe(toy.recipe), toy.data, toy.exp) == {}


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("data/align/utt2spk", {"width", "durations", "rollout"}),
        ("data/align/utt2copy", {"width", "durations", "rollout"}),
        ("data/dev/trials", {"width", "durations", "rollout"}),
        ("data/eval/trials_words", {"width", "durations", "rollout"}),
        ("data/eval/utt2domain", {"width", "durations", "rollout"}),
        ("exp/aligners/nessa/x-y/aligner.json", {"durations"}),
        ("exp/scores/raw/y-y/dev/trials.scores", {"rollout"}),
    ],
)
def test_a_study_of_other_tables_or_aligners_is_not_shown(
    toy: Toy, file: str, stale: set[str]
) -> None:
    recipe, path = load_recipe(toy.recipe), toy.folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.exists() else ""
    names = {"width", "durations", "rollout"}
    path.write_text(text)
    for name in names:
        made = {"digest": study_digest(name, recipe, toy.data, toy.exp), "records": []}
        write_json(toy.exp / f"studies/{name}.json", made)
    assert read_studies(recipe, toy.data, toy.exp).keys() == names
    path.write_text(text + "one more\n")
    assert read_studies(recipe, toy.data, toy.exp).keys() == names - stale


def _with_gain(record: dict) -> dict:
    return {**record, "gain": 0.5, "gain_ci": [0.4, 0.6]}


def test_an_undefined_gain_is_said_so_and_not_drawn() -> None:
    record = {
        "label": "10 speakers", "value": 10, "enroll": "x", "runtime": "y",
        "eer": 0.1, "eer_ci": [0.05, 0.15], "gain": None, "gain_ci": None,
    }  # fmt: skip
    assert format_study("speakers", [record]).endswith("undefined")
    studies = {"speakers": [record], "width": [record, _with_gain(record)]}
    drawn = [f"({plot.name}.svg)" for plot in study_plots(studies)]
    assert re.findall(r"\(\w+\.svg\)", "\n".join(study_sections(studies))) == drawn
    assert drawn == ["(study_width.svg)"]


def test_what_is_no_study_is_named(toy: Toy) -> None:
    path = toy.exp / "studies" / "width.json"
    path.parent.mkdir()
    path.write_text("[]")
    with pytest.raises(InputError, match=r"width\.json: not a study"):
        read_studies(load_recipe(toy.recipe), toy.data, toy.exp)


def test_the_command_knows_every_study() -> None:
    (argument,) = (p for p in cli.commands["study"].params if p.name == "name")
    assert tuple(argument.type.choices) == (*studies.STUDIES, DURATIONS, ROLLOUT)
