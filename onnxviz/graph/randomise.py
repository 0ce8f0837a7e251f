"""The same network with random weights in some layers, for sanity checks of attributions.

Adebayo, Gilmer, Muelly, Goodfellow, Hardt & Kim 2018, "Sanity Checks for Saliency Maps", arXiv:1810.03292: a map that
stays the same when the weights are random does not explain what was learned.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxviz.errors import UnknownLayer, near
from onnxviz.graph.analysis.dataflow import constant, duplicate, weight
from onnxviz.graph.operators import operator


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
        rng = np.random.default_rng([seed, places[name]])
        for place in _places(found[name]):
            _redraw(copy.graph, found[name], place, f"{name}/random{place}", rng)
    return copy


def _weights(model: ir.Model) -> list[tuple[str, ir.Node]]:
    """(output name, node) of every node with constant float weights, in the order of computation."""
    return [
        (name, node)
        for node in model.graph
        if (name := next((y.name for y in node.outputs if y.name), None)) and any(_places(node))
    ]


def _places(node: ir.Node) -> list[int]:
    """Where the node has constant float weights."""
    places = operator(node.op_type).weights if not node.domain else ()
    stored = {place: constant(node.inputs[place]) for place in places if place < len(node.inputs)}
    return [place for place, one in stored.items() if one is not None and one.dtype.is_floating_point()]


def _redraw(graph: ir.Graph, node: ir.Node, place: int, name: str, rng: np.random.Generator) -> None:
    old = node.inputs[place]
    stored = constant(old)
    assert old is not None and stored is not None
    array = stored.numpy()
    drawn = rng.standard_normal(array.shape) * array.std(dtype=np.float64) + array.mean(dtype=np.float64)
    tensor = ir.tensor(drawn.astype(array.dtype), name=name)
    node.replace_input_with(place, weight(graph, tensor))  # one that two layers share stays for the other
    if not old.uses() and old.name in graph.initializers and not old.is_graph_input():
        graph.initializers.pop(old.name or "")
