"""Names: values and nodes have a namespace each, what is given out has the name that was promised, layers may be called
as in another file, and lengths that only the run will tell are called by their formulas.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

import onnx_ir as ir

from onnxviz.graph.operators import POINTWISE, SAME_SHAPE, WINDOWS, computes

_NAME = attrgetter("name")


def values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value of the graph and of the graphs in it."""
    for part in (graph, *graph.subgraphs()):
        yield from part.inputs
        yield from part.initializers.values()
        for node in part:
            yield from node.outputs


def names(graph: ir.Graph) -> set[str]:
    """Every name in the graph and in the graphs in it, of values and of nodes."""
    found: set[str | None] = set()
    for part in (graph, *graph.subgraphs()):
        found.update(map(_NAME, part.inputs))
        found.update(map(_NAME, part.initializers.values()))
        for node in part:
            found.add(node.name)
            found.update(map(_NAME, node.outputs))
    return {name for name in found if name}


def fresh(name: str, taken: set[str]) -> str:
    """The name, or with a number behind it the first that is not taken; now it is."""
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found


def own_length(graph: ir.Graph, letter: str) -> str:
    """A name for a length that is open from now on: the letter, unless a file calls another length so."""
    taken = {d.value for value in values(graph) for d in value.shape or () if not isinstance(d, int)}
    return fresh(letter, {name for name in taken if name})


def name_nodes(graph: ir.Graph) -> None:
    """Give each node a name that no other node has, in place: what has none gets that of its first output.

    An output may well have the name of another node: files number both alike. ONNX Runtime refuses two nodes of one
    name, and errors and profiles point at nodes by them.
    """
    nodes = list(graph.all_nodes())
    owners = Counter([node.name for node in nodes])
    taken = {name for name in owners if name}
    seen: set[str] = set()
    for node in nodes:
        if not node.name or node.name in seen:
            made = [value.name for value in node.outputs if value.name]
            node.name = fresh(node.name or (made or [node.op_type])[0], taken)
        seen.add(node.name)


def publish(graph: ir.Graph, shown: Mapping[str, ir.Value]) -> None:
    """Give these values their public names; what has such a name in the network is called 'network/NAME'."""
    own = set(shown.values())
    others = [value for value in values(graph) if value.name in shown and value not in own]
    taken = names(graph) if others else set()
    for value in others:
        if value.const_value is not None and value.is_initializer():
            # A tensor shares its name with the network's.
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
        value.name = fresh(f"network/{value.name}", taken)
    for name, value in shown.items():
        value.name = name


# --- what a layer is called -----------------------------------------------------------------------

# Notes on values, which copies keep and files do not. Of quantised files (dequantised.py): on what is listed in place
# of the real value, its name; on what it stands for; on the real value, how else it is called.
LISTED_AS, STANDS_FOR, ALSO = "onnxviz.listed_as", "onnxviz.stands_for", "onnxviz.also"
# On any value: what else it may be asked for by (`rename`).
CALLED = "onnxviz.called"


def real_name(value: ir.Value) -> str:
    """The name of the layer that a value of the file stands for: its own, but for codes and what is cut to them."""
    found: str = value.meta.get(STANDS_FOR) or value.name or ""
    return found


