"""Moving the formants of speech, as another vocal tract would, and leaving its pitch alone."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from lhotse.augmentation import AudioTransform
from lhotse.cut import MonoCut
from lhotse.utils import fastcopy

WINDOW = 0.032  # seconds
OVERLAP = 0.75  # of windows
ENVELOPE = 0.002  # seconds of cepstrum that make the envelope; pitch is beyond
MOST = 3.0  # natural logarithm of how much a bin is amplified or damped, at most
SILENCE = 1e-5  # of a full-scale spectrum: below it, there is no envelope


@dataclass
class Formants(AudioTransform):
    """Scale the frequencies of the spectral envelope, frame by frame.

    The envelope is the smooth part of the cepstrum (Oppenheim & Schafer 1968); each bin of the
    short-time spectrum is multiplied by the moved envelope over its own. Other than vocal tract
    length perturbation of features (Jaitly & Hinton 2013), the harmonics of the voice stay.

    Attributes:
        ratio: of the formants' new frequencies to the old; above 1 as of a shorter vocal tract.
    """

    ratio: float

    def __call__(
        self, samples: npt.NDArray[np.float32], sampling_rate: int
    ) -> npt.NDArray[np.float32]:
        """Samples (..., S) -> as many."""
        from scipy.signal import istft, stft  # a third of all that jobs import, used here alone

        size = round(WINDOW * sampling_rate)
        overlap, length = int(OVERLAP * size), samples.shape[-1]
        padded = np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, size)])
        spectra = stft(padded, sampling_rate, nperseg=size, noverlap=overlap)[2]
        spectra *= np.exp(np.clip(self._gains(np.abs(spectra), size, sampling_rate), -MOST, MOST))
        moved = istft(spectra, sampling_rate, nperseg=size, noverlap=overlap)[1]
        return moved[..., :length].astype(np.float32)

    def _gains(
        self, magnitudes: npt.NDArray[np.floating], size: int, rate: int
    ) -> npt.NDArray[np.floating]:
        """The moved envelope less the own one, logarithms, of magnitudes (..., F, T)."""
        cepstrum = np.fft.irfft(np.log(magnitudes + SILENCE), size, axis=-2)
        kept = round(ENVELOPE * rate)
        cepstrum[..., kept : size - kept + 1, :] = 0
        envelope = np.fft.rfft(cepstrum, axis=-2).real
        bins = np.arange(envelope.shape[-2])
        sources = np.clip(bins / self.ratio, 0, bins[-1])
        below = sources.astype(int)
        above = np.minimum(below + 1, bins[-1])
        share = (sources - below)[:, None]
        moved = (1 - share) * envelope[..., below, :] + share * envelope[..., above, :]
        return moved - envelope

    def reverse_timestamps(
        self, offset: float, duration: float | None, sampling_rate: int
    ) -> tuple[float, float | None]:
        """Lengths stay."""
        return offset, duration


def move_formants(cut: MonoCut, ratio: float) -> MonoCut:
    """A cut whose formants are moved when it is loaded; see `Formants`."""
    transforms = [*(cut.recording.transforms or []), Formants(ratio)]
    return fastcopy(cut, recording=fastcopy(cut.recording, transforms=transforms))
