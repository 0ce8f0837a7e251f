"""Occlusion: what the network no longer sees when a part of the image is covered. And what RISE, Score-CAM and
faithfulness share with it: what hides the image, and the sweep over many hidden images."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz import programs
from onnxviz.attribution.result import Attribution
from onnxviz.attribution.targets import Channel, Measure, Measured, Neuron, Target, parse
from onnxviz.errors import ImageRejected, UsageError, one_of
from onnxviz.features.pictures import for_each, single
from onnxviz.figures.captions import Caption
from onnxviz.graph import occlude
from onnxviz.image.folder import decode
from onnxviz.network import ImageLike, Network
from onnxviz.programs import cores
from onnxviz.progress import Interrupted, Progress, Shown, told
from onnxviz.provenance import recorded
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


# --- occlusion -----------------------------------------------------------------------------------

_WINDOW, _STRIDE = 32, 16
CAPTION: Final = Caption(
    "occlusion",
    "the deeper the colour, the more the {what} falls with the place covered: the mean of the windows over it",
    "mean fall in {what}",
)


@for_each
@recorded
def occlusion(
    net: Network,
    image: ImageLike,
    *,
    target: Target | int | str | None = None,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    fill: str = "grey",
    objective: Measured | None = None,
    output: str | None = None,
    layer: str | None = None,
    channel: Channel = None,
    neuron: Neuron = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Shown = "auto",
) -> Attribution:
    """How far the class probability falls when a window covers each place of the image.

    Zeiler & Fergus 2014, arXiv:1311.2901. Windows at the right and bottom border are cut off; where windows overlap,
    their falls are averaged, as in Captum.

    image       (H, W, 3) uint8, or anything `Network.prepare` takes; or a list of these, which gives a list
    target      class index or label; None: the top class
    window      the window's side in pixels of what the network sees, or (height, width); None: 32, or a seventh of the
                image's shorter side where that is less
    stride      the step from window to window, or (vertical, horizontal); None: 16, or half the window's side where
                that is less
    fill        what the window shows: grey, mean, blur, noise or zero (`attribution.occlusion.filling`)
    objective   instead of a class: any objective (`onnxviz.objectives`) or its text, or a function of probabilities
                (N, classes) that gives (N,) numbers
    output      which of the file's outputs holds the classes; None: the one that looks like it
    layer, channel, neuron   instead of a class: a channel's mean activation, or one neuron (y, x) or 'middle'; `neuron`
                alone: the step of a sequence
    returns     Attribution, values (H, W) float32, the mean fall of the score over the windows that cover a pixel,
                for probabilities -1 to 1; negative where covering raises the score, 0 where no window comes
    raises      UsageError, UnknownLabel, UnknownLayer, ImageRejected, ModelUnsuitable; Interrupted on Ctrl-C, whose
                partial map is 0 where no window has been yet
    """
    progress = told(progress)
    net = net.at(output)
    asked = parse(
        net, target, objective=objective, layer=layer, channel=channel, neuron=neuron, functions=True
    )
    score = Measure(net, asked)
    x, picture = single(net, image, "occlusion")
    size = (picture.shape[0], picture.shape[1])
    if window is None:
        window = max(1, min(_WINDOW, round(min(size) / 7)))
    span = pair(window, "window")
    if span[0] > size[0] or span[1] > size[1]:
        raise UsageError(
            f"window {span[0]}×{span[1]} (height × width) is larger than the image, {size[0]}×{size[1]}; "
            "give a smaller window"
        )
    step = pair(max(1, min(_STRIDE, min(span) // 2)) if stride is None else stride, "stride")
    hidden = filling(net, x, picture, fill, radius=max(span) / 2, seed=seed)
    boxes = windows(size, span, step)
    whole = np.zeros((1, 4), dtype=np.float32)  # an empty window: the image as it is
    moving = {occlude.WINDOWS: np.concatenate([whole, boxes.astype(np.float32)])}
    how: dict[str, Any] = {"batch": batch, "progress": progress, "what": "windows"}
    swept = sweep(net, occlude.occluded, x, {occlude.FILL: hidden}, moving, score, **how)
    falls = swept.scores[0] - swept.scores[1:]
    figures: dict[str, Any] = {}
    if len(falls):
        deepest = int(np.argmin(swept.scores[1:]))
        sides = zip(("top", "left", "bottom", "right"), map(int, boxes[deepest]), strict=True)
        figures = {"largest_fall": float(falls[deepest]), "largest_fall_window": dict(sides)}
        figures["windows_that_raise"] = int(np.sum(swept.scores[1:] > swept.scores[0]))
    values = average(falls, boxes[: len(falls)], size)
    own = {"window": span, "stride": step, "fill": fill, "seed": seed}
    return finished(net, "occlusion", CAPTION, picture, score, swept, values, figures, **own)


def windows(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> np.ndarray:
    """The windows that cover an image: (M, 4) int64, each (top, left, bottom, right), cut off at the border.

    They start at 0 and go on by `stride` until one reaches the border, row by row. A stride larger than the window
    leaves gaps.
    """
    starts = [
        np.arange(0, min(length, math.ceil((length - span) / step) * step + 1), step)
        for length, span, step in zip(size, window, stride, strict=True)
    ]
    top, left = (grid.ravel() for grid in np.meshgrid(*starts, indexing="ij"))
    bottom, right = np.minimum(top + window[0], size[0]), np.minimum(left + window[1], size[1])
    return np.stack([top, left, bottom, right], axis=1)


def average(falls: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mean fall of the windows over each pixel: (H, W) float32, 0 where no window is."""
    total = np.zeros(size, dtype=np.float64)
    count = np.zeros(size, dtype=np.float64)
    for fall, (top, left, bottom, right) in zip(falls, boxes, strict=True):
        total[top:bottom, left:right] += fall
        count[top:bottom, left:right] += 1
    return (total / np.maximum(count, 1)).astype(np.float32)
