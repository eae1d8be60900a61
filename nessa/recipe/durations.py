"""The study of durations: how short the test speech may be, for each model and for NESSA.

The test utterances of eval are cut to some seconds of their middle and embedded again by both
models; enrollment stays as it is. The recipe's aligners map them: nothing is trained. Gains are
between both models on speech of that length. What a model cannot embed once it is cut, such as a
pause, is left out of the trials of that length.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path

import numpy as np
from lhotse.cut import MonoCut

from nessa.alignment.base import Aligner
from nessa.alignment.store import load
from nessa.corpus.copies import middle_part
from nessa.corpus.manifests import CutTable
from nessa.encoders.arks import GivenEmbeddings
from nessa.encoders.base import SpeakerModel
from nessa.encoders.extraction import extract
from nessa.encoders.models import load_model
from nessa.errors import InputError
from nessa.evaluation.conditions import Condition, utterance_conditions
from nessa.files import Record
from nessa.kaldi.datadir import read_optional
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import same_model
from nessa.metrics.bootstrap import recovered_gain
from nessa.recipe.config import Recipe
from nessa.recipe.layout import EVAL, aligner_dir, embeddings_dir
from nessa.recipe.studies import Pair, drawn_errors, measured
from nessa.recipe.study_files import DURATIONS, study_digest, write_study
from nessa.recipe.systems import NESSA, RAW, System
from nessa.scoring.cosine import cosine_scores
from nessa.scoring.sides import Scores
from nessa.trials import classes_fault

log = logging.getLogger(__name__)
SECONDS = (1.0, 2.0, 3.0)
FULL = "full"
Tests = Mapping[str, Embeddings]  # {model: test utterances of one length}


def write_durations(recipe: Recipe, data: Path, exp: Path, output: Path) -> list[Record]:
    """Write the error rates and gains for each length of test speech, as a study.

    Args:
        recipe: names the old and the new model.
        data: holds eval, with its audio.
        exp: holds encoders/, embeddings/ and aligners/.
        output: receives {"study", "digest", "records"}.

    Returns:
        A record per list of single utterances, length and pair of models: {"condition", "label",
        "value" (seconds; None: full), "shortened" (share of the test utterances that are cut),
        "aligner", "enroll", "runtime", "eer", "eer_ci", "gain", "gain_ci"}. Lengths that no
        utterance exceeds are left out, and those of which too few can be embedded.

    Raises:
        InputError: a model or audio is missing, embeddings are of another model than the one that
            is there now, or all trials are of profiles.
    """
    key = study_digest(DURATIONS, recipe, data, exp)
    conditions = utterance_conditions(data / EVAL)
    models = {model: _model(exp, model) for model in recipe.update}
    full = {name: _full(embeddings_dir(exp, name, EVAL), model) for name, model in models.items()}
    aligners = {pair: load(aligner_dir(exp, System(NESSA, *pair))) for pair in recipe.pairs}
    wanted = {name for condition in conditions for name in condition.trials.test_index.names}
    cuts = _test_cuts(data, wanted)
    by_length: dict[float | None, tuple[Tests, dict[str, str]]] = {}  # and what is left out
    for limit in SECONDS:
        if any(cut.duration > limit for cut in cuts):
            short, skipped = [middle_part(cut, limit) for cut in cuts], dict[str, str]()
            embedded = {
                name: extract(model, short, what=f"{name} {limit:g} s", skipped=skipped)
                for name, model in models.items()
            }
            by_length[limit] = embedded, skipped
    by_length[None] = full, {}
    lengths = {cut.id: cut.duration for cut in cuts}
    domains = read_optional(data / EVAL, "utt2domain")
    records = []
    for condition in conditions:
        for seconds, (tests, skipped) in by_length.items():
            if kept := _without(condition, skipped, seconds):
                scores = dict(_scores(seconds, kept, full, tests, aligners, domains))
                records += _records(recipe, kept, scores, lengths)
    write_study(output, DURATIONS, key, records)
    return records


def _model(exp: Path, name: str) -> SpeakerModel:
    model = load_model(exp / "encoders" / name)
    if isinstance(model, GivenEmbeddings):
        raise InputError(
            f"{exp / 'encoders' / name}: embeddings without a model, which cannot embed shorter "
            "speech; a study of durations needs both models and the audio"
        )
    return model


def _full(place: Path, model: SpeakerModel) -> Embeddings:
    found = Embeddings.read(place)
    if same_model(found.stamp, model.fingerprint) is False:
        raise InputError(
            f"{place}: embeddings of another model {model.name!r} than the one that is there now, "
            "which would embed the shorter speech: run ./run.sh --stage extract"
        )
    return found


def _test_cuts(data: Path, wanted: set[str]) -> list[MonoCut]:
    table = CutTable(data, EVAL)
    cuts = [table[row] for row in range(len(table)) if table.id(row) in wanted]
    for cut in cuts:
        if not cut.has_recording:
            raise InputError(f"utterance {cut.id!r} of {data / EVAL} has no audio to be cut")
    return cuts


def _without(
    condition: Condition, skipped: Mapping[str, str], seconds: float | None
) -> Condition | None:
    """The trials that are left, told aloud; None where these have no error rates."""
    keep = np.array([test not in skipped for test in condition.trials.test])
    if keep.all():
        return condition
    fault = classes_fault(condition.trials.known_labels[keep])
    log.warning(
        "%s, test speech of %g s: %d utterances that a model cannot embed are left out, with %d of "
        "%d trials%s; the first: %s",
        condition.list_name, seconds, len(skipped), np.count_nonzero(~keep), len(keep),
        f", and so is this length ({fault})" if fault else "", skipped[min(skipped)],
    )  # fmt: skip
    if fault:
        return None
    enroll, test = (list(compress(speakers, keep)) for speakers in condition.speakers)
    return replace(condition, trials=condition.trials.select(keep), speakers=(enroll, test))


Key = tuple[float | None, str, Pair]  # length, aligner, models


def _scores(
    seconds: float | None,
    condition: Condition,
    full: Tests,
    tests: Tests,
    aligners: Mapping[Pair, Aligner],
    domains: Mapping[str, str],
) -> Iterator[tuple[Key, Scores]]:
    """Of each model with itself, old before new, and of each pair."""
    trials = condition.trials
    for model in full:
        scores = cosine_scores(full[model], tests[model], trials)
        yield (seconds, RAW, (model, model)), scores
    for (enroll, runtime), aligner in aligners.items():
        mapped = aligner.map_views(full[enroll], tests[runtime], domains)
        yield (seconds, NESSA, (enroll, runtime)), cosine_scores(*mapped, trials)


def _records(
    recipe: Recipe,
    condition: Condition,
    scores: Mapping[Key, Scores],
    lengths: Mapping[str, float],
) -> list[Record]:
    """Of one length, all of them from the same draws of the bootstrap."""
    drawn = drawn_errors(recipe, list(scores.values()), condition)
    errors = dict(zip(scores, drawn, strict=True))
    old, new = recipe.update
    records = []
    for (seconds, aligner, (enroll, runtime)), error in errors.items():
        before, after = (errors[seconds, RAW, (model, model)] for model in (old, new))
        gain = recovered_gain(before, error, after) if aligner == NESSA else None
        records.append(
            {
                "condition": condition.name,
                "label": f"{seconds:g} s" if seconds else FULL,
                "value": seconds,
                "shortened": _share(seconds, condition.trials.test_index.names, lengths),
                "aligner": aligner,
                "enroll": enroll,
                "runtime": runtime,
                **measured(error, gain),
            }
        )
    return records


def _share(seconds: float | None, names: Sequence[str], lengths: Mapping[str, float]) -> float:
    if seconds is None:
        return 0.0
    return sum(lengths[name] > seconds for name in names) / len(names)
