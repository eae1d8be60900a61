"""Audio -> embeddings: batches by length, masked, so that a batch never changes an embedding."""

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.cut import MonoCut
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nessa.datadir import read_utt2spk
from nessa.encoders import GivenEmbeddings, SpeakerModel
from nessa.errors import InputError
from nessa.files import digest, read_json, write_json
from nessa.manifests import CutTable
from nessa.progress import progress
from nessa.tables import Embeddings, ModelStamp, merge_parts

log = logging.getLogger(__name__)

BUCKET = 0.16  # seconds that the longest utterances of batches of one size may differ
BATCH_SECONDS = 60.0  # of audio; more would not fit a CPU's cache
LITTLE = 0.2  # of the time for computing: a reader that takes less leaves all cores to the encoder


def shard_of(table: CutTable, shard: int, shards: int) -> list[MonoCut]:
    """The `shard`-th (from 1) of `shards` contiguous, nearly equal parts."""
    first, end = (round(k * len(table) / shards) for k in (shard - 1, shard))
    return [table[index] for index in range(first, end)]


def extract_shard(
    model: SpeakerModel,
    data: Path,
    set_name: str,
    output: Path,
    shard: int,
    shards: int,
    batch_seconds: float,
    workers: int | None = None,
) -> None:
    """Extract one shard of a set; does nothing where it is there already, of the same model.

    Args:
        model: the encoder.
        data: the recipe's data folder with manifests/<set>_cuts.jsonl.gz.
        set_name: train, align, dev or eval.
        output: embeddings directory of the set; receives xvector.<shard>.{ark,scp}.
        shard: from 1 to `shards`.
        shards: number of parts that the set is divided into.
        batch_seconds: audio per batch.
        workers: processes that read ahead; see `extract`.

    Raises:
        InputError: no manifest, or an utterance that cannot be read or embedded.
    """
    cuts = shard_of(CutTable(data, set_name), shard, shards)
    stamp, stamp_path = _stamp(model, cuts, shards), _stamp_path(output, shard)
    if stamp_path.is_file() and read_json(stamp_path) == stamp:
        log.info("%s: shard %d is there already", output, shard)
        return
    stamp_path.unlink(missing_ok=True)
    embeddings = extract(model, cuts, batch_seconds, f"{model.name} {set_name}", workers)
    embeddings.write_part(output, shard)
    write_json(stamp_path, stamp)


def merge_shards(
    model: SpeakerModel, data: Path, set_name: str, output: Path, shards: int
) -> Embeddings:
    """Complete an embeddings directory once all of its shards are extracted.

    Args:
        model, data, set_name, output, shards: as for `extract_shard`.

    Returns:
        The embeddings of the set, sorted by key.

    Raises:
        InputError: a shard is missing, or is of another model or other data.
    """
    table = CutTable(data, set_name)
    utt2spk: dict[str, str] = {}
    for shard in range(1, shards + 1):
        stamp_path = _stamp_path(output, shard)
        cuts = shard_of(table, shard, shards)
        utt2spk |= {cut.id: cut.supervisions[0].speaker for cut in cuts}
        expected = _stamp(model, cuts, shards)
        if not stamp_path.is_file() or read_json(stamp_path) != expected:
            raise InputError(
                f"{output}: shard {shard} of {shards} is missing, or of another model or other "
                f"data; extract it again"
            )
    stamp = ModelStamp(model.name, model.fingerprint, set_name)
    return merge_parts(output, shards, utt2spk, stamp)


def _stamp(model: SpeakerModel, cuts: list[MonoCut], shards: int) -> dict[str, Any]:
    """What a shard was made of, by which a stale one is known."""
    return {
        "fingerprint": model.fingerprint,
        "shards": shards,
        "utterances": digest([[cut.id, cut.duration] for cut in cuts]),
    }


def _stamp_path(output: Path, shard: int) -> Path:
    return output / f".xvector.{shard}.json"


def import_embeddings(
    given: GivenEmbeddings, data: Path, set_name: str, output: Path
) -> Embeddings:
    """Make an embeddings directory of a set of embeddings that another toolkit extracted.

    Args:
        given: where they are.
        data: the recipe's data folder; the set's utt2spk names the utterances.
        set_name: train, align, dev or eval.
        output: receives the embeddings directory.

    Raises:
        InputError: see `GivenEmbeddings.read_set`.
    """
    utt2spk = read_utt2spk(data / set_name)
    embeddings = given.read_set(set_name, utt2spk)
    embeddings.write(output, utt2spk)
    return embeddings


