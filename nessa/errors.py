"""The one error type for everything a user can fix, and how a program ends with it."""

import contextlib
import errno
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path


class InputError(ValueError):
    """Bad input: the message names the item, its file and the remedy.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


class TooFewError(InputError):
    """Too few speakers or utterances for what was asked; all else is in order."""


@contextlib.contextmanager
def about(*files: Path | str) -> Iterator[None]:
    """Begin the message of bad input found inside with the files that it came from.

    For checks of values that no longer know their files.
    """
    try:
        yield
    except InputError as error:
        raise type(error)(f"{', '.join(dict.fromkeys(map(str, files)))}: {error}") from None


def named(items: Sequence[str]) -> str:
    """The first few of some items, and how many more there are: `'a', 'b', 'c' and 9 more`."""
    first = ", ".join(map(repr, items[:3]))
    return first if len(items) <= 3 else f"{first} and {len(items) - 3} more"


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type where it says nothing.

    Examples:
        >>> first_line(OSError("no room\\nleft")), first_line(OSError())
        ('no room', 'OSError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


GPU_IS_FULL = "OutOfMemoryError"  # torch's type
# What torch says, as a RuntimeError, and onnxruntime, by types of its own, where a CPU has no more.
NO_MEMORY = re.compile(r"(can't|cannot|failed to|unable to) allocate|bad_alloc", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ended, that of a GPU included."""
    if isinstance(error, MemoryError) or type(error).__name__ == GPU_IS_FULL:
        return True
    return not isinstance(error, InputError) and bool(NO_MEMORY.search(str(error)))


EXIT_REFUSED, EXIT_BAD_INPUT = 1, 2  # by the system, by us
MEMORY_REMEDY = (
    "; was there not enough memory? Allow more, or fewer processes; --help says what is needed"
)
REMEDIES = {
    errno.ENOSPC: "free some of the disk, and run again",
    errno.EDQUOT: "free some of your quota, and run again",
    errno.EROFS: "choose another place",
    errno.ENOTDIR: "choose another place",
    errno.EACCES: "choose another place, or change who may write there",
}


@contextlib.contextmanager
def explained(program: str) -> Iterator[None]:
    """End a program by a message, without a traceback, at bad input or where the system refuses.

    Exit status: 2 at bad input; 1 where a file cannot be written, a disk is full and so on.

    Args:
        program: the message begins with it.
    """
    try:
        yield
    except InputError as error:
        _leave(EXIT_BAD_INPUT, f"{program}: error: {error}")
    except OSError as error:
        what = error.strerror or str(error)
        if error.filename is not None:
            what = f"{error.filename}: {what}"
        if error.errno in REMEDIES:
            what += f"; {REMEDIES[error.errno]}"
        _leave(EXIT_REFUSED, f"{program}: error: {what}")
    except BrokenExecutor:
        _leave(EXIT_REFUSED, f"{program}: error: a process was killed{MEMORY_REMEDY}")
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        what = f"no memory left{MEMORY_REMEDY}"
        if type(error).__name__ == GPU_IS_FULL:
            what = f"{first_line(error)}; free the GPU, or use smaller batches"
        _leave(EXIT_REFUSED, f"{program}: error: {what}")


@contextlib.contextmanager
def watched_readers() -> Iterator[None]:
    """Explain the end of a process in which torch's DataLoader reads.

    Raises:
        ChildProcessError: one was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ChildProcessError(f"a process that reads audio was killed{MEMORY_REMEDY}") from None


def _leave(status: int, message: str) -> None:
    with contextlib.suppress(OSError):  # the log may be on the disk that is full
        print(message, file=sys.stderr, flush=True)
    sys.exit(status)
