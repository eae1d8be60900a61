"""Metrics against their definitions, independent implementations, and what must not change them."""

import tracemalloc
from functools import partial
from itertools import pairwise

import audmetric
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llreval.pav_rocch import PAV, ROCCH
from llreval.quick_eval import scoreslabels_2_eer_cllr_mincllr
from scipy.special import logit, ndtr
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_curve

from nessa import InputError
from nessa.metrics import roc as metrics
from nessa.metrics.bootstrap import (
    Estimate,
    bootstrap,
    difference,
    drawn_weights,
    mean_estimate,
    recovered_gain,
)
from nessa.metrics.roc import Roc, act_dcf, cllr, eer, min_cllr, min_dcf
from nessa.metrics.table import EER, Metric

SORTED_METRICS = {
    "eer": eer,
    "interpolated eer": lambda s, t: eer(s, t, method="interpolated"),
    "min_dcf": lambda s, t: min_dcf(s, t, p_target=0.3),
    "min_cllr": min_cllr,
}


@st.composite
def systems(draw):
    """Scores with many ties, and labels of both classes."""
    labels = draw(st.lists(st.booleans(), min_size=2, max_size=30))
    labels[:2] = [True, False]
    score = st.integers(-4, 4).map(float)
    scores = draw(st.lists(score, min_size=len(labels), max_size=len(labels)))
    return np.array(scores), np.array(labels)