def extract(
    model: SpeakerModel,
    cuts: list[MonoCut],
    batch_seconds: float = BATCH_SECONDS,
    what: str = "extract",
    workers: int | None = None,
) -> Embeddings:
    """Embed every cut.

    Args:
        model: the encoder.
        cuts: N.
        batch_seconds: audio per batch.
        what: says what is extracted, beside the progress.
        workers: processes that read the next batches; 0: this one reads them itself; None: as many
            as a look at the first batch says, and none where there is one core.

    Returns:
        Embeddings in the order of `cuts`.

    Raises:
        InputError: an utterance is unreadable, of another sampling rate, too short, or its
            embedding is not finite.
    """
    batches = _batches(cuts, batch_seconds)
    inputs = _Inputs(model, cuts, batches)
    matrix = np.empty((len(cuts), model.dim), dtype=np.float32)
    with progress(total=len(cuts), what=what) as bar, _reading(inputs, workers) as loader:
        for indices, read in zip(batches, loader, strict=True):
            if isinstance(read, InputError):
                raise read
            matrix[indices] = _embed(model, [cuts[i] for i in indices], read)
            bar.update(len(indices))
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise InputError(f"utterance {cuts[bad[0]].id!r}: embedding is not finite; is it silence?")
    return Embeddings([cut.id for cut in cuts], matrix)


@contextmanager
def _reading(inputs: "_Inputs", workers: int | None) -> Iterator[DataLoader]:
    """Gives the batches, read by `workers` processes, and shares the cores with these."""
    threads = torch.get_num_threads()
    left = threads
    if workers is None:
        workers, left = _share_cores(inputs, threads)
    # A worker with threads of its own would take the cores from the encoder.
    one_thread = partial(_set_threads, 1)
    loader = DataLoader(inputs, batch_size=None, num_workers=workers, worker_init_fn=one_thread)
    torch.set_num_threads(left)
    try:
        yield loader
    finally:
        torch.set_num_threads(threads)


def _set_threads(threads: int, worker: int) -> None:
    torch.set_num_threads(threads)


def _share_cores(inputs: "_Inputs", threads: int) -> tuple[int, int]:
    """How many processes should read, and how many threads are left to the encoder.

    What they take for the last and shortest batch says how many readers keep the encoder busy.
    Threads that wait for each other stand still while a reader has their core.
    """
    on_gpu = inputs.model.device.type == "cuda"
    cores = os.cpu_count() or 1 if on_gpu else threads
    if cores == 1 or len(inputs) < 2:
        return 0, threads
    start = time.perf_counter()
    read = inputs[len(inputs) - 1]
    reading = time.perf_counter() - start
    if isinstance(read, InputError):  # which will be met again, and in its turn
        return 0, threads
    inputs.model.embed(_split(read))  # sets up what it does with batches
    start = time.perf_counter()
    inputs.model.embed(_split(read))
    computing = time.perf_counter() - start
    workers = min(cores, math.ceil(reading / computing))
    little = on_gpu or reading < LITTLE * computing
    return workers, threads if little else max(1, threads - workers)


Read = tuple[Tensor, list[int]]  # inputs one after the other, and their lengths


class _Inputs(Dataset):
    """Batch -> what the model reads of its utterances; or what is wrong with one of them.

    An error that is raised in a worker would reach the user as a traceback. One tensor goes from
    process to process much faster than many.
    """

    def __init__(self, model: SpeakerModel, cuts: list[MonoCut], batches: list[list[int]]) -> None:
        self.model, self._cuts, self._batches = model, cuts, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, batch: int) -> Read | InputError:
        try:
            inputs = [self.model.read(self._cuts[index]) for index in self._batches[batch]]
        except InputError as error:
            return error
        return torch.cat(inputs), [len(one) for one in inputs]


def _split(read: Read) -> list[Tensor]:
    together, lengths = read
    return list(together.split(lengths))


def _embed(model: SpeakerModel, cuts: list[MonoCut], read: Read) -> np.ndarray:
    """The embeddings (B, D) of a batch; whatever error that raises names its utterances."""
    try:
        return model.embed(_split(read)).numpy()
    except Exception as error:  # of any library
        batch = f"utterances {', '.join(cut.id for cut in cuts)}"
        if isinstance(error, InputError):
            raise InputError(f"{batch}: {error}") from error
        error.add_note(f"raised by model {model.name!r} for {batch}")
        raise


def _batches(cuts: list[MonoCut], batch_seconds: float) -> list[list[int]]:
    """Rows of `cuts`, from long to short, so that the padded audio of a batch is at most so much.

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
