"""Audio -> embeddings: batches by length, masked, so that a batch never changes an embedding."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.cut import MonoCut
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nessa.encoders import SpeakerModel
from nessa.errors import InputError
from nessa.files import digest, read_json, write_json
from nessa.progress import progress
from nessa.tables import Embeddings, ModelStamp, merge_parts
from nessa.training import read_cuts

log = logging.getLogger(__name__)


def shard_of(items: list[MonoCut], shard: int, shards: int) -> list[MonoCut]:
    """The `shard`-th (from 1) of `shards` contiguous, nearly equal parts."""
    edges = [round(k * len(items) / shards) for k in (shard - 1, shard)]
    return items[edges[0] : edges[1]]


def extract_shard(
    model: SpeakerModel,
    data: Path,
    set_name: str,
    output: Path,
    shard: int,
    shards: int,
    batch_seconds: float,
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

    Raises:
        InputError: no manifest, or an utterance that cannot be read or embedded.
    """
    cuts = shard_of(_sorted_cuts(data, set_name), shard, shards)
    stamp, stamp_path = _stamp(model, cuts, shards), _stamp_path(output, shard)
    if stamp_path.is_file() and read_json(stamp_path) == stamp:
        log.info("%s: shard %d is there already", output, shard)
        return
    stamp_path.unlink(missing_ok=True)
    embeddings = extract(model, cuts, batch_seconds, what=f"{model.name} {set_name}")
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
    cuts = _sorted_cuts(data, set_name)
    for shard in range(1, shards + 1):
        stamp_path = _stamp_path(output, shard)
        expected = _stamp(model, shard_of(cuts, shard, shards), shards)
        if not stamp_path.is_file() or read_json(stamp_path) != expected:
            raise InputError(
                f"{output}: shard {shard} of {shards} is missing, or of another model or other "
                f"data; extract it again"
            )
    stamp = ModelStamp(model.name, model.fingerprint, set_name)
    return merge_parts(output, shards, {c.id: c.supervisions[0].speaker for c in cuts}, stamp)


def _sorted_cuts(data: Path, set_name: str) -> list[MonoCut]:
    cuts = read_cuts(data / "manifests" / f"{set_name}_cuts.jsonl.gz")
    return sorted(cuts, key=lambda cut: cut.id.encode())


def _stamp(model: SpeakerModel, cuts: list[MonoCut], shards: int) -> dict[str, Any]:
    """What a shard was made of, by which a stale one is known."""
    return {
        "fingerprint": model.fingerprint,
        "shards": shards,
        "utterances": digest([[cut.id, cut.duration] for cut in cuts]),
    }


def _stamp_path(output: Path, shard: int) -> Path:
    return output / f".xvector.{shard}.json"


def extract(
    model: SpeakerModel, cuts: list[MonoCut], batch_seconds: float = 120.0, what: str = "extract"
) -> Embeddings:
    """Embed every cut.

    Returns:
        Embeddings in the order of `cuts`.

    Raises:
        InputError: an utterance is unreadable, of another sampling rate, too short, or its
            embedding is not finite.
    """
    order = sorted(range(len(cuts)), key=lambda i: (cuts[i].num_samples, cuts[i].id))
    matrix = np.empty((len(cuts), model.config.dim), dtype=np.float32)
    features = model.feature_extractor()
    with progress(total=len(cuts), what=what) as bar:
        for indices in _batches(order, cuts, batch_seconds):
            inputs = [features(read_audio(cuts[i], model))[0] for i in indices]
            matrix[indices] = embed(model, inputs).numpy()
            bar.update(len(indices))
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise InputError(f"utterance {cuts[bad[0]].id!r}: embedding is not finite; is it silence?")
    return Embeddings([cut.id for cut in cuts], matrix)


@torch.inference_mode()
def embed(model: SpeakerModel, features: list[Tensor]) -> Tensor:
    """Feature matrices (T_i, F) -> embeddings (B, D), each as if it were alone."""
    lengths = torch.tensor([len(f) for f in features])
    same_length = bool((lengths == lengths[0]).all())
    padded = pad_sequence(features, batch_first=True)  # (B, T, F)
    return model.encoder(padded, None if same_length else lengths)


def read_audio(cut: MonoCut, model: SpeakerModel) -> Tensor:
    """One utterance's waveform, shape (1, samples).

    Raises:
        InputError: unreadable, another sampling rate, several channels, or under 5 frames long.
    """
    source = cut.recording.sources[0].source if cut.recording else "no audio"
    where = f"utterance {cut.id!r} ({source})"
    features = model.config.features
    if cut.sampling_rate != features.sampling_rate:
        raise InputError(
            f"{where}: sampled at {cut.sampling_rate} Hz, model {model.name!r} takes "
            f"{features.sampling_rate} Hz; resample it"
        )
    try:
        samples = cut.load_audio()
    except Exception as error:  # Lhotse's audio backends raise many types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{where}: cannot be read: {reason}; repair or remove it") from None
    if samples.shape[0] != 1:
        raise InputError(f"{where}: {samples.shape[0]} channels; make it mono")
    if samples.shape[1] < 5 * features.frame_shift * features.sampling_rate:
        raise InputError(f"{where}: only {samples.shape[1]} samples; too short for an embedding")
    return torch.from_numpy(samples)


def _batches(order: list[int], cuts: list[MonoCut], batch_seconds: float) -> Iterator[list[int]]:
    """Consecutive runs of `order` (short to long) whose padded audio stays under the limit."""
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * cuts[index].duration > batch_seconds:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
