"""Full-gradient attribution: the input's share of the score, and every bias' share, at every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxviz.attribution.result import Found
from onnxviz.attribution.sampled import Job, completeness
from onnxviz.figures.heat import fit
from onnxviz.grad import table
from onnxviz.grad.model import differentiate
from onnxviz.graph import float32
from onnxviz.graph.analysis.dataflow import FLOATS, QUANTISED, dependent, reads
from onnxviz.graph.naming import publish
from onnxviz.graph.normalise import normalise
from onnxviz.graph.operators import ACTIVATIONS, BY_STATISTICS, CONVOLUTIONS, computes, computing, operators
from onnxviz.graph.surgery import cut
from onnxviz.graph.tape import Tape
from onnxviz.graph.tape import array as value_of
from onnxviz.runtime.providers import CPU


def full_gradient(job: Job) -> Found:
    """The input's shares (input times gradient) and every bias' shares (bias times its cotangent), in one map.

    Srinivas & Fleuret 2019, arXiv:1905.00780. Input and biases together explain the whole score; the figures say how
    far (completeness_error, relative to the score). As in the paper, each layer's shares are taken by magnitude,
    stretched to 0...1, enlarged to the picture and added up over channels and layers. Biases are those of the graph
    with BatchNormalization folded; what a clipped or curved activation adds counts as its bias.

    The map is smooth and shaped like the object, but rests much on the picture's own edges: under random weights it
    hardly changes (correlation 0.75 to 0.98 on the bundled network). It tells where, not why.
    """
    net, x = job.net, job.x
    found = offsets(
        net.batched[0],
        job.aim.objective.layers(net.batched[0], job.source),
        lambda node: not table.is_zero(node.op_type, node.domain),
    )
    curved = [offset for offset in found if offset.chain]
    key = ("offsets", job.source, *(offset.layer for offset in curved))
    program = net.compile(lambda: curves(curved), key=key, provider=CPU) if curved else None
    layers = [offset.layer for offset in found]
    also = list(dict.fromkeys(name for offset in found for name in offset.needs if name != job.source))
    wrt = [job.source, *(name for name in dict.fromkeys(layers) if name != job.source)]
    run = job.aim.gradients(net, wrt, also=also)
    size = net.batch_size(job.batch)
    last = {layer.name for layer in net.layers if layer.channels_last}
    height, width = job.pictures[0].shape[:2]
    maps, scores, sums = [], [], []
    # Chunk by chunk: the cotangents of every layer of many pictures would fill the memory.
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        arrays = {job.source: x[part]} | run(x[part], job.aim.feeds(np.arange(len(x))[part]), batch=job.batch)
        if program is not None:
            read = {f"{one.layer}.x": arrays[one.needs[0]].astype(np.float32, copy=False) for one in curved}
            arrays |= program(read, [f"{one.layer}.offset" for one in curved])
        shares = x[part] * arrays[f"{job.source}.gradient"]
        total = shares.sum(axis=tuple(range(1, x.ndim)), dtype=np.float64)
        layout = net.input.layout
        map_ = _stretched(shares).sum(axis=1 if layout == "NCHW" else 3)  # (n, H, W)
        for offset in found:
            cotangent = arrays[f"{offset.layer}.gradient"]
            shares = offset.read(arrays) * cotangent
            total += shares.sum(axis=tuple(range(1, shares.ndim)), dtype=np.float64)
            if shares.ndim == 4:
                channels = 3 if offset.layer in last else 1
                map_ += np.stack([fit(one, height, width) for one in _stretched(shares).sum(axis=channels)])
        maps.append(map_)
        scores.append(arrays["objective"])
        sums.append(total)
        job.progress(min(start + size, len(x)), len(x), "images")
    score, total = np.concatenate(scores), np.concatenate(sums)
    figures, warnings = completeness(
        total,
        score,
        "input and biases add up to {sum} of a score of {whole} (completeness error {error}): this network has "
        "operators whose offsets are not known (attention, normalisation of each picture, QLinearConv)",
    )
    parameters = {"layers_with_offsets": len(found)}
    return Found(np.concatenate(maps), score, parameters, figures, warnings)


def _stretched(shares: np.ndarray) -> np.ndarray:
    """Magnitudes (n, ...) of one layer as 0...1 for each picture."""
    magnitudes = np.abs(shares)
    axes = tuple(range(1, shares.ndim))
    low = magnitudes.min(axis=axes, keepdims=True)
    span = magnitudes.max(axis=axes, keepdims=True) - low
    result: np.ndarray = (magnitudes - low) / np.where(span > 0, span, 1)
    return result


# --- what layers add that is not in proportion to their input: biases, and what activations add ---
#
# Around one input every layer is y = J·x + r, J its Jacobian. The offsets r are a convolution's or Gemm's
# bias, a BatchNormalization's shift, an added constant, and what a curved or clipped activation holds back
# (a ReLU6 at its limit gives 6 whatever comes in). An output of the network is then exactly gradient ·
# input plus every offset times its own cotangent (Srinivas & Fleuret 2019, arXiv:1905.00780).


@dataclass(frozen=True)
class Offset:
    """One layer's offset.

    layer    the name of its output
    needs    the values that it is made of
    read     {name: (N, ...)} -> the offset, which broadcasts to the layer's shape. Of a curve it is what `curves` gave
    chain    the nodes of a curve
    """

    layer: str
    needs: tuple[str, ...]
    read: Callable[[dict[str, np.ndarray]], np.ndarray]
    chain: tuple[ir.Node, ...] = ()


def offsets(model: ir.Model, of: Sequence[str], passes: Callable[[ir.Node], bool]) -> list[Offset]:
    """The offsets of every layer that the values `of` depend on, after BatchNormalization was folded.

    Only on the way of the picture's own numbers: what adds to lengths (shape arithmetic) is no layer. What `read` takes
    may include the input itself. Only of layers whose values the given model has under the same names, as all but the
    insides of functions and of decomposed quantised operators do.

    passes   whether gradients pass a node
    """
    named = {value.name for node in model.graph for value in node.outputs if value.name}
    named |= {value.name for value in model.graph.inputs if value.name}
    normal = normalise(cut(model, of)).graph
    for value in list(normal.outputs):
        real = float32.computed(value)
        if real is not None:
            publish(normal, {value.name or "": real})
    pictured = set().union(*(dependent(normal, value) for value in normal.inputs))
    wanted = _leading_to(normal, of, passes)
    found = []
    for node in normal:
        y = node.outputs[0] if node.outputs else None
        if y is None or y.name not in named or y not in wanted or y not in pictured:
            continue
        if node.domain not in ("", "ai.onnx"):
            continue
        made = _bias(node, y.name) if node.op_type in _BIASED else _activation(node, y.name, pictured)
        if made is not None and all(name in named for name in made.needs):
            found.append(made)
    return found


def _leading_to(graph: ir.Graph, names: Sequence[str], passes: Callable[[ir.Node], bool]) -> set[ir.Value]:
    """The real numbers that these are computed from, themselves included, by nodes that gradients pass."""
    wanted = {value for node in graph for value in node.outputs if value.name in names}
    for node in reversed(graph):
        if passes(node) and any(y in wanted for y in node.outputs):
            wanted |= {x for x in reads(node) if x.dtype is None or x.dtype in FLOATS | QUANTISED}
    return wanted


# --- constants --------------------------------------------------------------------------------


def _fixed(layer: str, array: np.ndarray) -> Offset | None:
    array = array.astype(np.float32)
    return Offset(layer, (), lambda values: array) if array.any() else None


def _bias(node: ir.Node, y: str) -> Offset | None:
    """The offset of a linear operator: its constant part, shaped so that it broadcasts to the output."""
    if computes(node.op_type) in ("conv", "conv_transpose"):
        bias = _constant(node.inputs[2]) if len(node.inputs) > 2 else None
        weights = node.inputs[1]
        rank = 4 if weights is None or weights.shape is None else len(weights.shape)
        return None if bias is None else _fixed(y, bias.reshape(-1, *([1] * (rank - 2))))
    if computes(node.op_type) == "gemm":
        bias = _constant(node.inputs[2]) if len(node.inputs) > 2 else None
        beta = node.attributes["beta"].as_float() if "beta" in node.attributes else 1.0
        return None if bias is None else _fixed(y, beta * bias)
    if node.op_type in BY_STATISTICS:
        parts = [_constant(x) for x in node.inputs[1:5]]
        if any(part is None for part in parts):
            return None
        scale, shift, mean, variance = (np.asarray(part, np.float64) for part in parts)
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        shape = node.outputs[0].shape
        rank = 4 if shape is None else len(shape)
        offset = shift - mean * scale / np.sqrt(variance + epsilon)
        return _fixed(y, offset.reshape(-1, *([1] * (rank - 2))))
    first, second = (_constant(x) for x in node.inputs[:2])  # Add, Sub
    if (first is None) == (second is None):
        return None
    if first is not None:
        return _fixed(y, first)
    return _fixed(y, np.asarray(second) if computes(node.op_type) == "add" else -np.asarray(second))


def _constant(value: ir.Value | None) -> np.ndarray | None:
    """The constant behind a value, also where it is stored quantised."""
    array = value_of(value)
    node = None if value is None else value.producer()
    if array is not None or node is None or computes(node.op_type) != "dequantize":
        return array
    stored, scale = (value_of(x) for x in node.inputs[:2])
    zero = value_of(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
    if stored is None or scale is None or zero is None or (scale.size > 1 and stored.ndim != 1):
        return None
    real: np.ndarray = (stored.astype(np.float64) - zero.astype(np.float64)) * scale
    return real


_BIASED: Final = CONVOLUTIONS | BY_STATISTICS | computing("gemm add subtract")


# --- activations ------------------------------------------------------------------------------

#: Of one input, and not in proportion to it.
_CURVED: Final = (
    ACTIVATIONS | operators(lambda row: row.family == "function") | computing("power")
) - computing("relu thresholded_relu leaky_relu prelu absolute negative")


def _activation(node: ir.Node, y: str, pictured: set[ir.Value]) -> Offset | None:
    """The offset of an activation, from its input or output at run time."""
    word = computes(node.op_type)
    if word in ("multiply", "divide") and all(x in pictured for x in node.inputs):
        # Both vary (a swish, a gate): in J·x the product counts twice, the quotient not at all.
        sign = np.float32(-1 if word == "multiply" else 1)
        return Offset(y, (y,), lambda values: sign * values[y])
    # What a quantiser and its dequantiser add: the rounding, and the whole value where the range saturates.
    before = node.inputs[0].producer() if word == "dequantize" and node.inputs[0] is not None else None
    pair = before is not None and computes(before.op_type) == "quantize"
    if not pair and (node.op_type not in _CURVED or table.is_zero(node.op_type, node.domain)):
        return None
    chain = [before, node] if before is not None else [node]
    # A Clip of what was clipped is the same: so it needs no value that is not there anyway.
    start = node.outputs[0] if word == "clip" else chain[0].inputs[0]
    others = [x for one in chain for x in one.inputs[1:] if x is not None]
    if start is None or start.name is None or start.shape is None or chain[0].inputs[0] not in pictured:
        return None
    if any(value_of(x) is None for x in others):
        return None
    return Offset(y, (start.name,), lambda values: values[f"{y}.offset"], tuple(chain))


def curves(found: Sequence[Offset]) -> ir.Model:
    """What activations add to their slopes' share, h(x) − x·h'(x), as a graph: from `<layer>.x` to `<layer>.offset`.

    The slopes are those of the engine's own rules.
    """
    first = found[0].chain[0].graph
    assert first is not None
    graph = ir.Graph([], [], nodes=[], opset_imports=dict(first.opset_imports), name="offsets")
    tape = Tape(graph)
    xs, ys = [], []
    for one in found:
        rank = len(one.chain[0].outputs[0].shape or ())
        y = x = tape.input(f"{one.layer}.x", ir.DataType.FLOAT, [None] * rank)
        for node in one.chain:
            others = [None if still is None else np.asarray(value_of(still)) for still in node.inputs[1:]]
            others = [
                one.astype(np.float32) if one is not None and one.dtype.kind == "f" else one for one in others
            ]
            options = {name: attribute.value for name, attribute in node.attributes.items()}
            y = tape.add(node.op_type, y, *others, **options)
        xs.append(x)
        ys.append(y)
    ones = {y: tape.Expand(1.0, tape.Shape(y)) for y in ys}
    for one, x, y, slope in zip(found, xs, ys, differentiate(tape, ones, xs, table.VJP_RULES), strict=True):
        tape.output(tape.Sub(y, tape.Mul(x, slope)), f"{one.layer}.offset")
    return ir.Model(graph, ir_version=10)
