"""Methods of one pass on what the network gave: their function as a graph of its own, behind the network's.

The gradient of a network is compiled once for all of them, by whichever backend; what a method does with it is a graph
of a few nodes, made in a millisecond, that runs on the CPU, where the arrays are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.attribution.methods import LAYER, METHODS, Method
from onnxviz.graph.tape import Tape
from onnxviz.network import Network
from onnxviz.runtime.providers import CPU

_OPSET = 18
_AT_ONCE = 32  # pictures: more gain nothing, and what lies between is as large as the layers
#: Upsampling of a map, for each layer: rows (H, h) and columns (W, w)
Places = Sequence[tuple[np.ndarray, np.ndarray]]


def run(
    net: Network,
    method: Method,
    arrays: Mapping[str, np.ndarray | Sequence[np.ndarray]],
    *,
    places: Places = (),
    signed: bool = False,
) -> np.ndarray:
    """The method's maps, (N, H, W) float32.

    arrays   what the method takes, by its name in `methods.GIVEN`: (N, C, H, W); of LAYER one array for each layer
    places   upsampling of the layers' maps
    signed   keep what speaks against the score
    """
    feeds: dict[str, np.ndarray] = {}
    for name, given in arrays.items():
        for number, array in enumerate([given] if isinstance(given, np.ndarray) else given):
            feeds[f"{name}.{number}"] = array
    still = {
        f"{side}.{number}": matrix
        for number, pair in enumerate(places)
        for side, matrix in zip(("rows", "columns"), pair, strict=True)
    }
    # What a method does to a layer may depend on its size (EigenCAM); nothing else does.
    shapes = {
        name: array.shape[1:] if name.partition(".")[0] in LAYER else array.shape[1:2]
        for name, array in feeds.items()
    }
    types = {name: ir.DataType.from_numpy(array.dtype) for name, array in (feeds | still).items()}

    def build() -> ir.Model:
        stage = _Arrays(types, shapes, signed)
        return stage.model(method.append(stage))

    key = ("method", method.name, signed, *((name, types[name], shapes.get(name)) for name in types))
    program = net.compile(build, key=key, provider=CPU)
    count = len(next(iter(feeds.values())))
    parts = [
        program(
            {**still, **{name: array[start : start + _AT_ONCE] for name, array in feeds.items()}}, ["map"]
        )
        for start in range(0, count, _AT_ONCE)
    ]
    return np.concatenate([part["map"] for part in parts])


def joined(net: Network, raw: np.ndarray, colours: str) -> np.ndarray:
    """What a method of many passes found for each colour, (N, C, H, W), as (N, H, W) float32."""
    return run(net, METHODS["gradient" if colours == "sum" else "saliency"], {"gradient": raw})


class _Arrays:
    """A `methods.Stage` whose values are inputs of a graph of their own."""

    def __init__(
        self, types: Mapping[str, ir.DataType], shapes: Mapping[str, tuple[int, ...]], signed: bool
    ) -> None:
        self.signed = signed
        self._inputs = {}
        for name, dtype in types.items():
            known = shapes.get(name)  # of a matrix none
            shape = [None, None] if known is None else ["N", *known, *[None] * (3 - len(known))]
            self._inputs[name] = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self._graph = ir.Graph(
            list(self._inputs.values()), [], nodes=[], opset_imports={"": _OPSET}, name="method"
        )
        self.op: Any = Tape(self._graph)

    def given(self, name: str) -> list[ir.Value]:
        return [value for key, value in self._inputs.items() if key.partition(".")[0] == name]

    def placed(self, maps: list[ir.Value]) -> ir.Value:
        """Bilinear; of several layers the mean of their maps, each divided by its largest magnitude."""
        op = self.op
        found = []
        for number, one in enumerate(maps):
            rows, columns = (self._inputs[f"{side}.{number}"] for side in ("rows", "columns"))
            kept = op.Cast(one if self.signed else op.Relu(one), to=int(ir.DataType.DOUBLE))
            whole = op.MatMul(rows, op.MatMul(kept, op.Transpose(columns, perm=[1, 0])))
            found.append(op.Cast(whole, to=int(ir.DataType.FLOAT)))
        if len(found) == 1:
            return found[0]
        scaled = []
        for one in found:
            limit = op.ReduceMax(op.Abs(one), [1, 2], keepdims=1)
            zero = op.Equal(limit, 0.0)
            scaled.append(op.Div(one, op.Where(zero, 1.0, limit)))
        return op.Div(op.Sum(*scaled), float(len(scaled)))

    def model(self, result: ir.Value) -> ir.Model:
        """The graph, with `result` as its output `map`."""
        named = self.op.Cast(result, to=int(ir.DataType.FLOAT))
        named.name = "map"
        named.shape = ir.Shape(["N", None, None])
        self._graph.outputs.append(named)
        return ir.Model(self._graph, ir_version=8)
