"""Two files of one network grown together: one's operators in the place of the other's, from value to value.

Pairs of values that mean the same are the seams. Between the nearest seams and another one stand an operator or a few
with all that belongs to them, and these can be taken from either file:

    local        A, and up to one value B's operators: weights, missing Relu and all, then the quantiser behind them
    whole        B
    heal         B, and one value as A computes it from the picture
    restored     B, and some values by A's operators, still behind B's quantiser where quantised operators read them
    weights      A, and everywhere B's weights; no quantisers
    activations  A, and everywhere B's quantisers, or only what their ranges cut off

What comes out is a graph that tells how far the answers of each such variant are from A's. No names have to agree, nor
layouts (transposed), element types (cast) or opsets; the batch stays as free as the two graphs have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import dependent, prune, reads
from onnxviz.graph.bare import Bare
from onnxviz.graph.operators import GLOBAL_POOLS, POOLS, RESIZING, computes, computing
from onnxviz.graph.quantisers import MARKS, of_node
from onnxviz.graph.quantisers import behind as held_by
from onnxviz.graph.seams import (
    MOVES,
    Cut,
    Joint,
    Known,
    Seam,
    Side,
    activations,
    behind,
    between,
    cuts,
    handed_on,
)
from onnxviz.graph.unlike import Unlike, unlike

_HALVES: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_QUANTISING: Final = computing("quantize dequantize quantize_measured")
_MIXES: Final = MOVES | RESIZING | POOLS | GLOBAL_POOLS


class Build(Joint):
    """A graph that variants are built into.

    a, b   the values of either model as its file has them
    """

    def __init__(self, a: Side, b: Side) -> None:
        super().__init__(a.model, b.model)
        self.a: Known = {}
        self.b: Known = {}
        for side, known in ((a, self.a), (b, self.b)):
            image = side.image
            sizes = [size if isinstance(size, int) else size.value for size in image.shape or ()]
            made = self.tape.input(image.name or "image", image.dtype or ir.DataType.FLOAT, sizes)
            known[image] = made


Variant = Callable[[Build], list[ir.Value]]
"""Builds the answers of a variant, in A's layout."""


class Measured(NamedTuple):
    """A graph that measures variants, see `Grafting.measured`.

    model      reads A's picture, then B's (`inputs`)
    reference  the output that holds the square of A's answers, a number each
    squares    of each variant, the output that holds the square of what is between its answers and A's
    answers    of A, then of each variant, the output that holds the first answer; empty where not asked for
    """

    model: ir.Model
    inputs: tuple[str, str]
    reference: str
    squares: list[str]
    answers: list[str]


