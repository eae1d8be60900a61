"""Score files of any toolkit, matched to a trial list."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nessa.errors import InputError, about
from nessa.trials import SCORE_FORMATS, Trials, join_scores, named_trials, read_score_columns

AUDIO_SUFFIX = re.compile(r"\.(wav|flac|m4a|mp3|ogg|opus|sph)$")
BY_ORDER = "no ids: taken in the order of the trial list, whose number and labels it has"
BY_FILE = "ids matched without the suffix of an audio file, and with dashes for slashes"


def read_scores_of(trials: Trials, path: Path | str) -> tuple[NDArray[np.float64], str]:
    """The scores of `trials` in the score file of any toolkit.

    Ids that differ from those of the trials by the suffix of an audio file and by dashes for
    slashes alone are taken for the same. A file of labels and scores without ids is taken to have
    the order of the trials, if it has their labels.

    Args:
        trials: T trials.
        path: their scores.

    Returns:
        (scores (T,), in the order of the trials; how they were matched, "" where by equal ids)

    Raises:
        InputError: see `read_scores` and `join_scores`; or labels that are not those of the trials.
    """
    columns, scores = read_score_columns(path)
    with about(path):
        if not columns.enroll:
            _check_order(trials, len(scores), columns.labels)
            return scores, BY_ORDER
        scored = Trials(columns.enroll, columns.test, columns.labels)
        same = _in_the_names_of(trials, scored)
        joined = join_scores(trials, same, scores)
        if trials.labels is not None and same.labels is not None:
            _check_labels(trials, join_scores(trials, same, same.labels) == 1)
    return joined, "" if same is scored else BY_FILE


def _check_order(trials: Trials, count: int, labels: NDArray[np.bool_] | None) -> None:
    """Refuse scores without ids that are not of these trials."""
    if trials.labels is None or labels is None:
        raise InputError(f"no ids, and the trial list has no labels; write {SCORE_FORMATS}")
    if count != len(trials):
        raise InputError(
            f"{count} scores without ids, but {len(trials)} trials; write {SCORE_FORMATS}"
        )
    _check_labels(trials, labels)


def _check_labels(trials: Trials, labels: NDArray[np.bool_]) -> None:
    other = np.flatnonzero(labels != trials.known_labels)
    if len(other):
        raise InputError(
            f"its label of trial {named_trials(trials, other)} is not that of the trial list; is "
            "it another list's score file?"
        )


def _in_the_names_of(trials: Trials, scored: Trials) -> Trials:
    """The scored trials with the ids of `trials`, where these are ids of files and those are not.

    Only if all ids are then known, and no two are taken for one; else as they are.
    """
    sides = []
    for wanted, own in (
        (trials.enroll_index, scored.enroll_index),
        (trials.test_index, scored.test_index),
    ):
        if set(own.names) <= set(wanted.names):
            sides.append({name: name for name in own.names})
            continue
        known = {_bare(name): name for name in wanted.names}
        found = {name: known.get(_bare(name), "") for name in own.names}
        if len(known) < len(wanted.names) or len(set(found.values()) - {""}) < len(found):
            return scored
        sides.append(found)
    if all(name == known for side in sides for name, known in side.items()):
        return scored
    enroll, test = sides
    return Trials(
        [enroll[name] for name in scored.enroll],
        [test[name] for name in scored.test],
        scored.labels,
    )


def _bare(name: str) -> str:
    """id10270/x6uYqmx31kE/00001.wav -> id10270-x6uYqmx31kE-00001."""
    return AUDIO_SUFFIX.sub("", name).replace("/", "-")
