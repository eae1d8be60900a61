"""Protocols and households: who meets whom, without leaks, and the same for every system."""

import numpy as np
import pytest

from nessa import Embeddings, InputError
from nessa.households import draw_households, search_households, speaker_similarity
from nessa.identification_rates import identification_rates
from nessa.protocol import Protocol, draw_protocol, protocol_of
from nessa.simulation import Simulation
from nessa.trials import make_profile_trials

SESSIONS, UTTERANCES = 4, 4


class Corpus:
    """Utterances of a simulation, four to a session."""

    def __init__(self, speakers: int = 40) -> None:
        simulation = Simulation(dims=(16, 20), factor_dim=12, noise=(0.8, 0.8))
        self.x, self.y, self.utt2spk = simulation.sample(speakers, SESSIONS * UTTERANCES)
        number = {key: int(key[-5:]) - 1 for key in self.utt2spk}
        self.utt2session = {key: f"s{n // UTTERANCES}" for key, n in number.items()}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


@pytest.fixture(scope="module")
def protocol(corpus: Corpus) -> Protocol:
    return draw_protocol(corpus.utt2spk, corpus.utt2session, seed=3)


def assert_no_leak(corpus: Corpus, protocol: Protocol) -> None:
    touched = {
        (corpus.utt2spk[utt], corpus.utt2session[utt])
        for utterances in protocol.enroll_map.values()
        for utt in utterances
    }
    for utterance, speaker in protocol.probes.items():
        assert corpus.utt2spk[utterance] == speaker in protocol.enrolled
        assert (speaker, corpus.utt2session[utterance]) not in touched
    assert not set(protocol.guests.values()) & set(protocol.enrolled)


def test_probes_share_no_session_with_profiles(corpus: Corpus, protocol: Protocol) -> None:
    assert_no_leak(corpus, protocol)
    assert list(protocol.profiles) == [1, 3, 10]
    assert len(protocol.enrolled) == 20 and len(protocol.visitors) == 20
    for size, gallery in protocol.profiles.items():
        assert all(len(set(protocol.enroll_map[name])) == size for name in gallery.values())


def test_profiles_that_are_there_are_taken(corpus: Corpus) -> None:
    made, _ = make_profile_trials(corpus.utt2spk, corpus.utt2session, None, sizes=(3, 8))
    protocol = protocol_of(made, corpus.utt2spk, corpus.utt2session, seed=1)
    assert_no_leak(corpus, protocol)
    for speaker in protocol.enrolled:
        small, large = (protocol.profiles[size][speaker] for size in (3, 8))
        assert set(made[small]) <= set(made[large]), "sizes differ in size alone"


def test_a_protocol_is_a_function_of_its_seed_not_of_the_order(corpus: Corpus) -> None:
    backwards = dict(reversed(corpus.utt2spk.items()))
    one, same, other = (
        draw_protocol(speakers, corpus.utt2session, seed=seed)
        for speakers, seed in ((corpus.utt2spk, 3), (backwards, 3), (corpus.utt2spk, 4))
    )
    assert one == same != other


