"""Alignment: assess, align, map."""

from pathlib import Path
from typing import Any

import click

from nessa.cli.options import (
    COUNT,
    NUMBER,
    PathType,
    optional_path,
    path_option,
    refuse_given,
    relative_option,
    try_folders,
)
from nessa.errors import InputError


@click.command()
@optional_path("--recipe", "Recipe file (YAML).")
@click.option("--aligner", help="Aligner of the recipe: logit, procrustes, nessa, nessa.seed2 ...")
@path_option(
    "--enroll",
    "Embeddings of the enrollment model: with --data a folder with align and dev, else a table.",
)
@path_option(
    "--runtime",
    "Embeddings of the runtime model: with --data a folder with align and dev, else a table.",
)
@optional_path("--data", "Data folder of the recipe; omit for two tables.")
@optional_path("--utt2spk", "Speakers (`utterance speaker`) of the tables.")
@optional_path("--utt2session", "Sessions (`utterance session`) of the tables.")
@path_option("--output", "Receives the aligner.")
@optional_path("--mirror", "Also save the aligner for the opposite direction.")
@click.option(
    "--freeze",
    type=click.Choice(["enroll", "runtime"]),
    help="Keep this side of the aligner given by --from; train the other one for a new model.",
)
@click.option("--from", "start", type=PathType, help="Fitted NESSA aligner to update.")
@click.option(
    "--by-speaker",
    is_flag=True,
    help="Pair by speaker; the sides may hold different utterances.",
)
def align(
    recipe: Path | None,
    aligner: str | None,
    enroll: Path,
    runtime: Path,
    data: Path | None,
    utt2spk: Path | None,
    utt2session: Path | None,
    output: Path,
    mirror: Path | None,
    freeze: str | None,
    start: Path | None,
    by_speaker: bool,
) -> None:
    """Fit an aligner on the align set; NESSA stops early by its EER on the dev set.

    With --freeze enroll --from DIR, instead of --recipe and --aligner, a new runtime model joins
    the shared space of the aligner in DIR: profiles that were mapped with it stay valid.

    Without --data, --enroll and --runtime are tables of embeddings: ark, scp, .npz (ids,
    embeddings, speakers, sessions) or Parquet (id, embedding, speaker, session). A tenth of the
    speakers are the dev set; without --recipe, NESSA is fitted with its defaults.

    With --by-speaker, utterances embedded by one model only are paired with those of the same
    speaker embedded by the other only. They teach less than utterances embedded by both.

    Memory: twice the embeddings, for PLDA five times; for NESSA on embeddings larger than half of
    the memory, 60 bytes per utterance and 6 kB per speaker; with domains, their table as well.

    Example: nessa align --recipe recipes/mini/exp/recipe.yaml --aligner nessa
    --enroll recipes/mini/exp/embeddings/new --runtime recipes/mini/exp/embeddings/old
    --data recipes/mini/data --output aligner
    """
    from nessa.alignment.base import Aligner
    from nessa.alignment.neural import NeuralAligner
    from nessa.alignment.store import load_to_update
    from nessa.recipe.aligners import make_aligner
    from nessa.recipe.fitting import Tables, fit_to_sets, fit_to_tables
    from nessa.recipe.resolve import load_recipe

    # The aligner of a model with itself serves both directions: its mirror needs no folder.
    if mirror and mirror.resolve() == output.resolve():
        if enroll.resolve() != runtime.resolve():
            raise click.UsageError("--mirror is --output; give the other direction its own folder")
        mirror = None
    try_folders(output, mirror or output)
    made: Aligner
    options: dict[str, Any] = {}
    if recipe and aligner and not (freeze or start):
        made = make_aligner(aligner, load_recipe(recipe))
    elif freeze and start and not (recipe or aligner):
        if start.resolve() in (output.resolve(), mirror and mirror.resolve()):
            raise InputError(f"{start}: would be lost, and may be in use; give another folder")
        made, options = load_to_update(start), {"freeze": freeze}
    elif not (data or recipe or aligner or freeze or start):
        made = NeuralAligner()
    else:
        raise click.UsageError("give --recipe and --aligner, or --freeze and --from")
    if data:
        refuse_given("goes with tables, without --data", "utt2spk", "utt2session")
        fit_to_sets(made, enroll, runtime, data, by_speaker, **options)
    else:
        tables = Tables.read(enroll, runtime, utt2spk, utt2session)
        fit_to_tables(made, tables, by_speaker, **options)
    made.save(output)
    if mirror:
        made.mirrored().save(mirror)


