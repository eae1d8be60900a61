"""Score files of one trial list, of any toolkit, side by side."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nessa.errors import about
from nessa.files import Record
from nessa.kaldi.datadir import read_speaker_table
from nessa.metrics import table
from nessa.metrics.bootstrap import bootstrap, difference, figures
from nessa.metrics.roc import Roc, act_dcf
from nessa.scoring.matching import read_scores_of
from nessa.text import Row, cost, plain_columns, with_interval, wrapped
from nessa.trials import (
    Trials,
    read_enroll_map,
    read_labeled,
    trial_speakers,
)

log = logging.getLogger(__name__)
P_TARGET_05 = 0.05  # of the costs whose keys end in "_05"


def compare_score_files(
    trials: Path,
    files: Sequence[Path],
    llr: bool = False,
    utt2spk: Path | None = None,
    enroll_map: Path | None = None,
    draws: int = 1000,
    seed: int = 1,
) -> list[Record]:
    """The error rates of each score file, and how far they lie above those of the first.

    Args:
        trials: a labeled list.
        files: scores of exactly these trials, as any toolkit writes them.
        llr: the scores are natural-log likelihood ratios, whose calibration is measured too.
        utt2spk: {utterance: speaker}, for intervals; None: no intervals.
        enroll_map: of the profiles that the trials name.
        draws, seed: of the joint speaker bootstrap.

    Returns:
        A record per file: {"scores", "trials", "targets", "nontargets"}, how its scores were
        matched where that was not by equal ids ("matched"), the metrics of the tables ("eer",
        "min_dcf") and "min_dcf_05"; with `llr` also "act_dcf", "act_dcf_05", "cllr" and
        "min_cllr"; with speakers also "eer_ci", "min_dcf_ci" and, except for the first file,
        "over_first", "over_first_ci", "min_dcf_over_first", "min_dcf_over_first_ci". Costs are 1,
        the prior 0.01, or 0.05 where the name says so. Rates are fractions, intervals [low, high].

    Raises:
        InputError: no labels, scores of other trials than these, or a trial without a speaker.
    """
    wanted = read_labeled(trials)
    labels = wanted.known_labels
    read = [read_scores_of(wanted, path) for path in files]
    scores = [values for values, _ in read]
    records: list[Record] = []
    for path, (values, how) in zip(files, read, strict=True):
        with about(trials):
            roc = Roc.of(values, labels)
        if fault := roc.reversal():
            log.warning("%s: %s", path, fault)
        record: Record = {"scores": str(path), "trials": str(trials)}
        record |= {"targets": wanted.targets, "nontargets": wanted.nontargets}
        if how:
            record["matched"] = how
        record |= {metric.key: metric.of(roc) for metric in table.METRICS}
        record["min_dcf_05"] = roc.min_dcf(P_TARGET_05)
        if llr:
            record |= {key: metric(values, labels) for key, metric in table.LLR_METRICS.items()}
            record["act_dcf_05"] = act_dcf(values, labels, P_TARGET_05)
        records.append(record)
    if utt2spk is not None:
        speakers = read_trial_speakers(trials, wanted, utt2spk, enroll_map)
        with about(trials, utt2spk):
            drawn = bootstrap(scores, labels, *speakers, draws=draws, seed=seed)
        for number, record in enumerate(records):
            for key, estimate in drawn[number].items():
                record[f"{key}_ci"] = list(estimate.interval)
                if number > 0:
                    record |= figures(_over_first(key), difference(estimate, drawn[0][key]))
    return records


def _over_first(key: str) -> str:
    """The key of a metric's excess over the first file's."""
    return "over_first" if key == table.EER.key else f"{key}_over_first"


def read_trial_speakers(
    path: Path, trials: Trials, utt2spk: Path, enroll_map: Path | None
) -> tuple[list[str], list[str]]:
    """The speakers on the two sides of each trial of the list `path`; see `trial_speakers`."""
    profiles = read_enroll_map(enroll_map)
    speakers = read_speaker_table(utt2spk)
    with about(path, utt2spk, *([enroll_map] if enroll_map is not None else [])):
        return trial_speakers(trials, speakers, profiles)


def format_comparison(records: Sequence[Record]) -> str:
    """The records of `compare_score_files` as a table for the terminal, and what it shows."""
    first = records[0]
    bounded, calibrated, several = "eer_ci" in first, "cllr" in first, len(records) > 1
    header: Row = ("scores", *(metric.title for metric in table.METRICS), "minDCF 0.05")
    if calibrated:
        header += ("actDCF", "actDCF 0.05", "Cllr", "minCllr")
    rows = [header]
    for record in records:
        row: Row = (
            record["scores"],
            *(_figure(record, metric.key, metric.show) for metric in table.METRICS),
            cost(record["min_dcf_05"]),
        )
        if calibrated:
            row += tuple(cost(record[n]) for n in ("act_dcf", "act_dcf_05", "cllr", "min_cllr"))
        rows.append(row)
    tables = [plain_columns(rows)]
    if bounded and several:
        tables.append(plain_columns(_differences(records)))
    notes = [
        f"Trials: {first['trials']}: {first['targets']} target, {first['nontargets']} non-target.",
        f"{table.legend()} minDCF 0.05: at p_target = 0.05.",
        *(f"{r['scores']}: {r['matched']}." for r in records if "matched" in r),
    ]
    if calibrated:
        notes.append("actDCF: at the Bayes threshold. Cllr, minCllr: in bits.")
    if bounded:
        notes.append(
            "[low, high]: 95 % interval of a joint speaker bootstrap, paired between files."
        )
    else:
        notes.append(
            "No intervals: trials of one speaker depend on each other, so an interval needs to "
            "know the speakers; give --utt2spk (and --enroll-map for profiles)."
        )
    return "\n\n".join([*tables, wrapped(notes)])


def _figure(record: Record, name: str, number: Any) -> str:
    if f"{name}_ci" in record:
        return with_interval(record[name], record[f"{name}_ci"], number)
    return number(record[name])


def _differences(records: Sequence[Record]) -> list[Row]:
    """How far each file's figures lie above the first one's."""
    header = (f"{m.name}, points" if m.rate else m.name for m in table.METRICS)
    rows: list[Row] = [(f"above {records[0]['scores']}", *header)]
    for record in records[1:]:
        cells = (_figure(record, _over_first(m.key), m.show_difference) for m in table.METRICS)
        rows.append((record["scores"], *cells))
    return rows
