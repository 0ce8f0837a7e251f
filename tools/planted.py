"""Faults that are planted in the int8 files of `quantise.py`, for a tool to find: only numbers change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

PLACES = 10  # layers that faults are planted at


@dataclass(frozen=True)
class Place:
    """A layer with weights.

    layer     what the float file calls its result
    names     that, and the Relu or Clip behind it, which is one with it in an int8 file: each names the place
    weights   the name of its weights; axis: that of their output channels
    """

    layer: str
    names: tuple[str, ...]
    weights: str
    axis: int


@dataclass(frozen=True)
class Fault:
    """One mistake at one place."""

    kind: str
    place: Place

    def __str__(self) -> str:
        return f"{self.kind}@{self.place.layer}"


def places(model: onnx.ModelProto) -> list[Place]:
    """The layers of a float network that have weights, in its order."""
    stored = {tensor.name for tensor in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or node.input[1] not in stored:
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else 1
        names = [node.output[0]]
        after = readers.get(names[0], [])
        if len(after) == 1 and after[0].op_type in ("Relu", "Clip"):
            names.append(after[0].output[0])
        found.append(Place(names[0], tuple(names), node.input[1], axis))
    return found


def faults(model: onnx.ModelProto, count: int = PLACES) -> list[Fault]:
    """Every kind of fault at so many layers of a float network, spread evenly from the first to the last."""
    found = places(model)
    chosen = sorted({round(place) for place in np.linspace(0, len(found) - 1, count)})
    return [Fault(kind, found[place]) for place in chosen for kind in KINDS]


def fault(model: onnx.ModelProto, text: str) -> Fault:
    """KIND@LAYER of a float network; the layer's name may be that of its Relu or Clip.

    raises   ValueError with what there is
    """
    kind, _, layer = text.partition("@")
    if kind not in KINDS:
        raise ValueError(f"no fault is called {kind!r}; there are {', '.join(KINDS)}")
    found = places(model)
    for place in found:
        if layer in place.names:
            return Fault(kind, place)
    known = ", ".join(place.layer for place in found)
    raise ValueError(f"no layer with weights is called {layer!r}; there are {known}")


def plant(int8: onnx.ModelProto, wrong: Fault) -> onnx.ModelProto:
    """A copy of an int8 file with a fault in it: only numbers change, no node and no name."""
    file = _File(int8)
    KINDS[wrong.kind](file, wrong.place)
    return file.model


class _File:
    """The stored numbers of an int8 file, by the names that ONNX Runtime's quantiser gives them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self._tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._makers = {name: node for node in self.model.graph.node for name in node.output}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self._tensors[name])

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        old = self[name]
        if old.dtype.kind in "iu":
            limits = np.iinfo(old.dtype)
            array = np.rint(array).clip(limits.min, limits.max)
        self._tensors[name].CopyFrom(
            numpy_helper.from_array(array.astype(old.dtype).reshape(old.shape), name)
        )

    def activation(self, place: Place) -> str:
        """The quantised value at a place: its scale is NAME_scale."""
        for name in reversed(place.names):
            if f"{name}_scale" in self:
                return name
        raise ValueError(f"the file has no scale for any of {', '.join(place.names)}")

    def weights(self, place: Place) -> str:
        """What a place's weights are stored as: codes, or the float weights themselves."""
        return place.weights if place.weights in self else f"{place.weights}_quantized"

    def rescale(self, name: str, factor: float | np.ndarray) -> None:
        """Multiply a scale. The biases in its units mean what they meant: a quantiser would write them so."""
        for codes, scale in self._biases(name):
            self[codes] = self[codes] / factor
            if scale is not None:
                self[scale] = self[scale] * factor
        self[name] = self[name] * factor

    def _biases(self, scale: str) -> Iterator[tuple[str, str | None]]:
        """The biases that are in units of this scale, each with the name of its own scale, if it has one."""
        for node in self.model.graph.node:
            bias = {"QLinearConv": 8, "QGemm": 6}.get(node.op_type)
            if bias is not None:
                if len(node.input) > bias and node.input[bias] and scale in (node.input[1], node.input[4]):
                    yield node.input[bias], None
            elif node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > 2:
                made = [self._makers.get(name) for name in node.input]
                if all(m is not None and m.op_type == "DequantizeLinear" for m in made):
                    x, w, b = (list(m.input) for m in made if m is not None)
                    if scale in (x[1], w[1]) and b[0] in self:
                        yield b[0], b[1]


def _scale(factor: float) -> Callable[[_File, Place], None]:
    def edit(file: _File, place: Place) -> None:
        file.rescale(f"{file.activation(place)}_scale", factor)

    return edit


def _zero(codes: int) -> Callable[[_File, Place], None]:
    def edit(file: _File, place: Place) -> None:
        name = f"{file.activation(place)}_zero_point"
        file[name] = file[name].astype(np.int64) + codes

    return edit


def _weights(factor: float) -> Callable[[_File, Place], None]:
    def edit(file: _File, place: Place) -> None:
        if place.weights in file:
            file[place.weights] = file[place.weights] * factor
        if f"{place.weights}_scale" in file:
            file.rescale(f"{place.weights}_scale", factor)

    return edit


def _channel(factor: float) -> Callable[[_File, Place], None]:
    """Of the channel whose weights reach furthest."""

    def edit(file: _File, place: Place) -> None:
        scale, held = f"{place.weights}_scale", file.weights(place)
        weights = np.moveaxis(file[held].astype(np.float64), place.axis, 0)
        real = np.abs(weights).reshape(len(weights), -1).max(axis=1)
        if held != place.weights:
            real = real * file[scale]
        factors = np.ones(len(weights))
        factors[real.argmax()] = factor
        per_channel = scale in file and file[scale].size > 1
        if not per_channel or held == place.weights:
            file[held] = np.moveaxis((weights.T * factors).T, 0, place.axis)
        if per_channel:
            file.rescale(scale, factors)

    return edit


def _bits(count: int) -> Callable[[_File, Place], None]:
    """Weights in symmetric codes of so many bits, as far as they reached before."""

    def edit(file: _File, place: Place) -> None:
        most, held = 2 ** (count - 1) - 1, file.weights(place)
        weights = file[held].astype(np.float64)
        if held == place.weights:
            others = tuple(axis for axis in range(weights.ndim) if axis != place.axis)
            step = np.abs(weights).max(axis=others, keepdims=True) / most
        else:
            step = np.iinfo(file[held].dtype).max / most
        file[held] = np.rint(weights / step) * step

    return edit


#: The faults, by name.
KINDS: dict[str, Callable[[_File, Place], None]] = {
    "scale*8": _scale(8),
    "scale/2": _scale(1 / 2),
    "scale/4": _scale(1 / 4),
    "zero+24": _zero(24),
    "weights*1.1": _weights(1.1),
    "weights*1.5": _weights(1.5),
    "channel*4": _channel(4),
    "4bit": _bits(4),
}
