"""Names from a model, made fit for an error message."""

from __future__ import annotations

import onnx

from onnxviz.text import quoted

__all__ = ["label", "quoted"]


def label(node: onnx.NodeProto) -> str:
    """How a node is called in messages: its operator and its name, or its first output where it has none."""
    if node.name:
        return f"{quoted(node.op_type)} node {quoted(node.name)}"
    return f"{quoted(node.op_type)} node that makes {quoted(next(iter(node.output), ''))}"
