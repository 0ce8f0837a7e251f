"""ONNX in, ONNX out: loading, layers, normal form and surgery. Never imports a runtime."""