def test_sizes_that_speakers_cannot_give_are_left_out(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = draw_protocol(corpus.utt2spk, corpus.utt2session, sizes=(1, 13))
    assert list(protocol.profiles) == [1] and "no profiles of 13 utterances" in caplog.text
    with pytest.raises(InputError, match="with one session left for probes"):
        draw_protocol(corpus.utt2spk, corpus.utt2session, sizes=(13,))


def test_bad_protocols_are_refused(corpus: Corpus) -> None:
    with pytest.raises(InputError, match="has no session; add it to utt2session"):
        draw_protocol(corpus.utt2spk, {})
    with pytest.raises(InputError, match="choose another share"):
        draw_protocol(corpus.utt2spk, corpus.utt2session, enrolled_share=1.0)
    with pytest.raises(InputError, match="'p': no speaker is known for 'nobody'"):
        protocol_of({"p": ["nobody"]}, corpus.utt2spk, corpus.utt2session)
    a, b = sorted(corpus.utt2spk)[:: SESSIONS * UTTERANCES][:2]
    with pytest.raises(InputError, match="of 2 speakers"):
        protocol_of({"p": [a, b]}, corpus.utt2spk, corpus.utt2session)


def test_a_search_of_households_is_a_loop_over_them(corpus: Corpus, protocol: Protocol) -> None:
    similarity = speaker_similarity([corpus.x], corpus.utt2spk)
    gallery = _gallery(corpus, protocol, 3)
    probes = corpus.x.select(protocol.utterances)
    for homes in draw_households(protocol, similarity, sizes=(2, 5), count=30):
        result = search_households(gallery, probes, protocol.speakers, homes)
        own, tops = [], []
        for members, visitors in zip(homes.members, homes.visitors, strict=True):
            assert len(set(members)) == len(members) and len(set(visitors)) == len(visitors)
            for vector, speaker in zip(probes.matrix, protocol.speakers, strict=True):
                cosines = [_cosine(vector, gallery.matrix[m]) for m in members]
                if speaker in members:
                    mine = cosines[list(members).index(speaker)]
                    own.append((mine, sum(c >= mine for c in cosines)))
                if speaker in visitors:
                    tops.append(max(cosines))
        found = sorted(zip(result.own, result.rank, strict=True))
        np.testing.assert_allclose(found, sorted(own), atol=1e-5)
        np.testing.assert_allclose(np.sort(result.top), np.sort(tops), atol=1e-5)


def _gallery(corpus: Corpus, protocol: Protocol, size: int) -> Embeddings:
    names = [protocol.profiles[size][speaker] for speaker in protocol.enrolled]
    means = [corpus.x.select(protocol.enroll_map[name]).matrix.mean(axis=0) for name in names]
    return Embeddings(names, np.array(means))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_hard_households_are_harder_and_larger_profiles_help() -> None:
    corpus = Corpus(120)
    protocol = draw_protocol(corpus.utt2spk, corpus.utt2session, seed=1)
    similarity = speaker_similarity([corpus.x], corpus.utt2spk)
    households = draw_households(protocol, similarity, sizes=(4,), count=300)
    records = identification_rates(protocol, corpus.x, corpus.x, households, draws=20)
    rates = {(r["drawn"], r["profile"]): r for r in records if r["task"] == "household"}
    assert rates["hard", 1]["fnir"] > rates["random", 1]["fnir"]
    assert rates["hard", 1]["misidentified"] > rates["random", 1]["misidentified"]
    closed = {r["profile"]: r["rank1"] for r in records if r["task"] == "closed"}
    assert closed[1] < closed[10]
    assert identification_rates(protocol, corpus.x, corpus.x, households, draws=20) == records


def test_profiles_that_are_mapped_already_are_not_averaged_again(
    corpus: Corpus, protocol: Protocol
) -> None:
    profiles = [_gallery(corpus, protocol, size) for size in protocol.profiles]
    joined = Embeddings(
        [*corpus.x.keys, *(key for p in profiles for key in p.keys)],
        np.concatenate([corpus.x.matrix, *(p.matrix for p in profiles)]),
    )
    one, other = (identification_rates(protocol, e, corpus.x, draws=5) for e in (corpus.x, joined))
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert a.get("fnir", a.get("rank1")) == b.get("fnir", b.get("rank1"))
    moved = Embeddings(joined.keys, joined.matrix * np.where(
        [key in protocol.enroll_map for key in joined.keys], -1, 1)[:, None])  # fmt: skip
    turned = identification_rates(protocol, moved, corpus.x, draws=5)
    assert turned[0]["rank1"] < 0.1 < one[0]["rank1"]


def test_bad_households_are_refused(corpus: Corpus, protocol: Protocol) -> None:
    similarity = speaker_similarity([corpus.x, corpus.y], corpus.utt2spk)
    with pytest.raises(InputError, match="from 20 enrolled speakers"):
        draw_households(protocol, similarity, sizes=(21,))
    with pytest.raises(InputError, match="visitors from 20 guests"):
        draw_households(protocol, similarity, visitors=21)
    known = similarity._replace(speakers=similarity.speakers[:-1])
    with pytest.raises(InputError, match="square matrix"):
        draw_households(protocol, known)
    fewer = known._replace(matrix=similarity.matrix[:-1, :-1])
    with pytest.raises(InputError, match="has no similarities"):
        draw_households(protocol, fewer)
    with pytest.raises(InputError, match=r"enrollment side: .*'id00"):
        identification_rates(protocol, corpus.x.select(corpus.x.keys[:5]), corpus.x)
