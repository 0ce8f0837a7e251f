"""Which value of B is which value of A: what every other part of a comparison goes by.

1. Weight layers by their weights (`kernels.likeness`), one to one, where they stand at about the same place.
2. Between them by values: two values can be the same only where they depend on the same weight layers, and the same
   depend on them. Among those of equal sizes, up to the order of axes, the largest correlation wins on the probe
   pictures; between equals the one of the same strength, then the one of the same name, then the later. What the same
   operators make in both files (`ways`) is paired with nothing else; and where the numbers are spoilt, they and
   the layers that read a value decide.
3. What the caller says goes before all.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.comparing.kernels import Kernel, rescaled
from onnxviz.comparing.rules import SAME_NETWORK
from onnxviz.comparing.sides import (
    Side,
    all_names,
    given_places,
    masks,
    normal,
    same_layers,
)
from onnxviz.comparing.values import Axes, Projector, Sketch, similarity, turned
from onnxviz.comparing.ways import Ways, in_codes, origins, ways
from onnxviz.errors import UsageError
from onnxviz.network import Network
from onnxviz.progress import Progress, silent

__all__ = ["Matching", "Pair", "Step", "match", "normal"]

Step = Literal["given", "weights", "values", "place", "name"]

# Correlations: from here on two values are the same; from here on they may be, where nothing else comes into question.
_SURE: Final = 0.9
_WEAK: Final = 0.5
# Correlations that differ by less are equal.
_TIE: Final = 1e-4
# Parts of a value's strength: how far apart two are that are equal, and how much of one in front of a rectifier lies
# below 0 at least.
_SAME: Final = 0.1
_BELOW: Final = 0.02
# How much of what rounding took from the likeness of two values may hide which of two is meant.
_ROUGH: Final = 0.5
# Where no correlation tells (a broken file): by how much a value must be more alike than the last one of its stretch,
# or than one that the same layers read, and how many pairs are tried.
_LATER: Final = 0.15
_READ: Final = 0.3
_MOST: Final = 400


@dataclass(frozen=True)
class Pair:
    """A value of A and the value of B that means the same.

    a, b      names of values in `Matching.a` and `Matching.b`; b is a real value (behind DequantizeLinear)
    layer     how A's file and `Network.layers` call it
    op        the operator that makes it in A
    by        the step that matched it
    sure      0 to 1: cosine of the weights, or correlation of the values
    weak      whether it was accepted below 0.9, since nothing else came into question, or operators say so
    macs      multiply-accumulates for one picture of A's operators whose results this is the first matched value to
              depend on
    axes      B's axes in A's order (`transpose(axes)` gives A's layout); None: the same layout
    """

    a: str
    b: str
    layer: str
    op: str
    by: Step
    sure: float
    weak: bool = False
    macs: int = 0
    axes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Matching:
    """Two files in the form that a comparison works on, and their pairs in A's topological order.

    a, b     the graphs in normal form (`normal`)
    pairs    of the values that the networks compute
    macs     share of A's multiply-accumulates that are matched (0 to 1)
    values   share of A's values that are matched (0 to 1)
    image    the pair of the image inputs; where B brings pictures into A's form itself, its b stands behind that. None
             where B holds no such value
    kernels  names of the operators of A and of B that were matched by their weights, in A's order
    rescaled  names of those of A whose results B holds in other units, which the next layers take back
    names    what the two networks are called
    """

    a: ir.Model
    b: ir.Model
    pairs: tuple[Pair, ...]
    macs: float
    values: float
    image: Pair | None = None
    kernels: tuple[tuple[str, str], ...] = ()
    rescaled: frozenset[str] = frozenset()
    names: tuple[str, str] = ("A", "B")

    # Pickled and copied deeply, its graphs go as files do: lists of linked nodes are too deep for either.
    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), **{side: ir.to_proto(getattr(self, side)).SerializeToString() for side in "ab"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        graphs = {side: ir.from_proto(onnx.ModelProto.FromString(state[side])) for side in "ab"}
        vars(self).update({**state, **graphs})

    def require_same_network(self) -> None:
        """Refuse two different networks.

        raises   UsageError where less than 30 % of the multiply-accumulates are matched
        """
        if self.macs < SAME_NETWORK:
            raise UsageError(
                f"{self.names[0]!r} and {self.names[1]!r} are not the same network: layers that make up "
                f"{self.macs:.0%} of the multiply-accumulates of the first were found in the second, {SAME_NETWORK:.0%}"
                " are expected; give two files of one network, or say which values belong together (--match FILE)"
            )


def match(
    a: Network,
    b: Network,
    x: np.ndarray,
    xb: np.ndarray | None = None,
    *,
    given: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Matching:
    """Find for A's values those of B that mean the same.

    x, xb    the same probe pictures, two or more, as the input of A and of B; None: A's input is B's, too, but for the
             order of axes
    given    {A's name: B's name} of values that belong together, whatever else speaks for it
    seed     of the random projections
    raises   UnknownLayer for a given name that no value has, ModelUnsuitable, ModelFailed
    """
    project = Projector(seed)
    one = Side(a, x, project)
    other = Side(b, _as_input(b, x) if xb is None else xb, project)
    fixed = [] if given is None else given_places(given, one, other)
    one.look(progress=progress)
    other.look({found.shape for found in one.seen.values()}, progress)
    layers = same_layers(one, other)
    one.place([kernel for kernel, _, _ in layers])
    other.place([kernel for _, kernel, _ in layers])
    return _Pairing(one, other, layers, fixed, ways(one, other, layers)).matching()


def _as_input(net: Network, x: np.ndarray) -> np.ndarray:
    """A tensor of another file's input with the axes in this file's order."""
    last = net.input.layout.endswith("C")
    channels = net.input.channels
    if x.ndim != 4 or channels is None or x.shape[3 if last else 1] == channels:
        return x
    return x.transpose(0, 2, 3, 1) if last else x.transpose(0, 3, 1, 2)


# --- 2, 3: values between them --------------------------------------------------------------------


@dataclass(frozen=True)
class _Choice:
    """A pair that comes into question.

    a, b    places in the sides' lists of values
    alike   their correlation
    apart   how far B's value is from A's, in parts of A's strength
    named   whether a name of both is the same
    axes    B's axes in A's order
    meant   whether the same operators make both, or the same layers read both, and
    read    whether these do
    """

    a: int
    b: int
    alike: float
    apart: float
    named: bool
    axes: Axes
    meant: bool = False
    read: bool = False


@dataclass
class _Pairing:
    """The pairs as they are made; a and b are places in the sides' lists of values."""

    one: Side
    other: Side
    layers: list[tuple[Kernel, Kernel, float]]
    fixed: list[tuple[int, int]]
    ways: tuple[Ways, Ways] = field(default_factory=lambda: ({}, {}))
    rescaled: frozenset[str] = frozenset()
    made: dict[int, tuple[_Choice, Step, bool]] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)

    def matching(self) -> Matching:
        for a, b in self.fixed:
            self._require_sizes(a, b)
            best = max(self._faces(a, b), key=lambda face: face[0], default=(1.0, None))
            self._make(_Choice(a, b, best[0], 0.0, False, best[1]), "given")
        # What stands behind B's quantiser of the picture is no less alike; but that quantiser is B's own doing.
        inputs = self._choice(0, 0)
        if inputs is not None and inputs.alike >= _SURE and inputs.apart < _SAME:
            self._make(inputs, "values")
        for choices, behind in self._segments():
            self._pair([c for c in choices if c.alike >= _SURE])
            if behind:
                # Whatever became of the numbers: what the weights say of the layer holds of its result, and operators
                # that stand in both files alike make the same.
                lost = not any(c.a in self.made for c in choices)
                for choice in _in_order([c for c in self._left(choices) if lost or c.meant]):
                    self._make(choice, "place", weak=choice.alike < _SURE)
            left = self._left([c for c in choices if c.alike >= _WEAK])
            rivals = Counter(c.a for c in left)
            self._pair([c for c in left if rivals[c.a] == 1], weak=True)
        return self._told()

    def _left(self, choices: list[_Choice]) -> list[_Choice]:
        return [c for c in choices if c.a not in self.made and c.b not in self.taken]

    def _make(self, choice: _Choice, by: Step, weak: bool = False) -> None:
        self.made[choice.a] = choice, by, weak
        self.taken.add(choice.b)

    def _segments(self) -> list[tuple[list[_Choice], bool]]:
        """What comes into question, by segments: the values that stand alike among the weight layers; and whether they
        stand behind one."""
        sides: list[dict[tuple[int, int], list[int]]] = []
        reach = [self.one.before[a.node.outputs[0]] for a, _, _ in self.layers]
        skipped = rescaled(self.layers, reach)
        names = (str(a.node.name) for a, _, _ in self.layers)
        self.rescaled = frozenset(n for n, mask in zip(names, reach, strict=True) if mask in skipped)
        for side in (self.one, self.other):
            segments = defaultdict(list)
            for i, value in enumerate(side.values):
                segments[side.before[value], side.after[value]].append(i)
            sides.append(segments)
        found = []
        for key, places in sides[0].items():
            if key in sides[1] and key[0] not in skipped:
                choices = [self._choice(a, b) for a in places for b in sides[1][key]]
                known = [c for c in choices if c is not None]
                signed = self._of_one_sign(known)
                found.append((self._made_alike(signed) if key[0] else signed, key[0] > 0))
        return found

    def _made_alike(self, choices: list[_Choice]) -> list[_Choice]:
        """Those that operators do not speak against. Where both files have a value that is made in one way, it is the
        same; but what comes out of codes may stand for what operators behind it make in the other file, where the codes
        have no room for more. Where a way is in one file alone, what the same layers read tells."""
        both = self.one, self.other
        own = [[self.ways[k].get(side.values[(c.a, c.b)[k]]) for c in choices] for k, side in enumerate(both)]
        held = [{way for way in ways if way is not None} for ways in own]
        found = []
        for c, *pair in zip(choices, *own, strict=True):
            values = self.one.values[c.a], self.other.values[c.b]
            read = [side.read.get(value, 0) for side, value in zip(both, values, strict=True)]
            known = pair[0] in held[1], pair[1] in held[0]
            same = known[0] and pair[0] == pair[1]
            if known[0] != known[1]:
                more, less = (1, 0) if known[0] else (0, 1)
                of = pair[less] in origins(both[more], self.ways[more], values[more], held[less])
                same = of and (in_codes(values[less]) or c.alike >= 1 - _TIE)
            if same or not any(known):
                alike = bool(read[0]) and read[0] == read[1]
                found.append(replace(c, meant=same or alike, read=alike))
        return found

    def _of_one_sign(self, choices: list[_Choice]) -> list[_Choice]:
        """Without A's values from in front of a rectifier, for those of B that come from behind one."""
        below = {
            (place, i): float(side.seen[str(side.values[i].name)].below.max())
            for place, side in enumerate((self.one, self.other))
            for i in {(c.a, c.b)[place] for c in choices}
        }
        rectified = {c.b for c in choices if not below[1, c.b] and not below[0, c.a]}
        return [c for c in choices if c.b not in rectified or below[0, c.a] < _BELOW]

    def _choice(self, a: int, b: int) -> _Choice | None:
        if a in self.made or b in self.taken:
            return None
        faces = self._faces(a, b)
        if not faces:
            return None
        alike, axes = max(faces, key=lambda face: face[0])
        left, right = self.one.values[a], self.other.values[b]
        named = not {_bare(n) for n in all_names(left)}.isdisjoint(_bare(n) for n in all_names(right))
        return _Choice(a, b, alike, self._apart(a, b, axes), named, axes)

    def _sketches(self, a: int, b: int) -> tuple[Sketch | None, Sketch | None]:
        left, right = self.one.values[a].name, self.other.values[b].name
        return self.one.seen.get(str(left)), self.other.seen.get(str(right))

    def _require_sizes(self, a: int, b: int) -> None:
        """Refuse a given pair that cannot be one value, whatever the order of axes: as many numbers are needed."""
        pair = self.one.values[a], self.other.values[b]
        left, right = self._sketches(a, b)
        shapes = (
            [_sizes(value) for value in pair] if left is None or right is None else [left.shape, right.shape]
        )
        if None not in shapes and len({math.prod(shape or ()) for shape in shapes}) > 1:
            told = [f"{str(value.name)!r} of {shape}" for value, shape in zip(pair, shapes, strict=True)]
            raise UsageError(
                f"{told[0]} and {told[1]} are given as a pair; values that belong together have the same sizes"
            )

    def _faces(self, a: int, b: int) -> list[tuple[float, Axes]]:
        """How alike two values are, in each order of axes that gives them the same sizes."""
        left, right = self._sketches(a, b)
        if left is None or right is None:
            return []
        return [
            (similarity(left.faces[None], face), axes)
            for axes, face in right.faces.items()
            if turned(right.shape, axes) == left.shape
        ]

    def _apart(self, a: int, b: int, axes: Axes) -> float:
        """How far B's value is from A's, in parts of A's strength."""
        left, right = self._sketches(a, b)
        assert left is not None and right is not None
        count = min(len(left.means), len(right.means))
        one, other = left.faces[None][:count], right.faces[axes][:count]
        means = left.means[:count] - right.means[:count]
        squares = np.square(one - other).sum() + np.prod(left.shape) * np.square(means).sum()
        return round(float(np.sqrt(squares / max(float(np.square(one).sum()), 1e-30))), 1)

    def _pair(self, choices: list[_Choice], weak: bool = False) -> None:
        """Take the most alike again and again; each value once."""
        ordered = sorted(choices, key=lambda c: -c.alike)
        for i, best in enumerate(ordered):
            if best.a in self.made or best.b in self.taken:
                continue
            equals, tie = [], max(_TIE, _ROUGH * (1 - best.alike))
            for other in ordered[i:]:
                if other.alike < best.alike - tie:
                    break
                free = other.a not in self.made and other.b not in self.taken
                if free and (other.a == best.a or other.b == best.b):
                    equals.append(other)
            chosen = min(equals, key=lambda c: (c.apart, not c.named, -c.b, -c.a))
            nearest = [c for c in equals if c.apart == chosen.apart]
            named = len(nearest) > 1 and chosen.named and not all(c.named for c in nearest)
            self._make(chosen, "name" if named else "values", weak)

    # --- what came of it --------------------------------------------------------------------------

    def _told(self) -> Matching:
        one, kernels = self.one, self.one.kernels
        depends, _ = masks(one.model.graph, [kernel.node for kernel in kernels])
        place = {id(kernel): i for i, kernel in enumerate(kernels)}
        sure = {place[id(a)]: alike for a, _, alike in self.layers}
        pairs: list[Pair] = []
        image, done = None, 0
        for i, value in enumerate(one.values):
            if i not in self.made:
                continue
            choice, by, weak = self.made[i]
            fresh = [k for k in range(len(kernels)) if (depends[value] & ~done) >> k & 1]
            done |= depends[value]
            weights = [sure[k] for k in fresh if k in sure]
            node = value.producer()
            pair = Pair(
                a=str(value.name),
                b=str(self.other.values[choice.b].name),
                layer=str(value.name),
                op="" if node is None else node.op_type,
                by="weights" if weights and by != "given" else by,
                sure=min(1.0, max(0.0, min(weights) if weights and by != "given" else choice.alike)),
                weak=weak,
                macs=sum(kernels[k].macs for k in fresh),
                axes=choice.axes,
            )
            if value is one.image:
                image = pair
            else:
                pairs.append(pair)
        found = {one.values[i] for i in self.made}
        works = [kernel.macs for kernel in kernels] if any(k.macs for k in kernels) else [1] * len(kernels)
        matched = sum(
            work
            for k, (kernel, work) in enumerate(zip(kernels, works, strict=True))
            if k in sure or kernel.node.outputs[0] in found
        )
        total = len(one.values) - 1
        return Matching(
            a=one.model,
            b=self.other.model,
            pairs=tuple(pairs),
            macs=matched / sum(works) if works else float(bool(pairs)),
            values=len(pairs) / total if total else 1.0,
            image=image,
            kernels=tuple((str(a.node.name), str(b.node.name)) for a, b, _ in self.layers),
            rescaled=self.rescaled,
            names=(one.net.name, self.other.net.name),
        )


