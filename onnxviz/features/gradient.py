"""The gradient model: a network that also computes its vector–Jacobian product, in standard operators."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxviz.blame import judged, opened
from onnxviz.limits import Limits

if TYPE_CHECKING:
    import onnx


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
    from onnxviz.catalogue import resolve
    from onnxviz.grad.model import gradient_model as build
    from onnxviz.grad.overrides import by_name
    from onnxviz.graph.load import load

    table = by_name(rules)
    source = resolve(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else model
    graph = load(source, limits=limits or Limits()).model
    if feeds:
        from onnxviz.opening import fed

        graph = fed(graph, feeds, input, limits=limits)
    with judged(functools.partial(opened, graph)):
        return build(graph, of, wrt or input, table)
