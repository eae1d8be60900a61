"""One verdict for one fault: of nessa validate, of stage prepare, and of stage extract.

Stage extract sees no tables: it judges what stage prepare wrote, or, where that is refused for its
audio or features, a set that was made without a look at them. What is different by design is in
`DIFFERENT`, and in docs/your-corpus.md.
"""

import contextlib
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import kaldi_native_io
import kaldiio
import numpy as np
import pytest
import soundfile
import torch
import yaml
from lhotse import AudioSource, Features, Recording, SupervisionSegment

from nessa.corpus.finishing import finish_sets
from nessa.corpus.manifests import manifest_path, write_manifest
from nessa.corpus.tables import parse_segment
from nessa.corpus.utterances import make_cut
from nessa.encoders import build, parse_settings, save_model
from nessa.errors import InputError
from nessa.files import read_table, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.recipe.resolve import load_recipe
from tests.conftest import Command
from tests.kaldi_corpora import write_audio_dir, write_feature_dir
from tests.local.test_programs import ENCODER, Programs, programs  # noqa: F401
from tests.speech import RATE, tone

SPEAKERS = range(5)
SETS = ("train", "align", "dev", "eval", "eval")  # of each speaker
NAME = "spk003_rec0_0"  # that is spoilt, of eval
SOUND = tone(3, 0.7, np.random.default_rng(3))
DIM = 7
AUGMENTATION = {"noise_prob": 0, "reverb_prob": 0}
GIVEN = {"features": {"type": "given", "num_filters": DIM}, "augmentation": AUGMENTATION}


# --- how directories are spoilt -------------------------------------------------------------------


class Case(NamedTuple):
    """A change of a directory, and what all must say of it.

    Attributes:
        spoil: changes the directory.
        named: what a refusal names; None where the directory is accepted.
        contents: whether it is about audio or features, which stage extract sees.
    """

    spoil: Callable[[Path], object]
    named: str | None = NAME
    contents: bool = True


def refused(spoil: Callable[[Path], object], named: str = NAME) -> Case:
    return Case(spoil, named)


def accepted(spoil: Callable[[Path], object]) -> Case:
    return Case(spoil, None)


def table(spoil: Callable[[Path], object], named: str = NAME) -> Case:
    return Case(spoil, named, contents=False)


def relist(directory: Path, place: Path | str, name: str = NAME, file: str = "wav.scp") -> None:
    write_table(directory / file, read_table(directory / file) | {name: str(place)})


def wav(directory: Path) -> Path:
    return directory / f"audio/{NAME}.wav"


def write(
    directory: Path, file: str, samples: np.ndarray = SOUND, rate: int = RATE, **options: str
) -> Path:
    """Audio in the place of the utterance's."""
    path = directory / "audio" / file
    soundfile.write(path, samples, rate, **options)
    relist(directory, path)
    return path


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def with_sample(value: float, place: int) -> np.ndarray:
    return np.where(np.arange(len(SOUND)) == place, value, SOUND)


def streamed(content: bytes) -> bytes:
    place = content.index(b"data") + 4
    return content[:place] + struct.pack("<I", 0) + content[place + 4 :]


def lengthless(content: bytes) -> bytes:
    return content[:21] + bytes([content[21] & 0xF0, 0, 0, 0, 0]) + content[26:]


def in_ark(directory: Path, shift: int = 0) -> None:
    sounds = {NAME: (RATE, (SOUND * 30000).astype(np.int16))}
    scp = directory / "one.scp"
    kaldiio.save_ark(str(directory / "w.ark"), sounds, scp=str(scp))
    ark, _, offset = read_table(scp)[NAME].rpartition(":")
    relist(directory, f"{ark}:{int(offset) + shift}")


def headerless(directory: Path) -> None:
    rewrite(wav(directory), lambda content: content[44:])
    relist(directory, wav(directory).rename(directory / "audio/x.raw"))


def no_m4a(directory: Path) -> None:
    wav(directory).write_bytes(b"not audio" * 99)
    relist(directory, wav(directory).rename(directory / f"audio/{NAME}.m4a"))


