"""ONNX's own shape inference as a check: what it finds wrong when it is strict, ONNX Runtime refuses when it loads.

It is native code. What makes it crash or hang is refused before (`graph.checks.operators`, `operands`, `static`), and
it is announced (`runtime.isolate.region`) for whoever guards this process. 3 ms for a network of 400 nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import onnx

from onnxviz.errors import ModelRejected
from onnxviz.graph import walk
from onnxviz.graph.quoted import label
from onnxviz.graph.shapes import hide_unguarded
from onnxviz.runtime.isolate import region
from onnxviz.text import printable

Lookup = Callable[[onnx.TensorProto], np.ndarray | None]

# Which elements inference reads: of shapes, axes, scales.
_READ: Final = frozenset({np.dtype(kind) for kind in (np.int32, np.int64, np.float32, np.float64, np.bool_)})
# Where it is wrong and ONNX Runtime runs the node: two values of one Constant, of which it takes one; a type that
# nothing depends on; a function of ONNX's own whose body its inference does not understand; vectors of one number.
_WRONG_ABOUT: Final = frozenset({"Constant", "LayerNormalization", "MeanVarianceNormalization", "Range"})
# What a file only says of a value; whoever runs it will tell.
_DECLARED: Final = "differs from existing elem type"
_NODE: Final = re.compile(r"\(op_type:([^,)]*)(?:, node name: #(\d+))?\): ")
_LONGEST: Final = 400


def check(model: onnx.ModelProto, lookup: Lookup) -> None:
    """Refuse a model that contradicts itself, as far as its shapes and types tell.

    model    as `graph.weights` collected it: with marks for its weights
    lookup   the elements of a small tensor of it, None for others
    raises   ModelRejected naming the node
    """
    outline = onnx.ModelProto()
    outline.CopyFrom(model)
    for place, node in enumerate(_nodes(outline)):
        node.name = f"#{place}"
    hide_unguarded(_nodes(outline))
    for graph in walk.graphs(outline):
        _undeclare(graph)
    for holder, what in walk.places(outline):
        for tensor, _ in walk.tensors(holder, what):
            value = lookup(tensor)
            if value is not None and value.dtype in _READ:
                tensor.raw_data = value.tobytes()
    try:
        with region("inferring shapes"):
            onnx.shape_inference.infer_shapes(outline, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # it has no error of its own for what its C++ throws
        _judge(str(error), model)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for body in (*walk.graphs(model), *model.functions):
        yield from body.node


def _undeclare(graph: onnx.GraphProto) -> None:
    """Drop what the file claims about the shapes of computed values: exporters leave stale ones, and nobody minds."""
    for value in (*graph.value_info, *graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")


def _judge(message: str, model: onnx.ModelProto) -> None:
    """Refuse the model for the first error that is one for ONNX Runtime too.

    message   with the places of the file's nodes as their names; those of ONNX's own functions are not numbered
    """
    nodes = list(_nodes(model))
    parts = _NODE.split(message)  # what is before, then (operator, place, text) each
    blamed: onnx.NodeProto | None = None
    for place, text in zip(parts[2::3], parts[3::3], strict=True):
        if place is not None:
            blamed = nodes[int(place)]
        reason = text.replace("[ShapeInferenceError]", "").replace("[TypeInferenceError]", "").strip()
        if blamed is None or blamed.op_type in _WRONG_ABOUT or _DECLARED in reason:
            continue
        if not reason.removeprefix("Inference error(s):").strip():  # of what lies within
            continue
        raise ModelRejected(f"the {label(blamed)} does not fit its inputs: {printable(reason, _LONGEST)}")
