"""Trials: which enrollment is compared with which test utterance, and how lists are made.

Three list formats are read: `label enroll test` with 1/0 (VoxCeleb), `enroll test
target|nontarget` (Kaldi) and `enroll test` (unlabelled). Scores are joined to trials by key,
never by line.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nessa.errors import InputError
from nessa.files import atomic_open, read_lines, read_table

BLOCK = 100_000  # lines handled at a time, so that memory stays near that of the result
FORMATS = "`1|0 enroll test`, `enroll test target|nontarget` or `enroll test`"
Parsed = TypeVar("Parsed")
UNKNOWN = ""  # the gender of a speaker without one


class Indexed(NamedTuple):
    """A list of names as its distinct names and, for each place, a row among them."""

    names: list[str]
    codes: NDArray[np.int64]  # (T,)


def index_names(names: Sequence[str]) -> Indexed:
    """Distinct names in order of first appearance, and the row of each of `names` (T,)."""
    distinct = list(dict.fromkeys(names))
    rows = dict(zip(distinct, range(len(distinct)), strict=True))
    return Indexed(distinct, np.fromiter(map(rows.__getitem__, names), np.int64, len(names)))


def as_labels(labels: ArrayLike) -> NDArray[np.bool_]:
    """Labels as a bool vector (T,): True for a target trial.

    Raises:
        InputError: not one-dimensional, or values other than 0 and 1.
    """
    array = np.asarray(labels)
    if array.ndim != 1:
        raise InputError(f"labels have shape {array.shape}; give one label per trial, shape (T,)")
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise InputError("labels must be True/False (or 1/0), True for a target trial")
    return array.astype(np.bool_, copy=False)


@dataclass(frozen=True, eq=False)
class Trials:
    """A trial list.

    The same trial may be listed twice, as public lists do, but not with two different labels.

    Attributes:
        enroll: enrollment ids, utterances or profiles, length T.
        test: test utterance ids, length T.
        labels: bool (T,), True for a target trial; None where unknown.

    Examples:
        >>> trials = Trials(["ann", "ann"], ["u1", "u2"], [True, False])
        >>> len(trials), trials.targets, trials.nontargets
        (2, 1, 1)
    """

    enroll: list[str]
    test: list[str]
    labels: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "enroll", list(self.enroll))
        object.__setattr__(self, "test", list(self.test))
        if len(self.enroll) != len(self.test):
            raise InputError(
                f"{len(self.enroll)} enrollment ids but {len(self.test)} test ids; give one of "
                "each per trial"
            )
        if not self.enroll:
            raise InputError("a trial list without trials; give at least one")
        for name in (*self.enroll_index.names, *self.test_index.names):
            if not isinstance(name, str) or len(name.split()) != 1 or "\0" in name:
                raise InputError(f"trial id {name!r} is empty or holds white space; rename it")
        if self.labels is not None:
            object.__setattr__(self, "labels", as_labels(self.labels))
            self._check_labels()

    def _check_labels(self) -> None:
        assert self.labels is not None
        if len(self.labels) != len(self):
            raise InputError(f"{len(self)} trials but {len(self.labels)} labels; give one each")
        # Sorted, a trial's two labels stand side by side.
        marked = np.sort(2 * self.pairs + self.labels)
        both = np.flatnonzero((np.diff(marked) == 1) & (marked[1:] % 2 == 1))
        if len(both):
            rows = np.flatnonzero(self.pairs == marked[both[0]] // 2)
            first = rows[0]
            second = rows[self.labels[rows] != self.labels[first]][0]
            raise InputError(
                f"trials {first + 1} and {second + 1}: {self.enroll[first]!r} "
                f"{self.test[first]!r} is a target in one and a non-target in the other; "
                "remove the wrong one"
            )

    def __len__(self) -> int:
        return len(self.enroll)

    @cached_property
    def enroll_index(self) -> Indexed:
        """Distinct enrollment ids and each trial's row among them."""
        return index_names(self.enroll)

    @cached_property
    def test_index(self) -> Indexed:
        """Distinct test ids and each trial's row among them."""
        return index_names(self.test)

    @property
    def pairs(self) -> NDArray[np.int64]:
        """One number per trial (T,), equal exactly where both ids are equal."""
        return self.enroll_index.codes * len(self.test_index.names) + self.test_index.codes

    @property
    def targets(self) -> int:
        """Number of target trials.

        Raises:
            InputError: the list has no labels.
        """
        if self.labels is None:
            raise InputError("these trials have no labels; use a labelled list")
        return int(np.count_nonzero(self.labels))

    @property
    def nontargets(self) -> int:
        """Number of non-target trials.

        Raises:
            InputError: the list has no labels.
        """
        return len(self) - self.targets

    def select(self, mask: NDArray[np.bool_]) -> "Trials":
        """The trials where `mask` (T,) is True, in order."""
        rows = np.flatnonzero(mask)
        return Trials(
            [self.enroll[row] for row in rows],
            [self.test[row] for row in rows],
            None if self.labels is None else self.labels[rows],
        )

    @classmethod
    def read(cls, path: Path | str) -> "Trials":
        """Read a trial list in any of the three formats; the first line decides which.

        Memory is about 16 bytes per trial beside the distinct ids.

        Raises:
            InputError: unreadable, empty, a line of another format than the first, or a trial
                listed with both labels.
        """
        enroll: list[str] = []
        test: list[str] = []
        labels: list[NDArray[np.bool_]] = []
        layout: _Layout | None = None
        names: dict[str, str] = {}
        for start, lines in _blocks_of_lines(path):
            layout = layout or _layout(lines[0].split(), path)
            wanted = f"a trial in the format of line 1; write every line as one of {FORMATS}"
            columns = _parse(lines, partial(_columns, layout=layout), path, start, wanted)
            # One string object per distinct id: lists repeat ids hundreds of times.
            enroll += [names.setdefault(name, name) for name in columns[layout.enroll]]
            test += [names.setdefault(name, name) for name in columns[layout.test]]
            if layout is not _UNLABELLED:
                yes = layout.words[0]
                labels.append(np.array([word == yes for word in columns[layout.label]]))
        if layout is None:
            raise InputError(f"{path}: empty; a trial list has lines {FORMATS}")
        try:
            return cls(enroll, test, np.concatenate(labels) if labels else None)
        except InputError as error:
            raise InputError(f"{path}: {error} (trial N is line N)") from error

    def write(self, path: Path | str) -> None:
        """Write in Kaldi's format: `enroll test target|nontarget`, or `enroll test` unlabelled."""
        if self.labels is None:
            lines = (f"{e} {t}\n" for e, t in zip(self.enroll, self.test, strict=True))
        else:
            words = (("nontarget", "target")[label] for label in self.labels.tolist())
            lines = (
                f"{e} {t} {word}\n"
                for e, t, word in zip(self.enroll, self.test, words, strict=True)
            )
        with atomic_open(path) as file:
            file.writelines(lines)


