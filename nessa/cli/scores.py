"""Scores: score, calibrate, threshold, evaluate."""

from pathlib import Path
from typing import Literal

import click

from nessa.cli.options import (
    COUNT,
    NUMBER,
    PathType,
    check_output,
    optional_path,
    path_option,
    refuse_given,
    utt2dur_option,
)

aligner_option = optional_path(
    "--aligner",
    "Aligner that made the (new) scores; the result is tied to it and its update direction. Omit "
    "it only for scores of one model on both sides, as of a gallery's profiles of the new model; "
    "never export such a result.",
)


@click.command()
@path_option("--enroll", "Embeddings of the enrollment side.")
@path_option("--runtime", "Embeddings of the runtime side.")
@path_option("--trials", "Trial list, with or without labels, as any toolkit writes it.")
@optional_path("--enroll-map", "Profiles (`profile utterance ...`), averaged unless mapped before.")
@click.option(
    "--exemplars",
    type=click.Choice(["max", "mean"]),
    help="Combine the cosines with each utterance of a profile, instead of averaging it.",
)
@optional_path("--enroll-cohort", "AS-norm: cohort of the enrollment side.")
@optional_path("--runtime-cohort", "AS-norm: cohort of the runtime side.")
@click.option(
    "--top-n", default=300, type=COUNT, show_default=True, help="AS-norm: number of top scores."
)
@optional_path("--calibration", "Calibration by which to write log likelihood ratios.")
@utt2dur_option
@path_option("--output", "Score file: `enroll test score` lines, in trial order.")
def score(
    enroll: Path,
    runtime: Path,
    trials: Path,
    enroll_map: Path | None,
    exemplars: Literal["max", "mean"] | None,
    enroll_cohort: Path | None,
    runtime_cohort: Path | None,
    top_n: int,
    calibration: Path | None,
    utt2dur: Path | None,
    output: Path,
) -> None:
    """Score trials by cosine; print EER and minDCF if they are labeled.

    With both cohorts, two-sided AS-norm. With --calibration, natural-log likelihood ratios.
    Profiles that the embeddings do not hold need --enroll-map; with it, mapped embeddings without a
    profile, or with one of other utterances, are refused. A profile is averaged, then mapped: give
    the same map to nessa map.
    Memory: the embeddings, and about 80 bytes per trial; with --exemplars, 55 more per cosine.

    Example: nessa score --enroll recipes/mini/exp/mapped/nessa/new-old/eval/enroll
    --runtime recipes/mini/exp/mapped/nessa/new-old/eval/runtime
    --trials recipes/mini/data/eval/trials --output scores
    """
    from nessa.scoring.sides import score_trials

    check_output()
    if (enroll_cohort is None) != (runtime_cohort is None):
        raise click.UsageError("--enroll-cohort and --runtime-cohort go together")
    if exemplars is not None and (enroll_map is None or enroll_cohort is not None):
        raise click.UsageError("--exemplars goes with --enroll-map, and without cohorts")
    if exemplars is not None and calibration is not None:
        raise click.UsageError("--exemplars goes without --calibration, which is of averages")
    if utt2dur is not None and calibration is None:
        raise click.UsageError("--utt2dur is for --calibration")
    if enroll_cohort is None:
        refuse_given("is for AS-norm, which needs both cohorts", "top_n")
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
        exemplars=exemplars,
    )
    click.echo(line)


