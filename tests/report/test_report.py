"""The report: tables that say what was measured, curves that can be drawn again, clear refusals."""

import platform
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from nessa.alignment import NeuralAligner
from nessa.encoders import build, save_model
from nessa.encoders.config import LossConfig
from nessa.encoders.settings import XVectorConfig
from nessa.errors import InputError
from nessa.files import read_json, read_table, write_json, write_table
from nessa.metrics.roc import Roc, eer, min_dcf
from nessa.recipe.circumstances import METRICS, read_circumstances, write_circumstances
from nessa.recipe.config import Recipe
from nessa.recipe.evaluation import evaluate_systems
from nessa.recipe.layout import aligner_dir, score_file
from nessa.recipe.resolve import resolve
from nessa.recipe.stages import stage_digest
from nessa.recipe.study_files import study_digest
from nessa.recipe.systems import System, aligned_systems, symmetric_systems, update_cells
from nessa.report import write_report
from nessa.report.calibration import (
    calibration_section,
    histogram_plot,
    reliability_curve,
    reliability_plot,
)
from nessa.report.decision import decide, judge_update
from nessa.report.fleet import fleet_plot, update_strategies
from nessa.report.identification import identification_section
from nessa.report.page import headlines, write_page
from nessa.report.plots import (
    det_curve,
    det_plot,
    gains_plot,
    min_dcf_point,
)
from nessa.report.runs import compare_runs
from nessa.report.sentences import compare_systems, nessa_cost, relative_change, verdicts
from nessa.report.studies import study_plots
from nessa.report.summary import rivals, summary_page
from nessa.report.tables import format_records, markdown_table
from nessa.schema import save_yaml
from nessa.trials import Trials
from tests.conftest import ROOT, Command
from tests.pairs import two_views, write_system

MINI = ROOT / "recipes/mini/recipe.yaml"
ENCODER = {"architecture": "tdnn", "channels": 8, "dim": 8, "steps": 1, "loss": {"type": "aam"}}
# How far apart targets and non-targets are, in standard deviations of the scores.
SEPARATION = {"logit": 1.0, "procrustes": 1.5, "nessa": 2.5}


def make_recipe(**changes: Any) -> Recipe:
    settings = {
        "name": "toy",
        "corpus": {"program": "mini"},
        "prepare": {"program": "voxceleb"},
        "encoders": {"v1": ENCODER, "v2": ENCODER},
        "update": ("v1", "v2"),
        "aligner": {"seeds": (5, 6, 7)},
        "evaluation": {"bootstrap_draws": 20},
    }
    return Recipe.model_validate(settings | changes)


def record(aligner: str, enroll: str, runtime: str, **changes: Any) -> dict[str, Any]:
    return {
        "recipe": "toy",
        "aligner": aligner,
        "enroll": enroll,
        "runtime": runtime,
        "trials": "single",
        "targets": 100,
        "nontargets": 900,
        "seed": None,
        "eer": 0.1,
        "eer_ci": [0.08, 0.12],
        "min_dcf": 0.5,
        "min_dcf_ci": [0.4, 0.6],
        "gain": 0.5,
        "gain_ci": [0.3, 0.7],
        "controlled_gain": 0.2,
        "controlled_gain_ci": [0.1, 0.25],
        "act_dcf": 0.6,
        "cllr": 0.4,
        "min_cllr": 0.3,
        "as_norm": None,
    } | changes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An eval set of 12 speakers with single-utterance and profile trials."""
    data = tmp_path_factory.mktemp("data")
    utt2spk = {f"s{s:02d}-x-{u}": f"s{s:02d}" for s in range(12) for u in range(5)}
    write_table(data / "eval" / "utt2spk", utt2spk)
    tests = [utterance for utterance in utt2spk if utterance[-1] >= "3"]
    profiles = {f"{speaker}-p3-0": speaker for speaker in sorted(set(utt2spk.values()))}
    members = {p: " ".join(f"{s}-x-{u}" for u in range(3)) for p, s in profiles.items()}
    write_table(data / "eval" / "enroll_map", members)
    for name, enroll in (
        ("trials", [utterance for utterance in utt2spk if utterance[-1] < "3"]),
        ("trials_profile", list(profiles)),
    ):
        pairs = list(product(enroll, tests))
        labels = np.array([first[:3] == second[:3] for first, second in pairs])
        Trials([p[0] for p in pairs], [p[1] for p in pairs], labels).write(data / "eval" / name)
    return data


@pytest.fixture(scope="module")
def evaluated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores and metrics of every system of the toy recipe, which are only read."""
    recipe, exp = make_recipe(), tmp_path_factory.mktemp("evaluated") / "exp"
    rng = np.random.default_rng(0)
    systems = {"symmetric": symmetric_systems(recipe), "asymmetric": aligned_systems(recipe)}
    for system in (s for group in systems.values() for s in group):
        strength = SEPARATION.get(system.aligner.split(".")[0], 1 if system.enroll == "v1" else 4)
        for name in ("trials", "trials_profile"):
            trials = Trials.read(data / "eval" / name)
            scores = strength * trials.labels + rng.standard_normal(len(trials))
            write_system(exp / "scores", system, name, trials, scores.astype(np.float32))
    for name, group in systems.items():
        records = evaluate_systems(recipe, data / "eval", exp / "scores", group)
        write_json(exp / "metrics" / f"{name}.json", records)
    write_json(exp / "metrics" / "identification.json", [])
    return exp


@pytest.fixture
def exp(evaluated: Path, tmp_path: Path) -> Path:
    """The same, to be written to."""
    return shutil.copytree(evaluated, tmp_path / "exp")


class Report(NamedTuple):
    """Where the report was written, and what was said."""

    exp: Path
    text: str


