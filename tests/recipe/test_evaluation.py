"""Evaluation: records agree with the metrics of the same scores, computed directly."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nessa.errors import InputError
from nessa.files import write_table
from nessa.metrics.bootstrap import bootstrap
from nessa.metrics.roc import Roc, act_dcf, cllr, eer, min_cllr, min_dcf
from nessa.metrics.table import METRICS, Metric
from nessa.recipe.config import Recipe
from nessa.recipe.evaluation import evaluate_systems
from nessa.recipe.layout import AS_NORM, score_file
from nessa.recipe.resolve import resolve
from nessa.recipe.systems import System, has_as_norm
from nessa.report.tables import format_records, markdown_table, normalization_section
from nessa.text import percent, with_interval
from nessa.trials import Trials
from tests.conftest import ROOT
from tests.pairs import all_trials, two_views, write_system

OLD, NEW = System("raw", "old", "old"), System("raw", "new", "new")
LOGIT = System("logit", "new", "old")
NESSA, NESSA2 = System("nessa", "new", "old"), System("nessa.seed5", "new", "old")
CONTROLS = System("nessa", "old", "old"), System("nessa", "new", "new")
NOISE = {OLD: 1.0, NEW: 0.2, LOGIT: 2.0, NESSA: 0.5, NESSA2: 0.6}
NOISE |= dict(zip(CONTROLS, (0.9, 0.3), strict=True))
DRAWS, SEED = 40, 7


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    changes = [f"evaluation={{bootstrap_draws: {DRAWS}, seed: {SEED}}}", "aligner.seeds=[11, 5]"]
    return resolve(ROOT / "recipes/mini/recipe.yaml", "tiny", changes)


class EvalSet:
    """A set of 15 speakers with single trials, profiles of 1 and 2 utterances, and toy scores."""

    def __init__(self, folder: Path) -> None:
        self.directory, self.scores = folder / "eval", folder / "scores"
        _, _, self.utt2spk = two_views(15, 3)
        write_table(self.directory / "utt2spk", self.utt2spk)
        single = all_trials(self.utt2spk)
        single.write(self.directory / "trials")
        self.lists = {"trials": single, "trials_profile": self._write_profiles()}
        for system, noise in NOISE.items():
            for name, trials in self.lists.items():
                self.write(system, name, self.draw(trials, noise))

    def _write_profiles(self) -> Trials:
        keys, profiles, trials = list(self.utt2spk), {}, []
        for first in range(0, len(keys), 3):
            speaker = self.utt2spk[keys[first]]
            for size in (1, 2):
                profile = f"{speaker}-p{size}-0"
                profiles[profile] = " ".join(keys[first : first + size])
                tests = [keys[first + 2], *(k for k in keys if self.utt2spk[k] != speaker)]
                trials += [(profile, key, self.utt2spk[key] == speaker) for key in tests]
        write_table(self.directory / "enroll_map", profiles)
        enroll, test, labels = zip(*trials, strict=True)
        listed = Trials(list(enroll), list(test), np.array(labels))
        listed.write(self.directory / "trials_profile")
        return listed

    @staticmethod
    def draw(trials: Trials, noise: float) -> np.ndarray:
        rng = np.random.default_rng(round(10 * noise))
        return (trials.labels + noise * rng.standard_normal(len(trials))).astype(np.float32)

    def write(self, system: System, list_name: str, scores: np.ndarray) -> None:
        write_system(self.scores, system, list_name, self.lists[list_name], scores)

    def evaluate(self, recipe: Recipe, *systems: System) -> list[dict]:
        return evaluate_systems(recipe, self.directory, self.scores, systems)


@pytest.fixture
def eval_set(tmp_path: Path) -> EvalSet:
    return EvalSet(tmp_path)


def of(records: list[dict], trials: str = "single") -> list[dict]:
    return [record for record in records if record["trials"] == trials]


def test_records_are_the_metrics_of_the_scores(eval_set: EvalSet, recipe: Recipe) -> None:
    records = eval_set.evaluate(recipe, OLD, NEW, LOGIT)
    single, profile = eval_set.lists["trials"], eval_set.lists["trials_profile"]
    sizes = np.array([int(name.split("-p")[1][0]) for name in profile.enroll])
    chosen = {
        "single": (single, np.ones(len(single), bool)),
        "profile1": (profile, sizes == 1),
        "profile2": (profile, sizes == 2),
    }
    assert {record["trials"] for record in records} == chosen.keys()
    for condition, (trials, rows) in chosen.items():
        labels = trials.labels[rows]
        for record, system in zip(of(records, condition), (OLD, NEW, LOGIT), strict=True):
            scores = eval_set.draw(trials, NOISE[system])[rows]
            assert record["eer"] == eer(scores, labels)
            assert record["min_dcf"] == min_dcf(scores, labels)
            assert (record["targets"], record["nontargets"]) == (labels.sum(), (~labels).sum())
            assert (record["aligner"], record["enroll"], record["runtime"]) == system
            llrs = np.float32(3 * scores - 1)  # what write_system says of them
            assert record["act_dcf"] == act_dcf(llrs, labels)
            assert (record["cllr"], record["min_cllr"]) == (
                cllr(llrs, labels),
                min_cllr(llrs, labels),
            )
            assert record["recipe"] == "mini"
            assert record["seed"] is None


def test_intervals_come_from_the_joint_speaker_bootstrap(eval_set: EvalSet, recipe: Recipe) -> None:
    trials = eval_set.lists["trials"]
    sides = [[eval_set.utt2spk[name] for name in side] for side in (trials.enroll, trials.test)]
    scores = [eval_set.draw(trials, NOISE[system]) for system in (OLD, NEW, LOGIT)]
    drawn = bootstrap(scores, trials.labels, *sides, draws=DRAWS, seed=SEED)
    records = of(eval_set.evaluate(recipe, OLD, NEW, LOGIT))
    for record, estimates in zip(records, drawn, strict=True):
        assert record["eer_ci"] == list(estimates["eer"].interval)
        assert record["min_dcf_ci"] == list(estimates["min_dcf"].interval)
        assert record["eer_ci"][0] <= record["eer"] <= record["eer_ci"][1]


def misses_at_1_percent_false_alarms(roc: Roc) -> float:
    return float(roc.p_miss[np.argmax(roc.p_fa <= 0.01)])


@pytest.mark.slow
def test_a_metric_is_a_function_and_a_line_of_the_registry(
    eval_set: EvalSet, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = eval_set.evaluate(recipe, OLD, NEW, LOGIT, NESSA, NESSA2)
    new = Metric(
        "miss_at_1", "miss at 1 % FA", "miss rate", misses_at_1_percent_false_alarms, rate=True
    )
    monkeypatch.setattr("nessa.metrics.table.METRICS", (*METRICS, new))
    records = eval_set.evaluate(recipe, OLD, NEW, LOGIT, NESSA, NESSA2)
    added = {"miss_at_1", "miss_at_1_ci"}
    for before, after in zip(known, records, strict=True):
        assert after.keys() == before.keys() | added
        assert {k: after[k] for k in before if k != "as_norm"} == {
            k: before[k] for k in before if k != "as_norm"
        }
        low, high = after["miss_at_1_ci"]
        assert low <= after["miss_at_1"] <= high
        assert after["as_norm"] is None or after["as_norm"].keys() >= added
    trials = eval_set.lists["trials"]
    curve = Roc.of(eval_set.draw(trials, NOISE[LOGIT]), trials.labels)
    logit = next(record for record in records if record["aligner"] == "logit")
    assert logit["miss_at_1"] == misses_at_1_percent_false_alarms(curve)
    cell = with_interval(logit["miss_at_1"], logit["miss_at_1_ci"], percent)
    page = markdown_table(records)
    assert "| miss at 1 % FA % |" in re.sub(" +", " ", page) and cell in page
    assert "miss at 1 % FA: miss rate." in format_records(records)
    assert cell in "\n".join(normalization_section(recipe, records))


@pytest.mark.slow
def test_the_gain_is_0_for_the_old_model_and_1_for_the_new(
    eval_set: EvalSet, recipe: Recipe
) -> None:
    old, new, logit = of(eval_set.evaluate(recipe, OLD, NEW, LOGIT))
    assert (old["gain"], old["gain_ci"]) == (0, [0, 0])
    assert (new["gain"], new["gain_ci"]) == (1, [1, 1])
    expected = (old["eer"] - logit["eer"]) / (old["eer"] - new["eer"])
    assert logit["gain"] == pytest.approx(expected)
    assert logit["gain"] < 0  # worse than not updating


def test_one_model_by_plda_has_a_gain_over_the_raw_models(
    eval_set: EvalSet, recipe: Recipe
) -> None:
    plda = System("lda_plda", "old", "old")
    for name, trials in eval_set.lists.items():
        eval_set.write(plda, name, eval_set.draw(trials, 0.4))
    old, new, ours = of(eval_set.evaluate(recipe, OLD, NEW, plda))
    assert ours["gain"] == pytest.approx((old["eer"] - ours["eer"]) / (old["eer"] - new["eer"]))
    assert (old["gain"], new["gain"]) == (0, 1)
    assert ours["as_norm"] is ours["controlled_gain"] is None


@pytest.mark.slow
def test_the_controlled_gain_lies_between_the_controls(eval_set: EvalSet, recipe: Recipe) -> None:
    records = eval_set.evaluate(recipe, OLD, NEW, LOGIT, NESSA, NESSA2, *CONTROLS)
    eers = {(r["aligner"], r["enroll"], r["runtime"]): r["eer"] for r in of(records)}
    old, new = (eers[control] for control in CONTROLS)
    for record in of(records):
        if record["enroll"] == record["runtime"]:
            assert record["controlled_gain"] is None and record["controlled_gain_ci"] is None
            continue
        expected = (old - record["eer"]) / (old - new)
        assert record["controlled_gain"] == pytest.approx(expected)
        low, high = record["controlled_gain_ci"]
        assert low <= record["controlled_gain"] <= high
    swapped = dict(zip(CONTROLS, (0.3, 0.9), strict=True))
    for name, trials in eval_set.lists.items():
        for control, noise in swapped.items():
            eval_set.write(control, name, eval_set.draw(trials, noise))
    for record in eval_set.evaluate(recipe, OLD, NEW, NESSA, *CONTROLS):
        assert record["controlled_gain"] is None


def test_profiles_of_each_domain_have_results_of_their_own(
    eval_set: EvalSet, recipe: Recipe
) -> None:
    domains = {u: "words" if u < "id00007" else "sentences" for u in eval_set.utt2spk}
    write_table(eval_set.directory / "utt2domain", domains)
    of_domain = {record["trials"]: record for record in eval_set.evaluate(recipe, OLD, NEW)}
    assert list(of_domain) == [  # beside trials of both domains
        "single", "words.profile1", "words.profile2", "sentences.profile1", "sentences.profile2"
    ]  # fmt: skip
    assert of_domain["words.profile1"]["targets"] == 7
    assert of_domain["sentences.profile2"]["targets"] == 8


def test_the_gain_of_an_update_that_does_not_help_is_undefined(
    eval_set: EvalSet, recipe: Recipe
) -> None:
    for name, trials in eval_set.lists.items():
        eval_set.write(NEW, name, eval_set.draw(trials, NOISE[OLD]))
    records = eval_set.evaluate(recipe, OLD, NEW, NESSA)
    old = {r["trials"]: r["eer"] for r in records if (r["aligner"], r["enroll"]) == ("raw", "old")}
    for record in records:
        assert (record["gain"], record["gain_ci"]) == (None, None)
        low, high = record["under_old_ci"]
        assert low <= old[record["trials"]] - record["eer"] <= high
        if record["trials"] == "single":  # all others have the scores of the old model
            assert (low > 0) == (record["aligner"] == "nessa") == (high > 0)


@pytest.mark.slow
def test_a_figure_does_not_depend_on_what_else_is_evaluated(
    eval_set: EvalSet, recipe: Recipe
) -> None:
    together = eval_set.evaluate(recipe, OLD, NEW, LOGIT, NESSA)
    alone = eval_set.evaluate(recipe, LOGIT)
    beside_nessa = [record for record in together if record["aligner"] == "logit"]
    own = [record.keys() - {"over_nessa", "over_nessa_ci"} for record in alone]
    for here, there, keys in zip(beside_nessa, alone, own, strict=True):
        assert {key: here[key] for key in keys} == {key: there[key] for key in keys}


def test_how_far_a_rival_lies_above_nessa_is_paired(eval_set: EvalSet, recipe: Recipe) -> None:
    records = eval_set.evaluate(recipe, OLD, NEW, LOGIT, NESSA)
    by_name = {(r["aligner"], r["trials"]): r for r in records}
    for name in {record["trials"] for record in records}:
        rival, nessa = by_name["logit", name], by_name["nessa", name]
        assert rival["over_nessa"] == pytest.approx(rival["eer"] - nessa["eer"])
        low, high = rival["over_nessa_ci"]
        assert low <= rival["over_nessa"] <= high
        assert high - low < (rival["eer_ci"][1] - rival["eer_ci"][0]) + (
            nessa["eer_ci"][1] - nessa["eer_ci"][0]
        )
        assert nessa["over_nessa"] is None
    assert all(r["over_nessa"] is None for r in eval_set.evaluate(recipe, LOGIT))


def test_seeds_are_alike_whose_scores_are_not_whose_errors_are(
    eval_set: EvalSet, recipe: Recipe
) -> None:
    def alike() -> set[bool]:
        means = (r for r in eval_set.evaluate(recipe, NESSA, NESSA2) if r["seed"] == [11, 5])
        return {record["alike"] for record in means}

    for system, noise in ((NESSA, 0.01), (NESSA2, 0.02)):  # both without an error
        for name, trials in eval_set.lists.items():
            eval_set.write(system, name, eval_set.draw(trials, noise))
    assert alike() == {False}
    for name, trials in eval_set.lists.items():
        eval_set.write(NESSA2, name, eval_set.draw(trials, 0.01))
    assert alike() == {True}


def test_seeds_of_nessa_get_a_record_each_and_one_of_their_mean(
    eval_set: EvalSet, recipe: Recipe
) -> None:
    records = of(eval_set.evaluate(recipe, LOGIT, NESSA, NESSA2))
    by_seed = {str(r["seed"]): r for r in records if r["aligner"].startswith("nessa")}
    assert {seed: r["aligner"] for seed, r in by_seed.items()} == {
        "11": "nessa", "5": "nessa", "[11, 5]": "nessa.mean"
    }  # fmt: skip
    first, second, mean = (by_seed[seed] for seed in ("11", "5", "[11, 5]"))
    for figure in ("eer", "min_dcf", "gain"):
        assert mean[figure] == pytest.approx((first[figure] + second[figure]) / 2)
    width = {seed: r["eer_ci"][1] - r["eer_ci"][0] for seed, r in by_seed.items()}
    assert 0 < width["[11, 5]"] < max(width["11"], width["5"])


def test_as_norm_has_figures_of_its_own_and_only_the_first_seed_has_them(
    eval_set: EvalSet, recipe: Recipe
) -> None:
    records = of(eval_set.evaluate(recipe, OLD, LOGIT, NESSA, NESSA2))
    normalized = {(r["aligner"], str(r["seed"])): r["as_norm"] for r in records}
    assert [key for key, figures in normalized.items() if figures is None] == [
        ("nessa", "5"), ("nessa.mean", "[11, 5]")
    ]  # fmt: skip
    trials = eval_set.lists["trials"]
    scores = np.tanh(eval_set.draw(trials, NOISE[LOGIT]))  # see write_system
    figures = normalized["logit", "None"]
    assert figures["eer"] == eer(scores, trials.labels)
    assert figures["eer_ci"][0] <= figures["eer"] <= figures["eer_ci"][1]
    assert figures["cllr"] == cllr(np.float32(3 * scores - 1), trials.labels)


@pytest.mark.parametrize("place", [{"calibrated": True}, {"kind": AS_NORM}])
def test_a_system_without_calibrated_or_normalized_scores_is_named(
    eval_set: EvalSet, recipe: Recipe, place: dict
) -> None:
    path = score_file(eval_set.scores, LOGIT, "trials", **place)
    path.unlink()
    assert has_as_norm(LOGIT)
    with pytest.raises(InputError, match=f"{path}: no such file"):
        eval_set.evaluate(recipe, LOGIT)


def test_one_seed_has_no_mean(eval_set: EvalSet, recipe: Recipe) -> None:
    assert [r["aligner"] for r in of(eval_set.evaluate(recipe, NESSA))] == ["nessa"]


def test_a_set_without_profiles_has_single_trials_only(eval_set: EvalSet, recipe: Recipe) -> None:
    (eval_set.directory / "trials_profile").unlink()
    assert {record["trials"] for record in eval_set.evaluate(recipe, OLD)} == {"single"}


def test_the_order_of_a_score_file_does_not_matter(eval_set: EvalSet, recipe: Recipe) -> None:
    before = eval_set.evaluate(recipe, OLD)
    path = score_file(eval_set.scores, OLD, "trials")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(np.random.default_rng(1).permutation(lines)))
    assert eval_set.evaluate(recipe, OLD) == before


def without_file(path: Path) -> None:
    path.unlink()


def without_a_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def with_nan(path: Path) -> None:
    path.write_text("a b nan\n" + path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_file, "no such file"),
        (without_a_line, r".*'id00000-s0-00000 id00000-s0-00001'.* without a score"),
        (with_nan, "line 1: "),
    ],
)
@pytest.mark.parametrize("system", [NEW, LOGIT], ids=str)  # a reference, and what is evaluated
def test_missing_scores_are_named(
    eval_set: EvalSet,
    recipe: Recipe,
    system: System,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    path = score_file(eval_set.scores, system, "trials")
    damage(path)
    with pytest.raises(InputError, match=f"{path}: {message}"):
        eval_set.evaluate(recipe, LOGIT)


def test_a_label_that_contradicts_the_speakers_is_refused(
    eval_set: EvalSet, recipe: Recipe
) -> None:
    path = eval_set.directory / "trials"
    path.write_text(path.read_text().replace(" target\n", " nontarget\n", 1))
    with pytest.raises(InputError, match=r"trial 0 .* is a non-target of speakers 'id00000'"):
        eval_set.evaluate(recipe, OLD)