def gaussian(targets=2000, nontargets=20000, distance=2.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(targets + nontargets) < targets
    return rng.normal(size=len(labels)) + distance * labels, labels


# ---- brute-force definitions ----


def operating_points(scores, labels):
    """(p_miss, p_fa) of every threshold, by counting."""
    thresholds = [*np.unique(scores), np.inf]
    return [
        (np.mean(scores[labels] < threshold), np.mean(scores[~labels] >= threshold))
        for threshold in thresholds
    ]


def brute_rocch_eer(scores, labels):
    """The lowest point of the diagonal under any chord between two operating points."""
    points = operating_points(scores, labels)
    lowest = 1.0
    for miss_a, fa_a in points:
        for miss_b, fa_b in points:
            gap_a, gap_b = miss_a - fa_a, miss_b - fa_b
            if gap_a == 0:
                lowest = min(lowest, miss_a)
            if gap_a < 0 < gap_b:
                share = -gap_a / (gap_b - gap_a)
                lowest = min(lowest, miss_a + share * (miss_b - miss_a))
    return lowest


def brute_interpolated_eer(scores, labels):
    points = operating_points(scores, labels)
    for (miss_a, fa_a), (miss_b, fa_b) in pairwise(points):
        gap_a, gap_b = miss_a - fa_a, miss_b - fa_b
        if gap_a < 0 <= gap_b:
            return miss_a + gap_a / (gap_a - gap_b) * (miss_b - miss_a)
    raise AssertionError


def brute_min_dcf(scores, labels, p, c_miss=1, c_fa=1):
    costs = [
        c_miss * p * miss + c_fa * (1 - p) * fa for miss, fa in operating_points(scores, labels)
    ]
    return min(costs) / min(c_miss * p, c_fa * (1 - p))


def pav_cllr(scores, labels):
    """Cllr of the LLRs that scikit-learn's isotonic regression gives."""
    posterior = IsotonicRegression().fit_transform(scores, labels.astype(float))
    with np.errstate(divide="ignore"):
        llr = np.log(posterior / (1 - posterior)) - np.log(labels.sum() / (~labels).sum())
    targets, nontargets = np.logaddexp(0, -llr[labels]), np.logaddexp(0, llr[~labels])
    return (targets.mean() + nontargets.mean()) / 2 / np.log(2)


@pytest.mark.slow
@given(systems())
def test_eer_is_the_lowest_reachable_equal_error(system):
    assert eer(*system) == pytest.approx(brute_rocch_eer(*system), abs=1e-12)


@pytest.mark.slow
@given(systems())
def test_interpolated_eer_crosses_the_curve(system):
    assert eer(*system, method="interpolated") == pytest.approx(
        brute_interpolated_eer(*system), abs=1e-12
    )


@given(systems(), st.floats(0.01, 0.99), st.floats(0.1, 10), st.floats(0.1, 10))
def test_min_dcf_tries_every_threshold(system, p, c_miss, c_fa):
    assert min_dcf(*system, p, c_miss, c_fa) == pytest.approx(
        brute_min_dcf(*system, p, c_miss, c_fa), abs=1e-12
    )


@pytest.mark.slow
@given(systems())
def test_min_cllr_is_that_of_isotonic_regression(system):
    assert min_cllr(*system) == pytest.approx(pav_cllr(*system), abs=1e-9)


@given(systems())
def test_cllr_by_its_formula(system):
    scores, labels = system
    targets = [np.log2(1 + np.exp(-s)) for s in scores[labels]]
    nontargets = [np.log2(1 + np.exp(s)) for s in scores[~labels]]
    assert cllr(*system) == pytest.approx((np.mean(targets) + np.mean(nontargets)) / 2)


@pytest.mark.slow
@given(systems(), st.floats(0.01, 0.99))
def test_act_dcf_counts_errors_at_the_bayes_threshold(system, p):
    scores, labels = system
    threshold = np.log((1 - p) / p)
    miss, fa = np.mean(scores[labels] < threshold), np.mean(scores[~labels] >= threshold)
    assert act_dcf(*system, p) == pytest.approx((p * miss + (1 - p) * fa) / min(p, 1 - p))


def test_continuous_scores_against_scikit_learn():
    scores, labels = gaussian()
    fa, hit, _ = roc_curve(labels, scores, drop_intermediate=False)
    crossing = np.argmin(np.abs(1 - hit - fa))
    one_target = 1 / labels.sum()
    assert eer(scores, labels, "interpolated") == pytest.approx(fa[crossing], abs=one_target)
    assert min_cllr(scores, labels) == pytest.approx(pav_cllr(scores, labels), abs=1e-9)
    costs = (0.01 * (1 - hit) + 0.99 * fa) / 0.01
    assert min_dcf(scores, labels) == pytest.approx(costs.min(), abs=1e-12)
    curve = Roc.of(scores, labels)
    by_sklearn = set(zip(fa.round(9), (1 - hit).round(9), strict=True))
    points = set(zip(curve.p_fa.round(9), curve.p_miss.round(9), strict=True))
    assert points <= by_sklearn


# ---- other packages; docs/toolkits.md tells how their definitions differ ----


@pytest.mark.slow
@given(systems())
@pytest.mark.filterwarnings("ignore:divide by zero")  # llreval takes the log of 0
def test_rocch_eer_and_cllr_against_llreval(system):
    theirs = scoreslabels_2_eer_cllr_mincllr(system[0], system[1].astype(int))
    assert eer(*system) == pytest.approx(theirs[0], abs=1e-6)  # found by a line search
    assert cllr(*system) == pytest.approx(theirs[1], abs=1e-12)
    assert min_cllr(*system) == pytest.approx(theirs[2], abs=1e-9)


@given(systems(), st.lists(st.floats(0.001, 0.999), min_size=1, max_size=5))
def test_min_dcf_against_llreval(system, priors):
    p = np.array(priors)
    error_rates = ROCCH(PAV(system[0], system[1].astype(int))).Bayes_error_rate(logit(p))
    curve = Roc.of(*system)
    ours = [curve.min_dcf(prior) for prior in priors]
    assert ours == pytest.approx(error_rates / np.minimum(p, 1 - p), abs=1e-9)


@pytest.mark.slow
@given(systems())
def test_interpolated_eer_against_audmetric(system):
    # audmetric takes the middle of the step that crosses the diagonal. So do we on a curve that is
    # its own mirror image. 9 and -9 keep the crossing from the ends: audmetric has no reject-all.
    scores, labels = system
    scores = np.concatenate([scores, -scores, [9, -9]])
    labels = np.concatenate([labels, ~labels, [True, False]])
    theirs, _ = audmetric.equal_error_rate(labels.astype(int), scores)
    assert eer(scores, labels, "interpolated") == pytest.approx(theirs, abs=1e-12)


# ---- corner cases ----


@pytest.mark.parametrize(
    ("scores", "labels", "rocch", "interpolated"),
    [
        ([4, 5, 6, 7, 0, 1, 2, 3], [1, 1, 1, 1, 0, 0, 0, 0], 0, 0),
        ([1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], 0.5, 0.5),
        ([1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1], 0.5, 0.5),
        ([0, 1, 2, 3, 4, 5], [1, 1, 1, 0, 0, 0], 0.5, 1),
        ([0, 1], [0, 1], 0, 0),
        ([1, 0], [0, 1], 0.5, 1),
    ],
)
def test_corner_cases(scores, labels, rocch, interpolated):
    assert eer(scores, labels) == rocch
    assert eer(scores, labels, method="interpolated") == interpolated


def test_lower_scores_of_targets_are_told_from_chance_and_from_few_trials():
    rng = np.random.default_rng(0)
    for targets, nontargets in ((1, 1), (3, 3), (20, 80), (4000, 8000)):
        labels = np.arange(targets + nontargets) < targets
        for shift in (0.0, 0.1, 2.0):
            scores = rng.standard_normal(len(labels)) + shift * labels
            assert Roc.of(scores, labels).reversal() is None
        reversal = Roc.of(np.round(-5 * labels - rng.random(len(labels))), labels).reversal()
        assert (reversal is None) == (targets < 20)
        assert reversal is None or "in 100 % of pairs" in reversal


def test_bounds_of_costs():
    assert min_dcf([1, 1], [True, False]) == min_cllr([1, 1], [True, False]) == 1
    assert str(min_cllr([0, 1], [False, True])) == "0.0"
    assert cllr([0, 0], [True, False]) == 1
    assert act_dcf([-9, -9], [True, False]) == 1


@pytest.mark.parametrize("seed", range(5))
def test_hull_eer_is_below_the_interpolated_one_by_a_little(seed):
    """The Gaussian case of 2000 targets and 20000 non-targets: 0.1557 and 0.1565 in one draw."""
    scores, labels = gaussian(seed=seed)
    rocch, interpolated = eer(scores, labels), eer(scores, labels, "interpolated")
    assert 0.0001 < interpolated - rocch < 0.003
    truth = ndtr(-1)  # 0.1587; the standard error is 0.006
    assert rocch == pytest.approx(truth, abs=0.018)


def test_a_score_equal_to_the_bayes_threshold_is_accepted():
    assert act_dcf([0.0, -1.0], [True, False], p_target=0.5) == 0


def test_float32_scores_do_not_round_the_bayes_threshold():
    # Scores that a threshold rounded to float32 would accept.
    below = [
        p
        for p in np.arange(0.01, 0.5, 0.01)
        if np.float32(np.log((1 - p) / p)) < np.log((1 - p) / p)
    ]
    assert len(below) > 10
    for p in below:
        scores = np.array([np.log((1 - p) / p), 0], np.float32)
        assert act_dcf(scores, [True, False], p) == pytest.approx(1)


# ---- invariances ----


@pytest.mark.slow
@pytest.mark.parametrize("metric", SORTED_METRICS.values(), ids=SORTED_METRICS)
@given(system=systems(), data=st.data())
def test_order_scale_and_repetition_do_not_matter(metric, system, data):
    scores, labels = system
    expected = pytest.approx(metric(scores, labels), abs=1e-12)
    order = np.array(data.draw(st.permutations(range(len(labels)))))
    assert metric(scores[order], labels[order]) == expected
    assert metric(np.exp(scores / 3), labels) == expected
    assert metric(1e6 * scores**3 - 5, labels) == expected
    assert metric(scores.astype(np.float32), labels) == expected
    assert metric(scores.astype(int), labels.astype(int)) == expected
    assert metric(np.repeat(scores, 3), np.repeat(labels, 3)) == expected


@pytest.mark.slow
@given(system=systems(), data=st.data())
@pytest.mark.parametrize("metric", [act_dcf, cllr])
def test_order_and_repetition_do_not_matter_to_calibrated_costs(metric, system, data):
    scores, labels = system
    expected = pytest.approx(metric(scores, labels), abs=1e-12)
    order = np.array(data.draw(st.permutations(range(len(labels)))))
    assert metric(scores[order], labels[order]) == expected
    assert metric(np.repeat(scores, 3), np.repeat(labels, 3)) == expected


@pytest.mark.slow
@given(systems())
def test_calibrated_costs_are_never_below_their_minimum(system):
    assert cllr(*system) >= min_cllr(*system) - 1e-12
    assert act_dcf(*system) >= min_dcf(*system) - 1e-12
    assert 0 <= eer(*system) <= 0.5
    assert eer(*system) <= eer(*system, method="interpolated") + 1e-12


@given(systems())
def test_the_curve_runs_from_accept_all_to_reject_all(system):
    curve = Roc.of(*system)
    p_fa, p_miss = curve.p_fa, curve.p_miss
    assert (p_fa[0], p_miss[0], p_fa[-1], p_miss[-1]) == (1, 0, 0, 1)
    assert (np.diff(p_fa) <= 0).all() and (np.diff(p_miss) >= 0).all()


def test_all_costs_come_from_one_sort(monkeypatch):
    scores, labels = gaussian()
    sorts = []
    argsort = np.argsort
    monkeypatch.setattr(metrics.np, "argsort", lambda x: sorts.append(len(x)) or argsort(x))
    curve = Roc.of(scores, labels)
    for reading in (curve.eer, curve.min_cllr, curve.min_dcf, lambda: curve.min_dcf(0.05)):
        reading()
    assert sorts == [len(scores)]
    assert curve.min_dcf(0.05) == min_dcf(scores, labels, 0.05)


# ---- weights ----

WEIGHTED = {
    "eer": eer,
    "interpolated eer": partial(eer, method="interpolated"),
    "min_dcf": partial(min_dcf, p_target=0.3),
    "act_dcf": partial(act_dcf, p_target=0.3),
    "cllr": cllr,
    "min_cllr": min_cllr,
}


@pytest.mark.slow
@pytest.mark.parametrize("metric", WEIGHTED.values(), ids=WEIGHTED)
@given(system=systems(), data=st.data())
def test_whole_weights_repeat_trials(metric, system, data):
    scores, labels = system
    size = len(labels)
    weights = np.array(data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size)))
    weights[:2] += 1  # of a target and a non-target
    repeated = metric(np.repeat(scores, weights), np.repeat(labels, weights))
    assert metric(scores, labels, weights=weights) == pytest.approx(repeated, abs=1e-12)
    eighths = metric(scores, labels, weights=weights / 8)
    assert eighths == pytest.approx(repeated, abs=1e-12)
    assert metric(scores, labels, weights=np.ones(size)) == pytest.approx(metric(*system))