@pytest.fixture(scope="module")
def reported(evaluated: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of the toy recipe and its summary, which are only read."""
    exp = shutil.copytree(evaluated, tmp_path_factory.mktemp("reported") / "exp")
    return Report(exp, write_report(make_recipe(), exp, data, exp / "RESULTS-small.md"))


# ---- tables -------------------------------------------------------------------------------------


def test_values_are_shown_in_percent_with_their_intervals() -> None:
    text = format_records([record("logit", "v2", "v1", eer=0.0234, gain=-1.691)])
    assert "2.34 [8.00, 12.00]" in text
    assert "0.500 [0.400, 0.600]" in text
    assert "-169.1 [30.0, 70.0]" in text
    assert "20.0 [10.0, 25.0]" in text
    assert "single: 100 target, 900 non-target" in text


def test_references_and_undefined_gains() -> None:
    rows = format_records(
        [
            record("raw", "v1", "v1", gain=0.0, gain_ci=[0.0, 0.0]),
            record("raw", "v2", "v2", gain=1.0, gain_ci=[1.0, 1.0]),
            record("logit", "v2", "v1", gain=None, controlled_gain=None),
            *(record("nessa", model, model, seed=5) for model in ("v1", "v2")),
        ]
    ).splitlines()[2:5]
    assert [row.split()[-2:] for row in rows] == [
        ["–", "–"], ["100.0", "–"], ["undefined", "undefined"]
    ]  # fmt: skip


def test_without_controls_there_is_no_controlled_gain() -> None:
    records = [
        record("logit", "v2", "v1", controlled_gain=None),
        *(record("nessa", "v2", "v1", seed=s, controlled_gain=None) for s in (5, 6)),
        record("nessa.mean", "v2", "v1", seed=[5, 6], controlled_gain=None),
    ]
    controls = [record("nessa", model, model, seed=5) for model in ("v1", "v2")]
    for there in ([], controls[:1]):
        text = format_records(records + there)
        assert "ontrolled" not in text and "undefined;" not in text
    text = format_records(records + controls)
    assert "controlled gain %" in text and re.search("50.0, 50.0 +undefined\n", text)
    assert "undefined: the new model's control is not significantly better" in " ".join(
        text.split()
    )


@pytest.mark.parametrize("draw", [format_records, markdown_table])
def test_order_is_raw_then_aligners_by_direction_then_controls(
    draw: Callable[[list[dict[str, Any]]], str],
) -> None:
    shuffled = [
        record("nessa.mean", "v2", "v1", seed=[1, 2]),
        record("nessa", "v1", "v1", seed=1),
        record("nessa", "v2", "v1", seed=1),
        record("nessa", "v2", "v1", seed=2),
        record("nessa", "v1", "v2", seed=1),
        record("logit", "v1", "v2"),
        record("logit", "v2", "v1"),
        record("lda_plda", "v1", "v1"),
        record("lda_plda", "v2", "v2"),
        record("raw", "v1", "v1"),
        record("raw", "v2", "v2"),
        record("raw", "v1", "v1", trials="profile3"),
    ]
    rows = [re.sub(r"[|\s]+", " ", row).strip() for row in draw(shuffled).splitlines()[2:]]
    expected = [
        "raw v1 v1 single",
        "raw v2 v2 single",
        "lda_plda v1 v1 single",
        "lda_plda v2 v2 single",
        "logit v2 v1 single",
        "nessa, mean of 2 v2 v1 single",
        "seeds 1, 2 10.00, 10.00 0.500, 0.500 50.0, 50.0 20.0, 20.0",
        "nessa v1 v2 single",
        "logit v1 v2 single",
        "nessa (control) v1 v1 single",
        "raw v1 v1 profile3",
    ]
    assert len(rows) >= len(expected)
    for row, start in zip(rows, expected, strict=False):
        assert row.startswith(start)


def test_columns_line_up_and_every_markdown_row_has_as_many() -> None:
    records = [record("raw", "v1", "v1"), record("procrustes", "a_long_name", "v1", eer=0.5)]
    lines = markdown_table(records).splitlines()
    assert {line.count("|") for line in lines} == {9}
    assert len({len(line) for line in lines}) == 1
    header, rule, *rows = format_records(records).splitlines()[:4]
    for column in ("enroll", "trials", "minDCF", "recovered"):
        start = header.index(column)
        assert all(row[start] != " " and row[start - 1] == " " for row in (rule, *rows))


def test_legend_explains_only_what_is_there() -> None:
    plain = format_records([record("logit", "v2", "v1")])
    assert "control:" not in plain and "mean:" not in plain and "lda_plda:" not in plain
    one_model = format_records([record("lda_plda", "v1", "v1")])
    assert "lda_plda: one model on both sides" in one_model and "control:" not in one_model
    full = [record("nessa.mean", "v2", "v1", seed=[1, 2]), record("nessa", "v1", "v1", seed=1)]
    assert "control:" in format_records(full) and "mean:" in format_records(full)


# ---- comparisons --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reference", "words"),
    [
        (0.02, 0.04, "50.0 % lower EER"),
        (0.05, 0.04, "25.0 % higher EER"),
        (0.04, 0.04 - 5.6e-17, "0.0 % lower EER"),
        (0.04 - 5.6e-17, 0.04, "0.0 % lower EER"),
        (0.0, 0.0, "same EER, 0 %"),
        (0.01, 0.0, "higher EER than 0 %"),
    ],
)
def test_relative_change(error: float, reference: float, words: str) -> None:
    assert relative_change(error, reference) == words


def test_nessa_stands_with_the_mean_of_its_seeds() -> None:
    records = [
        record("raw", "v1", "v1", eer=0.08),
        record("raw", "v2", "v2", eer=0.02),
        record("logit", "v2", "v1", eer=0.10),
        record("nessa", "v2", "v1", eer=0.01, seed=5),
        record("nessa.mean", "v2", "v1", eer=0.05, seed=[5, 6]),
        record("logit", "v1", "v2", eer=0.10),
        record("nessa", "v1", "v2", eer=0.04, seed=5),
    ]
    assert list(compare_systems(make_recipe(), records)) == [
        "single: new model against old: 75.0 % lower EER",
        "single: NESSA against the logit space: 50.0 % lower EER (v2 enrolls, v1 runs), "
        "60.0 % lower EER (v1 enrolls, v2 runs)",
    ]


def test_one_model_by_plda_is_compared_with_its_cosine() -> None:
    records = [
        record("raw", "v1", "v1", eer=0.08),
        record("raw", "v2", "v2", eer=0.02),
        record("lda_plda", "v1", "v1", eer=0.04),
        record("lda_plda", "v2", "v2", eer=0.021),
    ]
    assert list(compare_systems(make_recipe(), records)) == [
        "single: new model against old: 75.0 % lower EER",
        "single: LDA and PLDA against the cosine, one model: 50.0 % lower EER (v1), "
        "5.0 % higher EER (v2)",
    ]


@pytest.mark.parametrize(
    ("over", "interval", "words", "beaten"),
    [
        (0.012, [0.01, 0.02], "1.20 [1.00, 2.00] points higher", 2),
        (-0.01, [-0.02, 0.01], "1.00 [-1.00, 2.00] points lower", 1),
        (1e-6, [-1e-6, 2e-6], "0.00 [0.00, 0.00] points higher", 1),
        (-5.6e-17, [-0.01, 0.02], "0.00 [-1.00, 2.00] points higher", 1),  # the mean of equal EERs
    ],
)
def test_the_best_rival_may_be_better_than_nessa(
    over: float, interval: list[float], words: str, beaten: int
) -> None:
    rivals = {"logit": (0.05, [0.04, 0.06]), "cca": (over, interval)}
    records = [
        record(name, "v2", "v1", over_nessa=value, over_nessa_ci=ci)
        for name, (value, ci) in rivals.items()
    ]
    (sentence,) = compare_systems(make_recipe(), records)
    assert sentence.startswith("single: v2 enrolls, v1 runs: the best other aligner is cca, whose")
    assert sentence.endswith(f"{words}; NESSA is significantly better than {beaten} of 2")


def test_the_summary_shows_the_best_linear_map_and_the_best_aligner() -> None:
    errors = {"logit": 0.3, "cca": 0.1, "ridge": 0.2, "regression": 0.05, "nessa": 0.01}
    systems = {(name, "v2", "v1"): {"eer": error} for name, error in errors.items()}
    assert rivals(systems, ("v2", "v1")) == ["logit", "cca", "regression"]


def test_households_of_the_ends_and_of_a_size_between_are_shown() -> None:
    home = {"task": "household", "profile": 1, "drawn": "at random", "fnir": 0.1}
    records = [
        {"task": "closed", "profile": 1, "rank1": 0.9, "rank1_ci": [0.8, 1]},
        *({"task": "open", "profile": 1, "fnir": 0.1} for _ in range(2)),
        *(home | {"n": n, "misidentified": 0.1} for n in (2, 3, 4, 6, 8)),
    ]
    shown = re.findall(r"misidentified %, n = (\d)", "\n".join(identification_section(records)))
    assert shown == ["2", "4", "8"]


def test_what_was_not_run_is_not_compared() -> None:
    assert not list(compare_systems(make_recipe(), [record("nessa", "v2", "v1")]))


def test_controls_say_what_a_better_back_end_recovers_alone() -> None:
    records = [
        record("nessa", "v1", "v1", gain=0.3, seed=5),
        record("nessa", "v2", "v2", gain=1.2, seed=5),
    ]
    (sentence,) = compare_systems(make_recipe(), records)
    assert "recovers 30% with v1 on both sides and 120% with v2" in sentence
    records += [
        record("nessa", "v2", "v1", gain=0.9, seed=5),
        record("nessa.mean", "v2", "v1", gain=0.8, seed=[5, 6]),
    ]
    *_, sentence, controlled = compare_systems(make_recipe(), records)
    assert (
        controlled == "single: v2 enrolls, v1 runs: NESSA's controlled gain is 20.0 [10.0, 25.0] %"
    )
    assert "v2 enrolls, v1 runs: NESSA recovers 80%, a better back-end alone 30% " in sentence
    assert "(v1 on both sides); alignment with v2 on one side adds 50 points" in sentence
    records[-1]["gain"] = -1.35
    *_, sentence, _ = compare_systems(make_recipe(), records)
    assert "recovers -135%, " in sentence and sentence.endswith("costs 165 points")
    records[-1]["controlled_gain"] = None
    assert [*compare_systems(make_recipe(), records)][-1].endswith("controlled gain is undefined")
    records = records[:2]
    assert not list(compare_systems(make_recipe(), [{**r, "gain": None} for r in records]))


@pytest.mark.parametrize("controls", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_the_headline_has_both_gains_and_their_intervals(known: bool, controls: bool) -> None:
    unknown = "gain", "gain_ci", "controlled_gain", "controlled_gain_ci"
    gains = {} if known else dict.fromkeys(unknown)
    records = [
        record("raw", "v1", "v1", eer=0.08),
        record("raw", "v2", "v2", eer=0.02),
        record("nessa", "v2", "v1", eer=0.05, seed=5, **gains),
        *(record("nessa", model, model, seed=5) for model in ("v1", "v2") if controls),
    ]
    (line,) = headlines(make_recipe(), records)
    assert line.direction == "v2 enrolls, v1 runs"
    assert (line.eer, line.old_eer, line.new_eer) == ("5.00", "8.00", "2.00")
    if known:
        assert line.recovered == ("50.0 %", "30.0 to 70.0 %")
        assert line.controlled == ("20.0 %", "10.0 to 25.0 %")
    else:
        assert line.recovered == ("undefined", "")
        assert line.controlled == (("undefined", "") if controls else None)


def test_what_is_folded_on_the_page_is_printed(tmp_path: Path) -> None:
    rows = [record("nessa", "v2", "v1", seed=5)]
    write_page(tmp_path / "index.html", make_recipe(), rows, [], [], [], "", {})
    page = (tmp_path / "index.html").read_text()
    printed = page.partition("@media print {")[2].partition("</style>")[0]
    assert "<details>" in page
    assert "details::details-content { content-visibility: visible; }" in printed


def test_the_cost_of_nessa_is_counted_in_multiply_adds(tmp_path: Path) -> None:
    recipe = make_recipe()
    old, new = recipe.update
    for name in recipe.update:
        config = XVectorConfig(
            architecture="tdnn", channels=8, dim=12, loss=LossConfig(type="ge2e"), steps=1
        )
        save_model(tmp_path / "encoders" / name, config, build(config))
    enroll, runtime, speakers = two_views(20, 3)
    aligner = NeuralAligner(dim=6, hidden_dim=10, steps=2).fit(enroll, runtime, speakers)
    aligner.save(tmp_path / "aligners" / "nessa" / f"{new}-{old}")
    first, second = nessa_cost(recipe, tmp_path)
    for line, inputs in ((first, enroll.dim), (second, runtime.dim)):
        multiply_adds = inputs * inputs + inputs * 10 + 10 * 7 + inputs * 6 + 6 * 6
        constants = inputs + 10 + 7 + 5  # a mean, biases, a weight, those of the unit vectors
        assert f"{multiply_adds + constants:,} parameters" in line
        assert f"{multiply_adds:,} multiply-adds" in line
    frames, width = 300, 8  # 3 s; an x-vector network is five layers and an affine one
    layers = 80 * width * 5 + 2 * 3 * width * width + width * width + width * 3 * width
    layers += 2 * 3 * width  # their mean and variance over time
    assert f"of the {frames * layers + 6 * width * 12:,} that" in first
    other = {"third": {**ENCODER, "channels": 64}}  # not in the update, and not needed
    assert nessa_cost(make_recipe(encoders=recipe.encoders | other), tmp_path) == [first, second]


# ---- DET curves ---------------------------------------------------------------------------------


def overlapping(trials: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = np.arange(trials) < trials // 5
    return (3 * labels + rng.standard_normal(trials)).astype(np.float32), labels


def test_det_curve_of_gaussian_scores_is_a_straight_line_through_the_eer() -> None:
    scores, labels = overlapping(200_000)
    p_fa, p_miss = det_curve(Roc.of(scores, labels))
    assert np.all(np.diff(p_fa) <= 0) and np.all(np.diff(p_miss) >= 0)
    middle = (p_fa > -2) & (p_miss > -2)  # beyond, few trials decide
    np.testing.assert_allclose((p_fa + p_miss)[middle], -3, atol=0.1)
    nearest = np.argmin(np.abs(p_fa - p_miss))
    assert p_fa[nearest] == pytest.approx(ndtri(eer(scores, labels)), abs=0.02)
    assert len(p_fa) < 2000


def test_det_curves_end_half_a_trial_of_each_class_from_where_none_errs() -> None:
    labels = np.arange(1010) < 10
    p_fa, p_miss = det_curve(Roc.of(labels + 0.0, labels))
    assert ndtr([p_fa[-1], p_miss[0]]) == pytest.approx([0.5 / 1000, 0.5 / 10])


def test_the_point_of_min_dcf_costs_as_much() -> None:
    scores, labels = overlapping(20_000)
    point = min_dcf_point(Roc.of(scores, labels))
    assert point is not None
    p_fa, p_miss = point
    assert (0.01 * p_miss + 0.99 * p_fa) / 0.01 == pytest.approx(min_dcf(scores, labels))


def test_the_run_is_marked_on_the_curve_of_align_speakers() -> None:
    points = [(50, -0.2), (500, 0.6)]
    curve = [record("nessa", "v1", "v2", value=value, gain=gain) for value, gain in points]
    run = [record("nessa", "v1", "v2", gain=0.7, seed=5)]
    (plot,) = study_plots({"speakers": curve}, run, 800)
    mark = plot.figure.axes[0].lines[-1]
    assert mark.get_label() == "this run: 800 speakers"
    assert mark.get_xdata()[0] == 800 and mark.get_ydata()[0] == pytest.approx(70)
    for unknown in ((run, 0), ([], 800)):
        (plot,) = study_plots({"speakers": curve}, *unknown)
        assert "this run" not in str(plot.figure.axes[0].lines[-1].get_label())


def test_det_curves_are_described_by_the_systems_that_are_drawn() -> None:
    scores, labels = overlapping(100)
    plot = det_plot({"v2 enrolls, v1 runs": {"cca": scores, "nessa": scores}}, labels)
    assert plot.alt.endswith("one panel per update direction: cca, nessa.")


@pytest.mark.slow
def test_plots_are_valid_small_and_reproducible(tmp_path: Path) -> None:
    scores, labels = overlapping(100_000)
    panels = {f"panel {k}": {f"system {c}": scores * (1 + c) for c in range(5)} for k in "ab"}
    for copy in ("first", "second"):
        paths = det_plot(panels, labels).save(tmp_path / copy)
        assert [path.name for path in paths] == ["det.png", "det.svg"]
    png, svg = paths
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert svg.stat().st_size < 500_000
    for path in paths:
        assert path.read_bytes() == (tmp_path / "first" / path.name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0, 1000])
def test_chance_and_perfect_scores_can_be_drawn(strength: float, tmp_path: Path) -> None:
    labels = np.arange(20) < 10
    scores = (strength * labels).astype(np.float32)
    for path in det_plot({"panel": {"system": scores}}, labels).save(tmp_path):
        assert path.stat().st_size > 0


# ---- calibration --------------------------------------------------------------------------------


def calibrated(trials: int, separation: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """True LLRs: means +-separation and variance 2 separation make a Gaussian its own LLR."""
    labels = np.arange(trials) < trials // 5
    noise = np.random.default_rng(2).standard_normal(trials)
    llrs = np.where(labels, separation, -separation) + np.sqrt(2 * separation) * noise
    return llrs.astype(np.float32), labels


def test_reliability_of_true_likelihood_ratios_is_the_diagonal() -> None:
    llrs, labels = calibrated(400_000)
    given, found = reliability_curve(llrs, labels)
    assert np.all(np.diff(given) > 0) and np.all(np.diff(found) > 0)
    middle = np.abs(given) < 4  # beyond, few trials decide
    np.testing.assert_allclose(given[middle], found[middle], atol=0.3)
    given, found = reliability_curve(llrs / 2 + 1, labels)
    middle = np.abs(found) < 4
    np.testing.assert_allclose(given[middle], found[middle] / 2 + 1, atol=0.3)


def test_reliability_of_tied_and_perfect_scores() -> None:
    labels = np.array([True, True, False, False, False])
    given, found = reliability_curve([1.0, 1.0, 1.0, -1.0, -1.0], labels)
    np.testing.assert_allclose(given, [1])
    np.testing.assert_allclose(found, np.log(1 / (1 / 3)))
    given, found = reliability_curve([3.0, 2.0, -1.0, -2.0, -3.0], labels)
    assert len(given) == len(found) == 0  # every ratio is infinite


@pytest.mark.slow
def test_calibration_figures_are_valid_small_and_reproducible(tmp_path: Path) -> None:
    llrs, labels = calibrated(50_000)
    cells = {f"cell {k}": llrs / (k + 1) + k for k in range(4)}
    for copy in ("first", "second"):
        folder = tmp_path / copy
        rows = {"score": cells, "log likelihood ratio": dict.fromkeys(cells, llrs)}
        paths = histogram_plot(rows, labels, 4.6).save(folder)
        paths += reliability_plot({"cosine": cells, "AS-norm": cells}, labels).save(folder)
    for path in paths:
        assert path.read_bytes() == (tmp_path / "first" / path.name).read_bytes()
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
            assert path.stat().st_size < 500_000
        else:
            assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def rows_of(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its header."""
    lines = page.partition(f"## {heading}")[2].partition("\n## ")[0].splitlines()
    table = [line for line in lines if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


@pytest.mark.slow
def test_the_page_has_the_four_cells_and_one_threshold_for_them(reported: Report) -> None:
    recipe, exp = make_recipe(), reported.exp
    page = (exp / "report" / "results.md").read_text()
    results = read_json(exp / "results.json")
    rows = rows_of(page, "Calibration")
    assert [row[:4] for row in rows[2:10]] == [
        [cell.enroll, cell.runtime, cell.aligner, kind]
        for cell in update_cells(recipe)
        for kind in ("cosine", "AS-norm")
    ]
    (first,) = [r for r in results if r["aligner"] == "nessa" and r["seed"] == 5
                and (r["trials"], r["enroll"], r["runtime"]) == ("single", "v2", "v1")]  # fmt: skip
    names = "min_cllr", "cllr", "min_dcf", "act_dcf"
    assert rows[4][4:] == [f"{first[name]:.3f}" for name in names]
    assert rows[5][4:] == [f"{first['as_norm'][name]:.3f}" for name in names]
    costs = read_json(exp / "metrics" / "thresholds.json")
    assert [(c["scores"], c["calibrated"]) for c in costs] == list(
        product(("cosine", "as-norm"), (False, True))
    )
    for row, cost in zip(rows[12:], costs, strict=True):
        assert row[2:4] == [f"{cost['own']:.3f}", f"{cost['common']:.3f}"]
        assert cost["own"] <= cost["common"] <= 1


@pytest.mark.parametrize(
    ("own", "common", "more"), [(0.2, 0.3, "+50.0%"), (0, 0, "+0.0%"), (0, 0.3, "undefined")]
)
def test_what_one_threshold_costs_more_than_nothing_is_undefined(
    own: float, common: float, more: str
) -> None:
    recipe = make_recipe()
    cells = [record(*cell, seed=5 if cell.aligner == "nessa" else None)
             for cell in update_cells(recipe)]  # fmt: skip
    records = [cell | {"as_norm": cell} for cell in cells]
    costs = {"scores": "cosine", "calibrated": False, "own": own, "common": common, "bayes": None}
    page = "\n".join(calibration_section(recipe, records, [costs]))
    assert rows_of(page, "Calibration")[-1][4] == more


@pytest.mark.slow
def test_the_page_shows_as_norm_beside_cosine(reported: Report) -> None:
    rows = rows_of((reported.exp / "report" / "results.md").read_text(), "Score normalization")[2:]
    # Two raw, 2 x (logit, procrustes, one seed), two controls, on two kinds of trials.
    assert len(rows) == 2 * (2 + 2 * 3 + 2)
    assert [row[0] for row in rows[:4]] == ["raw", "raw", "logit", "procrustes"]


# ---- verdicts, and the run on one page ----------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "interval", "words", "go"),
    [
        (
            0.5,
            [0.3, 0.7],
            "GO: enrolling by the new model beside the old runtime model lowers",
            True,
        ),
        (0.1, [-0.1, 0.3], "NO-GO: enrolling by the new model", False),
        (-0.4, [-0.6, -0.2], "raises the EER: 5.00", False),
    ],
)
def test_one_side_is_updated_only_where_it_helps_for_sure(
    gain: float | None, interval: list[float] | None, words: str, go: bool
) -> None:
    records = [
        record("raw", "v1", "v1", eer=0.08),
        record("raw", "v2", "v2", eer=0.02),
        record("nessa", "v2", "v1", eer=0.05, gain=gain, gain_ci=interval),
    ]
    verdict = judge_update(make_recipe(), records, ("v2", "v1"))
    assert verdict is not None and verdict.go == go and words in str(verdict)
    assert judge_update(make_recipe(), records, ("v1", "v2")) is None
    records[-1]["under_old_ci"] = [-0.01, 0.04]  # a gain leaves draws out, this does not
    verdict = judge_update(make_recipe(), records, ("v2", "v1"))
    assert verdict is not None and not verdict.go and "may not lower the EER" in verdict.why


@pytest.mark.parametrize(
    ("under_old", "words"),
    [
        ([0.05, 0.09], "GO: the new runtime model beside the old profiles lowers the EER: 1.00 ["),
        ([-0.01, 0.02], "NO-GO: the new runtime model beside the old profiles may not lower the"),
        ([-0.02, -0.01], "NO-GO: the new runtime model beside the old profiles raises the EER: 1"),
        (None, "NO-GO: the new runtime model beside the old profiles may not lower the EER: 1.00"),
    ],
)
def test_an_update_is_judged_by_its_own_eer_where_re_enrolling_gains_nothing_for_sure(
    under_old: list[float] | None, words: str
) -> None:
    known = {"under_old_ci": under_old} if under_old else {}  # unknown in earlier metrics
    records = [
        record("raw", "v1", "v1", eer=0.08),
        record("raw", "v2", "v2", eer=0.07),
        record("nessa", "v1", "v2", eer=0.01, gain=None, gain_ci=None, **known),
    ]
    verdict = judge_update(make_recipe(), records, ("v1", "v2"))
    assert verdict is not None and str(verdict).startswith(words)
    assert "; the gain of re-enrolling (7.00 [8.00, 12.00] %) cannot be told" in verdict.why
    records[1] |= {"eer": 0.12, "under_old_ci": [-0.06, -0.02]}
    verdict = judge_update(make_recipe(), records, ("v1", "v2"))
    assert verdict is not None and str(verdict).startswith(words)
    assert verdict.why.endswith("; re-enrolling raises it (12.00 [8.00, 12.00] %)")


@pytest.mark.parametrize(
    ("speakers", "gain", "said"),
    [
        (700, -0.1, "does not tell how many would be enough: give some hundreds, better 1,000 or"),
        (7000, -0.1, "of the 7,000 align speakers does not tell how many would be enough."),
        (700, None, " cannot be told"),  # by however many
    ],
)
def test_more_speakers_are_asked_for_where_more_may_help(
    speakers: int, gain: float | None, said: str
) -> None:
    systems = ("raw", "v1", "v1"), ("raw", "v2", "v2"), ("nessa", "v1", "v2")
    records = [record(*system, gain=gain, gain_ci=gain and [-0.3, 0.1]) for system in systems]
    curve = [record("nessa", "v1", "v2", value=n, gain=gain) for n in (100, 500, speakers)]
    decision = decide(make_recipe(), records, curve)
    assert not decision.go and said in str(decision)
    assert ("does not tell" in str(decision)) == (gain is not None)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"step": 40, "start": "PLDA", "weights": {"PLDA": 1.0}}, None),
        (
            {"step": 0, "start": "PLDA", "weights": {"PLDA": 0.7, "CCA": 0.3}},
            "as it starts, PLDA and CCA: training gains nothing on dev beyond noise",
        ),
        (
            {
                "step": 0,
                "start": "PLDA",
                "weights": {"CCA": 0.3},
            },  # though training may have gained
            "as it starts, CCA: the part that was trained adds nothing to the score on dev",
        ),
        ({"step": 0, "start": "CCA"}, "as it starts, CCA: training gains nothing"),  # a cosine
    ],
)
def test_why_nessa_is_as_it_starts(found: dict[str, Any], said: str | None, tmp_path: Path) -> None:
    aligner = NeuralAligner(steps=1, hidden_dim=0, start="cca").fit(*two_views(10, 3))
    recipe = make_recipe()
    for pair in recipe.pairs:
        aligner.fitting = found
        aligner.save(aligner_dir(tmp_path, System("nessa", *pair)))
    sentences = list(verdicts(recipe, tmp_path))
    assert len(sentences) == (2 if said else 0) and all(str(said) in one for one in sentences)


