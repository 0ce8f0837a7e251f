"""What occlusion and RISE share: what is measured on each hidden image, what hides it, and the sweep over a batch."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ImageRejected, UsageError, near
from onnxviz.graph import occlude
from onnxviz.graph.surgery import cut
from onnxviz.image.decode import decode
from onnxviz.network import Network, as_list
from onnxviz.progress import Progress
from onnxviz.runtime.providers import CPU
from onnxviz.techniques.stream import cores

#: (N, classes) probabilities to (N,) numbers, larger is more
Objective = Callable[[np.ndarray], np.ndarray]

# Images of one run on one core (throughput is flat from 2 to 8), and most of all runs of a fixed batch together.
_EACH, _AT_ONCE = 8, 32

FILLS = ("grey", "mean", "blur", "noise", "zero")


# --- what is measured -----------------------------------------------------------------------------


class Score(ABC):
    """One number for each image that goes through a network.

    key      what distinguishes its graph from others
    output   the graph's output that `read` takes
    target   the class index, or None where it is no class
    """

    key: Hashable
    output: str
    target: int | None = None

    def __init__(self, net: Network) -> None:
        self.net = net

    def graph(self) -> ir.Model:
        """The network, ending in `output`."""
        return cut(self.net.batched[0], [self.output])

    @abstractmethod
    def read(self, array: np.ndarray) -> np.ndarray:
        """The numbers (N,) float32 in `output`'s array (N, ...). The first image of the first call is the whole one."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What is measured, in words."""


class ClassScore(Score):
    """The probability of one class; the whole image's top class where none is named."""

    def __init__(self, net: Network, target: int | str | None) -> None:
        super().__init__(net)
        self.output = net.head.scores
        self.key = "scores"
        self.target = None if target is None else net.target(target)

    def read(self, array: np.ndarray) -> np.ndarray:
        """The class's probabilities."""
        probabilities = self.net.to_probabilities(array)
        if self.target is None:
            self.target = int(np.argmax(probabilities[0]))
        return probabilities[:, self.target]

    @property
    def label(self) -> str:
        """The class's name."""
        return "top class" if self.target is None else self.net.label(self.target)


class FunctionScore(Score):
    """Any function of the class probabilities."""

    def __init__(self, net: Network, objective: Objective) -> None:
        super().__init__(net)
        self.output = net.head.scores
        self.key = "scores"
        self._objective = objective

    def read(self, array: np.ndarray) -> np.ndarray:
        """The function's values."""
        values = np.asarray(self._objective(self.net.to_probabilities(array)), dtype=np.float32)
        if values.shape != (len(array),):
            raise UsageError(
                f"the objective gave an array of shape {values.shape} for probabilities of {len(array)} images; "
                f"expected one number an image, ({len(array)},)"
            )
        return values

    @property
    def label(self) -> str:
        """The function's name, where it has one."""
        return str(getattr(self._objective, "__name__", "objective")).replace("<lambda>", "objective")


class LayerScore(Score):
    """The mean activation of a layer's channel, or the activation of one of its neurons."""

    def __init__(self, net: Network, layer: str, channel: int, position: tuple[int, int] | None) -> None:
        super().__init__(net)
        self._layer = net.layer(layer)
        self._last = self._layer.channels_last
        self._channel = channel
        self._position = position
        self.output = occlude.SCORE
        self.key = ("layer", self._layer.name, channel, position)
        shape = self._layer.shape
        if len(shape) < 2:
            raise UsageError(f"layer {layer!r} has shape {shape} and no channels; choose another --layer")
        count = shape[-1] if self._last else shape[1]
        if channel < 0 or (isinstance(count, int) and channel >= count):
            raise UsageError(f"layer {layer!r} has {count} channels, from 0; got channel {channel}")
        if position is not None:
            self._check(position, shape[1:-1] if self._last else shape[2:])

    def _check(self, position: tuple[int, int], sizes: Sequence[int | str]) -> None:
        name = self._layer.name
        if len(sizes) != 2:
            raise UsageError(
                f"layer {name!r} has no map of neurons (shape {self._layer.shape}); leave position out"
            )
        for given, size in zip(position, sizes, strict=True):
            if given < 0 or (isinstance(size, int) and given >= size):
                raise UsageError(
                    f"layer {name!r} has {sizes[0]}×{sizes[1]} neurons, from (0, 0); got {position}"
                )

    def graph(self) -> ir.Model:
        """The network up to the layer, reduced to one number an image."""
        return occlude.reduced(
            cut(self.net.batched[0], [self._layer.name]),
            value=self._layer.name,
            rank=len(self._layer.shape),
            channel=self._channel,
            channels_last=self._last,
            position=self._position,
        )

    def read(self, array: np.ndarray) -> np.ndarray:
        """The numbers as the graph gives them."""
        return array.astype(np.float32, copy=False)

    @property
    def label(self) -> str:
        """The layer, channel and place."""
        where = "" if self._position is None else f" at ({self._position[0]}, {self._position[1]})"
        return f"{self._layer.name}, channel {self._channel}{where}"


def choose(
    net: Network,
    target: int | str | None,
    objective: Objective | None,
    layer: str | None,
    channel: int | None,
    position: tuple[int, int] | None,
) -> Score:
    """The score that the arguments of a technique mean.

    target      class index or label; None, and nothing else given: the top class
    objective   a function of probabilities (N, classes) that gives (N,) numbers
    layer       with `channel`: the mean activation of that channel; with `position` (y, x) too: that neuron's
    raises      UsageError, UnknownLabel, UnknownLayer, ModelUnsuitable (no classifier)
    """
    if sum(given is not None for given in (target, objective, layer)) > 1:
        raise UsageError("give one of target, objective and layer: they are different things to measure")
    if layer is None:
        if channel is not None or position is not None:
            raise UsageError("channel and position belong to a layer: give --layer too")
        return ClassScore(net, target) if objective is None else FunctionScore(net, objective)
    if channel is None:
        raise UsageError(f"layer {layer!r} needs the channel to measure: give --channel, counted from 0")
    return LayerScore(net, layer, channel, position)