@given(systems(), st.data())
def test_the_weighted_curve_is_that_of_repeated_trials(system, data):
    scores, labels = system
    size = len(labels)
    weights = np.array(data.draw(st.lists(st.integers(1, 4), min_size=size, max_size=size)))
    curve = Roc.of(scores, labels, weights)
    points = set(zip(curve.p_fa, curve.p_miss, strict=True))
    repeated = np.repeat(scores, weights), np.repeat(labels, weights)
    assert points <= {(fa, miss) for miss, fa in operating_points(*repeated)}
    expected = Roc.of(*repeated)
    assert points >= {(expected.p_fa[end], expected.p_miss[end]) for end in (0, -1)}
    assert (curve.hull.p_miss == expected.hull.p_miss).all()
    assert (curve.hull.p_fa == expected.hull.p_fa).all()


@pytest.mark.parametrize("metric", [*WEIGHTED.values(), Roc.of], ids=[*WEIGHTED, "Roc.of"])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 1], r"weights of shape \(2,\) for 3 trials"),
        ([[1, 1, 1]], r"weights of shape \(1, 3\)"),
        ([1, -1, 1], r"weight 1 \(counted from 0\) is -1"),
        ([1, 1, np.nan], "weight 2 .* is nan"),
        ([np.inf, 1, 1], "weight 0 .* is inf"),
        ([0, 1, 1], "all targets or all non-targets weigh 0"),
        ([1.0, 0.0, 0.0], "all targets or all non-targets weigh 0"),
    ],
)
def test_bad_weights_are_refused(metric, weights, message):
    with pytest.raises(InputError, match=message):
        metric([1.0, 2.0, 3.0], [True, False, False], weights=weights)


