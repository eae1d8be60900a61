"""What the logs of a run tell: how long each stage's jobs took, and what was called."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nessa.recipe.stages import STAGES

LAST_LINE = re.compile(r"# exit code (\d+) after (\d+) seconds at ")
END_BYTES = 4096  # of a log, in which its last line is looked for


@dataclass(frozen=True)
class StageLog:
    """The jobs of a stage.

    Attributes:
        stage: its name.
        jobs: how many there are.
        seconds: that they took together.
        command: of the first of them.
    """

    stage: str
    jobs: int
    seconds: int
    command: str


def read_stage_logs(folder: Path) -> Iterator[StageLog]:
    """Stages in their order, without those that had no job.

    Args:
        folder: exp/log.
    """
    for stage in STAGES:
        logs = sorted((folder / stage).glob("*.log"))
        if logs:
            yield StageLog(stage, len(logs), sum(map(_seconds, logs)), _command(logs[0]))


def _seconds(log: Path) -> int:
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - END_BYTES))
        found = LAST_LINE.findall(file.read().decode(errors="replace"))
    return int(found[-1][1]) if found else 0


def _command(log: Path) -> str:
    with open(log, encoding="utf-8", errors="replace") as file:
        return file.readline().removeprefix("#").strip()