class _Layout(NamedTuple):
    """Where a list format keeps its columns, and its words for a target and a non-target."""

    enroll: int
    test: int
    label: int
    words: tuple[str, str]


_KALDI = _Layout(enroll=0, test=1, label=2, words=("target", "nontarget"))
_VOXCELEB = _Layout(enroll=1, test=2, label=0, words=("1", "0"))
_UNLABELLED = _Layout(enroll=0, test=1, label=-1, words=("", ""))


def _blocks_of_lines(path: Path | str) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first line, lines) by blocks of lines."""
    start, lines = 1, read_lines(path)
    while block := [line for _, line in islice(lines, BLOCK)]:
        yield start, block
        start += len(block)


def _fields(lines: list[str], width: int) -> list[list[str]] | None:
    """The columns of a block of lines, or None unless every line has `width` fields."""
    # One split of all lines makes no list per line, which would keep the garbage collector busy.
    if set(map(len, map(str.split, lines))) != {width}:
        return None
    fields = " ".join(lines).split()
    return [fields[column::width] for column in range(width)]


def _layout(fields: list[str], path: Path | str) -> _Layout:
    if len(fields) == 2:
        return _UNLABELLED
    if len(fields) == 3 and fields[2] in _KALDI.words:
        return _KALDI
    if len(fields) == 3 and fields[0] in _VOXCELEB.words:
        return _VOXCELEB
    raise InputError(f"{path}: line 1: {' '.join(fields)!r} is not a trial; expected {FORMATS}")


def _columns(lines: list[str], layout: _Layout) -> list[list[str]] | None:
    """The columns of a block of trial lines, or None unless every line has this layout."""
    if layout is _UNLABELLED:
        return _fields(lines, 2)
    columns = _fields(lines, 3)
    return columns if columns and set(columns[layout.label]) <= set(layout.words) else None


def _parse(
    lines: list[str],
    parse: Callable[[list[str]], Parsed | None],
    path: Path | str,
    start: int,
    wanted: str,
) -> Parsed:
    """What `parse` makes of a block of lines; the first line that it refuses alone is named."""
    parsed = parse(lines)
    if parsed is not None:
        return parsed
    number, line = next(
        (number, line) for number, line in enumerate(lines, start) if parse([line]) is None
    )
    raise InputError(f"{path}: line {number}: {line!r} is not {wanted}")


def read_enroll_map(path: Path | str) -> dict[str, list[str]]:
    """Read an enrollment map, `spk2utt` style: a profile id followed by its utterances.

    Returns:
        {profile: utterances}, in file order.

    Raises:
        InputError: unreadable, a duplicate profile, or an utterance twice in one profile.
    """
    enroll_map = {profile: rest.split() for profile, rest in read_table(path).items()}
    for number, (profile, utterances) in enumerate(enroll_map.items(), start=1):
        if len(set(utterances)) != len(utterances):
            raise InputError(
                f"{path}: line {number}: profile {profile!r} lists an utterance twice; remove one"
            )
    return enroll_map


def trial_speakers(
    trials: Trials,
    utt2spk: Mapping[str, str],
    enroll_map: Mapping[str, Sequence[str]] | None = None,
) -> tuple[list[str], list[str]]:
    """The speakers on the two sides of each trial.

    Args:
        trials: T trials.
        utt2spk: {utterance: speaker}.
        enroll_map: {profile: utterances}, for enrollment ids that are profiles.

    Returns:
        (enrollment speakers, test speakers), each of length T.

    Raises:
        InputError: an id without a speaker, or a profile of several speakers.
    """
    known = dict(utt2spk)
    for profile, utterances in (enroll_map or {}).items():
        speakers = {_speaker(utterance, utt2spk) for utterance in utterances}
        if len(speakers) != 1:
            raise InputError(
                f"profile {profile!r} holds utterances of {len(speakers)} speakers "
                f"({', '.join(sorted(speakers)[:3])}); mend the enrollment map"
            )
        known[profile] = speakers.pop()
    sides = []
    for names, codes in (trials.enroll_index, trials.test_index):
        speakers_of = [_speaker(name, known) for name in names]
        sides.append([speakers_of[code] for code in codes.tolist()])
    return sides[0], sides[1]


def _speaker(name: str, utt2spk: Mapping[str, str]) -> str:
    if name not in utt2spk:
        raise InputError(f"no speaker is known for {name!r}; add it to utt2spk (or enroll_map)")
    return utt2spk[name]


# ---- making trial lists -------------------------------------------------------------------------


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
        missing = sorted(set(utt2spk) - set(utt2session))
        if missing:
            raise InputError(f"utterance {missing[0]!r} has no session; add it to utt2session")

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
        Labelled trials, C-sorted by enrollment and test id.

    Raises:
        InputError: the corpus holds fewer such pairs than asked for.
    """
    corpus = _Corpus(utt2spk, utt2session, spk2gender)
    rng = np.random.default_rng(seed)
    target_rows = _draw_targets(corpus, n_target, rng)
    nontarget_rows = _draw_nontargets(corpus, n_nontarget, rng)
    enroll, test = np.concatenate([target_rows, nontarget_rows], axis=1)
    return _sorted_trials(
        [corpus.utterances[row] for row in enroll.tolist()],
        [corpus.utterances[row] for row in test.tolist()],
        np.arange(len(enroll)) < n_target,
    )


