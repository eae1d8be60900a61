"""The align set as aligners are fitted to it: two views of the same utterances, and who speaks."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nessa.alignment.domains import Domains
from nessa.alignment.memory import available_memory
from nessa.alignment.views import SIDES, Labels, Matrix, Rows, Side
from nessa.errors import InputError, about
from nessa.files import read_lines
from nessa.kaldi.datadir import read_utt2spk, speakers_of, utterances_by_speaker
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.lazy import NotStorableError, StoredVectors
from nessa.kaldi.scp import stream_scp
from nessa.kaldi.stamps import ModelStamp, read_stamp

log = logging.getLogger(__name__)
MEMORY_SHARE = 0.5  # of what is available; a larger table stays in its files


@dataclass(frozen=True)
class AlignTable:
    """N utterances.

    Attributes:
        enroll, runtime: their embeddings by the two models, (N, Dx), (N, Dy).
        labels: speaker 0..S-1 of each, (N,), numbered in the order of their names.
        stamps: of the two models, None where unknown.
        utterances: gives the ids of a view's rows, in order.
        domains: of the rows of each view; None where none is known.
        persons: number of the person whose voice each speaker has, (S,), where some are copies
            with another voice; None: each is another person.
        recordings: numbers of the utterances of the two views, (N, 2), where the rows of some
            share one; None: row n is of utterance n in both.
    """

    enroll: Rows
    runtime: Rows
    labels: Labels
    stamps: tuple[ModelStamp | None, ModelStamp | None]
    utterances: Callable[[Side], Iterable[str]]
    domains: tuple[Domains, Domains] | None = None
    persons: Labels | None = None
    recordings: npt.NDArray[np.int64] | None = None

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
        labels = _numbered(speakers_of(enroll.keys, speakers))
        stamps = enroll.stamp, runtime.stamp
        return cls(enroll.matrix, paired, labels, stamps, lambda _: enroll.keys)

    @classmethod
    def by_speaker(
        cls, enroll: Embeddings, runtime: Embeddings, speakers: Mapping[str, str]
    ) -> "AlignTable":
        """Of views that share speakers, whatever their utterances.

        Utterances that both have are pairs. Those of a speaker that only one has are paired with
        those that only the other has, in their order; those left over, such as stored profiles
        whose audio is gone, beside another utterance of the speaker, each of them once more in
        turn; what is fitted in closed form takes these for other utterances. Speakers of whom one
        view has fewer than two utterances are left out, for in training an utterance is never
        compared with itself.

        Args:
            enroll, runtime: embeddings.
            speakers: utterance -> speaker, of both.

        Raises:
            InputError: an utterance without a speaker, or fewer than two speakers of whom both
                have two utterances.
        """
        x, y = (utterances_by_speaker(view.keys, speakers) for view in (enroll, runtime))
        shared = sorted(x.keys() & y.keys())
        pairs = {
            speaker: _pairs(x[speaker], y[speaker])
            for speaker in shared
            if min(len(x[speaker]), len(y[speaker])) >= 2
        }
        if len(pairs) < 2:
            raise InputError(
                f"the two models share {len(shared)} speakers, of whom {len(pairs)} have two "
                "utterances or profiles by each; give more"
            )
        if lonely := len(shared) - len(pairs):
            log.warning(
                "%d of %d shared speakers are left out: one of the models has a single utterance "
                "or profile of them", lonely, len(shared),
            )  # fmt: skip
        own, other = zip(*(pair for found in pairs.values() for pair in found), strict=True)
        codes = {key: code for code, key in enumerate(dict.fromkeys([*own, *other]))}
        recordings = np.array([[codes[key] for key in side] for side in (own, other)]).T
        names: dict[Side, Sequence[str]] = {"enroll": own, "runtime": other}
        return cls(
            enroll.matrix[enroll.rows(own)],
            runtime.matrix[runtime.rows(other)],
            _numbered(speakers[key] for key in own),
            (enroll.stamp, runtime.stamp),
            names.__getitem__,
            recordings=recordings,
        )

    @classmethod
    def open(cls, enroll: Path, runtime: Path, data: Path) -> "AlignTable":
        """From files: in memory where the vectors take less than half of it.

        Larger ones stay in their arks, and 60 bytes an utterance are kept, where all vectors are
        float32 and both xvector.scp and utt2spk are sorted, as those that `nessa extract` makes.

        Args:
            enroll, runtime: embeddings directories of the align set; see `Embeddings.read`.
            data: its data directory.

        Raises:
            InputError: unreadable, or as for `of`.
        """
        scps = enroll / "xvector.scp", runtime / "xvector.scp"
        vectors = StoredVectors(scps[0]), StoredVectors(scps[1])
        try:
            if not all(scp.is_file() for scp in scps):
                raise NotStorableError  # 3D-Speaker's tables; what is missing is named below
            speakers = _speakers_of_rows(vectors[0].open(), vectors[1].open(), data / "utt2spk")
            labels = _numbered(speakers, f"{data / 'utt2spk'}: ")
        except (_OtherOrderError, NotStorableError):
            views = Embeddings.read(enroll), Embeddings.read(runtime)
            with about(enroll, runtime, data / "utt2spk"):
                return cls.of(*views, read_utt2spk(data))
        stamps = read_stamp(scps[0], *vectors[0].shape), read_stamp(scps[1], *vectors[1].shape)
        table = cls(*vectors, labels, stamps, lambda _: chain.from_iterable(_keys(scps[0])))
        size = 4 * sum(len(view) * view.shape[1] for view in vectors)
        return table.loaded() if size <= MEMORY_SHARE * available_memory() else table

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
        own = [
            Domains.of([utt2domain.get(key, "") for key in self.utterances(side)])
            for side in self._different()
        ]
        return replace(self, domains=(own[0], own[-1]))

    def with_persons(self, originals: Mapping[str, str]) -> "AlignTable":
        """The same, with the persons whose voices its speakers have.

        Args:
            originals: {utterance: the person whose voice it was before it was perturbed}, of all;
                empty: there are no copies.
        """
        if not originals:
            return self
        keys = self.utterances("enroll")
        names = dict(zip(self.labels.tolist(), map(originals.__getitem__, keys), strict=True))
        _, persons = np.unique([name for _, name in sorted(names.items())], return_inverse=True)
        return replace(self, persons=persons)

    def all_utterances(self) -> Iterator[str]:
        """The ids of both views, some of them twice."""
        return chain.from_iterable(map(self.utterances, self._different()))

    def _different(self) -> tuple[Side, ...]:
        """The views whose rows are of utterances of their own."""
        return SIDES[:1] if self.recordings is None else SIDES

    @property
    def fingerprints(self) -> tuple[str | None, str | None]:
        """Of the two models, None where unknown."""
        enroll, runtime = (stamp.fingerprint if stamp else None for stamp in self.stamps)
        return enroll, runtime


def _pairs(x: Sequence[str], y: Sequence[str]) -> list[tuple[str, str]]:
    """(x's utterance, y's utterance) of a speaker's rows; see `AlignTable.by_speaker`."""
    both = set(x) & set(y)
    shared = [key for key in x if key in both]
    alone = [[key for key in own if key not in both] for own in (x, y)]
    pairs = [(key, key) for key in shared] + list(zip(*alone, strict=False))
    met = len(pairs)
    rows = pairs.copy()
    for place, own in enumerate(alone):
        for n, key in enumerate(own[met - len(shared) :]):
            first, second = pairs[n % met]
            rows.append((key, second) if place == 0 else (first, key))
    return rows


