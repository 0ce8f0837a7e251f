"""What techniques share that make pictures: results, steps to be watched, what is kept, pictures of any size."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from onnxviz.errors import GradientNotFinite, LimitExceeded, UsageError, WorkerCrashed
from onnxviz.image.recipe import check_made
from onnxviz.progress import Interrupted, Progress
from onnxviz.results import Result

if TYPE_CHECKING:
    from PIL import Image

    from onnxviz.network import Network
    from onnxviz.synthesis.machine import Step


@dataclass(frozen=True)
class Shot:
    """One step.

    index     from 0, over the whole run of the technique
    total     how many steps there will be; None where that is not known
    value     the objective, averaged over the pictures that are being made
    terms     each term's weighted value, averaged, by its label
    seconds   since the technique began
    picture   makes the picture as it now stands: (H, W, 3) uint8. Only until the next step.
    """

    index: int
    total: int | None
    value: float
    terms: dict[str, float]
    seconds: float
    picture: Callable[[], np.ndarray] = field(repr=False)


#: Called after each step. It must not keep the shot's `picture` for later.
Watch = Callable[[Shot], None]


def unwatched(shot: Shot) -> None:
    """The watch that nobody keeps."""


def as_bytes(pictures: np.ndarray) -> np.ndarray:
    """Pictures of 0 to 1 as uint8 of 0 to 255, rounded."""
    return np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8)


def side_by_side(pictures: np.ndarray, most: int = 4) -> np.ndarray:
    """(N, H, W, 3) as one picture, (h, w, 3) of the same type: at most `most` in a row, black where none is left."""
    count, height, width, _ = pictures.shape
    columns = min(count, most)
    rows = -(-count // columns)
    whole = np.zeros((rows * height, columns * width, 3), pictures.dtype)
    for i, picture in enumerate(pictures):
        y, x = i // columns * height, i % columns * width
        whole[y : y + height, x : x + width] = picture
    return whole


# A picture alone is shown at least this large; more of them than this stand as small tiles.
_LEAST_SIDE = 224
_MOST_CARDS = 24
_FULL = 99.5  # percentile of the differences from the middle that becomes black or white


@dataclass
class Made(Result):
    """Pictures that were made.

    values     (N, H, W, 3) float32, 0 to 1
    labels     what each shows
    captions   one line more for each, or none
    title      what stands above the sheet
    shown      the pictures as they are shown, where that is not as they were made (`stretched`)
    """

    labels: list[str]
    captions: list[str] = field(default_factory=list)
    title: str = ""
    shown: np.ndarray | None = field(default=None, repr=False)

    def pictures(self) -> np.ndarray:
        """(N, H, W, 3) uint8, as they are shown."""
        return as_bytes(self.values if self.shown is None else self.shown)

    def picture(self) -> Image.Image:
        """The picture itself where there is one as it was made; otherwise a sheet of all with what each shows."""
        from PIL import Image

        from onnxviz.figures import grids

        pictures = list(self.pictures())
        if len(pictures) == 1 and self.shown is None:
            alone = Image.fromarray(pictures[0])
            times = -(-_LEAST_SIDE // max(alone.size))
            if times > 1:
                alone = alone.resize((alone.width * times, alone.height * times), Image.Resampling.BICUBIC)
            return alone
        if len(pictures) > _MOST_CARDS:
            return grids.tiles(pictures, labels=self.labels, title=self.title)
        lines = zip(self.labels, self.captions or [""] * len(pictures), strict=True)
        cards = list(zip(pictures, map("\n".join, lines), strict=True))
        return grids.side_by_side(cards, title=self.title)


def stretched(pictures: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each picture's contrast stretched until it fills black to white: (pictures, the factor of each).

    As Yosinski et al. 2015 show theirs: `middle` becomes middle grey, all colours share one factor. The largest half
    per cent of the differences run into black or white, so that single pixels do not decide how dark the rest is.

    pictures   (N, H, W, 3), 0 to 1
    middle     (3,), the network's mean colour
    """
    apart = np.asarray(pictures, np.float64) - np.asarray(middle, np.float64)
    reach = np.percentile(np.abs(apart), _FULL, axis=(1, 2, 3))
    factors = 0.5 / np.maximum(reach, 1e-12)
    return np.clip(0.5 + apart * factors[:, None, None, None], 0, 1).astype(np.float32), factors


def clipped(pictures: np.ndarray) -> np.ndarray:
    """The share of each picture's values, (N, H, W, 3) of 0 to 1, that are black or white in 256 levels. (N,)"""
    levels = as_bytes(pictures).reshape(len(pictures), -1)
    return np.asarray(((levels == 0) | (levels == 255)).mean(axis=1))


def rounded(number: Any, digits: int = 6) -> float:
    """A float for a manifest, to so many significant digits."""
    return float(f"{float(number):.{digits}g}")


