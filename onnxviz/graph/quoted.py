"""Names from a model, made fit for an error message."""

from __future__ import annotations

import onnx

from onnxviz.image.text import printable

_LONGEST = 80


def quoted(name: object) -> str:
    """`name` in quotation marks on one line, at most 80 characters, with nothing invisible in it."""
    return f"'{printable(str(name)[:1000], _LONGEST)}'"


def label(node: onnx.NodeProto) -> str:
    """How a node is called in messages: its operator and its name, or its first output where it has none."""
    if node.name:
        return f"{quoted(node.op_type)} node {quoted(node.name)}"
    return f"{quoted(node.op_type)} node that makes {quoted(next(iter(node.output), ''))}"
