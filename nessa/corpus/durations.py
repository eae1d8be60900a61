"""Whether sets are alike in duration: what is chosen on one kind of speech misleads on another."""

import logging
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from statistics import median

from nessa.corpus.speakers import COMPARED
from nessa.errors import InputError
from nessa.files import parse_numbers
from nessa.kaldi.datadir import read_optional

log = logging.getLogger(__name__)
LARGEST_RATIO = 2.0  # of the median durations of two sets


def duration_differences(sets: Mapping[str, Path]) -> Iterator[str]:
    """Yield a sentence for each two sets whose median durations differ by a factor of two or more.

    Args:
        sets: {name: data directory}; one without utt2dur is left out.

    Raises:
        InputError: a duration is no number.
    """
    medians = {}
    for name, directory in sets.items():
        if durations := read_optional(directory, "utt2dur"):
            try:
                medians[name] = median(parse_numbers(durations.values()))
            except ValueError:
                raise InputError(f"{directory}/utt2dur: not all are seconds; correct it") from None
    for one, other in combinations(medians, 2):
        shorter, longer = sorted((one, other), key=medians.__getitem__)
        if medians[longer] >= LARGEST_RATIO * medians[shorter]:
            yield (
                f"utterances of {shorter} are {medians[shorter]:.1f} s long and those of {longer} "
                f"{medians[longer]:.1f} s (medians): what is fitted or chosen on one may mislead "
                "on the other; make align, dev and eval alike"
            )


def warn_of_durations(data: Path) -> None:
    """Log what `duration_differences` finds between align, dev and eval of a data folder."""
    for difference in duration_differences({name: data / name for name in COMPARED}):
        log.warning(difference)
