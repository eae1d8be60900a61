"""What can be wrong with the tables of a data directory, of ours or of a user's.

Data preparation checks the directories that it reads and the sets that it made, `nessa validate`
any directory: by the same rules.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from nessa.corpus.audio import TOLERANCE
from nessa.corpus.origins import COPIES, SOURCES, read_copies
from nessa.corpus.profiles import GivenTrials, lists_in, stale_problem
from nessa.corpus.speakers import SETS
from nessa.errors import InputError, named
from nessa.files import parse_numbers, read_table
from nessa.kaldi.datadir import is_there, read_optional, read_utt2spk, spk2utt_of
from nessa.kaldi.scp import find_place

UTTERANCE_TABLES = ("utt2lang", "utt2session", "utt2domain", "text")
AUDIO_TABLES = ("utt2dur", "segments")
FEATURE_TABLES = ("feats.scp", "vad.scp", "utt2num_frames")
SEGMENT_FORM = (
    "`recording start end` in seconds, start < end, or -1 for the end, and of no channel but 0 or A"
)


def has_contents(directory: Path) -> bool:
    """Whether a data directory has audio or features; without, it is about given embeddings."""
    return any(is_there(directory / name) for name in ("wav.scp", "feats.scp"))


def validate_tables(
    directory: Path, has_audio: bool = True, has_features: bool = True
) -> list[str]:
    """Find what is wrong with the tables of a data directory.

    Checks what Kaldi's validate_data_dir.sh checks (tables sorted and consistent with each other,
    speaker a prefix of the utterance), and besides that audio files exist and that trials and
    profiles name utterances of the set. There may be no spk2utt: utt2spk says the same.

    Args:
        directory: with utt2spk, and wav.scp or feats.scp.
        has_audio: whether it must hold audio or features, and be in the order that Kaldi's tools
            for them need; False for sets of which there are only embeddings: tables about audio or
            features are not looked at.
        has_features: False where no model takes features: tables about these are not looked at.

    Returns:
        One sentence per problem, each with its remedy; empty where there is none.
    """
    return _all(directory, lambda: _table_problems(directory, has_audio, has_features))


def validate_order(directory: Path) -> list[str]:
    """As `validate_tables`, but only what no utterance that is left out takes with it."""
    return _all(directory, lambda: _whole_problems(directory))


def _all(directory: Path, find: Callable[[], Iterator[str]]) -> list[str]:
    if directory.exists() and not directory.is_dir():
        return [f"{directory}: is a file; name the folder that it is in"]
    if not directory.is_dir():
        return [f"{directory}: no such folder; has stage prepare been run?"]
    try:
        return list(find())
    except InputError as error:  # a table that cannot be read hides what is behind it
        return [str(error)]


def _table_problems(directory: Path, has_audio: bool, has_features: bool) -> Iterator[str]:
    utt2spk = read_utt2spk(directory)
    if not utt2spk:
        yield f"{directory}/utt2spk: empty; a set needs utterances"
        return
    if has_audio:
        yield from _order_problems(directory, utt2spk)
        if not has_contents(directory):
            yield f"{directory}: neither wav.scp nor feats.scp; make one of them"
    yield from _speaker_problems(directory, utt2spk, has_audio)
    audio = read_optional(directory, "wav.scp") if has_audio else {}
    segments = read_optional(directory, "segments") if has_audio else {}
    if segments:
        # Of features that outlived their audio, they say what was one recording.
        known = audio if is_there(directory / "wav.scp") else None
        yield from _segment_problems(directory / "segments", segments, known)
    if audio:
        yield from _recording_problems(directory, audio, bool(segments))
    stale: dict[str, list[str]] = {}  # table -> the utterances that the set has not
    contents: tuple[str, ...] = AUDIO_TABLES if segments else (*AUDIO_TABLES, "wav.scp")
    contents += FEATURE_TABLES if has_features else ()
    for name in (*UTTERANCE_TABLES, *(contents if has_audio else ())):
        path = directory / name
        if is_there(path):
            table = read_table(path, empty=name == "text")
            if unknown := sorted(table.keys() - utt2spk.keys()):
                stale[name] = unknown
            yield from _lacking(path, table, utt2spk, "utterance")
            if has_audio:
                yield from unsorted(path, table)
    trials = GivenTrials.read(directory, utt2spk, lists_in(directory, profiles=True))
    if stale := stale | trials.stale:
        yield stale_problem(directory, stale)
    else:
        yield from trials.problems(utt2spk)
    yield from _added_problems(directory, utt2spk)


def _whole_problems(directory: Path) -> Iterator[str]:
    yield from _order_problems(directory, read_utt2spk(directory))
    yield from _unknown_genders(directory / "spk2gender", read_optional(directory, "spk2gender"))


def _order_problems(directory: Path, utt2spk: Mapping[str, str]) -> Iterator[str]:
    """Of the ids, as Kaldi's tools need them, which sort by utterance and by speaker alike."""
    yield from unsorted(directory / "utt2spk", utt2spk)
    if strays := [utt for utt, speaker in utt2spk.items() if not utt.startswith(speaker)]:
        yield (
            f"{directory}/utt2spk: the speaker is no prefix of {named(strays)}; "
            "put the speaker first in utterance ids"
        )
        return
    if problem := speaker_order_problem(utt2spk):
        yield f"{directory}/utt2spk: {problem}"


