"""Make implicit padding explicit, so that the gradient rules meet numbers only.

`auto_pad=SAME_*` asks for as many pads as the output needs: with stride 1 that does not depend on the input's size,
with a known size it is a number. Otherwise a Pad operator computes them at run time, and the window runs without.

`ceil_mode` with a known size is a wider pad at the end. Not only for uniformity: onnx's shape inference counts
windows that start beyond the input, which the standard and every runtime ignore.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.graph.infer import infer
from onnxviz.graph.lift import Lifter

_WINDOWS = ("Conv", "ConvInteger", "MaxPool", "AveragePool", "LpPool")


def explicit(model: ir.Model) -> None:
    """Replace `auto_pad` and ConvTranspose's `output_shape` by pads, in place, as far as sizes are known."""
    lifter: Lifter | None = None
    for node in list(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        if (
            node.op_type in _WINDOWS
            and "ceil_mode" in node.attributes
            and node.attributes["ceil_mode"].as_int()
        ):
            lifter = lifter or Lifter(model)
            if _ceil(lifter, node):
                infer(model)  # what came of the wrong count lies behind
        mode = _string(node, "auto_pad")
        if node.op_type == "ConvTranspose":
            _transposed(node, mode)
        elif node.op_type in _WINDOWS and mode == "VALID":
            # VALID means no pads, whatever `pads` says; a MaxPool's ceil_mode counts on.
            node.attributes.pop("auto_pad")
            node.attributes.pop("pads", None)
        elif node.op_type in _WINDOWS and mode.startswith("SAME") and _kernel(node) is not None:
            pads = _same(node, mode)
            node.attributes.pop("auto_pad")
            node.attributes.pop("ceil_mode", None)  # the output is ceil(size / stride) as it is
            if pads is not None:
                node.attributes["pads"] = ir.AttrInt64s("pads", pads)
            else:
                node.attributes.pop("pads", None)
                lifter = lifter or Lifter(model)
                _at_run_time(lifter, node, mode)


def _string(node: ir.Node, name: str) -> str:
    return node.attributes[name].as_string() if name in node.attributes else "NOTSET"


def _ints(node: ir.Node, name: str, n: int) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else [1] * n


def _kernel(node: ir.Node) -> list[int] | None:
    if "kernel_shape" in node.attributes:
        return list(node.attributes["kernel_shape"].as_ints())
    shape = node.inputs[1].shape if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if shape is None or not all(isinstance(d, int) for d in shape[2:]):
        return None
    return [int(d) for d in shape[2:]]  # type: ignore[arg-type]


def _split(total: int, upper: bool) -> tuple[int, int]:
    """An odd pad goes to the end for SAME_UPPER, to the beginning for SAME_LOWER."""
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


def _same(node: ir.Node, mode: str) -> list[int] | None:
    """The pads, or None where they depend on an unknown size."""
    kernel = _kernel(node)
    if kernel is None:
        return None
    n = len(kernel)
    strides, dilations = _ints(node, "strides", n), _ints(node, "dilations", n)
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


def _ceil(lifter: Lifter, node: ir.Node) -> bool:
    """Replace ceil_mode by pads where the size is known; True where shape inference had counted otherwise."""
    kernel, x, y = _kernel(node), node.inputs[0], node.outputs[0]
    mode = _string(node, "auto_pad")
    if kernel is None or x is None or x.shape is None or not all(isinstance(d, int) for d in x.shape[2:]):
        return False
    if mode.startswith("SAME"):
        return False
    n = len(kernel)
    strides, dilations = _ints(node, "strides", n), _ints(node, "dilations", n)
    given = "pads" in node.attributes and mode != "VALID"
    pads = list(node.attributes["pads"].as_ints()) if given else [0] * (2 * n)
    sizes: Any = x.shape[2:]
    extra, outs = [0] * n, []
    for i, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        span = sizes[i] + pads[i] + pads[n + i] - d * (k - 1) - 1
        out = -(-span // s) + 1
        out -= (out - 1) * s >= sizes[i] + pads[i]  # a window that starts behind the input does not count
        extra[i] = max((out - 1) * s - span, 0)
        outs.append(out)
    for name in ("ceil_mode", "auto_pad", "pads"):
        node.attributes.pop(name, None)
    counting = "count_include_pad" in node.attributes and node.attributes["count_include_pad"].as_int()
    if node.op_type == "AveragePool" and counting and any(extra):
        # The pads of the file are averaged in, what ceil_mode adds is not: the former become real zeros.
        node.attributes.pop("count_include_pad")
        if any(pads):
            kind = np.float32 if x.dtype is None else x.dtype.numpy()
            amounts = lifter.const([0, 0, *pads[:n], 0, 0, *pads[n:]])
            node.replace_input_with(0, lifter.before(node, "Pad", x, amounts, lifter.const(0.0, kind)))
        pads = [0] * (2 * n)
    pads = pads[:n] + [p + e for p, e in zip(pads[n:], extra, strict=True)]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    return y.shape is None or list(y.shape[2:]) != outs


def _at_run_time(lifter: Lifter, node: ir.Node, mode: str) -> None:
    """A Pad in front, its amounts computed from the input's shape."""
    kernel = _kernel(node)
    x = node.inputs[0]
    if kernel is None or x is None:
        return
    n = len(kernel)
    strides, dilations = _ints(node, "strides", n), _ints(node, "dilations", n)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]

    def op(op_type: str, *inputs: Any, **attributes: Any) -> ir.Value:
        return lifter.before(node, op_type, *inputs, **attributes)

    sizes = op("Shape", x, start=2)
    # total = max((ceil(size / s) - 1)·s + reach − size, 0)
    steps = op("Div", op("Sub", sizes, lifter.const([1])), lifter.const(strides))  # ceil(size / s) − 1
    total = op("Sub", op("Add", op("Mul", steps, lifter.const(strides)), lifter.const(reach)), sizes)
    total = op("Max", total, lifter.const([0]))
    half = op("Div", total, lifter.const([2]))
    rest = op("Sub", total, half)
    begin, end = (half, rest) if mode == "SAME_UPPER" else (rest, half)
    pads = op("Concat", begin, end, axis=0)
    axes = lifter.const(range(2, n + 2))
    kind = np.float32 if x.dtype is None else x.dtype.numpy()

    def padded(value: ir.Value, fill: Any) -> ir.Value:
        return op("Pad", value, pads, lifter.const(fill, kind), axes)

    if node.op_type == "MaxPool":
        lowest = -np.inf if np.issubdtype(kind, np.floating) else np.iinfo(kind).min
        node.replace_input_with(0, padded(x, lowest))
        return
    if node.op_type == "ConvInteger":  # the pad would have to be the zero point: its rule will refuse it
        node.attributes["auto_pad"] = ir.AttrString("auto_pad", mode)
        return
    counting = "count_include_pad" in node.attributes and node.attributes["count_include_pad"].as_int()
    if node.op_type == "AveragePool" and not counting:
        # The mean over what is there: the pooled values over the pooled ones.
        ones = op("Expand", lifter.const(1.0, kind), op("Concat", lifter.const([1, 1]), sizes, axis=0))
        attributes = {k: a.value for k, a in node.attributes.items()}
        share = op("AveragePool", padded(ones, 0.0), **attributes)
        means = op("AveragePool", padded(x, 0.0), **attributes)
        node.op_type = "Div"
        node.attributes.clear()
        node.resize_inputs(2)
        node.replace_input_with(0, means)
        node.replace_input_with(1, share)
        return
    node.replace_input_with(0, padded(x, 0.0))


def _transposed(node: ir.Node, mode: str) -> None:
    """ConvTranspose: pads from auto_pad or output_shape, where the sizes tell."""
    kernel = _kernel(node)
    if kernel is None or (mode == "NOTSET" and "output_shape" not in node.attributes):
        return
    n = len(kernel)
    strides, dilations = _ints(node, "strides", n), _ints(node, "dilations", n)
    extra = (
        list(node.attributes["output_padding"].as_ints()) if "output_padding" in node.attributes else [0] * n
    )
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
