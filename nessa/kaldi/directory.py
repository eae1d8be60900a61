"""The files of an embeddings directory: parts that jobs write, then the tables of all parts.

    xvector.JOB.ark, .scp       one part for each job, from 1
    spk_xvector.ark, .scp       means of the speakers
    num_utts.ark                text, `speaker count`
    xvector.scp                 all parts, C-sorted by key
    info.json                   the model that made them; see `nessa.kaldi.stamps`

xvector.scp says that the directory is complete: it is removed before anything changes, and written
once everything else is there. A table of all parts or of speakers is never there without info.json,
or the vectors of a killed run would be taken for those of any model.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nessa.errors import InputError, named
from nessa.files import atomic_open, remove_leftovers, write_table
from nessa.kaldi.ark import Block, write_records
from nessa.kaldi.checks import check_unique
from nessa.kaldi.scp import Listing, merge_scps, read_scp, write_scp
from nessa.kaldi.stamps import ModelStamp, write_info
from nessa.threads import background

SPEAKER_TABLE, SPEAKER_ARK, SPEAKER_COUNTS = "spk_xvector.scp", "spk_xvector.ark", "num_utts.ark"
MEANS_OF_SPEAKERS = (SPEAKER_TABLE, SPEAKER_ARK)
OF_ALL_PARTS = ("xvector.scp", *MEANS_OF_SPEAKERS, SPEAKER_COUNTS, "info.json")  # as they go


def write_part(
    directory: Path, job: int, blocks: Iterable[Block], relative: bool = False
) -> Listing:
    """Write one shard of an embeddings directory; see `Embeddings.write_part`.

    Args:
        directory: made if missing.
        job: number of the shard, from 1.
        blocks: (keys, their vectors), one after the other; each is written while the next is made.
        relative: write scp paths relative to the working directory, not absolute.

    Returns:
        What its scp lists.
    """
    _remove_tables(directory)
    ark, scp = (directory / f"xvector.{job}.{suffix}" for suffix in ("ark", "scp"))
    return write_tables(ark, scp, blocks, relative)


def write_tables(ark: Path, scp: Path | None, blocks: Iterable[Block], relative: bool) -> Listing:
    """Write an ark, then the scp that lists it, if one is wanted; see `write_part`."""
    if scp is not None:
        scp.unlink(missing_ok=True)  # its offsets are those of the ark to be replaced
    keys: list[str] = []
    writing: list[Future[npt.NDArray[np.int64]]] = []
    with atomic_open(ark, "wb") as file, background() as submit:
        for block_keys, matrix in blocks:
            keys += block_keys
            if len(writing) > 1:
                writing[-2].result()  # bounds the blocks that are waiting
            writing.append(submit(write_records, file, block_keys, matrix))
        offsets = np.concatenate([np.empty(0, np.int64), *(done.result() for done in writing)])
    location = os.path.relpath(ark) if relative else os.path.abspath(ark)
    where = f"{scp}: row {{}}".format
    listing = Listing(str(scp), keys, [location], np.zeros(len(keys), np.int64), offsets, where)
    if scp is not None:
        write_scp(scp, listing)
    return listing


def read_parts(directory: Path, parts: Sequence[Listing | None]) -> list[Listing]:
    """Read the scps of those parts that another process wrote (None).

    Raises:
        InputError: a part is missing or broken.
    """
    paths = [directory / f"xvector.{job}.scp" for job in range(1, len(parts) + 1)]
    unknown = [path for path, part in zip(paths, parts, strict=True) if part is None]
    if missing := [path.name for path in unknown if not path.exists()]:
        raise InputError(f"{directory}: no {named(missing)}; run extraction again")
    return [part or read_scp(path) for path, part in zip(paths, parts, strict=True)]


def join_parts(
    directory: Path,
    parts: Sequence[Listing | None],
    dim: int,
    stamp: ModelStamp,
    counts: Mapping[str, str] | None,
) -> None:
    """Complete a directory as `merge_parts` does, without its speakers and without reading vectors.

    Args:
        directory: holds the parts.
        parts: what `write_part` returned; None where another process wrote the part.
        dim: of the vectors.
        stamp: the model that made the vectors.
        counts: {speaker: utterances} where the vectors are means of speakers, for num_utts.ark.

    Raises:
        InputError: a part is missing, two parts share a key, or there are no vectors at all.
    """
    known = read_parts(directory, parts)
    listing = merge_scps(str(directory), known)
    begin(directory, len(known), len(listing.keys), dim, stamp)
    if counts:
        write_table(directory / SPEAKER_COUNTS, counts)
    complete(directory, known, listing)


def begin(directory: Path, jobs: int, count: int, dim: int, stamp: ModelStamp | None) -> None:
    """Write info.json, before any table; remove what earlier runs left beside parts 1 to `jobs`.

    Args:
        directory: holds the parts.
        jobs: number of parts.
        count, dim: number and dimension of all their vectors.
        stamp: the model that made them; None leaves out info.json.
    """
    _remove_tables(directory)
    remove_leftovers(directory)
    for path in directory.glob("xvector.*.*"):
        _, job, suffix = path.name.split(".", 2)
        if suffix in ("ark", "scp") and job.isdecimal() and int(job) > jobs:
            path.unlink()
    if stamp is not None:
        write_info(directory, stamp, dim, count)


def complete(directory: Path, parts: Sequence[Listing], listing: Listing) -> None:
    """Write what says that the directory is complete; `listing` is that of all parts.

    Raises:
        InputError: two parts share a key, or there are no vectors.
    """
    if not listing.keys:
        raise InputError(f"{directory}: holds no vectors; run extraction again")
    check_unique(listing.keys, listing.where)
    if listing is parts[0]:  # of the same bytes as that of its part
        with atomic_open(directory / "xvector.scp", "wb") as file:
            file.write((directory / "xvector.1.scp").read_bytes())
    else:
        write_scp(directory / "xvector.scp", listing)


def _remove_tables(directory: Path) -> None:
    for name in OF_ALL_PARTS:
        (directory / name).unlink(missing_ok=True)
