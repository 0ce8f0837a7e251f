"""Small repairs of a sound model, so that everything later meets one form. Each that changes anything is a warning.

Nothing here changes what the network computes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import onnx

from onnxviz.errors import ModelRejected
from onnxviz.graph.open.signatures import MICROSOFT, ML, is_operator, normal
from onnxviz.graph.open.structure import Structure
from onnxviz.graph.operators import computes
from onnxviz.graph.walk import LONGEST, graphs, label
from onnxviz.text import quoted

# From this IR version on weights need not be inputs as well.
_FREE_WEIGHTS: Final = 4


def tidy(model: onnx.ModelProto) -> list[str]:
    """Repair `model` in place, before its structure is checked; what was done.

    - weights and constants that are also inputs are inputs no more (the IR version rises to 4, which allows that);
    - a Constant node that has inputs has none: ONNX Runtime reads none of them;
    - of weights and Constant nodes with one name the last counts, as in ONNX Runtime, nodes after weights;
    - nodes of a graph that share a name get names of their own, since ONNX Runtime refuses them;
    - negative sizes in declared shapes mean unknown ones;
    - the domain ai.onnx is called '';
    - a function that has the name of an operator is never called, in ONNX Runtime neither: it goes;
    - an output that is listed twice is one, and one that is an input is of the input's type, as in ONNX Runtime.
    """
    warnings: list[str] = []
    for entry in model.opset_import:
        entry.domain = normal(entry.domain)
    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    weights |= set(_constants(model.graph).values())
    for graph in graphs(model):
        _constants_read_nothing(graph, warnings)
        _last_weight_counts(graph, warnings)
        _name_nodes(graph.node, warnings)
        _free_sizes(graph, warnings)
    _drop_shadowed(model, warnings)
    for function in model.functions:
        _name_nodes(function.node, warnings)
    kept = [value for value in model.graph.input if value.name not in weights]
    if len(kept) < len(model.graph.input):
        _replace(model.graph, "input", kept)
    model.ir_version = max(model.ir_version, _FREE_WEIGHTS)
    _without_maps(model.graph, warnings)
    _each_output_once(model.graph, warnings)
    inputs = {value.name: value for value in model.graph.input}
    for output in model.graph.output:
        if output.name in inputs:
            output.type.CopyFrom(inputs[output.name].type)
    _tell_of_long_texts(model.graph, warnings)
    return warnings


def _drop_shadowed(model: onnx.ModelProto, warnings: list[str]) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    kept = []
    for function in model.functions:
        domain = normal(function.domain)
        if is_operator(domain, function.name, versions.get(domain, 1)):
            what = (
                f"the function {quoted(function.name)} has the name of an operator of {domain or 'ai.onnx'}"
            )
            warnings.append(f"{what}: the operator counts, as in ONNX Runtime")
        else:
            kept.append(function)
    if len(kept) < len(model.functions):
        _replace(model, "functions", kept)


def _tell_of_long_texts(graph: onnx.GraphProto, warnings: list[str]) -> None:
    long = sum(node.ByteSize() > LONGEST and _is_wordy(node) for node in graph.node)
    if long:
        warnings.append(
            f"names or metadata of {long} nodes have over {LONGEST} characters: no module path is read from them"
        )


def _is_wordy(node: onnx.NodeProto) -> bool:
    return max(len(node.name), *(len(entry.value) for entry in node.metadata_props), 0) > LONGEST


def complete(model: onnx.ModelProto, structure: Structure) -> None:
    """Import com.microsoft where it is used without: ONNX Runtime does not mind, the checker does."""
    if structure.microsoft and MICROSOFT not in structure.opsets:
        model.opset_import.add(domain=MICROSOFT, version=1)


def _constants(graph: onnx.GraphProto) -> dict[int, str]:
    """What the Constant nodes of a graph make, by their places; ONNX Runtime takes them for weights."""
    return {
        place: node.output[0]
        for place, node in enumerate(graph.node)
        if computes(node.op_type) == "constant" and not normal(node.domain) and len(node.output) == 1
    }


def _constants_read_nothing(graph: onnx.GraphProto, warnings: list[str]) -> None:
    for place in _constants(graph):
        if graph.node[place].input:
            warnings.append(f"the {label(graph.node[place])} has inputs, of which a constant reads none")
            del graph.node[place].input[:]


def _last_weight_counts(graph: onnx.GraphProto, warnings: list[str]) -> None:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    constants = _constants(graph)
    last = {name: place for place, name in constants.items()}
    again = {place for place, name in constants.items() if last[name] != place}
    shadowed = tensors.keys() & last.keys()
    surplus = len(graph.initializer) - len(tensors) + len(again) + len(shadowed)
    if not surplus:
        return
    if again:
        _replace(graph, "node", [node for place, node in enumerate(graph.node) if place not in again])
    _replace(graph, "initializer", [tensor for name, tensor in tensors.items() if name not in shadowed])
    warnings.append(f"{surplus} weights have the name of another one; the last of a name counts")


def _replace(graph: onnx.GraphProto | onnx.ModelProto, field: str, entries: Iterable[Any]) -> None:
    """Let the repeated `field` hold copies of `entries`, which may be some of its own."""
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    graph.ClearField(field)
    getattr(graph, field).extend(copies)


def _name_nodes(nodes: Iterable[onnx.NodeProto], warnings: list[str]) -> None:
    taken = {node.name for node in nodes}
    seen: set[str] = set()
    numbers: Counter[str] = Counter()
    for node in nodes:
        if node.name and node.name in seen:
            base = node.name
            while node.name in taken:
                numbers[base] += 1
                node.name = f"{base}_{numbers[base]}"
            taken.add(node.name)
        seen.add(node.name)
    if numbers:
        warnings.append("several nodes have one name; all but the first were renamed")


def _free_sizes(graph: onnx.GraphProto, warnings: list[str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.ClearField("dim_value")
                text = "negative sizes in declared shapes are taken as unknown"
                if text not in warnings:
                    warnings.append(text)


def _each_output_once(graph: onnx.GraphProto, warnings: list[str]) -> None:
    once = {value.name: value for value in reversed(graph.output)}
    if len(once) < len(graph.output):
        _replace(graph, "output", reversed(once.values()))
        warnings.append("an output that is listed more than once is taken once")


def _without_maps(graph: onnx.GraphProto, warnings: list[str]) -> None:
    """Classifiers of Azure's and scikit-learn's making end in ZipMap: a list of {label: score}, which is no tensor.

    The scores in front of it become the output instead; ONNX Runtime drops the node that nothing reads any more.
    """
    maps = {value.name: value for value in graph.output if _is_map(value.type)}
    if not maps:
        return
    declared = {info.name: info for info in graph.value_info}
    makers = {name: node for node in graph.node for name in node.output if name in maps}
    for name in maps:
        node = makers.get(name)
        if node is None or node.op_type != "ZipMap" or normal(node.domain) != ML or not node.input:
            raise ModelRejected(
                f"the output {quoted(name)} is a map, not a tensor; export the model without it"
            )
    outputs = {value.name for value in graph.output}
    kept = []
    for output in graph.output:
        value = output
        if value.name in maps:
            scores = makers[value.name].input[0]
            warnings.append(
                f"the output {quoted(value.name)} is a map of labels to scores; "
                f"the scores {quoted(scores)} stand in for it"
            )
            if scores in outputs:
                continue
            value = declared.get(scores) or onnx.helper.make_tensor_value_info(
                scores, onnx.TensorProto.FLOAT, None
            )
            outputs.add(scores)
        kept.append(value)
    _replace(graph, "output", kept)
    _replace(graph, "value_info", [info for info in graph.value_info if not _is_map(info.type)])


def _is_map(kind: onnx.TypeProto) -> bool:
    while kind.HasField("sequence_type") or kind.HasField("optional_type"):
        kind = (
            kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind.optional_type.elem_type
        )
    return kind.HasField("map_type")
