"""Resemblyzer: a pretrained LSTM (GE2E on real speech) that its package brings along."""

import logging
import warnings
from importlib import metadata
from typing import Any

import numpy as np
import torch
from lhotse.cut import MonoCut
from torch import Tensor

from nessa.corpus.audio import read_audio
from nessa.encoders.base import SpeakerModel, importing, weights_digest
from nessa.encoders.settings import ResemblyzerConfig
from nessa.files import digest

log = logging.getLogger(__name__)

SHORTEST = 0.1  # seconds of voice that the library's detector must leave


class ResemblyzerModel(SpeakerModel):
    """The library's encoder behind its own preprocessing: volume, and silences trimmed by VAD.

    Args:
        name: as the recipe names it.
        config: nothing to configure.

    Raises:
        InputError: the library is not installed.
    """

    def __init__(self, name: str, config: ResemblyzerConfig) -> None:
        self._library = _import()
        self._encoder = self._library.VoiceEncoder("cpu", verbose=False).eval()
        self._rate = self._library.sampling_rate
        self.name = name
        self.dim = self._encoder.linear.out_features
        preprocessing = [config.pretrained, metadata.version("resemblyzer")]
        self.fingerprint = digest([*preprocessing, weights_digest(self._encoder)])

    def read(self, cut: MonoCut) -> Tensor:
        """Samples without long silences, shape (S,)."""
        samples = read_audio(cut, self._rate, self.name).numpy()
        voiced = self._library.preprocess_wav(samples)
        # Where its detector hears no voice, the sound is embedded as it is: the other model has
        # to embed it, too, and an utterance must not be lost on one side alone.
        if len(voiced) < SHORTEST * self._rate:
            log.warning("utterance %r: no voice is detected; all of it is embedded", cut.id)
            voiced = samples
        return torch.from_numpy(np.ascontiguousarray(voiced, dtype=np.float32))

    def embed(self, inputs: list[Tensor]) -> Tensor:
        """Samples (S_i,) -> embeddings (B, D), one by one, as the library does it."""
        embedded = [self._encoder.embed_utterance(samples.numpy()) for samples in inputs]
        return torch.from_numpy(np.stack(embedded))


def _import() -> Any:
    with importing("Resemblyzer", "resemblyzer"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # webrtcvad's own, about pkg_resources
        import resemblyzer
    return resemblyzer
