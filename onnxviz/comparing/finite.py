"""Numbers that are none: what a file stores that is no number, or no scale; the layer at which a picture's values stop
being numbers; answers that hold no signal.

A quantiser gives whole numbers for whatever it is given, so NaN does not always reach the answers, and a scale of 0
makes none at all: the file itself is read for them, too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz.auditing.finding import Check, Finding, checked
from onnxviz.comparing.hybrids import answers, ending
from onnxviz.comparing.noise import level, whole
from onnxviz.comparing.rules import Rule, found
from onnxviz.comparing.values import portions, values
from onnxviz.errors import OnnxVizError
from onnxviz.features.stream import source_name
from onnxviz.graph.analysis.dataflow import constant, dependent
from onnxviz.graph.open.weights import graphs, not_finite
from onnxviz.graph.operators import SPELLINGS, computes, family
from onnxviz.network import Network
from onnxviz.provenance import unnoted
from onnxviz.text import amount, printable, quoted

# Bytes of a picture's values that are held at a time.
_BYTES: Final = 1 << 23
_NAMED: Final = 3  # pictures that a sentence names
# What reads no bounds and no masks, so that infinities are a fault.
_COMPUTING: Final = frozenset({"convolution", "product", "recurrent", "normalisation", "quantisation"})


@dataclass(frozen=True)
class Odd:
    """A weight, a constant or a scale that is none.

    name    what the file calls it
    node    what the first node is called that reads it
    layer   the first layer that depends on it; '' where none does
    told    what it holds, with its kind: "the scale 'x' of 'node' is NaN"
    scale   whether it is a quantiser's scale
    """

    name: str
    node: str
    layer: str
    told: str
    scale: bool


@dataclass(frozen=True)
class Broken:
    """What is no number in one file.

    stored     what it stores, in the order of computation
    pictures   what those are called that it gives NaN or infinities for
    layer      the first layer whose values are none, for the first of them; '' where that cannot be told
    """

    stored: tuple[Odd, ...] = ()
    pictures: tuple[str, ...] = ()
    layer: str = ""


@dataclass(frozen=True)
class Finite:
    """Both files.

    files    'A' and 'B'
    seen     how many pictures were looked at
    made     whether these were made, since none were given
    reason   why no pictures could be looked at; ''
    """

    files: Mapping[str, Broken]
    seen: int = 0
    made: bool = False
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"pictures": self.seen, **{side: asdict(one) for side, one in self.files.items()}}


def finite(
    a: Network,
    b: Network,
    images: Sequence[Any] | None,
    bad: Mapping[str, Sequence[int]] | None = None,
    seen: int = 0,
    reason: str = "",
) -> Finite:
    """Look for what is no number in both files, and in what they give for the pictures.

    images   those that were given; None: none were, and two that are made are tried
    bad      by file the places of those that it gives NaN or infinities for, of so many `seen`; None: that is not
             known, for this `reason`
    """
    files = {}
    for side, net in (("A", a), ("B", b)):
        names: tuple[str, ...] = ()
        layer = ""
        try:
            if images is None:
                places = _odd_samples(net)
                names = tuple(f"made picture {place}" for place in places)
                layer = _first(net, net.samples()[places[:1]]) if places else ""
            elif bad is not None and (places := list(bad.get(side, ()))):
                names = tuple(printable(source_name(images[place], place)) for place in places)
                with unnoted():
                    layer = _first(net, net.prepare(images[places[0]]))
        except OnnxVizError as error:  # what is stored is told all the same
            reason = reason or ("" if names else str(error))
        files[side] = Broken(tuple(stored(net)), names, layer)
    return Finite(files, 2 if images is None else seen, images is None, reason)


def _odd_samples(net: Network) -> list[int]:
    """Which of the made pictures the network gives NaN or infinities for."""
    end = ending(net)
    names = [end.logits] if end is not None else [value.name or "" for value in net.model.graph.outputs]
    x = net.samples()
    given = [whole(net, x[place : place + 1], names) for place in range(len(x))]
    return [
        place
        for place, arrays in enumerate(given)
        if not all(np.isfinite(array).all() for array in arrays.values())
    ]


def _first(net: Network, x: np.ndarray) -> str:
    """The first layer that is not finite for this picture; a portion of them is held at a time."""
    sizes = [4 * math.prod(size for size in shape if isinstance(size, int)) for _, shape in net.sizes]
    for portion in portions([name for name, _ in net.sizes], sizes, _BYTES):
        arrays = net.run(x, portion)
        odd = (name for name in portion if not np.isfinite(arrays[name]).all())
        if (name := next(odd, None)) is not None:
            return name
    return ""


# --- what a file stores -----------------------------------------------------------------------------


def stored(net: Network) -> list[Odd]:
    """What the file stores and reads that is no number, or as a scale no positive one, in the order of computation."""
    scales: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
    for node in net.model.graph.all_nodes():
        for place in _scale_places(node):
            if place < len(node.inputs) and (value := node.inputs[place]) is not None:
                scales.setdefault(value, []).append((node, place))
    order = {name: place for place, (name, _) in enumerate(net.sizes)}
    listed = []
    for value, tensor in _tensors(net.model):
        readers = list(value.consumers())
        if not readers:
            continue
        own = scales.get(value, ())
        told = _no_scale(tensor, own) if own else _no_numbers(tensor, readers)
        if told:
            what = "scale" if own else "weight" if value.is_initializer() else "constant"
            name, reader = printable(value.name or ""), printable(readers[0].name or "")
            below = dependent(net.model.graph, value)
            layers = [known for one in below if (known := one.name or "") in order]
            layer = min(layers, key=order.__getitem__, default="")
            sentence = f"the {what} {quoted(name)} of {quoted(reader)} {told}"
            listed.append(Odd(name, reader, layer, sentence, bool(own)))
    return sorted(listed, key=lambda one: order.get(one.layer, len(order)))


def _tensors(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for graph in graphs(model):
        constants = (node.outputs[0] for node in graph if computes(node.op_type) == "constant")
        for value in (*graph.initializers.values(), *constants):
            tensor = constant(value)
            if tensor is not None:
                yield value, tensor


def _no_numbers(tensor: ir.TensorProtocol, readers: Sequence[ir.Node]) -> str:
    bounds = all(family(node.op_type) not in _COMPUTING for node in readers)
    told = not_finite(tensor, bounds)
    return f"holds {told}" if told else ""


def _scale_places(node: ir.Node) -> list[int]:
    """Which inputs of a node are scales: each stands behind what it belongs to."""
    if computes(node.op_type) in ("quantize", "dequantize"):
        return [1]
    row = SPELLINGS.get(node.op_type)
    if row is None or row.scale is None:
        return []
    if not row.places:  # QLinearConcat's result and pieces
        return [row.scale, *range(row.scale + 3, len(node.inputs), 3)]
    behind = (place + 1 for place in row.places)
    read = (place for place in behind if place < len(node.inputs) and place - 1 != row.scale)
    floats = [place for place in read if _is_float(node.inputs[place])]
    return sorted({row.scale, *floats})


def _is_float(value: ir.Value | None) -> bool:
    tensor = constant(value)
    return tensor is not None and tensor.dtype.is_floating_point()


def _no_scale(tensor: ir.TensorProtocol, readers: Sequence[tuple[ir.Node, int]]) -> str:
    """What is wrong with a scale; '' where nothing is.

    A scale of 0 over weights that are 0 loses nothing, and weights may be stored in negative steps, as quantisers of
    blocks do: what that does is held against A's weights.
    """
    if not tensor.dtype.is_floating_point():
        return ""
    numbers = tensor.numpy().astype(np.float64).reshape(-1)
    odd = ~np.isfinite(numbers)
    for node, place in readers:
        odd |= _losing(node, place, numbers)
    if not odd.any():
        return ""
    if numbers.size == 1:
        (number,) = numbers
        said = "is NaN" if np.isnan(number) else "is infinite" if np.isinf(number) else f"is {number:g}"
    else:
        kinds = {
            "NaN": np.isnan(numbers),
            "infinite": np.isinf(numbers),
            "zero": numbers == 0,
            "negative": numbers < 0,
        }
        counts = [(int((odd & kind).sum()), word) for word, kind in kinds.items()]
        said = f"holds {' and '.join(f'{count} {word}' for count, word in counts if count)}"
        said += f" among its {numbers.size} numbers"
    return f"{said}: a scale is a positive number"


def _losing(node: ir.Node, place: int, scale: np.ndarray) -> np.ndarray:
    """Which of the scales are 0 where numbers are lost by it; of what depends on the picture also negative ones."""
    lost = scale <= 0
    row = SPELLINGS.get(node.op_type)
    result = row is not None and place == row.scale and computes(node.op_type) != "quantize"
    tensor = None if result else constant(node.inputs[place - 1])
    if not lost.any() or tensor is None:
        return lost
    if node.attributes.get_int("block_size", 0):
        return np.zeros_like(lost)
    codes = tensor.numpy()
    zero = constant(node.inputs[place + 1]) if place + 1 < len(node.inputs) else None
    sides = [1] * codes.ndim
    if scale.size > 1 and codes.ndim:
        axis = (
            node.attributes.get_int("axis", 1)
            if place == 1
            else 0
            if family(node.op_type) == "convolution"
            else -1
        )
        sides[axis] = -1
    origin = (
        np.zeros(1) if zero is None or codes.dtype.kind == "f" else zero.numpy().astype(float).reshape(-1)
    )
    origin = origin.reshape(sides) if origin.size > 1 else origin
    others = tuple(axis for axis, side in enumerate(sides) if side == 1)
    used = (codes != origin).any(axis=others).reshape(-1)
    return (scale == 0) & used if used.size in (1, scale.size) else lost


# --- what files give ------------------------------------------------------------------------------


class Seen:
    """Which pictures one of both has no numbers for, and whether A's answers for the others hold any signal."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._bad: dict[str, list[int]] = {"A": [], "B": []}
        self._nil = True
        self._given: set[bytes] = set()  # the first two that differ
        self._digests: set[str] = set()

    def finite(self, index: int, name: str, *sides: Sequence[np.ndarray]) -> bool:
        """Whether both sides are numbers for this picture."""
        odd = [side for side, arrays in zip("AB", sides, strict=True) if not _finite(arrays)]
        for side in odd:
            self._bad[side].append(index)
        if odd:
            self.names.append(printable(name))
        return not odd

    def holds(self, signals: Sequence[np.ndarray], digest: str) -> bool:
        """Whether A's answers for a picture, less their mean, hold anything.

        digest   of the picture; '' where it is not known
        """
        if len(self._given) < 2:
            self._given.add(hashlib.sha256(b"".join(row.tobytes() for row in signals)).digest())
            self._digests.add(digest)
        found = any(row.any() for row in signals)
        self._nil &= not found
        return found

    def told(self) -> dict[str, Any]:
        """The fields of `Answers`."""
        silent = ""
        if self._given and self._nil:
            silent = "A gives one number throughout, whatever the picture: B cannot be judged by A's answers"
        elif len(self._given) == 1 and len(self._digests) > 1:
            silent = "A gives the same numbers for every picture: B cannot be judged by A's answers"
        return {"not_finite": tuple(self.names), "bad": {**self._bad}, "silent": silent}


