"""A run on one page: RESULTS.md of a recipe, with one table, one figure and the commands."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nessa.errors import InputError
from nessa.evaluation.conditions import SINGLE, is_of_profiles
from nessa.files import Record
from nessa.metrics.table import EER
from nessa.recipe.config import Recipe
from nessa.recipe.resolve import resolve
from nessa.recipe.stages import STAGES, stage_digest
from nessa.recipe.systems import NESSA, PLDA_LLR, RAW
from nessa.report.decision import judge_update
from nessa.report.extrapolation import speakers_needed
from nessa.report.sentences import LOGIT
from nessa.report.tables import MEAN, by_system, by_trials, has_controlled_gains, table_rows
from nessa.text import markdown_columns

RECIPES = Path(__file__).parents[2] / "recipes"
NOT_LINEAR = {LOGIT, "logit_uncentered", "regression", PLDA_LLR, NESSA}


def summary_page(
    recipe: Recipe,
    records: Sequence[Record],
    curve: Sequence[Record],
    made: Mapping[str, str],
    size: str,
    figure: str,
) -> str:
    """The page (Markdown).

    Args:
        recipe: the resolved recipe.
        records: of `nessa.recipe.evaluation.evaluate_systems`.
        curve: of the study `speakers`, where it has been run.
        made: what the run was made by and on: name -> value.
        size: of the recipe, as the page is named; "" for the default one. It is said where the
            recipe is that of the size.
        figure: path of `nessa.report.fleet.fleet_plot`, from the page.
    """
    needed, run = speakers_needed(curve), list(_run(recipe, size))
    rows = list(_summarized(recipe, records))
    lines = [
        f"# Results of recipe {recipe.name}" + (f", size {size}" if size and run else ""),
        "",
        "; ".join(f"{name.lower()}: {value}" for name, value in made.items()) + ".",
        "",
        *(f"- {sentence}" for sentence in _verdicts(recipe, records)),
        *([f"- {needed}"] if needed else []),
        "",
        markdown_columns(table_rows(rows, seeds=False)),
        "",
        _legend(rows),
        "",
        f"![EER of each update strategy, with intervals]({figure})",
        "",
        "```sh",
        *run,
        *(["nessa study speakers --recipe E/recipe.yaml --data D --exp E"] if curve else []),
        "nessa report --recipe E/recipe.yaml --exp E --data D --results FILE",
        "```",
        "",
        "`E` and `D` are `exp` and `data` of the run. Every system, AS-norm, calibration, "
        "identification, studies and plots: `E/report/index.html` and `E/results.json`.",
    ]
    return "\n".join(lines) + "\n"


def _legend(rows: Sequence[Record]) -> str:
    """What the columns mean, and which aligners have rows."""
    controlled = (
        "; controlled gain: the same between NESSA's controls, where a better back-end counts for "
        "nothing"
    )
    others = {row["aligner"] for row in rows if row["enroll"] != row["runtime"]} - {NESSA, MEAN}
    kinds = {
        "the logit space": LOGIT in others,
        "the best linear map": bool(others - NOT_LINEAR),
        "the best of all others": bool(others),
        "NESSA": True,
    }
    return (
        "[low, high]: 95 % interval of a joint speaker bootstrap. minDCF: p_target = 0.01. "
        "Recovered gain: 0 % is not updating, 100 % re-enrolling all speakers"
        f"{controlled if has_controlled_gains(rows) else ''}. "
        f"Aligners: {', '.join(kind for kind, shown in kinds.items() if shown)}."
    )


def _run(recipe: Recipe, size: str) -> Iterator[str]:
    """The command of the run, if it is that of a recipe as it is in recipes/, of data anywhere."""
    try:
        own = resolve(RECIPES / recipe.name / "recipe.yaml", size or None)
    except InputError:  # no such recipe, or size
        return
    paths = recipe.corpus.paths
    given = [name for name in paths if paths[name] != own.corpus.paths.get(name)]
    elsewhere = own.corpus.model_copy(update={"paths": paths})
    own = own.model_copy(update={"corpus": elsewhere})
    if stage_digest(own, STAGES[-1]) == stage_digest(recipe, STAGES[-1]):
        places = "".join(f" --set corpus.paths.{name}=DIR" for name in given)  # the reader's own
        yield f"./run.sh --recipe {recipe.name}" + (f" --size {size}" if size else "") + places


def _verdicts(recipe: Recipe, records: Sequence[Record]) -> Iterator[str]:
    """A sentence per list of single utterances and update direction."""
    for trials, own in by_trials(records).items():
        if is_of_profiles(trials):
            continue
        for pair in recipe.pairs:
            if verdict := judge_update(recipe, own, pair):
                where = "" if trials == SINGLE else f"{trials}: "
                yield f"{where}{verdict}."


def _summarized(recipe: Recipe, records: Sequence[Record]) -> Iterator[Record]:
    """The rows of the table: of profiles the raw models and NESSA; of utterances all kinds."""
    for trials, own in by_trials(records).items():
        systems = by_system(own)
        names = [(RAW, model, model) for model in recipe.update]
        for pair in recipe.pairs:
            others = [] if is_of_profiles(trials) else rivals(systems, pair)
            names += [(name, *pair) for name in (*others, NESSA)]
        if not is_of_profiles(trials):
            names += [(NESSA, model, model) for model in recipe.update]
        yield from (systems[name] for name in names if name in systems)


def rivals(systems: Mapping[tuple[str, str, str], Record], pair: tuple[str, str]) -> list[str]:
    """Of a pair of models the logit space, the best linear map, and the best aligner of all."""
    errors = {
        name: record[EER.key]
        for (name, *models), record in systems.items()
        if tuple(models) == pair and name != NESSA
    }
    linear = [name for name in errors if name not in NOT_LINEAR]
    best = [min(names, key=errors.__getitem__) for names in (linear, errors) if names]
    return [name for name in dict.fromkeys([LOGIT, *best]) if name in errors]
