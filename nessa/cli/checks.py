"""Checks: validate, check-encoder, doctor."""

from pathlib import Path

import click

from nessa.cli.options import COUNT, PathType, optional_path, refuse_given
from nessa.errors import InputError


@click.command()
@click.argument("directory", type=PathType)
@click.option(
    "--headers-only",
    is_flag=True,
    help="Read headers, and audio to its first sound only (float WAV and MP3: all).",
)
@click.option("--allow-pipes", is_flag=True, help="Run the commands of wav.scp.")
@click.option("--nj", default=1, type=COUNT, show_default=True, help="Number of processes.")
def validate(directory: Path, headers_only: bool, allow_pipes: bool, nj: int) -> None:
    """Check a Kaldi data directory or an embeddings directory; report problems and their fixes.

    Beyond Kaldi's own validation: trials and profiles, all audio and features, and every
    embedding. A folder of sets (train, align, dev, eval) is checked set by set, and for speakers
    shared by two sets (align may share train's). Warns if the median durations of align, dev and
    eval differ by a factor of two.
    Memory: twice the embeddings, 450 bytes per utterance and 40 per trial, of one set at a time.

    Example: nessa validate recipes/mini/data/eval

    Example: nessa validate recipes/mini/data
    """
    from nessa.corpus.domains import warn_of_names
    from nessa.corpus.durations import warn_of_durations
    from nessa.corpus.tables import has_contents
    from nessa.corpus.validation import directories_of, shared_speakers, validate
    from nessa.kaldi.datadir import is_there

    directories = directories_of(directory)
    decode = not headers_only
    problems = [
        problem
        for each in directories
        for problem in validate(each, decode=decode, allow_pipes=allow_pipes, nj=nj)
    ]
    problems += shared_speakers(directories)
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    warn_of_durations(directory)
    for each in directories:
        if each.name != "train":
            warn_of_names(each)
        valid = "valid"
        if is_there(each / "utt2spk") and not has_contents(each):
            valid += ", for given embeddings (recipe arks): there is no wav.scp and no feats.scp"
        click.echo(f"{each}: {valid}")


@click.command("check-encoder")
@click.argument("encoder", type=PathType)
@optional_path("--data", "Data folder of a recipe, whose utterances are the reference.")
@click.option("--set", "set_name", default="eval", show_default=True, help="Set of --data.")
@optional_path("--audio", "Reference speech: <speaker>/**/*.wav, two speakers or more.")
@optional_path("--original", "Folder of the model that ENCODER should match, as before its export.")
def check_encoder(
    encoder: Path, data: Path | None, set_name: str, audio: Path | None, original: Path | None
) -> None:
    """Check that an encoder is used as it was trained, before anything is fitted to it.

    ENCODER is a folder with config.yaml, as exp/encoders/<model>. The same audio must give the same
    embedding, whatever else is in the batch; silence must not give NaN; no dimension may be dead;
    and no other scale, mean normalization or window of `features` may tell speakers apart much
    better, or agree with --original. Each fault comes with the setting that mends it. Reference
    speech is made by espeak-ng if none is given. Exit status: 2 if there are faults.

    Example: nessa check-encoder recipes/mini/exp/encoders/new --data recipes/mini/data
    """
    from tempfile import TemporaryDirectory

    from nessa.corpus.config import SetSize
    from nessa.encoders import selftest
    from nessa.synth import synthesize_corpus

    if data is not None and audio is not None:
        raise click.UsageError("give --data or --audio")
    if data is None:
        refuse_given("is for --data", "set_name")
    subject = selftest.open_encoder(encoder)  # before speech is made for it
    known = selftest.open_encoder(original) if original else None
    with TemporaryDirectory() as folder:
        if data is not None:
            cuts = selftest.reference_of(data, set_name)
        else:
            if audio is None:
                size = SetSize(speakers=selftest.SPEAKERS, sessions=2, utterances=2)
                synthesize_corpus(Path(folder) / "corpus", {"eval": size})
            cuts = selftest.reference_in(audio or Path(folder) / "corpus/wav")
        faults = 0
        for finding in selftest.check_encoder(subject, cuts, known):
            click.echo(finding)
            faults += finding.fault is not None
    if faults:
        raise InputError(f"{encoder}: {faults} fault{'s' * (faults > 1)}, see above")


@click.command()
def doctor() -> None:
    """Print versions, the machine, missing optional dependencies, and what to do next.

    Example: nessa doctor
    """
    from nessa.cli.doctor import diagnose

    for line in diagnose():
        click.echo(line)
