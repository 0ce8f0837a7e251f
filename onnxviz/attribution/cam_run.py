"""What a class activation map needs of the network, in one run: activations, gradients by the layers, class scores.

The backward walk stops at the layers, so a run costs little more than a forward pass. What is explained is settled
in the same run: `aim.choose` would look up the top class in a forward pass of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from onnxviz import objectives
from onnxviz.attribution.aim import Aim, Position, Target, choose, targets_of
from onnxviz.graph.layers import Layer
from onnxviz.graph.output import BINARY
from onnxviz.network import Network
from onnxviz.objectives import Objective
from onnxviz.progress import Progress


class Seen(NamedTuple):
    """One run on N pictures.

    aim           what is explained
    activations   of each layer, (N, C, H, W) float32
    gradients     by each layer, of the same shapes; None where none were asked for
    scores        the objective on each picture, (N,); None where it was not computed
    """

    aim: Aim
    activations: list[np.ndarray]
    gradients: list[np.ndarray] | None
    scores: np.ndarray | None


def see(
    net: Network,
    x: np.ndarray,
    layers: Sequence[Layer],
    *,
    target: Target,
    objective: Objective | str | None,
    position: Position,
    gradients: bool,
    batch: int | None,
    progress: Progress,
) -> Seen:
    """Run the network once for the pictures `x`.

    target, objective, position   as for `aim.choose`
    gradients           whether gradients by the layers are wanted too
    raises              UsageError, UnknownLabel, ModelUnsuitable (no classifier; an objective that does not depend on a
                        layer), UnsupportedOperator, GradientNotFinite
    """
    names = [layer.name for layer in layers]
    if len(x) == 1 and batch is None:
        batch = 1  # what memory allows takes a while to tell
    classes = objective is None and position is None
    if not classes:
        aim = choose(net, x, target=target, objective=objective, position=position)
        also: list[str] = []
        given: list[int | None] = []
    else:
        given = _targets(net, target, len(x))
        if None in given and any(
            one is not None for one in given
        ):  # the one case that takes a pass of its own
            given = choose(net, x, target=given).targets
        aim = _unsettled(net, given)
        also = [net.head.logits, net.head.scores]
    wanted = list(dict.fromkeys([*names, *also]))
    if gradients:
        run = aim.gradients(net, names, also=wanted)
        arrays = run(x, aim.feeds(), batch=batch, progress=progress)
    else:
        arrays = net.run(x, wanted, batch=batch, progress=progress)
    if classes:
        aim = _settled(net, given, arrays[net.head.logits], arrays[net.head.scores])
    return Seen(
        aim,
        [_channels_first(arrays[layer.name], layer) for layer in layers],
        [_channels_first(arrays[f"{layer.name}.gradient"], layer) for layer in layers] if gradients else None,
        arrays.get("objective"),
    )


def see_without_aim(
    net: Network, x: np.ndarray, layers: Sequence[Layer], *, batch: int | None, progress: Progress
) -> Seen:
    """The activations alone, for methods that know of no objective: the layer's energy stands for it."""
    names = [layer.name for layer in layers]
    seen = see(
        net,
        x,
        layers,
        target=None,
        objective=objectives.l2(names[0]),
        position=None,
        gradients=False,
        batch=batch,
        progress=progress,
    )
    label = f"first component of {', '.join(names)}"
    return seen._replace(aim=replace(seen.aim, labels=[label] * len(x)), scores=None)


def _targets(net: Network, target: Target, count: int) -> list[int | None]:
    return [None if one is None else net.target(one) for one in targets_of(target, count)]


def _unsettled(net: Network, targets: Sequence[int | None]) -> Aim:
    """The class score, before the top classes are known: `logit()` finds them inside the graph."""
    labels = [""] * len(targets)
    fed = [one for one in targets if one is not None]
    if not fed:
        return Aim(net.settled(objectives.logit()), {}, "top logit", list(targets), labels)
    classes = {"target": np.array(fed, dtype=np.int64)}
    return Aim(net.settled(objectives.logit(objectives.FED)), classes, "logit", list(targets), labels)


def _settled(net: Network, targets: list[int | None], logits: np.ndarray, scores: np.ndarray) -> Aim:
    """The same with every target known, as the methods that run again and the results name it."""
    flat = logits.reshape(len(logits), -1)
    if net.head.kind == BINARY:
        flat = np.concatenate([-flat, flat], axis=1)
    found = [int(np.argmax(row)) if one is None else one for one, row in zip(targets, flat, strict=True)]
    return Aim(
        net.settled(objectives.logit(objectives.FED)),
        {"target": np.array(found, dtype=np.int64)},
        "logit",
        list(found),
        [net.label(one) for one in found],
        net.to_probabilities(scores)[np.arange(len(found)), found],
    )


def _channels_first(array: np.ndarray, layer: Layer) -> np.ndarray:
    """(N, C, H, W) float32."""
    array = np.moveaxis(array, 3, 1) if layer.channels_last else array
    return np.ascontiguousarray(array, dtype=np.float32)
