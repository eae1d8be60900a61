"""Results: report, study."""

from functools import partial
from pathlib import Path

import click

from nessa.cli.options import (
    PathType,
    check_output,
    data_option,
    exp_option,
    optional_path,
    recipe_option,
    try_folders,
)


@click.command()
@click.argument("runs", nargs=-1, type=PathType)
@optional_path("--recipe", "Recipe file (YAML) of the run.")
@optional_path("--exp", "Exp folder of the run.")
@optional_path("--data", "Data folder of the run.")
@optional_path(
    "--results",
    "Also write a one-page summary (Markdown) to this file, its figure beside it.",
)
@click.option("--markdown", is_flag=True, help="Print the comparison of RUNS in Markdown.")
def report(
    runs: tuple[Path, ...],
    recipe: Path | None,
    exp: Path | None,
    data: Path | None,
    results: Path | None,
    markdown: bool,
) -> None:
    """Collect the metrics of a run in results.json, result tables, plots and index.html.

    With RUNS (work directories), print their EERs and gains side by side instead.

    Memory, for the larger of dev and eval: the embeddings of both models, raw and mapped; about 220
    bytes per trial of its main list, and 20 more for each system.

    Example: nessa report --recipe recipes/mini/exp/recipe.yaml --exp recipes/mini/exp
    --data recipes/mini/data --results RESULTS.md

    Example: nessa report recipes/mini
    """
    from nessa.recipe.resolve import load_recipe
    from nessa.report import write_report
    from nessa.report.runs import compare_runs

    if runs and not (recipe or exp or data or results):
        click.echo(compare_runs(runs, markdown))
    elif recipe and exp and data and not (runs or markdown):
        check_output("results")
        click.echo(write_report(load_recipe(recipe), exp, data, results))
    else:
        raise click.UsageError("give --recipe, --exp and --data, or the work directories of runs")


@click.command()
@click.argument(
    "name",
    type=click.Choice(
        [
            "speakers",
            "utterances",
            "width",
            "parts",
            "freeze",
            "augmentation",
            "durations",
            "rollout",
        ]
    ),
)
@recipe_option
@data_option
@exp_option
def study(name: str, recipe: Path, data: Path, exp: Path) -> None:
    """Train NESSA with varied settings, and show how its gain depends on them.

    Curves over the number of align speakers, the utterances per speaker, or the width of the MLP;
    tables of the method's parts, of updates with a frozen side, and of what was added to the align
    set (prepare.align_copies, corpus.paths.align_also). Two train nothing: durations cuts the test
    utterances to 1, 2 and 3 seconds and embeds them again, and rollout shows the errors of
    rollout strategies, day by day. Writes EXP/studies/NAME.json, which `nessa
    report` shows. Takes minutes per setting. It evaluates on all eval trials: run it
    after the recipe, never to choose settings. Memory: the embeddings of align, dev and eval, and
    those of align twice more.

    Example: nessa study speakers --recipe recipes/mini/exp/recipe.yaml --data recipes/mini/data
    --exp recipes/mini/exp
    """
    from nessa.recipe.circumstances import check_recipe, warn_of_recipe
    from nessa.recipe.durations import write_durations
    from nessa.recipe.resolve import load_recipe
    from nessa.recipe.rollout import write_rollout
    from nessa.recipe.studies import run_study
    from nessa.recipe.study_files import DURATIONS, ROLLOUT
    from nessa.report.rollout import format_rollout
    from nessa.report.studies import format_study

    output = exp / "studies" / f"{name}.json"
    settings = load_recipe(recipe)
    of_run = {DURATIONS: write_durations, ROLLOUT: write_rollout}  # of its own results
    check = check_recipe if name in of_run else warn_of_recipe
    check(settings, exp)
    try_folders(output.parent)
    records = of_run.get(name, partial(run_study, name))(settings, data, exp, output)
    click.echo(format_rollout(records) if name == ROLLOUT else format_study(name, records))
