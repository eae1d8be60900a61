"""Audio -> embeddings: batches by length, masked, so that a batch never changes an embedding."""

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from lhotse.cut import MonoCut
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nessa.corpus.audio import check_decoder, folder_of_commands, reason
from nessa.corpus.listed import ArkAudio
from nessa.corpus.sounds import missing_files
from nessa.corpus.utterances import SKIPPING
from nessa.encoders.base import SpeakerModel
from nessa.errors import InputError, is_out_of_memory, named, watched_readers
from nessa.kaldi.directions import without_direction
from nessa.kaldi.embeddings import Embeddings
from nessa.progress import progress

log = logging.getLogger(__name__)
BUCKET = 0.16  # seconds that the longest utterances of batches of one size may differ
BATCH_SECONDS = 60.0  # of audio; more would not fit a CPU's cache
FEWEST_ALIKE = 3  # utterances that one recording under several names does not explain
LITTLE = 0.2  # of the time for computing: a reader that takes less leaves all cores to the encoder


def extract(
    model: SpeakerModel,
    cuts: list[MonoCut],
    batch_seconds: float = BATCH_SECONDS,
    what: str = "extract",
    workers: int | None = None,
    skipped: dict[str, str] | None = None,
) -> Embeddings:
    """Embed every cut.

    Args:
        model: the encoder.
        cuts: N.
        batch_seconds: audio per batch.
        what: says what is extracted, beside the progress.
        workers: processes that read the next batches; 0: this one reads them itself; None: as many
            as a look at the first batch says, and none where there is one core.
        skipped: receives the utterances that are left out, {id: why}; where None, they are refused.

    Returns:
        Embeddings in the order of `cuts`.

    Raises:
        InputError: utterances are unreadable, of another sampling rate, too short, or their
            embeddings are not finite or zero; names the first, and says how many. Or, whether or
            not they are skipped, the files of all or what decodes them are missing, the commands
            of all fail, or all embeddings are the same.
    """
    for cut in cuts:
        check_decoder(cut)
    batches = _batches(cuts, batch_seconds)
    inputs = _Inputs(model, cuts, batches)
    matrix = np.zeros((len(cuts), model.dim), dtype=np.float32)
    bad: dict[int, str] = {}
    bar = progress(total=len(cuts), what=what)
    with bar, watched_readers(), _reading(inputs, workers) as loader:
        for indices, read in zip(batches, loader, strict=True):
            bad |= read.bad
            good = [index for index in indices if index not in read.bad]
            if good and (skipped is not None or not bad):  # else all that is wanted is their number
                rows, failed = _embed(model, [cuts[i] for i in good], _split(read), skipped is None)
                bad |= {good[place]: why for place, why in failed.items()}
                matrix[good] = rows
            bar.update(len(indices))
    if skipped is not None or not bad:
        embedded = [index for index in range(len(cuts)) if index not in bad]
        _check_differ(model, matrix, embedded)
        for index in embedded:
            if fault := fault_of(matrix[index]):
                bad[index] = f"utterance {cuts[index].id!r}: the embedding {fault}"
    if bad:
        # --skip-bad is not for this: a disk is not mounted, or commands run in another folder.
        away = len(bad) == len(cuts) and all(missing_files(c) or _is_command(c) for c in cuts)
        if skipped is None or away:
            raise InputError(_refusal(bad, cuts))
        skipped |= {cuts[index].id: bad[index] for index in sorted(bad)}
    kept = [index for index in range(len(cuts)) if index not in bad]
    return Embeddings([cuts[index].id for index in kept], matrix[kept] if bad else matrix)


def fault_of(embedding: np.ndarray) -> str | None:
    """Why an embedding (D,) can be compared with none; None where it can."""
    if not np.isfinite(embedding).all():
        return "is not finite"
    if len(without_direction(embedding[None])):
        return "is zero, or beyond 1e-36 to 1e36, and has no direction"
    if len(embedding) > 1 and (embedding == embedding[0]).all():
        return f"has one value throughout ({embedding[0]:g})"
    return None


def _check_differ(model: SpeakerModel, matrix: np.ndarray, rows: list[int]) -> None:
    """Refuse a model that gives all utterances one embedding, even where bad ones are skipped."""
    if len(rows) >= FEWEST_ALIKE and (matrix[rows] == matrix[rows[0]]).all():
        what = fault_of(matrix[rows[0]])
        raise InputError(
            f"model {model.name!r} gives one and the same embedding for all {len(rows)} utterances"
            f"{f' ({what})' if what else ''}; is it the right model, and the right output of it?"
        )


def _is_command(cut: MonoCut) -> bool:
    """Whether the user's command gives its audio, rather than a file or a place in an ark."""
    sources = cut.recording.sources if cut.has_recording else ()
    return any(s.type == "command" and not ArkAudio.of_command(s.source) for s in sources)


