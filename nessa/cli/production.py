"""Production: export, verify, store."""

from contextlib import closing
from pathlib import Path
from typing import Any

import click

from nessa.cli.options import (
    PathType,
    PipelineOrder,
    check_output,
    optional_path,
    path_option,
    refuse_given,
    try_folders,
)
from nessa.errors import InputError


@click.command()
@optional_path("--aligner", "Folder of a fitted aligner.")
@optional_path("--encoder", "Folder of a trained encoder.")
@optional_path("--calibration", "Calibration of the aligner's scores to store.")
@optional_path("--threshold", "File of nessa threshold; its threshold for all durations is stored.")
@click.option("--license", help="License, for the metadata and the model card.")
@click.option("--training-data", help="Training data, for the metadata and the model card.")
@path_option("--output", "Receives enroll.onnx and runtime.onnx, or encoder.onnx; and README.md.")
def export(
    aligner: Path | None,
    encoder: Path | None,
    calibration: Path | None,
    threshold: Path | None,
    license: str | None,
    training_data: str | None,
    output: Path,
) -> None:
    """Export both sides of an aligner, or an encoder, to ONNX; checked in onnxruntime.

    Example: nessa export --aligner recipes/mini/exp/aligners/nessa/new-old --output onnx/pair

    Example: nessa export --encoder recipes/mini/exp/encoders/new --output onnx/new
    --license CC-BY-4.0 --training-data "synthetic speech of espeak-ng"
    """
    from nessa.alignment.store import load
    from nessa.encoders.models import load_model
    from nessa.encoders.trained import TrainedModel
    from nessa.evaluation.threshold import threshold_facts
    from nessa.production.export_aligner import export_aligner
    from nessa.production.export_encoder import export_encoder
    from nessa.scoring.calibration import read_calibration

    facts = {"license": license, "training_data": training_data}
    known = {name: text for name, text in facts.items() if text}
    if aligner and not encoder:
        original = load(aligner)
        pair, enroll = original.pair(), original.map_digest("enroll")
        fitted = None
        if calibration:
            fitted = read_calibration(calibration, pair, "cosine", enroll)
        if threshold:
            known |= threshold_facts(threshold, pair, enroll)
        for line in export_aligner(original, output, fitted, known):
            click.echo(line)
    elif encoder and not aligner:
        refuse_given("is for --aligner", "calibration", "threshold")
        model = load_model(encoder)
        if not isinstance(model, TrainedModel):
            raise InputError(f"{encoder}: only an encoder trained by nessa can be exported")
        click.echo(export_encoder(model, output, known))
    else:
        raise click.UsageError("give --aligner or --encoder")


@click.command()
@click.argument("models", nargs=-1, required=True, type=PathType)
@optional_path("--aligner", "Original aligner to compare with.")
@optional_path("--encoder", "Original encoder to compare with.")
@optional_path("--source", "Raw store to verify the mapped store against.")
def verify(
    models: tuple[Path, ...], aligner: Path | None, encoder: Path | None, source: Path | None
) -> None:
    """Verify exported models in onnxruntime, and print their metadata.

    MODELS are exported aligners and encoders. With --source, they are mapped stores: every row is
    compared with its source, mapped again. Memory: as nessa map of a store.

    Example: nessa verify recipes/mini/exp/export/nessa.new-old/enroll.onnx
    --aligner recipes/mini/exp/aligners/nessa/new-old
    """
    from nessa.alignment.store import load

    original = load(aligner) if aligner else None
    if source is not None:
        from nessa.production.stores import verify_store
        from nessa.stores.tables import is_store

        if original is None or encoder is not None:
            raise click.UsageError("--source goes with --aligner")
        if not is_store(source):
            raise InputError(
                f"{source}: not a store (.npz or Parquet); mapped arks have no --source check"
            )
        for mapped in models:
            click.echo(verify_store(mapped, source, original))
        return
    from nessa.production.verify import verify_model

    for model in models:
        for line in verify_model(model, original, encoder):
            click.echo(line)


@click.group(cls=PipelineOrder)
def store() -> None:
    """Migrate the profiles of a database: map, verify, switch, roll back.

    URL names the table of raw profiles, which is never changed; the mapped profiles go into a new
    table of the same database. The application reads one of them by a third name, `live`.

    \b
    postgresql://USER@HOST/DB?table=NAME[&id=id][&embedding=embedding][&live=NAME_live]
    milvus:FILE_OR_URI?collection=NAME[&embedding=embedding][&live=NAME_live]
    """


