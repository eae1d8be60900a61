"""ONNX files of the form that WeSpeaker and 3D-Speaker export, with weights made up here."""

from pathlib import Path

import torch


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
