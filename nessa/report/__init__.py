"""Stage 9: all metrics of a run as results.json, a Markdown page and its figures."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nessa.conditions import Condition, read_conditions
from nessa.config import Recipe, stage_digest
from nessa.errors import InputError
from nessa.files import atomic_open, read_json, write_json
from nessa.gallery import mixed_gallery
from nessa.plan import NESSA, RAW, System
from nessa.report.calibration import calibration_section, write_calibration_figures
from nessa.report.comparison import compare_systems
from nessa.report.cost import nessa_cost
from nessa.report.det import write_det
from nessa.report.identification import identification_section
from nessa.report.migration import write_gallery
from nessa.report.normalisation import normalisation_section
from nessa.report.study import study_sections, write_study_figures
from nessa.report.table import format_records, legend, markdown_table
from nessa.studies import read_studies
from nessa.systems import read_condition_scores
from nessa.thresholds import read_cells, threshold_costs
from nessa.verification import Scores

__all__ = ["write_report"]

METRICS = {"symmetric": 5, "asymmetric": 8}  # file in exp/metrics -> the stage that writes it
STAGE = 9
FIELDS = {
    "recipe", "aligner", "enroll", "runtime", "trials", "seed", "targets", "nontargets",
    "eer", "eer_ci", "min_dcf", "min_dcf_ci", "gain", "gain_ci",
    "act_dcf", "cllr", "min_cllr", "as_norm",
}  # fmt: skip


def write_report(recipe: Recipe, exp: Path, data: Path) -> str:
    """Write results.json, report/results.md with its figures, and what only these show.

    That is metrics/thresholds.json and, with NESSA's aligner at hand, metrics/gallery.json.

    Args:
        recipe: the resolved recipe.
        exp: holds metrics/ and scores/.
        data: the recipe's data folder; the trials of its eval set label the DET curves.

    Returns:
        What to print: the table, the comparisons, and where the files are.

    Raises:
        InputError: metrics or scores are missing or unreadable; names the stage to run.
    """
    records = [record for name in METRICS for record in read_metrics(exp, name)]
    comparisons = list(compare_systems(recipe, records))
    if (exp / "encoders").is_dir():  # not where embeddings came from elsewhere
        comparisons += nessa_cost(recipe, exp)
    condition = next(read_conditions(data / "eval"))
    labels = condition.trials.labels
    assert labels is not None
    plots = write_det(_det_panels(recipe, exp, condition), labels, exp / "report" / "det")
    cells = read_cells(recipe, exp / "scores", condition)
    thresholds = threshold_costs(cells, labels)
    write_json(exp / "metrics" / "thresholds.json", thresholds)
    plots += write_calibration_figures(cells, labels, exp / "report")
    gallery: list[dict[str, Any]] = []
    if (exp / "aligners" / NESSA).is_dir():
        gallery = mixed_gallery(recipe, exp, data / "eval")
        write_json(exp / "metrics" / "gallery.json", gallery)
        plots += write_gallery(gallery, exp / "report" / "gallery")
    identification = _read_identification(exp)
    studies = read_studies(exp, recipe)
    plots += write_study_figures(studies, exp / "report")
    page, results = exp / "report" / "results.md", exp / "results.json"
    with atomic_open(page) as file:
        sections = [
            *normalisation_section(recipe, records),
            *calibration_section(recipe, records, thresholds),
            *identification_section(identification),
            *_gallery_section(gallery),
            *study_sections(studies),
        ]
        file.write(_markdown(recipe, records, comparisons, sections))
    write_json(results, records)
    paths = [str(path) for path in (results, page, *plots)]
    return "\n".join([format_records(records), "", *comparisons, "", *paths])


def read_metrics(exp: Path, name: str) -> list[dict[str, Any]]:
    """The records that stage `name` ("symmetric" or "asymmetric") wrote.

    Raises:
        InputError: the file is missing, or holds something else.
    """
    path = exp / "metrics" / f"{name}.json"
    remedy = f"run stage {METRICS[name]} ({name}): ./run.sh --stage {METRICS[name]}"
    if not path.is_file():
        raise InputError(f"{path}: no such file; {remedy}")
    records = read_json(path)
    if not isinstance(records, list):
        raise InputError(f"{path}: expected a list of records; {remedy}")
    for number, record in enumerate(records):
        lacking = FIELDS - record.keys() if isinstance(record, dict) else FIELDS
        if lacking:
            raise InputError(
                f"{path}: record {number} lacks {', '.join(sorted(lacking))}; {remedy}"
            )
    return records


def _read_identification(exp: Path) -> list[dict[str, Any]]:
    path = exp / "metrics" / "identification.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run stage 8 (asymmetric): ./run.sh --stage 8")
    return read_json(path)


def _det_panels(recipe: Recipe, exp: Path, condition: Condition) -> dict[str, dict[str, Scores]]:
    """The curves of one panel per update direction."""

    def read(system: System) -> Scores:
        return read_condition_scores(exp / "scores", system, condition)

    raw = {f"{model} with itself": read(System(RAW, model, model)) for model in recipe.update}
    names = *recipe.baselines, NESSA
    return {
        f"{enroll} enrolls, {runtime} runs": raw
        | {name: read(System(name, enroll, runtime)) for name in names}
        for enroll, runtime in recipe.pairs
    }


def _circumstances(recipe: Recipe) -> str:
    """What a figure depends on beside the settings: seed, machine and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lhotse", "numpy"))
    return (
        f"Seed {recipe.seed}; {platform.machine()} with {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {versions}."
    )


def _gallery_section(gallery: Sequence[dict[str, Any]]) -> list[str]:
    """The mixed-gallery curve as a table and a figure."""
    if not gallery:
        return []
    shares = list(dict.fromkeys(record["old_share"] for record in gallery))
    rows = [
        [runtime, *(f"{100 * r['eer']:.2f}" for r in gallery if r["runtime"] == runtime)]
        for runtime in dict.fromkeys(record["runtime"] for record in gallery)
    ]
    table = [["runtime", *(f"{share:.0%} old" for share in shares)], ["---"] * (len(shares) + 1)]
    return [
        "## Mixed gallery: EER % while the profiles move to the new model",
        "",
        *("| " + " | ".join(row) + " |" for row in [*table, *rows]),
        "",
        "All profiles, whichever model they are from, lie in the space of NESSA's first seed.",
        "",
        "![EER over the share of the old model's profiles](gallery.svg)",
        "",
    ]


def _markdown(
    recipe: Recipe,
    records: Sequence[dict[str, Any]],
    comparisons: Sequence[str],
    sections: Sequence[str],
) -> str:
    seeds = f"NESSA's curve is that of seed {recipe.aligner.seeds[0]}."
    lines = [
        f"# Results of recipe {recipe.name}",
        "",
        f"Made by `./run.sh --recipe {recipe.name}`; settings in `exp/recipe.yaml`, "
        f"digest `{stage_digest(recipe, STAGE)[:12]}`. {_circumstances(recipe)}",
        "",
        markdown_table(records),
        "",
        *(f"- {comparison}" for comparison in comparisons),
        "",
        "## How to read this",
        "",
        *(f"- {line}" for line in legend(records)),
        "",
        "## DET curves, single-utterance trials",
        "",
        f"![Miss against false alarm rate of every system](det.svg) {seeds}",
        "",
        *sections,
    ]
    return "\n".join(lines)
