"""Gradients by torch: a small executor of ONNX graphs, and autograd. No other package of onnxviz computes with torch.

The fallback for operators that native gradients have no rule for (recurrent layers, loops), and the tests' oracle.
"""
