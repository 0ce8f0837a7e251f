"""The reverse walk: cotangents from the seeds back to the wanted values, rule by rule.

Requires a normalised graph (graph/normalise.py): opset 18 or later, no functions, explicit pads, shapes inferred as
far as they go. Ensures that every node it appends is of the standard domain, that nothing is appended for
values off the way, and that a cotangent has its value's shape.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir

from onnxviz.errors import UnsupportedOperator, ways
from onnxviz.grad import table
from onnxviz.graph.analysis.dataflow import reads
from onnxviz.graph.operators import computes
from onnxviz.graph.tape import Dims, Operand, Tape, dims, schema

_INTEGERS = frozenset({
    ir.DataType.INT64, ir.DataType.INT32, ir.DataType.INT16, ir.DataType.UINT64, ir.DataType.UINT32,
    ir.DataType.UINT16, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.BOOL, ir.DataType.STRING,
})  # fmt: skip


def vjp(
    tape: Tape,
    seeds: Mapping[ir.Value, ir.Value],
    wrt: Sequence[ir.Value],
    rules: table.Table,
) -> list[ir.Value | None]:
    """Append the vector–Jacobian product to the tape's graph.

    seeds    value -> its cotangent (of the same shape)
    wrt      the values whose cotangents are wanted; a value between input and output is as good as an input
    returns  one cotangent for each of `wrt`; None where no differentiable way leads from the seeds to it
    raises   UnsupportedOperator when an operator on the way has no rule, or an attribute no rule knows of
    """
    nodes = list(tape.graph)
    if rules is not table.VJP_RULES:
        from onnxviz.graph.rectifiers import rectifier

        for node in nodes:
            if node not in tape.rectifiers and (found := rectifier(node)) is not None:
                tape.rectifiers[node] = found
    varying = _varying(nodes, wrt, rules)
    pending: dict[ir.Value, list[ir.Value]] = {}
    for value, seed in seeds.items():
        if value in varying:
            pending.setdefault(value, []).append(seed)
    done: dict[ir.Value, ir.Value] = {}
    wanted = set(wrt)
    for node in reversed(nodes):
        if not any(y in pending for y in node.outputs):
            continue
        with tape.named(node.name or node.outputs[0].name or node.op_type):
            cotangents = [_total(tape, pending.pop(y)) if y in pending else None for y in node.outputs]
            for y, g in zip(node.outputs, cotangents, strict=True):
                if y in wanted and g is not None:
                    done[y] = g
            if not any(x in varying for x in reads(node)):
                continue
            _step(tape, node, cotangents, varying, pending, rules)
    with tape.named(""):
        for value in wrt:
            if value not in done and value in pending:
                done[value] = _total(tape, pending.pop(value))
    _replace(tape)
    return [done.get(value) for value in wrt]


def _replace(tape: Tape) -> None:
    """Put what rules computed anew in the place of forward values, where nothing but nodes reads these."""
    for value, by in tape.replaced.items():
        if not value.is_graph_output():
            value.replace_all_uses_with(by)
    if tape.replaced:
        tape.graph.sort()  # readers stand before the backward part that the new values stand in
        tape.replaced.clear()


def _varying(nodes: Sequence[ir.Node], wrt: Sequence[ir.Value], rules: table.Table) -> set[ir.Value]:
    """The values that depend differentiably on one of `wrt`."""
    varying = set(wrt)
    for node in nodes:
        if table.is_zero(node.op_type, node.domain) or not any(x in varying for x in reads(node)):
            continue
        rule = rules.get(table.key(node.op_type, node.domain))
        if computes(node.op_type) == "cast" and ir.DataType(node.attributes["to"].as_int()) in _INTEGERS:
            continue
        for i, y in enumerate(node.outputs):
            # The further outputs of a known operator are no floats (indices, masks) or are declared constant.
            # Of an unknown operator everything counts as depending: better refused than silently zero.
            if rule is not None and (i in rule.constant or (i > 0 and y.dtype in _INTEGERS)):
                continue
            varying.add(y)
    return varying


def _total(tape: Tape, contributions: list[ir.Value]) -> ir.Value:
    return functools.reduce(tape.Add, contributions)


def _step(
    tape: Tape,
    node: ir.Node,
    cotangents: Sequence[ir.Value | None],
    varying: set[ir.Value],
    pending: dict[ir.Value, list[ir.Value]],
    rules: table.Table,
) -> None:
    """Apply one node's rule and add what it gives to the inputs' cotangents."""
    rule = rules.get(table.key(node.op_type, node.domain))
    if rule is None:
        raise unsupported(node, "has no gradient rule")
    keywords = _attributes(node, rule, tape.opset)
    if not rule.every:  # noqa: SIM102
        if late := [y.name for y, g in zip(node.outputs[1:], cotangents[1:], strict=True) if g is not None]:
            raise unsupported(node, f"has no gradient rule for its further output {late[0]!r}")
    if node in tape.rectifiers and not tape.rectifiers[node].ahead:
        tape.rectified.add(node)
    own = (tuple(cotangents), tuple(node.outputs)) if rule.every else (cotangents[0], node.outputs[0])
    try:
        given = rule.function(tape, *own, *node.inputs, **keywords)
        results = given if isinstance(given, tuple) else (given,)
        for i, x in enumerate(node.inputs):
            if x is None or x not in varying:
                continue
            if i >= len(results):  # a rule says None where it means zero; what it leaves out it does not know
                raise NoRule(f"has no gradient rule for its input {x.name!r}")
            g = results[i]() if callable(results[i]) else results[i]
            if g is None:
                continue
            if rule.broadcast:
                g = unbroadcast(tape, g, x, node.outputs[0])
            tape.pairs.append((g, x))
            pending.setdefault(x, []).append(g)
    except NoRule as reason:
        raise unsupported(node, str(reason)) from None


def _attributes(node: ir.Node, rule: table.Rule, opset: int) -> dict[str, Any]:
    """The node's attributes as keywords, the standard's defaults filled in."""
    values: dict[str, Any] = {}
    version = opset if not node.domain else (node.version or 1)
    try:
        for name, formal in schema(node.op_type, version, node.domain).attributes.items():
            if name in rule.attributes and formal.default_value.name:
                values[name] = _plain(onnx.helper.get_attribute_value(formal.default_value))
    except onnx.defs.SchemaError:
        pass  # not of the standard: the rule's own defaults hold
    for name, attribute in node.attributes.items():
        if name not in rule.attributes:
            raise unsupported(node, f"has an attribute that its gradient rule does not know, {name!r}")
        values[name] = _plain(attribute.value)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, (list, tuple)) else value


class NoRule(Exception):
    """Raised inside a rule for a form that it cannot differentiate; the message goes on 'the operator ...'."""


def lengths(value: ir.Value, what: str = "an input") -> Dims:
    """The dimensions of a forward value, as `dims`; NoRule where not even their number is known."""
    known = dims(value)
    if known is None:
        raise NoRule(f"has {what} of unknown rank ({value.name!r})")
    return known


def rank_of(value: ir.Value) -> int:
    """How many dimensions a forward value has, or NoRule."""
    return len(lengths(value))


def unsupported(node: ir.Node, reason: str) -> UnsupportedOperator:
    """The error that names operator, node and layer, and the way out."""
    operator = table.key(node.op_type, node.domain)
    layer = next((y.name for y in node.outputs if y.name), "?")
    return UnsupportedOperator(
        f"operator {operator} (node {node.name or '?'!r}, layer {layer!r}) {reason}, and it lies on the way to "
        "the wanted gradient",
        ways("take a gradient that does not pass this layer"),
        operator,
    )


def unbroadcast(tape: Tape, g: ir.Value, x: ir.Value, y: ir.Value, keep: int = 0) -> ir.Value:
    """Sum g, which has y's shape, back to the shape of x, which was broadcast to y's.

    keep   this many last axes are known to agree already, and are those of x (MatMul's matrices)
    """
    small, large = dims(x), dims(y)
    if small is not None and large is not None:
        lead = len(large) - len(small)
        if lead < 0:  # ONNX Runtime refuses to run it
            raise NoRule(f"broadcasts {len(small)} axes to {len(large)}")
        axes = list(range(lead))
        for i, (a, b) in enumerate(
            zip(small[: len(small) - keep], large[lead : len(large) - keep], strict=True)
        ):
            if a == 1 and b != 1:
                axes.append(lead + i)
            elif a is None or (isinstance(a, str) and a != b):
                break  # may or may not have been broadcast: told apart at run time
        else:
            if axes:
                g = tape.ReduceSum(g, axes, keepdims=1)
            return tape.Squeeze(g, list(range(lead))) if lead else g
        g = tape.ReduceSum(g, list(range(lead)), keepdims=0) if lead else g
        return sum_to(tape, g, x, [tape.extent(y, lead + i) for i in range(len(small) - keep)], keep)
    shape = tape.shape(x)
    full = tape.shape(y)
    if keep:
        last: Operand = tape.shape(x, -keep)
        full = tape.Concat(tape.Slice(full, [0], [-keep]), last, axis=0)
    missing = tape.Sub(tape.Shape(full), tape.Shape(shape))
    padded = tape.Concat(tape.Expand([1], missing), shape, axis=0)
    axes_now = tape.Reshape(tape.NonZero(tape.Not(tape.Equal(padded, full))), [-1])
    return tape.Reshape(tape.ReduceSum(g, axes_now, keepdims=1, noop_with_empty_axes=1), shape)


def sum_to(
    tape: Tape, g: ir.Value, x: ir.Value, lengths: Sequence[int | ir.Value], keep: int = 0
) -> ir.Value:
    """Sum g back to the shape of x, of the same rank, where only the run tells which axes of x were broadcast.

    An axis is as long in x as in g, or 1: as (g's length over x's, x's length) it is summed over the first of the two.
    So the axes to sum are known to the file; several runtimes refuse a reduction whose axes are computed.

    lengths   of g's axes, but for the last `keep`, which are those of x
    """
    pairs: list[int | ir.Value] = []
    for i, length in enumerate(lengths):
        own = tape.extent(x, i)
        if isinstance(own, int) and isinstance(length, int):
            pairs += [length // max(own, 1), own]
        else:
            pairs += [tape.Div(tape.vector([length]), tape.Max(tape.vector([own]), [1])), own]
    rank = len(lengths) + keep
    pairs += [tape.extent(x, i) for i in range(len(lengths), rank)]
    split = tape.Reshape(g, tape.vector(pairs), allowzero=1)
    return tape.ReduceSum(split, list(range(0, 2 * len(lengths), 2)), keepdims=0)
