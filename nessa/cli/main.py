"""The command line: thin; each command reads its input, calls one function and prints.

Modules are imported inside the commands, so that `nessa --help` does not wait for torch.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nessa import __version__
from nessa.errors import InputError, about, explained

LOG_FORMAT = "%(asctime)s (%(filename)s:%(lineno)d) %(message)s"
PathType = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)

SECTIONS = {
    "Corpus and models": ("synth", "prepare", "train", "extract"),
    "Alignment": ("align", "map"),
    "Scores": ("score", "calibrate", "evaluate"),
    "Results": ("report", "study"),
    "Production": ("export", "verify"),
    "Checks": ("validate", "doctor"),
    "For run.sh": ("recipe",),
}


class PipelineOrder(click.Group):
    """Lists the commands in the order of the pipeline rather than of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class Sections(PipelineOrder):
    """Lists the commands under headings."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, names in SECTIONS.items():
            with formatter.section(heading):
                commands = [(name, self.commands[name]) for name in names]
                formatter.write_dl([(name, one.get_short_help_str(120)) for name, one in commands])


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--quiet", is_flag=True, help="Say what went wrong alone: no progress, no notes.")
@click.option("--verbose", is_flag=True, help="Say more than usual.")
def cli(quiet: bool, verbose: bool) -> None:
    """Speaker recognition whose enrollment and runtime models may differ.

    `./run.sh` calls these commands stage by stage; exp/log/ holds every call it made.

    Completion of commands and options, for bash: eval "$(_NESSA_COMPLETE=bash_source nessa)"; zsh
    and fish alike.
    """
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    logging.getLogger("nessa").setLevel(level)


def path_option(name: str, text: str, **more: Any) -> Callable[..., Any]:
    """A required option that takes a path."""
    return click.option(name, type=PathType, required=True, help=text, **more)


recipe_option = path_option("--recipe", "Recipe file (YAML).")
data_option = path_option("--data", "The recipe's data folder, which holds manifests/ and sets.")
exp_option = path_option("--exp", "The recipe's exp folder.")

utt2dur_option = click.option(
    "--utt2dur",
    type=PathType,
    help="Calibration: durations (`utterance seconds`), which count as well.",
)


def system_option(multiple: bool = False) -> Callable[..., Any]:
    """The option that names a system of the recipe, or several."""
    text = "aligner:enroll:runtime, as nessa:new:old or raw:old:old"
    return click.option(
        "--system",
        required=True,
        multiple=multiple,
        help=f"{text}; repeatable" if multiple else text,
    )


@cli.group(cls=PipelineOrder)
def recipe() -> None:
    """What run.sh asks for: read a recipe, and run a stage for one of its systems."""


@recipe.command("resolve")
@recipe_option
@click.option("--size", help="A size that the recipe offers.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value.")
@path_option("--work-dir", "Receives exp/recipe.yaml.")
def recipe_resolve(
    recipe: Path, size: str | None, overrides: tuple[str, ...], work_dir: Path
) -> None:
    """Check a recipe, save what it resolves to, and print the plan for run.sh.

    Example: nessa recipe resolve --recipe recipes/mini/recipe.yaml --size tiny --work-dir work
    """
    from nessa.recipe.plan import plan
    from nessa.recipe.resolve import resolve
    from nessa.schema import save_yaml

    resolved = resolve(recipe, size, overrides)
    save_yaml(work_dir / "exp" / "recipe.yaml", resolved)
    for key, value in plan(resolved):
        click.echo(f"{key} {value}")


@recipe.command("slurm")
@path_option("--conf", "What each stage asks of the cluster (YAML).")
def recipe_slurm(conf: Path) -> None:
    """Check the settings of a cluster, and print what they mean to sbatch for run.sh.

    Example: nessa recipe slurm --conf conf/slurm.yaml
    """
    from nessa.recipe.slurm import cluster_plan

    for key, value in cluster_plan(conf):
        click.echo(f"{key} {value}")


@recipe.command("map")
@recipe_option
@data_option
@exp_option
@system_option()
def recipe_map(recipe: Path, data: Path, exp: Path, system: str) -> None:
    """Stage map: map what a system of the recipe is scored on; see `nessa map`.

    Example: nessa recipe map --recipe recipes/mini/exp/recipe.yaml --data recipes/mini/data
    --exp recipes/mini/exp --system nessa:new:old
    """
    from nessa.recipe.mapping import map_system
    from nessa.recipe.resolve import load_recipe
    from nessa.recipe.systems import System

    for line in map_system(load_recipe(recipe), data, exp, System.parse(system)):
        click.echo(line)


@recipe.command("score")
@recipe_option
@data_option
@exp_option
@system_option()
def recipe_score(recipe: Path, data: Path, exp: Path, system: str) -> None:
    """Stages symmetric and asymmetric: score a system, and calibrate on its dev set.

    As `nessa score` and `nessa calibrate` would, in one process.

    Example: nessa recipe score --recipe recipes/mini/exp/recipe.yaml --data recipes/mini/data
    --exp recipes/mini/exp --system raw:old:old
    """
    from nessa.recipe.resolve import load_recipe
    from nessa.recipe.scoring import score_system
    from nessa.recipe.systems import System

    for line in score_system(load_recipe(recipe), data, exp, System.parse(system)):
        click.echo(line)


@recipe.command("evaluate")
@recipe_option
@data_option
@exp_option
@system_option(multiple=True)
@path_option("--output", "Receives the metrics (JSON), one record per system and trial list.")
def recipe_evaluate(
    recipe: Path, data: Path, exp: Path, system: tuple[str, ...], output: Path
) -> None:
    """Stages symmetric and asymmetric: error rates and gain of systems, with paired intervals.

    Example: nessa recipe evaluate --recipe recipes/mini/exp/recipe.yaml --data recipes/mini/data
    --exp recipes/mini/exp --system raw:old:old --system raw:new:new --output metrics.json
    """
    from nessa.files import write_json
    from nessa.recipe.evaluation import evaluate_systems
    from nessa.recipe.resolve import load_recipe
    from nessa.recipe.systems import System
    from nessa.report.tables import format_records

    parsed = [System.parse(name) for name in system]
    records = evaluate_systems(load_recipe(recipe), data / "eval", exp / "scores", parsed)
    write_json(output, records)
    click.echo(format_records(records))


@recipe.command("identify")
@recipe_option
@data_option
@exp_option
@path_option("--output", "Receives the rates (JSON), one record per cell and task.")
def recipe_identify(recipe: Path, data: Path, exp: Path, output: Path) -> None:
    """Stage asymmetric: identification in the four cells; see `nessa evaluate --identify`.

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


