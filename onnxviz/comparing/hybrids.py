"""Running what is grown together of two files: how far each variant's answers are from A's.

Always without ONNX Runtime's graph optimisations: with them it rewrites such graphs, and their numbers. Many variants
go into one graph, which computes A once for all of them; what is kept of a picture is one number a variant. And how far
what is run of B is from what its file says (`rewritten`, `whole_sums`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxviz.auditing.statistics import Likeness
from onnxviz.comparing.match import Matching, Pair
from onnxviz.comparing.sides import SAME
from onnxviz.comparing.values import gains, values
from onnxviz.errors import ModelUnsuitable, NotFinite
from onnxviz.graph.analysis.dataflow import (
    FLOATS,
    by_name,
    dependent,
    image_input,
    is_tensor,
    reads,
    subgraphs,
)
from onnxviz.graph.graft import Grafting, Variant
from onnxviz.graph.operators import SELECTIONS
from onnxviz.graph.output import BINARY, CLASSES, NUMBERS, SEQUENCE, Head
from onnxviz.graph.seams import Seam
from onnxviz.network import Network
from onnxviz.programs import filled
from onnxviz.progress import Progress, silent

# Outputs that differ from place to place by less of their size are constant: what is left is rounding.
_STILL: Final = 1e-5
# Variants of one graph: more save runs of A, and hold more values at a time.
_TOGETHER: Final = 16


@dataclass(frozen=True)
class Distances:
    """How far variants are from A, by picture.

    moved    (variants, pictures) float64: ‖z − z_A‖ / ‖z_A‖, z the answer less its mean; of several answers the root of
             the mean of squares. NaN where either is not finite
    classes  (1 + variants, pictures): the best class in A, then in each variant; None where there are no classes
    """

    moved: np.ndarray
    classes: np.ndarray | None = None


class Hybrids:
    """Two networks that are grown together, and the pictures that this is tried on.

    a, b      the networks
    matching  of the two
    x, xb     (N, ...) float32, the pictures as the input of A and of B
    """

    def __init__(self, a: Network, b: Network, matching: Matching, x: np.ndarray, xb: np.ndarray) -> None:
        self.a = a
        self._nets = a, b
        self.matching = matching
        self._x, self._xb = x, xb
        fixed = {net.batched[1] or 0 for net in (a, b)} - {0}
        self._fill = max(fixed, default=1)
        if len(fixed) > 1:
            raise ModelUnsuitable(
                f"A takes {_batches(a)} and B {_batches(b)}: no graph can be made of both; export them with one batch"
            )
        image = [] if matching.image is None else [matching.image]
        self.pairs = {pair.a: pair for pair in (*image, *matching.pairs)}
        seams = [Seam(pair.a, pair.b, pair.axes) for pair in self.pairs.values()]
        inputs = a.input.name, b.input.name
        self.graft = Grafting(matching.a, matching.b, seams, list(self._answers(b)), inputs)

    def turned(self) -> Hybrids:
        """The same with A and B in each other's place."""
        own, (a, b) = self.matching, self._nets
        pairs = tuple(map(_turned, own.pairs))
        image = None if own.image is None else _turned(own.image)
        return Hybrids(b, a, replace(own, a=own.b, b=own.a, pairs=pairs, image=image), self._xb, self._x)

    def scale(self, layers: Sequence[str]) -> bool:
        """Look for layers that B holds in other units (`gains`), and heed these from now on; whether there are any."""
        values = [Seam(one.a, one.b, one.axes) for one in map(self.pairs.__getitem__, layers)]
        models = self.matching.a, self.matching.b
        found = gains(self._nets, models, values, (self._x, self._xb))
        self.graft.scale(found)
        return bool(found)

    def bound(self, layer: str) -> bool:
        """Whether layers in front of this one have no pair of their own since B holds them in other units."""
        return any(node.name in self.matching.rescaled for node in self.graft.nodes(layer))

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._x)

    @property
    def scored(self) -> bool:
        """Whether the answer is a score for each class."""
        end = ending(self.a)
        return end is not None and end.scored

    def distances(
        self,
        variants: Sequence[Variant],
        *,
        classes: bool = False,
        progress: Progress = silent,
        what: str = "variants",
    ) -> Distances:
        """Run them on all the pictures, one at a time.

        classes   whether to tell the best class, too
        raises    what compiling and running raise
        """
        moved: list[np.ndarray] = []
        best: list[np.ndarray | None] = []
        for start in range(0, len(variants), _TOGETHER):
            chunk = variants[start : start + _TOGETHER]
            found = self._run(chunk, classes and self.scored)
            moved.append(found.moved)
            best.append(found.classes if found.classes is None or not best else found.classes[1:])
            progress(min(start + _TOGETHER, len(variants)), len(variants), what)
        told = [one for one in best if one is not None]
        return Distances(
            np.concatenate(moved) if moved else np.zeros((0, len(self))),
            np.concatenate(told) if told else None,
        )

    def _run(self, variants: Sequence[Variant], classes: bool) -> Distances:
        measured = self.graft.measured(variants, answers=classes)
        program = self.a.compile(lambda: measured.model, key=None, optimise=False, prepack=False)
        moved = np.zeros((len(variants), len(self)))
        best = np.zeros((1 + len(variants), len(self)), np.int64) if classes else None
        for place in range(len(self)):
            feeds = {
                name: filled(x[place : place + 1], self._fill)
                for name, x in zip(measured.inputs, (self._x, self._xb), strict=True)
            }
            arrays = program(feeds)
            moved[:, place] = [_ratio(arrays[name], arrays[measured.reference]) for name in measured.squares]
            if best is not None:
                best[:, place] = [self._best(arrays[name]) for name in measured.answers]
        return Distances(moved, best)

    def _best(self, answer: np.ndarray) -> int:
        row = answer.reshape(-1)[: answer.size // self._fill]
        end = ending(self.a)
        return int(row[0] > 0) if end is not None and end.kind == BINARY else int(np.argmax(row))

    def _answers(self, b: Network) -> Iterator[Seam]:
        """What variants are held against A by: A's values, and B's."""
        names = [answers(self.a, self.matching.a), answers(b, self.matching.b)]
        for place, name in enumerate(names[0]):
            pair = self.pairs.get(name)
            other = names[1][place] if len(names[0]) == len(names[1]) else pair.b if pair else None
            if other is None:
                raise ModelUnsuitable(
                    f"what B has for A's output {name!r} cannot be told; choose one output of each (--output)"
                )
            yield Seam(name, other, pair.axes if pair is not None and pair.b == other else None)


def _turned(pair: Pair) -> Pair:
    axes = None if pair.axes is None else tuple(pair.axes.index(axis) for axis in range(len(pair.axes)))
    return replace(pair, a=pair.b, b=pair.a, axes=axes)


def _batches(net: Network) -> str:
    fixed = net.batched[1]
    return "any number of pictures at once" if fixed is None else f"{fixed} at once"


def _ratio(squares: np.ndarray, reference: np.ndarray) -> float:
    """‖z − z_A‖ / ‖z_A‖ of what may be several answers; where A answers nothing at all, nothing or infinity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(reference > 0, squares / reference, np.where(squares > 0, math.inf, squares))
    return float(np.sqrt(ratios.mean()))


def ending(net: Network) -> Head | None:
    """What the network's output is; None where none of several comes near scores (a detector)."""
    try:
        return net.end
    except ModelUnsuitable:
        return None


def answers(net: Network, model: ir.Model) -> list[str]:
    """Names of the values that tell what a network answers: the logits, else all outputs.

    Where outputs were picked out of many (NonMaxSuppression, TopK), what they were picked from: of what is picked, not
    even the number is the same in two files.

    model   the network in normal form
    """
    end = ending(net)
    if end is not None and end.kind in (CLASSES, BINARY, SEQUENCE, NUMBERS):
        return [present(model, end.logits)]
    graph = model.graph
    moved = dependent(graph, image_input(model, net.input.name))
    picked: set[ir.Value] = set()
    for node in graph:
        if picks(node) or not picked.isdisjoint(reads(node)):
            picked.update(node.outputs)
    read = (value for node in graph if not picked.isdisjoint(node.outputs) for value in reads(node))
    found = dict.fromkeys(v for v in (*read, *graph.outputs) if v in moved and v not in picked)
    names = [value.name or "" for value in found if value.dtype in FLOATS and is_tensor(value)]
    if not names:
        raise ModelUnsuitable(
            "no output holds numbers that depend on the picture: there is nothing to compare"
        )
    return names


def picks(node: ir.Node) -> bool:
    """Whether an operator picks some of many: how many, and which, hangs on the picture."""
    if node.op_type in SELECTIONS or "NMS" in node.op_type:
        return True
    return any(inner.op_type in SELECTIONS for body in subgraphs(node) for inner in body.all_nodes())


def present(model: ir.Model, name: str) -> str:
    """The name that a value has in normal form, where equal values are one."""
    values = by_name(model.graph)
    same = (own for own, value in values.items() if name in value.meta.get(SAME, ()))
    return name if name in values else next(same, name)


def decibels(moved: float) -> float:
    """A share of the length as a signal-to-noise ratio; infinite where nothing moved."""
    return math.inf if moved == 0 else -20 * math.log10(moved)


# --- B by itself: what its file says, and what is run -----------------------------------------------


def rewritten(net: Network, x: np.ndarray) -> Likeness | None:
    """How far ONNX Runtime's rewriting of the graph moves the outputs: the file as it stands against what is run.

    None where nothing is rewritten, as it was opened.

    raises   NotFinite where either gives NaN or infinities for every picture; what running raises
    """
    names = _outputs(net)
    if not net.optimise:
        return None
    runs = (
        [net.run(x[place : place + 1], names, optimise=on) for on in (False, True)] for place in range(len(x))
    )
    return _moved(net, ([[side[name] for side in both] for name in names] for both in runs), len(x))


def whole_sums(net: Network, model: ir.Model, x: np.ndarray) -> Likeness:
    """The same where no sums of products are cut, on either side: real numbers, and what ONNX Runtime makes of the file
    with session.x64quantprecision=1.

    model    the network in normal form
    raises   as above
    """
    names = _outputs(net)
    twins = [present(model, name) for name in names]
    sides = (
        (real, net.run(x[place : place + 1], names, whole_sums=True))
        for place, real in enumerate(values(net, model, twins, x))
    )
    runs = (
        [[real[twin][: len(run[name])], run[name]] for name, twin in zip(names, twins, strict=True)]
        for real, run in sides
    )
    return _moved(net, runs, len(x))


def _outputs(net: Network) -> list[str]:
    end = ending(net)
    return [end.logits] if end is not None else [value.name or "" for value in net.model.graph.outputs]


def _moved(net: Network, runs: Iterable[Sequence[Sequence[np.ndarray]]], count: int) -> Likeness:
    """How far each output is from another run's: of so many pictures the pairs of all outputs."""
    end, found, sound = ending(net), Likeness(), 0
    for pairs in runs:
        if not all(np.isfinite(one).all() for pair in pairs for one in pair):
            continue
        sound += 1
        for y, z in pairs:
            if y.dtype.kind == "f" and y.shape == z.shape:
                mean = y.mean() if end is not None and end.scored and y.size > 1 else 0.0
                if np.abs(y - mean).max(initial=0) > _STILL * np.abs(y).max(initial=0):
                    found.add(y - mean, z - mean)
    if not sound:
        raise NotFinite(f"B gives NaN or infinities for each of {count} pictures that were tried")
    return found
