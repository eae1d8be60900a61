"""Metrics of a recipe's systems, on the same trials and the same bootstrap draws."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from nessa.errors import about
from nessa.evaluation.conditions import Condition, read_conditions
from nessa.files import Record
from nessa.metrics import table
from nessa.metrics.bootstrap import (
    Estimate,
    Estimates,
    bootstrap,
    difference,
    figures,
    mean_estimate,
    recovered_gain,
)
from nessa.recipe.config import Recipe
from nessa.recipe.layout import AS_NORM, COSINE, Kind
from nessa.recipe.scoring import read_condition_scores
from nessa.recipe.systems import NESSA, RAW, SEED, System, has_as_norm, is_nessa, seed_of

Result = TypeVar("Result")


def evaluate_systems(
    recipe: Recipe, set_dir: Path, scores_dir: Path, systems: Sequence[System], nj: int = 1
) -> list[Record]:
    """Metrics, recovered gain and calibration of each system on each kind of trials.

    All systems of a condition, the two symmetric raw ones included, share the bootstrap's draws,
    so that their differences and gains have paired intervals. NESSA's trainings with different
    seeds get a record each, and one of their mean.

    Args:
        recipe: names the models and the number of draws.
        set_dir: data directory with trials.
        scores_dir: holds the score files; see `nessa.recipe.layout.score_file`.
        systems: what to evaluate.
        nj: processes; does not change the result.

    Returns:
        One record per system and condition: fractions, intervals as [low, high]. "gain" is None
        where the new model is not significantly better than the old one, "controlled_gain" the gain
        between NESSA's controls in the place of the raw models, None beside for a model with
        itself and without controls, and "over_nessa" (how far the EER lies above NESSA's, paired)
        where NESSA has no row for the pair of models. "under_old_ci" is the interval of how far the
        EER lies below the old model's, paired. "act_dcf" and "cllr" are of the cosine scores as the
        main list of dev calibrates them, "min_cllr" of the best monotone map. "as_norm" has the
        same figures with AS-norm; None for a system without it.

    Raises:
        InputError: a score file is missing or does not fit its trials.
    """
    records: list[Record] = []
    references = [System(RAW, model, model) for model in recipe.update]
    controls = [System(NESSA, model, model) for model in recipe.update]
    everything = list(dict.fromkeys([*references, *systems]))
    for condition in read_conditions(set_dir):
        drawn = _draw(recipe, scores_dir, condition, everything, COSINE, nj)
        eers = {system: estimates[table.EER.key] for system, estimates in drawn.items()}
        calibrated = _calibrated(scores_dir, condition, systems, COSINE, nj)
        normalized = _with_as_norm(recipe, scores_dir, condition, systems, nj)
        groups = _with_means(systems)
        for system, members in groups.items():
            rivals = [] if is_nessa(system.aligner) else _nessa_beside(system, groups)
            estimates = _means([drawn[member] for member in members])
            under_old = difference(eers[references[0]], estimates[table.EER.key])
            records.append(
                {
                    "recipe": recipe.name,
                    **_names(system),
                    "trials": condition.name,
                    "targets": condition.trials.targets,
                    "nontargets": condition.trials.nontargets,
                    "seed": _seed(recipe, members),
                    "alike": _are_alike(scores_dir, condition, members),
                    **_figures(estimates),
                    **_gain("gain", estimates[table.EER.key], [eers[s] for s in references]),
                    **_controlled_gain(system, estimates[table.EER.key], controls, eers),
                    **_over_nessa(eers[members[0]], [eers[rival] for rival in rivals]),
                    "under_old_ci": list(under_old.interval),
                    **_mean_figures([calibrated[member] for member in members]),
                    "as_norm": normalized.get(system),
                }
            )
    return records


def _draw(
    recipe: Recipe,
    scores_dir: Path,
    condition: Condition,
    systems: Sequence[System],
    kind: Kind,
    nj: int,
) -> dict[System, Estimates]:
    """The estimates of each system, from the same draws in every process."""
    settings = recipe.evaluation.bootstrap_draws, recipe.evaluation.seed
    return _in_processes(partial(_draw_some, scores_dir, condition, kind, *settings), systems, nj)


def _draw_some(
    scores_dir: Path,
    condition: Condition,
    kind: Kind,
    draws: int,
    seed: int,
    systems: Sequence[System],
) -> list[Estimates]:
    scores = [read_condition_scores(scores_dir, system, condition, kind) for system in systems]
    labels, speakers = condition.trials.known_labels, condition.speakers
    with about(condition.list_name):
        return bootstrap(scores, labels, *speakers, draws=draws, seed=seed)


def _with_as_norm(
    recipe: Recipe, scores_dir: Path, condition: Condition, systems: Sequence[System], nj: int
) -> Mapping[System, Record]:
    """The figures of each system that has AS-norm scores, from those."""
    chosen = [system for system in systems if has_as_norm(system)]
    drawn = _draw(recipe, scores_dir, condition, chosen, AS_NORM, nj)
    calibrated = _calibrated(scores_dir, condition, chosen, AS_NORM, nj)
    return {system: _figures(drawn[system]) | calibrated[system] for system in chosen}


def _calibrated(
    scores_dir: Path, condition: Condition, systems: Sequence[System], kind: Kind, nj: int
) -> dict[System, Record]:
    """How good the likelihood ratios are, and how good the best monotone map would make them."""
    return _in_processes(partial(_calibrated_some, scores_dir, condition, kind), systems, nj)


def _calibrated_some(
    scores_dir: Path, condition: Condition, kind: Kind, systems: Sequence[System]
) -> list[Record]:
    labels = condition.trials.known_labels
    found = []
    for system in systems:
        llrs = read_condition_scores(scores_dir, system, condition, kind, calibrated=True)
        found.append({key: metric(llrs, labels) for key, metric in table.LLR_METRICS.items()})
    return found


def _in_processes(
    work: Callable[[Sequence[System]], list[Result]], systems: Sequence[System], nj: int
) -> dict[System, Result]:
    """What `work` gives for each system, a part of them in each of `nj` processes."""
    parts = [systems[first::nj] for first in range(min(nj, len(systems)))]
    if len(parts) < 2:
        return dict(zip(systems, work(systems), strict=True))
    with ProcessPoolExecutor(len(parts)) as pool:
        done = list(pool.map(work, parts))
    found = {
        s: r for part, own in zip(parts, done, strict=True) for s, r in zip(part, own, strict=True)
    }
    return {system: found[system] for system in systems}


def _mean_figures(records: Sequence[Record]) -> Record:
    """The mean over the seeds of what has no interval."""
    return {key: sum(own[key] for own in records) / len(records) for key in table.LLR_METRICS}


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


def _are_alike(scores_dir: Path, condition: Condition, members: Sequence[System]) -> bool:
    """Whether several seeds made one aligner, which scores alike: where all are as they start."""
    first, *others = members
    if not others:
        return False
    scores = read_condition_scores(scores_dir, first, condition)
    return all(
        np.array_equal(scores, read_condition_scores(scores_dir, other, condition))
        for other in others
    )


def _means(members: Sequence[Estimates]) -> Estimates:
    return {m.key: mean_estimate([e[m.key] for e in members]) for m in table.METRICS}


def _figures(estimates: Estimates) -> Record:
    """Values and intervals as a record has them."""
    record: Record = {}
    for key, estimate in estimates.items():
        record |= figures(key, estimate)
    return record


def _gain(name: str, error: Estimate, references: Sequence[Estimate]) -> Record:
    old, new = references
    return figures(name, recovered_gain(old, error, new))


def _controlled_gain(
    system: System, error: Estimate, controls: Sequence[System], eers: Mapping[System, Estimate]
) -> Record:
    """The gain between NESSA's controls, so that a better back-end alone counts for nothing."""
    name = "controlled_gain"
    if system.enroll == system.runtime or not eers.keys() >= set(controls):
        return figures(name, None)
    return _gain(name, error, [eers[control] for control in controls])


def _over_nessa(error: Estimate, rivals: Sequence[Estimate]) -> Record:
    """By how much an EER exceeds NESSA's mean, paired; above 0 in all the interval: NESSA wins."""
    return figures("over_nessa", difference(error, mean_estimate(rivals)) if rivals else None)