@click.command()
@path_option("--trials", "Labeled trials of a dev set.")
@path_option("--scores", "Scores of these trials, in any order.")
@click.option("--p-target", default=0.01, show_default=True, help="Target prior to optimize for.")
@utt2dur_option
@optional_path(
    "--enroll-map",
    "Profiles of the trials (`profile utterance ...`); their size is a quality measure.",
)
@aligner_option
@path_option("--output", "Calibration file (JSON), for nessa score --calibration.")
def calibrate(
    trials: Path,
    scores: Path,
    p_target: float,
    utt2dur: Path | None,
    enroll_map: Path | None,
    aligner: Path | None,
    output: Path,
) -> None:
    """Fit a map from scores to natural-log likelihood ratios, by logistic regression.

    Fit one per pair of enrollment and runtime model; then one threshold serves all pairs. Scores
    within [-1, 1] count as cosines, others as AS-norm scores; the calibration is refused for the
    other kind. Not for scores made with --exemplars.
    Memory: about 200 bytes per trial.

    Example: nessa calibrate --trials recipes/mini/data/dev/trials
    --scores recipes/mini/exp/scores/nessa/new-old/dev/trials.scores
    --aligner recipes/mini/exp/aligners/nessa/new-old --output calibration.json
    """
    from nessa.alignment.store import load
    from nessa.scoring.calibration import fit_calibration

    check_output()
    own = load(aligner) if aligner else None
    fitted = fit_calibration(
        trials,
        scores,
        output,
        p_target,
        utt2dur,
        enroll_map,
        pair=own.pair() if own else None,
        space=own.space() if own else None,
        enroll=own.map_digest("enroll") if own else None,
    )
    click.echo(f"{output}: {fitted}")


@click.command()
@click.option("--threshold", "value", type=float, required=True, help="The threshold in use.")
@click.option(
    "--convention",
    type=click.Choice(["cosine", "distance", "half", "score"]),
    default="cosine",
    show_default=True,
    help="Scale of --threshold: cosine; distance, 1 - cosine; half, (1 + cosine) / 2; score, any "
    "other.",
)
@path_option("--trials", "Labeled trials.")
@path_option(
    "--old", "Cosines of these trials by the system in use; with --convention score, its scores."
)
@path_option("--new", "Scores of these trials by the new system.")
@path_option("--utt2spk", "Speakers (`utterance speaker`), for the intervals.")
@optional_path("--enroll-map", "Profiles of the trials (`profile utterance ...`).")
@optional_path("--utt2dur", "Durations (`utterance seconds`): adds a threshold per class of them.")
@click.option(
    "--unsure",
    metavar="F",
    type=click.FloatRange(1, min_open=True),
    help="Also print the band of scores between F times and 1/F of the false-accept rate.",
)
@click.option("--draws", default=1000, type=COUNT, show_default=True, help="Bootstrap draws.")
@click.option("--seed", type=NUMBER, default=1, show_default=True, help="Seed of the draws.")
@aligner_option
@optional_path("--output", "Threshold file (JSON), for nessa export --threshold.")
def threshold(
    value: float,
    convention: str,
    trials: Path,
    old: Path,
    new: Path,
    utt2spk: Path,
    enroll_map: Path | None,
    utt2dur: Path | None,
    unsure: float | None,
    draws: int,
    seed: int,
    aligner: Path | None,
    output: Path | None,
) -> None:
    """Carry a threshold over to a new system: the one with the same false-accept rate.

    With --utt2dur, each third of the test durations gets a threshold with that rate as well.
    Memory: about 220 bytes per trial, and 2 kB per speaker.

    Example: nessa threshold --threshold 0.7 --trials recipes/mini/data/dev/trials
    --old recipes/mini/exp/scores/raw/old-old/dev/trials.scores
    --new recipes/mini/exp/scores/nessa/old-new/dev/trials.scores
    --utt2spk recipes/mini/data/dev/utt2spk --aligner recipes/mini/exp/aligners/nessa/old-new
    --output threshold.json
    """
    from nessa.alignment.store import load
    from nessa.evaluation.threshold import as_record, carry_over_files
    from nessa.files import write_json

    check_output()
    own = load(aligner) if aligner else None
    pair, enroll = (own.pair(), own.map_digest("enroll")) if own else (None, None)
    found = carry_over_files(
        value,
        convention,
        trials,
        old,
        new,
        utt2spk,
        enroll_map=enroll_map,
        utt2dur=utt2dur,
        unsure=unsure,
        draws=draws,
        seed=seed,
        pair=pair,
    )
    if output is not None:
        write_json(output, as_record(found, pair, enroll))
    for one in found:
        click.echo(one)


