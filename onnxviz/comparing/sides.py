"""The two files of a matching: the form that both are brought into, what was seen of each, and the layers of both that
have the same weights.

The form is nearer to the file than that of `graph.normalise`, which is for gradients: BatchNormalization stays apart,
half precision stays half, weights stay as they are stored. What is computed is what the file computes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxviz import isolate
from onnxviz.comparing.kernels import Kernel, kernels, likeness
from onnxviz.comparing.rules import SAME_NETWORK
from onnxviz.comparing.values import Projector, Sketch, sketches
from onnxviz.errors import UnknownLayer, UsageError, near
from onnxviz.graph.analysis.dataflow import (
    FLOATS,
    constant,
    dependent,
    duplicate,
    image_input,
    is_tensor,
    measured,
    prune,
    reads,
)
from onnxviz.graph.analysis.probe import Facts, Prober
from onnxviz.graph.dequantised import through
from onnxviz.graph.naming import ALSO, name_nodes
from onnxviz.graph.normalise import standard
from onnxviz.graph.operators import (
    FORM,
    SHAPE_ONLY,
    computes,
    computing,
)
from onnxviz.graph.shapes import infer
from onnxviz.network import Network
from onnxviz.progress import Progress, silent

#: Note on a value: names of the file's values that were the same numbers once more, and are left out (`ir.Value.meta`).
SAME = "onnxviz.same"


def normal(net: Network) -> ir.Model:
    """A copy of the network's graph that every part of a comparison works on, with the batch of `net.batched`.

    Functions are inlined, fused operators of com.microsoft and QOperator forms are written out, so that every real
    value of a quantised file stands behind a DequantizeLinear that all its readers read. Identity, Dropout and Cast to
    the same type are left out. Values keep their names; of quantised files, `graph.dequantised.name_real_values` gave
    them: they are those of `Network.layers`. The opset is 18 or later.

    raises   ModelUnsuitable for an opset under 7, or a form that cannot be lifted
    """
    with isolate.on(net.worker):
        model = duplicate(net.batched[0])
        standard(model, whole=False)
        _collapse(model.graph)
        for value in [value for node in model.graph for value in node.outputs if ALSO in value.meta]:
            through(model.graph, value)
        prune(model)
        name_nodes(model.graph)
        infer(model)
    return model


def _collapse(graph: ir.Graph) -> None:
    """Leave out what hands its input on as it is, in place; where it is an output of the graph, it stays."""
    for node in list(graph):
        if node.domain not in ("", "ai.onnx") or computes(node.op_type) not in ("identity", "cast"):
            continue
        x, y = node.inputs[0], node.outputs[0]
        if x is None or y.is_graph_output() or not is_tensor(x):
            continue
        if computes(node.op_type) == "cast" and (
            x.dtype is None or int(x.dtype) != node.attributes["to"].as_int()
        ):
            continue
        x.meta.setdefault(SAME, []).extend([y.name, *y.meta.get(SAME, ())])
        y.replace_all_uses_with(x)
        graph.remove(node, safe=True)


def real_values(model: ir.Model, image: ir.Value) -> Iterator[ir.Value]:
    """The values of a graph in normal form that can be compared, in topological order, the image input first.

    Floating-point tensors that depend on the picture: no scales that are measured of it, and nothing that is cut to a
    quantiser's range only afterwards.
    """
    moved = dependent(model.graph, image)
    scales = measured(model.graph, moved)
    yield image
    for node in model.graph:
        for value in node.outputs:
            if not value.name or value not in moved or value in scales or not is_tensor(value):
                continue
            if value.dtype in FLOATS and not _uncut(value):
                yield value


def _uncut(value: ir.Value) -> bool:
    """Whether all that reads it is a quantiser whose codes are made real again."""
    if value.is_graph_output() or not value.uses():
        return False
    for reader, place in value.uses():
        if place != 0 or computes(reader.op_type) not in ("quantize", "quantize_measured"):
            return False
        codes = reader.outputs[0]
        if not any(computes(other.op_type) == "dequantize" for other, _ in codes.uses()):
            return False
    return True


# From here on two layers' weights are the same ones, if they stand at about the same place;
_ALIKE: Final = 0.8
# that far apart, in parts of the whole; and from here on wherever they stand.
_BAND: Final = 0.15
_CERTAIN: Final = 0.97


class Side:
    """One of the files, and what was seen of it.

    values    what can be compared, in topological order
    kernels   what multiplies
    seen      the values' sketches, by name; `look`
    moved     what depends on the picture, but for scales that are measured of it
    before    value -> the matched weight layers that it depends on, and
    after     those that depend on it, and
    read      those that read it as it is, a bit each; `place`
    """

    def __init__(self, net: Network, x: np.ndarray, project: Projector) -> None:
        self.net, self.x, self.project = net, x, project
        self.model = normal(net)
        self.image = image_input(self.model, net.input.name)
        with isolate.on(net.worker):
            self.facts: Facts = Prober(self.model, self.image).facts(size=net.size)
        moved = dependent(self.model.graph, self.image)
        self.values = list(real_values(self.model, self.image))
        self.kernels = kernels(net, self.model, moved, self.facts, x, project)
        self.moved = moved - measured(self.model.graph, moved)
        self.seen: dict[str, Sketch] = {}
        self.before: dict[ir.Value, int] = {}
        self.after: dict[ir.Value, int] = {}
        self.read: dict[ir.Value, int] = {}

    def look(self, wanted: Iterable[tuple[int, ...]] = (), progress: Progress = silent) -> None:
        """Run the network on the pictures, and keep projections of its values, turned to these sizes, too."""
        listed = [str(value.name) for value in self.values]
        self.seen = sketches(
            self.net, self.model, listed, self.x, self.facts, self.project, frozenset(wanted), progress
        )

    def place(self, layers: Sequence[Kernel]) -> None:
        """See where the values stand among these layers."""
        nodes = [kernel.node for kernel in layers]
        self.before, self.after = masks(self.model.graph, nodes)
        self.read = defaultdict(int)
        for place, node in enumerate(nodes):
            left = [x for x in node.inputs if x in self.moved]
            while left:
                x = left.pop()
                self.read[x] |= 1 << place
                made = x.producer()
                if made is not None and hands_on(made):
                    left += [one for one in made.inputs if one in self.moved]

    def stretch(self, value: ir.Value) -> tuple[int, int]:
        """Among which of these layers a value stands."""
        return self.before[value], self.after[value]

    def known(self) -> dict[str, ir.Value]:
        """The values by all their names."""
        found: dict[str, ir.Value] = {}
        for value in self.values:
            for name in all_names(value):
                found.setdefault(name, value)
        return found | {str(value.name): value for value in self.values}


def given_places(given: Mapping[str, str], one: Side, other: Side) -> list[tuple[int, int]]:
    """The places of the values that are given as pairs.

    raises   UnknownLayer, UsageError for one that is given twice
    """
    found: list[tuple[int, int]] = []
    known = [(side, side.known(), {v: i for i, v in enumerate(side.values)}) for side in (one, other)]
    for names in given.items():
        places = []
        for name, (side, values, place) in zip(names, known, strict=True):
            if name not in values:
                raise UnknownLayer(
                    f"no value of {side.net.name!r} that can be compared is named {name!r}{near(name, values)}; "
                    "`onnxviz inspect` lists the layers"
                )
            places.append(place[values[name]])
        if any(places[0] == a or places[1] == b for a, b in found):
            both = " and ".join(map(repr, names))
            raise UsageError(f"{both} are given as a pair, and one of them in another pair, too")
        found.append((places[0], places[1]))
    return found


def masks(graph: ir.Graph, nodes: Sequence[ir.Node]) -> tuple[dict[ir.Value, int], dict[ir.Value, int]]:
    """Of each value, which of the nodes it depends on, and which depend on it: a bit each."""
    bits = {node: 1 << i for i, node in enumerate(nodes)}
    order = [node for node in graph if node.op_type not in SHAPE_ONLY or node.domain]
    before: dict[ir.Value, int] = defaultdict(int)
    after: dict[ir.Value, int] = defaultdict(int)
    for node in order:
        mask = bits.get(node, 0)
        for value in reads(node):
            mask |= before[value]
        for value in node.outputs:
            before[value] = mask
    for node in reversed(order):
        mask = bits.get(node, 0)
        for value in node.outputs:
            mask |= after[value]
        for value in reads(node):
            after[value] |= mask
    return before, after


def all_names(value: ir.Value) -> list[str]:
    """All that a value is called."""
    return [str(value.name), *value.meta.get(ALSO, ()), *value.meta.get(SAME, ())]


def same_layers(one: Side, other: Side) -> list[tuple[Kernel, Kernel, float]]:
    """The weight layers that belong together, in A's order, and how alike their weights are: `alike_layers`, and those
    between them that were trained or made anew, or have their channels in another order, where each file has a single
    one of the same sizes at that place, or as many one behind the other."""
    found = consistent(alike_layers(one.kernels, other.kernels), one, other)
    if len(found) < SAME_NETWORK * len(one.kernels):
        return found  # perhaps two networks
    left: list[dict[tuple[int, int, tuple[int, int]], list[Kernel]]] = []
    for side, known in ((one, [a for a, _, _ in found]), (other, [b for _, b, _ in found])):
        before, after = masks(side.model.graph, [kernel.node for kernel in known])
        matched = {id(kernel) for kernel in known}
        at: dict[tuple[int, int, tuple[int, int]], list[Kernel]] = defaultdict(list)
        for kernel in side.kernels:
            made = kernel.node.outputs[0]
            if id(kernel) not in matched and kernel.faces:
                at[before[made], after[made], kernel.size].append(kernel)
        rows = {key: kernels for key, kernels in at.items() if _in_a_row(side, kernels)}
        left.append(rows)
    anew = [
        (a, b, likeness(a, b))
        for key, ours in left[0].items()
        if len(ours) == len(left[1].get(key, ()))
        for a, b in zip(ours, left[1][key], strict=True)
    ]
    order = {id(kernel): i for i, kernel in enumerate(one.kernels)}
    return consistent(sorted(found + anew, key=lambda pair: order[id(pair[0])]), one, other)


def _in_a_row(side: Side, listed: Sequence[Kernel]) -> bool:
    """Whether each of these depends on the one before it."""
    before, _ = masks(side.model.graph, [kernel.node for kernel in listed])
    return all(before[kernel.node.outputs[0]] == (2 << place) - 1 for place, kernel in enumerate(listed))


def alike_layers(one: Sequence[Kernel], other: Sequence[Kernel]) -> list[tuple[Kernel, Kernel, float]]:
    """The weight layers that belong together, in A's order, and how alike their weights are."""
    from scipy.optimize import linear_sum_assignment

    if not one or not other:
        return []
    places = [np.linspace(0, 1, len(side)) for side in (one, other)]
    apart = np.abs(places[0][:, None] - places[1][None, :])
    alike = np.array([[likeness(a, b) for b in other] for a in one])
    alike[(alike < _ALIKE) | ((alike < _CERTAIN) & (apart > _BAND))] = 0.0
    rows, columns = linear_sum_assignment(np.where(alike > 0, 1 - alike + 0.1 * apart, 10.0))
    return [
        (one[i], other[j], float(alike[i, j])) for i, j in zip(rows, columns, strict=True) if alike[i, j] > 0
    ]


