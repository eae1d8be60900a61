"""What every speaker model offers, whoever trained it: audio in, embeddings out."""

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from lhotse.cut import MonoCut
from torch import Tensor, nn

from nessa.corpus.audio import reason
from nessa.errors import InputError

NOISE_SECONDS = 2.0


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


@contextmanager
def importing(library: str, extra: str) -> Iterator[None]:
    """Say why the library of a family, which one of our extras brings, cannot be imported.

    Raises:
        InputError: it is not there, or a library that it needs cannot be loaded, such as a
            torchaudio that was built for another torch.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{library} cannot be loaded ({error}): pip install 'nessa[{extra}]'"
        ) from None
    except (OSError, RuntimeError) as error:  # of torchaudio, when it looks for CUDA's libraries
        raise InputError(
            f"{library} cannot be loaded ({reason(error)}): reinstall the library that it "
            f"names; a torchaudio must be built for torch {torch.__version__}: install it from the "
            "index that this torch came from"
        ) from None


def embed_by_length(inputs: list[Tensor], embed: Callable[[Tensor], Tensor]) -> Tensor:
    """Embed utterances in batches of one length, for models that padding would change.

    Args:
        inputs: B utterances, each (T_i, ...).
        embed: (b, T, ...) -> (b, D).

    Returns:
        Embeddings, shape (B, D), in the order of `inputs`.
    """
    rows_of = defaultdict(list)
    for row, utterance in enumerate(inputs):
        rows_of[len(utterance)].append(row)
    parts: dict[int, Tensor] = {}
    for rows in rows_of.values():
        parts |= zip(rows, embed(torch.stack([inputs[row] for row in rows])), strict=True)
    return torch.stack([parts[row] for row in range(len(inputs))])


def noise(sampling_rate: int) -> Tensor:
    """Two seconds of the same noise each time, which show the dimension of a model: (samples,)."""
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(round(NOISE_SECONDS * sampling_rate), generator=generator)


def weights_digest(module: nn.Module) -> str:
    """sha256 (hex) over a module's weights and buffers, by name; the same on any device."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        numbers = tensor.detach().cpu().contiguous().reshape(-1)
        sha.update(numbers.view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return sha.hexdigest()
