"""Identification against its definitions, counted by loops, and protocols that leak nothing."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulation import Simulation
from nessa import Embeddings, InputError
from nessa.corpus.draw_trials import make_profile_trials
from nessa.errors import TooFewError
from nessa.evaluation import identification
from nessa.evaluation.households import (
    Households,
    Similarity,
    draw_households,
    search_households,
    speaker_similarity,
)
from nessa.evaluation.identification import Search, bootstrap_search, search
from nessa.evaluation.protocol import Protocol, draw_protocol, protocol_of
from nessa.evaluation.rates import (
    Comparison,
    drawn_profiles,
    identification_rates,
    identify_sides,
)
from nessa.files import write_table
from nessa.kaldi.embeddings import profile_means
from nessa.kaldi.stamps import ModelStamp
from nessa.metrics.bootstrap import difference
from nessa.recipe.identification import identify_cells
from nessa.recipe.resolve import load_recipe
from nessa.scoring.cosine import cosine_matrix
from tests.conftest import ROOT


def corpus(speakers=12, sessions=4, utterances=3):
    """{utterance: speaker}, {utterance: session}; sessions have one name in every speaker."""
    keys = [
        (f"id{s:02d}", f"s{n}", f"id{s:02d}-s{n}-{u}")
        for s in range(speakers)
        for n in range(sessions)
        for u in range(utterances)
    ]
    return {key: speaker for speaker, _, key in keys}, {key: session for _, session, key in keys}


def vectors(keys, dim=6, seed=0):
    keys = list(keys)
    return Embeddings(keys, np.random.default_rng(seed).normal(size=(len(keys), dim)))


@st.composite
def searches(draw):
    """Scores (P, G) with many ties and utterances of both kinds, in any order."""
    profiles = draw(st.integers(1, 4))
    count = draw(st.integers(2, 25))
    speakers = draw(st.lists(st.integers(0, profiles + 2), min_size=count, max_size=count))
    speakers[:2] = [0, profiles]
    row = st.lists(st.integers(-3, 3).map(float), min_size=profiles, max_size=profiles)
    scores = draw(st.lists(row, min_size=count, max_size=count))
    return np.array(scores), np.array(speakers)


# ---- brute-force definitions ----


def brute_ranks(scores, speakers):
    ranks = []
    for row, speaker in zip(scores, speakers, strict=True):
        if speaker < len(row):
            rivals = [s for column, s in enumerate(row) if column != speaker]
            ranks.append(1 + sum(s >= row[speaker] for s in rivals))
    return ranks


def brute_rates(scores, speakers, threshold):
    """(FPIR, FNIR) at a threshold."""
    missed, accepted = [], []
    for row, speaker in zip(scores, speakers, strict=True):
        if speaker < len(row):
            rivals = [s for column, s in enumerate(row) if column != speaker]
            first = all(row[speaker] > rival for rival in rivals)
            missed.append(not first or row[speaker] < threshold)
        else:
            accepted.append(max(row) >= threshold)
    return np.mean(accepted), np.mean(missed)


def brute_point(scores, speakers, fpir):
    """The rates of the threshold that misses least, among those with at most this FPIR."""
    levels = sorted(set(scores.ravel()))
    middles = [(low + high) / 2 for low, high in pairwise(levels)]
    rates = [brute_rates(scores, speakers, t) for t in (*levels, *middles, levels[-1] + 1)]
    return min((fnir, reached) for reached, fnir in rates if reached <= fpir)


@pytest.mark.slow
@given(searches())
def test_ranks_count_the_profiles_that_are_not_below(system):
    result = Search.of(*system)
    ranks = brute_ranks(*system)
    assert result.rank.tolist() == ranks
    for k in (1, 2, 4):
        assert result.rank_rate(k) == np.mean([rank <= k for rank in ranks])


@pytest.mark.slow
@given(searches(), st.sampled_from([0.01, 0.1, 0.25, 0.29, 0.5, 0.9]))
def test_open_set_misses_least_within_the_false_positives_that_are_allowed(system, fpir):
    scores, speakers = system
    point = Search.of(scores, speakers).operating_point(fpir)
    nonmated = np.count_nonzero(speakers >= scores.shape[1])
    if nonmated * fpir < 1 - 1e-9:
        assert point is None
        return
    fnir, reached = brute_point(scores, speakers, fpir)
    assert point.fnir == pytest.approx(fnir)
    assert brute_rates(scores, speakers, point.threshold) == pytest.approx((point.fpir, fnir))
    assert point.false_positives == round(point.fpir * nonmated)
    # Where two thresholds miss as much, the lower is taken, which accepts more impostors.
    assert reached <= point.fpir + 1e-12 and point.fpir <= fpir + 1e-12


def test_a_fraction_of_all_utterances_is_not_rounded_down():
    scores = np.append(np.arange(100.0), 50)[:, None]
    result = Search.of(scores, np.append(np.ones(100, int), 0))
    assert result.operating_point(0.29).false_positives == 29  # 0.29 * 100 < 29 in floating point


# ---- ties and resolution ----


def test_a_tie_is_not_an_identification():
    result = Search.of([[1, 1, 0], [0, 2, 1], [0, 0, 0]], [0, 1, 3])
    assert result.rank.tolist() == [2, 1]
    assert (result.rank_rate(1), result.rank_rate(2)) == (0.5, 1)


def test_tied_impostors_are_rejected_together_and_so_is_a_mated_utterance_that_ties_with_them():
    # 100 impostors: at 2 % two may be accepted, but three tie for second place.
    impostors = np.concatenate([[0.9], [0.8] * 3, np.linspace(0, 0.5, 96)])
    mated = [0.95, 0.8, 0.7]
    scores = np.append(mated, impostors)[:, None]
    point = Search.of(scores, [0] * 3 + [1] * 100).operating_point(0.02)
    assert (point.false_positives, point.fpir, point.fnir) == (1, 0.01, 2 / 3)
    assert 0.8 < point.threshold < 0.8 + 1e-12


def test_all_tied_finds_nobody():
    result = Search.of(np.zeros((300, 4)), [0, 1] * 50 + [4] * 200)
    assert result.rank_rate() == 0
    point = result.operating_point(0.01)
    assert (point.fpir, point.fnir) == (0, 1)


def test_float32_scores_keep_their_threshold():
    scores = np.linspace(0, 1, 201, dtype=np.float32)[:, None]
    result = Search.of(scores, np.arange(201) % 2)
    point = result.operating_point(0.05)
    tops, own = scores[1::2, 0], scores[::2, 0]
    assert np.count_nonzero(tops >= point.threshold) == point.false_positives == 5
    assert np.mean(own < point.threshold) == point.fnir


def test_an_fpir_that_too_few_utterances_cannot_resolve_is_undefined():
    def result(impostors):
        return Search.of(np.arange(impostors + 1.0)[:, None], [0] + [1] * impostors)

    assert result(300).operating_point(0.001) is None
    assert result(999).operating_point(0.001) is None
    assert result(1000).operating_point(0.001).false_positives == 1
    estimates = bootstrap_search(result(300), (0.01, 0.001), draws=5)
    assert estimates.fnir[0] is not None and estimates.fnir[1] is None


# ---- invariances, perfect and chance systems ----


@pytest.mark.slow
@given(system=searches(), data=st.data())
def test_order_and_scale_do_not_matter(system, data):
    scores, speakers = system

    def rates(scores, speakers):
        result = Search.of(scores, speakers)
        point = result.operating_point(0.5)
        rank_rates = result.rank_rate(1), result.rank_rate(2)
        return *rank_rates, point and (point.false_positives, point.fpir, point.fnir)

    expected = rates(scores, speakers)
    order = np.array(data.draw(st.permutations(range(len(speakers)))))
    assert rates(scores[order], speakers[order]) == expected
    profiles = scores.shape[1]
    columns = np.array(data.draw(st.permutations(range(profiles))))
    renumbered = np.append(np.argsort(columns), np.arange(profiles, profiles + 3))[speakers]
    assert rates(scores[:, columns], renumbered) == expected
    assert rates(np.exp(scores / 3), speakers) == expected
    assert rates(scores.astype(np.float32), speakers) == expected
    assert rates(scores.astype(int), speakers) == expected


def test_a_perfect_system():
    speakers = np.arange(400) % 40
    scores = np.where(speakers[:, None] == np.arange(20), 0.9, 0.1)
    result = Search.of(scores, speakers)
    point = result.operating_point(0.01)
    assert (result.rank_rate(), point.fnir, point.fpir) == (1, 0, 0)
    estimates = bootstrap_search(result, (0.01,), draws=20)
    assert estimates.rank1.interval == (1, 1) and estimates.fnir[0].interval == (0, 0)


def test_a_system_that_guesses():
    rng = np.random.default_rng(0)
    result = Search.of(rng.normal(size=(20_000, 10)), np.arange(20_000) % 20)
    assert result.rank_rate() == pytest.approx(1 / 10, abs=0.01)
    assert result.rank_rate(5) == pytest.approx(5 / 10, abs=0.02)
    # Its highest score tells nothing of who it is, nor whether it is anybody.
    assert result.operating_point(0.1).fnir == pytest.approx(1 - 0.1 / 10, abs=0.005)


@pytest.mark.parametrize("block", [1, 50, 2**22])
def test_search_scores_every_utterance_with_every_profile(monkeypatch, block):
    monkeypatch.setattr(identification, "SCORE_FLOATS", block)
    gallery, tests = vectors("abcde"), vectors([f"p{n}" for n in range(40)], seed=1)
    speakers = np.arange(40) % 9
    expected = Search.of(cosine_matrix(tests, gallery), speakers)
    result = search(gallery, tests, speakers)
    np.testing.assert_allclose(result.own, expected.own, rtol=1e-5)
    np.testing.assert_allclose(result.top, expected.top, rtol=1e-5)
    for column in ("rank", "mated", "nonmated"):
        np.testing.assert_array_equal(getattr(result, column), getattr(expected, column))
    assert result.distinct == len(result.top)


# ---- bootstrap ----


def test_weighted_draws_equal_utterances_repeated_literally():
    rng = np.random.default_rng(3)
    speakers = rng.integers(0, 12, size=150)
    scores = (rng.normal(size=(150, 6)) + 2 * (speakers[:, None] == np.arange(6))).round(1)
    result = Search.of(scores, speakers)
    estimates = bootstrap_search(result, (0.05, 0.2), draws=20, seed=5)
    rng = np.random.default_rng(5)
    for draw in range(20):
        counts = np.concatenate(
            [np.bincount(rng.integers(6, size=6), minlength=6) for _ in range(2)]
        )
        repeated = np.repeat(np.arange(150), counts[speakers])
        literal = Search.of(scores[repeated], speakers[repeated])
        assert estimates.rank1.draws[draw] == pytest.approx(literal.rank_rate())
        for fpir, estimate in zip((0.05, 0.2), estimates.fnir, strict=True):
            assert estimate.draws[draw] == pytest.approx(literal.operating_point(fpir).fnir)
    assert estimates.rank1.value == result.rank_rate()
    assert estimates.fnir[0].value == result.operating_point(0.05).fnir


def test_draws_are_seeded_and_paired():
    rng = np.random.default_rng(0)
    speakers = np.arange(600) % 60
    own = speakers[:, None] == np.arange(30)
    noise = rng.normal(size=own.shape)
    a, b = (bootstrap_search(Search.of(noise + d * own, speakers), draws=200) for d in (3, 3.2))
    again = bootstrap_search(Search.of(noise + 3 * own, speakers), draws=200)
    assert (a.rank1.draws == again.rank1.draws).all()
    assert (a.fnir[0].draws == again.fnir[0].draws).all()
    paired = difference(b.rank1, a.rank1)
    assert paired.interval[0] >= 0, "each utterance is found by b where it is by a"
    assert a.rank1.interval[1] > b.rank1.interval[0], "which unpaired intervals do not show"


# ---- protocol ----


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("existing", [False, True])
def test_nothing_is_on_both_sides(seed, existing):
    utt2spk, utt2session = corpus()
    if existing:
        made, _ = make_profile_trials(utt2spk, utt2session, None, (1, 3, 9), n_nontarget=5)
        protocol = protocol_of(made, utt2spk, utt2session, seed=seed)
        assert protocol.enroll_map.items() <= made.items()
    else:
        protocol = draw_protocol(utt2spk, utt2session, (1, 3, 9), seed=seed)
        assert all(name.endswith("-0") for name in protocol.enroll_map)
    assert list(protocol.profiles) == [1, 3, 9]
    assert len(protocol.enrolled) == len(protocol.impostors) == 6
    for speaker in protocol.enrolled:
        names = [gallery[speaker] for gallery in protocol.profiles.values()]
        one, three, nine = (set(protocol.enroll_map[name]) for name in names)
        assert one < three < nine and (len(one), len(three), len(nine)) == (1, 3, 9)
        assert {utt2spk[utterance] for utterance in nine} == {speaker}
        tests = [utt for utt, spk in protocol.mated.items() if spk == speaker]
        assert tests and {utt2spk[utterance] for utterance in tests} == {speaker}
        assert not {utt2session[u] for u in nine} & {utt2session[u] for u in tests}
    impostors = {utt for utt in utt2spk if utt2spk[utt] in protocol.impostors}
    assert set(protocol.nonmated) == impostors
    assert not impostors & set(protocol.mated)
    assert protocol.utterances == [*protocol.mated, *protocol.nonmated]
    names = [*protocol.enrolled, *protocol.impostors]
    assert [names[s] for s in protocol.speakers] == [utt2spk[u] for u in protocol.utterances]


def test_the_draw_depends_on_seed_and_content_only():
    utt2spk, utt2session = corpus()
    first = draw_protocol(utt2spk, utt2session, (1, 3), seed=4)
    turned = draw_protocol(
        dict(reversed(utt2spk.items())), dict(reversed(utt2session.items())), (3, 1), seed=4
    )
    assert first.enrolled == turned.enrolled and first.utterances == turned.utterances
    assert first == draw_protocol(utt2spk, utt2session, (1, 3), seed=4)
    others = [draw_protocol(utt2spk, utt2session, (1, 3), seed=seed) for seed in range(5, 9)]
    assert all(first.enrolled != other.enrolled for other in others)


def test_sizes_that_few_can_give_are_left_out_and_their_speakers_stay_impostors(caplog):
    utt2spk, utt2session = corpus(speakers=10, sessions=2)  # 3 outside one session
    kept = {utt: spk for utt, spk in utt2spk.items() if spk > "id02" or "-s0-" in utt}
    protocol = draw_protocol(kept, utt2session, sizes=(1, 3, 10), enrolled_share=0.7)
    assert list(protocol.profiles) == [1, 3]
    assert "no profiles of 10 utterances: 0 of 10 speakers" in caplog.text
    assert protocol.impostors == ["id00", "id01", "id02"], "they have one session"
    with pytest.raises(InputError, match=r"no profile size of .* by 8 of 10 speakers"):
        draw_protocol(kept, utt2session, enrolled_share=0.8)


def test_protocols_that_cannot_be_drawn():
    utt2spk, utt2session = corpus(speakers=4)
    for share in (0.0, 0.25, 1.0):
        with pytest.raises(InputError, match="needs 2 or more enrolled speakers and an impostor"):
            draw_protocol(utt2spk, utt2session, enrolled_share=share)
    with pytest.raises(InputError, match="distinct"):
        draw_protocol(utt2spk, utt2session, sizes=(3, 3))
    with pytest.raises(InputError, match="no profile size"):
        draw_protocol(utt2spk, utt2session, sizes=())
    missing = {key: session for key, session in utt2session.items() if key != "id00-s0-0"}
    with pytest.raises(InputError, match="'id00-s0-0' has no session"):
        draw_protocol(utt2spk, missing)


@pytest.mark.parametrize(
    ("enroll_map", "message"),
    [
        ({"p": ["nobody"]}, "'p': no speaker is known for 'nobody'"),
        ({"p": ["id00-s0-0", "id01-s0-0"]}, "of 2 speakers"),
        ({"p": ["id00-s0-0", "id00-s0-0"]}, "2 utterances, 1 of them different"),
        ({"p": []}, "'p' has 0 utterances"),
        ({"p": ["id00-s0-0"]}, "only 1 have nested profiles"),
        ({}, "only 0 have nested profiles"),
        # No session is left of speaker 0, and the profiles of speaker 1 are not nested.
        (
            {
                "a1": ["id00-s0-0"], "a4": [f"id00-s{n}-0" for n in range(4)],
                "b1": ["id01-s1-1"], "b4": [f"id01-s0-{n}" for n in range(3)] + ["id01-s1-0"],
            },
            "only 0 have nested profiles",
        ),
    ],
)  # fmt: skip
def test_unfit_enrollment_maps_are_refused(enroll_map, message):
    with pytest.raises(InputError, match=message):
        protocol_of(enroll_map, *corpus(speakers=4))


GOOD = {
    "profiles": {1: {"a": "a-p1"}},
    "enroll_map": {"a-p1": ["a1"]},
    "mated": {"a2": "a"},
    "nonmated": {"g1": "g"},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profiles": {}}, "without profiles"),
        ({"profiles": {1: {}}}, "without profiles"),
        ({"profiles": {1: {"a": "a-p1"}, 2: {}}}, "'a' has a profile of one size and none of 2"),
        ({"enroll_map": {}}, "'a-p1' has not 1 different utterances"),
        ({"enroll_map": {"a-p1": ["a1", "a3"]}}, "'a-p1' has not 1 different utterances"),
        ({"mated": {}}, "'a' has a profile or test utterances, but not both"),
        ({"mated": {"a2": "a", "b1": "b"}}, "'b' has a profile or test utterances, but not both"),
        ({"nonmated": {}}, "impostors must be speakers who are not enrolled, got none"),
        ({"nonmated": {"a3": "a"}}, "not enrolled, got .'a'"),
        ({"mated": {"a1": "a"}}, "'a1' is in a profile and a test utterance"),
        ({"nonmated": {"a1": "g"}}, "'a1' is in a profile and a test utterance"),
    ],
)
def test_protocols_that_leak_or_lack_are_refused(change, message):
    Protocol(**GOOD)
    with pytest.raises(InputError, match=message):
        Protocol(**(GOOD | change))


# ---- households ----


def alike(protocol, seed=0):
    names = [*protocol.enrolled, *protocol.impostors]
    matrix = np.random.default_rng(seed).normal(size=(len(names), len(names)))
    return Similarity(names, (matrix + matrix.T).astype(np.float32))


def test_households_are_drawn_as_described():
    protocol = draw_protocol(*corpus())
    similarity = alike(protocol)
    drawn = draw_households(protocol, similarity, sizes=(2, 6), count=50, seed=1)
    assert [(h.drawn, h.members.shape) for h in drawn] == [
        ("random", (50, 2)), ("hard", (6, 2)), ("random", (50, 6)), ("hard", (6, 6)),
    ]  # fmt: skip
    for homes in drawn:
        assert homes.impostors.min() >= 6 and homes.impostors.max() < 12 and homes.members.max() < 6
        for row in (*homes.members, *homes.impostors):
            assert len(set(row)) == len(row)
    hard = drawn[1]
    for speaker, (members, impostors) in enumerate(zip(hard.members, hard.impostors, strict=True)):
        others = [s for s in range(6) if s != speaker]
        assert members[0] == speaker
        assert members[1] == max(others, key=lambda s: similarity.matrix[speaker, s])
        by_likeness = sorted(range(6, 12), key=lambda g: -similarity.matrix[speaker, g])
        assert impostors.tolist() == by_likeness[:2]
    # Everybody has the same chance.
    many = draw_households(protocol, similarity, sizes=(3,), count=3000)[0]
    assert np.bincount(many.members.ravel()) == pytest.approx(1500, rel=0.1)
    assert np.bincount(many.impostors.ravel())[6:] == pytest.approx(1000, rel=0.1)


def test_households_are_seeded_per_size_and_do_not_depend_on_the_order_of_similarities():
    protocol = draw_protocol(*corpus())
    similarity = alike(protocol)
    order = np.random.default_rng(0).permutation(12)
    turned = Similarity(
        [similarity.speakers[row] for row in order], similarity.matrix[np.ix_(order, order)]
    )
    first = draw_households(protocol, similarity, (2, 3), 20, seed=1)
    for other in (
        draw_households(protocol, turned, (2, 3), 20, seed=1),
        draw_households(protocol, similarity, (3, 2), 20, seed=1)[2:]
        + draw_households(protocol, similarity, (3,), 20, seed=1),
    ):
        for a, b in zip(first, other, strict=True):
            assert (a.members == b.members).all() and (a.impostors == b.impostors).all()
    changed = draw_households(protocol, similarity, (2, 3), 20, seed=2)
    assert (first[0].members != changed[0].members).any()
    assert (first[1].members == changed[1].members).all(), "hard ones are not drawn"


@pytest.mark.parametrize("block", [1, 60, 2**22])
def test_households_by_a_loop(monkeypatch, block):
    monkeypatch.setattr(identification, "SCORE_FLOATS", block)
    rng = np.random.default_rng(0)
    gallery, tests = vectors("abcdef"), vectors([f"p{n}" for n in range(50)], seed=1)
    speakers = rng.integers(0, 10, size=50)
    homes = Households(
        "random",
        np.array([rng.permutation(6)[:3] for _ in range(20)]),
        np.array([6 + rng.permutation(3)[:2] for _ in range(20)]),  # 9 has no impostors
    )
    scores = cosine_matrix(tests, gallery)
    found, highest = [], []
    for members, impostors in zip(homes.members, homes.impostors, strict=True):
        for row, speaker in zip(scores, speakers, strict=True):
            inside = {member: row[member] for member in members}
            if speaker in members:
                own = inside.pop(speaker)
                found.append((own, 1 + sum(s >= own for s in inside.values())))
            if speaker in impostors:
                highest.append(max(inside.values()))
    result = search_households(gallery, tests, speakers, homes)
    got = sorted(zip(result.own, result.rank, strict=True))
    np.testing.assert_allclose(got, sorted(found), rtol=1e-5)
    np.testing.assert_allclose(np.sort(result.top), np.sort(highest), rtol=1e-5)
    assert result.distinct == sum(6 <= speaker < 9 for speaker in speakers)


def test_pooled_searches_resolve_no_more_than_their_utterances():
    homes = Households("random", np.tile([0, 1], (500, 1)), np.tile([2, 3], (500, 1)))
    gallery, tests = vectors("ab"), vectors([f"p{n}" for n in range(80)], seed=1)
    result = search_households(gallery, tests, np.arange(80) % 4, homes)
    assert (len(result.top), result.distinct) == (500 * 40, 40)
    assert result.operating_point(0.01) is None
    assert result.operating_point(0.05) is not None


def test_similarity_gives_every_model_an_equal_say():
    utt2spk, _ = corpus(speakers=8)
    a, b = vectors(utt2spk, seed=1), vectors(utt2spk, dim=9, seed=2)
    moved = Embeddings(a.keys, 100 * a.matrix + 7)
    one, two, both = (speaker_similarity(m, utt2spk) for m in ([a], [b], [moved, b]))
    np.testing.assert_allclose(both.matrix, (one.matrix + two.matrix) / 2, atol=1e-3)
    assert one.speakers == sorted(set(utt2spk.values()))
    pairs = one.matrix[~np.eye(8, dtype=bool)]
    assert (pairs.mean(), pairs.std()) == pytest.approx((0, 1), abs=1e-4)
    means = profile_means(a, {s: [u for u in utt2spk if utt2spk[u] == s] for s in one.speakers})
    centered = means.matrix - means.matrix.mean(axis=0)
    cosines = _cosines(centered)
    assert np.corrcoef(cosines[np.triu_indices(8, 1)], one.matrix[np.triu_indices(8, 1)])[0, 1] > (
        1 - 1e-5
    )


def _cosines(matrix):
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return unit @ unit.T


def test_households_chosen_by_one_model_are_harder_for_it_and_by_both_for_neither():
    excess = dict.fromkeys(("a", "b", "both"), 0.0)  # of a's misidentification over b's
    for seed in range(3):
        # Two models of one quality.
        simulation = Simulation(dims=(32, 32), factor_dim=16, noise=(1, 1), seed=seed)
        *views, utt2spk = simulation.sample(120, 6)
        a, b = (Embeddings(v.keys, v.matrix - v.matrix.mean(axis=0)) for v in views)
        utt2session = {key: f"s{row % 6 // 2}" for row, key in enumerate(utt2spk)}
        protocol = draw_protocol(utt2spk, utt2session, (3,), seed=seed)
        for name, models in (("a", [a]), ("b", [b]), ("both", [a, b])):
            similarity = speaker_similarity(models, utt2spk)
            hard = draw_households(protocol, similarity, (4,), count=1)[1:]
            of_a, of_b = (identification_rates(protocol, m, m, hard, draws=1)[-1] for m in (a, b))
            assert of_a["task"] == "household"
            excess[name] += (of_a["misidentified"] - of_b["misidentified"]) / 3
    assert excess["a"] > 0.03 and excess["b"] < -0.03
    assert abs(excess["both"]) < (excess["a"] - excess["b"]) / 2


def test_similarities_that_cannot_be_computed():
    utt2spk, _ = corpus(speakers=3)
    good = vectors(utt2spk)
    with pytest.raises(InputError, match="0 models and 3 speakers"):
        speaker_similarity([], utt2spk)
    with pytest.raises(InputError, match="1 models and 2 speakers"):
        speaker_similarity([good], {utt: spk for utt, spk in utt2spk.items() if spk < "id02"})
    with pytest.raises(InputError, match="no vector"):
        speaker_similarity([vectors(["other"])], utt2spk)


def test_unfit_households_are_refused():
    protocol = draw_protocol(*corpus())
    good = alike(protocol)
    nan = Similarity(good.speakers, np.where(np.eye(12), np.nan, good.matrix))
    for arguments, message in (
        ((good, (1,)), "at least 2"),
        ((good, (7,)), r"\[7\] profiles from 6 enrolled"),
        ((good, ()), "households"),
        ((good, (2,), 0), "0 households"),
        ((good, (2,), 5, 0), "0 impostors per household, of 6"),
        ((good, (2,), 5, 7), "7 impostors per household, of 6"),
        ((nan, (2,)), "not finite"),
        ((Similarity(good.speakers[:-1], good.matrix[:-1, :-1]), (2,)), "has no similarities"),
        ((Similarity(good.speakers, good.matrix[:-1]), (2,)), "square"),
        ((Similarity(["id00"] * 12, good.matrix), (2,)), "square"),
    ):
        with pytest.raises(InputError, match=message):
            draw_households(protocol, *arguments)
    gallery, tests = vectors("abc"), vectors("pq", seed=1)
    for members, impostors in (([[0, 3]], [[4]]), ([[0, 1]], [[2]])):
        homes = Households("random", np.array(members), np.array(impostors))
        with pytest.raises(InputError, match="another gallery"):
            search_households(gallery, tests, [0, 3], homes)
    none = Households("random", np.empty((0, 2), int), np.empty((0, 1), int))
    with pytest.raises(InputError, match="no households"):
        search_households(gallery, tests, [0, 3], none)
    with pytest.raises(InputError, match="numbers from 0"):
        search_households(gallery, tests, [0, -3], none)


# ---- a system ----


@pytest.fixture(scope="module")
def world():
    """A protocol with 60 enrolled speakers and 60 impostors, households, and two models' views."""
    *views, utt2spk = Simulation(dims=(24, 32), factor_dim=16, noise=(1.2, 0.7)).sample(120, 12)
    old, new = (Embeddings(v.keys, v.matrix - v.matrix.mean(axis=0)) for v in views)
    utt2session = {key: f"s{row % 12 // 3}" for row, key in enumerate(utt2spk)}
    protocol = draw_protocol(utt2spk, utt2session, sizes=(1, 3), seed=1)
    similarity = speaker_similarity([old, new], utt2spk)
    homes = draw_households(protocol, similarity, sizes=(2, 5), count=1000)
    return protocol, homes, old, new


