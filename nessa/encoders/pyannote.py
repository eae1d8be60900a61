"""A pretrained embedding model of pyannote.audio: a local checkpoint, or a name on the model hub.

A checkpoint is a Python pickle, which may run any program when it is loaded as pyannote.audio does
it. It is read first in the way that runs nothing, and refused where that is not enough.
"""

import os
import pickle
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from lhotse.cut import MonoCut
from torch import Tensor

from nessa.corpus.audio import read_audio, reason
from nessa.encoders.base import (
    SpeakerModel,
    embed_by_length,
    importing,
    noise,
    weights_digest,
)
from nessa.encoders.settings import PyannoteConfig
from nessa.errors import InputError, is_out_of_memory
from nessa.files import digest

FILE = "pytorch_model.bin"  # of a model's folder, here and on the hub
PLAIN = ("Specifications", "Problem", "Resolution")  # what its own checkpoints hold beside weights
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class PyannoteModel(SpeakerModel):
    """A model from samples to one embedding; its features and their normalization are its own.

    Its pooling has no mask for samples: only utterances of one length share a batch.

    Args:
        name: as the recipe names it.
        config: see `PyannoteConfig`.

    Raises:
        InputError: pyannote.audio is not installed, the hub does not give the model, or the
            checkpoint is no embedding model, or holds objects that are not plain.
    """

    def __init__(self, name: str, config: PyannoteConfig) -> None:
        self.name, self._source = name, config.source
        library = _import()
        self._network = _load(library, config)
        self._rate = int(self._network.hparams.sample_rate)
        self.dim = self._find_dim()
        settings = {key: str(value) for key, value in dict(self._network.hparams).items()}
        self.fingerprint = digest([weights_digest(self._network), settings])

    def read(self, cut: MonoCut) -> Tensor:
        """Samples, shape (S,)."""
        return read_audio(cut, self._rate, self.name)

    @torch.inference_mode()
    def embed(self, inputs: list[Tensor]) -> Tensor:
        """Samples (S_i,) -> embeddings (B, D).

        Raises:
            InputError: the network fails on them; some need more samples than others.
        """
        return embed_by_length(inputs, self._embed_batch)

    def _embed_batch(self, samples: Tensor) -> Tensor:
        """(b, S) -> (b, D)."""
        try:
            return self._network(samples[:, None]).float()
        except (RuntimeError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            seconds = samples.shape[1] / self._rate
            raise InputError(
                f"model {self.name!r} fails on utterances of {seconds:.2f} s: {reason(error)}"
            ) from error

    def _find_dim(self) -> int:
        with torch.inference_mode():
            found = self._network(noise(self._rate)[None, None])
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise InputError(
                f"source {self._source!r}: a {type(self._network).__name__}, which does not give "
                "an embedding per utterance; name an embedding model, such as pyannote/embedding"
            )
        return found.shape[1]


def _import() -> ModuleType:
    # The library reports each model that is loaded to its makers, unless it is told not to.
    os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "false")
    with importing("pyannote.audio", "pyannote"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchcodec, which decodes no audio here
        import pyannote.audio as library
    return library


def _load(library: ModuleType, config: PyannoteConfig) -> Any:
    checkpoint = _find(config)
    if not config.trust:
        _check_plain(checkpoint, config.source)
    try:
        return library.Model.from_pretrained(checkpoint).eval().cpu()
    except Exception as error:  # of pickle, lightning and torch
        raise InputError(
            f"source {config.source!r}: pyannote.audio cannot load it: {reason(error)}; give the "
            f"{FILE} of an embedding model"
        ) from error


def _find(config: PyannoteConfig) -> Path:
    """The checkpoint on disk, downloaded where the source is a name on the hub."""
    path = Path(config.source)
    if path.is_dir():
        path /= FILE
    elif not path.is_file():
        return Path(_download(config.source, config.revision))
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a checkpoint, or a folder with {FILE}")
    if config.revision is not None:
        raise InputError(f"{path}: a local checkpoint has no revision; remove the key `revision`")
    return path


def _download(source: str, revision: str | None) -> str:
    import huggingface_hub
    from huggingface_hub import errors

    where = f"source {source!r}: no such file or folder here, and "
    try:
        return huggingface_hub.hf_hub_download(source, FILE, revision=revision)
    except errors.HFValidationError:
        raise InputError(f"{where}no name on the hub, which is owner/name; correct it") from None
    except errors.GatedRepoError:
        raise InputError(
            f"{where}the hub gives it to those only who have accepted its conditions: accept them "
            f"on the model's page, and {LOG_IN}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{where}the hub has no such model, or it is private: correct the name, or {LOG_IN}"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{where}on the hub it has no revision {revision!r}; correct it") from None
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{where}the hub cannot be reached, or fails ({reason(error.__cause__ or error)}): "
            f"connect, or copy its {FILE} from another machine and give that as source"
        ) from None
    except errors.EntryNotFoundError:
        raise InputError(
            f"{where}on the hub it has no {FILE}: a pipeline, or not of pyannote; name the "
            "embedding model"
        ) from None
    except Exception as error:  # of the network; the hub's other answers
        raise InputError(f"{where}the hub does not give it: {reason(error)}; {LOG_IN}") from None


def _check_plain(checkpoint: Path, source: str) -> None:
    """Refuse a checkpoint with more than weights, numbers, texts and pyannote's own settings."""
    from pyannote.audio.core import task

    plain = [getattr(task, name) for name in PLAIN] + [torch.torch_version.TorchVersion]
    lift = "if you trust it as you would a program, set `trust: true`"
    try:
        with torch.serialization.safe_globals(plain):
            found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        told = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds a {told[1]}" if told else f"is no plain checkpoint ({reason(error)})"
        raise InputError(f"source {source!r}: {checkpoint} {what}; {lift}") from None
    except Exception as error:  # of torch, which checks little
        raise InputError(
            f"source {source!r}: {checkpoint} is no checkpoint: {reason(error)}; copy it again"
        ) from None
    try:
        module = str(found["pyannote.audio"]["architecture"]["module"])
    except (LookupError, TypeError):
        raise InputError(
            f"source {source!r}: {checkpoint} is not a checkpoint of pyannote.audio; give one"
        ) from None
    if not module.startswith("pyannote.audio."):
        raise InputError(f"source {source!r}: {checkpoint} runs the module {module!r}; {lift}")
