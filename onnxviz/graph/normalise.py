"""Bring any model into the form that gradients are taken in.

Ensures, on a copy that shares the weights: opset 18 or later; no functions, of the model or of the standard
(Attention); no fused operators of com.microsoft; rectifiers are Relu or Clip; constants are initialisers; operands
that are one number have rank 0; an If with a constant condition replaced by its branch; no Dropout; BatchNormalization
folded into the convolution before it; explicit pads, and lengths that every reader counts alike; half precision
computed in float32; QOperator forms as QuantizeLinear/DequantizeLinear; shapes inferred as far as they go. Graph inputs
and outputs keep their names, shapes and types, and the outputs their values. Whatever intermediate value somebody wants
must be a graph output before.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from onnxviz.errors import ModelRejected
from onnxviz.graph import canonical, fold, fused, half, lift, padding, quantised, resizing
from onnxviz.graph.analysis.dataflow import clone, inline, prune
from onnxviz.graph.naming import name_nodes
from onnxviz.graph.shapes import infer


def normalise(model: ir.Model) -> ir.Model:
    """The model in normal form (see above); the given one is left as it is.

    raises   ModelUnsuitable for an opset under 7, or a form that cannot be lifted; ModelRejected for a broken graph
    """
    model = clone(model)
    declared = {value.name: (value.type, value.shape) for value in model.graph.outputs}
    try:
        inline(model)
        common.RemoveInitializersFromInputsPass()(model)
    except (ValueError, RuntimeError, ir.passes.PassError) as reason:
        raise ModelRejected(f"the model's functions cannot be inlined: {reason}") from reason
    name_nodes(model.graph)
    fold.constants(model)
    infer(model)
    fused.split(model)
    canonical.scalars(model)
    lift.lift(model)
    fused.expand(model)
    fold.branches(model)
    fold.constants(model)
    fold.shapes(model)
    fold.dropout(model)
    quantised.as_qdq(model)
    # Before IR version 4 every initialiser had to be a graph input too; opset 18 came with 8, opset 21 with 10.
    model.ir_version = max(model.ir_version, 10 if model.opset_imports[""] >= 21 else 8)
    infer(model)
    while fold.lengths(model):
        fold.branches(model)
        infer(model)
    canonical.rectifiers(model)
    half.widen(model)
    fold.batch_norms(model)
    padding.explicit(model)
    resizing.exact(model)
    prune(model)
    infer(model)
    for value in model.graph.outputs:
        kind, shape = declared[value.name]
        if value.type is None:
            value.type = kind
        if value.shape is None:
            value.shape = shape
    return model
