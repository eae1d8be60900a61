"""NESSA: one space for the embeddings of two independently trained speaker models."""

from nessa.errors import InputError
from nessa.lazy import lazy_names

__version__ = "0.2.0"
__all__ = ["Embeddings", "InputError", "Trials", "__version__"]

__getattr__ = lazy_names(
    __name__, {"Embeddings": "nessa.kaldi.embeddings", "Trials": "nessa.trials"}
)
