"""Operators that make tensors out of nothing but shapes and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from onnxviz.backends.torch.table import CannotRun, operator
from onnxviz.backends.torch.tensors import numbers, single, torch_type


@operator("Constant")
def constant(
    *,
    value: Any = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Any:
    """In whichever form it is given."""
    if value is not None:
        return value
    real = value_float if value_float is not None else value_floats
    if real is not None:
        return torch.tensor(real, dtype=torch.float32)
    whole = value_int if value_int is not None else value_ints
    if whole is None:
        raise CannotRun("holds strings")
    return torch.tensor(whole, dtype=torch.int64)


@operator("ConstantOfShape")
def constant_of_shape(shape: Any, *, value: Any = None) -> Any:
    """The same number everywhere."""
    filler = torch.zeros(1) if value is None else value.reshape(-1)
    return torch.full(numbers(shape), filler[0].item(), dtype=filler.dtype, device=shape.device)


@operator("Range")
def range_(start: Any, limit: Any, delta: Any) -> Any:
    """From start up to limit."""
    first, last, step = (single(v) for v in (start, limit, delta))
    count = max(0, -int((first - last) // step))
    return first + step * torch.arange(count, dtype=start.dtype, device=start.device)


@operator("EyeLike")
def eye_like(x: Any, *, dtype: int | None = None, k: int = 0) -> Any:
    """1 on a diagonal."""
    kind = x.dtype if dtype is None else torch_type(dtype)
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape)
    return (columns[None, :] == rows[:, None] + k).to(kind)


@operator("DFT")
def dft(
    x: Any,
    length: Any = None,
    where: Any = None,
    *,
    axis: int | None = None,
    inverse: int = 0,
    onesided: int = 0,
) -> Any:
    """The Fourier transform of one axis; complex numbers are a last axis of two. The axis was an attribute once."""
    axis = int(single(where)) if where is not None else (-2 if axis is None else axis)
    axis = axis % x.ndim
    count = None if length is None else int(single(length))
    if inverse and onesided:
        y = torch.fft.irfft(torch.view_as_complex(x.contiguous()), count, axis)
        return y.unsqueeze(-1)
    signal = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
    if onesided:
        return torch.view_as_real(torch.fft.rfft(signal, count, axis))
    found = (torch.fft.ifft if inverse else torch.fft.fft)(signal, count, axis)
    return torch.view_as_real(found)


@operator("STFT")
def stft(signal: Any, step: Any, window: Any = None, length: Any = None, *, onesided: int = 1) -> Any:
    """Fourier transforms of stretches: signal (N, time, 1 or 2) -> (N, stretches, frequencies, 2)."""
    size = int(single(length)) if length is not None else window.shape[0]
    value = torch.view_as_complex(signal.contiguous()) if signal.shape[-1] == 2 else signal[..., 0]
    frames = value.unfold(1, size, int(single(step)))
    frames = frames if window is None else frames * window
    found = torch.fft.rfft(frames) if onesided and not value.is_complex() else torch.fft.fft(frames)
    return torch.view_as_real(found)