def test_raw_embeddings_of_two_models_are_drawn_as_an_aligner_is() -> None:
    symmetric = [record("raw", model, model) for model in ("v1", "v2")]
    assert gains_plot(symmetric) is None
    plot = gains_plot([*symmetric, record("raw", "v2", "v1"), record("cca", "v2", "v1")])
    assert plot is not None
    names = [label.get_text() for label in plot.figure.axes[0].get_yticklabels()]
    assert names == ["raw", "cca"]


def test_the_update_strategies_are_drawn_in_order(tmp_path: Path) -> None:
    records = [
        record("nessa", "v2", "v2", eer=0.01),
        record("nessa", "v1", "v2", eer=0.04),
        record("raw", "v2", "v2", eer=0.02),
        record("raw", "v1", "v1", eer=0.08),
        record("raw", "v1", "v1", eer=0.03, trials="profile3"),
    ]
    strategies = list(update_strategies(make_recipe(), records))
    assert [(one.name, one.record["eer"]) for one in strategies] == [
        ("do not update", 0.08),
        ("v1 enrolls, v2 runs", 0.04),
        ("v2 on both sides", 0.01),
        ("re-enroll all speakers", 0.02),
    ]
    svg = fleet_plot(strategies).save(tmp_path)[1]
    assert svg.stat().st_size < 60_000


