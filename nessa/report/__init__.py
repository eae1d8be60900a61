"""Stage 9: all metrics of a run as results.json, as a page in Markdown and HTML, and figures."""

import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from nessa.errors import InputError
from nessa.evaluation.conditions import Condition, read_conditions
from nessa.files import atomic_open, read_json, write_json
from nessa.metrics import table
from nessa.recipe.config import Recipe
from nessa.recipe.gallery import mixed_gallery
from nessa.recipe.scoring import read_condition_scores
from nessa.recipe.stages import stage_digest
from nessa.recipe.studies import read_studies
from nessa.recipe.systems import NESSA, RAW, System
from nessa.recipe.thresholds import read_cells, threshold_costs
from nessa.report.calibration import calibration_section, write_calibration_figures
from nessa.report.identification import identification_section
from nessa.report.logs import read_stage_logs
from nessa.report.page import FigureFile, write_page
from nessa.report.plots import write_det, write_gains, write_gallery, write_spaces
from nessa.report.sentences import compare_systems, nessa_cost
from nessa.report.studies import AXES, TITLES, study_sections, write_study_figures
from nessa.report.tables import format_records, legend, markdown_table, normalization_section
from nessa.scoring.sides import Scores

__all__ = ["write_report"]

METRICS = {"symmetric": 5, "asymmetric": 8}  # file in exp/metrics -> the stage that writes it
STAGE = 9
FIELDS = {
    "recipe", "aligner", "enroll", "runtime", "trials", "seed", "targets", "nontargets",
    "gain", "gain_ci", "as_norm", *table.LLR_METRICS,
}  # fmt: skip


def write_report(recipe: Recipe, exp: Path, data: Path, results_page: Path | None = None) -> str:
    """Write results.json, report/results.md with its figures, and what only these show.

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
    figures = [*_gains_and_spaces(recipe, exp, data, records), *_figures(exp / "report", studies)]
    page, results = exp / "report" / "results.md", exp / "results.json"
    with atomic_open(page) as file:
        sections = [
            *normalization_section(recipe, records),
            *calibration_section(recipe, records, thresholds),
            *identification_section(identification),
            *_gallery_section(gallery),
            *study_sections(studies),
        ]
        text = _markdown(recipe, records, comparisons, sections)
        file.write(text)
    if results_page is not None:
        with atomic_open(results_page) as file:
            file.write(without_figures(text))
    write_json(results, records)
    index = exp / "report" / "index.html"
    write_page(
        index,
        recipe,
        records,
        comparisons,
        figures,
        list(read_stage_logs(exp / "log")),
        yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        _circumstances(recipe),
    )
    paths = [str(path) for path in (results, page, index, *plots)]
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


def _circumstances(recipe: Recipe) -> dict[str, str]:
    """What a figure depends on beside the settings: seed, machine and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lhotse", "numpy"))
    return {
        "Seed": str(recipe.seed),
        "Machine": f"{platform.machine()} with {os.cpu_count()} cores",
        "Versions": f"Python {platform.python_version()}, {versions}",
        "Settings": f"digest {stage_digest(recipe, STAGE)[:12]}",
    }


def _gains_and_spaces(
    recipe: Recipe, exp: Path, data: Path, records: Sequence[dict[str, Any]]
) -> Iterator[FigureFile]:
    folder = exp / "report"
    if write_gains(records, folder / "gains"):
        yield FigureFile(
            "Gain of every aligner",
            "Bars of the recovered gain of every aligner in both update directions, against 60 %.",
            folder / "gains.svg",
            "Single-utterance trials; black lines are 95 % intervals.",
        )
    if (exp / "aligners" / NESSA).is_dir():
        write_spaces(recipe, exp, data / "eval", folder / "spaces")
        yield FigureFile(
            "The two spaces, before and after",
            "Embeddings of eight eval speakers, a color each: by the old model, by the new model, "
            "and by both in the shared space, where speakers lie together whatever the model.",
            folder / "spaces.svg",
            "The plane of the two largest principal components of each panel.",
        )


def _figures(folder: Path, studies: Mapping[str, Any]) -> list[FigureFile]:
    """The figures that are there."""
    seed = "NESSA's curve is that of its first seed."
    figures = [
        FigureFile(
            "DET curves",
            "Miss rate over false alarm rate of every system, a panel per update direction.",
            folder / "det.svg",
            f"Single-utterance trials. {seed}",
        ),
        FigureFile(
            "While profiles move to the new model",
            "EER over the share of profiles that are still the old model's, by runtime model.",
            folder / "gallery.svg",
        ),
        FigureFile(
            "Scores before and after calibration",
            "Histograms of target and non-target scores in the four cells of an update; below, as "
            "log likelihood ratios.",
            folder / "calibration.svg",
        ),
        *(
            FigureFile(
                TITLES[name],
                f"Recovered gain over {AXES[name]}, both update directions.",
                folder / f"study_{name}.svg",
            )
            for name in studies
            if name in AXES
        ),
    ]
    return [figure for figure in figures if figure.path.is_file()]


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


def without_figures(text: str) -> str:
    """A page of results (Markdown) less its figures, and headings that have nothing else."""
    kept = re.sub(r"^!\[.*\n", "", text, flags=re.MULTILINE)
    kept = re.sub(r"^## .*\n\s*(?=^## |\Z)", "", kept, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", kept).rstrip("\n") + "\n"


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
        f"digest `{stage_digest(recipe, STAGE)[:12]}`. Seed {recipe.seed}; "
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
