"""Where a model's weights come from: its own file, files beside it, or memory; and how they become IR tensors.

`Weights.collect` visits every tensor of the parsed message once. It checks type, shape and size, opens external
data through `graph.open.confine`, and leaves a mark in the message; `Weights.restore` puts IR tensors in the marks'
place after the message has become an `ir.Model`. Nothing else ever sees a path, and nobody else opens one.
An ir.Model that was given as it is is taken apart into a message and tensors first (`take`), as a file is: it passes
the same checks, and external data that it names is opened in the same confined way.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.errors import ModelRejected
from onnxviz.graph.open import signatures, tensors
from onnxviz.graph.open.confine import DataFile, Folder
from onnxviz.graph.open.protobuf_scan import LEAST_BLOCK, Block, Tokens
from onnxviz.graph.open.tensors import PACKED_BELOW, READ_UP_TO, Elements
from onnxviz.limits import Limits
from onnxviz.text import quoted

#: What `Weights.small` gives: shapes, axes, scales, numbers of trips.
SMALL: Final = 1024
_SMALL_FILE: Final = 2**23
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_TYPED_FIELDS: Final = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


class Weights:
    """The weights of one model while it is being loaded.

    files      the locations of external data that were opened
    warnings   what was changed on the way
    """

    def __init__(
        self,
        buffer: bytes | memoryview | DataFile,
        blocks: Sequence[Block | ir.TensorProtocol],
        tokens: Tokens,
        folder: Folder | None,
        limits: Limits,
    ) -> None:
        self.files: list[str] = []
        self.warnings: list[str] = []
        self._buffer = buffer
        self._blocks = blocks
        self._tokens = tokens
        self._folder = folder
        self._limits = limits
        self._marks = Tokens()
        self._found: list[Elements | ir.TensorProtocol] = []
        self._open: dict[str, memoryview | DataFile] = {}
        self._count = 0
        self.elements = 0
        self.bytes = 0

    # --- out of the message ---------------------------------------------------------------------

    def collect(self, model: onnx.ModelProto) -> None:
        """Check every tensor of `model` and put a mark in its place; sparse tensors become dense ones.

        raises   ModelRejected, LimitExceeded
        """
        for place, what in signatures.places(model):
            self._densify(place, what)
            for proto, name in signatures.tensors(place, what):
                if self._marks.index(proto.raw_data if len(proto.raw_data) < LEAST_BLOCK else b"") is None:
                    self._take(proto, name)

    def _take(self, proto: onnx.TensorProto, what: str) -> Elements | ir.TensorProtocol:
        """Check one tensor and leave a mark in it, unless it is small."""
        dtype = tensors.data_type(proto, what)
        shape = tuple(proto.dims)
        elements = tensors.check_dims(list(shape), what, self._limits)
        self._add(elements, 0 if dtype == ir.DataType.STRING else tensors.byte_size(dtype, elements))
        found: Elements | ir.TensorProtocol
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            found = self._external(proto, dtype, shape, elements, what)
        elif (block := self._tokens.index(proto.raw_data)) is not None:
            held = self._blocks[block]
            found = self._block(held, dtype, shape, elements, what) if isinstance(held, Block) else held
        else:
            tensors.check_inline(proto, dtype, elements, what)
            found = ir.serde.deserialize_tensor(proto)
            if not isinstance(found, ir.StringTensor):
                found = ir.Tensor(found.numpy(), dtype=dtype, shape=ir.Shape(shape), name=proto.name or None)
        if isinstance(found, ir.StringTensor):
            return found
        for field in (*_TYPED_FIELDS, "external_data", "data_location"):
            proto.ClearField(field)
        proto.raw_data = self._marks.make(len(self._found))
        self._found.append(found)
        return found

    def _add(self, elements: int, size: int) -> None:
        self._count += 1
        self.elements += elements
        self.bytes += size
        for limit, count, words in (
            ("tensors", self._count, "model has {} weight tensors"),
            ("total_elements", self.elements, "model's weights have {} elements"),
            ("weight_bytes", self.bytes, "model's weights take {} bytes"),
        ):
            self._limits.check(limit, count, f"the {words.format(count)} or more", counting=True)

    def _block(
        self, block: Block, dtype: ir.DataType, shape: tuple[int, ...], elements: int, what: str
    ) -> Elements:
        _no_text(dtype, "raw", what)
        tensors.check_bytes(block.length, dtype, elements, what)
        return Elements(self._buffer, block.start, block.length, dtype, shape)

    # --- external data --------------------------------------------------------------------------

    def _external(
        self, proto: onnx.TensorProto, dtype: ir.DataType, shape: tuple[int, ...], elements: int, what: str
    ) -> Elements:
        _no_text(dtype, "external", what)
        if proto.HasField("raw_data") or any(len(getattr(proto, field)) for field in _TYPED_FIELDS):
            raise ModelRejected(f"{what} has its elements twice, in the model file and as external data")
        entries: dict[str, str] = {}
        for entry in proto.external_data:
            if entry.key in entries:
                raise ModelRejected(
                    f"{what} names its external {quoted(entry.key)} twice; which one is meant is unknown"
                )
            entries[entry.key] = entry.value
        if "location" not in entries:
            raise ModelRejected(f"{what} is external data without a location")
        offset = _whole(entries.get("offset", "0"), "offset", what)
        size = tensors.byte_size(dtype, elements)
        length = _whole(entries.get("length", str(size)), "length", what)
        tensors.check_bytes(length, dtype, elements, what)
        buffer = self._file(entries["location"], size, what)
        if offset + length > len(buffer):
            raise ModelRejected(
                f"{what} is {length} bytes at {offset} of the weights file {quoted(entries['location'])}, "
                f"which has only {len(buffer)}; was it fully downloaded?"
            )
        return Elements(buffer, offset, length, dtype, shape)

    def _file(self, location: str, size: int, what: str) -> memoryview | DataFile:
        if location not in self._open:
            if self._folder is None:
                raise ModelRejected(
                    f"{what} lies in another file, {quoted(location)}, and a model given as bytes or as a parsed "
                    "message has no folder to look in; give the path of the .onnx file"
                )
            file = self._folder.open(location)
            # Some tools write one file a weight: those that are no larger than it are read and closed at once, or a
            # network of a thousand weights would take more descriptors than a process may have.
            whole = file.size <= min(size, _SMALL_FILE)
            self._open[location] = file.read(0, file.size).data if whole else file
            self.files.append(location)
        return self._open[location]

    # --- sparse tensors -------------------------------------------------------------------------

    def _densify(self, place: onnx.GraphProto | onnx.AttributeProto, what: str) -> None:
        if isinstance(place, onnx.GraphProto):
            for sparse in place.sparse_initializer:
                name = sparse.values.name
                self._write_out(sparse, place.initializer.add(name=name), f"the sparse weight {quoted(name)}")
            place.ClearField("sparse_initializer")
        elif place.type == onnx.AttributeProto.SPARSE_TENSOR and place.name == "sparse_value":
            self._write_out(place.sparse_tensor, place.t, what)
            place.ClearField("sparse_tensor")
            place.name, place.type = "value", onnx.AttributeProto.TENSOR
        elif place.type in (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS):
            raise ModelRejected(f"{what} is sparse; only weights and Constant nodes may be")

    def _write_out(self, sparse: onnx.SparseTensorProto, proto: onnx.TensorProto, what: str) -> None:
        """Fill `proto` with the dense form of `sparse`."""
        dtype = tensors.data_type(sparse.values, what)
        if dtype == ir.DataType.STRING or dtype.bitwidth < PACKED_BELOW:
            raise ModelRejected(f"{what} is sparse and of the type {dtype.name}, which is not supported")
        elements = tensors.check_dims(list(sparse.dims), what, self._limits)
        self._add(elements, tensors.byte_size(dtype, elements))
        values, indices = (
            _now(self._take(part, f"{which} of {what}"))
            for part, which in ((sparse.values, "the values"), (sparse.indices, "the indices"))
        )
        full = tensors.dense(sparse, values, indices, what)
        proto.dims.extend(full.shape)
        proto.data_type = dtype.value
        proto.raw_data = self._marks.make(len(self._found))
        self._found.append(ir.Tensor(full, dtype=dtype, name=proto.name or None))
        self.warnings.append(f"{what} is sparse; it was written out to its {elements} elements")

    # --- for the checks -------------------------------------------------------------------------

    def small(self, proto: onnx.TensorProto) -> np.ndarray | None:
        """The elements of a collected tensor that has few of them and no text; None for others."""
        index = self._marks.index(proto.raw_data)
        if index is None or math.prod(proto.dims) > SMALL:
            return None
        return _now(self._found[index])

    # --- into the model -------------------------------------------------------------------------

    def restore(self, model: ir.Model) -> None:
        """Put the tensors in the place of their marks."""
        replaced(model, self._marked)

    def _marked(self, tensor: ir.TensorProtocol | None, name: str | None) -> ir.TensorProtocol | None:
        if not isinstance(tensor, ir.serde.TensorProtoTensor):
            return None
        index = self._marks.index(tensor.raw.raw_data)
        if index is None:
            return None
        found = self._found[index]
        return found.tensor(name, large=self.bytes > READ_UP_TO) if isinstance(found, Elements) else found


def _no_text(dtype: ir.DataType, where: str, what: str) -> None:
    if dtype == ir.DataType.STRING:
        raise ModelRejected(f"{what} holds text as {where} data, which ONNX does not allow")


def _now(found: Elements | ir.TensorProtocol) -> np.ndarray:
    return found.now() if isinstance(found, Elements) else found.numpy()


def graphs(model: ir.Model) -> list[ir.Graph]:
    """Every graph of the model: the main one, subgraphs, and those of functions."""
    bodies = [model.graph, *(function.graph for function in model.functions.values())]
    return [graph for body in bodies for graph in (body, *body.subgraphs())]


def replaced(
    model: ir.Model, change: Callable[[ir.TensorProtocol | None, str | None], ir.TensorProtocol | None]
) -> None:
    """Put what `change` makes of a tensor and its name in the place of every tensor that it makes something of."""
    for graph in graphs(model):
        for value in graph.initializers.values():
            if (tensor := change(value.const_value, value.name)) is not None:
                # What the file claims about the value elsewhere may differ; the weight itself is right.
                value.const_value, value.shape = tensor, ir.Shape(tensor.shape.numpy())
                value.type = ir.TensorType(tensor.dtype)
    holders = [node.attributes for graph in graphs(model) for node in graph]
    for attributes in (*holders, *(function.attributes for function in model.functions.values())):
        for name, attribute in list(attributes.items()):
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                if (tensor := change(attribute.value, attribute.value.name)) is not None:
                    attributes[name] = ir.AttrTensor(name, tensor)
            elif attribute.type == ir.AttributeType.TENSORS:
                several = [change(each, each.name) or each for each in attribute.value]
                attributes[name] = ir.AttrTensors(name, several)


def _whole(text: str, key: str, what: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ModelRejected(
            f"{what} has the external {key} {quoted(text)}; a whole number of bytes was expected"
        )
    return int(text)


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

    def placed(tensor: ir.TensorProtocol | None, name: str | None) -> ir.TensorProtocol | None:
        if tensor is None:
            raise ModelRejected(f"the weight {name!r} of the given ir.Model has no value")
        if isinstance(tensor, ir.ExternalTensor):
            folders.add(os.fspath(tensor.base_dir) or os.curdir)
            return None
        if tensor.dtype == ir.DataType.STRING:
            return None
        if isinstance(tensor, ir.serde.TensorProtoTensor):
            # It copies its elements out of the message at each use; one copy is enough.
            tensor = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
        held.append(tensor)
        elements = ir.Tensor(np.frombuffer(tokens.make(len(held) - 1), np.uint8))  # stands for its own
        return ir.LazyTensor(lambda: elements, tensor.dtype, ir.Shape(tensor.shape.numpy()), name=tensor.name)

    copy = model.clone()
    replaced(copy, placed)
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


# --- odd values: NaN and infinities ---------------------------------------------------------------

# Elements looked at in one go: little memory beside mapped weights, and still at the speed of memory.
_CHUNK = 1 << 20
_NAMED = 3  # weights that a message or a manifest names
# The bits of the exponent, all of which are set in NaN and infinities: NumPy takes 15 times as long to look at halves.
_EXPONENT = {ir.DataType.FLOAT16: 0x7C00, ir.DataType.BFLOAT16: 0x7F80}


def odd(model: ir.Model) -> list[str]:
    """One line a weight or constant that holds NaN or infinities; [] for a sound model."""
    found = []
    for graph in graphs(model):
        for value in graph.initializers.values():
            found += _odd(value.const_value, "the weight", value)
        for node in graph:
            for attribute in node.attributes.values():
                if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
                    found += _odd(attribute.value, "the constant", node.outputs[0])
    return found


def told(findings: list[str]) -> Iterable[str]:
    """What is said of weights that hold NaN or infinities (see `odd`)."""
    for text in findings[:_NAMED]:
        yield f"{text}: what is computed from them says nothing, also where it comes out finite"
    if len(findings) > _NAMED:
        yield f"{len(findings) - _NAMED} weights more hold NaN or infinities; `onnxviz inspect MODEL` lists them"


def _odd(tensor: ir.TensorProtocol | None, what: str, value: ir.Value) -> list[str]:
    told = "" if tensor is None else not_finite(tensor)
    return [f"{what} {quoted(value.name)} holds {told}"] if told else []


def not_finite(tensor: ir.TensorProtocol, bounds: bool = True) -> str:
    """'3 NaN and 1 infinite among its 12 elements'; '' where all are numbers.

    bounds   whether infinities may be meant, as the bound of a Clip or a mask
    """
    if not tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < PACKED_BELOW:
        return ""
    flat = tensor.numpy().reshape(-1)
    nan = infinite = 0
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        if not _finite(chunk, tensor.dtype):
            nans = int(np.count_nonzero(np.isnan(chunk)))
            nan += nans
            infinite += int(np.count_nonzero(~np.isfinite(chunk))) - nans
    if not nan and (not infinite or (bounds and _meant(flat))):
        return ""
    counts = " and ".join(
        f"{count} {name}" for count, name in ((nan, "NaN"), (infinite, "infinite")) if count
    )
    return f"{counts} among its {flat.size} elements"


def _finite(chunk: np.ndarray, dtype: ir.DataType) -> bool:
    exponent = _EXPONENT.get(dtype)
    if exponent is None or chunk.dtype.itemsize != 2:
        return bool(np.isfinite(chunk).all())
    return bool((chunk.view(np.uint16) & 0x7FFF).max() < exponent)


def _meant(flat: np.ndarray) -> bool:
    """Whether infinities are the bound of a Clip or a mask, where all that is finite is one number."""
    rest = flat[np.isfinite(flat)]
    return bool((rest == rest[:1]).all())
