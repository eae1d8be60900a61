"""A mutation fuzzer: valid files of every kind, damaged at random, are read or refused.

    echo KIND COUNT SEED | python -m tests.fuzzing

prints a line of JSON for each line read: how many inputs were read and refused, and the story of
each that was neither. An input is read as an independent, plain parser reads it, or refused with an
InputError; within a second and 200 MB. The same KIND, SEED and number always give the same input.
Every line is worked on by a process of its own, forked where all is imported: that takes long.
"""

import contextlib
import gzip
import io
import json
import os
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import kaldi_native_io
import kaldiio
import numpy as np
import soundfile
import torch
from lhotse.cut import MonoCut

from nessa.alignment import ProcrustesAligner, load
from nessa.corpus.audio import read_audio, read_audio_header
from nessa.corpus.listed import GivenMatrix, read_listed
from nessa.corpus.manifests import CutTable
from nessa.corpus.profiles import GivenTrials
from nessa.corpus.tables import validate_tables
from nessa.encoders import build, load_model, save_model
from nessa.encoders.config import FeatureConfig, LossConfig
from nessa.encoders.distributed import Processes
from nessa.encoders.onnx import OnnxModel
from nessa.encoders.settings import OnnxConfig, XVectorConfig
from nessa.encoders.training import CHECKPOINT, Training
from nessa.errors import InputError
from nessa.files import read_json, read_table, write_json, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.lazy import NotStorableError, StoredVectors
from nessa.kaldi.stamps import ModelStamp, read_info
from nessa.recipe.resolve import resolve
from nessa.scoring.calibration import read_calibration
from nessa.trials import Trials, read_enroll_map, read_score_columns, write_scores
from tests.pairs import two_views
from tests.speech import prepare_set

SECONDS = 1.0
MEGABYTES = 200
CANARY = "canary"  # the file that commands in inputs would make
Reader = Callable[[], Any]

COMMON = [b"\0", b" ", b"\n", b"\r\n", b"\t", b"\x80", b"\xff\xfe", "\u00a0".encode(), b"\x7f"]
COMMON += [
    "\u2028".encode(),
    b"-1",
    b"0",
    b"nan",
    b"inf",
    b"1e999",
    b"1_000",
    b"9" * 30,
    b"9" * 5000,
]
COMMON += [
    b"x" * 5000,
    b":",
    b"|",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"'",
    b"#",
    b"&a",
    b"*a",
    b"\xef\xbb\xbf",
]
COMMON += [b"[" * 5000, b"{" * 5000, b'{"a":' * 3000, f"touch {CANARY} |".encode(), b"../../../etc"]
COMMON += [f"| touch {CANARY}".encode(), f"`touch {CANARY}`".encode()]
HEADERS = [
    b"\0B",
    b"FV ",
    b"DV ",
    b"FM ",
    b"DM ",
    b"CM ",
    b"CM2 ",
    b"PKL ",
    b"\4",
    b"\x08",
    b"BFV \4",
]
HEADERS += [struct.pack("<i", n) for n in (0, 1, -1, 2**31 - 1, 2**30, 2**28, 2**29 + 1, -(2**31))]
PICKLE = f"cposix\nsystem\n(S'touch {CANARY}'\ntR.".encode()
YAML = [f"!!python/object/apply:os.system ['touch {CANARY}']".encode(), b"!!timestamp 9999-99-99"]
YAML += [
    b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 108)
    )
]
YAML += [b"0x_", b"1:99:99", b"!!binary abc", b"? [a]\n: b\n", b"<<: 1\n", b"%YAML 9.9\n", b"---\n"]
JSON = [
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"true",
    b"1e400",
    b"NaN",
    b"-Infinity",
    b'"\\ud800"',
    b"1.5",
    b"1" * 400,
]
GZIP = [gzip.compress(b"x"), b"\x1f\x8b"]


