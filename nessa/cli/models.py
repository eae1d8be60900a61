"""Corpus and models: synth, prepare, train, extract."""

from pathlib import Path

import click

from nessa.cli.options import (
    COUNT,
    NUMBER,
    PathType,
    data_option,
    path_option,
    recipe_option,
    refuse_given,
    relative_option,
    try_folders,
)
from nessa.errors import InputError, about


@click.command()
@recipe_option
@click.option("--nj", type=COUNT, default=1, show_default=True, help="Number of processes.")
@path_option("--output", "Receives wav/<speaker>/<session>/<utterance>.wav and meta.csv.")
def synth(recipe: Path, nj: int, output: Path) -> None:
    """Synthesize a corpus with espeak-ng voices, in VoxCeleb's layout.

    The same recipe gives the same bytes for any --nj.

    Example: nessa synth --recipe recipes/mini/exp/recipe.yaml --output corpus
    """
    from nessa.recipe.resolve import load_recipe
    from nessa.synth import Settings, synthesize_corpus

    settings = load_recipe(recipe)
    synthesize_corpus(output, settings.corpus.sets, Settings(settings.seed), nj)


@click.command()
@recipe_option
@click.argument("data", type=PathType)
def prepare(recipe: Path, data: Path) -> None:
    """Check the sets that a corpus program wrote to DATA; draw trials for sets without any.

    Memory: about 1.4 kB per utterance of the larger of dev and eval; where given embeddings are
    used beside models of audio, their ark or .npz as well.

    Example: nessa prepare --recipe recipes/mini/exp/recipe.yaml recipes/mini/data
    """
    from nessa.corpus.finishing import finish_sets
    from nessa.encoders.arks import lacking_vectors
    from nessa.encoders.kinds import have_embeddings_alone
    from nessa.recipe.resolve import load_recipe
    from nessa.recipe.scoring import cohort_warnings

    settings = load_recipe(recipe)
    has_audio = not have_embeddings_alone(settings.encoders)
    finish_sets(data, settings.prepare, settings.seed, has_audio)
    lacking = lacking_vectors(settings.encoders, data, settings.extraction.sets)
    # Without audio, stage extract comes at once.
    for warning in (*cohort_warnings(data, settings.scoring), *(lacking if has_audio else ())):
        click.echo(f"warning: {warning}")


@click.command()
@recipe_option
@click.option("--model", required=True, help="Encoder of the recipe to train.")
@data_option
@path_option("--output", "Receives config.yaml and model.safetensors.")
@click.option(
    "--workers",
    type=NUMBER,
    default=1,
    show_default=True,
    help="Number of audio loading processes.",
)
@click.option("--tensorboard", is_flag=True, help="Also log the loss to OUTPUT/tensorboard.")
def train(
    recipe: Path, model: str, data: Path, output: Path, workers: int, tensorboard: bool
) -> None:
    """Train a speaker encoder; resumes from a checkpoint of the same training.

    A pretrained model is only checked, and its config.yaml written to OUTPUT. Training with
    several processes: torchrun --nproc-per-node 4 -m nessa.cli train ...
    Memory: about 600 bytes per utterance of the train set, shared by all WORKERS.

    Example: nessa train --recipe recipes/mini/exp/recipe.yaml --model old
    --data recipes/mini/data --output recipes/mini/exp/encoders/old
    """
    from nessa.encoders.config import EncoderConfig
    from nessa.encoders.kinds import parse_settings
    from nessa.encoders.models import save_pretrained
    from nessa.encoders.training import train_encoder
    from nessa.recipe.resolve import load_recipe

    try_folders(output)
    settings = load_recipe(recipe)
    if model not in settings.encoders:
        raise InputError(f"{recipe}: no encoder {model!r}; there are {list(settings.encoders)}")
    with about(recipe):
        config = parse_settings(settings.encoders[model], f"encoders.{model}")
    if isinstance(config, EncoderConfig):
        train_encoder(config, data, output, workers, tensorboard)
    else:
        save_pretrained(output, config)


