"""The trial lists that come with a corpus, and the profiles of several utterances that they name.

The enrollment side of a trial is an utterance of the set, or a profile: of the enroll_map beside
the list, or else of spk2utt. Labels say whether both sides are of one speaker of utt2spk.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nessa.errors import InputError, named
from nessa.kaldi.datadir import (
    ENROLL_MAP,
    MAIN_LIST,
    PROFILE_LIST,
    TAKEN,
    is_there,
    map_of_list,
    spk2utt_of,
    trial_lists,
)
from nessa.trials import Trials, label_fault, rates_fault, read_enroll_map, trial_speakers

DRAWN = re.compile(r".+-p[0-9]+-[0-9]+(-.+)?")  # names of profiles, see `make_profile_trials`


def lists_in(directory: Path, profiles: bool = False) -> tuple[Path, ...]:
    """Those of `trial_lists` that are there.

    Raises:
        InputError: a user's list is called as that of drawn profiles, which is made again; or the
            main list is a folder, as WeSpeaker's.
    """
    if (directory / MAIN_LIST).is_dir():
        raise InputError(
            f"{directory / MAIN_LIST}: is a folder; rename it, and put one of its lists into "
            f"{directory} as {MAIN_LIST!r}, others as '{MAIN_LIST}_<name>'"
        )
    drawn = directory / PROFILE_LIST
    if drawn.is_file() and not all(map(DRAWN.fullmatch, Trials.read(drawn).enroll_index.names)):
        raise InputError(
            f"{drawn}: a list of drawn profiles takes this name in stage prepare; rename the list"
        )
    return tuple(path for path in trial_lists(directory, profiles) if is_there(path))


@dataclass(frozen=True)
class GivenTrials:
    """Trial lists of a directory.

    Attributes:
        directory: that holds them.
        lists: {file: its trials}.
        known: {profile: utterances}, of enroll_map, or else of spk2utt or utt2spk.
        profiles: {profile: utterances}, of those that the lists name.
        stale: {name of a file: what it names, and neither the set nor the profiles have}.
    """

    directory: Path
    lists: dict[Path, Trials]
    known: dict[str, list[str]]
    profiles: dict[str, list[str]]
    stale: dict[str, list[str]]

    @classmethod
    def read(
        cls, directory: Path, utt2spk: Mapping[str, str], lists: Sequence[Path]
    ) -> "GivenTrials":
        """Read lists, and the profiles that they name.

        Args:
            directory: with enroll_map or spk2utt, where they name profiles.
            utt2spk: {utterance: speaker}, of the directory.
            lists: of the directory.

        Raises:
            InputError: a list or a map is unreadable, or a list is of other ids.
        """
        read = {path: Trials.read(path) for path in lists}
        enrolled = {name for trials in read.values() for name in trials.enroll_index.names}
        source, known = _profiles_in(directory, utt2spk)
        profiles = {name: known[name] for name in sorted(enrolled - utt2spk.keys() & known.keys())}
        # Of spk2utt, others than those named are not ours to judge.
        checked = known if source == ENROLL_MAP else profiles
        members = {utterance for utterances in checked.values() for utterance in utterances}
        stale = {source: sorted(members - utt2spk.keys())}
        for path, trials in read.items():
            enrolled, tested = set(trials.enroll_index.names), set(trials.test_index.names)
            unknown = (enrolled - profiles.keys() | tested) - utt2spk.keys()
            if unknown == enrolled | tested and utt2spk:
                raise InputError(
                    f"{path}: names other ids than utt2spk, such as {min(unknown)!r}; write them "
                    f"as {min(utt2spk)!r}, or remove the list"
                )
            stale[path.name] = sorted(unknown)
        stale = {file: names for file, names in stale.items() if names}
        return cls(directory, read, known, profiles, stale)

    def problems(self, utt2spk: Mapping[str, str]) -> Iterator[str]:
        """What is wrong with lists that are not stale and their profiles, a sentence each."""
        for path, trials in self.lists.items():
            _, further, name = path.name.partition("_")
            if further and TAKEN.fullmatch(name):
                yield f"{path}: results call other trials {name!r}; rename the list"
            if fault := rates_fault(trials):
                yield f"{path}: {fault}"
            names = trials.enroll_index.names
            both = [n for n in names if n in utt2spk and self.known.get(n, [n]) != [n]]
            if both and is_there(self.directory / ENROLL_MAP):
                yield (
                    f"{path}: {named(both)} is an utterance, and a profile of others in "
                    f"{ENROLL_MAP}; rename the profile"
                )
            profiles, utterances = self._trials_of_their_own(trials)
            if profiles:
                yield (
                    f"{path}: {named(profiles)}: the test utterance is one of the profile; write "
                    f"an {ENROLL_MAP} without it"
                )
            if utterances:
                yield (
                    f"{path}: {named(utterances)}: the test utterance is that of the enrollment; "
                    "remove the trial"
                )
        mixed = list(self._mixed_profiles(utt2spk))
        yield from mixed or self._label_problems(utt2spk)

    def _mixed_profiles(self, utt2spk: Mapping[str, str]) -> Iterator[str]:
        for name, utterances in self.profiles.items():
            speakers = sorted({utt2spk[utterance] for utterance in utterances})
            if len(speakers) != 1:
                yield (
                    f"{self.directory / ENROLL_MAP}: profile {name!r} holds utterances of "
                    f"{len(speakers)} speakers ({', '.join(speakers[:3])}); correct it"
                )

    def _label_problems(self, utt2spk: Mapping[str, str]) -> Iterator[str]:
        for path, trials in self.lists.items():
            if trials.labels is not None:
                speakers = trial_speakers(trials, utt2spk, self.profiles)
                if fault := label_fault(trials, speakers):
                    yield f"{path}: {fault}"

    def _trials_of_their_own(self, trials: Trials) -> tuple[list[str], list[str]]:
        """Target trials whose test utterance is enrolled, which would be too easy.

        Returns:
            Those of profiles that hold it, and those that enroll the utterance itself.
        """
        targets = [True] * len(trials) if trials.labels is None else trials.labels.tolist()
        rows = zip(trials.enroll, trials.test, targets, strict=True)
        own = [(e, t) for e, t, target in rows if target and t in self.profiles.get(e, [e])]
        profiles = [f"{e} {t}" for e, t in own if e in self.profiles]
        return profiles, [f"{e} {t}" for e, t in own if e not in self.profiles]

    def check(self, utt2spk: Mapping[str, str]) -> None:
        """Refuse stale lists, and profiles that are not what they should be."""
        if self.stale:
            raise InputError(stale_problem(self.directory, self.stale))
        if problems := list(self.problems(utt2spk)):
            raise InputError("\n".join(problems))


def domain_pairs(path: Path, domains: Mapping[str, str]) -> set[tuple[str, str]]:
    """The domains of the enrolled and the test utterances of trials, (enrolled, tested).

    Args:
        path: of a list of a set that stage prepare made.
        domains: {utterance: domain}.
    """
    trials = Trials.read(path)
    profiles = read_enroll_map(map_of_list(path, trials.enroll_index.names))
    return {
        (domains[utterance], domains[test])
        for enroll, test in zip(trials.enroll, trials.test, strict=True)
        for utterance in profiles.get(enroll, [enroll])
        if utterance in domains and test in domains
    }


def stale_problem(directory: Path, stale: Mapping[str, Sequence[str]]) -> str:
    """One sentence about all files that name what is not in the set."""
    files = ", ".join(f"{directory / file} ({len(names)})" for file, names in stale.items())
    names = sorted({name for names in stale.values() for name in names})
    return (
        f"{files}: {named(names)} is not in the set (utt2spk), as fix_data_dir.sh and "
        "subset_data_dir.sh leave it; remove what names them, or bring the utterances back"
    )


def _profiles_in(directory: Path, utt2spk: Mapping[str, str]) -> tuple[str, dict[str, list[str]]]:
    """The file that says which profiles there are, and {profile: utterances}."""
    for name in (ENROLL_MAP, "spk2utt"):
        if is_there(directory / name):
            return name, read_enroll_map(directory / name)
    spoken = spk2utt_of(utt2spk)
    return "utt2spk", {speaker: names.split() for speaker, names in spoken.items()}
