"""Held-out speakers: on them an aligner is chosen, and judged against its models alone."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nessa.alignment.views import FLOATS_PER_BLOCK, SIDES, Floats, Matrix, Rows, blocks
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.bootstrap import Estimate, bootstrap, difference, mean_estimate
from nessa.metrics.roc import check_classes, eer
from nessa.metrics.table import EER
from nessa.scoring.calibration import Calibration
from nessa.scoring.cosine import cosine_scores
from nessa.text import percent
from nessa.trials import (
    NO_LABELS,
    Trials,
    contradicted,
    index_names,
    label_fault,
    trial_speakers,
)

log = logging.getLogger(__name__)
DRAWS = 500  # of dev speakers
CONFIDENCE = 0.8  # training is kept where it lowers the dev EER in this share of the draws
# Fewer dev speakers decide nothing: draws of so few make intervals that are too narrow, and the
# aligner was chosen by the same ones.
FEWEST = 10

Statistics = tuple[Matrix | Floats, Matrix | Floats]  # z (N, D) and u (N,) of a side's vectors


@dataclass(frozen=True)
class DevSet:
    """Held-out speakers on which an aligner may choose when to stop.

    Attributes:
        enroll, runtime: their embeddings by the two models.
        trials: labeled pairs of an enrollment and a runtime utterance; the main list.
        others: further lists of their own, such as of other domains; NESSA chooses by all alike,
            and weighs its parts by the trials of all together.
        domains: {utterance: domain}, of those whose domain is known.
        speakers: {utterance: speaker}; empty: utterances that target trials join are a speaker's,
            of whom lists with few target trials make several.

    Raises:
        InputError: trials without labels, or of utterances that one of the models has no
            embedding of.
    """

    enroll: Embeddings
    runtime: Embeddings
    trials: Trials
    others: tuple[Trials, ...] = ()
    domains: Mapping[str, str] = field(default_factory=dict)
    speakers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for trials in self.lists:
            if trials.labels is None:
                raise InputError(NO_LABELS)
            # Both models embed both sides of a trial, for an aligner is judged in both directions.
            names = [*trials.enroll_index.names, *trials.test_index.names]
            for embeddings in (self.enroll, self.runtime):
                embeddings.rows(names)

    @property
    def lists(self) -> tuple[Trials, ...]:
        """All lists, the main one first."""
        return self.trials, *self.others

    def speakers_of(self, trials: Trials) -> tuple[list[str], list[str]]:
        """The speakers of both sides of each trial of a list, each (T,)."""
        if self.speakers:
            return trial_speakers(trials, self.speakers)
        return speakers_by_targets(trials)


def both_ways_scores(x: Statistics, y: Statistics, dev: DevSet) -> list[tuple[Trials, Floats]]:
    """Each dev list twice, with scores (T,): x enrolled and y tested, and the other way round."""
    return [
        (trials, scores)
        for trials in dev.lists
        for scores in (
            _scores((x, dev.enroll), (y, dev.runtime), trials),
            _scores((y, dev.runtime), (x, dev.enroll), trials),
        )
    ]


def both_ways_eer(x: Statistics, y: Statistics, dev: DevSet) -> float:
    """Mean EER of all lists and both directions, since the space serves both.

    By it every aligner chooses, so that the comparison is one of methods.
    """
    scored = both_ways_scores(x, y, dev)
    return float(np.mean([eer(scores, trials.known_labels) for trials, scores in scored]))


def _scores(
    enroll: tuple[Statistics, Embeddings], runtime: tuple[Statistics, Embeddings], trials: Trials
) -> Floats:
    """z_x . z_y + u_x + u_y of each trial; the embeddings tell the rows of the statistics."""
    indices = trials.enroll_index, trials.test_index
    rows = [
        embeddings.rows(index.names)[index.codes]
        for (_, embeddings), index in zip((enroll, runtime), indices, strict=True)
    ]
    (z_x, u_x), (z_y, u_y) = enroll[0], runtime[0]
    scores = u_x[rows[0]].astype(np.float64) + u_y[rows[1]]
    for block in blocks(len(scores), FLOATS_PER_BLOCK // z_x.shape[1]):
        i, j = (own[block] for own in rows)
        scores[block] += np.einsum("td,td->t", z_x[i], z_y[j])
    return scores


def dev_errors(dev: DevSet, trials: Trials, systems: Sequence[Any]) -> list[Estimate]:
    """EER of systems on dev trials, from the same draws of speakers.

    Args:
        dev: tells the speakers.
        trials: one of its lists, T trials.
        systems: scores (T,) of each system.

    Raises:
        InputError: labels that contradict each other.
    """
    speakers = dev.speakers_of(trials)
    drawn = bootstrap(systems, trials.known_labels, *speakers, draws=DRAWS, metrics=[EER])
    return [estimates[EER.key] for estimates in drawn]


def improves(
    dev: DevSet, before: tuple[Statistics, Statistics], after: tuple[Statistics, Statistics]
) -> bool:
    """Whether the dev EER, of both directions, is lower after in nearly all draws of speakers.

    Args:
        dev: held-out speakers.
        before, after: z and u of its two sides by two aligners.
    """
    pairs = zip(both_ways_scores(*before, dev), both_ways_scores(*after, dev), strict=True)
    errors = [dev_errors(dev, trials, [old, new]) for (trials, old), (_, new) in pairs]
    won = difference(*map(mean_estimate, zip(*errors, strict=True)))
    share = float(np.mean(won.draws > 0))
    log.info(
        "dev EER of the start less %.4f, above 0 in %.0f %% of the draws of speakers",
        won.value, 100 * share,
    )  # fmt: skip
    return share >= CONFIDENCE


def speakers_by_targets(trials: Trials) -> tuple[list[str], list[str]]:
    """The speakers of both sides of each trial, each (T,): who is joined by target trials."""
    names, codes = index_names([*trials.enroll, *trials.test])
    enroll, test = np.split(codes, 2)
    joined = enroll[trials.labels], test[trials.labels]
    graph = coo_array((np.ones(len(joined[0])), joined), shape=(len(names), len(names)))
    numbers = connected_components(graph, directed=False)[1].tolist()
    called: dict[int, str] = {}  # by the first of their utterances, whatever the trials' order
    for name, number in sorted(zip(names, numbers, strict=True)):
        called.setdefault(number, name)
    speaker = [called[number] for number in numbers]
    return [speaker[row] for row in enroll], [speaker[row] for row in test]


def check_dims(dev: DevSet, enroll: Rows, runtime: Rows) -> None:
    """Refuse a dev set of other dimensions than the views (N, Dx), (N, Dy) of the align set."""
    views = zip(SIDES, (enroll, runtime), (dev.enroll, dev.runtime), strict=True)
    for side, view, held_out in views:
        if view.shape[1] != held_out.dim:
            raise InputError(
                f"{side} embeddings of the dev set have dimension {held_out.dim}, those of the "
                f"align set {view.shape[1]}; give both of the same model, the sides not swapped"
            )


def check_labels(dev: DevSet) -> None:
    """Refuse a list whose labels contradict the speakers, or each other where none are given.

    Raises:
        InputError: names the first such trial; or a list has trials of one class alone.
    """
    for trials in dev.lists:
        speakers = dev.speakers_of(trials)
        fault = label_fault(trials, speakers) if dev.speakers else _target_fault(trials, speakers)
        if fault:
            raise InputError(fault)
        check_classes(trials.known_labels)


def _target_fault(trials: Trials, speakers: tuple[list[str], list[str]]) -> str | None:
    """What is wrong with the first nontarget of what target trials join; None where none is."""
    rows = contradicted(trials, speakers)
    if not len(rows):
        return None
    return (
        f"trial {trials.enroll[rows[0]]!r} {trials.test[rows[0]]!r} is a nontarget, but by target "
        "trials both are of one speaker; correct its label, or theirs"
    )


def calibrate_on(dev: DevSet, aligned: Sequence[tuple[Embeddings, Embeddings]]) -> Calibration:
    """The calibration of an aligner's cosines, of all directions and the main dev list.

    Args:
        dev: held-out speakers.
        aligned: the mapped dev set of the enrollment and the test role, in each direction.
    """
    scores = [cosine_scores(*pair, dev.trials) for pair in aligned]
    labels = np.tile(dev.trials.known_labels, len(aligned))
    return Calibration.fit(np.concatenate(scores), labels, p_target=0.5)


def judge(dev: DevSet, aligned: Sequence[tuple[Embeddings, Embeddings]]) -> dict[str, Any]:
    """Compare an aligner with not updating, by the EER of the main dev list.

    An aligner does not know which model is the old one: not updating is the worse of both, on both
    sides, by the cosine of raw embeddings.

    Args:
        dev: held-out speakers.
        aligned: the mapped dev set of the enrollment and the test role, in each direction.

    Returns:
        "verdict": helps, cannot tell or harms, by the 95 % interval of the difference, and cannot
        tell by fewer than `FEWEST` speakers; "speakers", how many have targets; "eer", the mean of
        the directions; "not_updating", the EER without; "lower_by", their difference, and
        "lower_by_ci", its interval.
    """
    pairs = [*((model, model) for model in (dev.enroll, dev.runtime)), *aligned]
    first, second, *both = dev_errors(
        dev, dev.trials, [cosine_scores(*p, dev.trials) for p in pairs]
    )
    old, error = max((first, second), key=lambda model: model.value), mean_estimate(both)
    lower = difference(old, error)
    low, high = lower.interval
    enrolled, _ = dev.speakers_of(dev.trials)
    speakers = len({enrolled[row] for row in np.flatnonzero(dev.trials.known_labels)})
    verdict = "helps" if low > 0 else "harms" if high < 0 else "cannot tell"
    return {
        "verdict": verdict if speakers >= FEWEST else "cannot tell",
        "speakers": speakers,
        "eer": error.value,
        "not_updating": old.value,
        "lower_by": lower.value,
        "lower_by_ci": [low, high],
    }


def verdict_sentence(fitting: dict[str, Any]) -> str | None:
    """What `judge` found, for people; None where there was no dev set."""
    if "verdict" not in fitting:
        return None
    low, high = fitting["lower_by_ci"]
    speakers = fitting.get("speakers", FEWEST)  # of older versions
    few = "" if speakers >= FEWEST else f", of {speakers} speakers; {FEWEST} are needed"
    return (
        f"against the worse of both models alone, on dev: {fitting['verdict']}{few} "
        f"(EER {percent(fitting['eer'])} % instead of {percent(fitting['not_updating'])} %, "
        f"lower by [{100 * low:.2f}, {100 * high:.2f}] points)"
    )
