"""The recipe: merged, checked, and refused with the nearest valid key."""

import os
import re
from pathlib import Path

import pytest
import yaml

from nessa.errors import InputError
from nessa.files import STARTED_IN, write_table
from nessa.recipe.plan import plan
from nessa.recipe.resolve import load_recipe, resolve
from nessa.recipe.stages import STAGES, stage_digest
from nessa.recipe.systems import System, aligned_systems
from nessa.schema import read_yaml, save_yaml
from tests.conftest import ROOT
from tests.encoders.exported import save_external

MINI = ROOT / "recipes" / "mini" / "recipe.yaml"
ARKS = ROOT / "recipes" / "arks" / "recipe.yaml"
VOICES = ROOT / "recipes" / "voices" / "recipe.yaml"
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
        ("encoders.old.features.num_filter=5", ["encoders.old.features.num_f", "'num_filters'"]),
        ("encoders.old.blocks=[1, 1, 1, 1]", ["unknown key 'encoders.old.blocks'"]),
        ("encoders.old.architecture=resnt", ["encoders.old.architecture", "'resnet'"]),
        ("encoders.other={dim: 4}", ["'encoders.other.architecture'", "`pretrained`"]),
        ("encoders.old={pretrained: onx}", ["encoders.old.pretrained", "'onnx'"]),
        ("encoders.old={pretrained: onnx, fle: x}", ["encoders.old.fle", "'file'"]),
        ("encoders.old={pretrained: onnx}", ["'encoders.old.file' is missing"]),
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
        ("aligner={dim: 3, dim: 4}", ["not plain YAML", "key 'dim' is there twice; remove one"]),
        ("corpus.sets.tset.speakers=5", [": corpus.sets.tset: Input should be 'train', 'align'"]),
    ],
)
def test_wrong_overrides_name_the_key_and_the_remedy(override: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as error:
        resolve(MINI, overrides=[override])
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoders.old.learning_rate=0", "learning_rate: Input should be greater than 0"),
        ("encoders.old.learning_rate=-0.1", "learning_rate: Input should be greater than 0"),
        ("encoders.old.learning_rate=.inf", "learning_rate: Input should be a finite number"),
        ("encoders.old.weight_decay=-1", "weight_decay: Input should be greater than or equal"),
        ("encoders.old.train_part=[0.5, 0.2]", "train_part: (0.5, 0.2) holds no speakers; end it"),
        ("encoders.old.train_part=[0.5, 0.5]", "train_part: (0.5, 0.5) holds no speakers; end it"),
        ("encoders.old.augmentation.speeds=[]", "augmentation.speeds: Tuple should have at least"),
        ("encoders.old.augmentation.speeds=[1, 0]", "augmentation.speeds.1: Input should be great"),
        ("encoders.old.augmentation.speeds=[1, 1.0]", "augmentation.speeds: 1.0 is there twice"),
        ("encoders.old.augmentation.snr=[20, 5]", "augmentation.snr: (20.0, 5.0) ends before it"),
        ("encoders.old.loss.margin_ramp=[1, 0]", "loss.margin_ramp: (1.0, 0.0) ends before it"),
        ("encoders.old.loss.margin=-1", "loss.margin: Input should be greater than or equal to 0"),
        ("encoders.old.features.num_filters=257", "features.num_filters: 257 is not between 4 and"),
        ("encoders.old.features.frame_length=0.004", "features.num_filters: 40 is not between 4"),
        ("encoders.old.features.frame_length=25", "features.frame_length: 25 s is longer than 0.5"),
        ("encoders.old.features.frame_shift=10", "features.frame_shift: 10 s is longer than 0.5;"),
        ("encoders.old.features.frame_shift=1e-5", "features.frame_shift: 1e-05 s is less than on"),
        ("encoders.old.features.low_freq=7600", "features.low_freq: 7600 Hz is not between 0 and"),
        ("encoders.old.features.high_freq=8001", "features.high_freq: 8001 Hz is not between 0 an"),
        ("encoders.old.features.sampling_rate=700", "features.high_freq: -50 Hz is not between 0"),
        ("encoders.new.channels=30", "channels: ecapa needs a multiple of 4, not 30"),
        ("encoders.new.fine_tuning={steps: 2, learning_rate: 0}", "fine_tuning.learning_rate: In"),
        ("encoders.old.fine_tuning={steps: 2}", "fine_tuning: loss ge2e has no margin"),
    ],
)
def test_an_encoder_that_cannot_be_is_refused_before_anything_is_made(
    override: str, message: str
) -> None:
    with pytest.raises(InputError) as error:
        resolve(MINI, overrides=[override])
    model = override.split(".")[1]
    assert f"encoders.{model}.{message}" in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("update=[old, old]", "update: both models are 'old'; name an old one and a new one"),
        ("baselines=[logit, plda, logit]", "baselines: 'logit' is there twice"),
        ("corpus.program=mimi", "corpus.program: no program local/mimi.py; did you mean 'mini'"),
        ("prepare.program=tre", "prepare.program: no program local/tre.py; did you mean 'tree'"),
        ("baselines=[raw]", "baselines: raw compares the models' own vectors, but encoders.old "),
        ("extraction.sets=[align, eval]", "extraction.sets: no 'dev', without which no aligner "),
        ("prepare.profile_sizes=[3, 3]", "prepare.profile_sizes: 3 is there twice"),
        ("aligner.seeds=[]", "aligner.seeds: Tuple should have at least 1 item"),
        ("aligner.seeds=[1, 2, 1]", "aligner.seeds: 1 is there twice; remove one"),
        ("aligner={start: cca, mode: to-enroll}", "aligner.start: cca is for mode shared; "),
        (
            "aligner={distillation: 0.5, score: cosine}",
            "aligner.distillation: 0.5 is for score ratio in mode shared",
        ),
        (
            "aligner={distillation: 2, mode: to-runtime}",
            "aligner.distillation: 2.0 is for score ratio in mode shared",
        ),
        ("aligner.speakers_per_batch=1", "aligner.speakers_per_batch: "),
        ("aligner.learning_rate=0", "aligner.learning_rate: Input should be greater than 0"),
        ("aligner.weight_decay=-1", "aligner.weight_decay: Input should be greater than or equal"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        resolve(MINI, overrides=[override])
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["voices", "arks"])
@pytest.mark.parametrize(
    "change", ["scoring.cohort=train", "extraction.sets=[train, align, dev, eval]"]
)
def test_a_train_set_that_is_not_made_is_refused(change: str, name: str) -> None:
    path = ROOT / "recipes" / name / "recipe.yaml"
    told = rf"{change.partition('=')[0]}: .* makes no set 'train' where no encoder is trained; take"
    with pytest.raises(InputError, match=told):
        resolve(path, overrides=[change])