def find(records, **wanted):
    (record,) = [r for r in records if wanted.items() <= r.items()]
    return record


def test_records_are_those_of_the_searches_and_json(world):
    protocol, homes, old, _ = world
    records = identification_rates(protocol, old, old, homes, draws=50, seed=3)
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    assert len(records) == 2 * (1 + 2 + 4)
    assert records == identification_rates(protocol, old, old, homes, draws=50, seed=3)

    profiles = profile_means(old, protocol.enroll_map)
    gallery = profiles.select([protocol.profiles[3][s] for s in protocol.enrolled])
    tests = old.select(protocol.utterances)
    result = search(gallery, tests, protocol.speakers)
    estimates = bootstrap_search(result, draws=50, seed=3)
    closed = find(records, task="closed", profile=3)
    assert (closed["rank1"], closed["rank5"]) == (result.rank_rate(), result.rank_rate(5))
    assert closed["rank1_ci"] == list(estimates.rank1.interval)
    assert closed["mated"] == len(protocol.mated) and closed["gallery"] == 60
    opened = find(records, task="open", profile=3, fpir=0.01)
    point = result.operating_point(0.01)
    assert (opened["fnir"], opened["fpir_reached"]) == (point.fnir, point.fpir)
    assert opened["dir"] == pytest.approx(1 - opened["fnir"])
    assert opened["fnir_ci"] == list(estimates.fnir[0].interval)
    assert opened["nonmated"] == len(protocol.nonmated) == 720
    unresolved = find(records, task="open", profile=3, fpir=0.001)
    assert [unresolved[k] for k in ("fnir", "fnir_ci", "dir", "threshold")] == [None] * 4
    home = find(records, task="household", profile=3, n=5, drawn="hard")
    pooled = search_households(gallery, tests, protocol.speakers, homes[3])
    assert home["misidentified"] == pytest.approx(1 - pooled.rank_rate())
    assert home["fnir"] == pooled.operating_point(0.01).fnir
    assert (home["households"], home["nonmated"]) == (60, 60 * 2 * 12)


