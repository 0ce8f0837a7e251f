"""What occlusion and RISE share: what hides the image, and the sweep over many hidden images."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz import programs
from onnxviz.attribution.result import Attribution
from onnxviz.attribution.targets import Measure
from onnxviz.errors import ImageRejected, UsageError, one_of
from onnxviz.figures.captions import Caption
from onnxviz.graph import occlude
from onnxviz.image.folder import decode
from onnxviz.network import Network
from onnxviz.programs import cores
from onnxviz.progress import Interrupted, Progress
from onnxviz.runtime.providers import CPU

# Images of one run on one core: beyond a few, the activations leave the processor's cache (see `sweep`).
_EACH = 4

FILLS = ("grey", "mean", "blur", "noise", "zero")


# --- the image and what hides it ------------------------------------------------------------------


def filling(
    net: Network, x: np.ndarray, picture: np.ndarray, fill: str, *, radius: float, seed: int
) -> np.ndarray:
    """What shows where the image is hidden: the network's input tensor (1, ...) float32.

    fill   grey    mid-grey, (127.5, 127.5, 127.5), as in Zeiler & Fergus 2014
           mean    the picture's own mean colour
           blur    the picture itself, blurred by a Gaussian of `radius` pixels: no new edges
           noise   normal noise with the picture's mean and deviation for each colour, from `seed`
           zero    zero in the network's input, for most preprocessings the data set's mean: what Captum and RISE use
    raises   UsageError
    """
    one_of("fill", fill, FILLS)
    if fill == "zero":
        return np.zeros_like(x)
    pixels = picture.astype(np.float32)
    if fill == "grey":
        hidden = np.full_like(pixels, 127.5)
    elif fill == "mean":
        hidden = np.broadcast_to(pixels.mean(axis=(0, 1)), pixels.shape)
    elif fill == "blur":
        hidden = _blurred(picture, radius)
    else:
        noise = np.random.default_rng(seed).standard_normal(pixels.shape, dtype=np.float32)
        hidden = pixels.mean(axis=(0, 1)) + noise * pixels.std(axis=(0, 1))
        if picture.dtype == np.uint8:
            hidden = np.clip(hidden, 0, 255)
    return net.preprocessing.normalise(hidden[None]).astype(np.float32, copy=False)


def _blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    """(H, W, C) float32: each channel by itself."""
    if picture.dtype == np.uint8 and picture.shape[2] == 3:
        from PIL import Image, ImageFilter

        blurred = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius))
        return np.asarray(blurred, dtype=np.float32)
    from scipy.ndimage import gaussian_filter

    found: np.ndarray = gaussian_filter(picture.astype(np.float32), (radius, radius, 0), mode="nearest")
    return found


def pair(value: int | tuple[int, int], name: str) -> tuple[int, int]:
    """(height, width) from one number or two, each at least 1; raises UsageError."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(isinstance(size, (int, np.integer)) for size in both):
        raise UsageError(f"{name} takes a whole number of pixels, or (height, width); got {value!r}")
    if min(both) < 1:
        raise UsageError(f"{name} must be at least 1 pixel, got {value!r}")
    return int(both[0]), int(both[1])


# --- the sweep ------------------------------------------------------------------------------------


class Swept(NamedTuple):
    """What a sweep found.

    scores   (M + 1,) float32, entry 0 of the whole image; fewer where Ctrl-C ended it early
    batch    the images of one run
    what     what there were `total` of
    """

    scores: np.ndarray
    batch: int
    what: str
    total: int

    @property
    def done(self) -> int:
        """How many of them were run."""
        return len(self.scores) - 1


