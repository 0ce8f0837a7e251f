"""What is certain to be in memory at one time.

Each tensor of a model may be within its limit, and eight of them together beyond what the machine has. ONNX Runtime
runs nodes in an order of its own, so only what the graph itself forces counts: while a node runs, a value is there that
was made by one of its ancestors and is read by it or by one of its descendants. Results that share memory with what
they are made of count once, as do nodes that do the same; open sizes count as 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnx
import onnx_ir as ir

from onnxviz.graph.open.known import Known
from onnxviz.graph.operators import RENAMING
from onnxviz.graph.walk import label
from onnxviz.isolate import machine_memory
from onnxviz.limits import Limits, exceeded

_WIDEST: Final = 16  # bytes of an element
_ANYWHERE: Final = 2**28  # bytes that every machine has
# What is smaller than this part of the memory is not counted.
_LARGE: Final = 128


def check(graph: onnx.GraphProto, known: Mapping[str, Known], limits: Limits) -> None:
    """Refuse a graph that needs more memory at one time than there is.

    known    what is certain about its values, by name
    raises   LimitExceeded
    """
    made = {name: one.least for name, one in known.items() if not one.constant}
    most = sum(made.values()) * _WIDEST
    if limits.memory is None and most < _ANYWHERE:
        return
    allowed = limits.memory if limits.memory is not None else machine_memory()
    if most <= allowed:
        return
    roots = _roots(graph)
    large: dict[str, tuple[int, int]] = {}  # its bit, its bytes
    for name, elements in made.items():
        size = elements * _width(known[name].dtype)
        if roots.get(name, name) == name and size * _LARGE > allowed:
            large[name] = 1 << len(large), size
    if sum(size for _, size in large.values()) <= allowed:
        return
    for node, bits in _alive(graph, roots, {name: bit for name, (bit, _) in large.items()}):
        sizes = [size for bit, size in large.values() if bit & bits]
        # One alone is what `tensor_elements` is for: who raised that one has meant it.
        if sum(sizes) > allowed and (len(sizes) > 1 or limits.memory is not None):
            where = f"at the {label(node)}" if node is not None else "at its outputs"
            what = f"{where}, {len(sizes)} tensors of {sum(sizes)} bytes together are in memory"
            raise exceeded("memory", what, allowed, sum(sizes))


def _alive(
    graph: onnx.GraphProto, roots: Mapping[str, str], bits: Mapping[str, int]
) -> list[tuple[onnx.NodeProto | None, int]]:
    """The large values that are there while each node runs, and at the end (None), as bits."""
    before: dict[str, int] = {}  # of a value: itself, and what was made on the way to it
    given: list[int] = []
    for node in graph.node:
        ancestors = 0
        for name in _reads(node):
            ancestors |= before.get(name, bits.get(roots.get(name, name), 0))
        given.append(ancestors)
        for name in node.output:
            before[name] = ancestors | bits.get(roots.get(name, name), 0)
    ends = [value.name for value in graph.output]
    last = 0
    after: dict[str, int] = {}  # of a value: what its readers and their descendants read
    for name in ends:
        last |= bits.get(roots.get(name, name), 0)
    for name in ends:
        after[name] = last
    found: list[tuple[onnx.NodeProto | None, int]] = [(None, last)]
    for node, ancestors in zip(reversed(graph.node), reversed(given), strict=True):
        needed = 0
        for name in node.output:
            needed |= after.get(name, 0)
        for name in _reads(node):
            needed |= bits.get(roots.get(name, name), 0)
        found.append((node, ancestors & needed))
        for name in _reads(node):
            after[name] = after.get(name, 0) | needed
    return found


def _reads(node: onnx.NodeProto) -> list[str]:
    return [name for name in node.input if name]


def _roots(graph: onnx.GraphProto) -> dict[str, str]:
    """Of each value that shares memory with one made before, or equals it: that one."""
    roots: dict[str, str] = {}
    same: dict[tuple[object, ...], str] = {}
    for node in graph.node:
        inputs = tuple(roots.get(name, name) for name in node.input)
        if node.op_type in RENAMING and inputs:
            roots[node.output[0]] = inputs[0]
            continue
        attributes = tuple(sorted(one.SerializeToString(deterministic=True) for one in node.attribute))
        for place, name in enumerate(node.output):
            if name:
                key = (node.domain, node.op_type, inputs, attributes, place)
                roots[name] = same.setdefault(key, name)
    return roots


def _width(dtype: int | None) -> int:
    """Bytes of an element, as far as they are certain."""
    try:
        return max(1, ir.DataType(dtype or 0).bitwidth // 8)
    except (TypeError, ValueError):  # text, and what is not known
        return 1