# ---- bad input ----


@pytest.mark.parametrize(
    "metric", [*SORTED_METRICS.values(), act_dcf, cllr, Roc.of], ids=lambda m: m.__name__
)
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1, 2], [True, True], "2 target and 0 non-target"),
        ([1, 2], [False, False], "0 target and 2 non-target"),
        ([], [], "0 target"),
        ([1, np.nan, np.nan], [True, False, True], r"score 1 \(counted from 0\) is nan, 2 of 3"),
        ([1, np.inf], [True, False], "is inf"),
        ([1, 2, 3], [True, False], "shape"),
        ([[1, 2]], [True, False], "shape"),
        ([[1, 2]], [[True, False]], "shape"),
        ([1, 2], [1, -1], "True/False"),
    ],
)
def test_bad_input_is_refused(metric, scores, labels, message):
    with pytest.raises(InputError, match=message):
        metric(np.array(scores, float), np.array(labels))


@pytest.mark.parametrize("metric", [min_dcf, act_dcf])
@pytest.mark.parametrize("setting", [{"p_target": 0}, {"p_target": 1}, {"c_fa": 0}, {"c_miss": -1}])
def test_impossible_operating_points_are_refused(metric, setting):
    with pytest.raises(InputError, match="prior must lie"):
        metric([0, 1], [False, True], **setting)


