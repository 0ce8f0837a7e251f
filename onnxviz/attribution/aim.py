"""What a technique explains: a class score of each picture, a step of a sequence, a channel, neuron or objective."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxviz import objectives
from onnxviz.errors import UsageError
from onnxviz.graph.output import SEQUENCE
from onnxviz.network import Network
from onnxviz.objectives import Objective

if TYPE_CHECKING:
    from onnxviz.gradients import Gradients
    from onnxviz.graph.layers import Layer

#: A class index or label, None for each picture's top class, or one of these for each picture.
Target = int | str | None | Sequence[int | str | None]
#: One neuron of a layer's map (y, x); of a sequence, the step.
Position = int | tuple[int, ...] | None


@dataclass(frozen=True)
class Aim:
    """An objective with what it is called, for N pictures.

    objective       one scalar a picture
    fed             what it takes at run time, N entries each
    key             what its graph is kept under; None: used once
    targets         each picture's class, or None where it is no class
    labels          what is explained in each picture, in words
    probabilities   of the targets, (N,) float32; None where it is no class
    """

    objective: Objective
    fed: dict[str, np.ndarray] = field(repr=False)
    key: Hashable
    targets: list[int | None]
    labels: list[str]
    probabilities: np.ndarray | None = None

    def gradients(
        self,
        net: Network,
        wrt: str | Sequence[str] | None = None,
        *,
        also: Sequence[str] = (),
        rules: str = "plain",
    ) -> Gradients:
        """The objective compiled with its gradients (`Network.gradients`)."""
        return net.gradients(self.objective, wrt, also=also, rules=rules, key=self.key)

    def feeds(self, index: np.ndarray | slice | None = None) -> dict[str, np.ndarray]:
        """What the objective is fed for the pictures `index` (numbers, repeated as often as they are run)."""
        return {name: array if index is None else array[index] for name, array in self.fed.items()}


@dataclass(frozen=True)
class Unit:
    """A layer's channel, or one of its neurons: `position` (y, x)."""

    layer: Layer
    channel: int
    position: tuple[int, int] | None

    @classmethod
    def of(cls, net: Network, layer: str, channel: int, position: Position) -> Unit:
        """The unit that is meant, looked up in the network.

        raises   UnknownLayer; UsageError where the layer has no such channel or neuron
        """
        found, place = net.layer(layer), _pair(position)
        shape, last = found.shape, found.channels_last
        if len(shape) < 2:
            raise UsageError(f"layer {layer!r} has shape {shape} and no channels; choose another --layer")
        if net.pictures_axis(found.name) != 0:
            raise UsageError(
                f"layer {layer!r} has its pictures on axis {net.pictures_axis(found.name)} of {shape}; which of the "
                f"others are channels is not known: give --objective \"part('{found.name}', 0, {channel})\""
            )
        count = shape[-1] if last else shape[1]
        if channel < 0 or (isinstance(count, int) and channel >= count):
            raise UsageError(f"layer {layer!r} has {count} channels, from 0; got channel {channel}")
        if place is not None:
            _check_place(found, place, shape[1:-1] if last else shape[2:])
        return cls(found, channel, place)

    @property
    def label(self) -> str:
        """The layer, channel and place."""
        where = "" if self.position is None else f" at ({self.position[0]}, {self.position[1]})"
        return f"{self.layer.name}, channel {self.channel}{where}"


def _pair(position: Position) -> tuple[int, int] | None:
    given = (position,) if isinstance(position, int) else position
    if given is not None and len(given) != 2:
        raise UsageError(f"--neuron takes a row and a column of a layer's map, such as 3,5; got {position!r}")
    return None if given is None else (int(given[0]), int(given[1]))


def _check_place(layer: Layer, position: tuple[int, int], sizes: Sequence[int | str]) -> None:
    if len(sizes) != 2:
        raise UsageError(
            f"layer {layer.name!r} has no map of neurons (shape {layer.shape}); leave position out"
        )
    for given, size in zip(position, sizes, strict=True):
        if given < 0 or (isinstance(size, int) and given >= size):
            raise UsageError(
                f"layer {layer.name!r} has {sizes[0]}×{sizes[1]} neurons, from (0, 0); got {position}"
            )


