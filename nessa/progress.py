"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LINE_INTERVAL = 10.0  # seconds between lines where the output is not a terminal


def progress(
    items: Iterable[Any] | None = None,
    *,
    total: int,
    what: str,
    done: int = 0,
    silent: bool = False,
) -> tqdm:
    """Wrap an iterable, or count by `.update(n)` where `items` is None.

    Shows done, total, rate and the time left; a job's log gets a plain line now and then. Nothing
    where the logger `nessa` is set to be quieter than INFO.

    Args:
        items: what is worked through.
        total: how many there are.
        what: a word for the work, for instance "train old".
        done: how many were done before, by an earlier run.
        silent: show nothing, for another process shows it.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        items,
        total=total,
        initial=done,
        disable=silent or logging.getLogger("nessa").level > logging.INFO,
        desc=what,
        file=sys.stderr if terminal else _Lines(),
        mininterval=0.2 if terminal else LINE_INTERVAL,
        ascii=not terminal,
        bar_format=None if terminal else "{desc}: {n}/{total} [{elapsed}<{remaining}, {rate_fmt}]",
    )


class _Lines:
    """A stream to which tqdm writes one line per update instead of overwriting one."""

    def write(self, text: str) -> None:
        text = text.replace("\x1b[A", "").strip()  # one line up, where bars are nested
        if text:
            print(text, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()