@pytest.mark.slow
def test_the_run_on_one_page(reported: Report) -> None:
    exp = reported.exp
    page = (exp / "RESULTS-small.md").read_text()
    assert page.startswith("# Results of recipe toy\n") and page.count("\n") <= 60
    assert "./run.sh" not in page, "of a recipe that is not in recipes/"
    assert "(RESULTS-small.svg)" in page and (exp / "RESULTS-small.svg").is_file()
    whole = (exp / "report" / "results.md").read_text()
    rows = [re.split(r" *\| *", line)[1:] for line in page.splitlines() if line.startswith("|")]
    assert rows[0][:5] == ["system", "enroll", "runtime", "trials", "EER %"]
    for row in rows[2:]:
        assert re.search(r" *\| *".join(map(re.escape, row[:-1])), whole)
    single = [row[:3] for row in rows if row[3] == "single"]
    assert ["logit", "v2", "v1"] in single and ["procrustes", "v1", "v2"] in single
    assert [row[0] for row in rows if row[3] == "profile3"] == ["raw"] * 2 + [
        "nessa, mean of 3"
    ] * 2
    assert len(re.findall(r"^- (?:NO-)?GO: ", page, re.M)) == 2


@pytest.mark.parametrize(
    ("aligners", "controls", "named"),
    [
        (["logit", "cca"], 2, "the logit space, the best linear map, the best of all others, "),
        (["cca"], 2, "the best linear map, the best of all others, "),
        (["regression"], 0, "the best of all others, "),
        (["raw"], 0, "the best linear map, the best of all others, "),
        ([], 0, ""),
    ],
)
def test_the_legend_of_the_page_explains_what_is_in_its_table(
    aligners: list[str], controls: int, named: str
) -> None:
    recipe, gains = make_recipe(), {"controlled_gain": None} if not controls else {}
    systems = [("raw", model, model) for model in recipe.update]
    systems += [(name, "v2", "v1") for name in (*aligners, "nessa")]
    systems += [("nessa", model, model) for model in recipe.update][:controls]
    records = [record(*system, **gains) for system in systems]
    page = summary_page(recipe, records, [], {"seed": "1"}, "", "RESULTS.svg")
    assert "\n\n[low, high]: 95 % interval of a joint speaker bootstrap. minDCF: p_t" in page
    assert f" Aligners: {named}NESSA.\n" in page
    assert ("; controlled gain: the same between NESSA's controls, " in page) == bool(controls)


