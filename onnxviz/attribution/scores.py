"""What occlusion and RISE measure on each hidden image: a class, a function of the probabilities, a layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxviz.attribution.aim import Position, Unit, check_one, parsed, step_number
from onnxviz.errors import UsageError
from onnxviz.grad.value import VALUE, value_model
from onnxviz.graph import occlude
from onnxviz.graph.output import SEQUENCE
from onnxviz.graph.surgery import cut
from onnxviz.network import Network
from onnxviz.objectives import Objective

if TYPE_CHECKING:
    from onnxviz.attribution.aim import Aim

#: What occlusion and RISE measure: an objective or its text, or a function of probabilities (N, classes) -> (N,)
Measured = Objective | str | Callable[[np.ndarray], np.ndarray]


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
        self.key = ("scores", self.output)
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


class StepScore(Score):
    """The probability of a class at one step of a sequence; the whole image's best class there where none is named."""

    def __init__(self, net: Network, step: int, target: int | str | None) -> None:
        super().__init__(net)
        self.output = net.end.scores
        self.key = ("scores", self.output)
        self._step = step
        self.target = None if target is None else net.target(target)

    def read(self, array: np.ndarray) -> np.ndarray:
        """The class's probabilities."""
        from onnxviz.meaning import step_probabilities

        whole = step_probabilities(self.net.end, array)
        if self._step >= whole.shape[1]:
            raise UsageError(f"this picture has {whole.shape[1]} steps, from 0; got step {self._step}")
        rows = whole[:, self._step]
        if self.target is None:
            self.target = int(np.argmax(rows[0]))
        return rows[:, self.target]

    @property
    def label(self) -> str:
        """The step and the class's name."""
        return f"step {self._step}: " + ("best class" if self.target is None else self.net.label(self.target))


class ObjectiveScore(Score):
    """The value of an objective (`onnxviz.objectives`)."""

    def __init__(self, net: Network, objective: Objective, *, key: Hashable = None, label: str = "") -> None:
        super().__init__(net)
        self._objective = net.settled(objective)
        self._label = label
        self.output = VALUE
        self.key = (key, self._objective) if key is not None else self._objective

    @classmethod
    def of(cls, net: Network, aim: Aim) -> ObjectiveScore:
        """What a gradient technique explains, only measured."""
        return cls(net, aim.objective, key=aim.key, label=aim.labels[0])

    def graph(self) -> ir.Model:
        """The network, ending in the objective's value."""
        return value_model(self.net.batched[0], self._objective, self.net.input.name)

    def read(self, array: np.ndarray) -> np.ndarray:
        """The values as the graph gives them."""
        return array.astype(np.float32, copy=False)

    @property
    def label(self) -> str:
        """What is measured, in words."""
        return self._label or str(self._objective)


class FunctionScore(Score):
    """Any function of the class probabilities."""

    def __init__(self, net: Network, objective: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(net)
        self.output = net.head.scores
        self.key = ("scores", self.output)
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

    def __init__(self, net: Network, layer: str, channel: int, position: Position) -> None:
        super().__init__(net)
        self._unit = unit = Unit.of(net, layer, channel, position)
        self.output = occlude.SCORE
        self.key = ("layer", unit.layer.name, channel, unit.position)

    def graph(self) -> ir.Model:
        """The network up to the layer, reduced to one number an image."""
        return occlude.reduced(
            cut(self.net.batched[0], [self._unit.layer.name]),
            value=self._unit.layer.name,
            rank=len(self._unit.layer.shape),
            channel=self._unit.channel,
            channels_last=self._unit.layer.channels_last,
            position=self._unit.position,
        )

    def read(self, array: np.ndarray) -> np.ndarray:
        """The numbers as the graph gives them."""
        return array.astype(np.float32, copy=False)

    @property
    def label(self) -> str:
        """The layer, channel and place."""
        return self._unit.label


def choose(
    net: Network,
    target: int | str | None,
    objective: Measured | None,
    layer: str | None,
    channel: int | None,
    position: Position,
) -> Score:
    """The score that the arguments of a technique mean.

    target      class index or label; None, and nothing else given: the top class
    objective   an objective (`onnxviz.objectives`) or its text, or a function of probabilities (N, classes) -> (N,)
    layer       with `channel`: the mean activation of that channel; with `position` (y, x) too: that neuron's
    position    without a layer: the step of a sequence
    raises      UsageError, UnknownLabel, UnknownLayer, ModelUnsuitable (no classifier)
    """
    check_one(target, objective, layer)
    if layer is None:
        if channel is None and position is not None and objective is None and net.end.kind == SEQUENCE:
            return StepScore(net, step_number(net, position), target)
        if channel is not None or position is not None:
            raise UsageError("--channel and --neuron belong to a layer: give --layer too")
        if objective is None:
            return ClassScore(net, target)
        if isinstance(objective, (Objective, str)) or not callable(objective):
            return ObjectiveScore(net, parsed(net, objective))
        return FunctionScore(net, objective)
    if channel is None:
        raise UsageError(f"layer {layer!r} needs the channel to measure: give --channel, counted from 0")
    return LayerScore(net, layer, channel, position)
