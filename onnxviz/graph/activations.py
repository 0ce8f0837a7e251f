"""The values of a graph that are its layers, with their shapes: all that counting memory takes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import (
    FLOATS,
    QUANTISED,
    dependent,
    flat,
    image_input,
    is_tensor,
    measured,
    reads,
)
from onnxviz.graph.analysis.probe import Prober
from onnxviz.graph.analysis.shapes import UNKNOWN_RANK, Symbolic, probes, symbolic
from onnxviz.graph.dequantised import ALSO, LISTED_AS, STANDS_FOR, real_name

_INTEGER_SUMS = frozenset({"ConvInteger", "MatMulInteger"})


class Activations:
    """Every named value that depends on the image and holds activations, in topological order (see `layers.layers`).

    model           where model-local functions are inlined
    image           its image input
    prober          what shapes are inferred by
    base, by_size   the shapes as the file stands, and at another size where that is open
    """

    def __init__(
        self, model: ir.Model, input: str | None = None, size: tuple[int, int] | None = None
    ) -> None:
        self.model = flat(model)
        self.image = image_input(self.model, input)
        self.prober = Prober(self.model, self.image)
        self.base, by_batch, self.by_size = probes(self.prober, size)
        self.moved = dependent(self.model.graph, self.image)
        self._shapes = symbolic(self.prober, self.base, by_batch, self.by_size)
        self._scales = measured(self.model.graph, self.moved)

    def shape(self, value: ir.Value) -> Symbolic:
        """The value's sizes, see `shapes.shapes`."""
        return self._shapes.get(value.name or "", UNKNOWN_RANK)

    def sizes(self) -> tuple[tuple[str, Symbolic], ...]:
        """The name and shape of each."""
        listed = [value for _, values, _ in self.nodes() for value in values]
        return tuple((value.name or "", self.shape(value)) for value in listed)

    def nodes(self) -> Iterator[tuple[ir.Node, list[ir.Value], tuple[str, ...]]]:
        """Each node on the way, the activations that it makes, and the names of those that it reads.

        Values that are none themselves (indices, masks) are looked through.
        """
        graph = self.model.graph
        named = {
            value.name: value
            for node in graph
            for value in node.outputs
            if LISTED_AS in value.meta or ALSO in value.meta
        }
        nearest: dict[ir.Value, tuple[str, ...]] = {self.image: ()}
        for node in graph:
            made = [value for value in node.outputs if value not in self._scales]
            if self.moved.isdisjoint(made):
                continue
            read = tuple(dict.fromkeys([name for value in reads(node) for name in nearest.get(value, ())]))
            listed: list[ir.Value] = []
            for value in made:
                nearest[value] = read
                if STANDS_FOR in value.meta:
                    nearest[value] = (real_name(value),)
                    if LISTED_AS not in value.meta:
                        continue
                shown = named[value.meta[LISTED_AS]] if LISTED_AS in value.meta else value
                if shown.name and self._holds_activations(shown):
                    nearest[value] = (shown.name,)
                    listed.append(shown)
            yield node, listed, read

    def _holds_activations(self, value: ir.Value) -> bool:
        if not is_tensor(value):
            return False
        dtype = self.base.dtypes.get(value.name or "", value.dtype)
        node = value.producer()
        if dtype == ir.DataType.INT32:
            return node is not None and node.op_type in _INTEGER_SUMS
        return dtype in FLOATS or dtype in QUANTISED