def test_hard_households_are_harder_and_more_to_go_by_is_easier(world):
    protocol, homes, old, new = world
    records = {
        m: identification_rates(protocol, e, e, homes, draws=5)
        for m, e in (("old", old), ("new", new))
    }
    for model in records:
        for size in (1, 3):
            for n in (2, 5):
                hard, easy = (
                    find(records[model], task="household", profile=size, n=n, drawn=drawn)
                    for drawn in ("hard", "random")
                )
                assert hard["misidentified"] > easy["misidentified"]
                assert hard["fnir"] > easy["fnir"]
            two, five = (
                find(records[model], task="household", profile=size, n=n, drawn="random")
                for n in (2, 5)
            )
            assert two["misidentified"] < five["misidentified"]
        one, three = (find(records[model], task="closed", profile=size) for size in (1, 3))
        assert one["rank1"] < three["rank1"] <= three["rank5"]
    old_fnir, new_fnir = (
        find(records[m], task="open", profile=3, fpir=0.01)["fnir"] for m in ("old", "new")
    )
    assert new_fnir < old_fnir


def test_profiles_that_are_mapped_already_are_not_averaged_again(world, caplog):
    protocol, homes, old, new = world

    def curved(embeddings):
        stamp = ModelStamp("old", "o" * 64, "eval").mapped("nessa", "c" * 64, "m")
        return Embeddings(embeddings.keys, np.tanh(embeddings.matrix)[:, :20], stamp)

    profiles = curved(profile_means(old, protocol.enroll_map))
    utterances = curved(old)
    joined = Embeddings(
        [*profiles.keys, *utterances.keys], np.vstack([profiles.matrix, utterances.matrix])
    )
    live = Embeddings(new.keys, new.matrix[:, :20])
    given, averaged_after, alone = (
        identification_rates(protocol, enroll, live, homes, draws=5)
        for enroll in (joined, utterances, profiles)
    )
    assert given == alone != averaged_after
    (warning,) = caplog.messages
    assert "averaged after mapping" in warning and "-p3-0'" in warning and "-p1-" not in warning
    assert "put an enroll_map (`profile utterance ...`) into the data directory" in warning