def _keys(scp: Path) -> Iterator[list[str]]:
    return (lines.keys for lines in stream_scp(scp))


def _as_matrix(view: Rows) -> Matrix:
    """All rows, in memory."""
    return view.load() if isinstance(view, StoredVectors) else np.asarray(view)


def _numbered(names: Iterable[str], where: str = "") -> Labels:
    """The place of each name among the sorted names; `where` begins a message."""
    codes: dict[str, int] = {}
    labels = np.fromiter((codes.setdefault(name, len(codes)) for name in names), np.int32)
    if len(codes) < 2:
        raise InputError(f"{where}the align set has one speaker or none; an aligner needs many")
    place = np.empty(len(codes), np.int32)
    place[[codes[name] for name in sorted(codes)]] = np.arange(len(codes))
    return place[labels]


class _OtherOrderError(Exception):
    """Keys do not follow each other as in the table beside it."""


def _speakers_of_rows(
    enroll: Iterator[list[str]], runtime: Iterator[list[str]], utt2spk: Path
) -> Iterator[str]:
    """The speaker of each key, while three tables of one order are read together, to their ends."""
    lines = _sorted_lines(utt2spk)
    for key, other in zip_longest(chain.from_iterable(enroll), chain.from_iterable(runtime)):
        if key != other:
            raise _OtherOrderError
        for utterance, speaker in lines:  # some may be without embeddings
            if utterance == key:
                yield speaker
                break
        else:
            raise _OtherOrderError
    for _ in lines:  # which may be wrong behind the last key
        pass


def _sorted_lines(utt2spk: Path) -> Iterator[tuple[str, str]]:
    """Utterances and their speakers; where they do not rise, what reads with care says why."""
    before = ""
    for _, line in read_lines(utt2spk):
        fields = line.split()
        if len(fields) != 2 or fields[0] <= before:
            raise _OtherOrderError
        before = fields[0]
        yield fields[0], fields[1]
