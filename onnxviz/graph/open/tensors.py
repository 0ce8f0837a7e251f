"""One tensor of a parsed model: held against its type and shape, written out where it is sparse, read where it lies.

Weights of up to 1 GiB in all are read out of their files when they are first used, and kept: they take no time or
memory before, are aligned as kernels like it, and a file that was overwritten meanwhile, as when a notebook exports a
network again, gives a typed error. Larger ones are memory-mapped and paged in when touched, so that they need not
fit into memory; there, cutting the file short while it is in use ends the process, as with any mapped file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.errors import ModelRejected
from onnxviz.graph.open.confine import DataFile
from onnxviz.limits import Limits

# NumPy's limit, less one for a batch axis.
_MAX_RANK: Final = 31
# Which types each typed field may hold. Everything else that is no text lies in int32_data.
_FIELDS: Final[dict[str, frozenset[ir.DataType]]] = {
    "float_data": frozenset({ir.DataType.FLOAT, ir.DataType.COMPLEX64}),
    "double_data": frozenset({ir.DataType.DOUBLE, ir.DataType.COMPLEX128}),
    "int64_data": frozenset({ir.DataType.INT64}),
    "uint64_data": frozenset({ir.DataType.UINT64, ir.DataType.UINT32}),
    "string_data": frozenset({ir.DataType.STRING}),
}
_IN_INT32: Final = frozenset(ir.DataType) - {ir.DataType.UNDEFINED} - frozenset().union(*_FIELDS.values())
_NUMBERS: Final = frozenset(int(kind) for kind in ir.DataType)
_COMPLEX: Final = frozenset({ir.DataType.COMPLEX64, ir.DataType.COMPLEX128})


def check_dims(dims: list[int], what: str, limits: Limits) -> int:
    """The number of elements of a shape.

    raises   ModelRejected for negative sizes, LimitExceeded for too many elements
    """
    if any(size < 0 for size in dims):
        raise ModelRejected(f"{what} has the shape {_short(dims)}; a size cannot be negative")
    if len(dims) > _MAX_RANK:
        raise ModelRejected(f"{what} has {len(dims)} dimensions; at most {_MAX_RANK} were expected")
    # Python's integers do not overflow: 2^32 by 2^32 is not 0 here.
    elements = math.prod(dims)
    largest = max([elements, *dims])  # 0×2^60 has no elements and still no place in memory
    limits.check(
        "tensor_elements", largest, f"{what} has the shape {_short(dims)}, which is {largest} elements"
    )
    return elements


def _short(dims: list[int]) -> str:
    return "×".join(map(str, dims[:8])) + ("…" if len(dims) > 8 else "") or "()"


def data_type(proto: onnx.TensorProto, what: str) -> ir.DataType:
    """The element type of a tensor.

    raises   ModelRejected when there is no such type
    """
    try:
        found = ir.DataType(proto.data_type)
    except ValueError:
        found = ir.DataType.UNDEFINED
    if found == ir.DataType.UNDEFINED:
        raise ModelRejected(f"{what} has the element type {proto.data_type}, which ONNX does not have")
    return found


def check_type(kind: onnx.TypeProto, what: str) -> None:
    """Refuse a declared type that ONNX or the IR does not have; no type at all is allowed.

    raises   ModelRejected
    """
    while kind.HasField("sequence_type") or kind.HasField("optional_type"):
        kind = (
            kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind.optional_type.elem_type
        )
        if kind.WhichOneof("value") is None:
            raise ModelRejected(f"{what} is declared as a list or option of nothing")
    if kind.HasField("map_type"):
        raise ModelRejected(f"{what} is a map, not a tensor; export the model without it")
    for name in ("tensor_type", "sparse_tensor_type"):
        if kind.HasField(name) and getattr(kind, name).elem_type not in _NUMBERS:
            number = getattr(kind, name).elem_type
            raise ModelRejected(
                f"{what} is declared with the element type {number}, which ONNX does not have"
            )


def byte_size(dtype: ir.DataType, elements: int) -> int:
    """The bytes that `elements` of this type take; 4-bit types lie two to a byte."""
    return (dtype.bitwidth * elements + 7) // 8


def check_inline(proto: onnx.TensorProto, dtype: ir.DataType, elements: int, what: str) -> None:
    """Hold the elements in the message against type and shape.

    raises   ModelRejected when there are too many or too few, or in the wrong field
    """
    if proto.HasField("segment"):
        raise ModelRejected(f"{what} is cut into segments, which no ONNX version has used")
    given = [name for name in (*_FIELDS, "int32_data") if len(getattr(proto, name))]
    if proto.HasField("raw_data"):
        given.append("raw_data")
    if len(given) > 1:
        raise ModelRejected(f"{what} has its elements twice, as {' and '.join(given)}")
    if not given:
        if elements:
            raise ModelRejected(f"{what} has no data, {elements} elements were expected")
        return
    name = given[0]
    if name == "raw_data":
        if dtype == ir.DataType.STRING:
            raise ModelRejected(f"{what} holds text as raw data, which ONNX does not allow")
        check_bytes(len(proto.raw_data), dtype, elements, what)
        return
    if dtype not in _FIELDS.get(name, _IN_INT32):
        raise ModelRejected(f"{what} is of the type {dtype.name} and has its elements in {name}")
    # One entry an element; two for a complex number; one a byte of packed 2- and 4-bit elements, but 6-bit
    # elements lie one to an entry.
    expected = elements * 2 if dtype in _COMPLEX else elements
    if name == "int32_data" and dtype.bitwidth in (2, 4):
        expected = byte_size(dtype, elements)
    count = len(getattr(proto, name))
    if count != expected:
        raise ModelRejected(f"{what} has {count} entries in {name}; its shape and type need {expected}")


def check_bytes(given: int, dtype: ir.DataType, elements: int, what: str) -> None:
    """Hold the bytes of raw data against type and shape.

    raises   ModelRejected
    """
    expected = byte_size(dtype, elements)
    if given != expected:
        raise ModelRejected(
            f"{what} has {given} bytes of data; its shape and type ({elements} of {dtype.name}) need {expected}"
        )


def dense(sparse: onnx.SparseTensorProto, values: np.ndarray, indices: np.ndarray, what: str) -> np.ndarray:
    """A sparse tensor written out; ONNX Runtime does the same when it loads one.

    sparse    its dims are checked already
    values    (NNZ,)
    indices   int64, (NNZ,) into the flattened tensor or (NNZ, rank)
    raises    ModelRejected when an index is outside or twice there
    """
    dims = tuple(sparse.dims)
    if (
        values.ndim != 1
        or indices.dtype != np.int64
        or indices.shape not in ((values.size,), (values.size, len(dims)))
    ):
        raise ModelRejected(
            f"{what} has values of shape {values.shape} and indices of shape {indices.shape} and type {indices.dtype}; "
            f"(N,) and int64 of (N,) or (N, {len(dims)}) were expected"
        )
    upper = np.array(dims if indices.ndim == 2 else [math.prod(dims)], dtype=np.int64)
    if np.any(indices < 0) or np.any(indices >= (upper if indices.ndim == 2 else upper[0])):
        raise ModelRejected(f"{what} has an index outside its shape {_short(list(dims))}")
    flat = np.ravel_multi_index(tuple(indices.T), dims) if indices.ndim == 2 and dims else indices.reshape(-1)
    if len(np.unique(flat)) != len(flat):
        raise ModelRejected(f"{what} has an index twice")
    full = np.zeros(math.prod(dims), dtype=values.dtype)
    full[flat] = values
    return full.reshape(dims)


#: Weights of up to so many bytes in all are read into memory, larger ones are mapped.
READ_UP_TO: Final = 2**30
#: Elements of fewer bits lie several to a byte.
PACKED_BELOW: Final = 8


@dataclass(frozen=True)
class Elements:
    """`length` bytes of `source` from `start` on, checked to be a tensor of this type and shape."""

    source: bytes | memoryview | DataFile
    start: int
    length: int
    dtype: ir.DataType
    shape: tuple[int, ...]

    def tensor(self, name: str | None, *, large: bool) -> ir.TensorProtocol:
        """The tensor, aligned and read-only.

        large   whether all weights together are over `READ_UP_TO`
        """
        if isinstance(self.source, DataFile) and not large:
            return self._lazy(name, keep=True)
        tensor = self._shown(self._view(), name)
        if tensor is not None:
            return tensor
        return self._lazy(name, keep=False) if large else self._read(name)

    def now(self) -> np.ndarray:
        """The elements, read at once; of a type that takes a byte or more."""
        return self._read(None).numpy()

    def _lazy(self, name: str | None, *, keep: bool) -> ir.TensorProtocol:
        return ir.LazyTensor(
            lambda: self._read(name), self.dtype, ir.Shape(self.shape), cache=keep, name=name
        )

    def _read(self, name: str | None) -> ir.TensorProtocol:
        """The tensor in memory of its own."""
        source = self.source
        raw = source.read(self.start, self.length) if isinstance(source, DataFile) else self._view().copy()
        tensor = self._shown(raw, name)
        assert tensor is not None, "fresh memory is aligned"
        return tensor

    def _view(self) -> np.ndarray:
        """The bytes where they lie, or are mapped."""
        source = self.source.map() if isinstance(self.source, DataFile) else self.source
        return np.frombuffer(source, np.uint8, self.length, self.start if self.length else 0)

    def _shown(self, raw: np.ndarray, name: str | None) -> ir.TensorProtocol | None:
        """The bytes as the tensor; None where they are not aligned."""
        shape = ir.Shape(self.shape)
        if self.dtype.bitwidth < PACKED_BELOW:
            raw.flags.writeable = False
            return ir.PackedTensor(raw, self.dtype, shape=shape, name=name)
        array = raw.view(np.dtype(self.dtype.numpy()).newbyteorder("<")).reshape(self.shape)
        if not array.flags.aligned:
            return None
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        array.flags.writeable = False
        return ir.Tensor(array, dtype=self.dtype, shape=shape, name=name)
