"""The align set as aligners are fitted to it: two views of the same utterances, and who speaks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from nessa.alignment.domains import Domains
from nessa.alignment.views import Labels, Matrix, Rows
from nessa.errors import InputError, about
from nessa.files import read_lines
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.lazy import NotStorableError, StoredVectors
from nessa.kaldi.scp import stream_scp
from nessa.kaldi.stamps import ModelStamp, read_stamp

MEMORY_SHARE = 0.5  # of what is available; a larger table stays in its files


@dataclass(frozen=True)
class AlignTable:
    """N utterances.

    Attributes:
        enroll, runtime: their embeddings by the two models, (N, Dx), (N, Dy).
        labels: speaker 0..S-1 of each, (N,), numbered in the order of their names.
        stamps: of the two models, None where unknown.
        utterances: gives their ids, in order.
        domains: of each; None where none is known.
    """

    enroll: Rows
    runtime: Rows
    labels: Labels
    stamps: tuple[ModelStamp | None, ModelStamp | None]
    utterances: Callable[[], Iterable[str]]
    domains: Domains | None = None

    @classmethod
    def of(
        cls, enroll: Embeddings, runtime: Embeddings, speakers: Mapping[str, str]
    ) -> "AlignTable":
        """From memory; the rows of both are put in the order of the first.

        Args:
            enroll, runtime: embeddings of the same utterances.
            speakers: utterance -> speaker.

        Raises:
            InputError: other utterances in the two views, an utterance without a speaker, or fewer
                than two speakers.
        """
        paired = runtime.matrix
        if enroll.keys != runtime.keys:
            different = sorted(set(enroll.keys) ^ set(runtime.keys))
            if different:
                raise InputError(
                    f"the two models' align sets differ in {len(different)} utterances, first "
                    f"{different[:1]}; extract both from the same data, or pair them by speaker"
                )
            paired = runtime.matrix[runtime.rows(enroll.keys)]
        _check_speakers(enroll.keys, speakers)
        labels = _numbered(speakers[key] for key in enroll.keys)
        stamps = enroll.stamp, runtime.stamp
        return cls(enroll.matrix, paired, labels, stamps, lambda: enroll.keys)

    @classmethod
    def by_speaker(
        cls, enroll: Embeddings, runtime: Embeddings, speakers: Mapping[str, str]
    ) -> "AlignTable":
        """Of views that share speakers, whatever their utterances; each utterance is used once.

        Utterances that both have are pairs. The others of a speaker are paired in their order, as
        many as both have; those left over, and speakers that only one has, are left out.

        Args:
            enroll, runtime: embeddings.
            speakers: utterance -> speaker, of both.

        Raises:
            InputError: an utterance without a speaker, or fewer than two shared speakers.
        """
        shared = set(enroll.keys) & set(runtime.keys)
        keys: tuple[list[str], list[str]] = ([], [])
        lonely = [_alone(view, shared, speakers) for view in (enroll, runtime)]
        for speaker in lonely[0].keys() & lonely[1].keys():
            for first, second in zip(lonely[0][speaker], lonely[1][speaker], strict=False):
                keys[0].append(first)
                keys[1].append(second)
        pairs = sorted([*zip(*keys, strict=True), *((key, key) for key in shared)])
        names = {speakers[key] for key, _ in pairs}
        if len(names) < 2:
            raise InputError(f"the two models' align sets share {len(names)} speakers; give more")
        views = [
            view.select([pair[n] for pair in pairs]) for n, view in enumerate((enroll, runtime))
        ]
        renamed = Embeddings(views[0].keys, views[1].matrix, stamp=runtime.stamp)
        return cls.of(views[0], renamed, speakers)

    @classmethod
    def open(cls, enroll: Path, runtime: Path, data: Path) -> "AlignTable":
        """From files: in memory where the vectors take less than half of it.

        Larger ones stay in their arks, and 60 bytes an utterance are kept, where all vectors are
        float32 and both embeddings directories and utt2spk have one order, as those that
        `nessa extract` makes do.

        Args:
            enroll, runtime: embeddings directories of the align set.
            data: its data directory.

        Raises:
            InputError: unreadable, or as for `of`.
        """
        vectors = StoredVectors(enroll / "xvector.scp"), StoredVectors(runtime / "xvector.scp")
        try:
            speakers = _speakers_of_rows(vectors[0].open(), vectors[1].open(), data / "utt2spk")
            labels = _numbered(speakers)
        except (_OtherOrderError, NotStorableError):
            views = Embeddings.read(enroll), Embeddings.read(runtime)
            with about(enroll, runtime, data / "utt2spk"):
                return cls.of(*views, read_utt2spk(data))
        scps = enroll / "xvector.scp", runtime / "xvector.scp"
        stamps = read_stamp(scps[0], *vectors[0].shape), read_stamp(scps[1], *vectors[1].shape)
        table = cls(*vectors, labels, stamps, lambda: chain.from_iterable(_keys(scps[0])))
        size = 4 * sum(len(view) * view.shape[1] for view in vectors)
        return table.loaded() if size <= MEMORY_SHARE * _available_memory() else table

    def loaded(self) -> "AlignTable":
        """The same, in memory."""
        return replace(self, enroll=_as_matrix(self.enroll), runtime=_as_matrix(self.runtime))

    def with_domains(self, utt2domain: Mapping[str, str]) -> "AlignTable":
        """The same, with the domains of its utterances.

        Args:
            utt2domain: {utterance: domain}; empty: no domains.
        """
        if not utt2domain:
            return self
        return replace(self, domains=Domains.of([utt2domain.get(u, "") for u in self.utterances()]))

    @property
    def fingerprints(self) -> tuple[str | None, str | None]:
        """Of the two models, None where unknown."""
        enroll, runtime = (stamp.fingerprint if stamp else None for stamp in self.stamps)
        return enroll, runtime


def _alone(view: Embeddings, shared: Set[str], speakers: Mapping[str, str]) -> dict[str, list[str]]:
    """{speaker: utterances} of those that the other view lacks."""
    _check_speakers(view.keys, speakers)
    found: dict[str, list[str]] = {}
    for key in view.keys:
        if key not in shared:
            found.setdefault(speakers[key], []).append(key)
    return found


def _check_speakers(keys: Sequence[str], speakers: Mapping[str, str]) -> None:
    missing = [key for key in keys if key not in speakers]
    if missing:
        raise InputError(f"utterance {missing[0]!r} has no speaker ({len(missing)} in all)")


def _keys(scp: Path) -> Iterator[list[str]]:
    return (lines.keys for lines in stream_scp(scp))


def _as_matrix(view: Rows) -> Matrix:
    """All rows, in memory."""
    return view.load() if isinstance(view, StoredVectors) else np.asarray(view)


def _available_memory() -> int:
    """Bytes that programs can take without others being pushed out; Linux counts them."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


def _numbered(names: Iterable[str]) -> Labels:
    """The place of each name among the sorted names."""
    codes: dict[str, int] = {}
    labels = np.fromiter((codes.setdefault(name, len(codes)) for name in names), np.int32)
    if len(codes) < 2:
        raise InputError("the align set has one speaker or none; an aligner needs many")
    place = np.empty(len(codes), np.int32)
    place[[codes[name] for name in sorted(codes)]] = np.arange(len(codes))
    return place[labels]


class _OtherOrderError(Exception):
    """Keys do not follow each other as in the table beside it."""


def _speakers_of_rows(
    enroll: Iterator[list[str]], runtime: Iterator[list[str]], utt2spk: Path
) -> Iterator[str]:
    """The speaker of each key, while three tables of one order are read together."""
    lines = (line.split(maxsplit=1) for _, line in read_lines(utt2spk))
    pairs = zip_longest(chain.from_iterable(enroll), chain.from_iterable(runtime))
    for key, other in pairs:
        if key != other:
            raise _OtherOrderError
        for fields in lines:  # of the data set's utterances, some may be without embeddings
            if fields and fields[0] == key and len(fields) == 2:
                yield fields[1]
                break
        else:
            raise _OtherOrderError