def rename(model: ir.Model, called: Mapping[str, Sequence[str]]) -> None:
    """Give values other names, in place; what they were called is one more name of them (`Layer.also`).

    Whatever else has one of the new names is called 'NAME/own' from now on. Inputs and outputs of the graph keep their
    names, and can be asked for by the new ones where nothing else has them.

    called   {name: (new name, further names that it can be asked for by)}
    """
    graph, taken = model.graph, {str(value.name) for value in values(model.graph)}
    own = {str(value.name): value for node in graph for value in node.outputs}
    fixed = {str(v.name) for v in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
    plan: dict[str, str] = {}
    for name, (first, *others) in called.items():
        value = own.get(name)
        if value is None:
            continue
        if name not in fixed and first not in fixed:
            plan[name] = first
        value.meta[CALLED] = [first, name, *others]
    for name in set(own) & set(plan.values()) - set(plan):
        plan[name] = fresh(f"{name}/own", taken)
    for value in own.values():
        value.name = plan.get(str(value.name), value.name)
    for value in own.values():  # what is noted of values by their names
        for note in (LISTED_AS, STANDS_FOR):
            if note in value.meta:
                value.meta[note] = plan.get(value.meta[note], value.meta[note])
        for note in (ALSO, CALLED):
            if note in value.meta:
                noted = value.meta[note] if note == CALLED else [plan.get(n, n) for n in value.meta[note]]
                value.meta[note] = [one for one in dict.fromkeys(noted) if one != value.name]


# --- lengths that only the run will tell ----------------------------------------------------------
#
# ONNX's own inference gives up at the first strided convolution of an image of unknown size. Then nobody
# can tell that both sides of a residual Add have one shape: gradients would have to find out at every run
# what was broadcast, and ONNX Runtime leaves its fast layout there. So the length behind a window is called
# by its formula, `(H-1)//2+1`.


_LONGEST = 400  # a name beyond this is of no use to anybody

Dim = int | str | None
Dims = tuple[Dim, ...]


def dims(value: ir.Value | None) -> Dims | None:
    """The known dimensions: an int, the name of a symbolic one, or None; None altogether for an unknown rank."""
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def name_lengths(graph: ir.Graph) -> None:
    """Give the unknown lengths of the graph's values their formulas as names, where operators tell them, in place."""
    own = {d.value for x in graph.inputs for d in x.shape or () if not isinstance(d, int)}
    for node in graph:
        for out in node.outputs:  # onnx invents a name for what it does not know, another one each time
            invented = {d for d in dims(out) or () if isinstance(d, str) and d.startswith("unk__")} - own
            if invented:
                out.shape = ir.Shape([None if d in invented else d for d in dims(out) or ()])
        y = node.outputs[0] if node.outputs else None
        known = dims(y) or ()
        if y is None or node.domain or None not in known:
            continue
        found = _told(node, len(known))
        if found is not None and len(found) == len(known):
            y.shape = ir.Shape([b if a is None else a for a, b in zip(known, found, strict=True)])


def _told(node: ir.Node, rank: int) -> Sequence[Dim] | None:
    if node.op_type in SAME_SHAPE:
        return dims(node.inputs[0])
    if node.op_type in WINDOWS:
        return _windows(node, rank)
    if node.op_type in POINTWISE:
        return _broadcast([dims(x) for x in node.inputs if x is not None], rank)
    if computes(node.op_type) == "resize":
        return _resized(node, rank)
    if computes(node.op_type) == "concatenate":
        shapes = [dims(x) for x in node.inputs]
        axis = node.attributes["axis"].as_int() % rank
        if any(s is None or len(s) != rank for s in shapes):
            return None
        return [
            None if i == axis else next((d for d in lengths if d is not None), None)
            for i, lengths in enumerate(zip(*(s or [] for s in shapes), strict=True))
        ]
    return None


def _resized(node: ir.Node, rank: int) -> Sequence[Dim] | None:
    """What is scaled by 1 stays."""
    x = dims(node.inputs[0])
    scales = node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or scales is None or scales.const_value is None or "axes" in node.attributes:
        return None
    factors = scales.const_value.numpy()
    if len(x) != rank or len(factors) != rank:
        return None
    return [d if f == 1.0 else None for d, f in zip(x, factors, strict=True)]


def _broadcast(shapes: list[Dims | None], rank: int) -> Sequence[Dim] | None:
    """The one length that all operands have, but for those of length 1."""
    found: list[Dim] = []
    for i in range(-rank, 0):
        lengths: set[Dim] = set()
        for shape in shapes:
            if shape is None:
                return None
            if len(shape) >= -i:
                lengths.add(shape[i])
        lengths -= {1}
        found.append(lengths.pop() if len(lengths) == 1 else None)
    return found


def _windows(node: ir.Node, rank: int) -> Sequence[Dim] | None:
    x = dims(node.inputs[0])
    if x is None or len(x) != rank:
        return None
    attributes = node.attributes
    explicit = attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    if not explicit or bool(attributes.get_int("ceil_mode", 0)):
        return None
    if "kernel_shape" in attributes:
        kernel: Sequence[Dim] = attributes["kernel_shape"].as_ints()
    else:
        kernel = (dims(node.inputs[1]) or ())[2:]
    n = rank - 2

    strides, dilations = (attributes.get_ints(name, [1] * n) for name in ("strides", "dilations"))
    pads = attributes.get_ints("pads", [0] * (2 * n))
    found: list[Dim] = [x[0], None]
    for i in range(n):
        k, d = kernel[i] if i < len(kernel) else None, x[2 + i]
        if not isinstance(k, int) or d is None:
            found.append(None)
            continue
        found.append(_length(d, strides[i], pads[i] + pads[n + i] - dilations[i] * (k - 1)))
    return found


def _length(d: int | str, stride: int, extra: int) -> Dim:
    """(d + extra − 1)//stride + 1"""
    if isinstance(d, int):
        return (d + extra - 1) // stride + 1
    if stride == 1:
        name = d if extra == 0 else f"({d}{extra:+d})"
    else:
        name = f"(({d}{extra - 1:+d})//{stride}+1)"
    return name if len(name) <= _LONGEST else None


def taken_apart(name: str) -> tuple[str, int, int] | None:
    """Of a name that `name_lengths` gave: (d, extra, stride) of (d + extra)//stride + 1, stride 0: of d + extra.

    None where it is a name of its own.
    """
    if found := re.fullmatch(r"\(\((.+)([+-]\d+)\)//(\d+)\+1\)", name):
        return found[1], int(found[2]), int(found[3])
    found = re.fullmatch(r"\((.+)([+-]\d+)\)", name)
    return (found[1], int(found[2]), 0) if found else None
