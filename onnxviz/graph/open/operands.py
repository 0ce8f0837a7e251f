"""What the inputs and attributes of operators must be beyond their schemas: ranks, lengths, ranges.

ONNX Runtime is the authority: what is refused here it refuses when it loads the model or at every run, or it ends the
process. What ONNX's own inference finds (`graph.open.known`) stands here only where it
would crash or hang on it, or say it badly. Ranks are what `graph.open.sizes` knows; unknown ones are not held
against anybody.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import onnx

from onnxviz.errors import ModelRejected
from onnxviz.graph.open.known import Call, Known, Sizes, Unsure
from onnxviz.graph.open.signatures import MICROSOFT, label
from onnxviz.graph.operators import (
    CONTROL,
    INTEGER_SUMS,
    KERNEL_AT,
    POOLS,
    RESIZING,
    SPELLINGS,
    TABLE,
    by_scales_alone,
    computes,
    computing,
    operator,
)
from onnxviz.text import quoted

# Attributes with one number for each spatial axis of the first input, and those with two.
_SPATIAL: Final = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 2}
# Attributes of text that have a few meanings. Others are ONNX Runtime's errors, at loading.
_PADS: Final = ("auto_pad", " NOTSET SAME_UPPER SAME_LOWER VALID")
_PLACED: Final = (
    "half_pixel half_pixel_symmetric pytorch_half_pixel align_corners asymmetric tf_crop_and_resize "
    "tf_half_pixel_for_nn"
)
_TEXTS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    **dict.fromkeys((*KERNEL_AT, *POOLS), (_PADS,)),
    "DepthToSpace": (("mode", "DCR CRD"),),
    **dict.fromkeys(computing("pad"), (("mode", "constant reflect edge wrap"),)),
    "Resize": (
        ("mode", "nearest linear cubic"),
        ("coordinate_transformation_mode", _PLACED),
    ),
    "Upsample": (("mode", "nearest linear cubic"),),
    **dict.fromkeys(computing("gelu"), (("approximate", "none tanh"),)),
    "GridSample": (
        ("mode", "bilinear linear nearest bicubic cubic"),
        ("padding_mode", "zeros border reflection"),
    ),
}
#: More axes than any tensor has: counted from there, ONNX's shape inference reads what is not its own.
_MOST_AXES: Final = 64
_LONGEST: Final = 2**31 - 1
_AXES: Final = frozenset({"axis", "batch_axis", "time_axis", "batch_dims"})
_EQUATION: Final = re.compile(r"(?:[A-Za-z]*(?:\.\.\.)?[A-Za-z]*)(?:,[A-Za-z]*(?:\.\.\.)?[A-Za-z]*)*")


def _rows() -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    for name, row in TABLE.items():
        words = row.ranks.split()
        words += ["*"] * (max(row.numbers, default=-1) + 1 - len(words))
        for place in row.numbers:
            words[place] = "."
        rows[name] = words
    for name in KERNEL_AT:  # whose places are those of a convolution's data, weights and bias
        places = SPELLINGS[name].places if name in SPELLINGS else ()
        if places:
            rows[name] = ["*"] * (places[-1] + 1)
            for place, word in zip(places, TABLE[SPELLINGS[name].of].ranks.split(), strict=False):
                rows[name][place] = word
    return rows


_ROWS: Final = _rows()


def check(call: Call, node: onnx.NodeProto) -> None:
    """Hold what is known about a node's inputs against what its operator needs.

    raises  ModelRejected naming the node and the input or attribute
    """
    if node.domain == MICROSOFT:
        _scales(call, node)
        if computes(call.op) in ("quantize", "dequantize"):
            with contextlib.suppress(Unsure):
                _zero_point(call, node)
        return
    words = _ROWS.get(call.op)
    if words is not None:
        _ranks(call, node, words)
    for name in _AXES & call.attributes.keys():
        with contextlib.suppress(Unsure):
            _axis(call, node, name)
    for name, texts in _TEXTS.get(call.op, ()):
        with contextlib.suppress(Unsure):
            _text(call, node, name, texts.split(" "))
    if call.op in _SPECIAL:
        with contextlib.suppress(Unsure):
            _SPECIAL[call.op](call, node)


def steers(
    node: onnx.NodeProto, inputs: Sequence[Known | None], bodies: Mapping[str, onnx.GraphProto], opset: int
) -> None:
    """Hold what chooses or repeats the bodies of an If, Loop or Scan, and the bodies themselves, against the node.

    Conditions and counts are one number, of any rank: ONNX Runtime reads the first element of a count that has none.
    Bodies have as many inputs and outputs as their node.

    raises   ModelRejected
    """
    for place in operator(node.op_type).numbers:
        known = inputs[place] if place < len(inputs) else None
        shape = known.shape if known is not None else None
        if shape is not None and any(size not in (None, 1) for size in shape):
            raise _wrong(node, place, shape, "one number was")
    given, made = len(node.input), len(node.output)
    kind = computes(node.op_type)
    # Trips and condition go into a loop, the condition comes out; before opset 9 the lengths of the sequences, or '',
    # stood in front of what is scanned.
    wanted = 0 if kind == "branch" else max(2, given) if kind == "loop" else given if opset > 8 else None
    for name, body in bodies.items() if node.op_type in CONTROL else ():
        for what, has, expected in (
            ("inputs", len(body.input), wanted),
            ("outputs", len(body.output), made + (kind == "loop")),
        ):
            if expected is not None and has != expected:
                raise ModelRejected(
                    f"the {name} of the {label(node)} has {has} {what}; {expected} were expected, since the "
                    f"node has {given} inputs and {made} outputs"
                )


def _scales(call: Call, node: onnx.NodeProto) -> None:
    """Scales and zero points of no number: ONNX Runtime reads one all the same, and the process may end (SIGSEGV)."""
    if not call.op.startswith("QLinear"):
        return
    data = SPELLINGS[call.op].places if call.op in SPELLINGS else (0,)
    for place, known in enumerate(call.inputs):
        given = place in data or (not data and place > 1 and place % 3 == 2)  # QLinearConcat's pieces
        if not given and known is not None and known.shape is not None and 0 in known.shape:
            raise _wrong(node, place, known.shape, "one number was")


def _ranks(call: Call, node: onnx.NodeProto, words: list[str]) -> None:
    first = call.known(0).shape
    for place, (known, word) in enumerate(zip(call.inputs, words, strict=False)):
        shape = known.shape if known is not None else None
        if shape is None or word == "*":
            continue
        rank = len(shape)
        if word == ".":
            if rank > 1 or any(size not in (None, 1) for size in shape):
                raise _wrong(node, place, shape, "one number was")
        elif word == "=":
            if first is not None and rank != len(first):
                raise _wrong(node, place, shape, f"{len(first)} axes, as its first input has, were")
            if words[0].endswith("+") and rank < int(words[0][:-1]):
                raise _wrong(node, place, shape, f"{words[0][:-1]} axes or more were")
        elif word == "v":
            channels = first[1] if first is not None and len(first) > 1 else None
            if rank != 1 or (None not in (shape[0], channels) and shape[0] != channels):
                wanted = f"a vector of {channels} numbers was" if channels is not None else "a vector was"
                raise _wrong(node, place, shape, wanted)
        elif word.endswith("+"):
            if rank < int(word[:-1]):
                raise _wrong(node, place, shape, f"{word[:-1]} axes or more were")
        elif rank != int(word):
            raise _wrong(node, place, shape, "a vector was" if word == "1" else f"{word} axes were")


def _wrong(node: onnx.NodeProto, place: int, shape: Sizes, expected: str) -> ModelRejected:
    given = "×".join("?" if size is None else str(size) for size in shape) or "a single number, ()"
    name = quoted(node.input[place]) if place < len(node.input) else "?"
    return ModelRejected(
        f"the {label(node)} has an input {place + 1}, {name}, of the shape {given}; {expected} expected"
    )


def _refused(node: onnx.NodeProto, name: str, given: object, expected: str) -> ModelRejected:
    return ModelRejected(
        f"the {label(node)}: its attribute {quoted(name)} is {quoted(given)}; expected {expected}"
    )


def _axis(call: Call, node: onnx.NodeProto, name: str) -> None:
    number = call.attribute(name)
    if computes(call.op) in ("quantize", "dequantize") and call.known(1).shape in ((), (1,)):
        return  # one scale for all: no axis is read
    if isinstance(number, int) and not (0 if name == "batch_dims" else -_MOST_AXES) <= number < _MOST_AXES:
        raise _refused(node, name, number, "the number of an axis")


def _text(call: Call, node: onnx.NodeProto, name: str, allowed: list[str]) -> None:
    given = call.attribute(name)
    if isinstance(given, bytes) and given.decode() not in allowed:
        raise _refused(node, name, given.decode(), f"one of {', '.join(filter(None, allowed))}")


# --- operators of their own ---------------------------------------------------------------------


def _windows(call: Call, node: onnx.NodeProto) -> None:
    """Strides, dilations and kernels are positive, one for each spatial axis; pads two."""
    shape = call.known(0).shape
    if shape is None:  # a weight has as many axes as what it is laid over
        shape = call.known(KERNEL_AT.get(call.op, 0)).shape
    for name, times in _SPATIAL.items():
        numbers = call.attribute(name)
        if not numbers:
            continue
        if shape is not None and len(numbers) != times * (len(shape) - 2):
            raise _refused(
                node, name, numbers, f"{times * (len(shape) - 2)} numbers, as its input has {len(shape)} axes"
            )
        if name != "pads" and min(numbers) < 1:
            raise _refused(node, name, numbers, "positive numbers")
        if name == "kernel_shape" and max(numbers) > _LONGEST:
            raise _refused(node, name, numbers, "windows that a picture can have")
    kernel, pads = call.attribute("kernel_shape"), call.attribute("pads")
    implicit = call.attribute("auto_pad", b"NOTSET") not in (b"NOTSET", b"")
    taken = zip(pads or (), (kernel or ()) * 2, strict=False) if call.op in POOLS and not implicit else ()
    if any(pad >= window for pad, window in taken):
        raise _refused(
            node, "pads", pads, f"less than its windows of {list(kernel)}: some would hold nothing"
        )


def _convolution(call: Call, node: onnx.NodeProto) -> None:
    """The weight's channels and the groups divide the input's."""
    _windows(call, node)
    group = call.attribute("group", 1)
    if group < 1:
        raise _refused(node, "group", group, "1 or more")
    weight = KERNEL_AT[call.op]
    at = 2 if weight == 1 else 8  # the bias
    w = call.shape(weight)
    x = call.known(0).shape or (None,) * len(w)
    transposed = computes(call.op) == "conv_transpose"
    wanted = w[0] if transposed else w[1] if w[1] is None else w[1] * group
    if None not in (x[1], wanted) and x[1] != wanted:
        raise _wrong(node, weight, w, f"weights for {x[1]} channels in {group} groups were")
    divided = x[1] if transposed else w[0]
    if divided is not None and divided % group:
        raise _refused(node, "group", group, f"a divisor of {divided} channels")
    kernel = call.attribute("kernel_shape")
    if kernel and any(a not in (None, b) for a, b in zip(w[2:], kernel, strict=True)):
        raise _refused(
            node, "kernel_shape", kernel, f"{list(w[2:])}, as its weight {quoted(node.input[weight])} has"
        )
    filters = (None if w[1] is None else w[1] * group) if transposed else w[0]
    bias = call.known(at).shape
    if (
        bias is not None
        and call.op not in INTEGER_SUMS
        and None not in (bias[0], filters)
        and bias[0] != filters
    ):
        raise _wrong(node, at, bias, f"a vector of {filters} numbers was")


def _resize(call: Call, node: onnx.NodeProto) -> None:
    """Scales are positive and finite, and there is one for each axis that is resized; so are sizes."""
    old = by_scales_alone(call.op, call.version)
    x, axes = call.known(0).shape, call.attribute("axes")
    many = len(axes) if axes else None if x is None else len(x)
    if call.attribute("scales"):
        _factors(call, node, "scales", "", np.asarray(call.attribute("scales")), many)
        return
    unsure = False
    for name, place in {"scales": 1}.items() if old else {"scales": 2, "sizes": 3}.items():
        known = call.known(place)
        if call.given(place) and known.shape != (0,):
            unsure = True
            if known.value is not None:
                _factors(call, node, name, f" {quoted(node.input[place])}", known.value, many)
    if not unsure:
        raise ModelRejected(f"the {label(node)} has neither scales nor sizes; one of them was expected")


def _factors(
    call: Call, node: onnx.NodeProto, name: str, who: str, numbers: np.ndarray, many: int | None
) -> None:
    """As many as there are axes, positive and finite."""
    given = quoted(numbers.reshape(-1)[:8].tolist())
    if many is not None and numbers.size != many:
        raise ModelRejected(
            f"the {label(node)} has the {name}{who} {given}; {many} numbers, one an axis, were expected"
        )
    if not np.all(np.isfinite(numbers)) or np.any(numbers <= 0):
        raise ModelRejected(f"the {label(node)} has the {name}{who} {given}; positive numbers were expected")


def _gather_nd(call: Call, node: onnx.NodeProto) -> None:
    """Fewer batch axes than either input has."""
    batch = call.attribute("batch_dims", 0)
    ranks = [len(known.shape) for known in (call.known(0), call.known(1)) if known.shape is not None]
    if ranks and batch >= min(ranks):
        raise _refused(node, "batch_dims", batch, f"less than {min(ranks)}, the axes of its inputs")


def _einsum(call: Call, node: onnx.NodeProto) -> None:
    """Terms of letters, one an input, with at most one '...' each; the result's letters are theirs, each once."""
    given = call.attribute("equation").decode(errors="replace")
    equation = given.replace(" ", "")
    terms, arrow, result = equation.partition("->")
    sound = _EQUATION.fullmatch(terms) and _EQUATION.fullmatch(result) and "," not in result
    if not sound:
        raise _refused(
            node,
            "equation",
            given,
            "terms of letters (with one '...' each), commas between, as in 'ij,jk->ik'",
        )
    each = terms.split(",")
    if len(each) != len(call.inputs):
        raise _refused(node, "equation", given, f"{len(call.inputs)} terms, one for each input")
    for place, term in enumerate(each):
        shape = call.known(place).shape
        letters = len(term.replace("...", ""))
        if shape is not None and (letters > len(shape) or ("..." not in term and letters != len(shape))):
            raise _wrong(
                node,
                place,
                shape,
                f"{letters} axes, for {quoted(term)} of the equation {quoted(given)}, were",
            )
    if arrow:
        letters_of = result.replace("...", "")
        if len(set(letters_of)) != len(letters_of) or not set(letters_of) <= set(terms):
            raise _refused(node, "equation", given, "each letter behind '->' once, and in front of it too")