def choose(
    net: Network,
    x: np.ndarray,
    *,
    target: Target = None,
    objective: Objective | str | None = None,
    layer: str | None = None,
    channel: int | None = None,
    position: Position = None,
) -> Aim:
    """What the arguments of a technique mean for the pictures `x`, the network's input tensor.

    target      class index or label, or one for each picture; None, and nothing else given: each picture's top class
    objective   any objective (`onnxviz.objectives`), or its text
    layer       with `channel`: the mean activation of that channel; with `position` (y, x) too: that neuron's
    position    without a layer: the step of a sequence, whose best class (or `target`) is explained
    raises      UsageError, UnknownLabel, UnknownLayer, ModelUnsuitable (no classifier)
    """
    check_one(target, objective, layer)
    count = len(x)
    if objective is not None:
        if channel is not None or position is not None:
            raise UsageError("--channel and --neuron belong to a layer: give --layer instead of --objective")
        wanted = parsed(net, objective)
        return Aim(wanted, {}, None, [None] * count, [str(wanted)] * count)
    if layer is not None:
        return _layer(net, layer, channel, position, count)
    if channel is None and position is not None and net.end.kind == SEQUENCE:
        return _step(net, x, target, position)
    if channel is not None or position is not None:
        raise UsageError("--channel and --neuron belong to a layer: give --layer too")
    return _classes(net, x, target)


def check_one(target: Target, objective: object, layer: str | None) -> None:
    """raises   UsageError where more than one of them says what is explained."""
    if sum(given is not None for given in (target, objective, layer)) > 1:
        raise UsageError("give one of target, objective and layer: they are different things to explain")


def parsed(net: Network, objective: Objective | str) -> Objective:
    """An objective, or its text, with the class scores found in this network.

    raises   UsageError, UnknownLabel, UnknownLayer, ModelUnsuitable
    """
    if isinstance(objective, str):
        from onnxviz.objective_text import parse

        objective = parse(objective, net)
    if not isinstance(objective, Objective):
        raise UsageError(
            f"an objective is made by onnxviz.objectives or written as text, such as 'logit(0)'; got a "
            f"{type(objective).__name__}"
        )
    return net.settled(objective)


def targets_of(target: Target, count: int) -> list[int | str | None]:
    """One target for each picture.

    raises   UsageError where several were given and not as many as pictures
    """
    several = not isinstance(target, str) and isinstance(target, (Sequence, np.ndarray))
    wanted: list[int | str | None] = list(target) if several else [target] * count  # type: ignore[arg-type, list-item]
    if len(wanted) != count:
        raise UsageError(f"{len(wanted)} targets were given for {count} pictures; give one, or one for each")
    return wanted


def step_number(net: Network, position: Position) -> int:
    """The step that a position means.

    raises   UsageError
    """
    given = (position,) if isinstance(position, (int, np.integer)) else tuple(position or ())
    steps = net.end.steps
    if len(given) != 1 or not 0 <= given[0] < (steps or given[0] + 1):
        raise UsageError(
            f"output {net.end.spelled} is a sequence of {steps or 'some'} steps, from 0, such as --neuron "
            f"{(steps or 2) // 2}; got {', '.join(map(str, given)) or 'none'}"
        )
    return int(given[0])


def step_objective(net: Network, position: Position, target: int | str | None) -> Objective:
    """The score of a class (or FED, or None: the best one) at a step of the sequence that the network ends in."""
    end = net.end
    return objectives.step(end.logits, step_number(net, position), target, axis=end.logits_axis)


def _classes(net: Network, x: np.ndarray, target: Target) -> Aim:
    rows = net.probabilities(x)
    return _of(net, objectives.logit(objectives.FED), "logit", rows, targets_of(target, len(x)))


def _step(net: Network, x: np.ndarray, target: Target, position: Position) -> Aim:
    number = step_number(net, position)
    objective = step_objective(net, position, objectives.FED)
    whole = net.steps(x)
    if number >= whole.shape[1]:
        raise UsageError(f"these pictures have {whole.shape[1]} steps, from 0; got step {number}")
    rows = whole[:, number]
    return _of(net, objective, ("step", number), rows, targets_of(target, len(x)), f"step {number}: ")


def _of(
    net: Network,
    objective: Objective,
    key: Hashable,
    rows: np.ndarray,
    wanted: Sequence[int | str | None],
    before: str = "",
) -> Aim:
    """The aim for classes whose probabilities are `rows`, (N, classes)."""
    targets = [
        int(np.argmax(row)) if one is None else net.target(one) for one, row in zip(wanted, rows, strict=True)
    ]
    return Aim(
        net.settled(objective),
        {"target": np.array(targets, dtype=np.int64)},
        key,
        list(targets),
        [before + net.label(one) for one in targets],
        rows[np.arange(len(rows)), targets],
    )


def _layer(net: Network, layer: str, channel: int | None, position: Position, count: int) -> Aim:
    if channel is None:
        raise UsageError(f"layer {layer!r} needs the channel to explain: give --channel, counted from 0")
    unit = Unit.of(net, layer, channel, position)
    found = unit.layer
    if found.channels_last:
        between = unit.position if unit.position is not None else (None,) * (len(found.shape) - 2)
        objective = objectives.part(found.name, *between, channel)
    elif unit.position is not None:
        objective = objectives.neuron(found.name, channel, *unit.position)
    else:
        objective = objectives.channel(found.name, channel)
    key = ("layer", found.name, channel, unit.position)
    return Aim(objective, {}, key, [None] * count, [unit.label] * count)