# ---- the whole report ---------------------------------------------------------------------------


def test_a_list_is_one_of_profiles_by_its_whole_name() -> None:
    names = ("low-profile", "profile3", "words.profile3")
    rows = [record("nessa", *pair, trials=t) for t in names for pair in (("v1", "v2"), ("v1",) * 2)]
    page = summary_page(make_recipe(), rows, [], {}, "", "x.svg")
    controls = [line for line in page.splitlines() if line.startswith("| nessa (control)")]
    assert len(controls) == 1 and "| low-profile" in controls[0]


@pytest.mark.parametrize(
    ("size", "overrides", "command"),
    [
        ("", [], "\n./run.sh --recipe mini\nnessa report"),
        ("tiny", [], "\n./run.sh --recipe mini --size tiny\nnessa report"),
        (
            "tiny",
            ["corpus.paths.speech=/somewhere"],
            "\n./run.sh --recipe mini --size tiny --set corpus.paths.speech=DIR\nnessa report",
        ),
        ("tiny", ["aligner.dim=3"], "```sh\nnessa report"),
        ("mine", [], "```sh\nnessa report"),  # a page of another name, not of a size
    ],
)
def test_the_command_of_a_run_is_shown_where_it_makes_that_run(
    size: str, overrides: list[str], command: str
) -> None:
    recipe = resolve(MINI, "tiny" if size == "tiny" else None, overrides)
    rows = [record("nessa", "new", "old")]
    page = summary_page(recipe, rows, [], {}, size, "x.svg")
    assert command in page
    known = ", size tiny" if size == "tiny" and "run.sh" in page else ""
    assert page.startswith(f"# Results of recipe mini{known}\n")