def test_a_train_set_that_is_made_may_be_extracted() -> None:
    changes = ["scoring.cohort=train", "extraction.sets=[train, align, dev, eval]"]
    assert resolve(VOICES, "own", changes).scoring.cohort == "train"
    pretrained = [f"encoders.{name}={{pretrained: resemblyzer}}" for name in ("old", "new")]
    assert resolve(MINI, overrides=[*changes, *pretrained]).scoring.cohort == "train"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("3", "Input should be less than or equal to 2 (got 3)"),
        ("fast", "Input should be a valid number, unable to parse string as a number (got 'fast')"),
        ("[3, 4]", "Input should be less than or equal to 2 (got 3)"),
        ("[1.1, 0.9]", "(1.1, 0.9) ends before it begins; swap the two"),
        ("[0.9]", "Field required (got [0.9])"),
    ],
)
def test_a_value_that_may_be_of_two_kinds_is_refused_once_and_by_its_key(
    value: str, message: str
) -> None:
    override = f"prepare.align_copies.slow.speed={value}"
    with pytest.raises(InputError) as error:
        resolve(MINI, overrides=[override])
    found = str(error.value).partition(f" with --set {override}: ")[2]
    assert found == f"prepare.align_copies.slow.speed: {message}"


@pytest.mark.parametrize("name", ["mine", "mine/data", "a b"])
def test_relative_paths_are_found_where_run_sh_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name / "old").mkdir(parents=True)
    path = ROOT / "recipes/arks/recipe.yaml"
    overrides = [
        f"corpus.paths.data={name}",
        f"encoders.old.path={name}/old",
        f"encoders.new.path={name}/{{set}}/x.scp",
    ]
    monkeypatch.chdir(ROOT)
    assert resolve(path, None, overrides).corpus.paths == {"data": name}
    monkeypatch.setenv(STARTED_IN, str(tmp_path))
    found = resolve(path, None, overrides)
    assert found.corpus.paths == {"data": f"{tmp_path}/{name}"}
    assert found.encoders["old"]["path"] == f"{tmp_path}/{name}/old"
    assert found.encoders["new"]["path"] == f"{tmp_path}/{name}/{{set}}/x.scp"
    assert resolve(path, None, ["corpus.paths.data=gone"]).corpus.paths == {"data": "gone"}
    monkeypatch.chdir(tmp_path)
    assert resolve(path, None, overrides).corpus.paths == {"data": f"{tmp_path}/{name}"}
    (tmp_path / "elsewhere" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"is both in .*elsewhere and in .*; write absolute paths"):
        resolve(path, None, overrides)


