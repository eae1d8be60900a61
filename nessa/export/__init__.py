"""Networks for production: aligners and encoders as ONNX, checked before they are visible."""

from nessa.export.aligners import export_aligner
from nessa.export.encoders import export_encoder

__all__ = ["export_aligner", "export_encoder"]