@click.command()
@optional_path("--trials", "Labeled trial list.")
@optional_path(
    "--scores",
    "Score files: `enroll test score`, optionally with a label.",
    metavar="FILE...",
    multiple=True,
)
@click.argument("more_scores", nargs=-1, type=PathType, metavar="")
@click.option("--llr", is_flag=True, help="The scores are natural-log likelihood ratios.")
@optional_path("--utt2spk", "Speakers (`utterance speaker`), for intervals.")
@optional_path("--enroll-map", "Profiles of the trials (`profile utterance ...`).")
@optional_path("--identify", "Data directory of the speakers to identify.", metavar="DIR")
@optional_path("--enroll", "Identification: enrollment embeddings.")
@optional_path("--runtime", "Identification: runtime embeddings.")
@optional_path(
    "--similarity",
    "Identification: raw embeddings by which hard households are drawn; repeatable.",
    multiple=True,
)
@click.option(
    "--draws", default=1000, type=COUNT, show_default=True, help="Number of bootstrap draws."
)
@click.option(
    "--seed",
    type=NUMBER,
    default=1,
    show_default=True,
    help="Seed of the bootstrap and of the protocol.",
)
@optional_path("--output", "Also write the results (JSON).")
def evaluate(
    trials: Path | None,
    scores: tuple[Path, ...],
    more_scores: tuple[Path, ...],
    llr: bool,
    utt2spk: Path | None,
    enroll_map: Path | None,
    identify: Path | None,
    enroll: Path | None,
    runtime: Path | None,
    similarity: tuple[Path, ...],
    draws: int,
    seed: int,
    output: Path | None,
) -> None:
    """Compute the error rates of score files, of any system or toolkit.

    Scores are matched to trials by their ids; a file of labels and scores alone, by order. With
    --utt2spk, intervals come from a joint speaker bootstrap, and several files are compared with
    the first one on the same draws.

    With --identify, the speakers of a data directory (utt2spk, optionally utt2session and
    enroll_map) are identified by embeddings of two sides in one space: closed set, open set, and
    households of 2 to 7 profiles with impostors. Without utt2session, every utterance is a session
    of its own. Hard households are of speakers alike by --similarity: give the raw embeddings of
    all models of a comparison, the same for all systems. Without it, they are drawn by the two
    sides, and results of different systems are not comparable.

    Memory: about 220 bytes per trial, 20 more for each further score file, and 2 kB per speaker.
    With --identify, all embeddings given, the two sides once more, and about 30 bytes per pair of
    speakers.

    Example: nessa evaluate --trials recipes/mini/data/eval/trials
    --utt2spk recipes/mini/data/eval/utt2spk
    --scores recipes/mini/exp/scores/logit/new-old/eval/trials.scores
    recipes/mini/exp/scores/nessa/new-old/eval/trials.scores

    Example: nessa evaluate --identify recipes/mini/data/eval
    --enroll recipes/mini/exp/mapped/nessa/new-old/eval/enroll
    --runtime recipes/mini/exp/mapped/nessa/new-old/eval/runtime
    --similarity recipes/mini/exp/embeddings/old/eval
    --similarity recipes/mini/exp/embeddings/new/eval
    """
    from nessa.files import write_json

    check_output()
    if identify is not None:
        from nessa.evaluation.rates import identify_sides
        from nessa.report.identification import format_identification

        of_scores = ("trials", "scores", "more_scores", "llr", "utt2spk", "enroll_map")
        refuse_given("not with --identify, which would ignore it", *of_scores)
        if enroll is None or runtime is None:
            raise click.UsageError("--identify takes --enroll and --runtime")
        records = identify_sides(identify, enroll, runtime, draws, seed, similarity)
        text = format_identification(records)
    else:
        from nessa.evaluation.score_files import compare_score_files, format_comparison

        if trials is None or not scores:
            raise click.UsageError("give --trials and --scores, or --identify")
        refuse_given("is for --identify", "enroll", "runtime", "similarity")
        if utt2spk is None:
            refuse_given("is for the intervals, which need --utt2spk", "draws", "seed")
        if enroll_map is not None and utt2spk is None:
            raise click.UsageError("--enroll-map is for the intervals, which need --utt2spk")
        files = [*scores, *more_scores]
        records = compare_score_files(trials, files, llr, utt2spk, enroll_map, draws, seed)
        text = format_comparison(records)
    if output is not None:
        write_json(output, records)
    click.echo(text)
