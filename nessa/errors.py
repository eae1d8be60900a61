"""The one error type for everything a user can mend."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class InputError(ValueError):
    """Bad input: the message names the item, its file and the remedy.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


@contextlib.contextmanager
def about(*files: Path) -> Iterator[None]:
    """Begin the message of bad input found inside with the files that it came from.

    For checks of values that no longer know their files.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{', '.join(map(str, files))}: {error}") from None
