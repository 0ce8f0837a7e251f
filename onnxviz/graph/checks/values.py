"""Computing the few small constants that shapes are made of (for `graph.checks.static`).

Only of known elements, at most `facts.MOST_ELEMENTS` of them; integers wrap as they do in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import onnx

from onnxviz.graph.analysis.constants import NUMPY
from onnxviz.graph.checks.facts import Call, Sizes, Unsure
from onnxviz.graph.operators import RENAMING

Compute = Callable[[Call, list[np.ndarray]], np.ndarray]


def _divide(call: Call, inputs: list[np.ndarray]) -> np.ndarray:
    a, b = inputs
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    if np.any(b == 0):
        raise Unsure
    # C rounds towards zero, Python down.
    quotient = np.abs(a) // np.abs(b)
    return np.asarray(np.where((a < 0) != (b < 0), -quotient, quotient), dtype=a.dtype)


def _cast(call: Call, inputs: list[np.ndarray]) -> np.ndarray:
    kind = onnx.helper.tensor_dtype_to_np_dtype(call.attribute("to"))
    if kind.kind not in "iufb":
        raise Unsure
    return inputs[0].astype(kind)


def _gather(call: Call, inputs: list[np.ndarray]) -> np.ndarray:
    return np.take(inputs[0], inputs[1].astype(np.int64), axis=call.attribute("axis", 0))


def _slice(call: Call, inputs: list[np.ndarray]) -> np.ndarray:
    x = inputs[0]
    starts, ends = call.option(1, "starts"), call.option(2, "ends")
    axes = call.option(3, "axes") if call.given(3) or call.attribute("axes") else range(len(starts))
    steps = call.whole(4) if call.given(4) else [1] * len(starts)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, None if end < -x.shape[axis] and step < 0 else end, step)
    return x[tuple(index)]


def _range(call: Call, inputs: list[np.ndarray]) -> np.ndarray:
    start, limit, step = (each.reshape(-1)[0].item() for each in inputs)
    return np.arange(start, limit, step, dtype=inputs[0].dtype)


def _filled(call: Call, shape: Sizes) -> np.ndarray:
    value = call.attribute("value", np.zeros(1, np.float32))
    return np.full(tuple(size or 0 for size in shape), value.reshape(-1)[0])


def _each(function: Callable[..., np.ndarray]) -> Compute:
    return lambda call, inputs: function(*inputs)


_COMPUTE: Final[dict[str, Compute]] = {
    **{name: _each(function) for name, function in NUMPY.items()},
    "Identity": lambda call, x: x[0],
    "Cast": _cast,
    "Div": _divide,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": lambda call, x: np.concatenate(x, axis=call.attribute("axis", 1)),
    "Range": _range,
    "Transpose": lambda call, x: np.transpose(x[0], call.attribute("perm")),
    "ReduceProd": lambda call, x: np.prod(
        x[0], keepdims=bool(call.attribute("keepdims", 1)), dtype=x[0].dtype
    ),
    "ReduceSum": lambda call, x: np.sum(x[0], keepdims=bool(call.attribute("keepdims", 1)), dtype=x[0].dtype),
    "ReduceMax": lambda call, x: np.max(x[0], keepdims=bool(call.attribute("keepdims", 1))),
    "ReduceMin": lambda call, x: np.min(x[0], keepdims=bool(call.attribute("keepdims", 1))),
}
_REDUCED: Final = frozenset({"ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin"})


def compute(call: Call, shape: Sizes) -> np.ndarray | None:
    """The elements of the node's output of this known, small shape; None where they are not known.

    raises   Unsure, and whatever wrong numbers make NumPy raise
    """
    if call.op == "Shape":
        whole = call.shape(0)[call.attribute("start", 0) : call.attribute("end")]
        return None if None in whole else np.array(whole, dtype=np.int64)
    if call.op == "Size":
        whole = call.shape(0)
        return None if None in whole else np.array(call.known(0).least, dtype=np.int64)
    if call.op == "ConstantOfShape":
        return _filled(call, shape)
    whole_shape = tuple(size or 0 for size in shape)
    if call.op in RENAMING - {"Dropout"}:
        return call.value(0).reshape(whole_shape)
    if call.op == "Expand":
        return np.broadcast_to(call.value(0), whole_shape)
    function = _COMPUTE.get(call.op)
    if function is None or (call.op in _REDUCED and (call.given(1) or call.attribute("axes") is not None)):
        return None
    inputs = [call.value(place) for place in range(1 if call.op == "Slice" else len(call.inputs))]
    with np.errstate(all="ignore"):
        result = np.asarray(function(call, inputs))
    return result if result.shape == whole_shape else None
