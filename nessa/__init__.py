"""NESSA: one space for the embeddings of two independently trained speaker models."""

from typing import Any

from nessa.errors import InputError

__version__ = "0.1.0"
__all__ = ["Embeddings", "InputError", "Trials", "__version__"]

_LAZY = {"Embeddings": "nessa.tables", "Trials": "nessa.trials"}


def __getattr__(name: str) -> Any:
    # Lazy, so that `nessa --help` does not pay for numpy and torch.
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'nessa' has no attribute {name!r}")
