"""Opening a model that may come from a stranger: checked, confined, and with nothing of it run.

    file ─ split ─▶ small message ─ parse ─▶ tidy ─▶ structure ─▶ weights ─▶ sizes ─▶ ir.Model

Each step knows that the one before held. Nothing is allocated for what a later step might still refuse: the walk
over the file's fields bounds the parser's memory, names and nodes are counted before weights are looked at, and
weights are only described until everything about them is checked. What remains for the limits of a run: sizes and
trips that depend on the input (`graph.open.sizes` tells which are certain without it).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir

from onnxviz.errors import LimitExceeded, ModelRejected, OnnxVizError, UsageError
from onnxviz.graph.open import sizes, structure
from onnxviz.graph.open.confine import HEAD, DataFile, Folder, describe, open_model
from onnxviz.graph.open.protobuf_scan import BadWire, Split, check_texts, count, is_clean, split
from onnxviz.graph.open.signatures import LONGEST, MICROSOFT, ML, graphs, is_operator, label, normal
from onnxviz.graph.open.weights import Weights, odd, take
from onnxviz.graph.operators import QUANTISING, computes
from onnxviz.isolate import region
from onnxviz.limits import Limits
from onnxviz.text import printable, quoted

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto | ir.Model

# Model files up to this size are read whole, larger ones only where and when they are needed. Windows does not let a
# file be replaced that is open, so more is read there.
_READ_UP_TO: Final = 2**26 if os.name == "nt" else 2**20
# Parsing makes up to 100 bytes out of one: from here on the fields are counted first.
_COUNT_FROM: Final = 2**22
_LONGEST_CAUSE: Final = 300
_MOST_WARNINGS: Final = 20
# From this IR version on weights need not be inputs as well.
_FREE_WEIGHTS: Final = 4


@dataclass
class Loaded:
    """A model that was opened.

    model      the IR model; its weights are in memory or memory-mapped, none names a file. Initialisers are no
               inputs. Functions and opset are as in the file
    source     the path, or what was given instead of one
    warnings   what is unusual about the file, or was repaired
    limits     what it was checked against
    files      the weights files that were opened, relative to the model's folder
    """

    model: ir.Model
    source: str
    warnings: list[str]
    limits: Limits
    files: list[str] = field(default_factory=list)
    _digest: Callable[[], str] = field(default=lambda: "", repr=False)
    _findings: list[str] | None = field(default=None, repr=False)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the model file's bytes, 64 hexadecimal digits (0.5 s a GB; computed when first asked for).

        Of a parsed message, its serialised form; of an ir.Model, its graph and then its weights. External data is
        not part of it.
        """
        return self._digest()

    def findings(self) -> list[str]:
        """What is odd about the weights: NaN and infinities. Reads them all when first asked."""
        if self._findings is None:
            self._findings = odd(self.model)
        return self._findings


def load(source: Source, *, limits: Limits | None = None) -> Loaded:
    """Open a model that may come from anyone: checked, within `limits`, with all of its weights, none of it run.

    source   a path, the file's bytes, a parsed message or an ir.Model (neither of which is changed)
    limits   what is too large or too deep; None: the defaults
    raises   ModelRejected for what is no model, a broken one, or one that reaches out of its folder;
             LimitExceeded, naming the limit, for what is too large; UsageError for a source of another type
    """
    limits = limits or Limits()
    try:
        with region("opening the model"):
            return _load(source, limits)
    except OnnxVizError:
        raise
    except (MemoryError, RecursionError) as error:
        raise LimitExceeded(
            f"the model is too large or too deep for this machine ({type(error).__name__})"
        ) from error
    except Exception as error:  # whatever a parser says about a stranger's bytes, they are broken
        path = isinstance(source, (str, os.PathLike))
        name = quoted(source) if path else f"the given {type(source).__name__}"
        raise ModelRejected(f"{name} is a broken ONNX model: {_cause(error)}") from error


