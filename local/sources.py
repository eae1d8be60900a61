"""What a Kaldi data directory and a folder of Lhotse manifests have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lhotse import Recording
from lhotse.cut import MonoCut

from nessa.corpus.audio import TOLERANCE, NoDecoderError
from nessa.errors import InputError


def check_span(start: float, end: float, recording: Recording) -> float:
    """The end of an utterance in a recording, at most that of the recording.

    Args:
        start, end: in seconds.
        recording: that it is a part of.

    Raises:
        InputError: it does not lie in the recording.
    """
    if not 0 <= start < end <= recording.duration + TOLERANCE:
        raise InputError(
            f"from {start:g} to {end:g} s does not lie in recording {recording.id!r} of "
            f"{recording.duration:.2f} s; correct it"
        )
    return min(end, recording.duration)


class Source(ABC):
    """Utterances of a directory, as Lhotse cuts of one supervision each."""

    directory: Path
    utt2spk: dict[str, str]  # {utterance: speaker}
    segmented: bool  # whether utterances are parts of longer recordings
    has_domains: bool  # in `custom` of the supervisions

    def cuts(self, utterances: Iterable[str], skipped: dict[str, str] | None) -> Iterator[MonoCut]:
        """The cuts of some utterances, sorted by id as `LC_ALL=C sort` sorts.

        Args:
            utterances: their ids.
            skipped: receives those that cannot be used, {id: why}; None refuses them.

        Raises:
            InputError: names the utterance, its file and the remedy.
        """
        for utterance in sorted(utterances, key=str.encode):
            try:
                if not utterance.startswith(self.utt2spk[utterance]):
                    raise InputError(
                        f"{self.directory}: utterance {utterance!r} does not begin with its "
                        f"speaker, {self.utt2spk[utterance]!r}, as Kaldi's tools need it; rename it"
                    )
                yield self._cut(utterance)
            except InputError as error:
                if skipped is None or isinstance(error, NoDecoderError):
                    raise
                skipped[utterance] = str(error)

    @abstractmethod
    def domain_of(self, utterance: str) -> str | None:
        """The domain of an utterance; "": it has none; None: `cuts` refuses or skips it."""

    def _line(self, table: Mapping[str, str], name: str, key: str) -> str:
        if key not in table:
            raise InputError(f"{self.directory}/{name}: no line for {key!r}; add it")
        return table[key]

    @abstractmethod
    def _cut(self, utterance: str) -> MonoCut:
        """The cut of an utterance; its session is `custom["session"]` of the supervision."""
