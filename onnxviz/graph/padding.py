"""Make implicit padding explicit, so that the gradient rules meet numbers only.

`auto_pad=SAME_*` asks for as many pads as the output needs: with stride 1 that does not depend on the input's size,
with a known size it is a number. Otherwise a Pad operator computes them at run time, and the window runs without.

`ceil_mode` with a known size is a wider pad at the end. Not only for uniformity: onnx's shape inference counts
windows that start beyond the input, which the standard and every runtime ignore. A pad as wide as the kernel, which a
dilated window may need, is refused as an attribute: it is a Pad operator too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.graph.operators import INTEGER_SUMS, POOLS, WINDOWS, computes, family
from onnxviz.graph.shapes import pool_pads, pooled
from onnxviz.graph.tape import Tape

_WINDOWS = WINDOWS | {name for name in INTEGER_SUMS if family(name) == "convolution"}


def explicit(model: ir.Model) -> None:
    """Replace `auto_pad`, `ceil_mode` and ConvTranspose's `output_shape` by pads, in place, as far as sizes are known.

    Requires inferred shapes.
    """
    tape: Tape | None = None
    for node in list(model.graph.all_nodes()):
        if node.domain not in ("", "ai.onnx"):
            continue
        mode = node.attributes.get_string("auto_pad", "NOTSET")
        if mode == "NOTSET":
            node.attributes.pop("auto_pad", None)
        ceil = node.attributes.get_int("ceil_mode", 0)
        if computes(node.op_type) == "conv_transpose":
            _transposed(node, mode)
        elif node.op_type not in _WINDOWS or not (ceil or mode in ("VALID", "SAME_UPPER", "SAME_LOWER")):
            continue
        elif node.op_type in POOLS and _sizes(node) is not None:
            tape = tape or Tape(model.graph)
            _pool(tape, node, mode)
        elif mode == "VALID":
            # VALID means no pads, whatever `pads` says; a MaxPool's ceil_mode counts on.
            node.attributes.pop("auto_pad")
            node.attributes.pop("pads", None)
        elif mode.startswith("SAME") and _kernel(node) is not None:
            pads = _same(node, mode)
            node.attributes.pop("auto_pad")
            if pads is not None:
                node.attributes["pads"] = ir.AttrInt64s("pads", pads)
            else:
                node.attributes.pop("pads", None)
                tape = tape or Tape(model.graph)
                _at_run_time(tape, node, mode)


def _steps(node: ir.Node, n: int) -> tuple[list[int], list[int]]:
    """Strides and dilations."""
    strides, dilations = (node.attributes.get_ints(name, [1] * n) for name in ("strides", "dilations"))
    return list(strides), list(dilations)


def _kernel(node: ir.Node) -> list[int] | None:
    if "kernel_shape" in node.attributes:
        return list(node.attributes["kernel_shape"].as_ints())
    shape = node.inputs[1].shape if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if shape is None or not all(isinstance(d, int) for d in shape[2:]):
        return None
    return [int(d) for d in shape[2:]]  # type: ignore[arg-type]


def _sizes(node: ir.Node) -> list[int] | None:
    """The lengths of the input's spatial axes, None where one is unknown."""
    x = node.inputs[0]
    if x is None or x.shape is None or not all(isinstance(d, int) for d in x.shape[2:]):
        return None
    return [int(d) for d in x.shape[2:]]  # type: ignore[arg-type]


def _split(total: int, upper: bool) -> tuple[int, int]:
    """An odd pad goes to the end for SAME_UPPER, to the beginning for SAME_LOWER."""
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


def _same(node: ir.Node, mode: str) -> list[int] | None:
    """The pads, or None where they depend on an unknown size."""
    kernel = _kernel(node)
    if kernel is None:
        return None
    n = len(kernel)
    strides, dilations = _steps(node, n)
    if node.op_type in POOLS:
        dilations = [1] * n  # see pool_pads
    x = node.inputs[0]
    sizes: Any = x.shape[2:] if x is not None and x.shape is not None else [None] * n
    begins, ends = [], []
    for k, s, d, size in zip(kernel, strides, dilations, sizes, strict=True):
        if s == 1:
            total = d * (k - 1)
        elif isinstance(size, int):
            total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        else:
            return None
        begin, end = _split(total, mode == "SAME_UPPER")
        begins.append(begin)
        ends.append(end)
    return begins + ends


