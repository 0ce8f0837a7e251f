"""What `ascent` maximises: class scores, channels, neurons, a direction, a whole layer; many pictures at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxviz import objectives
from onnxviz.errors import ModelUnsuitable, UsageError
from onnxviz.objectives import FED, Objective

if TYPE_CHECKING:
    from onnxviz.graph.layers import Layer
    from onnxviz.network import Network

#: All channels of a layer.
ALL = "all"


@dataclass(frozen=True)
class Goal:
    """One objective for all pictures, with what is different for each.

    objective   what is maximised
    labels      what each picture shows, in words
    fed         {graph input: one entry a picture}
    targets     each picture's class, or None where it is no class
    channels    each picture's channel, or None
    layer       the layer, or None for classes
    """

    objective: Objective
    labels: list[str]
    fed: dict[str, np.ndarray] = field(repr=False)
    targets: list[int | None]
    channels: list[int | None]
    layer: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def repeated(self, times: int) -> Goal:
        """Each picture so many times, one after the other."""
        return Goal(
            self.objective,
            [label for label in self.labels for _ in range(times)],
            {name: np.repeat(array, times, axis=0) for name, array in self.fed.items()},
            [target for target in self.targets for _ in range(times)],
            [channel for channel in self.channels for _ in range(times)],
            self.layer,
        )


def goal(
    net: Network,
    *,
    target: int | str | Sequence[int | str] | None = None,
    layer: str | None = None,
    channel: int | Sequence[int] | str | None = None,
    neuron: tuple[int, int] | str | None = None,
    direction: np.ndarray | None = None,
    power: float = 0.0,
    objective: Objective | None = None,
) -> Goal:
    """What the arguments mean.

    raises   UsageError, UnknownLabel, UnknownLayer, ModelUnsuitable (no classifier)
    """
    if sum(given is not None for given in (target, layer, objective)) != 1:
        raise UsageError("give one of --target, --layer and --objective: that is what the picture is to show")
    if layer is None and any(given is not None for given in (channel, neuron, direction)):
        raise UsageError("channel, neuron and direction belong to a layer: give --layer too")
    if target is not None:
        return _classes(net, target)
    if objective is not None:
        return Goal(objective, [str(objective)], {}, [None], [None])
    assert layer is not None
    found = net.layer(layer)
    if direction is not None:
        if channel is not None or neuron is not None:
            raise UsageError("a direction mixes all channels of a layer: leave channel and neuron out")
        return Goal(
            objectives.direction(found.name, direction, power),
            [f"{found.name}, direction"],
            {},
            [None],
            [None],
            found.name,
        )
    if channel is None:
        if neuron is not None:
            raise UsageError("a neuron lies in a channel of a layer: give channel too")
        return Goal(objectives.layer(found.name), [found.name], {}, [None], [None], found.name)
    return _channels(found, channel, neuron)


def _classes(net: Network, target: int | str | Sequence[int | str]) -> Goal:
    given = [target] if isinstance(target, (str, int, np.integer)) else list(target)
    wanted = [net.target(one) for one in given]
    if not wanted:
        raise UsageError("no target was given; expected at least one class index or label")
    return Goal(
        objectives.logit(FED),
        [net.label(one) for one in wanted],
        {"target": np.array(wanted, np.int64)},
        list(wanted),
        [None] * len(wanted),
    )


def _channels(layer: Layer, channel: int | Sequence[int] | str, neuron: tuple[int, int] | str | None) -> Goal:
    if len(layer.shape) < 2:
        raise UsageError(
            f"layer {layer.name!r} has shape {layer.shape} and no channels; choose another layer"
        )
    count = layer.shape[-1 if layer.channels_last else 1]
    if channel == ALL:
        if not isinstance(count, int):
            raise ModelUnsuitable(
                f"how many channels layer {layer.name!r} has cannot be told: name them with channel"
            )
        wanted = list(range(count))
    elif isinstance(channel, str):
        raise UsageError(f"channel {channel!r}: expected a number from 0, several, or 'all'")
    else:
        wanted = [int(one) for one in ([channel] if isinstance(channel, (int, np.integer)) else channel)]
    outside = [one for one in wanted if one < 0 or (isinstance(count, int) and one >= count)]
    if outside or not wanted:
        listed = ", ".join(map(str, outside[:5])) or "none"
        raise UsageError(f"layer {layer.name!r} has {count} channels, from 0; got channel {listed}")
    where, objective = "", _objective(layer, neuron)
    if neuron is not None:
        where = ", middle neuron" if neuron == MIDDLE else f", neuron {neuron[0]},{neuron[1]}"
    return Goal(
        objective,
        [f"{layer.name}, channel {one}{where}" for one in wanted],
        {"channel": np.array(wanted, np.int64)},
        [None] * len(wanted),
        list(wanted),
        layer.name,
    )


#: The neuron in the middle of the map.
MIDDLE = "middle"


def _objective(layer: Layer, neuron: tuple[int, int] | str | None) -> Objective:
    if neuron is None:
        return objectives.channel(layer.name, FED, last=layer.channels_last)
    if len(layer.shape) != 4:
        raise UsageError(
            f"layer {layer.name!r} has no map of neurons (shape {layer.shape}); leave neuron out"
        )
    if neuron == MIDDLE:
        return objectives.neuron(layer.name, FED, last=layer.channels_last)
    if isinstance(neuron, str) or len(neuron) != 2 or min(neuron) < 0:
        raise UsageError(f"neuron {neuron!r}: expected (row, column) from 0, or 'middle'")
    return objectives.neuron(layer.name, FED, *map(int, neuron), last=layer.channels_last)
