"""What every speaker model offers, whoever trained it: audio in, embeddings out."""

from abc import ABC, abstractmethod

import torch
from lhotse.cut import MonoCut
from torch import Tensor


class SpeakerModel(ABC):
    """A speaker model in use.

    Attributes:
        name: as the recipe names it.
        fingerprint: sha256 (hex) over weights and feature configuration.
        dim: dimension D of its embeddings.
        device: that it runs on.
    """

    name: str
    fingerprint: str
    dim: int
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def read(self, cut: MonoCut) -> Tensor:
        """One utterance as the model takes it: samples (S,), or features (T, F).

        Raises:
            InputError: names the utterance and its file; unreadable, another sampling rate,
                several channels, too short, or features of another dimension.
        """

    @abstractmethod
    def embed(self, inputs: list[Tensor]) -> Tensor:
        """Utterances that `read` gave -> embeddings (B, D), float32, each as if it were alone."""
