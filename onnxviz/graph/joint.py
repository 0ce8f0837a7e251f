"""One graph put together of the operators of several models, which need not agree in names, opsets or weights.

    joint = Joint(a, b)
    known = {a_input: joint.tape.input(...)}
    joint.put([a_value], known)        copies what a_value needs behind what is known already

`known` says which value of a model is which of the joint graph; who hands in a value under another's name has put it
in its place. Weights are shared with the models, and these are never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import reads, subgraphs
from onnxviz.graph.tape import Tape

Known = dict[ir.Value, ir.Value]
"""Values of a model and the values of the joint graph that stand for them."""
Instead = Callable[[ir.Node, Known], bool]
"""Writes a node's results in its own way and says so by True; False: the node is copied."""


class Joint:
    """The graph, and what puts operators into it.

    models   in one opset where they share operators (graph/lift.py); functions inlined, nodes in order
    """

    def __init__(self, *models: ir.Model) -> None:
        opsets: dict[str, int] = {}
        for model in models:
            for domain, version in model.opset_imports.items():
                opsets[domain] = max(version, opsets.get(domain, 0))
        graph = ir.Graph([], [], nodes=[], opset_imports=opsets, name="joint")
        self.model = ir.Model(graph, ir_version=max(model.ir_version or 0 for model in models))
        self.tape = Tape(graph, stem="joint")
        self._places = {node: place for model in models for place, node in enumerate(model.graph)}
        self._weights: Known = {}

    def put(self, wanted: Sequence[ir.Value], known: Known, instead: Instead | None = None) -> list[ir.Value]:
        """Copy what these values of a model need and the graph has not; the values that stand for them.

        known    gets what is copied
        instead  may write a node in another way
        """
        for node in self._needed(wanted, known):
            if instead is None or not instead(node, known):
                self._copy(node, known)
        return [self.value(value, known) for value in wanted]

    def value(self, value: ir.Value, known: Known) -> ir.Value:
        """What stands for this value of a model: known, or a weight."""
        if value in known:
            return known[value]
        if value not in self._weights:
            tensor = value.const_value
            if tensor is None:
                raise ModelUnsuitable(
                    f"the model needs its input {value.name!r} too, and only pictures are given"
                )
            name = self.tape.fresh(value.name or "weight")
            made = ir.Value(
                name=name, shape=value.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            self.model.graph.register_initializer(made)
            self._weights[value] = made
        return self._weights[value]

    def _needed(self, wanted: Iterable[ir.Value], known: Mapping[ir.Value, ir.Value]) -> list[ir.Node]:
        found = behind(wanted, known)
        return sorted(found, key=self._places.__getitem__)

    def _copy(self, node: ir.Node, known: Known) -> None:
        inputs = [None if value is None else self.value(value, known) for value in node.inputs]
        made = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            list(self._attributes(node, known)),
            overload=node.overload,
            num_outputs=len(node.outputs),
            name=self.tape.fresh(node.name or node.op_type),
        )
        for old, new in zip(node.outputs, made.outputs, strict=True):
            if old.name:  # an output without a name is left out
                new.name = self.tape.fresh(old.name)
            known.setdefault(old, new)
        self.model.graph.append(made)

    def _attributes(self, node: ir.Node, known: Known) -> Iterator[ir.Attr]:
        outer = {value: self.value(value, known) for value in reads(node)} if subgraphs(node) else {}
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield ir.AttrGraph(attribute.name, _body(attribute.as_graph(), outer))
            elif attribute.type == ir.AttributeType.GRAPHS:
                yield ir.AttrGraphs(attribute.name, [_body(graph, outer) for graph in attribute.as_graphs()])
            else:
                yield attribute


def behind(wanted: Iterable[ir.Value], known: Mapping[ir.Value, object]) -> set[ir.Node]:
    """The nodes that these values need behind what is known."""
    found: set[ir.Node] = set()
    todo = list(wanted)
    while todo:
        value = todo.pop()
        node = value.producer()
        if node is None or node in found or value in known:
            continue
        found.add(node)
        todo += reads(node)
    return found


def _body(graph: ir.Graph, outer: Mapping[ir.Value, ir.Value]) -> ir.Graph:
    """A copy of a body that reads other values from outside."""
    copy = graph.clone(allow_outer_scope_values=True)
    _rewire(copy, outer)
    return copy


def _rewire(graph: ir.Graph, outer: Mapping[ir.Value, ir.Value]) -> None:
    for node in graph:
        for place, value in enumerate(node.inputs):
            if value is not None and value in outer:
                node.replace_input_with(place, outer[value])
        for body in subgraphs(node):
            _rewire(body, outer)
    for place, value in enumerate(graph.outputs):
        if value is not None and value in outer:
            graph.outputs[place] = outer[value]