def consistent(
    layers: list[tuple[Kernel, Kernel, float]], one: Side, other: Side
) -> list[tuple[Kernel, Kernel, float]]:
    """Without those that depend on each other otherwise in the two files: the worst first, until none is left."""
    kept = list(layers)
    while kept:
        ours, _ = masks(one.model.graph, [a.node for a, _, _ in kept])
        theirs, _ = masks(other.model.graph, [b.node for _, b, _ in kept])
        differing = [ours[a.node.outputs[0]] ^ theirs[b.node.outputs[0]] for a, b, _ in kept]
        counts = [mask.bit_count() for mask in differing]
        for i in range(len(kept)):
            counts[i] += sum(mask >> i & 1 for mask in differing)
        worst = max(range(len(kept)), key=counts.__getitem__)
        if not counts[worst]:
            break
        del kept[worst]
    return kept


_BY_ONE: Final = computing("multiply divide")


def hands_on(node: ir.Node) -> bool:
    """Whether an operator changes its first input's form at most: names, axes, types, codes; times 1, as the scale that
    ONNX Runtime's QuickGelu has for a SiLU."""
    if node.op_type in FORM or computes(node.op_type) == "quantize_measured":
        return True
    tensor = constant(node.inputs[1]) if node.op_type in _BY_ONE and len(node.inputs) == 2 else None
    return tensor is not None and tensor.size == 1 and float(tensor.numpy().reshape(-1)[0]) == 1
