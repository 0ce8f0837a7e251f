"""What a gradient technique explains: a class score of each picture, a channel or neuron, or any objective."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxviz import objectives
from onnxviz.errors import UsageError
from onnxviz.network import Network
from onnxviz.objectives import Objective

if TYPE_CHECKING:
    from onnxviz.gradients import Gradients

#: A class index or label, None for each picture's top class, or one of these for each picture.
Target = int | str | None | Sequence[int | str | None]


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


def choose(
    net: Network,
    x: np.ndarray,
    *,
    target: Target = None,
    objective: Objective | None = None,
    layer: str | None = None,
    channel: int | None = None,
    position: tuple[int, int] | None = None,
) -> Aim:
    """What the arguments of a technique mean for the pictures `x`, the network's input tensor.

    target      class index or label, or one for each picture; None, and nothing else given: each picture's top class
    objective   any objective (`onnxviz.objectives`)
    layer       with `channel`: the mean activation of that channel; with `position` (y, x) too: that neuron's
    raises      UsageError, UnknownLabel, UnknownLayer, ModelUnsuitable (no classifier)
    """
    if sum(given is not None for given in (target, objective, layer)) > 1:
        raise UsageError("give one of target, objective and layer: they are different things to explain")
    count = len(x)
    if objective is not None:
        return Aim(objective, {}, None, [None] * count, [str(objective)] * count)
    if layer is not None:
        return _layer(net, layer, channel, position, count)
    if channel is not None or position is not None:
        raise UsageError("channel and position belong to a layer: give --layer too")
    return _classes(net, x, target)


def _classes(net: Network, x: np.ndarray, target: Target) -> Aim:
    rows = net.probabilities(x)
    several = not isinstance(target, str) and isinstance(target, (Sequence, np.ndarray))
    wanted: list[int | str | None] = list(target) if several else [target] * len(x)  # type: ignore[arg-type, list-item]
    if len(wanted) != len(x):
        raise UsageError(f"{len(wanted)} targets were given for {len(x)} pictures; give one, or one for each")
    targets = [
        int(np.argmax(row)) if one is None else net.target(one) for one, row in zip(wanted, rows, strict=True)
    ]
    return Aim(
        objectives.logit(objectives.FED),
        {"target": np.array(targets, dtype=np.int64)},
        "logit",
        list(targets),
        [net.label(one) for one in targets],
        rows[np.arange(len(x)), targets],
    )


def _layer(
    net: Network, layer: str, channel: int | None, position: tuple[int, int] | None, count: int
) -> Aim:
    from onnxviz.techniques.scores import LayerScore

    if channel is None:
        raise UsageError(f"layer {layer!r} needs the channel to explain: give --channel, counted from 0")
    checked = LayerScore(net, layer, channel, position)  # names, ranges
    found = net.layer(layer)
    if found.channels_last:
        between = tuple(position) if position is not None else (None,) * (len(found.shape) - 2)
        objective = objectives.part(found.name, *between, channel)
    elif position is not None:
        objective = objectives.neuron(found.name, channel, *position)
    else:
        objective = objectives.channel(found.name, channel)
    key = ("layer", found.name, channel, position)
    return Aim(objective, {}, key, [None] * count, [checked.label] * count)
