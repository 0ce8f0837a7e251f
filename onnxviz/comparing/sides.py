"""The two files of a matching: what was seen of each, and the layers of both that have the same weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxviz import isolate
from onnxviz.comparing.kernels import Kernel, kernels, likeness
from onnxviz.comparing.normal import SAME, normal, real_values
from onnxviz.comparing.sketch import Projector, Sketch, sketches
from onnxviz.graph.analysis.dataflow import dependent, image_input, reads
from onnxviz.graph.analysis.probe import Facts, Prober
from onnxviz.graph.dequantised import ALSO
from onnxviz.graph.operators import SHAPE_ONLY
from onnxviz.network import Network
from onnxviz.progress import Progress, silent

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
    before    value -> the matched weight layers that it depends on, and
    after     those that depend on it, a bit each; `place`
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
        self.seen: dict[str, Sketch] = {}
        self.before: dict[ir.Value, int] = {}
        self.after: dict[ir.Value, int] = {}

    def look(self, wanted: Iterable[tuple[int, ...]] = (), progress: Progress = silent) -> None:
        """Run the network on the pictures, and keep projections of its values, turned to these sizes, too."""
        listed = [str(value.name) for value in self.values]
        self.seen = sketches(
            self.net, self.model, listed, self.x, self.facts, self.project, frozenset(wanted), progress
        )

    def place(self, layers: Sequence[Kernel]) -> None:
        """See where the values stand among these layers."""
        self.before, self.after = masks(self.model.graph, [kernel.node for kernel in layers])

    def known(self) -> dict[str, ir.Value]:
        """The values by all their names."""
        found: dict[str, ir.Value] = {}
        for value in self.values:
            for name in all_names(value):
                found.setdefault(name, value)
        return found | {str(value.name): value for value in self.values}


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
    between them that were trained or made anew, where each file has a single one of the same sizes at that place."""
    found = consistent(alike_layers(one.kernels, other.kernels), one, other)
    if 2 * len(found) < len(one.kernels):
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
        left.append(at)
    lone = [
        (ours[0], left[1][key][0], likeness(ours[0], left[1][key][0]))
        for key, ours in left[0].items()
        if len(ours) == len(left[1].get(key, ())) == 1
    ]
    order = {id(kernel): i for i, kernel in enumerate(one.kernels)}
    return consistent(sorted(found + lone, key=lambda pair: order[id(pair[0])]), one, other)


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