def test_relative_paths_below_the_folder_of_run_sh_are_the_same_wherever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("repository/models/old", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "repository")
    overrides = ["encoders.old={pretrained: arks, path: 'models/{set}'}", "corpus.paths.a=models"]
    recipes = [resolve(MINI, None, overrides)]
    for called in ("repository", "elsewhere"):
        monkeypatch.setenv(STARTED_IN, str(tmp_path / called))
        recipes.append(resolve(MINI, None, overrides))
    assert recipes[0] == recipes[1] == recipes[2]
    assert recipes[0].corpus.paths == {"a": f"{tmp_path}/repository/models"}
    assert recipes[0].encoders["old"]["path"] == f"{tmp_path}/repository/models/{{set}}"


def test_files_among_the_arguments_of_a_function_are_found_where_run_sh_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    for place in ("models/old.pt", "README.md"):
        (tmp_path / place).write_text("weights")
    given = {"weights": "models/old.pt", "more": ["models/old.pt", {"kind": "models"}], "n": 3}
    model = {"pretrained": "python", "factory": "a:b", "arguments": given}
    override = f"encoders.old={model}"
    monkeypatch.chdir(ROOT)
    assert resolve(MINI, None, [override]).encoders["old"]["arguments"] == given
    model["arguments"] = {"weights": "README.md"}
    monkeypatch.setenv(STARTED_IN, str(ROOT))  # which names it already
    here = resolve(MINI, None, [f"encoders.old={model}"])
    assert here.encoders["old"]["arguments"] == {"weights": "README.md"}
    monkeypatch.setenv(STARTED_IN, str(tmp_path))
    path = f"{tmp_path}/models/old.pt"
    found = resolve(MINI, None, [override]).encoders["old"]["arguments"]
    assert found == {"weights": path, "more": [path, {"kind": "models"}], "n": 3}
    with pytest.raises(InputError, match=r"README.md: is both in .*; write absolute paths"):
        resolve(MINI, None, [f"encoders.old={model}"])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("loss.margin=0.5", "loss.margin: 0.5 does nothing with type ge2e; remove"),
        ("loss={type: prototypical, top_k: 5}", "loss.top_k: 5 does nothing with"),
        ("loss.margin_ramp=[0, 1]", "loss.margin_ramp: [0.0, 1.0] does nothing with"),
    ],
)
def test_settings_that_a_loss_does_not_read_are_warned_about(
    setting: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    resolve(MINI)
    assert not caplog.records
    resolve(MINI, overrides=[f"encoders.old.{setting}"])  # finished models keep theirs
    assert f"encoders.old.{said}" in caplog.text


def test_given_features_may_have_any_dimension(caplog: pytest.LogCaptureFixture) -> None:
    sound = "augmentation={noise_prob: 0, reverb_prob: 0, speeds: [1.0]}"
    given = "features={type: given, num_filters: 600}"
    overrides = [f"encoders.old.{sound}", f"encoders.old.{given}"]
    assert resolve(MINI, overrides=overrides).encoders["old"]["features"]["num_filters"] == 600
    for change, value in {
        "scale=2": "2.0", "window=hamming": "hamming", "low_freq=5": "5.0", "high_freq=0": "0.0",
        "frame_length=0.02": "0.02", "snip_edges=true": "True", "sampling_rate=8000": "8000",
    }.items():  # fmt: skip
        caplog.clear()
        resolve(MINI, overrides=[*overrides, f"encoders.old.features.{change}"])
        told = f"old.features.{change.partition('=')[0]}: {value} does nothing with type given; re"
        assert told in caplog.text
    with pytest.raises(InputError, match=r"old\.features\.frame_shift: 10 s is longer than 0"):
        resolve(MINI, overrides=[*overrides, "encoders.old.features.frame_shift=10"])


def test_given_features_of_a_pretrained_model_have_no_scale(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = "encoders.old={pretrained: onnx, file: x, features: {type: given}}"
    assert resolve(MINI, overrides=[model]).encoders["old"]["features"]["type"] == "given"
    resolve(MINI, overrides=[model, "encoders.old.features.scale=32768.0"])
    assert "old.features.scale: 32768.0 does nothing with type given" in caplog.text


def test_copies_of_given_features_are_refused() -> None:
    given = "encoders.old={pretrained: onnx, file: x, features: {type: given}}"
    told = "prepare.align_copies: encoders.old takes given features, of which no copies"
    with pytest.raises(InputError, match=told):
        resolve(MINI, overrides=[given, "prepare.align_copies={slow: {speed: 0.9}}"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "features={sampling_rate: 8000}",
            None,
            "encoders.old takes audio at 8000 Hz and encoders.new takes audio at 16000 Hz, but",
        ),
        ("num_filters: 40", "num_filters: 80", "num_filters 40 and encoders.new takes given"),
        (
            "num_filters: 7, frame_shift: 0.02",
            "num_filters: 7, frame_shift: 0.01",
            "frame_shift 0.02 and encoders.new takes",
        ),
    ],
)
def test_models_that_no_corpus_fits_are_refused(old: str, new: str | None, message: str) -> None:
    sound = "augmentation={noise_prob: 0, reverb_prob: 0, speeds: [1.0]}"
    overrides = [f"encoders.old.{old}"] if new is None else [
        f"encoders.{name}.{change}"
        for name, own in (("old", old), ("new", new))
        for change in (sound, f"features={{type: given, low_freq: 20, {own}}}")
    ]  # fmt: skip
    with pytest.raises(InputError, match=re.escape(message)) as error:
        resolve(MINI, overrides=overrides)
    assert "pretrained: arks" in str(error.value)
    arks = "encoders.new={pretrained: arks, path: x.scp}"
    changes = [change for change in overrides if not change.startswith("encoders.new")]
    assert resolve(MINI, overrides=[*changes, arks]).encoders["new"]["pretrained"] == "arks"


def test_a_models_settings_are_complete_whoever_wrote_them() -> None:
    plain = resolve(MINI)
    assert plain.encoders["old"]["weight_decay"] == 1e-4
    spelled = resolve(MINI, overrides=["encoders.old.weight_decay=0.0001"])
    assert spelled == plain and stage_digest(spelled, "encoders") == stage_digest(plain, "encoders")
    changed = resolve(MINI, overrides=["encoders.old.weight_decay=0"])
    assert stage_digest(changed, "encoders") != stage_digest(plain, "encoders")


def test_a_model_of_another_kind_takes_the_place_of_the_old_one() -> None:
    ours = "encoders.old={architecture: tdnn, channels: 8, dim: 8, steps: 1, loss: {type: aam}}"
    old = resolve(VOICES, overrides=[ours]).encoders["old"]
    assert old["architecture"] == "tdnn" and "pretrained" not in old
    both = [ours, "encoders.old={pretrained: campplus, crop: 1}"]
    assert resolve(VOICES, overrides=both).encoders["old"] == {"pretrained": "campplus", "crop": 1}
    wider = resolve(MINI, overrides=["encoders.old={architecture: tdnn, channels: 8}"])
    assert wider.encoders["old"]["steps"] == resolve(MINI).encoders["old"]["steps"]


@pytest.mark.parametrize(
    ("size", "changes", "settings"),
    [
        (None, ["new.crop=1.0", "new.pretrained=campplus"], {"crop": 1.0}),
        ("light", ["old.pretrained=campplus"], {"crop": 1.0}),
        (None, ["old.file=x", "old.pretrained=onnx"], {"file": "x"}),
        (None, ["old={pretrained: onnx}", "old.file=x"], {"file": "x"}),
        (None, ["old.crop=2", "old={pretrained: campplus, crop: 1}"], {"crop": 1}),
        (None, ["old.pretrained=campplus", "old.crop=1", "old.pretrained=resemblyzer"], {}),
    ],
)
def test_settings_of_a_model_stay_in_whichever_order_they_are_given(
    size: str | None, changes: list[str], settings: dict[str, object]
) -> None:
    name, kind = changes[0][:3], re.findall(r"pretrained[=:] ?(\w+)", " ".join(changes))[-1]
    found = resolve(VOICES, size, [f"encoders.{change}" for change in changes]).encoders[name]
    assert found["pretrained"] == kind and found.items() >= settings.items()


def test_another_model_of_the_same_kind_keeps_no_settings_of_the_old_one(tmp_path: Path) -> None:
    first = {"pretrained": "onnx", "file": "a.onnx", "features": {"num_filters": 64}}
    second = {"pretrained": "onnx", "file": "b.onnx"}
    content = read_yaml(VOICES) | {"sizes": {"new": {"encoders": {"new": second}}}}
    content["encoders"]["new"] = first
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    override = "encoders.new={pretrained: onnx, file: b.onnx}"
    sizes = resolve(tmp_path / "recipe.yaml", "new").encoders["new"]
    assert sizes["file"].endswith("b.onnx") and sizes["features"]["num_filters"] == 80
    assert resolve(tmp_path / "recipe.yaml", overrides=[override]).encoders["new"] == sizes
    kept = resolve(tmp_path / "recipe.yaml", overrides=["encoders.new.pretrained=onnx"])
    assert kept.encoders["new"]["features"]["num_filters"] == 64


def test_an_empty_mapping_takes_the_place_of_what_the_recipe_has() -> None:
    assert set(resolve(VOICES).prepare.align_copies) == {"crop"}
    assert resolve(VOICES, overrides=["prepare.align_copies={}"]).prepare.align_copies == {}
    refilled = ["prepare.align_copies={}", "prepare.align_copies={slow: {speed: 0.9}}"]
    assert set(resolve(VOICES, overrides=refilled).prepare.align_copies) == {"slow"}


def test_the_plan_says_which_extras_the_models_need() -> None:
    models = ["encoders.old={pretrained: resemblyzer}", "encoders.new={pretrained: onnx, file: x}"]
    assert ("extras", "resemblyzer") in list(plan(resolve(MINI, overrides=models)))
    assert ("extras", "") in list(plan(resolve(MINI)))


def test_unknown_size_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        resolve(MINI, "tny")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("[tiny]", "sizes: expected `size: changes` lines, got ['tiny']"),
        ("3", "sizes: expected `size: changes` lines, got 3"),
        ("{tiny: }", "sizes.tiny: expected `key: value` lines, got None"),
        ("{tiny: 4}", "sizes.tiny: expected `key: value` lines, got 4"),
        (
            "{tiny: {seed: 3}, default: {seed: 2}}",
            "sizes.default: that is the recipe without a size; r",
        ),
    ],
)
@pytest.mark.parametrize("size", ["tiny", "default", None])
def test_sizes_that_are_none_are_refused(
    sizes: str, message: str, size: str | None, tmp_path: Path
) -> None:
    path = with_sizes(tmp_path, sizes)
    with pytest.raises(InputError, match=r"recipe\.yaml: ") as error:
        resolve(path, size)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_size_may_be_called_a_number(tmp_path: Path) -> None:
    path = with_sizes(tmp_path, "{8: {seed: 2}}")
    assert resolve(path, "8").seed == 2
    with pytest.raises(InputError, match="no size '9'"):
        resolve(path, "9")