# --- inputs: valid files, and readers that are checked against a plain parse --------------------


def ark_record(key: str, values: Sequence[float], kind: str) -> bytes:
    head = key.encode() + b" "
    if kind in ("text", "lines"):
        opening = b" [ " if kind == "text" else b" [\n  "
        return head + opening + " ".join(map(repr, values)).encode() + b" ]\n"
    code, dtype = {
        "float": (b"FV", "<f4"), "double": (b"DV", "<f8"),
        "row": (b"FM", "<f4"), "row of doubles": (b"DM", "<f8"),
    }[kind]  # fmt: skip
    count = struct.pack("<i", len(values))
    if code.endswith(b"M"):
        count = struct.pack("<i", 1) + b"\4" + count
    return head + b"\0B" + code + b" \4" + count + np.array(values, dtype).tobytes()


def plain_vector(data: bytes, start: int) -> tuple[np.ndarray, int]:
    """The vector at `start`, and where it ends; without any check."""
    if data[start : start + 2] != b"\0B":
        bracket = data.index(b"]", start)
        end = data.find(b"\n", bracket) + 1 or len(data)
        numbers = data[start:bracket].strip()[1:].split()
        return np.array([float(x) for x in numbers]).astype(np.float32), end
    kind = data[start + 2 : start + 4]
    body = start + (15 if kind.endswith(b"M") else 10)
    (count,) = struct.unpack("<i", data[body - 4 : body])
    dtype = np.dtype("<f4" if kind.startswith(b"F") else "<f8")
    end = body + count * dtype.itemsize
    return np.frombuffer(data[body:end], dtype).astype(np.float32), end


