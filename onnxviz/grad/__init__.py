"""Gradients of ONNX graphs as ONNX graphs. Never imports a runtime."""
