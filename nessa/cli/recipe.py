"""What run.sh calls: read a recipe, and run a stage for one of its systems."""

from pathlib import Path

import click

from nessa.cli.options import (
    COUNT,
    PipelineOrder,
    data_option,
    exp_option,
    path_option,
    recipe_option,
    system_option,
)


@click.group(cls=PipelineOrder)
def recipe() -> None:
    """Commands that run.sh calls: read a recipe, and run a stage for a system."""


@recipe.command()
@recipe_option
@click.option("--size", help="A size that the recipe defines.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value.")
@path_option("--work-dir", "Work directory; receives exp/recipe.yaml.")
def resolve(recipe: Path, size: str | None, overrides: tuple[str, ...], work_dir: Path) -> None:
    """Check a recipe, save the resolved recipe, and print the plan for run.sh.

    Example: nessa recipe resolve --recipe recipes/mini/recipe.yaml --size tiny --work-dir work
    """
    from nessa.recipe.plan import plan
    from nessa.recipe.resolve import resolve
    from nessa.schema import save_yaml

    resolved = resolve(recipe, size, overrides)
    save_yaml(work_dir / "exp" / "recipe.yaml", resolved)
    for key, value in plan(resolved):
        click.echo(f"{key} {value}")


@recipe.command()
@path_option("--conf", "Resources of each stage (YAML).")
def slurm(conf: Path) -> None:
    """Check the Slurm settings, and print the sbatch options for run.sh.

    Example: nessa recipe slurm --conf conf/slurm.yaml
    """
    from nessa.recipe.slurm import cluster_plan

    for key, value in cluster_plan(conf):
        click.echo(f"{key} {value}")


@recipe.command("try-encoders")
@recipe_option
@data_option
@exp_option
def try_encoders(recipe: Path, data: Path, exp: Path) -> None:
    """Stage extract, before it begins: embed a few utterances with each model.

    Refuses a model whose embeddings are not finite, are all alike, or change at random or with the
    rest of the batch, as in training mode. Warns of padding that changes them, of dead dimensions,
    and of another scale or mean normalization of `features` that tells speakers apart much better.
    `nessa check-encoder` checks more.

    Example: nessa recipe try-encoders --recipe recipes/mini/exp/recipe.yaml
    --data recipes/mini/data --exp recipes/mini/exp
    """
    from nessa.encoders.arks import GivenEmbeddings
    from nessa.encoders.kinds import class_of
    from nessa.encoders.tryout import try_encoder
    from nessa.recipe.resolve import load_recipe

    settings = load_recipe(recipe)
    for name, model in settings.encoders.items():
        if not issubclass(class_of(model), GivenEmbeddings):
            for line in try_encoder(exp / "encoders" / name, data, settings.extraction.sets[0]):
                click.echo(line)


@recipe.command("leave-out")
@recipe_option
@data_option
@exp_option
def leave_out_skipped(recipe: Path, data: Path, exp: Path) -> None:
    """Stage extract with --skip-bad: remove what a model skipped from the sets in DATA.

    All systems are then compared on the same trials. DATA/<set>/skipped lists the utterances.

    Example: nessa recipe leave-out --recipe recipes/mini/exp/recipe.yaml --data recipes/mini/data
    --exp recipes/mini/exp
    """
    from nessa.corpus.leaving_out import leave_out
    from nessa.recipe.layout import skipped_by_models
    from nessa.recipe.resolve import load_recipe

    settings = load_recipe(recipe)
    for name in settings.extraction.sets:
        skipped = skipped_by_models(exp, settings.encoders, name)
        utterances, trials = leave_out(data / name, skipped)
        if skipped:
            click.echo(
                f"{data / name}: {len(skipped)} utterances that a model cannot embed, "
                f"{utterances} of them and {trials} trials taken out now"
            )


