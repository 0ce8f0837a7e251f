"""Walks over a parsed model: its subgraphs, and every place where tensors can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import onnx

from onnxviz.text import quoted

#: Characters of a name or an entry that a module path is read from.
LONGEST: Final = 10_000
_Attribute = onnx.AttributeProto
_HOLDERS: Final = frozenset(
    {
        _Attribute.TENSOR,
        _Attribute.TENSORS,
        _Attribute.SPARSE_TENSOR,
        _Attribute.SPARSE_TENSORS,
        _Attribute.GRAPH,
        _Attribute.GRAPHS,
    }
)
#: Where tensors can be: a graph (its weights) or an attribute of a node, and what it is called in messages.
Place = tuple[onnx.GraphProto | onnx.AttributeProto, str]


def subgraphs(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    """The graphs in one attribute; mostly none. One that refers to its function's attribute has nothing of its own."""
    if attribute.ref_attr_name:
        return ()
    if attribute.type == _Attribute.GRAPH:
        return (attribute.g,)
    return attribute.graphs if attribute.type == _Attribute.GRAPHS else ()


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and every subgraph, those in functions too."""
    yield model.graph
    for body in (model.graph, *model.functions):
        yield from _below(body.node)


def _below(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            for graph in subgraphs(attribute):
                yield graph
                yield from _below(graph.node)


def places(model: onnx.ModelProto) -> Iterator[Place]:
    """Every graph, and every attribute of a node that may hold tensors, in subgraphs and functions too."""
    yield from _in_graph(model.graph)
    for function in model.functions:
        for attribute in function.attribute_proto:
            yield from _in_attribute(attribute, f"a default of the function {quoted(function.name)}")
        for node in function.node:
            yield from _in_node(node)


def _in_graph(graph: onnx.GraphProto) -> Iterator[Place]:
    yield graph, "the weight"
    for node in graph.node:
        yield from _in_node(node)


def _in_node(node: onnx.NodeProto) -> Iterator[Place]:
    for attribute in node.attribute:
        if attribute.type in _HOLDERS and not attribute.ref_attr_name:
            yield from _in_attribute(attribute, f"{quoted(attribute.name)} of the {label(node)}")


def _in_attribute(attribute: onnx.AttributeProto, what: str) -> Iterator[Place]:
    yield attribute, what
    for graph in subgraphs(attribute):
        yield from _in_graph(graph)


def tensors(
    place: onnx.GraphProto | onnx.AttributeProto, what: str
) -> Iterator[tuple[onnx.TensorProto, str]]:
    """The dense tensors that lie in one place itself, with what each is called in messages."""
    if isinstance(place, onnx.GraphProto):
        for tensor in place.initializer:
            yield tensor, f"{what} {quoted(tensor.name)}"
    elif place.type == _Attribute.TENSOR:
        yield place.t, what
    elif place.type == _Attribute.TENSORS:
        for tensor in place.tensors:
            yield tensor, what


__all__ = ["label", "quoted"]


def label(node: onnx.NodeProto) -> str:
    """How a node is called in messages: its operator and its name, or its first output where it has none."""
    if node.name:
        return f"{quoted(node.op_type)} node {quoted(node.name)}"
    return f"{quoted(node.op_type)} node that makes {quoted(next(iter(node.output), ''))}"