@cli.command()
@recipe_option
@click.option("--nj", default=1, show_default=True, help="Processes; does not change a byte.")
@path_option("--output", "Receives wav/<speaker>/<session>/<utterance>.wav and meta.csv.")
def synth(recipe: Path, nj: int, output: Path) -> None:
    """Make a synthetic corpus with espeak-ng voices, shaped as VoxCeleb is.

    Example: nessa synth --recipe recipes/mini/exp/recipe.yaml --output corpus
    """
    from nessa.recipe.resolve import load_recipe
    from nessa.synth import Settings, synthesize_corpus

    settings = load_recipe(recipe)
    synthesize_corpus(output, settings.corpus.sets, Settings(settings.seed), nj)


@cli.command()
@recipe_option
@click.argument("data", type=PathType)
def prepare(recipe: Path, data: Path) -> None:
    """Check the sets that a corpus program made in DATA, and make trials where there are none.

    Example: nessa prepare --recipe recipes/mini/exp/recipe.yaml recipes/mini/data
    """
    from nessa.corpus.finishing import finish_sets
    from nessa.recipe.resolve import load_recipe

    settings = load_recipe(recipe)
    has_audio = not all(model.get("pretrained") == "arks" for model in settings.encoders.values())
    finish_sets(data, settings.prepare, settings.seed, has_audio)


