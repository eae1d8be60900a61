"""On-line augmentation of training crops through Lhotse: speed, reverberation, noise."""

import logging
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import numpy as np
from lhotse import Recording, RecordingSet
from lhotse.cut import Cut, MonoCut

from nessa.corpus.audio import (
    check_decoder,
    check_recording,
    load_audio,
    read_audio,
    reason,
)
from nessa.corpus.copies import random_part, with_noise
from nessa.encoders.config import AugmentationConfig
from nessa.errors import InputError, is_out_of_memory

log = logging.getLogger(__name__)


class Augmenter:
    """Cuts -> augmented waveforms of one length; all randomness comes from the caller's generator.

    Drawing is cheap and loading is not, so that a process can draw what others load.

    Args:
        config: probabilities and ranges.
        noises: recordings to add.
        rirs: room impulse responses.
        sampling_rate: of the speech, in Hz.

    What the configuration asks for and the corpus does not have is left out, with a warning; rooms
    are made up by Lhotse then, if torchaudio, which it needs for that, is installed.

    Raises:
        InputError: a recording is of another sampling rate.
    """

    def __init__(
        self,
        config: AugmentationConfig,
        noises: RecordingSet | None,
        rirs: RecordingSet | None,
        sampling_rate: int = 16000,
    ) -> None:
        self.config, self.sampling_rate = config, sampling_rate
        self.noises = list(noises or [])
        for what, have in (("noise", self.noises), ("room", list(rirs or []))):
            for recording in have:
                if recording.sampling_rate != sampling_rate:
                    raise InputError(
                        f"{what} recording {recording.id!r} has {recording.sampling_rate} Hz, the "
                        f"features take {sampling_rate} Hz; resample it"
                    )
        self.rirs: list[Recording | None] = list(rirs or [])  # None: one that Lhotse makes up
        if makes_rooms(config, rirs):
            log.info("no recordings of rooms: Lhotse makes some up")
            self.rirs = [None]
        for what, probability, have in (
            ("noise_prob", config.noise_prob, self.noises),
            ("reverb_prob", config.reverb_prob, self.rirs),
        ):
            if probability and not have:
                log.warning(
                    "augmentation.%s is %g, but the corpus has no recordings for it: trained "
                    "without", what, probability,
                )  # fmt: skip

    def draw(
        self, cut: MonoCut, samples: int, speed: float, rng: np.random.Generator
    ) -> Callable[[], np.ndarray]:
        """Draw a random crop of `cut` and its augmentation.

        Args:
            cut: one utterance.
            samples: length of the result; a shorter utterance is repeated.
            speed: factor by which it is played faster.
            rng: draws the crop and the augmentation.

        Returns:
            Loads it: float32 waveform, shape (samples,); InputError where a file is unreadable.

        Raises:
            InputError: the cut has no audio, or audio of another sampling rate.
        """
        check_recording(cut, self.sampling_rate, "in training")
        seconds = samples / self.sampling_rate
        augmented: Cut = random_part(cut, seconds * speed, rng)
        if speed != 1.0:
            augmented = augmented.perturb_speed(speed, affix_id=False)
        if rng.random() < self.config.reverb_prob and self.rirs:
            rir = self.rirs[rng.integers(len(self.rirs))]
            seed = None if rir else int(rng.integers(2**31))
            augmented = augmented.reverb_rir(rir, affix_id=False, room_rng_seed=seed)
        if rng.random() < self.config.noise_prob and self.noises:
            augmented = self._add_noise(augmented, rng)
        return partial(_load, augmented, samples, cut)

    def _add_noise(self, cut: Cut, rng: np.random.Generator) -> Cut:
        noise: Recording = self.noises[rng.integers(len(self.noises))]
        return with_noise(cut, noise, self.config.snr, rng)


def makes_rooms(config: AugmentationConfig, rirs: RecordingSet | None) -> bool:
    """Whether Lhotse makes up the rooms: wanted, in no recordings, and torchaudio is installed."""
    return bool(config.reverb_prob) and not rirs and find_spec("torchaudio") is not None


def _load(augmented: Cut, samples: int, cut: MonoCut) -> np.ndarray:
    where = f"utterance {cut.id!r} ({cut.recording.sources[0].source}), or the noise or room drawn"
    check_decoder(cut)
    try:
        found = load_audio(augmented)[0]
    except Exception as error:  # Lhotse's audio backends raise many types
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{where} for it, cannot be read: {reason(error)}; repair or remove it"
        ) from None
    if not np.isfinite(found).all():
        read_audio(cut, cut.recording.sampling_rate, "in training")  # says where in the file
        raise InputError(f"{where} for it, has samples that are not finite; repair or remove it")
    return np.resize(found, samples)
