"""Fitting an aligner to files: the sets of a recipe, or two tables that tell the speakers."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nessa.alignment.base import Aligner
from nessa.alignment.dev import DevSet, check_labels
from nessa.alignment.table import AlignTable
from nessa.corpus.draw_trials import count_possible_trials, make_trials
from nessa.corpus.origins import COPIES, original_speakers
from nessa.corpus.speakers import split_speakers
from nessa.errors import InputError, about, named
from nessa.files import read_lines
from nessa.files import read_table as read_text_table
from nessa.kaldi.datadir import is_there, read_optional, read_utt2spk, trial_lists
from nessa.kaldi.embeddings import Embeddings
from nessa.stores.tables import read_labels, read_table
from nessa.trials import read_labeled

log = logging.getLogger(__name__)
DEV_SHARE = 0.1  # of the speakers of two tables
FEWEST_SHARED = 20  # speakers of shared utterances, below whom none are held out by speaker
DEV_TRIALS = 4000, 20000  # targets and non-targets, at most


def fit_to_sets(
    aligner: Aligner,
    enroll: Path,
    runtime: Path,
    data: Path,
    by_speaker: bool = False,
    **options: Any,
) -> Aligner:
    """Fit to the align set of a recipe; the dev set chooses.

    Args:
        aligner: to fit.
        enroll, runtime: a model's embeddings each: a folder with align and dev.
        data: holds the data directories of align and dev.
        by_speaker: the two models' align sets share speakers; see `AlignTable.by_speaker`.
        options: of `Aligner.fit_table`.

    Raises:
        InputError: unreadable, what does not fit together, or a speaker in both sets; names the
            files.
    """
    dev = read_dev(data / "dev", enroll / "dev", runtime / "dev")
    places = enroll / "align", runtime / "align", data / "align"
    if by_speaker:
        x, y = map(Embeddings.read, places[:2])
        with about(*places):
            table = AlignTable.by_speaker(x, y, read_utt2spk(places[2]))
    else:
        table = AlignTable.open(*places)
    table = table.with_domains(read_optional(data / "align", "utt2domain"))
    if is_there(data / "align" / COPIES):
        table = table.with_persons(original_speakers(data / "align"))
    _check_disjoint(table, dev, data)
    with about(*places):
        return aligner.fit_table(table, dev, **options)


def read_dev(data: Path, enroll: Path, runtime: Path) -> DevSet:
    """The dev set of a recipe; each list is checked by itself, so that a fault names its file.

    Args:
        data: the data directory of dev.
        enroll, runtime: its embeddings by a model each, or both by the same one.

    Raises:
        InputError: unreadable, a list without labels, of one class alone, of utterances that have
            no embedding, or with labels that contradict the speakers.
    """
    lists = {path: read_labeled(path) for path in trial_lists(data)}
    sides = {path: Embeddings.read(path) for path in (enroll, runtime)}
    main, *others = lists.values()
    domains, speakers = (read_optional(data, name) for name in ("utt2domain", "utt2spk"))
    for path, trials in lists.items():
        with about(path, enroll, runtime):
            own = DevSet(sides[enroll], sides[runtime], trials, speakers=speakers)
        with about(path):
            check_labels(own)
    return DevSet(sides[enroll], sides[runtime], main, tuple(others), domains, speakers)


def _check_disjoint(table: AlignTable, dev: DevSet, data: Path) -> None:
    """Refuse a speaker whose utterances are in both sets; utt2spk may list more than is used."""
    align, held_out = data / "align" / "utt2spk", data / "dev" / "utt2spk"
    names = {dev.speakers[key] for key in dev.enroll.keys if key in dev.speakers}
    lines = (line.split() for _, line in read_lines(align))  # which may be many
    suspects = {own[0]: own[1] for own in lines if len(own) == 2 and own[1] in names}
    if shared := next((key for key in table.all_utterances() if key in suspects), None):
        raise InputError(
            f"{align}, {held_out}: speaker {suspects[shared]!r} is in both; keep it in one of "
            "them, for dev judges the aligner by speakers that it was not fitted to"
        )


@dataclass(frozen=True)
class Tables:
    """Embeddings of two models, and who speaks in them.

    Attributes:
        enroll, runtime: embeddings.
        speakers: {utterance: speaker}, of both.
        sessions: {utterance: session}; where unknown, every utterance is one of its own.
        names: of the two files, for messages.
    """

    enroll: Embeddings
    runtime: Embeddings
    speakers: Mapping[str, str]
    sessions: Mapping[str, str]
    names: tuple[Path, Path]

    @classmethod
    def read(
        cls,
        enroll: Path,
        runtime: Path,
        utt2spk: Path | None = None,
        utt2session: Path | None = None,
    ) -> "Tables":
        """Read two tables; their columns tell speakers and sessions where no files do.

        Args:
            enroll, runtime: see `nessa.stores.tables.read_table`.
            utt2spk: `utterance speaker` lines.
            utt2session: `utterance session` lines.

        Raises:
            InputError: unreadable, an utterance without a speaker, or one of which the two tables
                tell different speakers.
        """
        tables = read_table(enroll), read_table(runtime)
        names = enroll, runtime
        speakers = _labels(names, "speaker", utt2spk)
        if not speakers:
            raise InputError(
                f"{enroll}: nothing tells the speakers; give --utt2spk, or a column speaker (of "
                ".npz, an array speakers)"
            )
        keys = dict.fromkeys([*tables[0].keys, *tables[1].keys])
        if lacking := [key for key in keys if key not in speakers]:
            place = utt2spk or enroll
            raise InputError(f"{place}: no speaker for {named(lacking)}; add a line for each")
        sessions = _labels(names, "session", utt2session)
        if sessions and (lacking := [key for key in keys if key not in sessions]):
            place = utt2session or enroll
            raise InputError(f"{place}: no session for {named(lacking)}; add a line for each")
        if not sessions:
            log.warning(
                "%s: no sessions: every utterance counts as a session of its own, and targets of "
                "one recording session are easier", enroll,
            )  # fmt: skip
        return cls(*tables, speakers, {key: sessions.get(key, key) for key in keys}, names)

    @property
    def shared(self) -> list[str]:
        """The utterances that both models have, sorted."""
        return sorted(set(self.enroll.keys) & set(self.runtime.keys))

    def of_speakers(self, speakers: set[str]) -> "Tables":
        """The part of some speakers."""
        enroll, runtime = (
            view.select([key for key in view.keys if self.speakers[key] in speakers])
            for view in (self.enroll, self.runtime)
        )
        return Tables(enroll, runtime, self.speakers, self.sessions, self.names)


def fit_to_tables(
    aligner: Aligner,
    tables: Tables,
    by_speaker: bool = False,
    seed: int = 1,
    **options: Any,
) -> Aligner:
    """Fit to two tables; a tenth of the speakers, drawn by chance, are the dev set.

    Args:
        aligner: to fit.
        tables: of two models.
        by_speaker: they share speakers, if not utterances; see `AlignTable.by_speaker`. Without
            utterances that both models have, there is no dev set.
        seed: of the draw.
        options: of `Aligner.fit_table`.

    Raises:
        InputError: too few speakers, or the tables do not fit together.
    """
    shared = {key: tables.speakers[key] for key in tables.shared}
    dev = None
    if shared and (not by_speaker or _can_be_divided(tables, shared)):
        remedy = "add speakers, or take --by-speaker where the tables share these alone"
        place = tables.names[0]
        names = split_speakers(set(shared.values()), {"dev": DEV_SHARE}, seed, place, remedy)
        held_out = set(names["dev"])
        dev = _dev_set(tables, {k: s for k, s in shared.items() if s in held_out}, seed)
        tables = tables.of_speakers(set(tables.speakers.values()) - held_out)
    elif not shared and not by_speaker:
        raise InputError(
            f"{tables.names[0]} and {tables.names[1]} share no utterance; embed the same ones by "
            "both models, or give --by-speaker"
        )
    else:
        log.warning(
            "too few utterances that both models have: nothing is held out to choose and judge by"
        )
    pairing = AlignTable.by_speaker if by_speaker else AlignTable.of
    with about(*tables.names):
        table = pairing(tables.enroll, tables.runtime, tables.speakers)
        return aligner.fit_table(table, dev, **options)


def _can_be_divided(tables: Tables, shared: Mapping[str, str]) -> bool:
    """Whether the speakers of shared utterances are enough for a dev set beside the others."""
    sessions = {key: tables.sessions[key] for key in shared}
    return len(set(shared.values())) >= FEWEST_SHARED and all(
        count_possible_trials(shared, sessions)
    )


def _dev_set(tables: Tables, speakers: Mapping[str, str], seed: int) -> DevSet:
    sessions = {key: tables.sessions[key] for key in speakers}
    with about(*tables.names):
        possible = count_possible_trials(speakers, sessions)
        targets, nontargets = (min(pair) for pair in zip(DEV_TRIALS, possible, strict=True))
        if not targets or not nontargets:
            raise InputError(
                "no target trials can be drawn of the speakers held out; they need utterances of "
                "several sessions"
            )
        trials = make_trials(speakers, sessions, None, targets, nontargets, seed)
    sides = tables.enroll.select(speakers), tables.runtime.select(speakers)
    return DevSet(*sides, trials, speakers=speakers)


def _labels(tables: tuple[Path, Path], column: str, given: Path | None) -> dict[str, str]:
    """What a file says, or a column of both tables, which must agree."""
    found: dict[str, str] = {}
    if given is not None:
        found = read_text_table(given)
        tables = (given, given)
    for path in tables if given is None else ():
        labels = read_labels(path, column) or {}
        if differing := [k for k, label in labels.items() if found.get(k, label) != label]:
            raise InputError(
                f"{path}: another {column} of {named(differing)} than in {tables[0]}; correct it"
            )
        found |= labels
    if spaced := [label for label in found.values() if len(label.split()) != 1]:
        where = " and ".join(map(str, dict.fromkeys(tables)))
        raise InputError(f"{where}: {column} {spaced[0]!r}: write one word")
    return found
