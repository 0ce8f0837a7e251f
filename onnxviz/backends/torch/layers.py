"""Layers with kernels, windows and statistics: convolutions, pools, normalisations, matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from onnxviz.backends.torch.table import CannotRun, Ints, along, enter, is_real, numbers, operator

# --- where windows lie ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Kernel, strides, dilations, and the padding in front and behind, one number a spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @classmethod
    def of(
        cls, x: Any, kernel: Sequence[int], strides: Ints, pads: Ints, dilations: Ints, *, fits: bool = True
    ) -> Windows:
        """From a node's attributes and its input (N, C, ...), into which its windows have to fit unless told."""
        n = x.ndim - 2
        if len(kernel) != n:
            raise CannotRun(f"has a kernel of {len(kernel)} axes on {n} spatial axes")
        ones, around = (1,) * n, tuple(pads or (0,) * (2 * n))
        each = [
            tuple(given or ones)[:n] for given in (strides, dilations)
        ]  # ONNX Runtime reads no more, either
        if min(map(len, each)) < n or len(around) != 2 * n:
            raise CannotRun(f"has strides, dilations or pads of another number than {n} spatial axes")
        found = cls(tuple(kernel), each[0], each[1], around[:n], around[n:])
        for i, size in enumerate(x.shape[2:] if fits else ()):
            if size + found.begin[i] + found.end[i] < found.reach(i):
                raise CannotRun("has windows that are larger than its padded input")
        return found

    def reach(self, i: int) -> int:
        """How many places a window spans along spatial axis i."""
        return (self.kernel[i] - 1) * self.dilations[i] + 1

    def within(self, lengths: Sequence[int]) -> Windows:
        """These windows on a map of these lengths, by numbers that torch's kernels hold (32 bits in pools): a stride
        beyond the map takes one window, however long it is, and one place has no dilation."""
        places = [n + abs(b) + abs(e) for n, b, e in zip(lengths, self.begin, self.end, strict=True)]
        longest = [max(1, n, self.reach(i)) for i, n in enumerate(places)]
        return replace(
            self,
            strides=tuple(map(min, self.strides, longest)),
            dilations=tuple(1 if k == 1 else d for k, d in zip(self.kernel, self.dilations, strict=True)),
        )

    def even(self, end: Sequence[int]) -> bool:
        """Whether torch's pools can pad by themselves: alike at both ends, by no more than half a window."""
        small = all(0 <= b <= k // 2 for b, k in zip(self.begin, self.kernel, strict=True))
        return tuple(end) == self.begin and small

    def surplus(self, lengths: Sequence[int], ceil_mode: int) -> tuple[int, ...]:
        """What the last windows need beyond the padding when output lengths are rounded up."""
        if not ceil_mode:
            return (0,) * len(lengths)
        found = []
        for i, length in enumerate(lengths):
            space = length + self.begin[i] + self.end[i] - self.reach(i)
            count = math.ceil(space / self.strides[i]) + 1
            if (count - 1) * self.strides[i] >= length + self.begin[i]:  # a window must start inside
                count -= 1
            found.append(max(0, (count - 1) * self.strides[i] - space))
        return tuple(found)


def padded(x: torch.Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> torch.Tensor:
    """x with this much of `value` around its last axes (less, where negative)."""
    amounts = [p for b, e in zip(reversed(begin), reversed(end), strict=True) for p in (b, e)]
    return F.pad(x, amounts, value=value) if any(amounts) else x


def pick(n: int, *functions: Any) -> Any:
    """The function for 1, 2 or 3 spatial axes."""
    if not 1 <= n <= 3:
        raise CannotRun(f"has {n} spatial axes; torch does 1 to 3")
    return functions[n - 1]


# --- convolutions ---------------------------------------------------------------------------------


@operator("Conv")
def conv(
    x: Any, w: Any, b: Any = None, *, dilations: Ints = None, group: int = 1, kernel_shape: Ints = None,
    pads: Ints = None, strides: Ints = None,
) -> Any:  # fmt: skip
    """x (N, C, ...), w (M, C/group, ...)."""
    win = Windows.of(x, w.shape[2:], strides, pads, dilations).within(x.shape[2:])
    function = pick(x.ndim - 2, F.conv1d, F.conv2d, F.conv3d)
    if win.begin == win.end and min(win.begin) >= 0:  # torch pads both ends alike, without a copy
        return function(x, w, b, win.strides, win.begin, win.dilations, group)
    return function(padded(x, win.begin, win.end), w, b, win.strides, 0, win.dilations, group)


@operator("ConvTranspose")
def conv_transpose(
    x: Any, w: Any, b: Any = None, *, auto_pad: str = "NOTSET", dilations: Ints = None, group: int = 1,
    kernel_shape: Ints = None, output_padding: Ints = None, output_shape: Ints = None, pads: Ints = None,
    strides: Ints = None,
) -> Any:  # fmt: skip
    """x (N, C, ...), w (C, M/group, ...): everything that the windows reach, then the padding cut off.

    An output_shape remains where the normal form does not know the length of x.
    """
    n = x.ndim - 2
    win = Windows.of(x, w.shape[2:], strides, pads, dilations, fits=False)
    extra, begin, end = list(output_padding or [0] * n), list(win.begin), list(win.end)
    function = pick(n, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    y = function(x, w, None, win.strides, 0, 0, group, win.dilations)
    for i, wanted in enumerate(list(output_shape or [])[-n:]):
        total = y.shape[2 + i] + extra[i] - wanted
        begin[i] = 0 if total < 0 else (total + (auto_pad == "SAME_LOWER")) // 2
        end[i] = total - begin[i]
    y = padded(y, [-p for p in begin], [o - p for o, p in zip(extra, end, strict=True)])
    return y if b is None else y + b.reshape(-1, *([1] * n))


@operator("DeformConv")
def deform_conv(
    x: Any, w: Any, offset: Any, b: Any = None, mask: Any = None, *, dilations: Ints = None, group: int = 1,
    kernel_shape: Ints = None, offset_group: int = 1, pads: Ints = None, strides: Ints = None,
) -> Any:  # fmt: skip
    """Dai et al. 2017, arXiv:1703.06211: every tap of the kernel reads at its own, shifted place."""
    if x.ndim != 4:
        raise CannotRun("has other than 2 spatial axes")
    n, c, height, width = x.shape
    win = Windows.of(x, w.shape[2:], strides, pads, dilations)
    kh, kw = win.kernel
    oh, ow = offset.shape[2:]
    offset = offset.reshape(n, offset_group, kh * kw, 2, oh, ow)
    places = {"dtype": x.dtype, "device": x.device}
    base_y = torch.arange(oh, **places) * win.strides[0] - win.begin[0]
    base_x = torch.arange(ow, **places) * win.strides[1] - win.begin[1]
    parts = x.reshape(n * offset_group, c // offset_group, height, width)
    columns = []
    for tap in range(kh * kw):
        ys = base_y[:, None] + (tap // kw) * win.dilations[0] + offset[:, :, tap, 0]  # (n, groups, oh, ow)
        xs = base_x[None, :] + (tap % kw) * win.dilations[1] + offset[:, :, tap, 1]
        grid = torch.stack([(2 * xs + 1) / width - 1, (2 * ys + 1) / height - 1], -1)
        read = F.grid_sample(parts, grid.reshape(-1, oh, ow, 2), align_corners=False)
        if mask is not None:
            read = read * mask.reshape(-1, kh * kw, oh, ow)[:, tap, None]
        columns.append(read.reshape(n, c, oh * ow))
    stacked = torch.stack(columns, 2).reshape(n, group, c // group * kh * kw, oh * ow)
    y = torch.einsum("gmk,ngko->ngmo", w.reshape(group, -1, stacked.shape[2]), stacked)
    y = y.reshape(n, -1, oh, ow)
    return y if b is None else y + b.reshape(-1, 1, 1)


@operator("Col2Im")
def col2im(
    x: Any,
    image_shape: Any,
    block_shape: Any,
    *,
    dilations: Ints = None,
    pads: Ints = None,
    strides: Ints = None,
) -> Any:
    """Add blocks up where they lie over each other: x (N, C·block, places)."""
    size, block = numbers(image_shape), numbers(block_shape)
    if len(size) != 2:
        raise CannotRun("has other than 2 spatial axes")
    begin, end = list(pads or [0] * 4)[:2], list(pads or [0] * 4)[2:]
    whole = [length + b + e for length, b, e in zip(size, begin, end, strict=True)]
    y = F.fold(x, whole, block, dilation=tuple(dilations or (1, 1)), stride=tuple(strides or (1, 1)))
    return padded(y, [-p for p in begin], [-p for p in end])


# --- pools ----------------------------------------------------------------------------------------


@operator("MaxPool")
def max_pool(
    x: Any, *, kernel_shape: Sequence[int], outputs: int, ceil_mode: int = 0, dilations: Ints = None,
    pads: Ints = None, storage_order: int = 0, strides: Ints = None,
) -> Any:  # fmt: skip
    """The largest of each window, at a tie the first; the second output tells where it lay in the whole input."""
    if not is_real(x):
        found = max_pool(
            x.double(), kernel_shape=kernel_shape, outputs=1, ceil_mode=ceil_mode, dilations=dilations,
            pads=pads, strides=strides,
        )  # fmt: skip
        return found.to(x.dtype)
    lengths = x.shape[2:]
    win = Windows.of(x, kernel_shape, strides, pads, dilations, fits=not ceil_mode).within(lengths)
    end = [e + s for e, s in zip(win.end, win.surplus(lengths, ceil_mode), strict=True)]
    function = pick(len(lengths), F.max_pool1d, F.max_pool2d, F.max_pool3d)
    if outputs == 1 and win.even(end):
        return function(x, win.kernel, win.strides, win.begin, win.dilations)
    wide = padded(x, win.begin, end, -math.inf)
    y, flat = function(wide, win.kernel, win.strides, 0, win.dilations, return_indices=True)
    if outputs == 1:
        return y
    places: list[Any] = []
    rest = flat  # the index in the padded map, axis by axis, turned into one of the whole input
    for axis in range(len(lengths) - 1, -1, -1):
        places.insert(0, rest % wide.shape[2 + axis] - win.begin[axis])
        rest = rest // wide.shape[2 + axis]
    if storage_order:
        places, lengths = places[::-1], lengths[::-1]
    index = torch.zeros_like(flat)
    for place, length in zip(places, lengths, strict=True):
        index = index * length + place
    maps = torch.arange(x.shape[0] * x.shape[1], device=x.device)
    maps = maps.reshape(x.shape[0], x.shape[1], *([1] * len(lengths)))
    return y, index + maps * math.prod(lengths)


@operator("MaxUnpool")
def max_unpool(
    x: Any, index: Any, output_shape: Any = None, *, kernel_shape: Sequence[int], pads: Ints = None,
    strides: Ints = None,
) -> Any:  # fmt: skip
    """Values back at their places in a map of zeros."""
    n = x.ndim - 2
    steps, around = strides or [1] * n, pads or [0] * 2 * n
    natural = [
        (length - 1) * s + k - around[i] - around[n + i]
        for i, (length, s, k) in enumerate(zip(x.shape[2:], steps, kernel_shape, strict=True))
    ]
    whole = [*x.shape[:2], *natural]  # which the indices count in; a larger output holds it at its start
    y = torch.zeros(math.prod(whole), dtype=x.dtype, device=x.device)
    y = y.scatter(0, index.reshape(-1), x.reshape(-1)).reshape(whole)
    if output_shape is None:
        return y
    more = [wanted - length for wanted, length in zip(numbers(output_shape)[2:], natural, strict=True)]
    return padded(y, [0] * n, more)


def _sums(x: Any, win: Windows, end: Sequence[int]) -> Any:
    """The sum of each window; for dilated ones a convolution with ones, map by map."""
    wide = padded(x, win.begin, end)
    if all(d == 1 for d in win.dilations):
        average = pick(x.ndim - 2, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
        return average(wide, win.kernel, win.strides) * math.prod(win.kernel)
    flat = wide.reshape(-1, 1, *wide.shape[2:])
    ones = torch.ones((1, 1, *win.kernel), dtype=x.dtype, device=x.device)
    function = pick(x.ndim - 2, F.conv1d, F.conv2d, F.conv3d)
    y = function(flat, ones, None, win.strides, 0, win.dilations)
    return y.reshape(*x.shape[:2], *y.shape[2:])


@operator("AveragePool")
def average_pool(
    x: Any, *, kernel_shape: Sequence[int], ceil_mode: int = 0, count_include_pad: int = 0,
    dilations: Ints = None, pads: Ints = None, strides: Ints = None,
) -> Any:  # fmt: skip
    """The mean of each window, over what lies inside the input (or inside it and its padding)."""
    lengths = x.shape[2:]
    win = Windows.of(x, kernel_shape, strides, pads, dilations, fits=not ceil_mode).within(lengths)
    surplus = win.surplus(lengths, ceil_mode)
    end = [e + s for e, s in zip(win.end, surplus, strict=True)]
    if all(d == 1 for d in win.dilations) and win.even(end) and (count_include_pad or not any(end)):
        average = pick(len(lengths), F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
        return average(x, win.kernel, win.strides, win.begin)
    ones = torch.ones((1, 1, *lengths), dtype=x.dtype, device=x.device)
    if count_include_pad:
        inside = padded(ones, win.begin, win.end, 1.0)
        bare = Windows(win.kernel, win.strides, win.dilations, (0,) * len(lengths), (0,) * len(lengths))
        counts = _sums(inside, bare, surplus)
    else:
        counts = _sums(ones, win, end)
    return _sums(x, win, end) / counts


def _root(s: Any, p: int) -> Any:
    """The p-th root, with derivative 0 (not infinite) at 0."""
    positive = s > 0
    safe = torch.where(positive, s, torch.ones_like(s))
    return torch.where(positive, safe ** (1.0 / p), torch.zeros_like(s))


@operator("LpPool")
def lp_pool(
    x: Any, *, kernel_shape: Sequence[int], ceil_mode: int = 0, dilations: Ints = None, p: int = 2,
    pads: Ints = None, strides: Ints = None,
) -> Any:  # fmt: skip
    """The p-norm of each window."""
    win = Windows.of(x, kernel_shape, strides, pads, dilations, fits=not ceil_mode).within(x.shape[2:])
    end = [e + s for e, s in zip(win.end, win.surplus(x.shape[2:], ceil_mode), strict=True)]
    return _root(_sums(x.abs() ** p, win, end), p)


# --- normalisations -------------------------------------------------------------------------------


@operator("BatchNormalization")
def batch_normalization(
    x: Any, scale: Any, bias: Any, mean: Any, var: Any, *, outputs: int, epsilon: float = 1e-5,
    momentum: float = 0.9, training_mode: int = 0,
) -> Any:  # fmt: skip
    """By stored statistics; in training mode by those of the batch."""
    if not training_mode and not any(v.requires_grad for v in (mean, var)):
        return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)
    now, spread = mean, var  # torch's own takes the statistics for constants
    if training_mode:
        axes = (0, *range(2, x.ndim))
        now, spread = x.mean(axes), x.var(axes, unbiased=False)
    y = (x - along(now, x, 1)) / torch.sqrt(along(spread, x, 1) + epsilon)
    y = y * along(scale, x, 1) + along(bias, x, 1)
    running = (mean * momentum + now * (1 - momentum), var * momentum + spread * (1 - momentum))
    return y if outputs == 1 else (y, *running)[:outputs]


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
    axes = tuple(range(axis % x.ndim, x.ndim))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt(((x - mean) ** 2).mean(axes, keepdim=True) + epsilon)
    y = (x - mean) * inverse * scale
    y = y if bias is None else y + bias
    return y if outputs == 1 else (y, mean, inverse)[:outputs]


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
    """By mean and standard deviation over these axes; those that x has not are none, as in ONNX Runtime."""
    axes = [axis for axis in axes if -x.ndim <= axis < x.ndim]
    if not axes:  # each number is its own mean; for torch none are all
        return x - x
    gap = x - x.mean(axes, keepdim=True)
    return gap / (torch.sqrt((gap * gap).mean(axes, keepdim=True)) + 1e-9)


# --- what is one expression -----------------------------------------------------------------------


def _each(value: Any, x: Any) -> Any:
    """A scale or bias of one number a channel, which may be one for all."""
    return value.reshape(-1).expand(x.shape[1])


def _maps(x: Any) -> tuple[int, ...]:
    """The spatial axes of x (N, C, ...)."""
    return tuple(range(2, x.ndim))


def _trailing(x: Any, axis: int) -> tuple[int, ...]:
    """The axes from this one on."""
    return tuple(range(axis % x.ndim, x.ndim))


@operator("Gemm")
def gemm(
    a: Any, b: Any, c: Any = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Any:
    """alpha·A·B + beta·C."""
    y = (a.T if transA else a) @ (b.T if transB else b)
    y = y if alpha == 1.0 else alpha * y
    return y if c is None else y + (c if beta == 1.0 else beta * c)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "MatMul": torch.matmul,
    "Det": torch.linalg.det,
    "Einsum": lambda *xs, equation: torch.einsum(equation.replace(" ", ""), *xs),
    "GlobalAveragePool": lambda x: x.mean(_maps(x), keepdim=True),
    # At a tie the first.
    "GlobalMaxPool": lambda x: x.flatten(2).max(2).values.reshape(*x.shape[:2], *([1] * (x.ndim - 2))),
    "GlobalLpPool": lambda x, *, p=2: _root((x.abs() ** p).sum(_maps(x), keepdim=True), p),
    # Not F's forms of the two: those refuse a map of one place, which ONNX Runtime computes.
    "InstanceNormalization": lambda x, scale, bias, *, epsilon=1e-5: (
        torch.instance_norm(x, scale, bias, None, None, True, 0.1, epsilon, torch.backends.cudnn.enabled)
    ),
    "RMSNormalization": lambda x, scale, *, axis=-1, epsilon=1e-5, stash_type=1: (
        x * torch.rsqrt((x * x).mean(_trailing(x, axis), keepdim=True) + epsilon) * scale
    ),
    # ONNX Runtime minds no further axes of length 1 in scale and bias.
    "GroupNormalization": lambda x, scale, bias, *, num_groups, epsilon=1e-5, stash_type=1: (
        torch.group_norm(x, num_groups, _each(scale, x), _each(bias, x), epsilon, torch.backends.cudnn.enabled)
    ),
}  # fmt: skip
enter(_FUNCTIONS)
