"""The report of a run: results.json, and a page in Markdown and HTML with its figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nessa.corpus.origins import original_speakers
from nessa.errors import InputError
from nessa.evaluation.conditions import Condition, read_conditions
from nessa.files import Record, atomic_open, read_json, write_json
from nessa.metrics import table
from nessa.recipe.circumstances import (
    METRICS,
    check_recipe,
    other_settings,
    read_circumstances,
    settings_digest,
    warn_of_metrics,
)
from nessa.recipe.config import Recipe
from nessa.recipe.gallery import mixed_gallery
from nessa.recipe.layout import skipped_by_models
from nessa.recipe.scoring import read_condition_scores
from nessa.recipe.studies import read_studies
from nessa.recipe.study_files import ROLLOUT
from nessa.recipe.systems import NESSA, RAW, System
from nessa.recipe.thresholds import read_cells, threshold_costs
from nessa.report.calibration import calibration_plots, calibration_section
from nessa.report.fleet import fleet_plot, update_strategies
from nessa.report.gallery import gallery_plot, gallery_section
from nessa.report.identification import identification_section
from nessa.report.logs import read_stage_logs
from nessa.report.page import write_page
from nessa.report.plots import Plot, det_plot, gains_plot, save_figure
from nessa.report.rollout import rollout_section
from nessa.report.sentences import compare_systems, nessa_cost, verdicts
from nessa.report.spaces import spaces_plot
from nessa.report.studies import study_plots, study_sections
from nessa.report.summary import rivals, summary_page
from nessa.report.tables import (
    by_system,
    format_records,
    legend,
    main_records,
    markdown_table,
    normalization_section,
)
from nessa.scoring.sides import Scores

SUMMARY = "RESULTS"  # begins the name of a page of results
LEFT_OUT = "Left out"  # by --skip-bad
OTHER_SETTINGS = "Metrics of other settings"  # than the recipe's, by --stage
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
        results_page: receives the run on one page, as RESULTS.md of a recipe, or RESULTS-<size>.md
            of another size; its figure lies beside it.

    Returns:
        What to print: the table, the comparisons, and where the files are.

    Raises:
        InputError: the run is of another recipe; or metrics or scores are missing or unreadable;
            names the stage to run.
    """
    check_recipe(recipe, exp)
    warn_of_metrics(recipe, exp)
    records = [record for name in METRICS for record in read_metrics(exp, name)]
    _check_seed(recipe, exp, records)
    identification = _read_identification(exp)
    studies = read_studies(recipe, data, exp)
    rollout = studies.pop(ROLLOUT, [])
    comparisons = _comparisons(recipe, exp, records)
    condition = next(read_conditions(data / "eval"))
    labels = condition.trials.known_labels
    cells = read_cells(recipe, exp / "scores", condition)
    thresholds = threshold_costs(cells, labels)
    gallery = mixed_gallery(recipe, exp, data / "eval") if _has_nessa(exp) else []
    # Studies are of the first list of utterances: other trials, where the main list has profiles.
    on_curve = main_records(records) if condition.enroll_map is None else []
    fleet = fleet_plot(list(update_strategies(recipe, records)))
    plots = [
        fleet,
        det_plot(_det_panels(recipe, exp, condition, records), labels),
        *calibration_plots(cells, labels),
        *study_plots(studies, on_curve, _align_speakers(data)),
        gallery_plot(gallery) if gallery else None,
        gains_plot(records),
        spaces_plot(recipe, exp, data / "eval") if _has_nessa(exp) else None,
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
        *gallery_section(gallery),
        *study_sections(studies),
        *rollout_section(rollout),
    ]
    circumstances = _circumstances(recipe, exp)
    text = _markdown(recipe, records, comparisons, sections, circumstances)
    _write_text(folder / "results.md", text)
    if results_page is not None:
        curve = studies.get("speakers", [])
        _write_summary(results_page, recipe, records, curve, circumstances, fleet)
    write_page(
        folder / "index.html",
        recipe,
        records,
        comparisons,
        figures,
        list(read_stage_logs(exp / "log")),
        yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        circumstances,
    )
    paths = [exp / "results.json", folder / "results.md", folder / "index.html", *figure_paths]
    return "\n".join([format_records(records), "", *comparisons, "", *map(str, paths)])


def _has_nessa(exp: Path) -> bool:
    return (exp / "aligners" / NESSA).is_dir()


def _comparisons(recipe: Recipe, exp: Path, records: Sequence[Record]) -> list[str]:
    """What the report says first, a sentence each."""
    found = list(verdicts(recipe, exp)) if _has_nessa(exp) else []
    found += compare_systems(recipe, records)
    if (exp / "encoders").is_dir():  # not where embeddings came from elsewhere
        found += nessa_cost(recipe, exp)
    return found


