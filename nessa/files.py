"""Files that are never seen half-written, and plain text tables."""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from nessa.errors import InputError

BLOCK_BYTES = 2**22  # of a text file, read at once
LONGEST_LINE = 2**25  # bytes
_BLANKS = b" \t\r"
BYTE_ORDER_MARK = "\ufeff"  # as some editors write it
OPENED = re.compile(r"/dev/(stdout|stderr)|(?:/dev/fd|/proc/self/fd)/(\d+)")
STARTED_IN = "NESSA_STARTED_IN"  # environment: where the user called run.sh, which goes elsewhere
Record = dict[str, Any]  # one line of a table of results, as JSON has it
SPOTS = (0.25, 0.5, 0.75)  # of a file, in parts of its size
SPOT_BYTES = 1024


@contextlib.contextmanager
def atomic_open(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open `path` for writing so that it appears complete or not at all.

    The bytes go to a temporary file in the same folder, which is locked (flock: run.sh and
    `remove_leftovers` remove those that nobody writes any more), flushed, fsynced and renamed over
    `path` when the block ends without an exception, and removed otherwise. What is no file, such as
    /dev/null, is written as it is. A link is replaced: a folder of links may stand for one that
    must stay as it is.

    Args:
        path: the final name; missing parent folders are made.
        mode: "w" (text, UTF-8, "\\n" line ends) or "wb".

    Yields:
        The open temporary file.

    Raises:
        InputError: `path` is a folder.
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    if (stream := _stream(path)) is not None:
        with open(stream, mode, **text) as file:  # type: ignore[call-overload]
            yield file
        return
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix, temporary = f".{path.name}.", ""
    try:
        handle, temporary = tempfile.mkstemp(".tmp", prefix, path.parent)
        with open(handle, mode, **text) as file:  # type: ignore[call-overload]
            with contextlib.suppress(OSError):  # of a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and (not temporary or error.filename in (None, temporary)):
            error.filename = str(path)  # a full disk does not say where it is
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def remove_leftovers(directory: Path, name: str | None = None) -> None:
    """Remove what killed processes left of `atomic_open` in `directory`, which may hold ids.

    Args:
        directory: where they wrote; one that is not there is empty.
        name: of the file that they wrote; None: any, in a folder of nessa's own.
    """
    for path in directory.glob(f".{glob.escape(name) if name else '*'}.????????.tmp"):
        # Somebody still writes it, has removed it, or it is another's; NFS locks no read-only file.
        with contextlib.suppress(OSError), open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _stream(path: Path | str) -> Path | int | None:
    """What is to be written as it is: a device or a pipe, or what the shell has opened."""
    path = Path(path)
    if opened := OPENED.fullmatch(str(path)):  # by its name a file would be begun anew
        names = {"stdout": 1, "stderr": 2}
        return os.dup(names.get(opened[1]) or int(opened[2]))
    return path if path.exists() and not (path.is_file() or path.is_dir()) else None


def sync_directory(directory: Path | str) -> None:
    """Make renames inside `directory` durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_blocks(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line from 1, whole lines), some megabytes at a time.

    Every line ends with "\\n", the last one too. A byte order mark at the start and empty lines at
    the end are left out.

    Raises:
        InputError: the file cannot be read.
    """
    first = 1
    try:
        with open(path, "rb") as file:
            mark = BYTE_ORDER_MARK.encode()
            rest = file.read(len(mark)).removeprefix(mark)
            while read := file.read(BLOCK_BYTES):
                lines, newline, tail = read.rpartition(b"\n")
                block = b""
                if newline:
                    block, rest = _without_empty_end(rest + lines + newline, tail)
                else:
                    rest += read
                if len(rest) > LONGEST_LINE:
                    raise InputError(
                        f"{path}: line {first}: longer than {LONGEST_LINE} bytes; "
                        "is this a text file?"
                    )
                if block:
                    yield first, block
                    first += block.count(b"\n")
    except FileNotFoundError as error:
        what = "no such file; has the stage that makes it been run?"
        if os.path.islink(path):
            what = "is a link to nothing; restore it, or remove the link"
        raise InputError(f"{path}: {what}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if rest.strip(_BLANKS + b"\n"):
        block, _ = _without_empty_end(rest + b"\n", b"")
        yield first, block


def _without_empty_end(block: bytes, rest: bytes) -> tuple[bytes, bytes]:
    """Move the empty lines at the end of a block to what follows, for they may end the file."""
    filled = block.rstrip(_BLANKS + b"\n")
    end = block.find(b"\n", len(filled)) + 1 if filled else 0
    return block[:end], block[end:] + rest


def split_lines(block: bytes, path: Path | str, first: int) -> list[str]:
    """The lines of a block that `read_blocks` gave, without their ends.

    Raises:
        InputError: not UTF-8, a NUL character, or a byte order mark that is not at the start.
    """
    try:
        lines = block.decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason}); convert it first") from error
    if b"\0" in block:
        number = first + next(n for n, line in enumerate(lines) if "\0" in line)
        raise InputError(f"{path}: line {number}: NUL character; is this a text file?")
    if BYTE_ORDER_MARK.encode() in block:  # of a file that was appended to another
        number = first + next(n for n, line in enumerate(lines) if BYTE_ORDER_MARK in line)
        raise InputError(f"{path}: line {number}: byte order mark in the text; remove it")
    return [line.rstrip("\r") for line in lines] if b"\r" in block else lines