def test_hard_households_are_drawn_by_the_given_models_or_by_the_two_sides(tmp_path):
    utt2spk, utt2session = corpus(utterances=1)
    write_table(tmp_path / "utt2spk", utt2spk)
    write_table(tmp_path / "utt2session", utt2session)
    x, y = tmp_path / "x", tmp_path / "y"
    for seed, side in enumerate((x, y)):
        vectors(utt2spk, seed=seed).write(side)

    def hard(*similarity):
        records = identify_sides(tmp_path, x, x, 1, 1, similarity)
        return [record for record in records if record.get("drawn") == "hard"]

    assert hard() == hard(x) != hard(y)


def test_means_of_all_utterances_of_a_speaker_are_no_profiles_of_some(tmp_path):
    utt2spk, _ = corpus()
    write_table(tmp_path / "utt2spk", utt2spk)
    write_table(tmp_path / "enroll_map", {s: f"{s}-s0-0 {s}-s0-1" for s in utt2spk.values()})
    x = tmp_path / "x"
    vectors(utt2spk).write(x, utt2spk)
    with pytest.raises(InputError, match=r"enroll_map: of other utterances than the means"):
        identify_sides(tmp_path, x / "spk_xvector.scp", x, 1, 1, [x])


def test_profiles_of_given_trials_are_not_searched_beside_drawn_ones(tmp_path):
    write_table(tmp_path / "enroll_map", {"drawn": "u1 u2", "given": "u3"})
    write_table(tmp_path / "enroll_map_given", {"given": "u3"})
    assert drawn_profiles(tmp_path) == {"drawn": ["u1", "u2"]}


