"""A Kaldi data directory of audio, of segments, or of features alone, as Lhotse cuts."""

import logging
import math
from pathlib import Path

from division import warn_of_no_sessions
from lhotse import Features, Recording, SupervisionSegment
from lhotse.cut import MonoCut
from lhotse.utils import fastcopy
from sources import Source, check_span

from nessa.corpus.audio import TOLERANCE
from nessa.corpus.listed import GivenMatrix, read_listed
from nessa.corpus.tables import (
    SEGMENT_FORM,
    parse_segment,
    validate_order,
    validate_tables,
    wrong_duration,
)
from nessa.corpus.utterances import make_cut
from nessa.errors import InputError, about
from nessa.kaldi.datadir import is_there, read_optional, read_utt2spk

log = logging.getLogger(__name__)


class KaldiDir(Source):
    """The tables of a data directory.

    Args:
        directory: with utt2spk, and wav.scp or feats.scp.
        frame_shift: of the given features, in seconds; None where none are wanted.
        allow_pipes: run the commands of wav.scp.
        skip_bad: leave it to `cuts` to refuse or skip utterances that a table lacks.

    Raises:
        InputError: what `nessa validate` finds wrong with the tables.
    """

    def __init__(
        self,
        directory: Path,
        frame_shift: float | None,
        allow_pipes: bool,
        skip_bad: bool = False,
    ) -> None:
        self.directory, self._allow_pipes = directory, allow_pipes
        taken = frame_shift is not None
        if skip_bad:
            problems = validate_order(directory)
        else:
            problems = validate_tables(directory, has_features=taken)
        if problems:
            raise InputError("\n".join(problems))
        self.utt2spk = read_utt2spk(directory)
        self._audio = read_optional(directory, "wav.scp")
        self._features = read_optional(directory, "feats.scp") if taken else {}
        self._frame_shift = frame_shift or 0.0
        self._segments = read_optional(directory, "segments")
        self._durations = read_optional(directory, "utt2dur")
        self._sessions = read_optional(directory, "utt2session")
        self._domains = read_optional(directory, "utt2domain")
        self._genders = read_optional(directory, "spk2gender")
        self._text = read_optional(directory, "text", empty=True)
        self.segmented = bool(self._segments and self._audio)
        self.has_domains = bool(self._domains)
        if taken and not is_there(directory / "feats.scp"):
            raise InputError(
                f"{directory}: no feats.scp, but an encoder's features are of type given; make "
                "features, or set features.type to fbank"
            )
        if not self._audio and not self._features:
            raise InputError(
                f"{directory}: no wav.scp; add it or, with feats.scp alone, set features.type of "
                "the encoders to given, which pretrained ones without `features` cannot"
            )
        if not self._sessions and not self._segments:
            warn_of_no_sessions(directory)
        if self._features and is_there(directory / "vad.scp"):
            log.warning(
                "%s: vad.scp is not applied, all frames of feats.scp are used; Kaldi's recipes "
                "drop those without voice (select-voiced-frames)", directory,
            )  # fmt: skip
        self._last: Recording | None = None  # segments of a recording follow each other

    def domain_of(self, utterance: str) -> str | None:
        """As utt2domain says, where there is one."""
        return self._domains.get(utterance) if self._domains else ""

    def _cut(self, utterance: str) -> MonoCut:
        speaker = self.utt2spk[utterance]
        recording, start, end = self._recording_of(utterance)
        features = self._features_of(utterance) if self._features else None
        duration = end - start if recording is not None else features.duration
        if features is not None and recording is not None:
            if features.duration > duration + TOLERANCE:  # Lhotse would drop the rest
                raise InputError(
                    f"{self.directory}/feats.scp: {utterance!r}: {features.num_frames} frames of "
                    f"{self._frame_shift:g} s are more than its audio, {duration:.2f} s; set "
                    "features.frame_shift of the encoders to theirs, or make them again"
                )
            # They are of the utterance, and Lhotse counts from the recording's start.
            features = fastcopy(
                features,
                start=start,
                duration=duration,
                recording_id=recording.id,
                sampling_rate=recording.sampling_rate,
            )
        supervision = SupervisionSegment(
            id=utterance,
            recording_id=recording.id if recording is not None else utterance,
            start=start,
            duration=duration,
            speaker=speaker,
            gender=self._genders.get(speaker),
            text=self._text.get(utterance),
            custom=self._custom(utterance),
        )
        return make_cut(recording, supervision, features)

    def _custom(self, utterance: str) -> dict[str, str]:
        custom = {"session": self._session_of(utterance)}
        if self._domains:
            custom["domain"] = self._line(self._domains, "utt2domain", utterance)
        return custom

    def _session_of(self, utterance: str) -> str:
        if self._sessions:
            return self._line(self._sessions, "utt2session", utterance)
        if self._segments:
            return self._line(self._segments, "segments", utterance).split()[0]
        return utterance

    def _recording_of(self, utterance: str) -> tuple[Recording | None, float, float]:
        """The recording of an utterance, and its start and end there in seconds."""
        if not self._audio:
            return None, 0.0, 0.0
        if not self.segmented:
            recording = self._open(utterance)
            if wrong := wrong_duration(self._durations.get(utterance), recording.duration):
                raise InputError(f"{self.directory}/utt2dur: {utterance!r}: {wrong}; make it again")
            return recording, 0.0, recording.duration
        line = self._line(self._segments, "segments", utterance)
        try:
            name, start, end = parse_segment(line)
        except ValueError:
            raise InputError(
                f"{self.directory}/segments: {utterance!r}: expected {SEGMENT_FORM}, got {line!r}"
            ) from None
        recording = self._open(name)
        end = recording.duration if math.isinf(end) else end
        with about(f"{self.directory}/segments: {utterance!r}"):
            return recording, start, check_span(start, end, recording)

    def _open(self, name: str) -> Recording:
        if self._last is None or self._last.id != name:
            place = self._line(self._audio, "wav.scp", name)
            table = self.directory / "wav.scp"
            with about(f"{table}: {name!r}"):
                self._last = read_listed(name, place, table, self._allow_pipes)
        return self._last

    def _features_of(self, utterance: str) -> Features:
        place = self._line(self._features, "feats.scp", utterance)
        table = self.directory / "feats.scp"
        with about(f"{table}: {utterance!r}"):
            matrix = GivenMatrix.find(place, table)
        return Features(
            type="kaldiio",
            num_frames=matrix.rows,
            num_features=matrix.columns,
            frame_shift=self._frame_shift,
            sampling_rate=16000,  # required by Lhotse, and not used where there is no audio
            start=0.0,
            duration=matrix.rows * self._frame_shift,
            storage_type="kaldiio",
            storage_path=matrix.place,
            storage_key=utterance,
            recording_id=utterance,
            channels=0,
        )