class Grafting:
    """What can be grown together of two models.

    a, b      in normal form: float operators between DequantizeLinear and QuantizeLinear, functions inlined, opsets 18
              or later; never changed
    seams     pairs of values, in any order
    answers   what the variants are held against A by: pairs of values, mostly the logits
    images    names of the image inputs; None: the only ones
    """

    def __init__(
        self,
        a: ir.Model,
        b: ir.Model,
        seams: Iterable[Seam],
        answers: Sequence[Seam],
        images: tuple[str | None, str | None] = (None, None),
    ) -> None:
        self.a, self.b = Side(a, images[0]), Side(b, images[1])
        self._answers = [(self.a.values[s.a], self.b.values[s.b], s.axes) for s in answers]
        self._cuts = cuts(self.a, self.b, seams)
        self._named = {cut.name: cut for cut in self._cuts}
        self._unlike: dict[str, Unlike] = {}
        # What B only mixes places of, and rounds to the same codes once more, goes with the layer that made these.
        self._handed: set[Cut] = set()
        for cut in self._cuts:
            if handed_on(self.a, self.b, cut, _MIXES) and (
                cut.from_b[0] in self._handed or not cut.from_b[0].alike
            ):
                self._handed.add(cut)

    @property
    def layers(self) -> list[str]:
        """The values of A behind operators that B has otherwise, in order; what is alike in both can do nothing.

        A convolution and the activation behind it are one layer, by the name of the latter; so is what B only resizes
        or pools and rounds to the same codes, by the name of the layer whose codes these are.
        """
        return [cut.name for cut in self._cuts if not cut.alike and cut not in self._handed]

    def _with_handed(self, cut: Cut) -> list[Cut]:
        """A cut, and those that its codes are handed on to, in order."""
        found = [cut]
        for one in self._cuts:
            if one in self._handed and one.from_b[0] in found:
                found.append(one)
        return found

    def roundings(self, layer: str) -> int:
        """How often B rounds this layer's numbers to the same codes before others are made of them."""
        return sum(not cut.alike for cut in self._with_handed(self._named[layer]))

    def scale(self, gains: Mapping[str, np.ndarray]) -> None:
        """Say by which factors these values of A become B's, shaped to be multiplied; for all variants from now on."""
        for name, gain in gains.items():
            self._named[name].gain = gain

    def beside(self, layers: Sequence[str]) -> list[str]:
        """These layers, and the values that B computes them from; the picture is none of its layers' doing."""
        every = [one for name in layers for one in (self._named[name], *self._named[name].from_b)]
        return list(dict.fromkeys(one.name for one in every if one.x is not self.a.image))

    def nodes(self, layer: str) -> list[ir.Node]:
        """A's operators between the nearest seams and this layer, in order."""
        cut = self._named[layer]
        return between(self.a, cut.x, [other.x for other in cut.from_a])

    def unlike(self, layer: str) -> Unlike:
        """What B's operators up to this layer have otherwise than A's."""
        if layer not in self._unlike:
            self._unlike[layer] = unlike(self.a, self.b, self._named[layer])
        return self._unlike[layer]

    def halves(self, layer: str) -> str:
        """The narrower type that B computes with up to this layer: 'float16'; '' where there is none."""
        cut = self._named[layer]
        nodes = between(self.b, cut.y, [one.y for one in cut.from_b])
        kinds = {value.dtype for node in nodes for value in node.outputs} | {cut.y.dtype}
        found = sorted(kind.name.lower() for kind in kinds & _HALVES if kind is not None)
        return " and ".join(found) if cut.x.dtype not in _HALVES else ""

    @property
    def quantised(self) -> tuple[bool, bool]:
        """Whether A, and whether B, holds anything as integers."""
        a, b = (any(node.op_type in MARKS for node in side.model.graph) for side in (self.a, self.b))
        return a, b

    def codes_of_a(self, layer: str) -> str:
        """How A holds as integers what B does not up to this layer: 'uint8 per tensor'; '' where it does not."""
        cut = self._named[layer]
        if any(one.op_type in _QUANTISING for one in between(self.b, cut.y, [one.y for one in cut.from_b])):
            return ""
        for node in self.nodes(layer):
            own = of_node(node) if computes(node.op_type) == "dequantize" else None
            if own is not None:
                return f"{own.codes} {own.granularity}"
        return ""

    # --- variants ---------------------------------------------------------------------------------

    def local(self, layer: str) -> Variant:
        """A with B's operators up to this layer."""
        first, *rest = self._with_handed(self._named[layer])

        def build(h: Build) -> list[ir.Value]:
            placed = {first.x: self._by_b(h, first, h.a)}
            for cut in rest:
                placed[cut.x] = self._by_b(h, cut, dict(placed))
            return self._with(h, self.a, h.a, placed)

        return build

    def whole(self) -> Variant:
        """B."""
        return lambda h: self._of_b(h, h.put([y for _, y, _ in self._answers], h.b))

    def heal(self, layer: str) -> Variant:
        """B with this layer as it is in A."""
        healed = self._with_handed(self._named[layer])

        def build(h: Build) -> list[ir.Value]:
            values = h.put([cut.x for cut in healed], h.a)
            placed = {cut.y: _to_b(h, x, cut) for cut, x in zip(healed, values, strict=True)}
            return self._of_b(h, self._with(h, self.b, h.b, placed))

        return build

    def restored(self, layers: Iterable[str]) -> Variant:
        """B with these layers as quantisation leaves them that is told to exclude A's operators.

        They are computed by A's operators from what B feeds them. A value stays behind B's quantiser as long as an
        operator reads it that is quantised itself.
        """
        chosen = sorted((self._named[name] for name in layers), key=lambda cut: self.b.places[cut.y])
        free = {node for cut in chosen for node in self.nodes(cut.name)}

        def build(h: Build) -> list[ir.Value]:
            known = {self.b.image: h.b[self.b.image]}
            for cut in chosen:
                y = self._by_a(h, cut, known)
                kept = any(reader not in free for reader, _ in cut.x.uses())
                known[cut.y] = self._quantised(h, cut, y) if kept else y
            return self._of_b(h, h.put([y for _, y, _ in self._answers], known))

        return build

    def weights(self, *, operators: bool = False) -> Variant:
        """A with all of B's weights and none of its quantisers.

        operators   whether with what B's operators have otherwise than A's, too; where they cannot be laid on each
                    other, they count as such if both files have the same weights there
        """

        def build(h: Build) -> list[ir.Value]:
            known = {self.a.image: h.a[self.a.image]}
            for cut in self._cuts:
                if cut.alike or cut.x is self.a.image:
                    continue
                other = Unlike() if operators else self.unlike(cut.name)
                if not other.weights:
                    y = self._by_b(h, cut, known, Bare(self.b, h, cut.y, other))
                    known[cut.x] = self._rectified(h, cut, y)
            return h.put([x for x, _, _ in self._answers], known)

        return build

    def activations(self, *, rounded: bool = True) -> Variant:
        """A with all of B's quantisers behind its values.

        rounded   False: what they cut off is cut off, and nothing is rounded
        """

        def build(h: Build) -> list[ir.Value]:
            known = {self.a.image: h.a[self.a.image]}
            for cut in self._cuts:
                [x] = h.put([cut.x], known)
                y = _to_b(h, x, cut)
                held = self._quantised(h, cut, y) if rounded else self._clipped(h, cut, y)
                if held is not y:
                    known[cut.x] = _to_a(h, held, cut)
            return h.put([x for x, _, _ in self._answers], known)

        return build

    def measured(self, variants: Sequence[Variant], *, answers: bool = False) -> Measured:
        """A graph that tells how far the answers of these variants are from A's, less their means.

        Squares are summed over all places of an answer in double precision, for one picture a run.

        answers   whether the first answer itself is given out too
        """
        h = Build(self.a, self.b)
        op = h.tape
        given: list[str] = []
        own = h.put([x for x, _, _ in self._answers], h.a)
        centred = [self._centred(h, value, x) for value, (x, _, _) in zip(own, self._answers, strict=True)]
        reference = _given(h, _squares(h, centred), "reference")
        if answers:
            given.append(_given(h, op.Cast(own[0], to=int(ir.DataType.FLOAT)), "answer"))
        squares: list[str] = []
        for variant in variants:
            values = variant(h)
            moved = [
                op.Sub(self._centred(h, value, x), of_a)
                for value, (x, _, _), of_a in zip(values, self._answers, centred, strict=True)
            ]
            squares.append(_given(h, _squares(h, moved), "squares"))
            if answers:
                given.append(_given(h, op.Cast(values[0], to=int(ir.DataType.FLOAT)), "answer"))
        prune(h.model)
        inputs = h.a[self.a.image].name or "", h.b[self.b.image].name or ""
        return Measured(h.model, inputs, reference, squares, given)

    # --- between seams ----------------------------------------------------------------------------

    def _by_b(self, h: Build, cut: Cut, known: Known, instead: Bare | None = None) -> ir.Value:
        """The value of A as B's operators compute it from what is `known` of A."""
        fed = {self.b.image: h.b[self.b.image]}
        values = h.put([other.x for other in cut.from_b], known)
        fed |= {other.y: _to_b(h, x, other) for other, x in zip(cut.from_b, values, strict=True)}
        if instead is not None:
            fed = {y: instead.laid(y, value) for y, value in fed.items()}
        [y] = h.put([cut.y], fed, instead)
        return _to_a(h, y, cut)

    def _by_a(self, h: Build, cut: Cut, known: Known) -> ir.Value:
        """The value of B as A's operators compute it from what is `known` of B."""
        fed = {self.a.image: h.a[self.a.image]}
        values = h.put([other.y for other in cut.from_a], known)
        fed |= {other.x: _to_a(h, y, other) for other, y in zip(cut.from_a, values, strict=True)}
        [x] = h.put([cut.x], fed)
        return _to_b(h, x, cut)

    def _with(self, h: Build, side: Side, clean: Known, placed: Known) -> list[ir.Value]:
        """A model's answers with these values in place; what does not depend on them is shared."""
        moved = set().union(*(dependent(side.model.graph, value) for value in placed))
        answers = [x if side is self.a else y for x, y, _ in self._answers]
        needed = behind(answers, placed)
        border = {
            value: None
            for node in side.model.graph
            if node in needed and not moved.isdisjoint(node.outputs)
            for value in reads(node)
            if value not in moved and not value.is_initializer()
        }
        untouched = [value for value in answers if value not in moved]
        shared = [*border, *untouched]
        known = dict(zip(shared, h.put(shared, clean), strict=True)) | placed
        return h.put(answers, known)

    def _of_b(self, h: Build, values: Sequence[ir.Value]) -> list[ir.Value]:
        """B's answers in A's layout."""
        return [
            value if axes is None else h.tape.Transpose(value, perm=axes)
            for value, (_, _, axes) in zip(values, self._answers, strict=True)
        ]

    @staticmethod
    def _centred(h: Build, value: ir.Value, x: ir.Value) -> ir.Value:
        """All places in a row, less their mean; one number alone is left as it is."""
        op = h.tape
        row = op.Reshape(op.Cast(value, to=int(ir.DataType.DOUBLE)), [-1])
        sizes = list(x.shape) if x.shape is not None else []
        if sizes and all(size == 1 for size in sizes[1:]):
            return row
        return op.Sub(row, op.ReduceMean(row, keepdims=1))

    def _rectified(self, h: Build, cut: Cut, y: ir.Value) -> ir.Value:
        """Behind B's operators without its quantiser those activations of A that B left to that quantiser's range."""
        own = activations(cut.x, {other.x for other in cut.from_a})
        kept = {node.op_type for node in activations(cut.y, {other.y for other in cut.from_b})}
        missing = [place for place, node in enumerate(own) if node.op_type not in kept]
        # What B computes in its place, or without a quantiser does not, is what its operators have otherwise.
        if not missing or not kept <= computing("relu clip") or held_by(cut.y) is None:
            return y
        first = own[max(missing)].inputs[0]
        assert first is not None
        return h.put([cut.x], {first: y})[0]

    # --- quantisers -------------------------------------------------------------------------------

    def _quantised(self, h: Build, cut: Cut, y: ir.Value) -> ir.Value:
        """The value behind B's quantiser; itself where B has none there."""
        op = h.tape
        node = cut.y.producer()
        if node is None or computes(node.op_type) != "dequantize" or "block_size" in node.attributes:
            if not any(computes(reader.op_type) == "quantize_measured" for reader, _ in cut.y.uses()):
                return y
            codes, scale, zero = op.DynamicQuantizeLinear(y, _outputs=3)
            return op.DequantizeLinear(codes, scale, zero)
        [scale, *zeros] = h.put([value for value in node.inputs[1:3] if value is not None], h.b)
        kind = node.inputs[0].dtype if node.inputs[0] is not None else None
        if not zeros and kind not in (None, ir.DataType.UINT8) and node.inputs[1] is not None:
            sizes = [size for size in node.inputs[1].shape or () if isinstance(size, int)]
            zeros = [op.const(np.zeros(sizes, kind.numpy()))]
        axis = {"axis": node.attributes.get_int("axis", 1)}
        return op.DequantizeLinear(op.QuantizeLinear(y, scale, *zeros, **axis), scale, *zeros, **axis)

    @staticmethod
    def _clipped(h: Build, cut: Cut, y: ir.Value) -> ir.Value:
        """The value cut to the range of B's quantiser; itself where that has none that the file states."""
        node = cut.y.producer()
        own = of_node(node) if node is not None and computes(node.op_type) == "dequantize" else None
        if own is None or own.block or own.low is None or own.high is None:
            return y
        rank = 0 if own.axis is None or cut.y.shape is None else len(cut.y.shape)
        form = [-1 if axis == (own.axis or 0) % rank else 1 for axis in range(rank)]
        low, high = (_of_type(end.reshape(form), cut.y) for end in (own.low, own.high))
        return h.tape.Min(h.tape.Max(y, low), high)