def silent(net: Network, model: ir.Model) -> str:
    """That a network's answers for two pictures that are made hold no signal; '' where they do, or are no numbers.

    model   the network in normal form
    """
    seen = Seen()
    names = answers(net, model)
    for place, arrays in enumerate(values(net, model, names, net.samples())):
        given = [arrays[name] for name in names]
        if not _finite(given):
            return ""
        seen.holds([level(array) for array in given], str(place))
    told: str = seen.told()["silent"]
    return told


def _finite(arrays: Sequence[np.ndarray]) -> bool:
    return all(np.isfinite(array).all() for array in arrays)


# --- what is found ----------------------------------------------------------------------------------


def judge(rule: Rule, done: Finite, parts: Mapping[str, Any]) -> Check:
    """The check of what was looked at."""
    findings: list[Finding] = []
    for side, one in done.files.items():
        causes = [odd for odd in one.stored if one.pictures and odd.layer and odd.layer == one.layer]
        if one.pictures:
            findings += found(
                rule,
                len(one.pictures),
                f"{side}'s {printable(one.layer, 80)}" if one.layer else f"{side}'s answers",
                _told(side, one, causes, done),
                _advice(side, causes[0])
                if causes
                else f"{side}'s weights are finite there: see whether numbers overflow in a narrow type, or how "
                "pictures become its input",
            )
        findings += [
            finding
            for odd in one.stored
            if odd not in causes
            for finding in found(rule, 1, f"{side}'s {odd.name}", f"{side}: {odd.told}", _advice(side, odd))
        ]
    count = sum(len(one.pictures) + len(one.stored) for one in done.files.values())
    figures = done.to_dict()
    if done.reason and not findings:
        return checked(rule, "not-run", reason=done.reason, figures=figures)
    return checked(rule, findings=findings, figure=count, figures=figures)


def _told(side: str, one: Broken, causes: Sequence[Odd], done: Finite) -> str:
    many = len(one.pictures)
    named = ", ".join(one.pictures[:_NAMED]) + (", …" if many > _NAMED else "")
    of = f"{many} of {amount(done.seen, 'picture')} ({named})"
    if done.made:
        of = f"{many} of {done.seen} pictures that were made, since none were given"
    told = f"{side} gives NaN or infinities for {of}"
    if one.layer:
        told += f", first at {printable(one.layer, 80)}"
    if causes:
        more = f", and {len(causes) - 1} more there" if len(causes) > 1 else ""
        told += f": {causes[0].told}{more}"
    return told if done.made else f"{told}; they are left out of all other figures"


def _advice(side: str, odd: Odd) -> str:
    if odd.scale:
        return f"calibrate {side} and quantise it again: its scales are not those of any values"
    return f"write {side} again from sound weights"
