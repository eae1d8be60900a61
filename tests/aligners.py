"""Every registered aligner with small settings, and the views that it is fitted to."""

from functools import cache
from typing import Any

from nessa.alignment import Aligner, DevSet, aligner_class
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.roc import eer
from nessa.scoring.cosine import cosine_scores
from tests.pairs import all_trials, two_views

NEURAL = {
    "dim": 16,
    "hidden_dim": 32,
    "steps": 150,
    "evaluate_every": 50,
    "speakers_per_batch": 64,
    "utterances_per_speaker": 4,
}
SMALL = {
    "neural": NEURAL,
    "regression": {"hidden_dim": 16, "steps": 40, "evaluate_every": 20},
    "classifier": {"steps": 40, "evaluate_every": 20, "batch_size": 64},
}

Views = tuple[Embeddings, Embeddings, dict[str, str]]


def views_for(kind: str, speakers: int, utterances: int, **options: Any) -> Views:
    """Two views of dimensions that an aligner of this kind can take."""
    return two_views(speakers, utterances, dims=(12, 12 if kind == "raw" else 20), **options)


def small(kind: str, **settings: Any) -> Aligner:
    """An aligner that is fitted in a second or two."""
    return aligner_class(kind)(**SMALL.get(kind, {}) | settings)


def dev_for(kind: str) -> DevSet:
    """15 other speakers."""
    enroll, runtime, names = views_for(kind, 15, 3, first_speaker=5000)
    return DevSet(enroll, runtime, all_trials(names))


def fit(aligner: Aligner, dev: bool = True) -> Aligner:
    """Fit to 100 speakers, and select on 15 others if `dev`."""
    kind = aligner.kind
    return aligner.fit(*views_for(kind, 100, 5), dev_for(kind) if dev else None)


@cache
def fitted(kind: str) -> Aligner:
    """The small aligner of a kind; shared, so not to be changed."""
    return fit(small(kind))


def error(aligner: Aligner, sides: tuple[Embeddings, Embeddings] | None = None) -> float:
    """EER on 40 other speakers, or on `sides`, which are embeddings of these."""
    enroll, runtime, names = views_for(aligner.kind, 40, 3, first_speaker=9000)
    trials = all_trials(names)
    assert trials.labels is not None
    mapped = aligner.map_views(*sides or (enroll, runtime))
    return eer(cosine_scores(*mapped, trials), trials.labels)
