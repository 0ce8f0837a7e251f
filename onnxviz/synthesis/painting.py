"""What techniques share that make one picture from another by optimisation: result, steps, keeping, sizes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.errors import GradientNotFinite, UsageError, WorkerCrashed
from onnxviz.image.fields import check_made
from onnxviz.interrupted import Interrupted
from onnxviz.optimise.shot import Shot, Watch, as_bytes
from onnxviz.progress import Progress
from onnxviz.results import Result

if TYPE_CHECKING:
    from PIL import Image

    from onnxviz.network import Network
    from onnxviz.optimise import Step

# A picture is shown at least this large.
_LEAST_SIDE = 64


@dataclass
class Painting(Result):
    """A picture made by optimisation.

    values   (H, W, 3) float32, 0 to 1
    """

    values: np.ndarray = field(repr=False)

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        return as_bytes(self.values)

    def picture(self) -> Image.Image:
        """The picture itself, in its own size (a tiny one enlarged by a whole factor)."""
        from PIL import Image

        alone = Image.fromarray(self.image)
        times = -(-_LEAST_SIDE // min(alone.size))
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
        self, loop: Iterable[Step], shown: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> Iterator[Step]:
        """The loop's steps.

        shown   from the loop's picture, (H, W, 3) 0 to 1, to what those who watch see
        """
        for step in loop:
            yield step

            def picture(step: Step = step) -> np.ndarray:
                found = step.pictures()[0]
                return as_bytes(found if shown is None else shown(found))

            self._watch(
                Shot(
                    self.done,
                    self.total,
                    float(step.value[0]),
                    {name: float(value[0]) for name, value in step.terms.items()},
                    time.perf_counter() - self._began,
                    picture,
                )
            )
            self.done += 1
            self._progress(self.done, self.total, "steps")


@contextlib.contextmanager
def keeping(partial: Callable[[], Result | None]) -> Iterator[None]:
    """On Ctrl-C, where the numbers run away and where an isolated network's process dies, hand over what there is.

    partial   makes the result of what was done so far, or None where there is nothing yet
    raises    Interrupted; GradientNotFinite and WorkerCrashed with their `partial`
    """

    def made() -> Result | None:
        try:
            result = partial()
        except WorkerCrashed:  # what there was is gone: that is no news to whoever asked
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
    except (GradientNotFinite, WorkerCrashed) as error:
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
    return (
        np.repeat((picture @ LUMA)[:, :, None], 3, axis=2) if net.preprocessing.channels == "L" else picture
    )


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, 3) float32 at another (height, width), with Pillow's Lanczos filter; not clipped."""
    from PIL import Image

    if picture.shape[:2] == tuple(size):
        return np.array(picture, dtype=np.float32)
    planes = [
        Image.fromarray(np.ascontiguousarray(picture[:, :, c], dtype=np.float32)).resize(
            (size[1], size[0]), Image.Resampling.LANCZOS
        )
        for c in range(picture.shape[2])
    ]
    return np.stack([np.asarray(plane, np.float32) for plane in planes], axis=2)


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
    found: np.ndarray = np.clip(noise + np.asarray(colour, np.float32), 0, 1)
    return found
