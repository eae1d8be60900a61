"""Drawn trial lists: balanced, without repetition, and the same for the same seed."""

from collections import Counter
from itertools import permutations

import pytest

from nessa.corpus.draw_trials import largest_profile, make_profile_trials, make_trials
from nessa.errors import InputError
from nessa.trials import trial_speakers


def corpus(speakers=12, sessions=4, utterances=3):
    """utt2spk, utt2session and spk2gender; speaker n has n % 2 further sessions."""
    utt2spk, utt2session = {}, {}
    for speaker in range(speakers):
        for session in range(sessions + speaker % 2):
            for utterance in range(utterances):
                key = f"id{speaker:02d}-s{session}-{utterance}"
                utt2spk[key], utt2session[key] = f"id{speaker:02d}", f"s{session}"
    return utt2spk, utt2session, {f"id{n:02d}": "mf"[n % 3 == 0] for n in range(speakers)}


@pytest.mark.parametrize(("n_target", "n_nontarget"), [(100, 400), (1000, 6000), (0, 3), (3, 0)])
def test_drawn_trials_are_what_they_claim(n_target, n_nontarget):
    utt2spk, utt2session, spk2gender = corpus()
    trials = make_trials(utt2spk, utt2session, spk2gender, n_target, n_nontarget, seed=1)
    assert (trials.targets, trials.nontargets) == (n_target, n_nontarget)
    assert len(set(zip(trials.enroll, trials.test, strict=True))) == len(trials)
    assert trials.enroll == sorted(trials.enroll, key=str.encode)
    for enroll, test, label in zip(trials.enroll, trials.test, trials.labels, strict=True):
        assert label == (utt2spk[enroll] == utt2spk[test])
        assert not label or utt2session[enroll] != utt2session[test]


def test_drawn_trials_are_balanced():
    utt2spk, utt2session, spk2gender = corpus()
    trials = make_trials(utt2spk, utt2session, spk2gender, 240, 1200)
    for label, each in ((True, 20), (False, 100)):
        of_class = trials.select(trials.labels == label)
        assert set(Counter(utt2spk[e] for e in of_class.enroll).values()) == {each}
    genders = [
        spk2gender[utt2spk[e]] == spk2gender[utt2spk[t]]
        for e, t in zip(of_class.enroll, of_class.test, strict=True)
    ]
    assert 600 < sum(genders) < 1150  # half by design, and some of the other half


def test_all_possible_pairs_can_be_drawn():
    utt2spk, utt2session, spk2gender = corpus(speakers=4, sessions=2, utterances=2)
    every = [
        (a, b)
        for a, b in permutations(utt2spk, 2)
        if utt2spk[a] != utt2spk[b] or utt2session[a] != utt2session[b]
    ]
    n_target = sum(utt2spk[a] == utt2spk[b] for a, b in every)
    trials = make_trials(utt2spk, utt2session, spk2gender, n_target, len(every) - n_target)
    assert set(zip(trials.enroll, trials.test, strict=True)) == set(every)


def test_target_pairs_turn_round_only_when_all_are_used():
    utt2spk, utt2session, spk2gender = corpus(speakers=4, sessions=2, utterances=3)
    undirected = 2 * 9 + 2 * 27  # of speakers with two and with three sessions
    trials = make_trials(utt2spk, utt2session, spk2gender, 4 * 9, 1)
    targets = trials.select(trials.labels)
    assert len({frozenset(p) for p in zip(targets.enroll, targets.test, strict=True)}) == 36
    trials = make_trials(utt2spk, utt2session, spk2gender, 2 * undirected, 1)
    assert trials.targets == 2 * undirected


def test_the_draw_depends_on_seed_and_content_only():
    utt2spk, utt2session, spk2gender = corpus()
    backwards = dict(reversed(utt2spk.items()))

    def draw(utt2spk, seed):
        trials = make_trials(utt2spk, utt2session, spk2gender, 50, 50, seed)
        return list(zip(trials.enroll, trials.test, trials.labels.tolist(), strict=True))

    assert draw(utt2spk, 7) == draw(backwards, 7)
    assert draw(utt2spk, 7) != draw(utt2spk, 8)


