"""Trials: which enrollment is compared with which test utterance, and their scores.

Lists are read as toolkits write them: `enroll test`, with a label before or after the ids, which is
1|0, target|nontarget or tgt|imp. Score files may have a label as well. Scores are joined to trials
by key; by line only where a file has labels instead of ids, and then it is said.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import eq
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nessa.columns import ENROLL, LABEL, SCORE, TEST, Layout, read_columns, with_labels
from nessa.errors import InputError, about, named
from nessa.files import atomic_open, id_fault, read_table, remove_leftovers, write_table

FORMATS = "`1|0 enroll test`, `enroll test target|nontarget` or `enroll test`"
NO_LABELS = "no labels; write `enroll test target|nontarget`"
LISTS = (
    Layout((ENROLL, TEST)),
    *with_labels((ENROLL, TEST, LABEL), (LABEL, ENROLL, TEST)),
)
SCORES = (
    Layout((ENROLL, TEST, SCORE)),
    *with_labels(
        (ENROLL, TEST, SCORE, LABEL),  # WeSpeaker
        (ENROLL, TEST, LABEL, SCORE),  # 3D-Speaker, SpeechBrain
        (LABEL, ENROLL, TEST, SCORE),
        (LABEL, SCORE),
        (SCORE, LABEL),
    ),
)
SCORE_FORMATS = (
    "`enroll test score` with a finite score, with or without a label 1|0 or target|nontarget"
)


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
            if fault := id_fault(name):
                raise InputError(f"trial id {name!r} {fault}")
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
    def known_labels(self) -> NDArray[np.bool_]:
        """`labels`, of a list that must have them.

        Raises:
            InputError: the list has none.
        """
        if self.labels is None:
            raise InputError(NO_LABELS)
        return self.labels

    @property
    def targets(self) -> int:
        """Number of target trials.

        Raises:
            InputError: the list has no labels.
        """
        return int(np.count_nonzero(self.known_labels))

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
        """Read a trial list, whichever way its columns stand; see `nessa.columns`.

        Memory is about 16 bytes per trial beside the distinct ids.

        Raises:
            InputError: unreadable, empty, a line of another format than the first, a file that may
                be of two formats, or a trial listed with both labels.
        """
        columns = AllColumns(path, LISTS, "a trial", f"write all lines as {FORMATS}")
        if not columns.enroll:
            raise InputError(f"{path}: empty; a trial list has lines {FORMATS}")
        try:
            return cls(columns.enroll, columns.test, columns.labels)
        except InputError as error:
            raise InputError(f"{path}: {error} (trial N is line N)") from error

    def write(self, path: Path | str) -> None:
        """Write in Kaldi's format: `enroll test target|nontarget`, or `enroll test` unlabeled."""
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


class AllColumns:
    """All columns of a trial list or a score file, in file order.

    Attributes:
        enroll, test: ids, length T; empty where the file has none.
        labels: bool (T,), or None.
        scores: float64 (T,), or None.
    """

    def __init__(self, path: Path | str, layouts: Sequence[Layout], what: str, remedy: str) -> None:
        self.enroll: list[str] = []
        self.test: list[str] = []
        labels: list[NDArray[np.bool_]] = []
        scores: list[NDArray[np.float64]] = []
        names: dict[str, str] = {}
        for block in read_columns(path, layouts, what, remedy):
            # One string object per distinct id: lists repeat ids hundreds of times.
            self.enroll += map(names.setdefault, block.enroll, block.enroll)
            self.test += map(names.setdefault, block.test, block.test)
            if block.labels is not None:
                labels.append(block.labels)
            if block.scores is not None:
                scores.append(block.scores)
        self.labels = np.concatenate(labels) if labels else None
        self.scores = np.concatenate(scores) if scores else None


def read_enroll_map(path: Path | str | None) -> dict[str, list[str]]:
    """Read an enrollment map, `spk2utt` style: a profile id followed by its utterances.

    Returns:
        {profile: utterances}, in file order; none of None.

    Raises:
        InputError: unreadable, a duplicate profile, or an utterance twice in one profile.
    """
    if path is None:
        return {}
    enroll_map = {profile: rest.split() for profile, rest in read_table(path).items()}
    for number, (profile, utterances) in enumerate(enroll_map.items(), start=1):
        if len(set(utterances)) != len(utterances):
            raise InputError(
                f"{path}: line {number}: profile {profile!r} lists an utterance twice; remove one"
            )
    return enroll_map


def write_enroll_map(path: Path | str, enroll_map: Mapping[str, Sequence[str]]) -> None:
    """Write an enrollment map, {profile: utterances}, which `read_enroll_map` reads."""
    write_table(path, {profile: " ".join(own) for profile, own in enroll_map.items()})


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
                f"({', '.join(sorted(speakers)[:3])}); correct the enrollment map"
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
    remove_leftovers(Path(path).parent, Path(path).name)
    with atomic_open(path) as file:
        file.writelines(
            f"{e} {t} {score:.9g}\n"
            for e, t, score in zip(trials.enroll, trials.test, values.tolist(), strict=True)
        )


