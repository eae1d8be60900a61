"""Checks: validate, doctor."""

from pathlib import Path

import click

from nessa.cli.options import PathType
from nessa.errors import InputError


@click.command()
@click.argument("directory", type=PathType)
def validate(directory: Path) -> None:
    """Check a Kaldi data directory or an embeddings directory; report problems and their fixes.

    Beyond Kaldi's own validation: trials and profiles, audio and feature headers, and every
    embedding.

    Example: nessa validate recipes/mini/data/eval
    """
    from nessa.corpus.validation import validate

    problems = validate(directory)
    if problems:
        raise InputError("\n".join(problems))
    click.echo(f"{directory}: valid")


@click.command()
def doctor() -> None:
    """Print versions, the machine, and missing optional dependencies.

    Example: nessa doctor
    """
    from nessa.cli.doctor import diagnose

    for line in diagnose():
        click.echo(line)
