"""From two tables of embeddings to a decision: update a model by alignment, or re-enroll?

The speakers are divided into align, dev and eval; not updating, CCA, PLDA, NESSA and re-enrolling
are compared on the eval speakers as in any recipe, and a curve shows what more align speakers give.
"""

import logging
from pathlib import Path

from nessa.alignment.base import Aligner
from nessa.corpus.config import CorpusConfig, PrepareConfig, TrialCount
from nessa.corpus.finishing import finish_sets, make_set_trials
from nessa.corpus.speakers import COMPARED, split_speakers
from nessa.encoders.arks import GivenEmbeddings
from nessa.encoders.settings import ArksConfig
from nessa.encoders.shards import import_embeddings
from nessa.errors import InputError, about, named
from nessa.files import Record, write_json, write_table
from nessa.kaldi.datadir import MAIN_LIST, spk2utt_of
from nessa.metrics.roc import check_classes
from nessa.recipe.aligners import make_aligner
from nessa.recipe.backends import fit_backend
from nessa.recipe.circumstances import write_circumstances
from nessa.recipe.config import Recipe, ScoringConfig
from nessa.recipe.evaluation import evaluate_systems
from nessa.recipe.fitting import DEV_SHARE, Tables, fit_to_sets
from nessa.recipe.layout import aligner_dir, embeddings_dir
from nessa.recipe.mapping import map_system
from nessa.recipe.scoring import score_system
from nessa.recipe.studies import run_study
from nessa.recipe.systems import (
    aligned_systems,
    fitted_systems,
    is_nessa,
    scored_systems,
    symmetric_systems,
)
from nessa.schema import read_yaml, save_yaml
from nessa.trials import Trials, label_fault, read_labeled, trial_speakers

log = logging.getLogger(__name__)

# Shares of the speakers; dev first, so that `fit_to_tables` holds out the same dev speakers.
HELD_OUT = {"dev": DEV_SHARE, "eval": 0.2}
STUDY = "speakers"
PROFILE_SIZES = (3,)  # of dev, where a threshold for profiles is found; its figures do without
RECIPE = Path("exp/recipe.yaml")
NAME = "assess"  # of the recipe, by which an assessment is told from another run


def prepare(tables: Tables, trials: Path | None, folder: Path, seed: int) -> Recipe:
    """Divide two tables into the sets of a recipe.

    Args:
        tables: of the old model (enroll) and the new one (runtime); the utterances that both have
            are used.
        trials: labeled trials of utterances, whose speakers are eval; None: a fifth of the
            speakers are, and trials are drawn.
        folder: receives data/ and exp/embeddings/, exp/recipe.yaml.
        seed: of the division and of the trials.

    Raises:
        InputError: too few speakers, trials of utterances that are not there, or a folder of
            other data or another run.
    """
    _check_free(folder)
    utt2spk = {key: tables.speakers[key] for key in tables.shared}
    old, new = tables.names
    if not utt2spk:
        raise InputError(f"{old} and {new} share no utterance; embed the same ones by both models")
    _warn_of_unshared(tables)
    given = _given_trials(trials, utt2spk)
    tested = set().union(*trial_speakers(given, utt2spk)) if given else set()
    others = set(utt2spk.values()) - tested
    held_out = {k: v for k, v in HELD_OUT.items() if k != "eval" or not tested}
    remedy = "add speakers, or leave --trials out, whose speakers are held out"
    sets = split_speakers(others, held_out, seed, old, remedy)
    sets["align"] = sets.pop("train")
    sets["eval"] = sorted(tested) or sets["eval"]
    recipe = _recipe(tables.names, len(sets["align"]), seed)
    save_yaml(folder / RECIPE, recipe)  # before the data, which it marks as an assessment's
    for name in COMPARED:
        own = set(sets[name])
        keys = {key: speaker for key, speaker in utt2spk.items() if speaker in own}
        directory = folder / "data" / name
        write_table(directory / "utt2session", {key: tables.sessions[key] for key in keys})
        write_table(directory / "spk2utt", spk2utt_of(keys))
        (directory / MAIN_LIST).unlink(missing_ok=True)
        if given and name == "eval":
            given.write(directory / MAIN_LIST)
        write_table(directory / "utt2spk", keys)
    for model in recipe.update:
        embedded = GivenEmbeddings(model, ArksConfig.model_validate(recipe.encoders[model]))
        for name in COMPARED:
            place = embeddings_dir(folder / "exp", model, name)
            import_embeddings(embedded, folder / "data", name, place)
    finish_sets(folder / "data", recipe.prepare, seed, has_audio=False)
    with_profiles = recipe.prepare.model_copy(update={"profile_sizes": PROFILE_SIZES})
    make_set_trials(folder / "data", "dev", with_profiles, seed)
    return recipe


