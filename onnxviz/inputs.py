"""Which input of a network takes the image, and in what form."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, UsageError, near
from onnxviz.graph.analysis.dataflow import FED
from onnxviz.text import printable

#: Anything that is one image: a path, a PIL image, or an (H, W, 3) uint8 array.
ImageLike = Any
#: One image, a list of them, or the network's own input tensor as a float32 array of four dimensions.
Images = Any

_CHANNELS = (1, 3, 4)  # of pictures: grey, colours, colours with alpha


@dataclass(frozen=True)
class InputSpec:
    """The image input of a network.

    name      the graph input's name
    shape     its four dimensions; a string where one is dynamic
    dtype     'float32', 'float16', 'float64' or 'uint8'
    layout    'NCHW' or 'NHWC': as the first convolution, pool or normalisation reads it, else by the sizes
    weighed   how many channels the first weights are made for, or None
    batch, channels, height, width   None where dynamic
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    layout: str
    weighed: int | None = None

    def _at(self, letter: str) -> int | None:
        size = self.shape[self.layout.index(letter)]
        return size if isinstance(size, int) else None

    @property
    def batch(self) -> int | None:
        """The fixed number of images, or None."""
        return self._at("N")

    @property
    def channels(self) -> int | None:
        """The number of channels, or None."""
        return self._at("C") or self.weighed

    @property
    def height(self) -> int | None:
        """Pixels, or None."""
        return self._at("H")

    @property
    def width(self) -> int | None:
        """Pixels, or None."""
        return self._at("W")

    def to_dict(self) -> dict[str, Any]:
        """As it stands in manifests."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype, "layout": self.layout}


def as_list(images: Images) -> list[ImageLike]:
    """A list of images from one image or several."""
    if isinstance(images, (list, tuple)):
        return list(images)
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return list(images)
    return [images]


_DTYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.DOUBLE: "float64",
    ir.DataType.UINT8: "uint8",
}


def image_input(
    model: ir.Model, name: str | None = None, layout: str | None = None, warnings: list[str] | None = None
) -> InputSpec:
    """The input that takes the image: the one called `name`, or the only one there is.

    warnings   gets what was concluded from the sizes alone
    raises   ModelUnsuitable, listing the inputs, when there is not one image input; UsageError for a wrong name
    """
    if layout not in (None, "NCHW", "NHWC"):
        raise UsageError(f"layout is NCHW or NHWC, got {layout!r}")
    inputs = list(model.graph.inputs)
    listed = "; ".join(_describe(value) for value in inputs) or "none"
    if name is not None:
        chosen = [value for value in inputs if value.name == name]
        if not chosen:
            raise UsageError(
                f"the model has no input {name!r}{near(name, [str(v.name) for v in inputs])}; it has {listed}"
            )
        if len(inputs) > 1:
            rest = ", ".join(str(value.name) for value in inputs if value.name != name)
            raise ModelUnsuitable(
                f"besides {name!r} the model takes {rest}; give each a fixed value with --feed NAME=VALUE "
                f"(feeds={{name: array}} in Python)"
            )
    elif len(inputs) != 1:
        raise ModelUnsuitable(
            f"expected one image input, the model has {len(inputs)}: {listed}; choose the image with --input NAME "
            "and give the others fixed values with --feed NAME=VALUE"
        )
    else:
        chosen = inputs
    spec = _spec(chosen[0], listed)
    return _laid_out(spec, model, chosen[0], layout, warnings)


def _spec(value: ir.Value, listed: str) -> InputSpec:
    dtype = _DTYPES.get(value.dtype) if value.dtype is not None else None
    if value.shape is None:
        shape: tuple[int | str, ...] = ("N", "C", "H", "W")
    else:
        shape = tuple(
            size if isinstance(size, int) else (str(size.value) if size.value else "NCHW"[i % 4])
            for i, size in enumerate(value.shape)
        )
    if dtype is None or len(shape) != 4:
        raise ModelUnsuitable(
            f"expected an image input of four dimensions, float or uint8; the model has {listed}. "
            "onnxviz opens networks that take images"
        )
    if 0 in shape:
        raise ModelUnsuitable(
            f"the model's input {listed} holds no numbers at all, since one of its sizes is 0: no picture fits it; "
            "export the model anew with the picture's size, or with open sizes"
        )
    return InputSpec(str(value.name), shape, dtype, "NCHW")


def picture_input(model: ir.Model, value: ir.Value, given: Any) -> InputSpec:
    """One of several inputs, as an input that takes pictures.

    raises   UsageError where it cannot be one
    """
    try:
        spec = _spec(value, _describe(value))
    except ModelUnsuitable as reason:
        raise UsageError(
            f"{_named(given)} for input {_describe(value)}: it takes no picture; give it numbers or a .npy file"
        ) from reason
    return _laid_out(spec, model, value, None, None)


def _laid_out(
    spec: InputSpec, model: ir.Model, value: ir.Value, layout: str | None, warnings: list[str] | None
) -> InputSpec:
    """With the layout that was given, or that the graph tells, noted on the value for whoever asks later."""
    from onnxviz.graph.analysis.channels import read_as
    from onnxviz.graph.analysis.probe import SETTLED

    read = read_as(value, model.functions)
    if layout is None and read is not None and read.axis in (1, 3):
        layout = "NCHW" if read.axis == 1 else "NHWC"
    elif layout is None:
        layout = "NHWC" if spec.shape[1] not in _CHANNELS and spec.shape[3] in _CHANNELS else "NCHW"
        if (spec.shape[1] in _CHANNELS) == (spec.shape[3] in _CHANNELS) and warnings is not None:
            sizes = "×".join(map(str, spec.shape))
            warnings.append(
                f"nothing in the file says which axis of {spec.name!r} ({sizes}) holds the channels: taken for "
                f"{layout}; give --layout NCHW|NHWC to say"
            )
    value.meta[SETTLED] = layout
    weighed = read.number if read is not None and read.axis == layout.index("C") else None
    return replace(spec, layout=layout, weighed=weighed)


def _describe(value: ir.Value) -> str:
    shape = "×".join(str(getattr(size, "value", size)) for size in value.shape or ()) or "any shape"
    dtype = value.dtype.name.lower() if value.dtype is not None else "unknown type"
    return f"{value.name} ({dtype}, {shape})"


def fix_inputs(
    model: ir.Model,
    feeds: Mapping[str, Any],
    picture: Callable[[ir.Value, Any], np.ndarray] | None = None,
    image: str | None = None,
) -> ir.Model:
    """A copy of `model` whose inputs named in `feeds` are constants.

    A value for one picture (its first size is 1, and the input's the batch's) is repeated for each picture of a run.

    picture   makes the tensor of an input from a picture that is fed to it, with its batch of 1
    image     the input that takes the pictures; None: the only one that is not fed
    raises    UsageError for a name that is no input, or a value that does not fit
    """
    copy = model.clone()
    by_name = {str(value.name): value for value in copy.graph.inputs}
    firsts: dict[str, Any] = {}
    for name, given in feeds.items():
        if name not in by_name:
            raise UsageError(f"the model has no input {name!r}{near(name, by_name)}")
        value = by_name[name]
        array = _fitting(value, given, picture)
        firsts[name] = value.shape[0] if value.shape else 0
        copy.graph.inputs.remove(value)
        value.const_value = ir.tensor(np.ascontiguousarray(array), name=name)
        value.shape = ir.Shape(array.shape)
        copy.graph.initializers[name] = value
    left = [value for value in copy.graph.inputs if image in (None, value.name)]
    if len(left) == 1 and left[0].shape:
        for name, first in firsts.items():
            value, batch = by_name[name], left[0].shape[0]
            if not value.shape or value.shape[0] != 1:
                continue
            if first == batch == 1:  # a picture's share, or everybody's: `free_batch` finds out
                value.meta[FED] = True
            elif not isinstance(first, int) and not isinstance(batch, int) and _alike(first, batch):
                _repeat(copy.graph, value, left[0])
    return copy


def _alike(one: ir.SymbolicDim, other: ir.SymbolicDim) -> bool:
    return one.value == other.value or None in (one.value, other.value)


def _fitting(
    value: ir.Value, given: Any, picture: Callable[[ir.Value, Any], np.ndarray] | None
) -> np.ndarray:
    """What is fed as an array of the input's type and rank.

    raises   UsageError
    """
    refused = f"{_named(given)} for input {_describe(value)} does not fit"
    rank = None if value.shape is None else len(value.shape)
    octets = isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim in (2, 3) and rank == 4
    if picture is not None and (
        octets or not isinstance(given, (np.ndarray, int, float, list, tuple, np.generic))
    ):
        given = picture(value, given)
    dtype = (value.dtype or ir.DataType.FLOAT).numpy()
    try:
        array = np.asarray(given)
        if array.dtype.kind == "f" and dtype.kind in "iu" and not (array == np.rint(array)).all():
            raise ValueError(f"{array.reshape(-1)[:4].tolist()} are no whole numbers")
        array = array.astype(dtype)
        sizes = [size if isinstance(size, int) else 1 for size in value.shape or array.shape]
        if array.ndim != len(sizes):
            array = np.broadcast_to(array, sizes) if array.size == 1 else array.reshape(sizes)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{refused}: {error}") from error
    fixed = [size if isinstance(size, int) else None for size in value.shape or ()]
    if any(size not in (None, length) for size, length in zip(fixed, array.shape, strict=False)):
        raise UsageError(f"{refused}: it has shape {array.shape}")
    return array


def _named(given: Any) -> str:
    """What was fed, as a message begins: the file, or what else it is."""
    return printable(os.fspath(given)) if isinstance(given, (str, os.PathLike)) else "the value"


def _repeat(graph: ir.Graph, value: ir.Value, image: ir.Value) -> None:
    """Let what reads a fed value, (1, ...), read it once for each picture."""
    from onnxviz.graph.tape import Tape

    readers, tape = list(value.uses()), Tape(graph, stem=value.name or "")
    op = tape.before(graph.node(0))
    count = op.Gather(op.Shape(image), tape.const([0]), axis=0)
    out = op.Tile(value, op.Concat(count, *[tape.const([1])] * (len(value.shape or ()) - 1), axis=0))
    out.type, out.meta[FED] = value.type, True
    for node, place in readers:
        node.replace_input_with(place, out)