@cli.command()
@recipe_option
@click.option("--model", required=True, help="Which of the recipe's encoders to train.")
@data_option
@path_option("--output", "Receives config.yaml and model.safetensors.")
@click.option("--workers", default=1, show_default=True, help="Processes that load audio.")
@click.option("--tensorboard", is_flag=True, help="Log the loss to OUTPUT/tensorboard as well.")
def train(
    recipe: Path, model: str, data: Path, output: Path, workers: int, tensorboard: bool
) -> None:
    """Train a speaker encoder; carries on from a checkpoint of the same training.

    A pretrained model is only checked, and OUTPUT receives its config.yaml. Several processes train
    together when torchrun starts them: torchrun --nproc-per-node 4 -m nessa.cli train ...
    Memory: about 600 bytes an utterance of the train set, shared by all WORKERS.

    Example: nessa train --recipe recipes/mini/exp/recipe.yaml --model old
    --data recipes/mini/data --output recipes/mini/exp/encoders/old
    """
    from nessa.encoders.config import EncoderConfig
    from nessa.encoders.kinds import parse_settings
    from nessa.encoders.models import save_pretrained
    from nessa.encoders.training import train_encoder
    from nessa.recipe.resolve import load_recipe

    settings = load_recipe(recipe)
    if model not in settings.encoders:
        raise InputError(f"{recipe}: no encoder {model!r}; there are {list(settings.encoders)}")
    with about(recipe):
        config = parse_settings(settings.encoders[model], f"encoders.{model}")
    if isinstance(config, EncoderConfig):
        train_encoder(config, data, output, workers, tensorboard)
    else:
        save_pretrained(output, config)


@cli.command()
@path_option("--encoder", "Directory of a trained encoder.")
@data_option
@click.option("--set", "sets", multiple=True, required=True, help="A set of DATA; repeatable.")
@click.option("--shard", default=1, type=COUNT, show_default=True, help="Which one to extract.")
@click.option("--shards", default=1, type=COUNT, show_default=True, help="Parts of a set.")
@click.option("--merge", is_flag=True, help="Join the extracted shards instead of extracting.")
@click.option("--skip-bad", is_flag=True, help="Leave out utterances that cannot be used.")
@click.option("--batch-seconds", default=60.0, show_default=True, help="Audio per batch.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that read ahead. [by a look at a batch; 0 with OMP_NUM_THREADS=1]",
)
@path_option("--output", "Receives one embeddings directory per set.")
def extract(
    encoder: Path,
    data: Path,
    sets: tuple[str, ...],
    shard: int,
    shards: int,
    merge: bool,
    skip_bad: bool,
    batch_seconds: float,
    workers: int | None,
    output: Path,
) -> None:
    """Extract embeddings to Kaldi ark/scp: one shard of each set, or, at last, --merge.

    Embeddings that are given (a model of kind arks) are imported by --merge. With --skip-bad the
    file OUTPUT/<set>/skipped lists what was left out and why.
    Memory: one batch of audio, and the shard's embeddings; with --merge, the set's.

    Example: nessa extract --encoder recipes/mini/exp/encoders/old --data recipes/mini/data
    --set eval --output embeddings

    Example: nessa extract --encoder recipes/mini/exp/encoders/old --data recipes/mini/data
    --set eval --output embeddings --merge
    """
    from nessa.encoders.arks import GivenEmbeddings
    from nessa.encoders.extraction import extract_shard, import_embeddings, merge_shards
    from nessa.encoders.models import load_model

    if shard > shards:
        raise InputError(f"--shard {shard} is beyond --shards {shards}")
    model = load_model(encoder)
    for name in sets:
        place = data, name, output / name
        if not merge:
            if not isinstance(model, GivenEmbeddings):
                extract_shard(model, *place, shard, shards, batch_seconds, workers, skip_bad)
            continue
        if isinstance(model, GivenEmbeddings):
            whole, skipped = import_embeddings(model, *place), 0
        else:
            whole, skipped = merge_shards(model, *place, shards, skip_bad)
        left_out = f"; {skipped} skipped, see {output / name / 'skipped'}" if skipped else ""
        click.echo(f"{output / name}: {len(whole)} embeddings of dimension {whole.dim}{left_out}")


