"""What a network does to its input before anything else: the scaling of pixels that some files carry inside.

Where the first operators subtract a mean and divide by a deviation (or a BatchNormalization has learnt both), their
constants tell which pixels the network was trained on: 0 to 255, 0 to 1, or −1 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis.known_values import fold
from onnxviz.graph.operators import BY_STATISTICS, RENAMING, computes, computing

# What may stand between the input and its scaling without changing a value.
_PASSING: Final = RENAMING | computing("cast pad transpose")
_SCALING: Final = computing("add subtract multiply divide") | BY_STATISTICS
#: The pixels' range of the presets that are told apart.
RANGES: Final = {"raw": (0.0, 255.0), "unit": (0.0, 1.0), "tensorflow": (-1.0, 1.0)}
_MOST: Final = 16  # numbers of a constant: one a channel


class Scaling(NamedTuple):
    """What the network takes for its input, as its constants tell.

    preset   'raw' (0 to 255), 'unit' (0 to 1) or 'tensorflow' (−1 to 1), see `image.preprocessing.PRESETS`
    bgr      the mean colours are ImageNet's in the order blue, green, red
    reason   the operators and their constants, in words
    """

    preset: str
    bgr: bool
    reason: str


def input_scaling(model: ir.Model, name: str) -> Scaling | None:
    """How the network called for pixels, where its first operators scale the input `name`; None where they do not."""
    value = next((one for one in model.graph.inputs if one.name == name), None)
    scale, bias = np.ones(1), np.zeros(1)
    steps: list[str] = []
    known: dict[str, np.ndarray] = {}
    while value is not None:
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output():
            break
        node, slot = uses[0]
        if node.op_type not in _PASSING:
            learnt = node.op_type in BY_STATISTICS
            if node.op_type not in _SCALING or (learnt and (slot or steps)):
                break
            known = known or fold(model.graph, {})
            if learnt:
                return _learnt(node, known)
            step = _step(node, slot, scale, bias, known)
            if step is None:
                break
            scale, bias = step
            steps.append(node.op_type)
        value = node.outputs[0]
    if not steps or not (np.all(scale > 0) and np.isfinite(scale).all() and np.isfinite(bias).all()):
        return None
    return _meant(-bias / scale, 1 / scale, f"its first operators ({', '.join(steps)})")


def _step(
    node: ir.Node, slot: int, scale: np.ndarray, bias: np.ndarray, known: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """scale · x + bias after this operator; None where the other operand is no constant, or x is not first."""
    if len(node.inputs) != 2 or (slot and computes(node.op_type) == "divide"):
        return None
    number = _constant(node.inputs[1 - slot], known)
    if number is None or (scale.size > 1 and number.size > 1 and scale.size != number.size):
        return None
    with np.errstate(all="ignore"):
        if computes(node.op_type) == "multiply":
            return scale * number, bias * number
        if computes(node.op_type) == "divide":
            return scale / number, bias / number
        scale = np.broadcast_to(scale, np.broadcast_shapes(scale.shape, number.shape))
        if computes(node.op_type) == "add":
            return scale, bias + number
        return (-scale, -(bias - number)) if slot else (scale, bias - number)


def _learnt(node: ir.Node, known: Mapping[str, np.ndarray]) -> Scaling | None:
    """Of a BatchNormalization that reads the picture: the mean and variance that it has seen."""
    mean, variance = (_constant(value, known) for value in node.inputs[3:5])
    if mean is None or variance is None or not np.all(variance > 0):
        return None
    return _meant(mean, np.sqrt(variance), "its first operator (BatchNormalization)")


def _constant(value: ir.Value | None, known: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """A constant's numbers in one row, float64."""
    array = None if value is None else known.get(value.name or "")
    if array is None or not 0 < array.size <= _MOST:
        return None
    return array.astype(np.float64).reshape(-1)


def _fits(preset: str, mean: np.ndarray, deviation: np.ndarray, low: float, high: float) -> bool:
    """Whether pixels of `low` to `high` become what networks are trained on: normalised, 0 to 1, or 0 to 255."""
    colours, spread = (mean - low) / (high - low), deviation / (high - low)

    def within(values: np.ndarray, least: float, most: float) -> bool:
        return bool(np.all((values >= least) & (values <= most)))

    level = within(spread, 1 / 300, 1 / 200)  # one level of 255 becomes 1
    if within(colours, 0.2, 0.75):  # a mean colour is taken away, or half of the range
        return level or within(spread, 0.1, 0.4 if preset == "tensorflow" else 0.6)
    # Black stays 0. What leaves the pixels as they are tells nothing.
    unit = within(spread, 0.45, 1.1)
    return within(colours, -0.01, 0.01) and {"raw": unit, "unit": level, "tensorflow": unit or level}[preset]


def _meant(mean: np.ndarray, deviation: np.ndarray, where: str) -> Scaling | None:
    """Which pixels have this mean and deviation: what the scaling makes 0 and 1 of."""
    mean, deviation = np.atleast_1d(mean), np.atleast_1d(deviation)

    preset = next(
        (name for name, (low, high) in RANGES.items() if _fits(name, mean, deviation, low, high)), None
    )
    if preset is None:
        return None
    low, high = RANGES[preset]
    colours = (mean - low) / (high - low)  # the mean's, 0 to 1
    bgr = colours.size == 3 and bool(np.allclose(colours, [0.407, 0.457, 0.485], atol=0.005))
    told = " and ".join(
        f"{word} {', '.join(f'{number:.4g}' for number in np.unique(numbers)[:4])}"
        for word, numbers in (("mean", mean), ("deviation", deviation))
    )
    return Scaling(preset, bgr, f"{where} scale pixels themselves, with {told}")
