"""What computes gradients: the native ONNX graph on ONNX Runtime, torch, or ONNX Runtime's training build."""