@cli.command()
@click.option("--recipe", type=PathType, help="Recipe file (YAML) that has the aligner.")
@click.option("--aligner", help="Of the recipe: logit, procrustes, nessa, nessa.seed2 ...")
@path_option("--enroll", "Embeddings of the enrollment model: a folder with align and dev.")
@path_option("--runtime", "Embeddings of the runtime model: a folder with align and dev.")
@data_option
@path_option("--output", "Receives the aligner.")
@click.option("--mirror", type=PathType, help="Receives it with the sides swapped, unless OUTPUT.")
@click.option(
    "--freeze",
    type=click.Choice(["enroll", "runtime"]),
    help="Keep this side of the aligner --from DIR, and train the other for a new model.",
)
@click.option("--from", "start", type=PathType, help="The fitted NESSA aligner to update.")
def align(
    recipe: Path | None,
    aligner: str | None,
    enroll: Path,
    runtime: Path,
    data: Path,
    output: Path,
    mirror: Path | None,
    freeze: str | None,
    start: Path | None,
) -> None:
    """Fit an aligner on the align set; NESSA stops early by its EER on the dev set.

    With --freeze enroll --from DIR, in the place of --recipe and --aligner, a new runtime model
    joins the space of the aligner in DIR: profiles that were mapped with it stay valid.
    Memory: 1.5 times the embeddings, or, where NESSA is fitted on ones that take more than half of
    it, 60 bytes an utterance and 6 kB a speaker.

    Example: nessa align --recipe recipes/mini/exp/recipe.yaml --aligner nessa
    --enroll recipes/mini/exp/embeddings/new --runtime recipes/mini/exp/embeddings/old
    --data recipes/mini/data --output aligner
    """
    from nessa.alignment.base import Aligner, DevSet
    from nessa.alignment.store import load_to_update
    from nessa.alignment.table import AlignTable
    from nessa.kaldi.embeddings import Embeddings
    from nessa.recipe.aligners import make_aligner
    from nessa.recipe.resolve import load_recipe
    from nessa.trials import Trials

    made: Aligner
    options: dict[str, Any] = {}
    if recipe and aligner and not (freeze or start):
        made = make_aligner(aligner, load_recipe(recipe))
    elif freeze and start and not (recipe or aligner):
        made, options = load_to_update(start), {"freeze": freeze}
    else:
        raise click.UsageError("give --recipe and --aligner, or --freeze and --from")
    trials = Trials.read(data / "dev" / "trials")
    dev_sides = Embeddings.read(enroll / "dev"), Embeddings.read(runtime / "dev")
    with about(data / "dev" / "trials", enroll / "dev", runtime / "dev"):
        dev = DevSet(*dev_sides, trials)
    places = enroll / "align", runtime / "align", data / "align"
    table = AlignTable.open(*places)
    with about(*places):
        made.fit_table(table, dev, **options)
    made.save(output)
    if mirror not in (None, output):
        made.mirrored().save(mirror)


