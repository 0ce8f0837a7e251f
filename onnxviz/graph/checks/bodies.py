"""Whether the bodies of If, Loop and Scan take and give as many values as the node around them."""

from __future__ import annotations

from typing import Final

import onnx

from onnxviz.errors import ModelRejected
from onnxviz.graph.quoted import label

_OPERATORS: Final = ("If", "Loop", "Scan")


def check(node: onnx.NodeProto, opset: int) -> None:
    """Check a node of the standard domain, in this version of it. Operators that have no bodies pass.

    raises   ModelRejected, naming the node, the body, what it has and what was expected
    """
    if node.op_type not in _OPERATORS:
        return
    inputs, outputs = _expected(node, opset)
    for attribute in node.attribute:
        if attribute.type != onnx.AttributeProto.GRAPH:
            continue
        body = attribute.g
        for what, has, expected in (
            ("inputs", len(body.input), inputs),
            ("outputs", len(body.output), outputs),
        ):
            if expected is not None and has != expected:
                raise ModelRejected(
                    f"the {attribute.name} of the {label(node)} has {has} {what}; {expected} were expected, since the "
                    f"node has {len(node.input)} inputs and {len(node.output)} outputs"
                )


def _expected(node: onnx.NodeProto, opset: int) -> tuple[int | None, int]:
    """How many inputs (None: any number) and outputs each body has."""
    if node.op_type == "If":
        return 0, len(node.output)
    if (
        node.op_type == "Loop"
    ):  # trips and condition go in, the condition comes out; a state for each further input
        return max(2, len(node.input)), len(node.output) + 1
    # Before opset 9 the lengths of the sequences, or '', stood in front.
    return len(node.input) if opset > 8 else None, len(node.output)
