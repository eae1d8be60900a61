"""Production: export, verify."""

from pathlib import Path

import click

from nessa.cli.options import PathType, optional_path, path_option
from nessa.errors import InputError


@click.command()
@optional_path("--aligner", "Folder of a fitted aligner.")
@optional_path("--encoder", "Folder of a trained encoder.")
@optional_path("--calibration", "Calibration of the aligner's scores to store.")
@optional_path("--threshold", "Threshold of the aligner's scores to store; see nessa threshold.")
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

    Example: nessa export --aligner recipes/mini/exp/aligners/nessa/new-old --output onnx

    Example: nessa export --encoder recipes/mini/exp/encoders/new --output onnx
    --license CC-BY-4.0 --training-data "synthetic speech of espeak-ng"
    """
    from nessa.alignment.store import load
    from nessa.encoders.models import load_model
    from nessa.encoders.trained import TrainedModel
    from nessa.evaluation.threshold import threshold_facts
    from nessa.production import export_aligner, export_encoder
    from nessa.scoring.calibration import read_calibration

    facts = {"license": license, "training_data": training_data}
    known = {name: text for name, text in facts.items() if text}
    if aligner and not encoder:
        fitted = read_calibration(calibration) if calibration else None
        if threshold:
            known |= threshold_facts(threshold)
        for line in export_aligner(load(aligner), output, fitted, known):
            click.echo(line)
    elif encoder and not (aligner or calibration or threshold):
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
    compared with its source, mapped again.

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
