"""Torch networks as ONNX files that explain themselves: the parts behind `onnxviz.export`."""
