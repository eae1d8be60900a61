"""Resources of each stage's jobs: conf/slurm.yaml -> options of Slurm's sbatch."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from nessa.recipe.stages import STAGES
from nessa.schema import Positive, Section, nearest, read_section

log = logging.getLogger(__name__)
TIME = r"^(\d+-)?\d+(:\d+){0,2}$"  # minutes, minutes:seconds, [days-]hours:minutes:seconds ...
MEMORY = r"^\d+[KMGT]?$"  # megabytes without a unit
TRAINING = "encoders"  # the stage whose jobs may take several nodes and processes
ONE_CPU = ("align", "map", "report", "export")  # the stages whose jobs start no processes


class Request(Section):
    """The resources of a job; None leaves them to the cluster."""

    time: Annotated[str, Field(pattern=TIME)] | None = None
    memory: Annotated[str, Field(pattern=MEMORY)] | None = None  # of a node
    cpus: Positive = 1
    gpus: Annotated[int, Field(ge=0)] = 0  # of a node
    nodes: Positive = 1  # training only
    processes: Positive = 1  # of a training on each node; one for each of its GPUs
    partition: str | None = None
    account: str | None = None
    options: tuple[str, ...] = ()  # more of sbatch's, as --qos=long
    setup: tuple[str, ...] = ()  # lines of shell before each job, as `module load cuda`

    @field_validator("time", mode="before")
    @classmethod
    def _is_no_number(cls, time: object) -> object:
        if isinstance(time, int):  # YAML reads 4:00:00 as seconds
            raise ValueError(f"YAML makes a number of it, {time}; write it in quotes")
        return time

    @field_validator("options")
    @classmethod
    def _are_options(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            if not re.match(r"--[a-z]", option):
                raise ValueError(f"{option!r} is no option of sbatch; write it as --qos=long")
            if option.startswith("--cpus"):
                raise ValueError(
                    f"{option!r}: programs would start no more processes; write cpus: N beside it"
                )
        return options

    def sbatch_options(self) -> Iterator[str]:
        """Each option as one word."""
        fields = {
            "time": self.time,
            "mem": self.memory,
            "cpus-per-task": self.cpus,
            "gpus-per-node": self.gpus or None,
            "nodes": self.nodes,
            "partition": self.partition,
            "account": self.account,
        }
        for name, value in fields.items():
            if value is not None:
                yield f"--{name}={value}"
        yield from self.options


class ClusterConfig(Section):
    """conf/slurm.yaml."""

    retries: Annotated[int, Field(ge=0, le=99)] = 2  # of a job that failed, unless by bad input
    defaults: Request = Request()
    stages: dict[str, Request] = {}  # what they say goes before the defaults, key by key

    @field_validator("defaults", mode="before")
    @classmethod
    def _are_of_all_stages(cls, defaults: object) -> object:
        _refuse_keys_of_training(defaults)
        return defaults

    @field_validator("stages", mode="before")
    @classmethod
    def _are_stages(cls, stages: object) -> object:
        for name, request in stages.items() if isinstance(stages, dict) else ():
            if name not in STAGES:
                raise ValueError(f"{name}: no such stage{nearest(str(name), STAGES)}")
            if name != TRAINING:
                _refuse_keys_of_training(request, f"{name}.")
        return stages

    def request(self, stage: str) -> Request:
        """The resources of a stage's jobs."""
        own = self.stages.get(stage, Request())
        return self.defaults.model_copy(update=own.model_dump(exclude_unset=True))


def _refuse_keys_of_training(request: object, place: str = "") -> None:
    for key in ("nodes", "processes"):
        if isinstance(request, dict) and key in request:
            raise ValueError(f"{place}{key}: for trainings alone; write it under stages.{TRAINING}")


def cluster_plan(path: Path) -> Iterator[tuple[str, str]]:
    """Key and value of each line of the plan that run.sh reads.

    Args:
        path: conf/slurm.yaml.

    Raises:
        InputError: unreadable, or a key or a value that it cannot have.
    """
    config = read_section(path, ClusterConfig)
    if idle := [stage for stage in ONE_CPU if config.request(stage).cpus > 1]:
        log.warning(
            "%s: the jobs of %s use one CPU, more would be reserved for nothing; write cpus: 1 "
            "for them under stages", path, ", ".join(idle),
        )  # fmt: skip
    yield "retries", str(config.retries)
    yield f"{TRAINING}.processes", str(config.request(TRAINING).processes)
    for stage in STAGES:
        request = config.request(stage)
        yield f"{stage}.cpus", str(request.cpus)
        for option in request.sbatch_options():
            yield f"{stage}.sbatch", option
        for text in request.setup:
            for line in filter(None, map(str.strip, text.splitlines())):  # as run.sh reads them
                yield f"{stage}.setup", line
