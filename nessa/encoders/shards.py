"""Embeddings directories, extracted in shards that are merged, or imported from another toolkit."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lhotse.cut import MonoCut

from nessa.corpus.manifests import CutTable
from nessa.corpus.sounds import part_of, sounds_digest
from nessa.encoders.arks import GivenEmbeddings
from nessa.encoders.base import SpeakerModel
from nessa.encoders.extraction import extract
from nessa.errors import InputError
from nessa.files import digest, read_json, spots_digest, write_json, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings, merge_parts
from nessa.kaldi.scp import lies_beside, read_scp
from nessa.kaldi.stamps import ModelStamp

log = logging.getLogger(__name__)
ALIGN = "align"  # the set by whose vectors given embeddings are told apart
SKIPPED = "skipped"  # what was left out of an embeddings directory, and why
SOUNDS = "sounds"  # digest of the audio or features of a shard
SPOTS = "spots"  # digest of some bytes of a shard's ark


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
