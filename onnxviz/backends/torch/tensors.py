"""Between NumPy's, ONNX's and torch's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from onnxviz.backends.torch.table import CannotRun

_TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT64: torch.int64,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.BOOL: torch.bool,
    # torch has next to no arithmetic on these: the next type that holds their values stands in.
    ir.DataType.UINT16: torch.int32,
    ir.DataType.UINT32: torch.int64,
    ir.DataType.UINT64: torch.int64,
    ir.DataType.INT4: torch.int8,
    ir.DataType.UINT4: torch.uint8,
}
_STAND_INS = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64, "int4": np.int8, "uint4": np.uint8}


def torch_type(code: int) -> torch.dtype:
    """The torch type of an ONNX type code."""
    try:
        return _TYPES[ir.DataType(code)]
    except (KeyError, ValueError):
        name = ir.DataType(code).name if code in ir.DataType.__members__.values() else code
        raise CannotRun(f"uses the type {name}, which torch cannot compute with") from None


def from_numpy(array: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """A tensor of its own memory; types that torch lacks become the next larger one."""
    name = array.dtype.name
    if name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(device, torch.bfloat16)
    if name in _STAND_INS:
        array = array.astype(_STAND_INS[name])
    if array.dtype.kind not in "fiub":
        raise CannotRun(f"uses the type {name}, which torch cannot compute with")
    return torch.from_numpy(np.array(array)).to(device)


def numbers(value: Any) -> list[int]:
    """Whole numbers from an attribute or from a tensor (axes, shapes, pads)."""
    if isinstance(value, torch.Tensor):
        return [int(v) for v in value.reshape(-1).tolist()]
    return [value] if isinstance(value, int) else [int(v) for v in value]


def single(value: Any) -> Any:
    """A Python number from an attribute or from a tensor of one element."""
    return value.reshape(-1)[0].item() if isinstance(value, torch.Tensor) else value


def is_real(x: torch.Tensor) -> bool:
    """Whether the tensor holds floating-point numbers."""
    return x.dtype.is_floating_point


def along(vector: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    """A vector laid along one axis of x, so that it broadcasts; of one element: as it is."""
    if vector.numel() == 1:
        return vector.reshape(())
    shape = [1] * x.ndim
    shape[axis] = -1
    return vector.reshape(shape)


def select(x: torch.Tensor, axis: int, index: Sequence[int] | np.ndarray) -> torch.Tensor:
    """The entries of one axis at these places, in their order."""
    return torch.index_select(x, axis, torch.as_tensor(np.asarray(index), dtype=torch.int64, device=x.device))