def with_sizes(folder: Path, sizes: str) -> Path:
    """A copy of recipe mini with other sizes."""
    settings = yaml.safe_load(MINI.read_text()) | {"sizes": yaml.safe_load(sizes)}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


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


@pytest.mark.parametrize("repeated", ["seed: 3", "encoders:\n  one: {architecture: tdnn}"])
def test_a_key_that_is_there_twice_is_refused_with_its_line(repeated: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = MINI.read_text().rstrip() + "\n"
    path.write_text(f"{text}{repeated}\n")
    key, line = repeated.split(":")[0], text.count("\n") + 1
    with pytest.raises(InputError, match=rf"recipe\.yaml: line {line}: .*'{key}' is there twice"):
        resolve(path)


def test_keys_that_a_merge_repeats_are_none_twice(tmp_path: Path) -> None:
    merged = "a: {b: &b {<<: &c {x: 1}, x: 2}}\nd: {<<: *b, x: 3}\n"
    (tmp_path / "some.yaml").write_text(merged)
    assert read_yaml(tmp_path / "some.yaml") == {"a": {"b": {"x": 2}}, "d": {"x": 3}}


def test_plan_lists_both_directions_of_every_aligner_and_the_controls() -> None:
    recipe = resolve(MINI)
    systems = aligned_systems(recipe)
    for aligner in ("logit", "procrustes", "nessa"):
        assert {System(aligner, "new", "old"), System(aligner, "old", "new")} <= set(systems)
    assert {System("nessa", "old", "old"), System("nessa", "new", "new")} <= set(systems)
    assert [System.parse(str(system)) for system in systems] == systems
    lines = list(plan(recipe))
    assert sum(key == "digest" for key, _ in lines) == 10
    assert all(value for key, value in lines if key != "extras")


@pytest.mark.parametrize(
    ("settings", "file", "first"),
    [
        ("{{pretrained: onnx, file: {0}/net.onnx}}", "net.onnx", "encoders"),
        ("{{pretrained: speechbrain, source: {0}}}", "embedding_model.ckpt", "encoders"),
        ("{{pretrained: pyannote, source: {0}}}", "pytorch_model.bin", "encoders"),
        (
            "{{pretrained: python, factory: 'a:b', arguments: {{weights: {0}/net.pt, dim: 3}}}}",
            "net.pt",
            "encoders",
        ),
        ("{{pretrained: python, factory: 'a:b', arguments: {{m: {0}}}}}", "net.pt", "encoders"),
        ("{{pretrained: python, factory: 'a:b', arguments: {{m: {0}}}}}", "in/net.pt", "encoders"),
        (
            "{{pretrained: python, factory: 'a:b', arguments: {{m: {0}/models}}}}",
            "in/net.pt",
            "encoders",
        ),
        (
            "{{pretrained: python, factory: 'a:b', arguments: {{m: [{{x: {0}/net.pt}}]}}}}",
            "net.pt",
            "encoders",
        ),
        ("{{pretrained: python, factory: 'in_parts.a.b:c'}}", "in_parts/a/b.py", "encoders"),
        ("{{pretrained: python, factory: 'a_module:c'}}", "a_module.py", "encoders"),
        ("{{pretrained: arks, path: {0}/x.ark}}", "x.ark", "extract"),
    ],
)
def test_a_file_replaced_under_the_same_path_is_planned_anew(
    settings: str, file: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    override = f"encoders.old={settings.format(tmp_path)}"
    (tmp_path / "models").mkdir()
    (tmp_path / "models/linked").symlink_to(tmp_path / "in")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/back").symlink_to(tmp_path / "models")

    def digests() -> dict[str, str]:
        lines = plan(resolve(MINI, overrides=[override]))
        return dict(value.split() for key, value in lines if key == "digest")  # type: ignore[misc]

    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_bytes(b"weights")
    before = digests()
    assert digests() == before
    (tmp_path / file).write_bytes(b"other weights")
    after = digests()
    same = [stage for stage in STAGES if before[stage] == after[stage]]
    assert same == list(STAGES[: STAGES.index(first)])
    (tmp_path / file).unlink()
    assert digests() != after, "what is missing is said where it is read"


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        ("{pretrained: onnx, file: x.onnx}", "encoders: no such file 'x.onnx'"),
        ("{pretrained: onnx, file: DIR}", "encoders: no such file 'DIR'"),
        ("{pretrained: onnx, file: DIR/there}", ""),
        ("{pretrained: speechbrain, source: DIR/gone}", "encoders: no such file 'DIR/gone'"),
        ("{pretrained: speechbrain, source: DIR}", ""),
        ("{pretrained: speechbrain, source: speechbrain/spkrec-ecapa-voxceleb}", ""),
        ("{pretrained: pyannote, source: DIR/gone.bin}", "encoders: no such file 'DIR/gone.bin'"),
        ("{pretrained: pyannote, source: pyannote/embedding}", ""),
        ("{pretrained: arks, path: DIR/gone.ark}", "extract: no such file 'DIR/gone.ark'"),
        ("{pretrained: arks, path: 'DIR/{set}/x'}", "extract: no such file 'DIR/eval/x'"),
        ("{pretrained: arks, path: 'DIR/{set}'}", ""),
        ("{pretrained: campplus}", ""),
    ],
)
def test_the_plan_says_which_file_of_a_model_is_not_there(
    model: str, missing: str, tmp_path: Path
) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "there").touch()
    recipe = resolve(MINI, overrides=[f"encoders.old={model.replace('DIR', str(tmp_path))}"])
    lines = [f"{key} {value}" for key, value in plan(recipe) if key.startswith("missing")]
    stage, _, told = missing.replace("DIR", str(tmp_path)).partition(": ")
    assert lines == ([f"missing_{stage} encoders.old: {told}; correct it"] if missing else [])


