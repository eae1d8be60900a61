"""Metrics of a recipe's systems, on the same trials and the same bootstrap draws."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nessa.evaluation.conditions import Condition, read_conditions
from nessa.files import Record
from nessa.metrics.bootstrap import (
    Bootstrap,
    Estimate,
    bootstrap,
    difference,
    mean_estimate,
    recovered_gain,
)
from nessa.metrics.roc import act_dcf, cllr, min_cllr
from nessa.recipe.config import Recipe
from nessa.recipe.layout import AS_NORM, COSINE, Kind
from nessa.recipe.scoring import read_condition_scores
from nessa.recipe.systems import NESSA, RAW, SEED, System, has_as_norm, is_nessa, seed_of

CALIBRATED = ("act_dcf", "cllr", "min_cllr")


def evaluate_systems(
    recipe: Recipe, set_dir: Path, scores_dir: Path, systems: Sequence[System]
) -> list[Record]:
    """EER, minDCF, recovered gain and calibration of each system on each kind of trials.

    All systems of a condition, the two symmetric raw ones included, share the bootstrap's draws,
    so that their differences and gains have paired intervals. NESSA's trainings with different
    seeds get a record each, and one of their mean.

    Args:
        recipe: names the models and the number of draws.
        set_dir: data directory with trials.
        scores_dir: holds the score files; see `nessa.recipe.layout.score_file`.
        systems: what to evaluate.

    Returns:
        One record per system and condition: fractions, intervals as [low, high]. "gain" is None
        where the new model is not significantly better than the old one, and "over_nessa" (how
        far the EER lies above NESSA's, paired) where NESSA has no row for the pair of models.
        "act_dcf" and "cllr" are of the cosine scores as single-utterance dev trials calibrate
        them, "min_cllr" of the best monotone map. "as_norm" has the same figures with AS-norm;
        None for a system without it.

    Raises:
        InputError: a score file is missing or does not fit its trials.
    """
    records: list[Record] = []
    references = [System(RAW, model, model) for model in recipe.update]
    everything = list(dict.fromkeys([*references, *systems]))
    for condition in read_conditions(set_dir):
        drawn = _draw(recipe, scores_dir, condition, everything, COSINE)
        eers = dict(zip(everything, drawn.eer, strict=True))
        costs = dict(zip(everything, drawn.min_dcf, strict=True))
        calibrated = {s: _calibrated(scores_dir, condition, s, COSINE) for s in systems}
        normalized = _with_as_norm(recipe, scores_dir, condition, systems)
        groups = _with_means(systems)
        for system, members in groups.items():
            rivals = [] if is_nessa(system.aligner) else _nessa_beside(system, groups)
            error = mean_estimate([eers[member] for member in members])
            records.append(
                {
                    "recipe": recipe.name,
                    **_names(system),
                    "trials": condition.name,
                    "targets": condition.trials.targets,
                    "nontargets": condition.trials.nontargets,
                    "seed": _seed(recipe, members),
                    **_rates(error, mean_estimate([costs[member] for member in members])),
                    **_gain(error, [eers[reference] for reference in references]),
                    **_over_nessa(eers[members[0]], [eers[rival] for rival in rivals]),
                    **_mean_figures([calibrated[member] for member in members]),
                    "as_norm": normalized.get(system),
                }
            )
    return records


def _draw(
    recipe: Recipe, scores_dir: Path, condition: Condition, systems: Sequence[System], kind: Kind
) -> Bootstrap:
    assert condition.trials.labels is not None
    return bootstrap(
        [read_condition_scores(scores_dir, system, condition, kind) for system in systems],
        condition.trials.labels,
        *condition.speakers,
        draws=recipe.evaluation.bootstrap_draws,
        seed=recipe.evaluation.seed,
    )


def _with_as_norm(
    recipe: Recipe, scores_dir: Path, condition: Condition, systems: Sequence[System]
) -> Mapping[System, Record]:
    """The figures of each system that has AS-norm scores, from those."""
    chosen = [system for system in systems if has_as_norm(system)]
    drawn = _draw(recipe, scores_dir, condition, chosen, AS_NORM)
    return {
        system: _rates(error, cost) | _calibrated(scores_dir, condition, system, AS_NORM)
        for system, error, cost in zip(chosen, drawn.eer, drawn.min_dcf, strict=True)
    }


def _calibrated(scores_dir: Path, condition: Condition, system: System, kind: Kind) -> Record:
    """How good the likelihood ratios are, and how good the best monotone map would make them."""
    labels = condition.trials.labels
    assert labels is not None
    llrs = read_condition_scores(scores_dir, system, condition, kind, calibrated=True)
    figures = act_dcf(llrs, labels), cllr(llrs, labels), min_cllr(llrs, labels)
    return dict(zip(CALIBRATED, figures, strict=True))


def _mean_figures(figures: Sequence[Record]) -> Record:
    """The mean over the seeds of what has no interval."""
    return {name: sum(f[name] for f in figures) / len(figures) for name in CALIBRATED}


def _with_means(systems: Sequence[System]) -> Mapping[System, list[System]]:
    """Each system by itself, and "nessa.mean" over the seeds where there are several."""
    groups = {system: [system] for system in systems}
    for system in systems:
        if is_nessa(system.aligner):
            mean = System(f"{NESSA}.mean", system.enroll, system.runtime)
            groups.setdefault(mean, []).append(system)
    return {s: members for s, members in groups.items() if s in systems or len(members) > 1}


def _nessa_beside(system: System, groups: Mapping[System, list[System]]) -> list[System]:
    """NESSA's trainings between the same two models; none for a model with itself."""
    if system.enroll == system.runtime:
        return []
    pair = system.enroll, system.runtime
    return next((groups[s] for s in (System(f"{NESSA}.mean", *pair), System(NESSA, *pair))
                 if s in groups), [])  # fmt: skip


def _names(system: System) -> Record:
    aligner = system.aligner.split(SEED)[0]
    return {"aligner": aligner, "enroll": system.enroll, "runtime": system.runtime}


def _seed(recipe: Recipe, members: Sequence[System]) -> int | list[int] | None:
    """The seed of a NESSA system, or those of a mean; None for what has no seed."""
    if not is_nessa(members[0].aligner):
        return None
    seeds = [seed_of(member.aligner, recipe) for member in members]
    return seeds if len(seeds) > 1 else seeds[0]


def _rates(error: Estimate, cost: Estimate) -> Record:
    return {
        "eer": error.value,
        "eer_ci": list(error.interval),
        "min_dcf": cost.value,
        "min_dcf_ci": list(cost.interval),
    }


def _gain(error: Estimate, references: Sequence[Estimate]) -> Record:
    old, new = references
    gain = recovered_gain(old, error, new)
    return {
        "gain": gain.value if gain else None,
        "gain_ci": list(gain.interval) if gain else None,
    }


def _over_nessa(error: Estimate, rivals: Sequence[Estimate]) -> Record:
    """By how much an EER exceeds NESSA's mean, paired; above 0 in all the interval: NESSA wins."""
    if not rivals:
        return {"over_nessa": None, "over_nessa_ci": None}
    excess = difference(error, mean_estimate(rivals))
    return {"over_nessa": excess.value, "over_nessa_ci": list(excess.interval)}