def read_scores(path: Path | str) -> tuple[Trials, NDArray[np.float32]]:
    """Read a score file: `enroll test score` per line, with or without a label.

    Returns:
        The scored trials, with the file's labels if it has some, and their scores (T,), as
        `write_scores` has them; see `join_scores`.

    Raises:
        InputError: unreadable, empty, a malformed line, or a score that is not a finite number.
    """
    columns, scores = read_score_columns(path)
    if not columns.enroll:
        raise InputError(f"{path}: labels and scores without ids; write {SCORE_FORMATS}")
    with about(path):
        return Trials(columns.enroll, columns.test, columns.labels), scores.astype(np.float32)


def read_score_columns(path: Path | str) -> tuple[AllColumns, NDArray[np.float64]]:
    """The columns of a score file, with or without ids, and its scores; see `read_scores`."""
    remedy = f"write all lines as {SCORE_FORMATS}, or score the list again"
    columns = AllColumns(path, SCORES, "a score", remedy)
    if columns.scores is None:
        raise InputError(f"{path}: empty; a score file has lines `enroll test score`")
    return columns, columns.scores


def join_scores(
    trials: Trials, scored: Trials, scores: ArrayLike, allow_extra: bool = False
) -> NDArray:
    """The scores of `trials`, found by key.

    Args:
        trials: T trials.
        scored: the trials that were scored, in any order.
        scores: their scores.
        allow_extra: accept scores of trials that are not in `trials`.

    Returns:
        Scores (T,), in the order of `trials`.

    Raises:
        InputError: a trial without a score, with two scores that differ as float32, or (unless
            `allow_extra`) a score without a trial.
    """
    values = np.asarray(scores)
    if values.shape != (len(scored),):
        raise InputError(f"{len(scored)} scored trials but scores of shape {values.shape}")
    pairs = _pairs_as_in(scored, trials)
    extra = np.flatnonzero(pairs < 0)
    if len(extra) and not allow_extra:
        raise InputError(
            f"trial {named_trials(scored, extra)} scored but not in the trial list; is it another "
            "list's score file?"
        )
    known = np.flatnonzero(pairs >= 0)
    known = known[np.argsort(pairs[known], kind="stable")]
    pairs, values = pairs[known], values[known]
    rounded = values.astype(np.float32)
    differ = np.flatnonzero((pairs[1:] == pairs[:-1]) & (rounded[1:] != rounded[:-1]))
    if len(differ):
        twice = named_trials(scored, known[differ])
        raise InputError(f"trial {twice} scored twice, differently; remove one")
    wanted = trials.pairs
    places = np.searchsorted(pairs, wanted)
    missing = np.flatnonzero(np.append(pairs, -1)[places] != wanted)
    if len(missing):
        without = named_trials(trials, missing)
        raise InputError(f"trial {without} without a score; score the whole list again")
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


def named_trials(trials: Trials, rows: NDArray[np.int64]) -> str:
    """The first few of some trials, by their rows, and how many more there are."""
    return named([f"{trials.enroll[row]} {trials.test[row]}" for row in rows])


def sorted_trials(rows: Iterable[tuple[str, str, bool]]) -> Trials:
    """Labeled trials of rows (enroll, test, label), C-sorted by enrollment and test id."""
    # Python orders strings by code point, which is the byte order of their UTF-8 (C order).
    rows = sorted(rows)
    return Trials(
        [row[0] for row in rows], [row[1] for row in rows], as_labels([row[2] for row in rows])
    )


def concatenated(lists: Sequence[Trials]) -> Trials:
    """Labeled lists as one, sorted."""
    return sorted_trials(
        row
        for trials in lists
        for row in zip(trials.enroll, trials.test, trials.known_labels.tolist(), strict=True)
    )


def read_labeled(path: Path) -> Trials:
    """A trial list that must have labels."""
    trials = Trials.read(path)
    if trials.labels is None:
        raise InputError(f"{path}: {NO_LABELS}")
    return trials


def label_fault(trials: Trials, speakers: tuple[Sequence[str], Sequence[str]]) -> str | None:
    """What is wrong with the first label that contradicts the speakers; None where none does.

    Args:
        trials: T labeled trials.
        speakers: of their enrollment and their test sides, each (T,); see `trial_speakers`.
    """
    rows = contradicted(trials, speakers)
    if not len(rows):
        return None
    row, (enroll, test) = rows[0], speakers
    kind = "target" if trials.known_labels[row] else "nontarget"
    return (
        f"trial {trials.enroll[row]!r} {trials.test[row]!r} is a {kind}, but of speakers "
        f"{enroll[row]!r} and {test[row]!r}; correct its label or utt2spk"
    )


def contradicted(
    trials: Trials, speakers: tuple[Sequence[str], Sequence[str]]
) -> NDArray[np.int64]:
    """The rows of trials whose labels contradict the speakers of their sides; see `label_fault`."""
    same = np.fromiter(map(eq, *speakers), np.bool_, len(trials))
    return np.flatnonzero(trials.known_labels != same)


def rates_fault(trials: Trials) -> str | None:
    """Why a list has no error rates, as the end of a message; None where it has some."""
    return NO_LABELS if trials.labels is None else classes_fault(trials.labels)


def classes_fault(labels: NDArray[np.bool_]) -> str | None:
    """Why labels (T,) have no error rates, as the end of a message; None where they have some."""
    targets = np.count_nonzero(labels)
    if 0 < targets < len(labels):
        return None
    counts = f"{targets} target and {len(labels) - targets} non-target trials"
    return f"{counts}; an error rate needs some of each"
