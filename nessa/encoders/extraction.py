"""Audio -> embeddings: batches by length, masked, so that a batch never changes an embedding."""

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lhotse.cut import MonoCut
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nessa.corpus.audio import check_decoder, folder_of_commands, reason
from nessa.corpus.listed import ArkAudio
from nessa.corpus.manifests import CutTable
from nessa.corpus.sounds import missing_files, part_of, sounds_digest
from nessa.encoders.arks import GivenEmbeddings
from nessa.encoders.base import SpeakerModel
from nessa.errors import InputError, is_out_of_memory, named, watched_readers
from nessa.files import digest, read_json, spots_digest, write_json, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.directions import without_direction
from nessa.kaldi.embeddings import Embeddings, merge_parts
from nessa.kaldi.scp import lies_beside, read_scp
from nessa.kaldi.stamps import ModelStamp
from nessa.progress import progress

log = logging.getLogger(__name__)
BUCKET = 0.16  # seconds that the longest utterances of batches of one size may differ
BATCH_SECONDS = 60.0  # of audio; more would not fit a CPU's cache
ALIGN = "align"  # the set by whose vectors given embeddings are told apart
SKIPPED = "skipped"  # what was left out of an embeddings directory, and why
SOUNDS = "sounds"  # digest of the audio or features of a shard
SPOTS = "spots"  # digest of some bytes of a shard's ark
FEWEST_ALIKE = 3  # utterances that one recording under several names does not explain
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
    skip_bad: bool = False,
) -> None:
    """Extract one shard of a set; does nothing where it is there already, whole and of this model.

    Args:
        model: the encoder.
        data: the recipe's data folder with manifests/<set>_cuts.jsonl.gz.
        set_name: train, align, dev or eval.
        output: embeddings directory of the set; receives xvector.<shard>.{ark,scp}.
        shard: from 1 to `shards`.
        shards: number of parts that the set is divided into.
        batch_seconds: audio per batch.
        workers: processes that read ahead; see `extract`.
        skip_bad: leave out utterances that cannot be read or embedded.

    Raises:
        InputError: no manifest, or, without `skip_bad`, utterances that cannot be read or embedded;
            with it, the files of all are missing, or the commands of all fail.
    """
    cuts = shard_of(CutTable(data, set_name), shard, shards)
    stamp, stamp_path = _stamp(model, cuts, shards), _stamp_path(output, shard)
    sounds = sounds_digest(cuts)
    left_out = _left_out(output, shard, stamp, sounds)
    if left_out == {} or (left_out and skip_bad):
        log.info("%s: shard %d is there already", output, shard)
        return
    skipped: dict[str, str] = {}
    embeddings = extract(
        model,
        cuts,
        batch_seconds,
        f"{model.name} {set_name}",
        workers,
        skipped if skip_bad else None,
    )
    stamp_path.unlink(missing_ok=True)  # of the part that is replaced now
    embeddings.write_part(output, shard)
    spots = spots_digest(_ark_path(output, shard)).hex()
    write_json(stamp_path, stamp | {SOUNDS: sounds, SPOTS: spots, SKIPPED: skipped})


def merge_shards(
    model: SpeakerModel,
    data: Path,
    set_name: str,
    output: Path,
    shards: int,
    skip_bad: bool = False,
    beside: Sequence[Path] = (),
    relative: bool = False,
) -> tuple[Embeddings, int]:
    """Complete an embeddings directory once all of its shards are extracted.

    Utterances that were left out are listed in its file `skipped`, each with the reason.

    Args:
        model, data, set_name, output, shards, skip_bad: as for `extract_shard`.
        beside: directories of the set by other models, all of whose shards are there; what they
            skipped is left out as well.
        relative: write scp paths relative to the working directory, not absolute.

    Returns:
        The embeddings of the set, sorted by key, and how many utterances were left out.

    Raises:
        InputError: a shard is missing or damaged, or is of another model or other data, or,
            without `skip_bad`, lacks utterances; or all utterances were skipped.
    """
    table = CutTable(data, set_name)
    utt2spk: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for shard in range(1, shards + 1):
        cuts = shard_of(table, shard, shards)
        utt2spk |= {cut.id: cut.supervisions[0].speaker for cut in cuts}
        left_out = _left_out(output, shard, _stamp(model, cuts, shards))
        if left_out is None or (left_out and not skip_bad):
            raise InputError(
                f"{output}: shard {shard} of {shards} is missing or damaged, of another model or "
                f"other data, or lacks utterances that were skipped; extract it again"
            )
        skipped |= left_out
    own = set(skipped)
    for other in beside:
        skipped = skipped_in(other) | skipped
    stamp = ModelStamp(model.name, model.fingerprint, set_name)
    (output / SKIPPED).unlink(missing_ok=True)
    for utterance in skipped:
        utt2spk.pop(utterance, None)
    if skipped and not utt2spk:
        first = skipped[min(skipped)]
        raise InputError(
            f"{output}: all {len(skipped)} utterances were skipped; the first: {first}"
        )
    merged = merge_parts(output, shards, utt2spk, stamp, skipped.keys() - own, relative)
    if skipped:
        write_table(output / SKIPPED, skipped)
    return merged, len(skipped)