@cli.command("map")
@path_option("--aligner", "Directory of a fitted aligner.")
@click.option("--enroll", type=PathType, help="Embeddings of the enrollment model.")
@click.option("--runtime", type=PathType, help="Embeddings of the runtime model.")
@click.option("--enroll-map", type=PathType, help="Profiles (`id utterance ...`) to map as well.")
@click.option("--nj", default=1, type=COUNT, show_default=True, help="Processes.")
@click.option("--dry-run", is_flag=True, help="Check everything, and write nothing.")
@click.option(
    "--allow-outliers", is_flag=True, help="Take what is unlike the align data for the most part."
)
@path_option("--output", "Receives the embeddings directories enroll and runtime.")
def map_embeddings(
    aligner: Path,
    enroll: Path | None,
    runtime: Path | None,
    enroll_map: Path | None,
    nj: int,
    dry_run: bool,
    allow_outliers: bool,
    output: Path,
) -> None:
    """Map embeddings of both models, or of one, into an aligner's shared space.

    A side may be a product's store: .npz with ids and embeddings, or Parquet (a file or a folder)
    with the columns id and embedding. A store is mapped to a folder of Parquet files, part by part;
    run again after a kill, it goes on. Memory for Parquet: 500 MB, two row groups of the file, 8
    times 50,000 embeddings, and 8 bytes an id.

    What is unlike the embeddings that the aligner was fitted on is listed, the farthest first, in
    OUTPUT/enroll_outliers.csv and OUTPUT/runtime_outliers.csv: 1 is the distance within which
    99.9 % of those were. Where most are, and no info.json names their model, they are refused.

    A profile is the mean of its utterances in the enrollment model's own space, mapped then.
    Memory: the embeddings of a side, for each process, and 100 bytes an outlier.

    Example: nessa map --aligner recipes/mini/exp/aligners/nessa/new-old
    --enroll recipes/mini/exp/embeddings/new/eval --runtime recipes/mini/exp/embeddings/old/eval
    --output mapped
    """
    from nessa.alignment.store import load
    from nessa.alignment.views import Side
    from nessa.production.mapping import check_sides, map_sides
    from nessa.production.stores import is_store, map_stores

    if enroll is None and runtime is None:
        raise click.UsageError("give --enroll, --runtime, or both")
    if enroll_map is not None and enroll is None:
        raise click.UsageError("--enroll-map is for --enroll")
    fitted = load(aligner)
    given: dict[Side, Path | None] = {"enroll": enroll, "runtime": runtime}
    stores = {side: path for side, path in given.items() if path and is_store(path)}
    if enroll_map is not None and "enroll" in stores:
        raise click.UsageError("--enroll-map is for arks; a store holds profiles")
    for line in map_stores(fitted, stores, output, dry_run, allow_outliers):
        click.echo(line)
    arks = given | dict.fromkeys(stores)
    if not any(arks.values()):
        return
    places = arks["enroll"], arks["runtime"], enroll_map, output
    lines = (
        check_sides(fitted, *places, allow_outliers)
        if dry_run
        else map_sides(fitted, *places, nj, allow_outliers)
    )
    for line in lines:
        click.echo(line)


