"""Work on pieces of an array at the same time: numpy lets go of the interpreter while it copies."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def thread_count() -> int:
    """How many threads to use: OMP_NUM_THREADS, as every library here has it, or all cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else len(os.sched_getaffinity(0))


def in_threads(work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> list[Result]:
    """`work` of every piece, in order."""
    pieces = list(pieces)
    threads = min(thread_count(), len(pieces))
    if threads < 2:
        return [work(piece) for piece in pieces]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, pieces))


@contextmanager
def background() -> Iterator[Callable[..., "Future[Any]"]]:
    """Gives a function that has a call made by one thread beside this one, if there may be two."""
    if thread_count() > 1:
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit
    else:
        yield _now


def _now(work: Callable[..., Any], *arguments: Any) -> "Future[Any]":
    done: Future[Any] = Future()
    done.set_result(work(*arguments))
    return done
