"""Weights that an ONNX file keeps in other files, as torch.onnx.export and large models do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nessa.errors import InputError


def external_files(path: Path) -> list[Path]:
    """The files that the tensors of an ONNX file name, sorted; none of what is no such file.

    Raises:
        InputError: the package onnx is missing.
    """
    try:
        import onnx
        from onnx.external_data_helper import ExternalDataInfo, uses_external_data
    except ImportError:
        raise InputError("ONNX models need onnx: pip install 'nessa[onnx]'") from None
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's own types; who runs the model will say what is wrong
        return []
    tensors = (tensor for graph in (model.graph, *model.functions) for tensor in _tensors(graph))
    outside = {ExternalDataInfo(tensor).location for tensor in filter(uses_external_data, tensors)}
    return [path.parent / name for name in sorted(outside)]


def _tensors(graph: Any) -> Iterator[Any]:
    """All of a graph or function, of its constants too, and of the graphs within If and Loop."""
    yield from getattr(graph, "initializer", ())  # a function has none
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)