def _load(source: Source, limits: Limits) -> Loaded:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        file = open_model(path)
        if file.size > limits.file_bytes:
            file.close()
            limits.check("file_bytes", file.size, f"{quoted(path)} has {file.size} bytes")
        content = file if file.size > _READ_UP_TO else file.read(0, file.size).data
        return _from_bytes(content, str(path), limits, Folder(path.parent))
    if isinstance(source, (bytes, bytearray, memoryview)):
        limits.check("file_bytes", len(source), f"the model has {len(source)} bytes")
        return _from_bytes(bytes(source), "<bytes>", limits)
    if isinstance(source, onnx.ModelProto):
        return _from_bytes(serialised(source, limits), "<ModelProto>", limits)
    if isinstance(source, ir.Model):
        taken = take(source)
        proto = _parse(split(taken.message, limits), limits, "<ir.Model>", "")
        weights = Weights(b"", taken.tensors, taken.tokens, taken.folder, limits)
        return _finish(proto, weights, limits, "<ir.Model>", taken.digest)
    raise UsageError(
        f"a model is a path, bytes, an onnx.ModelProto or an ir.Model; got {type(source).__name__}"
    )


def serialised(proto: onnx.ModelProto, limits: Limits) -> bytes:
    """A parsed message as the bytes of a file.

    raises   ModelRejected over 2 GB, LimitExceeded
    """
    try:
        content = proto.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf holds no more than 2 GB
        raise ModelRejected(
            f"the given onnx.ModelProto cannot be serialised ({_cause(error)}); over 2 GB, give the path of a file "
            "with external data, or an ir.Model"
        ) from None
    limits.check("file_bytes", len(content), f"the model has {len(content)} bytes")
    return content


def _from_bytes(
    source: bytes | memoryview | DataFile, name: str, limits: Limits, folder: Folder | None = None
) -> Loaded:
    buffer = source.map() if isinstance(source, DataFile) else source

    def digest() -> str:
        return source.digest() if isinstance(source, DataFile) else hashlib.sha256(source).hexdigest()

    kind = describe(bytes(buffer[:HEAD]), name)
    try:
        parts = split(buffer, limits)
    except BadWire as error:
        raise ModelRejected(
            f"{quoted(name)} is not an ONNX model, or a broken one (byte {error.at} of {len(buffer)}); {kind}"
        ) from None
    proto = _parse(parts, limits, name, kind)
    weights = Weights(source, parts.blocks, parts.tokens, folder, limits)
    return _finish(proto, weights, limits, name, digest)


def _parse(parts: Split, limits: Limits, name: str, kind: str) -> onnx.ModelProto:
    """The message, if it is an ONNX model of a version that is known.

    kind   what the file looks like, for the case that it is none
    """
    if len(parts.message) > _COUNT_FROM:
        with contextlib.suppress(BadWire):
            count(parts.message, limits)
    clean = is_clean(parts.message)
    proto = onnx.ModelProto()
    try:
        with region("parsing the model"):
            proto.ParseFromString(parts.message)
    except Exception:  # protobuf names its error differently in each of its implementations
        # Nested too deep for protobuf's parser, or broken: the walk can tell, and names the limit.
        with contextlib.suppress(BadWire):
            count(parts.message, limits)
        raise ModelRejected(f"{quoted(name)} is not an ONNX model, or a broken one; {kind}") from None
    if not proto.HasField("graph") or not proto.HasField("ir_version"):
        raise ModelRejected(f"{quoted(name)} has no ONNX graph in it; {kind}")
    if proto.ir_version > onnx.IR_VERSION:
        raise ModelRejected(
            f"{quoted(name)} is of ONNX IR version {proto.ir_version}, the newest known here is {onnx.IR_VERSION}; "
            "update onnx and onnxviz, or save the model with an older IR version"
        )
    if not clean:
        check_texts(proto)
    return proto