@click.command()
@click.argument("old", type=PathType)
@click.argument("new", type=PathType)
@optional_path("--utt2spk", "Speakers (`utterance speaker`), where no column tells them.")
@optional_path("--utt2session", "Sessions (`utterance session`), where no column tells them.")
@optional_path("--trials", "Labeled trials of utterances; their speakers are held out to test on.")
@click.option(
    "--seed",
    type=NUMBER,
    default=1,
    show_default=True,
    help="Seed of the speaker split and of the drawn trials.",
)
@path_option("--output", "Receives the decision, the report, and the aligner.")
def assess(
    old: Path,
    new: Path,
    utt2spk: Path | None,
    utt2session: Path | None,
    trials: Path | None,
    seed: int,
    output: Path,
) -> None:
    """Decide from the embeddings of two models whether to update by alignment.

    OLD and NEW are tables of the same utterances by the model in use and by the one to come: ark,
    scp, .npz (ids, embeddings, speakers, sessions) or Parquet (id, embedding, speaker, session).
    A fifth of the speakers, or those of --trials, are held out to test on, a tenth are the dev
    set, and the others the align set.

    Prints GO or NO-GO for the new runtime model beside the old profiles, with intervals, the
    alternatives, and how many align speakers a better result would take. The page is
    OUTPUT/exp/report/index.html, the aligner OUTPUT/exp/aligners/nessa/old-new. The exit status is
    0 either way. Memory: both tables, and up to five times the embeddings, as nessa align.

    Example: nessa assess recipes/mini/exp/embeddings/old/eval/xvector.scp
    recipes/mini/exp/embeddings/new/eval/xvector.scp --utt2spk recipes/mini/data/eval/utt2spk
    --output assessment
    """
    from nessa.files import read_json, write_json
    from nessa.recipe.assessment import STUDY, prepare, run
    from nessa.recipe.fitting import Tables
    from nessa.report import write_report
    from nessa.report.decision import decide

    recipe = prepare(Tables.read(old, new, utt2spk, utt2session), trials, output, seed)
    exp = output / "exp"
    records = run(recipe, output)
    curve = read_json(exp / "studies" / f"{STUDY}.json")["records"]
    decision = decide(recipe, records, curve)
    write_json(output / "decision.json", decision._asdict())
    click.echo(write_report(recipe, exp, output / "data"))
    click.echo(f"\n{decision}")


@click.command("map")
@path_option("--aligner", "Folder of a fitted aligner.")
@optional_path("--enroll", "Embeddings or store of the enrollment model.")
@optional_path("--runtime", "Embeddings or store of the runtime model.")
@optional_path("--enroll-map", "Also average and map these profiles (`profile utterance ...`).")
@optional_path("--utt2domain", "Domains (`utterance domain`), to be centered as in the align set.")
@click.option("--nj", default=1, type=COUNT, show_default=True, help="Number of processes.")
@click.option("--dry-run", is_flag=True, help="Check everything; write nothing.")
@click.option(
    "--allow-outliers", is_flag=True, help="Accept input that is mostly unlike the align data."
)
@relative_option
@path_option("--output", "Receives the mapped embeddings, in enroll and runtime.")
def map_embeddings(
    aligner: Path,
    enroll: Path | None,
    runtime: Path | None,
    enroll_map: Path | None,
    utt2domain: Path | None,
    nj: int,
    dry_run: bool,
    allow_outliers: bool,
    relative: bool,
    output: Path,
) -> None:
    """Map embeddings of one or both models into an aligner's shared space.

    A side may be a profile store: .npz with ids and embeddings, or Parquet (a file or a folder)
    with the columns id and embedding. A store is mapped to a folder of Parquet files, with ids
    as text; a run that was interrupted resumes. Memory for Parquet: 500 MB, two row groups of the
    file, 8 times 50,000 embeddings, and 8 bytes per id.

    A profile is averaged in the enrollment model's own space, then mapped. Where the align set had
    domains, --utt2domain centers embeddings by their domain's mean in it; it warns of domains that
    it did not have.

    Outliers, embeddings unlike the align data, are listed in OUTPUT/enroll_outliers.csv and
    OUTPUT/runtime_outliers.csv, the farthest first; 99.9 % of the align data lie within
    distance 1. Ten embeddings or more of which more than half are outliers are refused; more
    than 95 % where info.json names their model.
    Memory: the embeddings of a side per process, and 100 bytes per outlier.

    Example: nessa map --aligner recipes/mini/exp/aligners/nessa/new-old
    --enroll recipes/mini/exp/embeddings/new/eval --runtime recipes/mini/exp/embeddings/old/eval
    --output mapped
    """
    from nessa.alignment.dev import verdict_sentence
    from nessa.alignment.store import load
    from nessa.alignment.views import Side
    from nessa.files import read_table
    from nessa.production.mapping import map_sides
    from nessa.production.stores import map_stores
    from nessa.stores.tables import is_store

    if enroll is None and runtime is None:
        raise click.UsageError("give --enroll, --runtime, or both")
    if enroll_map is not None and enroll is None:
        raise click.UsageError("--enroll-map is for --enroll")
    fitted = load(aligner)
    if sentence := verdict_sentence(fitted.fitting):
        click.echo(f"{aligner}: {sentence}")
    given: dict[Side, Path | None] = {"enroll": enroll, "runtime": runtime}
    stores = {side: path for side, path in given.items() if path and is_store(path)}
    if enroll_map is not None and "enroll" in stores:
        raise click.UsageError("--enroll-map is for arks; a store holds profiles")
    if utt2domain is not None and stores:
        raise click.UsageError("--utt2domain is for arks; a store is mapped without domains")
    arks = given | dict.fromkeys(stores)

    def map_the_stores() -> None:
        for line in map_stores(fitted, stores, output, dry_run, allow_outliers):
            click.echo(line)

    if not any(arks.values()):
        refuse_given("is for arks; a store is mapped by one process", "nj")
        refuse_given("is for arks; a store has no scp", "relative")
        map_the_stores()
        return
    lines = map_sides(
        fitted,
        **arks,
        enroll_map=enroll_map,
        output=output,
        nj=nj,
        allow_outliers=allow_outliers,
        domains=read_table(utt2domain) if utt2domain else None,
        dry_run=dry_run,
        before_writing=map_the_stores,
        relative=relative,
    )
    for line in lines:
        click.echo(line)
