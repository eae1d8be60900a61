"""Scores and metrics of a recipe's systems, on the same trials and the same bootstrap draws."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nessa.config import Recipe
from nessa.datadir import read_utt2spk
from nessa.errors import InputError, about
from nessa.metrics import (
    Estimate,
    bootstrap,
    difference,
    eer,
    mean_estimate,
    min_dcf,
    recovered_gain,
)
from nessa.plan import NESSA, RAW, SEED, System, is_nessa, seed_index
from nessa.scoring import cosine_scores
from nessa.tables import Embeddings, profile_means
from nessa.trials import (
    Trials,
    join_scores,
    read_enroll_map,
    read_scores,
    trial_speakers,
    write_scores,
)

Record = dict[str, Any]
Scores = npt.NDArray[np.float32]


def score_trials(
    enroll: Path, runtime: Path, trials: Path, enroll_map: Path | None, output: Path
) -> str:
    """Score a trial list by cosine and write the scores.

    Args:
        enroll, runtime: embeddings of the two sides, in one space.
        trials: the list; an enrollment id is an utterance or a profile.
        enroll_map: profiles to average from the enrollment embeddings; None where the profiles
            are among them already.
        output: receives `enroll test score`, in trial order.

    Returns:
        One line: the number of trials, with EER and minDCF where they are labelled.

    Raises:
        InputError: a trial names an utterance without an embedding, or the two sides are not in
            one space: their dimensions or stamps differ.
    """
    enrolled, live = Embeddings.read(enroll), Embeddings.read(runtime)
    if enrolled.dim != live.dim:
        raise InputError(
            f"{enroll} has dimension {enrolled.dim}, {runtime} has {live.dim}; map both into one "
            f"space first (nessa map)"
        )
    if enrolled.stamp and live.stamp and enrolled.stamp.fingerprint != live.stamp.fingerprint:
        raise InputError(
            f"{enroll} is of model {enrolled.stamp.model!r}, {runtime} of {live.stamp.model!r}: "
            f"their scores mean nothing; map both into one space first (nessa map)"
        )
    wanted = Trials.read(trials)
    if enroll_map is not None:
        profiles = read_enroll_map(enroll_map)
        with about(enroll_map, enroll):
            enrolled = profile_means(enrolled, profiles)
    with about(trials, enroll, runtime):
        scores = cosine_scores(enrolled, live, wanted)
    write_scores(output, wanted, scores)
    line = f"{output}: {len(wanted)} trials"
    if wanted.labels is None:
        return line
    error, cost = eer(scores, wanted.labels), min_dcf(scores, wanted.labels)
    return f"{line}, EER {error:.2%}, minDCF {cost:.3f}"


@dataclass(frozen=True)
class Condition:
    """A list of trials of one kind: single utterances, or profiles of one size.

    Attributes:
        name: "single", or "profile3" for profiles of three utterances.
        list_name: the file in the set's directory, "trials" or "trials_profile".
        trials: those of that list that are of this kind.
        speakers: of their enrollment and their test sides.
    """

    name: str
    list_name: str
    trials: Trials
    speakers: tuple[list[str], list[str]]


def read_conditions(set_dir: Path) -> Iterator[Condition]:
    """The kinds of trials of a set's data directory.

    Raises:
        InputError: a list is unreadable or unlabelled, or names what has no speaker.
    """
    utt2spk = read_utt2spk(set_dir)
    trials = _read_labelled(set_dir / "trials")
    with about(set_dir / "trials"):
        speakers = trial_speakers(trials, utt2spk)
    yield Condition("single", "trials", trials, speakers)
    if not (set_dir / "trials_profile").is_file():
        return
    trials = _read_labelled(set_dir / "trials_profile")
    profiles = read_enroll_map(set_dir / "enroll_map")
    for profile in trials.enroll_index.names:
        if profile not in profiles:
            raise InputError(
                f"{set_dir / 'trials_profile'}: profile {profile!r} is not in enroll_map; "
                f"add it there, or remove its trials"
            )
    sizes = np.array([len(profiles[profile]) for profile in trials.enroll])
    for size in np.unique(sizes):
        chosen = trials.select(sizes == size)
        with about(set_dir / "trials_profile", set_dir / "enroll_map"):
            speakers = trial_speakers(chosen, utt2spk, profiles)
        yield Condition(f"profile{size}", "trials_profile", chosen, speakers)


def _read_labelled(path: Path) -> Trials:
    trials = Trials.read(path)
    if trials.labels is None:
        raise InputError(f"{path}: no labels; write `enroll test target|nontarget`")
    return trials


def score_file(scores_dir: Path, system: System, list_name: str) -> Path:
    """Where the scores of a system on a trial list lie."""
    pair = f"{system.enroll}-{system.runtime}"
    return scores_dir / system.aligner / pair / f"{list_name}.scores"


def read_condition_scores(scores_dir: Path, system: System, condition: Condition) -> Scores:
    """The scores of a system on the trials of a condition, (T,), joined by key."""
    path = score_file(scores_dir, system, condition.list_name)
    scored, scores = read_scores(path)
    with about(path):
        return join_scores(condition.trials, scored, scores, allow_extra=True)


def evaluate_systems(
    recipe: Recipe, set_dir: Path, scores_dir: Path, systems: Sequence[System]
) -> list[Record]:
    """EER, minDCF and recovered gain of each system on each kind of trials.

    All systems of a condition, the two symmetric raw ones included, share the bootstrap's draws,
    so that their differences and gains have paired intervals. NESSA's trainings with different
    seeds get a record each, and one of their mean.

    Args:
        recipe: names the models and the number of draws.
        set_dir: data directory with trials.
        scores_dir: holds the score files; see `score_file`.
        systems: what to evaluate.

    Returns:
        One record per system and condition: fractions, intervals as [low, high]. "gain" is None
        where the new model is not significantly better than the old one, and "over_nessa" (how
        far the EER lies above NESSA's, paired) where NESSA has no row for the pair of models.

    Raises:
        InputError: a score file is missing or does not fit its trials.
    """
    records: list[Record] = []
    references = [System(RAW, model, model) for model in recipe.update]
    everything = list(dict.fromkeys([*references, *systems]))
    for condition in read_conditions(set_dir):
        assert condition.trials.labels is not None
        drawn = bootstrap(
            [read_condition_scores(scores_dir, system, condition) for system in everything],
            condition.trials.labels,
            *condition.speakers,
            draws=recipe.evaluation.bootstrap_draws,
            seed=recipe.evaluation.seed,
        )
        eers = dict(zip(everything, drawn.eer, strict=True))
        costs = dict(zip(everything, drawn.min_dcf, strict=True))
        groups = _with_means(systems)
        for system, members in groups.items():
            rivals = [] if is_nessa(system.aligner) else _nessa_beside(system, groups)
            records.append(
                {
                    "recipe": recipe.name,
                    **_names(system),
                    "trials": condition.name,
                    "targets": condition.trials.targets,
                    "nontargets": condition.trials.nontargets,
                    "seed": _seed(recipe, members),
                    **_figures(
                        mean_estimate([eers[member] for member in members]),
                        mean_estimate([costs[member] for member in members]),
                        [eers[reference] for reference in references],
                    ),
                    **_over_nessa(eers[members[0]], [eers[rival] for rival in rivals]),
                }
            )
    return records


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
    seeds = [recipe.aligner.seeds[seed_index(member.aligner)] for member in members]
    return seeds if len(seeds) > 1 else seeds[0]


def _figures(error: Estimate, cost: Estimate, references: Sequence[Estimate]) -> Record:
    old, new = references
    gain = recovered_gain(old, error, new)
    return {
        "eer": error.value,
        "eer_ci": list(error.interval),
        "min_dcf": cost.value,
        "min_dcf_ci": list(cost.interval),
        "gain": gain.value if gain else None,
        "gain_ci": list(gain.interval) if gain else None,
    }


def _over_nessa(error: Estimate, rivals: Sequence[Estimate]) -> Record:
    """By how much an EER exceeds NESSA's mean, paired; above 0 in all the interval: NESSA wins."""
    if not rivals:
        return {"over_nessa": None, "over_nessa_ci": None}
    excess = difference(error, mean_estimate(rivals))
    return {"over_nessa": excess.value, "over_nessa_ci": list(excess.interval)}
