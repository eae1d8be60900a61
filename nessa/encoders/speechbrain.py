"""A pretrained model of SpeechBrain: any source that its EncoderClassifier takes.

SpeechBrain builds a model from a YAML file that may name any Python object. Take sources from
people whom you would run a program of.
"""

from pathlib import Path
from typing import Any

import torch
from lhotse.cut import MonoCut
from torch import Tensor, nn

from nessa.corpus.audio import read_audio
from nessa.encoders.base import (
    SpeakerModel,
    embed_by_length,
    importing,
    noise,
    weights_digest,
)
from nessa.encoders.settings import SpeechBrainConfig
from nessa.errors import InputError, first_line
from nessa.files import digest

SETTINGS = "hyperparams.yaml"  # of features, normalization and network
WEIGHTS_PLACE = "pretrained_path"  # its key for that


class SpeechBrainModel(SpeakerModel):
    """An EncoderClassifier; its features and their normalization are its own.

    Args:
        name: as the recipe names it.
        config: a local folder, or a name on the model hub.

    Raises:
        InputError: SpeechBrain is not installed, or cannot load the source.
    """

    def __init__(self, name: str, config: SpeechBrainConfig) -> None:
        self.name, self._rate = name, config.sampling_rate
        self._classifier = _load(config.source)
        modules = self._classifier.mods
        described = [weights_digest(modules), _settings(config.source), self._rate]
        self.fingerprint = digest([*described, *_global_statistics(modules)])
        self.dim = self.embed([noise(self._rate)]).shape[1]

    def read(self, cut: MonoCut) -> Tensor:
        """Samples, shape (S,)."""
        return read_audio(cut, self._rate, self.name)

    @torch.inference_mode()
    def embed(self, inputs: list[Tensor]) -> Tensor:
        """Samples (S_i,) -> embeddings (B, D)."""
        return embed_by_length(
            inputs, lambda batch: self._classifier.encode_batch(batch)[:, 0].float().cpu()
        )


def _load(source: str) -> Any:
    encoder_classifier, options = _import(), {}
    if Path(source).is_dir():
        # Published models name the hub as the place of their weights, also in a copy of them.
        options = {"overrides": {WEIGHTS_PLACE: source}, "overrides_must_match": False}
    try:
        classifier = encoder_classifier.from_hparams(source=source, **options)
    except Exception as error:  # its YAML and its hub raise many types
        what = "no such folder, and" if not Path(source).is_dir() else "the model"
        raise InputError(
            f"source {source!r}: {what} SpeechBrain cannot load it: {first_line(error)}; give a "
            f"folder with {SETTINGS} and the weights, or a name on the model hub"
        ) from error
    if classifier is None:
        raise InputError(f"source {source!r}: SpeechBrain found no model there")
    return classifier.eval()


def _global_statistics(modules: nn.Module) -> list[list[Any]]:
    """Mean and deviation of features over a corpus, which modules keep outside of their state."""
    return [
        [name, *(torch.as_tensor(value).tolist() for value in (module.glob_mean, module.glob_std))]
        for name, module in modules.named_modules()
        if getattr(module, "norm_type", None) == "global"
    ]


def _settings(source: str) -> list[str]:
    """The lines of a model's settings, but for the place of its weights, which copies change."""
    path = Path(source, SETTINGS)
    if not Path(source).is_dir():
        import huggingface_hub

        path = Path(huggingface_hub.hf_hub_download(source, SETTINGS))
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith(f"{WEIGHTS_PLACE}:")]


def _import() -> Any:
    with importing("SpeechBrain", "speechbrain"):
        from speechbrain.inference.classifiers import EncoderClassifier
    return EncoderClassifier
