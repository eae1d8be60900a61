"""Lengths that headers leave out, get wrong, or promise: streamed files, MP3, what is cut off.

libsndfile believes the header of a WAV or FLAC, and estimates the length of an MP3 from its first
frames where no Xing header says it. What it then reads is a part, or nothing.
"""

import io
import re
import struct
from collections.abc import Iterator
from typing import Any

import soundfile

BLOCK = 2**16  # frames decoded at once
# A header with this many bytes of samples or more was written before their number was known. sox
# writes the bytes of the whole frames below 0x7F000000.
STREAMED = 0x7EFF0000
# Files of chunks, by what they begin with: where the first chunk is, its name and size, what the
# size is rounded up to, and how much of it is these two.
_CHUNKS = {
    b"RIFF": (12, "<4sI", 2, 0), b"RF64": (12, "<4sI", 2, 0),
    b"FORM": (12, ">4sI", 2, 0), b"riff": (40, "<16sQ", 8, 24),
}  # fmt: skip
# MPEG audio, ISO/IEC 11172-3 and 13818-3: kbit/s by (version 1, layer), samples by the same.
_LAYER = {3: 1, 2: 2, 1: 3}
_KBITS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_SAMPLES = {(True, 1): 384, (True, 2): 1152, (True, 3): 1152,
            (False, 1): 384, (False, 2): 1152, (False, 3): 576}  # fmt: skip


class Stream(soundfile.SoundFile):
    """Read from start to end, without the seeks that fail where the length is unknown."""

    def seekable(self) -> bool:
        """Not."""
        return False


def blocks_of_samples(sound: soundfile.SoundFile, most: int) -> Iterator[Any]:
    """float32 (up to `most`, channels), from where the file is read to its end."""
    while len(block := sound.read(most, dtype="float32", always_2d=True)):
        yield block


def repaired(content: bytes) -> bytes | None:
    """A streamed WAV or FLAC with its length in its header; None where it needs none.

    Raises:
        soundfile.LibsndfileError: it cannot be decoded.
    """
    if content[:4] == b"RIFF":
        found = _chunk(content, b"data")
        if found is None or found[1] != 0:  # libsndfile takes other sizes to mean: to the end
            return None
        place = found[0] - 4
        return content[:place] + struct.pack("<I", 0xFFFFFFFF) + content[place + 4 :]
    if content[:4] == b"fLaC" and not _flac_total(content):
        with Stream(io.BytesIO(content)) as stream:
            total = sum(map(len, blocks_of_samples(stream, BLOCK)))
        # STREAMINFO follows `fLaC` and 4 bytes; 36 bits at its byte 13 are the total.
        first = content[21] & 0xF0 | total >> 32
        return content[:21] + bytes([first]) + struct.pack(">I", total & 0xFFFFFFFF) + content[26:]
    return None


def _flac_total(content: bytes) -> int:
    return int.from_bytes(content[21:26], "big") & (2**36 - 1)


def missing_part(head: bytes, size: int) -> float:
    """How much a header promises beyond what is there, relative to that.

    Args:
        head: how the file begins, of a WAV, RF64, W64, AIFF or AU.
        size: of the file, in bytes.
    """
    place, promised = _stated_data(head)
    if promised >= STREAMED:
        return 0.0
    there = max(size - place, 1)
    return max(0.0, (promised - there) / there)


def _stated_data(head: bytes) -> tuple[int, int]:
    """Where the samples of a file begin, and how many bytes they are said to be; 0: not said."""
    if head[:4] == b".snd" and len(head) >= 12:
        place, size = struct.unpack_from(">II", head, 4)
        return place, size
    place, size = _chunk(head, b"SSND" if head[:4] == b"FORM" else b"data") or (0, 0)
    if head[:4] == b"FORM":  # an offset and a block's size come first
        return place + 8, size - 8
    if head[:4] == b"RF64" and (sizes := _chunk(head, b"ds64")) and sizes[0] + 16 <= len(head):
        (size,) = struct.unpack_from("<Q", head, sizes[0] + 8)
    return place, size


def _chunk(content: bytes, name: bytes) -> tuple[int, int] | None:
    """Where the content of a chunk begins, and its size in bytes."""
    if content[:4] not in _CHUNKS:
        return None
    place, form, multiple, of_header = _CHUNKS[content[:4]]
    while place + struct.calcsize(form) <= len(content):
        found, size = struct.unpack_from(form, content, place)
        place, size = place + struct.calcsize(form), max(0, size - of_header)
        if found.startswith(name):
            return place, size
        place += size + -size % multiple
    return None


def promised_by_nist(head: bytes) -> int:
    """The samples (per channel) that a NIST header promises; 0 where it does not say."""
    found = re.search(rb"\nsample_count -i (\d+)\n", head.partition(b"\nend_head")[0] + b"\n")
    return int(found[1]) if found else 0


def is_cut_ogg(head: bytes, tail: bytes) -> bool:
    """Whether the last page of an Ogg stream is not there to its end.

    Args:
        head: how the file begins.
        tail: how it ends, of the length of a page or more (64 kB).
    """
    place = tail.rfind(b"OggS")
    last = tail[place:]
    if place < 0 or len(last) < 27:
        return place >= 0
    if head[14:18] != last[14:18]:  # another stream's
        return False
    segments = last[27 : 27 + last[26]]
    return len(segments) < last[26] or len(last) < 27 + len(segments) + sum(segments)


def samples_of_mp3(content: bytes) -> int | None:
    """The samples of all frames of an MP3; None where their sizes cannot be known (free format).

    Decoders leave out some thousand of them, the encoder's delay and padding.
    """
    place = 0
    while content[place : place + 3] == b"ID3" and place + 10 <= len(content):
        sizes = content[place + 6 : place + 10]
        place += 10 + sum(byte << shift for byte, shift in zip(sizes, (21, 14, 7, 0), strict=True))
    total, synchronized = 0, False
    while 0 <= (place := content.find(b"\xff", place)) <= len(content) - 4:
        frame = _mp3_frame(content, place)
        after = _mp3_frame(content, place + frame[0]) if frame else None
        if frame and (synchronized or after or place + frame[0] >= len(content)):
            total += frame[1]
            place += frame[0]
            synchronized = content[place : place + 1] == b"\xff"
        else:
            place, synchronized = place + 1, False
    return total or None


def _mp3_frame(content: bytes, place: int) -> tuple[int, int] | None:
    """Bytes and samples of the frame at a place; None where there is none."""
    if place + 4 > len(content):
        return None
    _, second, third, _ = content[place : place + 4]
    version, layer = second >> 3 & 3, _LAYER.get(second >> 1 & 3)
    bitrate, rate = third >> 4, third >> 2 & 3
    if content[place] != 0xFF or second < 0xE0 or version == 1 or layer is None:
        return None
    if bitrate in (0, 15) or rate == 3:
        return None
    kind = version == 3, layer
    hertz, samples = _RATES[version][rate], _SAMPLES[kind]
    bits, padding = 1000 * _KBITS[kind][bitrate - 1], third >> 1 & 1
    if layer == 1:
        return (12 * bits // hertz + padding) * 4, samples
    return samples // 8 * bits // hertz + padding, samples
