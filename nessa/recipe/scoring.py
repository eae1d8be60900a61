"""Scoring a recipe's systems, and calibrating their eval scores on dev."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from nessa.corpus.speakers import TESTED
from nessa.errors import InputError, about
from nessa.evaluation.conditions import Condition
from nessa.files import read_table
from nessa.kaldi.datadir import MAIN_LIST, map_of_list, read_optional, trial_lists
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import read_info
from nessa.recipe.config import Recipe, ScoringConfig
from nessa.recipe.layout import (
    AS_NORM,
    COSINE,
    DEV,
    EVAL,
    Kind,
    aligner_dir,
    backend_file,
    calibration_file,
    embeddings_dir,
    raw_sides,
    score_file,
    scored_cohort,
    scored_sides,
)
from nessa.recipe.systems import LDA_PLDA, PLDA, PLDA_LLR, RAW, System, has_as_norm
from nessa.scoring.calibration import Calibration, Method, fit_calibration
from nessa.scoring.cosine import cosine_scores
from nessa.scoring.sides import Scores, Sides, score_summary
from nessa.trials import Trials, join_scores, read_enroll_map, read_scores, write_scores

# Of a list's trials, and the enrollment map of the profiles that it names.
Scorer = Callable[[Trials, Path | None], dict[Kind, Scores]]


def read_condition_scores(
    scores_dir: Path,
    system: System,
    condition: Condition,
    kind: Kind = COSINE,
    calibrated: bool = False,
) -> Scores:
    """The scores (T,) of a system on the eval trials of a condition, joined by key.

    Raises:
        InputError: the score file is unreadable, or a trial has no score in it.
    """
    path = score_file(scores_dir, system, condition.list_name, EVAL, kind, calibrated)
    scored, scores = read_scores(path)
    with about(path):
        return join_scores(condition.trials, scored, scores, allow_extra=True)


def cohort_warnings(data: Path, scoring: ScoringConfig) -> Iterator[str]:
    """What stage symmetric would refuse after the training: a cohort too small for AS-norm."""
    spk2utt = data / scoring.cohort / "spk2utt"
    if spk2utt.exists() and (count := len(read_table(spk2utt))) < scoring.top_n:
        yield (
            f"{spk2utt}: {count} speakers, fewer than scoring.top_n ({scoring.top_n}), the cohort "
            "scores that count; lower it in the recipe before stage symmetric, or add speakers"
        )


def score_system(recipe: Recipe, data: Path, exp: Path, system: System) -> Iterator[str]:
    """Score a system's dev and eval trials, and calibrate the eval scores on dev.

    By cosine, and by AS-norm as well except for additional seeds; or by a likelihood ratio of PLDA.

    Args:
        recipe: its section `scoring`.
        data: holds the sets, with their trials.
        exp: holds embeddings/ or mapped/, and backends/; receives scores/.
        system: what to score; a raw model with itself needs no mapping.

    Yields:
        A line per score file.

    Raises:
        InputError: embeddings or trials are missing or do not fit, the cohort is smaller than
            scoring.top_n, the dev trials have no labels, or the raw vectors of two models are to
            be compared and differ in dimension.
    """
    settings = recipe.scoring
    if system.aligner == RAW:
        _check_raw(recipe, exp)
    cohort = None
    if has_as_norm(system):
        cohort = Sides.read(*scored_cohort(exp, system, settings.cohort))
    calibrations: dict[Kind, Calibration] = {}
    pair, enroll = _made_by(exp, system)
    for set_name in TESTED:
        if system.aligner == PLDA_LLR:
            score = _by_likelihood_ratio(data, exp, system, set_name)
        elif system.aligner == LDA_PLDA:
            score = _by_lda_plda(exp, system.enroll, set_name)
        else:
            score = _by_cosine(exp, system, set_name, cohort, settings.top_n)
        for path in _lists(data / set_name):
            trials = Trials.read(path)
            enroll_map = map_of_list(path, trials.enroll_index.names)
            with about(path):
                scores = score(trials, enroll_map)
            for kind, values in scores.items():
                place = exp / "scores", system, path.name, set_name, kind
                write_scores(score_file(*place), trials, values)
                yield score_summary(score_file(*place), trials, values)
                if set_name == DEV:
                    fitted = calibration_file(exp / "scores", system, kind)
                    calibrations[kind] = fit_calibration(
                        path,
                        score_file(*place),
                        fitted,
                        settings.p_target,
                        pair=pair,
                        method=_method(system, kind),
                        enroll=enroll,
                    )
                else:
                    llrs = calibrations[kind].apply(values)
                    write_scores(score_file(*place, calibrated=True), trials, llrs)


def _check_raw(recipe: Recipe, exp: Path) -> None:
    """Refuse the baseline raw between models of two dimensions, before any aligner is fitted."""
    infos = [read_info(embeddings_dir(exp, model, DEV)) for model in recipe.update]
    dims = [info.dim for info in infos if info is not None]
    if RAW in recipe.baselines and len(set(dims)) > 1:
        raise InputError(
            "baselines: raw compares the models' own vectors, but those of "
            f"{' and '.join(recipe.update)} have dimensions {dims[0]} and {dims[1]}; leave out raw"
        )


def _made_by(exp: Path, system: System) -> tuple[str | None, str | None]:
    """The pair and enrollment map of the aligner, or the model that is scored as it is; or None."""
    info = read_info(scored_sides(exp, system, DEV)[0])
    return (info.stamp.fingerprint, info.stamp.map) if info else (None, None)


def _method(system: System, kind: Kind) -> Method:
    if system.aligner in (PLDA_LLR, LDA_PLDA):
        return "plda"
    return "as_norm" if kind == AS_NORM else "cosine"


def _by_cosine(
    exp: Path, system: System, set_name: str, cohort: Sides | None, top_n: int
) -> Scorer:
    """By the cosine of the two sides, with AS-norm where there is a cohort."""
    utterances = Sides.read(*scored_sides(exp, system, set_name))
    as_norm = utterances.as_norm(cohort, top_n) if cohort is not None else None

    def score(trials: Trials, enroll_map: Path | None) -> dict[Kind, Scores]:
        sides = utterances
        if enroll_map is not None:
            sides = utterances.with_profiles(enroll_map, trials.enroll_index.names)
        with about(*sides.paths):
            cosine = cosine_scores(sides.enroll, sides.runtime, trials)
        scores: dict[Kind, Scores] = {COSINE: cosine}
        if cohort is not None and as_norm is not None:
            own = as_norm if sides is utterances else as_norm.with_enroll(sides.enroll)
            with about(*cohort.paths):
                scores[AS_NORM] = own.apply(cosine, trials)
        return scores

    return score


def _by_likelihood_ratio(data: Path, exp: Path, system: System, set_name: str) -> Scorer:
    """By PLDA itself, of the raw embeddings, centered by their domains as all that are mapped."""
    from nessa.alignment.plda import PLDAAligner  # torch, which other systems do without
    from nessa.alignment.store import load

    aligner = load(aligner_dir(exp, system._replace(aligner=PLDA)))
    assert isinstance(aligner, PLDAAligner)
    enroll, runtime = map(Embeddings.read, raw_sides(exp, system, set_name))
    domains = read_optional(data / set_name, "utt2domain")
    enroll = aligner.center_domains(enroll, "enroll", domains)
    runtime = aligner.center_domains(runtime, "runtime", domains)
    aligner.check_models(enroll, runtime)

    def score(trials: Trials, enroll_map: Path | None) -> dict[Kind, Scores]:
        profiles = read_enroll_map(enroll_map)
        return {COSINE: aligner.scores(enroll, runtime, trials, profiles).astype(np.float32)}

    return score


def _by_lda_plda(exp: Path, model: str, set_name: str) -> Scorer:
    """By LDA and PLDA of one model."""
    from nessa.alignment.lda_plda import LDAPLDA

    backend = LDAPLDA.load(backend_file(exp, model))
    folder = embeddings_dir(exp, model, set_name)
    embeddings = Embeddings.read(folder)

    def score(trials: Trials, enroll_map: Path | None) -> dict[Kind, Scores]:
        profiles = read_enroll_map(enroll_map)
        with about(folder):
            return {COSINE: backend.scores(embeddings, trials, profiles).astype(np.float32)}

    return score


def _lists(set_dir: Path) -> list[Path]:
    """The trial lists of a set that are scored; of dev, which calibrates, only the main one."""
    return [set_dir / MAIN_LIST] if set_dir.name == DEV else trial_lists(set_dir, profiles=True)
