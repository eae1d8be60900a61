"""The mixed gallery in the report: EER while the profiles move from the old to the new model."""

from collections.abc import Sequence

from nessa.files import Record
from nessa.report.plots import TWO_STYLES, Plot, panels
from nessa.text import Row, markdown_columns, percent


def gallery_plot(records: Sequence[Record]) -> Plot:
    """EER over the share of the old model's profiles, one line per runtime model.

    Args:
        records: of `nessa.recipe.gallery.mixed_gallery`.
    """
    figure, ((axes,),) = panels(5.5, 4)
    runtimes = list(dict.fromkeys(record["runtime"] for record in records))
    for runtime, (color, line, marker) in zip(runtimes, TWO_STYLES, strict=False):
        own = [record for record in records if record["runtime"] == runtime]
        axes.plot(
            [100 * record["old_share"] for record in own],
            [100 * record["eer"] for record in own],
            color=color,
            linestyle=line,
            marker=marker,
            label=f"{runtime} runs",
        )
    axes.set_xlabel("profiles that are still the old model's (%)")
    axes.set_ylabel("EER (%)")
    axes.set_ylim(bottom=0)
    axes.grid(color="0.9", linewidth=0.6)
    axes.legend()
    return Plot(
        "gallery",
        figure,
        "While profiles move to the new model",
        "EER over the share of profiles that are still the old model's, by runtime model.",
    )


def gallery_section(gallery: Sequence[Record]) -> list[str]:
    """Markdown lines: the curve as a table and a figure.

    Args:
        gallery: of `nessa.recipe.gallery.mixed_gallery`; where empty, there is no section.
    """
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