@cli.command()
@path_option("--enroll", "Embeddings of the enrollment side.")
@path_option("--runtime", "Embeddings of the runtime side.")
@path_option("--trials", "Trial list, in any of the three formats.")
@click.option("--enroll-map", type=PathType, help="Profiles (`id utterance ...`) to average.")
@click.option("--enroll-cohort", type=PathType, help="AS-norm: embeddings made as --enroll was.")
@click.option("--runtime-cohort", type=PathType, help="AS-norm: embeddings made as --runtime was.")
@click.option(
    "--top-n", default=300, type=COUNT, show_default=True, help="AS-norm: scores that count."
)
@click.option("--calibration", type=PathType, help="Write log likelihood ratios by this file.")
@utt2dur_option
@path_option("--output", "Receives `enroll test score` lines, in trial order.")
def score(
    enroll: Path,
    runtime: Path,
    trials: Path,
    enroll_map: Path | None,
    enroll_cohort: Path | None,
    runtime_cohort: Path | None,
    top_n: int,
    calibration: Path | None,
    utt2dur: Path | None,
    output: Path,
) -> None:
    """Score trials by cosine, and print EER and minDCF where they are labeled.

    With both cohorts, two-sided AS-norm. With --calibration, natural-log likelihood ratios.
    Memory: the embeddings, and about 20 bytes a trial.

    Example: nessa score --enroll recipes/mini/exp/mapped/nessa/new-old/eval/enroll
    --runtime recipes/mini/exp/mapped/nessa/new-old/eval/runtime
    --trials recipes/mini/data/eval/trials --output scores
    """
    from nessa.scoring.sides import score_trials

    if (enroll_cohort is None) != (runtime_cohort is None):
        raise click.UsageError("--enroll-cohort and --runtime-cohort go together")
    if utt2dur is not None and calibration is None:
        raise click.UsageError("--utt2dur is for --calibration")
    line = score_trials(
        enroll,
        runtime,
        trials,
        output,
        enroll_map=enroll_map,
        cohort=(enroll_cohort, runtime_cohort) if enroll_cohort and runtime_cohort else None,
        top_n=top_n,
        calibration=calibration,
        utt2dur=utt2dur,
    )
    click.echo(line)


@cli.command()
@path_option("--trials", "Labeled trials of a dev set, in either format.")
@path_option("--scores", "Their scores, in any order.")
@click.option(
    "--p-target", default=0.01, show_default=True, help="The target prior at which to fit best."
)
@utt2dur_option
@click.option(
    "--enroll-map",
    type=PathType,
    help="Profiles of the trials (`id utterance ...`): the number of utterances counts as well.",
)
@path_option("--output", "Receives the calibration (JSON), for nessa score --calibration.")
def calibrate(
    trials: Path,
    scores: Path,
    p_target: float,
    utt2dur: Path | None,
    enroll_map: Path | None,
    output: Path,
) -> None:
    """Fit a map from scores to natural-log likelihood ratios, by logistic regression.

    Fit one per pair of enrollment and runtime model; one threshold then serves all pairs.

    Example: nessa calibrate --trials recipes/mini/data/dev/trials
    --scores recipes/mini/exp/scores/nessa/new-old/dev/trials.scores --output calibration.json
    """
    from nessa.scoring.calibration import fit_calibration

    fitted = fit_calibration(trials, scores, output, p_target, utt2dur, enroll_map)
    click.echo(f"{output}: {fitted}")