def _finish(
    proto: onnx.ModelProto, weights: Weights, limits: Limits, name: str, digest: Callable[[], str]
) -> Loaded:
    """Check the parsed message and turn it into an IR model."""
    warnings = tidy(proto)
    found = structure.check(proto, limits)
    weights.collect(proto)
    sizes.check(proto, found, weights.small, weights.elements, limits)
    if found.microsoft and MICROSOFT not in found.opsets:  # ONNX Runtime does not mind, the checker does
        proto.opset_import.add(domain=MICROSOFT, version=1)
    model = ir.serde.deserialize_model(proto)
    weights.restore(model)
    if any(node.op_type in QUANTISING for node in model.graph):
        from onnxviz.graph.dequantised import name_real_values

        name_real_values(model)
    warnings += found.warnings + weights.warnings
    if len(warnings) > _MOST_WARNINGS:
        warnings[_MOST_WARNINGS:] = [f"and {len(warnings) - _MOST_WARNINGS} warnings more"]
    return Loaded(model, name, warnings, limits, weights.files, digest)


def _cause(error: BaseException) -> str:
    """The innermost reason, on one short line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {printable(error, _LONGEST_CAUSE)}"


# --- small repairs of a sound model, so that everything later meets one form -----------------------
#
# Each that changes anything is a warning; none changes what the network computes.


def tidy(model: onnx.ModelProto) -> list[str]:
    """Repair `model` in place, before its structure is checked; what was done.

    - weights and constants that are also inputs are inputs no more (the IR version rises to 4, which allows that);
    - a Constant node that has inputs has none: ONNX Runtime reads none of them;
    - of weights and Constant nodes with one name the last counts, as in ONNX Runtime, nodes after weights;
    - nodes of a graph that share a name get names of their own, since ONNX Runtime refuses them;
    - negative sizes in declared shapes mean unknown ones;
    - the domain ai.onnx is called '';
    - a function that has the name of an operator is never called, in ONNX Runtime neither: it goes;
    - an output that is listed twice is one, and one that is an input is of the input's type, as in ONNX Runtime.
    """
    warnings: list[str] = []
    for entry in model.opset_import:
        entry.domain = normal(entry.domain)
    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    weights |= set(_constants(model.graph).values())
    for graph in graphs(model):
        _constants_read_nothing(graph, warnings)
        _last_weight_counts(graph, warnings)
        _name_nodes(graph.node, warnings)
        _free_sizes(graph, warnings)
    _drop_shadowed(model, warnings)
    for function in model.functions:
        _name_nodes(function.node, warnings)
    kept = [value for value in model.graph.input if value.name not in weights]
    if len(kept) < len(model.graph.input):
        _replace(model.graph, "input", kept)
    model.ir_version = max(model.ir_version, _FREE_WEIGHTS)
    _without_maps(model.graph, warnings)
    _each_output_once(model.graph, warnings)
    inputs = {value.name: value for value in model.graph.input}
    for output in model.graph.output:
        if output.name in inputs:
            output.type.CopyFrom(inputs[output.name].type)
    _tell_of_long_texts(model.graph, warnings)
    return warnings


def _drop_shadowed(model: onnx.ModelProto, warnings: list[str]) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    kept = []
    for function in model.functions:
        domain = normal(function.domain)
        if is_operator(domain, function.name, versions.get(domain, 1)):
            what = (
                f"the function {quoted(function.name)} has the name of an operator of {domain or 'ai.onnx'}"
            )
            warnings.append(f"{what}: the operator counts, as in ONNX Runtime")
        else:
            kept.append(function)
    if len(kept) < len(model.functions):
        _replace(model, "functions", kept)


def _tell_of_long_texts(graph: onnx.GraphProto, warnings: list[str]) -> None:
    long = 0
    for node in graph.node:
        if node.ByteSize() > LONGEST:  # which is quick
            long += max(len(node.name), *(len(entry.value) for entry in node.metadata_props), 0) > LONGEST
    if long:
        warnings.append(
            f"names or metadata of {long} nodes have over {LONGEST} characters: no module path is read from them"
        )


def _constants(graph: onnx.GraphProto) -> dict[int, str]:
    """What the Constant nodes of a graph make, by their places; ONNX Runtime takes them for weights."""
    return {
        place: node.output[0]
        for place, node in enumerate(graph.node)
        if computes(node.op_type) == "constant" and not normal(node.domain) and len(node.output) == 1
    }


def _constants_read_nothing(graph: onnx.GraphProto, warnings: list[str]) -> None:
    for place in _constants(graph):
        if graph.node[place].input:
            warnings.append(f"the {label(graph.node[place])} has inputs, of which a constant reads none")
            del graph.node[place].input[:]


def _last_weight_counts(graph: onnx.GraphProto, warnings: list[str]) -> None:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    constants = _constants(graph)
    last = {name: place for place, name in constants.items()}
    again = {place for place, name in constants.items() if last[name] != place}
    shadowed = tensors.keys() & last.keys()
    surplus = len(graph.initializer) - len(tensors) + len(again) + len(shadowed)
    if not surplus:
        return
    if again:
        _replace(graph, "node", [node for place, node in enumerate(graph.node) if place not in again])
    _replace(graph, "initializer", [tensor for name, tensor in tensors.items() if name not in shadowed])
    warnings.append(f"{surplus} weights have the name of another one; the last of a name counts")


def _replace(graph: onnx.GraphProto | onnx.ModelProto, field: str, entries: Iterable[Any]) -> None:
    """Let the repeated `field` hold copies of `entries`, which may be some of its own."""
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    graph.ClearField(field)
    getattr(graph, field).extend(copies)


def _name_nodes(nodes: Iterable[onnx.NodeProto], warnings: list[str]) -> None:
    taken = {node.name for node in nodes}
    seen: set[str] = set()
    numbers: Counter[str] = Counter()
    for node in nodes:
        if node.name and node.name in seen:
            base = node.name
            while node.name in taken:
                numbers[base] += 1
                node.name = f"{base}_{numbers[base]}"
            taken.add(node.name)
        seen.add(node.name)
    if numbers:
        warnings.append("several nodes have one name; all but the first were renamed")


def _free_sizes(graph: onnx.GraphProto, warnings: list[str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.ClearField("dim_value")
                text = "negative sizes in declared shapes are taken as unknown"
                if text not in warnings:
                    warnings.append(text)


def _each_output_once(graph: onnx.GraphProto, warnings: list[str]) -> None:
    once = {value.name: value for value in reversed(graph.output)}
    if len(once) < len(graph.output):
        _replace(graph, "output", reversed(once.values()))
        warnings.append("an output that is listed more than once is taken once")


def _without_maps(graph: onnx.GraphProto, warnings: list[str]) -> None:
    """Classifiers of Azure's and scikit-learn's making end in ZipMap: a list of {label: score}, which is no tensor.

    The scores in front of it become the output instead; ONNX Runtime drops the node that nothing reads any more.
    """
    maps = {value.name: value for value in graph.output if _is_map(value.type)}
    if not maps:
        return
    declared = {info.name: info for info in graph.value_info}
    makers = {name: node for node in graph.node for name in node.output if name in maps}
    for name in maps:
        node = makers.get(name)
        if node is None or node.op_type != "ZipMap" or normal(node.domain) != ML or not node.input:
            raise ModelRejected(
                f"the output {quoted(name)} is a map, not a tensor; export the model without it"
            )
    outputs = {value.name for value in graph.output}
    kept = []
    for output in graph.output:
        value = output
        if value.name in maps:
            scores = makers[value.name].input[0]
            warnings.append(
                f"the output {quoted(value.name)} is a map of labels to scores; "
                f"the scores {quoted(scores)} stand in for it"
            )
            if scores in outputs:
                continue
            value = declared.get(scores) or onnx.helper.make_tensor_value_info(
                scores, onnx.TensorProto.FLOAT, None
            )
            outputs.add(scores)
        kept.append(value)
    _replace(graph, "output", kept)
    _replace(graph, "value_info", [info for info in graph.value_info if not _is_map(info.type)])


def _is_map(kind: onnx.TypeProto) -> bool:
    while kind.HasField("sequence_type") or kind.HasField("optional_type"):
        kind = (
            kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind.optional_type.elem_type
        )
    return kind.HasField("map_type")
