"""From a graph to a program: named, measured, parted from its large weights, in this process or an isolated network's;
and how many pictures go through it at once, and whether it keeps them apart.

What a graph means is concluded here, once, before ONNX Runtime gets it; `runtime` runs what it is given.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir
import psutil

from onnxviz.errors import LimitExceeded, ModelRejected, RuntimeFailed
from onnxviz.graph.analysis.dataflow import follows_values
from onnxviz.graph.naming import name_nodes
from onnxviz.graph.operators import computes
from onnxviz.runtime import endings
from onnxviz.runtime.ort import Graph, Program, session

if TYPE_CHECKING:
    from onnxviz.runtime.worker import Worker

# Weights from this size on are handed to ONNX Runtime beside the graph: no second copy is serialised, files over
# 2 GB work, and ONNX Runtime never opens a file that a model names.
_INLINE_BYTES: Final = 1024
_NUMPY_TYPES: Final = frozenset(
    ir.DataType[f"{sign}INT{bits}"] for sign in ("", "U") for bits in (8, 16, 32, 64)
) | {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BOOL}


def compile(
    model: ir.Model,
    *,
    provider: str = "auto",
    threads: int | None = None,
    spin: bool = True,
    seconds: float | None = None,
    prepack: bool = True,
    optimise: bool = True,
    whole_sums: bool = False,
    worker: Worker | None = None,
    small: bool = False,
    own: Collection[str] | None = None,
    steps: bool = False,
) -> Program:
    """Make `model` runnable.

    provider   'auto', 'cpu', 'cuda' or any name that ONNX Runtime knows
    threads    threads within an operator; None leaves it to ONNX Runtime
    spin       whether idle threads wait busily (fastest alone) or sleep (kinder beside decoding threads)
    seconds    the longest that one run may take; None: any time
    prepack    whether ONNX Runtime may keep copies of matrices in the order that large products read them in
    optimise   whether ONNX Runtime may rewrite the graph; it changes the numbers of quantised files
    whole_sums  whether no sums of products of 8-bit codes may be cut, as processors without VNNI do; slower there
    worker     the child process to run in; None: this process
    small      whether the sizes that the graph fixes may be too small for it: they are not those of the file
    own        the names of the nodes and values that are the network's own, whose failures are not ours; None: all
    steps      whether it is run again and again on values of one size, and may be captured (runtime/capture.py)
    raises     ProviderUnavailable, ModelRejected, LimitExceeded, WorkerCrashed; ImageRejected for such sizes
    """
    settings: dict[str, Any] = {
        "provider": provider,
        "threads": threads,
        "spin": spin,
        "seconds": seconds,
        "prepack": prepack,
        "optimise": optimise,
        "whole_sums": whole_sums,
        "places": endings.places(model.graph, own),
        "steps": steps,
    }
    graph = _parted(model)
    if small and not graph.open:  # no run will have another size
        from onnxviz.graph.open.admission import Admission

        Admission(graph.message).check({})
    try:
        if worker is not None:
            from onnxviz.runtime.remote import RemoteProgram

            return RemoteProgram(worker, graph, settings)
        return here(graph, **settings)
    except ModelRejected as error:
        if small and not graph.open and endings.of_lengths(str(error)):
            raise endings.other_size(str(error)) from error
        raise


def here(graph: Graph, **settings: Any) -> Program:
    """The graph on ONNX Runtime in this process, which refuses sizes at which something in it is empty.

    settings   see `runtime.ort.session`
    """
    if not graph.open:
        return session(graph, None, **settings)
    from onnxviz.graph.open.admission import Admission

    return session(graph, Admission(graph.message).check, **settings)


def _parted(model: ir.Model) -> Graph:
    """The graph's bytes without its large weights, and those weights by name."""
    weights: dict[str, np.ndarray] = {}
    thin = model.clone()
    thin.metadata_props.clear()
    name_nodes(thin.graph)  # so that each error names one
    for name, value in list(thin.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            # ONNX Runtime drops it before it looks for the weights that it is handed.
            del thin.graph.initializers[name]
            continue
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _INLINE_BYTES or tensor.dtype not in _NUMPY_TYPES:
            continue
        weights[name] = np.ascontiguousarray(tensor.numpy())
        value.const_value = ir.ExternalTensor(
            "beside", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(weights[name].shape), name=name
        )
    message = ir.serde.serialize_model(thin).SerializeToString()
    dense = set(weights)  # read by products alone
    for node in thin.graph.all_nodes():
        if computes(node.op_type) != "gemm":
            for weight in node.inputs:
                dense.discard("" if weight is None else weight.name or "")
    return Graph(
        message, weights, any(map(_open, model.graph.inputs)), follows_values(thin), frozenset(dense)
    )


def _open(value: ir.Value) -> bool:
    return value.shape is None or any(not isinstance(size, int) for size in value.shape[1:])


# --- how many images go through at once ---------------------------------------------------------------

# Milliseconds an image on two cores, EfficientNet-Lite0: 7.3 one at a time, 5.9 by 2, 6.5 by 4, 7.1 by 32. Beyond a
# few images the activations leave the processor's cache. An accelerator needs many to be busy.
LARGEST_ON_CPU = 4
LARGEST_ON_DEVICE = 32
# A gradient keeps all activations for the way back. Milliseconds of CPU time a picture, with 1, 2, 4 and 8 at once:
# SqueezeNet 22.0, 23.3, 25.8, 28.5; EfficientNet-Lite0 27.8, 29.8, 33.0, 33.2; ResNet-50 173, 176, 181, 181.
GRADIENTS_ON_CPU = 1
# A network's live activations are a part of all of them; ONNX Runtime's arena keeps freed ones for reuse.
_SHARE_OF_MEMORY = 0.25
_BYTES = 4  # of a number


def batch_size(elements_an_image: int, largest: int) -> int:
    """The largest power of two that fits a quarter of the free memory, from 1 to `largest`.

    elements_an_image   the sum of all activations of one image
    largest             LARGEST_ON_CPU or LARGEST_ON_DEVICE
    """
    free = psutil.virtual_memory().available * _SHARE_OF_MEMORY
    fit = free / max(1, elements_an_image * _BYTES)
    return int(min(largest, 2 ** max(0, math.floor(math.log2(max(1.0, fit))))))


def elements(shapes: Iterable[tuple[int | str, ...]]) -> int:
    """The elements of all shapes for one image; what is dynamic counts once."""
    return sum(math.prod(size for size in shape if isinstance(size, int)) for shape in shapes)


def filled(array: np.ndarray, count: int) -> np.ndarray:
    """An array with its last entry repeated up to `count`: for files that take no other number; cut the results off."""
    short = count - len(array)
    return np.concatenate([array, np.repeat(array[-1:], short, axis=0)]) if short > 0 else array


def cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


# --- trying out whether a program gives each image beside others what it gives alone --------------


# Sums in another order, for another number of images, differ by 1e-5 of the largest value; by 2e-3 in half precision.
_EQUAL, _EQUAL_HALF = 1e-3, 1e-2


def difference(program: Program, x: np.ndarray, count: int, *, alone: int, half: bool = False) -> str | None:
    """How the two images of `x` differ beside each other from alone; None where every output agrees.

    x        (2, ...) the network's input
    count    images of the run in which they stand beside each other
    alone    images of the run in which one stands alone: copies of it, where the file fixes its batch
    half     whether it computes in half precision
    returns  what was found, in words
    """
    (name,) = program.inputs
    try:
        single = [program({name: filled(x[i : i + 1], alone)}) for i in (0, 1)]
    except (RuntimeFailed, LimitExceeded):  # whoever runs it will say so
        return None
    try:
        both = program({name: filled(x, count)})
    except (RuntimeFailed, LimitExceeded) as error:
        return f"a batch of {count} fails ({str(error)[:120]})"
    for output in program.outputs:
        joined, parts = both[output], [one[output] for one in single]
        axis = _batch_axis(joined.shape, parts[0].shape, count, alone)
        if axis is None or parts[1].shape != parts[0].shape:
            return f"its output {output!r} does not have an entry for each image"
        if joined.dtype.kind != "f":
            continue
        for i, part in enumerate(parts):
            there, here = np.take(joined, i, axis), np.take(part, 0, axis)
            scale = max(float(np.abs(here).max(initial=0)), 1e-12)
            off = float(np.abs(there.astype(np.float64) - here).max(initial=0)) / scale
            if not off <= (_EQUAL_HALF if half else _EQUAL) and np.isfinite(here).all():
                return f"its output {output!r} was {off:.2g} of its largest value away beside another image"
    return None


def _batch_axis(joined: tuple[int, ...], part: tuple[int, ...], count: int, alone: int) -> int | None:
    if len(joined) != len(part):
        return None
    if count == alone:
        return next((i for i, size in enumerate(part) if size == count), None)
    axes = [i for i, (a, b) in enumerate(zip(joined, part, strict=True)) if a != b]
    return axes[0] if len(axes) == 1 and (joined[axes[0]], part[axes[0]]) == (count, alone) else None
