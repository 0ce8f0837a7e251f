"""Where the elements of one tensor lie, and the IR tensor that shows them.

Weights of up to 1 GiB in all are read out of their files when they are first used, and kept: they take no time or
memory before, are aligned as kernels like it, and a file that was overwritten meanwhile, as when a notebook exports a
network again, gives a typed error. Larger ones are memory-mapped and paged in when touched, so that they need not
fit into memory; there, cutting the file short while it is in use ends the process, as with any mapped file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxviz.graph.confine import DataFile

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
        if isinstance(self.source, DataFile):
            if not large:
                return self._lazy(name, keep=True)
            view = (
                np.frombuffer(self.source.map(), np.uint8, self.length, self.start) if self.length else _NONE
            )
        else:
            view = np.frombuffer(self.source, np.uint8, self.length, self.start) if self.length else _NONE
        tensor = self._shown(view, name)
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
        if isinstance(self.source, DataFile):
            raw = self.source.read(self.start, self.length)
        else:
            raw = (
                np.frombuffer(self.source, np.uint8, self.length, self.start).copy() if self.length else _NONE
            )
        tensor = self._shown(raw, name)
        assert tensor is not None, "fresh memory is aligned"
        return tensor

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


_NONE: Final = np.empty(0, np.uint8)