def test_sets_in_another_order_are_another_run() -> None:
    sets = resolve(MINI).corpus.model_dump()["sets"]
    reordered = f"corpus.sets={dict(reversed(sets.items()))}"
    recipe = resolve(MINI, overrides=["corpus.sets={}", reordered])
    page = summary_page(recipe, [record("nessa", "new", "old")], [], {}, "", "x.svg")
    assert "run.sh" not in page


@pytest.mark.slow
def test_report_gathers_everything(reported: Report) -> None:
    recipe, (exp, text) = make_recipe(), reported
    results = read_json(exp / "results.json")
    for name in ("symmetric", "asymmetric"):
        assert all(r in results for r in read_json(exp / "metrics" / f"{name}.json"))
    assert {r["trials"] for r in results} == {"single", "profile3"}
    # Two raw, 2 x (logit, procrustes, 3 seeds, their mean), two controls, on two kinds of trials.
    assert len(results) == 2 * (2 + 2 * 6 + 2)
    assert [r["aligner"] for r in results[:2]] == ["raw", "raw"]
    assert results[0].keys() >= {"recipe", "seed", "eer_ci", "min_dcf_ci", "gain_ci"}
    assert all(0 <= r["eer"] <= 0.5 for r in results)
    page = (exp / "report" / "results.md").read_text()
    assert markdown_table(results) in page and "run.sh" not in page
    assert "![" in page and "(det.svg)" in page
    assert str(exp) not in page  # the page can be copied to another machine
    for comparison in compare_systems(recipe, results):
        assert comparison in page and comparison in text
    answer, _, below = (exp / "report" / "index.html").read_text().partition('<section id="gain">')
    cards = answer.split('<div class="card">')[1:]
    for card, line in zip(cards, headlines(recipe, results), strict=True):
        assert line.verdict is not None and line.verdict.why in card
    cards = below.split('<div class="card">')[1:]
    for card, line in zip(cards, headlines(recipe, results), strict=True):
        for gain in (line.recovered, line.controlled):
            assert gain is not None and gain.value in card and gain.interval in card
    for path in ("results.json", "report/results.md", "report/det.png", "report/det.svg"):
        assert str(exp / path) in text and (exp / path).stat().st_size > 0


