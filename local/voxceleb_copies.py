"""Local copies of VoxCeleb, in the layouts that extraction and conversion leave."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nessa.corpus.utterances import Utterance, sort_utterances
from nessa.errors import InputError
from nessa.files import read_lines

SPEAKER = re.compile(r"id\d{5}")
DEPTH = 4  # of the speakers' folders below the root, at most
# Of two copies of a file, the first of these is taken: the one that is faster to read.
SUFFIXES = (".wav", ".flac", ".m4a")


@dataclass(frozen=True)
class Copy:
    """A local copy."""

    root: Path
    speakers: dict[str, Path]  # {speaker: folder of its sessions}, sorted
    genders: dict[str, str]  # {speaker: "m" or "f"}, where known

    def utterances(self, speaker: str) -> list[Utterance]:
        """A speaker's utterances, sorted by id.

        Raises:
            InputError: there is none.
        """
        folder = self.speakers[speaker]
        gender = self.genders.get(speaker)
        found: dict[str, Utterance] = {}
        for session in _folders(folder):
            for path in _audio(session):
                name = f"{speaker}-{session.name}-{path.stem}"
                found.setdefault(name, Utterance(name, speaker, session.name, path, gender))
        if not found:
            raise InputError(
                f"{folder}: no <session>/<utterance>.wav, .flac or .m4a of speaker {speaker}; "
                "restore the folder, or remove it"
            )
        return sort_utterances(found.values())


def find_copy(root: Path, without_test: bool = False) -> Copy:
    """Find the speakers' folders.

    Args:
        root: holds <speaker>, wav/<speaker>, dev/aac/<speaker>, vox1_dev_wav/wav/<speaker> ...
        without_test: leave out folders `test` and `vox2_test...` and, where other speakers lie
            above those of `dev` or `vox2_dev...`, all but these: VoxCeleb2's test part is
            extracted to `aac`, beside `dev/aac`.

    Raises:
        InputError: there is no speaker, or one is in two places of one level.
    """
    part = r"(vox2_)?dev" if without_test else r"vox1_(dev|test)"
    folders = list(_speaker_folders(root, part, without_test))
    if without_test and folders and len(folders[0].parts) < len(folders[-1].parts):
        kept = {folder.name for folder in folders if _is_of(part, folder.relative_to(root))}
        folders = [folder for folder in folders if folder.name in kept]
    speakers: dict[str, Path] = {}
    for folder in folders:
        other = speakers.setdefault(folder.name, folder)
        # A converted copy may lie beside the one that was distributed.
        if other != folder and len(other.parts) == len(folder.parts):
            raise InputError(
                f"speaker {folder.name!r} is in {other.parent} and in {folder.parent}; name one of "
                "the two folders"
            )
    if not speakers:
        raise InputError(
            f"{root}: no folder of a speaker (id10001, id00012, ...) here or up to {DEPTH} levels "
            "below; name the folder that VoxCeleb was extracted to"
        )
    ordered = {name: speakers[name] for name in sorted(speakers)}
    return Copy(root, ordered, read_genders(root))


def _speaker_folders(root: Path, part: str, without_test: bool) -> Iterator[Path]:
    """Those of the highest level that has any, and below it those of a part of the corpus alone.

    What else lies there is the user's: snapshots, features ...
    """
    level, are_found = [root], False
    for _ in range(DEPTH):
        below = [folder for parent in level for folder in _folders(parent)]
        found = [folder for folder in below if SPEAKER.fullmatch(folder.name)]
        yield from found
        are_found = are_found or bool(found)
        others = [folder for folder in below if not SPEAKER.fullmatch(folder.name)]
        level = [f for f in others if not (without_test and re.match(r"(vox2_)?test", f.name))]
        if are_found:
            level = [folder for folder in level if _is_of(part, folder.relative_to(root))]


def _is_of(part: str, place: Path) -> bool:
    return any(re.match(part, name) for name in place.parts)


def _folders(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except OSError as error:
        raise InputError(f"{parent}: cannot be read: {error.strerror}") from None


def _audio(session: Path) -> Iterator[Path]:
    """Audio files in the order of `SUFFIXES`."""
    with os.scandir(session) as entries:
        names = sorted(entry.name for entry in entries)
    for suffix in SUFFIXES:
        yield from (session / name for name in names if name.endswith(suffix))


def need_ffmpeg(*copies: Copy) -> None:
    """Refuse a copy in m4a where there is no ffmpeg to decode it; only one speaker is checked."""
    for copy in copies:
        first = copy.utterances(next(iter(copy.speakers)))[0].path
        if first.suffix == ".m4a" and shutil.which("ffmpeg") is None:
            raise InputError(
                f"{first}: m4a is decoded by ffmpeg, which is not in PATH; install it (Debian, "
                "Ubuntu: apt install ffmpeg), or convert the corpus to wav"
            )


def read_genders(root: Path) -> dict[str, str]:
    """Read vox1_meta.csv or vox2_meta.csv, if there is one: {speaker: "m" or "f"}.

    Columns are separated by tabs, commas or both, with stray spaces; the first is the speaker,
    the third the gender.
    """
    genders = {}
    for folder in (root, root / "meta", root / "dev", root.parent):
        for path in sorted(folder.glob("vox?_meta.csv")):
            for number, line in read_lines(path):
                fields = re.split(r"\s*[,\t]\s*", line.strip())
                if not SPEAKER.fullmatch(fields[0]):
                    continue  # the heading
                if len(fields) < 3 or fields[2] not in ("m", "f"):
                    raise InputError(f"{path}: line {number}: expected `speaker, name, m or f`")
                genders[fields[0]] = fields[2]
    return genders
