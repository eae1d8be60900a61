"""All metrics of a run: results.json, a page in Markdown and HTML, and figures."""

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from nessa.errors import InputError
from nessa.evaluation.conditions import Condition, read_conditions
from nessa.files import Record, atomic_open, read_json, write_json
from nessa.metrics import table
from nessa.recipe.config import Recipe
from nessa.recipe.gallery import mixed_gallery
from nessa.recipe.scoring import read_condition_scores
from nessa.recipe.stages import stage_digest
from nessa.recipe.studies import ROLLOUT, read_studies
from nessa.recipe.systems import NESSA, RAW, System
from nessa.recipe.thresholds import read_cells, threshold_costs
from nessa.report.calibration import calibration_plots, calibration_section
from nessa.report.identification import identification_section
from nessa.report.logs import read_stage_logs
from nessa.report.page import write_page
from nessa.report.plots import Plot, det_plot, gains_plot, gallery_plot, spaces_plot
from nessa.report.rollout import rollout_section
from nessa.report.sentences import compare_systems, nessa_cost, verdicts
from nessa.report.studies import study_plots, study_sections
from nessa.report.tables import format_records, legend, markdown_table, normalization_section
from nessa.scoring.sides import Scores
from nessa.text import Row, markdown_columns, percent

__all__ = ["write_report"]

METRICS = ("symmetric", "asymmetric")  # files in exp/metrics, each by the stage of its name
FIELDS = {
    "recipe", "aligner", "enroll", "runtime", "trials", "seed", "targets", "nontargets",
    "gain", "gain_ci", "controlled_gain", "controlled_gain_ci", "as_norm", *table.LLR_METRICS,
}  # fmt: skip


def write_report(recipe: Recipe, exp: Path, data: Path, results_page: Path | None = None) -> str:
    """Write results.json, report/ with the page and its figures, and what only these show.

    That is metrics/thresholds.json and, with NESSA's aligner at hand, metrics/gallery.json.

    Args:
        recipe: the resolved recipe.
        exp: holds metrics/ and scores/.
        data: the recipe's data folder; the trials of its eval set label the DET curves.
        results_page: receives report/results.md without its figures, as RESULTS.md of a recipe.

    Returns:
        What to print: the table, the comparisons, and where the files are.

    Raises:
        InputError: metrics or scores are missing or unreadable; names the stage to run.
    """
    records = [record for name in METRICS for record in read_metrics(exp, name)]
    identification = _read_identification(exp)
    studies = read_studies(exp, recipe)
    rollout = studies.pop(ROLLOUT, [])
    has_nessa = (exp / "aligners" / NESSA).is_dir()
    comparisons = list(verdicts(recipe, exp)) if has_nessa else []
    comparisons += compare_systems(recipe, records)
    if (exp / "encoders").is_dir():  # not where embeddings came from elsewhere
        comparisons += nessa_cost(recipe, exp)
    condition = next(read_conditions(data / "eval"))
    labels = condition.trials.labels
    assert labels is not None
    cells = read_cells(recipe, exp / "scores", condition)
    thresholds = threshold_costs(cells, labels)
    gallery = mixed_gallery(recipe, exp, data / "eval") if has_nessa else []
    plots = [
        gains_plot(records),
        spaces_plot(recipe, exp, data / "eval") if has_nessa else None,
        det_plot(_det_panels(recipe, exp, condition), labels),
        gallery_plot(gallery) if gallery else None,
        *calibration_plots(cells, labels),
        *study_plots(studies),
    ]
    figures: list[Plot] = [plot for plot in plots if plot is not None]
    write_json(exp / "metrics" / "thresholds.json", thresholds)
    if gallery:
        write_json(exp / "metrics" / "gallery.json", gallery)
    write_json(exp / "results.json", records)
    folder = exp / "report"
    figure_paths = [path for plot in figures for path in plot.save(folder)]
    sections = [
        *normalization_section(recipe, records),
        *calibration_section(recipe, records, thresholds),
        *identification_section(identification),
        *_gallery_section(gallery),
        *study_sections(studies),
        *rollout_section(rollout),
    ]
    text = _markdown(recipe, records, comparisons, sections)
    _write_text(folder / "results.md", text)
    if results_page is not None:
        _write_text(results_page, without_figures(text))
    write_page(
        folder / "index.html",
        recipe,
        records,
        comparisons,
        figures,
        list(read_stage_logs(exp / "log")),
        yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        _circumstances(recipe),
    )
    paths = [exp / "results.json", folder / "results.md", folder / "index.html", *figure_paths]
    return "\n".join([format_records(records), "", *comparisons, "", *map(str, paths)])


