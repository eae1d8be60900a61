"""Noises and room impulse responses for the augmentation of encoder training.

They come from random streams of their own, apart from those of the sessions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from nessa.synth.acoustics import SAMPLE_RATE, AcousticRanges, draw_room, power_law

COUNT = 24  # recordings of noise, and as many of rooms
NOISE_SECONDS = 6.0
# Shorter than the sessions' rooms: every training crop may be convolved with one.
RANGES = AcousticRanges(reverberation_time=(0.1, 0.4))

# What follows the corpus seed; speakers' numbers there are larger than 10000.
_NOISE_STREAM, _ROOM_STREAM = 1, 2


@dataclass(frozen=True)
class NoiseKind:
    """A kind of noise: sources that are added, each a colored noise of wavering level."""

    sources: int
    octaves: float  # standard deviation of a source's Gaussian band around its center
    swing_db: float  # standard deviation of a source's level over time


STATIONARY = NoiseKind(1, math.inf, 0.0)
FLUCTUATING = NoiseKind(1, math.inf, 8.0)
BABBLE = NoiseKind(8, 0.7, 8.0)
KINDS = (STATIONARY, FLUCTUATING, BABBLE)

_CENTER = (200.0, 4000.0)  # of a source's band, Hz, log-uniform
_CHANGES = (2.0, 8.0)  # of a source's level, per second: as slow as words, as fast as syllables
_PEAK = 0.5  # of full scale


def make_noises(seed: int) -> Iterator[NDArray[np.int16]]:
    """Make recordings of noise, the `KINDS` in turn, with the corpus seed.

    Yields:
        `COUNT` times samples at 16 kHz, shape (NOISE_SECONDS * SAMPLE_RATE,).
    """
    for number in range(COUNT):
        rng = np.random.default_rng([seed, _NOISE_STREAM, number])
        kind = KINDS[number % len(KINDS)]
        noise = sum(_draw_source(rng, kind) for _ in range(kind.sources))
        yield _quantize(_PEAK * noise / np.abs(noise).max())


def make_rooms(seed: int) -> Iterator[NDArray[np.int16]]:
    """Make room impulse responses; the direct sound is the first sample, and full scale.

    Yields:
        `COUNT` times samples at 16 kHz, shape (R,), as long as the reverberation time.
    """
    for number in range(COUNT):
        rng = np.random.default_rng([seed, _ROOM_STREAM, number])
        yield _quantize(draw_room(rng, RANGES))


def _draw_source(rng: np.random.Generator, kind: NoiseKind) -> NDArray[np.float64]:
    size = int(NOISE_SECONDS * SAMPLE_RATE)
    frequency = scipy.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    spectrum = rng.standard_normal(2 * frequency.size).view(np.complex128)
    spectrum *= power_law(frequency, rng.uniform(*RANGES.noise_slope_db))
    center = np.exp(rng.uniform(*np.log(_CENTER)))
    distance = np.log2(np.maximum(frequency, 1.0) / center) / kind.octaves
    spectrum *= np.exp(-(distance**2) / 2)
    spectrum[0] = 0
    source = scipy.fft.irfft(spectrum, size)
    return source / np.linalg.norm(source) * _draw_envelope(rng, kind, size)


def _draw_envelope(rng: np.random.Generator, kind: NoiseKind, size: int) -> NDArray[np.float64]:
    changes = math.ceil(NOISE_SECONDS * rng.uniform(*_CHANGES))
    level_db = rng.normal(0, kind.swing_db, changes)
    return 10 ** (np.interp(np.linspace(0, changes - 1, size), np.arange(changes), level_db) / 20)


def _quantize(samples: NDArray[np.floating]) -> NDArray[np.int16]:
    return (32767 * samples).astype(np.int16)