@pytest.mark.parametrize(
    "file", ["utt2spk", "utt2session", "wav.scp", "trials", "trials_far", "mine_cuts.jsonl.gz"]
)
def test_changed_tables_of_the_corpus_are_planned_anew(file: str, tmp_path: Path) -> None:
    settings = [f"corpus.paths.{name}={tmp_path / name}" for name in ("align", "data")]

    def planned() -> dict[str, str]:
        lines = plan(resolve(MINI, overrides=settings))
        return {key: value for key, value in lines if key != "digest"}

    assert "tables" not in planned()
    write_table(tmp_path / "align/utt2spk", {"a-1": "a"})
    write_table(tmp_path / "data" / file, {"a-1": "a"})
    before = planned()
    for other in ("notes", "utt2dur", "trials.bak"):
        write_table(tmp_path / "data" / other, {"a-1": "a"})
    assert planned() == before
    write_table(tmp_path / "data" / file, {"a-1": "a", "a-2": "a"})
    after = planned()
    (tmp_path / "data" / file).unlink()
    plans = [before, after, planned()]
    assert len({each.pop("tables") for each in plans}) == 3
    assert plans[0] == plans[1] == plans[2]


@pytest.mark.parametrize(
    ("recipe", "name", "file", "read"),
    [
        ("voxceleb", "voxceleb1", "veri_test2.txt", True),
        ("voxceleb", "voxceleb1", "meta/list_test_hard2.txt", True),
        ("voxceleb", "lists", "list_test_all.txt", True),
        ("voxceleb", "voxceleb1", "trials/veri_test.txt", True),
        ("voxceleb", "voxceleb2", "dev/vox2_meta.csv", True),
        ("voxceleb", "voxceleb1", "../vox1_meta.csv", True),
        ("librispeech", "librispeech", "SPEAKERS.TXT", True),
        ("voxceleb", "voxceleb1", "veri_test_mine.txt", False),
        ("voxceleb", "voxceleb2", "veri_test.txt", False),
        ("voxceleb", "musan", "list_test_all.txt", False),
    ],
)
def test_tables_of_a_published_corpus_that_come_later_are_planned_anew(
    recipe: str, name: str, file: str, read: bool, tmp_path: Path
) -> None:
    corpus, path = tmp_path / "corpora" / recipe, ROOT / "recipes" / recipe / "recipe.yaml"
    corpus.mkdir(parents=True)
    (corpus / file).parent.mkdir(exist_ok=True)

    def tables() -> str | None:
        return dict(plan(resolve(path, overrides=[f"corpus.paths.{name}={corpus}"]))).get("tables")

    found = [tables()]
    for text in ("1 a b\n", "1 a b\n0 a c\n"):
        (corpus / file).write_text(text)
        found.append(tables())
    assert len(set(found)) == (3 if read else 1)


