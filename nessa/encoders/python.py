"""A pretrained model that a Python function makes: the way in for any other toolkit.

The recipe names the function as `module:function`, with its arguments by name; docs/pretrained.md
has an example. What it returns is called with a list of utterances, each a float32 tensor of
samples in [-1, 1], shape (S_i,), and gives one embedding each: a tensor or array, shape (B, D).

An embedding must depend neither on the other utterances of the list nor on chance: pad with a
mask or not at all, and return a network in evaluation mode. All are finite, D stays the same, and
gradients are off. The fingerprint is over the function's name, its arguments (of those that name
files or folders, the files' content), a torch module's weights, and the file of the function's
module, but not those that it imports; anything else, also a network that is quantized, or frozen
and of no file among the arguments, has a str `fingerprint`, which changes whenever its embeddings
do, and counts in the place of weights and module.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lhotse.cut import MonoCut
from torch import Tensor, nn

from nessa.corpus.audio import read_audio
from nessa.encoders.base import SpeakerModel, noise, weights_digest
from nessa.encoders.config import files_in
from nessa.encoders.settings import PythonConfig, with_texts
from nessa.errors import InputError
from nessa.files import digest, file_digest


class PythonModel(SpeakerModel):
    """What the factory made.

    Args:
        name: as the recipe names it.
        config: the factory and its arguments.

    Raises:
        InputError: there is no such function, it does not take these arguments, or what it makes
            has no fingerprint or gives no embeddings.
    """

    def __init__(self, name: str, config: PythonConfig) -> None:
        self.name, self._config = name, config
        function = _find(config.factory)
        self._check_arguments(function)
        self._model = function(**config.arguments)
        self.fingerprint = self._find_fingerprint()
        self.dim = self._call([noise(config.sampling_rate)]).shape[1]

    def _check_arguments(self, function: Callable[..., Any]) -> None:
        try:
            signature = inspect.signature(function, follow_wrapped=False)
            signature.bind(**self._config.arguments)
        except ValueError:  # one that is written in C may have no signature
            return
        except TypeError as error:
            taken = f"{self._config.factory}{signature}"
            raise InputError(
                f"encoders.{self.name}.arguments: {taken}: {error}; correct them"
            ) from None

    def read(self, cut: MonoCut) -> Tensor:
        """Samples, shape (S,)."""
        return read_audio(cut, self._config.sampling_rate, self.name)

    def embed(self, inputs: list[Tensor]) -> Tensor:
        """Samples (S_i,) -> embeddings (B, D).

        Raises:
            InputError: what the model gives is not (B, D), or not finite.
        """
        embeddings = self._call(inputs)
        if embeddings.shape[1] != self.dim:
            raise InputError(
                f"{self._where} gave embeddings of dimension {embeddings.shape[1]}; those before "
                f"had {self.dim}"
            )
        return embeddings

    @torch.inference_mode()
    def _call(self, inputs: list[Tensor]) -> Tensor:
        try:
            embeddings = torch.as_tensor(self._model(inputs)).float().cpu()
        except Exception as error:
            error.add_note(f"raised by {self._where}")
            raise
        if embeddings.ndim != 2 or len(embeddings) != len(inputs):
            raise InputError(
                f"{self._where} gave shape {tuple(embeddings.shape)} for {len(inputs)} utterances; "
                "it must give one row each"
            )
        if not embeddings.isfinite().all():
            raise InputError(f"{self._where} gave embeddings that are not finite")
        return embeddings

    @property
    def _where(self) -> str:
        return f"model {self.name!r} ({self._config.factory})"

    def _find_fingerprint(self) -> str:
        own = getattr(self._model, "fingerprint", None)
        if not isinstance(own, str) and isinstance(self._model, nn.Module):
            own = self._digest(self._model)
        if not isinstance(own, str):
            raise InputError(
                f"{self._config.factory}: what it makes has no fingerprint, and no torch weights "
                "to make one of, as quantized or frozen networks have none; add an attribute "
                "`fingerprint`, a str that changes with the weights"
            )
        settings = self._config.model_dump(mode="json", exclude={"pretrained"})
        settings["arguments"] = with_texts(settings["arguments"], _content)
        return digest([own, settings])

    def _digest(self, module: nn.Module) -> str | None:
        """Of a module's weights and code; None where nothing tells it from others."""
        state = module.state_dict()
        if not all(
            isinstance(value, Tensor) and not value.is_quantized for value in state.values()
        ):
            return None
        if not (state and not _holds_frozen(module)) and not self._config.files():
            return None
        code = self._config.module_file()
        return digest([weights_digest(module), code and file_digest(code)])


def _holds_frozen(module: nn.Module) -> bool:
    """Whether it or what it is made of was frozen by TorchScript, which takes weights out."""
    if isinstance(module, torch.jit.ScriptModule):
        return not module.state_dict()
    return any(map(_holds_frozen, module.children()))


def _content(text: str) -> Any:
    """What is in a file or folder, in the place of its name; another text as it is."""
    if os.path.isdir(text):
        files = files_in(Path(text))
        return {file.relative_to(text).as_posix(): file_digest(file) for file in files}
    return file_digest(text) if os.path.isfile(text) else text


def _find(factory: str) -> Callable[..., Any]:
    module_name, function = factory.split(":")
    if "" not in sys.path:  # of a program, not of `python -m`: modules of the working directory
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not error.name or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # of theirs
        raise InputError(
            f"factory {factory!r}: no module {module_name!r}; install it, or add its folder to "
            "PYTHONPATH"
        ) from None
    if not callable(getattr(module, function, None)):
        raise InputError(f"factory {factory!r}: {module.__file__} has no function {function!r}")
    return getattr(module, function)
