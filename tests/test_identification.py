"""Identification against loops over its definitions, and what must not change it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nessa import Embeddings, InputError, identification
from nessa.identification import Search, bootstrap_search, search


@st.composite
def searches(draw):
    """Scores (P, G) with many ties, and speakers of whom some are guests."""
    gallery = draw(st.integers(1, 4))
    mated = draw(st.lists(st.integers(0, gallery - 1), min_size=1, max_size=8))
    guests = draw(st.lists(st.integers(gallery, gallery + 3), min_size=1, max_size=12))
    speakers = np.array([*mated, *guests])
    rows = st.lists(st.integers(-3, 3), min_size=gallery, max_size=gallery)
    scores = draw(st.lists(rows, min_size=len(speakers), max_size=len(speakers)))
    return np.array(scores, float), speakers


def brute_rank(scores, own):
    """1 + the other profiles that score at least as high."""
    return 1 + sum(s >= scores[own] for place, s in enumerate(scores) if place != own)


def brute_open_set(scores, speakers, fpir):
    """Lowest FNIR of any threshold whose FPIR is at most `fpir`."""
    gallery = scores.shape[1]
    is_mated = speakers < gallery
    tops = scores[~is_mated].max(axis=1)
    rates = []
    for threshold in [*np.unique(scores), np.inf]:
        if np.mean(tops >= threshold) <= fpir:
            missed = [
                brute_rank(row, own) > 1 or row[own] < threshold
                for row, own in zip(scores[is_mated], speakers[is_mated], strict=True)
            ]
            rates.append(np.mean(missed))
    return min(rates)


@given(searches(), st.integers(1, 4))
def test_rank_rates_count_profiles_that_are_not_beaten(case, k):
    scores, speakers = case
    own = speakers[speakers < scores.shape[1]]
    ranks = [brute_rank(row, place) for row, place in zip(scores, own, strict=False)]
    assert Search.of(scores, speakers).rank_rate(k) == np.mean([rank <= k for rank in ranks])


@given(searches(), st.sampled_from([0.01, 0.1, 0.25, 0.5]))
def test_fnir_is_the_lowest_at_an_fpir(case, fpir):
    scores, speakers = case
    point = Search.of(scores, speakers).operating_point(fpir)
    guests = int(np.count_nonzero(speakers >= scores.shape[1]))
    if point is None:
        assert fpir * guests < 1 or guests == 1, "only where the guests cannot resolve it"
    else:
        assert point.fnir == pytest.approx(brute_open_set(scores, speakers, fpir))
        tops = scores[speakers >= scores.shape[1]].max(axis=1)
        assert point.fpir == np.mean(tops >= point.threshold) <= fpir
        assert point.false_positives == np.count_nonzero(tops >= point.threshold)


@given(searches(), st.data())
def test_order_and_scale_do_not_matter(case, data):
    scores, speakers = case
    order = np.array(data.draw(st.permutations(range(len(speakers)))))
    one, other = Search.of(scores, speakers), Search.of(np.exp(scores[order]), speakers[order])
    assert one.rank_rate() == other.rank_rate()
    a, b = ((p and (p.fnir, p.fpir)) for p in (s.operating_point(0.3) for s in (one, other)))
    assert a == b


def test_perfect_and_tied_systems():
    speakers = np.array([0, 1, *[2] * 100])
    perfect = np.zeros((102, 2))
    perfect[0, 0] = perfect[1, 1] = 1
    result = Search.of(perfect, speakers)
    assert result.rank_rate() == 1 and result.operating_point(0.01).fnir == 0
    tied = Search.of(np.zeros((102, 2)), speakers)
    assert tied.rank_rate() == 0 and tied.rank_rate(2) == 1
    assert tied.operating_point(0.01)[1:] == (0, 0.0, 1.0)


def vectors(names, count, seed, dim=6):
    rng = np.random.default_rng(seed)
    return Embeddings([f"{names}{n}" for n in range(count)], rng.normal(size=(count, dim)))


@pytest.mark.parametrize("floats", [1, 30, 2**22])
def test_a_search_in_blocks_is_the_search_at_once(monkeypatch, floats):
    monkeypatch.setattr(identification, "SCORE_FLOATS", floats)
    gallery, probes = vectors("g", 5, 0), vectors("p", 23, 1)
    speakers = np.arange(23) % 8
    a = gallery.matrix / np.linalg.norm(gallery.matrix, axis=1, keepdims=True)
    b = probes.matrix / np.linalg.norm(probes.matrix, axis=1, keepdims=True)
    expected, result = Search.of(b @ a.T, speakers), search(gallery, probes, speakers)
    np.testing.assert_allclose(result.own, expected.own, atol=1e-6)
    np.testing.assert_allclose(result.top, expected.top, atol=1e-6)
    np.testing.assert_array_equal(result.rank, expected.rank)


def test_intervals_hold_the_value_and_are_paired():
    gallery, probes = vectors("g", 20, 0), vectors("p", 600, 1)
    speakers = np.arange(600) % 40
    own = np.flatnonzero(speakers < 20)
    probes.matrix[own] += 1.5 * gallery.matrix[speakers[own]]
    result = search(gallery, probes, speakers)
    one, other = (bootstrap_search(result, draws=200, seed=s) for s in (1, 1))
    for estimate, again in ((one.rank1, other.rank1), (one.fnir[0], other.fnir[0])):
        low, high = estimate.interval
        assert low <= estimate.value <= high
        np.testing.assert_array_equal(estimate.draws, again.draws)
    assert one.fnir[1] is None, "0.1 % of 300 probes is less than one"


@pytest.mark.parametrize(
    ("scores", "speakers", "message"),
    [
        ([[0.1, np.nan]], [0], r"probe 0 with profile 1 .* is nan"),
        ([[]], [0], "at least one profile"),
        ([[0.1]], [0, 1], "shape"),
        ([[0.1]], [-1], "numbers from 0"),
    ],
)
def test_bad_scores_are_refused(scores, speakers, message):
    with pytest.raises(InputError, match=message):
        Search.of(np.array(scores), np.array(speakers))


def test_rates_need_probes_of_the_kind():
    only_mated, only_guests = Search.of([[0.5]], [0]), Search.of([[0.5]], [1])
    assert only_mated.rank_rate() == 1
    with pytest.raises(InputError, match="no non-mated probes"):
        only_mated.operating_point(0.1)
    with pytest.raises(InputError, match="no mated probes"):
        only_guests.rank_rate()
    with pytest.raises(InputError, match="between 0 and 1"):
        Search.of([[0.5], [0.1]], [0, 1]).operating_point(1.0)