@cli.command()
@click.option("--trials", type=PathType, help="Labeled trial list, in either format.")
@click.option(
    "--scores", type=PathType, metavar="FILE...", help="`enroll test score` lines in any order."
)
@click.argument("more_scores", nargs=-1, type=PathType, metavar="")
@click.option("--llr", is_flag=True, help="The scores are natural-log likelihood ratios.")
@click.option("--utt2spk", type=PathType, help="Speakers (`utterance speaker`), for intervals.")
@click.option("--enroll-map", type=PathType, help="Profiles (`id utterance ...`) of the trials.")
@click.option(
    "--identify", type=PathType, metavar="DIR", help="Identify the speakers of a data directory."
)
@click.option("--enroll", type=PathType, help="For --identify: the enrollment side.")
@click.option("--runtime", type=PathType, help="For --identify: the runtime side.")
@click.option("--draws", default=1000, type=COUNT, show_default=True, help="Of the bootstrap.")
@click.option("--seed", default=1, show_default=True, help="Of the bootstrap and the profiles.")
@click.option("--output", type=PathType, help="Receives the figures (JSON).")
def evaluate(
    trials: Path | None,
    scores: Path | None,
    more_scores: tuple[Path, ...],
    llr: bool,
    utt2spk: Path | None,
    enroll_map: Path | None,
    identify: Path | None,
    enroll: Path | None,
    runtime: Path | None,
    draws: int,
    seed: int,
    output: Path | None,
) -> None:
    """Compute the error rates of score files, of any system or toolkit.

    Scores are joined to trials by key. With --utt2spk there are intervals of a joint speaker
    bootstrap; several files are then compared with the first on the same draws.

    With --identify DIR the speakers of a data directory are identified by the embeddings of two
    sides in one space: closed set, open set, and households of 2 to 7 profiles with guests.

    Example: nessa evaluate --trials recipes/mini/data/eval/trials
    --utt2spk recipes/mini/data/eval/utt2spk
    --scores recipes/mini/exp/scores/logit/new-old/eval/trials.scores
    recipes/mini/exp/scores/nessa/new-old/eval/trials.scores

    Example: nessa evaluate --identify recipes/mini/data/eval
    --enroll recipes/mini/exp/mapped/nessa/new-old/eval/enroll
    --runtime recipes/mini/exp/mapped/nessa/new-old/eval/runtime
    """
    from nessa.files import write_json

    if identify is not None:
        from nessa.evaluation.rates import identify_sides
        from nessa.report.identification import format_identification

        if enroll is None or runtime is None or trials is not None or scores is not None:
            raise click.UsageError("--identify takes --enroll and --runtime, and no scores")
        records = identify_sides(identify, enroll, runtime, draws, seed)
        text = format_identification(records)
    else:
        from nessa.evaluation.score_files import compare_score_files, format_comparison

        if trials is None or scores is None:
            raise click.UsageError("give --trials and --scores, or --identify")
        if enroll_map is not None and utt2spk is None:
            raise click.UsageError("--enroll-map is for the intervals, which need --utt2spk")
        files = [scores, *more_scores]
        records = compare_score_files(trials, files, llr, utt2spk, enroll_map, draws, seed)
        text = format_comparison(records)
    if output is not None:
        write_json(output, records)
    click.echo(text)


