"""Production: stores mapped into a shared space, and networks exported as ONNX and verified."""

from nessa.production.export_aligner import export_aligner
from nessa.production.export_encoder import export_encoder

__all__ = ["export_aligner", "export_encoder"]