def speaker_order_problem(utt2spk: Mapping[str, str]) -> str | None:
    """A sentence if speakers are not sorted where their utterances are, else None."""
    speakers = [utt2spk[utterance] for utterance in sorted(utt2spk, key=str.encode)]
    for last, speaker in pairwise(speakers):
        if speaker.encode() < last.encode():
            return (
                f"sorted by utterance, speaker {speaker!r} comes after {last!r}; separate the "
                "speaker by a dash in utterance ids, or give all speakers ids of one length"
            )
    return None


def unsorted(path: Path, keys: Iterable[str]) -> Iterator[str]:
    """A sentence if the keys of a table are not sorted as `LC_ALL=C sort` sorts."""
    keys = list(keys)
    if keys != sorted(keys, key=str.encode):
        yield f"{path}: not sorted; run `LC_ALL=C sort -o {path} {path}`"


def _speaker_problems(
    directory: Path, utt2spk: Mapping[str, str], has_audio: bool
) -> Iterator[str]:
    inverse = spk2utt_of(utt2spk)
    if is_there(directory / "spk2utt"):
        spk2utt = read_table(directory / "spk2utt")
        if {s: sorted(u.split(), key=str.encode) for s, u in spk2utt.items()} != {
            s: u.split() for s, u in inverse.items()
        }:
            yield f"{directory}/spk2utt: not the inverse of utt2spk; make it again from utt2spk"
        elif has_audio:
            yield from unsorted(directory / "spk2utt", spk2utt)
    path = directory / "spk2gender"
    if genders := read_optional(directory, "spk2gender"):
        yield from _lacking(path, genders, inverse, "speaker")
        yield from _beyond(path, genders, inverse, "speaker")
        if has_audio:
            yield from unsorted(path, genders)
        yield from _unknown_genders(path, genders)


def _unknown_genders(path: Path, genders: Mapping[str, str]) -> Iterator[str]:
    if wrong := [speaker for speaker, gender in genders.items() if gender not in ("m", "f")]:
        yield f"{path}: neither m nor f: {named(wrong)}; write m or f"


def validate_division(directory: Path, utt2spk: Mapping[str, str]) -> list[str]:
    """Find what is wrong with spk2set, by which a directory of several sets is divided.

    Sets of their own do not need it, and may have another.
    """
    return _all(directory, lambda: _division_problems(directory / "spk2set", utt2spk))


