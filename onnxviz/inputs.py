"""Which input of a network takes the image, in what form, and how pictures become it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, UsageError, near, spelt, ways
from onnxviz.graph.analysis.dataflow import FED
from onnxviz.text import printable

if TYPE_CHECKING:
    from onnxviz.graph.quantisers import Quantiser
    from onnxviz.image.preprocessing import Preprocessing

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
    dtype     'float32', 'float16', 'float64', 'uint8' or 'int8'
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

    @property
    def whole(self) -> bool:
        """Whether it takes whole numbers: pixels, or codes."""
        return self.dtype in ("uint8", "int8")

    def to_dict(self) -> dict[str, Any]:
        """As it stands in manifests."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype, "layout": self.layout}


def as_list(images: Images) -> list[ImageLike]:
    """A list of images from one image or several."""
    several = isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4)
    return list(images) if several else [images]


_DTYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.DOUBLE: "float64",
    ir.DataType.UINT8: "uint8",
    ir.DataType.INT8: "int8",
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
            f"expected an image input of four dimensions, float, uint8 or int8; the model has {listed}. "
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
    from onnxviz.graph.analysis.probe import SETTLED
    from onnxviz.graph.analysis.twins import read_as

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
            elif isinstance(first, int) or isinstance(batch, int):
                continue
            elif first.value == batch.value or None in (first.value, batch.value):
                _repeat(copy.graph, value, left[0])
    return copy


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


# --- how pictures become it -----------------------------------------------------------------------

DEFAULT_SIZE: Final = 224
#: How the warning begins that the preprocessing is a guess.
ASSUMED: Final = "the file does not say how pictures become its input"
_RESIZE: Final = ("crop", "stretch", "letterbox", "squash", "pad")


def recipe_of(
    preprocess: Any,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    channels: str | None,
    resize: str | None,
    size: int | tuple[int, int] | None,
    graph: ir.Model,
    spec: InputSpec,
    warnings: list[str],
) -> tuple[Preprocessing, str | None]:
    """How pictures become this input, and what was assumed of it."""
    from onnxviz.image.preprocessing import recorded as read_recorded

    recorded = read_recorded(graph, warnings)
    held = told = None
    if spec.whole:
        from onnxviz.graph.quantisers import of_input

        held = of_input(graph, spec.name)
    if preprocess is None and recorded is None:
        recorded, told = _assumed(graph, spec, held, scaled=mean is not None or std is not None)
    chosen = _preprocessing(preprocess, recorded, spec, wanted_size(size, spec), told=told is None)
    changes: dict[str, Any] = dict(mean=mean, std=std, channels=channels.upper() if channels else None)
    if spec.whole:
        from onnxviz.image.codes import in_codes

        final = in_codes(chosen, spec.dtype, held, **changes)
    else:
        final = chosen.override(**changes)
    return _resized(final, resize, spec), told


def _assumed(
    graph: ir.Model, spec: InputSpec, held: Quantiser | None, scaled: bool
) -> tuple[Preprocessing | None, str | None]:
    """The recipe that is guessed where nothing says how pictures become the input, and what is told of it.

    held     what an input of whole numbers means to the file
    scaled   mean or std are given
    """
    from onnxviz.graph.input_scaling import RANGES, input_scaling
    from onnxviz.image.preprocessing import PRESETS

    remedy = ways("if predictions look wrong, give --preprocess NAME|FILE")
    if spec.whole:
        from onnxviz.image.codes import assumed

        recipe, text = assumed(spec.dtype, spec.channels, held, scaled)
        return recipe, spelt(f"{ASSUMED}{text}{remedy}") if text else None
    scaling = input_scaling(graph, spec.name)
    if scaling is None:
        preset = "imagenet" if spec.channels in (3, None) else "unit"
        return PRESETS[preset], spelt(f"{ASSUMED}: assuming {preset!r}{remedy}")
    chosen = PRESETS[scaling.preset]
    if scaling.bgr:
        chosen = chosen.override(channels="BGR")
    low, high = RANGES[scaling.preset]
    told = f"{'BGR' if scaling.bgr else 'pixels'} of {low:g} to {high:g}, {scaling.preset!r}"
    return chosen, spelt(f"{ASSUMED}, but {scaling.reason}: assuming {told}{remedy}")