def test_unknown_eer_method_is_refused():
    with pytest.raises(InputError, match="'kaldi' is unknown"):
        eer([0, 1], [False, True], method="kaldi")


# ---- bootstrap ----


def speaker_trials(rng, speakers, utterances=4, spread=1.5):
    """All pairs of utterances: scores, labels and speakers; speakers differ in difficulty."""
    speaker = np.repeat(np.arange(speakers), utterances)
    a, b = np.triu_indices(len(speaker), k=1)
    labels = speaker[a] == speaker[b]
    ease = rng.normal(size=speakers) * spread
    scores = rng.normal(size=len(a)) + labels * (2 + ease[speaker[a]])
    return scores, labels, [f"s{n}" for n in speaker[a]], [f"s{n}" for n in speaker[b]]


def test_weighted_draws_equal_trials_repeated_literally():
    rng = np.random.default_rng(3)
    scores, labels, enroll, test = speaker_trials(rng, speakers=7)
    scores = scores.round(1)  # ties
    cost = Metric("cost", "cost", "at a prior of 0.2", lambda roc: roc.min_dcf(0.2))
    drawn = bootstrap(
        [scores, -scores], labels, enroll, test, draws=30, seed=5, metrics=(EER, cost)
    )
    of_draws = list(drawn_weights(labels, enroll, test, draws=30, seed=5))
    names = list(dict.fromkeys([*enroll, *test]))
    rng = np.random.default_rng(5)
    for draw in range(30):
        while True:
            counts = dict(
                zip(names, np.bincount(rng.integers(7, size=7), minlength=7), strict=True)
            )
            weights = [
                counts[a] if a == b else counts[a] * counts[b]
                for a, b in zip(enroll, test, strict=True)
            ]
            repeated = np.repeat(labels, weights)
            if 0 < repeated.sum() < len(repeated):
                break
        assert of_draws[draw].tolist() == weights
        for system, sign in enumerate((1, -1)):
            literal = np.repeat(sign * scores, weights)
            assert drawn[system]["eer"].draws[draw] == pytest.approx(
                eer(literal, repeated), abs=1e-12
            )
            assert drawn[system]["cost"].draws[draw] == pytest.approx(
                min_dcf(literal, repeated, 0.2), abs=1e-12
            )
    assert drawn[0]["eer"].value == eer(scores, labels)
    assert drawn[1]["cost"].value == min_dcf(-scores, labels, 0.2)