def dead_link(directory: Path) -> None:
    wav(directory).unlink()
    wav(directory).symlink_to("nowhere.wav")


def beside(directory: Path) -> None:
    relist(directory, f"audio/{NAME}.wav")


AUDIO: dict[str, Case] = {
    "gone": refused(lambda d: wav(d).unlink()),
    "a dead link": refused(dead_link),
    "a folder": refused(lambda d: relist(d, d / "audio")),
    "nowhere": refused(lambda d: relist(d, "no/where.wav")),
    "no bytes": refused(lambda d: wav(d).write_bytes(b"")),
    "text": refused(lambda d: wav(d).write_bytes(b"not audio" * 99)),
    "a header alone": refused(lambda d: rewrite(wav(d), lambda b: b[:44])),
    "no samples": refused(lambda d: write(d, "x.wav", SOUND[:0])),
    "wav cut off": refused(lambda d: rewrite(wav(d), lambda b: b[: len(b) // 2])),
    "flac cut off": refused(lambda d: rewrite(write(d, "x.flac"), lambda b: b[: len(b) // 2])),
    "mp3 cut off": refused(
        lambda d: rewrite(write(d, "x.mp3", np.tile(SOUND, 6)), lambda b: b[: len(b) // 2])
    ),
    # Half of it reads as well: only the header and the frames tell.
    "mp3 joined": table(lambda d: rewrite(write(d, "x.mp3", np.tile(SOUND, 6)), lambda b: b + b)),
    "two channels": refused(lambda d: write(d, "x.wav", np.stack([SOUND, SOUND], axis=1))),
    "another rate": refused(lambda d: write(d, "x.wav", rate=8000)),
    "silence": refused(lambda d: write(d, "x.wav", 0 * SOUND)),
    "silent flac": refused(lambda d: write(d, "x.flac", 0 * SOUND)),
    "silent sph": refused(lambda d: write(d, "x.sph", 0 * SOUND, format="NIST")),
    "constant": refused(lambda d: write(d, "x.wav", 0 * SOUND + 0.25)),
    "nan": refused(lambda d: write(d, "x.wav", with_sample(np.nan, 9000), subtype="FLOAT")),
    "inf": refused(lambda d: write(d, "x.wav", with_sample(np.inf, 11199), subtype="DOUBLE")),
    "30 ms": refused(lambda d: write(d, "x.wav", SOUND[:480])),
    "headerless": refused(headerless),
    "m4a of text": refused(no_m4a),
    "nothing in an ark": refused(lambda d: in_ark(d, shift=3)),
    "50 ms": accepted(lambda d: write(d, "x.wav", SOUND[:800])),
    "cut off by 10 ms": accepted(lambda d: rewrite(wav(d), lambda b: b[:-320])),
    "flac": accepted(lambda d: write(d, "x.flac")),
    "flac of unknown length": accepted(lambda d: rewrite(write(d, "x.flac"), lengthless)),
    "streamed wav": accepted(lambda d: rewrite(wav(d), streamed)),
    "sph": accepted(lambda d: write(d, "x.sph", format="NIST")),
    "mp3": accepted(lambda d: write(d, "x.mp3")),
    "ogg": accepted(lambda d: write(d, "x.ogg")),
    "24 bits": accepted(lambda d: write(d, "x.wav", subtype="PCM_24")),
    "doubles": accepted(lambda d: write(d, "x.wav", subtype="DOUBLE")),
    "u-law": accepted(lambda d: write(d, "x.wav", subtype="ULAW")),
    "a suffix in capitals": accepted(lambda d: relist(d, wav(d).rename(d / "audio/X.WAV"))),
    "in an ark": accepted(in_ark),
    "beside the table": accepted(beside),
}


def segment(directory: Path, line: str) -> None:
    relist(directory, line, file="segments")


def recording(directory: Path, change: Callable[[np.ndarray], object]) -> None:
    path = directory / "audio/spk003_rec0.wav"
    samples, _ = soundfile.read(path)
    change(samples)
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def silent_part(samples: np.ndarray) -> None:
    samples[:11200] = 0


def lost_sample(samples: np.ndarray) -> None:
    samples[5000] = np.nan


def unused(directory: Path) -> None:
    (directory / "audio/unused.wav").write_bytes(b"")
    relist(directory, directory / "audio/unused.wav", "spk003_rec9")


SEGMENTS: dict[str, Case] = {
    "beyond the end": refused(lambda d: segment(d, "spk003_rec0 0.50 2.00")),
    "after the end": refused(lambda d: segment(d, "spk003_rec0 1.50 1.60")),
    "a silent segment": refused(lambda d: recording(d, silent_part)),
    "nan in a segment": refused(lambda d: recording(d, lost_sample), "spk003_rec0"),
    "30 ms": refused(lambda d: segment(d, "spk003_rec0 0.20 0.23")),
    "a recording is gone": refused(lambda d: (d / "audio/spk003_rec0.wav").unlink(), "spk003_rec0"),
    "a recording is cut off": refused(
        lambda d: rewrite(d / "audio/spk003_rec0.wav", lambda b: b[: len(b) // 3]), "spk003_rec0"
    ),
    "40 ms late": accepted(lambda d: segment(d, "spk003_rec0 0.00 1.44")),
    "to the end": accepted(lambda d: segment(d, "spk003_rec0 0.50 -1")),
    "a damaged recording that no segment is of": accepted(unused),
    "of the first channel": accepted(lambda d: segment(d, "spk003_rec0 0.00 0.70 0")),
    "of the second channel": table(
        lambda d: segment(d, "spk003_rec0 0.00 0.70 1"), "of no channel but 0 or A"
    ),
    "negative": table(lambda d: segment(d, "spk003_rec0 -0.50 0.70")),
    "empty": table(lambda d: segment(d, "spk003_rec0 0.70 0.70")),
    "words": table(lambda d: segment(d, "spk003_rec0 first last")),
    "no recording": table(lambda d: segment(d, "spk003_rec7 0.00 0.70"), "spk003_rec7"),
}

LAST = "spk0004-0001"  # utterance of the features, at the end of the ark


def features(directory: Path, matrix: np.ndarray) -> None:
    place = directory / "x.ark"
    kaldiio.save_ark(str(place), {LAST: matrix.astype(np.float32)}, scp=str(directory / "x.scp"))
    relist(directory, read_table(directory / "x.scp")[LAST], LAST, "feats.scp")


def ranged(directory: Path, text: str) -> None:
    place = read_table(directory / "feats.scp")[LAST]
    relist(directory, f"{place}{text}", LAST, "feats.scp")


MATRIX = np.random.default_rng(5).standard_normal((20, DIM))
FEATURES: dict[str, Case] = {
    "gone": refused(lambda d: relist(d, d / "no.ark:5", LAST, "feats.scp"), LAST),
    "cut off": refused(lambda d: rewrite(d / "feats.ark", lambda b: b[:-40]), LAST),
    "no matrix": refused(lambda d: relist(d, f"{d}/utt2spk:0", LAST, "feats.scp"), LAST),
    "another dimension": refused(lambda d: features(d, MATRIX[:, 1:]), LAST),
    "nan": refused(lambda d: features(d, np.where(MATRIX[9, 3] == MATRIX, np.nan, MATRIX)), LAST),
    "constant": refused(lambda d: features(d, 0 * MATRIX), LAST),
    "3 frames": refused(lambda d: features(d, MATRIX[:3]), LAST),
    "a range of 3 frames": refused(lambda d: ranged(d, "[0:2]"), LAST),
    "a range": accepted(lambda d: ranged(d, "[3:14]")),
    "a range beyond": table(lambda d: ranged(d, "[90:99]"), LAST),
    "a command": table(lambda d: relist(d, "cat x.ark |", LAST, "feats.scp"), LAST),
}


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def without(path: Path, name: str = NAME) -> None:
    write_table(path, {key: value for key, value in read_table(path).items() if key != name})


def of_all(directory: Path, file: str, value: str, **others: str) -> None:
    write_table(directory / file, dict.fromkeys(read_utt2spk(directory), value) | others)


def of_speakers(directory: Path, **others: str) -> None:
    speakers = dict.fromkeys(read_table(directory / "spk2utt"), "m")
    write_table(directory / "spk2gender", speakers | others)


def swapped(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[::-1]))


TRIALS = f"{NAME} spk004_rec0_0 {{}}\n{NAME} spk003_rec1_0 {{}}\n"
TABLES: dict[str, Case] = {
    "utt2spk is empty": table(lambda d: (d / "utt2spk").write_text(""), "utt2spk: empty"),
    "utt2spk is not sorted": table(lambda d: swapped(d / "utt2spk"), "utt2spk: not sorted"),
    "a duplicate": table(lambda d: append(d / "utt2spk", f"{NAME} spk003\n")),
    "no speaker": table(lambda d: append(d / "utt2spk", "spk009_u\n"), "spk009_u"),
    "two speakers": table(lambda d: append(d / "utt2spk", "spk009_u a b\n"), "spk009_u"),
    "another speaker": table(lambda d: relist(d, "spk4", file="utt2spk")),
    "no text": table(
        lambda d: rewrite(d / "utt2spk", lambda b: b + b"\xff\xfe x\n"), "utt2spk: not UTF-8"
    ),
    "nul": table(lambda d: append(d / "utt2spk", "a\0 a\n"), "line 11: NUL"),
    "a bom inside": table(lambda d: append(d / "utt2spk", "\ufeffspk9 spk9\n"), "line 11: byte"),
    "other speakers": table(lambda d: without(d / "spk2utt", "spk003"), "spk2utt"),
    "no audio": table(lambda d: without(d / "wav.scp")),
    "audio of others": table(lambda d: relist(d, wav(d), "zz"), "'zz'"),
    "audio by a command": table(lambda d: relist(d, f"cat {wav(d)} |")),
    "no session": table(lambda d: without(d / "utt2session")),
    "sessions of others": table(lambda d: append(d / "utt2session", "zz s\n"), "'zz'"),
    "no gender": table(lambda d: write_table(d / "spk2gender", {"spk003": "f"}), "spk000"),
    "gender x": table(lambda d: of_speakers(d, spk003="x"), "spk003"),
    "genders of others": table(lambda d: of_speakers(d, zz="f"), "'zz'"),
    "another duration": table(lambda d: of_all(d, "utt2dur", "0.70", **{NAME: "0.90"})),
    "a duration in words": table(lambda d: of_all(d, "utt2dur", "0.7", **{NAME: "long"})),
    "a duration of Python": table(lambda d: of_all(d, "utt2dur", "0.7", **{NAME: "0.7_0"})),
    "no domain": table(lambda d: write_table(d / "utt2domain", {NAME: "x"}), "spk000_rec0_0"),
    "no transcript": table(lambda d: write_table(d / "text", {NAME: "x"}), "spk000_rec0_0"),
    "recordings of others": table(lambda d: of_all(d, "reco2dur", "0.7", zz="1"), "'zz'"),
    "trials of others": table(
        lambda d: (d / "trials").write_text(f"{NAME} nobody target\n"), "nobody"
    ),
    "trials in words": table(
        lambda d: (d / "trials").write_text(f"{NAME} {NAME} perhaps\n"), "perhaps"
    ),
    "trials without labels": table(
        lambda d: (d / "trials").write_text(f"{NAME} spk004_rec0_0\n"), "trials: no labels"
    ),
    "trials of one class": table(
        lambda d: (d / "trials").write_text(f"{NAME} spk004_rec0_0 nontarget\n"),
        "trials: 0 target and 1 non-target trials",
    ),
    "a wrong label": table(
        lambda d: (d / "trials").write_text(TRIALS.format("target", "target")),
        f"trials: trial '{NAME}' 'spk004_rec0_0' is a target, but of speakers",
    ),
    "a profile's wrong label": table(
        lambda d: (
            (d / "enroll_map").write_text(f"p {NAME}\n"),
            (d / "trials").write_text("p spk003_rec1_0 nontarget\np spk004_rec1_0 target\n"),
        ),
        "trials: trial 'p' 'spk003_rec1_0' is a nontarget, but of speakers",
    ),
    "profiles of others": table(
        lambda d: (d / "enroll_map").write_text(f"p {NAME} nobody\n"), "nobody"
    ),
    "a profile of two": table(
        lambda d: (
            (d / "enroll_map").write_text(f"p {NAME} spk004_rec0_0\n"),
            (d / "trials").write_text("p spk003_rec1_0 target\n"),
        ),
        "profile 'p'",
    ),
    "tabs": accepted(lambda d: rewrite(d / "wav.scp", lambda b: b.replace(b" ", b"\t"))),
    "a bom": accepted(lambda d: rewrite(d / "utt2spk", lambda b: b"\xef\xbb\xbf" + b)),
    "blanks at the ends": accepted(
        lambda d: rewrite(d / "wav.scp", lambda b: b.replace(b"\n", b"  \n"))
    ),
    "line ends of DOS": accepted(
        lambda d: rewrite(d / "utt2spk", lambda b: b.replace(b"\n", b"\r\n"))
    ),
    "empty lines at the end": accepted(lambda d: append(d / "utt2spk", "\n\n")),
    "no spk2utt": accepted(lambda d: (d / "spk2utt").unlink()),
    "no utt2session": accepted(lambda d: (d / "utt2session").unlink()),
    "right durations": accepted(lambda d: of_all(d, "utt2dur", "0.68")),
    "empty transcripts": accepted(lambda d: of_all(d, "text", "")),
    "trials in digits": accepted(lambda d: (d / "trials").write_text(TRIALS.format(0, 1))),
    "trials in letters": accepted(lambda d: (d / "trials").write_text(TRIALS.format("imp", "tgt"))),
    "profiles": accepted(
        lambda d: (
            (d / "enroll_map").write_text(f"p {NAME}\n"),
            (d / "trials").write_text("p spk003_rec1_0 target\np spk004_rec1_0 nontarget\n"),
        )
    ),
}

KINDS: dict[str, tuple[dict[str, Case], Callable[[Path], object]]] = {
    "audio": (AUDIO, lambda d: write_audio_dir(d, SPEAKERS, 2)),
    "segments": (SEGMENTS, lambda d: write_audio_dir(d, SPEAKERS, 4, segmented=True)),
    "features": (FEATURES, lambda d: write_feature_dir(d, len(SPEAKERS), 2, frames=20, dim=DIM)),
    "tables": (TABLES, lambda d: write_audio_dir(d, SPEAKERS, 2)),
}


# --- the three verdicts ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small encoder of audio, and one of features, with statistics that some batches left."""
    folder = tmp_path_factory.mktemp("encoders")
    for name, settings in (("audio", ENCODER), ("features", ENCODER | GIVEN)):
        config = parse_settings(settings)
        torch.manual_seed(3)
        encoder = build(config)
        with torch.no_grad():
            encoder(torch.randn(8, 50, config.features.num_filters), None)
        save_model(folder / name, config, encoder)
    return {name: folder / name for name in ("audio", "features")}


class Stages:
    """Validation and the two stages, on a user's directory."""

    def __init__(
        self,
        folder: Path,
        nessa: Command,
        programs: Programs,  # noqa: F811
        encoders: dict[str, Path],
    ) -> None:
        self.mine, self.data, self.folder = folder / "mine", folder / "data", folder
        self.encoder: Path
        self._nessa, self._programs, self._encoders = nessa, programs, encoders

    def make(self, kind: str, **prepare: object) -> None:
        """A directory of a kind, and a recipe for it."""
        KINDS[kind][1](self.mine)
        speakers = sorted(set(read_utt2spk(self.mine).values()))
        write_table(self.mine / "spk2set", dict(zip(speakers, SETS, strict=True)))
        given = kind == "features"
        self.encoder = self._encoders["features" if given else "audio"]
        settings = {
            "name": "own",
            "corpus": {"paths": {"data": str(self.mine)}},
            "prepare": {
                "program": "kaldi_dir",
                "trials": {name: {"targets": 1, "nontargets": 1} for name in ("dev", "eval")},
                "align_includes_train": True,  # a single speaker is no align set
                **prepare,
            },
            "encoders": dict.fromkeys(("old", "new"), ENCODER | (GIVEN if given else {})),
            "update": ["old", "new"],
        }
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(settings))

    def validate(self, *options: str) -> str:
        """What is refused, or nothing."""
        return said(self._nessa("validate", self.mine, *options))

    def prepare(self, *options: str) -> str:
        recipe = self.folder / "recipe.yaml"
        words = ["--recipe", recipe, "--corpus", self.mine, "--output", self.data]
        message = said(self._programs("kaldi_dir", *words, *options))
        if not message:
            loaded = load_recipe(recipe)
            shutil.rmtree(self.data / "dev")  # a single speaker has no trials
            trials = {"eval": loaded.prepare.trials["eval"]}
            try:
                finish_sets(
                    self.data, loaded.prepare.model_copy(update={"trials": trials}), loaded.seed
                )
            except InputError as error:
                return str(error)
        return message

    def extract(self) -> str:
        words = ["--encoder", self.encoder, "--data", self.data, "--set", "eval", "--workers", 0]
        return said(self._nessa("extract", *words, "--output", self.folder / "out"))


def said(done) -> str:
    assert done.status in (0, 2) and "Traceback" not in done.err, done
    return done.err or "refused" if done.status else ""


@pytest.fixture
def stages(
    tmp_path: Path,
    nessa: Command,
    programs: Programs,  # noqa: F811
    encoders: dict[str, Path],
) -> Stages:
    return Stages(tmp_path, nessa, programs, encoders)


def make_unseen(mine: Path, data: Path) -> None:
    """The manifest of an eval set, as it would be if nothing were looked at."""
    segments = read_table(mine / "segments") if (mine / "segments").exists() else {}
    cuts, set_of = [], read_table(mine / "spk2set")
    for utterance, speaker in read_utt2spk(mine).items():
        if set_of[speaker] == "eval":
            heard, given, start, end = None, None, 0.0, 0.0
            if (mine / "feats.scp").exists():
                place = read_table(mine / "feats.scp")[utterance]
                given, end = _features(utterance, place), 0.2
            else:
                name = utterance
                if segments:
                    name, start, end = parse_segment(segments[utterance])
                heard = _recording(name, read_table(mine / "wav.scp")[name])
                end = end or heard.duration
            segment = SupervisionSegment(utterance, utterance, start, end - start, speaker=speaker)
            cuts.append(make_cut(heard, segment, given))
    write_manifest(manifest_path(data, "eval", "cuts"), cuts)


def _recording(name: str, place: str) -> Recording:
    rate, samples = RATE, len(SOUND) * (1 if name.count("_") == 2 else 2)
    with contextlib.suppress(soundfile.LibsndfileError, TypeError):  # as it was, if it is less now
        info = soundfile.info(place)
        rate, samples = info.samplerate, max(info.frames, samples)
    ark, _, offset = place.rpartition(":")
    source = AudioSource("file", [0], place)
    if ark.endswith(".ark"):
        source = AudioSource("command", [0], f"tail -c +{int(offset) + 1} {ark}")
    return Recording(name, [source], rate, samples, samples / rate)


def _features(utterance: str, place: str) -> Features:
    rows, columns = 20, DIM
    with contextlib.suppress(Exception):  # C++ errors
        shape = kaldi_native_io.MatrixShape.read(place.partition("[")[0])
        rows, columns = shape.num_rows, shape.num_cols
    return Features(
        type="kaldiio", num_frames=rows, num_features=columns, frame_shift=0.01,
        sampling_rate=RATE, start=0.0, duration=0.2, storage_type="kaldiio", storage_path=place,
        storage_key=utterance, recording_id=utterance, channels=0,
    )  # fmt: skip


# --- the tables of verdicts -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, (cases, _) in KINDS.items() for name in cases]
)
def test_one_verdict(kind: str, name: str, stages: Stages) -> None:
    case = KINDS[kind][0][name]
    stages.make(kind)
    case.spoil(stages.mine)
    found = {"validate": stages.validate(), "prepare": stages.prepare()}
    if case.named is not None and case.contents:
        make_unseen(stages.mine, stages.data)
    if case.named is None or case.contents:
        found["extract"] = stages.extract()
    for stage, message in found.items():
        assert bool(message) == (case.named is not None), (stage, message)
        named = case.named if case.named != "spk003_rec0" or stage != "extract" else NAME
        assert (named or "") in message, stage


def test_the_table_is_long_enough() -> None:
    assert sum(len(cases) for cases, _ in KINDS.values()) >= 40


def eight(directory: Path) -> None:
    for path in (directory / "audio").glob("*.wav"):
        soundfile.write(path, soundfile.read(path)[0][::2], 8000)


def of_another_dimension(directory: Path) -> None:
    write_feature_dir(directory / "other", len(SPEAKERS), 2, frames=20, dim=DIM + 1)
    (directory / "other/feats.scp").rename(directory / "feats.scp")


def unused_features(directory: Path) -> None:
    of_all(directory, "feats.scp", str(directory / "gone.ark:4"))


def features_left_over(directory: Path) -> None:
    for table in ("feats.scp", "vad.scp", "utt2num_frames"):
        write_table(directory / table, {"other-1": "gone.ark:4"})


# Kind, change, and who refuses it: validation knows no recipe, and a recipe may leave features
# unread.
DIFFERENT: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "a rate that no model takes": ("audio", eight, ("prepare", "extract")),
    "a dimension that no model takes": ("features", of_another_dimension, ("prepare", "extract")),
    "features that no model takes": ("audio", unused_features, ("validate",)),
    "features of others that no model takes": ("audio", features_left_over, ("validate",)),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_different_by_design(name: str, stages: Stages) -> None:
    kind, change, refusing = DIFFERENT[name]
    stages.make(kind)
    change(stages.mine)
    found = {"validate": stages.validate(), "prepare": stages.prepare()}
    if found["prepare"]:
        make_unseen(stages.mine, stages.data)
    found["extract"] = stages.extract()
    assert tuple(stage for stage, message in found.items() if message) == refusing, found


@pytest.mark.parametrize("name", ["a silent segment"])
def test_headers_say_less(name: str, stages: Stages) -> None:
    """Both may be told to read headers alone; stage extract then finds what is inside."""
    stages.make("segments", decode=False)
    SEGMENTS[name].spoil(stages.mine)
    assert not stages.validate("--headers-only") and not stages.prepare()
    assert NAME in stages.extract()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "named"),
    [
        ("audio", "silence", NAME),
        ("audio", "30 ms", NAME),
        ("segments", "a silent segment", NAME),
        ("features", "nan", LAST),
        ("features", "3 frames", LAST),
    ],
)
def test_what_is_refused_can_be_skipped(kind: str, name: str, named: str, stages: Stages) -> None:
    stages.make(kind)
    KINDS[kind][0][name].spoil(stages.mine)
    assert named in stages.prepare()
    assert not stages.prepare("--skip-bad")
    assert list(read_table(stages.data / "eval/skipped")) == [named]
    assert not stages.extract()


def test_commands_are_run_where_that_is_allowed(stages: Stages) -> None:
    stages.make("audio")
    relist(stages.mine, f"cat {wav(stages.mine)} |")
    assert not stages.validate("--allow-pipes")
    relist(stages.mine, "false |")
    assert NAME in stages.validate("--allow-pipes")


def test_the_number_of_processes_changes_nothing(stages: Stages) -> None:
    stages.make("segments")
    recording(stages.mine, silent_part)
    assert stages.validate("--nj", "2") == stages.validate()