def _refusal(bad: Mapping[int, str], cuts: list[MonoCut]) -> str:
    first = bad[min(bad)]
    if len(bad) > 1:
        ids = named([cuts[index].id for index in sorted(bad)])
        first = f"{len(bad)} of {len(cuts)} utterances cannot be used: {ids}; the first: {first}"
    if missing_files(cuts[min(bad)]):
        return (
            f"{first}; its file is not there: mount its disk or, if the corpus has moved or lost "
            "it, run ./run.sh --stage prepare"
        )
    if len(bad) == len(cuts) and all(map(_is_command, cuts)):
        return (
            f"{first}; commands run in {folder_of_commands()}: call ./run.sh in the folder of "
            "their relative paths, or correct them and run ./run.sh --stage prepare"
        )
    return (
        f"{first}; mend it, remove it and run ./run.sh --stage prepare, or leave it out: "
        f"--skip-bad ({SKIPPING})"
    )


@contextmanager
def _reading(inputs: "_Inputs", workers: int | None) -> Iterator[DataLoader]:
    """Gives the batches, read by `workers` processes, and shares the cores with these."""
    threads = torch.get_num_threads()
    left = threads
    if workers is None:
        workers, left = _share_cores(inputs, threads)
    loader = DataLoader(inputs, batch_size=None, num_workers=workers)  # of one thread each
    torch.set_num_threads(left)
    try:
        yield loader
    finally:
        torch.set_num_threads(threads)


def _share_cores(inputs: "_Inputs", threads: int) -> tuple[int, int]:
    """How many processes should read, and how many threads are left to the encoder.

    What they take for the last and shortest batch says how many readers keep the encoder busy.
    Threads that wait for each other stand still while a reader has their core.
    """
    on_gpu = inputs.model.device.type == "cuda"
    cores = len(os.sched_getaffinity(0)) if on_gpu else threads
    if cores == 1 or len(inputs) < 2:
        return 0, threads
    start = time.perf_counter()
    read = inputs[len(inputs) - 1]
    reading = time.perf_counter() - start
    if not read.lengths:
        return 0, threads
    try:
        inputs.model.embed(_split(read))  # sets up what it does with batches
        start = time.perf_counter()
        inputs.model.embed(_split(read))
    except Exception as error:  # of any library; extraction names the utterances, or skips them
        if is_out_of_memory(error):
            raise
        return 0, threads
    computing = time.perf_counter() - start
    workers = min(cores, math.ceil(reading / computing))
    little = on_gpu or reading < LITTLE * computing
    return workers, threads if little else max(1, threads - workers)


class _Read(NamedTuple):
    """What a model reads of a batch. One tensor goes between processes much faster than many."""

    inputs: Tensor  # of the utterances, one after the other
    lengths: list[int]
    bad: dict[int, str]  # index of an utterance -> what is wrong with it


class _Inputs(Dataset):
    """Batch -> what the model reads of its utterances.

    An error that is raised in a worker would reach the user as a traceback.
    """

    def __init__(self, model: SpeakerModel, cuts: list[MonoCut], batches: list[list[int]]) -> None:
        self.model, self._cuts, self._batches = model, cuts, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, batch: int) -> _Read:
        inputs, bad = [], {}
        for index in self._batches[batch]:
            try:
                inputs.append(self.model.read(self._cuts[index]))
            except InputError as error:
                bad[index] = str(error)
        return _Read(torch.cat(inputs) if inputs else torch.empty(0), list(map(len, inputs)), bad)


def _split(read: _Read) -> list[Tensor]:
    return list(read.inputs.split(read.lengths))


def _embed(
    model: SpeakerModel, cuts: list[MonoCut], inputs: list[Tensor], strict: bool
) -> tuple[np.ndarray, dict[int, str]]:
    """The embeddings (B, D) of a batch, and what is wrong with some of its utterances.

    A batch that fails is embedded utterance by utterance, to find those that make it fail.

    Raises:
        Exception: of any library, where memory ends, or, if `strict`, where a model fails other
            than by an InputError; a note names the utterance, or those that fail together alone.
    """
    try:
        return model.embed(inputs).numpy(), {}
    except Exception as raised:  # of any library
        if is_out_of_memory(raised):
            raise
        error = raised
    refused = strict and not isinstance(error, InputError)
    if len(cuts) > 1:
        parts = [_embed(model, [c], [i], strict) for c, i in zip(cuts, inputs, strict=True)]
        failed = {row: part[1][0] for row, part in enumerate(parts) if part[1]}
        if failed or not refused:
            return np.concatenate([part[0] for part in parts]), failed
    if refused:
        batch = ", ".join(cut.id for cut in cuts)
        error.add_note(f"raised by model {model.name!r} for utterances {batch}")
        raise error
    why = f"utterance {cuts[0].id!r}: {reason(error)}"
    return np.zeros((1, model.dim), np.float32), {0: why}


def _batches(cuts: list[MonoCut], batch_seconds: float) -> list[list[int]]:
    """Rows of `cuts`, from long to short, of at most `batch_seconds` of padded audio a batch.

    A batch holds as many utterances as others whose longest one is about as long: networks meet
    few shapes of batches.
    """
    order = sorted(range(len(cuts)), key=lambda i: (-cuts[i].duration, cuts[i].id))
    batches = []
    while order:
        longest = math.ceil(cuts[order[0]].duration / BUCKET) * BUCKET
        size = max(1, int(batch_seconds / longest))
        batches.append(order[:size])
        order = order[size:]
    return batches