@dataclass
class Painting(Result):
    """A picture that was made.

    values   (H, W, 3) float32, 0 to 1
    """

    values: np.ndarray = field(repr=False)
    _least: ClassVar[int] = 64  # a smaller picture is shown enlarged

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        return as_bytes(self.values)

    def picture(self) -> Image.Image:
        """The picture itself, in its own size (a tiny one enlarged by a whole factor)."""
        from PIL import Image

        alone = Image.fromarray(self.image)
        times = -(-self._least // min(alone.size))
        return alone.resize((alone.width * times, alone.height * times), Image.Resampling.NEAREST)


class Easel:
    """Follows the loops of one run of a technique, one after the other, and tells `progress` and `watch` of each step.

    total      steps of all loops
    done       steps taken
    """

    def __init__(self, total: int, progress: Progress, watch: Watch) -> None:
        self.total = total
        self.done = 0
        self._progress = progress
        self._watch = watch
        self._began = time.perf_counter()

    def follow(
        self, loop: Iterable[Step], shown: Callable[[np.ndarray], np.ndarray] | None = None, count: int = 1
    ) -> Iterator[Step]:
        """The loop's steps.

        shown   from the loop's pictures, (count, H, W, 3) 0 to 1, to what those who watch see
        count   the loop's first pictures, which count; the others only fill a batch
        """
        for step in loop:
            yield step

            def picture(step: Step = step) -> np.ndarray:
                found = step.pictures()[:count]
                return side_by_side(as_bytes(found if shown is None else shown(found)))

            terms = {name: float(value[:count].mean()) for name, value in step.terms.items()}
            seconds = time.perf_counter() - self._began
            self._watch(
                Shot(self.done, self.total, float(step.value[:count].mean()), terms, seconds, picture)
            )
            self.done += 1
            self._progress(self.done, self.total, "steps")


class Losses:
    """The losses of a loop, step by step, and their terms where the loss was least."""

    def __init__(self) -> None:
        self.all: list[float] = []
        self.terms: dict[str, float] = {}

    def note(self, step: Step) -> None:
        """Take in a step of one picture."""
        self.all.append(-float(step.value[0]))
        if self.all[-1] == min(self.all):
            self.terms = {name: -float(value[0]) for name, value in step.terms.items()}


@contextlib.contextmanager
def keeping(partial: Callable[[], Result | None]) -> Iterator[None]:
    """On Ctrl-C, where the numbers run away, at a limit and where an isolated network's process dies, hand over what
    there is.

    partial   makes the result of what was done so far, or None where there is nothing yet
    raises    Interrupted; GradientNotFinite, LimitExceeded and WorkerCrashed with their `partial`
    """

    def made() -> Result | None:
        try:
            result = partial()
        except (LimitExceeded, WorkerCrashed):  # what there was is gone: that is no news to whoever asked
            return None
        if result is not None:
            result.manifest["incomplete"] = True
        return result

    try:
        yield
    except KeyboardInterrupt:
        result = made()
        if result is None:
            raise
        raise Interrupted(result) from None
    except (GradientNotFinite, LimitExceeded, WorkerCrashed) as error:
        error.partial = made()
        raise


def read_picture(net: Network, source: Any) -> np.ndarray:
    """One picture, a path, a PIL image or a uint8 array, as (H, W, 3) float32, 0 to 1, in its own size.

    Grey for a network that sees grey: what it cannot see it cannot change.

    raises   ImageRejected, ModelUnsuitable for a network of arrays
    """
    from onnxviz.image.io import read
    from onnxviz.image.recipe import LUMA

    net.preprocessing.require_pictures("this technique")
    picture = read(source, limits=net.limits).astype(np.float32) / np.float32(255)
    grey = net.preprocessing.channels == "L"
    return np.repeat((picture @ LUMA)[:, :, None], 3, axis=2) if grey else picture


def resized(
    picture: np.ndarray,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
    resample: str = "LANCZOS",
) -> np.ndarray:
    """A picture (H, W, 3) float32 at another (height, width), with one of Pillow's filters; not clipped.

    box   left, top, right, bottom of the part that is taken; None: the whole
    """
    from PIL import Image

    if box is None and picture.shape[:2] == tuple(size):
        return np.array(picture, dtype=np.float32)
    planes = [
        Image.fromarray(plane) for plane in np.ascontiguousarray(np.moveaxis(picture, 2, 0), np.float32)
    ]
    made = [plane.resize((size[1], size[0]), Image.Resampling[resample], box) for plane in planes]
    return np.stack([np.asarray(plane, np.float32) for plane in made], axis=2)


def bytes_at(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, 3) uint8 at another (height, width), with Pillow's Lanczos filter."""
    from PIL import Image

    if picture.shape[:2] == tuple(size):
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.LANCZOS))


def fitted(shape: tuple[int, ...], size: int | tuple[int, int] | None, most: int) -> tuple[int, int]:
    """(height, width) of what is made from a picture of this shape.

    size     the longer side in pixels, or (height, width); None: the picture's own, its longer side at most `most`
    raises   UsageError
    """
    height, width = int(shape[0]), int(shape[1])
    if size is None:
        size = min(most, max(height, width))
    if isinstance(size, int):
        factor = size / max(height, width)
        size = max(1, round(height * factor)), max(1, round(width * factor))
    wanted = int(size[0]), int(size[1])
    if min(wanted) < 1:
        raise UsageError(f"size {wanted[1]}×{wanted[0]}: expected at least one pixel each way")
    check_made(*wanted)
    return wanted


def noise_about(
    colour: Sequence[float] | np.ndarray, size: tuple[int, int], deviation: float, seed: int
) -> np.ndarray:
    """(H, W, 3) float32: Gaussian noise about a colour, kept within 0 to 1."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((*size, 3), np.float32) * np.float32(deviation)
    return np.clip(noise + np.asarray(colour, np.float32), 0, 1)
