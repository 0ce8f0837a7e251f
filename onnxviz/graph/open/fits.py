"""What does not fit: tensors into memory together, windows into the maps that they get; and a division that ends the
process.

Each tensor of a model may be within its limit, and eight of them together beyond what the machine has. ONNX Runtime
runs nodes in an order of its own, so only what the graph itself forces counts: while a node runs, a value is there that
was made by one of its ancestors and is read by it or by one of its descendants. Results that share memory with what
they are made of count once, as do nodes that do the same; open sizes count as 1.

ONNX Runtime 1.32 ends the process at some nodes that nothing comes out of: a pool of its blocked layout whose output
has no rows (SIGFPE), an InstanceNormalization or RoiAlign of an empty map, an Inverse of what is not square (SIGSEGV).
Most others are an error of its own, or a number that says nothing: the mean of nothing is 0 there, its maximum -inf.
What only moves, joins or maps elements of an empty map is sound, and no concern of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.errors import ModelRejected
from onnxviz.graph.open.known import Call, Known, Sizes, Unsure, windows
from onnxviz.graph.open.signatures import label
from onnxviz.graph.operators import GLOBAL_POOLS, KERNEL_AT, POOLS, RENAMING, computes, computing, operators
from onnxviz.isolate import machine_memory
from onnxviz.limits import Limits, exceeded

_WIDEST: Final = 16  # bytes of an element
_ANYWHERE: Final = 2**28  # bytes that every machine has
# What is smaller than this part of the memory is not counted.
_LARGE: Final = 128
_SPREADING: Final = computing("conv_transpose")
_CONVOLUTIONS: Final = {
    "FusedConv": 1, **{name: at for name, at in KERNEL_AT.items() if name not in _SPREADING}
}  # fmt: skip
# What is made of a whole map, which has none of its places left.
_OF_MAPS: Final = (
    GLOBAL_POOLS
    | operators(lambda row: row.family == "region pooling")
    | _SPREADING
    | computing("group_norm instance_norm")
)
# Types whose division the processor does itself; narrower ones are widened first.
_TRAPPING: Final = (np.int32, np.int64)
_OF_AXES: Final = computing("log_sum_exp max mean min")


# --- into memory at one time ----------------------------------------------------------------------


def together(graph: onnx.GraphProto, known: Mapping[str, Known], limits: Limits) -> None:
    """Refuse a graph that needs more memory at one time than there is.

    known    what is certain about its values, by name
    raises   LimitExceeded
    """
    made = {name: one.least for name, one in known.items() if not one.constant}
    most = sum(made.values()) * _WIDEST
    if limits.memory is None and most < _ANYWHERE:
        return
    allowed = limits.memory if limits.memory is not None else machine_memory()
    if most <= allowed:
        return
    roots = _roots(graph)
    large: dict[str, tuple[int, int]] = {}  # its bit, its bytes
    for name, elements in made.items():
        size = elements * _width(known[name].dtype)
        if roots.get(name, name) == name and size * _LARGE > allowed:
            large[name] = 1 << len(large), size
    if sum(size for _, size in large.values()) <= allowed:
        return
    for node, bits in _alive(graph, roots, {name: bit for name, (bit, _) in large.items()}):
        sizes = [size for bit, size in large.values() if bit & bits]
        # One alone is what `tensor_elements` is for: who raised that one has meant it.
        if sum(sizes) > allowed and (len(sizes) > 1 or limits.memory is not None):
            where = f"at the {label(node)}" if node is not None else "at its outputs"
            what = f"{where}, {len(sizes)} tensors of {sum(sizes)} bytes together are in memory"
            raise exceeded("memory", what, allowed, sum(sizes))


def _alive(
    graph: onnx.GraphProto, roots: Mapping[str, str], bits: Mapping[str, int]
) -> list[tuple[onnx.NodeProto | None, int]]:
    """The large values that are there while each node runs, and at the end (None), as bits."""
    before: dict[str, int] = {}  # of a value: itself, and what was made on the way to it
    given: list[int] = []
    for node in graph.node:
        ancestors = 0
        for name in _reads(node):
            ancestors |= before.get(name, bits.get(roots.get(name, name), 0))
        given.append(ancestors)
        for name in node.output:
            before[name] = ancestors | bits.get(roots.get(name, name), 0)
    ends = [value.name for value in graph.output]
    last = 0
    after: dict[str, int] = {}  # of a value: what its readers and their descendants read
    for name in ends:
        last |= bits.get(roots.get(name, name), 0)
    for name in ends:
        after[name] = last
    found: list[tuple[onnx.NodeProto | None, int]] = [(None, last)]
    for node, ancestors in zip(reversed(graph.node), reversed(given), strict=True):
        needed = 0
        for name in node.output:
            needed |= after.get(name, 0)
        for name in _reads(node):
            needed |= bits.get(roots.get(name, name), 0)
        found.append((node, ancestors & needed))
        for name in _reads(node):
            after[name] = after.get(name, 0) | needed
    return found


def _reads(node: onnx.NodeProto) -> list[str]:
    return [name for name in node.input if name]


def _roots(graph: onnx.GraphProto) -> dict[str, str]:
    """Of each value that shares memory with one made before, or equals it: that one."""
    roots: dict[str, str] = {}
    same: dict[tuple[object, ...], str] = {}
    for node in graph.node:
        inputs = tuple(roots.get(name, name) for name in node.input)
        if node.op_type in RENAMING and inputs:
            roots[node.output[0]] = inputs[0]
            continue
        attributes = tuple(sorted(one.SerializeToString(deterministic=True) for one in node.attribute))
        for place, name in enumerate(node.output):
            if name:
                key = (node.domain, node.op_type, inputs, attributes, place)
                roots[name] = same.setdefault(key, name)
    return roots


def _width(dtype: int | None) -> int:
    """Bytes of an element, as far as they are certain."""
    try:
        return max(1, ir.DataType(dtype or 0).bitwidth // 8)
    except (TypeError, ValueError):  # text, and what is not known
        return 1


# --- windows, norms and means of nothing -------------------------------------------------------------


def empty(call: Call, reductions: bool) -> str | None:
    """Why nothing comes out of a node, for the end of a sentence; None where something does, or nobody can tell.

    reductions   whether the mean or maximum of nothing counts: ONNX defines it, so a file may mean it
    """
    if call.op in _OF_AXES and not reductions:
        return None
    try:
        return _empty(call)
    except (Unsure, IndexError, TypeError, ValueError, ArithmeticError):  # wrong numbers, which others refuse
        return None


def _empty(call: Call) -> str | None:
    if call.op in _OF_AXES:
        return _reduced(call)
    if call.op == "Inverse":
        return _crooked(call)
    if computes(call.op) == "pad":
        return _padded(call)
    if call.op not in POOLS and call.op not in _CONVOLUTIONS and call.op not in _OF_MAPS:
        return None
    spatial = call.shape(0)[2:]
    if 0 in spatial:
        return f"what it gets has {_times(spatial)} places"
    if call.op in _OF_MAPS:
        return None
    if call.op in POOLS:
        kernel, lengths = list(call.attribute("kernel_shape")), windows(call)
    else:
        kernel = list(call.attribute("kernel_shape") or ())
        kernel = kernel or [size for size in call.shape(_CONVOLUTIONS[call.op])[2:] if size is not None]
        lengths = _rooms(call, spatial, kernel)
    if not [length for length in lengths if length is not None and length <= 0]:
        return None
    dilations = call.attribute("dilations") or [1] * len(kernel)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    return f"its windows of {_times(reach)} do not fit into the {_times(spatial)} places that it gets"


def _rooms(call: Call, spatial: Sizes, kernel: list[int]) -> list[int | None]:
    """How many places a convolution's window could begin at, were its stride 1; ONNX Runtime refuses to run on none."""
    n = len(spatial)
    mode = call.attribute("auto_pad", b"NOTSET")
    if mode.startswith(b"SAME"):
        return list(spatial)
    pads = call.attribute("pads") if mode != b"VALID" else None
    pads = pads or [0] * 2 * n
    dilations = call.attribute("dilations") or [1] * n
    return [
        None if size is None else size + pads[i] + pads[n + i] - dilations[i] * (kernel[i] - 1)
        for i, size in enumerate(spatial)
    ]


