"""A recipe applied to pictures, on Pillow and NumPy, and the recipes that are known by name.

This is the way that a network's maker took: Pillow resizes, with its antialiasing filters, as torchvision and timm do,
so a network sees the very pixels that it was evaluated on. No ONNX operator does all of that to the bit; what has to
stand inside a graph, or needs a gradient there, is `front`, from the same recipe.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from onnxviz.errors import ImageRejected, PreprocessingRejected, near
from onnxviz.graph import metadata
from onnxviz.image.recipe import LUMA, ORDER, Geometry, Recipe, checked_numbers, plain, to_unit
from onnxviz.limits import Limits
from onnxviz.provenance import note, unnoted
from onnxviz.text import printable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PRESETS", "Geometry", "Preprocessing", "preset", "recorded"]

# A resized picture over this many pixels is never made as a whole: a strip of 1×100 000 would need gigabytes.
_WHOLE: Final = 1 << 25


class Preprocessing(Recipe):  # noqa: D101
    __doc__ = Recipe.__doc__  # the fields are what a user asks for

    @property
    def endings(self) -> Collection[str]:
        """The extensions of the files that are taken in folders."""
        from onnxviz.image import sniff

        return sniff.EXTENSIONS if self.pictorial else (ARRAY_SUFFIX,)

    def read(self, source: Any) -> np.ndarray:
        """One picture, (H, W, 3) uint8; of arrays, and of 4 channels given as such, (H, W, C), uint8 or float32.

        source   a path, a PIL image, or a uint8 array, as `onnxviz.image.io.read` takes them. Where `channels` is a
                 number: (H, W, C) uint8 pixels, which are scaled; (H, W, C) or (C, H, W) of any other numbers, the
                 network's own values, which go in as they are; or a .npy file of either
        raises   ImageRejected
        """
        from onnxviz.image import io

        if self.pictorial and not is_array_file(source) and not self._takes_alpha(source):
            return io.read(source, limits=self.limits)
        with unnoted():
            array = source
            if self.pictorial and is_array_file(source):
                array = load_array(source, limits=self.limits)
            plain = self.pictorial and not self._takes_alpha(array)
            picture = io.read(array, limits=self.limits) if plain else read_array(array, self)
        note(source, None, picture)
        return picture

    def _takes_alpha(self, source: Any) -> bool:
        """Whether an array holds the four channels that the network takes."""
        if self.channels != "RGBA" or not isinstance(source, np.ndarray):
            return False
        shape = source.shape[1:] if source.ndim == 4 and len(source) == 1 else source.shape
        return 4 in (*shape[:1], *shape[2:])

    def shown(self, view: np.ndarray) -> np.ndarray:
        """What `view` gave as a picture to look at, (h, w, 3) uint8: itself, or the mean of an array's channels."""
        if self.pictorial and (view.shape[2] == 3 or view.dtype == np.uint8):
            return view if view.shape[2] == 3 else np.ascontiguousarray(view[:, :, :3])
        return array_shown(view)

    def view(self, image: np.ndarray) -> np.ndarray:
        """The picture exactly as the network sees it, before scaling: (h, w, 3) uint8, a new array.

        image    (H, W, 3) uint8 RGB; or what `read` gave
        returns  of an array of other channels (h, w, C), of its type
        raises   ImageRejected for anything else
        """
        rgb = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,)
        if not rgb and not self._of_planes(image):
            given = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ImageRejected(
                f"expected an (H, W, 3) uint8 array, got {given}; onnxviz.image.io.read gives one"
            )
        height, width = image.shape[:2]
        if not (height and width):
            raise ImageRejected(f"the picture is empty: {height}×{width} pixels")
        seen = self._fit(image, self.geometry(height, width))
        return np.repeat(seen[:, :, None], 3, axis=2) if seen.ndim == 2 else seen

    def _of_planes(self, image: Any) -> bool:
        """Whether this is no RGB picture but an array with the channels of the input, or several."""
        known = isinstance(image, np.ndarray) and image.ndim == 3 and image.dtype in (np.uint8, np.float32)
        return known and image.shape[2] == self.count and (not self.pictorial or self.count == 4)

    def _fit(self, image: np.ndarray, g: Geometry) -> np.ndarray:
        """Resized and cut: a new (h, w, C) array, or (h, w) where the network sees grey."""
        colour = self.filling
        if image.dtype != np.uint8 and self.resize == "pad":
            colour = 255 * np.array(self.mean, np.float32)
        if self._of_planes(image):
            # Pillow knows one plane of float32, or three of bytes: each by itself.
            planes = map(np.ascontiguousarray, np.moveaxis(image, 2, 0))
            placed = [
                self._placed(Image.fromarray(plane), g, c) for plane, c in zip(planes, colour, strict=True)
            ]
            return np.stack(placed, axis=2)
        picture = Image.fromarray(image)
        if self.channels == "L":
            return self._placed(picture.convert("L"), g, colour[0])
        return self._placed(picture, g, colour[list(ORDER[self.channels])])

    def _placed(self, picture: Image.Image, g: Geometry, colour: Any) -> np.ndarray:
        """Resized and cut; `colour` fills what is no picture."""
        width, height = picture.size
        h, w = self.seen(height, width)
        filter_ = Image.Resampling[self.interpolation.upper()]
        top, left = g.top, g.left
        if g.height * g.width > max(_WHOLE, height * width) and not self.padded:
            # Only what is kept. The same pixels, but for the rounding of the box to float32.
            y, x = height / g.height, width / g.width
            box = (left * x, top * y, min((left + w) * x, width), min((top + h) * y, height))
            return np.array(picture.resize((w, h), filter_, box))
        if (g.height, g.width) != (height, width):
            picture = picture.resize((g.width, g.height), filter_)
        if self.padded and (g.height, g.width) != (h, w):
            pixels = np.asarray(picture)
            canvas = np.empty((h, w, *pixels.shape[2:]), pixels.dtype)
            canvas[:] = colour
            canvas[-top : g.height - top, -left : g.width - left] = pixels
            return canvas
        if (g.height, g.width) != (h, w):
            picture = picture.crop((left, top, left + w, top + h))
        return np.array(picture)

    def normalise(self, pictures: np.ndarray) -> np.ndarray:
        """The input tensor of pictures that are seen already: (N, C, h, w) or (N, h, w, C) of `dtype`.

        pictures   (N, h, w, 3) RGB, uint8 or float, 0 to 255, or (N, h, w, C), as `view` gives them
        raises     ImageRejected for another shape
        """
        pictures = np.asarray(pictures)
        channels = pictures.shape[3] if pictures.ndim == 4 else 0
        whole = channels == self.count and (not self.pictorial or self.count == 4)
        if not whole and (channels != 3 or pictures.dtype.kind not in "uif" or not self.pictorial):
            wanted = "(N, h, w, 3) of 0 to 255" if self.pictorial else f"(N, h, w, {self.count})"
            raise ImageRejected(f"expected pictures {wanted}, got {pictures.shape} {pictures.dtype}")
        if whole:
            planes = list(np.moveaxis(pictures, 3, 0))
        elif self.channels == "L":
            r, g, b = (weight * pictures[..., i].astype(np.float32) for i, weight in enumerate(LUMA))
            planes = [r + g + b]
        else:
            planes = [pictures[..., channel] for channel in ORDER[self.channels]]
        scale, bias = self.scale, self.bias
        sizes = dict(zip("NHWC", (*pictures.shape[:3], self.count), strict=True))
        tensor = np.empty([sizes[axis] for axis in self.layout], np.float32)
        for channel, target in enumerate(np.moveaxis(tensor, self.layout.index("C"), 0)):
            if channel < len(planes):
                factor = scale[channel]
                np.multiply(planes[channel], factor, out=target, dtype=np.float32, casting="same_kind")
                np.add(target, bias[channel], out=target)
            else:
                target[...] = 255 * scale[channel] + bias[channel]  # alpha: `read` gives opaque pictures
        if self.codes is not None:
            return np.clip(np.rint(tensor), *self.codes).astype(self.dtype)
        return tensor.astype(self.dtype, copy=False)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The input tensor of one picture without the batch axis: (C, h, w) or (h, w, C) of `dtype`.

        image    (H, W, 3) uint8 RGB
        raises   ImageRejected
        """
        tensor: np.ndarray = self.normalise(self.view(image)[None])[0]
        return tensor

    def invert(self, tensor: np.ndarray) -> np.ndarray:
        """Input tensors back as pictures (N, h, w, 3) uint8 RGB; what lies outside 0...255 is clipped. Arrays of other
        channels come whole, (N, h, w, C) float32 in the units of pixels.

        tensor   (N, C, h, w) or (N, h, w, C), whatever `layout` says
        raises   ImageRejected for another shape
        """
        tensor = np.asarray(tensor)
        axis = 1 if self.layout == "NCHW" else 3
        if tensor.ndim != 4 or tensor.shape[axis] != self.count:
            wanted = self.layout.replace("C", str(self.count))
            raise ImageRejected(f"expected a tensor {wanted} of {self.channels}, got {tensor.shape}")
        planes = np.moveaxis(tensor, axis, 0)
        if not self.pictorial:
            return np.nan_to_num((np.moveaxis(planes, 0, 3).astype(np.float32) - self.bias) / self.scale)
        order = ORDER[self.channels] or (0, 0, 0)  # both orders are their own inverse
        scale, bias = self.scale, self.bias
        pictures = np.empty((*planes.shape[1:], 3), np.uint8)
        for colour, channel in enumerate(order):
            plane = (planes[channel].astype(np.float32) - bias[channel]) / scale[channel]
            pictures[..., colour] = np.clip(np.rint(np.nan_to_num(plane)), 0, 255)
        return pictures

    def pixel_gradient(self, gradient: np.ndarray) -> np.ndarray:
        """The gradient by the input as the gradient by the pixels that `normalise` was given: its adjoint.

        gradient   (N, C, h, w) or (N, h, w, C), as `layout` says
        returns    (N, h, w, 3) float32, RGB, by pixels of 0 to 255
        """
        planes = np.moveaxis(gradient, 1, 3) if self.layout == "NCHW" else gradient
        pixels: np.ndarray = planes @ self.matrix.astype(np.float32)
        return pixels

    @classmethod
    def from_dict(cls, recipe: Mapping[str, Any]) -> Preprocessing:
        """The recipe that a JSON object describes; what it leaves out has the values of its 'preset', or the defaults.

        Beside the fields of this class: 'preset', a name; 'unit', what mean and std are for: 'pixel/255' (0...1)
        or 'pixel' (0...255). Without it, numbers over 1 are taken for pixels of 0...255.

        raises   PreprocessingRejected
        """
        if not isinstance(recipe, Mapping):
            raise PreprocessingRejected(f"expected a JSON object, got {type(recipe).__name__}")
        known = set(cls.__dataclass_fields__) - {"limits"}
        given = dict(recipe)
        unit, name = given.pop("unit", None), given.pop("preset", None)
        for key in given:
            if key not in known:
                raise PreprocessingRejected(
                    f"unknown field {printable(key, 60)!r}{near(str(key), known)}; expected {', '.join(sorted(known))}"
                )
        base = Preprocessing() if name is None else preset(name)
        base = base._recoloured(given.get("channels", base.channels))
        if unit not in (None, "pixel", "pixel/255"):
            raise PreprocessingRejected(f"unit {printable(unit, 40)!r}: expected 'pixel/255' or 'pixel'")
        both = {key: given.pop(key, None) for key in ("mean", "std")}
        scaled: dict[str, Any] = {
            key: checked_numbers(key, value, base.count) for key, value in both.items() if value is not None
        }
        if unit == "pixel":
            scaled = {key: tuple(value / 255 for value in values) for key, values in scaled.items()}
        elif unit is None:
            scaled = to_unit(scaled.get("mean"), scaled.get("std"))
        return replace(base, **given, **scaled)


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Recipes by name. `uint8` and `raw` leave pixels at 0...255, as uint8 and as float.
PRESETS: Final[Mapping[str, Preprocessing]] = {
    recipe.name: recipe
    for recipe in (
        # torchvision's and timm's usual evaluation.
        Preprocessing((224, 224), _IMAGENET_MEAN, _IMAGENET_STD, crop_fraction=0.875, name="imagenet"),
        # (RGB − 127)/128, as EfficientNet-Lite was trained.
        Preprocessing(
            (224, 224),
            (127 / 255,) * 3,
            (128 / 255,) * 3,
            crop_fraction=0.875,
            interpolation="bicubic",
            name="efficientnet-lite",
        ),
        # −1...1, as Keras' "tf" mode: Inception, MobileNet, NASNet.
        Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3, crop_fraction=0.875, name="tensorflow"),
        # BGR, 0...255 less the mean colour: the networks that came from Caffe, and Keras' "caffe" mode.
        Preprocessing(
            (224, 224),
            (103.939 / 255, 116.779 / 255, 123.68 / 255),
            (1 / 255,) * 3,
            channels="BGR",
            crop_fraction=0.875,
            name="caffe",
        ),
        Preprocessing(name="unit"),
        Preprocessing(**plain("RGB"), name="raw"),
        Preprocessing(**plain("RGB"), dtype="uint8", name="uint8"),
    )
}


def preset(name: object) -> Preprocessing:
    """The recipe called `name`; raises PreprocessingRejected, suggesting near names."""
    if not isinstance(name, str) or name not in PRESETS:
        raise PreprocessingRejected(
            f"no preset is called {printable(repr(name), 60)}{near(str(name), PRESETS)}; there are {', '.join(PRESETS)}"
        )
    return PRESETS[name]


def recorded(model: ir.Model, warnings: list[str] | None = None) -> Preprocessing | None:
    """How a model says its pictures are prepared, or None; what cannot be read is noted in `warnings`."""
    found = metadata.read(model.metadata_props)
    told = [text for text in found.warnings if metadata.LABELS not in text and "metadata names" not in text]
    metadata.note(warnings, told)
    if found.preprocessing is None:
        return None
    try:
        return Preprocessing.from_dict(dict(found.preprocessing))
    except PreprocessingRejected as error:
        metadata.note(warnings, [f"metadata {metadata.PREPROCESSING}: {error}; ignored"])
        return None


# --- arrays of any number of channels, given as such or as .npy files -----------------------------


#: The ending of the files that hold an array.
ARRAY_SUFFIX: Final = ".npy"


def is_array_file(source: Any) -> bool:
    """Whether `source` is the path of an array's file, by its name."""
    return isinstance(source, (str, os.PathLike)) and Path(os.fsdecode(source)).suffix.lower() == ARRAY_SUFFIX