def _in_order(choices: list[_Choice]) -> list[_Choice]:
    """As many pairs as can be made in the order of computation; where there is a choice, the more alike, and of those
    that are about as alike the later."""
    ours, theirs = sorted({c.a for c in choices}), sorted({c.b for c in choices})
    if not choices or len(ours) * len(theirs) > _MOST:
        return []
    table = {(c.a, c.b): c for c in choices}
    best: list[list[tuple[float, list[_Choice]]]] = [[(0.0, [])] * (len(theirs) + 1) for _ in (*ours, None)]
    for i, a in enumerate(ours):
        for j, b in enumerate(theirs):
            found = max(best[i][j + 1], best[i + 1][j], key=lambda one: one[0])
            choice = table.get((a, b))
            if choice is not None:
                late = _LATER * (i / len(ours) + j / len(theirs))
                worth = best[i][j][0] + 10 + max(choice.alike, 0.0) + late + _READ * choice.read
                if worth > found[0]:
                    found = worth, [*best[i][j][1], choice]
            best[i + 1][j + 1] = found
    return best[-1][-1][1]


# What quantisers put around a name.
_AROUND: Final = re.compile(
    r"^(quant(ized?)?|q|dequant(ized?)?)[_/]|(_quantized|_dequantized|_(de)?quantizelinear_(in|out)put|_output(_0)?|:0)+$"
)


def _bare(name: str) -> str:
    return _AROUND.sub("", name.lower())


def _sizes(value: ir.Value) -> tuple[int, ...] | None:
    """The sizes of a value behind the batch; None where the file leaves one open."""
    sizes = [size for size in list(value.shape or ())[1:] if isinstance(size, int)]
    return tuple(sizes) if value.shape is not None and len(sizes) == len(value.shape) - 1 else None
