"""Networks that answer at many places: do two segmenters give pixels the same class, do two detectors find the same.

Places of one picture are no independent answers, so limits go by pictures: each counts once, with its share. Both
detectors score the same boxes in the same order, so that none has to be paired with another by how far they overlap;
what picks some of them out (NonMaxSuppression, TopK) stands behind what is compared here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz import isolate
from onnxviz.graph.analysis.dataflow import by_name, duplicate
from onnxviz.graph.operators import RESHAPING, VALUE_KEPT, computes
from onnxviz.graph.output import MAP
from onnxviz.graph.shapes import infer
from onnxviz.network import Network
from onnxviz.text import amount

# What a map of so many channels holds is taken for a score of each class; fewer are depth, flow or colours as well,
# where the file does not end in the activation of scores.
_CLASSES: Final = 4
# And it has at least a place for so many pixels of the picture, a side; feature maps are coarser.
_COARSEST: Final = 8


@dataclass
class Pixels:
    """The classes of places.

    output   what A calls the map
    shares   by margin, of each picture the share of A's places with at least this margin where B has the same class;
             a picture without such places counts for none
    both     by class, places that have it in A and in B, and
    either   in A or in B
    """

    output: str
    shares: dict[float, list[float]] = field(default_factory=dict)
    both: dict[int, int] = field(default_factory=dict)
    either: dict[int, int] = field(default_factory=dict)

    def add(self, a: np.ndarray, b: np.ndarray, margins: Sequence[float]) -> None:
        """One picture: the scores (C, H, W) of A and of B; one channel is the score of a class against none."""
        one, other = _probabilities(a), _probabilities(b)
        best, twin = one.argmax(axis=0), other.argmax(axis=0)
        ordered = np.sort(one, axis=0)
        margin, same = ordered[-1] - ordered[-2], best == twin
        for least in margins:
            sure = margin >= least
            if sure.any():
                self.shares.setdefault(least, []).append(float(same[sure].mean()))
        for place in np.union1d(best, twin).tolist():
            ours, theirs = best == place, twin == place
            self.both[place] = self.both.get(place, 0) + int((ours & theirs).sum())
            self.either[place] = self.either.get(place, 0) + int((ours | theirs).sum())

    @property
    def iou(self) -> float | None:
        """Intersection over union, the mean of all classes that occur; None without a picture."""
        shares = [self.both[one] / self.either[one] for one in self.either]
        return float(np.mean(shares)) if shares else None

    def agreement(self, margin: float) -> tuple[float, float, float] | None:
        """Mean share of the pictures, and its limits; None where no place is so sure."""
        return limits(self.shares.get(margin, ()))

    def verdict(self, margin: float) -> str:
        """The same in a sentence."""
        return f"Where A is sure of a place, B gives it the same class at {self.told(margin)}."

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values."""
        told = {f"margin>={margin:g}": _plain(self.agreement(margin)) for margin in self.shares}
        return {"output": self.output, "agreement": told, "iou": self.iou}

    def told(self, margin: float) -> str:
        """In words; '' where no place is so sure."""
        found = self.agreement(margin)
        if found is None:
            return ""
        mean, low, high = found
        pictures = len(self.shares[margin])
        return f"{mean:.2%} of the places (mean of {amount(pictures, 'picture')}, 95% limits {low:.1%} to {high:.1%})"

    def sentences(self) -> list[str]:
        """For a reader."""
        told = []
        for margin in self.shares:
            where = f", where A's best class leads by {margin:g} or more" if margin else ""
            told.append(f"the same class at {self.told(margin)}{where}")
        if self.iou is not None:
            told.append(f"intersection over union of A's and B's classes {self.iou:.3f}")
        return told


def limits(shares: Sequence[float]) -> tuple[float, float, float] | None:
    """Mean share of pictures, and its limits (95 %, Student's t); None without any."""
    from scipy.special import stdtrit

    if not shares:
        return None
    mean, count = float(np.mean(shares)), len(shares)
    if count < 2:
        return mean, 0.0, 1.0
    half = float(stdtrit(count - 1, 0.975)) * float(np.std(shares, ddof=1)) / math.sqrt(count)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def _plain(found: tuple[float, float, float] | None) -> dict[str, float] | None:
    return None if found is None else dict(zip(("share", "low", "high"), found, strict=True))


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """(C, H, W) scores as probabilities, two at least: those that are none go through softmax, or sigmoid."""
    wide = scores.astype(np.float64)
    within = wide.min() >= 0 and wide.max() <= 1
    if len(wide) == 1:
        one = wide if within else 1 / (1 + np.exp(-np.clip(wide, -500, 500)))
        return np.concatenate([1 - one, one])
    if within:  # probabilities already, or one for each class alone
        return wide
    raised = np.exp(wide - wide.max(axis=0))
    return raised / raised.sum(axis=0)


