"""Kaldi data directories: reading their tables, and finding what is wrong with them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from nessa.errors import InputError
from nessa.files import read_table
from nessa.trials import Trials, read_enroll_map

PROFILE_LIST = "trials_profile"
SHOWN = 3  # items named in a problem, of all that have it


def read_utt2spk(directory: Path | str) -> dict[str, str]:
    """{utterance: speaker} of a data directory.

    Raises:
        InputError: unreadable, or a line that is not two fields.
    """
    path = Path(directory) / "utt2spk"
    utt2spk = read_table(path)
    for utterance, speaker in utt2spk.items():
        if len(speaker.split()) != 1:
            raise InputError(
                f"{path}: {utterance!r}: expected one speaker, got {speaker!r}; "
                "write `utterance speaker`"
            )
    return utt2spk


def read_optional(directory: Path | str, name: str) -> dict[str, str]:
    """A table of a data directory, or {} where there is none."""
    path = Path(directory) / name
    return read_table(path) if path.exists() else {}


def spk2utt_of(utt2spk: Mapping[str, str]) -> dict[str, str]:
    """{speaker: "utterance utterance ..."}, sorted as `LC_ALL=C sort` sorts."""
    utterances = defaultdict(list)
    for utterance in sorted(utt2spk, key=str.encode):
        utterances[utt2spk[utterance]].append(utterance)
    return {speaker: " ".join(names) for speaker, names in utterances.items()}


def validate_data_dir(directory: Path | str, sound: bool = True) -> list[str]:
    """Find what is wrong with a data directory.

    Checks what Kaldi's validate_data_dir.sh checks (tables present, sorted, consistent with each
    other, speaker a prefix of the utterance), and besides that audio files exist and that trials
    and profiles name what is there.

    Args:
        directory: with utt2spk, spk2utt, and wav.scp or feats.scp.
        sound: whether it must hold audio or features, and ids that Kaldi's tools for them accept;
            False for sets of which there are only embeddings.

    Returns:
        One sentence per problem, each with its remedy; empty where there is none.
    """
    directory = Path(directory)
    if not directory.is_dir():
        return [f"{directory}: no such folder; has stage prepare been run?"]
    try:
        return list(_problems(directory, sound))
    except InputError as error:  # a table that cannot be read hides what is behind it
        return [str(error)]


def _problems(directory: Path, sound: bool) -> Iterator[str]:
    utt2spk = read_utt2spk(directory)
    if not utt2spk:
        yield f"{directory}/utt2spk: empty; a set needs utterances"
        return
    if sound:
        yield from _id_problems(directory, utt2spk)
        if not (directory / "wav.scp").exists() and not (directory / "feats.scp").exists():
            yield f"{directory}: neither wav.scp nor feats.scp; make one of them"
    yield from _speaker_problems(directory, utt2spk)
    audio = read_optional(directory, "wav.scp")
    segments = read_optional(directory, "segments")
    if segments:
        yield from _segment_problems(directory / "segments", segments, audio)
    tables = ["feats.scp", "vad.scp", "utt2dur", "utt2num_frames", "utt2lang", "utt2session"]
    tables += ["text", "segments"]
    for name in tables if segments else [*tables, "wav.scp"]:
        if (directory / name).exists():
            path = directory / name
            yield from _key_problems(path, read_table(path), utt2spk, "utterance")
    for name in ("reco2dur", "reco2file_and_channel"):
        if (directory / name).exists():
            table = read_table(directory / name)
            yield from _key_problems(directory / name, table, audio or utt2spk, "recording")
    yield from _audio_problems(directory / "wav.scp", audio)
    yield from _trial_problems(directory, utt2spk)


def _id_problems(directory: Path, utt2spk: Mapping[str, str]) -> Iterator[str]:
    strays = [utt for utt, speaker in utt2spk.items() if not utt.startswith(speaker)]
    if strays:
        yield (
            f"{directory}/utt2spk: the speaker is no prefix of {named(strays)}; "
            "put the speaker first in utterance ids"
        )
    if list(utt2spk.values()) != sorted(utt2spk.values(), key=str.encode):
        yield (
            f"{directory}/utt2spk: sorted by utterance, the speakers are not sorted; "
            "separate the speaker by a dash in utterance ids"
        )


def _speaker_problems(directory: Path, utt2spk: Mapping[str, str]) -> Iterator[str]:
    yield from _order_problems(directory / "utt2spk", utt2spk)
    spk2utt = read_table(directory / "spk2utt")
    if spk2utt != spk2utt_of(utt2spk):
        yield f"{directory}/spk2utt: not the inverse of utt2spk; make it again from utt2spk"
    genders = read_optional(directory, "spk2gender")
    if genders:
        yield from _key_problems(directory / "spk2gender", genders, spk2utt, "speaker")
        wrong = [speaker for speaker, gender in genders.items() if gender not in ("m", "f")]
        if wrong:
            yield f"{directory}/spk2gender: neither m nor f: {named(wrong)}; write m or f"


def _order_problems(path: Path, table: Mapping[str, str]) -> Iterator[str]:
    if list(table) != sorted(table, key=str.encode):
        yield f"{path}: not sorted; run `LC_ALL=C sort -o {path} {path}`"


def _key_problems(
    path: Path, table: Mapping[str, str], expected: Mapping[str, str], what: str
) -> Iterator[str]:
    yield from _order_problems(path, table)
    missing = sorted(expected.keys() - table.keys())
    if missing:
        yield f"{path}: no line for {what} {named(missing)}; add it, or remove the {what}"
    unknown = sorted(table.keys() - expected.keys())
    if unknown:
        yield f"{path}: {what} {named(unknown)} is not in the set; remove its line"


def _segment_problems(
    path: Path, segments: Mapping[str, str], audio: Mapping[str, str]
) -> Iterator[str]:
    for utterance, fields in segments.items():
        try:
            recording, start, end = fields.split()
            valid = 0 <= float(start) < float(end)
        except ValueError:
            valid = False
        if not valid:
            yield f"{path}: {utterance!r}: expected `recording start end` in seconds, start < end"
        elif recording not in audio:
            yield f"{path}: {utterance!r}: recording {recording!r} is not in wav.scp; add it"


def _audio_problems(path: Path, audio: Mapping[str, str]) -> Iterator[str]:
    # What a pipe would give cannot be known without running it, which is not ours to do.
    files = {name: Path(file) for name, file in audio.items() if not file.endswith("|")}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        yield (
            f"{path}: no such file {files[missing[0]]} (audio of {named(missing)}); "
            "restore it, or correct the path"
        )


def _trial_problems(directory: Path, utt2spk: Mapping[str, str]) -> Iterator[str]:
    path = directory / "enroll_map"
    profiles = read_enroll_map(path) if path.exists() else {}
    members = {utterance for utterances in profiles.values() for utterance in utterances}
    unknown = sorted(members - utt2spk.keys())
    if unknown:
        yield f"{path}: utterance {named(unknown)} is not in the set; remove the profile"
    for path in sorted(directory.glob("trials*")):
        enrolled = profiles if path.name == PROFILE_LIST else utt2spk
        trials = Trials.read(path)
        unknown = sorted(
            (set(trials.enroll_index.names) - enrolled.keys())
            | (set(trials.test_index.names) - utt2spk.keys())
        )
        if unknown:
            yield f"{path}: {named(unknown)} is not in the set; remove its trials"


def named(items: list[str]) -> str:
    """The first few of some items, and how many more there are."""
    first = ", ".join(repr(item) for item in items[:SHOWN])
    return first if len(items) <= SHOWN else f"{first} and {len(items) - SHOWN} more"