def test_without_utt2session_every_utterance_is_a_session_of_its_own(tmp_path, caplog):
    models = [few_speakers(tmp_path, 12)]
    write_table(tmp_path / "utt2session", {key: key for key in models[0].keys})
    told = Comparison.draw(tmp_path, models, 1)
    assert not caplog.text
    (tmp_path / "utt2session").unlink()
    assert Comparison.draw(tmp_path, models, 1).protocol == told.protocol
    assert f"{tmp_path}: no utt2session: every utterance counts as a session of its" in caplog.text


def test_systems_that_do_not_fit_are_refused(world):
    protocol, _, old, new = world
    profiles = profile_means(old, protocol.enroll_map)
    some = profiles.select(profiles.keys[1:])
    with pytest.raises(InputError, match="map both into one space"):
        identification_rates(protocol, old, new)
    with pytest.raises(InputError, match=r"enrollment side: no vector for"):
        identification_rates(protocol, some, old)
    with pytest.raises(InputError, match=r"enrollment side: no vector for"):
        identification_rates(protocol, vectors(["other"]), old)
    with pytest.raises(InputError, match=r"runtime side: no vector for"):
        identification_rates(protocol, old, vectors(["other"], dim=24))
    with pytest.raises(InputError, match="0 draws"):
        identification_rates(protocol, old, old, draws=0)


