"""`python -m benchmarks`: run them, and print and save what they measured."""

import sys
from pathlib import Path

import click

from nessa.errors import explained


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="Benchmark (default: all); repeatable.")
@click.option(
    "--size", type=click.Choice(["small", "voxceleb"]), default="small", show_default=True
)
@click.option("--output", type=click.Path(path_type=Path), help="Save the measurements as JSON.")
def run(only: tuple[str, ...], size: str, output: Path | None) -> None:
    """Time the project's work beside a reference, and the machine's limits, in the same run.

    Prints medians and the range of the repeats, ratios to the references, and how cost grows from a
    tenth of the work. Size voxceleb needs 8 GiB of memory and 6 GiB of disk.

    Example: python -m benchmarks --only arks --output benchmarks.json
    """
    from benchmarks.running import format_growth, run_benchmarks
    from nessa.files import write_json

    machine, results = run_benchmarks(only, size, click.echo)
    click.echo(f"\n{format_growth(results, size)}")
    if output is not None:
        lines = [result.to_dict() for result in results]
        write_json(output, {"size": size, "machine": machine.to_dict(), "lines": lines})


def main() -> None:
    """Run the benchmarks; see `explained` for how it ends."""
    with explained("benchmarks"):
        run()


if __name__ == "__main__":
    sys.exit(main())
