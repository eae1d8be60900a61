"""Studies: what is varied, what is frozen, and what the report shows of them."""

from pathlib import Path

import pytest

from nessa.cli.main import cli
from nessa.errors import InputError
from nessa.files import read_json
from nessa.recipe import studies
from nessa.recipe.resolve import load_recipe
from nessa.recipe.studies import read_studies, run_study
from nessa.report.studies import format_study, study_plots, study_sections
from tests.toy import Toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def run(toy: Toy, name: str) -> list[dict]:
    output = toy.exp / "studies" / f"{name}.json"
    return run_study(name, load_recipe(toy.recipe), toy.data, toy.exp, output)


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


def test_every_part_is_taken_away_once(toy: Toy) -> None:
    records = run(toy, "parts")
    assert [r["label"] for r in records[::2]] == list(studies.PARTS)
    known = load_recipe(toy.recipe).aligner.model_dump()
    assert all(changes.keys() <= known.keys() for changes in studies.PARTS.values())


def test_frozen_updates_stand_beside_training_both_sides(toy: Toy) -> None:
    records = run(toy, "freeze")
    cells = [(r["label"].split()[0], r["enroll"], r["runtime"]) for r in records]
    joint = {cell[1:] for cell in cells if cell[0] == "both"}
    frozen = [cell for cell in cells if cell[0] != "both"]
    assert joint == {("x", "x"), ("y", "y"), ("x", "y"), ("y", "x")}
    assert len(frozen) == 4 and all(cell[0] == f"{cell[1]}'s" for cell in frozen)


def test_the_report_shows_studies_of_the_same_settings_only(
    toy: Toy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "SPEAKERS", (10,))
    recipe = load_recipe(toy.recipe)
    assert read_studies(toy.exp, recipe) == {}
    records = run(toy, "speakers")
    found = read_studies(toy.exp, recipe)
    assert found == {"speakers": read_json(toy.exp / "studies/speakers.json")["records"]}
    lines = study_sections(found)
    assert sum(line.startswith("| 10 speakers") for line in "\n".join(lines).split("\n")) == 2
    (plot,) = study_plots({"speakers": [_with_gain(r) for r in records]})
    paths = plot.save(toy.folder)
    assert [path.name for path in paths] == ["study_speakers.png", "study_speakers.svg"]
    changed = recipe.model_copy(update={"seed": 7})
    assert read_studies(toy.exp, changed) == {}
    assert "run `nessa study speakers` again" in caplog.text


def _with_gain(record: dict) -> dict:
    return {**record, "gain": 0.5, "gain_ci": [0.4, 0.6]}


def test_an_undefined_gain_is_said_so() -> None:
    record = {
        "label": "10 speakers", "value": 10, "enroll": "x", "runtime": "y",
        "eer": 0.1, "eer_ci": [0.05, 0.15], "gain": None, "gain_ci": None,
    }  # fmt: skip
    assert format_study([record]).endswith("undefined")


def test_what_is_no_study_is_named(toy: Toy) -> None:
    path = toy.exp / "studies" / "width.json"
    path.parent.mkdir()
    path.write_text("[]")
    with pytest.raises(InputError, match=r"width\.json: not a study"):
        read_studies(toy.exp, load_recipe(toy.recipe))


def test_the_command_knows_every_study() -> None:
    (argument,) = (p for p in cli.commands["study"].params if p.name == "name")
    assert tuple(argument.type.choices) == tuple(studies.STUDIES)
