"""Scores against per-trial loops, and calibration against known truth."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nessa import Embeddings, InputError, Trials
from nessa.metrics.roc import act_dcf, cllr, eer, min_cllr, min_dcf
from nessa.scoring import cosine as scoring
from nessa.scoring import normalization
from nessa.scoring.calibration import Calibration
from nessa.scoring.cosine import cosine_matrix, cosine_scores
from nessa.scoring.normalization import AsNorm, as_norm


def embeddings(prefix, count, dim=8, seed=0):
    rng = np.random.default_rng([seed, count, dim])
    return Embeddings([f"{prefix}{n}" for n in range(count)], rng.normal(size=(count, dim)))


def trials_between(enroll, runtime, count, seed=0):
    rng = np.random.default_rng(seed)
    return Trials(rng.choice(enroll.keys, count).tolist(), rng.choice(runtime.keys, count).tolist())


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def vector(table, key):
    return table.matrix[table.keys.index(key)].astype(np.float64)


# ---- cosine ----


@pytest.mark.parametrize("block", [1, 50, 2**18])
def test_cosine_scores_by_definition(monkeypatch, block):
    monkeypatch.setattr(scoring, "GATHER_FLOATS", block)
    enroll, runtime = embeddings("e", 7), embeddings("r", 5, seed=1)
    trials = trials_between(enroll, runtime, 40)
    scores = cosine_scores(enroll, runtime, trials)
    assert scores.dtype == np.float32 and scores.shape == (40,)
    expected = [
        cosine(vector(enroll, e), vector(runtime, t))
        for e, t in zip(trials.enroll, trials.test, strict=True)
    ]
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_matrix_holds_the_scores_of_all_pairs():
    enroll, runtime = embeddings("e", 4), embeddings("r", 3, seed=1)
    pairs = [(e, r) for e in enroll.keys for r in runtime.keys]
    trials = Trials(*map(list, zip(*pairs, strict=True)))
    matrix = cosine_matrix(enroll, runtime)
    assert matrix.shape == (4, 3) and matrix.dtype == np.float32
    np.testing.assert_allclose(matrix.ravel(), cosine_scores(enroll, runtime, trials), atol=1e-6)


@given(st.floats(0.01, 100))
def test_length_does_not_matter(factor):
    enroll, runtime = embeddings("e", 4), embeddings("r", 4, seed=1)
    trials = trials_between(enroll, runtime, 20)
    longer = Embeddings(enroll.keys, enroll.matrix * np.float32(factor))
    np.testing.assert_allclose(
        cosine_scores(longer, runtime, trials), cosine_scores(enroll, runtime, trials), atol=1e-6
    )


def test_sides_and_names_are_named_in_errors():
    enroll, runtime = embeddings("e", 2), embeddings("r", 2)
    with pytest.raises(InputError, match=r"enrollment side: .*'r0'"):
        cosine_scores(enroll, runtime, Trials(["r0"], ["r0"]))
    with pytest.raises(InputError, match=r"runtime side: .*'e0'"):
        cosine_scores(enroll, runtime, Trials(["e0"], ["e0"]))
    with pytest.raises(InputError, match="dimension 8, runtime ones 9; map"):
        cosine_scores(enroll, embeddings("r", 2, dim=9), Trials(["e0"], ["r0"]))
    zero = Embeddings(["z"], np.zeros((1, 8)))
    with pytest.raises(InputError, match="runtime side: the embedding of 'z' is zero"):
        cosine_scores(enroll, zero, Trials(["e0"], ["z"]))


# ---- AS-norm ----


def brute_as_norm(enroll, runtime, trials, enroll_cohort, runtime_cohort, top_n):
    scores = []
    for e, t in zip(trials.enroll, trials.test, strict=True):
        x, y = vector(enroll, e), vector(runtime, t)
        of_x = sorted(cosine(x, c.astype(float)) for c in runtime_cohort.matrix)[-top_n:]
        of_y = sorted(cosine(y, c.astype(float)) for c in enroll_cohort.matrix)[-top_n:]
        z = [(cosine(x, y) - np.mean(top)) / np.std(top) for top in (of_x, of_y)]
        scores.append(np.mean(z))
    return np.array(scores)


@pytest.mark.parametrize("top_n", [2, 20, 50])
@pytest.mark.parametrize("block", [1, 2**24])
def test_as_norm_by_definition(monkeypatch, top_n, block):
    monkeypatch.setattr(normalization, "COHORT_FLOATS", block)
    enroll, runtime = embeddings("e", 9), embeddings("r", 11, seed=1)
    cohorts = embeddings("c", 50, seed=2), embeddings("d", 60, seed=3)
    trials = trials_between(enroll, runtime, 60)
    scores = as_norm(
        cosine_scores(enroll, runtime, trials), enroll, runtime, trials, *cohorts, top_n=top_n
    )
    expected = brute_as_norm(enroll, runtime, trials, *cohorts, top_n)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_statistics_serve_all_trial_lists_and_other_enrollments():
    enroll, runtime = embeddings("e", 9), embeddings("r", 300, seed=1)
    cohorts = embeddings("c", 50, seed=2), embeddings("d", 60, seed=3)
    normalize = AsNorm(enroll, runtime, *cohorts, top_n=20)
    kept = Embeddings(runtime.keys, runtime.matrix.copy())
    profiles = embeddings("p", 5, seed=4)
    for seed, sides in enumerate([enroll, enroll, profiles]):
        trials = trials_between(sides, kept, 400, seed)
        scores = cosine_scores(sides, kept, trials)
        own = normalize if sides is enroll else normalize.with_enroll(profiles)
        expected = as_norm(scores, sides, kept, trials, *cohorts, top_n=20)
        np.testing.assert_allclose(own.apply(scores, trials), expected, atol=1e-5)
        known = [runtime.keys.index(name) for name in trials.test_index.names]
        runtime.matrix[known] = np.nan  # is not looked at again


def two_sided_truth(rng, offset=1.5, speakers=60, dim=16):
    """Views of speakers whose two sides lie around different offsets, and trials of them."""
    shift = {"enroll": np.eye(dim)[0] * offset, "runtime": np.eye(dim)[1] * offset}

    def view(prefix, side, count, truth):
        noise = 0.6 * rng.normal(size=(count, dim))
        # Vectors lie nearer to or farther from their side's offset, which AS-norm takes out.
        nearness = rng.uniform(0, 2, size=(count, 1))
        return Embeddings(
            [f"{prefix}{n}" for n in range(count)], truth + noise + nearness * shift[side]
        )

    truth, others = rng.normal(size=(speakers, dim)), rng.normal(size=(200, dim))
    pairs = [(e, t) for e in range(speakers) for t in range(speakers)]
    trials = Trials(
        [f"e{e}" for e, _ in pairs],
        [f"r{t}" for _, t in pairs],
        np.array([e == t for e, t in pairs]),
    )
    enroll, runtime = view("e", "enroll", speakers, truth), view("r", "runtime", speakers, truth)
    cohorts = view("c", "enroll", 200, others), view("d", "runtime", 200, others)
    return enroll, runtime, trials, cohorts


def test_swapped_cohorts_differ_and_are_worse():
    right, swapped = [], []
    for seed in range(5):
        enroll, runtime, trials, (of_enroll, of_runtime) = two_sided_truth(
            np.random.default_rng(seed), offset=3.0
        )
        scores = cosine_scores(enroll, runtime, trials)
        arguments = (scores, enroll, runtime, trials)
        a = as_norm(*arguments, of_enroll, of_runtime, top_n=50)
        b = as_norm(*arguments, of_runtime, of_enroll, top_n=50)
        assert not np.allclose(a, b, atol=0.1)
        right.append(eer(a, trials.labels))
        swapped.append(eer(b, trials.labels))
    assert np.mean(right) < np.mean(swapped)


def test_as_norm_refuses_unfit_input():
    enroll, runtime, cohort = embeddings("e", 3), embeddings("r", 3), embeddings("c", 10, seed=4)
    trials = trials_between(enroll, runtime, 5)
    scores = cosine_scores(enroll, runtime, trials)
    for top_n in (1, 11):
        with pytest.raises(InputError, match=f"top_n {top_n} .* 10 vectors"):
            as_norm(scores, enroll, runtime, trials, cohort, cohort, top_n=top_n)
    with pytest.raises(InputError, match="shape"):
        as_norm(scores[:-1], enroll, runtime, trials, cohort, cohort, top_n=5)
    with pytest.raises(InputError, match="dimension"):
        as_norm(scores, enroll, runtime, trials, embeddings("c", 10, dim=9), cohort, top_n=5)
    same = Embeddings([f"c{n}" for n in range(10)], np.ones((10, 8)))
    with pytest.raises(InputError, match="all equal"):
        as_norm(scores, enroll, runtime, trials, same, same, top_n=5)


# ---- calibration ----


def gaussian_llrs(targets, nontargets, separation=3.0, seed=0):
    """True LLRs: means +-separation and variance 2 separation make a Gaussian its own LLR."""
    rng = np.random.default_rng(seed)
    labels = np.arange(targets + nontargets) < targets
    mean = np.where(labels, separation, -separation)
    return mean + rng.normal(size=len(labels)) * np.sqrt(2 * separation), labels


@pytest.mark.parametrize("p_target", [0.01, 0.5])
def test_calibration_recovers_a_known_map(p_target):
    llr, labels = gaussian_llrs(100_000, 100_000)
    fitted = Calibration.fit((llr - 1.5) / 20, labels, p_target)
    assert fitted.scale == pytest.approx(20, rel=0.02)
    assert fitted.offset == pytest.approx(1.5, abs=0.1)
    calibrated = fitted.apply((llr - 1.5) / 20)
    assert cllr(calibrated, labels) == pytest.approx(min_cllr(llr, labels), abs=0.002)
    assert act_dcf(calibrated, labels) == pytest.approx(min_dcf(llr, labels), abs=0.01)


def test_calibration_does_not_depend_on_units():
    llr, labels = gaussian_llrs(500, 5000)
    plain, moved = Calibration.fit(llr, labels), Calibration.fit(1e4 * llr - 7e6, labels)
    np.testing.assert_allclose(moved.apply(1e4 * llr - 7e6), plain.apply(llr), atol=1e-3)


def test_calibration_balances_the_prior_of_the_trials_away():
    llr, labels = gaussian_llrs(4000, 40_000)
    repeated = np.where(labels, 5, 1)
    plain = Calibration.fit(llr, labels)
    more_targets = Calibration.fit(np.repeat(llr, repeated), np.repeat(labels, repeated))
    assert more_targets.scale == pytest.approx(plain.scale, rel=1e-3)
    assert more_targets.offset == pytest.approx(plain.offset, abs=1e-3)


def test_quality_measures_take_out_what_they_explain():
    llr, labels = gaussian_llrs(20_000, 20_000)
    useful, useless = np.random.default_rng(1).normal(size=(2, len(llr)))
    quality = {"useful": useful, "useless": useless}
    scores = llr - 2 * useful
    fitted = Calibration.fit(scores, labels, 0.5, quality)
    assert fitted.quality == pytest.approx({"useful": 2, "useless": 0}, abs=0.1)
    swapped = {"useless": useless, "useful": useful}  # measures are known by name
    np.testing.assert_array_equal(fitted.apply(scores, swapped), fitted.apply(scores, quality))
    with_quality = cllr(fitted.apply(scores, quality), labels)
    without = cllr(Calibration.fit(scores, labels, 0.5).apply(scores), labels)
    assert with_quality < without - 0.02
    with pytest.raises(InputError, match="with useful, useless, but is given no"):
        fitted.apply(scores)


def test_perfect_separation_still_calibrates():
    fitted = Calibration.fit([0.0, 0.1, 0.8, 0.9], [False, False, True, True])
    assert 0 < fitted.scale < np.inf
    assert cllr(fitted.apply([0.0, 0.9]), [False, True]) < 0.01


def test_calibration_survives_json():
    llr, labels = gaussian_llrs(100, 100)
    fitted = Calibration.fit(llr, labels, quality={"cosine": np.cos(llr)})
    assert Calibration.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"scale": 1, "offset": 0},
        {"scale": "x", "offset": 0, "quality": {}},
        {"scale": float("nan"), "offset": 0, "quality": {}},
        {"scale": 1, "offset": 0, "quality": {}, "more": 1},
        {"scale": 1, "offset": 0, "quality": None},
        {"scale": 1, "offset": 0, "quality": {"duration": "long"}},
        [1, 2, 3],
    ],
)
def test_unfit_records_are_refused(record):
    with pytest.raises(InputError, match="not a calibration"):
        Calibration.from_dict(record)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 1.0], [True, False]), "the score is the same"),
        (([1.0, 2.0], [True, True]), "2 target and 0 non-target"),
        (([1.0, 2.0], [True, False], 1.0), "p_target"),
        (([1.0, 2.0], [True, False], 0.5, {"q": [1.0, 1.0]}), "measure 'q' is the same"),
        (([1.0, 2.0], [True, False], 0.5, {"q": [1.0, np.nan]}), "'q' of trial 1 .* not finite"),
        (([1.0, 2.0], [True, False], 0.5, {"q": [1.0]}), r"'q' has values of shape \(1,\)"),
    ],
)
def test_unfit_calibration_data_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Calibration.fit(*arguments)
