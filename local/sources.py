"""What a Kaldi data directory and a folder of Lhotse manifests have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

from lhotse.cut import MonoCut

from nessa.errors import InputError


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
                if skipped is None:
                    raise
                skipped[utterance] = str(error)

    @abstractmethod
    def _cut(self, utterance: str) -> MonoCut:
        """The cut of an utterance; its session is `custom["session"]` of the supervision."""