def test_genders_may_be_unknown():
    utt2spk, utt2session, _ = corpus()
    assert make_trials(utt2spk, utt2session, None, 10, 100).nontargets == 100


def test_impossible_draws_say_why():
    utt2spk, utt2session, spk2gender = corpus(speakers=3, sessions=1)
    one_session = dict.fromkeys(utt2session, "s0")
    with pytest.raises(InputError, match=r"only 0 pairs .* more sessions"):
        make_trials(utt2spk, one_session, spk2gender, 1, 1)
    with pytest.raises(InputError, match=r"only 90 pairs .* different speakers"):
        make_trials(utt2spk, utt2session, spk2gender, 0, 91)
    with pytest.raises(InputError, match="at least 2 speakers"):
        make_trials(dict.fromkeys(utt2spk, "id00"), utt2session, spk2gender, 1, 0)
    del utt2session["id00-s0-0"]
    with pytest.raises(InputError, match="'id00-s0-0' has no session"):
        make_trials(utt2spk, utt2session, spk2gender, 1, 1)


def test_profile_trials():
    utt2spk, utt2session, spk2gender = corpus()
    enroll_map, trials = make_profile_trials(
        utt2spk, utt2session, spk2gender, sizes=(1, 3, 9), profiles=4, n_nontarget=8, seed=2
    )
    assert len(enroll_map) == 12 * 3 * 4
    speakers, test_speakers = trial_speakers(trials, utt2spk, enroll_map)
    for profile, test, label, a, b in zip(
        trials.enroll, trials.test, trials.labels, speakers, test_speakers, strict=True
    ):
        speaker, size, _ = profile.split("-")
        assert (speaker, size) == (a, f"p{len(enroll_map[profile])}")
        assert label == (a == b)
        if label:
            assert utt2session[test] not in {utt2session[utt] for utt in enroll_map[profile]}
    tests = {profile: set() for profile in enroll_map}
    for profile, test in zip(trials.enroll, trials.test, strict=True):
        assert test not in tests[profile]
        tests[profile].add(test)
    for profile in enroll_map:
        if "-p1-" in profile:  # sizes are nested, and meet the same tests
            larger = profile.replace("-p1-", "-p9-")
            assert set(enroll_map[profile]) < set(enroll_map[larger])
            assert tests[profile] == tests[larger]


def test_speakers_with_too_little_speech_get_no_profile_but_are_impostors():
    utt2spk, utt2session, spk2gender = corpus(sessions=3)
    poor = {"id00", "id01"}
    kept = {utt: s for utt, s in utt2spk.items() if s not in poor or utt.endswith("-s0-0")}
    sizes = (1, largest_profile(utt2spk, utt2session) // 2)
    assert sizes[1] > 1
    enroll_map, trials = make_profile_trials(kept, utt2session, spk2gender, sizes, n_nontarget=12)
    assert {kept[utts[0]] for utts in enroll_map.values()} == {*kept.values()} - poor
    assert poor <= {kept[test] for test in trials.test}


def test_profiles_that_cannot_be_made():
    utt2spk, utt2session, spk2gender = corpus(sessions=2)
    assert largest_profile(utt2spk, utt2session) == 6  # half of the speakers have twice the speech
    with pytest.raises(InputError, match=r"no speaker has 7 utterances .* at most 6"):
        make_profile_trials(utt2spk, utt2session, spk2gender, sizes=(1, 7))
    with pytest.raises(InputError, match="distinct"):
        make_profile_trials(utt2spk, utt2session, spk2gender, sizes=(3, 3))
    with pytest.raises(InputError, match="ask for fewer"):
        make_profile_trials(utt2spk, utt2session, spk2gender, sizes=(1,), n_nontarget=1000)
