"""The list of stages: what their results depend on, and that everybody speaks of the same ones."""

import re

import pytest

from nessa.recipe.config import Recipe
from nessa.recipe.resolve import resolve
from nessa.recipe.stages import FIRST_STAGE, STAGES, stage_digest
from tests.conftest import ROOT

MINI = ROOT / "recipes" / "mini" / "recipe.yaml"
CITED = re.compile(r"(?:--stage|[Hh]as stage|in stage|after stage|which stage|\bits stage) (\w+)")


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("aligner.dim=3", "align"),
        ("scoring.top_n=7", "symmetric"),
        ("baselines=[logit]", "symmetric"),
        ("seed=99", "corpus"),
    ],
)
def test_digests_change_from_the_first_stage_that_a_setting_touches(
    override: str, first: str
) -> None:
    plain, changed = resolve(MINI), resolve(MINI, overrides=[override])
    same = [stage for stage in STAGES if stage_digest(plain, stage) == stage_digest(changed, stage)]
    assert same == list(STAGES[: STAGES.index(first)])


@pytest.mark.parametrize(
    ("key", "names", "first"),
    [
        ("corpus.sets", ["eval", "dev", "align", "train"], "corpus"),
        ("prepare.held_out", ["eval", "align"], "prepare"),
        ("prepare.domains", ["words", "sentences"], "prepare"),
    ],
)
def test_digests_change_with_the_order_of_what_is_drawn_in_turn(
    key: str, names: list[str], first: str
) -> None:
    values = {"corpus.sets": "{speakers: 9, sessions: 1, utterances: 1}", "prepare.held_out": "0.1"}
    usual, other = (
        f"{key}={{{', '.join(f'{name}: {values.get(key, name)}' for name in order)}}}"
        for order in (names[::-1], names)
    )
    plain, changed = (resolve(MINI, overrides=[f"{key}={{}}", each]) for each in (usual, other))
    assert plain == changed
    same = [stage for stage in STAGES if stage_digest(plain, stage) == stage_digest(changed, stage)]
    assert same == list(STAGES[: STAGES.index(first)])


NAMES = ("old", "new")
RESEMBLYZER = "{pretrained: resemblyzer}"
GIVEN = "features={type: given, num_filters: 7}"
PLAIN = "augmentation={noise_prob: 0, reverb_prob: 0, speeds: [1.0]}"


@pytest.mark.parametrize(
    ("base", "changes", "first"),
    [
        ([], ["encoders.old.steps=7", "encoders.old.channels=16"], "encoders"),
        ([], ["encoders.old.features.num_filters=30"], "encoders"),
        ([], [f"encoders.{name}.features.sampling_rate=8000" for name in NAMES], "prepare"),
        ([], [f"encoders.new={RESEMBLYZER}"], "encoders"),
        ([f"encoders.new={RESEMBLYZER}"], [f"encoders.old={RESEMBLYZER}"], "prepare"),
        ([f"encoders.old.{PLAIN}"], [f"encoders.old.{GIVEN}"], "prepare"),
        (
            [f"encoders.old.{PLAIN}", f"encoders.old.{GIVEN}"],
            ["encoders.old.features.frame_shift=0.02"],
            "prepare",
        ),
        (["encoders.new={pretrained: arks, path: a.ark}"],
         ["encoders.old={pretrained: arks, path: b.ark}"], "prepare"),
    ],
)  # fmt: skip
def test_the_corpus_is_prepared_again_where_encoders_need_other_sets_or_features(
    base: list[str], changes: list[str], first: str
) -> None:
    plain, changed = resolve(MINI, overrides=base), resolve(MINI, overrides=[*base, *changes])
    same = [stage for stage in STAGES if stage_digest(plain, stage) == stage_digest(changed, stage)]
    assert same == list(STAGES[: STAGES.index(first)])


def test_sections_and_stages_exist() -> None:
    assert FIRST_STAGE.keys() <= Recipe.model_fields.keys()
    assert set(FIRST_STAGE.values()) <= set(STAGES)


def test_every_stage_is_a_function_of_run() -> None:
    functions = re.findall(r"^stage_(\w+)\(\) \{$", (ROOT / "run.sh").read_text(), re.MULTILINE)
    assert functions == list(STAGES)


def test_the_stages_that_messages_send_to_are_there() -> None:
    sources = [path for room in ("nessa", "local") for path in (ROOT / room).rglob("*.py")]
    cited = {name for path in sources for name in CITED.findall(path.read_text(encoding="utf-8"))}
    assert "prepare" in cited and cited <= set(STAGES)
