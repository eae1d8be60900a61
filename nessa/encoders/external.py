"""Weights that an ONNX file keeps in other files, as torch.onnx.export and large models do."""

from pathlib import Path

from nessa.errors import InputError


def external_files(path: Path) -> list[Path]:
    """The files that the initializers of an ONNX file name, sorted; none of what is no such file.

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
    outside = filter(uses_external_data, model.graph.initializer)
    return [path.parent / name for name in sorted({ExternalDataInfo(t).location for t in outside})]
