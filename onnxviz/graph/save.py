"""A model as a file: whole or not at all, with its weights beside it where they exceed what one file may hold."""

from __future__ import annotations

import os
from pathlib import Path

import onnx_ir as ir

from onnxviz.file_set import FileSet
from onnxviz.files import write_atomic

# A protobuf message ends at 2 GiB; below 1.5 GiB of weights the rest always fits.
_ONE_FILE_BYTES = 3 << 29


def save(model: ir.Model, path: str | os.PathLike[str], *, one_file_bytes: int = _ONE_FILE_BYTES) -> Path:
    """Write `model` to `path`; over `one_file_bytes` of weights, these go to `path`.data.

    raises   OutputRefused
    """
    target = Path(path)
    weights = sum(
        v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None
    )
    if weights <= one_file_bytes:
        return write_atomic(target, ir.serde.serialize_model(model).SerializeToString())
    return _save_apart(model.clone(), target)


def _save_apart(model: ir.Model, target: Path) -> Path:
    """Weights and the graph that names them as one set: there is no graph while the weights are of another."""
    data = target.with_name(target.name + ".data")
    tensors = []
    offset = 0
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype == ir.DataType.STRING:
            continue
        tensors.append(tensor)
        value.const_value = ir.ExternalTensor(
            data.name, offset, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.numpy().shape), name=name
        )
        offset += tensor.nbytes
    with FileSet(target) as files:
        files.add(data, (tensor.tobytes() for tensor in tensors))
        return files.finish(ir.serde.serialize_model(model).SerializeToString())
