"""Trial lists that come with a corpus, in the ids of its utterances."""

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from nessa.errors import InputError, about
from nessa.trials import Trials


@dataclass(frozen=True)
class TrialList:
    """A list as it was read: trial k is line k + 1 of the file.

    Attributes:
        path: the file.
        trials: with utterance ids.
    """

    path: Path
    trials: Trials

    @classmethod
    def read_files(cls, path: Path) -> "TrialList":
        """Read a list that names files, as VoxCeleb's do: `1 id10270/x6uYqmx31kE/00001.wav ...`.

        Raises:
            InputError: see `Trials.read`; or the list has no labels.
        """
        trials = Trials.read(path)
        if trials.labels is None:
            raise InputError(f"{path}: line 1: no label; expected `1|0 file file`")
        files = {*trials.enroll_index.names, *trials.test_index.names}
        ids = {file: utterance_id(file) for file in files}
        with about(path):
            enroll, test = ([ids[file] for file in side] for side in (trials.enroll, trials.test))
            return cls(path, Trials(enroll, test, trials.labels))

    def among(
        self, known: Container[str], skipped: dict[str, str], profiles: Container[str]
    ) -> Trials:
        """The trials of utterances and profiles that the set has.

        Args:
            known: its utterances.
            skipped: those that were left out; receives their trials, {file:line: why}.
            profiles: that the enrollment side may name.

        Raises:
            InputError: an utterance is neither known nor skipped, or no trial is left.
        """
        kept = np.ones(len(self.trials), dtype=bool)
        for row, pair in enumerate(zip(self.trials.enroll, self.trials.test, strict=True)):
            for side, name in enumerate(pair):
                if side == 0 and name in profiles:
                    continue
                if name in skipped:
                    skipped[f"{self.path.name}:{row + 1}"] = f"trial of what was skipped, {name}"
                    kept[row] = False
                elif name not in known:
                    raise InputError(
                        f"{self.path}: line {row + 1}: {name!r} matches no utterance of the set; "
                        "restore the file, or remove the line"
                    )
        if not kept.any():
            raise InputError(
                f"{self.path}: all trials are of what was skipped; repair the utterances "
                "(restore their files), or remove the list"
            )
        return self.trials if kept.all() else self.trials.select(kept)


def utterance_id(file: str) -> str:
    """id10270/x6uYqmx31kE/00001.wav -> id10270-x6uYqmx31kE-00001, whatever the suffix."""
    path = PurePosixPath(file)
    return "-".join((*path.parent.parts, path.stem))