def sweep(
    net: Network,
    hide: Callable[..., ir.Model],
    x: np.ndarray,
    still: Mapping[str, np.ndarray],
    moving: Mapping[str, np.ndarray],
    score: Measure,
    *,
    batch: int | None,
    progress: Progress,
    what: str,
    **options: Any,
) -> Swept:
    """The score of every entry of `moving`, in batches.

    On a CPU each core runs its own small batch, with one thread within an operator. Least milliseconds an image of
    EfficientNet-Lite0 on 2 cores: 4.6, 4.5, 4.7 and 4.9 in batches of 2, 4, 8 and 16 a core, against 4.9 to 5.7
    where both cores share the operators of one batch of any size.

    hide     of `graph.occlude`, with its own `options`: puts in front of the score's graph what hides the image
    x        the image as the network takes it, (1, ...)
    still    further inputs that stay on the device through all batches
    moving   inputs with one entry an image, all of the same length M + 1; entry 0 is the whole image
    batch    images at once, shared by the cores; None: what memory allows, a few a core
    Ctrl-C ends the sweep early and keeps the scores so far. Before the first is known, it goes on as
    KeyboardInterrupt.
    """

    def build() -> ir.Model:
        into = net.input
        return hide(score.graph(), input=into.name, layout=into.layout, shape=x.shape, **options)

    own = [value.tobytes() if isinstance(value, np.ndarray) else value for value in options.values()]
    key = (hide.__name__, score.key, x.shape, *own)
    total = len(next(iter(moving.values())))
    workers, size = _plan(net, total, batch)
    # The workers are the parallelism: threads that wait busily within an operator would take their cores.
    program = net.compile(build, key=key, **({"threads": 1, "spin": False} if workers > 1 else {}))
    if program.provider != CPU:
        workers, size = 1, net.batch_size(batch)
    # A device plans its kernels anew for every size of batch (on an H100 ten times the run itself), so the last run is
    # filled up there; so is each one of a file that allows only its own batch. The surplus is thrown away.
    full = net.batched[1] or (1 if program.provider == CPU else min(size, total))
    placed = {name: program.put(name, array) for name, array in {occlude.IMAGE: x, **still}.items()}

    def run(start: int) -> np.ndarray:
        chunk = {name: programs.filled(array[start : start + size], full) for name, array in moving.items()}
        count = min(size, total - start)
        array = program({**placed, **chunk}, [score.output])[score.output]
        return net.pictures_first(score.output, array)[:count]

    scores = np.zeros(total, dtype=np.float32)
    done = 0
    try:
        # In threads, also where there is one: the next batch runs while this one's scores are read.
        runs: Any = decode(range(0, total, size), run, workers=workers, ahead=workers)
        with contextlib.closing(runs):
            for start, array in runs:
                if isinstance(array, ImageRejected):  # `run` reads no image
                    raise array
                found = score.read(array)
                net.require_finite(found, "the scores of what is hidden" if start else "the scores")
                scores[start : start + len(array)] = found
                done = start + len(array)
                progress(done - 1, total - 1, what)
    except KeyboardInterrupt:
        if done < 1:
            raise
    return Swept(scores[:done], size, what, total - 1)


def _plan(net: Network, count: int, batch: int | None) -> tuple[int, int]:
    """How many runs go on side by side on a CPU, and the images of each."""
    workers = min(net.threads or cores(), count)
    fixed = net.batched[1] or (1 if net.alone is not None else None)
    if batch is not None and fixed is None:
        at_once = net.batch_size(batch)
        workers = min(workers, at_once)
        return workers, at_once // workers
    elements = net.elements
    fitting = programs.batch_size(elements, max(_EACH, fixed or 0) * workers)
    if fixed is not None:
        size = net.batch_size()
        return max(1, min(workers, fitting // fixed, math.ceil(count / size))), size
    workers = min(workers, fitting)
    # Four rounds or more, so that no core waits long for the others at the end.
    return workers, max(1, min(_EACH, fitting // workers, count // (4 * workers)))


def finished(
    net: Network,
    technique: str,
    caption: Caption,
    picture: np.ndarray,
    score: Measure,
    swept: Swept,
    values: np.ndarray,
    figures: Mapping[str, Any],
    **parameters: Any,
) -> Attribution:
    """A map of what a sweep told, with its manifest: figures and parameters.

    raises   Interrupted with it, where Ctrl-C ended the sweep
    """
    whole, complete = float(swept.scores[0]), swept.done == swept.total
    manifest = net.manifest(technique, **score.known, **parameters, batch=swept.batch)
    counts = {swept.what: swept.total} | ({} if complete else {f"{swept.what}_done": swept.done})
    manifest["figures"] = {"score": whole, **counts, **figures}
    shown = net.preprocessing.shown(picture)
    result = Attribution(
        values, manifest, shown, **score.known, method=technique, score=whole, caption=caption
    )
    if not complete:
        manifest["incomplete"] = True
        raise Interrupted(result)
    return result