@recipe.command("map")
@recipe_option
@data_option
@exp_option
@system_option()
def map_sets(recipe: Path, data: Path, exp: Path, system: str) -> None:
    """Stage map: map all that a system is scored on; see `nessa map`.

    Example: nessa recipe map --recipe recipes/mini/exp/recipe.yaml --data recipes/mini/data
    --exp recipes/mini/exp --system nessa:new:old
    """
    from nessa.recipe.mapping import map_system
    from nessa.recipe.resolve import load_recipe
    from nessa.recipe.systems import System

    for line in map_system(load_recipe(recipe), data, exp, System.parse(system)):
        click.echo(line)


@recipe.command("fit-backend")
@data_option
@exp_option
@click.option("--model", required=True, help="Model of the recipe, such as old.")
def fit_backend(data: Path, exp: Path, model: str) -> None:
    """Stage symmetric: fit LDA and PLDA of a model, by which it is scored with itself.

    Memory: twice the model's align embeddings; where that is more than half of the memory, 60
    bytes per utterance.

    Example: nessa recipe fit-backend --data recipes/mini/data --exp recipes/mini/exp --model old
    """
    from nessa.recipe.backends import fit_backend

    click.echo(fit_backend(data, exp, model))


@recipe.command()
@recipe_option
@data_option
@exp_option
@system_option()
def score(recipe: Path, data: Path, exp: Path, system: str) -> None:
    """Stages symmetric and asymmetric: score a system; calibrate its scores on dev.

    The same as `nessa score` and `nessa calibrate`, in one process.

    Example: nessa recipe score --recipe recipes/mini/exp/recipe.yaml --data recipes/mini/data
    --exp recipes/mini/exp --system raw:old:old
    """
    from nessa.recipe.resolve import load_recipe
    from nessa.recipe.scoring import score_system
    from nessa.recipe.systems import System

    for line in score_system(load_recipe(recipe), data, exp, System.parse(system)):
        click.echo(line)


@recipe.command()
@recipe_option
@data_option
@exp_option
@system_option(multiple=True)
@click.option("--nj", default=1, type=COUNT, show_default=True, help="Number of processes.")
@path_option("--output", "Metrics file (JSON): one record per system and trial list.")
def evaluate(
    recipe: Path, data: Path, exp: Path, system: tuple[str, ...], nj: int, output: Path
) -> None:
    """Stages symmetric and asymmetric: metrics and recovered gain, with paired intervals.

    Example: nessa recipe evaluate --recipe recipes/mini/exp/recipe.yaml --data recipes/mini/data
    --exp recipes/mini/exp --system raw:old:old --system raw:new:new --output metrics.json
    """
    from nessa.files import write_json
    from nessa.recipe.circumstances import write_circumstances
    from nessa.recipe.evaluation import evaluate_systems
    from nessa.recipe.resolve import load_recipe
    from nessa.recipe.systems import System
    from nessa.report.tables import format_records

    systems = [System.parse(name) for name in system]
    settings = load_recipe(recipe)
    records = evaluate_systems(settings, data / "eval", exp / "scores", systems, nj)
    write_json(output, records)
    write_circumstances(output, settings)
    click.echo(format_records(records))


@recipe.command()
@recipe_option
@data_option
@exp_option
@path_option("--output", "Rates file (JSON): one record per cell and task.")
def identify(recipe: Path, data: Path, exp: Path, output: Path) -> None:
    """Stage asymmetric: identification in the four cells of the update; see `nessa evaluate`.

    Example: nessa recipe identify --recipe recipes/mini/exp/recipe.yaml --data recipes/mini/data
    --exp recipes/mini/exp --output identification.json
    """
    from nessa.files import write_json
    from nessa.recipe.identification import identify_cells
    from nessa.recipe.resolve import load_recipe
    from nessa.report.identification import format_identification

    records = identify_cells(load_recipe(recipe), data / "eval", exp)
    write_json(output, records)
    click.echo(format_identification(records))
