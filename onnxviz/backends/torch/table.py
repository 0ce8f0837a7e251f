"""The table of operators on torch: operator -> function; and what these functions need of tensors.

A function takes the node's inputs as tensors (None where one is omitted) and its attributes by keyword, and gives a
tensor, or a tuple of them for several outputs. autograd differentiates it. Graphs are in normal form
(graph/normalise.py): a function knows the form of opset 18 and later alone. What it wants to know about the node it
names among its keywords:

    outputs     how many outputs the node has
    kind        the ONNX type code that its first output has, which a float that stands for an integer does not show
    rectifier   what graph/rectifiers.py says of the node
    run         (graph, its inputs) -> its outputs, for operators that hold graphs
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
import torch

Function: TypeAlias = Callable[..., Any]
Ints: TypeAlias = "Sequence[int] | None"
CONTEXT = frozenset({"outputs", "kind", "rectifier", "run"})


Table: TypeAlias = Mapping[str, Function]

_OPERATORS: dict[str, Function] = {}
OPERATORS: Table = MappingProxyType(_OPERATORS)


def enter(functions: Mapping[str, Function]) -> None:
    """Enter functions by their operators' names; a second one for an operator is an error at import."""
    for name, function in functions.items():
        if name in _OPERATORS:
            raise RuntimeError(f"two torch functions for {name}")
        _OPERATORS[name] = function


def operator(name: str) -> Callable[[Function], Function]:
    """Enter a function for this operator."""

    def entered(function: Function) -> Function:
        enter({name: function})
        return function

    return entered


@functools.cache
def taken(function: Function) -> frozenset[str]:
    """The attributes, and what else, that a function can be given by name."""
    try:
        found = inspect.signature(function).parameters.values()
    except ValueError:  # a function of torch's own, written in C
        return frozenset()
    return frozenset(p.name for p in found if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))


class CannotRun(Exception):
    """Raised inside a function for a form that torch cannot do; the message goes on 'the operator ...'."""


# --- between NumPy's, ONNX's and torch's tensors ------------------------------------------------------

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