def _reduced(call: Call) -> str | None:
    x = call.shape(0)
    if len(x) < 3 or 0 not in x[1:]:  # rows, or a batch of none
        return None
    axes = call.option(1, "axes") if call.given(1) or call.attribute("axes") is not None else range(len(x))
    none_left = any(x[axis] == 0 for axis in axes)
    return f"what it gets has {_times(x[1:])} elements" if none_left else None


def _crooked(call: Call) -> str | None:
    """A matrix that is not square: ONNX Runtime 1.32's Inverse reads and writes beside it, and the process ends.

    Where one side is fixed and the other hangs on the picture, or on how many there are, they are not the same either.
    """
    sides = call.shape(0)[-2:]
    if len(sides) < 2 or sides[0] == sides[1]:
        return None
    return f"its matrices of {_times(sides)} are not square, and have no inverse"


def _padded(call: Call) -> str | None:
    """Cropping more than there is, and mirroring what is not there: ONNX Runtime refuses both."""
    x, pads = call.shape(0), call.option(1, "pads")
    axes = call.whole(3) if call.given(3) else list(range(len(x)))
    mirrored = call.attribute("mode", b"constant") == b"reflect"
    for place, axis in enumerate(axes):
        size, both = x[axis], (pads[place], pads[place + len(axes)])
        if size is None:
            continue
        if size + sum(both) < 0:
            return f"it cuts {-sum(both)} places off {size}"
        if mirrored and max(both) >= size > 0:
            return f"it mirrors {max(both)} places of {size}, without the outermost"
    return None


def _times(lengths: Sizes | list[int]) -> str:
    return "×".join("?" if length is None else str(length) for length in lengths)


def refuse_overflow(call: Call, node: onnx.NodeProto) -> None:
    """The least integer divided by -1: the processor raises, and ONNX Runtime dies with the caller's process."""
    a, b = call.known(0).value, call.known(1).value
    if a is None or b is None or a.dtype != b.dtype or a.dtype not in _TRAPPING:
        return
    try:
        dividend, divisor = np.broadcast_arrays(a, b)
    except ValueError:
        return
    if np.any((dividend == np.iinfo(a.dtype).min) & (divisor == -1)):
        raise ModelRejected(
            f"the {label(node)} divides the least {a.dtype} by -1, which would end the process"
        )