def _pool(tape: Tape, node: ir.Node, mode: str) -> None:
    """Pads in the place of a pool's auto_pad and ceil_mode."""
    kernel, sizes = _kernel(node), _sizes(node)
    if kernel is None or sizes is None:
        return
    n = len(kernel)
    strides, dilations = _steps(node, n)
    given = list(node.attributes.get_ints("pads", [0] * (2 * n)))
    ceil = bool(node.attributes.get_int("ceil_mode", 0))
    begins, ends, extra = [], [], []
    for i, (size, k, s, d) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        if mode.startswith("SAME"):
            begin, end = pool_pads(size, k, s, upper=mode == "SAME_UPPER")
        else:
            begin, end = (0, 0) if mode == "VALID" else (given[i], given[n + i])
        count = pooled(size, (k, s, d), (begin, end), ceil=ceil)
        more = max((count - 1) * s + d * (k - 1) + 1 - (size + begin + end), 0)
        if end < 0 and not more and pooled(size, (k, s, d), (begin, 0), ceil=ceil) == count:
            end = 0  # no window reaches there
        begins.append(begin)
        ends.append(end)
        extra.append(more)
    wide = any(max(e, 0) + more >= k for e, more, k in zip(ends, extra, kernel, strict=True))
    if any(extra) and wide and any(y.uses() or y.is_graph_output() for y in node.outputs[1:]):
        return  # the places that a MaxPool tells would be those of a padded picture
    for name in ("ceil_mode", "auto_pad", "pads"):
        node.attributes.pop(name, None)
    cut = [min(pad, 0) for pad in begins + ends]
    if any(cut):
        node.replace_input_with(0, _zeros_around(tape, node, node.inputs[0], cut))
        sizes = [size + b + e for size, b, e in zip(sizes, cut[:n], cut[n:], strict=True)]
        begins, ends = [max(pad, 0) for pad in begins], [max(pad, 0) for pad in ends]
    counted = _counting(node) and any(extra) and any(begins + ends)
    if (
        counted
    ):  # the pads of the file are averaged in, what ceil_mode adds is not: the former become real zeros
        node.replace_input_with(0, _zeros_around(tape, node, node.inputs[0], begins + ends))
        sizes = [size + b + e for size, b, e in zip(sizes, begins, ends, strict=True)]
        begins = ends = [0] * n
    if any(extra):
        node.attributes.pop("count_include_pad", None)
    ends = [end + more for end, more in zip(ends, extra, strict=True)]
    if any(extra) and wide:
        _in_front(tape, node, tape.const(begins + ends), tape.const(sizes))
    else:
        node.attributes["pads"] = ir.AttrInt64s("pads", begins + ends)


def _counting(node: ir.Node) -> bool:
    """Whether an AveragePool averages its pads in."""
    return computes(node.op_type) == "mean_pool" and bool(node.attributes.get_int("count_include_pad", 0))


def _kind(x: ir.Value | None) -> Any:
    """The numpy type of the data, float32 where the file does not tell."""
    return np.float32 if x is None or x.dtype is None else x.dtype.numpy()


def _zeros_around(tape: Tape, node: ir.Node, x: ir.Value | None, pads: list[int]) -> ir.Value:
    n = len(pads) // 2
    amounts = tape.const([0, 0, *pads[:n], 0, 0, *pads[n:]])
    return tape.before(node).Pad(x, amounts, tape.const(0.0, _kind(x)))


