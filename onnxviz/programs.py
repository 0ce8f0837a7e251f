"""From a graph to a program: named, measured, parted from its large weights, in this process or an isolated network's.

What a graph means is concluded here, once, before ONNX Runtime gets it; `runtime` runs what it is given.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelRejected
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