@click.command()
@path_option("--encoder", "Folder of a trained encoder.")
@data_option
@click.option("--set", "sets", multiple=True, required=True, help="Set of DATA; repeatable.")
@click.option("--shard", default=1, type=COUNT, show_default=True, help="Shard index.")
@click.option("--shards", default=1, type=COUNT, show_default=True, help="Number of shards.")
@click.option("--merge", is_flag=True, help="Merge the extracted shards.")
@click.option("--skip-bad", is_flag=True, help="Skip utterances that cannot be embedded.")
@click.option(
    "--beside",
    multiple=True,
    type=PathType,
    help="OUTPUT of another model; with --merge, leave out what it skipped; repeatable.",
)
@click.option(
    "--batch-seconds", default=60.0, show_default=True, help="Seconds of audio per batch."
)
@click.option(
    "--workers",
    type=NUMBER,
    help="Number of audio loading processes. [default: chosen by timing a batch, up to the "
    "available cores; 0 on a CPU with OMP_NUM_THREADS=1]",
)
@relative_option
@path_option("--output", "Receives one embeddings directory per set.")
def extract(
    encoder: Path,
    data: Path,
    sets: tuple[str, ...],
    shard: int,
    shards: int,
    merge: bool,
    skip_bad: bool,
    beside: tuple[Path, ...],
    batch_seconds: float,
    workers: int | None,
    relative: bool,
    output: Path,
) -> None:
    """Extract embeddings to Kaldi ark/scp: a shard of each set, then --merge.

    Given embeddings (a model of kind arks) are imported by --merge. With --skip-bad,
    OUTPUT/<set>/skipped lists the skipped utterances with their reasons.
    Memory: about 600 bytes per utterance of a set, 2 kB per utterance of a shard, its embeddings
    and one batch of audio; with --merge, the embeddings of a set. An utterance is embedded as a
    whole: with 64 channels, one of two hours takes 2.6 GB (x-vector) or 4.2 GB (ECAPA-TDNN).

    Example: nessa extract --encoder recipes/mini/exp/encoders/old --data recipes/mini/data
    --set eval --output embeddings

    Example: nessa extract --encoder recipes/mini/exp/encoders/old --data recipes/mini/data
    --set eval --output embeddings --merge
    """
    from nessa.encoders.arks import GivenEmbeddings
    from nessa.encoders.models import load_model
    from nessa.encoders.shards import (
        extract_shard,
        forget_shards,
        import_embeddings,
        merge_shards,
    )

    if merge:
        refuse_given("not with --merge, which would ignore it", "shard", "batch_seconds")
    else:
        refuse_given("is for --merge", "beside", "relative")
    if shard > shards:
        raise InputError(f"--shard {shard} is beyond --shards {shards}")
    try_folders(*(output / name for name in sets))
    model = load_model(encoder)
    for name in sets:
        place = data, name, output / name
        if not merge:
            if isinstance(model, GivenEmbeddings):
                forget_shards(output / name)  # before other models are merged, beside this one
            else:
                extract_shard(model, *place, shard, shards, batch_seconds, workers, skip_bad)
            continue
        others = [other / name for other in beside if other != output]
        if lacking := [other for other in others if not other.is_dir()]:
            raise InputError(
                f"--beside: {lacking[0]}: no such folder; name the OUTPUT of a model whose shards "
                f"of set {name} are there"
            )
        if isinstance(model, GivenEmbeddings):
            whole, skipped = import_embeddings(model, *place, others, relative), 0
        else:
            whole, skipped = merge_shards(model, *place, shards, skip_bad, others, relative)
        left_out = f"; {skipped} skipped, see {output / name / 'skipped'}" if skipped else ""
        click.echo(f"{output / name}: {len(whole)} embeddings of dimension {whole.dim}{left_out}")
