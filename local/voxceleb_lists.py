"""VoxCeleb's trial lists, which name files: `1 id10270/x6uYqmx31kE/00001.wav id10270/...`."""

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from nessa.errors import InputError
from nessa.files import read_lines
from nessa.trials import Trials


def utterance_id(file: str) -> str:
    """id10270/x6uYqmx31kE/00001.wav -> id10270-x6uYqmx31kE-00001, whatever the suffix."""
    return "-".join(PurePosixPath(file).with_suffix("").parts)


@dataclass(frozen=True)
class TrialList:
    """A list as it was read: line k + 1 of the file is trial k.

    Attributes:
        path: of the file.
        trials: with utterance ids in the place of names.
    """

    path: Path
    trials: Trials

    @classmethod
    def read(cls, path: Path) -> "TrialList":
        """Read a list.

        Raises:
            InputError: unreadable, or a line that is not `1|0 file file`.
        """
        enroll: list[str] = []
        test: list[str] = []
        labels: list[bool] = []
        for number, line in read_lines(path):
            label, *files = line.split() or [""]
            if label not in ("0", "1") or len(files) != 2:
                raise InputError(f"{path}: line {number}: expected `1|0 file file`, got {line!r}")
            enroll.append(utterance_id(files[0]))
            test.append(utterance_id(files[1]))
            labels.append(label == "1")
        return cls(path, Trials(enroll, test, np.array(labels)))

    def among(self, known: Container[str], skipped: dict[str, str]) -> Trials:
        """The trials of utterances that the set has.

        Args:
            known: its utterances.
            skipped: those that were left out; receives their trials, {file:line: why}.

        Raises:
            InputError: an utterance is neither known nor skipped.
        """
        kept = np.ones(len(self.trials), dtype=bool)
        for row, pair in enumerate(zip(self.trials.enroll, self.trials.test, strict=True)):
            for name in pair:
                if name in skipped:
                    skipped[f"{self.path.name}:{row + 1}"] = f"trial of a skipped utterance, {name}"
                    kept[row] = False
                elif name not in known:
                    raise InputError(
                        f"{self.path}: line {row + 1}: {name!r} matches no utterance of the set; "
                        "restore the file, or remove the line"
                    )
        return self.trials if kept.all() else self.trials.select(kept)
