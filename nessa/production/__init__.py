"""Production: stores mapped into a shared space, and networks exported as ONNX and verified."""
