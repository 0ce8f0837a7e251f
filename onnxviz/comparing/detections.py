"""Do two detectors find the same: their scores, box by box and class by class, told picture by picture.

Both files score the same boxes in the same order, so that none has to be paired with another by how far they overlap;
what picks some of them out (NonMaxSuppression, TopK) stands behind what is compared here. Detections of one picture are
no independent answers, so limits go by pictures: each counts once, with its share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz import isolate
from onnxviz.comparing.pixels import limits
from onnxviz.graph.analysis.dataflow import by_name, duplicate
from onnxviz.graph.operators import RESHAPING, VALUE_KEPT, computes
from onnxviz.graph.shapes import infer

if TYPE_CHECKING:
    from onnxviz.network import Network

# From this score on a box holds something; and down to this one the other file counts as finding it, too: what stands
# at a threshold falls to either side of it by a hair.
_FOUND: Final = 0.5
_KEPT: Final = 0.25
_WHOLE: Final = 1e-2  # scores of all classes and of none add up to 1 within this
_SQUASHED: Final = ("sigmoid", "hard_sigmoid", "softmax")


@dataclass
class Detections:
    """What two detectors find.

    outputs   by A's name of a value that holds scores, the axis along which they stand with the numbers of a box, and
              which places of it are scores
    shares    of each picture where either finds anything, the share of that which the other finds, too
    found     how many A finds, and
    lost      of these how many B does not
    added     how many B finds and A does not
    nothing   by A's name of a value, the place of the class that stands for nothing; −1: there is none
    """

    outputs: dict[str, tuple[int, list[int]]]
    shares: list[float] = field(default_factory=list)
    found: int = 0
    lost: int = 0
    added: int = 0
    nothing: dict[str, int] = field(default_factory=dict)

    def add(self, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
        """One picture: the values that hold scores, by A's names."""
        kept = found = lost = added = 0
        for name, (axis, places) in self.outputs.items():
            if name not in ours or name not in theirs:
                continue
            a, b = (array.take(places, axis).astype(np.float64) for array in (ours[name], theirs[name]))
            if name not in self.nothing:
                whole = a.shape[axis] > 1 and np.allclose(a.sum(axis=axis), 1, atol=_WHOLE)
                means = a.mean(axis=tuple(other for other in range(a.ndim) if other != axis))
                self.nothing[name] = int(np.argmax(means)) if whole else -1
            if self.nothing[name] >= 0:  # almost everywhere there is nothing
                a, b = (np.delete(array, self.nothing[name], axis) for array in (a, b))
            found += int((a >= _FOUND).sum())
            lost += int(((a >= _FOUND) & (b < _KEPT)).sum())
            added += int(((b >= _FOUND) & (a < _KEPT)).sum())
            kept += int((((a >= _FOUND) & (b >= _KEPT)) | ((b >= _FOUND) & (a >= _KEPT))).sum())
        self.found, self.lost, self.added = self.found + found, self.lost + lost, self.added + added
        if kept + lost + added:
            self.shares.append(kept / (kept + lost + added))

    def agreement(self, margin: float = 0.0) -> tuple[float, float, float] | None:
        """Mean share of the pictures, and its limits (95 %, Student's t); None where nothing is found."""
        return limits(self.shares)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values."""
        told = self.agreement()
        share = None if told is None else {"share": told[0], "low": told[1], "high": told[2]}
        counts = {"found": self.found, "lost": self.lost, "added": self.added, "pictures": len(self.shares)}
        return {"outputs": list(self.outputs), "agreement": share, **counts}

    def verdict(self, margin: float = 0.0) -> str:
        """What was found, in a sentence; '' where nothing was."""
        told = self.agreement()
        if told is None:
            return ""
        mean, low, high = told
        pictures = f"mean of {len(self.shares)} pictures, 95% limits {low:.1%} to {high:.1%}"
        return (
            f"Of what A or B detects (a score of {_FOUND:g} or more) the other finds {mean:.1%}, too ({pictures}): of "
            f"{self.found} detections {self.lost} are lost and {self.added} new."
        )

    def sentences(self) -> list[str]:
        """For a reader."""
        told = self.verdict()
        return [told[:-1]] if told else [f"neither file detects anything with a score of {_FOUND:g} or more"]


def detections(a: Network, names: Sequence[str]) -> Detections | None:
    """What is to be filled for a detector; None where none of these values of A holds scores of several boxes.

    names   of values that the pictures move
    """
    values = by_name(inferred(a).graph)
    found = {
        name: scores for name in names if name in values and (scores := _scores(values[name])) is not None
    }
    return Detections(found) if found else None


def inferred(net: Network) -> ir.Model:
    """A copy of the network's graph that knows its types and sizes."""
    with isolate.on(net.worker):
        model = duplicate(net.batched[0])
        infer(model)
    return model


def _scores(value: ir.Value) -> tuple[int, list[int]] | None:
    """The axis and the places of scores in a value that has several rows for each picture."""
    sizes = list(value.shape or ())
    if sum(size != 1 for size in sizes[1:]) < 2:
        return None
    axes = [axis for axis in range(1, len(sizes)) if isinstance(sizes[axis], int) and sizes[axis] != 1]
    options = [(axis, places) for axis in axes if (places := _places(value, axis))]
    # Where some places are scores and others are not, this is their axis; else the shorter one: there are more boxes.
    options.sort(key=lambda one: (len(one[1]) == sizes[one[0]], sizes[one[0]]))
    return options[0] if options else None


def _places(value: ir.Value, axis: int) -> list[int]:
    """Which places of an axis come out of a sigmoid or a softmax."""
    size = value.shape[axis] if value.shape is not None and axis < len(value.shape) else None
    node = value.producer()
    if node is None or not isinstance(size, int):
        return []
    word, x = computes(node.op_type), node.inputs[0] if node.inputs else None
    rank = len(value.shape or ())
    if word in _SQUASHED:
        return list(range(size))
    if word == "concatenate":
        parts = [one for one in node.inputs if one is not None]
        if node.attributes.get_int("axis", 0) % rank != axis:
            return _common([_places(one, axis) for one in parts])
        found, start = [], 0
        for one in parts:
            own = one.shape[axis] if one.shape is not None and axis < len(one.shape) else None
            if not isinstance(own, int):
                return []
            found += [start + place for place in _places(one, axis)]
            start += own
        return found
    if x is None:
        return []
    if word == "transpose":
        order = node.attributes.get_ints("perm", list(reversed(range(rank))))
        return _places(x, order[axis])
    if node.op_type in VALUE_KEPT or (node.op_type in RESHAPING and _same_axis(x, value, axis)):
        return _places(x, axis if node.op_type in VALUE_KEPT else _same_axis(x, value, axis) or axis)
    if word in ("split", "slice"):
        whole = _places(x, axis)
        every = x.shape is not None and len(whole) == x.shape[axis]
        return list(range(size)) if every else []
    return []


def _common(parts: list[list[int]]) -> list[int]:
    """Places that are scores in all parts."""
    return sorted(set(parts[0]).intersection(*parts[1:])) if parts else []


def _same_axis(x: ir.Value, y: ir.Value, axis: int) -> int | None:
    """The axis that an axis of a reshaped value was before, where it is one of the same size at the same end."""
    if x.shape is None or y.shape is None or not len(x.shape):
        return None
    if axis == len(y.shape) - 1 and x.shape[-1] == y.shape[-1]:
        return len(x.shape) - 1
    return axis if axis < len(x.shape) and x.shape[axis] == y.shape[axis] else None