url_argument = click.argument("url")
to_option = click.option("--to", required=True, help="The table that receives mapped profiles.")


@store.command("map")
@url_argument
@to_option
@path_option("--aligner", "Folder of a fitted aligner; the profiles are of its enrollment model.")
@click.option("--dry-run", is_flag=True, help="Check everything; leave the database as it is.")
@click.option(
    "--allow-outliers", is_flag=True, help="Accept profiles mostly unlike the align data."
)
@optional_path("--outliers", "Receives the profiles unlike the align data (`id,distance`).")
def store_map(
    url: str, to: str, aligner: Path, dry_run: bool, allow_outliers: bool, outliers: Path | None
) -> None:
    """Map the profiles that the new table lacks, or that have changed since, and index them.

    Run it again after an interruption, or to follow rows that were changed, added or deleted
    meanwhile. Memory: 600 MB, however many profiles there are, and what Milvus Lite takes.

    Example: nessa store map "postgresql:///voices?table=profiles" --to profiles_new
    --aligner recipes/mini/exp/aligners/nessa/old-new --dry-run
    """
    from nessa.alignment.dev import verdict_sentence
    from nessa.alignment.outliers import Outliers
    from nessa.alignment.store import load
    from nessa.production.migration import migrate

    if outliers:
        check_output("outliers")
        try_folders(outliers.parent)
    fitted = load(aligner)
    if sentence := verdict_sentence(fitted.fitting):
        click.echo(f"{aligner}: {sentence}")
    found = Outliers(fitted.detectors.get("enroll"), allowed=allow_outliers)
    with _database(url, to) as database:
        database.check()
        done = migrate(database.source, database.target, fitted, found, dry_run)
        if not dry_run:
            database.index()
        if outliers:
            found.write(outliers)
        state = " (dry run)" if dry_run else ""
        click.echo(f"{database.source} to {database.target}{state}: {done}; {found}")


@store.command("verify")
@url_argument
@to_option
@path_option("--aligner", "Folder of the aligner that it was mapped with.")
def store_verify(url: str, to: str, aligner: Path) -> None:
    """Compare every mapped profile with its source mapped anew, and search with and without index.

    Prints the statements that switch the application to the new table and back. Memory: 600 MB, as
    `store map`.

    Example: nessa store verify "postgresql:///voices?table=profiles" --to profiles_new
    --aligner recipes/mini/exp/aligners/nessa/old-new
    """
    from nessa.alignment.store import load
    from nessa.production.migration import verify_migration

    with _database(url, to) as database:
        for line in verify_migration(database.source, database.target, load(aligner)):
            click.echo(line)
        click.echo(f"to switch: {database.statement(database.target)}")
        click.echo(f"to roll back: {database.statement(database.source)}")


@store.command()
@url_argument
@to_option
@click.option(
    "--allow-behind",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Accept up to N profiles added, changed or deleted since `store map`.",
)
def switch(url: str, to: str, allow_behind: int) -> None:
    """Let the application read the mapped profiles, if they are up to date with the raw table.

    Reads all profiles, as `store map` does. Memory: 600 MB, as `store map`.

    Example: nessa store switch "postgresql:///voices?table=profiles" --to profiles_new
    """
    from nessa.production.migration import AGAIN, lag_of

    with _database(url, to) as database:
        lag = lag_of(database.source, database.target)
        if sum(lag) > allow_behind:
            raise InputError(
                f"{database.target}: is behind {database.source}: {lag}; {AGAIN}, or add "
                f"--allow-behind {sum(lag)}"
            )
        database.serve(database.target)
        both = f"{len(database.target):,} profiles, of {len(database.source):,}"
        click.echo(f"now read: {database.target}, {both} in {database.source}; {lag}")


@store.command()
@url_argument
@to_option
def rollback(url: str, to: str) -> None:
    """Let the application read the raw profiles again.

    Example: nessa store rollback "postgresql:///voices?table=profiles" --to profiles_new
    """
    with _database(url, to) as database:
        database.serve(database.source)
        click.echo(f"now read: {database.source}")


def _database(url: str, to: str) -> Any:
    """Open it for a `with` block."""
    from nessa.stores.urls import open_database

    return closing(open_database(url, to))
