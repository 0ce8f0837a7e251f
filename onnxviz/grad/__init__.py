"""Gradients of ONNX graphs as ONNX graphs. Never imports a runtime.

`model.gradient_model` and `model.value_and_gradient` are the entry points, `overrides` the backprop variants, `support`
tells which operators have rules.
"""