@pytest.mark.parametrize(
    ("scores", "speakers", "message"),
    [
        ([[0.0, math.nan], [1, 2]], [0, 2], r"test utterance 0 with profile 1 .* is nan"),
        ([[0.0], [math.inf]], [0, 1], "is inf"),
        ([[0.0], [1]], [0], "shape"),
        ([0.0, 1], [0, 1], "shape"),
        (np.empty((2, 0)), [0, 1], "at least one profile"),
        ([[0.0], [1]], [0, -1], "numbers from 0"),
        ([[0.0], [1]], [0, 0.5], "numbers from 0"),
    ],
)
def test_unfit_scores_are_refused(scores, speakers, message):
    with pytest.raises(InputError, match=message):
        Search.of(scores, speakers)


def test_searches_of_one_kind_have_the_rates_of_that_kind_only():
    mated, impostors = Search.of([[1.0]], [0]), Search.of([[1.0]], [1])
    assert mated.rank_rate() == 1
    with pytest.raises(InputError, match="needs some of impostors"):
        mated.operating_point(0.01)
    for refused in (impostors.rank_rate, lambda: impostors.operating_point(0.01)):
        with pytest.raises(InputError, match="no mated test utterances"):
            refused()
    both = Search.of([[1.0], [1.0]], [0, 1])
    for fpir in (0, 1, math.nan):
        with pytest.raises(InputError, match="between 0 and 1"):
            both.operating_point(fpir)
    gallery = vectors("ab")
    with pytest.raises(InputError, match="0 profiles and 2 test utterances"):
        search(Embeddings([], np.empty((0, 6))), gallery, [0, 1])
    with pytest.raises(InputError, match="2 test utterances but speakers of shape"):
        search(gallery, vectors("pq"), [0])


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 14), st.integers(2, 5), st.integers(1, 4), st.integers(0, 99))
def test_any_corpus_gives_a_protocol_without_leaks(speakers, sessions, utterances, seed):
    utt2spk, utt2session = corpus(speakers, sessions, utterances)
    protocol = draw_protocol(utt2spk, utt2session, seed=seed, enrolled_share=0.67)
    enrolling = {u for utterances in protocol.enroll_map.values() for u in utterances}
    sessions_of = [
        {(utt2spk[u], utt2session[u]) for u in side}
        for side in (enrolling, protocol.mated, protocol.nonmated)
    ]
    assert not sessions_of[0] & sessions_of[1]
    assert not (sessions_of[0] | sessions_of[1]) & sessions_of[2]