def _check_free(folder: Path) -> None:
    """Refuse a folder whose data or run are not of an assessment: they would be written over."""
    recipe = folder / RECIPE
    is_ours = recipe.exists() and read_yaml(recipe).get("name") == NAME
    if not is_ours and (recipe.exists() or (folder / "data").exists()):
        raise InputError(
            f"{folder}: holds data or a run that are not of an assessment, or of one that an "
            "earlier version did not finish, and would be lost; give another --output"
        )


def _warn_of_unshared(tables: Tables) -> None:
    shared = set(tables.shared)
    sides = (tables.names[0], tables.enroll), (tables.names[1], tables.runtime)
    for name, embeddings in sides:
        if alone := [key for key in embeddings.keys if key not in shared]:
            log.warning(
                "%s: %d of %d utterances are left out, which the other table lacks: %s",
                name, len(alone), len(embeddings), named(alone),
            )  # fmt: skip


def _given_trials(path: Path | None, utt2spk: dict[str, str]) -> Trials | None:
    if path is None:
        return None
    trials = read_labeled(path)
    names = dict.fromkeys([*trials.enroll_index.names, *trials.test_index.names])
    if unknown := [name for name in names if name not in utt2spk]:
        raise InputError(
            f"{path}: {named(unknown)} is no utterance of both tables; embed it, or remove its "
            "trials"
        )
    with about(path):
        check_classes(trials.known_labels)
    if fault := label_fault(trials, trial_speakers(trials, utt2spk)):
        raise InputError(f"{path}: {fault}")
    return trials


def _recipe(tables: tuple[Path, Path], align_speakers: int, seed: int) -> Recipe:
    old, new = ({"pretrained": "arks", "path": str(path.absolute())} for path in tables)
    return Recipe(
        name=NAME,
        seed=seed,
        corpus=CorpusConfig(),
        prepare=PrepareConfig(
            program="arks",
            trials={
                "dev": TrialCount(targets=4000, nontargets=20000),
                "eval": TrialCount(targets=15000, nontargets=60000),
            },
            profile_sizes=(),
        ),
        encoders={"old": old, "new": new},
        update=("old", "new"),
        controls=False,
        baselines=("cca", "plda"),
        scoring=ScoringConfig(top_n=min(ScoringConfig().top_n, align_speakers)),
    )


def run(recipe: Recipe, folder: Path) -> list[Record]:
    """Fit, map, score and evaluate all systems, and study the number of align speakers.

    Args:
        recipe: of `prepare`.
        folder: as for `prepare`; receives what the stages of a recipe make, in exp/.

    Returns:
        The records of all systems; see `evaluate_systems`.
    """
    data, exp = folder / "data", folder / "exp"
    whole: dict[tuple[str, str], Aligner] = {}
    for system in fitted_systems(recipe):
        sides = exp / "embeddings" / system.enroll, exp / "embeddings" / system.runtime
        fitted = fit_to_sets(make_aligner(system.aligner, recipe), *sides, data)
        fitted.save(aligner_dir(exp, system))
        mirror = system._replace(enroll=system.runtime, runtime=system.enroll)
        mirrored = fitted.mirrored()
        mirrored.save(aligner_dir(exp, mirror))
        if is_nessa(system.aligner):
            whole = {system[1:]: fitted, mirror[1:]: mirrored}
    for system in aligned_systems(recipe):
        for _ in map_system(recipe, data, exp, system):
            pass
    for model in recipe.update:
        fit_backend(data, exp, model)
    groups = {"symmetric": symmetric_systems(recipe), "asymmetric": scored_systems(recipe)}
    everything: list[Record] = []
    for name, systems in groups.items():
        for system in systems:
            for _ in score_system(recipe, data, exp, system):
                pass
        records = evaluate_systems(recipe, data / "eval", exp / "scores", systems)
        write_json(exp / "metrics" / f"{name}.json", records)
        write_circumstances(exp / "metrics" / f"{name}.json", recipe)
        everything += records
    write_json(exp / "metrics" / "identification.json", [])  # has no profiles
    log.info("fitted and scored; now the same with fewer align speakers, which takes longer")
    run_study(STUDY, recipe, data, exp, exp / "studies" / f"{STUDY}.json", whole)
    return everything
