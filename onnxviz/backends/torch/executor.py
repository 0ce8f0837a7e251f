"""Run an ONNX graph on torch, node by node."""

from __future__ import annotations

import time
from collections import ChainMap
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch

from onnxviz.backends.torch import operators
from onnxviz.backends.torch.bodies import Body, has_body, type_of, written_out
from onnxviz.backends.torch.table import CONTEXT, OPERATORS, CannotRun, Operator, Table, key
from onnxviz.backends.torch.tensors import from_numpy
from onnxviz.errors import SMALLER, LimitExceeded, ModelFailed, RuntimeFailed, UnsupportedOperator
from onnxviz.grad.backward import reads
from onnxviz.graph.analysis.dataflow import flat
from onnxviz.graph.rectifiers import rectifier

assert operators  # importing it fills the table

Values = MutableMapping[ir.Value, Any]


class Executor:
    """A callable from tensors to tensors, with autograd's record between them.

    model      in any opset; its functions are inlined, on a copy
    table      what the operators do (`variants.by_name`)
    precision  None: the types of the file; or a type that all floats of 32 and fewer bits take
    device     where torch computes
    leaves     values to be differentiated by, whether or not they depend on an input that is
    raises     UnsupportedOperator for an operator that torch has no function for
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        table: Table = OPERATORS,
        precision: torch.dtype | None = None,
        device: str = "cpu",
        leaves: Collection[ir.Value] = (),
    ) -> None:
        model = flat(model)
        self.graph = model.graph
        self._opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
        self._table = table
        self._precision = precision
        self._leaves = leaves
        self._done_with = _last_uses(self.graph)
        self._device = device
        self._constants: dict[ir.Value, torch.Tensor] = {}
        self._bodies: dict[tuple[Any, ...], Body] = {}
        if lacking := unknown(model, table):
            node = lacking[0]
            raise UnsupportedOperator(
                f"{_described(node)} has no torch function either: take a gradient that does not pass this layer"
            )

    def __call__(
        self,
        feeds: Mapping[str, torch.Tensor],
        *,
        deadline: float | None = None,
    ) -> dict[str, Any]:
        """The graph's outputs by name.

        deadline   on time.monotonic's clock
        raises     LimitExceeded past the deadline or out of memory, ModelFailed, UnsupportedOperator
        """
        values: Values = ChainMap({})
        for value in self.graph.inputs:
            if value.name is not None and value.name in feeds:
                values[value] = feeds[value.name]
        self._run(self.graph, values, self._opset, {}, deadline)
        return {value.name or "": self._value(value, values) for value in self.graph.outputs}

    # --- graphs ---------------------------------------------------------------------------------

    def _run(
        self, graph: Any, values: Values, opset: int, given: Mapping[str, Any], deadline: float | None
    ) -> None:
        """Every node of the graph (or function body) in its order.

        given   what a function's attributes are where it is called
        """
        for node in graph:
            if deadline is not None and time.monotonic() > deadline:
                raise LimitExceeded(
                    "the model was still running on torch at the limit; raise it with --limit run_seconds=…"
                )
            try:
                found = self._node(node, values, opset, given, deadline)
            except CannotRun as reason:
                raise UnsupportedOperator(f"{_described(node)} {reason}") from None
            except (LimitExceeded, RuntimeFailed, UnsupportedOperator):
                raise
            except Exception as error:  # torch raises what it likes
                raise typed(error, f"{_described(node)}: ") from error
            for value, result in zip(node.outputs, found, strict=False):
                leaf = value in self._leaves and not result.requires_grad
                values[value] = result.requires_grad_(True) if leaf else result
            for value in self._done_with.get(node, ()):
                values.pop(value, None)

    def _value(self, value: ir.Value | None, values: Values) -> Any:
        if value is None:
            return None
        if value in values:
            return values[value]
        if value not in self._constants:
            if value.const_value is None:
                raise RuntimeFailed(f"value {value.name!r} has no source in the graph")
            self._constants[value] = self._tensor(value.const_value.numpy())
        return self._constants[value]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        tensor = from_numpy(array, self._device)
        if self._precision is not None and tensor.is_floating_point():
            tensor = tensor.to(self._precision)
        return tensor

    def _node(
        self, node: ir.Node, values: Values, opset: int, given: Mapping[str, Any], deadline: float | None
    ) -> Sequence[Any]:
        inputs = [self._value(value, values) for value in node.inputs]
        attributes = {}
        for name, attribute in node.attributes.items():
            if attribute.ref_attr_name is None:
                attributes[name] = self._attribute(attribute)
            elif attribute.ref_attr_name in given:
                attributes[name] = given[attribute.ref_attr_name]
        row = self._table.get(key(node.op_type, node.domain))
        if row is None:
            return self._expand(node, inputs, attributes, opset, deadline)
        for name in attributes:
            if name not in row.names and not row.open:
                raise CannotRun(f"has an attribute that its torch function does not know, {name!r}")

        def run(graph: ir.Graph, arguments: Sequence[Any]) -> list[Any]:
            inner: Values = ChainMap({}, values)
            inner.update(zip(graph.inputs, arguments, strict=True))
            self._run(graph, inner, opset, given, deadline)
            return [self._value(value, inner) for value in graph.outputs]

        result = row.function(*inputs, **attributes, **self._context(row, node, opset, run))
        return result if isinstance(result, tuple) else (result,)

    @staticmethod
    def _context(row: Operator, node: ir.Node, opset: int, run: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in row.names & CONTEXT:
            if name == "opset":
                found[name] = opset
            elif name == "outputs":
                found[name] = max((i + 1 for i, y in enumerate(node.outputs) if y.name), default=1)
            elif name == "run":
                found[name] = run
            elif name == "rectifier":
                found[name] = rectifier(node)
            else:
                found[name] = _kind(node)
        return found

    def _attribute(self, attribute: ir.Attr) -> Any:
        if attribute.type == ir.AttributeType.TENSOR:
            return self._tensor(attribute.as_tensor().numpy())
        value = attribute.value
        return tuple(value) if isinstance(value, (list, tuple)) else value

    # --- operators that the standard writes out in others ---------------------------------------

    def _expand(
        self,
        node: ir.Node,
        inputs: Sequence[Any],
        attributes: Mapping[str, Any],
        opset: int,
        deadline: float | None,
    ) -> Sequence[Any]:
        """By the body that the standard gives the operator (Attention, RotaryEmbedding, AffineGrid ...)."""
        types = [type_of(x) for x in inputs]
        place = (id(node), *(t.SerializeToString() for t in types))
        if place not in self._bodies:
            self._bodies[place] = written_out(node, types, opset)
        body = self._bodies[place]
        values: Values = ChainMap({})
        padded = [*inputs, *[None] * (len(body.function.inputs) - len(inputs))]
        values.update(zip(body.function.inputs, padded, strict=True))
        self._run(body.function, values, body.opset, {**body.defaults, **attributes}, deadline)
        produced = {value.name: value for value in body.function.outputs}
        return [self._value(produced[name], values) if name in produced else None for name in body.outputs]


def _last_uses(graph: ir.Graph) -> dict[ir.Node, list[ir.Value]]:
    """Node -> the values that nothing reads after it, so that their memory can be given back."""
    seen = set(graph.outputs)
    found: dict[ir.Node, list[ir.Value]] = {}
    for node in reversed(list(graph)):
        found[node] = [v for v in dict.fromkeys((*reads(node), *node.outputs)) if v not in seen]
        seen.update(found[node])
    return found


def unknown(model: ir.Model, table: Table = OPERATORS) -> list[ir.Node]:
    """The nodes of the model, those of subgraphs included, that torch has no function for."""
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
    return [
        node
        for node in model.graph.all_nodes()
        if key(node.op_type, node.domain) not in table and not has_body(node, opset)
    ]


def knows(name: str) -> bool:
    """Whether torch can do the operator that the tables call so ('LSTM', 'com.microsoft::FusedConv')."""
    domain, _, op_type = name.rpartition("::")
    return name in OPERATORS or has_body(ir.Node(domain, op_type, []), onnx.defs.onnx_opset_version())


def typed(error: Exception, where: str = "", kind: type[RuntimeFailed] = ModelFailed) -> Exception:
    """torch's error as one of ours: of this kind, but where memory ended."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "not enough memory" in text:
        return LimitExceeded(f"the model ran out of memory ({text})" + SMALLER)
    return kind(f"torch could not run the model: {where}{text}")


def _described(node: ir.Node) -> str:
    layer = next((y.name for y in node.outputs if y.name), "?")
    return f"operator {key(node.op_type, node.domain)} (node {node.name or '?'!r}, layer {layer!r})"


# Where the zero point of the result stands, by which its type can be told.
_ZERO = {
    "QLinearConv": 7,
    "QLinearMatMul": 7,
    "QLinearAdd": 7,
    "QLinearMul": 7,
    "QGemm": 8,
    "QLinearConcat": 1,
}


def _kind(node: ir.Node) -> int:
    """The type that a quantiser gives: its zero point's, else what an attribute says, else uint8."""
    place = _ZERO.get(node.op_type, 4 if node.op_type.startswith("QLinear") else 2)
    zero = node.inputs[place] if len(node.inputs) > place else None
    if zero is not None and zero.const_value is not None:
        return int(zero.const_value.dtype)
    if zero is not None and zero.dtype is not None:
        return int(zero.dtype)
    attribute = node.attributes.get("output_dtype")
    if attribute is not None and attribute.as_int():
        return attribute.as_int()
    declared = node.outputs[0].dtype
    return int(ir.DataType.UINT8 if declared is None else declared)
