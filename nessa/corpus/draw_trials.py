"""Drawing trial lists: single utterances, and profiles of several."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nessa.errors import InputError
from nessa.trials import Trials, sorted_trials

UNKNOWN = ""  # the gender of a speaker without one


class _Corpus:
    """Utterances ordered by gender, speaker and session, so that each is one run of rows.

    Pairs are then numbered without being listed, and drawn by number without repetition.
    """

    def __init__(
        self,
        utt2spk: Mapping[str, str],
        utt2session: Mapping[str, str],
        spk2gender: Mapping[str, str] | None,
    ) -> None:
        genders = spk2gender or {}
        check_sessions(utt2spk, utt2session)

        def place(utterance: str) -> tuple[str, str, str, str]:
            speaker = utt2spk[utterance]
            return genders.get(speaker, UNKNOWN), speaker, utt2session[utterance], utterance

        places = sorted(place(utterance) for utterance in utt2spk)
        self.utterances = [utterance for *_, utterance in places]
        self.gender_runs = _runs([gender for gender, *_ in places])
        self.speaker_runs = _runs([speaker for _, speaker, *_ in places])
        self.session_runs = _runs([(speaker, session) for _, speaker, session, _ in places])
        self.speakers = [places[start][1] for start in self.speaker_runs.starts]
        if len(self.speakers) < 2:
            raise InputError(
                f"trials need at least 2 speakers, got {len(self.speakers)}; add speakers"
            )

    def others(self, speaker: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the utterances at `positions` among those of all speakers but one."""
        start, end = self.speaker_runs.bounds(speaker)
        return positions + np.where(positions < start, 0, end - start)

    def same_gender_positions(self, speaker: int) -> tuple[int, int]:
        """The range of positions (see `others`) whose speakers share this one's gender."""
        start, end = self.speaker_runs.bounds(speaker)
        gender_start, gender_end = self.gender_runs.bounds(self.gender_runs.run_of[start])
        return gender_start, gender_end - (end - start)


class _Runs(NamedTuple):
    """Runs of equal values: their bounds, and the run in which each row lies."""

    starts: NDArray[np.int64]  # (R,)
    ends: NDArray[np.int64]  # (R,)
    run_of: NDArray[np.int64]  # (N,)

    def bounds(self, run: int) -> tuple[int, int]:
        return int(self.starts[run]), int(self.ends[run])


def check_sessions(utt2spk: Mapping[str, str], utt2session: Mapping[str, str]) -> None:
    """Refuse an utterance without a session."""
    if missing := sorted(set(utt2spk) - set(utt2session)):
        raise InputError(f"utterance {missing[0]!r} has no session; add it to utt2session")


def _runs(values: Sequence[object]) -> _Runs:
    changes = [row for row in range(1, len(values)) if values[row] != values[row - 1]]
    starts = np.array([0, *changes], np.int64)
    ends = np.array([*changes, len(values)], np.int64)
    return _Runs(starts, ends, np.repeat(np.arange(len(starts)), ends - starts))


def make_trials(
    utt2spk: Mapping[str, str],
    utt2session: Mapping[str, str],
    spk2gender: Mapping[str, str] | None,
    n_target: int,
    n_nontarget: int,
    seed: int = 0,
) -> Trials:
    """Draw a balanced list of single-utterance trials.

    Targets pair utterances of different sessions; a pair appears in both directions only once
    every pair has appeared in one. Half of the non-targets pair speakers of one gender (fewer
    where there are too few such pairs), half any speakers. Enrollment is spread over speakers
    as evenly as their utterances allow. Nothing is drawn twice, and the list depends on the
    content of the arguments only, not on their order.

    Args:
        utt2spk: {utterance: speaker}.
        utt2session: {utterance: session}; sessions are named within a speaker.
        spk2gender: {speaker: gender}; speakers without one count as one further gender.
        n_target: number of target trials.
        n_nontarget: number of non-target trials.
        seed: seed of the draw.

    Returns:
        Labeled trials, C-sorted by enrollment and test id.

    Raises:
        InputError: the corpus holds fewer such pairs than asked for.
    """
    corpus = _Corpus(utt2spk, utt2session, spk2gender)
    rng = np.random.default_rng(seed)
    target_rows = _draw_targets(corpus, n_target, rng)
    nontarget_rows = _draw_nontargets(corpus, n_nontarget, rng)
    pairs = np.concatenate([target_rows, nontarget_rows], axis=1).T.tolist()
    names = corpus.utterances
    return sorted_trials((names[e], names[t], k < n_target) for k, (e, t) in enumerate(pairs))


