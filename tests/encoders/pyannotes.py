"""Checkpoints of pyannote.audio as its hub has them, with weights made up here."""

from pathlib import Path

import pytest
import torch

from nessa.encoders.pyannote import FILE, _import
from nessa.errors import InputError


def skip_without_pyannote() -> None:
    try:
        _import()
    except InputError as error:
        pytest.skip(f"{error}")


def save_checkpoint(folder: Path, kind: str, seed: int = 1, **settings: int) -> Path:
    """Save a model of a class of pyannote.audio, as its own conversion of WeSpeaker's does."""
    import lightning
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models import embedding, segmentation

    torch.manual_seed(seed)
    if kind == "PyanNet":
        model = segmentation.PyanNet()
        model.specifications = Specifications(
            problem=Problem.MULTI_LABEL_CLASSIFICATION,
            resolution=Resolution.FRAME,
            duration=5.0,
            classes=["speech"],
        )
        model.build()
    else:
        model = getattr(embedding, kind)(**settings)
        model.specifications = Specifications(
            problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0
        )
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": lightning.__version__,
    }
    model.on_save_checkpoint(checkpoint)
    folder.mkdir(parents=True)
    torch.save(checkpoint, folder / FILE)
    return folder / FILE