def _division_problems(path: Path, utt2spk: Mapping[str, str]) -> Iterator[str]:
    if not is_there(path):
        return
    set_of = read_table(path)
    yield from _lacking(path, set_of, spk2utt_of(utt2spk), "speaker")
    if wrong := [speaker for speaker, name in set_of.items() if name not in SETS]:
        yield (
            f"{path}: {named(wrong)}: no set is called {set_of[wrong[0]]!r}; write one of "
            f"{', '.join(SETS)}"
        )


def _lacking(
    path: Path, table: Mapping[str, str], expected: Mapping[str, str], what: str
) -> Iterator[str]:
    if missing := sorted(expected.keys() - table.keys()):
        yield f"{path}: no line for {what} {named(missing)}; add it, or remove the {what}"


def _beyond(
    path: Path, table: Mapping[str, str], expected: Mapping[str, str], what: str
) -> Iterator[str]:
    if unknown := sorted(table.keys() - expected.keys()):
        yield f"{path}: {what} {named(unknown)} is not in the set; remove its line"


def parse_segment(line: str) -> tuple[str, float, float]:
    """`recording start end [channel]` in seconds; Kaldi's end of -1, to the end, is infinite.

    The channel may be the first one, 0 or A: recordings have one.

    Raises:
        ValueError: something else.
    """
    recording, *times = line.split()
    if len(times) == 3 and times[2] in ("0", "A"):
        times.pop()
    start, end = parse_numbers(times)
    end = math.inf if end == -1 else end
    if not 0 <= start < end:
        raise ValueError(line)
    return recording, start, end


def wrong_duration(claimed: str | None, seconds: float) -> str | None:
    """What is wrong with an entry of utt2dur, where there is one; None where nothing is."""
    if claimed is None:
        return None
    try:
        (number,) = parse_numbers([claimed])
        if abs(number - seconds) <= TOLERANCE:
            return None
    except ValueError:
        pass
    return f"{claimed!r} s is not the duration of the audio, {seconds:.2f} s"


def _segment_problems(
    path: Path, segments: Mapping[str, str], audio: Mapping[str, str] | None
) -> Iterator[str]:
    wrong, lost = [], []
    for utterance, line in segments.items():
        try:
            recording, _, _ = parse_segment(line)
        except ValueError:
            wrong.append(utterance)
        else:
            if audio is not None and recording not in audio:
                lost.append(recording)
    if wrong:
        yield f"{path}: {named(wrong)}: expected {SEGMENT_FORM}"
    if lost:
        yield f"{path}: recording {named(list(dict.fromkeys(lost)))} is not in wav.scp; add it"


def _recording_problems(
    directory: Path, audio: Mapping[str, str], segmented: bool
) -> Iterator[str]:
    """Of wav.scp, and of what Kaldi's tools say about its recordings."""
    if segmented:  # else wav.scp is one of the tables of utterances
        yield from unsorted(directory / "wav.scp", audio)
    for name in ("reco2dur", "reco2file_and_channel"):
        if table := read_optional(directory, name):
            yield from _lacking(directory / name, table, audio, "recording")
            yield from _beyond(directory / name, table, audio, "recording")
    yield from _missing_audio(directory / "wav.scp", audio)


def _missing_audio(path: Path, audio: Mapping[str, str]) -> Iterator[str]:
    # What a pipe would give cannot be known without running it, which is not ours to do.
    missing, first = [], ""
    for name, place in audio.items():
        if not place.endswith("|"):
            try:
                find_place(place, path)
            except InputError as error:
                missing.append(name)
                first = first or str(error)
    if missing:
        yield f"{path}: audio of {named(missing)}: {first}"


def _added_problems(directory: Path, utt2spk: Mapping[str, str]) -> Iterator[str]:
    """Of the tables that tell copies and additional speakers apart."""
    copies = read_copies(directory)
    added = {
        COPIES: copies.keys() | {original for _, original in copies.values()},
        SOURCES: read_optional(directory, SOURCES).keys(),
    }
    for table, utterances in added.items():
        if unknown := sorted(utterances - utt2spk.keys()):
            yield f"{directory / table}: utterance {named(unknown)} is not in the set; remove it"
