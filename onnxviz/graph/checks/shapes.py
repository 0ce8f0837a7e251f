"""The shape that each operator's first output has, as far as it is certain (for `graph.checks.static`).

One rule an operator or family. A rule gives a shape, or a list of them for several outputs; it raises `Unsure`, or
anything that wrong numbers make Python raise, where it cannot tell. Better unsure than wrong: a shape that is too
large would refuse a sound model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeVar

from onnxviz.graph.checks.facts import Call, Sizes, Unsure, axis, broadcast, sizes
from onnxviz.graph.operators import GLOBAL_POOLS, POINTWISE, POOLS, SAME_SHAPE, SPELLINGS, family
from onnxviz.graph.shapes import pool_pads, pooled

Rule = Callable[[Call], Sizes | list[Sizes]]
RULES: Final[dict[str, Rule]] = {}


_R = TypeVar("_R", bound=Callable[..., Sizes | list[Sizes]])


def rule(*operators: str) -> Callable[[_R], _R]:
    """Register a rule for these operators."""

    def register(function: _R) -> _R:
        for operator in operators:
            if operator in RULES:
                raise ValueError(f"two shape rules for {operator}")
            RULES[operator] = function
        return function

    return register


# Of ONNX Runtime: what applies one function to each element of its first input, and experiments of before opset 10.
_THEIRS: Final = {
    name for name, one in SPELLINGS.items()
    if one.places[:1] == (0,) and (family(name) == "activation" or (one.of in SAME_SHAPE and one.places == (0,)))
} | {"Affine", "FakeQuantize", "ImageScaler", "Optional", "ParametricSoftplus", "Scale", "ScaledTanh"}  # fmt: skip


@rule(*SAME_SHAPE | _THEIRS)
def same(call: Call) -> Sizes:
    """The shape of the first input; further outputs (masks, statistics) are no larger."""
    return call.shape(0)


@rule(*POINTWISE - SAME_SHAPE)
def elementwise(call: Call) -> Sizes:
    """All inputs broadcast against each other."""
    return broadcast([call.shape(place) for place in range(len(call.inputs))])


@rule("QLinearAdd", "QLinearMul")
def quantised_elementwise(call: Call) -> Sizes:
    """As `elementwise`, each input followed by its scale and zero point."""
    return broadcast([call.shape(0), call.shape(3)])


# --- convolutions and pools -------------------------------------------------------------------


def _windows(call: Call, spatial: Sizes, kernel: list[int], transposed: bool = False) -> list[int | None]:
    """The spatial sizes that a window leaves, by ONNX's formulas."""
    rank = len(spatial)
    strides = call.attribute("strides") or [1] * rank
    dilations = call.attribute("dilations") or [1] * rank
    pads = call.attribute("pads") or [0] * 2 * rank
    extra = call.attribute("output_padding") or [0] * rank
    automatic = call.attribute("auto_pad", b"NOTSET") or b"NOTSET"
    reach = [(width - 1) * dilation + 1 for width, dilation in zip(kernel, dilations, strict=True)]
    if transposed and (wanted := call.attribute("output_shape")):
        return list(wanted[-rank:])
    result: list[int | None] = []
    for place, size in enumerate(spatial):
        stride, padding = strides[place], pads[place] + pads[place + rank]
        if size is None:
            result.append(None)
        elif automatic.startswith(b"SAME"):
            result.append(size * stride if transposed else -(-size // stride))
        elif transposed:
            result.append(
                stride * (size - 1) + extra[place] + reach[place] - (padding if automatic == b"NOTSET" else 0)
            )
        else:
            room = size + (padding if automatic == b"NOTSET" else 0) - reach[place]
            result.append(room // stride + 1)
    return result


@rule("Conv", "ConvInteger", "FusedConv")
def conv(call: Call, weight: int = 1) -> Sizes:
    """(N, filters, spatial...) by the weight's shape (filters, C/groups, kernel...)."""
    x, w = call.shape(0), call.shape(weight)
    return sizes((x[0], w[0], *_windows(call, x[2:], kernel_of(call, weight))))


def kernel_of(call: Call, weight: int) -> list[int]:
    """The kernel's lengths, as they are said or by the weight's shape."""
    said = call.attribute("kernel_shape")
    return list(said) if said else [size for size in call.shape(weight)[2:] if size is not None]


@rule("QLinearConv")
def quantised_conv(call: Call) -> Sizes:
    """As `conv`; the weight is the fourth input. ONNX Runtime's own may have its channels last."""
    if call.attribute("channels_last", 0):
        raise Unsure
    return conv(call, 3)


@rule("ConvTranspose")
def conv_transpose(call: Call) -> Sizes:
    """The weight's shape is (C, filters/groups, kernel...)."""
    x, w = call.shape(0), call.shape(1)
    kernel = kernel_of(call, 1)
    filters = None if w[1] is None else w[1] * call.attribute("group", 1)
    return sizes((x[0], filters, *_windows(call, x[2:], kernel, transposed=True)))


@rule(*POOLS)
def pool(call: Call) -> Sizes:
    """Windows over the spatial axes; the indices of MaxPool have the same shape."""
    return sizes((*call.shape(0)[:2], *pool_lengths(call)))


def pool_lengths(call: Call) -> list[int | None]:
    """How many windows a pool has along each axis; 0 or less where none fits in."""
    spatial, kernel = call.shape(0)[2:], call.attribute("kernel_shape")
    rank = len(kernel)
    strides = call.attribute("strides") or [1] * rank
    dilations = call.attribute("dilations") or [1] * rank
    given = call.attribute("pads") or [0] * 2 * rank
    automatic = call.attribute("auto_pad", b"NOTSET") or b"NOTSET"
    result: list[int | None] = []
    for i, (length, k, s, d) in enumerate(zip(spatial, kernel, strides, dilations, strict=True)):
        if length is None:
            result.append(None)
            continue
        pads = given[i], given[rank + i]
        if automatic.startswith(b"SAME"):
            pads = pool_pads(length, k, s, upper=automatic == b"SAME_UPPER")
        elif automatic == b"VALID":
            pads = 0, 0
        result.append(pooled(length, (k, s, d), pads, ceil=bool(call.attribute("ceil_mode", 0))))
    return result


@rule(*GLOBAL_POOLS)
def global_pool(call: Call) -> Sizes:
    """Spatial sizes become 1."""
    x = call.shape(0)
    return (*x[:2], *(1 for _ in x[2:]))


@rule("MaxUnpool")
def max_unpool(call: Call) -> Sizes:
    """The shape given, or the inverse of the pool."""
    if call.given(2):
        return sizes(call.whole(2))
    x = call.shape(0)
    return sizes((*x[:2], *_windows(call, x[2:], call.attribute("kernel_shape"), transposed=True)))


# --- products ---------------------------------------------------------------------------------


@rule("MatMul", "MatMulInteger", "FusedMatMul")
def matmul(call: Call, second: int = 1) -> Sizes:
    """(..., M, K) by (..., K, N), vectors as in NumPy."""
    a, b = call.shape(0), call.shape(second)
    if call.attribute("transA", 0) and len(a) > 1:
        a = (*a[:-2], a[-1], a[-2])
    if call.attribute("transB", 0) and len(b) > 1:
        b = (*b[:-2], b[-1], b[-2])
    rows = a[-2:-1] if len(a) > 1 else ()
    columns = b[-1:] if len(b) > 1 else ()
    return (*broadcast([a[:-2], b[:-2]]), *rows, *columns)


@rule("QLinearMatMul")
def quantised_matmul(call: Call) -> Sizes:
    """As `matmul`; the second factor is the fourth input."""
    return matmul(call, 3)


@rule("Gemm")
def gemm(call: Call) -> Sizes:
    """(M, N)."""
    a, b = call.shape(0), call.shape(1)
    return (a[1] if call.attribute("transA", 0) else a[0], b[0] if call.attribute("transB", 0) else b[1])


@rule("Einsum")
def einsum(call: Call) -> Sizes:
    """The sizes of the letters after the arrow; without an arrow or with dots nothing is certain."""
    terms, arrow, result = call.attribute("equation").decode().replace(" ", "").partition("->")
    if not arrow or "." in terms:
        raise Unsure
    found: dict[str, int | None] = {}
    for place, term in enumerate(terms.split(",")):
        for letter, size in zip(term, call.shape(place), strict=True):
            found[letter] = found.get(letter) or size
    return sizes([found[letter] for letter in result])


# --- new shapes for old elements --------------------------------------------------------------


@rule("Reshape")
def reshape(call: Call) -> Sizes:
    """0 keeps a size, one -1 takes what is left."""
    wanted = call.option(1, "shape")
    before = call.known(0).shape
    result: list[int | None] = []
    for place, size in enumerate(wanted):
        if size == 0 and not call.attribute("allowzero", 0):
            result.append(before[place] if before is not None else None)
        else:
            result.append(size)
    if -1 in wanted and before is not None and None not in before and None not in result:
        fixed = math.prod(size for size in result if size is not None and size != -1)
        result[wanted.index(-1)] = math.prod(size or 0 for size in before) // fixed
    return sizes(result)


@rule("Flatten")
def flatten(call: Call) -> Sizes:
    """Two axes, split at `axis`."""
    x = call.shape(0)
    at = call.attribute("axis", 1)
    at = at + len(x) if at < 0 else at
    return tuple(None if None in part else math.prod(size or 0 for size in part) for part in (x[:at], x[at:]))


@rule("Transpose")
def transpose(call: Call) -> Sizes:
    """Axes in another order, reversed by default."""
    x = call.shape(0)
    return tuple(x[place] for place in call.attribute("perm") or range(len(x) - 1, -1, -1))


@rule("Squeeze")
def squeeze(call: Call) -> Sizes:
    """Without the axes named, or without all of size 1."""
    x = call.shape(0)
    if not call.given(1) and call.attribute("axes") is None:
        if None in x:
            raise Unsure
        return tuple(size for size in x if size != 1)
    gone = {axis(number, len(x)) for number in call.option(1, "axes")}
    return tuple(size for place, size in enumerate(x) if place not in gone)


@rule("Unsqueeze")
def unsqueeze(call: Call) -> Sizes:
    """With axes of size 1 put in."""
    x, added = list(call.shape(0)), call.option(1, "axes")
    for place in sorted(axis(number, len(x) + len(added)) for number in added):
        x.insert(place, 1)
    return sizes(x)


@rule("DepthToSpace")
def depth_to_space(call: Call) -> Sizes:
    """Channels become blocks of pixels."""
    n, c, h, w = call.shape(0)
    block = call.attribute("blocksize")
    return sizes(
        (n, None if c is None else c // block**2, *(None if s is None else s * block for s in (h, w)))
    )


@rule("SpaceToDepth")
def space_to_depth(call: Call) -> Sizes:
    """Blocks of pixels become channels."""
    n, c, h, w = call.shape(0)
    block = call.attribute("blocksize")
    return sizes(
        (n, None if c is None else c * block**2, *(None if s is None else s // block for s in (h, w)))
    )
