"""Make a mutant small that still goes wrong in the same place: fewer mutations, then fewer parts of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from fuzzing import mutations, trial

Test = Callable[[bytes], bool]


def minimised(seed: int) -> tuple[bytes, list[str], trial.Outcome]:
    """The smallest file found that comes to the same as a seed's mutant, the mutations it took, and what it comes to.

    The same is: the same bucket; of a file that is refused, by the same line of onnxviz.
    """
    content, done = mutations.mutant(seed)
    first = trial.one(content, seed)

    def test(candidate: bytes) -> bool:
        return _what(trial.one(candidate, seed)) == _what(first)

    if first.verdict == trial.WORKED:
        return content, done, first
    keep = [int(one.partition(":")[0]) for one in done]
    for number in list(keep):
        fewer = [one for one in keep if one != number]
        candidate, names = mutations.mutant(seed, fewer)
        if test(candidate):
            keep, content, done = fewer, candidate, names
    content = smaller(content, test)
    return content, done, trial.one(content, seed)


def _what(outcome: trial.Outcome) -> tuple[str, ...]:
    return outcome.bucket or (outcome.verdict, outcome.text.partition(": ")[0])


def smaller(content: bytes, test: Test) -> bytes:
    """The file with every part left out that `test` does not need."""
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception:  # bytes that are no message: they stay
        return content
    if not test(model.SerializeToString()):
        return content
    shrunk = True
    while shrunk:
        shrunk = False
        for candidate in _smaller(model):
            if test(candidate.SerializeToString()):
                model, shrunk = candidate, True
                break
    return model.SerializeToString()


def _smaller(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Models with one part less each: the largest parts first."""
    count = len(model.graph.node)
    width = max(1, count // 2)
    while count:
        for start in range(0, count, width):
            for passing in (True, False):
                yield _without_nodes(model, range(start, min(count, start + width)), passing)
        if width == 1:
            break
        width //= 2
    for field in ("initializer", "value_info", "output", "input"):
        for place in range(len(getattr(model.graph, field))):
            copy = _copy(model)
            del getattr(copy.graph, field)[place]
            yield copy
    for place, node in enumerate(model.graph.node):
        for at in range(len(node.attribute)):
            copy = _copy(model)
            del copy.graph.node[place].attribute[at]
            yield copy
    for field in ("functions", "metadata_props"):
        for place in range(len(getattr(model, field))):
            copy = _copy(model)
            del getattr(copy, field)[place]
            yield copy
    for place, tensor in enumerate(model.graph.initializer):
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.raw_data) > 64 and any(tensor.raw_data):
            copy = _copy(model)
            zeros = numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name)
            if len(zeros.raw_data) == len(tensor.raw_data):
                copy.graph.initializer[place].CopyFrom(zeros)
                yield copy


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _without_nodes(model: onnx.ModelProto, places: range, passing: bool) -> onnx.ModelProto:
    """Without these nodes; who reads their outputs reads their first inputs instead (`passing`), or goes without."""
    copy = _copy(model)
    new: dict[str, str] = {}
    for place in places:
        node = copy.graph.node[place]
        if passing and node.input:
            new |= {name: new.get(node.input[0], node.input[0]) for name in node.output if name}
    for place in reversed(places):
        del copy.graph.node[place]
    for node in copy.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
    for value in copy.graph.output:
        value.name = new.get(value.name, value.name)
    return copy
