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
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import onnx
import onnx_ir as ir

from onnxviz.errors import LimitExceeded, ModelRejected, OnnxVizError, UsageError
from onnxviz.graph.dequantised import name_real_values
from onnxviz.graph.open import sizes, structure
from onnxviz.graph.open.confine import HEAD, DataFile, Folder, describe, open_model
from onnxviz.graph.open.protobuf_scan import BadWire, Split, check_texts, count, is_clean, split
from onnxviz.graph.open.repair import complete, tidy
from onnxviz.graph.open.weights import Weights, odd, take
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
        raise ModelRejected(f"{_name(source)} is a broken ONNX model: {_cause(error)}") from error


def _load(source: Source, limits: Limits) -> Loaded:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        opened = open_model(path)
        if opened.size > limits.file_bytes:
            os.close(opened.fd)
            limits.check("file_bytes", opened.size, f"{quoted(path)} has {opened.size} bytes")
        file = DataFile(opened)
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
    complete(proto, found)
    model = ir.serde.deserialize_model(proto)
    weights.restore(model)
    name_real_values(model)
    warnings += found.warnings + weights.warnings
    if len(warnings) > _MOST_WARNINGS:
        warnings[_MOST_WARNINGS:] = [f"and {len(warnings) - _MOST_WARNINGS} warnings more"]
    return Loaded(model, name, warnings, limits, weights.files, digest)


def _name(source: object) -> str:
    return (
        quoted(os.fspath(source))
        if isinstance(source, (str, os.PathLike))
        else f"the given {type(source).__name__}"
    )


def _cause(error: BaseException) -> str:
    """The innermost reason, on one short line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {printable(error, _LONGEST_CAUSE)}"
