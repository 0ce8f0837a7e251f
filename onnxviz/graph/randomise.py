"""The same network with random weights in some layers, for sanity checks of attributions.

Adebayo, Gilmer, Muelly, Goodfellow, Hardt & Kim 2018, "Sanity Checks for Saliency Maps", arXiv:1810.03292: a map that
stays the same when the weights are random does not explain what was learned.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxviz.errors import UnknownLayer, near
from onnxviz.graph.analysis.dataflow import constant, duplicate
from onnxviz.graph.operators import WEIGHTED


def weighted(model: ir.Model) -> list[str]:
    """The layers whose weights can be randomised, from the output (the head) down to the input."""
    return [name for name, _ in _weights(model)][::-1]


def randomise(model: ir.Model, layers: Iterable[str] | None = None, *, seed: int = 0) -> ir.Model:
    """A copy whose weights in these layers are random, with the mean and deviation of the trained ones.

    Biases stay as they are: a batch normalisation folded into a layer is in them. What is drawn for a layer depends
    on the seed and the layer's place in the network, not on which others are drawn.

    layers   names as `weighted` gives them: its first k for cascading randomisation from the head down, or a single
             one; None: all
    raises   UnknownLayer
    """
    copy = duplicate(model)
    found = dict(_weights(copy))
    wanted = list(found) if layers is None else list(layers)
    for name in wanted:
        if name not in found:
            raise UnknownLayer(f"no layer with weights is called {name!r}{near(name, found)}")
    places = {name: number for number, name in enumerate(found)}
    for name in dict.fromkeys(wanted):
        _redraw(copy.graph, found[name], np.random.default_rng([seed, places[name]]))
    return copy


def _weights(model: ir.Model) -> list[tuple[str, ir.Node]]:
    """(output name, node) of every node with constant float weights, in the order of computation."""
    found = []
    for node in model.graph:
        if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx"):
            continue
        tensor = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        if tensor is not None and tensor.dtype.is_floating_point() and node.outputs[0].name:
            found.append((node.outputs[0].name, node))
    return found


def _redraw(graph: ir.Graph, node: ir.Node, rng: np.random.Generator) -> None:
    old = node.inputs[1]
    stored = constant(old)
    assert old is not None and stored is not None
    array = stored.numpy()
    drawn = rng.standard_normal(array.shape) * array.std(dtype=np.float64) + array.mean(dtype=np.float64)
    tensor = ir.tensor(drawn.astype(array.dtype), name=f"{node.outputs[0].name}/random")
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    node.replace_input_with(1, value)  # a weight that two layers share stays as it is for the other
    if not old.uses() and old.name in graph.initializers and not old.is_graph_input():
        graph.initializers.pop(old.name or "")
