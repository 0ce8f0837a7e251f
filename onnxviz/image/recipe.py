"""How a picture becomes a network's input: resize, crop, order of channels, scaling, layout.

Pillow resizes, with its antialiasing filters, as torchvision and timm do; sizes and crop offsets are
rounded as theirs are, so a network sees the very pixels that it was evaluated on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from onnxviz.errors import ImageRejected, ModelUnsuitable, PreprocessingRejected, UsageError, near
from onnxviz.image import fields
from onnxviz.limits import Limits
from onnxviz.provenance import note, unnoted
from onnxviz.text import printable

_RESAMPLING: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
# Where each channel of the input comes from: red 0, green 1, blue 2.
_ORDER: Final = {"RGB": (0, 1, 2), "BGR": (2, 1, 0), "L": (), "RGBA": (0, 1, 2)}
_COUNT: Final = {"RGB": 3, "BGR": 3, "L": 1, "RGBA": 4}
_MOST_CHANNELS: Final = 4096
_DTYPES: Final = ("float32", "float16", "float64", "uint8")
# ITU-R 601, with the integers of Pillow's convert("L"): a grey pixel keeps its value exactly.
_LUMA: Final = (19595, 38470, 7471)
#: What red, green and blue are of grey, (3,) float32.
LUMA: Final = (np.array(_LUMA, np.float64) / 65536).astype(np.float32)
# A resized picture over this many pixels is never made as a whole: a strip of 1×100 000 would need gigabytes.
_WHOLE: Final = 1 << 25


class Geometry(NamedTuple):
    """Where the network's view lies in a picture: resized to (height, width), then cut at (top, left).

    A negative top or left is that much padding. Pixel y of the view is (y + top + ½)·H/height − ½ of the picture.
    """

    height: int
    width: int
    top: int
    left: int


@dataclass(frozen=True)
class Preprocessing:
    """A recipe from a picture, (H, W, 3) uint8 RGB, to a network's input tensor.

    size            (height, width) of the input in pixels; None: each picture keeps its own size; one side None: it
                    follows the picture's aspect, and nothing is cut
    mean, std       per channel, in the input's order, for pixels scaled to 0...1: (pixel/255 − mean)/std
    channels        'RGB', 'BGR', 'L' (grey) or 'RGBA' (opaque); or a number, such as '11': no pictures but arrays of
                    so many channels (see `read`)
    layout          'NCHW' or 'NHWC'
    resize          'crop': the short side to size/crop_fraction, then the centre; 'stretch' (timm's 'squash'): both
                    sides to size/crop_fraction, then the centre; 'pad': the whole picture, the rest filled with the
                    mean; 'letterbox': the same, filled with grey 114 as YOLO networks are trained
    crop_fraction   how much of the resized short side is kept, 0.1 to 1; not used by 'pad' and 'letterbox'
    interpolation   'bilinear', 'bicubic', 'nearest', 'lanczos', 'box' or 'hamming', antialiased as Pillow does
    dtype           'float32', 'float16', 'float64', or 'uint8' for networks that scale pixels themselves
    name            what the recipe is called in manifests
    limits          what `read` refuses: no part of the recipe, but of the network that was opened with it
    raises          PreprocessingRejected for values that make no sense
    """

    size: tuple[int | None, int | None] | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channels: str = "RGB"
    layout: str = "NCHW"
    resize: str = "crop"
    crop_fraction: float = 1.0
    interpolation: str = "bilinear"
    dtype: str = "float32"
    name: str = "custom"
    limits: Limits = field(default=Limits(), compare=False, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        count = _count(self.channels)
        fields.choice("layout", self.layout, ("NCHW", "NHWC"))
        if self.resize == "squash":
            object.__setattr__(self, "resize", "stretch")
        fields.choice("resize", self.resize, ("crop", "stretch", "pad", "letterbox"))
        fields.choice("interpolation", self.interpolation, _RESAMPLING)
        fields.choice("dtype", self.dtype, _DTYPES)
        fraction = fields.number("crop_fraction", self.crop_fraction)
        if not 0.1 <= fraction <= 1:
            raise PreprocessingRejected(f"crop_fraction {fraction}: expected 0.1 to 1")
        coerced = {
            "size": fields.size(self.size),
            "mean": fields.numbers("mean", self.mean, count),
            "std": fields.numbers("std", self.std, count),
            "crop_fraction": fraction,
            "name": printable(self.name, 80),
        }
        for key, value in coerced.items():
            object.__setattr__(self, key, value)  # the dataclass is frozen for everybody else
        if any(not 1e-6 <= abs(std) <= 1e6 for std in self.std) or min(self.std) < 0:
            raise PreprocessingRejected(f"std {self.std}: expected numbers over 0 (1e-6 to 1e6)")
        if any(abs(mean) > 1e6 for mean in self.mean):
            raise PreprocessingRejected(f"mean {self.mean}: expected numbers within ±1e6")
        if self.dtype == "uint8":
            ends = np.concatenate([self.bias, 255 * self.scale + self.bias])
            if ends.min() < -0.5 or ends.max() > 255.5:
                raise PreprocessingRejected(
                    f"a uint8 input takes 0 to 255, but mean {self.mean} and std {self.std} give "
                    f"{ends.min():.4g} to {ends.max():.4g}; use the preset 'uint8', or mean 0 and std 1/255"
                )

    # --- what goes in ---------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """The number of the input's channels."""
        return _count(self.channels)

    @property
    def pictorial(self) -> bool:
        """Whether the network sees pictures, and not arrays of any number of channels."""
        return self.channels in _ORDER

    def require_pictures(self, what: str) -> None:
        """raises   ModelUnsuitable where the network takes arrays of any number of channels, and no pictures"""
        if not self.pictorial:
            raise ModelUnsuitable(
                f"{what} makes pictures, and this network takes arrays of {self.count} channels, which are none; "
                "saliency, cam, occlusion, rise, activations, patches and embed take arrays, and "
                "Network.value_and_gradient differentiates any objective by them"
            )

    @property
    def endings(self) -> Collection[str]:
        """The extensions of the files that are taken in folders."""
        from onnxviz.image import arrays, sniff

        return sniff.EXTENSIONS if self.pictorial else (arrays.SUFFIX,)

    def read(self, source: Any) -> np.ndarray:
        """One picture, (H, W, 3) uint8; of arrays, and of 4 channels given as such, (H, W, C), uint8 or float32.

        source   a path, a PIL image, or a uint8 array, as `onnxviz.image.io.read` takes them. Where `channels` is a
                 number: (H, W, C) uint8 pixels, which are scaled; (H, W, C) or (C, H, W) of any other numbers, the
                 network's own values, which go in as they are; or a .npy file of either
        raises   ImageRejected
        """
        from onnxviz.image import arrays, io

        if self.pictorial and not arrays.is_file(source) and not self._takes_alpha(source):
            return io.read(source, limits=self.limits)
        with unnoted():
            array = (
                arrays.load(source, limits=self.limits)
                if self.pictorial and arrays.is_file(source)
                else source
            )
            if self.pictorial and not self._takes_alpha(array):
                picture = io.read(array, limits=self.limits)
            else:
                picture = arrays.read(array, self)
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
        from onnxviz.image import arrays

        if view.shape[2] == 3 and self.pictorial:
            return view
        return (
            np.ascontiguousarray(view[:, :, :3])
            if view.dtype == np.uint8 and self.pictorial
            else arrays.shown(view)
        )

    # --- the arithmetic -------------------------------------------------------------------------

    @property
    def scale(self) -> np.ndarray:
        """(C,) float32: input = pixel · scale + bias, pixel 0 to 255, in the input's order of channels."""
        return (1 / (255 * np.array(self.std, np.float64))).astype(np.float32)

    @property
    def bias(self) -> np.ndarray:
        """(C,) float32, see `scale`."""
        return (-np.array(self.mean, np.float64) / np.array(self.std, np.float64)).astype(np.float32)

    @property
    def padded(self) -> bool:
        """Whether the whole picture is shown, with something around it."""
        return self.resize in ("pad", "letterbox")

    @property
    def filling(self) -> np.ndarray:
        """(C,) uint8: the colour around a padded picture, in the input's order of channels."""
        if self.resize == "letterbox":
            return np.full(self.count, 114, np.uint8)
        return np.clip(np.rint(255 * np.array(self.mean)), 0, 255).astype(np.uint8)

    @property
    def fixed(self) -> tuple[int, int] | None:
        """(height, width) where every picture is seen at this size, else None."""
        if self.size is None or self.size[0] is None or self.size[1] is None:
            return None
        return self.size[0], self.size[1]

    def seen(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of what is seen of a picture of `height` × `width` pixels."""
        h, w = self.size or (height, width)
        if h is None:
            h = max(1, round(height * (w or width) / width))
        return h, max(1, round(width * h / height)) if w is None else w

    def geometry(self, height: int, width: int) -> Geometry:
        """How a picture of `height` × `width` pixels is resized and cut."""
        h, w = self.seen(height, width)
        if self.fixed is None or (not self.pictorial and (height, width) == (h, w)):
            # An array of the network's own size is not enlarged to be cut.
            return Geometry(h, w, 0, 0)
        if self.padded:
            ratio = max(height / h, width / w)
            resized = max(1, round(height / ratio)), max(1, round(width / ratio))
            return Geometry(*resized, -((h - resized[0]) // 2), -((w - resized[1]) // 2))
        # 224/0.875 is 256; the tolerance is for fractions that stand for a whole size (224/(224/235)).
        long_h, long_w = (math.floor(side / self.crop_fraction + 1e-6) for side in (h, w))
        if self.resize == "stretch":
            resized = long_h, long_w
        elif long_h * width >= long_w * height:  # the side that must grow more decides; the other follows
            resized = long_h, long_h * width // height
        else:
            resized = long_w * height // width, long_w
        # Python rounds halves to even, and torchvision's CenterCrop relies on it.
        return Geometry(*resized, round((resized[0] - h) / 2), round((resized[1] - w) / 2))

    def view(self, image: np.ndarray) -> np.ndarray:
        """The picture exactly as the network sees it, before scaling: (h, w, 3) uint8, a new array.

        image    (H, W, 3) uint8 RGB; or what `read` gave
        returns  of an array of other channels (h, w, C), of its type
        raises   ImageRejected for anything else
        """
        if self._of_planes(image):
            pass
        elif not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
            given = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ImageRejected(
                f"expected an (H, W, 3) uint8 array, got {given}; onnxviz.image.io.read gives one"
            )
        height, width = image.shape[:2]
        if not (height and width):
            raise ImageRejected(f"the picture is empty: {height}×{width} pixels")
        seen = self._fit(image, self.geometry(height, width))
        if seen.ndim == 3 and seen.shape[2] != 3:
            return seen
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
            planes = [
                self._placed(Image.fromarray(np.ascontiguousarray(image[:, :, c])), g, colour[c])
                for c in range(image.shape[2])
            ]
            return np.stack(planes, axis=2)
        picture = Image.fromarray(image)
        if self.channels == "L":
            return self._placed(picture.convert("L"), g, colour[0])
        return self._placed(picture, g, colour[list(_ORDER[self.channels])])

    def _placed(self, picture: Image.Image, g: Geometry, colour: Any) -> np.ndarray:
        """Resized and cut; `colour` fills what is no picture."""
        width, height = picture.size
        h, w = self.seen(height, width)
        filter_ = _RESAMPLING[self.interpolation]
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
        whole = (
            pictures.ndim == 4 and (not self.pictorial or self.count == 4) and pictures.shape[3] == self.count
        )
        if not whole and (
            pictures.ndim != 4
            or pictures.shape[3] != 3
            or pictures.dtype.kind not in "uif"
            or not self.pictorial
        ):
            wanted = "(N, h, w, 3) of 0 to 255" if self.pictorial else f"(N, h, w, {self.count})"
            raise ImageRejected(f"expected pictures {wanted}, got {pictures.shape} {pictures.dtype}")
        if whole:
            planes = list(np.moveaxis(pictures, 3, 0))
        elif self.channels == "L":
            planes = [_grey(pictures)]
        else:
            planes = [pictures[..., channel] for channel in _ORDER[self.channels]]
        scale, bias = self.scale, self.bias
        tensor = np.empty(self._shape(*pictures.shape[:3]), np.float32)
        for channel in range(len(scale)):
            target = tensor[:, channel] if self.layout == "NCHW" else tensor[..., channel]
            if channel < len(planes):
                np.multiply(
                    planes[channel], scale[channel], out=target, dtype=np.float32, casting="same_kind"
                )
                target += bias[channel]
            else:
                target[...] = 255 * scale[channel] + bias[channel]  # alpha: `read` gives opaque pictures
        if self.dtype == "uint8":
            return np.clip(np.rint(tensor), 0, 255).astype(np.uint8)
        return tensor.astype(self.dtype, copy=False)

    def _shape(self, count: int, height: int, width: int) -> tuple[int, ...]:
        channels = self.count
        if self.layout == "NCHW":
            return count, channels, height, width
        return count, height, width, channels

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
        order = _ORDER[self.channels] or (0, 0, 0)  # both orders are their own inverse
        scale, bias = self.scale, self.bias
        pictures = np.empty((*planes.shape[1:], 3), np.uint8)
        for colour, channel in enumerate(order):
            plane = (planes[channel].astype(np.float32) - bias[channel]) / scale[channel]
            pictures[..., colour] = np.clip(np.rint(np.nan_to_num(plane)), 0, 255)
        return pictures

    # --- other recipes --------------------------------------------------------------------------

    def override(
        self,
        *,
        size: int | str | Sequence[int | None] | None = None,
        mean: float | str | Sequence[float] | None = None,
        std: float | str | Sequence[float] | None = None,
        channels: str | None = None,
        layout: str | None = None,
        resize: str | None = None,
        crop_fraction: float | None = None,
        interpolation: str | None = None,
        dtype: str | None = None,
        name: str | None = None,
    ) -> Preprocessing:
        """This recipe with other values; None keeps a value. For the command line's options, texts are taken too.

        size        a side, (height, width), '224', '224x320' (height first), or 'own': each picture's own size; one of
                    (height, width) may be None, see there
        mean, std   one number, one a channel in the input's order, or '0.485,0.456,0.406'; numbers over 1 are for
                    pixels of 0...255 (then both of what is given here)
        channels    mean and std that are not given here follow their colours: reversed for BGR, averaged for 'L'
        resize      'stretch', 'pad' and 'letterbox' show the whole picture unless `crop_fraction` is given too
        dtype       'uint8' takes plain pixels unless mean or std is given too
        raises      UsageError
        """
        try:
            changed = replace(self._recoloured(channels or self.channels), name=name or self.name)
            if dtype == "uint8" != self.dtype:
                changed = replace(changed, **plain(changed.channels))
            resize = "stretch" if resize == "squash" else resize
            if resize in ("stretch", "pad", "letterbox") and resize != self.resize:
                changed = replace(changed, crop_fraction=1.0)
            count = changed.count
            given: dict[str, Any] = fields.to_unit(
                None if mean is None else fields.numbers("mean", fields.parsed_numbers("mean", mean), count),
                None if std is None else fields.numbers("std", fields.parsed_numbers("std", std), count),
            )
            given |= {"layout": layout, "resize": resize, "crop_fraction": crop_fraction}
            given |= {"interpolation": interpolation, "dtype": dtype}
            given = {key: value for key, value in given.items() if value is not None}
            if size is not None:
                given["size"] = None if size == fields.OWN_SIZE else fields.parsed_size(size)
            return replace(changed, **given)
        except PreprocessingRejected as error:
            raise UsageError(str(error)) from error

    def _recoloured(self, channels: str) -> Preprocessing:
        """The same scaling of each colour for another set of channels."""
        count = _count(channels)
        if channels == self.channels:
            return self

        def moved(values: tuple[float, ...], alpha: float) -> tuple[float, ...]:
            if not (self.pictorial and channels in _ORDER):
                return values if len(values) == count else (sum(values) / len(values),) * count
            rgb = [values[channel] for channel in _ORDER[self.channels] or (0, 0, 0)]
            if channels == "L":
                return (sum(rgb) / 3,)
            return tuple(rgb[channel] for channel in _ORDER[channels]) + (
                (alpha,) if channels == "RGBA" else ()
            )

        plain = self.std[0] if len(set(self.std)) == 1 and not any(self.mean) else 1.0
        return replace(self, channels=channels, mean=moved(self.mean, 0.0), std=moved(self.std, plain))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON holds it; `from_dict` gives it back exactly."""
        return {
            **{key: value for key, value in asdict(self).items() if key != "limits"},
            "size": list(self.size) if self.size else None,
            "mean": list(self.mean),
            "std": list(self.std),
            "unit": "pixel/255",
        }

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
        unit, preset = given.pop("unit", None), given.pop("preset", None)
        for key in given:
            if key not in known:
                raise PreprocessingRejected(
                    f"unknown field {printable(key, 60)!r}{near(str(key), known)}; expected {', '.join(sorted(known))}"
                )
        base = cls() if preset is None else _preset(preset)
        base = base._recoloured(given.get("channels", base.channels))
        if unit not in (None, "pixel", "pixel/255"):
            raise PreprocessingRejected(f"unit {printable(unit, 40)!r}: expected 'pixel/255' or 'pixel'")
        count = base.count
        scaled: dict[str, Any] = {
            key: fields.numbers(key, given[key], count)
            for key in ("mean", "std")
            if given.get(key) is not None
        }
        given = {key: value for key, value in given.items() if key not in ("mean", "std")}
        if unit == "pixel":
            scaled = {key: tuple(value / 255 for value in values) for key, values in scaled.items()}
        elif unit is None:
            scaled = fields.to_unit(scaled.get("mean"), scaled.get("std"))
        return replace(base, **given, **scaled)


def plain(channels: str) -> dict[str, Any]:
    """The mean and std that leave pixels at 0...255."""
    return {"mean": (0.0,) * _count(channels), "std": (1 / 255,) * _count(channels)}


def _count(channels: Any) -> int:
    """The number of channels of a name, or of a number in letters.

    raises   PreprocessingRejected
    """
    if isinstance(channels, str) and channels.isascii() and channels.isdecimal():
        if 1 <= int(channels) <= _MOST_CHANNELS:
            return int(channels)
        raise PreprocessingRejected(f"channels {printable(channels, 20)}: expected 1 to {_MOST_CHANNELS}")
    fields.choice("channels", channels, _ORDER)
    return _COUNT[channels]


def _grey(pictures: np.ndarray) -> np.ndarray:
    """(N, h, w) float32 luma of (N, h, w, 3)."""
    r, g, b = (
        np.float32(weight / 65536) * pictures[..., i].astype(np.float32) for i, weight in enumerate(_LUMA)
    )
    total: np.ndarray = r + g + b
    return total


def _preset(name: object) -> Preprocessing:
    from onnxviz.image.preprocess import preset

    return preset(name)