def skipped_in(output: Path) -> dict[str, str]:
    """What a model skipped in the shards of an embeddings directory, {utterance: why}."""
    shards = _read_stamp(_stamp_path(output, 1)).get("shards", 0)  # as many as there are
    paths = [_stamp_path(output, shard) for shard in range(1, shards + 1)]
    found = [_read_stamp(path).get(SKIPPED, {}) for path in paths]
    model = output.absolute().parent.name
    return {u: f"model {model!r}: {why}" for skipped in found for u, why in skipped.items()}


def forget_shards(output: Path) -> None:
    """Make an embeddings directory of no shards, as given embeddings have none."""
    output.mkdir(parents=True, exist_ok=True)
    for stale in (output / SKIPPED, *output.glob(_stamp_path(output, "*").name)):
        stale.unlink(missing_ok=True)


def _left_out(
    output: Path, shard: int, stamp: Mapping[str, Any], sounds: str | None = None
) -> dict[str, str] | None:
    """What a finished shard had to leave out; None where there is none with this stamp.

    Args:
        output, shard: which one.
        stamp: see `_stamp`.
        sounds: of its audio or features now; None: whatever they were.
    """
    found = _read_stamp(_stamp_path(output, shard))
    left_out, found_contents, spots = (found.pop(key, None) for key in (SKIPPED, SOUNDS, SPOTS))
    same = found == stamp and sounds in (found_contents, None) and _is_whole(output, shard, spots)
    return left_out if same and isinstance(left_out, dict) else None


def _is_whole(output: Path, shard: int, spots: str | None) -> bool:
    """Whether a shard's ark is as it was written, and is the one that its scp names.

    Args:
        output, shard: which one.
        spots: digest of the ark; None: not known, as of shards of earlier versions.
    """
    ark = _ark_path(output, shard)
    scp = ark.with_suffix(".scp")
    try:
        own = all(lies_beside(source, scp) for source in read_scp(scp).sources)
    except InputError:
        return False
    return own and ark.is_file() and spots in (spots_digest(ark).hex(), None)


def _stamp(model: SpeakerModel, cuts: list[MonoCut], shards: int) -> dict[str, Any]:
    """What a shard was made of, by which a stale one is known."""
    return {
        "fingerprint": model.fingerprint,
        "shards": shards,
        "utterances": digest([[cut.id, cut.duration, *part_of(cut)] for cut in cuts]),
    }


def _stamp_path(output: Path, shard: int | str) -> Path:
    return output / f".xvector.{shard}.json"


def _read_stamp(path: Path) -> dict[str, Any]:
    """What a stamp says; nothing where it is missing, or damaged, as a copy that was cut off."""
    try:
        found = read_json(path)
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


def _ark_path(output: Path, shard: int) -> Path:
    return output / f"xvector.{shard}.ark"


def import_embeddings(
    given: GivenEmbeddings,
    data: Path,
    set_name: str,
    output: Path,
    beside: Sequence[Path] = (),
    relative: bool = False,
) -> Embeddings:
    """Make an embeddings directory of a set of embeddings that another toolkit extracted.

    Args:
        given: where they are.
        data: the recipe's data folder; the set's utt2spk names the utterances.
        set_name: train, align, dev or eval.
        output: receives the embeddings directory; what a model has left there goes.
        beside, relative: as for `merge_shards`; what others skipped is not imported, nor, of the
            align set, part of what the model is known by, as it is gone from there the next time.

    Raises:
        InputError: see `GivenEmbeddings.read_set`.
    """
    forget_shards(output)

    def embedded_beside(name: str) -> dict[str, str]:
        skipped = {u for other in beside for u in skipped_in(other.with_name(name))}
        return {u: s for u, s in read_utt2spk(data / name).items() if u not in skipped}

    utt2spk = embedded_beside(set_name)
    has_align = (data / ALIGN / "utt2spk").is_file()
    reference = (ALIGN, embedded_beside(ALIGN)) if has_align else None
    embeddings = given.read_set(set_name, utt2spk, reference)
    embeddings.write(output, utt2spk, relative)
    return embeddings


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
        # Nobody means to skip that: a disk is away, or commands are of another folder.
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
        "--skip-bad (./run.sh --skip-bad true)"
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
    cores = os.cpu_count() or 1 if on_gpu else threads
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
            than by an InputError; a note names the utterances.
    """
    try:
        return model.embed(inputs).numpy(), {}
    except Exception as error:  # of any library
        if is_out_of_memory(error):
            raise
        if strict and not isinstance(error, InputError):
            batch = ", ".join(cut.id for cut in cuts)
            error.add_note(f"raised by model {model.name!r} for utterances {batch}")
            raise
        if len(cuts) > 1:
            parts = [_embed(model, [c], [i], strict) for c, i in zip(cuts, inputs, strict=True)]
            failed = {row: part[1][0] for row, part in enumerate(parts) if part[1]}
            return np.concatenate([part[0] for part in parts]), failed
        why = f"utterance {cuts[0].id!r}: {reason(error)}"
        return np.zeros((1, model.dim), np.float32), {0: why}


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