def _split(call: Call, node: onnx.NodeProto) -> None:
    """As many outputs as pieces: ONNX's inference writes behind fewer, and takes memory for any number of more."""
    pieces = call.attribute("num_outputs")
    if pieces is not None and call.outputs != pieces:
        raise _refused(node, "num_outputs", pieces, f"{call.outputs}, the outputs of the node")


def _zero_point(call: Call, node: onnx.NodeProto) -> None:
    """A scale for data, and one zero point to one scale; ONNX Runtime runs others only where it leaves the node out.

    A scale of no number goes with the node into the QLinear operator that ONNX Runtime makes of it, see `_scales`.
    """
    data, scale, zero = call.known(0).shape, call.shape(1), call.known(2).shape
    if 0 in scale and not (data is not None and 0 in data):
        raise _wrong(node, 1, scale, "one number, or one for each slice of the data, was")
    if scale in ((), (1,)) and zero is not None and zero not in ((), (1,)) and None not in zero:
        raise _wrong(node, 2, zero, "one number, as its scale is, was")


def _random(call: Call, node: onnx.NodeProto) -> None:
    """ONNX Runtime ends the process over what is no distribution; NaN is none."""
    if call.op.startswith("RandomUniform"):
        low, high = call.attribute("low", 0.0), call.attribute("high", 1.0)
        if not low <= high:
            raise _refused(node, "low", low, f"at most {high}, its attribute 'high'")
    elif not (scale := call.attribute("scale", 1.0)) > 0:
        raise _refused(node, "scale", scale, "a number over 0")