def _to_b(h: Build, x: ir.Value, cut: Cut) -> ir.Value:
    """A's value as B has it."""
    op = h.tape
    if cut.gain is not None:
        x = op.Mul(x, _of_type(cut.gain, cut.x))
    if cut.axes is not None:
        x = op.Transpose(x, perm=[cut.axes.index(axis) for axis in range(len(cut.axes))])
    return x if cut.x.dtype == cut.y.dtype else op.Cast(x, to=int(cut.y.dtype or ir.DataType.FLOAT))


def _to_a(h: Build, y: ir.Value, cut: Cut) -> ir.Value:
    """B's value as A has it."""
    op = h.tape
    if cut.x.dtype != cut.y.dtype:
        y = op.Cast(y, to=int(cut.x.dtype or ir.DataType.FLOAT))
    if cut.axes is not None:
        y = op.Transpose(y, perm=list(cut.axes))
    if cut.gain is None:
        return y
    inverse = np.divide(1, cut.gain, out=np.zeros_like(cut.gain), where=cut.gain != 0)
    return op.Mul(y, _of_type(inverse, cut.x))


def _of_type(array: np.ndarray, value: ir.Value) -> np.ndarray:
    return array.astype(value.dtype.numpy() if value.dtype is not None else np.float32)


def _given(h: Build, value: ir.Value, name: str) -> str:
    """The name that a value is given out under."""
    return h.tape.output(value, name).name or name


def _squares(h: Build, rows: Sequence[ir.Value]) -> ir.Value:
    """The sum of squares of each row."""
    sums = [h.tape.ReduceSumSquare(row, keepdims=1) for row in rows]
    return sums[0] if len(sums) == 1 else h.tape.Concat(*sums, axis=0)
