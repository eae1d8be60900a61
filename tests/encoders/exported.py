"""ONNX files of the form that WeSpeaker and 3D-Speaker export, with weights made up here."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper


def save_network(path: Path, dim: int, names: tuple[str, str]) -> torch.nn.Module:
    """A small network from features (B, T, 80) to (B, dim), saved as the toolkits export theirs."""
    torch.manual_seed(5)
    network = torch.nn.Sequential(
        torch.nn.Conv1d(80, 16, 5), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool1d(1),
        torch.nn.Flatten(), torch.nn.Linear(16, dim),
    ).eval()  # fmt: skip

    class Transposed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x.transpose(1, 2))

    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("frames", min=10)}
    torch.onnx.export(
        Transposed(), (torch.randn(2, 200, 80),), path, dynamo=True, dynamic_shapes=(axes,),
        input_names=[names[0]], output_names=[names[1]], external_data=False,
    )  # fmt: skip
    return Transposed().eval()


def save_external(path: Path, bias: float) -> Path:
    """The mean of features (B, T, 80) over time and a bias, whose values lie in `path`.data."""
    values = {"axes": np.array([1]), "bias": np.full(80, bias, np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["feats", "axes"], ["mean"], keepdims=0),
            helper.make_node("Add", ["mean", "bias"], ["embs"]),
        ],
        "g",
        [helper.make_tensor_value_info("feats", TensorProto.FLOAT, [None, None, 80])],
        [helper.make_tensor_value_info("embs", TensorProto.FLOAT, [None, None])],
        initializer=[numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    data = Path(f"{path}.data")
    data.unlink(missing_ok=True)  # which would grow
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=100)
    return path


def save_plain(path: Path, metadata: dict[str, str]) -> Path:
    """The mean size of features (B, T, 80) over time: (B, 80)."""
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        [
            helper.make_node("Abs", ["feats"], ["sizes"]),
            helper.make_node("ReduceMean", ["sizes", "axes"], ["embs"], keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("feats", TensorProto.FLOAT, [None, None, 80])],
        [helper.make_tensor_value_info("embs", TensorProto.FLOAT, [None, None])],
        initializer=[axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path