def _grams(call: Call, node: onnx.NodeProto) -> None:
    """A place for each n-gram of the pool: ONNX Runtime reads behind the last, where no weights are given."""
    starts, places = call.attribute("ngram_counts") or [], call.attribute("ngram_indexes") or []
    pool = len(call.attribute("pool_int64s") or call.attribute("pool_strings") or [])
    ends = [*starts[1:], pool]
    many = sum(
        (end - start) // length for length, (start, end) in enumerate(zip(starts, ends, strict=True), 1)
    )
    if len(places) < many:
        raise _refused(node, "ngram_indexes", places, f"{many} numbers, one for each n-gram of the pool")
    skips = call.attribute("max_skip_count", 0)
    if skips > _LONGEST:
        raise _refused(node, "max_skip_count", skips, "a number of words that a text can have")


def _features(call: Call, node: onnx.NodeProto) -> None:
    """Lengths that are none end the process of ONNX Runtime."""
    lengths = call.attribute("inputdimensions") or []
    if min(lengths, default=0) < 0 or sum(lengths) > _LONGEST:
        raise _refused(node, "inputdimensions", lengths, "the lengths of its inputs")


def _stft(call: Call, node: onnx.NodeProto) -> None:
    """Steps and frames of a length; ONNX Runtime divides by them."""
    for place in (1, 3):
        if call.known(place).value is not None and min(call.whole(place), default=0) < 1:
            raise ModelRejected(
                f"the {label(node)} has frames or steps of length {call.whole(place)}; 1 or more was expected"
            )
    if call.known(2).shape == (0,):
        raise _wrong(node, 2, (0,), "a window was")


