"""Settings of the corpus and of its preparation: a recipe's sections `corpus` and `prepare`."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from nessa.schema import Distinct, Fraction, Name, Positive, Rising, Section

SetName = Literal["train", "align", "dev", "eval"]


def _are_patterns(domains: dict[str, str]) -> dict[str, str]:
    for name, pattern in domains.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{name}: {pattern!r} is no regular expression: {error}") from None
    return domains


class SetSize(Section):
    """Size of a set of the synthetic corpus."""

    speakers: Positive
    sessions: Positive
    utterances: Positive  # per session


class CorpusConfig(Section):
    """Where the corpus lies, or which program makes or downloads it, and what."""

    program: Name | None = None  # local/<program>.py; none for a corpus that is on disk
    paths: dict[Name, str] = {}  # where parts of it lie, by names that the prepare program knows
    parts: tuple[str, ...] = ()  # of a corpus that is published in parts, such as LibriSpeech
    allow_pipes: bool = False  # run the commands that a wav.scp has in the place of files
    sets: dict[SetName, SetSize] = {}


class TrialCount(Section):
    """How many trials to draw for a set that has no list of its own."""

    targets: Positive
    nontargets: Positive


Seconds = Annotated[float, Field(ge=0.05)]  # the shortest utterance that models embed
Factor = Annotated[float, Field(ge=0.5, le=2)]


class CopyConfig(Section):
    """How a copy of the align set's audio is perturbed: what is named, in this order."""

    crop: Annotated[tuple[Seconds, Seconds], Rising] | None = None  # drawn
    # Of another voice, whose speakers count as others; of a pair, drawn for each speaker.
    speed: Factor | Annotated[tuple[Factor, Factor], Rising] | None = None
    formants: Factor | Annotated[tuple[Factor, Factor], Rising] | None = None  # their frequencies
    reverb: bool = False
    codec: Literal["opus", "mp3", "vorbis"] | None = None
    compression: Fraction = 0.99  # of the codec; 1: the most
    snr: Annotated[tuple[float, float], Rising] | None = None  # dB of added noise, drawn

    @model_validator(mode="after")
    def _makes_another_voice(self) -> "CopyConfig":
        for name, factor in (("speed", self.speed), ("formants", self.formants)):
            # Of a pair hundredths are drawn.
            ends = {round(end, 2) for end in factor} if isinstance(factor, tuple) else {factor}
            if ends == {1}:
                raise ValueError(f"{name}: a factor of 1 changes nothing; name another, or none")
        return self

    @model_validator(mode="after")
    def _perturbs(self) -> "CopyConfig":
        other = self.crop or self.reverb or self.codec or self.snr
        if not (other or self.is_another_voice):
            raise ValueError(
                "speed: a copy of nothing but the same; name speed, formants, crop, reverb, codec "
                "or snr"
            )
        return self

    @property
    def is_another_voice(self) -> bool:
        """Whether its speakers count as others."""
        return self.speed is not None or self.formants is not None


class PrepareConfig(Section):
    """Which program reads the corpus, and the trials made for sets without a list."""

    program: Name  # local/<program>.py
    # For a corpus that is not divided into sets: number of speakers of these sets, or, below 1,
    # their share of all speakers; the remaining speakers train the encoders. Where none is trained
    # they are align if that is not named here or align_includes_train is set, and else left out.
    held_out: dict[Literal["align", "dev", "eval"], Annotated[float, Field(gt=0)]] = {}
    # kaldi_dir reads all audio and features to their end, not only their headers: about as long as
    # one model's extraction reads. Without, what is damaged inside stops stage extract.
    decode: bool = True
    # {domain: pattern of its speakers' ids}, where the corpus brings no utt2domain. The first one's
    # trials are the main list, unless one of others comes with the corpus. Trials are drawn, and
    # results reported, for each by itself.
    domains: Annotated[dict[Name, str], AfterValidator(_are_patterns)] = {}
    # {copy: how it is perturbed}: copies of the align set's audio, from which aligners also learn.
    align_copies: dict[Name, CopyConfig] = {}
    align_includes_train: bool = False  # aligners also learn from the encoders' speakers
    trials: dict[Literal["dev", "eval"], TrialCount] = {}
    profile_sizes: Annotated[tuple[Positive, ...], Distinct] = (
        3,
    )  # enrollment utterances per profile