@cli.command()
@click.argument("runs", nargs=-1, type=PathType)
@click.option("--recipe", type=PathType, help="Recipe file (YAML) of the run to report on.")
@click.option("--exp", type=PathType, help="Its exp folder.")
@click.option("--data", type=PathType, help="Its data folder.")
@click.option("--results", type=PathType, help="Receives the tables alone, as RESULTS.md.")
@click.option("--markdown", is_flag=True, help="Compare RUNS as a table in Markdown.")
def report(
    runs: tuple[Path, ...],
    recipe: Path | None,
    exp: Path | None,
    data: Path | None,
    results: Path | None,
    markdown: bool,
) -> None:
    """Gather all metrics of a run into results.json, the result tables, plots and index.html.

    With RUNS instead, work directories of runs, print their EERs and gains side by side.

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
        click.echo(write_report(load_recipe(recipe), exp, data, results))
    else:
        raise click.UsageError("give --recipe, --exp and --data, or the work directories of runs")


@cli.command()
@click.argument("name", type=click.Choice(["speakers", "utterances", "width", "parts", "freeze"]))
@recipe_option
@data_option
@exp_option
def study(name: str, recipe: Path, data: Path, exp: Path) -> None:
    """Train NESSA at several points and show how its gain depends on them.

    Curves over the number of align speakers, the utterances of each, or the width of the MLP;
    tables of the method's parts, and of updates with a frozen side. Writes EXP/studies/NAME.json,
    which `nessa report` shows. Minutes for each point; run it after stage asymmetric.

    Example: nessa study speakers --recipe recipes/mini/exp/recipe.yaml --data recipes/mini/data
    --exp recipes/mini/exp
    """
    from nessa.recipe.resolve import load_recipe
    from nessa.recipe.studies import run_study
    from nessa.report.studies import format_study

    output = exp / "studies" / f"{name}.json"
    records = run_study(name, load_recipe(recipe), data, exp, output)
    click.echo(format_study(records))


@cli.command()
@click.option("--aligner", type=PathType, help="Directory of a fitted aligner.")
@click.option("--encoder", type=PathType, help="Directory of a trained encoder.")
@click.option("--calibration", type=PathType, help="Of the aligner's scores; goes with it.")
@click.option("--license", help="What the files' metadata say of their use.")
@click.option("--training-data", help="What the files' metadata say of where they come from.")
@path_option("--output", "Receives enroll.onnx and runtime.onnx, or encoder.onnx.")
def export(
    aligner: Path | None,
    encoder: Path | None,
    calibration: Path | None,
    license: str | None,
    training_data: str | None,
    output: Path,
) -> None:
    """Export an aligner's two maps, or an encoder, as ONNX, checked in onnxruntime.

    Example: nessa export --aligner recipes/mini/exp/aligners/nessa/new-old --output onnx

    Example: nessa export --encoder recipes/mini/exp/encoders/new --output onnx
    --license CC-BY-4.0 --training-data "synthetic speech of espeak-ng"
    """
    from nessa.alignment.store import load
    from nessa.encoders.models import load_model
    from nessa.encoders.trained import TrainedModel
    from nessa.production import export_aligner, export_encoder
    from nessa.scoring.calibration import read_calibration

    facts = {"license": license, "training_data": training_data}
    known = {name: text for name, text in facts.items() if text}
    if aligner and not encoder:
        fitted = read_calibration(calibration) if calibration else None
        for line in export_aligner(load(aligner), output, fitted, known):
            click.echo(line)
    elif encoder and not (aligner or calibration):
        model = load_model(encoder)
        if not isinstance(model, TrainedModel):
            raise InputError(f"{encoder}: only an encoder of ours can be exported")
        click.echo(export_encoder(model, output, known))
    else:
        raise click.UsageError("give --aligner or --encoder")


@cli.command()
@click.argument("models", nargs=-1, required=True, type=PathType)
@click.option("--aligner", type=PathType, help="That they were made with, to be compared.")
@click.option("--encoder", type=PathType, help="The same, for encoder.onnx.")
@click.option("--source", type=PathType, help="The raw store of which MODELS are the mapped ones.")
def verify(
    models: tuple[Path, ...], aligner: Path | None, encoder: Path | None, source: Path | None
) -> None:
    """Check what was exported in onnxruntime, and print what its metadata say.

    MODELS are exported aligners and encoders; or, with --source, a mapped store, whose rows are
    all compared with those of the source mapped anew.

    Example: nessa verify recipes/mini/exp/export/nessa.new-old/enroll.onnx
    --aligner recipes/mini/exp/aligners/nessa/new-old
    """
    from nessa.alignment.store import load

    original = load(aligner) if aligner else None
    if source is not None:
        from nessa.production.stores import verify_store

        if original is None or encoder is not None:
            raise click.UsageError("--source goes with --aligner")
        for mapped in models:
            click.echo(verify_store(mapped, source, original))
        return
    from nessa.production.verify import verify_model

    for model in models:
        for line in verify_model(model, original, encoder):
            click.echo(line)


@cli.command()
@click.argument("directory", type=PathType)
def validate(directory: Path) -> None:
    """Check a Kaldi data directory or an embeddings directory, and say how to mend what is wrong.

    Beside what Kaldi's own validation checks: trials and profiles, the audio files' headers, the
    features', and every embedding.

    Example: nessa validate recipes/mini/data/eval
    """
    from nessa.corpus.validation import validate

    problems = validate(directory)
    if problems:
        raise InputError("\n".join(problems))
    click.echo(f"{directory}: valid")


@cli.command()
def doctor() -> None:
    """Print versions, the machine, and what is missing for what.

    Example: nessa doctor
    """
    from nessa.cli.doctor import diagnose

    for line in diagnose():
        click.echo(line)


def main() -> None:
    """Run the command line; see `explained` for how it ends."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    with explained("nessa"):
        cli()