def _at_run_time(tape: Tape, node: ir.Node, mode: str) -> None:
    """A Pad in front, its amounts computed from the input's shape."""
    kernel = _kernel(node)
    x = node.inputs[0]
    if kernel is None or x is None:
        return
    n = len(kernel)
    strides, dilations = _steps(node, n)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    if node.op_type in POOLS:
        reach = kernel  # see pool_pads

    op = tape.before(node)

    sizes = op.Shape(x, start=2)
    # total = max((ceil(size / s) - 1)·s + reach − size, 0)
    steps = op.Div(op.Sub(sizes, tape.const([1])), tape.const(strides))  # ceil(size / s) − 1
    total = op.Sub(op.Add(op.Mul(steps, tape.const(strides)), tape.const(reach)), sizes)
    none = tape.const([0])
    room = op.Max(total, none)
    half = op.Div(room, tape.const([2]))
    rest = op.Sub(room, half)
    begin, end = (half, rest) if mode == "SAME_UPPER" else (rest, half)
    if node.op_type in POOLS and any(k < s for k, s in zip(kernel, strides, strict=True)):
        # Less than nothing is cut off, see pool_pads: half of it in front, of one less for SAME_LOWER.
        cut = op.Max(op.Neg(total), none)
        front = cut if mode == "SAME_UPPER" else op.Max(op.Sub(cut, tape.const([1])), none)
        front = op.Div(front, tape.const([2]))
        begin, end = op.Sub(begin, front), op.Sub(end, op.Sub(cut, front))
    if node.op_type in INTEGER_SUMS:  # the pad would have to be the zero point: its rule will refuse it
        node.attributes["auto_pad"] = ir.AttrString("auto_pad", mode)
        return
    _in_front(tape, node, op.Concat(begin, end, axis=0), sizes)


def _in_front(tape: Tape, node: ir.Node, pads: ir.Value, sizes: ir.Value) -> None:
    """Pad operators in front of a window that runs without pads then.

    pads    int64, all begins, then all ends
    sizes   int64, the input's spatial axes
    """
    x = node.inputs[0]
    kind = _kind(x)

    op = tape.before(node)

    axes = tape.const(range(2, len(_kernel(node) or ()) + 2))

    def padded(value: ir.Value | None, fill: Any) -> ir.Value:
        return op.Pad(value, pads, tape.const(fill, kind), axes)

    if computes(node.op_type) == "max_pool":
        lowest = (np.finfo if np.issubdtype(kind, np.floating) else np.iinfo)(kind).min
        node.replace_input_with(0, padded(x, lowest))
    elif computes(node.op_type) == "mean_pool" and not _counting(node):
        # The mean over what is there: the pooled values over the pooled ones.
        ones = op.Expand(tape.const(1.0, kind), op.Concat(tape.const([1, 1]), sizes, axis=0))
        attributes = {k: a.value for k, a in node.attributes.items()}
        share = op.AveragePool(padded(ones, 0.0), **attributes)
        means = op.AveragePool(padded(x, 0.0), **attributes)
        tape.become(node).Div(means, share)
    else:
        node.replace_input_with(0, padded(x, 0.0))


def _transposed(node: ir.Node, mode: str) -> None:
    """ConvTranspose: pads from auto_pad or output_shape, where the sizes tell."""
    kernel = _kernel(node)
    if kernel is None or (mode == "NOTSET" and "output_shape" not in node.attributes):
        return
    n = len(kernel)
    strides, dilations = _steps(node, n)
    extra = list(node.attributes.get_ints("output_padding", [0] * n))
    x = node.inputs[0]
    sizes: Any = x.shape[2:] if x is not None and x.shape is not None else [None] * n
    if "output_shape" in node.attributes:
        outs: list[Any] = list(node.attributes["output_shape"].as_ints())[-n:]
    elif mode.startswith("SAME"):
        outs = [None] * n
    else:  # VALID
        node.attributes.pop("auto_pad")
        node.attributes.pop("pads", None)
        return
    begins, ends = [], []
    for i, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        if outs[i] is None:  # the output is stride times the input, whatever its size
            total = d * (k - 1) + 1 + extra[i] - s
        elif isinstance(sizes[i], int):
            total = s * (sizes[i] - 1) + extra[i] + d * (k - 1) + 1 - outs[i]
        else:
            return  # its rule will refuse it
        if total < 0:  # longer than the windows reach: output padding
            extra[i], total = extra[i] - total, 0
        begin, end = _split(total, mode == "SAME_UPPER")
        begins.append(begin)
        ends.append(end)
    for name in ("auto_pad", "output_shape", "pads"):
        node.attributes.pop(name, None)
    node.attributes["pads"] = ir.AttrInt64s("pads", begins + ends)
    if any(extra):
        node.attributes["output_padding"] = ir.AttrInt64s("output_padding", extra)