def count_possible_trials(
    utt2spk: Mapping[str, str], utt2session: Mapping[str, str]
) -> tuple[int, int]:
    """How many target and non-target trials `make_trials` can draw.

    Raises:
        InputError: an utterance without a session, or fewer than 2 speakers.
    """
    corpus = _Corpus(utt2spk, utt2session, None)
    starts, ends, _ = corpus.speaker_runs
    firsts = _first_pairs(corpus)
    sizes = ends - starts
    nontargets = (len(corpus.utterances) - sizes) * sizes
    return 2 * int((firsts[ends] - firsts[starts]).sum()), int(nontargets.sum())


def _first_pairs(corpus: _Corpus) -> NDArray[np.int64]:
    """The number of each row's first pair with a later session of its speaker, and of all pairs."""
    session_end = corpus.session_runs.ends[corpus.session_runs.run_of]
    partners = corpus.speaker_runs.ends[corpus.speaker_runs.run_of] - session_end
    return np.concatenate([[0], np.cumsum(partners)])


def _draw_targets(corpus: _Corpus, total: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows (2, total) of enrollment and test utterances of one speaker, across sessions."""
    # Each row is paired with the later sessions of its speaker: every pair once, undirected.
    session_end = corpus.session_runs.ends[corpus.session_runs.run_of]
    firsts = _first_pairs(corpus)
    starts, ends, _ = corpus.speaker_runs
    pairs = firsts[ends] - firsts[starts]  # per speaker
    if total > 2 * pairs.sum():
        raise InputError(
            f"{total} target trials were asked for, but the corpus has only {2 * pairs.sum()} "
            "pairs of utterances of one speaker from different sessions; ask for fewer, or give "
            "speakers more sessions"
        )
    drawn = []
    for speaker, count in enumerate(_share(total, 2 * pairs, rng)):
        once = min(count, pairs[speaker])
        numbers = np.concatenate(
            [_draw(pairs[speaker], once, rng), _draw(pairs[speaker], count - once, rng)]
        )
        numbers += firsts[starts[speaker]]
        first = np.searchsorted(firsts, numbers, side="right") - 1
        second = session_end[first] + numbers - firsts[first]
        # Parity gives each pair a direction without remembering it: the second time, the other.
        swap = (first + second + (np.arange(count) >= once)) % 2 == 1
        drawn.append(np.where(swap, [second, first], [first, second]))
    return np.concatenate(drawn, axis=1)


def _draw_nontargets(corpus: _Corpus, total: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows (2, total) of enrollment and test utterances of different speakers."""
    starts, ends, _ = corpus.speaker_runs
    sizes = ends - starts
    # A speaker's pairs are numbered position * size + own utterance; see _Corpus.others.
    same = [corpus.same_gender_positions(speaker) for speaker in range(len(sizes))]
    same_first, same_end = np.array(same).T * sizes
    everyone = (len(corpus.utterances) - sizes) * sizes
    if total > everyone.sum():
        raise InputError(
            f"{total} non-target trials were asked for, but the corpus has only "
            f"{everyone.sum()} pairs of utterances of different speakers; ask for fewer, or add "
            "speakers"
        )
    n_same = min(total // 2, int((same_end - same_first).sum()))
    same_counts = _share(n_same, same_end - same_first, rng)
    any_counts = _share(total - n_same, everyone - same_counts, rng)
    drawn = []
    for speaker, size in enumerate(sizes):
        width = same_end[speaker] - same_first[speaker]
        same_numbers = same_first[speaker] + _draw(width, same_counts[speaker], rng)
        numbers = _draw_more(same_numbers, everyone[speaker], any_counts[speaker], rng)
        position, own = np.divmod(numbers, size)
        drawn.append(np.stack([starts[speaker] + own, corpus.others(speaker, position)]))
    return np.concatenate(drawn, axis=1)


def _draw(population: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` distinct numbers below `population`."""
    return rng.choice(int(population), int(count), replace=False, shuffle=False)


def _draw_more(
    taken: NDArray[np.int64], population: int, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The distinct numbers `taken`, and `count` more below `population`."""
    taken = np.sort(taken)
    free = _draw(population - len(taken), count, rng)
    # The k-th number that is not taken: k plus the taken numbers before it.
    free += np.searchsorted(taken - np.arange(len(taken)), free, side="right")
    return np.concatenate([taken, free])


def _share(total: int, capacity: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Share `total` out as evenly as `capacity` (S,) allows; chance decides who gets one less."""
    low, high = 0, int(capacity.max())
    while low < high:  # the lowest level that holds `total`
        level = (low + high) // 2
        if np.minimum(capacity, level).sum() >= total:
            high = level
        else:
            low = level + 1
    shares = np.minimum(capacity, low)
    excess = int(shares.sum()) - total
    if excess:
        shares[rng.choice(np.flatnonzero(shares == low), excess, replace=False)] -= 1
    return shares


def largest_profile(utt2spk: Mapping[str, str], utt2session: Mapping[str, str]) -> int:
    """The largest profile that half of the speakers can have with a session left for tests."""
    spare = sorted(spare_utterances(utt2spk, utt2session).values())
    return spare[len(spare) // 2]


def spare_utterances(utt2spk: Mapping[str, str], utt2session: Mapping[str, str]) -> dict[str, int]:
    """{speaker: number of utterances outside its smallest session}.

    Raises:
        InputError: an utterance without a session, or fewer than 2 speakers.
    """
    return _spare(_Corpus(utt2spk, utt2session, None))


def _spare(corpus: _Corpus) -> dict[str, int]:
    starts, ends, _ = corpus.speaker_runs
    session_sizes = corpus.session_runs.ends - corpus.session_runs.starts
    smallest = np.minimum.reduceat(session_sizes, corpus.session_runs.run_of[starts])
    return dict(zip(corpus.speakers, (ends - starts - smallest).tolist(), strict=True))


def make_profile_trials(
    utt2spk: Mapping[str, str],
    utt2session: Mapping[str, str],
    spk2gender: Mapping[str, str] | None,
    sizes: Sequence[int],
    profiles: int = 4,
    n_nontarget: int = 20,
    seed: int = 0,
    suffix: str = "",
) -> tuple[dict[str, list[str]], Trials]:
    """Draw trials whose enrollment is a profile of several utterances.

    Each profile leaves one session of its speaker out, whose utterances are its target tests.
    Profiles of different sizes with the same number are nested and have the same tests, so that
    they differ in size alone. A speaker with too few utterances for the largest size gets no
    profile. Half of the non-target tests are of the speaker's gender, half of any.

    Args:
        utt2spk: {utterance: speaker}.
        utt2session: {utterance: session}; sessions are named within a speaker.
        spk2gender: {speaker: gender}; speakers without one count as one further gender.
        sizes: numbers of utterances of a profile.
        profiles: profiles of each speaker and size, fewer where a speaker has fewer sessions
            that can be left out.
        n_nontarget: non-target tests of each profile.
        seed: seed of the draw.
        suffix: of the profiles' ids, which tells them from those of another draw.

    Returns:
        The enrollment map {`<speaker>-p<size>-<number><suffix>`: utterances}, and the labeled
        trials.

    Raises:
        InputError: no speaker has the utterances and sessions for the largest size.
    """
    corpus = _Corpus(utt2spk, utt2session, spk2gender)
    _check_sizes(sizes, max(_spare(corpus).values()))
    rng = np.random.default_rng(seed)
    enroll_map: dict[str, list[str]] = {}
    enroll: list[str] = []
    test: list[str] = []
    labels: list[bool] = []
    for speaker, name in enumerate(corpus.speakers):
        for number, tests in enumerate(_held_out_sessions(corpus, speaker, max(sizes), rng)):
            if number == profiles:
                break
            own = np.arange(*corpus.speaker_runs.bounds(speaker))
            order = rng.permutation(np.setdiff1d(own, tests))
            impostors = _draw_impostors(corpus, speaker, n_nontarget, rng)
            for size in sizes:
                profile = f"{name}-p{size}-{number + 1}{suffix}"
                enroll_map[profile] = sorted(corpus.utterances[row] for row in order[:size])
                enroll += [profile] * (len(tests) + len(impostors))
                test += [corpus.utterances[row] for row in (*tests, *impostors)]
                labels += [True] * len(tests) + [False] * len(impostors)
    return enroll_map, sorted_trials(zip(enroll, test, labels, strict=True))


def _check_sizes(sizes: Sequence[int], largest: int) -> None:
    if not sizes or min(sizes) < 1 or len(set(sizes)) != len(sizes):
        raise InputError(f"profile sizes {list(sizes)} must be distinct and at least 1")
    if largest < max(sizes):
        raise InputError(
            f"no speaker has {max(sizes)} utterances for a profile with a session left for tests; "
            f"ask for profiles of at most {largest}, or give speakers more sessions"
        )


def _held_out_sessions(
    corpus: _Corpus, speaker: int, size: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each session of a speaker that leaves `size` others, in random order."""
    start, end = corpus.speaker_runs.bounds(speaker)
    sessions = np.unique(corpus.session_runs.run_of[start:end])
    for session in rng.permutation(sessions):
        rows = np.arange(*corpus.session_runs.bounds(session))
        if end - start - len(rows) >= size:
            yield rows


def _draw_impostors(
    corpus: _Corpus, speaker: int, total: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows of `total` utterances of other speakers, half of them of the same gender."""
    start, end = corpus.speaker_runs.bounds(speaker)
    everyone = len(corpus.utterances) - (end - start)
    if total > everyone:
        raise InputError(
            f"{total} non-target tests per profile were asked for, but speaker "
            f"{corpus.speakers[speaker]!r} has {everyone} utterances of others; ask for fewer"
        )
    first, last = corpus.same_gender_positions(speaker)
    same = first + _draw(last - first, min(total // 2, last - first), rng)
    return corpus.others(speaker, _draw_more(same, everyone, total - len(same), rng))