def test_weights_of_zero_leave_the_hull_of_the_other_trials():
    whole = Roc(np.array([0, 0, 0, 2]), np.array([0, 3, 3, 3]))
    assert whole.eer() == 0 and whole.min_cllr() == 0


def test_draws_are_seeded_and_paired():
    trials = speaker_trials(np.random.default_rng(0), speakers=10)
    scores, *rest = trials
    one = bootstrap([scores, scores], *rest, draws=20, seed=1)
    assert (one[0]["eer"].draws == one[1]["eer"].draws).all()
    (again,) = bootstrap([scores], *rest, draws=20, seed=1)
    (other,) = bootstrap([scores], *rest, draws=20, seed=2)
    assert (one[0]["eer"].draws == again["eer"].draws).all()
    assert (one[0]["eer"].draws != other["eer"].draws).any()


def test_draws_do_not_depend_on_the_order_of_the_trials():
    scores, labels, *speakers = speaker_trials(np.random.default_rng(0), speakers=12)
    order = np.random.default_rng(1).permutation(len(scores))
    shuffled = [[side[row] for row in order] for side in speakers]
    (one,) = bootstrap([scores], labels, *speakers, draws=20)
    (other,) = bootstrap([scores[order]], labels[order], *shuffled, draws=20)
    assert (one["eer"].draws == other["eer"].draws).all()
    weights = drawn_weights(labels[order], *shuffled, draws=1)
    expected = next(iter(drawn_weights(labels, *speakers, draws=1)))[order]
    np.testing.assert_array_equal(next(iter(weights)), expected)


def test_draws_without_a_class_are_redrawn():
    # Only the pair s0, s1 has non-targets, and only s0 targets: most draws lack one of them.
    speakers = ["s0", "s0", "s1"], ["s1", "s0", "s1"]
    (estimates,) = bootstrap([[0.0, 1.0, 2.0]], [False, True, True], *speakers, draws=200)
    estimate = estimates["eer"]
    assert (estimate.draws == 0).all() and len(estimate.draws) == 200


@pytest.mark.parametrize(("label", "test"), [(True, "a"), (False, "b")])
def test_one_class_is_refused_rather_than_drawn_for_ever(label, test):
    with pytest.raises(InputError, match="an error rate needs some of each"):
        bootstrap([[0.0, 1.0]], [label, label], ["a", "a"], [test, test])


def test_labels_must_fit_speakers():
    with pytest.raises(InputError, match=r"trial 1 .* is a target of speakers 'a' and 'b'"):
        bootstrap([[0.0, 1.0]], [False, True], ["a", "a"], ["b", "b"])
    with pytest.raises(InputError, match="one of each per trial"):
        bootstrap([[0.0, 1.0]], [False, True], ["a", "a"], ["b"])
    with pytest.raises(InputError, match="0 draws"):
        bootstrap([[0.0, 1.0]], [False, True], ["a", "a"], ["b", "a"], draws=0)


def experiment(rng, speakers, utterances=10, trials=20, distance=4.5):
    """A trial list of newly drawn speakers, and the EER of the population that they come from.

    Every speaker enrolls in `trials` target and `trials` non-target trials, against partners
    drawn at random. A score has a part of each speaker, one of each utterance and noise, all
    Gaussian, so that the population's EER is known.

    Returns:
        (scores, labels, enrollment speakers, test speakers), true EER.
    """
    alike, impostor = rng.normal(size=(2, speakers)) * [[0.7], [0.5]]
    session = rng.normal(size=(speakers, utterances)) * 0.5
    enroll = np.repeat(np.arange(speakers), trials)
    other = (enroll + rng.integers(1, speakers, size=len(enroll))) % speakers
    first, second, third = rng.integers(utterances, size=(3, len(enroll)))
    second = (first + 1 + second % (utterances - 1)) % utterances  # never an utterance with itself
    noise = rng.normal(size=(2, len(enroll)))
    tar = distance + alike[enroll] + session[enroll, first] + session[enroll, second] + noise[0]
    non = impostor[enroll] + impostor[other]
    non += session[enroll, first] + session[other, third] + noise[1]
    spread = np.sqrt([0.7**2 + 2 * 0.5**2 + 1, 2 * 0.5**2 + 2 * 0.5**2 + 1])
    sides = np.tile(enroll, 2), np.concatenate([enroll, other])
    names = [np.char.zfill(side.astype(str), 3).tolist() for side in sides]
    labels = np.arange(2 * len(enroll)) < len(enroll)
    return (np.concatenate([tar, non]), labels, *names), ndtr(-distance / spread.sum())


