"""Checkpoints of a training: what is damaged is told from what fails for another reason."""

import errno
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nessa.corpus.audio import reason
from nessa.errors import InputError

FOREIGN = (pickle.UnpicklingError, EOFError, UnicodeDecodeError)  # other contents than tensors


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint into memory, not onto a GPU.

    Returns:
        {"identity": ..., "losses": [...], and the states of the training's parts}.

    Raises:
        InputError: the file is damaged, or no checkpoint of ours.
        Exception: whatever else keeps it from being read, such as memory that ends.
    """
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many types for files that are damaged
        unread = "PytorchStreamReader" in str(error)  # stricter with archives than zipfile
        if isinstance(error, FOREIGN) or unread or not _is_whole(path):
            raise damaged(path, reason(error)) from None
        raise
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("identity"), str):
        raise damaged(path, "has no identity")
    losses = checkpoint.get("losses")
    if not isinstance(losses, list) or not all(isinstance(loss, float) for loss in losses):
        raise damaged(path, "its losses are not numbers")
    return checkpoint


def damaged(path: Path, why: str) -> InputError:
    """The refusal of a checkpoint."""
    return InputError(
        f"{path}: damaged, or no checkpoint of ours ({why}); remove it, and the training starts "
        "anew"
    )


def _is_whole(path: Path) -> bool:
    """Whether it is an archive as torch writes, with all of its bytes, by their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            ours = any(name.endswith("/version") for name in archive.namelist())
            return ours and archive.testzip() is None
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning
            raise
        return False
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError):
        return False


def fits(part: nn.Module | torch.optim.Optimizer, state: Any) -> bool:
    """Whether a saved state has the tensors that a module or an optimizer needs."""
    if isinstance(part, nn.Module):
        own = part.state_dict()
        return (
            isinstance(state, dict)
            and state.keys() == own.keys()
            and all(_alike(state[name], value) for name, value in own.items())
        )
    if not isinstance(state, dict) or not {"state", "param_groups"} <= state.keys():
        return False
    weights = [weight for group in part.param_groups for weight in group["params"]]
    groups, states = state["param_groups"], state["state"]
    try:
        listed = sum(len(group["params"]) for group in groups)
        tensors = [
            (weights[index], value)
            for index, own in states.items()
            for value in own.values()
            if isinstance(value, Tensor) and value.ndim
        ]
    except (AttributeError, LookupError, TypeError):
        return False
    same = len(groups) == len(part.param_groups) and listed == len(weights)
    return same and all(value.shape == weight.shape for weight, value in tensors)


def _alike(saved: Any, own: Any) -> bool:
    if isinstance(own, Tensor):
        return isinstance(saved, Tensor) and saved.shape == own.shape
    return type(saved) is type(own)