def pixels(a: Network) -> tuple[Pixels, int] | None:
    """What is to be filled for a segmenter, and the axis of the classes; None where no output, or several, is a map of
    classes."""
    maps = [end for end in a.outputs if end.kind == MAP and len(end.shape) == 4]
    if len(maps) != 1:
        return None
    (end,) = maps
    last = a.input.layout.endswith("C")
    count, places = (end.shape[3], end.shape[1:3]) if last else (end.shape[1], end.shape[2:])
    sides = zip(places, a.size, strict=True)
    if not isinstance(count, int) or not all(isinstance(n, str) or n * _COARSEST >= of for n, of in sides):
        return None
    scored = end.activation is not None or count >= _CLASSES
    return (Pixels(end.output), 3 if last else 1) if scored else None


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
            by_a, by_b = a >= _FOUND, b >= _FOUND
            found += int(by_a.sum())
            lost += int((by_a & (b < _KEPT)).sum())
            added += int((by_b & (a < _KEPT)).sum())
            kept += int(((by_a & (b >= _KEPT)) | (by_b & (a >= _KEPT))).sum())
        self.found, self.lost, self.added = self.found + found, self.lost + lost, self.added + added
        if kept + lost + added:
            self.shares.append(kept / (kept + lost + added))

    def agreement(self, margin: float = 0.0) -> tuple[float, float, float] | None:
        """Mean share of the pictures, and its limits (95 %, Student's t); None where nothing is found."""
        return limits(self.shares)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values."""
        counts = {"found": self.found, "lost": self.lost, "added": self.added, "pictures": len(self.shares)}
        return {"outputs": list(self.outputs), "agreement": _plain(self.agreement()), **counts}

    def verdict(self, margin: float = 0.0) -> str:
        """What was found, in a sentence; '' where nothing was."""
        told = self.agreement()
        if told is None:
            return ""
        mean, low, high = told
        pictures = f"mean of {amount(len(self.shares), 'picture')}, 95% limits {low:.1%} to {high:.1%}"
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
    found = {name: _scores(values[name]) for name in names if name in values}
    held = {name: scores for name, scores in found.items() if scores is not None}
    return Detections(held) if held else None


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
    size, node = _side(value, axis), value.producer()
    if node is None or size is None:
        return []
    word, x = computes(node.op_type), node.inputs[0] if node.inputs else None
    rank = len(value.shape or ())
    if word in _SQUASHED:
        return list(range(size))
    if word == "concatenate":
        parts = [one for one in node.inputs if one is not None]
        if node.attributes.get_int("axis", 0) % rank != axis:
            common = [set(_places(one, axis)) for one in parts]
            return sorted(set.intersection(*common)) if common else []
        found, start = [], 0
        for one in parts:
            own = _side(one, axis)
            if own is None:
                return []
            found += [start + place for place in _places(one, axis)]
            start += own
        return found
    if x is None:
        return []
    if word == "transpose":
        order = node.attributes.get_ints("perm", list(reversed(range(rank))))
        return _places(x, order[axis])
    if node.op_type in VALUE_KEPT:
        return _places(x, axis)
    if node.op_type in RESHAPING and (same := _same_axis(x, value, axis)):
        return _places(x, same)
    if word in ("split", "slice") and len(_places(x, axis)) == _side(x, axis):
        return list(range(size))
    return []


def _side(value: ir.Value, axis: int) -> int | None:
    size = value.shape[axis] if value.shape is not None and axis < len(value.shape) else None
    return size if isinstance(size, int) else None


def _same_axis(x: ir.Value, y: ir.Value, axis: int) -> int | None:
    """The axis that an axis of a reshaped value was before, where it is one of the same size at the same end."""
    if x.shape is None or y.shape is None or not len(x.shape):
        return None
    if axis == len(y.shape) - 1 and x.shape[-1] == y.shape[-1]:
        return len(x.shape) - 1
    return axis if axis < len(x.shape) and x.shape[axis] == y.shape[axis] else None
