"""Where the utterances of a set come from that were not recorded for it: copies, other corpora.

Without Lhotse, for what reads embeddings alone.
"""

from pathlib import Path

from nessa.errors import InputError
from nessa.kaldi.datadir import read_optional, read_utt2spk

# Tables of the utterances that are perturbed copies (`utterance copy original`), and of those that
# come from elsewhere than the other ones (`utterance source`).
COPIES, SOURCES = "utt2copy", "utt2source"


def read_copies(directory: Path) -> dict[str, tuple[str, str]]:
    """{copy: (name of the copy, original utterance)} of a set.

    Raises:
        InputError: a line of its utt2copy is no such triple.
    """
    found = {}
    for utterance, value in read_optional(directory, COPIES).items():
        fields = value.split()
        if len(fields) != 2:
            raise InputError(
                f"{directory / COPIES}: {utterance!r}: expected `utterance copy original`; "
                "prepare the set again"
            )
        found[utterance] = (fields[0], fields[1])
    return found


def original_speakers(directory: Path) -> dict[str, str]:
    """{utterance: speaker} of a set; a copy is its original's speaker's, whatever voice it has.

    One whose original is not there counts as an utterance as others are.

    Raises:
        InputError: see `read_copies`; or no utt2spk.
    """
    utt2spk, copies = read_utt2spk(directory), read_copies(directory)
    return {
        u: utt2spk.get(copies[u][1], speaker) if u in copies else speaker
        for u, speaker in utt2spk.items()
    }


def read_additions(directory: Path) -> dict[str, str]:
    """{utterance: what it was added as, in words}, of the utterances beyond a set's recorded ones.

    Raises:
        InputError: see `read_copies`.
    """
    copies = {utterance: f"copy {copy}" for utterance, (copy, _) in read_copies(directory).items()}
    sources = read_optional(directory, SOURCES)
    return copies | {utterance: f"speakers of {source}" for utterance, source in sources.items()}
