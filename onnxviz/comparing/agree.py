"""Whether two files can be compared at all, and whether both see the same pictures.

What differs so that nothing could be said (classes, sizes, labels) is the caller's mistake and an error; what differs
and should not (recipes, the range that an input quantiser holds) is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from onnxviz.auditing.finding import Check, Finding, checked
from onnxviz.comparing.hybrids import ending
from onnxviz.comparing.rules import RULES, found
from onnxviz.errors import UsageError, ways
from onnxviz.graph.head import Head
from onnxviz.graph.operators import computes
from onnxviz.graph.output import CLASSES
from onnxviz.graph.quantisers import Quantiser, of_input, of_node
from onnxviz.network import Network
from onnxviz.text import quoted

# What of a recipe says which pixels are seen, and what colours: how these are scaled is told by the ends of the range.
_SEEN: Final = ("size", "resize", "crop_fraction", "interpolation")
# Ends of a range count as the same within this share of it: one step of eight bits and a half.
_SAME_RANGE: Final = 1.5 / 255
# Of what an input may take, the share that its quantiser may cut off, and must use.
_BEYOND, _USED = 0.05, 0.6


def agree(a: Network, b: Network) -> None:
    """Hold two networks to being files of one.

    raises   UsageError, which names what differs in both
    """
    names = f"A ({quoted(a.name)})", f"B ({quoted(b.name)})"
    for first, second, way in _sides(a, b):
        if first != second:
            raise UsageError(
                f"these are no two files of one network: {names[0]} has {first} and {names[1]} {second}{way}"
            )
    if a.labels is not None and b.labels is not None and a.labels != b.labels:
        at = next(i for i, (one, other) in enumerate(zip(a.labels, b.labels, strict=True)) if one != other)
        raise UsageError(
            f"the labels differ: class {at} is {quoted(a.labels[at])} in {names[0]} and {quoted(b.labels[at])} in "
            f"{names[1]}" + ways("give those of both: --labels FILE")
        )


def _sides(a: Network, b: Network) -> Iterator[tuple[str, str, str]]:
    """What must be the same, in words: of A, of B, and what to do where it is not."""
    one, other = (f"an input of {net.preprocessing.count} channels" for net in (a, b))
    yield one, other, ""
    one, other = (_pixels(net.preprocessing.size) for net in (a, b))
    yield one, other, ways("give both the same: --size WIDTHxHEIGHT, where one of them takes it")
    ends = ending(a), ending(b)
    unknown = any(end is not None and end.classes is None for end in ends)
    one, other = (_output(net, end, unknown) for net, end in zip((a, b), ends, strict=True))
    yield one, other, ways("choose the output: --output NAME")


def _pixels(size: tuple[int | None, int | None] | None) -> str:
    if size is None:
        return "an input of any size"
    return "an input of {}×{} pixels".format(*("any" if side is None else side for side in reversed(size)))


def _output(net: Network, end: Head | None, unknown: bool) -> str:
    if end is None:
        return f"{len(net.model.graph.outputs)} outputs without class scores"
    kind = CLASSES if end.scored else end.kind
    return kind if unknown or end.classes is None else f"{end.classes} {kind}"


# --- the pictures -------------------------------------------------------------------------------


def input_check(a: Network, b: Network) -> Check:
    """compare.input: the recipes, and what the quantisers behind the inputs hold."""
    rule = RULES["compare.input"]
    advice = "open both as their maker did: --preprocess, or --preprocess-a and --preprocess-b"
    findings: list[Finding] = []
    texts = list(_recipes(a, b))
    if texts:
        findings += found(rule, len(texts), "input", f"The recipes differ: {'; '.join(texts)}.", advice)
    figures: dict[str, Any] = {}
    for name, net in (("A", a), ("B", b)):
        held = input_range(net)
        low, high = extent(net)
        figures[name] = {"input": [low, high], "quantiser": None if held is None else list(held)}
        if held is None:
            continue
        beyond = (max(0.0, held[0] - low) + max(0.0, high - held[1])) / max(high - low, 1e-12)
        used = (min(high, held[1]) - max(low, held[0])) / max(held[1] - held[0], 1e-12)
        if beyond > _BEYOND or used < _USED:
            findings += found(
                rule, 1, f"input of {name}",
                f"Pictures come as {low:.3g} to {high:.3g}, and the quantiser of {name}'s input holds {held[0]:.3g} to "
                f"{held[1]:.3g}: {beyond:.0%} of the range is cut off, {max(used, 0):.0%} of the codes are used.",
                f"calibrate {name} on pictures that were prepared as they are when it is used, or correct the recipe",
            )  # fmt: skip
    return checked(rule, findings=findings, figure="the same" if not findings else None, figures=figures)


def _recipes(a: Network, b: Network) -> Iterator[str]:
    """In what the recipes differ, of what makes another picture of one."""
    one, other = a.preprocessing, b.preprocessing
    for field in _SEEN:
        first, second = getattr(one, field), getattr(other, field)
        if first != second:
            yield f"{field} {first} in A, {second} in B"
    if not one.pictorial or _scales_itself(a) or _scales_itself(b):
        return  # what it does with the pixels stands in the graph
    if one.channels != other.channels:
        yield f"{one.channels} in A, {other.channels} in B"
    elif not np.allclose(_real(a), _real(b), rtol=_SAME_RANGE, atol=_SAME_RANGE):
        ranges = ("{:.3g} to {:.3g}".format(*extent(net)) for net in (a, b))
        yield "pixels become {} in A, {} in B".format(*ranges)


def _scales_itself(net: Network) -> bool:
    """Whether the file may turn whole pixels into what it was trained on, as one that takes them for 0 to 1 can."""
    scale, bias = _real(net)
    whole = net.preprocessing.codes is not None
    return (whole and _codes(net) is None) or (not np.any(bias) and (whole or np.allclose(scale, 1)))


def _codes(net: Network) -> Quantiser | None:
    """What the whole numbers of the input mean to the file; None where they are pixels, and of real numbers."""
    return None if net.preprocessing.codes is None else of_input(net.model, net.input.name)


def _real(net: Network) -> tuple[np.ndarray, np.ndarray]:
    """(C,) each: what the network takes a pixel for is its 0 to 255 times the first, and the second."""
    recipe, held = net.preprocessing, _codes(net)
    if held is None or held.scale is None or held.zero is None:
        return recipe.scale, recipe.bias
    return recipe.scale * held.scale, (recipe.bias - held.zero) * held.scale


def extent(net: Network) -> tuple[float, float]:
    """The smallest and largest real number that the network takes a pixel for."""
    scale, bias = _real(net)
    ends = np.concatenate([bias, 255 * scale + bias])
    return float(ends.min()), float(ends.max())


def input_range(net: Network) -> tuple[float, float] | None:
    """The real numbers that the quantiser behind the network's input holds; None where there is none, or several."""
    held = _codes(net)
    if held is None:
        value = next(one for one in net.model.graph.inputs if one.name == net.input.name)
        quantisers = [node for node, at in value.uses() if computes(node.op_type) == "quantize" and at == 0]
        held = of_node(quantisers[0]) if len(quantisers) == 1 == len(list(value.uses())) else None
    if held is None or held.low is None or held.high is None or held.axis is not None:
        return None
    return float(held.low[0]), float(held.high[0])
