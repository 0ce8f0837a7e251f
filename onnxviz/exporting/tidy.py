"""Make a freshly exported model fit to be given away: no paths of the machine, no traces, simple operators."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxviz.exporting.names import SCOPES

# ONNX 1.15 and ONNX Runtime 1.17: what browsers and edge builds of the last years read.
MAX_IR_VERSION = 10


def tidy(model: ir.Model, name: str) -> None:
    """Strip, simplify and label `model` in place.

    - Stack traces, source paths and torch's own notes are removed from model, graph, nodes and values: they
      hold paths of the exporting machine. Only each node's module scopes stay.
    - A mean over height and width becomes GlobalAveragePool, which every runtime has a kernel for.
    - Sizes of inner values stay where they are plain numbers or names.
    - The graph is called `name`; the IR version is at most 10.
    """
    _strip(model.metadata_props)
    model.doc_string = None
    model.graph.name = name
    model.graph.doc_string = None
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        graph.metadata_props.clear()
        for value in graph.inputs:
            value.metadata_props.clear()
            value.doc_string = None
        for node in graph.all_nodes():
            _strip(node.metadata_props)
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
                value.doc_string = None
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
        if value.const_value is not None:
            value.const_value.metadata_props.clear()
    _global_pools(model.graph)
    _drop_unused(model)


def _strip(props: dict[str, str]) -> None:
    for key in [key for key in props if key != SCOPES and not key.startswith("onnxviz.")]:
        del props[key]


def _global_pools(graph: ir.Graph) -> None:
    """ReduceMean over exactly the last two of four axes, kept as size 1, is GlobalAveragePool."""
    for node in list(graph):
        if node.op_type != "ReduceMean" or node.domain not in ("", "ai.onnx"):
            continue
        data = node.inputs[0]
        if data is None or data.shape is None or len(data.shape) != 4 or not _keeps(node):
            continue
        axes = _axes(node)
        if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
            continue
        pool = ir.Node(
            "", "GlobalAveragePool", [data], num_outputs=1, metadata_props=dict(node.metadata_props)
        )
        old, new = node.outputs[0], pool.outputs[0]
        new.shape, new.type, new.name = old.shape, old.type, old.name
        graph.insert_before(node, pool)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _keeps(node: ir.Node) -> bool:
    keep = node.attributes.get("keepdims")
    return keep is None or keep.as_int() == 1


def _axes(node: ir.Node) -> list[int] | None:
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    if len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].const_value is not None:
        return [int(axis) for axis in np.ravel(node.inputs[1].const_value.numpy())]
    return None


def _drop_unused(model: ir.Model) -> None:
    """Nodes, initialisers and opset imports that nothing reads any more."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)