def _resized(preprocessing: Preprocessing, resize: str | None, spec: InputSpec) -> Preprocessing:
    """The recipe with the way of resizing that the caller chose.

    raises   UsageError for an unknown one, and for 'keep' where the file fixes the size
    """
    if resize is None:
        return preprocessing
    if resize == "keep":
        if spec.height is not None and spec.width is not None:
            raise UsageError(
                f"this network's input is fixed to {spec.width}×{spec.height} pixels: no picture keeps its own size"
                + ways("choose another --resize: crop, stretch or letterbox")
            )
        one_side = spec.height is not None or spec.width is not None
        return preprocessing.override(size=(spec.height, spec.width) if one_side else "own")
    if resize not in _RESIZE:
        raise UsageError(
            f"resize {resize!r}{near(resize, _RESIZE)}: expected crop, stretch, letterbox or keep"
        )
    return preprocessing.override(resize=resize)


def wanted_size(size: int | tuple[int, int] | None, spec: InputSpec) -> tuple[int, int] | None:
    """(height, width) that was asked for: one number is both, or the side that the file leaves open."""
    if size is None:
        return None
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, Integral) for side in sides):
        raise UsageError(f"size takes a whole number of pixels, or (height, width); got {size!r}")
    if sides is not size and (spec.height is None) != (spec.width is None):
        return spec.height or sides[0], spec.width or sides[1]
    return sides[0], sides[1]


def _channels(count: int | None, chosen: Preprocessing) -> str:
    """What so many channels are taken for: pictures where they can be, else arrays."""
    if count is None or (not chosen.pictorial and chosen.count == count):
        return chosen.channels
    if count in (1, 3):
        return "L" if count == 1 else chosen.channels if chosen.count == 3 else "RGB"
    return "RGBA" if count == 4 else str(count)


def _preprocessing(
    given: Any, recorded: Preprocessing | None, spec: InputSpec, size: tuple[int, int] | None, told: bool
) -> Preprocessing:
    """What was given, else what the model's metadata says or what is assumed, fitted to the model's input.

    told   `recorded` is what the file says, and no guess
    """
    from onnxviz.image.preprocessing import PRESETS, Preprocessing

    if isinstance(given, Preprocessing):
        chosen = given
    elif isinstance(given, (str, os.PathLike)) and str(given) in PRESETS:
        chosen = PRESETS[str(given)]
    elif isinstance(given, (str, os.PathLike)):
        from onnxviz.image.configs import from_file

        chosen = from_file(given)
    elif given is not None:
        kind = type(given).__name__
        raise UsageError(
            f"preprocess is a preset's name, a JSON file or an onnxviz.Preprocessing, not a {kind!r}"
        )
    else:
        chosen = recorded or PRESETS["uint8"]
    channels = _channels(spec.channels, chosen)
    final: Any = size or (spec.height, spec.width)
    if None in final:
        # What the file fixes stays; an open side is as the recipe says, where that agrees with the fixed one.
        said = chosen.size if chosen.size is not None and (given is not None or told) else None
        agreeing = said is not None and all(a in (None, b) for a, b in zip(final, said, strict=True))
        if final == (None, None):
            final = chosen.size or ((DEFAULT_SIZE, DEFAULT_SIZE) if given is None else None)
        elif agreeing:
            final = said
    # What is meant for real numbers becomes codes once all of it is known.
    dtype = None if spec.whole and chosen.codes is None else spec.dtype
    return chosen.override(size=final, channels=channels, layout=spec.layout, dtype=dtype)
