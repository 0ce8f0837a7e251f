"""ONNX models made of a network: its values as outputs, or its gradient, in standard operators."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxviz.errors import judged, renamed
from onnxviz.graph.open.load import load
from onnxviz.limits import Limits

if TYPE_CHECKING:
    import onnx


@renamed
def expose(
    model: str | os.PathLike[str] | bytes | Any,
    layers: str | Sequence[str] | None = None,
    *,
    limits: Limits | None = None,
) -> onnx.ModelProto:
    """The model with these (or all) intermediate float values as outputs, behind the ones it has.

    model    a path, a catalogue name, bytes, a ModelProto or an ir.Model
    layers   names of values, nodes or modules; None: all. Of a quantised file the real values, under the layers' names
    raises   ModelRejected, UnknownLayer
    """
    proto: onnx.ModelProto = ir.serde.serialize_model(exposed(model, layers, limits=limits))
    return proto


def exposed(model: Any, layers: str | Sequence[str] | None = None, *, limits: Limits | None = None) -> Any:
    """As `expose`, but an ir.Model, which may be larger than one file can hold."""
    from onnxviz.graph.dequantised import drop_unread
    from onnxviz.graph.fold import decided
    from onnxviz.graph.layers import layers as layers_of
    from onnxviz.graph.layers import resolve as find
    from onnxviz.graph.surgery import expose as add_outputs

    graph = decided(_opened(model, limits))
    known = () if layers is None else layers_of(graph)
    wanted = [layers] if isinstance(layers, str) else layers
    exposed = add_outputs(graph, None if wanted is None else [find(known, name).name for name in wanted])
    drop_unread(exposed)
    return exposed


def _opened(model: Any, limits: Limits | None) -> ir.Model:
    from onnxviz.catalogue import resolve

    source = resolve(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else model
    return load(source, limits=limits or Limits()).model


def gradient_model(
    model: str | os.PathLike[str] | bytes | Any,
    *,
    of: str | None = None,
    wrt: str | None = None,
    rules: str = "plain",
    input: str | None = None,
    feeds: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> onnx.ModelProto:
    """The model with one more input, `<of>.cotangent`, and one more output, `<wrt>.gradient`.

    Every operator that is added is of the standard domain, so the file runs wherever the model runs: stock ONNX
    Runtime on any provider, other languages, a browser. The original outputs are kept, a dynamic batch stays dynamic.

    model    a path, a catalogue name, bytes, a ModelProto or an ir.Model
    of       the output (or any other float value) to differentiate; None: the only float output
    wrt      the input (or any other float value) to differentiate by; None: the only float input
    rules    'plain', or a variant of backpropagation: 'guided', 'deconvnet', 'redirected'
    input    the image input's name, where there are several inputs; what `wrt` is unless that is given
    feeds    values for other inputs, which become constants of the file, see `onnxviz.load`
    raises   UsageError, ModelRejected, UnknownLayer, ModelUnsuitable, UnsupportedOperator (naming operator, node
             and layer)
    """
    proto: onnx.ModelProto = ir.serde.serialize_model(
        gradient_graph(model, of=of, wrt=wrt, rules=rules, input=input, feeds=feeds, limits=limits)
    )
    return proto


def gradient_graph(
    model: Any,
    *,
    of: str | None = None,
    wrt: str | None = None,
    rules: str = "plain",
    input: str | None = None,
    feeds: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> ir.Model:
    """As `gradient_model`, but an ir.Model, which may be larger than one file can hold."""
    from onnxviz.grad.model import gradient_model as build
    from onnxviz.grad.model import rules_named

    table = rules_named(rules)
    graph = _opened(model, limits)
    if feeds:
        from onnxviz.opening import fed

        graph = fed(graph, feeds, input, limits=limits)
    with judged(functools.partial(_run, graph)):
        return build(graph, of, wrt or input, table)


def _run(model: ir.Model) -> None:
    """Open a graph that belongs to no network, and run it on zeros where it says how large its inputs are.

    raises   ModelRejected, ModelFailed, LimitExceeded
    """
    from onnxviz.programs import compile

    program = compile(model, provider="cpu")
    feeds: dict[str, np.ndarray] = {}
    for value in model.graph.inputs:
        if value.name not in program.inputs:
            continue
        if value.shape is None or value.dtype is None:
            return
        sizes = [1 if axis == 0 and not isinstance(d, int) else d for axis, d in enumerate(value.shape)]
        shape = tuple(d for d in sizes if isinstance(d, int))
        if len(shape) < len(sizes):
            return  # at a size that was not meant, even a sound network fails
        feeds[str(value.name)] = np.zeros(shape, value.dtype.numpy())
    program(feeds)
