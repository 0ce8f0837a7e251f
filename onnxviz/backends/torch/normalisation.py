"""Normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from onnxviz.backends.torch.table import CannotRun, operator
from onnxviz.backends.torch.tensors import along


@operator("BatchNormalization")
def batch_normalization(
    x: Any,
    scale: Any,
    bias: Any,
    mean: Any,
    var: Any,
    *,
    outputs: int,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
    is_test: int = 1,
) -> Any:
    """By stored statistics; in training mode by those of the batch."""
    if not spatial:
        raise CannotRun("normalises every position by its own statistics (spatial=0)")
    if not training_mode:
        if any(v.requires_grad for v in (mean, var)):  # torch's own takes the statistics for constants
            y = (x - along(mean, x, 1)) / torch.sqrt(along(var, x, 1) + epsilon)
            y = y * along(scale, x, 1) + along(bias, x, 1)
        else:
            y = F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)
        return y if outputs == 1 else (y, mean, var, mean, var)[:outputs]
    axes = (0, *range(2, x.ndim))
    now, spread = x.mean(axes), x.var(axes, unbiased=False)
    y = (x - along(now, x, 1)) / torch.sqrt(along(spread, x, 1) + epsilon)
    y = y * along(scale, x, 1) + along(bias, x, 1)
    running = (mean * momentum + now * (1 - momentum), var * momentum + spread * (1 - momentum))
    return y if outputs == 1 else (y, *running)[:outputs]


@operator("InstanceNormalization")
def instance_normalization(x: Any, scale: Any, bias: Any, *, epsilon: float = 1e-5) -> Any:
    """Each map by its own mean and variance."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _layer(x: Any, scale: Any, bias: Any, axis: int, epsilon: float) -> tuple[Any, Any, Any]:
    axes = tuple(range(axis % x.ndim, x.ndim))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt(((x - mean) ** 2).mean(axes, keepdim=True) + epsilon)
    y = (x - mean) * inverse * scale
    return (y if bias is None else y + bias), mean, inverse


@operator("LayerNormalization")
def layer_normalization(
    x: Any,
    scale: Any,
    bias: Any = None,
    *,
    outputs: int,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Any:
    """By mean and variance over the axes from `axis` on."""
    found = _layer(x, scale, bias, axis, epsilon)
    return found[0] if outputs == 1 else found[:outputs]


@operator("RMSNormalization")
def rms_normalization(
    x: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Any:
    """By the root mean square over the axes from `axis` on."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    return x * torch.rsqrt((x * x).mean(axes, keepdim=True) + epsilon) * scale


@operator("SimplifiedLayerNormalization")
@operator("SimplifiedLayerNormalization", domain="com.microsoft")
def simplified_layer_normalization(
    x: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Any:
    """ONNX Runtime's older name of RMSNormalization."""
    return rms_normalization(x, scale, axis=axis, epsilon=epsilon)


@operator("SkipLayerNormalization", domain="com.microsoft")
def skip_layer_normalization(
    x: Any, skip: Any, scale: Any, beta: Any = None, bias: Any = None, *, outputs: int, epsilon: float = 1e-12
) -> Any:
    """LayerNormalization of a sum, over the last axis; the fourth output is the sum."""
    total = x + skip if bias is None else x + skip + bias
    y, mean, inverse = _layer(total, scale, beta, -1, epsilon)
    return y if outputs == 1 else (y, mean, inverse, total)[:outputs]


@operator("GroupNormalization")
def group_normalization(
    x: Any, scale: Any, bias: Any, *, num_groups: int, opset: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Any:
    """Groups of channels by their own statistics; before opset 21 scale and bias were one a group.

    ONNX Runtime minds no further axes of length 1 in them.
    """
    scale, bias = scale.reshape(-1), bias.reshape(-1)
    if opset < 21:
        scale, bias = (v.repeat_interleave(x.shape[1] // num_groups) for v in (scale, bias))
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@operator("LRN")
def lrn(x: Any, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Any:
    """By the squares of neighbouring channels."""
    if size % 2:
        return F.local_response_norm(x, size, alpha, beta, bias)
    squares = F.pad((x * x).movedim(1, -1), ((size - 1) // 2, size - 1 - (size - 1) // 2))
    total = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x / (bias + alpha / size * total) ** beta


@operator("LpNormalization")
def lp_normalization(x: Any, *, axis: int = -1, p: int = 2) -> Any:
    """By the p-norm along one axis; 0 where that is 0."""
    norm = x.abs().sum(axis, keepdim=True) if p == 1 else (x * x).sum(axis, keepdim=True)
    zero = norm == 0
    norm = torch.where(zero, torch.ones_like(norm), norm)
    return torch.where(zero, torch.zeros_like(x), x / (norm if p == 1 else norm.sqrt()))


@operator("MeanVarianceNormalization")
def mean_variance_normalization(x: Any, *, axes: Sequence[int] = (0, 2, 3)) -> Any:
    """By mean and standard deviation over these axes."""
    gap = x - x.mean(tuple(axes), keepdim=True)
    return gap / (torch.sqrt((gap * gap).mean(tuple(axes), keepdim=True)) + 1e-9)