def covered(experiments, draws, seed=0, **design):
    """In how many of so many experiments the interval of the EER holds the true EER."""
    rng = np.random.default_rng(seed)
    hits = 0
    for number in range(experiments):
        (scores, *trials), truth = experiment(rng, **design)
        low, high = bootstrap([scores], *trials, draws=draws, seed=number)[0]["eer"].interval
        hits += low <= truth <= high
    return hits


@pytest.mark.slow
def test_the_generator_has_the_eer_that_it_says():
    (scores, labels, *_), truth = experiment(np.random.default_rng(1), speakers=20_000)
    assert eer(scores, labels) == pytest.approx(truth, abs=0.001)


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """92 to 98 % of them; docs/intervals.md tells for how many speakers."""
    assert 184 <= covered(experiments=200, draws=400, speakers=200) <= 196


# ---- estimates and gains ----


def estimate(value, *draws):
    return Estimate(value, np.array(draws, float))


def test_intervals_are_percentiles():
    low, high = Estimate(0.5, np.linspace(0, 1, 1001)).interval
    assert (low, high) == pytest.approx((0.025, 0.975))


def test_gain_is_paired_and_bounded_by_its_ends():
    old, new = estimate(0.05, 0.05, 0.06, 0.04), estimate(0.02, 0.02, 0.03, 0.01)
    assert recovered_gain(old, new, new).value == 1
    assert recovered_gain(old, old, new).value == 0
    halfway = mean_estimate([old, new])
    gain = recovered_gain(old, halfway, new)
    # Unpaired, the spread of the draws would show in the gain.
    assert gain.value == pytest.approx(0.5) and gain.interval == pytest.approx((0.5, 0.5))


def test_gain_of_no_update_is_undefined():
    old, new = estimate(0.05, 0.05, 0.05), estimate(0.04, 0.06, 0.03)
    assert recovered_gain(old, new, new) is None
    assert recovered_gain(new, new, old) is None


def test_draws_in_which_the_new_model_is_worse_have_no_gain():
    old, new = estimate(0.05, *[0.05] * 99, 0.01), estimate(0.03, *[0.03] * 100)
    assert recovered_gain(old, new, new).draws == pytest.approx([1] * 99)
    assert recovered_gain(old, old, new).draws == pytest.approx([0] * 99)


def test_difference_is_draw_by_draw():
    result = difference(estimate(0.5, 0.4, 0.6), estimate(0.2, 0.1, 0.3))
    assert result.value == pytest.approx(0.3) and result.draws == pytest.approx([0.3, 0.3])


# ---- scale ----


@pytest.mark.slow
def test_ten_million_trials_need_a_few_copies_of_the_scores():
    rng = np.random.default_rng(0)
    labels = rng.random(10_000_000) < 0.3
    scores = rng.normal(size=len(labels)) + 2 * labels
    tracemalloc.start()
    for metric in (eer, min_dcf, cllr, min_cllr):
        metric(scores, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * scores.nbytes


def test_a_thousand_draws_take_two_kilobytes_per_speaker():
    names = [f"s{n}" for n in range(5_000)]
    trials = [True] * 5_000 + [False], [*names, "s0"], [*names, "s1"]
    tracemalloc.start()
    next(drawn_weights(*trials, draws=1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000 * len(names)


@settings(max_examples=20)
@given(st.integers(2, 200))
def test_straight_stretches_are_left_out_of_the_curve(trials):
    labels = np.arange(trials) >= trials // 2
    assert len(Roc.of(np.arange(trials), labels).misses) == 3