def plain_ark(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    end = 0
    while end < len(data):
        key = re.split(b"[ \t\n]", data[end:], maxsplit=1)[0]
        vector, end = plain_vector(data, end + len(key) + 1)
        yield key.decode(), vector


def check_vectors(found: Embeddings, expected: Iterator[tuple[str, np.ndarray]]) -> None:
    wanted = list(expected)
    assert found.keys == [key for key, _ in wanted]
    assert found.matrix.tobytes() == b"".join(vector.tobytes() for _, vector in wanted)


class Kind:
    """One kind of file.

    Args:
        folder: where files may be made.

    Attributes:
        path: the file that is damaged.
        bases: contents of it, valid but for those that are `refused`.
        tokens: what is inserted besides the common ones.
    """

    tokens: Sequence[bytes] = ()
    refused: Sequence[bytes] = (PICKLE,)
    name = "file"

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / self.name
        self.bases = self.make()

    def make(self) -> list[bytes]:
        raise NotImplementedError

    def encode(self, data: bytes) -> bytes:
        """What is written, of the bytes that were mutated."""
        return data

    def read(self) -> None:
        """Read the file, and compare with a plain parse."""
        raise NotImplementedError


class ArkKind(Kind):
    tokens = (*HEADERS, b"key " + PICKLE, b"k PKL " + PICKLE)
    name = "x.ark"

    def make(self) -> list[bytes]:
        rng = np.random.default_rng(1)

        def ark(kinds: str, count: int) -> bytes:
            words = kinds.split(", ")
            return b"".join(
                ark_record(
                    f"{kinds[:2]}{count}-{n:03d}",
                    rng.standard_normal(4).tolist(),
                    words[n % len(words)],
                )
                for n in range(count)
            )

        return [ark("float", 3), ark("float", 40), ark("double", 3), ark("text", 3),
                ark("lines", 3), ark("row", 3), ark("row of doubles", 3),
                ark("float, text, double", 6), ark("row, float, lines", 6)]  # fmt: skip

    def read(self) -> None:
        check_vectors(Embeddings.read(self.path), plain_ark(self.path.read_bytes()))


class ScpKind(ArkKind):
    tokens = (b".ark:0", b":9223372036854775808", b":-5", b":7", b"/dev/zero", b"/dev/stdin:0",
              b"/proc/self/mem:99", b"[0:3]", b"x.scp")  # fmt: skip
    name = "x.scp"

    def make(self) -> list[bytes]:
        lines = []
        for number, ark in enumerate(super().make()):
            file = self.folder / f"{number}.ark"
            file.write_bytes(ark)
            starts, end = [], 0
            for key, _ in plain_ark(ark):
                start = end + len(key) + 1
                starts.append(f"{key} {file}:{start}\n")
                _, end = plain_vector(ark, start)
            lines.append("".join(starts).encode())
        two = lines[2] + lines[0]
        alternating = b"".join(sorted(two.splitlines(keepends=True), key=lambda line: line[-3:]))
        return [*lines, two, alternating]

    def read(self) -> None:
        def plain() -> Iterator[tuple[str, np.ndarray]]:
            for line in self.path.read_text("utf-8-sig").split("\n"):
                if line.strip():
                    key, rest = line.strip().split(None, 1)
                    file, offset = rest.rsplit(":", 1)
                    yield key, plain_vector(Path(file).read_bytes(), int(offset))[0]

        found = Embeddings.read(self.path)
        check_vectors(found, plain())
        with contextlib.suppress(NotStorableError):  # text or float64
            stored = StoredVectors(self.path)
            assert [key for keys in stored.open() for key in keys] == found.keys
            assert stored.load().tobytes() == found.matrix.tobytes()


class ScpArkKind(ScpKind):
    """The ark under a good scp is what is damaged."""

    tokens = ArkKind.tokens
    name = "1.ark"

    def make(self) -> list[bytes]:
        (self.folder / "x.scp").write_bytes(super().make()[1])
        return [self.path.read_bytes()]

    def read(self) -> None:
        self.path, damaged = self.folder / "x.scp", self.path
        try:
            super().read()
        finally:
            self.path = damaged


LABELS = {"1": True, "0": False, "target": True, "nontarget": False, "tgt": True, "nontgt": False}
LABELS["imp"] = False


def plain_lines(path: Path) -> list[list[str]]:
    lines = [line.split() for line in path.read_bytes().decode("utf-8-sig").split("\n")]
    return [words for words in lines if words]


def is_label(words: Sequence[str]) -> bool:
    return set(words) <= {"0", "1"} or set(words) <= LABELS.keys() - {"0", "1"}


def is_numbers(words: Sequence[str]) -> bool:
    with contextlib.suppress(ValueError):
        return bool(np.isfinite([np.float32(float(word)) for word in words]).all())
    return False


class TrialsKind(Kind):
    tokens = (b"1 a b\n", b"a b target\n", b"a b\n", b"2 a b\n", b"target", b"nontarget", b"imp",
              b"a b 1\n", b"tgt a b\n", b"1 0 1\n")  # fmt: skip

    def make(self) -> list[bytes]:
        pairs = [(f"spk{n % 3}-{n}", f"spk{n % 4}-t{n}") for n in range(12)]
        words = [("0", "1"), ("nontarget", "target"), ("imp", "tgt")]
        lists = [
            "".join(line.format(a, b, own[n % 2]) for n, (a, b) in enumerate(pairs))
            for own in words
            for line in ("{0} {1} {2}\n", "{2} {0} {1}\n")
        ]
        return [text.encode() for text in (*lists, "".join(f"{a} {b}\n" for a, b in pairs))]

    def read(self) -> None:
        trials = Trials.read(self.path)
        columns = list(zip(*plain_lines(self.path), strict=True))
        if len(columns) == 2:
            assert trials.labels is None
        else:
            # Where both sides may be the labels, words are, for ids may well be 0 and 1.
            sides = [side for side in (0, 2) if is_label(columns[side])]
            if len(sides) > 1:
                sides = [side for side in sides if not set(columns[side]) <= {"0", "1"}]
            (side,) = sides
            assert trials.labels.tolist() == [LABELS[word] for word in columns.pop(side)]
        assert [tuple(trials.enroll), tuple(trials.test)] == columns


class ScoresKind(Kind):
    tokens = (b"nan", b"-inf", b"1e39", b"0x10", "\u0663".encode(), b"a b 1\n", b"a b 1 0.5\n",
              b" target", b" 1", b" 0", b"1 0.5\n")  # fmt: skip

    def make(self) -> list[bytes]:
        trials = Trials([f"e{n}" for n in range(9)], [f"t{n}" for n in range(9)])
        write_scores(self.path, trials, np.linspace(-3, 3, 9))
        return [self.path.read_bytes(), b"a b 1\n", b"a b -0.25\nc d 1e-3\n",
                b"a b 0.5 target\nc d -0.25 nontarget\n", b"a b 1 0.5\nc d 0 -0.25\n",
                b"1 0.5\n0 -2\n1 3.5\n"]  # fmt: skip

    def read(self) -> None:
        columns, scores = read_score_columns(self.path)
        found = list(zip(*plain_lines(self.path), strict=True))
        fitting = []
        for order in ("ets", "etsl", "etls", "lets", "ls", "sl"):
            own = dict(zip(order, found, strict=False))
            if len(order) == len(found) and is_label(own.get("l", ())) and is_numbers(own["s"]):
                fitting.append(own)
        if len(fitting) > 1:  # words are labels, digits may be ids or scores
            fitting = [own for own in fitting if not set(own["l"]) <= {"0", "1"}]
        (own,) = fitting
        assert [tuple(columns.enroll), tuple(columns.test)] == [own.get("e", ()), own.get("t", ())]
        assert scores.tolist() == list(map(float, own["s"]))
        if "l" in own:
            assert columns.labels.tolist() == [LABELS[word] for word in own["l"]]


class MapKind(Kind):
    def make(self) -> list[bytes]:
        return [b"p1 a b c\np2 d\np3 e f\n", b"p a\n"]

    def read(self) -> None:
        found = read_enroll_map(self.path)
        lines = [line.split() for line in self.path.read_bytes().decode("utf-8-sig").split("\n")]
        assert found == {words[0]: words[1:] for words in lines if words}


class SegmentsKind(Kind):
    """A data directory of which one table is damaged."""

    tokens = (b" -1", b" nan ", b" inf", b"1e5", b"rec 0 1", b"-0", b"u1 rec 0 0.5\n")
    name = "segments"

    def make(self) -> list[bytes]:
        utt2spk = {f"s-u{n}": "s" for n in range(4)}
        write_table(self.folder / "utt2spk", utt2spk)
        write_table(self.folder / "text", dict.fromkeys(utt2spk, "hello there"))
        (self.folder / "rec.wav").touch()
        (self.folder / "wav.scp").write_text("rec rec.wav\n")
        lines = [f"s-u{n} rec {n / 2} {n / 2 + 1}\n" for n in range(4)]
        return ["".join(lines).encode(), "".join(lines).replace(" 2.5\n", " -1\n").encode()]

    def read(self) -> None:
        if problems := validate_tables(self.folder):
            raise InputError("\n".join(problems))
        for utterance, recording, start, end in plain_lines(self.path):
            assert utterance in ("s-u0", "s-u1", "s-u2", "s-u3") and recording == "rec"
            assert 0 <= float(start) < float(end) or float(end) == -1


class ProfilesKind(Kind):
    """Trials of profiles; the enrollment map is damaged."""

    tokens = (b"m1 s-0\n", b" s-0", b" t-0", b"s-0 s-0\n", b"m1", b"m2")
    name = "enroll_map"

    def make(self) -> list[bytes]:
        self.utt2spk = {f"{s}-{n}": s for s in "st" for n in range(4)}
        (self.folder / "trials").write_text("m1 s-3 1\nm2 s-3 0\ns-0 t-2 0\n")
        return [b"m1 s-0 s-1\nm2 t-0\n", b"m1 s-0\nm2 t-0 t-1\ns-0 s-0\nm3 t-1 t-2\n"]

    def read(self) -> None:
        given = GivenTrials.read(self.folder, self.utt2spk, [self.folder / "trials"])
        given.check(self.utt2spk)
        members = {name: utterances for name, *utterances in plain_lines(self.path)}
        assert given.profiles == {name: members[name] for name in ("m1", "m2")}
        assert {u[0] for u in members["m1"]} | {u[0] for u in members["m2"]} <= {"s", "t"}
        assert "s-3" not in members["m1"]


class FeaturesKind(Kind):
    tokens = (b"[0:4]", b"[0:0]", b"[4:0]", b"[0:99]", b"[,0:1]", b"[0:4,0:2]", b":0", b":2",
              b"/dev/zero", b"/dev/zero:4", b"/proc/self/mem:99", b" |", b"-")  # fmt: skip
    name = "feats.scp"

    def make(self) -> list[bytes]:
        ark = self.folder / "f.ark"
        matrix = np.arange(40, dtype=np.float32).reshape(10, 4)
        kaldiio.save_ark(str(ark), {"a": matrix, "b": matrix}, scp=str(self.folder / "f.scp"))
        lines = (self.folder / "f.scp").read_text()
        return [lines.encode(), lines.replace(f"{self.folder}/", "").encode(),
                lines.replace("\n", "[2:5]\n").encode()]  # fmt: skip

    def read(self) -> None:
        for place in read_table(self.path).values():
            found = GivenMatrix.find(place, self.path)
            matrix = kaldi_native_io.FloatMatrix.read(found.place).numpy()
            assert matrix.shape == (found.rows, found.columns)


class WavArkKind(Kind):
    tokens = (b"RIFF", b"AUDIO\4", b"AUDIO\xff", b"\xff\xff\xff\x7f", b"fLaC", *HEADERS)
    name = "w.ark"

    def make(self) -> list[bytes]:
        sound = (8000 * np.sin(np.arange(1600) / 9)).astype(np.int16)
        contents = []
        for options in ({}, {"write_function": "soundfile", "write_kwargs": {"format": "flac"}}):
            kaldiio.save_ark(str(self.path), {"a": (16000, sound), "b": (8000, sound)}, **options)
            contents.append(self.path.read_bytes())
        return contents

    def read(self) -> None:
        header = read_listed("a", "w.ark:2", self.folder / "wav.scp")
        data = self.path.read_bytes()[2:]
        if data.startswith(b"AUDIO"):
            width = data[5]
            start, size = 6 + width, int.from_bytes(data[6 : 6 + width], "little")
        else:
            start, size = 0, 8 + int.from_bytes(data[4:8], "little")
        data = data[start : start + size]
        plain = soundfile.info(io.BytesIO(data))
        assert (plain.samplerate, plain.channels) == (header.sampling_rate, 1)


class SpeakersKind(Kind):
    name = "utt2spk"

    def make(self) -> list[bytes]:
        return [b"".join(b"s%d-u%d s%d\n" % (n // 3, n, n // 3) for n in range(9))]

    def read(self) -> None:
        found = read_utt2spk(self.folder)
        lines = [line.split() for line in self.path.read_bytes().decode("utf-8-sig").split("\n")]
        assert list(found.items()) == [tuple(words) for words in lines if words]


class RecipeKind(Kind):
    tokens = YAML
    name = "recipe.yaml"

    def make(self) -> list[bytes]:
        return [
            b"name: mini\nseed: 1\ncorpus:\n  program: mini\nprepare:\n  program: tree\n"
            b"  profile_sizes: [3, 10]\nencoders:\n  old: {architecture: tdnn, channels: 8, dim: 4,"
            b" loss: {type: ge2e}, steps: 5}\n  new: {architecture: ecapa, channels: 8, dim: 4,"
            b" loss: {type: aam}, steps: 5, features: {num_filters: 20}}\n"
            b"update: [old, new]\nbaselines: [logit]\naligner: {steps: 40, seeds: [1, 2]}\n"
        ]

    def read(self) -> None:
        recipe = resolve(self.path)
        again = type(recipe).model_validate(recipe.model_dump(mode="json"))
        assert again == recipe


class InfoKind(Kind):
    tokens = JSON
    name = "info.json"

    def make(self) -> list[bytes]:
        stamp = {"model": "old", "fingerprint": "f" * 64, "set": "eval", "dim": 4, "count": 9}
        write_json(self.path, stamp | {"side": "enroll"})
        return [self.path.read_bytes()]

    def read(self) -> None:
        info = read_info(self.folder)
        plain = json.loads(self.path.read_text("utf-8-sig"))
        assert (info.dim, info.count) == (plain["dim"], plain["count"])
        stamp = plain["model"], plain["fingerprint"], plain["set"], plain.get("side")
        assert info.stamp == ModelStamp(*stamp)


class CalibrationKind(Kind):
    tokens = JSON
    name = "calibration.json"

    def make(self) -> list[bytes]:
        return [
            b'{"scale": 9.5, "offset": -3.25, "quality": {}}',
            b'{"scale": 1, "offset": 0, "quality": {"log_duration": 0.5}, "pair": "ab"}',
        ]

    def read(self) -> None:
        fitted = read_calibration(self.path)
        assert all(np.isfinite(value) for value in (fitted.scale, fitted.offset))


class AlignerKind(Kind):
    tokens = (*JSON, b'"dim": 1e9', b'"kind": "neural"', b'"F64"', b"[0,9999999999]")
    name = "aligner.json"

    def make(self) -> list[bytes]:
        x, y, speakers = two_views(12, 3)
        self.aligner = ProcrustesAligner().fit(x, y, speakers)
        self.aligner.save(self.folder)
        return [self.path.read_bytes()]

    def read(self) -> None:
        aligner = load(self.folder)
        assert aligner.kind in ("procrustes",)


class ArraysKind(AlignerKind):
    name = "aligner.safetensors"

    def read(self) -> None:
        load(self.folder)


class EncoderKind(Kind):
    tokens = (*YAML, b"channels: 999999999", b"dim: 1000000000")
    name = "config.yaml"

    def make(self) -> list[bytes]:
        config = XVectorConfig(
            architecture="tdnn", channels=8, dim=4, features=FeatureConfig(num_filters=20),
            loss=LossConfig(type="aam"), steps=1,
        )  # fmt: skip
        torch.manual_seed(1)
        save_model(self.folder, config, build(config))
        return [self.path.read_bytes()]

    def read(self) -> None:
        load_model(self.folder)


class WeightsKind(EncoderKind):
    tokens = (b"[0,99999999999]", b'"F16"', b'"shape":[2,2]', *HEADERS)
    name = "model.safetensors"


class ManifestKind(Kind):
    tokens = (*JSON, b'"supervisions": []', b'"start": -1', b'"duration": 1e9', b'"channel": 7')
    name = "manifests/eval_cuts.jsonl.gz"

    def make(self) -> list[bytes]:
        prepare_set(self.folder, "eval", range(2), 1, 2, (0.1, 0.2))
        self.whole = gzip.decompress(self.path.read_bytes())
        return [self.whole]

    def encode(self, data: bytes) -> bytes:
        return gzip.compress(data, 1)

    def read(self) -> None:
        table = CutTable(self.folder, "eval")
        cuts = [table[index] for index in range(len(table))]
        assert all(isinstance(cut, MonoCut) for cut in cuts)
        assert [table.id(index) for index in range(len(table))] == [cut.id for cut in cuts]
        lines = gzip.decompress(self.path.read_bytes()).splitlines()
        assert [json.loads(line)["id"] for line in lines] == [cut.id for cut in cuts]


class GzipKind(ManifestKind):
    tokens = GZIP

    def make(self) -> list[bytes]:
        super().make()
        return [self.path.read_bytes()]

    def encode(self, data: bytes) -> bytes:
        return data


class AudioKind(Kind):
    tokens = (b"RIFF", b"fmt ", b"data", b"LIST", b"\xff\xff\xff\x7f", b"fLaC", *HEADERS)
    name = "x.wav"

    def make(self) -> list[bytes]:
        sound = np.sin(np.arange(1600) / 9) / 3
        contents = []
        for name in ("x.wav", "y.flac"):
            soundfile.write(self.folder / name, sound, 16000)
            contents.append((self.folder / name).read_bytes())
        prepare_set(self.folder, "eval", range(1), 1, 1, (0.1, 0.11))
        self.cut = CutTable(self.folder, "eval")[0]
        return contents

    def read(self) -> None:
        header = read_audio_header(self.path)
        recording = self.cut.recording
        recording.sources[0].source = str(self.path)
        recording.sampling_rate, recording.num_samples = header
        recording.duration = self.cut.duration = header.num_samples / header.sampling_rate
        assert len(read_audio(self.cut, header.sampling_rate, "any")) == header.num_samples


class CheckpointKind(Kind):
    tokens = (PICKLE, *HEADERS, b"PK\x03\x04", b"data.pkl")
    name = CHECKPOINT

    def make(self) -> list[bytes]:
        from nessa.encoders.batches import TrainSpeakers

        prepare_set(self.folder / "data", "train", range(4), 1, 2, (0.3, 0.4))
        config = XVectorConfig(
            architecture="tdnn", channels=8, dim=4, features=FeatureConfig(num_filters=20),
            loss=LossConfig(type="aam"), steps=4, speakers_per_batch=2, utterances_per_speaker=2,
        )  # fmt: skip
        speakers = TrainSpeakers(self.folder / "data", config.train_part)
        self.training = Training(config, speakers, Processes(), "identity")
        self.training.save(self.path)
        torch.save({"identity": "of another training", "losses": []}, self.folder / "other")
        return [self.path.read_bytes(), (self.folder / "other").read_bytes(), PICKLE]

    def read(self) -> None:
        self.training.resume(self.path)


class OnnxKind(Kind):
    tokens = (*HEADERS, b"ReduceMean", b"../../etc/passwd", b"Loop")
    name = "x.onnx"

    def make(self) -> list[bytes]:
        from tests.encoders.test_pretrained import FEATS, onnx_model

        onnx_model(self.path, [FEATS])
        self.config = OnnxConfig(pretrained="onnx", file=str(self.path))
        return [self.path.read_bytes()]

    def read(self) -> None:
        model = OnnxModel("any", self.config)
        assert model.embed([torch.zeros(30, 80)]).shape == (1, model.dim)


class JsonKind(Kind):
    tokens = JSON

    def make(self) -> list[bytes]:
        return [b'{"a": [1, 2.5, "x", null, true, {"b": {}}], "c": -1e-3}\n', b"[]", b"3"]

    def read(self) -> None:
        assert repr(read_json(self.path)) == repr(json.loads(self.path.read_text("utf-8-sig")))


KINDS: dict[str, type[Kind]] = {
    "ark": ArkKind,
    "scp": ScpKind,
    "scp-ark": ScpArkKind,
    "trials": TrialsKind,
    "scores": ScoresKind,
    "enroll_map": MapKind,
    "segments": SegmentsKind,
    "profiles": ProfilesKind,
    "features": FeaturesKind,
    "wav-ark": WavArkKind,
    "utt2spk": SpeakersKind,
    "recipe": RecipeKind,
    "json": JsonKind,
    "info": InfoKind,
    "calibration": CalibrationKind,
    "aligner": AlignerKind,
    "arrays": ArraysKind,
    "encoder": EncoderKind,
    "weights": WeightsKind,
    "manifest": ManifestKind,
    "gzip": GzipKind,
    "audio": AudioKind,
    "checkpoint": CheckpointKind,
    "onnx": OnnxKind,
}


# --- mutations ----------------------------------------------------------------------------------


def mutate(bases: Sequence[bytes], tokens: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """One of the bases with one to three changes."""
    data = bytearray(bases[rng.integers(len(bases))])
    for _ in range(rng.integers(1, 4)):
        place, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 17))
        match rng.integers(9):
            case 0 if data:  # a bit
                data[place % len(data)] ^= 1 << int(rng.integers(8))
            case 1 if data:  # a byte
                data[place % len(data)] = int(rng.integers(256))
            case 2:
                del data[place:]
            case 3:
                del data[place : place + length]
            case 4:
                data[place:place] = rng.bytes(length)
            case 5:  # a token, inserted or in the place of what is there
                token = tokens[rng.integers(len(tokens))]
                data[place : place + (len(token) if rng.random() < 0.5 else 0)] = token
            case 6:  # a block once more
                data[place:place] = data[place : place + 8 * length]
            case 7:  # the end of another file
                other = bases[rng.integers(len(bases))]
                data[place:] = other[int(rng.integers(len(other) + 1)) :]
            case 8:  # lines in another order
                lines = bytes(data).splitlines(keepends=True)
                data = bytearray(b"".join(lines[i] for i in rng.permutation(len(lines))))
    return bytes(data)


# --- running ------------------------------------------------------------------------------------


@contextmanager
def limited_time() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def limit_memory() -> None:
    """From here on, some more than what is taken now; what goes beyond raises MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def outcome(kind: Kind) -> str:
    """ "read" or "refused", or the story of what else happened."""
    try:
        with limited_time():
            kind.read()
        return "read"
    except InputError as error:
        return "refused" if str(error).strip() else "refused without a word"
    except (Exception, SystemExit, KeyboardInterrupt):
        return "\n".join(line[:300] for line in traceback.format_exc(limit=-6).splitlines())


def fuzz(name: str, count: int, seed: int) -> dict[str, Any]:
    """Try inputs 0 to `count` - 1."""
    report: dict[str, Any] = {"read": 0, "refused": 0, "unexplained": []}
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    before = os.getcwd()
    os.chdir(folder)  # where a command would leave its canary
    try:
        kind = KINDS[name](folder)
        tokens = [*COMMON, *kind.tokens]
        for base in kind.bases:  # also starts threads, and imports what is imported late
            kind.path.write_bytes(kind.encode(base))
            told = outcome(kind)
            assert told == ("refused" if base in kind.refused else "read"), told
        limit_memory()
        for number in range(count):
            data = mutate(kind.bases, tokens, np.random.default_rng([seed, number]))
            kind.path.write_bytes(kind.encode(data))
            told = outcome(kind)
            if "TimeoutError" in told:  # the machine may have been busy
                told = outcome(kind)
            if (folder / CANARY).exists():
                told = f"a command was run; {told}"
                (folder / CANARY).unlink()
            if told in report:
                report[told] += 1
            else:
                report["unexplained"].append(f"{name} {number}: {data[:300]!r}\n{told}")
    finally:
        os.chdir(before)
        shutil.rmtree(folder)
    return report


def serve() -> None:
    """Answer the lines of stdin one by one; a process that dies answers how it ended."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # onnxruntime prints what it thinks
    for line in sys.stdin:
        name, count, seed = line.split()
        child = os.fork()
        if child == 0:
            try:
                print(json.dumps(fuzz(name, int(count), int(seed))), file=answers, flush=True)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if status := os.waitpid(child, 0)[1]:
            answer = {"exit": os.waitstatus_to_exitcode(status)}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
