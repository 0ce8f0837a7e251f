"""A model whose intermediate values are outputs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnxviz.graph.load import load
from onnxviz.limits import Limits

if TYPE_CHECKING:
    import onnx


def expose(
    model: str | os.PathLike[str] | bytes | Any,
    layers: Sequence[str] | None = None,
    *,
    limits: Limits | None = None,
) -> onnx.ModelProto:
    """The model with these (or all) intermediate float values as outputs, behind the ones it has.

    model    a path, a catalogue name, bytes, a ModelProto or an ir.Model
    layers   names of values, nodes or modules; None: all. Of a quantised file the real values, under the layers' names
    raises   ModelRejected, UnknownLayer
    """
    return _proto(exposed(model, layers, limits=limits))


def exposed(model: Any, layers: Sequence[str] | None = None, *, limits: Limits | None = None) -> Any:
    """As `expose`, but an ir.Model, which may be larger than one file can hold."""
    from onnxviz.catalogue import resolve
    from onnxviz.graph.dequantised import drop_unread
    from onnxviz.graph.expose import expose as add_outputs
    from onnxviz.graph.fold import decided
    from onnxviz.graph.layers import layers as layers_of
    from onnxviz.graph.layers import resolve as find

    source = resolve(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else model
    graph = decided(load(source, limits=limits or Limits()).model)
    known = () if layers is None else layers_of(graph)
    exposed = add_outputs(graph, None if layers is None else [find(known, name).name for name in layers])
    drop_unread(exposed)
    return exposed


def _proto(model: Any) -> onnx.ModelProto:
    import onnx_ir as ir

    proto: onnx.ModelProto = ir.serde.serialize_model(model)
    return proto
