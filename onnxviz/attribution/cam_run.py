"""What a class activation map needs of the network, in one run: activations, gradients by the layers, class scores.

The backward walk stops at the layers, so a run costs little more than a forward pass. Top classes are found in the
same run: `Target.settle` would take a forward pass of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onnxviz import objectives
from onnxviz.attribution.targets import Target
from onnxviz.graph.layers import Layer
from onnxviz.graph.output import BINARY
from onnxviz.network import Network
from onnxviz.progress import Progress


class Seen(NamedTuple):
    """One run on N pictures.

    aim           what is explained
    activations   of each layer, (N, C, H, W) float32
    gradients     by each layer, of the same shapes; None where none were asked for
    scores        the objective on each picture, (N,); None where it was not computed
    """

    aim: Target
    activations: list[np.ndarray]
    gradients: list[np.ndarray] | None
    scores: np.ndarray | None


def see(
    net: Network,
    x: np.ndarray,
    layers: Sequence[Layer],
    asked: Target,
    *,
    gradients: bool,
    batch: int | None,
    progress: Progress,
) -> Seen:
    """Run the network once for the pictures `x`.

    asked       what is explained
    gradients   whether gradients by the layers are wanted too
    raises      UsageError, ModelUnsuitable (an objective that does not depend on a layer), UnsupportedOperator,
                GradientNotFinite
    """
    names = [layer.name for layer in layers]
    if len(x) == 1 and batch is None:
        batch = 1  # what memory allows takes a while to tell
    aim = asked.each(len(x))
    known = [one is not None for one in aim.classes]
    told = aim.scored and aim.step is None and aim.probabilities is None and all(known) == any(known)
    if not told:
        aim = aim.settle(net, x)
    also = [net.head.logits, net.head.scores] if told else []
    wanted = list(dict.fromkeys([*names, *also]))
    if gradients:
        run = aim.gradients(net, names, also=wanted)
        arrays = run(x, aim.feeds(), batch=batch, progress=progress)
    else:
        arrays = net.run(x, wanted, batch=batch, progress=progress)
    if told:
        logits, scores = (arrays[name].reshape(len(x), -1) for name in also)
        if net.head.kind == BINARY:
            logits = np.concatenate([-logits, logits], axis=1)
        aim = aim.told(net, net.to_probabilities(scores), logits)
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
    names = ", ".join(layer.name for layer in layers)
    energy = Target(objectives.l2(layers[0].name), None, (f"first component of {names}",), (None,), (None,))
    seen = see(net, x, layers, energy, gradients=False, batch=batch, progress=progress)
    return seen._replace(scores=None)


def _channels_first(array: np.ndarray, layer: Layer) -> np.ndarray:
    """(N, C, H, W) float32."""
    array = np.moveaxis(array, 3, 1) if layer.channels_last else array
    return np.ascontiguousarray(array, dtype=np.float32)
