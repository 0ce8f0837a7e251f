"""Feed-forward style networks in ONNX form, run on pictures of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from onnxviz.errors import ImageRejected, LimitExceeded, ModelFailed, ModelUnsuitable, one_of
from onnxviz.image.io import read
from onnxviz.inputs import ASSUMED
from onnxviz.network import ImageLike, Network
from onnxviz.programs import filled
from onnxviz.provenance import recorded
from onnxviz.synthesis.made import Painting, bytes_at, fitted, resized

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxviz.image.preprocessing import Preprocessing
    from onnxviz.runtime.ort import Program

#: What a network's output means: black and white in it.
RANGES = {"0..255": (0.0, 255.0), "0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0)}
# Inputs that are tried where nothing says which is right, the most usual first.
_TRIED = ("raw", "unit", "tensorflow", "imagenet")
_TRIAL_SIDE = 128
_CLEARLY = 0.05  # by how much another input must resemble the picture more than a more usual one
_EVEN = 32  # a multiple of the strides of any usual network
_SURPLUS = 8  # pixels by which an output may be larger than its input and still be the same picture


@dataclass
class Styled(Painting):
    """A picture that a network has painted.

    values    (h, w, 3) float32, 0 to 1
    content   (h, w, 3) uint8, what it was given
    """

    content: np.ndarray = field(repr=False)
    _least: ClassVar[int] = 1


@recorded
def style_apply(
    net: Network,
    image: ImageLike,
    *,
    size: int | tuple[int, int] | None = None,
    output_range: str | None = None,
) -> Styled:
    """A picture painted by a feed-forward style network: any network from a picture to a picture.

    Johnson, Alahi & Fei-Fei 2016, arXiv:1603.08155. How pictures become its input is what the network was opened with,
    or what its file says; where nothing says it, pixels of 0 to 255, 0 to 1, −1 to 1 and ImageNet's are tried on a
    small copy, and the output that resembles the picture most decides. The manifest has it all.

    net            opened with `onnxviz.load`; an input of fixed size is freed where the graph allows it
    image          (H, W, 3) uint8, a path or a PIL image
    size           the longer side of the result in pixels, or (height, width); None: the picture's own size
    output_range   black and white in the network's output: '0..255', '0..1' or '-1..1'; None: told by its values
    returns        Styled, values (h, w, 3) float32, 0 to 1
    raises         ModelUnsuitable for a network that gives no picture, UsageError, ImageRejected, LimitExceeded
    """
    if output_range is not None:
        one_of("output_range", output_range, RANGES)
    picture = _sized(read(image, limits=net.limits), size)
    painter = _Painter(net)
    recipe, how = _recipe(net, painter, picture)
    raw = painter.paint(recipe, picture)
    known = output_range or _range(raw)
    low, high = RANGES[known]
    values = np.clip((raw - low) / (high - low), 0, 1).astype(np.float32)
    manifest = net.manifest("style-apply", size=list(picture.shape[:2]), output_range=known)
    manifest["preprocessing"] = recipe.to_dict()
    manifest["preprocessing_from"] = how
    manifest["warnings"] = [text for text in net.warnings if not text.startswith(ASSUMED)] + painter.notes
    manifest["figures"] = {
        "output_low": float(raw.min()),
        "output_high": float(raw.max()),
        "clipped": float(((raw < low) | (raw > high)).mean()),
    }
    return Styled(values=values, manifest=manifest, content=picture)


def _sized(picture: np.ndarray, size: int | tuple[int, int] | None) -> np.ndarray:
    return picture if size is None else bytes_at(picture, fitted(picture.shape, size, 0))


# --- running it -----------------------------------------------------------------------------------


class _Painter:
    """The network as a function from pictures to pictures.

    notes   what is to be told about its size
    """

    def __init__(self, net: Network) -> None:
        self._net = net
        self.notes: list[str] = []
        self._fixed = (net.input.height, net.input.width)
        if None not in self._fixed and _freed(net) is not None:
            self._fixed = (None, None)
        if None not in self._fixed:
            self.notes.append(
                f"the network takes only pictures of {self._fixed[1]}×{self._fixed[0]} pixels: the picture was scaled "
                "to that and back, which softens it"
            )
        self._program: Program = net.compile(lambda: _freed(net) or net.model, key="style apply")
        self._output = _picture_output(net)

    def paint(self, recipe: Preprocessing, picture: np.ndarray) -> np.ndarray:
        """The raw output for a picture (h, w, 3) uint8: (h', w', 3) float32; raises ModelUnsuitable, LimitExceeded."""
        height, width = self._fixed
        seen = picture if height is None or width is None else bytes_at(picture, (height, width))
        try:
            out = self._run(recipe, seen)
        except (ModelFailed, ImageRejected) as error:
            # Strides and upsampling that do not meet again at odd sizes do at a multiple of 32.
            down, right = (-side % _EVEN for side in seen.shape[:2])
            if self.notes or not (down or right):
                raise ModelUnsuitable(
                    f"the network does not run on a picture of {seen.shape[1]}×{seen.shape[0]} pixels: {error}"
                ) from error
            padded = np.pad(seen, ((0, down), (0, right), (0, 0)), mode="symmetric")
            try:
                out = self._run(recipe, padded)
            except (ModelFailed, ImageRejected) as again:
                raise ModelUnsuitable(
                    f"the network runs neither on {seen.shape[1]}×{seen.shape[0]} pixels nor on multiples of {_EVEN}: "
                    f"{again}"
                ) from again
            out = out[: round(len(out) * seen.shape[0] / len(padded))]
            out = out[:, : round(out.shape[1] * seen.shape[1] / padded.shape[1])]
        h, w = seen.shape[:2]
        if 0 <= out.shape[0] - h <= _SURPLUS and 0 <= out.shape[1] - w <= _SURPLUS:
            out = out[:h, :w]  # strides round up; the surplus is at the bottom and at the right
        if self.notes and picture.shape != out.shape:
            out = resized(out, (picture.shape[0], picture.shape[1]))
        if not np.isfinite(out).all():
            raise ModelUnsuitable(
                "the network's output holds NaN or infinite values; check how pictures become its input (--preprocess)"
            )
        return out

    def _run(self, recipe: Preprocessing, picture: np.ndarray) -> np.ndarray:
        x, name = filled(recipe.normalise(picture[None]), self._net.input.batch or 1), self._output
        return _colours(self._program({self._net.input.name: x}, [name])[name][0], name)


def _freed(net: Network) -> ir.Model | None:
    """The whole network with a free size; None where a layer forbids it."""
    from onnxviz.graph.picture_sizes import free_size

    if net.input.height is None and net.input.width is None:
        return net.model
    try:
        model, barrier = free_size(net.model)
    except ModelUnsuitable:
        return None
    return model if barrier is None else None


def _picture_output(net: Network) -> str:
    """The output that is a picture: four dimensions, one or three channels.

    raises   ModelUnsuitable, saying what the network gives
    """
    outputs = list(net.model.graph.outputs)
    for value in outputs:
        shape = [size if isinstance(size, int) else None for size in value.shape or ()]
        if not shape or (len(shape) == 4 and any(shape[axis] in (1, 3, None) for axis in (1, 3))):
            return str(value.name)
    given = "; ".join(f"{value.name} {value.shape}" for value in outputs)
    raise ModelUnsuitable(
        f"a style network gives a picture, (N, 3, H, W); {net.name!r} gives {given}. For a classifier, `onnxviz style` "
        "paints without a trained network"
    )


def _colours(out: np.ndarray, name: str) -> np.ndarray:
    """One output without its batch axis as (h, w, 3) float32."""
    if out.ndim == 3 and out.shape[0] in (1, 3):
        out = out.transpose(1, 2, 0)
    if out.ndim != 3 or out.shape[2] not in (1, 3) or 0 in out.shape:
        raise ModelUnsuitable(f"a style network gives a picture, (N, 3, H, W); {name!r} is {(1, *out.shape)}")
    wide = np.repeat(out, 3, axis=2) if out.shape[2] == 1 else out
    return np.ascontiguousarray(wide, dtype=np.float32)


# --- what goes in, what comes out -----------------------------------------------------------------


def _recipe(net: Network, painter: _Painter, picture: np.ndarray) -> tuple[Preprocessing, str]:
    """How the picture becomes the input, at its own size, and where that is known from."""
    from onnxviz.image.preprocessing import PRESETS

    own = replace(net.preprocessing, size=None, resize="crop", crop_fraction=1.0)
    if not any(text.startswith(ASSUMED) for text in net.warnings):
        return own, "given, or the file's metadata"
    form: dict[str, Any] = {"size": "own", "channels": own.channels, "layout": own.layout, "dtype": own.dtype}
    tried = [replace(PRESETS[name].override(name=name, **form), crop_fraction=1.0) for name in _TRIED]
    small = _sized(picture, min(_TRIAL_SIDE, max(picture.shape[:2])))
    scores = [_likeness(painter.paint, recipe, small) for recipe in tried]
    # The first that is not clearly below the highest.
    best = next(one for one, score in zip(tried, scores, strict=True) if score >= max(scores) - _CLEARLY)
    return best, f"tried: the output resembles the picture most with {best.name!r}"


def _likeness(
    paint: Callable[[Preprocessing, np.ndarray], np.ndarray], recipe: Preprocessing, picture: np.ndarray
) -> float:
    """The correlation of the output's brightness with the picture's, −1 to 1; −1 where there is no output."""
    try:
        out = paint(recipe, picture)
    except (ModelUnsuitable, LimitExceeded):
        return -1.0
    if out.shape != picture.shape:
        out = resized(out, (picture.shape[0], picture.shape[1]))
    low, high = RANGES[_range(out)]
    a = np.clip(out, low, high).mean(axis=2).ravel().astype(np.float64)
    b = picture.mean(axis=2).ravel()
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else -1.0


def _range(raw: np.ndarray) -> str:
    """Which of RANGES the values of an output have."""
    low, high = (float(value) for value in np.percentile(raw, [1, 99]))
    if high > 4 or low < -4:
        return "0..255"
    return "-1..1" if low < -0.25 else "0..1"