@pytest.mark.slow
def test_a_main_list_of_profiles_is_not_said_to_be_of_single_utterances(
    exp: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    own = read_table(data / "eval/utt2spk")
    write_table(tmp_path / "data/eval/enroll_map_given", {u: u for u in own})
    write_report(make_recipe(), exp, tmp_path / "data")
    for page in ("results.md", "index.html"):
        text = (exp / "report" / page).read_text()
        assert "main trials" in text.lower() and "single: the main list" in text
        assert not re.search("single.utterance", text, re.IGNORECASE)


@pytest.mark.slow
def test_the_star_on_the_curve_counts_no_copies_and_is_of_the_trials_of_the_curve(
    exp: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    align = {"a-1": "a", "b-1": "b"}
    copies = {f"voice1-{u}": f"voice1-{s}" for u, s in align.items()}
    write_table(tmp_path / "data/align/utt2spk", align | copies)
    write_table(tmp_path / "data/align/utt2copy", {u: f"voice1 {u[7:]}" for u in copies})
    recipe = make_recipe()
    curve = [record("nessa", "v2", "v1", label=f"{n} speakers", value=n) for n in (1, 2)]
    study = {
        "study": "speakers",
        "digest": study_digest("speakers", recipe, tmp_path / "data", exp),
        "records": curve,
    }
    write_json(exp / "studies/speakers.json", study)
    write_report(recipe, exp, tmp_path / "data")
    figure = exp / "report/study_speakers.svg"
    assert "<!-- this run: 2 speakers -->" in figure.read_text()
    own = read_table(data / "eval/utt2spk")  # profiles, which studies pass over
    write_table(tmp_path / "data/eval/enroll_map_given", {u: u for u in own})
    write_report(recipe, exp, tmp_path / "data")
    assert "this run" not in figure.read_text()


@pytest.mark.slow
def test_report_has_the_same_bytes_again(reported: Report, data: Path, tmp_path: Path) -> None:
    files = ["results.json", "metrics/thresholds.json", "report/results.md"]
    files += [
        f"report/{n}.{s}" for n in ("det", "calibration", "reliability") for s in ("png", "svg")
    ]
    again = shutil.copytree(reported.exp, tmp_path / "exp")
    write_report(make_recipe(), again, data)
    for name in files:
        assert (again / name).read_bytes() == (reported.exp / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["symmetric", "asymmetric"])
def test_missing_metrics_name_the_stage_and_nothing_is_written(
    name: str, exp: Path, data: Path
) -> None:
    (exp / "metrics" / f"{name}.json").unlink()
    with pytest.raises(InputError, match=rf"{name}\.json: .*run \./run\.sh --stage {name}"):
        write_report(make_recipe(), exp, data)
    assert not (exp / "report").exists() and not (exp / "results.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(9,), (6, 5)])
def test_metrics_of_other_seeds_are_refused_before_anything_is_written(
    seeds: tuple[int, ...], exp: Path, data: Path
) -> None:
    recipe = make_recipe(aligner={"seeds": seeds})
    said = rf"asymmetric\.json: .* seed 5.*aligner\.seeds.* {seeds[0]};.*--stage align"
    with pytest.raises(InputError, match=said):
        write_report(recipe, exp, data)
    assert not (exp / "results.json").exists() and not (exp / "report").exists()


def test_the_recipe_of_another_run_is_refused_before_anything_is_written(
    tmp_path: Path, nessa: Command
) -> None:
    exp, other = tmp_path / "exp", tmp_path / "other.yaml"
    save_yaml(exp / "recipe.yaml", make_recipe())
    save_yaml(other, make_recipe(seed=2))
    words = "report", "--exp", exp, "--data", tmp_path, "--recipe"
    nessa(*words, other).refused(f"the run in {exp} is not of this recipe; give {exp}/recipe.yaml")
    assert sorted(path.name for path in exp.iterdir()) == ["recipe.yaml"]
    nessa(*words, exp / "recipe.yaml").refused("symmetric.json: no such file")
    where = "--exp", exp, "--data", tmp_path, "--recipe", other
    for name in ("rollout", "durations"):  # of the run's own results
        refused = nessa("study", name, *where)
        refused.refused(f"the run in {exp} is not of this recipe; give {exp}/recipe.yaml")
    fitted = nessa("study", "speakers", *where)  # anew, for a question that the run does not answer
    fitted.refused(f"{exp}/embeddings/v1/align: no such file")
    assert f"the run in {exp} is not of this recipe: nessa report will not show" in fitted.err


def test_metrics_and_scores_of_other_settings_are_used_with_a_warning(
    tmp_path: Path, nessa: Command
) -> None:
    """As after `./run.sh --set aligner.hidden_dim=48 --stage report` in a finished run."""
    exp = tmp_path / "exp"
    for name in METRICS:
        write_circumstances(exp / "metrics" / f"{name}.json", make_recipe())
    save_yaml(exp / "recipe.yaml", make_recipe(aligner={"seeds": [5], "hidden_dim": 48}))
    words = "--exp", exp, "--data", tmp_path, "--recipe", exp / "recipe.yaml"
    said = f"{exp}/metrics/asymmetric.json: made with other settings"
    for command in (("report",), ("study", "rollout")):
        lacking = nessa(*command, *words)
        lacking.refused("no such file")
        assert said in lacking.err and "metrics/symmetric.json: made with" not in lacking.err
    (exp / "metrics/asymmetric.recipe.yaml").unlink()  # as of an earlier version
    assert said not in nessa("report", *words).err


@pytest.mark.slow
def test_the_pages_tell_the_settings_of_metrics_made_with_others(
    exp: Path, data: Path, nessa: Command
) -> None:
    made, recipe = make_recipe(), make_recipe(scoring={"top_n": 7})
    for name, own in (("symmetric", made), ("asymmetric", recipe)):
        write_circumstances(exp / "metrics" / f"{name}.json", own)
    save_yaml(exp / "recipe.yaml", recipe)
    words = "--recipe", exp / "recipe.yaml", "--exp", exp, "--data", data
    assert nessa("report", *words, "--results", exp / "RESULTS.md").status == 0
    told = f"metrics of other settings: symmetric (digest {stage_digest(made, 'report')[:12]})"
    for page in ("report/results.md", "RESULTS.md"):
        text = (exp / page).read_text()
        assert told in text and stage_digest(recipe, "report")[:12] in text
    assert told.partition(": ")[2] in (exp / "report/index.html").read_text()


def test_a_results_page_that_cannot_be_is_refused_before_any_work(
    tmp_path: Path, nessa: Command
) -> None:
    recipe, page = tmp_path / "recipe.yaml", tmp_path / "RESULTS"
    save_yaml(recipe, make_recipe())
    page.mkdir()
    words = "report", "--exp", tmp_path, "--data", tmp_path, "--recipe", recipe, "--results"
    nessa(*words, page).refused(f"{page}: is a folder; name a file in it")
    nessa(*words, recipe).refused(f"{recipe}: is --recipe as well", "give another --results")
    assert sorted(tmp_path.iterdir()) == [page, recipe]


@pytest.mark.slow
@pytest.mark.parametrize("content", [{}, [3], [{"eer": 0.1}]])
def test_other_json_is_refused(content: Any, exp: Path, data: Path) -> None:
    write_json(exp / "metrics" / "symmetric.json", content)
    with pytest.raises(InputError, match=r"symmetric\.json: .*stage symmetric"):
        write_report(make_recipe(), exp, data)


@pytest.mark.slow
def test_missing_scores_are_named(exp: Path, data: Path) -> None:
    path = score_file(exp / "scores", System("logit", "v1", "v2"), "trials")
    path.unlink()
    with pytest.raises(InputError, match=re.escape(str(path))):
        write_report(make_recipe(), exp, data)


# --- several runs -------------------------------------------------------------------------------


def test_runs_stand_side_by_side(nessa: Command, tmp_path: Path) -> None:
    first = [record("nessa", "v1", "v2", eer=0.05, gain=0.8), record("raw", "v1", "v1", gain=0.0)]
    write_json(tmp_path / "one/exp/results.json", first)
    second = record("nessa", "v1", "v2", gain=None)
    del second["controlled_gain"]  # of an earlier version
    write_json(tmp_path / "two/exp/results.json", [second])
    done = nessa("report", tmp_path / "one", tmp_path / "two/exp")
    assert done.status == 0, done.err
    lines = [re.split(r"  +", line.strip()) for line in done.out.splitlines()]
    assert lines[0] == ["system", "enroll", "runtime", "trials", "one", "two"]
    assert ["nessa", "v1", "v2", "single", "5.00, 80.0 %, 20.0 %", "10.00, undefined, –"] in lines
    assert ["raw", "v1", "v1", "single", "10.00, 0.0 %, –", "–"] in lines
    assert lines[-1] == ["Each cell: EER %, recovered gain, controlled gain."]
    write_json(tmp_path / "three/results.json", [record("nessa", "v1", "v2", controlled_gain=None)])
    assert "10.00, 50.0 %, –" in compare_runs([tmp_path / "three"])
    assert nessa("report", tmp_path / "one", "--markdown").out.startswith("| system")
    nessa("report", tmp_path / "none").refused("none: no results.json", "stage report")
    nessa("report", tmp_path / "one", tmp_path / "one").refused("named twice")
    assert nessa("report", tmp_path / "one", "--exp", tmp_path).status == 2
    write_json(tmp_path / "bad/results.json", [{"eer": 1}])
    nessa("report", tmp_path / "bad").refused("bad/results.json: not the results")


def test_runs_are_compared_by_the_first_seed_and_the_mean(tmp_path: Path) -> None:
    seeds = [record("nessa", "v2", "v1", seed=s, eer=e) for s, e in ((5, 0.05), (6, 0.09))]
    mean = record("nessa.mean", "v2", "v1", seed=[5, 6], eer=0.07)
    write_json(tmp_path / "results.json", [*seeds, mean])
    lines = [re.split(r"  +", line) for line in compare_runs([tmp_path]).splitlines()]
    found = {line[0]: line[4].split(",")[0] for line in lines[2:] if len(line) > 4}
    assert found == {"nessa": "5.00", "nessa, mean of 2": "7.00"}


def test_means_of_seeds_share_a_row_whatever_their_number_and_whether_they_are_alike(
    tmp_path: Path,
) -> None:
    runs = [tmp_path / name for name in ("one", "two", "three")]
    for run, seeds, alike in zip(
        runs, ([1, 2, 3], [1, 2, 3], [1]), (False, True, True), strict=True
    ):
        row = record("nessa.mean", "v2", "v1", seed=seeds, alike=alike)
        write_json(run / "results.json", [row])
    rows = [re.split(r"  +", line) for line in compare_runs(runs).splitlines()[2:-2]]
    assert [row[:4] for row in rows] == [["nessa, mean", "v2", "v1", "single"]]
    (row,) = (re.split(r"  +", line) for line in compare_runs(runs[:1]).splitlines()[2:-2])
    assert row[0] == "nessa, mean of 3"


@pytest.mark.slow
def test_the_machine_is_that_of_the_metrics(exp: Path, data: Path) -> None:
    for name, machine in (("symmetric", "alpha with 3 cores"), ("asymmetric", "beta with 5 cores")):
        where = {"Machine": machine, "Versions": "Python 2"}
        write_json(exp / "metrics" / f"{name}.machine.json", where)
    write_report(make_recipe(), exp, data)
    for page in ("results.md", "index.html"):
        text = (exp / "report" / page).read_text()
        assert "alpha with 3 cores; beta with 5 cores" in text and "Python 2" in text
        assert platform.python_version() not in text
    write_circumstances(exp / "metrics/symmetric.json", make_recipe())
    here = read_circumstances([exp / "metrics/symmetric.json"])
    assert platform.machine() in here["Machine"] and "torch" in here["Versions"]
