"""Error rates and their intervals, beside one sort of the scores."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import Machine
from benchmarks.measurement import Comparison, Measurement, in_turns
from benchmarks.workload import Workload
from nessa.metrics.bootstrap import bootstrap
from nessa.metrics.roc import Roc, cllr, eer, min_cllr, min_dcf

SORT = "np.argsort of the scores"


def bench_metrics(workload: Workload, machine: Machine) -> Iterator[Measurement]:
    """EER, minDCF, Cllr and minCllr of one system."""
    trials = workload.size.scores
    rng = np.random.default_rng(0)
    labels = rng.random(trials) < 0.3
    scores = rng.normal(size=trials) + 2 * labels

    def one_by_one() -> None:
        for metric in (eer, min_dcf, cllr, min_cllr):
            metric(scores, labels)

    def off_one_curve() -> None:
        curve = Roc.of(scores, labels)
        for work in (curve.eer, curve.min_dcf, partial(curve.min_dcf, 0.05), curve.min_cllr):
            work()
        cllr(scores, labels)

    for line, ours in (
        ("EER, minDCF, Cllr, minCllr", one_by_one),
        ("the same off one curve, minDCF twice", off_one_curve),
    ):
        seconds, sorts = in_turns(ours, partial(np.argsort, scores))
        yield Measurement(line, f"{trials:,} trials", seconds, [Comparison(SORT, sorts)])


def bench_bootstrap(workload: Workload, machine: Machine) -> Iterator[Measurement]:
    """The joint speaker bootstrap of systems on lists shaped as VoxCeleb1-E: half targets."""
    size = workload.size
    rng = np.random.default_rng(0)
    labels = np.arange(size.trials) % 2 == 0
    enroll = rng.integers(size.eval_speakers, size=size.trials)
    others = (enroll + rng.integers(1, size.eval_speakers, size=size.trials)) % size.eval_speakers
    sides = _names(enroll), _names(np.where(labels, enroll, others))
    noise = rng.normal(size=size.trials)
    # About 2 % EER, as of a model with itself; and 50 %, as of two models that are not aligned.
    for kind, scores in (("2 % EER", noise + 4.1 * labels), ("50 % EER", noise)):
        seconds, sorts = in_turns(
            partial(bootstrap, [scores], labels, *sides, draws=size.draws),
            partial(np.argsort, scores),
            repeats=3,
        )
        yield Measurement(
            f"bootstrap, {kind}",
            f"{size.draws} draws of {size.trials:,} trials",
            seconds,
            [Comparison(SORT, sorts)],
        )


def _names(codes: NDArray[np.int64]) -> list[str]:
    return [f"id{code:05d}" for code in codes.tolist()]
