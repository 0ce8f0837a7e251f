"""Whose fault a failed run is: the network's, a limit's, or ours."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final, TypeAlias

import onnx_ir as ir

from onnxviz.errors import (
    SMALLER,
    ImageRejected,
    LimitExceeded,
    ModelFailed,
    ModelUnsuitable,
    OnnxVizError,
    RuntimeFailed,
    UsageError,
    ways,
)
from onnxviz.text import printable

#: By the name of a node or of one of its outputs: node and layer where it is the network's own, None where it is ours.
Places: TypeAlias = Mapping[str, "tuple[str, str] | None"]

_LONGEST_REASON, _LONGEST_NAME = 300, 80
# ONNX Runtime's words. Of a node in the body of another the inner one comes last.
_NODE: Final = re.compile(
    r"while running (\S+) node\. Name:'((?:(?! Status Message: ).)*)' Status Message: ", re.S
)
_LAID_OUT: Final = "_nchwc"  # behind the name of a value whose node was brought to the blocked layout
_SOURCE: Final = re.compile(r"^/\S+:\d+ (?:.*? was false\. |.*?\) (?:const )?)", re.S)
_CODE: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (?:Exception during initialization: )?")
_LENGTHS: Final = re.compile(
    r"mismatch|must match|broadcast|cannot be reshaped|incompatible|they differ", re.I
)
_MEMORY: Final = ("bad_alloc", "failed to allocate memory", "out of memory", "bad allocation")
# An objective picks an entry that an axis of open length lacks for the picture at hand; a Gather of the network's own
# has a name of its own.
_BEYOND: Final = re.compile(
    r"Name:'objective/[^']*' .*out of data bounds, idx=(-?\d+) must be within .*\[-?\d+,(-?\d+)\]"
)
_NO_ENTRY: Final = re.compile(
    r"Name:'objective/[^']*' .*GatherElements op: (?:Out of range|'indices' shape should)", re.S
)
# A Squeeze of all axes of length 1 takes that of the pictures, too, where there is one.
_NO_ROW: Final = re.compile(r"Name:'objective/[^']*' .*rank of input tensor must be >= axis", re.S)
# A convolution over a map of no places, which the network's own operator takes as it is.
_NO_PLACES: Final = re.compile(r"Invalid input shape: \{(?:\d+,)*0[,}]")
# What Python raises where we feed a program wrongly; ONNX Runtime's own errors are none of these.
_OURS: Final = (ValueError, TypeError, LookupError, AttributeError, AssertionError)


def places(graph: ir.Graph, own: Collection[str] | None) -> dict[str, tuple[str, str] | None]:
    """Where a failure may lie, by every name that ONNX Runtime may tell it by.

    own   the names of the network's nodes and values; None: all of them are its own
    """
    found: dict[str, tuple[str, str] | None] = {}
    for node in graph.all_nodes():
        outputs = [value.name for value in node.outputs if value.name]
        name = node.name or (outputs[0] if outputs else "")
        ours = own is not None and name not in own and not any(output in own for output in outputs)
        place = None if ours else (name, outputs[0] if outputs else name)
        for key in (name, *outputs):
            found.setdefault(key, place)
    return found


def typed(error: Exception, where: Places, seconds: float | None, any_size: bool = False) -> OnnxVizError:
    """ONNX Runtime's error at a run as one of ours.

    ModelFailed where the network fails, LimitExceeded where memory ends, UsageError where the objective asks for what
    the picture lacks, RuntimeFailed where a node of ours fails or we fed the wrong thing, ImageRejected where sizes
    that follow the picture's do not go together, ModelUnsuitable where a map that we go on from has no places.

    seconds   the limit, where the run was ended for taking longer; None: it was not
    any_size  whether the graph takes pictures of any size: one of another size may go through
    """
    if seconds is not None:
        return LimitExceeded(
            f"the model was still running after {seconds:g} s; raise it with --limit run_seconds=…"
        )
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _MEMORY):
        return LimitExceeded("the model ran out of memory" + _within(reason(text)) + SMALLER)
    beyond = _BEYOND.search(text)
    if beyond is not None:
        index, last = map(int, beyond.groups())
        return UsageError(
            f"the objective asks for index {index} of an axis that has length {last + 1} for this picture"
        )
    if _NO_ENTRY.search(text):
        return UsageError("the objective asks for an entry that the output does not have for this picture")
    if _NO_ROW.search(text):
        return UsageError(
            "what the objective is of loses its axis of pictures when there is one picture alone"
            + ways("give two")
        )
    if isinstance(error, _OURS):
        return RuntimeFailed(f"ONNX Runtime was not given what it takes: {reason(text)}")
    nodes = _NODE.findall(text)
    if not nodes:
        return ModelFailed(f"ONNX Runtime could not run the model: {reason(text)}")
    operator, name = nodes[-1]
    place = next((where[key] for key in _keys(name) if key in where), (name, ""))
    if place is None and all(where.get(key) is None for _, outer in nodes for key in _keys(outer)):
        if _NO_PLACES.search(text):
            return ModelUnsuitable("nothing can be computed behind a map of the network that has no places")
        return RuntimeFailed(
            f"ONNX Runtime could not run a graph that onnxviz wrote: operator {operator} "
            f"(node {printable(name, _LONGEST_NAME)!r}): {reason(text)}"
        )
    node, layer = place or (name, "")
    told = [
        f"{what} {printable(named, _LONGEST_NAME)!r}"
        for what, named in (("node", node), ("layer", layer))
        if named
    ]
    what = f"operator {operator}{_within(', '.join(told))}: {reason(text)}"
    if any_size and of_lengths(text):
        return other_size(what)
    return ModelFailed(f"ONNX Runtime could not run the model: {what}")


def _keys(name: str) -> tuple[str, str]:
    return name, name.removesuffix(_LAID_OUT)


def of_lengths(text: str) -> bool:
    """Whether ONNX Runtime says of a node that sizes do not go together."""
    return _LENGTHS.search(text) is not None


def other_size(what: str) -> ImageRejected:
    """The refusal of a picture whose size is to blame.

    what   what ONNX Runtime says
    """
    more = ways("take another --size, such as a multiple of 32")
    return ImageRejected(f"a picture of this size does not go through the network: {what}{more}")


def reason(text: str) -> str:
    """The cause in one line, without the place in ONNX Runtime's sources."""
    nodes = list(_NODE.finditer(text))
    cause = _SOURCE.sub("", text[nodes[-1].end() :] if nodes else _CODE.sub("", text), count=1)
    return printable(" ".join(cause.split()), _LONGEST_REASON)


def _within(text: str) -> str:
    return f" ({text})" if text else ""
