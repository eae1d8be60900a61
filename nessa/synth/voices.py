"""Random voices and random word sequences."""

from dataclasses import dataclass, field

import numpy as np

from nessa.synth.acoustics import Range
from nessa.synth.espeak import ACCENTS
from nessa.synth.words import WORDS

TONE_FREQUENCIES = (600, 1200, 2000, 3000)  # Hz
LETTERS_PER_SECOND = 13.0  # of `WORDS` at 170 words per minute, measured


@dataclass(frozen=True)
class VoiceRanges:
    """Ranges from which voices are drawn, uniformly unless said otherwise.

    Narrower ranges make speakers harder to tell apart. Percentages are relative to espeak-ng's
    own voice; pitch is in Hz.
    """

    pitch: dict[str, Range] = field(  # log-uniform
        default_factory=lambda: {"m": (80.0, 155.0), "f": (150.0, 255.0)}
    )
    pitch_span: Range = (0.2, 0.7)  # top of the range above its base, as a share of the base
    vocal_tract: dict[str, Range] = field(  # scales all formant frequencies, %
        default_factory=lambda: {"m": (88.0, 106.0), "f": (100.0, 119.0)}
    )
    formant_shift: float = 5.0  # each formant's own deviation, +- %
    formant_height: Range = (65.0, 135.0)
    formant_width: Range = (75.0, 150.0)
    tone: Range = (60.0, 190.0)  # amplitude at each of `TONE_FREQUENCIES`, 0 to 255
    breath: Range = (0.0, 6.0)
    voicing: Range = (80.0, 125.0)
    roughness: Range = (0.0, 4.0)
    flutter: Range = (0.0, 12.0)
    consonants: Range = (65.0, 135.0)
    rate: Range = (140.0, 200.0)  # words per minute
    rate_jitter: float = 0.10  # of an utterance, +- share
    session_pitch_jitter: float = 5.0  # espeak-ng pitch units (about 1.4 % each), +-
    utterance_pitch_jitter: float = 3.0
    accents: tuple[str, ...] = ACCENTS


@dataclass(frozen=True)
class Voice:
    """One speaker's voice."""

    gender: str  # "m" or "f"
    accent: str
    definition: str  # an espeak-ng voice variant file
    rate: float  # words per minute


@dataclass(frozen=True)
class Utterance:
    """Text of an utterance, and how it is spoken."""

    text: str
    rate: int  # words per minute
    pitch: int  # espeak-ng's 0 to 100


def draw_voice(rng: np.random.Generator, gender: str, ranges: VoiceRanges) -> Voice:
    """Draw the voice of a speaker of a gender ("m" or "f") with the speaker's own generator."""
    low, high = np.log(ranges.pitch[gender])
    base = np.exp(rng.uniform(low, high))
    top = base * (1 + rng.uniform(*ranges.pitch_span))
    tract = rng.uniform(*ranges.vocal_tract[gender])
    tone = rng.uniform(*ranges.tone, size=len(TONE_FREQUENCIES))
    lines = [
        "language variant",
        "name speaker",
        f"gender {'male' if gender == 'm' else 'female'}",
        f"pitch {base:.0f} {top:.0f}",
        "tone "
        + " ".join(f"{f} {gain:.0f}" for f, gain in zip(TONE_FREQUENCIES, tone, strict=True)),
        f"voicing {rng.uniform(*ranges.voicing):.0f}",
        f"roughness {rng.uniform(*ranges.roughness):.0f}",
        f"flutter {rng.uniform(*ranges.flutter):.0f}",
        f"consonants {rng.uniform(*ranges.consonants):.0f} {rng.uniform(*ranges.consonants):.0f}",
        "breath 0 " + " ".join(f"{value:.0f}" for value in rng.uniform(*ranges.breath, size=7)),
    ]
    for formant in range(9):
        shift = rng.uniform(-ranges.formant_shift, ranges.formant_shift)
        height = rng.uniform(*ranges.formant_height)
        width = rng.uniform(*ranges.formant_width)
        lines.append(f"formant {formant} {tract + shift:.0f} {height:.0f} {width:.0f}")
    accent = str(rng.choice(ranges.accents))
    return Voice(gender, accent, "\n".join(lines) + "\n", rng.uniform(*ranges.rate))


def draw_utterance(
    rng: np.random.Generator,
    voice: Voice,
    seconds: float,
    session_pitch: float,
    ranges: VoiceRanges,
) -> Utterance:
    """Draw a word sequence of about a given length, and how it is spoken.

    Args:
        rng: the speaker's own generator.
        voice: the speaker's.
        seconds: wanted length; the result tends to be longer.
        session_pitch: the session's deviation from the voice's pitch, espeak-ng units.
        ranges: what to draw from.
    """
    rate = voice.rate * (1 + rng.uniform(-ranges.rate_jitter, ranges.rate_jitter))
    letters = seconds * LETTERS_PER_SECOND * rate / 170
    words: list[str] = []
    while sum(map(len, words)) < letters:
        words.append(WORDS[rng.integers(len(WORDS))])
    jitter = ranges.utterance_pitch_jitter
    pitch = 50 + session_pitch + rng.uniform(-jitter, jitter)
    return Utterance(" ".join(words), round(rate), round(pitch))
