"""Run an ONNX graph in normal form (graph/normalise.py) on torch, node by node."""

from __future__ import annotations

import time
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from onnxviz.backends.torch import activation, control, elementwise, layers, movement, sampling
from onnxviz.backends.torch.table import CONTEXT, OPERATORS, CannotRun, Table, from_numpy, taken
from onnxviz.errors import SMALLER, LimitExceeded, ModelFailed, RuntimeFailed, UnsupportedOperator
from onnxviz.grad.table import key
from onnxviz.graph.analysis.dataflow import reads
from onnxviz.graph.rectifiers import rectifier

assert all((activation, control, elementwise, layers, movement, sampling))  # importing them fills the table

Values = MutableMapping[ir.Value, Any]


class Executor:
    """A callable from tensors to tensors, with autograd's record between them.

    model      in normal form
    table      what the operators do (`activation.by_name`)
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
        self.graph = model.graph
        self._table = table
        self._precision = precision
        self._leaves = leaves
        self._done_with = _last_uses(self.graph)
        self._device = device
        self._constants: dict[ir.Value, torch.Tensor] = {}
        for node in self.graph.all_nodes():
            if key(node.op_type, node.domain) not in table:
                raise UnsupportedOperator(
                    f"{_described(node)} has no torch function either: take a gradient that does not pass this layer"
                )

    def __call__(self, feeds: Mapping[str, torch.Tensor], *, deadline: float | None = None) -> dict[str, Any]:
        """The graph's outputs by name.

        deadline   on time.monotonic's clock
        raises     LimitExceeded past the deadline or out of memory, ModelFailed, UnsupportedOperator
        """
        values: Values = ChainMap({})
        for value in self.graph.inputs:
            if value.name is not None and value.name in feeds:
                values[value] = feeds[value.name]
        self._run(self.graph, values, deadline)
        return {value.name or "": self._value(value, values) for value in self.graph.outputs}

    def _run(self, graph: ir.Graph, values: Values, deadline: float | None) -> None:
        """Every node of the graph in its order."""
        for node in graph:
            if deadline is not None and time.monotonic() > deadline:
                raise LimitExceeded(
                    "the model was still running on torch at the limit; raise it with --limit run_seconds=…"
                )
            try:
                found = self._node(node, values, deadline)
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

    def _node(self, node: ir.Node, values: Values, deadline: float | None) -> Sequence[Any]:
        inputs = [self._value(value, values) for value in node.inputs]
        attributes = {name: self._attribute(attribute) for name, attribute in node.attributes.items()}
        function = self._table[key(node.op_type, node.domain)]
        for name in attributes:
            if name not in taken(function):
                raise CannotRun(f"has an attribute that its torch function does not know, {name!r}")

        def run(graph: ir.Graph, arguments: Sequence[Any]) -> list[Any]:
            inner: Values = ChainMap({}, values)
            inner.update(zip(graph.inputs, arguments, strict=True))
            self._run(graph, inner, deadline)
            return [self._value(value, inner) for value in graph.outputs]

        known = {name: _KNOWN[name](node) if name in _KNOWN else run for name in taken(function) & CONTEXT}
        result = function(*inputs, **attributes, **known)
        return result if isinstance(result, tuple) else (result,)

    def _attribute(self, attribute: ir.Attr) -> Any:
        if attribute.type == ir.AttributeType.TENSOR:
            return self._tensor(attribute.as_tensor().numpy())
        value = attribute.value
        return tuple(value) if isinstance(value, (list, tuple)) else value


def _kind(node: ir.Node) -> int:
    """The type that a quantiser gives: its zero point's, else what an attribute says, else uint8."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None and zero.dtype is not None:
        return int(zero.dtype)
    declared = node.attributes.get_int("output_dtype", 0) or node.outputs[0].dtype
    return int(declared or ir.DataType.UINT8)


# What a function wants to know about its node, by the names in `CONTEXT`; but for `run`.
_KNOWN: dict[str, Callable[[ir.Node], Any]] = {
    "outputs": lambda node: max((i + 1 for i, y in enumerate(node.outputs) if y.name), default=1),
    "kind": _kind,
    "rectifier": rectifier,
}


def _last_uses(graph: ir.Graph) -> dict[ir.Node, list[ir.Value]]:
    """Node -> the values that nothing reads after it, so that their memory can be given back."""
    seen = set(graph.outputs)
    found: dict[ir.Node, list[ir.Value]] = {}
    for node in reversed(list(graph)):
        found[node] = [v for v in dict.fromkeys((*reads(node), *node.outputs)) if v not in seen]
        seen.update(found[node])
    return found


def knows(name: str) -> bool:
    """Whether torch can do the operator that the tables call so ('LSTM', 'com.microsoft::CropAndResize')."""
    return name in OPERATORS


def typed(error: Exception, where: str = "", kind: type[RuntimeFailed] = ModelFailed) -> Exception:
    """torch's error as one of ours: of this kind, but where memory ended."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "not enough memory" in text:
        return LimitExceeded(f"the model ran out of memory ({text})" + SMALLER)
    return kind(f"torch could not run the model: {where}{text}")


def _described(node: ir.Node) -> str:
    layer = next((y.name for y in node.outputs if y.name), "?")
    return f"operator {key(node.op_type, node.domain)} (node {node.name or '?'!r}, layer {layer!r})"
