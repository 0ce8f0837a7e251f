"""The steps of a fooling image: from pixels, along the gradient, to 8-bit pixels that the network calls something else.

Everything is in pixels of 0 to 255, as the network sees them before they are scaled, and every decision is taken on
rounded pixels: what is saved is what fools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxviz.objectives import LOGITS, Objective
from onnxviz.objectives.base import fed, objective
from onnxviz.objectives.terms import columns, two_classes

if TYPE_CHECKING:
    from onnxviz.image.preprocessing import Preprocessing
    from onnxviz.network import Network

_FAR = 1e9  # takes the target out of the maximum over the other classes
_SHRINKINGS = 16
_HALVINGS = 24


# --- what is climbed ------------------------------------------------------------------------------


def _target(op: Any) -> ir.Value:
    return op.Unsqueeze(fed(op, "target", ir.DataType.INT64, ["N"]), [1])  # (N, 1)


def _scores(op: Any, value: ir.Value) -> ir.Value:
    """(N, K): of one score z for two classes, those whose softmax has the probability sigmoid(z)."""
    flat = op.Flatten(value, axis=1)
    return op.Mul(two_classes(op, flat), 0.5) if columns(value) == 1 else flat


def margin() -> Objective:
    """By how much the logit of the class that is fed as `target` lies over the largest other one."""

    def build(op: Any, value: ir.Value) -> ir.Value:
        flat, index = _scores(op, value), _target(op)  # (N, K), (N, 1)
        classes = op.Range(0, op.Squeeze(op.shape(flat, 1, 2), [0]), 1)
        itself = op.Cast(op.Equal(classes, index), to=int(ir.DataType.FLOAT))
        others = op.ReduceMax(op.Sub(flat, op.Mul(itself, _FAR)), [1], keepdims=1)
        return op.Squeeze(op.Sub(op.GatherElements(flat, index, axis=1), others), [1])

    return objective("margin", LOGITS, build)


def log_probability() -> Objective:
    """The logarithm of the softmax probability of the class that is fed as `target`: minus the cross-entropy."""

    def build(op: Any, value: ir.Value) -> ir.Value:
        rows = op.LogSoftmax(_scores(op, value), axis=1)
        return op.Squeeze(op.GatherElements(rows, _target(op), axis=1), [1])

    return objective("log probability", LOGITS, build)


# --- between pixels and the network's input -------------------------------------------------------


def to_planes(recipe: Preprocessing, pictures: np.ndarray) -> np.ndarray:
    """Pictures (N, h, w, 3) uint8 as what may be changed: (N, h, w, 3) float32; (N, h, w, 1) where all is grey."""
    planes = pictures[..., :1] if recipe.channels == "L" else pictures
    return planes.astype(np.float32)


def to_pictures(planes: np.ndarray) -> np.ndarray:
    """`to_planes` back: (N, h, w, 3)."""
    return np.repeat(planes, 3, axis=3) if planes.shape[3] == 1 else planes


def by_pixels(recipe: Preprocessing, gradient: np.ndarray) -> np.ndarray:
    """The gradient by the network's input as that by `to_planes`' pixels: (N, h, w, 3 or 1) float32."""
    colours = recipe.pixel_gradient(gradient)
    return colours.sum(axis=3, keepdims=True) if recipe.channels == "L" else colours


# --- the steps ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """How a picture may change.

    norm     'l2': the Euclidean length of the change, over all its pixels; 'linf': its largest pixel
    bound    the most of it, in grey levels of 0 to 255; None: any
    """

    norm: str
    bound: float | None = None

    def direction(self, gradient: np.ndarray) -> np.ndarray:
        """The unit step along a gradient: of length 1, or of 1 in every pixel."""
        if self.norm == "linf":
            return np.sign(gradient)
        # Twice, so that squares of tiny numbers do not vanish.
        gradient = gradient / np.maximum(np.abs(gradient).max(axis=(1, 2, 3), keepdims=True), 1e-30)
        return np.asarray(gradient / np.maximum(_length(gradient), 1e-30))

    def within(self, start: np.ndarray, there: np.ndarray) -> np.ndarray:
        """`there` brought back to valid pixels within the bound of `start`, not rounded."""
        change = np.clip(there, 0, 255) - start
        if self.bound is not None and self.norm == "linf":
            change = np.clip(change, -self.bound, self.bound)
        elif self.bound is not None:
            change *= np.minimum(1, self.bound / np.maximum(_length(change), 1e-30))
        return np.asarray(start + change, np.float32)

    def rounded(self, start: np.ndarray, there: np.ndarray) -> np.ndarray:
        """`there` in whole grey levels, still within the bound of `start`."""
        if self.bound is None:
            return np.rint(there)
        if self.norm == "linf":
            least = np.floor(self.bound)
            return np.asarray(start + np.clip(np.rint(there) - start, -least, least), np.float32)
        # Rounding may lengthen the change: shorten it before rounding until it fits.
        low, high = np.zeros((len(start), 1, 1, 1)), np.ones((len(start), 1, 1, 1))
        fits = _length(np.rint(there) - start) <= self.bound
        if fits.all():
            return np.rint(there)
        change = there - start
        for _ in range(_HALVINGS):
            middle = np.where(fits, 1.0, (low + high) / 2)
            good = _length(np.rint(start + middle * change) - start) <= self.bound
            low, high = np.where(good, middle, low), np.where(good, high, middle)
        return np.rint(start + np.where(fits, 1.0, low) * change).astype(np.float32)


def _length(change: np.ndarray) -> np.ndarray:
    """(N, 1, 1, 1)"""
    return np.asarray(np.sqrt((change.astype(np.float64) ** 2).sum(axis=(1, 2, 3), keepdims=True)))


class Attack:
    """Pictures of one size on their way to their targets.

    start      (N, h, w, C) float32, whole grey levels
    targets    (N,) int64, the class that each is to be taken for
    confidence   the least probability of the target that counts
    moves      (N, h, w) bool, the pixels that may change; None: all
    found      (N, h, w, C) float32, whole grey levels: the best so far, at first `start`
    fooled     (N,) bool
    steps      (N,) int64, how many steps `found` took
    """

    def __init__(
        self,
        net: Network,
        start: np.ndarray,
        targets: np.ndarray,
        budget: Budget,
        confidence: float = 0.0,
        moves: np.ndarray | None = None,
    ) -> None:
        self._net, self._recipe = net, net.preprocessing
        self.start, self.targets, self.budget = start, targets, budget
        self.confidence = confidence
        moves = np.ones(start.shape[:3], bool) if moves is None else moves
        self._moves = moves[..., None].astype(np.float32)
        self.found = start.copy()
        self.fooled = np.zeros(len(start), bool)
        self.steps = np.zeros(len(start), np.int64)

    def tensor(self, planes: np.ndarray) -> np.ndarray:
        """The network's input of pictures in pixels."""
        return self._recipe.normalise(to_pictures(planes))

    def reached(self, probabilities: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Which rows of probabilities have their target on top, with enough confidence."""
        targets = self.targets[index]
        there = probabilities[np.arange(len(index)), targets]
        return (np.argmax(probabilities, axis=1) == targets) & (there >= self.confidence)

    def _measure(
        self, climb: Objective, planes: np.ndarray, index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The objective (n,), its gradient by the pixels, and which have reached their targets, of some pictures."""
        net = self._net
        scores = net.head.scores
        gradients = net.gradients(climb, also=(scores,), key=("fool", str(climb)))
        arrays = gradients(self.tensor(planes), {"target": self.targets[index]})
        slope = by_pixels(self._recipe, arrays[f"{net.input.name}.gradient"]) * self._moves[index]
        reached = self.reached(net.to_probabilities(arrays[scores]), index)
        return arrays["objective"], slope, reached

    def walk(self, steps: int, length: float) -> Iterator[int]:
        """Normalised gradient steps until the target is on top, then back as far as it stays there.

        Simonyan et al. 2014 and the lecture CS231n; the objective is the margin over the other classes.

        length   of a step: Euclidean in grey levels ('l2'), or grey levels a pixel ('linf')
        yields   how many steps were taken
        """
        there = self.start.copy()
        active = np.arange(len(there))
        for step in range(steps + 1):
            rounded = self.budget.rounded(self.start[active], there[active])
            _, slope, reached = self._measure(margin(), rounded, active)
            self.found[active], self.steps[active] = rounded, step
            for index in active[reached]:
                self.fooled[index] = True
                self._back(index, there[index])
            active, slope = active[~reached], slope[~reached]
            if not len(active) or step == steps:
                return
            there[active] = self.budget.within(
                self.start[active], there[active] + length * self.budget.direction(slope)
            )
            yield step + 1

    def _back(self, index: int, there: np.ndarray) -> None:
        """The smallest share of the change that still fools, of sixteenths."""
        shares = np.arange(1, _SHRINKINGS, dtype=np.float32) / _SHRINKINGS
        start = self.start[index]
        tried = np.rint(start + shares[:, None, None, None] * (there - start))
        rows = self._net.probabilities(self.tensor(tried))
        good = np.flatnonzero(self.reached(rows, np.full(len(tried), index)))
        if len(good):
            self.found[index] = tried[good[0]]

    def climb(
        self, steps: int, length: float, random: Callable[[int, tuple[int, ...]], np.ndarray] | None
    ) -> Iterator[int]:
        """Steps on the cross-entropy, each brought back within the bound; the one with the most probable target stays.

        One step of the bound's length is FGSM (Goodfellow, Shlens & Szegedy 2015, arXiv:1412.6572), several are PGD
        (Madry et al. 2018, arXiv:1706.06083).

        random   gives a start of a picture's shape, within −1 to 1, by its number here; None: the picture itself
        yields   how many steps were taken
        """
        budget, every = self.budget, np.arange(len(self.start))
        there = self.start.copy()
        if random is not None and budget.bound is not None:
            drawn = np.stack([random(i, there.shape[1:]) for i in range(len(there))]) * self._moves
            drawn = drawn if budget.norm == "linf" else budget.direction(drawn)
            there = budget.within(self.start, there + budget.bound * drawn)
        best = np.full(len(there), -np.inf)
        for step in range(steps + 1):
            rounded = budget.rounded(self.start, there)
            value, slope, reached = self._measure(log_probability(), rounded, every)
            # What fools comes before what does not, then the more probable. FGSM has but its one step.
            better = np.where(reached != self.fooled, reached, value > best)
            if step == 0 or steps == 1:
                better[:] = True
            self.found[better], self.steps[better] = rounded[better], step
            self.fooled[better], best[better] = reached[better], value[better]
            if step < steps:
                there = budget.within(self.start, there + length * budget.direction(slope))
                yield step + 1
