"""Run an ONNX graph on torch, for its autograd: the oracle of the whole-network tests, written apart from the rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper


def run(
    model: onnx.ModelProto, feeds: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Every value of the graph by name."""
    values: dict[str, Any] = {}
    for tensor in model.graph.initializer:
        array = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
        values[tensor.name] = array.to(dtype) if array.is_floating_point() else array
    values.update(feeds)
    for node in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [values[name] if name else None for name in node.input]
        result = _OPS[node.op_type](attributes, *inputs)
        results = result if isinstance(result, tuple) else (result,)
        values.update(zip(node.output, results, strict=False))
    return values


def _pads(a: dict[str, Any], n: int) -> tuple[list[int], list[int]]:
    pads = list(a.get("pads", [0] * 2 * n))
    return pads[:n], pads[n:]


def _padded(x: Any, a: dict[str, Any], value: float = 0.0) -> Any:
    begin, end = _pads(a, x.ndim - 2)
    amounts = [p for b, e in zip(reversed(begin), reversed(end), strict=True) for p in (b, e)]
    return F.pad(x, amounts, value=value) if any(amounts) else x


def _conv(a, x, w, b=None):
    return F.conv2d(_padded(x, a), w, b, a.get("strides", 1), 0, a.get("dilations", 1), a.get("group", 1))


def _max_pool(a, x):
    k, s = a["kernel_shape"], a.get("strides", [1, 1])
    return F.max_pool2d(_padded(x, a, -np.inf), k, s, ceil_mode=bool(a.get("ceil_mode", 0)))


def _average_pool(a, x):
    k, s = a["kernel_shape"], a.get("strides", [1, 1])
    if a.get("count_include_pad"):
        return F.avg_pool2d(_padded(x, a), k, s)
    ones = torch.ones_like(x[:1, :1])
    return F.avg_pool2d(_padded(x, a), k, s) / F.avg_pool2d(_padded(ones, a), k, s)


def _gemm(a, x, w, c=None):
    x, w = (x.T if a.get("transA") else x), (w.T if a.get("transB") else w)
    y = a.get("alpha", 1.0) * (x @ w)
    return y if c is None else y + a.get("beta", 1.0) * c


def _reshape(a, x, shape):
    return x.reshape([x.shape[i] if d == 0 else int(d) for i, d in enumerate(shape.tolist())])


def _unsqueeze(a, x, axes=None):
    for axis in sorted(a.get("axes", axes)):
        x = x.unsqueeze(int(axis))
    return x


def _softmax(a, x):  # of before opset 13
    axis = a.get("axis", 1)
    return torch.softmax(x.reshape(int(np.prod(x.shape[:axis])), -1), 1).reshape(x.shape)


def _batch_norm(a, x, scale, bias, mean, var):
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, a.get("epsilon", 1e-5))


def _reduce_mean(a, x, axes):
    return x.mean(tuple(axes.tolist()), keepdim=bool(a.get("keepdims", 1)))


def _clip(a, x, low=None, high=None):
    return torch.clamp(x, low, high)


_OPS: dict[str, Any] = {
    "Add": lambda a, x, y: x + y,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": lambda a, *xs: torch.cat(xs, a["axis"]),
    "Constant": lambda a: torch.from_numpy(np.array(numpy_helper.to_array(a["value"]))),
    "Conv": _conv,
    "Dropout": lambda a, x, *rest: x,
    "Flatten": lambda a, x: x.reshape(int(np.prod(x.shape[: a.get("axis", 1)])), -1),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "LRN": lambda a, x: F.local_response_norm(
        x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0)
    ),
    "MatMul": lambda a, x, y: x @ y,
    "MaxPool": _max_pool,
    "Mul": lambda a, x, y: x * y,
    "ReduceMean": _reduce_mean,
    "Relu": lambda a, x: x.relu(),
    "Reshape": _reshape,
    "Softmax": _softmax,
    "Sum": lambda a, *xs: sum(xs),
    "Transpose": lambda a, x: x.permute(tuple(a["perm"])),
    "Unsqueeze": _unsqueeze,
}
