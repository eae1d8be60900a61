"""Checks: validate, doctor."""

from pathlib import Path

import click

from nessa.cli.options import COUNT, PathType
from nessa.errors import InputError


@click.command()
@click.argument("directory", type=PathType)
@click.option("--headers-only", is_flag=True, help="Do not read audio and features to their end.")
@click.option("--allow-pipes", is_flag=True, help="Run the commands of wav.scp.")
@click.option("--nj", default=1, type=COUNT, show_default=True, help="Number of processes.")
def validate(directory: Path, headers_only: bool, allow_pipes: bool, nj: int) -> None:
    """Check a Kaldi data directory or an embeddings directory; report problems and their fixes.

    Beyond Kaldi's own validation: trials and profiles, all audio and features, and every
    embedding. A folder of sets (train, align, dev, eval) is checked set by set, with a warning
    where the median durations of align, dev and eval differ by a factor of two.

    Example: nessa validate recipes/mini/data/eval

    Example: nessa validate recipes/mini/data
    """
    from nessa.corpus.durations import warn_of_durations
    from nessa.corpus.tables import has_contents
    from nessa.corpus.validation import directories_of, validate

    directories = directories_of(directory)
    decode = not headers_only
    problems = [
        problem
        for each in directories
        for problem in validate(each, decode=decode, allow_pipes=allow_pipes, nj=nj)
    ]
    if problems:
        raise InputError("\n".join(problems))
    warn_of_durations(directory)
    for each in directories:
        valid = "valid"
        if (each / "utt2spk").exists() and not has_contents(each):
            valid += ", for given embeddings (recipe arks): there is no wav.scp and no feats.scp"
        click.echo(f"{each}: {valid}")


@click.command()
def doctor() -> None:
    """Print versions, the machine, and missing optional dependencies.

    Example: nessa doctor
    """
    from nessa.cli.doctor import diagnose

    for line in diagnose():
        click.echo(line)