def _permutation(call: Call, node: onnx.NodeProto) -> None:
    """ONNX's own inference takes a shorter one for the first axes alone."""
    given, shape = call.attribute("perm", None), call.known(0).shape
    if given and shape is not None and len(given) != len(shape):
        raise _refused(node, "perm", list(given), f"the {len(shape)} axes of its input, each once")


def _blocks(call: Call, node: onnx.NodeProto) -> None:
    """Channels that go into blocks of places, or places into channels, without a rest."""
    size, shape = call.attribute("blocksize"), call.known(0).shape
    deep = operator(call.op).sees == "depth_to_space"
    if size < 1:
        raise _refused(node, "blocksize", size, "1 or more")
    if shape is None:
        return
    lengths, block = (shape[1:2], size * size) if deep else (shape[2:], size)
    for length in lengths:
        if length is not None and length % block:
            what = "channels" if deep else "places of an axis"
            raise _refused(node, "blocksize", size, f"one that divides its {length} {what} into {block} each")


_SPECIAL: Final[dict[str, Callable[[Call, onnx.NodeProto], None]]] = {
    **dict.fromkeys((*POOLS, "MaxUnpool", "DeformConv"), _windows),
    **dict.fromkeys(KERNEL_AT, _convolution),
    **dict.fromkeys(RESIZING, _resize),
    "GatherND": _gather_nd,
    "Einsum": _einsum,
    "STFT": _stft,
    **dict.fromkeys(computing("quantize dequantize"), _zero_point),
    **dict.fromkeys(computing("split"), _split),
    "TfIdfVectorizer": _grams,
    **dict.fromkeys(
        (f"Random{kind}{like}" for kind in ("Normal", "Uniform") for like in ("", "Like")), _random
    ),
    "FeatureVectorizer": _features,
    **dict.fromkeys(computing("transpose"), _permutation),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _blocks),
}