def read_lines(path: Path | str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of a UTF-8 text file.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or holds a NUL character or a byte order
            mark inside.
    """
    for first, block in read_blocks(path):
        yield from enumerate(split_lines(block, path, first), first)


def read_table(path: Path | str, empty: bool = False) -> dict[str, str]:
    """Read a Kaldi text table: one `key value...` per line, keys unique, blanks or tabs between.

    Args:
        path: the table.
        empty: whether a key may stand alone, as in `text`.

    Returns:
        {key: rest of the line}, in file order.

    Raises:
        InputError: unreadable, an empty line, a key without a value, or a duplicate key.
    """
    table: dict[str, str] = {}
    for number, line in read_lines(path):
        line = line.strip()
        key, _, value = line.partition(" ")
        if "\t" in key:
            key, _, value = line.partition("\t")
        value = value.strip()
        if not key or not (value or empty):
            raise InputError(f"{path}: line {number}: expected `key value`, got {line!r}")
        if fault := id_fault(key):
            raise InputError(f"{path}: line {number}: key {key!r} {fault}")
        if key in table:
            raise InputError(f"{path}: line {number}: duplicate key {key!r}; remove one")
        table[key] = value
    return table


def id_fault(name: object) -> str | None:
    """What keeps an id out of text files, as the end of a message; None where nothing does."""
    if not isinstance(name, str):
        return "is not a string"
    if not name:
        return "is empty; give it a name"
    if name.split() != [name]:
        return "has white space in it; rename it"
    if "\0" in name:
        return "has NUL in it; rename it"
    if name.isascii():
        return None
    if BYTE_ORDER_MARK in name:
        return "has a byte order mark in it; rename it"
    if name != name.encode(errors="replace").decode():
        return "cannot be written as UTF-8; rename it"
    return None


def write_table(path: Path | str, table: Mapping[str, object]) -> None:
    """Write a Kaldi text table, sorted as `LC_ALL=C sort` sorts."""
    with atomic_open(path) as file:
        for key in sorted(table, key=str.encode):
            file.write(f"{key} {table[key]}\n")


def find_listed(place: str, table: Path) -> Path:
    """The file that a line of a table names.

    A relative path is looked for in the working directory, as Kaldi does, in the one where run.sh
    was called, and beside the table and in the folders above it.

    Args:
        place: the path, as it is written there.
        table: the file that names it.

    Returns:
        An absolute path.

    Raises:
        InputError: there is no such file, or one by Kaldi's rule and another one near the table.
    """
    if os.path.isabs(place):
        if not os.path.exists(place):
            raise InputError(
                f"{place}: no such file; restore it, correct the path, or run the stage that "
                "makes it"
            )
        return Path(place)
    own = table.absolute().parent
    called = _folders_of_call()
    here = _first_with(place, map(Path, called))
    near = _first_with(place, (own, *own.parents))
    if here and near and not os.path.samefile(here, near):
        raise InputError(f"{place}: is both {here} and {near}; write absolute paths")
    found = here or near
    if found is None:
        raise InputError(
            f"{place}: no such file in {own}, in a folder above it, or in {', '.join(called)}; "
            "restore it, or write absolute paths"
        )
    return found


def find_given(place: str) -> str:
    """A path of a recipe, absolute if it is one from here or from where the user called run.sh.

    Wherever run.sh is called, the same file has the same name, of which digests are made.

    Args:
        place: it may have more parts in braces, as {set}, from which on nothing is looked for.

    Raises:
        InputError: there is one here, and another one there.
    """
    start = place.partition("{")[0]
    found = [folder for folder in _folders_of_call() if os.path.exists(os.path.join(folder, start))]
    if os.path.isabs(place) or not start or not found:
        return place
    if len(found) > 1 and not os.path.samefile(*(os.path.join(each, start) for each in found)):
        raise InputError(f"{place}: is both in {' and in '.join(found)}; write absolute paths")
    return os.path.join(os.path.realpath(found[0]), place)


def _folders_of_call() -> list[str]:
    """The working directory and, if it is another one, that in which run.sh was called."""
    here = os.getcwd()
    return list(dict.fromkeys([here, os.environ.get(STARTED_IN) or here]))


def _first_with(place: str, folders: Iterable[Path]) -> Path | None:
    # os.path.exists, unlike Path.exists, takes a name that is too long for one that is not there.
    return next((folder / place for folder in folders if os.path.exists(folder / place)), None)


def parse_numbers(words: Collection[str]) -> list[float]:
    """Words as floats; ValueError for other words, and for what Python alone takes, as 1_0."""
    joined = "".join(words)
    if "_" in joined or not joined.isascii():
        raise ValueError(f"not a number: {joined}")
    return list(map(float, words))


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        InputError: unreadable or not JSON.
    """
    text = "\n".join(line for _, line in read_lines(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}: not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, or deep nesting
        raise InputError(f"{path}: not JSON that can be read ({error})") from error


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused by the encoder."""
    with atomic_open(path) as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.write("\n")


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON-able value, independent of the order of its mappings."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path | str) -> str:
    """sha256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changes_of(files: Iterable[Path]) -> dict[str, tuple[int, int]]:
    """{file: size in bytes, time of its last change in ns}, of those that are there.

    A folder, whose time is not that of what is in it, is left out.
    """
    found = {}
    for file in files:
        with contextlib.suppress(OSError):  # what is missing is said where it is read
            status = file.stat()
            if not stat.S_ISDIR(status.st_mode):
                found[str(file)] = status.st_size, status.st_mtime_ns
    return found


def spots_digest(path: Path | str, start: int = 0, size: int | None = None) -> bytes:
    """sha256 over the size of a file and three places in it, cheap however large the file.

    A file that cannot be read counts as empty; who reads it will say so.

    Args:
        path: the file.
        start, size: of a part of it, in bytes; None: to its end.
    """
    sha = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            if size is None:
                size = file.seek(0, 2) - start
            sha.update(str(size).encode())
            for spot in SPOTS:
                before = int(spot * size)
                file.seek(start + before)
                sha.update(file.read(min(SPOT_BYTES, size - before)))
    except OSError:
        pass
    return sha.digest()
