"""Options that several commands share."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from nessa.errors import InputError

PathType = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
NUMBER = click.IntRange(min=0)


class PipelineOrder(click.Group):
    """Lists the commands in the order of the pipeline rather than of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def path_option(name: str, text: str) -> Callable[..., Any]:
    """A required option that takes a path."""
    return click.option(name, type=PathType, required=True, help=text)


def optional_path(name: str, text: str, **more: Any) -> Callable[..., Any]:
    """An option that takes a path and may be left out."""
    return click.option(name, type=PathType, help=text, **more)


recipe_option = path_option("--recipe", "Recipe file (YAML).")
data_option = path_option("--data", "Data folder of the recipe: manifests/ and the sets.")
exp_option = path_option("--exp", "Exp folder of the recipe.")
relative_option = click.option(
    "--relative", is_flag=True, help="Write scp paths relative to the working directory."
)
utt2dur_option = optional_path(
    "--utt2dur", "Calibration: durations (`utterance seconds`) as a quality measure."
)


def refuse_given(why: str, *names: str) -> None:
    """Refuse options of the command at hand that would change nothing.

    Args:
        why: what the message says after their names.
        names: of its parameters.

    Raises:
        click.UsageError: the command line gives one of them.
    """
    context = click.get_current_context()
    given = {p.name: p.opts[0] for p in context.command.params}
    given["more_scores"] = "more than one score file"
    found = [
        given[name]
        for name in names
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        and context.params[name] not in ((), None)
    ]
    if found:
        raise click.UsageError(f"{', '.join(found)}: {why}")


def check_output(option: str = "output") -> None:
    """Refuse an --output of the command at hand that is a folder, or a file that it reads.

    Args:
        option: what the command calls it.
    """
    context = click.get_current_context()
    output = context.params[option]
    if output is not None and output.is_dir():
        raise InputError(f"{output}: is a folder; name a file in it")
    if output is None or not output.is_file():
        return
    for parameter in context.command.params:
        value = context.params[parameter.name]
        given = value if isinstance(value, tuple) else (value,)
        paths = [each for each in given if isinstance(each, Path) and each.exists()]
        if parameter.name != option and any(os.path.samefile(output, path) for path in paths):
            name = parameter.opts[0] if isinstance(parameter, click.Option) else "a score file"
            raise InputError(
                f"{output}: is {name} as well, and would be lost; give another --{option}"
            )


def try_folders(*folders: Path) -> None:
    """Try to write where the command at hand will write to, before work that would be lost.

    Args:
        folders: those that it makes, or that are there.

    Raises:
        OSError: one cannot be written to; names it.
    """
    for folder in folders:
        places = folder.absolute(), *folder.absolute().parents
        try:
            with tempfile.TemporaryFile(dir=next(filter(os.path.lexists, places))):
                pass
        except OSError as error:
            error.filename = str(folder)
            raise


def system_option(multiple: bool = False) -> Callable[..., Any]:
    """The option that names a system of the recipe, or several."""
    text = "aligner:enroll:runtime, such as nessa:new:old or raw:old:old"
    return click.option(
        "--system",
        required=True,
        multiple=multiple,
        help=f"{text}; repeatable." if multiple else f"{text}.",
    )
