"""An ir.Model that was given as it is, taken apart into a message and tensors, as a file is.

So it passes the same checks, and external data that it names is opened by the same confined way.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelRejected
from onnxviz.graph.confine import Folder
from onnxviz.graph.weights import graphs
from onnxviz.graph.wire import Tokens


@dataclass(frozen=True)
class Taken:
    """A model in parts: its message, the tensors that the tokens in it stand for, the folder of its external data."""

    message: bytes
    tensors: list[ir.TensorProtocol]
    tokens: Tokens
    folder: Folder | None
    digest: Callable[[], str]


def take(model: ir.Model) -> Taken:
    """Take a copy of `model` apart.

    raises   ModelRejected when its external data lies in several folders
    """
    tokens = Tokens()
    held: list[ir.TensorProtocol] = []
    folders: set[str] = set()

    def placed(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if isinstance(tensor, ir.ExternalTensor):
            folders.add(os.fspath(tensor.base_dir) or os.curdir)
            return tensor
        if tensor.dtype == ir.DataType.STRING:
            return tensor
        if isinstance(tensor, ir.serde.TensorProtoTensor):
            # It copies its elements out of the message at each use; one copy is enough.
            tensor = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
        held.append(tensor)
        return _placeholder(tensor, tokens.make(len(held) - 1))

    copy = model.clone()
    for graph in graphs(copy):
        for value in graph.initializers.values():
            if value.const_value is None:
                raise ModelRejected(f"the weight {value.name!r} of the given ir.Model has no value")
            value.const_value = placed(value.const_value)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    node.attributes[name] = ir.AttrTensor(name, placed(attribute.value))
                elif attribute.type == ir.AttributeType.TENSORS:
                    node.attributes[name] = ir.AttrTensors(name, [placed(each) for each in attribute.value])
    if len(folders) > 1:
        raise ModelRejected(
            f"the external data of the given ir.Model lies in {len(folders)} folders; one was expected"
        )
    message = ir.serde.serialize_model(copy).SerializeToString(deterministic=True)

    def digest() -> str:
        state = hashlib.sha256(tokens.removed(message))
        for tensor in held:
            state.update(tensor.tobytes())
        return state.hexdigest()

    return Taken(message, held, tokens, Folder(Path(folders.pop())) if folders else None, digest)


def _placeholder(tensor: ir.TensorProtocol, token: bytes) -> ir.TensorProtocol:
    """Has type and shape of a tensor, and a token for its elements."""
    elements = ir.Tensor(np.frombuffer(token, np.uint8))
    return ir.LazyTensor(lambda: elements, tensor.dtype, ir.Shape(tensor.shape.numpy()), name=tensor.name)
