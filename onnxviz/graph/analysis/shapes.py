"""The shape and element type of every value, whatever the exporter declared or left out.

ONNX's own shape inference runs on a copy of the graph without its weights, at concrete sizes: the batch,
height and width that the file leaves open are filled in, and what changes when they change is then given
back as a symbol. Concrete sizes make shape arithmetic (`Shape -> Gather -> Mul -> Reshape`) come out
exactly; with symbols it mostly ends in "unknown".
"""

from __future__ import annotations

from fractions import Fraction

import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import flat, image_input
from onnxviz.graph.analysis.probe import BATCHES, SIZES, Facts, Prober, Size

Symbolic = tuple[int | str, ...]

UNKNOWN = "?"
"""A dimension that cannot be told without running the network."""
UNKNOWN_RANK: Symbolic = ("...",)
"""The shape of a value of which not even the rank can be told."""


def shapes(
    model: ir.Model,
    input: str | None = None,
    size: Size | None = None,
) -> dict[str, Symbolic]:
    """The shape of every value, by name.

    input    the image input's name; None: the only one
    size     (height, width) in pixels in place of what the file declares
    returns  for each named value a tuple of sizes; an open batch is 'N' (or '49N'), an open height and
             width 'H', 'W' and their parts, as 'H/4'; UNKNOWN for a single dimension and UNKNOWN_RANK
             for a whole shape that cannot be told
    raises   ModelUnsuitable where no image input can be chosen, ModelRejected where inference fails
    """
    model = flat(model)
    prober = Prober(model, image_input(model, input))
    return symbolic(prober, *probes(prober, size))


def probes(prober: Prober, size: Size | None = None) -> tuple[Facts, Facts | None, Facts | None]:
    """Facts as the file stands; the same at another batch and at another size, where these are open."""
    base = prober.facts(size=size)
    other_batch = prober.facts(BATCHES[1], size) if prober.open_batch else None
    if size is not None or not prober.open_size:
        return base, other_batch, None
    kept = base.size or SIZES[0]
    height, width = (
        SIZES[1][i] if prober.is_open(axis) else kept[i]
        for i, axis in enumerate((prober.layout.y, prober.layout.x))
    )
    return base, other_batch, prober.facts(size=(height, width))


def symbolic(
    prober: Prober, base: Facts, by_batch: Facts | None, by_size: Facts | None
) -> dict[str, Symbolic]:
    """The shapes of `base`, with a symbol for what differs in the other two."""
    graph = prober.model.graph
    names = [v.name for v in (*graph.inputs, *graph.initializers.values()) if v.name]
    names += [v.name for node in graph for v in node.outputs if v.name]
    others = [facts for facts in (by_batch, by_size) if facts is not None]
    growths = _growths(base, by_batch, by_size)
    found: dict[str, Symbolic] = {}
    for name in names:
        shape = base.shapes.get(name)
        if shape is None:
            found[name] = UNKNOWN_RANK
            continue
        seen = [other.shapes.get(name) for other in others]
        columns = [s if s is not None and len(s) == len(shape) else (None,) * len(shape) for s in seen]
        found[name] = tuple(
            _symbol(dim, [column[i] for column in columns], growths) for i, dim in enumerate(shape)
        )
    return found


def _growths(
    base: Facts, by_batch: Facts | None, by_size: Facts | None
) -> list[tuple[str, int, list[Fraction]]]:
    """What each symbol stands for in `base`, and how it grows in each of the other facts."""
    still = Fraction(1)
    known: list[tuple[str, int, list[Fraction]]] = []
    if by_batch is not None:
        growth = [Fraction(by_batch.batch, base.batch), *([still] if by_size is not None else [])]
        known.append(("N", base.batch, growth))
    if by_size is not None and by_size.size is not None and base.size is not None:
        for axis, name in enumerate("HW"):
            ratio = Fraction(by_size.size[axis], base.size[axis])
            known.append((name, base.size[axis], [*([still] if by_batch is not None else []), ratio]))
    return [(name, stand_in, growth) for name, stand_in, growth in known if set(growth) != {still}]


def _symbol(
    dim: int | None, seen: list[int | None], growths: list[tuple[str, int, list[Fraction]]]
) -> int | str:
    """`dim` itself where nothing moves it, else the symbol whose growth it shares."""
    others = [other for other in seen if other is not None]
    if dim is None or len(others) < len(seen):
        return UNKNOWN
    if all(other == dim for other in others):
        return dim
    if dim == 0:
        return UNKNOWN
    growth = [Fraction(other, dim) for other in others]
    for name, stand_in, expected in growths:
        if growth == expected:
            part = Fraction(dim, stand_in)
            times = "" if part.numerator == 1 else str(part.numerator)
            return f"{times}{name}" + ("" if part.denominator == 1 else f"/{part.denominator}")
    return UNKNOWN


def annotate(model: ir.Model, input: str | None = None) -> None:
    """Write element types and shapes onto the values that have none; open dimensions stay open. Edits `model`."""
    try:
        image = image_input(model, input)
    except ModelUnsuitable:  # several inputs and none chosen: any will do to learn the types
        if not model.graph.inputs:
            return
        image = model.graph.inputs[0]
    prober = Prober(model, image)
    base, by_batch, by_size = probes(prober)
    known = symbolic(prober, base, by_batch, by_size)
    axes = {"N": prober.layout.batch, "H": prober.layout.y, "W": prober.layout.x}
    named = {
        symbol: image.shape[axis]
        for symbol, axis in axes.items()
        if image.shape is not None and axis is not None
    }
    for node in model.graph:
        for value in node.outputs:
            name = value.name or ""
            if value.type is None and name in base.dtypes:
                value.type = ir.TensorType(base.dtypes[name])
            shape = known.get(name, UNKNOWN_RANK)
            if value.shape is None and shape != UNKNOWN_RANK:
                value.shape = ir.Shape([d if isinstance(d, int) else named.get(d) for d in shape])