def _sorted_trials(enroll: list[str], test: list[str], labels: NDArray[np.bool_]) -> Trials:
    # Python orders strings by code point, which is the byte order of their UTF-8 (C order).
    rows = sorted(zip(enroll, test, labels.tolist(), strict=True))
    return Trials(
        [row[0] for row in rows], [row[1] for row in rows], as_labels([row[2] for row in rows])
    )


def _draw_targets(corpus: _Corpus, total: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows (2, total) of enrollment and test utterances of one speaker, across sessions."""
    rows = np.arange(len(corpus.utterances))
    # Each row is paired with the later sessions of its speaker: every pair once, undirected.
    session_end = corpus.session_runs.ends[corpus.session_runs.run_of]
    partners = corpus.speaker_runs.ends[corpus.speaker_runs.run_of] - session_end
    firsts = np.concatenate([[0], np.cumsum(partners)])  # number of each row's first pair
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
        first = rows[np.searchsorted(firsts, numbers, side="right") - 1]
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
    """The largest profile that half the speakers can give with a session left for tests."""
    spare = np.sort(_spare_utterances(_Corpus(utt2spk, utt2session, None)))
    return int(spare[len(spare) // 2])


def _spare_utterances(corpus: _Corpus) -> NDArray[np.int64]:
    """Utterances of each speaker (S,) outside its smallest session."""
    starts, ends, _ = corpus.speaker_runs
    session_sizes = corpus.session_runs.ends - corpus.session_runs.starts
    return ends - starts - np.minimum.reduceat(session_sizes, corpus.session_runs.run_of[starts])


def make_profile_trials(
    utt2spk: Mapping[str, str],
    utt2session: Mapping[str, str],
    spk2gender: Mapping[str, str] | None,
    sizes: Sequence[int] = (1, 3, 10),
    profiles: int = 4,
    n_nontarget: int = 20,
    seed: int = 0,
) -> tuple[dict[str, list[str]], Trials]:
    """Draw trials whose enrollment is a profile of several utterances.

    Each profile leaves one session of its speaker out, which gives its target tests. Profiles of
    different sizes with the same number are nested and meet the same tests, so that they differ
    in size alone. A speaker who cannot give the largest size gets no profile. Non-target tests are
    half of the speaker's gender, half anyone's.

    Args:
        utt2spk: {utterance: speaker}.
        utt2session: {utterance: session}; sessions are named within a speaker.
        spk2gender: {speaker: gender}; speakers without one count as one further gender.
        sizes: numbers of utterances of a profile.
        profiles: profiles of each speaker and size, fewer where a speaker has fewer sessions
            that can be left out.
        n_nontarget: non-target tests of each profile.
        seed: seed of the draw.

    Returns:
        The enrollment map {`<speaker>-p<size>-<number>`: utterances}, and the labelled trials.

    Raises:
        InputError: no speaker has the utterances and sessions for the largest size.
    """
    corpus = _Corpus(utt2spk, utt2session, spk2gender)
    _check_sizes(corpus, sizes)
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
            guests = _draw_guests(corpus, speaker, n_nontarget, rng)
            for size in sizes:
                profile = f"{name}-p{size}-{number + 1}"
                enroll_map[profile] = sorted(corpus.utterances[row] for row in order[:size])
                enroll += [profile] * (len(tests) + len(guests))
                test += [corpus.utterances[row] for row in (*tests, *guests)]
                labels += [True] * len(tests) + [False] * len(guests)
    return enroll_map, _sorted_trials(enroll, test, np.array(labels))


def _check_sizes(corpus: _Corpus, sizes: Sequence[int]) -> None:
    if not sizes or min(sizes) < 1 or len(set(sizes)) != len(sizes):
        raise InputError(f"profile sizes {list(sizes)} must be distinct and at least 1")
    spare = _spare_utterances(corpus).max()
    if spare < max(sizes):
        raise InputError(
            f"no speaker has {max(sizes)} utterances for a profile with a session left for tests; "
            f"ask for profiles of at most {spare}, or give speakers more sessions"
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


def _draw_guests(
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


# ---- scores -------------------------------------------------------------------------------------


def write_scores(path: Path | str, trials: Trials, scores: ArrayLike) -> None:
    """Write `enroll test score`, one line per trial, in trial order.

    Nine digits are written, which give float32 back exactly.

    Args:
        path: the score file.
        trials: T trials.
        scores: finite scores (T,), written as float32.

    Raises:
        InputError: not one finite score per trial.
    """
    values = np.asarray(scores, np.float32)
    if values.shape != (len(trials),):
        raise InputError(f"{len(trials)} trials but scores of shape {values.shape}; give one each")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputError(
            f"trial {trials.enroll[bad[0]]!r} {trials.test[bad[0]]!r} has score "
            f"{values[bad[0]]}; check its embeddings"
        )
    with atomic_open(path) as file:
        file.writelines(
            f"{e} {t} {score:.9g}\n"
            for e, t, score in zip(trials.enroll, trials.test, values.tolist(), strict=True)
        )


def read_scores(path: Path | str) -> tuple[Trials, NDArray[np.float32]]:
    """Read a score file: `enroll test score` per line.

    Returns:
        The scored trials (unlabelled) and their scores (T,); see `join_scores`.

    Raises:
        InputError: unreadable, empty, a malformed line, or a score that is not a finite number.
    """
    enroll: list[str] = []
    test: list[str] = []
    scores: list[NDArray[np.float32]] = []
    names: dict[str, str] = {}
    for start, lines in _blocks_of_lines(path):
        wanted = "`enroll test score` with a finite score; score the list again"
        columns, values = _parse(lines, _scored, path, start, wanted)
        enroll += [names.setdefault(name, name) for name in columns[0]]
        test += [names.setdefault(name, name) for name in columns[1]]
        scores.append(values)
    if not scores:
        raise InputError(f"{path}: empty; a score file has lines `enroll test score`")
    return Trials(enroll, test), np.concatenate(scores)


def _scored(lines: list[str]) -> tuple[list[list[str]], NDArray[np.float32]] | None:
    """The columns and scores of a block of score lines, or None unless every line is good."""
    columns = _fields(lines, 3)
    if columns is None:
        return None
    try:
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused as such
            values = np.array(list(map(float, columns[2])), np.float32)
    except ValueError:
        return None
    return (columns, values) if np.isfinite(values).all() else None


def join_scores(
    trials: Trials, scored: Trials, scores: ArrayLike, allow_extra: bool = False
) -> NDArray[np.float32]:
    """The scores of `trials`, found by key.

    Args:
        trials: T trials.
        scored: the trials that were scored, in any order.
        scores: their scores.
        allow_extra: accept scores of trials that are not in `trials`.

    Returns:
        Scores (T,), in the order of `trials`.

    Raises:
        InputError: a trial without a score, with two different scores, or (unless `allow_extra`)
            a score without a trial.
    """
    values = np.asarray(scores, np.float32)
    if values.shape != (len(scored),):
        raise InputError(f"{len(scored)} scored trials but scores of shape {values.shape}")
    pairs = _pairs_as_in(scored, trials)
    extra = np.flatnonzero(pairs < 0)
    if len(extra) and not allow_extra:
        raise InputError(
            f"{_named(scored, extra)} scored but not in the trial list; is it another list's "
            "score file?"
        )
    known = np.flatnonzero(pairs >= 0)
    known = known[np.argsort(pairs[known], kind="stable")]
    pairs, values = pairs[known], values[known]
    differ = np.flatnonzero((pairs[1:] == pairs[:-1]) & (values[1:] != values[:-1]))
    if len(differ):
        raise InputError(f"{_named(scored, known[differ])} scored twice, differently; remove one")
    wanted = trials.pairs
    places = np.searchsorted(pairs, wanted)
    missing = np.flatnonzero(np.append(pairs, -1)[places] != wanted)
    if len(missing):
        raise InputError(f"{_named(trials, missing)} without a score; score the whole list again")
    return values[places]


def _pairs_as_in(scored: Trials, trials: Trials) -> NDArray[np.int64]:
    """Numbers of `scored` trials in the numbering of `trials.pairs`, -1 where it has none."""
    columns = []
    for (names, codes), reference in (
        (scored.enroll_index, trials.enroll_index),
        (scored.test_index, trials.test_index),
    ):
        rows = dict(zip(reference.names, range(len(reference.names)), strict=True))
        columns.append(np.array([rows.get(name, -1) for name in names])[codes])
    enroll, test = columns
    pairs = enroll * len(trials.test_index.names) + test
    unknown = (enroll < 0) | (test < 0) | ~np.isin(pairs, trials.pairs)
    return np.where(unknown, -1, pairs)


def _named(trials: Trials, rows: NDArray[np.int64]) -> str:
    """The first trials of `rows` and their number, for an error message."""
    shown = ", ".join(f"{trials.enroll[row]!r} {trials.test[row]!r}" for row in rows[:3])
    return f"{len(rows)} trial(s) ({shown}{', ...' if len(rows) > 3 else ''})"