# --- the image and what hides it ------------------------------------------------------------------


def single(net: Network, image: Any, technique: str) -> tuple[np.ndarray, np.ndarray]:
    """One image as the network's input tensor (1, ...) and as the picture that it sees, (H, W, 3) uint8.

    raises   UsageError for several images; ImageRejected
    """
    tensor = isinstance(image, np.ndarray) and image.ndim == 4 and image.dtype.kind == "f"
    count = len(image) if tensor else len(as_list(image))
    if count != 1:
        raise UsageError(f"{technique} looks at one image at a time, got {count}; call it once for each")
    if tensor:
        x = net.prepare(image)
        return x, net.preprocessing.invert(x)[0]
    picture = net.pictures(image)[0]
    return net.preprocessing.normalise(picture[None]).astype(np.float32, copy=False), picture


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
    if fill not in FILLS:
        raise UsageError(f"unknown fill {fill!r}{near(str(fill), FILLS)}; expected one of {', '.join(FILLS)}")
    if fill == "zero":
        return np.zeros_like(x)
    pixels = picture.astype(np.float32)
    if fill == "grey":
        hidden = np.full_like(pixels, 127.5)
    elif fill == "mean":
        hidden = np.broadcast_to(pixels.mean(axis=(0, 1)), pixels.shape)
    elif fill == "blur":
        from PIL import Image, ImageFilter

        hidden = np.asarray(
            Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32
        )
    else:
        noise = np.random.default_rng(seed).standard_normal(pixels.shape, dtype=np.float32)
        hidden = np.clip(pixels.mean(axis=(0, 1)) + noise * pixels.std(axis=(0, 1)), 0, 255)
    return net.preprocessing.normalise(hidden[None]).astype(np.float32, copy=False)


def pair(value: int | tuple[int, int], name: str) -> tuple[int, int]:
    """(height, width) from one number or two, each at least 1.

    raises   UsageError
    """
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
    """

    scores: np.ndarray
    batch: int


def sweep(
    net: Network,
    build: Callable[[], ir.Model],
    still: Mapping[str, np.ndarray],
    moving: Mapping[str, np.ndarray],
    score: Score,
    *,
    key: Hashable,
    batch: int | None,
    progress: Progress,
    what: str,
) -> Swept:
    """The score of every entry of `moving`, in batches.

    On a CPU each core runs its own small batch, with one thread within an operator. Measured on EfficientNet-Lite0
    and 2 cores: 4.5 to 4.9 ms an image, against 5.2 to 5.4 where both cores share the operators of one batch.

    build    gives the graph, `key` is what it is kept under (see `Network.compile`)
    still    inputs that stay on the device through all batches
    moving   inputs with one entry an image, all of the same length M + 1; entry 0 is the whole image
    batch    images at once, shared by the cores; None: what memory allows, a few a core
    Ctrl-C ends the sweep early and keeps the scores so far. Before the first is known, it goes on as
    KeyboardInterrupt.
    """
    total = len(next(iter(moving.values())))
    workers, size = _plan(net, total, batch)
    # The workers are the parallelism: threads that wait busily within an operator would take their cores.
    program = net.compile(build, key=key, **({"threads": 1, "spin": False} if workers > 1 else {}))
    if program.provider != CPU:
        workers, size = 1, net.batch_size(batch)
    fixed = net.batched[1] is not None
    placed = {name: program.put(name, array) for name, array in still.items()}

    def run(start: int) -> np.ndarray:
        chunk = {name: array[start : start + size] for name, array in moving.items()}
        count = len(next(iter(chunk.values())))
        if fixed and count < size:
            # A file that allows only its own batch gets it, filled up; the surplus is thrown away.
            chunk = {
                name: np.concatenate([array, np.repeat(array[-1:], size - count, axis=0)])
                for name, array in chunk.items()
            }
        return program({**placed, **chunk}, [score.output])[score.output][:count]

    scores = np.zeros(total, dtype=np.float32)
    done = 0
    try:
        # In threads, also where there is one: the next batch runs while this one's scores are read.
        runs: Any = decode(range(0, total, size), run, workers=workers, ahead=workers)
        with contextlib.closing(runs):
            for start, array in runs:
                if isinstance(array, ImageRejected):  # `run` reads no image
                    raise array
                scores[start : start + len(array)] = score.read(array)
                done = start + len(array)
                progress(done - 1, total - 1, what)
    except KeyboardInterrupt:
        if done < 1:
            raise
    return Swept(scores[:done], size)


def _plan(net: Network, count: int, batch: int | None) -> tuple[int, int]:
    """How many runs go on side by side on a CPU, and the images of each."""
    at_once = net.batch_size(batch)
    if net.batched[1] is not None:
        return max(1, min(net.threads or cores(), math.ceil(count / at_once), _AT_ONCE // at_once)), at_once
    workers = min(net.threads or cores(), at_once, count)
    if batch is not None:
        return workers, at_once // workers
    # Four rounds or more, so that no core waits long for the others at the end.
    return workers, max(1, min(_EACH, at_once // workers, count // (4 * workers)))
