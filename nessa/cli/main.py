"""The command line: thin; each command reads its input, calls one function and prints.

Commands import their modules when they run, so that `nessa --help` does not wait for torch.
"""

import logging
import sys

import click

from nessa import __version__
from nessa.cli import alignment, checks, models, production, recipe, results, scores
from nessa.cli.options import PipelineOrder
from nessa.errors import explained

# By the level, utils/launch.sh finds the warnings among all that a stage says.
LOG_FORMAT = "%(asctime)s %(levelname)s (%(filename)s:%(lineno)d) %(message)s"
SECTIONS = {
    "Corpus and models": (models.synth, models.prepare, models.train, models.extract),
    "Alignment": (alignment.assess, alignment.align, alignment.map_embeddings),
    "Scores": (scores.score, scores.calibrate, scores.threshold, scores.evaluate),
    "Results": (results.report, results.study),
    "Production": (production.export, production.verify, production.store),
    "Checks": (checks.validate, checks.check_encoder, checks.doctor),
    "For run.sh": (recipe.recipe,),
}


class Sections(PipelineOrder):
    """Lists the commands under headings."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, commands in SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl([(str(c.name), c.get_short_help_str(120)) for c in commands])


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--quiet", is_flag=True, help="Print errors only.")
def cli(quiet: bool) -> None:
    """Speaker recognition with different enrollment and runtime models.

    `./run.sh` calls these commands stage by stage and logs every call in exp/log/.

    Shell completion, for bash: eval "$(_NESSA_COMPLETE=bash_source nessa)"; likewise for zsh and
    fish.
    """
    logging.getLogger("nessa").setLevel(logging.ERROR if quiet else logging.INFO)


for commands in SECTIONS.values():
    for command in commands:
        cli.add_command(command)


def main() -> None:
    """Run the command line; see `explained` for how it ends."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    with explained("nessa"):
        cli()