def test_of_a_corpus_that_is_away_it_is_planned_only_that_it_is_not_there(tmp_path: Path) -> None:
    settings = [f"corpus.paths.{name}={tmp_path / name}" for name in ("align", "data")]
    write_table(tmp_path / "align/utt2spk", {"a-1": "a"})
    lines = dict(plan(resolve(MINI, overrides=settings)))
    assert "tables" not in lines
    told = f"{tmp_path}/data: no such folder (corpus.paths.data); correct it"
    assert lines["missing_prepare"] == told
    write_table(tmp_path / "data/utt2spk", {"b-1": "b"})
    lines = dict(plan(resolve(MINI, overrides=settings)))
    assert "tables" in lines and "missing_prepare" not in lines


@pytest.mark.parametrize("file", ["wav.scp", "feats.scp", "segments"])
def test_tables_about_audio_are_not_planned_of_given_embeddings(file: str, tmp_path: Path) -> None:
    def planned() -> dict[str, str]:
        return dict(plan(resolve(ARKS, overrides=[f"corpus.paths.data={tmp_path}"])))

    write_table(tmp_path / "utt2spk", {"a-1": "a"})
    before = planned()["tables"]
    write_table(tmp_path / file, {"a-1": "a.wav"})
    assert planned()["tables"] == before


def test_external_weights_replaced_under_the_same_path_are_planned_anew(tmp_path: Path) -> None:
    def digests(bias: float) -> dict[str, str]:
        path = save_external(tmp_path / "net.onnx", bias)
        os.utime(path, (0, 0))
        settings = f"encoders.old={{pretrained: onnx, file: {path}}}"
        lines = plan(resolve(MINI, overrides=[settings]))
        return dict(value.split() for key, value in lines if key == "digest")  # type: ignore[misc]

    before, after = digests(1.0), digests(2.0)
    same = [stage for stage in STAGES if before[stage] == after[stage]]
    assert same == list(STAGES[: STAGES.index("encoders")])


def test_the_two_encoders_of_mini_differ_in_all_that_the_recipe_promises() -> None:
    encoders = resolve(MINI).encoders
    old, new = encoders["old"], encoders["new"]
    for field in ("architecture", "loss", "features", "dim", "train_part"):
        assert old[field] != new[field], field
    assert old["train_part"][1] <= new["train_part"][0], "the encoders share train speakers"