def load_array(path: str | os.PathLike[str], *, limits: Limits | None = None) -> np.ndarray:
    """The array in a .npy file; nothing in it is ever executed, and no more is read than it holds.

    limits   max_bytes
    raises   ImageRejected
    """
    from onnxviz.image.io import read_bytes

    name = printable(path, 200)
    data = read_bytes(os.fsdecode(path), name, (limits or Limits()).max_bytes, "max_bytes")
    try:
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        form = np.lib.format
        header = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if dtype.hasobject:
            raise ImageRejected(f"{name}: it holds Python objects, not numbers; save a plain array")
        array = np.frombuffer(data, dtype, offset=file.tell())
        found: np.ndarray = array.reshape(shape, order="F" if fortran else "C")
    except ImageRejected:
        raise
    except (
        Exception
    ) as error:  # a stranger's header: SyntaxError, ValueError, OverflowError, UnicodeError, ...
        raise ImageRejected(f"{name}: not a sound .npy file ({printable(error, 120)})") from error
    return found


def read_array(source: Any, recipe: Recipe) -> np.ndarray:
    """One picture of `recipe.count` channels, (H, W, C): uint8, or float32 in the units of pixels.

    What is no uint8 holds the network's own values (see `Preprocessing.read`); they are brought to the units that
    pixels have, 0 to 255 before `mean` and `std`, so that nothing behind this tells the two apart.

    raises   ImageRejected
    """
    name = "the array"
    if is_array_file(source):
        name = printable(source, 200)
        source = load_array(source, limits=recipe.limits)
    if not isinstance(source, np.ndarray):
        what = printable(source, 200) if isinstance(source, (str, os.PathLike)) else "a picture"
        raise ImageRejected(f"{what}: {_wanted(recipe)}")
    array = source[0] if source.ndim == 4 and len(source) == 1 else source
    given = f"{name} of shape {source.shape}, {source.dtype}"
    if array.dtype.kind not in "uif":
        raise ImageRejected(f"{given}, holds no numbers; {_wanted(recipe)}")
    if array.ndim == 2 and recipe.count == 1:
        array = array[:, :, None]
    if array.ndim != 3:
        raise ImageRejected(f"{given}: {_wanted(recipe)}")
    first, last = array.shape[0] == recipe.count, array.shape[2] == recipe.count
    if first and array.dtype != np.uint8 and (not last or recipe.layout == "NCHW"):
        array = np.moveaxis(array, 0, 2)
    elif not last:
        cure = "; channels come last: array.transpose(1, 2, 0)" if first else ""
        raise ImageRejected(f"{given}: {_wanted(recipe)}{cure}")
    if 0 in array.shape:
        raise ImageRejected(f"{given} is empty")
    if array.dtype == np.uint8:
        return np.array(array, order="C")
    if not np.isfinite(array).all():
        raise ImageRejected(f"{given} holds values that are not finite")
    pixels = (array.astype(np.float64) - recipe.bias) / recipe.scale
    return np.ascontiguousarray(pixels, dtype=np.float32)


def _wanted(recipe: Recipe) -> str:
    count = recipe.count
    return (
        f"this network takes {count} channel{'s' if count > 1 else ''} given as numbers, not pictures; give an array "
        f"(H, W, {count}) of uint8 pixels, or (H, W, {count}) or ({count}, H, W) of the network's own values, or "
        "its .npy file"
    )


def array_shown(view: np.ndarray) -> np.ndarray:
    """An array (h, w, C) in the units of pixels as a picture, (h, w, 3) uint8: the mean of its channels, in grey.

    Where that leaves 0 to 255 it is stretched from its least to its greatest value.
    """
    grey = view.astype(np.float32).mean(axis=2)
    low, high = float(grey.min()), float(grey.max())
    if low < -0.5 or high > 255.5 or (view.dtype != np.uint8 and high - low < 8):
        grey = (grey - low) * (255 / (high - low) if high > low else 0.0)
    pixels = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return np.repeat(pixels[:, :, None], 3, axis=2)
