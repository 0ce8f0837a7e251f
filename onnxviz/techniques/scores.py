"""What occlusion and RISE measure on each hidden image: a class, a function of the probabilities, a layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import onnx_ir as ir

from onnxviz.errors import UsageError
from onnxviz.graph import occlude
from onnxviz.graph.surgery import cut
from onnxviz.network import Network

#: (N, classes) probabilities to (N,) numbers, larger is more
Objective = Callable[[np.ndarray], np.ndarray]


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