def few_speakers(folder, speakers):
    """The folder as a data directory, and the embeddings of its utterances."""
    utt2spk, utt2session = corpus(speakers)
    write_table(folder / "utt2spk", utt2spk)
    write_table(folder / "utt2session", utt2session)
    return vectors(utt2spk)


def test_three_speakers_have_households_with_one_impostor(tmp_path):
    drawn = Comparison.draw(tmp_path, [few_speakers(tmp_path, 3)], 1)
    assert len(drawn.protocol.impostors) == 1
    assert {homes.impostors.shape[1] for homes in drawn.households} == {1}


def test_two_speakers_are_too_few(tmp_path):
    with pytest.raises(TooFewError, match="is 1 enrolled"):
        Comparison.draw(tmp_path, [few_speakers(tmp_path, 2)], 1)


def test_a_recipe_of_two_eval_speakers_goes_without(tmp_path, caplog):
    recipe = load_recipe(ROOT / "recipes/mini/recipe.yaml")
    data, exp = tmp_path / "data/eval", tmp_path / "exp"
    embeddings, (utt2spk, _) = few_speakers(data, 2), corpus(2)
    profiles = {s: [u for u in utt2spk if u.startswith(f"{s}-s0")] for s in utt2spk.values()}
    write_table(data / "enroll_map", {f"{s}-p": " ".join(own) for s, own in profiles.items()})
    for model in recipe.update:
        embeddings.write(exp / "embeddings" / model / "eval")
    assert identify_cells(recipe, data, exp) == []
    assert f"no identification: {data}: a share of 0.5 of 2 speakers" in caplog.text


def test_a_recipe_whose_profiles_are_all_given_goes_without(tmp_path):
    recipe = load_recipe(ROOT / "recipes/mini/recipe.yaml")
    data, exp = tmp_path / "data/eval", tmp_path / "exp"
    embeddings = few_speakers(data, 12)
    for model in recipe.update:
        embeddings.write(exp / "embeddings" / model / "eval")
    for name in ("enroll_map", "enroll_map_given"):  # stage map maps these, and no others
        write_table(data / name, {"id00": "id00-s0-0 id00-s0-1"})
    assert identify_cells(recipe, data, exp) == []
