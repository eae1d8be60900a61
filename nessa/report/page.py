"""The report as one HTML file that needs nothing else: exp/report/index.html."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from nessa import __version__
from nessa.files import Record, atomic_open
from nessa.recipe.config import Recipe
from nessa.recipe.systems import NESSA, RAW
from nessa.report.decision import Verdict, judge_update
from nessa.report.logs import StageLog
from nessa.report.plots import Plot
from nessa.report.tables import (
    by_system,
    by_trials,
    controlled_gain,
    controlled_models,
    gain,
    legend,
    main_records,
    table_rows,
    with_unit,
)
from nessa.text import ABSENT, percent, share

TEMPLATE = "index.html.j2"


class Gain(NamedTuple):
    """A gain in words; without an interval where it is undefined."""

    value: str
    interval: str


@dataclass(frozen=True)
class Headline:
    """One update direction in figures: "new enrolls, old runs"."""

    direction: str
    verdict: Verdict | None
    recovered: Gain
    controlled: Gain | None  # without controls there is none
    eer: str
    old_eer: str
    new_eer: str


def headlines(recipe: Recipe, records: Sequence[Record]) -> list[Headline]:
    """NESSA in both update directions on the main trials, beside the raw models."""
    main = main_records(records)
    systems = by_system(main)
    controls = controlled_models(systems.values())
    raw = [
        percent(systems[RAW, model, model]["eer"]) if (RAW, model, model) in systems else ABSENT
        for model in recipe.update
    ]
    found = []
    for enroll, runtime in recipe.pairs:
        record = systems.get((NESSA, enroll, runtime))
        if record is None:
            continue
        shown, interval = controlled_gain(record, controls), record["controlled_gain_ci"]
        controlled = _gain(shown, interval) if shown != ABSENT else None
        direction = f"{enroll} enrolls, {runtime} runs"
        verdict = judge_update(recipe, main, (enroll, runtime))
        eer = percent(record["eer"])
        recovered = _gain(gain(record), record["gain_ci"])
        found.append(Headline(direction, verdict, recovered, controlled, eer, *raw))
    return found


def _gain(shown: str, interval: Sequence[float] | None) -> Gain:
    told = f"{' to '.join(map(share, interval))} %" if interval else ""
    return Gain(with_unit(shown), told)


def write_page(
    path: Path,
    recipe: Recipe,
    records: Sequence[Record],
    comparisons: Sequence[str],
    figures: Sequence[Plot],
    logs: Sequence[StageLog],
    settings: str,
    circumstances: Mapping[str, Any],
) -> None:
    """Render and write the page.

    Args:
        path: of the file.
        recipe: the resolved recipe.
        records: of `nessa.recipe.evaluation.evaluate_systems`.
        comparisons: sentences about them.
        figures: in the order of the page, the first one by the verdict; their SVG files lie by it.
        logs: of the stages.
        settings: the resolved recipe as YAML.
        circumstances: seed, machine, versions: what is said of the run beside its settings.
    """
    environment = Environment(
        loader=PackageLoader("nessa.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = {condition: table_rows(own) for condition, own in by_trials(records).items()}
    page = environment.get_template(TEMPLATE).render(
        recipe=recipe,
        version=__version__,
        headlines=headlines(recipe, records),
        comparisons=[
            c for c in comparisons if not c.startswith(tuple(f"{x}:" for x in [*tables][1:]))
        ],
        tables=tables,
        legend=legend(records),
        figures=[
            (figure, _inline(path.with_name(f"{figure.name}.svg"), number))
            for number, figure in enumerate(figures)
        ],
        logs=logs,
        settings=settings,
        circumstances=circumstances,
    )
    with atomic_open(path) as file:
        file.write(page)


def _inline(path: Path, number: int) -> str:
    """An SVG for a page: without its prologue, with a text for screen readers, ids of its own."""
    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    own = f"f{number}-"
    text = re.sub(r'\bid="', f'id="{own}', text)
    text = re.sub(r'href="#', f'href="#{own}', text)
    text = text.replace("url(#", f"url(#{own}")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Its size is the page's to choose; the viewBox keeps the shape.
    for size in ("width", "height"):
        text = re.sub(rf'(<svg\b[^>]*?) {size}="[^"]*"', r"\1", text)
    return text.replace("<svg", f'<svg role="img" aria-labelledby="{own}alt"', 1)