def _align_speakers(data: Path) -> int:
    """How many speakers the align set has; 0 where it is not there."""
    align = data / "align"
    return len(set(original_speakers(align).values())) if align.is_dir() else 0


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


def _check_seed(recipe: Recipe, exp: Path, records: Sequence[Record]) -> None:
    """Refuse metrics whose `nessa` is of another seed than the recipe's first."""
    first = recipe.aligner.seeds[0]
    made = next((record["seed"] for record in records if record["aligner"] == NESSA), first)
    if made != first:
        raise InputError(
            f"{exp / 'metrics' / 'asymmetric.json'}: nessa is of seed {made}, but aligner.seeds "
            f"begins with {first}; run ./run.sh --stage align, or begin aligner.seeds with {made}"
        )


def _read_identification(exp: Path) -> list[Record]:
    path = exp / "metrics" / "identification.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run ./run.sh --stage asymmetric")
    return read_json(path)


def _det_panels(
    recipe: Recipe, exp: Path, condition: Condition, records: Sequence[Record]
) -> dict[str, dict[str, Scores]]:
    """The curves of one panel per update direction: raw models, rivals as summarized, NESSA."""
    systems = by_system(main_records(records))

    def read(system: System) -> Scores:
        return read_condition_scores(exp / "scores", system, condition)

    raw = {f"{model} with itself": read(System(RAW, model, model)) for model in recipe.update}
    return {
        f"{enroll} enrolls, {runtime} runs": raw
        | {
            name: read(System(name, enroll, runtime))
            for name in (*rivals(systems, (enroll, runtime)), NESSA)
        }
        for enroll, runtime in recipe.pairs
    }


def _circumstances(recipe: Recipe, exp: Path) -> dict[str, str]:
    """What a figure depends on beside the settings: seed, machine, versions, what is left out."""
    return {
        "Seed": str(recipe.seed),
        **read_circumstances([exp / "metrics" / f"{name}.json" for name in METRICS]),
        "Settings": f"digest {settings_digest(recipe)}",
        **_other_settings(recipe, exp),
        **_left_out(recipe, exp),
    }


def _other_settings(recipe: Recipe, exp: Path) -> dict[str, str]:
    """Which metrics were made with other settings than the recipe's, and by what they are known."""
    others = other_settings(recipe, exp)
    text = ", ".join(f"{stage} (digest {own})" for stage, own in others.items())
    return {OTHER_SETTINGS: text} if text else {}


def _left_out(recipe: Recipe, exp: Path) -> dict[str, str]:
    """How many utterances all systems do without, as a model cannot embed them."""
    counts = {}
    for name in recipe.extraction.sets:
        counts[name] = len(skipped_by_models(exp, recipe.encoders, name))
    text = ", ".join(f"{count} utterances of {name}" for name, count in counts.items() if count)
    return {LEFT_OUT: text} if text else {}


def _write_summary(
    page: Path,
    recipe: Recipe,
    records: Sequence[Record],
    curve: Sequence[Record],
    made: Mapping[str, str],
    plot: Plot,
) -> None:
    """The run on one page, with its figure beside it."""
    size = page.stem.removeprefix(SUMMARY).lstrip("-") if page.stem.startswith(SUMMARY) else ""
    _write_text(page, summary_page(recipe, records, curve, made, size, f"{page.stem}.svg"))
    save_figure(plot.figure, page.with_suffix(".svg"))


def _write_text(path: Path, text: str) -> None:
    with atomic_open(path) as file:
        file.write(text)


def _markdown(
    recipe: Recipe,
    records: Sequence[dict[str, Any]],
    comparisons: Sequence[str],
    sections: Sequence[str],
    circumstances: Mapping[str, str],
) -> str:
    shown = [circumstances["Machine"], circumstances["Versions"]]
    further = (key for key in (OTHER_SETTINGS, LEFT_OUT) if key in circumstances)
    shown += [f"{key.lower()}: {circumstances[key]}" for key in further]
    seeds = f"NESSA: seed {recipe.aligner.seeds[0]}."
    lines = [
        f"# Results of recipe {recipe.name}",
        "",
        f"Settings in `exp/recipe.yaml`, digest `{settings_digest(recipe)}`. "
        f"Seed {recipe.seed}; {', '.join(shown)}.",
        "",
        markdown_table(records),
        "",
        *(f"- {comparison}" for comparison in comparisons),
        "",
        "## How to read this",
        "",
        *(f"- {line}" for line in legend(records)),
        "",
        "## DET curves, main trials",
        "",
        f"![Miss against false alarm rate](det.svg) {seeds}",
        "",
        *sections,
    ]
    return "\n".join(lines)