def read_metrics(exp: Path, name: str) -> list[Record]:
    """The records that stage `name` ("symmetric" or "asymmetric") wrote.

    Raises:
        InputError: the file is missing, or holds something else.
    """
    path = exp / "metrics" / f"{name}.json"
    remedy = f"run ./run.sh --stage {name}"
    if not path.is_file():
        raise InputError(f"{path}: no such file; {remedy}")
    fields = FIELDS.union(*({m.key, f"{m.key}_ci"} for m in table.METRICS))
    records = read_json(path)
    if not isinstance(records, list):
        raise InputError(f"{path}: expected a list of records; {remedy}")
    for number, record in enumerate(records):
        lacking = fields - record.keys() if isinstance(record, dict) else fields
        if lacking:
            raise InputError(
                f"{path}: record {number} lacks {', '.join(sorted(lacking))}; {remedy}"
            )
    return records


def _read_identification(exp: Path) -> list[Record]:
    path = exp / "metrics" / "identification.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run ./run.sh --stage asymmetric")
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


def _circumstances(recipe: Recipe) -> dict[str, str]:
    """What a figure depends on beside the settings: seed, machine and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lhotse", "numpy"))
    return {
        "Seed": str(recipe.seed),
        "Machine": f"{platform.machine()} with {os.cpu_count()} cores",
        "Versions": f"Python {platform.python_version()}, {versions}",
        "Settings": f"digest {stage_digest(recipe, 'report')[:12]}",
    }


def _gallery_section(gallery: Sequence[Record]) -> list[str]:
    """The mixed-gallery curve as a table and a figure."""
    if not gallery:
        return []
    shares = dict.fromkeys(record["old_share"] for record in gallery)
    rows: list[Row] = [("runtime", *(f"{share:.0%} old" for share in shares))]
    for runtime in dict.fromkeys(record["runtime"] for record in gallery):
        rows.append((runtime, *(percent(r["eer"]) for r in gallery if r["runtime"] == runtime)))
    return [
        "## Mixed gallery: EER % while the profiles move to the new model",
        "",
        markdown_columns(rows),
        "",
        "The profiles of both models lie in the space of NESSA's first seed. The scores of each "
        "pair of models are calibrated on dev by an affine map of their own.",
        "",
        "![EER over the share of the old model's profiles](gallery.svg)",
        "",
    ]


def without_figures(text: str) -> str:
    """A page of results (Markdown) less its figures, and headings that have nothing else."""
    kept = re.sub(r"^!\[.*\n", "", text, flags=re.MULTILINE)
    kept = re.sub(r"^## .*\n\s*(?=^## |\Z)", "", kept, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", kept).rstrip("\n") + "\n"


def _write_text(path: Path, text: str) -> None:
    with atomic_open(path) as file:
        file.write(text)


def _markdown(
    recipe: Recipe,
    records: Sequence[dict[str, Any]],
    comparisons: Sequence[str],
    sections: Sequence[str],
) -> str:
    seeds = f"NESSA: seed {recipe.aligner.seeds[0]}."
    lines = [
        f"# Results of recipe {recipe.name}",
        "",
        f"Made by `./run.sh --recipe {recipe.name}`; settings in `exp/recipe.yaml`, "
        f"digest `{stage_digest(recipe, 'report')[:12]}`. Seed {recipe.seed}; "
        f"{', '.join(list(_circumstances(recipe).values())[1:3])}.",
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
