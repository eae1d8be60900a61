"""The channel, room and noise that a session is recorded with."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from nessa.synth import espeak

SAMPLE_RATE = 16000  # of the corpus, Hz

Range = tuple[float, float]

# Both sampling rates are multiples of 50 Hz: a spectrum of 441 k samples at 22050 Hz cut to
# 320 k samples is the same signal at 16000 Hz, so that resampling costs no filter of its own.
_STEP_IN, _STEP_OUT = espeak.SAMPLE_RATE // 50, SAMPLE_RATE // 50


@dataclass(frozen=True)
class AcousticRanges:
    """Ranges from which sessions are drawn, uniformly unless said otherwise.

    A wider equalizer, lower SNR and longer reverberation make speakers harder to recognize.
    """

    equalizer_db: float = 6.0  # standard deviation of the gain at each of `BANDS`
    low_cut: Range = (40.0, 300.0)  # Hz
    high_cut: Range = (3400.0, 7800.0)  # Hz
    snr_db: Range = (5.0, 30.0)
    noise_slope_db: Range = (-9.0, 0.0)  # per octave: 0 is white, -3 pink, -6 brown
    reverberation_time: Range = (0.1, 0.6)  # seconds to -60 dB
    direct_to_reverberant_db: Range = (0.0, 18.0)
    level_db: Range = (-32.0, -16.0)  # root mean square, relative to full scale


BANDS = np.array([60.0, 150.0, 300.0, 600.0, 1200.0, 2000.0, 3000.0, 4500.0, 7000.0])  # Hz


@dataclass(frozen=True)
class Session:
    """One recording session's acoustics."""

    equalizer_db: NDArray[np.float64]  # (len(BANDS),)
    low_cut: float  # Hz
    high_cut: float  # Hz
    room: NDArray[np.float32]  # impulse response, (R,)
    snr_db: float
    noise_slope_db: float
    level_db: float


def draw_session(rng: np.random.Generator, ranges: AcousticRanges) -> Session:
    """Draw a session's acoustics with the speaker's own generator."""
    return Session(
        equalizer_db=rng.normal(0, ranges.equalizer_db, BANDS.size),
        low_cut=rng.uniform(*ranges.low_cut),
        high_cut=rng.uniform(*ranges.high_cut),
        room=draw_room(rng, ranges),
        snr_db=rng.uniform(*ranges.snr_db),
        noise_slope_db=rng.uniform(*ranges.noise_slope_db),
        level_db=rng.uniform(*ranges.level_db),
    )


def draw_room(rng: np.random.Generator, ranges: AcousticRanges) -> NDArray[np.float32]:
    """Draw a room impulse response by Polack's model.

    That is white Gaussian noise under an exponential decay, after the direct sound.

    Returns:
        Samples at 16000 Hz, shape (R,), R the reverberation time; the first is 1.
    """
    time = rng.uniform(*ranges.reverberation_time)
    ratio = 10 ** (-rng.uniform(*ranges.direct_to_reverberant_db) / 20)
    count = int(time * SAMPLE_RATE)
    decay = np.exp(-np.log(1000) * np.arange(count) / count)  # 60 dB over `time`
    room = rng.standard_normal(count) * decay
    room[0] = 0
    room *= ratio / np.linalg.norm(room)
    room[0] = 1
    return room.astype(np.float32)


def record(
    speech: NDArray[np.int16], session: Session, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Record synthesized speech in a session: add its room, noise and channel.

    Resampling, room, noise and channel are applied to one spectrum.

    Args:
        speech: espeak-ng's samples at 22050 Hz, shape (N,).
        session: the acoustics.
        rng: the speaker's own generator, for the noise.

    Returns:
        Samples at 16000 Hz, shape (ceil(N * 320 / 441),).
    """
    length = -(-speech.size * _STEP_OUT // _STEP_IN)
    # Room for the reverberation's tail, or it would wrap around to the start.
    padded = length + session.room.size
    steps = scipy.fft.next_fast_len(-(-padded // _STEP_OUT), real=True)
    size = steps * _STEP_OUT
    bins = size // 2 + 1
    spectrum = scipy.fft.rfft(speech.astype(np.float32), steps * _STEP_IN)[:bins]
    frequency = np.arange(bins, dtype=np.float32) * (SAMPLE_RATE / size)
    spectrum *= scipy.fft.rfft(session.room, size)
    noise = rng.standard_normal(2 * bins, dtype=np.float32).view(np.complex64)
    noise *= power_law(frequency, session.noise_slope_db)
    noise *= np.linalg.norm(spectrum) / np.linalg.norm(noise) * 10 ** (-session.snr_db / 20)
    spectrum += noise
    spectrum *= _channel(frequency, session)
    signal = scipy.fft.irfft(spectrum, size)[:length]
    signal *= 10 ** (session.level_db / 20) / np.sqrt(np.mean(signal**2))
    return (32767 * np.clip(signal, -1, 1)).astype(np.int16)


def power_law(frequency: NDArray[np.floating], slope_db: float) -> NDArray[np.float32]:
    """Magnitude of colored noise.

    Args:
        frequency: Hz, shape (F,).
        slope_db: per octave, from the lowest of `BANDS` upwards.

    Returns:
        Gain, shape (F,); 1 at the lowest frequencies.
    """
    octaves = np.log2(np.maximum(frequency, BANDS[0]) / BANDS[0])
    return (10 ** (slope_db * octaves / 20)).astype(np.float32)


def _channel(frequency: NDArray[np.float32], session: Session) -> NDArray[np.float32]:
    gain_db = np.interp(frequency, BANDS, session.equalizer_db)
    # Fourth-order Butterworth magnitudes at both ends.
    squared = (1 + (session.low_cut / np.maximum(frequency, 1.0)) ** 8) * (
        1 + (frequency / session.high_cut) ** 8
    )
    return (10 ** (gain_db / 20) / np.sqrt(squared)).astype(np.float32)
