"""What wav.scp and feats.scp name: files, places in arks, and ranges of frames."""

import io
import re
import shlex
import struct
from dataclasses import dataclass
from pathlib import Path

import kaldi_native_io
import numpy as np
from lhotse import Recording
from numpy.typing import NDArray

from nessa.corpus.audio import AudioHeader, header_of, run_command
from nessa.corpus.utterances import read_recording, recording_of
from nessa.errors import InputError, is_out_of_memory
from nessa.kaldi.scp import find_place

ALL = ":"  # of a range: every row, or column
SPAN = r"[0-9]{1,9}:[0-9]{1,9}|:"
RANGE = re.compile(rf"^(?P<place>.*)\[(?P<rows>{SPAN})(,(?P<columns>{SPAN}))?\]$")
LATE = 3  # frames
BYTES_OF_ARK = re.compile(r"tail -c \+(\d{1,18}) (\S.*) \| head -c (\d{1,18})")
RIFF, KALDIIO_AUDIO = b"RIFF", b"AUDIO"  # what a recording in an ark begins with


@dataclass(frozen=True)
class ArkAudio:
    """A recording in an ark, as kaldiio and Kaldi's wav-copy write it.

    Attributes:
        ark: the file.
        start, size: where its bytes lie.
    """

    ark: Path
    start: int
    size: int

    @classmethod
    def at(cls, ark: Path, offset: int) -> "ArkAudio":
        """The recording whose record has its content at `offset`.

        Raises:
            InputError: something else is there.
        """
        with open(ark, "rb") as file:
            file.seek(offset)
            head = file.read(32)
            file.seek(0, io.SEEK_END)
            end = file.tell()
        start, size = offset, 0
        if head.startswith(RIFF) and len(head) >= 8:
            size = struct.unpack("<I", head[4:8])[0] + 8
        elif head.startswith(KALDIIO_AUDIO) and len(head) > 6:
            width = head[5]  # of the length, which follows
            start += 6 + width
            size = int.from_bytes(head[6 : 6 + width], "little")
        if not 0 < size <= end - start:
            raise InputError(
                f"{ark}:{offset}: no recording (wav, or kaldiio's AUDIO) at this place in the ark; "
                "write the scp again, or the recordings to files"
            )
        return cls(ark, start, size)

    @classmethod
    def of_command(cls, command: str) -> "ArkAudio | None":
        """The recording that a `command` prints; None where it is another command."""
        found = BYTES_OF_ARK.fullmatch(command)
        if not found:
            return None
        try:
            ark = Path(shlex.split(found[2])[0])
        except ValueError:  # a quote without its other
            return None
        audio = cls(ark, int(found[1]) - 1, int(found[3]))
        return audio if audio.command == command else None

    @property
    def command(self) -> str:
        """What prints it, for readers that take a command."""
        return f"tail -c +{self.start + 1} {shlex.quote(str(self.ark))} | head -c {self.size}"

    def header(self) -> AudioHeader:
        """Sampling rate and number of samples.

        Raises:
            InputError: see `nessa.corpus.audio.read_audio_header`.
        """
        with open(self.ark, "rb") as file:
            file.seek(self.start)
            content = file.read(self.size)
        return header_of(io.BytesIO(content), f"{self.ark}: byte {self.start}")


def read_listed(name: str, place: str, table: Path, allow_pipes: bool = False) -> Recording:
    """The Lhotse recording of what a line of wav.scp names.

    Args:
        name: its id.
        place: `file`, `ark:offset`, or `command |`.
        table: the wav.scp.
        allow_pipes: run the command.

    Raises:
        InputError: see `nessa.corpus.audio.read_audio_header`; or a command that is not allowed, or
            fails.
    """
    if place.endswith("|"):
        command = place[:-1].strip()
        if not allow_pipes:
            raise InputError(
                f"{command!r}: is a command, which is not run unless you allow it: --set "
                "corpus.allow_pipes=true, or --allow-pipes of nessa validate; or write its output "
                "to a file"
            )
        header = header_of(io.BytesIO(run_command(command)), repr(command))
        return recording_of(name, "command", command, header)
    path, offset = find_place(place, table)
    if offset is None:
        return read_recording(name, path)
    audio = ArkAudio.at(path, offset)
    return recording_of(name, "command", audio.command, audio.header())


@dataclass(frozen=True)
class GivenMatrix:
    """Features that a line of feats.scp names.

    Attributes:
        place: what Kaldi's readers take: the file, the offset in it, and the range.
        rows, columns: of what is there.
    """

    place: str
    rows: int
    columns: int

    @classmethod
    def find(cls, place: str, table: Path) -> "GivenMatrix":
        """Find and measure it.

        Args:
            place: `file` or `ark:offset`, and maybe a range of rows, or of rows and columns, as
                Kaldi has it: `[0:49]` are 50 rows, `[0:49,0:12]` of 13 columns, `[:,0:12]` all
                rows of these.
            table: the feats.scp.

        Raises:
            InputError: a command, no matrix, or a range beyond it.
        """
        if place.endswith("|"):
            raise InputError(f"{place!r} is a command, which is not run; copy-feats makes arks")
        found = RANGE.match(place)
        if place.endswith("]") and not found:
            raise InputError(f"{place!r}: expected a range as [0:49]; correct it")
        file, offset = find_place(found["place"] if found else place, table)
        path = str(file) if offset is None else f"{file}:{offset}"
        try:
            shape = kaldi_native_io.MatrixShape.read(path)
        except Exception as error:  # its C++ errors
            raise InputError(f"{path} is no Kaldi matrix; make it again") from error
        if not found:
            return cls(path, shape.num_rows, shape.num_cols)
        ranges = []
        for part, size in ((found["rows"], shape.num_rows), (found["columns"], shape.num_cols)):
            whole = part in (None, ALL)
            first, last = (0, size - 1) if whole else map(int, part.split(":"))
            # Kaldi's tools let a range end a few frames late, and cut it.
            if not 0 <= first <= last < size + LATE or first >= size:
                raise InputError(
                    f"{place!r}: the matrix has {shape.num_rows} rows and {shape.num_cols} "
                    "columns; correct the range"
                )
            ranges.append((first, min(last, size - 1)))
        sizes = [last - first + 1 for first, last in ranges]
        inside = ",".join(f"{first}:{last}" for first, last in ranges)
        return cls(f"{path}[{inside}]", *sizes)

    def read(self) -> NDArray[np.float32]:
        """All of it, (rows, columns).

        Raises:
            InputError: it ends too early.
        """
        try:
            return kaldi_native_io.FloatMatrix.read(self.place).numpy()
        except Exception as error:  # its C++ errors
            if is_out_of_memory(error):
                raise
            raise InputError(f"{self.place}: cannot be read; make it again") from error
