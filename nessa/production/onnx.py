"""A torch module -> the bytes of an ONNX file."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from nessa import __version__
from nessa.errors import InputError
from nessa.files import atomic_open, remove_leftovers

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401  torch's exporter needs it
except ImportError as error:
    raise InputError(
        f"ONNX export needs the package {error.name!r}: pip install 'nessa[onnx]'"
    ) from error


OPSET = 20  # the first with a Gelu operator
PRIVACY = """\
Voice embeddings and profiles, mapped or not, are biometric data: ask for consent, encrypt them,
and delete them on request. A match is evidence, not proof of identity; test it on your own
speakers first.
"""

# The exporter's loggers report each rewriting pass, and the lack of torchvision, unused here.
LOG_LEVELS = {
    "onnx_ir": logging.WARNING,
    "onnxscript": logging.WARNING,
    "torch.onnx": logging.ERROR,
}
EXPORTS = ("encoder.onnx", "enroll.onnx", "runtime.onnx")  # that have a model card


def to_onnx(
    module: nn.Module,
    example: Tensor,
    names: tuple[str, str],
    free: Sequence[str],
    properties: Mapping[str, str],
) -> bytes:
    """Export a network of one input and one output.

    Args:
        module: in evaluation mode.
        example: an input.
        names: of the input and the output.
        free: names of the input's first dimensions, which may have any size.
        properties: metadata of the file.

    Returns:
        The file's content; the same for the same module.
    """
    with _quiet_exporter():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=({axis: torch.export.Dim(name) for axis, name in enumerate(free)},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces, with paths of this machine
    onnx.helper.set_model_props(model, {**properties, "nessa_version": __version__})
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def open_session(content: bytes) -> onnxruntime.InferenceSession:
    """The network in onnxruntime, on the CPU."""
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def write_export(output: Path, networks: Mapping[str, bytes], card: str) -> None:
    """Write networks by their file names, then README.md: a model card and what all cards say.

    Raises:
        InputError: a README.md that is not such a card, or that of other networks.
    """
    readme = output / "README.md"
    if readme.is_file() and PRIVACY not in readme.read_text("utf-8", errors="replace"):
        raise InputError(
            f"{readme}: not a model card of nessa, and would be lost; move it away, or give "
            "another --output"
        )
    others = [n for n in EXPORTS if n not in networks and (output / n).is_file()]
    if readme.is_file() and others:
        raise InputError(
            f"{readme}: is the model card of {others[0]}, and would be lost; give another --output"
        )
    for name, content in networks.items():
        remove_leftovers(output, name)  # which hold means of align speakers
        with atomic_open(output / name, "wb") as file:
            file.write(content)
    with atomic_open(readme) as file:
        file.write(f"{card}\n{PRIVACY}")


def facts_lines(facts: Mapping[str, str]) -> str:
    """Metadata as lines of a model card."""
    return "".join(
        f"- {name.replace('_', ' ').capitalize()}: {text}\n" for name, text in facts.items()
    )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    loggers = {logging.getLogger(name): level for name, level in LOG_LEVELS.items()}
    before = {logger: logger.level for logger in loggers}
    try:
        for logger, level in loggers.items():
            logger.setLevel(level)
        with warnings.catch_warnings():  # torch's, of what its own exporter calls
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
