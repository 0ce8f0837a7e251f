"""What a recipe from picture to network input says: size, crop, order of channels, scaling, layout.

The one description that everything reads: `preprocessing` does it with Pillow and NumPy, `front` as a graph with its
gradient. Sizes and crop offsets are rounded as torchvision's and timm's are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, NamedTuple, Self

import numpy as np

from onnxviz.errors import ModelUnsuitable, PreprocessingRejected, UsageError, near, ways
from onnxviz.limits import Limits
from onnxviz.text import printable

_INTERPOLATIONS: Final = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
#: Where each channel of the input comes from: red 0, green 1, blue 2; none of grey, which is all of them.
ORDER: Final = {"RGB": (0, 1, 2), "BGR": (2, 1, 0), "L": (), "RGBA": (0, 1, 2)}
_COUNT: Final = {"RGB": 3, "BGR": 3, "L": 1, "RGBA": 4}
_MOST_CHANNELS: Final = 4096
_DTYPES: Final = ("float32", "float16", "float64", "uint8", "int8")
# What quantisers may cut off is a part of what pixels become, and what is left is more than a few codes.
_HELD, _FEWEST_CODES = 0.75, 64
#: ITU-R 601, with the integers of Pillow's convert("L"): a grey pixel keeps its value exactly.
LUMA_65536: Final = (19595, 38470, 7471)
#: What red, green and blue are of grey, (3,) float32.
LUMA: Final = (np.array(LUMA_65536, np.float64) / 65536).astype(np.float32)


class Geometry(NamedTuple):
    """Where the network's view lies in a picture: resized to (height, width), then cut at (top, left).

    A negative top or left is that much padding. Pixel y of the view is (y + top + ½)·H/height − ½ of the picture.
    """

    height: int
    width: int
    top: int
    left: int


@dataclass(frozen=True)
class Recipe:
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
    dtype           'float32', 'float16', 'float64', or 'uint8' and 'int8' for networks that scale pixels themselves
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
        check_choice("layout", self.layout, ("NCHW", "NHWC"))
        if self.resize == "squash":
            object.__setattr__(self, "resize", "stretch")
        check_choice("resize", self.resize, ("crop", "stretch", "pad", "letterbox"))
        check_choice("interpolation", self.interpolation, _INTERPOLATIONS)
        check_choice("dtype", self.dtype, _DTYPES)
        fraction = checked_number("crop_fraction", self.crop_fraction)
        if not 0.1 <= fraction <= 1:
            raise PreprocessingRejected(f"crop_fraction {fraction}: expected 0.1 to 1")
        coerced = {
            "size": checked_size(self.size),
            "mean": checked_numbers("mean", self.mean, count),
            "std": checked_numbers("std", self.std, count),
            "crop_fraction": fraction,
            "name": printable(self.name, 80),
        }
        for key, value in coerced.items():
            object.__setattr__(self, key, value)  # the dataclass is frozen for everybody else
        if any(not 1e-6 <= abs(std) <= 1e6 for std in self.std) or min(self.std) < 0:
            raise PreprocessingRejected(f"std {self.std}: expected numbers over 0 (1e-6 to 1e6)")
        if any(abs(mean) > 1e6 for mean in self.mean):
            raise PreprocessingRejected(f"mean {self.mean}: expected numbers within ±1e6")
        if self.codes is not None:
            (first, last), (low, high) = self.codes, self.extent
            beyond = low < first - 0.5 or high > last + 0.5
            if beyond and min(high, last) - max(low, first) < max(_HELD * (high - low), _FEWEST_CODES):
                raise PreprocessingRejected(
                    f"a {self.dtype} input takes {first} to {last}, but mean {self.mean} and std {self.std} give "
                    f"{low:.4g} to {high:.4g}; use the preset 'uint8', which leaves pixels as they are"
                )

    # --- what goes in ---------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """The number of the input's channels."""
        return _count(self.channels)

    @property
    def pictorial(self) -> bool:
        """Whether the network sees pictures, and not arrays of any number of channels."""
        return self.channels in ORDER

    def require_pictures(self, what: str) -> None:
        """raises   ModelUnsuitable where the network takes arrays of any number of channels, and no pictures"""
        if not self.pictorial:
            raise ModelUnsuitable(
                f"{what} makes pictures, and this network takes arrays of {self.count} channels, which are none; "
                "saliency, cam, occlusion, rise, activations, patches and embed take arrays, and "
                "Network.value_and_gradient differentiates any objective by them"
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
    def extent(self) -> tuple[float, float]:
        """The smallest and largest number that a picture can become."""
        ends = np.concatenate([self.bias, 255 * self.scale + self.bias])
        return float(ends.min()), float(ends.max())

    @property
    def codes(self) -> tuple[int, int] | None:
        """The smallest and largest of an input of whole numbers; None for one of real numbers."""
        if not self.dtype.endswith("int8"):
            return None
        return int(np.iinfo(self.dtype).min), int(np.iinfo(self.dtype).max)

    @property
    def matrix(self) -> np.ndarray:
        """(C, 3) float64: input = matrix · (red, green, blue) + bias, pixels 0 to 255; a row of 0 for alpha."""
        order = ORDER[self.channels]
        mixed = np.eye(3)[list(order)] if order else np.array([LUMA_65536]) / 65536
        matrix = np.zeros((self.count, 3))
        matrix[: len(mixed)] = self.scale.astype(np.float64)[: len(mixed), None] * mixed
        return matrix

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

    def window(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Where what is seen lies in a picture of `height` × `width` pixels: top, left, bottom, right, as edges.

        In pixels of the picture; (0, 0, height, width) is all of it. It may reach outside (bars).
        """
        (h, w), g = self.seen(height, width), self.geometry(height, width)
        y, x = height / g.height, width / g.width
        return g.top * y, g.left * x, (g.top + h) * y, (g.left + w) * x

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
    ) -> Self:
        """This recipe with other values; None keeps a value. For the command line's options, texts are taken too.

        size        a side, (height, width), '224', '224x320' (height first), or 'own': each picture's own size; one of
                    (height, width) may be None, see there
        mean, std   one number, one a channel in the input's order, or '0.485,0.456,0.406'; numbers over 1 are for
                    pixels of 0...255 (then both of what is given here)
        channels    mean and std that are not given here follow their colours: reversed for BGR, averaged for 'L'
        resize      'stretch', 'pad' and 'letterbox' show the whole picture unless `crop_fraction` is given too
        dtype       'uint8' takes plain pixels, 'int8' pixels less 128, unless mean or std is given too
        raises      UsageError
        """
        try:
            changed = replace(self._recoloured(channels or self.channels), name=name or self.name)
            if dtype is not None and dtype.endswith("int8") and dtype != self.dtype:
                changed = replace(changed, dtype=dtype, **plain(changed.channels, dtype))
            resize = "stretch" if resize == "squash" else resize
            if resize in ("stretch", "pad", "letterbox") and resize != self.resize:
                changed = replace(changed, crop_fraction=1.0)
            count = changed.count
            given: dict[str, Any] = to_unit(
                None if mean is None else checked_numbers("mean", parsed_numbers("mean", mean), count),
                None if std is None else checked_numbers("std", parsed_numbers("std", std), count),
            )
            given |= {"layout": layout, "resize": resize, "crop_fraction": crop_fraction}
            given |= {"interpolation": interpolation, "dtype": dtype}
            given = {key: value for key, value in given.items() if value is not None}
            if size is not None:
                given["size"] = None if size == OWN_SIZE else parsed_size(size)
            return replace(changed, **given)
        except PreprocessingRejected as error:
            raise UsageError(str(error)) from error

    def _recoloured(self, channels: str) -> Self:
        """The same scaling of each colour for another set of channels."""
        count = _count(channels)
        if channels == self.channels:
            return self

        def moved(values: tuple[float, ...], alpha: float) -> tuple[float, ...]:
            if not (self.pictorial and channels in ORDER):
                return values if len(values) == count else (sum(values) / len(values),) * count
            rgb = [values[channel] for channel in ORDER[self.channels] or (0, 0, 0)]
            if channels == "L":
                return (sum(rgb) / 3,)
            return tuple(rgb[channel] for channel in ORDER[channels]) + (
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


def plain(channels: str, dtype: str = "uint8") -> dict[str, Any]:
    """The mean and std that leave pixels at 0...255; in int8 at -128...127."""
    mean = 128 / 255 if dtype == "int8" else 0.0
    return {"mean": (mean,) * _count(channels), "std": (1 / 255,) * _count(channels)}


def _count(channels: Any) -> int:
    """The number of channels of a name, or of a number in letters; raises PreprocessingRejected."""
    if isinstance(channels, str) and channels.isascii() and channels.isdecimal():
        if 1 <= int(channels) <= _MOST_CHANNELS:
            return int(channels)
        raise PreprocessingRejected(f"channels {printable(channels, 20)}: expected 1 to {_MOST_CHANNELS}")
    check_choice("channels", channels, ORDER)
    return _COUNT[channels]


# --- fields that a stranger's file or a command line gives ----------------------------------------


#: Largest input, in pixels.
MOST_PIXELS: Final = 128_000_000
#: Largest picture that is made, in pixels.
MOST_MADE: Final = 1 << 26
#: The size that stands for each picture's own.
OWN_SIZE: Final = "own"


def check_made(height: int, width: int) -> None:
    """raises   UsageError for a picture of more pixels than anything can be made of"""
    if height * width > MOST_MADE:
        raise UsageError(
            f"a picture of {width}×{height} pixels is over {MOST_MADE} pixels" + ways("give a smaller --size")
        )


def check_choice(field: str, value: object, choices: Iterable[str]) -> None:
    """raises   PreprocessingRejected where `value` is none of `choices`"""
    if not isinstance(value, str) or value not in choices:
        hint = near(value, choices) if isinstance(value, str) else ""
        raise PreprocessingRejected(
            f"{field} {printable(repr(value), 60)}: expected {', '.join(choices)}{hint}"
        )


def checked_number(field: str, value: object) -> float:
    """`value` as a float; raises PreprocessingRejected where it is no finite number."""
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise PreprocessingRejected(f"{field} {printable(repr(value), 60)}: expected a finite number")


def checked_numbers(field: str, values: object, count: int) -> tuple[float, ...]:
    """One number a channel; one alone, or equal ones, stand for any count of channels; raises PreprocessingRejected."""
    if not isinstance(values, (Sequence, np.ndarray)) or isinstance(values, (str, bytes)):
        values = [values]
    if len(values) > max(16, count):
        raise PreprocessingRejected(f"{field} has {len(values)} numbers: expected {count}, one a channel")
    numbers = tuple(checked_number(field, value) for value in values)
    if len(set(numbers)) == 1:
        return numbers[:1] * count
    if len(numbers) != count:
        raise PreprocessingRejected(
            f"{field} {numbers}: expected {count} numbers, one a channel, or one for all"
        )
    return numbers


def checked_size(value: object) -> tuple[int | None, int | None] | None:
    """(height, width) from a pair or one side, of which one may be None, open; raises PreprocessingRejected."""
    if value is None:
        return None
    sides = [value, value] if isinstance(value, (int, np.integer)) else value
    if isinstance(sides, (list, tuple)) and len(sides) == 2 and tuple(sides) != (None, None):
        known = [side for side in sides if side is not None]
        whole = all(isinstance(side, (int, np.integer)) and not isinstance(side, bool) for side in known)
        if whole and min(known) > 0 and math.prod(map(int, known)) <= MOST_PIXELS:
            height, width = (None if side is None else int(side) for side in sides)
            return height, width
    raise PreprocessingRejected(
        f"size {printable(repr(value), 60)}: expected (height, width) in pixels, together at most {MOST_PIXELS}"
    )


def parsed_numbers(field: str, value: Any) -> Any:
    """The numbers of a text such as '0.485,0.456,0.406'; what is no text comes back as it is."""
    if not isinstance(value, str):
        return value
    try:
        return [float(part) for part in value.replace(",", " ").split()]
    except ValueError as error:
        raise PreprocessingRejected(
            f"{field} {printable(repr(value), 60)}: expected numbers with commas between, such as 0.485,0.456,0.406"
        ) from error


def parsed_size(value: Any) -> Any:
    """The size of a text such as '224' or '224x320'; what is no text comes back as it is."""
    if not isinstance(value, str):
        return value
    parts = value.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise PreprocessingRejected(
            f"size {printable(repr(value), 60)}: expected 224, 224x320 (height first), or {OWN_SIZE}"
        )
    sides = [int(part) for part in parts]
    return sides if len(sides) == 2 else sides[0]


def to_unit(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> dict[str, Any]:
    """The mean and std that are given, for pixels of 0...1: numbers over 1 are for 0...255, and then both are."""
    given = {key: value for key, value in (("mean", mean), ("std", std)) if value is not None}
    if any(abs(number) > 1 for values in given.values() for number in values):
        return {key: tuple(number / 255 for number in values) for key, values in given.items()}
    return given
