"""How many images may go through a network at once: its batch freed, proven to keep them apart, or one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelRejected, ModelUnsuitable

if TYPE_CHECKING:
    from onnxviz.network import Network


def freed(net: Network) -> tuple[ir.Model, int | None, str | None]:
    """The network with a dynamic batch, and None; or as it is, with the batch that it takes and what mixes its images.

    Of the last only what the graph tells; `alone` looks closer.
    """
    from onnxviz.graph.analysis.dynamic_batch import Mixes, mixing
    from onnxviz.graph.surgery import free_batch, single

    batch, mixed = net.input.batch, mixing(net.model, net.input.name)
    if mixed is None and batch is None:
        return net.model, None, None
    if mixed is None:
        try:
            return free_batch(net.model), None, None
        except ModelUnsuitable as reason:
            if not isinstance(reason.__cause__, Mixes):
                net.warnings.append(f"the batch stays fixed to {batch}: {reason}")
                return net.model, batch, None
            mixed = str(reason.__cause__)
    _tell(net, mixed)
    return (single(net.model, net.input.name), 1, mixed) if batch is None else (net.model, batch, mixed)


def alone(net: Network, fixed: int | None, mixed: str | None) -> str | None:
    """Why images go through one at a time; None where a batch of them gives what each gives by itself.

    Proven from the graph where the batch can be followed through it, else tried once on two images.

    fixed, mixed   what `freed` told
    """
    from onnxviz.graph.analysis.dynamic_batch import Mixes, Refused, independent, plain

    if fixed is not None:
        return mixed or (_tried(net, fixed) if fixed > 1 else None)
    if net.input.batch is not None:  # a batch that could be freed is proven
        return None
    try:
        if not plain(net.model, [(layer.name, layer.shape) for layer in net.layers]):
            independent(net.model, net.input.name)
    except Mixes as reason:
        return _tell(net, str(reason))
    except (Refused, ModelRejected):
        return _tried(net, 2)
    return None


def _tried(net: Network, count: int) -> str | None:
    """Whether two images that differ give beside each other, `count` in a run, what they give alone."""
    from onnxviz.runtime.apart import difference

    halves = ir.DataType.FLOAT16, ir.DataType.BFLOAT16
    half = any(value.dtype in halves for value in net.model.graph.initializers.values())
    found = difference(net.program(), samples(net), count, alone=net.batched[1] or 1, half=half)
    return None if found is None else _tell(net, found)


def samples(net: Network) -> np.ndarray:
    """Two pictures that no network takes for each other, as its input: noise, and half dark and half light."""
    height, width = net.size
    rng = np.random.default_rng(0)
    if net.input.channels not in (None, 1, 3, 4):  # no pictures: numbers of two deviations
        sizes = {"N": 2, "C": net.input.channels, "H": height, "W": width}
        drawn = rng.random([sizes[letter] for letter in net.input.layout], np.float32)
        return drawn * np.array([1, 0.1], np.float32).reshape(2, 1, 1, 1)
    noise = rng.integers(0, 256, (height, width, 3), np.uint8)
    halves = np.full((height, width, 3), 230, np.uint8)
    halves[: height // 2] = 20
    return net.preprocessing.normalise(np.stack([noise, halves])).astype(np.float32, copy=False)


def _tell(net: Network, reason: str) -> str:
    net.warnings.append(f"images go through this network one at a time: {reason}")
    return reason
