"""The recipe: merged, checked, and refused with the nearest valid key."""

from pathlib import Path

import pytest
import yaml

from nessa.errors import InputError
from nessa.recipe.plan import plan
from nessa.recipe.resolve import load_recipe, resolve
from nessa.recipe.stages import stage_digest
from nessa.recipe.systems import System, aligned_systems
from nessa.schema import save_yaml
from tests.conftest import ROOT

MINI = ROOT / "recipes" / "mini" / "recipe.yaml"
RECIPES = sorted((ROOT / "recipes").glob("*/recipe.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_every_size_of_every_recipe_resolves(path: Path) -> None:
    for size in ["default", *yaml.safe_load(path.read_text()).get("sizes", {})]:
        assert resolve(path, size).name == path.parent.name


def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = resolve(MINI, "tiny", ["aligner.hidden_dim=77"])
    save_yaml(tmp_path / "recipe.yaml", recipe)
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    assert recipe.aligner.hidden_dim == 77


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("aligner.hiden_dim=5", ["aligner.hiden_dim", "'hidden_dim'"]),
        ("alinger.dim=5", ["alinger", "'aligner'"]),
        ("encoders.old.chanels=5", ["encoders.old.chanels", "'channels'"]),
        ("encoders.old.features.num_filter=5", ["'num_filters'"]),
        ("corpus.sets.dev.speaker=5", ["'speakers'"]),
        ("aligner.dropout=1.5", ["aligner.dropout", "1.5"]),
        ("aligner.dim=many", ["aligner.dim", "many"]),
        ("update=[old, newer]", ["newer"]),
        ("scoring.topn=5", ["scoring.topn", "'top_n'"]),
        ("scoring.top_n=1", ["scoring.top_n", "2"]),
        ("scoring.p_target=1", ["scoring.p_target", "1"]),
        ("scoring.cohort=train", ["scoring.cohort", "'train'", "extraction.sets"]),
        ("aligner.dim", ["key=value"]),
        ("aligner.dim=[", ["not plain YAML"]),
        ("name=!!python/object:os.system", ["not plain YAML"]),
    ],
)
def test_wrong_overrides_name_the_key_and_the_remedy(override: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as error:
        resolve(MINI, overrides=[override])
    for part in parts:
        assert part in str(error.value)


def test_unknown_size_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        resolve(MINI, "tny")


@pytest.mark.parametrize(
    "text",
    [
        "- a list",
        "a: [1",
        "a: !!python/object/apply:os.system ['touch canary']",
        "\x00",
        "a: " + "[" * 20_000,
        "a: 2024-13-45",
        "a: !!int x",
    ],
)
def test_what_is_not_a_plain_mapping_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InputError, match=r"recipe\.yaml"):
        resolve(tmp_path / "recipe.yaml")
    assert not (tmp_path / "canary").exists()


def test_digests_change_from_the_first_stage_that_a_setting_touches() -> None:
    plain, changed = resolve(MINI), resolve(MINI, overrides=["aligner.dim=3"])
    same = [stage_digest(plain, s) == stage_digest(changed, s) for s in range(11)]
    assert same == [True] * 6 + [False] * 5
    changed = resolve(MINI, overrides=["seed=99"])
    assert not any(stage_digest(plain, s) == stage_digest(changed, s) for s in range(11))


def test_plan_lists_both_directions_of_every_aligner_and_the_controls() -> None:
    recipe = resolve(MINI)
    systems = aligned_systems(recipe)
    for aligner in ("logit", "procrustes", "nessa"):
        assert {System(aligner, "new", "old"), System(aligner, "old", "new")} <= set(systems)
    assert {System("nessa", "old", "old"), System("nessa", "new", "new")} <= set(systems)
    assert [System.parse(str(system)) for system in systems] == systems
    lines = list(plan(recipe))
    assert sum(key == "digest" for key, _ in lines) == 11
    assert all(value for key, value in lines if key != "extras")


def test_the_two_encoders_of_mini_differ_in_all_that_the_recipe_promises() -> None:
    encoders = resolve(MINI).encoders
    old, new = encoders["old"], encoders["new"]
    for field in ("architecture", "loss", "features", "dim", "train_part"):
        assert old[field] != new[field], field
    assert old["train_part"][1] <= new["train_part"][0], "the encoders share train speakers"
